//! The last traces, as many as there is room for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sallyport_scripts::Server;

use crate::trace::Trace;

/// What is kept of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Most traces.
    pub traces: usize,
    /// Most bytes of all of them; a server that several have counts once.
    pub bytes: usize,
}

/// The last traces.
#[derive(Debug)]
pub struct Traces {
    room: Room,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The newest last, each with the bytes that are its own.
    traces: VecDeque<(Arc<Trace>, usize)>,
    /// Servers by the address of their `Arc`, which lives as long as a trace has it, and how many lists have each.
    servers: HashMap<usize, (usize, usize)>,
    bytes: usize,
}

impl Traces {
    /// None yet.
    #[must_use]
    pub fn new(room: Room) -> Self {
        Self {
            room,
            kept: Mutex::default(),
        }
    }

    /// Keeps one, in the place of the one with its id if there is one. Those that are too many or too large go.
    pub fn keep(&self, trace: Arc<Trace>) {
        let mut kept = self.kept();
        let same = |(known, _): &(Arc<Trace>, usize)| known.id == trace.id;
        let place = kept.traces.iter().rposition(same);
        if let Some(known) = place.and_then(|place| kept.traces.remove(place)) {
            kept.release(&known);
        }
        kept.add(trace);
        while kept.traces.len() > self.room.traces || kept.bytes > self.room.bytes {
            let Some(oldest) = kept.traces.pop_front() else {
                return;
            };
            kept.release(&oldest);
        }
    }

    /// The one with this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Trace>> {
        let kept = self.kept();
        let mut newest = kept.traces.iter().rev().map(|(trace, _)| trace);
        newest.find(|trace| trace.id == id).map(Arc::clone)
    }

    /// The newest, at most so many, the newest first.
    #[must_use]
    pub fn newest(&self, most: usize) -> Vec<Arc<Trace>> {
        let kept = self.kept();
        let newest = kept.traces.iter().rev().map(|(trace, _)| trace);
        newest.take(most).map(Arc::clone).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, trace: Arc<Trace>) {
        let own = trace.own_bytes();
        self.bytes = self.bytes.saturating_add(own);
        for server in servers(&trace) {
            let size = server.json().len();
            let (lists, _) = self.servers.entry(address(server)).or_insert((0, size));
            if *lists == 0 {
                self.bytes = self.bytes.saturating_add(size);
            }
            *lists = lists.saturating_add(1);
        }
        self.traces.push_back((trace, own));
    }

    fn release(&mut self, (trace, own): &(Arc<Trace>, usize)) {
        self.bytes = self.bytes.saturating_sub(*own);
        for server in servers(trace) {
            let address = address(server);
            let Some((lists, size)) = self.servers.get_mut(&address) else {
                continue;
            };
            *lists = lists.saturating_sub(1);
            if *lists == 0 {
                self.bytes = self.bytes.saturating_sub(*size);
                self.servers.remove(&address);
            }
        }
    }
}

fn servers(trace: &Trace) -> impl Iterator<Item = &Arc<Server>> {
    trace.attempts.iter().flat_map(|attempt| &attempt.servers)
}

fn address(server: &Arc<Server>) -> usize {
    Arc::as_ptr(server).addr()
}

#[cfg(test)]
mod tests {
    use sallyport_scripts::Moment;
    use serde_json::json;

    use super::*;
    use crate::chain::OnScriptFailure;
    use crate::request::{Action, Request};
    use crate::trace::{Attempt, Verdict};

    fn trace(id: &str, servers: &[Arc<Server>]) -> Arc<Trace> {
        let attempt = Attempt {
            moment: Moment { now: 0, seed: 0 },
            servers: servers.to_vec(),
            dropped: Vec::new(),
            stale: false,
            repeated: 0,
            steps: Vec::new(),
            verdict: Verdict::Error {
                user: String::new(),
                log: String::new(),
            },
            took_us: 0,
            failed: None,
        };
        Arc::new(Trace {
            id: id.to_owned(),
            time: 0,
            node: "n1".to_owned(),
            dry_run: false,
            request: Request::new(Action::Start),
            epoch: 0,
            on_script_failure: OnScriptFailure::Error,
            chain: Vec::new(),
            attempts: vec![attempt],
        })
    }

    fn server(bytes: usize) -> Arc<Server> {
        Arc::new(Server::new("n1", &json!({ "fill": "x".repeat(bytes) })))
    }

    fn ids(traces: &Traces) -> Vec<String> {
        let newest = traces.newest(usize::MAX);
        newest.iter().map(|trace| trace.id.clone()).collect()
    }

    #[test]
    fn the_last_ones_are_kept_and_one_is_replaced_by_what_became_of_it() {
        let traces = Traces::new(Room {
            traces: 3,
            bytes: usize::MAX,
        });
        for id in ["a", "b", "c", "d", "b"] {
            traces.keep(trace(id, &[]));
        }
        assert_eq!(ids(&traces), ["b", "d", "c"]);
        assert_eq!(traces.newest(1).len(), 1);
        assert!(traces.find("d").is_some() && traces.find("a").is_none());
        traces.keep(trace("e", &[]));
        assert_eq!(ids(&traces), ["e", "b", "d"]);
    }

    #[test]
    fn a_server_counts_once_and_as_long_as_a_trace_has_it() {
        let traces = Traces::new(Room {
            traces: 100,
            bytes: 25_000,
        });
        let shared = server(10_000);
        for number in 0..20 {
            traces.keep(trace(&number.to_string(), &[Arc::clone(&shared)]));
        }
        assert_eq!(ids(&traces).len(), 20, "they share one");
        for id in ["x", "y"] {
            traces.keep(trace(id, &[server(12_000)]));
        }
        assert_eq!(
            ids(&traces),
            ["y", "x"],
            "the shared one had to go, and so did all that had it"
        );
        traces.keep(trace("z", &[server(30_000)]));
        assert_eq!(
            ids(&traces),
            [""; 0],
            "larger than all that there is room for"
        );
        assert_eq!(traces.kept().bytes, 0);
    }

    #[test]
    fn none_is_kept_where_there_is_room_for_none() {
        let traces = Traces::new(Room {
            traces: 0,
            bytes: usize::MAX,
        });
        traces.keep(trace("a", &[]));
        assert_eq!(ids(&traces), [""; 0]);
    }
}
