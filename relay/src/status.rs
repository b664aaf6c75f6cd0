//! What a running relay says about itself, and how a person reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use http::Method;
use sallyport_cluster::{Cluster, Progress};
use sallyport_node::Settings;
use sallyport_ops::escape::{Escaped, FIELD};
use sallyport_ops::{Admin, Table};
use sallyport_wire::Code;
use serde_json::{Value, json};

use crate::advertise::NEEDS_VIA;
use crate::config::Access;
use crate::membership::Tenure;
use crate::peers::Peers;
use crate::queue::Line;
use crate::reservations::is_reserved;
use crate::servers::{Describer, Servers, switch};
use crate::sessions::Session;

/// Nodes that are named in one line.
const SHOWN: usize = 5;

/// What the status is put together from.
#[derive(Debug)]
pub struct Sources {
    /// The node, and those that it knows of.
    pub servers: Servers,
    /// Its tunnels to other nodes.
    pub peers: Arc<Peers>,
    /// What waits for servers.
    pub line: Line,
    /// Its cluster's store and bus.
    pub cluster: Cluster,
}

/// Adds `GET /status`.
#[must_use]
pub fn route(admin: Admin, sources: Sources) -> Admin {
    let sources = Arc::new(sources);
    admin.route(Method::GET, "/status", move |_request| {
        let status = show(&sources);
        Box::pin(async move { Ok(status) })
    })
}

fn show(sources: &Sources) -> Value {
    let Describer {
        outfit,
        local,
        groups,
        gauges,
        global,
        pending: _,
        reservations,
    } = &sources.servers.describer;
    let settings = local.settings.now();
    let sessions: Vec<_> = outfit
        .streams
        .sessions()
        .iter()
        .map(|session| show_session(session))
        .collect();
    let mut status = json!({
        "node": outfit.person.node,
        "id": outfit.person.identity.id(),
        "generation": outfit.person.generation,
        "version": env!("CARGO_PKG_VERSION"),
        "site": outfit.person.site,
        "groups": groups,
        "draining": outfit.leaving.is_cancelled() || settings.drain.is_some(),
        "settings": *settings,
        "static_data_fault": local.static_data.now().fault,
        "failing_metrics": gauges.failing(),
        "config": { "epoch": global.epoch(), "fault": global.fault() },
        "store": show_store(&sources.cluster, &sources.peers),
        "reserved": is_reserved(reservations, &outfit.person.node),
        "queue": { "run_by": sources.line.run_by(outfit.person.node.as_str()) },
        "cluster": show_cluster(&sources.servers),
        "rival": sources.servers.tenure.as_ref().map(Tenure::show),
        "peers": sources.peers.show(),
        "sessions": sessions,
        "streams": outfit.streams.ledger().list(),
    });
    if let (Value::Object(status), Value::Object(board)) = (&mut status, outfit.board.show()) {
        status.extend(board);
    }
    status
}

/// Whether it can be used, which it is, and which others the nodes have that are met.
fn show_store(cluster: &Cluster, peers: &Peers) -> Value {
    let mut shown = show_progress(cluster);
    if let (Value::Object(shown), Value::Object(stores)) = (&mut shown, peers.show_stores()) {
        shown.extend(stores);
    }
    shown
}

fn show_progress(cluster: &Cluster) -> Value {
    let transporter = cluster.transporter().word();
    match cluster.progress() {
        Progress::Ready => json!({ "transporter": transporter, "ready": true }),
        Progress::Connecting => json!({ "transporter": transporter, "ready": false }),
        Progress::Failing(failing) => json!({
            "transporter": transporter,
            "ready": false,
            "host": failing.host,
            "step": failing.step,
            "cause": failing.cause,
        }),
    }
}

/// None where no bus joins nodes; a number of nodes only where they are heard all the time.
fn show_cluster(servers: &Servers) -> Value {
    let Some(observer) = &servers.observer else {
        return Value::Null;
    };
    if !servers.observes {
        return json!({ "observes": false });
    }
    let nodes = observer.others().len().saturating_add(1);
    json!({ "observes": true, "nodes": nodes, "stale": observer.is_stale(), "distrusted": observer.distrusted() })
}

fn show_session(session: &Session) -> Value {
    let config = &session.config;
    json!({
        "id": config.id,
        "protocol": config.protocol.word(),
        "target": config.target.to_string(),
        "access": match config.access {
            Access::Public => "public",
            Access::Login => "login",
            Access::Listed { .. } => "listed",
        },
        "pool": config.pool,
        "sticky": config.sticky.word(),
        "down": session.is_down(),
        "served": session.served(),
    })
}

