//! The sessions of this node: which there are, and whether each is up. Only what `relay.toml` names is here,
//! so a stream can reach nothing else, whatever it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustls::ServerConfig;
use sallyport_link::GatewayUrl;
use sallyport_wire::{Code, SessionId};
use tokio::sync::watch;

use crate::config::SessionConfig;

/// One session of this node.
#[derive(Debug)]
pub struct Session {
    /// What the configuration says.
    pub config: SessionConfig,
    /// With what the relay ends its clients' TLS.
    pub tls: Option<Arc<ServerConfig>>,
    down: AtomicBool,
    served: AtomicU64,
}

impl Session {
    /// A session that counts as up until a check says otherwise.
    #[must_use]
    pub const fn new(config: SessionConfig, tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            config,
            tls,
            down: AtomicBool::new(false),
            served: AtomicU64::new(0),
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &SessionId {
        &self.config.id
    }

    /// Whether its health check fails just now.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Streams that it was given since the relay started.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Counts one more stream.
    pub fn count(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }
}

/// All sessions of this node.
#[derive(Debug)]
pub struct Sessions {
    by_id: BTreeMap<SessionId, Arc<Session>>,
    direct_url: Option<GatewayUrl>,
    draining: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Sessions {
    /// These sessions, their ids being unique.
    #[must_use]
    pub fn new(sessions: impl IntoIterator<Item = Session>) -> Self {
        let keyed = |session: Session| (session.id().clone(), Arc::new(session));
        let by_id = sessions.into_iter().map(keyed).collect();
        Self {
            by_id,
            direct_url: None,
            draining: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        }
    }

    /// With the URL at which clients reach them at this node itself.
    #[must_use]
    pub fn at(self, direct_url: Option<GatewayUrl>) -> Self {
        Self { direct_url, ..self }
    }

    /// The URL at which clients reach them at this node itself, if they do.
    #[must_use]
    pub const fn direct_url(&self) -> Option<&GatewayUrl> {
        self.direct_url.as_ref()
    }

    /// Where a session is: here, or nowhere.
    ///
    /// # Errors
    /// [`Code::UnknownSession`].
    pub fn locate(&self, id: &SessionId) -> Result<&Arc<Session>, Code> {
        self.by_id.get(id).ok_or(Code::UnknownSession)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_id.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Says whether a session is down; true if that is news.
    pub fn set_down(&self, session: &Session, down: bool) -> bool {
        self.tell(session.down.swap(down, Ordering::Relaxed) != down)
    }

    /// Whether the node drains: what may be had elsewhere is not offered any more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Says whether the node drains; true if that is news.
    pub fn set_draining(&self, draining: bool) -> bool {
        self.tell(self.draining.swap(draining, Ordering::Relaxed) != draining)
    }

    fn tell(&self, news: bool) -> bool {
        if news {
            self.changes
                .send_modify(|revision| *revision = revision.wrapping_add(1));
        }
        news
    }

    /// Tells of every change of what is to be advertised.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn only_configured_sessions_are_found_and_changes_are_told_once() {
        let text = "node = \"n\"\n[[session]]\nid = \"a\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:1\"\n";
        let config = Config::parse(text, Path::new("relay.toml")).expect("loads");
        let sessions = Sessions::new(config.sessions.into_iter().map(|s| Session::new(s, None)));
        let mut changes = sessions.changes();
        let a = sessions.locate(&"a".parse().expect("an id")).expect("here");

        assert!(sessions.locate(&"b".parse().expect("an id")).is_err());
        assert!(sessions.set_down(a, true) && !sessions.set_down(a, true));
        assert!(a.is_down() && changes.has_changed().expect("open"));
        changes.mark_unchanged();
        assert!(sessions.set_down(a, false));
        assert!(changes.has_changed().expect("open"));
    }
}
