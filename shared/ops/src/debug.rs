//! Categories of lines that are logged in detail for a while: off until an administrator asks, on this process alone,
//! and ending by themselves. Nothing of it outlasts the process.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, info_span};

use crate::admin::{Admin, AdminError, AdminRequest};
use crate::escape;
use crate::moment;
use crate::table::Table;
use crate::tasks::Tasks;
use crate::telemetry::{Category, Log, Logging, NoCategory};

/// The categories: `GET` for an array of [`State`], `POST` of an [`Order`] to change one, answered alike.
pub const DEBUG: &str = "/debug";

/// Stands for all categories.
const ALL: &str = "all";

/// What is asked of a category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    /// Its details are logged from now on.
    On {
        /// Which one.
        category: String,
        /// For so many seconds; none for the usual time.
        seconds: Option<u64>,
    },
    /// They are logged no more.
    Off {
        /// Which one; none for all.
        category: Option<String>,
    },
}

impl Order {
    /// Details of a category for a while, or for the usual time.
    #[must_use]
    pub fn on(category: &Category, within: Option<Duration>) -> Self {
        Self::On {
            category: category.name.to_owned(),
            seconds: within.map(|within| within.as_secs()),
        }
    }

    /// No more details of the category of this name, or of any if it is `all`.
    ///
    /// # Errors
    /// [`NoCategory`].
    pub fn off(categories: &'static [Category], name: &str) -> Result<Self, NoCategory> {
        if name == ALL {
            return Ok(Self::Off { category: None });
        }
        let category = Category::find(categories, name)?.name.to_owned();
        Ok(Self::Off {
            category: Some(category),
        })
    }
}

/// How a category stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub category: String,
    /// Whether its details are logged.
    pub on: bool,
    /// Until when.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    /// What it tells of.
    pub about: String,
}

/// Why a category is not switched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum DebugError {
    #[error(transparent)]
    NoCategory(#[from] NoCategory),
    #[error("details are logged for 1 s to {} s (debug_most of [log])", .0.as_secs())]
    Time(Duration),
}

/// When a category ends.
#[derive(Debug, Clone, Copy)]
struct End {
    at: Instant,
    shown: OffsetDateTime,
}

type On = BTreeMap<&'static str, End>;

/// Switches categories on and off. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Debugging(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    categories: &'static [Category],
    log: Log,
    logging: Logging,
    on: watch::Sender<On>,
}

impl Debugging {
    /// With all of them off. A task ends each in its time, which `log` bounds.
    #[must_use]
    pub(crate) fn new(
        categories: &'static [Category],
        log: Log,
        logging: Logging,
        tasks: &Tasks,
    ) -> Self {
        let debugging = Self(Arc::new(Shared {
            categories,
            log,
            logging,
            on: watch::Sender::new(On::new()),
        }));
        tasks.spawn(info_span!("debug"), debugging.clone().end_in_time());
        debugging
    }

    /// Adds [`DEBUG`].
    #[must_use]
    pub(crate) fn route(&self, admin: Admin) -> Admin {
        let (shown, ordered) = (self.clone(), self.clone());
        admin
            .route(Method::GET, DEBUG, move |_request| {
                let states = json!(shown.states());
                Box::pin(async move { Ok(states) })
            })
            .route(Method::POST, DEBUG, move |request| {
                let answer = ordered.obey(&request);
                Box::pin(async move { answer })
            })
    }

    fn obey(&self, request: &AdminRequest) -> Result<Value, AdminError> {
        let wrong = |error: &dyn Display| AdminError::bad_request(error.to_string());
        let order = request.body.clone().unwrap_or_default();
        let done = match serde_json::from_value(order).map_err(|error| wrong(&error))? {
            Order::On { category, seconds } => {
                self.switch_on(&category, seconds.map(Duration::from_secs))
            }
            Order::Off { category } => self.switch_off(category.as_deref()),
        };
        done.map_err(|error| wrong(&error))?;
        Ok(json!(self.states()))
    }

    fn switch_on(&self, name: &str, within: Option<Duration>) -> Result<(), DebugError> {
        let most = self.0.log.debug_most;
        let category = Category::find(self.0.categories, name)?;
        let within = within.unwrap_or_else(|| self.0.log.debug_for.min(most));
        if within.is_zero() || within > most {
            return Err(DebugError::Time(most));
        }
        let now = OffsetDateTime::now_utc();
        let end = End {
            at: Instant::now() + within,
            shown: now.replace_nanosecond(0).unwrap_or(now) + within,
        };
        self.change(|on| {
            on.insert(category.name, end);
        });
        let until = moment::rfc3339(end.shown);
        info!(
            category = category.name,
            until, "details are logged, by command"
        );
        Ok(())
    }

    fn switch_off(&self, name: Option<&str>) -> Result<(), DebugError> {
        let category = name.map(|name| Category::find(self.0.categories, name));
        let category = category.transpose()?.map(|category| category.name);
        self.change(|on| on.retain(|name, _| category.is_some_and(|off| off != *name)));
        info!(
            category = category.unwrap_or(ALL),
            "details are logged no more, by command"
        );
        Ok(())
    }

