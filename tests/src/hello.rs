//! The first bytes of TLS, for services that look no further.

use std::sync::Arc;

use rustls::ClientConnection;

/// A ClientHello as a real TLS stack writes it.
///
/// # Panics
/// If `name` is no DNS name.
#[must_use]
pub fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider's versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a DNS name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("into memory");
    hello
}
