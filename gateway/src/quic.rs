//! Tunnels over QUIC: the public port's UDP half.

use std::sync::Arc;

use quinn::{Endpoint, Incoming};
use sallyport_edge::newcomers::Newcomers;
use sallyport_link::Settings;
use sallyport_link::gate::accept_quic;
use sallyport_ops::Tasks;
use sallyport_ops::listen::canonical;
use tracing::{debug, info_span};

use crate::arrive::Visitor;
use crate::hub::Hub;

/// What serving one endpoint needs.
#[derive(Debug, Clone)]
pub struct Quic {
    /// Where tunnels go.
    pub hub: Arc<Hub>,
    /// Numbers of tunnels.
    pub settings: Arc<Settings>,
    /// Handshakes in progress.
    pub newcomers: Newcomers,
    /// From so many percent of them on, a relay must prove its address first (RFC 9000 §8.1.2).
    pub prove_address_at: u8,
    /// Owner of their tasks.
    pub tasks: Tasks,
}

impl Quic {
    /// Takes connections until the task is stopped.
    pub async fn serve(self, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            self.take(incoming);
        }
    }

    fn take(&self, incoming: Incoming) {
        let peer = canonical(incoming.remote_address());
        let source = peer.ip();
        let crowded = self.newcomers.is_crowded(source, self.prove_address_at);
        if crowded && !incoming.remote_address_validated() {
            debug!(%peer, "asked to prove its address");
            // An error would give back one that may not be asked again; that was just checked.
            drop(incoming.retry());
            return;
        }
        let newcomer = self.newcomers.enter(source);
        let this = self.clone();
        self.tasks
            .spawn(info_span!("connection", %peer), async move {
                let visitor = Visitor::new(Arc::clone(&this.hub));
                let accepting = accept_quic(incoming, &visitor, &this.settings, &this.hub.tasks);
                let accepted = tokio::select! {
                    accepted = Box::pin(accepting) => accepted,
                    () = newcomer.dropped() => {
                        debug!("dropped: too many handshakes in progress");
                        return this.hub.figures.handshake_failed("early_drop");
                    }
                };
                drop(newcomer);
                debug!(up = accepted.is_ok(), "QUIC handshake done");
                this.hub
                    .receive(accepted.map(|(tunnel, _hello)| tunnel), visitor);
            });
    }
}
