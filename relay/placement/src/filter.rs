//! Servers that no script gets to see for an action, and why.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sallyport_node::Server;
use sallyport_node::members::GONE_AFTER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::request::{Action, Request};
use crate::reservations::Occupied;

/// Nodes have so long to take a new configuration before they count as behind.
pub const CATCH_UP: Duration = Duration::from_secs(10);

/// What is known of the servers now.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// The servers, each once.
    pub servers: Vec<Known>,
    /// Whether the bus is away: this is the last state, and may be wrong by now.
    pub stale: bool,
}

/// A server, and when it was heard of last.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it said.
    pub server: Arc<Server>,
    /// When.
    pub heard: Instant,
}

/// Knows the servers.
pub trait Roster: fmt::Debug + Send + Sync {
    /// As they are now; none where the other nodes are not heard.
    fn look(&self) -> Option<Look>;
}

/// Why a server is not in the list that scripts get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "camelCase")]
pub enum Reason {
    /// Logins are switched off there.
    LoginOff,
    /// Starts are switched off there.
    StartOff,
    /// Starts are closed there now.
    StartClosed {
        /// Why.
        text: String,
    },
    /// It drains.
    Draining,
    /// Somebody else has it for himself.
    Reserved,
    /// It works with an old configuration.
    Behind {
        /// The epoch that it has.
        epoch: u64,
        /// The epoch that others have.
        newest: u64,
    },
    /// It was not heard of for too long.
    Gone,
    /// Its static data does not say what is required.
    Lacks {
        /// The key.
        key: String,
    },
    /// It has nothing that could do it.
    Unable,
    /// The action was tried there and failed.
    Failed {
        /// Why.
        text: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoginOff => f.write_str("logins are switched off there"),
            Self::StartOff => f.write_str("starts are switched off there"),
            Self::StartClosed { text } => write!(f, "no starts there now: {text}"),
            Self::Draining => f.write_str("it drains"),
            Self::Reserved => f.write_str("it is reserved for somebody else"),
            Self::Behind { epoch, newest } => {
                write!(
                    f,
                    "it works with epoch {epoch} of the configuration, others with {newest}"
                )
            }
            Self::Gone => f.write_str("it is not heard of any more"),
            Self::Lacks { key } => write!(f, "its static data lacks the required `{key}`"),
            Self::Unable => f.write_str("it has nothing for this"),
            Self::Failed { text } => write!(f, "it failed there: {text}"),
        }
    }
}

/// What servers are held against for one decision.
#[derive(Debug)]
pub struct Filter<'r> {
    /// What is asked for.
    pub request: &'r Request,
    /// Where it was tried before, and why that failed.
    pub failed: &'r BTreeMap<String, String>,
    /// The servers that somebody has, or is about to have.
    pub occupied: &'r Occupied,
    /// The epoch that a server has at least.
    pub epoch: u64,
    /// Whether everything is the last state that was heard of.
    pub stale: bool,
}

