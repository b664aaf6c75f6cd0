//! Static data: what the site says about a node, as a JSON object that goes with every server object.
//!
//! It begins as `[static_data]` of `relay.toml`. Once it was changed by command, `static-data.json` of the state
//! directory holds all of it, and a person may edit that file as well: it is followed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sallyport_ops::config::{self, ConfigError};
use sallyport_ops::files;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// File of the state directory with static data that was edited.
pub const STATIC_DATA_FILE: &str = "static-data.json";

/// Most bytes of all static data as JSON: it is sent every two seconds.
pub const MOST_BYTES: usize = 64 << 10;

/// Most bytes of a key.
pub const MOST_KEY: usize = 64;

const MODE: u32 = 0o600;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A JSON object.
pub type Object = Map<String, Value>;

/// Why static data cannot be read or changed. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StaticDataError {
    /// The file is no JSON object.
    #[error("{0}; mend the file, or remove it: `[static_data]` of relay.toml then holds")]
    Config(#[from] ConfigError),
    /// There is too much of it.
    #[error("static data of {0} bytes is too much: at most {MOST_BYTES} bytes of JSON")]
    TooLarge(usize),
    /// A key cannot be one.
    #[error("`{0}` cannot be a key: 1 to {MOST_KEY} bytes without control characters")]
    Key(String),
    /// What was to be unset is not there.
    #[error("static data has no `{0}`")]
    NoKey(String),
    /// It was changed by somebody else meanwhile.
    #[error("static data was changed meanwhile: look at it again and repeat the edit")]
    Changed,
    /// The file cannot be written or removed.
    #[error("{}: {cause}; static data stays as it was", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// Static data as it is shown to an administrator.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The object.
    pub data: Arc<Object>,
    /// Whether it was edited; `[static_data]` of `relay.toml` is then not used.
    pub edited: bool,
    /// Why the file in the state directory is not used; what it said last, or `relay.toml` says, is used instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The static data of one node, and the file that keeps what was edited.
#[derive(Debug)]
pub struct StaticData {
    path: PathBuf,
    configured: Arc<Object>,
    now: watch::Sender<Shown>,
    /// Held from reading to writing, so that no change is lost.
    changing: Mutex<()>,
}

impl StaticData {
    /// As the state directory has it, else as `configured`. A file that cannot be used is a [fault](Shown::fault) and
    /// stops nothing.
    #[must_use]
    pub fn open(state_dir: &Path, configured: Object) -> Self {
        let configured = Arc::new(configured);
        let data = Self {
            path: state_dir.join(STATIC_DATA_FILE),
            now: watch::Sender::new(Shown {
                data: Arc::clone(&configured),
                edited: false,
                fault: None,
            }),
            configured,
            changing: Mutex::default(),
        };
        data.look();
        data
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> Shown {
        self.now.borrow().clone()
    }

    /// Tells of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Shown> {
        self.now.subscribe()
    }

    /// Sets a key to a value. It waits for the disk.
    ///
    /// # Errors
    /// [`StaticDataError`]; nothing has then changed.
    pub fn set(&self, key: &str, value: Value) -> Result<(), StaticDataError> {
        check_key(key)?;
        self.change(|data| {
            data.insert(key.to_owned(), value);
            Ok(())
        })
    }

    /// Takes a key away. It waits for the disk.
    ///
    /// # Errors
    /// [`StaticDataError`]; nothing has then changed.
    pub fn unset(&self, key: &str) -> Result<(), StaticDataError> {
        self.change(|data| {
            let gone = data.remove(key);
            gone.map(drop)
                .ok_or_else(|| StaticDataError::NoKey(key.escape_debug().to_string()))
        })
    }

    /// Replaces all of it, if it is still what the editor began `from`. It waits for the disk.
    ///
    /// # Errors
    /// [`StaticDataError`]; nothing has then changed.
    pub fn replace(&self, from: &Object, to: Object) -> Result<(), StaticDataError> {
        to.keys().try_for_each(|key| check_key(key))?;
        self.change(|data| {
            if data != from {
                return Err(StaticDataError::Changed);
            }
            *data = to;
            Ok(())
        })
    }

    /// Forgets what was edited: `relay.toml` holds again. It waits for the disk.
    ///
    /// # Errors
    /// [`StaticDataError::Io`].
    pub fn reset(&self) -> Result<(), StaticDataError> {
        let _alone = self.alone();
        match std::fs::remove_file(&self.path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(self.io(cause)),
            _ => {
                self.show(Ok(None));
                Ok(())
            }
        }
    }

    /// Follows the file for ever.
    pub async fn follow(self: Arc<Self>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let here = Arc::clone(&self);
            if spawn_blocking(move || here.look()).await.is_err() {
                return; // only where the runtime ends
            }
        }
    }

    fn look(&self) {
        let _alone = self.alone();
        self.show(self.read());
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Object) -> Result<(), StaticDataError>,
    ) -> Result<(), StaticDataError> {
        let _alone = self.alone();
        // from the file, which a person may have edited since it was looked at
        let mut data = self
            .read()?
            .unwrap_or_else(|| Object::clone(&self.configured));
        change(&mut data)?;
        let text = check_size(&data)?;
        let written = files::write_atomic(&self.path, text.as_bytes(), MODE);
        written.map_err(|cause| self.io(cause))?;
        self.show(Ok(Some(data)));
        Ok(())
    }

    /// What the file says; none if it is not there.
    fn read(&self) -> Result<Option<Object>, StaticDataError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let data: Object = config::parse_json(&config::read(&self.path)?, &self.path)?;
        data.keys().try_for_each(|key| check_key(key))?;
        check_size(&data)?;
        Ok(Some(data))
    }

    fn show(&self, read: Result<Option<Object>, StaticDataError>) {
        let news = self.now.send_if_modified(|now| {
            let next = match read {
                Ok(edited) => Shown {
                    edited: edited.is_some(),
                    data: edited.map_or_else(|| Arc::clone(&self.configured), Arc::new),
                    fault: None,
                },
                Err(fault) => Shown {
                    fault: Some(fault.to_string()),
                    ..now.clone()
                },
            };
            let news = *now != next;
            *now = next;
            news
        });
        if news {
            match &self.now.borrow().fault {
                Some(fault) => warn!(%fault, "static data stays as it was"),
                None => info!(file = %self.path.display(), "static data changed"),
            }
        }
    }

    fn alone(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, cause: io::Error) -> StaticDataError {
        StaticDataError::Io {
            path: self.path.clone(),
            cause,
        }
    }
}