/// The status as a person reads it.
#[must_use]
pub fn text(status: &Value) -> String {
    let mut text = String::new();
    let (node, version) = (word(status, "node"), word(status, "version"));
    let draining = if status["draining"] == true {
        ", draining"
    } else {
        ""
    };
    // writing to a String cannot fail
    let _infallible = writeln!(text, "node {node}, version {version}{draining}");
    text.push_str(&local(status));
    for file in list(status, "files") {
        if let Some(fault) = file["fault"].as_str() {
            let _infallible = writeln!(text, "gateway file {}: {fault}", word(file, "path"));
        }
    }
    if let Some(rival) = rival(&status["rival"]) {
        let _infallible = writeln!(text, "{rival}: {}", word(&status["rival"], "cure"));
    }
    text.push_str(&cluster_text(&status["cluster"]));
    if let Some(node) = status["queue"]["run_by"].as_str() {
        let _infallible = writeln!(text, "the queue is run by {}", Escaped::new(node, FIELD));
    }
    if let Some(fault) = status["config"]["fault"].as_str() {
        let _infallible = writeln!(text, "configuration of the cluster: {fault}");
    }
    if let Some(missing) = store_text(&status["store"]) {
        let _infallible = writeln!(text, "{missing}");
    }
    for other in list(&status["store"], "others") {
        text.push_str(&other_store_text(other));
    }
    for failure in list(status, "failures") {
        let _infallible = writeln!(
            text,
            "no tunnel to {}: {}",
            word(failure, "gateway"),
            word(failure, "cause")
        );
    }
    text.push_str(&refused(status));
    text + &tables(status)
}

/// What gateways do not take: a line for each session of this node, and one for those of other nodes that a key does not
/// allow for.
fn refused(status: &Value) -> String {
    let own: BTreeSet<_> = list(status, "sessions")
        .map(|session| word(session, "id"))
        .collect();
    let (mut text, mut foreign) = (String::new(), BTreeMap::<_, BTreeSet<_>>::new());
    for tunnel in list(status, "tunnels") {
        let [gateway, id, kid] = ["gateway", "id", "kid"].map(|key| word(tunnel, key));
        for refused in list(tunnel, "refused") {
            let [session, code] = ["session", "code"].map(|key| word(refused, key));
            if code == Code::OutOfScope.word() && !own.contains(&session) {
                let of_key = foreign.entry((gateway.clone(), kid.clone()));
                of_key.or_default().insert(session);
                continue;
            }
            let _infallible = writeln!(
                text,
                "session {session} is refused by {gateway} (tunnel {id}): {code}"
            );
        }
    }
    for ((gateway, kid), sessions) in foreign {
        let _infallible = writeln!(
            text,
            "sessions of other nodes are not taken by {gateway}: {}, because key {kid} offers this node's own alone: {NEEDS_VIA}",
            sessions.len()
        );
    }
    text
}

fn tables(status: &Value) -> String {
    let mut text = String::new();
    let tunnels = [
        "gateway",
        "id",
        "transport",
        "remote",
        "kid",
        "seconds",
        "rtt_ms",
        "streams",
        "draining",
    ];
    let sessions = [
        "id", "protocol", "target", "access", "pool", "down", "served",
    ];
    let peers = [
        "node",
        "direction",
        "remote",
        "kid",
        "seconds",
        "rtt_ms",
        "streams",
        "cause",
    ];
    let _infallible = write!(text, "\n{}", table(status, "tunnels", &tunnels));
    if list(status, "peers").next().is_some() {
        let _infallible = write!(text, "\n{}", table(status, "peers", &peers));
    }
    let _infallible = write!(text, "\n{}", table(status, "sessions", &sessions));
    text
}

/// What is switched on this node, and what is wrong with what was edited there.
fn local(status: &Value) -> String {
    let settings: Settings = serde_json::from_value(status["settings"].clone()).unwrap_or_default();
    let fault = status["static_data_fault"].as_str();
    let fault = fault.map(|fault| format!("static data: {fault}\n"));
    let metrics: Vec<_> = list(status, "failing_metrics")
        .filter_map(Value::as_str)
        .collect();
    let metrics = if metrics.is_empty() {
        String::new()
    } else {
        let names = Escaped::new(&metrics.join(", "), FIELD).to_string();
        format!("metrics that fail: {names}; `sallyport-relay metrics` says why\n")
    };
    format!(
        "logins {}, starts {}, reservable {}{}\n{}{metrics}",
        switch(settings.login_enabled),
        switch(settings.start_enabled),
        switch(settings.reservable),
        if status["reserved"] == true {
            ", reserved"
        } else {
            ""
        },
        fault.unwrap_or_default()
    )
}

