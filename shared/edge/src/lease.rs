//! Streams of HTTP/1.1 between two requests, and the right to a stream during one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http1;
use sallyport_wire::{ClusterName, SessionId};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::DropGuard;

use crate::aborting::Refused;
use crate::affinity::Affinity;
use crate::opener::{Ask, Way};
use crate::upload::Upload;

/// Most idle streams of HTTP/1.1 that a client connection keeps; the oldest goes first.
const IDLE_MAX: usize = 16;

/// How long a stream that has just carried an exchange may take to be ready for the next one.
const READY_WITHIN: Duration = Duration::from_millis(100);

/// What a stream is bound to besides its client connection: all that the relay decided on when it was opened, and what a
/// member of a pool was chosen by. Behind a trusted proxy one connection carries the requests of many clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    cluster: ClusterName,
    session: SessionId,
    credential: String,
    client: String,
    affinity: Option<Affinity>,
}

impl Key {
    pub(crate) fn of(ask: &Ask) -> Self {
        Self {
            cluster: ask.found.cluster.clone(),
            session: ask.found.session.clone(),
            credential: ask.credential.clone(),
            client: ask.client.address.clone(),
            affinity: ask.affinity,
        }
    }
}

/// A stream of HTTP/1.1; dropping it aborts it.
#[derive(Debug)]
pub(crate) struct Stream {
    // Dropped first, so that the stream is aborted before hyper can end it in order.
    pub(crate) kill: DropGuard,
    pub(crate) sender: http1::SendRequest<Upload>,
    pub(crate) refused: Refused,
    pub(crate) way: Arc<Way>,
}

impl Stream {
    /// Ends the stream in order: hyper does so when its last sender goes.
    fn close(self) {
        let _token = self.kill.disarm();
    }
}

/// Streams of HTTP/1.1 that wait for another request.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    streams: Mutex<Vec<IdleStream>>,
    stirred: Notify,
}

#[derive(Debug)]
pub(crate) struct IdleStream {
    pub(crate) key: Key,
    pub(crate) since: Instant,
    stream: Stream,
}

impl Idle {
    fn list(&self) -> MutexGuard<'_, Vec<IdleStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves once something has happened on the client connection since it last did.
    pub(crate) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// A request has come, or something is kept, here or beside it.
    pub(crate) fn stir(&self) {
        self.stirred.notify_one();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    fn put(&self, key: Key, stream: Stream) {
        let mut list = self.list();
        let oldest = (list.len() >= IDLE_MAX).then(|| list.remove(0));
        list.push(IdleStream {
            key,
            since: Instant::now(),
            stream,
        });
        drop(list);
        self.stir();
        if let Some(oldest) = oldest {
            oldest.stream.close();
        }
    }

    /// The stream that was used last and is still open.
    pub(crate) async fn take(&self, key: &Key) -> Option<Stream> {
        loop {
            let mut stream = self.pop(key)?;
            if timeout(READY_WITHIN, stream.sender.ready())
                .await
                .is_ok_and(|ready| ready.is_ok())
            {
                return Some(stream);
            }
        }
    }

    fn pop(&self, key: &Key) -> Option<Stream> {
        let mut list = self.list();
        let place = list.iter().rposition(|idle| idle.key == *key)?;
        Some(list.remove(place).stream)
    }

    pub(crate) fn retain(&self, keep: impl Fn(&IdleStream) -> bool) {
        let mut list = self.list();
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut *list).into_iter().partition(keep);
        *list = kept;
        drop(list);
        for idle in gone {
            idle.stream.close();
        }
    }
}

/// The right to a stream for as long as an exchange lasts. Dropped before the exchange is finished, it aborts the
/// stream; so the session sees that its answer did not arrive.
#[derive(Debug)]
pub(crate) struct Lease(LeaseKind);

#[derive(Debug)]
enum LeaseKind {
    One(Box<OneLease>),
    Two {
        _active: Arc<()>,
        uploaded: Arc<AtomicBool>,
    },
    Once {
        _kill: DropGuard,
    },
}

