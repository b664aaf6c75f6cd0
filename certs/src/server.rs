//! TLS configurations for the side that listens.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier};

use crate::provider::provider;
use crate::trust::roots;
use crate::{CertError, Reloading, pem};

/// Protocols of the front, the preferred one first (RFC 9113 §3.2).
const FRONT_ALPN: &[&[u8]] = &[b"h2", b"http/1.1", b"http/1.0"];

/// For tunnels: TLS 1.3 alone, no tickets and no early data, so that every tunnel is a full
/// handshake and its exported keying material is its own.
///
/// # Errors
/// When the cryptographic library refuses, which no input can cause.
pub fn tunnel_server_config(
    certs: Arc<Reloading>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, CertError> {
    let mut config = builder(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certs);
    config.alpn_protocols = owned(alpn);
    forget_sessions(&mut config);
    Ok(Arc::new(config))
}

/// For clients of the front: TLS 1.3 or 1.2, HTTP/2 or HTTP/1.1, one ticket for a quick return.
///
/// Tickets are sealed with keys of this configuration alone, which change every six hours.
///
/// # Errors
/// When the system has no randomness for the tickets' keys.
pub fn front_server_config(certs: Arc<Reloading>) -> Result<Arc<ServerConfig>, CertError> {
    let mut config = builder(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certs);
    config.alpn_protocols = owned(FRONT_ALPN);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().map_err(|fault| CertError::Setup(fault.to_string()))?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// For sessions that only holders of a client certificate may reach: as the front, but the client
/// must show a certificate signed by an authority in `client_ca` (PEM), and nothing is resumed,
/// so that a certificate is looked at each time.
///
/// # Errors
/// When `client_ca` holds no usable authority.
pub fn mutual_server_config(
    certs: Arc<Reloading>,
    client_ca: &[u8],
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, CertError> {
    let roots = roots(pem::certificates(client_ca)?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|fault| CertError::NoRoots(fault.to_string()))?;
    let mut config = builder(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certs);
    config.alpn_protocols = owned(alpn);
    forget_sessions(&mut config);
    Ok(Arc::new(config))
}

fn builder(
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, CertError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|fault| CertError::Setup(fault.to_string()))
}

/// The default ticketer makes no tickets, and early data is off unless asked for.
fn forget_sessions(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

pub(crate) fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}
