//! What waits for a server: followed in the store, shown, and changed by command; and which relay of all runs it.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use sallyport_cluster::global::{Applied, QUEUE_SETTING, SETTINGS};
use sallyport_cluster::{Cluster, Election, NotAKey, Seat};
use sallyport_link::ClusterKeys;
use sallyport_ops::{Admin, AdminError, AdminRequest, Tasks};
use sallyport_placement::queue::{Limits, Placed, Queue, QueueError, State, Ticket};
use sallyport_placement::reservations::Reservations;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, info_span};

use crate::config::Config;
use crate::credentials::signing;
use crate::global::{Global, moment, seal};
use crate::outfit::Outfit;

/// `POST` of an [`Order`]. What waits is nobody's business but its user's and the administrator's, so it is not read at the
/// loopback address.
pub const QUEUE: &str = "/queue";

/// A relay that ends without a word is followed after so long.
const TERM: Duration = Duration::from_secs(10);

/// How often the one relay takes away what others have left behind.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The queue of the cluster, and who runs it. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Line {
    queue: Queue,
    /// Who runs it, where this relay stands for it.
    seat: Option<watch::Receiver<Seat>>,
}

/// What is asked of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Order {
    /// Show what waits.
    List,
    /// Leave it out until it is released.
    Hold(String),
    /// Let it wait again.
    Release(String),
    /// Take it out for good.
    Cancel(String),
}

impl Line {
    /// The queue of this relay's cluster. Each relay that observes the others stands for running it.
    ///
    /// # Errors
    /// [`NotAKey`], which no name of a node can cause.
    pub fn open(
        config: &Config,
        cluster: &Cluster,
        global: &Global,
        keys: &watch::Receiver<Arc<ClusterKeys>>,
        tasks: &Tasks,
    ) -> Result<Self, NotAKey> {
        let queue = Queue::new(cluster.store(), seal(cluster.is_shared(), &keys.borrow()))?;
        tasks.spawn(
            info_span!("queue"),
            keep_signing(queue.clone(), keys.clone()),
        );
        tasks.spawn(
            info_span!("queue"),
            keep_limits(queue.clone(), global.changes()),
        );
        if config.observe || !cluster.is_shared() {
            queue.follow(tasks);
        }
        Ok(Self { queue, seat: None })
    }

    /// Stands for running the queue until the relay ends. Whoever runs it also takes away what relays that are gone have
    /// reserved.
    ///
    /// # Errors
    /// [`NotAKey`], which no name of a node can cause.
    pub fn stand(
        &mut self,
        cluster: &Cluster,
        outfit: &Outfit,
        reservations: Reservations,
        tasks: &Tasks,
    ) -> Result<(), NotAKey> {
        let (seats, node) = ("seats".parse()?, outfit.person.node.as_str());
        let election = Election::new(cluster.store(), &seats, "queue", node, TERM)?;
        let seat = election.seat();
        let leaving = outfit.leaving.clone();
        tasks.spawn(
            info_span!("seat"),
            election.stand(leaving.cancelled_owned()),
        );
        tasks.spawn(info_span!("seat"), keep_tidy(seat.clone(), reservations));
        self.seat = Some(seat);
        Ok(())
    }

    /// Which relay runs the queue, for status; null where this one does not know.
    #[must_use]
    pub fn run_by(&self, own: &str) -> Value {
        let seat = self.seat.as_ref().map(|seat| seat.borrow().clone());
        match seat {
            Some(Seat::Own(term)) if term.is_held() => json!(own),
            Some(Seat::Other(name)) => json!(name),
            Some(Seat::Own(_) | Seat::Unknown) | None => Value::Null,
        }
    }

    /// Adds `POST /queue`.
    #[must_use]
    pub fn route(&self, admin: Admin) -> Admin {
        let queue = self.queue.clone();
        admin.route(Method::POST, QUEUE, move |request| {
            let queue = queue.clone();
            Box::pin(async move { obey(&queue, request).await })
        })
    }
}

async fn keep_signing(queue: Queue, mut keys: watch::Receiver<Arc<ClusterKeys>>) {
    while keys.changed().await.is_ok() {
        queue.rotate(&signing(&keys.borrow_and_update()));
    }
}

