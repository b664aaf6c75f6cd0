//! What the gateway knows, told: to its administrator in full, to strangers hardly anything.

use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;
use sallyport_edge::opener::Page;
use sallyport_link::names::Binding;
use sallyport_link::{Transport, Tunnel};
use sallyport_ops::Table;
use sallyport_splice::LiveFigures;
use sallyport_wire::{ClusterName, ClusterNode, SessionId};
use serde::{Deserialize, Serialize};

use crate::hub::Hub;
use crate::registry::{Cluster, Member, Route};

/// The whole of `status --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Public URL.
    pub url: String,
    /// Version of the program.
    pub version: &'static str,
    /// Seconds since it started.
    pub uptime: u64,
    /// Whether it drains.
    pub draining: bool,
    /// Nodes that are connected.
    pub relays: Vec<RelayRow>,
    /// Their tunnels.
    pub tunnels: Vec<TunnelRow>,
    /// Sessions that they offer.
    pub sessions: Vec<SessionRow>,
    /// Streams open now.
    pub streams: Vec<LiveFigures>,
}

/// A node: connected, or known by name only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayRow {
    /// Its name.
    pub node: String,
    /// Whether probes cross one of its tunnels.
    pub up: bool,
    /// Generation of its newest process; 0 while it is away.
    pub generation: u64,
    /// Tunnels connected.
    pub tunnels: usize,
    /// Streams open on them.
    pub streams: usize,
    /// Its cluster.
    pub cluster: String,
    /// Its site.
    pub site: String,
    /// Version of its program.
    pub software: String,
    /// Node key that the name belongs to.
    pub key: String,
}

/// A tunnel.
#[derive(Debug, Clone, Serialize)]
pub struct TunnelRow {
    /// Its number.
    pub id: u64,
    /// Its node.
    pub node: String,
    /// Cluster of that node.
    pub cluster: String,
    /// What carries it.
    pub transport: Transport,
    /// The relay's address.
    pub remote: String,
    /// Key of gateway.json that it was proven with.
    pub kid: String,
    /// Generation of the process behind it.
    pub generation: u64,
    /// Whether probes cross it.
    pub up: bool,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// Round trip in milliseconds, once known.
    pub rtt_ms: Option<f64>,
    /// What a ping takes when it goes badly, in milliseconds, once known.
    pub delay_ms: Option<f64>,
    /// Whether other tunnels of its node are clearly faster, so that new streams go there.
    pub lagging: bool,
    /// Whether many bytes went through it lately, so that new streams rather take another.
    pub busy: bool,
    /// Streams open on it.
    pub streams: usize,
    /// Bytes written to the network.
    pub sent: u64,
    /// Bytes read from it.
    pub received: u64,
}

/// A session.
#[derive(Debug, Clone, Serialize)]
pub struct SessionRow {
    /// Its id.
    pub id: String,
    /// Its cluster.
    pub cluster: String,
    /// What it speaks.
    pub protocol: &'static str,
    /// Pool that it belongs to.
    pub pool: Option<String>,
    /// What keeps clients with one member of that pool, as its relay says; none for the default.
    pub sticky: Option<&'static str>,
    /// Node where it is at home.
    pub home: Option<String>,
    /// Nodes that hop to it.
    pub via: Vec<String>,
    /// Whether a client could reach it now.
    pub up: bool,
    /// Whether it lets clients without a login in.
    pub anonymous: bool,
    /// Whether its TLS is passed through unopened.
    pub blind: bool,
}

/// Everything, for the administrator.
pub fn status(hub: &Hub) -> Status {
    let registry = hub.registry();
    let mut tunnels: Vec<_> = registry
        .tunnels()
        .map(|member| TunnelRow::of(member))
        .collect();
    tunnels.sort_by(|a, b| (&a.cluster, &a.node, a.id).cmp(&(&b.cluster, &b.node, b.id)));
    let sessions = registry.clusters().flat_map(|(cluster, known)| {
        let sessions = known.sessions();
        sessions.map(move |(id, route)| SessionRow::of(cluster, id, route))
    });
    let mut sessions: Vec<_> = sessions.collect();
    sessions.sort_by(|a, b| (&a.cluster, &a.id).cmp(&(&b.cluster, &b.id)));
    drop(registry);
    let relays = relays(hub);
    Status {
        url: hub.config().url.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        uptime: hub.started.elapsed().as_secs(),
        draining: hub.is_draining(),
        relays: relays
            .into_iter()
            .filter(|relay| relay.tunnels > 0)
            .collect(),
        tunnels,
        sessions,
        streams: hub.ledger.list(),
    }
}

