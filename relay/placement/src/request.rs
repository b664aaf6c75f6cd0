//! What is asked for: an action of a user, and what is known of both. It becomes the input object of the scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What says of a login that it starts sessions for others, and what scripts of FastX call it.
const DAEMON: &str = "sallyport/daemon";
const THEIR_DAEMON: &str = "fastx/daemon";

/// Most bytes of a request as JSON: it stands in each trace.
pub const MOST_REQUEST: usize = 64 << 10;

/// What is to be done on the server that is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// A user logs in.
    #[serde(rename = "user/login")]
    Login,
    /// A session is started.
    #[serde(rename = "session/start")]
    Start,
}

/// What is asked for. In JSON it has the names of the input object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// What is to be done.
    pub action: Action,
    /// The user: before a login `login`, `serverId`, `sessions` and `name`, later all of the login object.
    #[serde(default)]
    pub user: Map<String, Value>,
    /// The user's groups, looked up by name and not proven before the login.
    #[serde(default)]
    pub user_groups: Vec<String>,
    /// Whether the user may manage others.
    #[serde(default)]
    pub is_manager: bool,
    /// Whether the user is an administrator.
    #[serde(default)]
    pub is_admin: bool,
    /// What came with the request.
    #[serde(default)]
    pub data: Map<String, Value>,
    /// What the static data of a server must say, by key: the same value, or a list that has it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, Value>,
    /// The servers that can do it at all; none where any can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub among: Option<BTreeSet<String>>,
    /// Servers that somebody else has for himself, besides those that say so.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub reserved: BTreeSet<String>,
    /// Servers that this user has for himself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub held: BTreeSet<String>,
}

impl Request {
    /// A request for `action` in which nothing else is said.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self {
            action,
            user: Map::new(),
            user_groups: Vec::new(),
            is_manager: false,
            is_admin: false,
            data: Map::new(),
            requires: BTreeMap::new(),
            among: None,
            reserved: BTreeSet::new(),
            held: BTreeSet::new(),
        }
    }

    /// The login name, for the log and lists; empty if there is none.
    #[must_use]
    pub fn login(&self) -> &str {
        let login = self.user.get("login").and_then(Value::as_str);
        login.unwrap_or_default()
    }

    /// The user as scripts see him: before a login with all that they are promised, and with the guides' name of what is
    /// ours.
    fn user(&self) -> Map<String, Value> {
        let mut user = self.user.clone();
        if self.action == Action::Login {
            let promised = [
                ("login", json!("")),
                ("serverId", json!("")),
                ("sessions", json!([])),
            ];
            for (key, value) in promised {
                user.entry(key).or_insert(value);
            }
        }
        if let Some(daemon) = user.get(DAEMON).cloned() {
            user.entry(THEIR_DAEMON).or_insert(daemon);
        }
        user
    }

    /// The input object without its servers, as the node `local` hands it to scripts.
    #[must_use]
    pub fn input(&self, local: &str) -> Value {
        json!({
            "action": self.action,
            "user": self.user(),
            "userGroups": self.user_groups,
            "isManager": self.is_manager,
            "isAdmin": self.is_admin,
            "local": { "serverId": local },
            "data": self.data,
        })
    }
}

impl Action {
    /// As scripts, traces and commands write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "user/login",
            Self::Start => "session/start",
        }
    }

    /// The chain that decides about it.
    #[must_use]
    pub const fn chain(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Start => "start",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no action `{0}`: write user/login or session/start")]
pub struct NoAction(String);

impl FromStr for Action {
    type Err = NoAction;

    fn from_str(text: &str) -> Result<Self, NoAction> {
        let all = [Self::Login, Self::Start];
        let found = all.into_iter().find(|action| action.name() == text);
        found.ok_or_else(|| NoAction(text.escape_debug().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_find_what_they_are_promised_of_a_user() {
        let mut request = Request::new(Action::Login);
        request.user.insert("login".to_owned(), json!("ada"));
        request.user.insert(DAEMON.to_owned(), json!(true));
        let user = &request.input("n1")["user"];
        assert_eq!(
            *user,
            json!({ "login": "ada", "serverId": "", "sessions": [], DAEMON: true, THEIR_DAEMON: true })
        );
        let start = Request::new(Action::Start).input("n1");
        assert_eq!(start["user"], json!({}));
    }
}
