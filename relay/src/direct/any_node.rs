//! Answers a front out of the sessions of this node, and of those that its peers have.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use sallyport_edge::{Ask, Denial, Found, Opener, Page, Way};
use sallyport_ops::{Slots, Tasks};
use sallyport_wire::message::Head;
use sallyport_wire::{ClusterName, Code, SessionId};

use crate::outlet::{self, Outlet};
use crate::streams::Streams;

/// Opens streams for clients of the port.
#[derive(Debug)]
pub(super) struct AnyNode {
    pub(super) streams: Arc<Streams>,
    /// A connection of HTTP/2 carries many streams, so a client's share of connections does not bound those.
    pub(super) places: Slots,
    /// Owner of what runs for a stream.
    pub(super) tasks: Tasks,
}

impl Opener for AnyNode {
    type Stream = Outlet;

    async fn find(&self, _cluster: &ClusterName, session: &SessionId) -> Result<Found, Denial> {
        self.streams.find(session)
    }

    async fn open(&self, ask: &Ask) -> Result<Outlet, Denial> {
        let address = ask.client.address.parse::<SocketAddr>();
        let source = address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip());
        let place = self.places.take(source).map_err(|full| {
            let cause = format!("{full} (limits.client_streams, for {source})");
            Denial::new(Code::Limit, cause)
        })?;
        let head = Head {
            kind: ask.kind.into(),
            target: ask.found.session.to_string(),
            stream: 0,
            client: Some(ask.client.clone()),
            request_id: ask.request_id.clone(),
            credential: ask.credential.clone(),
            resume: None,
            port: 0,
        };
        let opened = Box::pin(self.streams.open(head, &self.tasks)).await;
        opened.map(|stream| stream.in_place(place))
    }

    fn way(&self, stream: &Outlet) -> Arc<Way> {
        Arc::clone(stream.way())
    }

    fn refused(&self, code: Code) {
        self.streams.count_refused(code);
    }

    fn root(&self, _cluster: &ClusterName, _accept_json: bool) -> Page {
        outlet::no_page()
    }
}
