//! Whether the clusters of gateway.toml and those of the keys are the same.

use std::collections::BTreeSet;

use sallyport_link::Key;
use sallyport_wire::ClusterName;
use time::OffsetDateTime;
use tracing::warn;

use crate::config::Config;

/// What does not fit together, a line for each. None of it keeps a gateway from running: either file may be about to
/// follow the other.
pub fn remarks(config: &Config, keys: &[Key], now: OffsetDateTime) -> Vec<String> {
    let live = keys.iter().filter(|key| key.is_live(now));
    let keyed: BTreeSet<_> = live.map(|key| &key.scope.cluster).collect();
    let listed: BTreeSet<_> = config
        .clusters
        .iter()
        .map(|cluster| &cluster.name)
        .collect();
    let hostless = keyed
        .iter()
        .filter(|name| !name.is_default() && !listed.contains(*name));
    let hostless = hostless.map(|name| {
        format!(
            "{name} has keys and no [[cluster]] in gateway.toml: its sessions have no host, and are reached by [[tcp]], \
             [[udp]] and [[passthrough]] alone"
        )
    });
    let keyless = listed.iter().filter(|name| !keyed.contains(*name));
    let keyless = keyless.map(|name| {
        format!("{name} has no key, so no relay can serve it: sallyport-gateway key add --cluster {name}")
    });
    let is_unknown =
        |name: &ClusterName| !name.is_default() && !keyed.contains(name) && !listed.contains(name);
    let unknown = destinations(config).filter(|(_, name)| is_unknown(name));
    let unknown = unknown.map(|(entry, name)| {
        format!("{name} stands in {entry} alone: neither a key nor a [[cluster]] has that name")
    });
    hostless.chain(keyless).chain(unknown).collect()
}

/// Logs [`remarks`].
pub fn log(config: &Config, keys: &[Key]) {
    for cause in remarks(config, keys, OffsetDateTime::now_utc()) {
        warn!(cause, "a cluster is not complete");
    }
}

/// What leads to a cluster without a host's help, and the cluster.
fn destinations(config: &Config) -> impl Iterator<Item = (String, &ClusterName)> {
    let tcp = config.tcp.iter().map(|raw| ("tcp", raw));
    let udp = config.udp.iter().map(|raw| ("udp", raw));
    let raw = tcp.chain(udp);
    let raw = raw.map(|(table, raw)| (format!("[[{table}]] {}", raw.listen), &raw.to.cluster));
    let passthrough = config.passthrough.iter();
    raw.chain(
        passthrough.map(|entry| (format!("[[passthrough]] {}", entry.sni), &entry.to.cluster)),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sallyport_wire::Scope;

    use super::*;

    fn key(cluster: &str) -> Key {
        let scope = Scope {
            cluster: cluster.parse().expect("a name"),
            ..Scope::default()
        };
        Key::generate(scope, None).expect("a key")
    }

    fn told(toml: &str, clusters: &[&str]) -> Vec<String> {
        let text = format!("url = \"https://gw.example.org\"\n{toml}");
        let config = Config::parse(&text, Path::new("/etc/sallyport/gateway.toml")).expect("fair");
        let keys: Vec<_> = clusters.iter().map(|name| key(name)).collect();
        remarks(&config, &keys, OffsetDateTime::now_utc())
    }

    #[test]
    fn what_fits_together_is_not_remarked_on() {
        let bio = "[[tcp]]\nlisten = \"[::]:22\"\nsession = \"ssh\"\ncluster = \"bio\"\n\
            [[cluster]]\nname = \"bio\"\nhost = \"bio.example.org\"\n";

        assert_eq!(told("", &["", ""]), [""; 0]);
        assert_eq!(told(bio, &["", "bio"]), [""; 0]);
    }

    #[test]
    fn what_one_file_says_and_the_other_does_not_is_named() {
        let said = told("", &["", "bio", "bio"]);
        assert!(
            matches!(said.as_slice(), [one] if one.contains("bio has keys and no [[cluster]]")),
            "{said:?}"
        );

        let said = told(
            "[[cluster]]\nname = \"bio\"\nhost = \"bio.example.org\"\n",
            &[""],
        );
        assert!(
            matches!(said.as_slice(), [one] if one.contains("key add --cluster bio")),
            "{said:?}"
        );

        let port = "[[udp]]\nlisten = \"[::]:53\"\npool = \"dns\"\ncluster = \"boi\"\n\
            [[passthrough]]\nsni = \"desk.example.org\"\nsession = \"desk\"\ncluster = \"boi\"\n";
        let said = told(port, &["bio"]);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said.iter()
                .any(|one| one.contains("boi stands in [[udp]] [::]:53 alone")),
            "{said:?}"
        );
        assert!(
            said.iter()
                .any(|one| one.contains("[[passthrough]] desk.example.org")),
            "{said:?}"
        );
    }
}
