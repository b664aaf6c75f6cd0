//! The checks of a configuration that was read.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use sallyport_edge::Limits;
use sallyport_wire::{PoolName, SessionId};

use super::{
    Destination, Flows, Passthrough, Promotion, Raw, Tunnels, WrittenPassthrough, WrittenRaw,
};

/// Most tables of one kind: each listener costs descriptors and a task.
const MOST_LISTENERS: usize = 1_024;

/// What a relay takes.
const MOST_STREAMS: usize = 4_096;

/// Everything that is wrong with a file, so that it is mended in one go.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<String>);

impl Faults {
    fn add(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        key: &str,
        text: &str,
    ) -> Option<T> {
        text.parse()
            .map_err(|error| self.add(format!("`{key}`: {error}")))
            .ok()
    }

    pub(super) fn raw(&mut self, table: &str, written: Vec<WrittenRaw>) -> Vec<Raw> {
        let mut checked = Vec::new();
        for raw in written {
            let name = format!("[[{table}]] {}", raw.listen);
            if raw.listen.port() == 0 {
                self.add(format!("{name}: `listen` needs a port"));
            }
            let to = self.destination(&name, raw.session, raw.pool, raw.cluster);
            checked.extend(to.map(|to| Raw {
                listen: raw.listen,
                to,
            }));
        }
        checked
    }

    pub(super) fn passthrough(&mut self, written: Vec<WrittenPassthrough>) -> Vec<Passthrough> {
        let mut checked = Vec::new();
        let mut seen = BTreeSet::new();
        for entry in written {
            let name = format!("[[passthrough]] {}", entry.sni);
            let Some(sni) = self.domain(&format!("{name}: sni"), Some(&entry.sni)) else {
                continue;
            };
            if !seen.insert(sni.clone()) {
                self.add(format!("{name}: the name stands there twice"));
            }
            let to = self.destination(&name, entry.session, entry.pool, entry.cluster);
            checked.extend(to.map(|to| Passthrough { sni, to }));
        }
        checked
    }

    fn destination(
        &mut self,
        name: &str,
        session: Option<SessionId>,
        pool: Option<PoolName>,
        cluster: String,
    ) -> Option<Destination> {
        match (session, pool) {
            (Some(session), None) => Some(Destination::Session(session)),
            (None, Some(pool)) => Some(Destination::Pool { pool, cluster }),
            _ => {
                self.add(format!(
                    "{name}: exactly one of `session` and `pool` says where it leads"
                ));
                None
            }
        }
    }

    /// A DNS name: lower case from here on, no dot at its end.
    pub(super) fn domain(&mut self, key: &str, text: Option<&str>) -> Option<String> {
        let name = text?.trim_end_matches('.').to_ascii_lowercase();
        let label = |label: &str| label.parse::<SessionId>().is_ok();
        let is_address = text?.parse::<IpAddr>().is_ok();
        if !is_address && name.len() <= 253 && name.contains('.') && name.split('.').all(label) {
            return Some(name);
        }
        self.add(if is_address {
            format!(
                "`{key}` is a DNS name: for an address clients send no server name (RFC 6066 §3)"
            )
        } else {
            format!("`{key}` is a DNS name such as sessions.example.org, without a wildcard")
        });
        None
    }

    pub(super) fn admin(&mut self, admin: Option<SocketAddr>) {
        if admin.is_some_and(|addr| !addr.ip().is_loopback()) {
            self.add("`admin` is a loopback address such as 127.0.0.1:9300");
        }
    }

    pub(super) fn limits(&mut self, limits: &Limits, tunnels: &Tunnels, flows: &Flows) {
        if let Some(fault) = limits.fault() {
            self.add(format!("[limits] {fault}"));
        }
        let counts = [
            ("tunnels.most", tunnels.most),
            ("tunnels.per_key", tunnels.per_key.into()),
            ("tunnels.per_node", tunnels.per_node),
            ("tunnels.sessions", tunnels.sessions),
            ("tunnels.streams", tunnels.streams),
            ("tunnels.streams_per_source", tunnels.streams_per_source),
            ("tunnels.names", tunnels.names),
            ("tunnels.names_per_key", tunnels.names_per_key),
            ("tunnels.tokens", tunnels.tokens),
            ("tunnels.lost_homes", tunnels.lost_homes),
            (
                "tunnels.probe_misses",
                usize::from(tunnels.probe_misses > 0),
            ),
            ("flows.most", flows.most),
            ("flows.per_source", flows.per_source),
            ("flows.queue", flows.queue),
        ];
        for (key, _) in counts.iter().filter(|(_, count)| *count == 0) {
            self.add(format!("`{key}` must be at least 1"));
        }
        let times = [
            ("tunnels.probe_every", tunnels.probe_every),
            ("tunnels.silent_after", tunnels.silent_after),
            ("tunnels.token_age", tunnels.token_age),
            ("tunnels.rotate_every", tunnels.rotate_every),
            ("flows.idle", flows.idle),
        ];
        for (key, _) in times.iter().filter(|(_, time)| time.is_zero()) {
            self.add(format!("`{key}` must be longer than 0"));
        }
        let shares = [
            ("tunnels.per_key", tunnels.per_key),
            ("tunnels.prove_address_at", tunnels.prove_address_at),
        ];
        for (key, _) in shares.iter().filter(|(_, share)| *share > 100) {
            self.add(format!("`{key}` is a share in percent, at most 100"));
        }
        if tunnels.streams > MOST_STREAMS {
            self.add("`tunnels.streams` is at most 4096: a relay takes no more");
        }
    }

    pub(super) fn promotion(&mut self, promotion: &Promotion) {
        if promotion.after == 0 {
            self.add("`promotion.after` must be at least 1");
        }
        let times = [
            ("promotion.wait", promotion.wait),
            ("promotion.idle", promotion.idle),
        ];
        for (key, _) in times.iter().filter(|(_, time)| time.is_zero()) {
            self.add(format!("`{key}` must be longer than 0"));
        }
    }

    pub(super) fn listeners(&mut self, listen: &[SocketAddr], tcp: &[Raw], udp: &[Raw]) {
        if listen.is_empty() {
            self.add("`listen` needs at least one address");
        }
        for (kind, raws) in [("tcp", tcp), ("udp", udp)] {
            let all = listen.iter().chain(raws.iter().map(|raw| &raw.listen));
            let mut seen = BTreeSet::new();
            for twice in all.filter(|addr| addr.port() != 0 && !seen.insert(**addr)) {
                self.add(format!("{twice} stands there twice for {kind}"));
            }
            if raws.len() > MOST_LISTENERS {
                self.add(format!("at most {MOST_LISTENERS} [[{kind}]] tables"));
            }
        }
    }
}
