//! The certificate that a gateway makes for itself when it is given none.

use std::fmt;
use std::net::IpAddr;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::CertError;

/// Days that a gateway's own certificate is valid: its pin is trusted, not its age, so it should
/// outlive the machine.
pub const TEN_YEARS: u32 = 3_652;

/// A new certificate and its private key, both as PEM.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate; public.
    pub cert_pem: String,
    /// The private key; to be written where only its owner can read it.
    pub key_pem: String,
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfSigned")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

/// Makes an ECDSA P-256 key and a certificate for `names`, valid from yesterday (clocks differ)
/// for `days`.
///
/// A name is a DNS name, also with a leading `*.`, or an IPv4 or IPv6 address without brackets.
///
/// # Errors
/// When there is no name, one of them cannot stand in a certificate, or the system has no
/// randomness.
pub fn self_signed(names: &[String], days: u32) -> Result<SelfSigned, CertError> {
    let setup = |fault: rcgen::Error| CertError::Setup(fault.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(setup)?;
    let certificate = params(names, days)?.self_signed(&key).map_err(setup)?;
    Ok(SelfSigned {
        cert_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

pub(crate) fn params(names: &[String], days: u32) -> Result<CertificateParams, CertError> {
    let first = names
        .first()
        .ok_or_else(|| CertError::Name(String::new()))?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, first.as_str());
    let now = OffsetDateTime::now_utc();

    let mut params = CertificateParams::default();
    params.subject_alt_names = names
        .iter()
        .map(|name| alternative(name))
        .collect::<Result<_, _>>()?;
    params.distinguished_name = subject;
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(i64::from(days));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn alternative(name: &str) -> Result<SanType, CertError> {
    let refused = || CertError::Name(name.to_owned());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let dns = name.strip_prefix("*.").unwrap_or(name);
    if !is_dns_name(dns) {
        return Err(refused());
    }
    let name = name.to_owned().try_into().map_err(|_| refused())?;
    Ok(SanType::DnsName(name))
}

/// Letters, digits, inner hyphens and underscores in dot-separated labels (RFC 1123 §2.1); a name
/// whose last label is a number would be taken for an IPv4 address.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last_is_number = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !last_is_number
}
