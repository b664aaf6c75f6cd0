//! Server objects: what this node says about itself, and how a person reads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Zoned;
use sallyport_link::GatewayUrl;
use sallyport_node::members::Member;
use sallyport_node::server::Usage;
use sallyport_node::settings::Circumstances;
use sallyport_node::{GatewayLink, Machine, Server, Settings};
use sallyport_ops::{Admin, Table, Tasks};
use sallyport_placement::filter::{Known, Look, Roster};
use sallyport_placement::pending::{Counts, Pending};
use sallyport_placement::reservations::Reservations;
use sallyport_wire::NodeName;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::global::Global;
use crate::local::Local;
use crate::membership::{Observer, Tenure};
use crate::metrics::Gauges;
use crate::outfit::Outfit;
use crate::reservations::is_reserved;

/// `GET`: every server that this relay knows of.
pub const SERVERS: &str = "/servers";

/// Makes this node's server object.
#[derive(Debug, Clone)]
pub struct Describer {
    /// Who the relay is, and its tunnels and sessions.
    pub outfit: Arc<Outfit>,
    /// What is local to the node.
    pub local: Arc<Local>,
    /// Groups of the node.
    pub groups: Vec<String>,
    /// Its metrics.
    pub gauges: Gauges,
    /// The cluster's configuration.
    pub global: Global,
    /// What is on its way to each server.
    pub pending: Pending,
    /// Which servers somebody has for himself.
    pub reservations: Reservations,
}

impl Describer {
    /// The node as it is now.
    #[must_use]
    pub fn describe(&self) -> Server {
        let person = &self.outfit.person;
        let machine = Machine::clone(&self.local.machine.borrow());
        let settings = self.local.settings.now();
        let closed = settings.closed(&circumstances(&machine));
        let gateways = self.outfit.board.links();
        Server {
            server_id: person.node.clone(),
            generation: person.generation,
            urls: urls(&gateways, self.outfit.streams.sessions().direct_url()),
            gateways,
            site: person.site.clone(),
            groups: self.groups.clone(),
            usage: Usage {
                sessions: self.outfit.streams.sessions().len() as u64,
                streams: self.outfit.streams.ledger().len() as u64,
                reserved: settings.reservable && is_reserved(&self.reservations, &person.node),
                ..Usage::default()
            },
            static_data: self.local.static_data.now().data.as_ref().clone(),
            metrics: self.gauges.values().collect(),
            login_enabled: settings.login_enabled,
            start_enabled: settings.start_enabled && closed.is_none(),
            start_closed: closed.filter(|_| settings.start_enabled),
            reservable: settings.reservable,
            draining: settings.drain.is_some() || self.outfit.leaving.is_cancelled(),
            drain_deadline: deadline(&settings),
            config_epoch: self.global.epoch(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            last_update: milliseconds(OffsetDateTime::now_utc()),
            machine,
        }
    }
}

fn circumstances(machine: &Machine) -> Circumstances<'_> {
    let [load, ..] = machine.loadavg;
    Circumstances {
        local: Zoned::now().datetime(),
        logged_in: &machine.logged_in_users,
        load,
        ncpu: machine.ncpu,
    }
}

/// Where clients come in: the gateways that it is connected to, then its own port.
fn urls(gateways: &[GatewayLink], direct: Option<&GatewayUrl>) -> Vec<String> {
    let up = gateways.iter().filter(|link| link.tunnels > 0);
    let up = up.map(|link| link.url.clone());
    up.chain(direct.map(ToString::to_string)).collect()
}

fn deadline(settings: &Settings) -> Option<i64> {
    settings.drain?.deadline.map(milliseconds)
}

/// Milliseconds since 1970, as JavaScript counts time.
fn milliseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// Every server that this relay knows of.
#[derive(Debug, Clone)]
pub struct Servers {
    /// Its own.
    pub describer: Describer,
    /// Hears of the others; none where no bus joins them.
    pub observer: Option<Observer>,
    /// Whether it does so all the time.
    pub observes: bool,
    /// Whether the node's name is its own; none where no bus joins it to others.
    pub tenure: Option<Tenure>,
    /// Owner of what listens while somebody asks.
    pub tasks: Tasks,
}

impl Roster for Servers {
    fn look(&self) -> Option<Look> {
        let (others, stale) = match &self.observer {
            None => (Vec::new(), false),
            Some(observer) => self
                .observes
                .then(|| (observer.others(), observer.is_stale()))?,
        };
        let own = Known {
            server: Arc::new(self.describer.describe()),
            heard: Instant::now(),
        };
        let others = others.into_iter().map(|other| Known {
            server: other.server,
            heard: other.heard,
        });
        let servers = [own].into_iter().chain(others).collect();
        Some(Look { servers, stale })
    }
}

impl Servers {
    /// The others. Who does not observe them listens to them for one round.
    pub async fn others(&self) -> Vec<Member> {
        match &self.observer {
            None => Vec::new(),
            Some(observer) if self.observes => observer.others(),
            Some(observer) => observer.survey(&self.tasks).await.others,
        }
    }

