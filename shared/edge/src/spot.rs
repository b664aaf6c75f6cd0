//! Where a session stands for a client: below which path, and at which member of a pool.

use http::HeaderMap;

use crate::affinity::{Affinity, Shown};
use crate::opener::Found;

/// Where a session stands for a client.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    prefix: Option<String>,
    affinity: Option<Affinity>,
    is_new: bool,
}

impl Spot {
    /// Where the client was before, by what it shows, or where nobody was. `prefix` is that of path mode.
    pub(crate) fn of(prefix: Option<String>, found: &Found, shown: &Shown) -> Self {
        let known = shown.below(prefix.as_deref());
        let affinity = found.by_cookie.then(|| known.or_else(Affinity::fresh));
        Self {
            prefix,
            affinity: affinity.flatten(),
            is_new: known.is_none(),
        }
    }

    /// The path below which it lives, where it shares an origin.
    pub(crate) fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// What keeps the client with one member of a pool.
    pub(crate) const fn affinity(&self) -> Option<Affinity> {
        self.affinity
    }

    /// Tells the client what brings it here again, unless it knows. To be called when the session's own cookies have
    /// been filtered.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(affinity) = self.affinity.filter(|_| self.is_new) {
            affinity.give(headers, self.prefix());
        }
    }
}
