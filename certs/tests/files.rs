//! What operators hand over: certificates, keys, pins, names.

use std::str::FromStr;

use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sallyport_certs::{CertError, Identity, NotAPin, Pin, TEN_YEARS, Trust, self_signed};
use time::OffsetDateTime;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_self_signed_certificate_bears_all_its_names_for_ten_years() {
    let wanted = names(&[
        "gateway.example",
        "*.gateway.example",
        "192.0.2.1",
        "2001:db8::1",
    ]);

    let made = self_signed(&wanted, TEN_YEARS).unwrap();

    let identity = Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
    assert_eq!(identity.names(), wanted);
    let left = identity.not_after() - OffsetDateTime::now_utc();
    assert!((3_651..=3_652).contains(&left.whole_days()), "{left}");
}

#[test]
fn what_is_no_name_is_refused_by_name() {
    let long = "a".repeat(64);
    for bad in [
        "",
        "a b",
        "[2001:db8::1]",
        "1.2.3.400",
        "a..b",
        "-a.example",
        "ä.example",
        &long,
    ] {
        let refused = self_signed(&names(&["fine.example", bad]), 1).unwrap_err();
        assert!(
            matches!(&refused, CertError::Name(name) if name == bad),
            "{bad}: {refused}"
        );
    }
    assert!(matches!(self_signed(&[], 1), Err(CertError::Name(_))));
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let made = self_signed(&names(&["a.example"]), 1).unwrap();
    let identity = Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
    let secret = made.key_pem.lines().nth(1).unwrap();

    let shown = format!("{made:?} {identity:?}");

    assert!(
        shown.contains("a.example") && !shown.contains(secret),
        "{shown}"
    );
    assert!(!shown.contains("PRIVATE KEY"));
}

#[test]
fn a_fault_in_a_file_is_told_from_the_others() {
    let one = self_signed(&names(&["one.example"]), 1).unwrap();
    let two = self_signed(&names(&["two.example"]), 1).unwrap();
    let torn = one.cert_pem.replace("-----END CERTIFICATE-----", "");

    let cases: &[Case<'_>] = &[
        (&one.cert_pem, &two.key_pem, |f| {
            matches!(f, CertError::KeyMismatch)
        }),
        (&one.key_pem, &one.cert_pem, |f| {
            matches!(f, CertError::KeyForCertificate)
        }),
        (&one.cert_pem, &one.cert_pem, |f| {
            matches!(f, CertError::CertificateForKey)
        }),
        (&one.cert_pem, "", |f| matches!(f, CertError::NoKey)),
        ("", "", |f| matches!(f, CertError::NoCertificate)),
        (&torn, &one.key_pem, |f| matches!(f, CertError::Pem(_))),
        (NO_CERTIFICATE, &one.key_pem, |f| {
            matches!(f, CertError::Certificate(_))
        }),
        (&one.cert_pem, NO_KEY, |f| matches!(f, CertError::Key(_))),
    ];
    for (cert, key, as_meant) in cases {
        let fault = Identity::from_pem(cert.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(as_meant(&fault), "{fault:?} of {cert} and {key}");
    }
}

/// A certificate, a key, and whether a fault is the one that they should give.
type Case<'c> = (&'c str, &'c str, fn(&CertError) -> bool);

const NO_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const NO_KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

#[test]
fn a_list_without_a_usable_authority_is_refused() {
    let refused = |pem: &str| Trust::from_pem(pem.as_bytes()).unwrap_err();

    assert!(matches!(refused(""), CertError::NoCertificate));
    assert!(matches!(refused(NO_CERTIFICATE), CertError::NoRoots(_)));
}

#[test]
fn a_chain_keeps_its_order_and_pins_its_first() {
    let (leaf, other) = (
        self_signed(&names(&["leaf.example"]), 1).unwrap(),
        self_signed(&names(&["other.example"]), 1).unwrap(),
    );
    let alone = Identity::from_pem(leaf.cert_pem.as_bytes(), leaf.key_pem.as_bytes()).unwrap();
    let chain = format!("{}{}", leaf.cert_pem, other.cert_pem);

    let identity = Identity::from_pem(chain.as_bytes(), leaf.key_pem.as_bytes()).unwrap();

    assert_eq!(identity.names(), ["leaf.example"]);
    assert_eq!(identity.pin().unwrap(), alone.pin().unwrap());
}

/// The certificate and the pin were made with OpenSSL:
/// `openssl x509 -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`.
#[test]
fn a_pin_is_what_openssl_says() {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("data/openssl.pem")).unwrap();

    assert_eq!(Pin::of(&certificate).unwrap().to_string(), PIN_OF_OPENSSL);
}

const PIN_OF_OPENSSL: &str = "sha256/hvLp8y06VbElWsEuuHQWIDji/SwjrCtMesNvfOsJexo=";

#[test]
fn only_a_pin_reads_as_a_pin() {
    let right = PIN_OF_OPENSSL;
    let json = format!("\"{right}\"");

    let pin: Pin = serde_json::from_str(&json).unwrap();

    assert_eq!(serde_json::to_string(&pin).unwrap(), json);
    for wrong in [
        right.trim_start_matches("sha256/"),
        &right.replace("sha256", "sha1"),
        &right[..right.len() - 1],
        &format!("{right}A"),
        &format!("{right}\n"),
        "sha256/",
        "",
    ] {
        assert_eq!(Pin::from_str(wrong), Err(NotAPin), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_readers_panic(text in "(-----BEGIN [A-Z ]{3,12}-----\n)?[ -~\n]{0,200}(-----END [A-Z ]{3,12}-----\n)?") {
        drop(Identity::from_pem(text.as_bytes(), text.as_bytes()));
        drop(Trust::from_pem(text.as_bytes()));
        prop_assert_eq!(Pin::from_str(&text), Err(NotAPin));
        drop(self_signed(&[text], 1));
    }

    #[test]
    fn a_pin_survives_its_text(hash in any::<[u8; 32]>()) {
        use base64::Engine as _;
        let text = format!("sha256/{}", base64::engine::general_purpose::STANDARD.encode(hash));
        prop_assert_eq!(Pin::from_str(&text).unwrap().to_string(), text);
    }
}
