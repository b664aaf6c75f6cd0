//! `doctor`: walks the way to each gateway and to the cluster's broker, step by step, and says at each what to change and where;
//! then it looks which configuration of the cluster this node works with.

use std::path::Path;
use std::sync::Arc;

use sallyport_cluster::{Transporter, broker_beside};
use sallyport_link::identity::IDENTITY_FILE;
use sallyport_link::{Dialer, NodeIdentity, Settings};
use sallyport_ops::{Table, Tasks, places};
use serde::Serialize;

use crate::config::Config;
use crate::gateways::Files;
use crate::outfit::Person;
use crate::run;

mod broker;
mod configuration;
mod heard;
mod visit;

use visit::Visit;

/// Receive buffer that QUIC asks for, in bytes.
const WANTED_BUFFER: u64 = 8 << 20;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, and could be better.
    Warn,
    /// Something is to be mended.
    Fail,
    /// Not tested, because of what the text says.
    Skip,
}

/// What was found at one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The gateway's URL, or the broker's server as `broker HOST:PORT`; empty for what concerns all.
    pub gateway: String,
    /// The step: `files`, `identity`, `dns`, `proxy`, `tcp`, `tls`, `clock`, `auth`, `via`, `udp`, `buffers`; for the broker
    /// `store` (also for nodes that have another one), the steps of [`sallyport_cluster::Step`], and `peers`; `config` for the cluster's configuration, `name` for another
    /// machine under the name of this node.
    pub step: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to change and where; empty when there is nothing to do.
    pub cure: String,
}

/// Walks all the way to every gateway of the configuration.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut files = Files::new(config.gateway_files.clone());
    let wanted = files.read();
    findings.extend(file_findings(config, &files));
    let (person, finding) = person(config);
    findings.push(finding);
    let proxies = run::proxies(config);
    if let Err(error) = &proxies {
        let cure = "mend `proxy` in relay.toml, or HTTPS_PROXY in the relay's environment";
        findings.push(finding_of("", "proxy", Verdict::Fail, (error, cure)));
    }
    if let Ok(proxies) = proxies {
        let dialer = Dialer::new(Arc::new(Settings::relay()), proxies.clone(), Tasks::new());
        for wanted in wanted.values() {
            let visit = Visit {
                config,
                wanted,
                proxies: &proxies,
                dialer: &dialer,
                person: person.as_ref(),
            };
            findings.extend(visit.walk().await);
        }
        dialer.farewell().await;
    }
    let quic = |finding: &Finding| finding.step == "udp" && finding.verdict == Verdict::Ok;
    if findings.iter().any(quic) {
        findings.push(buffers(Path::new("/proc/sys/net/core/rmem_max")));
    }
    findings.extend(broker::examine(config).await);
    findings.extend(heard::examine(config).await);
    findings
}

/// One line a finding, with the cure below what failed.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    let mut table = Table::new(&["gateway", "step", "verdict", "seen"]);
    let verdict = |verdict| match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
        Verdict::Skip => "skip",
    };
    for finding in findings {
        let seen = finding.seen.clone();
        table.row([
            finding.gateway.clone(),
            finding.step.to_owned(),
            verdict(finding.verdict).to_owned(),
            seen,
        ]);
    }
    let cures = findings.iter().filter(|finding| !finding.cure.is_empty());
    let cures = cures.map(|finding| {
        format!("{} {}: {}\n", finding.gateway, finding.step, finding.cure)
            .trim_start()
            .to_owned()
    });
    let cures: String = cures.collect();
    if cures.is_empty() {
        return format!("{table}\nNothing to mend.\n");
    }
    format!("{table}\nWhat to do:\n{cures}")
}

/// One array.
#[must_use]
pub fn json(findings: &[Finding]) -> String {
    serde_json::to_string_pretty(findings).unwrap_or_default() + "\n"
}

fn finding_of(
    gateway: &str,
    step: &'static str,
    verdict: Verdict,
    (seen, cure): (&impl ToString, &str),
) -> Finding {
    Finding {
        gateway: gateway.to_owned(),
        step,
        verdict,
        seen: seen.to_string(),
        cure: cure.to_owned(),
    }
}

