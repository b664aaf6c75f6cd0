//! The server object: what a node publishes about itself, and what load-balancing scripts see of it.

use std::collections::BTreeMap;

use sallyport_wire::NodeName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machine::Machine;
use crate::static_data::Object;

/// A node as it describes itself. Names in JSON are fixed: scripts use them.
///
/// Fields that a newer version adds are skipped, those that an older one lacks are as [`Default`] has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The node's name.
    pub server_id: NodeName,
    /// The node's incarnation: a process of it that was started later has a larger one.
    pub generation: u64,
    /// What its machine says about itself.
    #[serde(flatten)]
    pub machine: Machine,
    /// Public URLs through which its sessions are reached now.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Its links to gateways, each as it stands. A node without one may be well and reached by others.
    #[serde(default)]
    pub gateways: Vec<GatewayLink>,
    /// Its site; empty for none.
    #[serde(default)]
    pub site: String,
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Who uses it.
    #[serde(flatten)]
    pub usage: Usage,
    /// What the site says about it.
    #[serde(default)]
    pub static_data: Object,
    /// Its metrics' last values, by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, Value>,
    /// Whether people may log in there.
    pub login_enabled: bool,
    /// Whether sessions may be started there now.
    pub start_enabled: bool,
    /// Why sessions may not be started there now, although starts are switched on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_closed: Option<String>,
    /// Whether a login reserves it.
    pub reservable: bool,
    /// Whether it drains: it takes nothing new, and what is there goes on.
    #[serde(default)]
    pub draining: bool,
    /// When its users are to be gone, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_deadline: Option<i64>,
    /// Version of the cluster's configuration that it works with.
    #[serde(default)]
    pub config_epoch: u64,
    /// Version of its relay.
    pub version: String,
    /// When it said this, in milliseconds since 1970 by its own clock.
    pub last_update: i64,
}

/// Who uses a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Sessions on it.
    pub sessions: u64,
    /// Different users who own them.
    pub unique_session_users: u64,
    /// Logins on it.
    pub logins: u64,
    /// Different users who are logged in.
    pub unique_logins: u64,
    /// Whether somebody has it for himself.
    pub reserved: bool,
    /// Sessions that are on their way to it.
    pub pending: u64,
    /// Streams to its sessions, and on to other nodes, that are open there.
    pub streams: u64,
}

/// How a link from a node to a gateway stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayLink {
    /// The gateway's URL.
    pub url: String,
    /// Tunnels that are up; without one the link is down.
    pub tunnels: u64,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl Server {
    /// The object as scripts see it: keys of the static data are also at the top, where no field of ours has their name.
    #[must_use]
    pub fn for_scripts(&self) -> Value {
        let mut seen = serde_json::to_value(self).unwrap_or_default();
        if let Value::Object(fields) = &mut seen {
            for (key, value) in &self.static_data {
                // a field that is absent now is still ours
                if !ABSENT_AT_TIMES.contains(&key.as_str()) && !fields.contains_key(key) {
                    fields.insert(key.clone(), value.clone());
                }
            }
        }
        seen
    }

    /// Gateways that it should be linked to and is not, although the node itself lives.
    pub fn links_down(&self) -> impl Iterator<Item = &GatewayLink> {
        self.gateways.iter().filter(|link| link.tunnels == 0)
    }
}

/// Fields that are left out where they say nothing.
const ABSENT_AT_TIMES: [&str; 2] = ["startClosed", "drainDeadline"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn server(static_data: &Value) -> Server {
        serde_json::from_value(json!({
            "serverId": "n1", "generation": 7, "loginEnabled": true, "startEnabled": true, "reservable": false,
            "version": "1.2.3", "lastUpdate": 1_700_000_000_000_i64, "sessions": 3, "staticData": static_data,
            "somethingNew": { "of": "a later version" },
        }))
        .expect("what is absent has a default")
    }

    #[test]
    fn every_field_of_the_contract_is_there() {
        let contract = "serverId hostname urls site groups ncpu arch os kernel cpu loadavg freemem totalmem memAvailable uptime \
                        sessions uniqueSessionUsers logins uniqueLogins loggedInUsers gpus staticData metrics loginEnabled \
                        startEnabled reservable reserved draining pending configEpoch version lastUpdate";
        let shown = serde_json::to_value(server(&json!({}))).expect("an object");
        let shown: BTreeSet<&str> = shown
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();

        let missing: Vec<_> = contract
            .split_whitespace()
            .filter(|name| !shown.contains(name))
            .collect();

        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn it_comes_back_as_it_was_sent() {
        let mut sent = server(&json!({ "gpu": true }));
        sent.gateways = vec![GatewayLink {
            url: "https://gw".into(),
            tunnels: 0,
            cause: Some("dns".into()),
        }];
        sent.drain_deadline = Some(5);
        let text = serde_json::to_string(&sent).expect("JSON");

        let back: Server = serde_json::from_str(&text).expect("ours");

        assert_eq!(back, sent);
        assert_eq!(back.links_down().count(), 1);
    }

    #[test]
    fn static_data_is_at_the_top_where_we_have_no_such_field() {
        let data = json!({ "gpu": true, "group": "render", "sessions": 0, "startClosed": "never", "gpus": [] });

        let seen = server(&data).for_scripts();

        assert_eq!(
            (&seen["gpu"], &seen["group"]),
            (&json!(true), &json!("render"))
        );
        assert_eq!(seen["sessions"], 3, "ours is not hidden");
        assert_eq!(seen.get("startClosed"), None);
        assert_eq!(seen["staticData"], data);
    }
}
