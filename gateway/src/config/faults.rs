//! The checks of a configuration that was read.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use sallyport_edge::Limits;
use sallyport_wire::{ClusterName, PoolName, SessionId};

use super::{
    Cluster, Destination, Flows, Goal, Passthrough, Promotion, Raw, Tunnels, WrittenCluster,
    WrittenPassthrough, WrittenRaw,
};

/// Most tables of one kind: each listener costs descriptors and a task.
const MOST_LISTENERS: usize = 1_024;

/// Most clusters: each request looks its host up among them.
const MOST_CLUSTERS: usize = 256;

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
        cluster: ClusterName,
    ) -> Option<Destination> {
        let to = match (session, pool) {
            (Some(session), None) => Goal::Session(session),
            (None, Some(pool)) => Goal::Pool(pool),
            _ => {
                self.add(format!(
                    "{name}: exactly one of `session` and `pool` says where it leads"
                ));
                return None;
            }
        };
        Some(Destination { cluster, to })
    }

    pub(super) fn clusters(&mut self, written: Vec<WrittenCluster>) -> Vec<Cluster> {
        let mut checked = Vec::new();
        let mut seen = BTreeSet::new();
        if written.len() > MOST_CLUSTERS {
            self.add(format!("at most {MOST_CLUSTERS} [[cluster]] tables"));
        }
        for WrittenCluster {
            name,
            host,
            sessions_domain,
        } in written
        {
            let table = format!("[[cluster]] {name}");
            if name.is_default() {
                self.add(format!(
                    "{table}: `name` is empty: the names of the default cluster are `url` and `sessions_domain` of the file"
                ));
            } else if !seen.insert(name.clone()) {
                self.add(format!("{table}: the cluster stands there twice"));
            }
            let domain = self.domain(
                &format!("{table}: sessions_domain"),
                sessions_domain.as_deref(),
            );
            let host = self.domain(&format!("{table}: host"), Some(&host));
            checked.extend(host.map(|host| Cluster {
                name,
                host,
                sessions_domain: domain,
            }));
        }
        checked
    }

    /// Each host name means one thing: the page of one cluster, a session of one cluster, or TLS that is not opened.
    pub(super) fn names(
        &mut self,
        own: (&str, Option<&str>),
        clusters: &[Cluster],
        passthrough: &[Passthrough],
    ) {
        let others = clusters.iter().map(|cluster| {
            let domain = cluster.sessions_domain.as_deref();
            (cluster.host.as_str(), domain)
        });
        let all: Vec<_> = std::iter::once(own).chain(others).collect();
        for (place, (host, domain)) in all.iter().enumerate() {
            let before = all.iter().take(place);
            if before.clone().any(|(other, _)| other == host) {
                self.add(format!("{host} is the host of two clusters"));
            }
            if domain.is_some() && before.clone().any(|(_, other)| other == domain) {
                let domain = domain.unwrap_or_default();
                self.add(format!("{domain} is the sessions_domain of two clusters"));
            }
            if passthrough.iter().any(|entry| entry.sni == *host) {
                self.add(format!(
                    "{host} is the host of a cluster and stands in [[passthrough]]: it would never be opened"
                ));
            }
            let parent = host.split_once('.').map(|(_, parent)| parent);
            let mut rest = all.iter().enumerate().filter(|(other, _)| *other != place);
            if parent.is_some() && rest.any(|(_, (_, domain))| *domain == parent) {
                self.add(format!(
                    "{host} would be a session of another cluster, too: it lies directly below that one's sessions_domain"
                ));
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