impl Filter<'_> {
    /// Why scripts do not see a server; none if they do.
    #[must_use]
    pub fn drops(&self, known: &Known, now: Instant) -> Option<Reason> {
        let server = known.server.as_ref();
        let id = server.server_id.as_str();
        if let Some(text) = self.failed.get(id) {
            let text = text.clone();
            return Some(Reason::Failed { text });
        }
        let among = self.request.among.as_ref();
        if among.is_some_and(|among| !among.contains(id)) {
            return Some(Reason::Unable);
        }
        // while the bus is away nobody can be heard
        if !self.stale && now.saturating_duration_since(known.heard) > GONE_AFTER {
            return Some(Reason::Gone);
        }
        let dropped = self.disabled(server);
        dropped.or_else(|| self.lacks(server))
    }

    fn disabled(&self, server: &Server) -> Option<Reason> {
        let reason = match self.request.action {
            Action::Login if !server.login_enabled => Reason::LoginOff,
            Action::Start if !server.start_enabled => match &server.start_closed {
                Some(text) => Reason::StartClosed { text: text.clone() },
                None => Reason::StartOff,
            },
            Action::Login | Action::Start if server.draining => Reason::Draining,
            Action::Login if self.is_reserved(server) => Reason::Reserved,
            Action::Login | Action::Start if server.config_epoch < self.epoch => Reason::Behind {
                epoch: server.config_epoch,
                newest: self.epoch,
            },
            Action::Login | Action::Start => return None,
        };
        Some(reason)
    }

    fn is_reserved(&self, server: &Server) -> bool {
        let id = server.server_id.as_str();
        if self.request.held.contains(id) {
            return false;
        }
        // what is known of it here is newer than what it said last
        let occupation = self.occupied.get(&server.server_id);
        match occupation.filter(|_| server.reservable) {
            Some(occupation) => occupation.closes_to(self.request.login()),
            None => server.usage.reserved || self.request.reserved.contains(id),
        }
    }

    fn lacks(&self, server: &Server) -> Option<Reason> {
        let says = |key: &str, wanted: &Value| match server.static_data.get(key) {
            Some(Value::Array(list)) => list.contains(wanted),
            said => said == Some(wanted),
        };
        let required = &self.request.requires;
        let mut lacking = required.iter().filter(|(key, wanted)| !says(key, wanted));
        let (key, _) = lacking.next()?;
        Some(Reason::Lacks { key: key.clone() })
    }
}

/// Which epoch a server must have: the newest that others have had for a while.
#[derive(Debug, Default)]
pub struct Epochs {
    /// The epoch that is asked for.
    settled: u64,
    /// A newer one, and since when somebody has it.
    coming: Option<(u64, Instant)>,
}