/// How much may wait is the cluster's: relays with limits of their own would refuse one user here and take him there.
async fn keep_limits(queue: Queue, mut epochs: watch::Receiver<Option<Applied>>) {
    loop {
        let limits = limits(epochs.borrow_and_update().as_ref());
        queue.limit(limits);
        if epochs.changed().await.is_err() {
            return;
        }
    }
}

fn limits(applied: Option<&Applied>) -> Limits {
    let (name, all, per_user) = QUEUE_SETTING;
    let setting = applied.and_then(|applied| applied.bundle.object(SETTINGS, name));
    let number = |field: &str, default: usize| {
        let value = setting.and_then(|setting| setting.get(field)?.as_u64());
        let value = value.and_then(|value| usize::try_from(value).ok());
        value.unwrap_or(default)
    };
    let default = Limits::default();
    Limits {
        all: number(all, default.all),
        per_user: number(per_user, default.per_user),
    }
}

async fn keep_tidy(seat: watch::Receiver<Seat>, reservations: Reservations) {
    loop {
        sleep(SWEEP_EVERY).await;
        let runs = matches!(*seat.borrow(), Seat::Own(term) if term.is_held());
        if !runs {
            continue;
        }
        match reservations.sweep().await {
            Ok(0) => {}
            Ok(swept) => info!(swept, "reservations that nobody kept up were taken away"),
            Err(error) => debug!(%error, "reservations cannot be swept now"),
        }
    }
}

async fn list(queue: &Queue) -> Result<Value, AdminError> {
    let waiting = queue.list().await.map_err(|error| refusal(&error))?;
    Ok(waiting.iter().map(show).collect())
}

fn show(placed: &Placed) -> Value {
    let mut shown = show_ticket(&placed.ticket);
    shown["position"] = json!(placed.position);
    shown
}

fn show_ticket(ticket: &Ticket) -> Value {
    let (state, server) = match &ticket.state {
        State::Waiting => ("waiting", None),
        State::Held => ("held", None),
        State::Starting { server, .. } => ("starting", Some(server)),
    };
    json!({
        "id": ticket.id,
        "user": ticket.user,
        "state": state,
        "server": server,
        "since": moment(ticket.since),
        "reason": ticket.reason,
        "attempts": ticket.attempts,
        "what": ticket.what,
    })
}

async fn obey(queue: &Queue, request: AdminRequest) -> Result<Value, AdminError> {
    let order = serde_json::from_value::<Order>(request.body.unwrap_or_default());
    let order = order.map_err(|error| AdminError::bad_request(error.to_string()))?;
    let done = match &order {
        Order::List => return list(queue).await,
        Order::Hold(id) => queue.hold(id).await,
        Order::Release(id) => queue.release(id).await,
        Order::Cancel(id) => queue.cancel(id).await,
    };
    done.map(|ticket| show_ticket(&ticket))
        .map_err(|error| refusal(&error))
}

fn refusal(error: &QueueError) -> AdminError {
    let status = match error {
        QueueError::NoTicket(_) => StatusCode::NOT_FOUND,
        QueueError::Starting { .. } | QueueError::Busy => StatusCode::CONFLICT,
        QueueError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        QueueError::Full(_)
        | QueueError::FullForUser(_)
        | QueueError::TooLarge(_)
        | QueueError::User => StatusCode::BAD_REQUEST,
        QueueError::NoKey | QueueError::Distrusted(_) | QueueError::Key(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    AdminError::new(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use sallyport_cluster::global::Bundle;

    use super::*;

    fn applied(queue: &Value) -> Result<Applied, String> {
        let bundle = json!({ "format": "sallyport-config/1", "objects": { "settings": { "queue": queue } } });
        let bundle = Bundle::from_value(bundle).map_err(|error| error.to_string())?;
        Ok(Applied {
            epoch: 1,
            sha256: String::new(),
            bundle: Arc::new(bundle),
        })
    }

    #[test]
    fn how_much_may_wait_is_a_setting_of_the_cluster() {
        assert_eq!(limits(None), Limits::default());
        let given = applied(&json!({ "limit": 7, "per_user": 2 })).expect("good");
        let expected = Limits {
            all: 7,
            per_user: 2,
        };
        assert_eq!(limits(Some(&given)), expected);
        for wrong in [
            json!({ "limit": 7 }),
            json!({ "limit": 10_001, "per_user": 2 }),
        ] {
            let said = applied(&wrong).expect_err("refused");
            assert!(said.contains("settings/queue"), "{said}");
        }
    }
}
