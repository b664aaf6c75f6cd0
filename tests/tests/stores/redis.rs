//! Redis: the suite on Debian's server, and what happens when servers go, refuse or are not what they should be.

use std::path::Path;
use std::process::Command;

use sallyport_cluster::{
    Bus as _, Change, ClusterError, Delivery, Limits, Prefix, Progress, Redis, Step, Store as _,
};
use sallyport_tests::broker::RedisServer;
use sallyport_tests::service::Certificate;
use sallyport_tests::{Port, run_ok};
use tempfile::TempDir;

use crate::certificates::{issued, pin};
use crate::conformance;
use crate::pair::{Pair, key, limits, look_again, prefix, put, soon};
use crate::relay::{broker, pair_with};
use crate::watches::Known;

conformance!(pair().await);

/// A relay whose broker is Redis.
type Relay = crate::relay::Relay<Redis>;

pub(crate) async fn pair() -> Pair {
    let (dir, server) = single("");
    let json = host(&server, "");
    let path = dir.path().to_owned();
    pair_with::<Redis>(&path, &json, (server, dir)).await
}

fn single(more: &str) -> (TempDir, RedisServer) {
    let dir = tempfile::tempdir().expect("a directory");
    let server = RedisServer::start(dir.path(), more);
    (dir, server)
}

fn host(server: &RedisServer, more: &str) -> String {
    let address = server.address();
    format!("{{\"transporterType\": \"redis\", \"host\": \"{address}\"{more}}}")
}

fn cli(server: &RedisServer, words: &[&str]) -> String {
    let port = server.port.number().to_string();
    run_ok(Command::new("redis-cli").args(["-p", &port]).args(words))
}

#[tokio::test]
async fn nothing_waits_for_a_broker_that_is_not_there_yet() {
    let (dir, mut server) = single("");
    server.kill();
    let relay = Relay::start(dir.path(), &host(&server, ""));
    let said = relay.fails_at(Step::Tcp).await;
    assert!(said.contains(&server.address()), "{said}");
    let read = relay.store.get(&key("a")).await;
    assert!(
        matches!(&read, Err(ClusterError::Unreachable(text)) if text.contains("tcp")),
        "{read:?}"
    );
    let mut watch = relay.store.watch(&prefix("w")).await.expect("it waits");
    let mut heard = relay.store.subscribe(&prefix("t")).await.expect("it waits");

    server.resume();

    let relay = relay.ready().await;
    put(&relay.store, "w/a", "1").await;
    Known::default().until(&mut watch, "w/a", Some("1")).await;
    // it listened before the broker was ready, so the first message is heard
    let said = relay.store.publish(&key("t/x"), "hello".into()).await;
    said.expect("published");
    let hearing = async { while !matches!(heard.next().await, Some(Delivery::Message(_))) {} };
    soon("it is heard", hearing).await;
}

#[tokio::test]
async fn a_watch_and_a_subscription_outlive_the_server() {
    let (dir, mut server) = single("");
    let json = host(&server, "");
    let relay = Relay::start(dir.path(), &json).ready().await;
    put(&relay.store, "w/kept", "1").await;
    put(&relay.store, "w/gone", "1").await;
    let mut watch = relay.store.watch(&prefix("w")).await.expect("a watch");
    let mut heard = relay.store.subscribe(&prefix("t")).await.expect("listens");
    let mut known = Known::default();
    known.until(&mut watch, "w/gone", Some("1")).await;

    server.kill();
    let lost = relay.fails_at(Step::Tcp).await;
    assert!(!lost.is_empty());
    server.resume();
    // another relay is back first and changes what the watcher knows
    let other = Relay::start(dir.path(), &json).ready().await;
    let gone = other.store.delete(&key("w/gone"), None).await;
    gone.expect("deleted");
    put(&other.store, "w/new", "2").await;

    known.until(&mut watch, "w/new", Some("2")).await;
    known.until(&mut watch, "w/gone", None).await;
    assert_eq!(known.at("w/kept"), Some(b"1".as_slice()));
    assert_eq!(
        soon("the gap is told", heard.next()).await,
        Some(Delivery::Gap)
    );
    let said = other.store.publish(&key("t/x"), "again".into()).await;
    said.expect("published");
    let delivery = soon("it hears again", heard.next()).await;
    assert!(
        matches!(&delivery, Some(Delivery::Message(message)) if message.payload == "again"),
        "{delivery:?}"
    );
}

