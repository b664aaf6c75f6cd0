//! What stands under `/.sallyport/` of the direct port: the probe by which pages of the gateways find out whether a browser
//! reaches this node, and the way in for who has a ticket. All else, whoever asks and whatever is wrong, is unknown.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, HeaderMap, HeaderName, HeaderValue, LOCATION, ORIGIN, SET_COOKIE,
    VARY,
};
use http::{Method, Response, StatusCode};
use sallyport_edge::OwnAsk;
use sallyport_edge::credential::COOKIE_NAME;
use sallyport_ops::paced::Paced;
use sallyport_wire::SessionId;
use tracing::info;

use super::passes::Passes;
use super::tickets::Tickets;
use crate::streams::Streams;

/// What a page may find out of.
const PROBE: &str = "probe";
/// Begins the way in: a session and a ticket follow.
const ENTER: &str = "enter/";

/// What a browser asks before a public page may reach a private network, and is answered (Private Network Access §3.2).
const ASKS_FOR_PRIVATE: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOWS_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// Whether pages of an origin may find out that this node is reached.
pub type Origins = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The way in to `session` by a ticket, below the direct URL of its node.
#[must_use]
pub fn entrance(session: &SessionId, ticket: &str) -> String {
    format!("/.sallyport/{ENTER}{session}/{ticket}")
}

/// The probe, below a direct URL.
#[must_use]
pub fn probe() -> String {
    format!("/.sallyport/{PROBE}")
}

/// Answers there.
pub(super) struct Own {
    pub(super) streams: Arc<Streams>,
    pub(super) origins: Origins,
    pub(super) tickets: Tickets,
    pub(super) passes: Passes,
    pub(super) refusals: Paced,
}

impl Own {
    /// None for what is not there.
    pub(super) fn answer(&self, asked: &OwnAsk<'_>) -> Option<Response<Bytes>> {
        if asked.path == PROBE {
            return self.probed(asked);
        }
        let (session, ticket) = asked.path.strip_prefix(ENTER)?.split_once('/')?;
        let session: SessionId = session.parse().ok()?;
        let enters = asked.method == Method::GET;
        enters.then(|| self.enter(&session, ticket, asked))?
    }

    /// Pages of other origins hear the same as strangers.
    fn probed(&self, asked: &OwnAsk<'_>) -> Option<Response<Bytes>> {
        if !matches!(*asked.method, Method::GET | Method::OPTIONS) {
            return None;
        }
        let mut origins = asked.headers.get_all(ORIGIN).iter();
        let origin = origins.next().filter(|_| origins.next().is_none())?;
        let is_known = origin.to_str().is_ok_and(|origin| (self.origins)(origin));
        is_known.then(|| reached(origin, asked.headers))
    }

    fn enter(
        &self,
        session: &SessionId,
        ticket: &str,
        asked: &OwnAsk<'_>,
    ) -> Option<Response<Bytes>> {
        if !self.streams.may_invite(session) {
            return None;
        }
        if let Err(cause) = self.tickets.take(session, ticket, SystemTime::now()) {
            if let Some(held_back) = self.refusals.pass() {
                info!(%session, %cause, held_back, "a ticket was not taken");
            }
            return None;
        }
        let pass = self.passes.give(asked.credential.expose(), session)?;
        info!(%session, "a client came in by a ticket");
        let_in(session, &pass)
    }
}

fn reached(origin: &HeaderValue, asked: &HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    if asked.contains_key(ASKS_FOR_PRIVATE) {
        headers.insert(ALLOWS_PRIVATE, HeaderValue::from_static("true"));
    }
    response
}

/// To the session, with the pass in our cookie, which no program of a session sees.
fn let_in(session: &SessionId, pass: &str) -> Option<Response<Bytes>> {
    let cookie = format!("{COOKIE_NAME}={pass}; Path=/; Secure; HttpOnly; SameSite=Lax");
    let response = Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(LOCATION, format!("/s/{session}/"))
        .header(SET_COOKIE, cookie);
    response.body(Bytes::new()).ok()
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own")
            .field("tickets", &self.tickets)
            .field("passes", &self.passes)
            .finish_non_exhaustive()
    }
}
