//! How a client decides that a server is the right one.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tracing::warn;

use crate::provider::provider;
use crate::{CertError, Identity, Pin, pem};

/// What makes a server trusted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// It holds the private key behind one of these pins. The certificate around that key is not
    /// looked at: neither its name nor its expiry nor who signed it. No pin trusts nobody.
    Pins(Vec<Pin>),
    /// It holds the private key of whatever certificate it shows. For a connection on which the server proves by other
    /// means who it is, bound to the keying material of that connection, before it is told or believed anything.
    ProvenLater,
    /// Its certificate is valid now, for the name asked for, and signed by one of these
    /// authorities (RFC 5280, RFC 9525).
    Roots(Arc<RootCertStore>),
}

impl Trust {
    /// The authorities that the operating system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are
    /// obeyed). It reads files: not for use on a hot path.
    ///
    /// # Errors
    /// When the system has none that can be used.
    pub fn system() -> Result<Self, CertError> {
        let found = rustls_native_certs::load_native_certs();
        for fault in &found.errors {
            warn!(%fault, "a file of the system's certificate authorities cannot be read");
        }
        Self::authorities(found.certs)
    }

    /// The authorities in a PEM text, for instance an operator's own.
    ///
    /// # Errors
    /// When it holds no certificate that can be an authority.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertError> {
        Self::authorities(pem::certificates(pem)?)
    }

    /// Whether a client with this trust would take the certificate for the server `name` at `now`.
    #[must_use]
    pub fn accepts(&self, identity: &Identity, name: &ServerName<'_>, now: UnixTime) -> bool {
        match self {
            Self::ProvenLater => true,
            Self::Pins(pins) => identity
                .pin()
                .is_ok_and(|seen| pins.iter().any(|pin| pin.matches(&seen))),
            Self::Roots(roots) => {
                let chain = identity.certified().cert.get(1..).unwrap_or_default();
                WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider())
                    .build()
                    .is_ok_and(|webpki| {
                        let verified =
                            webpki.verify_server_cert(identity.leaf(), chain, name, &[], now);
                        verified.is_ok()
                    })
            }
        }
    }

    fn authorities(certificates: Vec<CertificateDer<'static>>) -> Result<Self, CertError> {
        roots(certificates).map(Self::Roots)
    }
}

pub(crate) fn roots(
    certificates: Vec<CertificateDer<'static>>,
) -> Result<Arc<RootCertStore>, CertError> {
    let seen = certificates.len();
    let mut store = RootCertStore::empty();
    let (_, unusable) = store.add_parsable_certificates(certificates);
    if store.is_empty() {
        let counts = format!("{seen} certificates found, {unusable} of them unusable");
        return Err(CertError::NoRoots(counts));
    }
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::self_signed;

    fn made(name: &str) -> (Identity, String) {
        let made = self_signed(&[name.to_owned()], 30).expect("a certificate");
        let identity = Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes());
        (identity.expect("a pair"), made.cert_pem)
    }

    #[test]
    fn a_certificate_is_accepted_for_its_name_and_time_by_those_who_vouch_for_it() {
        let (own, own_pem) = made("gw.example.org");
        let (other, other_pem) = made("gw.example.org");
        let name = |name: &'static str| ServerName::try_from(name).expect("a name");
        let (gateway, now) = (name("gw.example.org"), UnixTime::now());
        let in_a_year = Duration::from_secs(now.as_secs() + 365 * 86_400);
        let roots = Trust::from_pem(own_pem.as_bytes()).expect("roots");
        let others = Trust::from_pem(other_pem.as_bytes()).expect("roots");
        let pins = Trust::Pins(vec![own.pin().expect("a pin")]);

        assert!(roots.accepts(&own, &gateway, now));
        assert!(!roots.accepts(&own, &name("www.example.org"), now));
        assert!(!roots.accepts(&own, &gateway, UnixTime::since_unix_epoch(in_a_year)));
        assert!(!roots.accepts(&other, &gateway, now));
        assert!(!others.accepts(&own, &gateway, now));
        assert!(pins.accepts(&own, &name("www.example.org"), now));
        assert!(!pins.accepts(&other, &gateway, now));
    }
}
