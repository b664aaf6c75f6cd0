use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn parse(text: &str) -> Result<Broker, ConfigError> {
    Broker::parse(text, Path::new("/etc/sallyport/broker.json"))
}

fn fault(text: &str) -> String {
    parse(text).expect_err("it is wrong").to_string()
}

#[test]
fn the_smallest_file_is_a_host() {
    let broker = parse(r#"{"host": "n1"}"#).expect("good");

    assert_eq!(broker.transporter, Transporter::Nats);
    assert_eq!(
        broker.hosts,
        [Host {
            name: "n1".to_owned(),
            port: 4222
        }]
    );
    assert_eq!(broker.namespace, "sallyport");
    assert!(broker.login.is_none() && broker.tls.is_none());
    assert!(broker.warnings().is_empty());
}

#[test]
fn every_key_is_understood() {
    let pin = format!("sha256/{}=", "A".repeat(43));
    let text = format!(
        r#"{{"transporterType": "nats", "hosts": ["n1", "n2:4333", "10.0.0.3", "fd00::4", "[fd00::5]:4334"], "port": 4300,
            "user": "u", "password": "p", "tls": {{"ca": "ca.pem", "cert": "/c.pem", "key": "k.pem", "pin": "{pin}"}},
            "rejectUnauthorized": false, "namespace": "site_a"}}"#
    );
    let broker = parse(&text).expect("good");

    let hosts: Vec<_> = broker.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(
        hosts,
        [
            "n1:4300",
            "n2:4333",
            "10.0.0.3:4300",
            "[fd00::4]:4300",
            "[fd00::5]:4334"
        ]
    );
    let tls = broker.tls.expect("tls");
    assert_eq!(tls.ca, Some("/etc/sallyport/ca.pem".into()));
    assert_eq!(
        tls.own,
        Some(("/c.pem".into(), "/etc/sallyport/k.pem".into()))
    );
    assert!(tls.pin.is_some());
    assert!(parse(r#"{"transporterType": "embedded"}"#).is_ok());
    let redis = parse(r#"{"transporterType": "redis", "host": "r", "password": "p"}"#);
    assert_eq!(
        redis.expect("good").hosts.first().map(|host| host.port),
        Some(REDIS_PORT)
    );
}

#[test]
fn what_is_wrong_is_named_with_the_fix() {
    for (text, part) in [
        (r#"{"hots": "n1"}"#, "hots"),
        (r#"{"transporterType": "rabbit", "host": "a"}"#, "rabbit"),
        (r#"{}"#, "`host` or `hosts` is missing"),
        (r#"{"host": "a", "hosts": ["b"]}"#, "not both"),
        (r#"{"host": "a b"}"#, "`a b` is no host"),
        (r#"{"host": "a:0"}"#, "is no host"),
        (r#"{"host": "nats://a"}"#, "is no host"),
        (r#"{"host": "a", "user": "u"}"#, "belong together"),
        (
            r#"{"host": "a", "user": "u", "password": "p", "creds": "c"}"#,
            "not both",
        ),
        (
            r#"{"host": "a", "tls": {"cert": "c"}}"#,
            "`cert` and `key` belong together",
        ),
        (r#"{"host": "a", "tls": {"pin": "x"}}"#, "a pin is"),
        (
            r#"{"host": "a", "rejectUnauthorized": false}"#,
            "without `tls`",
        ),
        (
            r#"{"host": "a", "tls": {}, "rejectUnauthorized": false}"#,
            "give `tls` the `pin`",
        ),
        (r#"{"host": "a", "namespace": "a.b"}"#, "`namespace` has"),
        (r#"{"host": "a", "port": 70000}"#, "column 27"),
        (
            r#"{"transporterType": "redis", "host": "a", "creds": "c"}"#,
            "of NATS",
        ),
        (
            r#"{"transporterType": "embedded", "host": "a"}"#,
            "no hosts",
        ),
    ] {
        let said = fault(text);
        assert!(
            said.contains(part) && said.contains("broker.json"),
            "{text}: {said}"
        );
    }
    let both = fault(r#"{"namespace": "", "user": "u"}"#);
    assert!(
        both.contains("`host`") && both.contains("`namespace`") && both.contains("`password`"),
        "{both}"
    );
}

#[test]
fn what_is_not_wise_is_said() {
    let many = (0..7)
        .map(|n| format!("\"n{n}\""))
        .collect::<Vec<_>>()
        .join(",");
    for (text, part) in [
        (
            format!(r#"{{"hosts": [{many}]}}"#),
            "three servers are enough",
        ),
        (
            r#"{"host": "n1", "user": "u", "password": "p"}"#.to_owned(),
            "unencrypted",
        ),
    ] {
        let warnings = parse(&text).expect("allowed").warnings();
        assert!(
            warnings.iter().any(|warning| warning.contains(part)),
            "{warnings:?}"
        );
    }
    let near = parse(r#"{"host": "127.0.0.1", "user": "u", "password": "p"}"#);
    assert!(near.expect("good").warnings().is_empty());
}

#[test]
fn a_file_that_others_can_read_is_refused_and_no_password_is_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(BROKER_FILE);
    std::fs::write(
        &path,
        r#"{"host": "n1", "user": "u", "password": "canary"}"#,
    )
    .expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    let refused = Broker::load(&path).expect_err("open to the group");
    assert!(refused.to_string().contains("chmod 600"), "{refused}");

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let broker = Broker::load(&path).expect("closed");
    assert!(!format!("{broker:?}").contains("canary"));
    let twice = r#"{"host": "n1", "user": "u", "password": "canary", "password": 7}"#;
    assert!(!fault(twice).contains("canary"));
}

#[test]
fn credentials_are_read_from_beside_the_file_and_must_be_closed_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, creds) = (dir.path().join(BROKER_FILE), dir.path().join("relay.creds"));
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::write(&path, r#"{"host": "n1", "creds": "relay.creds"}"#).expect("a file");
    std::fs::set_permissions(&path, closed.clone()).expect("chmod");
    std::fs::write(&creds, "text").expect("a file");
    std::fs::set_permissions(&creds, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(matches!(Broker::load(&path), Err(BrokerError::File(_))));

    std::fs::set_permissions(&creds, closed).expect("chmod");
    let broker = Broker::load(&path).expect("closed");
    assert!(matches!(broker.login, Some(Login::Creds(text)) if *text == "text"));
}
