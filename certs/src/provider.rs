//! The cryptography that every configuration uses.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};

/// aws-lc-rs with AES-128-GCM first: the fastest where the processor knows AES, and as strong as
/// the ECDSA P-256 and X25519 around it.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    let first = cipher_suite::TLS13_AES_128_GCM_SHA256.suite();
    // stable: the others keep their order
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != first);
    Arc::new(provider)
}
