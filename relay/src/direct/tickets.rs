//! One-time tickets: a client whom some node of the cluster let in enters a session at the session's own node.
//!
//! A ticket is a value signed with the cluster's keys for one session of one node's process, so that any node can make it and
//! only that process takes it, once: what the process before has taken is no ticket for this one. It lives so short that
//! whoever reads it in a log or a history has nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sallyport_cluster::{Claim, Distrust, Key, NotAKey, Signer, Verifier};
use sallyport_link::ClusterKeys;
use sallyport_wire::{NodeName, SessionId};
use tokio::sync::watch;

use crate::credentials::signing;

/// How long a ticket is good for.
pub const GOOD_FOR: Duration = Duration::from_secs(20);

/// By how much the clock of who made a ticket may be ahead of that of who takes it. With it no ticket lives for half a
/// minute.
const AHEAD: Duration = Duration::from_secs(5);

/// Longest ticket, in characters.
const MAX_TICKET: usize = 2_048;

/// Bytes that tell a ticket from all others.
const NUMBER: usize = 16;

/// Why no ticket was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTicket {
    /// Nothing to sign with.
    #[error(
        "there is no cluster key, which tickets are signed with: make one with `sallyport-relay cluster-key add`, or copy cluster-keys.json from another node"
    )]
    NoKey,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
    /// Names of a node and of a session always can be.
    #[error(transparent)]
    Place(#[from] NotAKey),
}

/// Why a ticket is not taken. It is for the log: whoever brings one hears the same in every case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("it is no ticket")]
    Malformed,
    #[error(transparent)]
    Distrusted(#[from] Distrust),
    #[error("it has expired")]
    Expired,
    #[error("it is from a time to come: the clock of the node that made it is ahead")]
    Ahead,
    #[error(
        "it was made for another session, or for this node before it was started again, or is altered"
    )]
    Elsewhere,
    #[error("it was used before")]
    Used,
    #[error("as many tickets were used lately as are remembered (limits.tickets)")]
    Full,
}

/// A ticket for `session` at the process `generation` of its `node`, made at `now`.
///
/// # Errors
/// [`NoTicket`].
pub fn make(
    keys: &ClusterKeys,
    (node, generation): (&NodeName, u64),
    session: &SessionId,
    now: SystemTime,
) -> Result<String, NoTicket> {
    let mut number = [0; NUMBER];
    rand::fill(&mut number).map_err(|_none| NoTicket::NoRandom)?;
    let claim = Claim {
        owner: node.to_string(),
        version: milliseconds(now),
        expires: now.checked_add(GOOD_FOR).unwrap_or(now),
    };
    let place = place((node, generation), session)?;
    let signed = Signer::new(signing(keys)).sign(&place, &claim, &number, now);
    let signed = signed.ok_or(NoTicket::NoKey)?;
    Ok(URL_SAFE_NO_PAD.encode(signed))
}

