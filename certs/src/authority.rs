//! A certificate authority of one's own: it vouches for the servers of one site, and nobody else has to know it.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

use crate::self_signed::params;
use crate::{CertError, Identity};

/// An authority that can make certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    not_after: OffsetDateTime,
}

/// A certificate that an authority made, and its private key, both as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate; public.
    pub cert_pem: String,
    /// The private key; to be written where only its owner can read it.
    pub key_pem: String,
}

impl Authority {
    /// Makes an ECDSA P-256 key and a certificate for it, under the name `name`, valid from yesterday for `days`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn make(name: &str, days: u32) -> Result<Self, CertError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|fault| setup(&fault))?;
        let params = authority_params(name, days);
        let certificate = params.self_signed(&key).map_err(|fault| setup(&fault))?;
        Ok(Self {
            cert_pem: certificate.pem(),
            not_after: params.not_after,
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority that was made before, from its certificate and its private key.
    ///
    /// # Errors
    /// When either cannot be read, or the key belongs to another certificate.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, CertError> {
        let identity = Identity::from_pem(cert_pem.as_bytes(), key_pem.as_bytes())?;
        let key = KeyPair::from_pem(key_pem).map_err(|fault| CertError::Key(fault.to_string()))?;
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key);
        Ok(Self {
            issuer: issuer.map_err(|fault| CertError::Certificate(fault.to_string()))?,
            cert_pem: cert_pem.to_owned(),
            not_after: identity.not_after(),
        })
    }

    /// When it ends, and what it vouches for with it.
    #[must_use]
    pub const fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The authority's own certificate, by which clients know it; public.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Its private key as PEM: whoever has it can pose as any server of the site.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and a certificate with which a server of these names shows itself to clients, and to other servers
    /// of the site as their client.
    ///
    /// # Errors
    /// As [`self_signed`](crate::self_signed()).
    pub fn issue(&self, names: &[String], days: u32) -> Result<Issued, CertError> {
        let mut params = params(names, days)?;
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
        self.sign(params)
    }

    /// Makes a key and a certificate with which a server of these names shows itself to clients, and to nobody as a client.
    ///
    /// # Errors
    /// As [`self_signed`](crate::self_signed()).
    pub fn issue_for_clients(&self, names: &[String], days: u32) -> Result<Issued, CertError> {
        self.sign(params(names, days)?)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Issued, CertError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|fault| setup(&fault))?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|fault| setup(&fault))?;
        Ok(Issued {
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn authority_params(name: &str, days: u32) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(i64::from(days));
    // it vouches for servers, not for further authorities
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn setup(fault: &rcgen::Error) -> CertError {
    CertError::Setup(fault.to_string())
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;
    use crate::Trust;

    #[test]
    fn who_knows_the_authority_believes_the_servers_that_it_vouches_for() {
        let [own, other] =
            ["site a", "site b"].map(|name| Authority::make(name, 30).expect("made"));
        let issued = own.issue(&["nats.example.org".to_owned(), "10.0.0.1".to_owned()], 30);
        let issued = issued.expect("issued");
        let identity = Identity::from_pem(issued.cert_pem.as_bytes(), issued.key_pem.as_bytes());
        let identity = identity.expect("a pair");
        let accepts = |authority: &Authority, name: &'static str| {
            let trust = Trust::from_pem(authority.cert_pem().as_bytes()).expect("roots");
            let name = ServerName::try_from(name).expect("a name");
            trust.accepts(&identity, &name, UnixTime::now())
        };

        assert!(accepts(&own, "nats.example.org") && accepts(&own, "10.0.0.1"));
        assert!(!accepts(&own, "other.example.org"));
        assert!(!accepts(&other, "nats.example.org"));
    }

    #[test]
    fn one_that_was_kept_vouches_as_before_and_with_its_own_key_alone() {
        let [own, other] =
            ["site a", "site b"].map(|name| Authority::make(name, 30).expect("made"));
        let kept = Authority::from_pem(own.cert_pem(), &own.key_pem()).expect("read");
        let issued = kept.issue_for_clients(&["n1".to_owned()], 30);
        let issued = issued.expect("issued");
        let identity = Identity::from_pem(issued.cert_pem.as_bytes(), issued.key_pem.as_bytes());
        let identity = identity.expect("a pair");
        let trust = Trust::from_pem(own.cert_pem().as_bytes()).expect("roots");
        let name = ServerName::try_from("n1").expect("a name");
        assert!(trust.accepts(&identity, &name, UnixTime::now()));
        let apart = own.not_after() - kept.not_after();
        assert!(apart < Duration::seconds(1), "{apart}");

        let mixed = Authority::from_pem(own.cert_pem(), &other.key_pem());
        assert!(matches!(mixed, Err(CertError::KeyMismatch)), "{mixed:?}");
        let swapped = Authority::from_pem(&own.key_pem(), own.cert_pem());
        assert!(
            matches!(swapped, Err(CertError::KeyForCertificate)),
            "{swapped:?}"
        );
    }

    #[test]
    fn no_private_key_is_shown() {
        let authority = Authority::make("site", 30).expect("made");
        let issued = authority.issue(&["n1".to_owned()], 30).expect("issued");
        assert!(authority.key_pem().contains("PRIVATE KEY"));
        assert!(!format!("{authority:?} {issued:?}").contains("PRIVATE"));
    }
}
