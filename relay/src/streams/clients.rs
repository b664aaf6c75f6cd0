//! Streams for clients that came to this relay itself: to sessions of its node, and on to other nodes.

use std::sync::Arc;
use std::time::Duration;

use sallyport_edge::{Denial, Found, Way};
use sallyport_link::GatewayUrl;
use sallyport_ops::Tasks;
use sallyport_wire::message::{Head, Offer, Protocol};
use sallyport_wire::{ClusterName, Code, NodeName, SessionId};
use tokio::time::Instant;
use tracing::debug;

use super::{Streams, Way as Leads};
use crate::access::{self, Passage};
use crate::carry::Admitted;
use crate::config::SessionConfig;
use crate::head::Request;
use crate::outlet::{self, Outlet};
use crate::sessions::Session;

/// What a client of this port came over, as lists and the access log show it.
const DIRECT: &str = "direct";
/// What its stream to another node goes over.
const HOP: &str = "hop";

/// When to try again, by what is missing.
const RETRY_DOWN: Duration = Duration::from_secs(5);
const RETRY_LATER: Duration = Duration::from_secs(2);

impl Streams {
    /// How to treat a session, of this node or of another one, that HTTP reaches and that is public; a session of this node
    /// may also be one that the client was `invited` to.
    ///
    /// # Errors
    /// The same [`Denial`] for every other session as for one that nobody has.
    pub(crate) fn find(&self, id: &SessionId, invited: bool) -> Result<Found, Denial> {
        let found = match self.sessions.locate(id) {
            Ok(session) => may_come(&session.config, invited)
                .then(|| outlet::found(&session.config))
                .ok_or("it is not public, or HTTP does not reach it"),
            Err(_unknown) => self
                .hop
                .directory()
                .offer(id, Instant::now())
                .ok_or("no node is known to have it")
                .and_then(|offer| found_there(id, &offer)),
        };
        found.map_err(|cause| self.unknown(id, cause))
    }

    /// The URL at which clients reach a session of another node there.
    pub(crate) fn direct_url(&self, id: &SessionId) -> Option<GatewayUrl> {
        if self.sessions.locate(id).is_ok() {
            return None;
        }
        let front = self.hop.directory().front(id, Instant::now());
        front.map(|front| front.url)
    }

    /// Whether a session is one of this node that somebody may be invited to.
    pub(crate) fn may_invite(&self, id: &SessionId) -> bool {
        let session = self.sessions.locate(id);
        session.is_ok_and(|session| access::is_reached_by_http(&session.config))
    }

    /// Opens a stream for a client, who may have been `invited` to the session; what runs for it belongs to `tasks`.
    ///
    /// # Errors
    /// As [`Streams::find`], and where the session is not reached.
    pub(crate) async fn open(
        &self,
        head: Head,
        invited: bool,
        tasks: &Tasks,
    ) -> Result<Outlet, Denial> {
        match self.admit(&head, true, invited) {
            Ok(Leads::Here(request, session, passage)) => {
                self.open_here(request, session, passage, tasks).await
            }
            Ok(Leads::There(request, node)) => self.open_there(&request, &node, head).await,
            Ok(Leads::Probe) => Err(Denial::new(Code::Protocol, "a probe is no stream")),
            Err(code) => Err(match head.target.parse() {
                Ok(id) => self.denied(&id, code, "not let in"),
                Err(_invalid) => Denial::new(code, "no session has such a name"),
            }),
        }
    }

    async fn open_here(
        &self,
        request: Request,
        session: Arc<Session>,
        passage: Passage,
        tasks: &Tasks,
    ) -> Result<Outlet, Denial> {
        let id = session.id().clone();
        match passage {
            Passage::Straight | Passage::Bridge => {}
            Passage::EndTls | Passage::Datagrams => {
                return Err(self.unknown(&id, "HTTP does not reach it"));
            }
        }
        if session.is_down() {
            return Err(self.denied(&id, Code::SessionDown, "its health check fails"));
        }
        let admitted = Arc::new(Admitted {
            request,
            session,
            tunnel: 0,
            transport: DIRECT,
            tasks: tasks.clone(),
        });
        let way = Arc::new(Way {
            node: self.carrier.node().clone(),
            tunnel: 0,
            transport: DIRECT,
        });
        let entry = || Arc::new(self.carrier.enter(&admitted));
        let opened = Outlet::reach(&self.carrier, &admitted, way, entry).await;
        opened.map_err(|error| self.denied(&id, error.code(), &error.to_string()))
    }

    async fn open_there(
        &self,
        request: &Request,
        node: &NodeName,
        head: Head,
    ) -> Result<Outlet, Denial> {
        let Some(id) = &request.session else {
            return Err(Denial::new(Code::Protocol, "a probe is no stream"));
        };
        let offer = self.hop.directory().offer(id, Instant::now());
        if offer.is_some_and(|offer| offer.down) {
            return Err(self.denied(id, Code::SessionDown, "its node says so"));
        }
        let opened = self.hop.open(node, head).await;
        let stream = opened.map_err(|code| self.denied(id, code, &format!("on {node}")))?;
        let way = Arc::new(Way {
            node: node.clone(),
            tunnel: 0,
            transport: HOP,
        });
        let entry = self.carrier.enter_onward(request, node, DIRECT);
        Ok(Outlet::new(Box::new(stream), way, Some(Arc::new(entry))))
    }

    /// What would tell a stranger that there is a session which is not for him tells the same as if there was none.
    fn denied(&self, id: &SessionId, code: Code, cause: &str) -> Denial {
        if matches!(
            code,
            Code::UnknownSession | Code::LoginRequired | Code::Forbidden | Code::Misdirected
        ) {
            return self.unknown(id, &format!("{code}: {cause}"));
        }
        Denial {
            session: Some(id.clone()),
            retry_after: retry_after(code),
            ..Denial::new(code, format!("{id}: {cause}"))
        }
    }

    /// The one answer for every session that a stranger cannot have.
    fn unknown(&self, id: &SessionId, cause: &str) -> Denial {
        debug!(session = %id, cause, "no session for strangers");
        if self.hop.is_settling() {
            let cause = format!("{id}: {cause}, and not all nodes were heard yet");
            return Denial {
                retry_after: Some(RETRY_LATER),
                ..Denial::new(Code::HomeLost, cause)
            };
        }
        Denial::new(Code::UnknownSession, format!("{id}: {cause}"))
    }
}

fn may_come(session: &SessionConfig, invited: bool) -> bool {
    access::is_open_to_http(session) || (invited && access::is_reached_by_http(session))
}

fn retry_after(code: Code) -> Option<Duration> {
    if code == Code::SessionDown {
        return Some(RETRY_DOWN);
    }
    (code == Code::HomeLost).then_some(RETRY_LATER)
}

/// What another node offers, if HTTP without a login may be let in there.
fn found_there(id: &SessionId, offer: &Offer) -> Result<Found, &'static str> {
    let protocol = offer.protocol();
    let spoken = matches!(protocol, Protocol::Http | Protocol::H2c | Protocol::Vnc);
    if !spoken || offer.blind || !offer.anonymous {
        return Err("its node lets nobody in over HTTP without a login");
    }
    let seconds = u64::from(offer.answer_within);
    Ok(Found {
        cluster: ClusterName::default(),
        session: id.clone(),
        protocol,
        keep_prefix: offer.keep_prefix,
        answer_within: (seconds > 0).then(|| Duration::from_secs(seconds)),
        anonymous: true,
        elsewhere: None,
        by_cookie: false,
    })
}
