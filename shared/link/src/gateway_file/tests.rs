use super::*;
use crate::key_file::MAX_KEYS;
use sallyport_wire::{Glob, PortRange, Scope};
use std::os::unix::fs::PermissionsExt;

const SECRET: &str = "q7ZKx1mOe0Zk3uV9bXJYt2sR8dFhLwCpN4aGvQyTiEo";
const OTHER: &str = "Zt4nB8cXw2QkLr7vEoUy1aSdFgHj5mPqI9xRzKbC3fM";

fn parse(text: &str) -> Result<GatewayFile, String> {
    let path = Path::new("/etc/sallyport/gateway.json");
    GatewayFile::parse(text, path).map_err(|error| error.to_string())
}

fn with_keys(keys: &str) -> String {
    format!(r#"{{"gateways":[{{"url":"https://gw.example.org"}}],"keys":[{keys}]}}"#)
}

fn key(kid: &str, secret: &str) -> String {
    format!(r#"{{"kid":"{kid}","secret":"{secret}"}}"#)
}

fn node() -> NodeName {
    "gpu-1".parse().expect("a node name")
}

#[test]
fn a_file_reads_back_as_it_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("gateway.json");
    let ports: Vec<PortRange> = vec!["22".parse().expect("a port")];
    let scope = Scope {
        nodes: Glob::new("gpu-*"),
        ports,
        ..Scope::default()
    };
    let end = OffsetDateTime::from_unix_timestamp(1_900_000_000).expect("a time");
    let pair = Key::generate_pair(Scope::default(), None).expect("randomness");
    let half = pair.public_half().expect("a pair has one");
    let file = GatewayFile {
        gateways: vec![GatewayAddress {
            url: "https://gw.example.org:8443".parse().expect("a URL"),
            pins: vec![
                format!("sha256/{}=", "A".repeat(43))
                    .parse()
                    .expect("a pin"),
            ],
        }],
        keys: vec![Key::generate(scope, Some(end)).expect("randomness"), half],
    };

    file.save_new(&path).expect("written");
    let read = GatewayFile::load(&path).expect("read");

    assert_eq!(read.gateways, file.gateways);
    for (read, written) in read.keys.iter().zip(&file.keys) {
        assert!(read.same_material(written));
        assert_eq!(
            (&read.kid, &read.scope, read.expires),
            (&written.kid, &written.scope, written.expires)
        );
    }
    assert!(read.keys.last().is_some_and(|half| !half.can_sign()));
    let alone = GatewayFile {
        keys: vec![pair],
        ..file
    };
    alone.save(&path).expect("replaced");
    assert!(
        GatewayFile::load(&path)
            .expect("read")
            .keys
            .iter()
            .all(Key::can_sign)
    );
    let mode = std::fs::metadata(&path)
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(
        alone.save_new(&path),
        Err(KeyFileError::Exists(_))
    ));
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("gateway.json");
    std::fs::write(&path, with_keys(&key("a", SECRET))).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");

    for refused in [
        GatewayFile::load(&path),
        GatewayFile::load_as_administrator(&path),
    ] {
        let error = refused.expect_err("open to all").to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}

/// A file with one or two keys, of which `A` and `B` are good, and what is said about it.
const FAULTS: &[(&str, &str)] = &[
    (r#"{"kid":"a","secrt":"A"}"#, "did you mean `secret`"),
    (
        r#"{"kid":"a","secret":"A","scope":{"node":"x"}}"#,
        "did you mean `nodes`",
    ),
    (
        r#"{"kid":"a","secret":"A","scope":{"ports":["x"]}}"#,
        "`x` is not a port",
    ),
    (
        r#"{"kid":"a","secret":"A"},{"kid":"a","secret":"B"}"#,
        "key id `a` stands there twice",
    ),
    (
        r#"{"kid":"a","secret":"A"},{"kid":"b","secret":"A"}"#,
        "keys `a` and `b` have the same secret",
    ),
    (
        r#"{"kid":"a","secret":"c2hvcnQ"}"#,
        "key `a`: the secret has 5 bytes",
    ),
    (
        r#"{"kid":"a","secret":""}"#,
        "key `a`: the secret has 0 bytes",
    ),
    (
        r#"{"kid":"a","secret":"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh"}"#,
        "key `a`: the secret is not random",
    ),
    (
        r#"{"kid":"a","secret":"not base64url"}"#,
        "key `a`: `secret` is not base64url",
    ),
    (r#"{"kid":"../x","secret":"A"}"#, "not `../x`"),
    (r#"{"kid":"a"}"#, "key `a`: it has either"),
    (
        r#"{"kid":"a","secret":"A","public_key":"B"}"#,
        "key `a`: it has either",
    ),
    (
        r#"{"kid":"a","public_key":"AAAA"}"#,
        "`public_key` is no Ed25519 key",
    ),
    (
        r#"{"kid":"a","public_key":"B","private_key":"A"}"#,
        "or does not fit the other half",
    ),
    (
        r#"{"kid":"a","secret":"A","expires":"tomorrow"}"#,
        "/etc/sallyport/gateway.json",
    ),
];

#[test]
fn faults_are_named_and_no_secret_is_shown() {
    for (keys, fault) in FAULTS {
        let keys = keys
            .replace("\"A\"", &format!("\"{SECRET}\""))
            .replace("\"B\"", &format!("\"{OTHER}\""));
        let error = parse(&with_keys(&keys)).expect_err(fault);
        assert!(error.contains(fault), "{error}, wanted: {fault}");
        assert!(!error.contains(SECRET) && !error.contains(OTHER), "{error}");
    }
}

#[test]
fn gateways_are_there_once_by_https() {
    let good = with_keys(&key("a", SECRET));
    let own = r#"{"url":"https://gw.example.org"}"#;
    let cases = [
        (
            good.replace("gateways", "gatewys"),
            "did you mean `gateways`",
        ),
        (good.replace("https", "http"), "it starts with https://"),
        (good.replace(own, ""), "`gateways` has 0 entries"),
        (
            good.replace(
                own,
                &format!(
                    "{own},{}",
                    own.replace("gw", "GW").replace("org", "org:443/")
                ),
            ),
            "stands there twice",
        ),
    ];
    for (text, fault) in cases {
        let error = parse(&text).expect_err(fault);
        assert!(error.contains(fault), "{error}, wanted: {fault}");
    }
}

#[test]
fn lists_end_at_their_limits() {
    let gateways = |count: usize| {
        let urls: Vec<_> = (0..count)
            .map(|n| format!(r#"{{"url":"https://gw{n}"}}"#))
            .collect();
        format!(r#"{{"gateways":[{}],"keys":[]}}"#, urls.join(","))
    };
    assert!(parse(&gateways(MAX_GATEWAYS)).is_ok());
    assert!(
        parse(&gateways(MAX_GATEWAYS + 1))
            .expect_err("too many")
            .contains("1 to 64")
    );

    let many = vec![r#"{"kid":"x"}"#; MAX_KEYS + 1].join(",");
    assert!(
        parse(&with_keys(&many))
            .expect_err("too many")
            .contains("0 to 4096")
    );
}

#[test]
fn a_relay_signs_with_the_newest_key_that_is_live_and_for_its_node() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let key = |nodes: &str, ends: Option<OffsetDateTime>| {
        let scope = Scope {
            nodes: Glob::new(nodes),
            ..Scope::default()
        };
        Key::generate(scope, ends).expect("randomness")
    };
    let half = Key::generate_pair(Scope::default(), None)
        .expect("randomness")
        .public_half();
    let keys = vec![
        key("*", None),
        key("gpu-*", None),
        key("cpu-*", None),
        key("*", Some(now)),
        half.expect("a half"),
    ];
    let file = GatewayFile {
        gateways: Vec::new(),
        keys,
    };

    let order: Vec<_> = file
        .signing_keys(&node(), now)
        .map(|key| key.scope.nodes.to_string())
        .collect();

    assert_eq!(order, ["gpu-*", "*"]);
}
