//! A certificate chain with its private key.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::provider::provider;
use crate::{CertError, Pin, pem};

/// A certificate chain whose private key is known to belong to it.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    leaf: CertificateDer<'static>,
    names: Vec<String>,
    not_after: OffsetDateTime,
}

impl Identity {
    /// Reads a chain (own certificate first) and its private key.
    ///
    /// # Errors
    /// When either cannot be read, or the key belongs to another certificate.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, CertError> {
        let chain = pem::certificates(cert_pem)?;
        let key = pem::private_key(key_pem)?;
        Self::new(chain, key)
    }

    /// Whether a chain can be read at all: asked before its key is, which may be the file that belongs here.
    ///
    /// # Errors
    /// When there is no certificate in it.
    pub fn check_chain(cert_pem: &[u8]) -> Result<(), CertError> {
        pem::certificates(cert_pem).map(drop)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertError> {
        let leaf = chain.first().cloned().ok_or(CertError::NoCertificate)?;
        let (names, not_after) = describe(&leaf)?;
        Ok(Self {
            certified: Arc::new(certify(chain, key)?),
            leaf,
            names,
            not_after,
        })
    }

    /// The own certificate, without those that vouch for it.
    #[must_use]
    pub const fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// DNS names and IP addresses that the certificate speaks for.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When the certificate expires.
    #[must_use]
    pub const fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The pin under which relays know this certificate's key.
    ///
    /// # Errors
    /// When the certificate cannot be read, which [`Identity::from_pem`] has ruled out.
    pub fn pin(&self) -> Result<Pin, CertError> {
        Pin::of(&self.leaf)
    }

    pub(crate) const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn certify(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, CertError> {
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|fault| CertError::Key(fault.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that cannot tell its public half is found out by the first handshake.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(Error::InconsistentKeys(_)) => Err(CertError::KeyMismatch),
        Err(fault) => Err(CertError::Certificate(fault.to_string())),
    }
}

fn describe(leaf: &CertificateDer<'_>) -> Result<(Vec<String>, OffsetDateTime), CertError> {
    let unreadable = |fault: &dyn fmt::Display| CertError::Certificate(fault.to_string());
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|fault| unreadable(&fault))?;
    let alternatives = parsed
        .subject_alternative_name()
        .map_err(|fault| unreadable(&fault))?;
    let names = alternatives.map_or_else(Vec::new, |found| {
        found.value.general_names.iter().filter_map(name).collect()
    });
    Ok((names, parsed.validity().not_after.to_datetime()))
}

/// Only names that TLS clients compare with (RFC 9525 §4.1, RFC 5280 §4.2.1.6).
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other kinds of names mean nothing to TLS, known and future ones alike"
)]
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(octets) => address(octets).map(|address| address.to_string()),
        _ => None,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| v6()).ok()
}