/// Every node whose name is bound, connected or not.
pub fn relays(hub: &Hub) -> Vec<RelayRow> {
    let names = hub.names.all();
    let registry = hub.registry();
    let row = |(node, owner): (ClusterNode, Binding)| {
        let members = registry.members(&node);
        let newest = members.iter().max_by_key(|member| member.who.generation);
        let text = |text: fn(&crate::registry::Who) -> &String| {
            newest
                .map(|member| text(&member.who).clone())
                .unwrap_or_default()
        };
        RelayRow {
            up: members.iter().any(|member| member.is_up()),
            generation: newest.map_or(0, |member| member.who.generation),
            tunnels: members.len(),
            streams: members.iter().map(|member| member.tunnel.streams()).sum(),
            cluster: node.cluster.to_string(),
            site: text(|who| &who.site),
            software: text(|who| &who.software),
            key: owner.key.to_string(),
            node: node.name.to_string(),
        }
    };
    names.into_iter().map(row).collect()
}

impl TunnelRow {
    fn of(member: &Member<Tunnel>) -> Self {
        let figures = member.tunnel.figures();
        Self {
            id: member.id,
            node: member.who.node.name.to_string(),
            cluster: member.who.node.cluster.to_string(),
            transport: member.tunnel.transport(),
            remote: member.tunnel.remote().to_string(),
            kid: member.grant().kid.clone(),
            generation: member.who.generation,
            up: member.is_up(),
            draining: member.is_draining() || member.is_replaced(),
            rtt_ms: figures.rtt.map(milliseconds),
            delay_ms: member.tunnel.delay().map(milliseconds),
            lagging: member.is_lagging(),
            busy: member.is_busy(),
            streams: figures.streams,
            sent: figures.sent,
            received: figures.received,
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

impl SessionRow {
    fn of(cluster: &ClusterName, id: &SessionId, route: &Route<Tunnel>) -> Self {
        let offer = route.offer();
        let home = route
            .home
            .first()
            .map(|path| path.member.who.node.name.to_string());
        let mut via: Vec<_> = route
            .via
            .iter()
            .map(|path| path.member.who.node.name.to_string())
            .collect();
        via.sort();
        via.dedup();
        Self {
            id: id.to_string(),
            cluster: cluster.to_string(),
            protocol: offer.map_or("", |offer| offer.protocol.word()),
            pool: offer
                .and_then(|offer| offer.pool.as_ref())
                .map(ToString::to_string),
            sticky: offer.and_then(|offer| offer.sticky.word()),
            home,
            via,
            up: route
                .paths()
                .any(|path| path.member.is_up() && !path.offer.down),
            anonymous: offer.is_some_and(|offer| offer.anonymous),
            blind: offer.is_some_and(|offer| offer.blind),
        }
    }
}

/// The page at `/` of a cluster's host: that the gateway works, and how many of the cluster's sessions anyone may open. No
/// names, no addresses.
pub fn front_page(hub: &Hub, cluster: &ClusterName, json: bool) -> Page {
    let registry = hub.registry();
    let open = |route: &Route<Tunnel>| {
        route
            .paths()
            .any(|path| path.offer.anonymous && !path.offer.down && path.member.is_up())
    };
    let known = registry.cluster(cluster);
    let routes = known.into_iter().flat_map(Cluster::sessions);
    let sessions = routes.filter(|(_, route)| open(route)).count();
    if json {
        let body = format!("{{\"result\":{{\"gateway\":\"ok\",\"public_sessions\":{sessions}}}}}");
        return page("application/json", body);
    }
    let noun = if sessions == 1 {
        "session is"
    } else {
        "sessions are"
    };
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Sallyport</title></head>\n\
         <body><h1>Sallyport</h1>\n<p>The gateway works. {sessions} public {noun} open.</p>\n\
         <p>A session is under <code>/s/&lt;session&gt;/</code>.</p></body></html>\n"
    );
    page("text/html; charset=utf-8", body)
}

fn page(content_type: &'static str, body: String) -> Page {
    Page {
        status: StatusCode::OK,
        content_type,
        body: body.into(),
    }
}

/// `status` as text, from the JSON of a running gateway.
pub fn as_text(status: &serde_json::Value) -> String {
    let mut out = String::new();
    let field = |name| cell(status.get(name));
    let uptime = status
        .get("uptime")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    let draining = if field("draining") == "yes" {
        ", draining"
    } else {
        ""
    };
    let head = format!(
        "{} ({}), up {}{draining}\n",
        field("url"),
        field("version"),
        age(uptime)
    );
    out.push_str(&head);
    for (title, list, columns) in LISTS {
        let rows = status.get(list).and_then(serde_json::Value::as_array);
        let rows = rows.map(Vec::as_slice).unwrap_or_default();
        let count = rows.len();
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "\n{title}: {count}");
        if count > 0 {
            out.push_str(&listing(rows, columns));
        }
    }
    out
}

/// Heading and field of each column.
pub type Columns = &'static [(&'static str, &'static str)];

/// Title, field of the status, and its columns: heading and field.
const LISTS: [(&str, &str, Columns); 4] = [
    ("Relays", "relays", RELAYS),
    (
        "Tunnels",
        "tunnels",
        &[
            ("TUNNEL", "id"),
            ("NODE", "node"),
            ("CLUSTER", "cluster"),
            ("OVER", "transport"),
            ("FROM", "remote"),
            ("UP", "up"),
            ("DRAINING", "draining"),
            ("RTT MS", "rtt_ms"),
            ("DELAY MS", "delay_ms"),
            ("LAGGING", "lagging"),
            ("BUSY", "busy"),
            ("STREAMS", "streams"),
            ("SENT", "sent"),
            ("RECEIVED", "received"),
            ("KEY", "kid"),
        ],
    ),
    (
        "Sessions",
        "sessions",
        &[
            ("SESSION", "id"),
            ("CLUSTER", "cluster"),
            ("PROTOCOL", "protocol"),
            ("HOME", "home"),
            ("POOL", "pool"),
            ("UP", "up"),
            ("PUBLIC", "anonymous"),
        ],
    ),
    (
        "Streams",
        "streams",
        &[
            ("STREAM", "id"),
            ("SESSION", "session"),
            ("CLUSTER", "cluster"),
            ("NODE", "node"),
            ("CLIENT", "client"),
            ("KIND", "kind"),
            ("OVER", "transport"),
            ("SECONDS", "seconds"),
            ("PROMOTED", "promoted"),
            ("UP BYTES", "up"),
            ("DOWN BYTES", "down"),
        ],
    ),
];

/// Columns of the relays.
pub const RELAYS: Columns = &[
    ("NODE", "node"),
    ("UP", "up"),
    ("TUNNELS", "tunnels"),
    ("STREAMS", "streams"),
    ("CLUSTER", "cluster"),
    ("SITE", "site"),
    ("VERSION", "software"),
];

/// A list of JSON objects as a table.
pub fn listing(rows: &[serde_json::Value], columns: &[(&str, &str)]) -> String {
    let headings: Vec<_> = columns.iter().map(|(heading, _)| *heading).collect();
    let mut table = Table::new(&headings);
    for row in rows {
        table.row(columns.iter().map(|(_, field)| cell(row.get(*field))));
    }
    table.to_string()
}

fn cell(value: Option<&serde_json::Value>) -> String {
    use serde_json::Value;
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_f64() => number
            .as_f64()
            .map(|number| format!("{number:.1}"))
            .unwrap_or_default(),
        Some(other) => other.to_string(),
    }
}

fn age(seconds: u64) -> String {
    let whole = Duration::from_secs(seconds).as_secs();
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_shows_each_list_with_its_figures() {
        let text = as_text(&json!({
            "url": "https://gw.example.org", "version": "1.2.3", "uptime": 93_784, "draining": false,
            "relays": [{ "node": "n1", "up": true, "tunnels": 2, "streams": 7, "site": "" }],
            "tunnels": [],
            "sessions": [{ "id": "desk", "protocol": "http", "home": null, "up": false }],
            "streams": [{ "id": "r1", "session": "desk", "up": 12, "down": 34 }],
        }));

        assert!(
            text.starts_with("https://gw.example.org (1.2.3), up 1 d 2 h\n"),
            "{text}"
        );
        for part in [
            "Relays: 1",
            "n1",
            "Tunnels: 0",
            "Sessions: 1",
            "desk",
            "Streams: 1",
            "34",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn ages_are_rounded_to_what_matters() {
        let ages = [
            (59, "59 s"),
            (60, "1 min"),
            (3_660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ];
        for (seconds, text) in ages {
            assert_eq!(age(seconds), text);
        }
    }
}
