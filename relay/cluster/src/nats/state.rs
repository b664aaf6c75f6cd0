//! What is known of the connection: who uses the store looks here, and is woken by what changes.

use std::sync::Arc;

use async_nats::{ClientError, ConnectErrorKind, Event, ServerError};
use sallyport_ops::paced::PacedCauses;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::session::Session;
use crate::progress::{Failing, Progress, Step};

/// One connection from its first try on.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Counts tries, so that the last words of one that failed are not taken for those of the next.
    pub(super) attempt: u64,
    pub(super) session: Option<Arc<Session>>,
    pub(super) connected: bool,
    /// Counts connections: what was heard on one may be incomplete on the next.
    pub(super) epoch: u64,
    /// Counts how often messages were dropped here, because somebody was too slow.
    pub(super) dropped: u64,
    /// Counts refusals, and the last one.
    pub(super) refusals: u64,
    pub(super) refused: Option<Arc<str>>,
    pub(super) failing: Option<Failing>,
    /// The server that this try goes to.
    pub(super) host: String,
    /// What is refused is so again and again: a line a minute says so.
    pub(super) told: Arc<PacedCauses>,
}

impl State {
    /// The session, if it can be used now.
    pub(super) fn usable(&self) -> Option<Arc<Session>> {
        self.session.clone().filter(|_| self.connected)
    }

    pub(super) fn progress(&self) -> Progress {
        match (&self.failing, self.usable()) {
            (_, Some(_)) => Progress::Ready,
            (Some(failing), None) => Progress::Failing(failing.clone()),
            (None, None) => Progress::Connecting,
        }
    }
}

/// Notes what the client tells of the connection that was begun as `attempt`.
pub(super) fn note(state: &watch::Sender<State>, attempt: u64, host: &str, event: Event) {
    state.send_if_modified(|state| state.attempt == attempt && state.learn(host, event));
}

impl State {
    /// Whether it changes anything.
    fn learn(&mut self, host: &str, event: Event) -> bool {
        match event {
            // of the first connection it may be told after its session is in use
            Event::Connected if self.connected => return false,
            Event::Connected => {
                if self.session.is_some() {
                    info!("the broker is back");
                }
                self.connected = true;
                self.epoch = self.epoch.saturating_add(1);
            }
            Event::Disconnected | Event::Closed => self.lost(host),
            Event::SlowConsumer(_) => self.dropped = self.dropped.saturating_add(1),
            Event::ServerError(ServerError::Other(text)) => self.refused_by(text),
            Event::ServerError(error) => self.fails(host, Step::Credentials, error.to_string()),
            Event::ClientError(ClientError::Other(kind)) => {
                let step = step_of(&kind);
                // what is known of a lost connection says more than that it could not be made
                if step == Step::Tcp && self.is_lost() {
                    return false;
                }
                self.fails(host, step, kind);
            }
            other @ (Event::LameDuckMode | Event::Draining | Event::ClientError(_)) => {
                debug!(event = %other, "the broker says");
                return false;
            }
        }
        true
    }

    fn lost(&mut self, host: &str) {
        if self.connected {
            warn!("the broker is away");
            self.connected = false;
            self.fails(host, Step::Tcp, "the connection was lost".to_owned());
        }
    }

    fn is_lost(&self) -> bool {
        let failing = self.failing.as_ref();
        !self.connected && failing.is_some_and(|failing| failing.step == Step::Tcp)
    }

    /// The server that was lost and does not take connections, as far as is known.
    pub(super) fn away(&self) -> Option<String> {
        let failing = self.failing.as_ref().filter(|_| self.is_lost());
        failing.map(|failing| failing.host.clone())
    }

    /// Notes why; true if that is news.
    pub(super) fn is_away_by(&mut self, cause: String) -> bool {
        let is_lost = self.is_lost();
        let failing = self.failing.as_mut().filter(|_| is_lost);
        let failing = failing.filter(|failing| failing.cause != cause);
        failing.map(|failing| failing.cause = cause).is_some()
    }

    fn fails(&mut self, host: &str, step: Step, cause: String) {
        self.failing = Some(Failing {
            host: host.to_owned(),
            step,
            cause,
        });
    }

    fn refused_by(&mut self, text: String) {
        if let Some(held_back) = self.told.pass(&text) {
            warn!(said = %text, held_back, "the broker refuses something");
        }
        self.refusals = self.refusals.saturating_add(1);
        self.refused = Some(text.into());
    }
}

/// While it connects again the client tells only the kind of what failed.
fn step_of(kind: &str) -> Step {
    let is = |known: ConnectErrorKind| known.to_string() == kind;
    if is(ConnectErrorKind::Dns) {
        Step::Dns
    } else if is(ConnectErrorKind::Tls) {
        Step::Tls
    } else if is(ConnectErrorKind::AuthorizationViolation) || is(ConnectErrorKind::Authentication) {
        Step::Credentials
    } else {
        Step::Tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_server_is_away_by_what_its_port_says() {
        let mut state = State::default();
        state.learn("n1:4222", Event::Connected);
        state.learn("n1:4222", Event::Disconnected);
        let cause = |state: &State| state.failing.clone().expect("it is away").cause;
        let again = |state: &mut State, kind: ConnectErrorKind| {
            let kind = ClientError::Other(kind.to_string());
            state.learn("n1:4222", Event::ClientError(kind))
        };

        assert!(!again(&mut state, ConnectErrorKind::Io));
        assert_eq!(state.away().as_deref(), Some("n1:4222"));
        assert!(state.is_away_by("refused".to_owned()) && !state.is_away_by("refused".to_owned()));
        assert!(!again(&mut state, ConnectErrorKind::TimedOut));
        assert_eq!(cause(&state), "refused");

        assert!(again(&mut state, ConnectErrorKind::Tls));
        assert_eq!(
            (state.away(), cause(&state)),
            (None, "TLS error".to_owned())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn each_refusal_counts_and_the_first_of_a_minute_is_told() {
        let mut state = State::default();
        let refused = "Permissions Violation for Publish to \"sallyport.nodes.n1\"";
        let event = || Event::ServerError(ServerError::Other(refused.to_owned()));

        for _ in 0..3 {
            assert!(state.learn("n1:4222", event()));
        }

        assert_eq!(state.refusals, 3);
        assert_eq!(state.refused.as_deref(), Some(refused));
        assert_eq!(state.told.pass(refused), None, "it was told");
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        assert_eq!(
            state.told.pass(refused),
            Some(3),
            "the two, and the one above"
        );
    }
}
