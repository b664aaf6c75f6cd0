//! The way to the cluster's broker: the file, then each server in the order in which its steps are gone, then the nodes
//! that are heard over it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustls::ClientConfig;
use sallyport_cluster::{
    Broker, Bus, Failing, Limits, Nats, Progress, Step, Transporter, broker_beside,
};
use sallyport_link::ClusterKeys;
use sallyport_ops::Tasks;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Finding, Verdict, finding_of};
use crate::config::Config;
use crate::membership::{Observer, Survey};

/// How long the way to a broker may take that was gone just now.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Nodes that are named.
const SHOWN: usize = 5;

const KEYS: &str = "copy cluster-keys.json here from the other nodes; all need one key in common";
const ALONE: &str =
    "start relays with this broker.json on other nodes; whoever runs is heard within two seconds";

/// From this version of nats-server on its known holes are closed.
const GOOD_NATS: (u64, u64) = (2, 12);

/// What is found about the broker that the file beside `config` names; one line if the store is embedded.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let broker = match broker_beside(&config.path) {
        Ok(Some(broker)) => broker,
        Ok(None) => {
            return vec![store(
                Verdict::Ok,
                &"embedded: this node is a cluster of its own",
                "",
            )];
        }
        Err(error) => {
            return vec![store(
                Verdict::Fail,
                &error,
                "mend broker.json, or copy it anew",
            )];
        }
    };
    match broker.transporter {
        Transporter::Embedded => vec![store(Verdict::Ok, &"embedded, by broker.json", "")],
        Transporter::Redis => {
            let cure = "set `transporterType` to \"nats\"";
            vec![store(
                Verdict::Fail,
                &"this version has no Redis transporter",
                cure,
            )]
        }
        Transporter::Nats => nats(&broker, config).await,
    }
}

async fn nats(broker: &Broker, config: &Config) -> Vec<Finding> {
    let tls = match broker.client_config() {
        Ok(tls) => tls,
        Err(error) => return vec![store(Verdict::Fail, &error, "mend `tls` in broker.json")],
    };
    let mut findings = vec![store(Verdict::Ok, &broker.path.display(), "")];
    let warnings = broker.warnings();
    findings.extend(
        warnings
            .iter()
            .map(|warning| store(Verdict::Warn, warning, "see broker.json")),
    );
    let ends = Nats::examine(broker, tls.as_ref(), Limits::default()).await;
    let lets_in = ends.iter().any(Result::is_ok);
    for (host, end) in broker.hosts.iter().zip(ends) {
        findings.extend(way(&format!("broker {host}"), end));
    }
    if lets_in {
        findings.push(peers(broker, tls, config).await);
    }
    findings
}

/// Whom this node hears.
async fn peers(broker: &Broker, tls: Option<ClientConfig>, config: &Config) -> Finding {
    let said = |verdict, seen: &str, cure| finding_of("", "peers", verdict, (&seen, cure));
    let keys = match ClusterKeys::load(&config.cluster_keys) {
        Ok(keys) if !keys.keys.is_empty() => keys,
        Ok(_none) => return said(Verdict::Fail, "cluster-keys.json holds no key", KEYS),
        Err(error) => return said(Verdict::Fail, &error.to_string(), KEYS),
    };
    let tasks = Tasks::new();
    let nats = Nats::start(broker.clone(), tls, Limits::default(), &tasks);
    let mut progress = nats.progress_changes().boxed();
    let ready = async {
        while progress
            .next()
            .await
            .is_some_and(|now| now != Progress::Ready)
        {}
    };
    let heard = match timeout(CONNECT_WITHIN, ready).await {
        Ok(()) => survey(Arc::new(nats), keys, config, &tasks).await,
        Err(_elapsed) => Survey::default(),
    };
    tasks.stop();
    let names: Vec<_> = heard
        .others
        .iter()
        .map(|other| other.server.server_id.as_str())
        .collect();
    match (heard.distrusted, names.len()) {
        (Some(distrusted), _) => said(Verdict::Fail, &distrusted, KEYS),
        (None, 0) => said(Verdict::Warn, "no other node is heard", ALONE),
        (None, count) => said(Verdict::Ok, &format!("{count}: {}", shortened(&names)), ""),
    }
}

