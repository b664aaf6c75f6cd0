//! The drain of a node: begun and ended by command on that node, or on another one, which then asks it over the bus.

mod far;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use http::{Method, StatusCode};
use sallyport_node::members::Member;
use sallyport_node::{Drain, Settings};
use sallyport_ops::{Admin, AdminError, AdminRequest, Tasks, moment};
use sallyport_wire::NodeName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tracing::info;

use crate::local::{Local, body, change};
use crate::outfit::Outfit;
use crate::servers::Servers;

pub use far::{Far, NotDone};

/// `POST` of an [`Order`] to begin a drain.
pub const DRAIN: &str = "/drain";
/// `POST` of an [`Order`] to end a drain.
pub const UNDRAIN: &str = "/undrain";
/// `POST` of an [`Order`]: how the drain stands.
pub const LOOK: &str = "/drain/look";

/// Longest time that a drain may be given: a year.
pub const MOST_DRAIN: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Begins or ends a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The node that is meant.
    pub node: NodeName,
    /// Seconds until its users are to be gone; none for no deadline.
    #[serde(default)]
    pub within: Option<u64>,
}

/// What is asked of the node's drain, and what is left on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The node.
    pub node: NodeName,
    /// Whether it drains.
    pub draining: bool,
    /// Since when; none where another node is only heard.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// When its users are to be gone.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    /// Streams that are open.
    pub streams: u64,
}

/// What a node is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum What {
    /// To drain.
    Drain {
        /// See [`Order::within`].
        within: Option<u64>,
    },
    /// To drain no more.
    Undrain,
}

/// Drains this node, and asks others to.
#[derive(Debug, Clone)]
pub struct Drains {
    /// This node, and the others as far as they are heard.
    pub servers: Servers,
    /// Where a bus joins it to others.
    pub far: Option<Far>,
}

impl Drains {
    /// Does from now on what other nodes ask for.
    pub fn obey(&self, tasks: &Tasks) {
        let Some(far) = &self.far else {
            return;
        };
        let drains = self.clone();
        let done = move |what, by: String| {
            let drains = drains.clone();
            let doing = async move {
                let done = drains.here(what, &format!("from node {by}")).await;
                done.map_err(|error| error.to_string())
            };
            doing.boxed()
        };
        far.obey(Arc::new(done), tasks);
    }

    /// Adds the routes.
    #[must_use]
    pub fn routes(&self, admin: Admin) -> Admin {
        let (at_drain, at_undrain, at_look) = (self.clone(), self.clone(), self.clone());
        admin
            .route(Method::POST, DRAIN, move |request| {
                let drains = at_drain.clone();
                Box::pin(async move {
                    let Order { node, within } = body(&request)?;
                    drains.ordered(&node, What::Drain { within }).await
                })
            })
            .route(Method::POST, UNDRAIN, move |request| {
                let drains = at_undrain.clone();
                Box::pin(async move {
                    let Order { node, .. } = body(&request)?;
                    drains.ordered(&node, What::Undrain).await
                })
            })
            .route(Method::POST, LOOK, move |request| {
                let drains = at_look.clone();
                Box::pin(async move { drains.look(&request).await })
            })
    }

    async fn ordered(&self, node: &NodeName, what: What) -> Result<Value, AdminError> {
        if node == self.own() {
            return Ok(json!(self.here(what, "by command").await?));
        }
        let (far, other) = self.other(node).await?;
        let done = far.ask((node, other.server.generation), what).await;
        let drained = done.map_err(|error| refusal(node, &error))?;
        info!(%node, ?what, "another node was asked, and does it");
        Ok(json!(drained))
    }

