//! A certificate that can be replaced while connections are served.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use crate::Identity;

/// The identity that new handshakes show; connections that are up keep theirs.
#[derive(Debug)]
pub struct Reloading(ArcSwap<Identity>);

impl Reloading {
    /// Begins with `identity`.
    #[must_use]
    pub fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(identity)))
    }

    /// Shows `identity` from the next handshake on.
    pub fn replace(&self, identity: Identity) {
        self.0.store(Arc::new(identity));
    }

    /// The identity shown now.
    #[must_use]
    pub fn current(&self) -> Arc<Identity> {
        self.0.load_full()
    }

    /// When the certificate shown now expires.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.0.load().not_after()
    }

    /// DNS names and IP addresses that the certificate shown now speaks for.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.load().names().to_vec()
    }
}

impl ResolvesServerCert for Reloading {
    /// The same certificate whatever name is asked for: which names are served is decided before
    /// the handshake.
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.load().certified()))
    }
}
