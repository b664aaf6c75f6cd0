//! TLS configurations for the side that dials.

use std::sync::Arc;

use rustls::client::{Resumption, WantsClientCert};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, SupportedProtocolVersion};

use crate::pinned::KeyVerifier;
use crate::provider::provider;
use crate::server::owned;
use crate::{CertError, Identity, Trust};

/// For ordinary TLS servers, such as a proxy on the way or a session that speaks TLS: 1.3 or 1.2.
///
/// # Errors
/// When the cryptographic library refuses, which no input can cause.
pub fn client_config(trust: &Trust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, CertError> {
    let mut config = builder(trust, &[&TLS13, &TLS12])?.with_no_client_auth();
    config.alpn_protocols = owned(alpn);
    Ok(Arc::new(config))
}

/// As [`client_config`], for a server that asks who we are: it is shown `identity`.
///
/// # Errors
/// As there.
pub fn known_client_config(
    trust: &Trust,
    alpn: &[&[u8]],
    identity: &Identity,
) -> Result<Arc<ClientConfig>, CertError> {
    let own = SingleCertAndKey::from((**identity.certified()).clone());
    let mut config = builder(trust, &[&TLS13, &TLS12])?.with_client_cert_resolver(Arc::new(own));
    config.alpn_protocols = owned(alpn);
    Ok(Arc::new(config))
}

/// For tunnels: TLS 1.3 alone, nothing resumed and no early data, so that every tunnel proves the
/// gateway's key anew and its exported keying material is its own.
///
/// # Errors
/// When the cryptographic library refuses, which no input can cause.
pub fn tunnel_client_config(trust: &Trust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, CertError> {
    let mut config = builder(trust, &[&TLS13])?.with_no_client_auth();
    config.alpn_protocols = owned(alpn);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn builder(
    trust: &Trust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, CertError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|fault| CertError::Setup(fault.to_string()))?;
    Ok(match trust {
        Trust::Pins(pins) => builder
            .dangerous()
            .with_custom_certificate_verifier(KeyVerifier::pinned(pins.clone())),
        Trust::ProvenLater => builder
            .dangerous()
            .with_custom_certificate_verifier(KeyVerifier::any()),
        Trust::Roots(roots) => builder.with_root_certificates(Arc::clone(roots)),
    })
}
