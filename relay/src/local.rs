//! What is local to this node and changed by command: its switches and its static data.

use std::path::Path;
use std::sync::Arc;

use http::{Method, StatusCode};
use sallyport_node::machine::{self, Probe, Query};
use sallyport_node::settings::SettingsError;
use sallyport_node::static_data::{Object, StaticDataError};
use sallyport_node::{Machine, Settings, SettingsFile, StartHours, StaticData};
use sallyport_ops::{Admin, AdminError, AdminRequest, Tasks};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, info_span};

use crate::config::Config;
use crate::sessions::Sessions;

/// The settings: `GET`, and `POST` of a [`Wish`].
pub const SETTINGS: &str = "/settings";
/// Static data: `GET`, and `POST` of an [`Edit`].
pub const STATIC_DATA: &str = "/static-data";

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

/// Adds the routes.
#[must_use]
pub fn routes(admin: Admin, local: &Arc<Local>) -> Admin {
    let (at_settings, at_wish) = (Arc::clone(local), Arc::clone(local));
    let (at_data, at_edit) = (Arc::clone(local), Arc::clone(local));
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
}

async fn wish(local: Arc<Local>, request: &AdminRequest) -> Result<Value, AdminError> {
    let wish: Wish = body(request)?;
    let settings = change(local, move |settings| wish.make(settings)).await?;
    let settings = json!(*settings);
    info!(%settings, "settings changed by command");
    Ok(settings)
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

/// Changes the settings, on disk as well.
pub(crate) async fn change(
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

/// What a request says.
pub(crate) fn body<T: DeserializeOwned>(request: &AdminRequest) -> Result<T, AdminError> {
    let body = request.body.clone().unwrap_or_default();
    serde_json::from_value(body).map_err(|error| AdminError::bad_request(error.to_string()))
}