async fn survey(bus: Arc<dyn Bus>, keys: ClusterKeys, config: &Config, tasks: &Tasks) -> Survey {
    let keys = watch::Sender::new(Arc::new(keys));
    // older than any process of this node
    match Observer::new((config.node.clone(), 0), bus, keys.subscribe()) {
        Ok(observer) => observer.survey(tasks).await,
        Err(_no_topic) => Survey::default(),
    }
}

/// The first few.
fn shortened(names: &[&str]) -> String {
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// All steps up to the one that fails.
fn way(server: &str, end: Result<String, Failing>) -> Vec<Finding> {
    let failing = end.as_ref().err().map(|failing| failing.step);
    let gone = Step::ALL
        .into_iter()
        .filter(|step| failing.is_none_or(|failing| *step < failing));
    let ok = |step: Step| finding_of(server, step.word(), Verdict::Ok, (&"ok", ""));
    let mut findings: Vec<_> = gone.map(ok).collect();
    match end {
        Ok(version) => findings.extend(old(server, &version)),
        Err(failing) => {
            let seen = (&failing.cause, cure(failing.step));
            findings.push(finding_of(server, failing.step.word(), Verdict::Fail, seen));
        }
    }
    findings
}

fn old(server: &str, version: &str) -> Option<Finding> {
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u64>().unwrap_or(0));
    let known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let cure = "it works; 2.12 or later has known holes closed";
    let seen = format!("nats-server {version}");
    (known < GOOD_NATS).then(|| finding_of(server, "version", Verdict::Warn, (&seen, cure)))
}

const fn cure(step: Step) -> &'static str {
    match step {
        Step::Dns => "make the server's name known to this node, or mend `hosts` in broker.json",
        Step::Tcp => {
            "see that nats-server runs there, and that the firewall lets this node connect to its port"
        }
        Step::Tls => {
            "see that `tls` in broker.json names the authority or the pin of this server, and that the server has TLS"
        }
        Step::Credentials => {
            "copy broker.json anew from where `cluster init` wrote it: user or password are not the server's"
        }
        Step::Storage => {
            "switch JetStream on (`cluster init` writes a configuration with it); of three servers two must run"
        }
        Step::Namespace => {
            "start more than half of the servers, then the bucket can be made; or see the server's log for what it lacks"
        }
    }
}

fn store(verdict: Verdict, seen: &impl ToString, cure: &str) -> Finding {
    finding_of("", "store", verdict, (seen, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_before_the_one_that_fails_are_good() {
        let failing = Failing {
            host: "n1:4222".to_owned(),
            step: Step::Credentials,
            cause: "authorization violation".to_owned(),
        };
        let found = way("broker n1:4222", Err(failing));

        let steps: Vec<_> = found
            .iter()
            .map(|finding| (finding.step, finding.verdict))
            .collect();
        let ok = ["dns", "tcp", "tls"].map(|step| (step, Verdict::Ok));
        assert_eq!(
            steps,
            [ok.as_slice(), &[("credentials", Verdict::Fail)]].concat()
        );
        assert!(
            found
                .last()
                .is_some_and(|last| last.cure.contains("broker.json"))
        );
    }

    #[test]
    fn an_old_server_is_a_warning() {
        for (version, is_old) in [
            ("2.9.10", true),
            ("2.11.4", true),
            ("2.12.0", false),
            ("3.0.0", false),
            ("?", true),
        ] {
            let warned = way("b", Ok(version.to_owned()))
                .iter()
                .any(|finding| finding.verdict == Verdict::Warn);
            assert_eq!(warned, is_old, "{version}");
        }
    }
}
