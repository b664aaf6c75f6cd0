//! Which holds were given here: one for a source and one for an account, so many in all, and none twice in a row.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_cluster::Moment;
use sallyport_ops::source::Source;
use sallyport_wire::NodeName;

/// A hold that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) server: NodeName,
    pub(super) account: String,
    pub(super) source: Source,
    pub(super) id: String,
}

/// The holds, the oldest first.
#[derive(Debug)]
pub(super) struct Ledger {
    most: usize,
    lasts: Duration,
    given: Mutex<VecDeque<(Given, Moment)>>,
}

impl Ledger {
    /// For at most `most` holds at once, each of which lasts so long.
    pub(super) fn new(most: usize, lasts: Duration) -> Self {
        Self {
            most,
            lasts,
            given: Mutex::default(),
        }
    }

    /// Whether this source had a hold of this server that came to nothing, so that it is the turn of others: for as long as
    /// the hold had lasted.
    pub(super) fn is_spent(&self, server: &NodeName, source: Source) -> bool {
        let given = self.given();
        let now = Moment::now();
        given.iter().any(|(given, until)| {
            given.server == *server && given.source == source && *until <= now
        })
    }

    /// Notes a hold, and says which it takes the place of: of the same source or account, and the oldest of too many.
    pub(super) fn note(&self, new: Given) -> Vec<Given> {
        let now = Moment::now();
        let mut given = self.given();
        let mut over = Vec::new();
        for (other, until) in given.iter_mut().filter(|(_, until)| *until > now) {
            if other.source == new.source || other.account == new.account {
                over.push(other.clone());
                *until = now;
            }
        }
        given.push_back((new, now.after(self.lasts)));
        while given.len() > self.most {
            let oldest = given.pop_front().filter(|(_, until)| *until > now);
            over.extend(oldest.map(|(oldest, _)| oldest));
        }
        over
    }

    /// A hold was let go before its time.
    pub(super) fn end(&self, id: &str) {
        let now = Moment::now();
        let mut given = self.given();
        for (_, until) in given.iter_mut().filter(|(given, _)| given.id == id) {
            *until = now.min(*until);
        }
    }

    /// A hold has led to a login.
    pub(super) fn forget(&self, id: &str) {
        self.given().retain(|(given, _)| given.id != id);
    }

    fn given(&self) -> MutexGuard<'_, VecDeque<(Given, Moment)>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Moment::now();
        given.retain(|(_, until)| until.after(self.lasts) > now);
        given
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::advance;

    use super::*;

    const LASTS: Duration = Duration::from_secs(60);

    fn given(server: &str, account: &str, source: [u8; 4]) -> Given {
        Given {
            server: server.parse().expect("a name"),
            account: account.to_owned(),
            source: Source::of(IpAddr::from(source)),
            id: format!("{server}-{account}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_and_an_account_have_one_each() {
        let ledger = Ledger::new(8, LASTS);
        let first = given("n1", "ann", [10, 0, 0, 1]);
        assert_eq!(ledger.note(first.clone()), []);
        let by_source = given("n2", "bob", [10, 0, 0, 1]);
        assert_eq!(ledger.note(by_source.clone()), [first]);
        let by_account = given("n3", "bob", [10, 0, 0, 2]);
        assert_eq!(ledger.note(by_account), [by_source]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_too_many_goes() {
        let ledger = Ledger::new(2, LASTS);
        let oldest = given("n1", "a", [10, 0, 0, 1]);
        assert_eq!(ledger.note(oldest.clone()), []);
        assert_eq!(ledger.note(given("n2", "b", [10, 0, 0, 2])), []);
        assert_eq!(ledger.note(given("n3", "c", [10, 0, 0, 3])), [oldest]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_held_a_server_for_nothing_lets_others_try() {
        let ledger = Ledger::new(8, LASTS);
        let first = given("n1", "ann", [10, 0, 0, 1]);
        let (server, source) = (first.server.clone(), first.source);
        ledger.note(first);
        assert!(!ledger.is_spent(&server, source), "it still has it");
        advance(LASTS).await;
        assert!(ledger.is_spent(&server, source));
        assert!(!ledger.is_spent(&"n2".parse().expect("a name"), source));
        advance(LASTS).await;
        assert!(!ledger.is_spent(&server, source));
    }
}
