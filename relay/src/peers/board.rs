//! What status shows of peer tunnels. A tunnel's row goes with its [`Row`], however its task ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sallyport_link::{Admitted, Tunnel};
use sallyport_wire::NodeName;
use serde_json::{Value, json};

/// Which end of a tunnel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It dialled: it opens streams.
    Dialled,
    /// It answered: it serves them.
    Answered,
}

/// The peer tunnels that are up, and why others are not.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    rows: BTreeMap<u64, Shown>,
    failures: BTreeMap<NodeName, String>,
}

#[derive(Debug)]
struct Shown {
    who: Admitted,
    end: End,
    tunnel: Tunnel,
    kid: String,
    since: Instant,
}

impl Board {
    /// A tunnel came up; it is shown until the row is dropped.
    pub(super) fn up(&self, who: &Admitted, end: End, tunnel: &Tunnel, kid: &str) -> Row {
        let mut inner = self.lock();
        inner.failures.remove(&who.node);
        inner.last = inner.last.wrapping_add(1);
        let number = inner.last;
        let shown = Shown {
            who: who.clone(),
            end,
            tunnel: tunnel.clone(),
            kid: kid.to_owned(),
            since: Instant::now(),
        };
        inner.rows.insert(number, shown);
        Row {
            board: self.clone(),
            number,
        }
    }

    /// A dial failed; true if the cause is new.
    pub(super) fn failed(&self, node: &NodeName, cause: &str) -> bool {
        let before = self.lock().failures.insert(node.clone(), cause.to_owned());
        before.as_deref() != Some(cause)
    }

    /// A node is not known any more, so nobody is to mend the way to it.
    pub(super) fn left(&self, node: &NodeName) {
        self.lock().failures.remove(node);
    }

    /// Tunnels that this node answered, with who dialled.
    pub(super) fn answered(&self) -> Vec<(Admitted, Tunnel)> {
        let inner = self.lock();
        let answered = inner.rows.values().filter(|row| row.end == End::Answered);
        answered
            .map(|row| (row.who.clone(), row.tunnel.clone()))
            .collect()
    }

    /// Tunnels from and to a node.
    pub(super) fn of(&self, node: &NodeName) -> Vec<Tunnel> {
        let inner = self.lock();
        let of = inner.rows.values().filter(|row| row.who.node == *node);
        of.map(|row| row.tunnel.clone()).collect()
    }

    /// The nodes with a tunnel.
    pub(super) fn nodes(&self) -> BTreeSet<NodeName> {
        let inner = self.lock();
        let nodes = inner.rows.values().map(|row| row.who.node.clone());
        nodes.collect()
    }

    /// All of it, for status.
    pub(super) fn show(&self) -> Value {
        let inner = self.lock();
        let up = inner.rows.values().map(Shown::show);
        let failed = inner.failures.iter();
        let failed = failed.map(|(node, cause)| json!({ "node": node, "cause": cause }));
        Value::Array(up.chain(failed).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn show(&self) -> Value {
        let figures = self.tunnel.figures();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        json!({
            "node": self.who.node,
            "direction": match self.end {
                End::Dialled => "to",
                End::Answered => "from",
            },
            "remote": self.tunnel.remote().to_string(),
            "kid": self.kid,
            "version": self.who.software,
            "seconds": self.since.elapsed().as_secs(),
            "rtt_ms": figures.rtt.map(milliseconds),
            "streams": figures.streams,
            "sent": figures.sent,
            "received": figures.received,
        })
    }
}

/// A tunnel's place on the board; dropping it takes the tunnel off.
#[derive(Debug)]
pub(super) struct Row {
    board: Board,
    number: u64,
}

impl Row {
    /// This end shows another key.
    pub(super) fn key(&self, kid: &str) {
        if let Some(shown) = self.board.lock().rows.get_mut(&self.number) {
            kid.clone_into(&mut shown.kid);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let gone = self.board.lock().rows.remove(&self.number);
        drop(gone); // outside the lock, since it may close the tunnel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_shown_until_its_node_is_not_known_any_more() {
        let board = Board::default();
        let node: NodeName = "n1".parse().expect("a name");

        assert!(board.failed(&node, "refused") && !board.failed(&node, "refused"));
        assert_eq!(board.show(), json!([{ "node": "n1", "cause": "refused" }]));
        board.left(&node);
        assert_eq!(board.show(), json!([]));
    }
}
