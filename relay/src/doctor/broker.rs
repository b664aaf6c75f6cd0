//! The way to the cluster's broker: the file, then each server in the order in which its steps are gone, then the nodes
//! that are heard over it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustls::ClientConfig;
use sallyport_cluster::{
    Broker, Bus, Cluster, Examined, Failing, Limits, Nats, Progress, Redis, Step, Transporter,
    broker_beside,
};
use sallyport_link::ClusterKeys;
use sallyport_node::members::Incarnation;
use sallyport_ops::Tasks;
use sallyport_placement::pending::Pending;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Finding, Verdict, configuration, finding_of};
use crate::config::Config;
use crate::membership::{Observer, Survey};

/// How long the way to a broker may take that was gone just now.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Nodes that are named.
const SHOWN: usize = 5;

const KEYS: &str = "copy cluster-keys.json here from the other nodes; all need one key in common";
const ALONE: &str =
    "start relays with this broker.json on other nodes; whoever runs is heard within two seconds";

const UNKNOWN_NAME: &str =
    "make the server's name known to this node, or mend `hosts` in broker.json";
const UNTRUSTED: &str = "see that `tls` in broker.json names the authority or the pin of this server, and that the server has TLS";
const LOSSY: &str =
    "set `appendonly yes` and `maxmemory-policy noeviction` in redis.conf, or move to NATS";

/// From this version of nats-server on its known holes are closed.
const GOOD_NATS: (u64, u64) = (2, 12);

/// What is found about the broker that the file beside `config` names; one line if the store is embedded.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let broker = match broker_beside(&config.path) {
        Ok(Some(broker)) => broker,
        Ok(None) => {
            let embedded = "embedded: this node is a cluster of its own";
            return alone(&embedded, config).await;
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
        Transporter::Embedded => alone(&"embedded, by broker.json", config).await,
        Transporter::Nats | Transporter::Redis => servers(&broker, config).await,
    }
}

async fn alone(embedded: &impl ToString, config: &Config) -> Vec<Finding> {
    vec![
        store(Verdict::Ok, embedded, ""),
        configuration::alone(config).await,
    ]
}

async fn servers(broker: &Broker, config: &Config) -> Vec<Finding> {
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
    let ends = ends(broker, tls.as_ref()).await;
    let lets_in = ends.iter().any(Result::is_ok);
    for (host, end) in broker.hosts.iter().zip(ends) {
        findings.extend(way(
            &format!("broker {host}"),
            broker.transporter,
            tls.is_some(),
            end,
        ));
    }
    if lets_in {
        findings.extend(cluster(config).await);
    }
    findings
}

/// Where the way to each server ends: with what is to be warned of, or at a step.
async fn ends(broker: &Broker, tls: Option<&ClientConfig>) -> Vec<Result<Vec<Warned>, Failing>> {
    let limits = Limits::default();
    match broker.transporter {
        Transporter::Redis => {
            let ends = Redis::examine(broker, tls, limits).await.into_iter();
            ends.map(|end| end.map(|seen| lossy(&seen))).collect()
        }
        Transporter::Nats | Transporter::Embedded => {
            let ends = Nats::examine(broker, tls, limits).await.into_iter();
            ends.map(|end| end.map(|version| old(&version))).collect()
        }
    }
}

/// Whom this node hears, and which configuration it has.
async fn cluster(config: &Config) -> Vec<Finding> {
    let failed = |seen: &str, cure| vec![finding_of("", "peers", Verdict::Fail, (&seen, cure))];
    let keys = match ClusterKeys::load(&config.cluster_keys) {
        Ok(keys) if !keys.keys.is_empty() => keys,
        Ok(_none) => return failed("cluster-keys.json holds no key", KEYS),
        Err(error) => return failed(&error.to_string(), KEYS),
    };
    let tasks = Tasks::new();
    // a state directory is needed by no broker
    let started = Cluster::start(&config.path, Path::new(""), Limits::default(), &tasks);
    let cluster = match started {
        Ok(cluster) => cluster,
        Err(error) => return failed(&error.to_string(), "mend broker.json"),
    };
    let mut progress = cluster.progress_changes();
    let ready = async {
        while progress
            .next()
            .await
            .is_some_and(|now| now != Progress::Ready)
        {}
    };
    let findings = match timeout(CONNECT_WITHIN, ready).await {
        Ok(()) => {
            let heard = survey(cluster.bus(), keys.clone(), config, &tasks).await;
            let configured = configuration::shared(config, &cluster, &keys).await;
            vec![peers(heard), configured]
        }
        Err(_elapsed) => vec![peers(Survey::default())],
    };
    tasks.stop();
    findings
}

