//! Answers a front out of the sessions of this node, and of those that its peers have.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use sallyport_edge::{Ask, Credential, Denial, Found, Opener, OwnAsk, Page, Way};
use sallyport_link::GatewayUrl;
use sallyport_ops::{Slots, Tasks};
use sallyport_wire::message::Head;
use sallyport_wire::{ClusterName, Code, SessionId};

use super::own::Own;
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
    /// What the port has of its own.
    pub(super) own: Own,
    /// The own URL, where browsers are sent on to the nodes that have the sessions.
    pub(super) sends_on: Option<GatewayUrl>,
}

impl AnyNode {
    /// Whether a client that shows `credential` came in by a ticket for `session`.
    fn is_invited(&self, credential: &str, session: &SessionId) -> bool {
        !credential.is_empty() && self.own.passes.lets_in(credential, session)
    }

    /// Where a browser is sent on to. Nodes behind one common name have one URL: they pass the stream on instead.
    fn elsewhere(&self, session: &SessionId) -> Option<String> {
        let own = self.sends_on.as_ref()?;
        let url = self.streams.direct_url(session)?;
        (url != *own).then(|| url.to_string())
    }
}

impl Opener for AnyNode {
    type Stream = Outlet;

    async fn find(
        &self,
        _cluster: &ClusterName,
        session: &SessionId,
        credential: &Credential,
    ) -> Result<Found, Denial> {
        let invited = self.is_invited(credential.expose(), session);
        let found = self.streams.find(session, invited)?;
        Ok(Found {
            elsewhere: self.elsewhere(session),
            ..found
        })
    }

    async fn open(&self, ask: &Ask) -> Result<Outlet, Denial> {
        let address = ask.client.address.parse::<SocketAddr>();
        let source = address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip());
        let place = self.places.take(source).map_err(|full| {
            let cause = format!("{full} (limits.client_streams, for {source})");
            Denial::new(Code::Limit, cause)
        })?;
        let invited = self.is_invited(&ask.credential, &ask.found.session);
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
        let opened = Box::pin(self.streams.open(head, invited, &self.tasks)).await;
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

    fn own(&self, asked: &OwnAsk<'_>) -> Option<Response<Bytes>> {
        self.own.answer(asked)
    }
}
