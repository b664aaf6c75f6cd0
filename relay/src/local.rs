//! What is local to this node and changed by command: its switches, its static data, and whether it drains.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use sallyport_node::machine::{self, Probe, Query};
use sallyport_node::settings::SettingsError;
use sallyport_node::static_data::{Object, StaticDataError};
use sallyport_node::{Drain, Machine, Settings, SettingsFile, StartHours, StaticData};
use sallyport_ops::{Admin, AdminError, AdminRequest, Tasks};
use sallyport_wire::NodeName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, info_span};

use crate::config::Config;
use crate::outfit::Outfit;
use crate::sessions::Sessions;

/// The settings: `GET`, and `POST` of a [`Wish`].
pub const SETTINGS: &str = "/settings";
/// Static data: `GET`, and `POST` of an [`Edit`].
pub const STATIC_DATA: &str = "/static-data";
/// The drain: `GET`, `POST` of an [`Order`] to begin it.
pub const DRAIN: &str = "/drain";
/// `POST` of an [`Order`] to end a drain.
pub const UNDRAIN: &str = "/undrain";

/// Longest time that a drain may be given: a year.
pub const MOST_DRAIN: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What is local to this node.
#[derive(Debug)]
pub struct Local {
    /// The machine as it was seen last.
    pub machine: watch::Receiver<Arc<Machine>>,
    /// What the site says about the node.
    pub static_data: Arc<StaticData>,
    /// What is switched on and off.
    pub settings: Arc<SettingsFile>,
}

impl Local {
    /// As the state directory and the configuration have it.
    ///
    /// # Errors
    /// [`SettingsError`], when settings were kept and cannot be read.
    pub fn open(config: &Config, state_dir: &Path, tasks: &Tasks) -> Result<Self, SettingsError> {
        let query = Query {
            program: "nvidia-smi".into(),
            every: config.limits.gpu_every,
            within: config.limits.gpu_query,
        };
        let static_data = Arc::new(StaticData::open(state_dir, config.static_data.clone()));
        let settings = Arc::new(SettingsFile::open(state_dir)?);
        tasks.spawn(info_span!("static_data"), Arc::clone(&static_data).follow());
        Ok(Self {
            machine: machine::follow(Probe::default(), query, tasks),
            static_data,
            settings,
        })
    }

    /// Has the sessions follow the drain of the node, beginning with what was kept.
    pub fn drain_with(&self, sessions: Arc<Sessions>, tasks: &Tasks) {
        let mut changes = self.settings.changes();
        sessions.set_draining(changes.borrow_and_update().drain.is_some());
        tasks.spawn(info_span!("drain"), async move {
            while changes.changed().await.is_ok() {
                sessions.set_draining(changes.borrow_and_update().drain.is_some());
            }
        });
    }
}

/// Settings to be changed; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Wish {
    /// See [`Settings::login_enabled`].
    pub login_enabled: Option<bool>,
    /// See [`Settings::start_enabled`].
    pub start_enabled: Option<bool>,
    /// See [`Settings::reservable`].
    pub reservable: Option<bool>,
    /// See [`Settings::start_hours`].
    pub start_hours: Option<StartHours>,
    /// See [`Settings::only_when_idle`].
    pub only_when_idle: Option<bool>,
}

impl Wish {
    fn make(self, settings: &mut Settings) {
        let now = settings.clone();
        *settings = Settings {
            login_enabled: self.login_enabled.unwrap_or(now.login_enabled),
            start_enabled: self.start_enabled.unwrap_or(now.start_enabled),
            reservable: self.reservable.unwrap_or(now.reservable),
            start_hours: self.start_hours.unwrap_or(now.start_hours),
            only_when_idle: self.only_when_idle.unwrap_or(now.only_when_idle),
            drain: now.drain,
        };
    }
}

/// A change of static data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Edit {
    /// One key gets a value.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// One key goes.
    Unset {
        /// The key.
        key: String,
    },
    /// All of it is replaced, if it is still what the editor began with.
    Replace {
        /// What the editor began with.
        from: Object,
        /// What it is to be.
        to: Object,
    },
    /// What was edited is forgotten; `relay.toml` holds again.
    Reset,
}

impl Edit {
    fn make(self, data: &StaticData) -> Result<(), StaticDataError> {
        match self {
            Self::Set { key, value } => data.set(&key, value),
            Self::Unset { key } => data.unset(&key),
            Self::Replace { from, to } => data.replace(&from, to),
            Self::Reset => data.reset(),
        }
    }
}

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
    /// Since when.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// When its users are to be gone.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    /// Streams that are open.
    pub streams: usize,
}