    fn states(&self) -> Vec<State> {
        let on = self.0.on.borrow();
        let state = |category: &Category| {
            let end = on.get(category.name);
            State {
                category: category.name.to_owned(),
                on: end.is_some(),
                until: end.map(|end| end.shown),
                about: category.about.to_owned(),
            }
        };
        self.0.categories.iter().map(state).collect()
    }

    /// What is logged changes together with what is said to be on, so that two changes cannot cross.
    fn change(&self, change: impl FnOnce(&mut On)) {
        self.0.on.send_modify(|on| {
            change(on);
            let categories = self.0.categories.iter();
            let debugged = categories.filter(|category| on.contains_key(category.name));
            self.0.logging.debug(debugged.collect());
        });
    }

    async fn end_in_time(self) {
        let mut changes = self.0.on.subscribe();
        loop {
            let next = changes.borrow_and_update().values().map(|end| end.at).min();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = due => self.end_due(),
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn end_due(&self) {
        let now = Instant::now();
        let mut ended = Vec::new();
        self.change(|on| {
            ended.extend(
                on.extract_if(.., |_, end| end.at <= now)
                    .map(|(name, _)| name),
            );
        });
        for category in ended {
            info!(category, "details are logged no more: their time is over");
        }
    }
}

/// The categories as a person reads them, of an answer of [`DEBUG`].
#[must_use]
pub fn text(answer: &Value) -> String {
    let Ok(states) = serde_json::from_value::<Vec<State>>(answer.clone()) else {
        return escape::json(answer) + "\n"; // of another version
    };
    let mut table = Table::new(&["category", "debug", "until", "tells of"]);
    for state in states {
        let until = state.until.map(moment::rfc3339);
        let switch = if state.on { "on" } else { "off" };
        table.row([
            state.category,
            switch.to_owned(),
            until.unwrap_or_default(),
            state.about,
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const ALL: &[Category] = &[
        Category {
            name: "roads",
            about: "roads and bridges",
            targets: &["road"],
        },
        Category {
            name: "rails",
            about: "rails",
            targets: &["rail"],
        },
    ];
    const MINUTE: Duration = Duration::from_secs(60);

    fn debugging(tasks: &Tasks) -> (Debugging, Logging) {
        let logging = Logging::new("info", Log::default()).unwrap();
        let log = Log {
            debug_most: 60 * MINUTE,
            ..Log::default()
        };
        (Debugging::new(ALL, log, logging.clone(), tasks), logging)
    }

    fn debugged(logging: &Logging) -> [bool; 2] {
        ["road::side", "rail"].map(|target| logging.debugs(target))
    }

    #[tokio::test(start_paused = true)]
    async fn a_category_ends_by_itself_and_each_in_its_time() {
        let tasks = Tasks::new();
        let (debugging, logging) = debugging(&tasks);
        assert_eq!(debugged(&logging), [false, false]);

        debugging.switch_on("roads", None).unwrap();
        debugging.switch_on("rails", Some(MINUTE)).unwrap();
        assert_eq!(debugged(&logging), [true, true]);
        sleep(MINUTE - Duration::from_secs(1)).await;
        assert_eq!(debugged(&logging), [true, true]);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(debugged(&logging), [true, false]);
        sleep(29 * MINUTE).await;
        assert_eq!(debugged(&logging), [false, false]);
        assert!(
            debugging
                .states()
                .iter()
                .all(|state| !state.on && state.until.is_none())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_order_replaces_the_time_and_off_ends_it() {
        let tasks = Tasks::new();
        let (debugging, logging) = debugging(&tasks);
        debugging.switch_on("roads", Some(MINUTE)).unwrap();
        debugging.switch_on("roads", Some(10 * MINUTE)).unwrap();
        sleep(5 * MINUTE).await;
        assert_eq!(debugged(&logging), [true, false]);

        debugging.switch_on("rails", None).unwrap();
        debugging.switch_off(Some("roads")).unwrap();
        assert_eq!(debugged(&logging), [false, true]);
        debugging.switch_off(None).unwrap();
        assert_eq!(debugged(&logging), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_is_refused_and_changes_nothing() {
        let tasks = Tasks::new();
        let (debugging, logging) = debugging(&tasks);
        for within in [Duration::ZERO, 61 * MINUTE] {
            let error = debugging.switch_on("roads", Some(within)).unwrap_err();
            assert!(error.to_string().contains("1 s to 3600 s"), "{error}");
        }
        for error in [
            debugging.switch_on("canals", None),
            debugging.switch_off(Some("canals")),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.ends_with("there are roads, rails"), "{error}");
        }
        assert_eq!(debugged(&logging), [false, false]);
    }

    #[tokio::test]
    async fn people_see_all_of_them() {
        let tasks = Tasks::new();
        let (debugging, _logging) = debugging(&tasks);
        debugging.switch_on("rails", None).unwrap();

        let text = text(&json!(debugging.states()));

        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["roads", "off", "-", "roads", "and", "bridges"]);
        assert_eq!(lines[2][..2], ["rails", "on"]);
    }
}
