//! What the front asks of its host: where a session is, and a stream to it.
//!
//! The gateway answers with tunnels, a relay's own port with its sessions; the front knows neither.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use sallyport_splice::Duplex;
use sallyport_wire::message::{Client, Kind, Protocol};
use sallyport_wire::{ClusterName, Code, NodeName, SessionId};

use crate::affinity::Affinity;
use crate::credential::Credential;

/// Finds sessions and opens streams to them.
pub trait Opener: Send + Sync + 'static {
    /// A stream to a session. It is used by one client connection for one session and one credential, and closed
    /// with that connection. A read that fails with [`sallyport_wire::Refusal`] tells the client why.
    type Stream: Duplex + 'static;

    /// Where a session of a cluster is, for who shows `credential`, which is empty for none. It may wait a moment for a
    /// session that is likely to come.
    ///
    /// # Errors
    /// [`Denial`] if there is no such session, or none that HTTP can reach.
    fn find(
        &self,
        cluster: &ClusterName,
        session: &SessionId,
        credential: &Credential,
    ) -> impl Future<Output = Result<Found, Denial>> + Send;

    /// Opens a stream. It may return before the session has answered: a refusal then comes out of the first read.
    ///
    /// # Errors
    /// [`Denial`] if no relay takes the stream.
    fn open(&self, ask: &Ask) -> impl Future<Output = Result<Self::Stream, Denial>> + Send;

    /// The way that a stream takes.
    fn way(&self, stream: &Self::Stream) -> Arc<Way>;

    /// A request was answered with this code instead of what it asked for.
    fn refused(&self, code: Code);

    /// The page at `/` of a cluster's own name.
    fn root(&self, cluster: &ClusterName, accept_json: bool) -> Page;

    /// What stands under `/.sallyport/` of an own name; by default nothing, as under every other unknown path.
    fn own(&self, asked: &OwnAsk<'_>) -> Option<Response<Bytes>> {
        let _nothing_is_there = asked;
        None
    }
}

/// A request for something of the front's host itself, under `/.sallyport/`.
#[derive(Debug, Clone, Copy)]
pub struct OwnAsk<'r> {
    /// Its method.
    pub method: &'r Method,
    /// What stands behind `/.sallyport/` in its path.
    pub path: &'r str,
    /// Its header fields, without credentials.
    pub headers: &'r HeaderMap,
    /// The client's login cookie or bearer token.
    pub credential: &'r Credential,
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A session under `/s/<id>/` of the gateway's own name.
    Path {
        /// Its id.
        session: SessionId,
    },
    /// A session under a host name of its own.
    Host {
        /// Its id.
        session: SessionId,
    },
    /// `/` of the gateway's own name.
    Root,
}

/// How to treat a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub session: SessionId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// What it speaks; the front serves [`Protocol::Http`], [`Protocol::Vnc`] and [`Protocol::H2c`].
    pub protocol: Protocol,
    /// Whether the session sees `/s/<id>` in front of its paths in path mode.
    pub keep_prefix: bool,
    /// Time to the head of an answer; `None` leaves it to [`crate::Limits::answer`].
    pub answer_within: Option<Duration>,
    /// Whether clients without identity are let in.
    pub anonymous: bool,
    /// The URL of a front to which browsers are sent that open the session as a page, without a slash at its end; none
    /// where this front serves them like everybody else.
    pub elsewhere: Option<String>,
    /// Whether a cookie keeps clients with one of several members that it stands for.
    pub by_cookie: bool,
}

/// The way that a stream takes to its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Node that serves it.
    pub node: NodeName,
    /// Number of its tunnel, for [`Ask::avoid`].
    pub tunnel: u64,
    /// What carries that tunnel.
    pub transport: &'static str,
}

/// A session that cannot be reached, or not now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {cause}")]
pub struct Denial {
    /// What the client hears, and its HTTP status.
    pub code: Code,
    /// The session, where the client may hear its name.
    pub session: Option<SessionId>,
    /// When to try again, where that is known.
    pub retry_after: Option<Duration>,
    /// The way that failed, so that a second try avoids it; none where there was none to try.
    pub way: Option<Arc<Way>>,
    /// For the log only.
    pub cause: String,
}

impl Denial {
    /// A denial with neither session, time nor way.
    #[must_use]
    pub fn new(code: Code, cause: impl Into<String>) -> Self {
        Self {
            code,
            session: None,
            retry_after: None,
            way: None,
            cause: cause.into(),
        }
    }
}

/// A stream that is wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct Ask {
    /// The session, as [`Opener::find`] gave it.
    pub found: Found,
    /// What the stream is for.
    pub kind: Kind,
    /// Where the client is.
    pub client: Client,
    /// Id of the request that needs the stream.
    pub request_id: String,
    /// The client's login cookie or bearer token, empty for none; the relay decides on it, per stream.
    pub credential: String,
    /// Raw gateway port; 0 for HTTP.
    pub port: u16,
    /// What keeps the client with one member of a pool, where [`Found::by_cookie`] says so.
    pub affinity: Option<Affinity>,
    /// Tunnels that failed for this request.
    pub avoid: Vec<u64>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("session", &self.found.session)
            .field("kind", &self.kind)
            .field("request_id", &self.request_id)
            .field("credential", &!self.credential.is_empty())
            .field("port", &self.port)
            .field("avoid", &self.avoid)
            .finish_non_exhaustive()
    }
}

/// A page of the gateway itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: http::StatusCode,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}