    /// How the drain stands; that of another node as it said it last.
    async fn look(&self, request: &AdminRequest) -> Result<Value, AdminError> {
        let Order { node, .. } = body(request)?;
        if node == *self.own() {
            return Ok(json!(self.now()));
        }
        let (_, other) = self.other(&node).await?;
        let server = &other.server;
        let deadline = server.drain_deadline.and_then(|milliseconds| {
            let nanoseconds = i128::from(milliseconds).checked_mul(1_000_000)?;
            OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
        });
        Ok(json!(Drained {
            draining: server.draining,
            since: None,
            deadline,
            streams: server.usage.streams,
            node,
        }))
    }

    /// Another node that is heard.
    async fn other(&self, node: &NodeName) -> Result<(&Far, Member), AdminError> {
        let here = self.own();
        let Some(far) = &self.far else {
            let text = format!(
                "this is node {here}, and no broker joins it to others: run the command on node {node} itself"
            );
            return Err(AdminError::not_found(text));
        };
        let others = self.servers.others().await.into_iter();
        let other = others
            .into_iter()
            .find(|other| other.server.server_id == *node);
        other.map(|other| (far, other)).ok_or_else(|| {
            let text = format!(
                "this is node {here}, and no node {node} is heard: `sallyport-relay servers` lists those that are"
            );
            AdminError::not_found(text)
        })
    }

    async fn here(&self, what: What, by: &str) -> Result<Drained, AdminError> {
        match what {
            What::Drain { within } => begin(self.local(), within, by).await?,
            What::Undrain => {
                change(Arc::clone(self.local()), |settings| settings.drain = None).await?;
                info!(by, "the node drains no more");
            }
        }
        Ok(self.now())
    }

    fn now(&self) -> Drained {
        let drain = self.local().settings.now().drain;
        Drained {
            node: self.own().clone(),
            draining: drain.is_some(),
            since: drain.map(|drain| drain.since),
            deadline: drain.and_then(|drain| drain.deadline),
            streams: streams(self.outfit()),
        }
    }

    fn own(&self) -> &NodeName {
        &self.outfit().person.node
    }

    const fn outfit(&self) -> &Arc<Outfit> {
        &self.servers.describer.outfit
    }

    const fn local(&self) -> &Arc<Local> {
        &self.servers.describer.local
    }
}

/// Streams that are open on this node.
fn streams(outfit: &Outfit) -> u64 {
    u64::try_from(outfit.streams.ledger().len()).unwrap_or(u64::MAX)
}

async fn begin(local: &Arc<Local>, within: Option<u64>, by: &str) -> Result<(), AdminError> {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let deadline = match within.map(Duration::from_secs) {
        Some(within) if within > MOST_DRAIN => {
            let text = format!(
                "a deadline is at most {} hours away",
                MOST_DRAIN.as_secs() / 3600
            );
            return Err(AdminError::bad_request(text));
        }
        within => within.map(|within| now + within),
    };
    let begin = move |settings: &mut Settings| {
        let before = settings.drain;
        let since = before.map_or(now, |drain| drain.since);
        // what users were told holds until they are told something else, or it is over
        let told = before.and_then(|drain| drain.deadline);
        let told = told.filter(|told| *told > now);
        let deadline = deadline.or(told);
        settings.drain = Some(Drain { since, deadline });
    };
    let settings = change(Arc::clone(local), begin).await?;
    let deadline = settings.drain.and_then(|drain| drain.deadline);
    info!(
        by,
        deadline = deadline.map(moment::rfc3339),
        "the node drains: no new logins and no new sessions"
    );
    Ok(())
}

fn refusal(node: &NodeName, error: &NotDone) -> AdminError {
    let status = match error {
        NotDone::Silent(_) => StatusCode::GATEWAY_TIMEOUT,
        NotDone::Refused(_) => StatusCode::BAD_REQUEST,
        NotDone::NoKey | NotDone::Bus(_) => StatusCode::SERVICE_UNAVAILABLE,
        NotDone::Distrusted(_) | NotDone::Topic(_) => StatusCode::BAD_GATEWAY,
    };
    AdminError::new(status, format!("node {node}: {error}"))
}