impl Epochs {
    /// The least epoch of a server, where `newest` is the one that this node accepted last, at the time `now`. What other nodes
    /// say that they have is not believed: one could shut out all others.
    pub fn least(&mut self, newest: u64, now: Instant) -> u64 {
        self.settled = self.settled.min(newest);
        match self.coming {
            Some((epoch, since)) if now.saturating_duration_since(since) >= CATCH_UP => {
                self.settled = epoch;
                self.coming = (newest > epoch).then_some((newest, now));
            }
            None if newest > self.settled => self.coming = Some((newest, now)),
            Some(_) | None => {}
        }
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reservations::Occupation;

    fn server(more: &Value) -> Known {
        let mut server = json!({
            "serverId": "n1", "generation": 1, "loginEnabled": true, "startEnabled": true, "reservable": false,
            "version": "1", "lastUpdate": 0, "configEpoch": 7,
            "staticData": { "group": "render", "software": ["maya", "nuke"] },
        });
        if let (Value::Object(server), Value::Object(more)) = (&mut server, more) {
            server.extend(more.clone());
        }
        Known {
            server: Arc::new(serde_json::from_value(server).expect("a server")),
            heard: Instant::now(),
        }
    }

    fn dropped(request: &Request, more: &Value) -> Option<Reason> {
        let filter = Filter {
            request,
            failed: &BTreeMap::new(),
            occupied: &Occupied::new(),
            epoch: 7,
            stale: false,
        };
        filter.drops(&server(more), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_has_its_action() {
        let [login, start] = [Action::Login, Action::Start].map(Request::new);
        let closed = || Reason::StartClosed {
            text: "outside the start hours sat-sun".to_owned(),
        };
        let behind = || Reason::Behind {
            epoch: 6,
            newest: 7,
        };
        let closed_now =
            json!({ "startEnabled": false, "startClosed": "outside the start hours sat-sun" });
        for (more, at_login, at_start) in [
            (json!({}), None, None),
            (
                json!({ "loginEnabled": false }),
                Some(Reason::LoginOff),
                None,
            ),
            (
                json!({ "startEnabled": false }),
                None,
                Some(Reason::StartOff),
            ),
            (closed_now, None, Some(closed())),
            (
                json!({ "draining": true }),
                Some(Reason::Draining),
                Some(Reason::Draining),
            ),
            (json!({ "reserved": true }), Some(Reason::Reserved), None),
            (json!({ "configEpoch": 6 }), Some(behind()), Some(behind())),
            (json!({ "configEpoch": 8 }), None, None),
        ] {
            assert_eq!(dropped(&login, &more), at_login, "{more}");
            assert_eq!(dropped(&start, &more), at_start, "{more}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_caller_says_counts_too() {
        let mut request = Request::new(Action::Login);
        request.reserved = ["n1".to_owned()].into();
        assert_eq!(dropped(&request, &json!({})), Some(Reason::Reserved));
        request.held = ["n1".to_owned()].into();
        assert_eq!(dropped(&request, &json!({ "reserved": true })), None);

        request.among = Some(["n2".to_owned()].into());
        assert_eq!(dropped(&request, &json!({})), Some(Reason::Unable));

        let mut request = Request::new(Action::Start);
        let lacks = |key: &str| {
            Some(Reason::Lacks {
                key: key.to_owned(),
            })
        };
        for (requires, reason) in [
            (json!({ "group": "render", "software": "nuke" }), None),
            (json!({ "group": "physics" }), lacks("group")),
            (json!({ "software": "houdini" }), lacks("software")),
            (json!({ "gpu": true }), lacks("gpu")),
        ] {
            request.requires = serde_json::from_value(requires).expect("an object");
            assert_eq!(dropped(&request, &json!({})), reason);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_somebodys_is_there_for_nobody_else() {
        let holder = Occupation::Reserved {
            holder: "ada".to_owned(),
            token: 1,
            since: 0,
            logins: ["l1".to_owned()].into(),
        };
        let occupied = [("n1".parse().expect("a name"), holder)].into();
        let dropped = |user: &str, more: &Value| {
            let mut request = Request::new(Action::Login);
            request.user.insert("login".to_owned(), json!(user));
            let filter = Filter {
                request: &request,
                failed: &BTreeMap::new(),
                occupied: &occupied,
                epoch: 0,
                stale: false,
            };
            filter.drops(&server(more), Instant::now())
        };
        // whether or not the server has said so yet
        for reserved in [true, false] {
            let more = json!({ "reservable": true, "reserved": reserved });
            assert_eq!(dropped("ada", &more), None);
            assert_eq!(dropped("eve", &more), Some(Reason::Reserved));
            assert_eq!(dropped("", &more), Some(Reason::Reserved));
        }
        assert_eq!(dropped("eve", &json!({ "reservable": false })), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_failed_or_is_gone_is_dropped_unless_nobody_can_be_heard() {
        let request = Request::new(Action::Start);
        let failed = [("n1".to_owned(), "no display".to_owned())].into();
        let occupied = Occupied::new();
        let filter = |failed, stale| Filter {
            request: &request,
            failed,
            occupied: &occupied,
            epoch: 0,
            stale,
        };
        let (none, known) = (BTreeMap::new(), server(&json!({})));
        let reason = filter(&failed, false).drops(&known, Instant::now());
        assert_eq!(
            reason.expect("dropped").to_string(),
            "it failed there: no display"
        );
        let later = known.heard + GONE_AFTER + Duration::from_millis(1);
        assert_eq!(
            filter(&none, false).drops(&known, later),
            Some(Reason::Gone)
        );
        assert_eq!(filter(&none, true).drops(&known, later), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_epoch_is_asked_for_once_nodes_had_time_to_take_it() {
        let (mut epochs, start) = (Epochs::default(), Instant::now());
        assert_eq!(epochs.least(3, start), 0);
        assert_eq!(epochs.least(4, start + CATCH_UP / 2), 0);
        assert_eq!(epochs.least(4, start + CATCH_UP), 3);
        assert_eq!(epochs.least(4, start + CATCH_UP * 3 / 2), 3);
        assert_eq!(epochs.least(4, start + CATCH_UP * 2), 4);
        // the store was made anew
        assert_eq!(epochs.least(3, start + CATCH_UP * 9), 3);
    }
}