fn file_findings(config: &Config, files: &Files) -> Vec<Finding> {
    if config.gateway_files.is_empty() {
        return vec![without_gateway(config)];
    }
    let listing = files.listing();
    if listing.is_empty() {
        let cure = "copy gateway.json from the gateway into the folder that gateway_file names";
        return vec![finding_of(
            "",
            "files",
            Verdict::Fail,
            (&"the folder has no gateway file", cure),
        )];
    }
    let finding = |(path, fault): (std::path::PathBuf, Option<String>)| match fault {
        None => finding_of("", "files", Verdict::Ok, (&path.display(), "")),
        Some(fault) => {
            let cure = format!("copy {} from the gateway, with mode 0600", path.display());
            finding_of("", "files", Verdict::Fail, (&fault, &cure))
        }
    };
    listing.into_iter().map(finding).collect()
}

/// A node without gateways is in order as long as somebody can come to it.
fn without_gateway(config: &Config) -> Finding {
    let said = |verdict, seen: &str, cure| finding_of("", "files", verdict, (&seen, cure));
    if config.direct.is_some() {
        let seen = "no gateway_file: this node is reached at its own port ([direct] listen) alone";
        return said(Verdict::Skip, seen, "");
    }
    if is_among_others(config) {
        let seen = "no gateway_file: this node is reached through other nodes of its cluster alone";
        return said(Verdict::Skip, seen, "");
    }
    let cure = "for a gateway, write gateway_file = \"gateway.json\" in relay.toml and copy the gateway's file there; \
                without one, open the node's own port with [direct] listen = \"[::]:3300\"";
    said(
        Verdict::Fail,
        "nobody reaches this node: no gateway_file, no [direct] port and no other nodes are configured",
        cure,
    )
}

/// Whether the configuration knows of other nodes, or of a broker that does.
fn is_among_others(config: &Config) -> bool {
    let broker = broker_beside(&config.path).ok().flatten();
    let is_shared = broker.is_some_and(|broker| broker.transporter != Transporter::Embedded);
    is_shared || !config.peers.is_empty()
}

/// Who would say hello. A node that has never started has no key, and doctor makes none: it may run as another user
/// than the relay. A passing one will do, because the gateway binds nothing to whoever only asks.
fn person(config: &Config) -> (Option<Person>, Finding) {
    let finding = |verdict, seen: &dyn std::fmt::Display, cure: &str| {
        finding_of("", "identity", verdict, (&seen.to_string(), cure))
    };
    let (state, node) = (places::state_dir(&config.path), &config.node);
    let file = state.join(IDENTITY_FILE);
    let known = match file.try_exists() {
        Ok(known) => known,
        Err(cause) => {
            let seen = format!("{}: {cause}", file.display());
            return (
                None,
                finding(Verdict::Fail, &seen, "run doctor as the relay's user"),
            );
        }
    };
    let identity = if known {
        NodeIdentity::load_or_create(&state)
    } else {
        NodeIdentity::passing()
    };
    let identity = match identity {
        Ok(identity) => identity,
        Err(error) => {
            let cure = "mend the file, or run doctor as the relay's user";
            return (None, finding(Verdict::Fail, &error, cure));
        }
    };
    let seen = if known {
        format!("node {node}, id {}", identity.id())
    } else {
        format!("node {node}, without a key until its first start")
    };
    let person = Person {
        features: Vec::new(),
        node: node.clone(),
        site: config.site.clone(),
        generation: 1,
        identity,
    };
    (Some(person), finding(Verdict::Ok, &seen, ""))
}

fn buffers(rmem_max: &Path) -> Finding {
    let read = std::fs::read_to_string(rmem_max)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match read {
        Some(bytes) if bytes >= WANTED_BUFFER => finding_of(
            "",
            "buffers",
            Verdict::Ok,
            (&format!("net.core.rmem_max = {bytes}"), ""),
        ),
        Some(bytes) => {
            let cure = format!(
                "for fast QUIC: sysctl -w net.core.rmem_max={WANTED_BUFFER} (and in /etc/sysctl.d)"
            );
            finding_of(
                "",
                "buffers",
                Verdict::Warn,
                (&format!("net.core.rmem_max = {bytes}"), &cure),
            )
        }
        None => finding_of(
            "",
            "buffers",
            Verdict::Skip,
            (&"net.core.rmem_max cannot be read", ""),
        ),
    }
}

#[cfg(test)]
mod tests;
