//! What decides: the chains of scripts that the cluster's configuration says, or the usual ones.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use sallyport_cluster::global::{self, Applied, Bundle, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::predefined::{self, Predefined};
use crate::request::Action;

/// Digits of a version.
const VERSION: usize = 12;

/// One script of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The beginning of the digest of its text or path: the same text has the same version on every node.
    pub version: String,
    /// What it is.
    #[serde(flatten)]
    pub code: Code,
}

/// What a script is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Code {
    /// A JavaScript function.
    Javascript {
        /// Its text.
        source: Arc<str>,
    },
    /// A program that reads and writes JSON.
    Executable {
        /// Its absolute path.
        path: PathBuf,
    },
    /// The chain names a script that is not there, which no import lets through.
    Absent,
}

/// What happens to a decision whose script was stopped or failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnScriptFailure {
    /// The user is told.
    #[default]
    Error,
    /// The server with the fewest sessions is chosen.
    Builtin,
}

/// The chains of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chains {
    /// The epoch; 0 before the first.
    pub epoch: u64,
    /// Decides about logins.
    pub login: Vec<Arc<Rule>>,
    /// Decides about starts.
    pub start: Vec<Arc<Rule>>,
    /// What holds where a script fails.
    pub on_script_failure: OnScriptFailure,
}

impl Rule {
    fn new(name: &str, code: Code) -> Self {
        let text = match &code {
            Code::Javascript { source } => source.as_bytes(),
            Code::Executable { path } => path.as_os_str().as_encoded_bytes(),
            Code::Absent => &[],
        };
        let version = version(text);
        let name = name.to_owned();
        Self {
            name,
            version,
            code,
        }
    }

    /// The predefined or configured script `name`; none if there is none.
    #[must_use]
    pub fn find(name: &str, bundle: &Bundle) -> Option<Self> {
        let code = match predefined::find(name) {
            Some(Predefined { source, .. }) => Code::Javascript {
                source: source.into(),
            },
            None => configured(bundle.object(global::SCRIPTS, name)?)?,
        };
        Some(Self::new(name, code))
    }

    /// Whether this program brings it along.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        predefined::find(&self.name).is_some()
    }
}

/// What an object of the kind `scripts` says.
fn configured(object: &Object) -> Option<Code> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    match text("source") {
        Some(source) => Some(Code::Javascript {
            source: source.into(),
        }),
        None => text("path").map(|path| Code::Executable { path: path.into() }),
    }
}

impl Chains {
    /// Those of the configuration; the usual ones where it says nothing of them, or there is none.
    #[must_use]
    pub fn of(applied: Option<&Applied>) -> Self {
        let empty = Bundle::default();
        let bundle = applied.map_or(&empty, |applied| applied.bundle.as_ref());
        Self {
            epoch: applied.map_or(0, |applied| applied.epoch),
            login: chain(bundle, "login", &predefined::LOGIN),
            start: chain(bundle, "start", &predefined::START),
            on_script_failure: on_script_failure(bundle),
        }
    }

    /// The one that decides about `action`.
    #[must_use]
    pub fn about(&self, action: Action) -> &[Arc<Rule>] {
        match action {
            Action::Login => &self.login,
            Action::Start => &self.start,
        }
    }
}

/// Names of the scripts of the chain `name`, and whether they are the usual ones.
#[must_use]
pub fn names(bundle: &Bundle, name: &str) -> (Vec<String>, bool) {
    let usual: &[&str] = if name == "login" {
        &predefined::LOGIN
    } else {
        &predefined::START
    };
    match bundle.object(global::CHAINS, name) {
        Some(object) => (global::chained(object).map(str::to_owned).collect(), false),
        None => (usual.iter().copied().map(str::to_owned).collect(), true),
    }
}

fn chain(bundle: &Bundle, name: &str, usual: &[&str]) -> Vec<Arc<Rule>> {
    let rule = |name: &str| {
        let found = Rule::find(name, bundle);
        Arc::new(found.unwrap_or_else(|| Rule::new(name, Code::Absent)))
    };
    match bundle.object(global::CHAINS, name) {
        Some(object) => global::chained(object).map(rule).collect(),
        None => usual.iter().copied().map(rule).collect(),
    }
}

fn on_script_failure(bundle: &Bundle) -> OnScriptFailure {
    let (name, field) = global::PLACEMENT;
    let setting = bundle.object(global::SETTINGS, name);
    let setting = setting.and_then(|setting| setting.get(field)).cloned();
    let setting = setting.and_then(|word| serde_json::from_value(word).ok());
    setting.unwrap_or_default()
}

fn version(text: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, text);
    let mut digits = String::new();
    for byte in digest.as_ref().iter().take(VERSION / 2) {
        // writing to a String cannot fail
        let _infallible = write!(digits, "{byte:02x}");
    }
    digits
}
