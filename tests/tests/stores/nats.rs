//! NATS: the suite on Debian's server and on a current one, single and as three; and what happens when servers go, refuse
//! or are not what they should be.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use sallyport_cluster::{Bus as _, Change, ClusterError, Delivery, Nats, Step, Store as _};
use sallyport_tests::Port;
use sallyport_tests::broker::{NatsServer, NatsVersion};
use sallyport_tests::service::Certificate;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::certificates::{issued, pin};
use crate::pair::{Pair, key, look_again, prefix, put, soon};
use crate::relay::pair_with;
use crate::watches::Known;

/// A relay whose broker is NATS.
type Relay = crate::relay::Relay<Nats>;

mod debian {
    crate::conformance!(super::pair(super::NatsVersion::Debian).await);
}

mod current {
    crate::conformance!(super::pair(super::NatsVersion::Current).await);
}

#[tokio::test]
async fn three_of_debian_do_the_same() {
    three_do_the_same(NatsVersion::Debian).await;
}

#[tokio::test]
async fn three_current_ones_do_the_same() {
    three_do_the_same(NatsVersion::Current).await;
}

/// Each case in a namespace of its own, because three servers take seconds to agree on who leads them.
async fn three_do_the_same(version: NatsVersion) {
    let dir = tempfile::tempdir().expect("a directory");
    let servers = NatsServer::three(version, dir.path());
    let quoted = servers
        .each_ref()
        .map(|server| format!("{:?}", server.address()));
    let hosts = quoted.join(", ");
    for (name, case) in crate::conformance!(listed) {
        let namespace: String = name.chars().take(32).collect();
        let json = format!("{{\"hosts\": [{hosts}], \"namespace\": \"{namespace}\"}}");
        case(&pair_with::<Nats>(dir.path(), &json, ()).await).await;
    }
}

fn hosts(servers: &[NatsServer]) -> String {
    let quoted: Vec<_> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.address()))
        .collect();
    format!("{{\"hosts\": [{}]}}", quoted.join(", "))
}

pub(crate) async fn pair(version: NatsVersion) -> Pair {
    let (dir, server) = single(version, "");
    let path = dir.path().to_owned();
    pair_with::<Nats>(&path, &host(&server, ""), (server, dir)).await
}

fn single(version: NatsVersion, more: &str) -> (TempDir, NatsServer) {
    let dir = tempfile::tempdir().expect("a directory");
    let server = NatsServer::start(version, dir.path(), more);
    (dir, server)
}

fn host(server: &NatsServer, more: &str) -> String {
    format!("{{\"host\": \"{}\"{more}}}", server.address())
}

#[tokio::test]
async fn nothing_waits_for_a_broker_that_is_not_there_yet() {
    let (dir, mut server) = single(NatsVersion::Debian, "");
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
    let hearing = async { while !matches!(heard.next().await, Some(Delivery::Message(_))) {} };
    let saying = async {
        loop {
            let said = relay.store.publish(&key("t/x"), "hello".into()).await;
            said.expect("published");
            look_again().await;
        }
    };
    tokio::select! {
        () = soon("it is heard", hearing) => {}
        () = saying => {}
    }
}

/// A length that no message has breaks the client's reader.
#[tokio::test]
async fn what_breaks_the_connection_does_not_keep_the_next_from_being_made() {
    let (dir, mut server) = single(NatsVersion::Debian, "");
    server.kill();
    let evil = TcpListener::bind((Ipv4Addr::LOCALHOST, server.port.number())).await;
    let evil = evil.expect("the server has gone");
    let relay = Relay::start(dir.path(), &host(&server, ""));
    for _ in 0..2 {
        let (mut stream, _from) = soon("the relay comes", evil.accept())
            .await
            .expect("a stream");
        let said = stream
            .write_all(b"MSG x 1 18446744073709551615\r\n...\r\n")
            .await;
        said.expect("it listens");
    }
    drop(evil);

    server.resume();

    let relay = relay.ready().await;
    put(&relay.store, "a", "1").await;
}