/// Adds the routes.
#[must_use]
pub fn routes(admin: Admin, outfit: &Arc<Outfit>, local: &Arc<Local>) -> Admin {
    let (at_settings, at_wish) = (Arc::clone(local), Arc::clone(local));
    let (at_data, at_edit) = (Arc::clone(local), Arc::clone(local));
    let (at_drain, at_order, at_end) = (Arc::clone(local), Arc::clone(local), Arc::clone(local));
    let (outfit, of_order, of_end) = (Arc::clone(outfit), Arc::clone(outfit), Arc::clone(outfit));
    admin
        .route(Method::GET, SETTINGS, move |_request| {
            let shown = json!(*at_settings.settings.now());
            Box::pin(async move { Ok(shown) })
        })
        .route(Method::POST, SETTINGS, move |request| {
            let local = Arc::clone(&at_wish);
            Box::pin(async move { wish(local, &request).await })
        })
        .route(Method::GET, STATIC_DATA, move |_request| {
            let shown = json!(at_data.static_data.now());
            Box::pin(async move { Ok(shown) })
        })
        .route(Method::POST, STATIC_DATA, move |request| {
            let local = Arc::clone(&at_edit);
            Box::pin(async move { edit(local, &request).await })
        })
        .route(Method::GET, DRAIN, move |_request| {
            let shown = show_drain(&outfit, at_drain.settings.now().drain);
            Box::pin(async move { Ok(shown) })
        })
        .route(Method::POST, DRAIN, move |request| {
            let (local, outfit) = (Arc::clone(&at_order), Arc::clone(&of_order));
            Box::pin(async move { drain(local, &outfit, &request).await })
        })
        .route(Method::POST, UNDRAIN, move |request| {
            let (local, outfit) = (Arc::clone(&at_end), Arc::clone(&of_end));
            Box::pin(async move { undrain(local, &outfit, &request).await })
        })
}

async fn wish(local: Arc<Local>, request: &AdminRequest) -> Result<Value, AdminError> {
    let wish: Wish = body(request)?;
    let settings = change(local, move |settings| wish.make(settings)).await?;
    info!(?settings, "settings changed by command");
    Ok(json!(*settings))
}

async fn edit(local: Arc<Local>, request: &AdminRequest) -> Result<Value, AdminError> {
    let edit: Edit = body(request)?;
    let data = Arc::clone(&local.static_data);
    on_disk(move || edit.make(&data)).await?.map_err(|error| {
        let status = match error {
            StaticDataError::Changed | StaticDataError::Config(_) => StatusCode::CONFLICT,
            StaticDataError::TooLarge(_) | StaticDataError::Key(_) => StatusCode::BAD_REQUEST,
            StaticDataError::NoKey(_) => StatusCode::NOT_FOUND,
            StaticDataError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        AdminError::new(status, error.to_string())
    })?;
    Ok(json!(local.static_data.now()))
}

async fn drain(
    local: Arc<Local>,
    outfit: &Outfit,
    request: &AdminRequest,
) -> Result<Value, AdminError> {
    let order = order(outfit, request)?;
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let deadline = match order.within.map(Duration::from_secs) {
        Some(within) if within > MOST_DRAIN => {
            let text = format!(
                "a deadline is at most {} hours away",
                MOST_DRAIN.as_secs() / 3600
            );
            return Err(AdminError::bad_request(text));
        }
        within => within.map(|within| now + within),
    };
    let settings = change(local, move |settings| {
        let since = settings.drain.map_or(now, |drain| drain.since);
        settings.drain = Some(Drain { since, deadline });
    });
    let drain = settings.await?.drain;
    info!(
        ?deadline,
        "the node drains: no new logins and no new sessions"
    );
    Ok(show_drain(outfit, drain))
}

async fn undrain(
    local: Arc<Local>,
    outfit: &Outfit,
    request: &AdminRequest,
) -> Result<Value, AdminError> {
    order(outfit, request)?;
    let settings = change(local, |settings| settings.drain = None).await?;
    info!("the node drains no more");
    Ok(show_drain(outfit, settings.drain))
}

fn show_drain(outfit: &Outfit, drain: Option<Drain>) -> Value {
    json!(Drained {
        node: outfit.person.node.clone(),
        draining: drain.is_some(),
        since: drain.map(|drain| drain.since),
        deadline: drain.and_then(|drain| drain.deadline),
        streams: outfit.streams.ledger().len(),
    })
}

fn order(outfit: &Outfit, request: &AdminRequest) -> Result<Order, AdminError> {
    let order: Order = body(request)?;
    let here = &outfit.person.node;
    if order.node == *here {
        return Ok(order);
    }
    let text = format!(
        "this is node {here}: run the command on node {} itself",
        order.node
    );
    Err(AdminError::not_found(text))
}

async fn change(
    local: Arc<Local>,
    change: impl FnOnce(&mut Settings) + Send + 'static,
) -> Result<Arc<Settings>, AdminError> {
    let changed = on_disk(move || local.settings.change(change)).await?;
    changed.map_err(|error| failure(&error))
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AdminError> {
    spawn_blocking(work).await.map_err(|error| failure(&error))
}

fn failure(error: &impl ToString) -> AdminError {
    AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn body<T: DeserializeOwned>(request: &AdminRequest) -> Result<T, AdminError> {
    let body = request.body.clone().unwrap_or_default();
    serde_json::from_value(body).map_err(|error| AdminError::bad_request(error.to_string()))
}
