//! What waits, and in which order.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use sallyport_wire::NodeName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest text for people, in characters.
const MAX_REASON: usize = 300;

/// Something that waits for a server, as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// Its own name.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// What is to be started.
    pub what: Value,
    /// Since when it waits, in milliseconds since 1970 by the clock of the relay that took it.
    pub since: u64,
    /// What it does.
    pub state: State,
    /// Why it waits or is held, for people to read.
    pub reason: String,
    /// How often its start was tried.
    pub attempts: u32,
}

/// What something that waits does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Its turn comes.
    Waiting,
    /// It is left out until it is released.
    Held,
    /// It is being started.
    #[serde(rename_all = "camelCase")]
    Starting {
        /// Where.
        server: NodeName,
        /// The fencing token of the relay that does it.
        token: u64,
    },
}

impl Ticket {
    /// One that begins to wait now.
    pub(super) fn new(id: String, user: String, what: Value, reason: &str) -> Self {
        Self {
            id,
            user,
            what,
            since: now(),
            state: State::Waiting,
            reason: shown(reason),
            attempts: 0,
        }
    }

    /// The same, with what it does now and why.
    pub(super) fn with(mut self, state: State, reason: &str) -> Self {
        self.state = state;
        self.reason = shown(reason);
        self
    }

    /// The same, once more tried.
    pub(super) const fn tried(mut self) -> Self {
        self.attempts = self.attempts.saturating_add(1);
        self
    }

    /// Whether it has waited for longer than that.
    pub(super) fn is_older_than(&self, most: Duration) -> bool {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        now().saturating_sub(self.since) > most
    }

    const fn arrival(&self) -> (u64, &String) {
        (self.since, &self.id)
    }
}

/// Those that wait, in the order in which they are started: everybody's first by arrival, then everybody's second, and so
/// on. Whoever queues much waits behind those who queue little.
pub(super) fn in_turn<'t>(tickets: impl Iterator<Item = &'t Ticket>) -> Vec<&'t Ticket> {
    let mut waiting: Vec<_> = tickets
        .filter(|ticket| ticket.state == State::Waiting)
        .collect();
    waiting.sort_unstable_by_key(|ticket| ticket.arrival());
    let mut turns: HashMap<&str, usize> = HashMap::new();
    let mut turned: Vec<_> = waiting
        .into_iter()
        .map(|ticket| {
            let turn = turns.entry(&ticket.user).or_default();
            *turn = turn.saturating_add(1);
            (*turn, ticket)
        })
        .collect();
    turned.sort_by_key(|(turn, _)| *turn);
    turned.into_iter().map(|(_, ticket)| ticket).collect()
}

/// What a program said, cut and without control characters.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(MAX_REASON).collect();
    cut.escape_debug().to_string()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(user: &str, since: u64) -> Ticket {
        let ticket = Ticket::new(format!("{since:03}"), user.to_owned(), Value::Null, "");
        Ticket { since, ..ticket }
    }

    #[test]
    fn everybody_is_first_once_before_anybody_is_second() {
        let mut tickets = vec![
            ticket("bob", 5),
            ticket("ann", 1),
            ticket("ann", 2),
            ticket("ann", 3),
            ticket("eve", 4),
            ticket("bob", 6),
        ];
        tickets.push(ticket("zoe", 0).with(State::Held, "held"));

        let turns: Vec<_> = in_turn(tickets.iter())
            .into_iter()
            .map(|ticket| (ticket.user.as_str(), ticket.since))
            .collect();

        let expected = [
            ("ann", 1),
            ("eve", 4),
            ("bob", 5),
            ("ann", 2),
            ("bob", 6),
            ("ann", 3),
        ];
        assert_eq!(turns, expected);
    }

    #[test]
    fn a_reason_is_a_short_line() {
        let reason = format!("\u{1b}[2J\n{}", "x".repeat(1000));
        let ticket = ticket("ann", 1).with(State::Held, &reason);
        assert!(ticket.reason.len() < 400 && !ticket.reason.contains(['\u{1b}', '\n']));
    }
}
