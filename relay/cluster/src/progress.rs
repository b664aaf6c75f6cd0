//! How far the way to a broker was gone.

use std::fmt;

use futures::{Stream, stream};
use serde::Serialize;
use tokio::sync::watch;

/// The steps to a broker, in the order in which they are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The host's name has an address.
    Dns,
    /// The broker's port takes connections and speaks the broker's protocol.
    Tcp,
    /// Its certificate is believed, and ours by it.
    Tls,
    /// It lets our user in.
    Credentials,
    /// It keeps values (NATS: JetStream is on, and has a leader; Redis: it is no replica).
    Storage,
    /// The cluster's own place in it is there, or could be made.
    Namespace,
}

impl Step {
    /// All steps in their order.
    pub const ALL: [Self; 6] = [
        Self::Dns,
        Self::Tcp,
        Self::Tls,
        Self::Credentials,
        Self::Storage,
        Self::Namespace,
    ];

    /// What status and doctor call it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Credentials => "credentials",
            Self::Storage => "storage",
            Self::Namespace => "namespace",
        }
    }
}

/// Where the way to a broker ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host}: {step}: {cause}")]
pub struct Failing {
    /// The host and port that were tried last.
    pub host: String,
    /// The step that fails.
    pub step: Step,
    /// Why.
    pub cause: String,
}

/// Whether store and bus can be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The first try is under way.
    Connecting,
    /// A step fails; it is tried again and again.
    Failing(Failing),
    /// They can be used.
    Ready,
}

/// The progress that `of` finds in a state, now and whenever it is another one.
pub(crate) fn changes_of<S: Send + Sync + 'static>(
    state: watch::Receiver<S>,
    of: fn(&S) -> Progress,
) -> impl Stream<Item = Progress> + Send + 'static {
    stream::unfold((state, None), move |(mut state, mut last)| async move {
        loop {
            let now = of(&state.borrow_and_update());
            if last.as_ref() != Some(&now) {
                last = Some(now.clone());
                return Some((now, (state, last)));
            }
            state.changed().await.ok()?;
        }
    })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Failing(failing) => failing.fmt(f),
            Self::Ready => f.write_str("ready"),
        }
    }
}
