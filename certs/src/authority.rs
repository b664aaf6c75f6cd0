//! A certificate authority of one's own: it vouches for the servers of one site, and nobody else has to know it.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

use crate::CertError;
use crate::self_signed::params;

/// An authority that can make certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
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
            issuer: Issuer::new(params, key),
        })
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
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|fault| setup(&fault))?;
        let mut params = params(names, days)?;
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
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
    use crate::{Identity, Trust};

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
    fn no_private_key_is_shown() {
        let authority = Authority::make("site", 30).expect("made");
        let issued = authority.issue(&["n1".to_owned()], 30).expect("issued");
        assert!(authority.key_pem().contains("PRIVATE KEY"));
        assert!(!format!("{authority:?} {issued:?}").contains("PRIVATE"));
    }
}
