//! What an administrator switches on one node by command: kept in the state directory, and so still there after a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::civil::DateTime;
use sallyport_ops::config::{self, ConfigError};
use sallyport_ops::files;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::start_hours::StartHours;

/// File of the state directory with the settings.
pub const SETTINGS_FILE: &str = "settings.json";

/// They are for the relay alone.
const MODE: u32 = 0o600;

/// Load per processor from which a machine is not idle.
const BUSY: f64 = 0.5;

/// The settings of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Whether people may log in on this node.
    pub login_enabled: bool,
    /// Whether sessions may be started on this node.
    pub start_enabled: bool,
    /// Whether a login reserves this node for its user.
    pub reservable: bool,
    /// When sessions may be started.
    pub start_hours: StartHours,
    /// Whether sessions are started only while nobody is logged in at the machine and it has little to do.
    pub only_when_idle: bool,
    /// Since when and until when the node drains; none if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// A node that drains takes no new logins and no new sessions; what is there goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// When users are to be gone; none if no time was given.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub deadline: Option<OffsetDateTime>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            login_enabled: true,
            start_enabled: true,
            reservable: false,
            start_hours: StartHours::default(),
            only_when_idle: false,
            drain: None,
        }
    }
}

/// What [`Settings::closed`] goes by.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The node's own clock.
    pub local: DateTime,
    /// Who is logged in at the machine.
    pub logged_in: &'a [String],
    /// Load average of the last minute.
    pub load: f64,
    /// Processors.
    pub ncpu: u32,
}

impl Settings {
    /// Why no session is started just now although starts are enabled; none if they are.
    #[must_use]
    pub fn closed(&self, now: &Circumstances<'_>) -> Option<String> {
        if !self.start_hours.contain(now.local) {
            return Some(format!("outside the start hours {}", self.start_hours));
        }
        if !self.only_when_idle {
            return None;
        }
        if let Some(user) = now.logged_in.first() {
            return Some(format!("not idle: {user} is logged in at the machine"));
        }
        let busy = now.load >= BUSY * f64::from(now.ncpu.max(1));
        busy.then(|| format!("not idle: load {:.1} on {} processors", now.load, now.ncpu))
    }
}

/// Why settings cannot be read or kept. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there and cannot be read, or says what no settings can say.
    #[error("{0}; mend the file, or remove it: all settings are then as at the first start")]
    Config(#[from] ConfigError),
    /// The file cannot be written; the settings stay as they were.
    #[error("{}: {cause}; the settings stay as they were", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// The settings and the file that keeps them.
#[derive(Debug)]
pub struct SettingsFile {
    path: PathBuf,
    now: watch::Sender<Arc<Settings>>,
    /// Held from reading to writing, so that no change is lost.
    changing: Mutex<()>,
}

impl SettingsFile {
    /// The settings of the state directory; the defaults where it has none yet.
    ///
    /// # Errors
    /// [`SettingsError::Config`].
    pub fn open(state_dir: &Path) -> Result<Self, SettingsError> {
        let path = state_dir.join(SETTINGS_FILE);
        let settings = if path.exists() {
            config::parse_json(&config::read(&path)?, &path)?
        } else {
            Settings::default()
        };
        Ok(Self {
            path,
            now: watch::Sender::new(Arc::new(settings)),
            changing: Mutex::default(),
        })
    }

    /// As they are now.
    #[must_use]
    pub fn now(&self) -> Arc<Settings> {
        Arc::clone(&self.now.borrow())
    }

    /// Tells of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Settings>> {
        self.now.subscribe()
    }

    /// Changes them: on disk first, then here. It waits for the disk.
    ///
    /// # Errors
    /// [`SettingsError::Io`]; nothing has then changed.
    pub fn change(
        &self,
        change: impl FnOnce(&mut Settings),
    ) -> Result<Arc<Settings>, SettingsError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut settings = Settings::clone(&self.now());
        change(&mut settings);
        let settings = Arc::new(settings);
        self.write(&settings).map_err(|cause| SettingsError::Io {
            path: self.path.clone(),
            cause,
        })?;
        self.now.send_if_modified(|now| {
            let news = *now != settings;
            now.clone_from(&settings);
            news
        });
        Ok(settings)
    }

    fn write(&self, settings: &Settings) -> io::Result<()> {
        let text = serde_json::to_string_pretty(settings)? + "\n";
        files::write_atomic(&self.path, text.as_bytes(), MODE)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::civil::date;

    use super::*;

    fn circumstances(logged_in: &[String], load: f64) -> Circumstances<'_> {
        Circumstances {
            local: date(2026, 11, 2).at(12, 0, 0, 0),
            logged_in,
            load,
            ncpu: 4,
        }
    }

    #[test]
    fn they_are_on_on_and_off_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = SettingsFile::open(dir.path()).expect("none yet");
        let first = settings.now();
        assert!(first.login_enabled && first.start_enabled && !first.reservable);
        let mut changes = settings.changes();
        let drain = Drain {
            since: OffsetDateTime::UNIX_EPOCH,
            deadline: Some(OffsetDateTime::UNIX_EPOCH + time::Duration::hours(2)),
        };

        let changed = settings.change(|settings| {
            settings.start_enabled = false;
            settings.drain = Some(drain);
        });

        assert!(changes.has_changed().expect("open"));
        changes.mark_unchanged();
        settings.change(|_nothing| {}).expect("writable");
        assert!(!changes.has_changed().expect("open"), "that was no news");
        let again = SettingsFile::open(dir.path()).expect("kept");
        assert_eq!(again.now(), changed.expect("writable"));
        assert_eq!(again.now().drain, Some(drain));
    }

    #[test]
    fn a_change_that_is_not_kept_is_not_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        fs::create_dir(&state).expect("made");
        let settings = SettingsFile::open(&state).expect("none yet");
        fs::remove_dir(&state).expect("empty");

        let error = settings.change(|settings| settings.reservable = true);

        let error = error.expect_err("nowhere to write").to_string();
        assert!(error.contains("stay as they were"), "{error}");
        assert!(!settings.now().reservable);
    }

    #[test]
    fn a_file_that_says_something_unknown_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["{\"loginEnable\": true}", "{\"startHours\": \"noon\"}", "{"] {
            fs::write(dir.path().join(SETTINGS_FILE), text).expect("written");
            let error = SettingsFile::open(dir.path()).expect_err(text).to_string();
            assert!(
                error.contains(SETTINGS_FILE) && error.contains("remove it"),
                "{error}"
            );
        }
    }

    #[test]
    fn starts_are_closed_outside_the_hours_and_while_the_machine_is_used() {
        let ann = ["ann".to_owned()];
        let mut settings = Settings::default();
        assert_eq!(settings.closed(&circumstances(&ann, 9.0)), None);

        settings.only_when_idle = true;
        assert_eq!(settings.closed(&circumstances(&[], 1.9)), None);
        let why = |settings: &Settings, logged_in, load| {
            settings
                .closed(&circumstances(logged_in, load))
                .expect("closed")
        };
        assert!(why(&settings, &ann, 0.0).contains("ann is logged in"));
        assert!(why(&settings, &[], 2.0).contains("load 2.0 on 4 processors"));

        settings.start_hours = "20:00-06:00".parse().expect("hours");
        assert!(why(&settings, &[], 0.0).contains("outside the start hours 20:00-06:00"));
    }
}
