//! Reading PEM (RFC 7468).

use rustls_pki_types::pem::{Error, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::CertError;

pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|fault| unreadable(&fault))?;
    if !found.is_empty() {
        return Ok(found);
    }
    let has_key = PrivateKeyDer::pem_slice_iter(pem).next().is_some();
    Err(if has_key {
        CertError::KeyForCertificate
    } else {
        CertError::NoCertificate
    })
}

pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertError> {
    let mut keys = PrivateKeyDer::pem_slice_iter(pem);
    match keys.next() {
        Some(key) => key.map_err(|fault| unreadable(&fault)),
        None if CertificateDer::pem_slice_iter(pem).next().is_some() => {
            Err(CertError::CertificateForKey)
        }
        None => Err(CertError::NoKey),
    }
}

fn unreadable(fault: &Error) -> CertError {
    CertError::Pem(fault.to_string())
}