#[tokio::test]
async fn a_watch_outlives_the_server_and_misses_nothing() {
    for version in [NatsVersion::Debian, NatsVersion::Current] {
        let (dir, mut server) = single(version, "");
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
        other
            .store
            .delete(&key("w/gone"), None)
            .await
            .expect("deleted");
        put(&other.store, "w/new", "2").await;

        known.until(&mut watch, "w/new", Some("2")).await;
        known.until(&mut watch, "w/gone", None).await;
        assert_eq!(known.at("w/kept"), Some(b"1".as_slice()));
        assert_eq!(
            soon("the gap is told", heard.next()).await,
            Some(Delivery::Gap)
        );
    }
}

#[tokio::test]
async fn a_store_restored_from_something_older_is_told_as_it_is() {
    let (dir, mut server) = single(NatsVersion::Debian, "");
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    put(&relay.store, "w/a", "1").await;
    let mut watch = relay.store.watch(&prefix("w")).await.expect("a watch");
    let mut known = Known::default();
    known.until(&mut watch, "w/a", Some("1")).await;

    server.kill();
    fs::remove_dir_all(dir.path().join("jetstream")).expect("its files");
    server.resume();
    // the relay itself makes what is missing
    let writing = async {
        while relay.store.put(&key("w/b"), "2".into()).await.is_err() {
            look_again().await;
        }
    };
    soon("the store can be written again", writing).await;

    known.until(&mut watch, "w/b", Some("2")).await;
    assert_eq!(known.at("w/a"), None);
}

#[tokio::test]
async fn of_three_servers_one_may_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut servers = NatsServer::three(NatsVersion::Debian, dir.path());
    let relay = Relay::start(dir.path(), &hosts(&servers)).ready().await;
    let first = put(&relay.store, "a/b", "1").await;
    let mut watch = relay.store.watch(&prefix("a")).await.expect("a watch");
    let mut known = Known::default();
    known.until(&mut watch, "a/b", Some("1")).await;

    // the one that the relay is connected to
    servers[0].kill();

    let at = key("a/b");
    let trying = async {
        loop {
            match relay.store.replace(&at, "2".into(), first).await {
                Ok(_) | Err(ClusterError::Conflict(_)) => return,
                Err(error) => assert!(error.is_passing(), "{error}"),
            }
            look_again().await;
        }
    };
    soon("the others take the change", trying).await;
    known.until(&mut watch, "a/b", Some("2")).await;
    let read = async {
        loop {
            if let Ok(entry) = relay.store.get(&at).await {
                return entry;
            }
            look_again().await;
        }
    };
    let entry = soon("the others tell it", read).await.expect("there");
    assert_eq!(entry.value, "2");
}

#[tokio::test]
async fn a_wrong_password_fails_at_the_credentials_and_is_not_shown() {
    let users = "authorization { user: relay, password: right }\n";
    let (dir, server) = single(NatsVersion::Debian, users);
    let wrong = host(&server, ", \"user\": \"relay\", \"password\": \"canary\"");
    let relay = Relay::start(dir.path(), &wrong);
    let said = relay.fails_at(Step::Credentials).await;
    assert!(
        !said.contains("canary") && !format!("{relay:?}", relay = relay.store).contains("canary")
    );

    let right = host(&server, ", \"user\": \"relay\", \"password\": \"right\"");
    let relay = Relay::start(dir.path(), &right).ready().await;
    put(&relay.store, "a", "1").await;
}

#[tokio::test]
async fn what_the_user_may_not_do_is_denied() {
    let users = "authorization { users: [ { user: relay, password: p, permissions: { publish: { deny: \
                 [\"$KV.sallyport.secret.>\", \"$JS.API.CONSUMER.CREATE.>\", \"$JS.API.CONSUMER.DURABLE.>\"] }, subscribe: { deny: \
                 [\"sallyport.secret.>\"] } } } ] }\n";
    let (dir, server) = single(NatsVersion::Debian, users);
    let json = host(&server, ", \"user\": \"relay\", \"password\": \"p\"");
    let relay = Relay::start(dir.path(), &json).ready().await;
    let is_denied = |error: &ClusterError| matches!(error, ClusterError::Denied(_));

    put(&relay.store, "open/x", "1").await;
    let put = relay.store.put(&key("secret/x"), "1".into()).await;
    assert!(put.as_ref().is_err_and(is_denied), "{put:?}");
    let heard = relay.store.subscribe(&prefix("secret")).await;
    assert!(heard.as_ref().is_err_and(is_denied), "{heard:?}");
    let mut watch = relay.store.watch(&prefix("open")).await.expect("a watch");
    let told = soon("the watch ends", watch.next()).await;
    assert!(told.as_ref().is_err_and(is_denied), "{told:?}");
}