#[tokio::test]
async fn a_killed_server_loses_nothing_that_was_acknowledged() {
    let (dir, mut server) = single("");
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    for round in 0..5 {
        let writing = async {
            let mut acknowledged = 0_u64;
            loop {
                let value = (acknowledged + 1).to_string();
                let at = key(&format!("kept/{round}/{value}"));
                match relay.store.put(&at, value.into()).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) => {
                        assert!(error.is_passing(), "{error}");
                        return acknowledged;
                    }
                }
            }
        };
        let killing = async {
            let some = prefix(&format!("kept/{round}"));
            while relay.store.list(&some).await.expect("listed").len() < 20 {
                look_again().await;
            }
            server.kill();
        };
        let (acknowledged, ()) = tokio::join!(writing, killing);
        relay.fails_at(Step::Tcp).await;
        server.resume();
        relay.is("it is back", |now| *now == Progress::Ready).await;

        let some = prefix(&format!("kept/{round}"));
        let found = relay.store.list(&some).await.expect("listed").len();
        let found = u64::try_from(found).expect("few");
        // the change that was under way may have been made
        assert!(
            (acknowledged..=acknowledged + 1).contains(&found) && acknowledged >= 20,
            "{found} of {acknowledged}"
        );
    }
}

#[tokio::test]
async fn a_store_that_is_emptied_is_told_as_it_is() {
    let (dir, server) = single("");
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    for _ in 0..5 {
        put(&relay.store, "w/a", "1").await;
    }
    let mut watch = relay.store.watch(&prefix("w")).await.expect("a watch");
    let mut known = Known::default();
    known.until(&mut watch, "w/a", Some("1")).await;

    cli(&server, &["flushall"]);
    let other = Relay::start(dir.path(), &host(&server, "")).ready().await;
    put(&other.store, "w/b", "2").await;

    // its number is lower than those that the watcher has seen
    known.until(&mut watch, "w/b", Some("2")).await;
    assert_eq!(known.at("w/a"), None);
}

#[tokio::test]
async fn a_server_without_memory_left_refuses_changes_and_lets_values_go() {
    let (dir, server) = single("");
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    let first = put(&relay.store, "a", "1").await;

    cli(&server, &["config", "set", "maxmemory", "1"]);

    // a relay that comes now is let in as well
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    let refused = relay.store.put(&key("b"), "1".into()).await;
    assert!(
        matches!(&refused, Err(ClusterError::Unreachable(text)) if text.contains("OOM")),
        "{refused:?}"
    );
    assert_eq!(relay.store.get(&key("b")).await, Ok(None));
    let deleted = relay.store.delete(&key("a"), Some(first)).await;
    assert_eq!(deleted, Ok(()));
    assert_eq!(relay.store.get(&key("a")).await, Ok(None));
}

#[tokio::test]
async fn a_long_list_comes_in_pages_and_whole() {
    let (dir, server) = single("");
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    let large: bytes::Bytes = vec![7; Limits::default().value].into();
    for n in 0..6 {
        let at = key(&format!("large/{n}"));
        relay.store.put(&at, large.clone()).await.expect("put");
    }
    for n in 0..600 {
        put(&relay.store, &format!("many/{n:03}"), "x").await;
    }

    let listed = relay.store.list(&prefix("large")).await.expect("listed");
    assert!(listed.len() == 6 && listed.iter().all(|entry| entry.value == large));
    let listed = relay.store.list(&Prefix::all()).await.expect("listed");
    let keys: Vec<_> = listed.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys.len(), 606);
    assert!(keys.is_sorted());
}

#[tokio::test]
async fn a_subscription_that_is_dropped_listens_no_more() {
    let (dir, server) = single("");
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    let heard = relay.store.subscribe(&prefix("t")).await.expect("listens");
    let patterns = || cli(&server, &["pubsub", "numpat"]).trim().to_owned();
    assert_eq!(patterns(), "2", "ours, and that of answers");

    drop(heard);

    let leaving = async {
        while patterns() != "1" {
            look_again().await;
        }
    };
    soon("the server is told", leaving).await;
}