    /// They as they are now, by name.
    async fn list(&self) -> Vec<Value> {
        let others = self.others().await;
        let is_stale = |observer: &Observer| self.observes && observer.is_stale();
        let stale = self.observer.as_ref().is_some_and(is_stale);
        let own = Arc::new(self.describer.describe());
        let own = (own, Duration::ZERO, false);
        let others = others.into_iter();
        let others = others.map(|other| (other.server, other.heard.elapsed(), stale));
        let mut servers: Vec<_> = others.chain([own]).collect();
        servers.sort_by(|(one, ..), (other, ..)| one.server_id.cmp(&other.server_id));
        let newest = servers.iter().map(|(server, ..)| server.config_epoch).max();
        let now = Instant::now();
        let heard: BTreeMap<_, _> = servers
            .iter()
            .map(|(server, age, _)| (&server.server_id, now.checked_sub(*age)))
            .collect();
        let heard = |node: &NodeName| heard.get(node).copied().flatten();
        let pending = self.describer.pending.counts(heard);
        let listed = servers
            .iter()
            .map(|server| listed(server, newest, &pending));
        listed.collect()
    }
}

/// A server, how long ago it said so, and whether it may be otherwise by now; and whether another one has a newer
/// configuration than it. What is on its way there counts as `pending`.
fn listed(
    (server, age, stale): &(Arc<Server>, Duration, bool),
    newest: Option<u64>,
    pending: &Counts,
) -> Value {
    let mut shown = json!(server);
    let on_its_way = pending.get(&server.server_id).copied().unwrap_or(0);
    shown["pending"] = json!(server.usage.pending.saturating_add(on_its_way));
    shown["ageMs"] = json!(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    shown["stale"] = json!(stale);
    shown["behind"] = json!(Some(server.config_epoch) < newest);
    shown
}

/// Adds `GET /servers`.
#[must_use]
pub fn route(admin: Admin, servers: Servers) -> Admin {
    admin.route(Method::GET, SERVERS, move |_request| {
        let servers = servers.clone();
        Box::pin(async move { Ok(servers.list().await.into()) })
    })
}

/// The servers as a person reads them.
#[must_use]
pub fn text(servers: &Value) -> String {
    let mut table = Table::new(&[
        "server",
        "state",
        "login",
        "start",
        "sessions",
        "logins",
        "cpus",
        "load",
        "cpu%",
        "memory free",
        "gpus",
        "gateways",
        "site",
        "version",
    ]);
    for shown in servers.as_array().into_iter().flatten() {
        // what another version says differently is left out, not guessed
        if let Ok(server) = serde_json::from_value::<Server>(shown.clone()) {
            table.row(row(
                &server,
                shown["stale"] == true,
                shown["behind"] == true,
            ));
        }
    }
    table.to_string()
}

fn row(server: &Server, stale: bool, behind: bool) -> [String; 14] {
    let machine = &server.machine;
    let [load, ..] = machine.loadavg;
    let up = server.gateways.len() - server.links_down().count();
    [
        server.server_id.to_string(),
        match (stale, server.draining, behind) {
            (true, _, _) => "stale",
            (false, true, _) => "draining",
            (false, false, true) => "behind",
            (false, false, false) => "up",
        }
        .to_owned(),
        switch(server.login_enabled).to_owned(),
        match (server.start_enabled, &server.start_closed) {
            (false, Some(_closed)) => "closed".to_owned(),
            (enabled, _) => switch(enabled).to_owned(),
        },
        server.usage.sessions.to_string(),
        server.usage.logins.to_string(),
        machine.ncpu.to_string(),
        format!("{load:.2}"),
        format!("{:.0}", machine.cpu),
        format!(
            "{} of {}",
            gib(machine.mem_available),
            gib(machine.totalmem)
        ),
        machine.gpus.len().to_string(),
        format!("{up} of {}", server.gateways.len()),
        server.site.clone(),
        server.version.clone(),
    ]
}

/// `on` or `off`, as the commands say it.
#[must_use]
pub const fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Tenths of a GiB.
fn gib(bytes: u64) -> String {
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{}G", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_who_takes_whom_and_which_links_are_down() {
        let server = |more: Value| {
            let mut server = json!({
                "serverId": "n1", "generation": 1, "loginEnabled": true, "startEnabled": true, "reservable": false,
                "version": "1.2.3", "lastUpdate": 0, "loadavg": [0.5, 0.0, 0.0], "ncpu": 64,
                "memAvailable": 3_u64 << 29, "totalmem": 4_u64 << 30,
            });
            if let (Value::Object(server), Value::Object(more)) = (&mut server, more) {
                server.extend(more);
            }
            server
        };
        let links = json!([{ "url": "https://a", "tunnels": 2 }, { "url": "https://b", "tunnels": 0, "cause": "dns" }]);
        let closed =
            json!({ "startEnabled": false, "startClosed": "outside the start hours sat-sun" });
        let servers = json!([
            server(json!({ "gateways": links, "site": "north" })),
            server(json!({ "draining": true, "loginEnabled": false })),
            server(closed),
            server(json!({ "stale": true, "draining": true, "behind": true })),
            server(json!({ "behind": true })),
            { "serverId": "of a version that we do not know" },
        ]);

        let text = text(&servers);

        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .filter(|cell| !cell.is_empty())
                    .map(str::trim)
                    .collect()
            })
            .collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert_eq!(lines[1][..4], ["n1", "up", "on", "on"]);
        assert_eq!(
            lines[1][6..],
            [
                "64",
                "0.50",
                "0",
                "1.5G of 4.0G",
                "0",
                "1 of 2",
                "north",
                "1.2.3"
            ]
        );
        assert_eq!(lines[2][..4], ["n1", "draining", "off", "on"]);
        assert_eq!(lines[3][3], "closed");
        assert_eq!((lines[4][1], lines[5][1]), ("stale", "behind"));
    }
}