#[derive(Debug)]
struct OneLease {
    stream: Stream,
    key: Key,
    uploaded: Arc<AtomicBool>,
    home: Weak<Idle>,
}

impl Lease {
    pub(crate) fn one(
        key: Key,
        stream: Stream,
        uploaded: Arc<AtomicBool>,
        home: &Arc<Idle>,
    ) -> Self {
        Self(LeaseKind::One(Box::new(OneLease {
            stream,
            key,
            uploaded,
            home: Arc::downgrade(home),
        })))
    }

    pub(crate) const fn two(active: Arc<()>, uploaded: Arc<AtomicBool>) -> Self {
        Self(LeaseKind::Two {
            _active: active,
            uploaded,
        })
    }

    /// The right to a stream that serves one exchange only and is aborted by `kill`.
    pub(crate) const fn once(kill: DropGuard) -> Self {
        Self(LeaseKind::Once { _kill: kill })
    }

    /// Whether the request's body is still on its way up.
    pub(crate) fn is_early(&self) -> bool {
        match &self.0 {
            LeaseKind::One(lease) => !lease.uploaded.load(Ordering::Acquire),
            LeaseKind::Two { uploaded, .. } => !uploaded.load(Ordering::Acquire),
            LeaseKind::Once { .. } => false,
        }
    }

    /// Gives the stream back after the last byte of an answer. If the session has answered before it took the whole
    /// request, what is left of the request must not meet the next answer: the stream is then aborted.
    pub(crate) fn finish(self) {
        match self.0 {
            LeaseKind::One(lease) => {
                let OneLease {
                    stream,
                    key,
                    uploaded,
                    home,
                } = *lease;
                let done = uploaded.load(Ordering::Acquire);
                match home.upgrade() {
                    Some(home) if done => home.put(key, stream),
                    None if done => stream.close(),
                    Some(_) | None => drop(stream),
                }
            }
            LeaseKind::Two { .. } => {}
            LeaseKind::Once { _kill: kill } => {
                let _token = kill.disarm();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sallyport_wire::message::{Client, Kind, Protocol};

    use super::*;
    use crate::opener::Found;

    fn key(client: &str, credential: &str) -> Key {
        key_in("", client, credential)
    }

    fn key_in(cluster: &str, client: &str, credential: &str) -> Key {
        Key::of(&ask(cluster, client, credential))
    }

    fn ask(cluster: &str, client: &str, credential: &str) -> Ask {
        let found = Found {
            session: "web".parse().expect("an id"),
            cluster: cluster.parse().expect("a name"),
            protocol: Protocol::Http,
            keep_prefix: false,
            answer_within: None,
            anonymous: true,
            elsewhere: None,
            by_cookie: false,
        };
        Ask {
            found,
            kind: Kind::Http,
            client: Client {
                address: client.to_owned(),
                ..Client::default()
            },
            request_id: String::new(),
            credential: credential.to_owned(),
            port: 0,
            affinity: None,
            avoid: Vec::new(),
        }
    }

    #[test]
    fn a_stream_is_kept_only_for_whom_the_relay_let_in() {
        assert_eq!(key("10.0.0.1:0", ""), key("10.0.0.1:0", ""));
        assert_ne!(
            key("10.0.0.1:0", ""),
            key("203.0.113.9:0", ""),
            "another client of one proxy"
        );
        assert_ne!(key("10.0.0.1:0", ""), key("10.0.0.1:0", "sp_x"));
        assert_ne!(
            key("10.0.0.1:0", ""),
            key_in("bio", "10.0.0.1:0", ""),
            "another host of one connection"
        );
        let other = Ask {
            affinity: Some(Affinity::new(1)),
            ..ask("", "10.0.0.1:0", "")
        };
        assert_ne!(
            key("10.0.0.1:0", ""),
            Key::of(&other),
            "another browser behind one address"
        );
    }
}
