//! TLS configurations for the side that dials.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::pinned::KeyVerifier;
use crate::provider::provider;
use crate::server::owned;
use crate::{CertError, Trust};

/// For ordinary TLS servers, such as a proxy on the way or a session that speaks TLS: 1.3 or 1.2.
///
/// # Errors
/// When the cryptographic library refuses, which no input can cause.
pub fn client_config(trust: &Trust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, CertError> {
    let mut config = config(trust, &[&TLS13, &TLS12])?;
    config.alpn_protocols = owned(alpn);
    Ok(Arc::new(config))
}

/// For tunnels: TLS 1.3 alone, nothing resumed and no early data, so that every tunnel proves the
/// gateway's key anew and its exported keying material is its own.
///
/// # Errors
/// When the cryptographic library refuses, which no input can cause.
pub fn tunnel_client_config(trust: &Trust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, CertError> {
    let mut config = config(trust, &[&TLS13])?;
    config.alpn_protocols = owned(alpn);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn config(
    trust: &Trust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, CertError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|fault| CertError::Setup(fault.to_string()))?;
    Ok(match trust {
        Trust::Pins(pins) => builder
            .dangerous()
            .with_custom_certificate_verifier(KeyVerifier::pinned(pins.clone()))
            .with_no_client_auth(),
        Trust::ProvenLater => builder
            .dangerous()
            .with_custom_certificate_verifier(KeyVerifier::any())
            .with_no_client_auth(),
        Trust::Roots(roots) => builder
            .with_root_certificates(Arc::clone(roots))
            .with_no_client_auth(),
    })
}