/// Whether static data may have this key.
///
/// # Errors
/// [`StaticDataError::Key`].
pub fn check_key(key: &str) -> Result<(), StaticDataError> {
    let fits = (1..=MOST_KEY).contains(&key.len()) && !key.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(StaticDataError::Key(key.escape_debug().to_string()))
    }
}

/// The object as the text of a file, if it is not too large.
///
/// # Errors
/// [`StaticDataError::TooLarge`].
pub fn check_size(data: &Object) -> Result<String, StaticDataError> {
    let bytes = serde_json::to_string(data).map_or(usize::MAX, |text| text.len());
    if bytes > MOST_BYTES {
        return Err(StaticDataError::TooLarge(bytes));
    }
    let text =
        serde_json::to_string_pretty(data).map_err(|_none| StaticDataError::TooLarge(bytes))?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        serde_json::from_value(value).expect("an object")
    }

    fn opened(dir: &Path) -> StaticData {
        StaticData::open(dir, object(json!({ "gpu": false, "group": "render" })))
    }

    #[test]
    fn the_configuration_holds_until_it_is_edited_and_again_after_a_reset() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = opened(dir.path());
        assert!(!data.now().edited);

        data.set("gpu", json!(true)).expect("set");
        data.unset("group").expect("unset");
        data.set("users", json!(["ann"])).expect("set");

        let again = StaticData::open(dir.path(), object(json!({ "gpu": 7 }))).now();
        assert_eq!(
            *again.data,
            object(json!({ "gpu": true, "users": ["ann"] }))
        );
        assert!(again.edited);
        data.reset().expect("reset");
        assert_eq!(data.now().data, opened(dir.path()).now().data);
        data.reset().expect("there is nothing to forget");
    }

    #[test]
    fn an_edit_does_not_undo_anothers() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = opened(dir.path());
        let began = data.now().data;
        data.set("login", json!(true)).expect("set");

        let late = data.replace(&began, object(json!({})));

        assert!(matches!(late, Err(StaticDataError::Changed)));
        let now = data.now().data;
        data.replace(&now, object(json!({ "a": 1 })))
            .expect("on time");
        assert_eq!(*data.now().data, object(json!({ "a": 1 })));
    }

    #[test]
    fn every_bound_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = opened(dir.path());
        let room = MOST_BYTES
            - json!({ "gpu": false, "group": "render", "x": "" })
                .to_string()
                .len();

        data.set("x", json!("x".repeat(room))).expect("just fits");
        let more = data.set("x", json!("x".repeat(room + 1)));
        assert!(matches!(more, Err(StaticDataError::TooLarge(_))));
        for key in ["", "a\nb", &"k".repeat(MOST_KEY + 1)] {
            assert!(matches!(
                data.set(key, json!(1)),
                Err(StaticDataError::Key(_))
            ));
        }
        assert!(matches!(
            data.unset("absent"),
            Err(StaticDataError::NoKey(_))
        ));
    }

    #[test]
    fn a_broken_file_is_named_and_what_it_said_last_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = opened(dir.path());
        data.set("gpu", json!(true)).expect("set");
        fs::write(dir.path().join(STATIC_DATA_FILE), "[]").expect("written");

        data.look();
        let refused = data.set("gpu", json!(false)).expect_err("it would be lost");

        let now = data.now();
        assert_eq!(now.data.get("gpu"), Some(&json!(true)));
        assert!(now.fault.expect("named").contains(STATIC_DATA_FILE));
        assert!(refused.to_string().contains("mend the file"), "{refused}");
        assert!(opened(dir.path()).now().fault.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_a_person_edits_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = Arc::new(opened(dir.path()));
        let mut changes = data.changes();
        let following = Arc::clone(&data).follow();
        let edited = async {
            fs::write(dir.path().join(STATIC_DATA_FILE), "{\"gpu\": 1}").expect("written");
            changes.changed().await.expect("open");
            assert_eq!(data.now().data.get("gpu"), Some(&json!(1)));
            fs::remove_file(dir.path().join(STATIC_DATA_FILE)).expect("removed");
            changes.changed().await.expect("open");
            assert_eq!(data.now().data.get("group"), Some(&json!("render")));
        };

        tokio::select! {
            () = following => {}
            () = edited => {}
        }
    }

    proptest! {
        #[test]
        fn any_object_comes_back_as_it_was(key in "[^\\x00-\\x1f\\x7f-\\u{9f}]{1,10}", text: String, number: i64) {
            let dir = tempfile::tempdir().expect("a directory");
            let value = json!({ "text": text, "list": [number, null, true] });
            opened(dir.path()).set(&key, value.clone()).expect("set");
            let again = opened(dir.path()).now();
            prop_assert_eq!(again.data.get(&key), Some(&value));
        }
    }
}