#[tokio::test]
async fn a_wrong_password_fails_at_the_credentials_and_is_not_shown() {
    let more = "requirepass right\nuser relay on >right ~sallyport.* &* +@all\n";
    let (dir, server) = single(more);
    let relay = Relay::start(dir.path(), &host(&server, ""));
    relay.fails_at(Step::Credentials).await;
    for user in ["", ", \"user\": \"relay\""] {
        let wrong = host(&server, &format!("{user}, \"password\": \"canary\""));
        let relay = Relay::start(dir.path(), &wrong);
        let said = relay.fails_at(Step::Credentials).await;
        let shown = format!("{said} {redis:?}", redis = relay.store);
        assert!(!shown.contains("canary"), "{shown}");

        let right = host(&server, &format!("{user}, \"password\": \"right\""));
        let relay = Relay::start(dir.path(), &right).ready().await;
        put(&relay.store, "a", "1").await;
    }
}

#[tokio::test]
async fn what_the_user_may_not_do_is_denied() {
    let users = "user relay on >p ~sallyport.* &* +@all -@dangerous\nuser deaf on >p ~sallyport.* resetchannels +@all\n";
    let (dir, server) = single(users);
    let user = |name: &str| format!(", \"user\": \"{name}\", \"password\": \"p\"");
    let json = host(&server, &user("relay"));
    let relay = Relay::start(dir.path(), &json).ready().await;
    let is_denied = |error: &ClusterError| matches!(error, ClusterError::Denied(_));
    put(&relay.store, "a/x", "1").await;

    cli(
        &server,
        &["acl", "setuser", "relay", "-publish", "-psubscribe"],
    );

    let said = relay.store.publish(&key("t/x"), "?".into()).await;
    assert!(said.as_ref().is_err_and(is_denied), "{said:?}");
    // what cannot be told to those who watch is not done
    let put = relay.store.put(&key("a/x"), "2".into()).await;
    assert!(put.as_ref().is_err_and(is_denied), "{put:?}");
    let kept = relay.store.get(&key("a/x")).await.expect("read");
    assert!(kept.is_some_and(|entry| entry.value == "1"));
    let heard = relay.store.subscribe(&prefix("t")).await;
    assert!(heard.as_ref().is_err_and(is_denied), "{heard:?}");
    let mut watch = relay.store.watch(&prefix("a")).await.expect("a watch");
    let told = soon("the watch ends", watch.next()).await;
    assert!(told.as_ref().is_err_and(is_denied), "{told:?}");

    let relay = Relay::start(dir.path(), &host(&server, &user("deaf")));
    relay.fails_at(Step::Namespace).await;
    let other = format!("{}, \"namespace\": \"other\"", user("deaf"));
    let relay = Relay::start(dir.path(), &host(&server, &other));
    relay.fails_at(Step::Credentials).await;
}

#[tokio::test]
async fn a_replica_is_refused_and_its_primary_is_found() {
    let (dir, primary) = single("");
    let replicaof = format!("replicaof 127.0.0.1 {}\n", primary.port.number());
    let replica = RedisServer::start(&dir.path().join("replica"), &replicaof);
    let relay = Relay::start(dir.path(), &host(&replica, ""));
    let synced = async {
        while !relay.store.progress().to_string().contains("its primary") {
            look_again().await;
        }
    };
    soon("it is named as a replica", synced).await;
    relay.fails_at(Step::Storage).await;

    let json = format!(
        "{{\"transporterType\": \"redis\", \"hosts\": [\"{}\", \"{}\"]}}",
        replica.address(),
        primary.address()
    );
    let relay = Relay::start(dir.path(), &json).ready().await;
    put(&relay.store, "a", "1").await;

    let copying = async {
        while cli(&replica, &["hexists", "sallyport.values", "a"]).trim() != "1" {
            look_again().await;
        }
    };
    soon("it is copied", copying).await;

    // who becomes a replica while relays use it is left
    let nobody = Port::reserve().number().to_string();
    cli(&primary, &["replicaof", "127.0.0.1", &nobody]);
    relay.fails_at(Step::Storage).await;
    cli(&replica, &["replicaof", "no", "one"]);
    let relay = relay.ready().await;
    let kept = relay.store.get(&key("a")).await.expect("read");
    assert!(kept.is_some_and(|entry| entry.value == "1"));
}