fn peers(heard: Survey) -> Finding {
    let said = |verdict, seen: &str, cure| finding_of("", "peers", verdict, (&seen, cure));
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
    // no process of this node, and so nobody's rival
    let own = Incarnation {
        node: config.node.clone(),
        id: String::new(),
        generation: 0,
    };
    match Observer::new(own, bus, keys.subscribe(), Pending::default()) {
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

/// What is seen at a server that lets us in, and what to do about it.
struct Warned {
    step: &'static str,
    seen: String,
    cure: &'static str,
}

/// All steps up to the one that fails.
fn way(
    server: &str,
    transporter: Transporter,
    tls: bool,
    end: Result<Vec<Warned>, Failing>,
) -> Vec<Finding> {
    let failing = end.as_ref().err().map(|failing| failing.step);
    let gone = Step::ALL
        .into_iter()
        .filter(|step| failing.is_none_or(|failing| *step < failing));
    let went = |step: Step| {
        let (verdict, seen) = if step == Step::Tls && !tls {
            (Verdict::Skip, "not asked for: broker.json has no `tls`")
        } else {
            (Verdict::Ok, "ok")
        };
        finding_of(server, step.word(), verdict, (&seen, ""))
    };
    let mut findings: Vec<_> = gone.map(went).collect();
    match end {
        Ok(warned) => findings.extend(warned.iter().map(|warned| {
            let seen = (&warned.seen, warned.cure);
            finding_of(server, warned.step, Verdict::Warn, seen)
        })),
        Err(failing) => {
            let seen = (&failing.cause, cure(transporter, failing.step));
            findings.push(finding_of(server, failing.step.word(), Verdict::Fail, seen));
        }
    }
    findings
}

fn old(version: &str) -> Vec<Warned> {
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u64>().unwrap_or(0));
    let known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let warned = Warned {
        step: "version",
        seen: format!("nats-server {version}"),
        cure: "it works; 2.12 or later has known holes closed",
    };
    (known < GOOD_NATS).then_some(warned).into_iter().collect()
}

fn lossy(seen: &Examined) -> Vec<Warned> {
    let warnings = seen.warnings.iter();
    let warned = warnings.map(|warning| Warned {
        step: "durability",
        seen: warning.clone(),
        cure: LOSSY,
    });
    warned.collect()
}

const fn cure(transporter: Transporter, step: Step) -> &'static str {
    match transporter {
        Transporter::Redis => cure_of_redis(step),
        Transporter::Nats | Transporter::Embedded => cure_of_nats(step),
    }
}

const fn cure_of_redis(step: Step) -> &'static str {
    match step {
        Step::Dns => UNKNOWN_NAME,
        Step::Tcp => {
            "see that redis-server runs there and listens to this node (`bind`), and that the firewall lets it connect"
        }
        Step::Tls => UNTRUSTED,
        Step::Credentials => {
            "mend `user` and `password` in broker.json (`requirepass` or `user` of redis.conf), and what this user may do"
        }
        Step::Storage => {
            "name a primary that stands alone in `hosts` of broker.json; see the server's log for why it takes no changes"
        }
        Step::Namespace => {
            "let this user run scripts, use the keys of the namespace, and listen to patterns of channels: `~sallyport.* &* +@all`"
        }
    }
}

const fn cure_of_nats(step: Step) -> &'static str {
    match step {
        Step::Dns => UNKNOWN_NAME,
        Step::Tcp => {
            "see that nats-server runs there and that `hosts` in broker.json names its port for clients, and that the firewall lets this node connect to it"
        }
        Step::Tls => UNTRUSTED,
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
        let found = way("broker n1:4222", Transporter::Nats, true, Err(failing));

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
            assert_eq!(old(version).len(), usize::from(is_old), "{version}");
        }
    }
    #[test]
    fn a_server_that_may_lose_values_is_a_warning() {
        let seen = Examined {
            version: "7.0.15".to_owned(),
            warnings: vec!["`appendonly` is off".to_owned()],
        };
        let found = way("b", Transporter::Redis, false, Ok(lossy(&seen)));
        let last = found.last().expect("all steps");
        assert_eq!((last.step, last.verdict), ("durability", Verdict::Warn));
        assert!(last.seen.contains("appendonly"));
        let tls = found.iter().find(|finding| finding.step == "tls");
        assert_eq!(tls.map(|tls| tls.verdict), Some(Verdict::Skip));
    }
}