/// What a ticket is signed for: nothing else stands there.
fn place((node, generation): (&NodeName, u64), session: &SessionId) -> Result<Key, NotAKey> {
    format!("tickets/{node}/{generation}/{session}").parse()
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Takes tickets for the sessions of a node, each once.
#[derive(Debug)]
pub(super) struct Tickets {
    node: NodeName,
    generation: u64,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    most: usize,
    /// With the time from which on it is refused as expired.
    used: Mutex<HashMap<Bytes, SystemTime>>,
}

impl Tickets {
    /// For the sessions of the process `generation` of `node`; at most so many are remembered as used.
    pub(super) fn new(
        (node, generation): (NodeName, u64),
        keys: watch::Receiver<Arc<ClusterKeys>>,
        most: usize,
    ) -> Self {
        Self {
            node,
            generation,
            keys,
            most,
            used: Mutex::default(),
        }
    }

    /// Takes a ticket for `session` at `now`; the next time it is refused.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(super) fn take(
        &self,
        session: &SessionId,
        ticket: &str,
        now: SystemTime,
    ) -> Result<(), NotTaken> {
        if ticket.len() > MAX_TICKET {
            return Err(NotTaken::Malformed);
        }
        let signed = URL_SAFE_NO_PAD.decode(ticket);
        let signed = Bytes::from(signed.map_err(|_other| NotTaken::Malformed)?);
        let place = place((&self.node, self.generation), session);
        let place = place.map_err(|_none| NotTaken::Malformed)?;
        // what was used is remembered here, since a verifier believes the same value again
        let verifier = Verifier::new(signing(&self.keys.borrow())).for_at_most(GOOD_FOR);
        let verified = match verifier.verify(&place, self.node.as_str(), &signed, now) {
            Err(Distrust::Forged) => return Err(NotTaken::Elsewhere),
            verified => verified?,
        };
        let expires = self.lives(&verified.claim, now)?;
        self.use_up(verified.payload, expires, now)
    }

    /// When a ticket that is good at `now` is not any more. Who signs values for the cluster could forge longer ones; its
    /// clock could not.
    fn lives(&self, claim: &Claim, now: SystemTime) -> Result<SystemTime, NotTaken> {
        let made = Duration::from_millis(claim.version);
        let made = SystemTime::UNIX_EPOCH.checked_add(made);
        let made = made.ok_or(NotTaken::Malformed)?;
        if made > now.checked_add(AHEAD).unwrap_or(now) {
            return Err(NotTaken::Ahead);
        }
        let expires = made.checked_add(GOOD_FOR).unwrap_or(made);
        if now >= expires.min(claim.expires) {
            return Err(NotTaken::Expired);
        }
        Ok(expires)
    }

    fn use_up(&self, number: Bytes, expires: SystemTime, now: SystemTime) -> Result<(), NotTaken> {
        let mut used = self.used();
        if used.contains_key(&number) {
            return Err(NotTaken::Used);
        }
        if used.len() >= self.most {
            used.retain(|_, expires| now < *expires);
        }
        if used.len() >= self.most {
            return Err(NotTaken::Full);
        }
        used.insert(number, expires);
        Ok(())
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Bytes, SystemTime>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sallyport_link::Key as LinkKey;
    use sallyport_wire::Scope;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn keys() -> Arc<ClusterKeys> {
        let key = LinkKey::generate(Scope::default(), None).expect("random bytes");
        Arc::new(ClusterKeys { keys: vec![key] })
    }

    fn names() -> (NodeName, SessionId) {
        ("n1".parse().expect("a name"), "web".parse().expect("an id"))
    }

    struct Lab {
        keys: Arc<ClusterKeys>,
        tickets: Tickets,
        now: SystemTime,
    }

    fn lab(most: usize) -> Lab {
        let keys = keys();
        let now = SystemTime::now();
        let (_, watched) = watch::channel(Arc::clone(&keys));
        let tickets = Tickets::new((names().0, 7), watched, most);
        Lab { keys, tickets, now }
    }

    impl Lab {
        fn made(&self, at: SystemTime) -> String {
            let (node, session) = names();
            make(&self.keys, (&node, 7), &session, at).expect("a ticket")
        }

        fn take(&self, ticket: &str, at: SystemTime) -> Result<(), NotTaken> {
            self.tickets.take(&names().1, ticket, at)
        }
    }

    #[test]
    fn a_ticket_is_taken_once_and_for_a_short_while() {
        let lab = lab(10);
        let (now, end) = (lab.now, lab.now + GOOD_FOR);

        let ticket = lab.made(now);
        assert_eq!(lab.take(&ticket, now + SECOND), Ok(()));
        assert_eq!(lab.take(&ticket, now + SECOND), Err(NotTaken::Used));

        let ticket = lab.made(now);
        assert_eq!(lab.take(&ticket, end), Err(NotTaken::Expired));
        assert_eq!(lab.take(&ticket, end - SECOND), Ok(()));

        let ahead = lab.made(now + AHEAD + SECOND);
        assert_eq!(lab.take(&ahead, now), Err(NotTaken::Ahead));
        assert_eq!(lab.take(&ahead, now + SECOND), Ok(()));
    }

    #[test]
    fn it_is_for_one_session_of_one_node_and_of_this_cluster() {
        let lab = lab(10);
        let (node, session) = names();
        let made = |keys: &ClusterKeys, node: &NodeName, session: &SessionId| {
            make(keys, (node, 7), session, lab.now).expect("a ticket")
        };

        let other = made(&lab.keys, &node, &"desk".parse().expect("an id"));
        assert_eq!(lab.take(&other, lab.now), Err(NotTaken::Elsewhere));
        let elsewhere = made(&lab.keys, &"n2".parse().expect("a name"), &session);
        assert_eq!(lab.take(&elsewhere, lab.now), Err(NotTaken::Elsewhere));
        let foreign = lab.take(&made(&keys(), &node, &session), lab.now);
        assert!(
            matches!(foreign, Err(NotTaken::Distrusted(Distrust::UnknownKey(_)))),
            "{foreign:?}"
        );
        for none in ["", "x", "é", &"A".repeat(MAX_TICKET + 1)] {
            assert!(lab.take(none, lab.now).is_err(), "{none}");
        }
        assert_eq!(
            make(&ClusterKeys::default(), (&node, 7), &session, lab.now),
            Err(NoTicket::NoKey)
        );
    }

    #[test]
    fn what_was_made_for_the_process_before_is_refused() {
        let mut lab = lab(10);
        let ticket = lab.made(lab.now);
        lab.tickets.generation = 8;

        assert_eq!(lab.take(&ticket, lab.now), Err(NotTaken::Elsewhere));
    }

    #[test]
    fn used_ones_are_remembered_until_they_expire_and_no_more_than_so_many() {
        let lab = lab(2);
        for _ in 0..2 {
            assert_eq!(lab.take(&lab.made(lab.now), lab.now), Ok(()));
        }
        let third = lab.made(lab.now + SECOND);

        assert_eq!(lab.take(&third, lab.now + SECOND), Err(NotTaken::Full));
        assert_eq!(lab.take(&third, lab.now + GOOD_FOR), Ok(()));
    }
}