#[tokio::test]
async fn what_may_lose_values_is_said() {
    let (dir, server) = single("");
    let examine = async |server: &RedisServer| {
        let broker = broker(dir.path(), &host(server, ""));
        let mut seen = Redis::examine(&broker, None, limits()).await;
        seen.pop().expect("one server").expect("it lets us in")
    };
    let seen = examine(&server).await;
    assert!(seen.warnings.is_empty() && seen.version.starts_with(|c: char| c.is_ascii_digit()));

    cli(&server, &["config", "set", "appendonly", "no"]);
    let seen = examine(&server).await;
    assert!(
        seen.warnings.iter().any(|text| text.contains("appendonly")),
        "{seen:?}"
    );
    let keys = cli(&server, &["dbsize"]);
    assert_eq!(keys.trim(), "0", "it changes nothing there");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_fails_at_dns() {
    let dir = tempfile::tempdir().expect("a directory");
    let json = "{\"transporterType\": \"redis\", \"host\": \"nowhere.invalid\"}";
    let relay = Relay::start(dir.path(), json);
    let said = relay.fails_at(Step::Dns).await;
    assert!(said.contains("nowhere.invalid:6379"), "{said}");
}

#[tokio::test]
async fn tls_is_asked_for_and_the_wrong_server_is_not_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (own, ca) = issued(dir.path(), "own");
    let (other, other_ca) = issued(dir.path(), "other");
    let tls = format!(
        "port 0\ntls-port {{port}}\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n",
        own.cert.display(),
        own.key.display(),
        ca.display()
    );
    let server = RedisServer::start(&dir.path().join("tls"), &tls);
    let with_ca = |ca: &Path| {
        let ca = ca.display();
        host(&server, &format!(", \"tls\": {{\"ca\": \"{ca}\"}}"))
    };

    let relay = Relay::start(dir.path(), &with_ca(&ca)).ready().await;
    put(&relay.store, "a", "1").await;
    let relay = Relay::start(dir.path(), &with_ca(&other_ca));
    relay.fails_at(Step::Tls).await;
    let pinned = |certificate: &Certificate| {
        let tls = format!(", \"tls\": {{\"pin\": \"{}\"}}", pin(certificate));
        host(&server, &format!("{tls}, \"rejectUnauthorized\": false"))
    };
    let _ready = Relay::start(dir.path(), &pinned(&own)).ready().await;
    let relay = Relay::start(dir.path(), &pinned(&other));
    relay.fails_at(Step::Tls).await;

    let (_plain_dir, plain) = single("");
    let asked = format!(", \"tls\": {{\"ca\": \"{}\"}}", ca.display());
    let relay = Relay::start(dir.path(), &host(&plain, &asked));
    relay.fails_at(Step::Tls).await;
}

#[tokio::test]
async fn namespaces_share_a_broker_and_nothing_else() {
    let (dir, server) = single("");
    let named = |name: &str| host(&server, &format!(", \"namespace\": \"{name}\""));
    let one = Relay::start(dir.path(), &named("one")).ready().await;
    let other = Relay::start(dir.path(), &named("other")).ready().await;
    let mut heard = other.store.subscribe(&prefix("t")).await.expect("listens");
    let mut watch = other.store.watch(&prefix("w")).await.expect("a watch");
    let first = soon("the snapshot comes", watch.next()).await;
    assert_eq!(first, Ok(Change::Snapshot(Vec::new())));

    put(&one.store, "w/a", "1").await;
    put(&other.store, "w/b", "2").await;
    let (at, said) = (key("t/x"), |text: &'static str| text.into());
    one.store
        .publish(&at, said("one"))
        .await
        .expect("published");
    other
        .store
        .publish(&at, said("other"))
        .await
        .expect("published");

    assert_eq!(other.store.get(&key("w/a")).await, Ok(None));
    let change = soon("a change comes", watch.next()).await;
    assert!(
        matches!(&change, Ok(Change::Put(entry)) if entry.key == key("w/b")),
        "{change:?}"
    );
    let delivery = soon("a message comes", heard.next()).await;
    assert!(
        matches!(&delivery, Some(Delivery::Message(message)) if message.payload == "other"),
        "{delivery:?}"
    );
}
