//! The check that a server holds a pinned key.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::Pin;
use crate::provider::provider;

/// The server showed a key that is not pinned: it has a new key, or it is somebody else.
#[derive(Clone, PartialEq, Eq)]
pub struct PinMismatch {
    /// The pins that would have been accepted.
    pub expected: Vec<Pin>,
    /// The pin of the key that the server showed.
    pub seen: Pin,
}

impl PinMismatch {
    /// Finds a mismatch in an error of a handshake or in any of its causes.
    ///
    /// QUIC's errors carry the text alone, so none is found there.
    #[must_use]
    pub fn in_chain<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            next = inner(error).or_else(|| error.source());
        }
        None
    }
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's key has pin {}, expected ", self.seen)?;
        if self.expected.is_empty() {
            return f.write_str("none at all");
        }
        for (place, pin) in self.expected.iter().enumerate() {
            let between = if place == 0 { "" } else { " or " };
            write!(f, "{between}{pin}")?;
        }
        Ok(())
    }
}

/// As it is displayed: quinn shows errors of TLS by what they are to a programmer.
impl fmt::Debug for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for PinMismatch {}

/// What is wrapped by errors that do not say so through `source`.
fn inner<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|inner| inner as _);
    }
    match error.downcast_ref::<Error>() {
        Some(Error::InvalidCertificate(CertificateError::Other(other)) | Error::Other(other)) => {
            Some(other.0.as_ref())
        }
        _ => None,
    }
}

/// Trusts a key, not a certificate: see [`Trust::Pins`](crate::Trust::Pins) and
/// [`Trust::ProvenLater`](crate::Trust::ProvenLater).
#[derive(Debug)]
pub(crate) struct KeyVerifier {
    /// The keys that are trusted; none for any.
    pins: Option<Vec<Pin>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl KeyVerifier {
    pub(crate) fn pinned(pins: Vec<Pin>) -> Arc<Self> {
        Self::new(Some(pins))
    }

    pub(crate) fn any() -> Arc<Self> {
        Self::new(None)
    }

    fn new(pins: Option<Vec<Pin>>) -> Arc<Self> {
        Arc::new(Self {
            pins,
            algorithms: provider().signature_verification_algorithms,
        })
    }

    /// Looks at every pin, so that the time does not tell which one it was.
    fn knows(pins: &[Pin], seen: &Pin) -> bool {
        pins.iter()
            .fold(false, |known, pin| pin.matches(seen) | known)
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Pin::of(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let Some(pins) = self.pins.as_deref() else {
            return Ok(ServerCertVerified::assertion());
        };
        if Self::knows(pins, &seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let expected = pins.to_vec();
        let mismatch = OtherError(Arc::new(PinMismatch { expected, seen }));
        Err(CertificateError::Other(mismatch).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    /// Without this proof of the private key (RFC 8446 §4.4.3) a pin would be worth nothing: the
    /// certificate itself is public.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