#[tokio::test]
async fn without_jetstream_it_fails_at_the_storage() {
    let (dir, mut server) = single(NatsVersion::Debian, "");
    server.kill();
    let config = dir.path().join("nats.conf");
    let text = fs::read_to_string(&config).expect("its configuration");
    let without: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("jetstream"))
        .collect();
    fs::write(&config, without.join("\n")).expect("our own file");
    server.resume();

    let relay = Relay::start(dir.path(), &host(&server, ""));
    relay.fails_at(Step::Storage).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_fails_at_dns() {
    let dir = tempfile::tempdir().expect("a directory");
    let relay = Relay::start(dir.path(), "{\"host\": \"nowhere.invalid\"}");
    let said = relay.fails_at(Step::Dns).await;
    assert!(said.contains("nowhere.invalid:4222"), "{said}");
}

#[tokio::test]
async fn hosts_are_tried_in_turn() {
    let (dir, server) = single(NatsVersion::Debian, "");
    let nobody = Port::reserve();
    let json = format!(
        "{{\"hosts\": [\"127.0.0.1:{}\", \"{}\"]}}",
        nobody.number(),
        server.address()
    );
    let relay = Relay::start(dir.path(), &json).ready().await;
    put(&relay.store, "a", "1").await;
}

#[tokio::test]
async fn tls_is_asked_for_and_the_wrong_server_is_not_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (own, ca) = issued(dir.path(), "own");
    let (other, other_ca) = issued(dir.path(), "other");
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
        own.cert.display(),
        own.key.display()
    );
    let server = NatsServer::start(NatsVersion::Debian, &dir.path().join("tls"), &tls);
    let with_ca = |ca: &Path| {
        let tls = format!(", \"tls\": {{\"ca\": \"{}\"}}", ca.display());
        host(&server, &tls)
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

    let (_plain_dir, plain) = single(NatsVersion::Debian, "");
    let asked = format!(", \"tls\": {{\"ca\": \"{}\"}}", ca.display());
    let relay = Relay::start(dir.path(), &host(&plain, &asked));
    relay.fails_at(Step::Tls).await;
}

#[tokio::test]
async fn namespaces_share_a_broker_and_nothing_else() {
    let (dir, server) = single(NatsVersion::Debian, "");
    let named = |name: &str| host(&server, &format!(", \"namespace\": \"{name}\""));
    let one = Relay::start(dir.path(), &named("one")).ready().await;
    let other = Relay::start(dir.path(), &named("other")).ready().await;
    let mut heard = other.store.subscribe(&prefix("t")).await.expect("listens");

    put(&one.store, "a", "1").await;
    one.store
        .publish(&key("t/x"), "one".into())
        .await
        .expect("published");
    other
        .store
        .publish(&key("t/x"), "other".into())
        .await
        .expect("published");

    assert_eq!(other.store.get(&key("a")).await, Ok(None));
    let Some(Delivery::Message(message)) = soon("a message comes", heard.next()).await else {
        panic!("a message comes first");
    };
    assert_eq!(message.payload, "other");
}

/// A watch whose first answer is held up by nothing more than an empty bucket.
#[tokio::test]
async fn an_empty_bucket_is_an_empty_snapshot() {
    let (dir, server) = single(NatsVersion::Current, "");
    let relay = Relay::start(dir.path(), &host(&server, "")).ready().await;
    let mut watch = relay.store.watch(&prefix("w")).await.expect("a watch");
    let first = soon("the snapshot comes", watch.next()).await;
    assert_eq!(first, Ok(Change::Snapshot(Vec::new())));
}