/// How many nodes there are, where they are heard.
fn cluster_text(cluster: &Value) -> String {
    let Some(nodes) = cluster["nodes"].as_u64() else {
        return String::new();
    };
    let stale = if cluster["stale"] == true {
        ", as they were when the bus was there last"
    } else {
        ""
    };
    let distrusted = cluster["distrusted"].as_str();
    let distrusted = distrusted.map(|what| format!("{what}\n"));
    format!(
        "cluster of {nodes} nodes{stale}\n{}",
        distrusted.unwrap_or_default()
    )
}

/// What is wrong with the store, if it cannot be used.
fn store_text(store: &Value) -> Option<String> {
    if store["ready"] != false {
        return None;
    }
    let transporter = word(store, "transporter");
    if store["step"].is_null() {
        return Some(format!("store ({transporter}): connecting"));
    }
    let [host, step, cause] = ["host", "step", "cause"].map(|key| word(store, key));
    Some(format!(
        "store ({transporter}): {host} fails at {step}: {cause}"
    ))
}

/// Who else says that it is this node, if somebody does, and which of the two has the name.
#[must_use]
pub fn rival(rival: &Value) -> Option<String> {
    let refused = rival["refused"].as_bool()?;
    let [hostname, id] = ["hostname", "id"].map(|key| word(rival, key));
    let machine = format!("machine {} (node id {id})", Escaped::new(&hostname, FIELD));
    Some(if refused {
        format!("the name of this node is taken: {machine} has it and was there first")
    } else {
        format!("{machine} was refused the name of this node")
    })
}

/// A store that other nodes have instead of this node's, and what to do about it.
fn other_store_text(other: &Value) -> String {
    let cure = word(other, "cure");
    format!("{}: {cure}\n", other_store(other))
}

/// Who has a store that is not this node's.
#[must_use]
pub fn other_store(other: &Value) -> String {
    let nodes: Vec<_> = list(other, "nodes").filter_map(Value::as_str).collect();
    let shown = nodes.iter().take(SHOWN).copied().collect::<Vec<_>>();
    let more = if nodes.len() > SHOWN { ", ..." } else { "" };
    let age = if other["older"] == true {
        "an older"
    } else {
        "a newer"
    };
    let nodes = Escaped::new(&shown.join(", "), FIELD).to_string();
    format!("another store than this node's, {age} one, is that of {nodes}{more}")
}

fn table(status: &Value, key: &str, columns: &[&str]) -> Table {
    let mut table = Table::new(columns);
    for row in list(status, key) {
        table.row(columns.iter().map(|column| word(row, column)));
    }
    table
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn word(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:.1}"),
            _ => number.to_string(),
        },
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_tunnels_sessions_and_what_is_wrong() {
        let status = json!({
            "node": "n1", "version": "1.2.3", "draining": true,
            "files": [{ "path": "/etc/gateway.json", "fault": "not there" }],
            "rival": { "hostname": "m2", "id": "abc", "refused": true, "cure": "set another `node`" },
            "config": { "epoch": 7, "fault": "not believed; epoch 7 holds" },
            "store": { "transporter": "nats", "ready": false, "host": "n9:4222", "step": "tcp", "cause": "refused",
                "others": [{ "older": true, "nodes": ["n2", "n3"], "cure": "copy broker.json" }] },
            "failures": [{ "gateway": "https://gw", "cause": "dns: no address" }],
            "tunnels": [{ "gateway": "https://other", "id": 7, "transport": "quic", "rtt_ms": 1.26, "draining": false,
                "kid": "k1", "refused": [{ "session": "desk", "code": "home_taken" }, { "session": "far-0", "code": "out_of_scope" },
                    { "session": "far-1", "code": "out_of_scope" }, { "session": "notebook", "code": "out_of_scope" }] },
                { "gateway": "https://other", "id": 8, "kid": "k1", "refused": [{ "session": "far-1", "code": "out_of_scope" },
                    { "session": "far-2", "code": "out_of_scope" }] }],
            "sessions": [{ "id": "notebook", "protocol": "http", "down": true, "served": 3, "pool": null }],
        });

        let text = text(&status);

        assert!(!text.contains("far-0"), "{text}");
        for part in [
            "not taken by https://other: 3, because key k1",
            "key add --via",
            "is taken: machine m2 (node id abc) has it and was there first: set another `node`",
            "session notebook is refused by https://other (tunnel 7): out_of_scope",
            "node n1, version 1.2.3, draining",
            "gateway file /etc/gateway.json: not there",
            "configuration of the cluster: not believed; epoch 7 holds",
            "store (nats): n9:4222 fails at tcp: refused",
            "another store than this node's, an older one, is that of n2, n3: copy broker.json",
            "no tunnel to https://gw: dns: no address",
            "session desk is refused by https://other (tunnel 7): home_taken",
            "https://other",
            "quic",
            "1.3",
            "notebook",
            "yes",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }
}
