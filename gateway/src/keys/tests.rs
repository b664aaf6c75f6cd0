use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use sallyport_link::GatewayAddress;
use sallyport_link::expiry::NoExpiry;
use tempfile::TempDir;
use time::Duration;

use super::*;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

/// A gateway's own file with one key.
fn own() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("gateway.json");
    let url = "https://gw.example.org".parse().expect("a URL");
    let file = GatewayFile {
        gateways: vec![GatewayAddress {
            url,
            pins: Vec::new(),
        }],
        keys: vec![Key::generate(Scope::default(), None).expect("randomness")],
    };
    file.save_new(&path).expect("written");
    (temp, path)
}

fn done(command: KeyCommand, file: &Path) -> Result<(KeysDone, String), KeysError> {
    let mut out = Vec::new();
    let done = run(&KeyArgs { command }, file, NOW, &mut out)?;
    Ok((done, String::from_utf8_lossy(&out).into_owned()))
}

fn added(args: AddArgs, file: &Path) -> String {
    let (done, _) = done(KeyCommand::Add(args), file).expect("added");
    let KeysDone::Added(kid) = done else {
        panic!("{done:?}")
    };
    kid
}

fn keys(file: &Path) -> Vec<Key> {
    GatewayFile::load(file).expect("a gateway.json").keys
}

#[test]
fn a_key_is_added_for_all_nodes_or_written_out_for_some() {
    let (temp, file) = own();
    let out = temp.path().join("gpu.json");

    let everyone = added(AddArgs::default(), &file);
    let some = AddArgs {
        nodes: Some("gpu-*".to_owned()),
        sessions: Some("jupyter-*,web".to_owned()),
        ports: vec![
            "22".parse().expect("a port"),
            "8000-8100".parse().expect("ports"),
        ],
        cluster: Some("lab".to_owned()),
        expires: Some(Expiry::Days(90)),
        out: Some(out.clone()),
        ..AddArgs::default()
    };
    let some = added(some, &file);

    let own = keys(&file);
    assert_eq!(own.len(), 3);
    assert!(
        own.iter()
            .any(|key| key.kid == everyone && key.scope == Scope::default())
    );
    let alone = GatewayFile::load(&out).expect("the new file");
    assert_eq!(alone.gateways.len(), 1);
    let [key] = alone.keys.as_slice() else {
        panic!("one key alone")
    };
    assert_eq!((key.kid == some, key.can_sign()), (true, true));
    assert!(
        own.last()
            .is_some_and(|own| own.same_material(key) && own.scope == key.scope)
    );
    assert!(key.scope.nodes.matches("gpu-7") && !key.scope.nodes.matches("login"));
    assert!(key.scope.allows_port(8_050) && !key.scope.allows_port(23));
    assert_eq!(
        (key.scope.cluster.as_str(), key.expires),
        ("lab", Some(NOW + Duration::days(90)))
    );
    for path in [&file, &out] {
        assert_eq!(
            fs::metadata(path).expect("a file").permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn of_a_public_only_key_the_gateway_keeps_what_cannot_sign() {
    let (temp, file) = own();
    let out = temp.path().join("node.json");
    let args = AddArgs {
        public_only: true,
        out: Some(out.clone()),
        ..AddArgs::default()
    };

    let kid = added(args, &file);

    let own = keys(&file)
        .into_iter()
        .find(|key| key.kid == kid)
        .expect("the gateway's half");
    let nodes = keys(&out).pop().expect("the node's half");
    assert!(!own.can_sign() && nodes.can_sign() && own.same_material(&nodes));
    let text = fs::read_to_string(&file).expect("a file");
    assert!(!text.contains("private_key"));
}

#[test]
fn what_is_there_is_not_overwritten_and_then_nothing_is_added() {
    let (temp, file) = own();
    let taken = temp.path().join("taken.json");
    fs::write(&taken, "mine").expect("written");
    let to = |out: &Path| {
        KeyCommand::Add(AddArgs {
            out: Some(out.to_owned()),
            ..AddArgs::default()
        })
    };

    let refused = done(to(&taken), &file).expect_err("it exists");
    assert!(refused.to_string().contains("not overwritten"), "{refused}");
    assert!(matches!(
        done(to(&file), &file),
        Err(KeysError::OutIsOwn(_))
    ));
    let around = temp
        .path()
        .join("../")
        .join(temp.path().file_name().expect("a name"))
        .join("gateway.json");
    assert!(matches!(
        done(to(&around), &file),
        Err(KeysError::OutIsOwn(_))
    ));

    assert_eq!(fs::read_to_string(&taken).expect("a file"), "mine");
    assert_eq!(keys(&file).len(), 1);
}

#[test]
fn an_argument_that_could_not_work_is_refused() {
    let (_temp, file) = own();
    let add = |args: AddArgs| done(KeyCommand::Add(args), &file).expect_err("refused");

    let empty = add(AddArgs {
        nodes: Some("a,,b".to_owned()),
        ..AddArgs::default()
    });
    assert!(matches!(empty, KeysError::EmptyPattern("nodes")));
    let cluster = add(AddArgs {
        cluster: Some("Lab 1".to_owned()),
        ..AddArgs::default()
    });
    assert!(matches!(cluster, KeysError::Cluster(_)));
    let past = add(AddArgs {
        expires: Some(Expiry::At(NOW)),
        ..AddArgs::default()
    });
    assert!(matches!(past, KeysError::Past(_)));
    assert_eq!(keys(&file).len(), 1);
    for text in ["", "d", "-1d", "soon", "2027-01-31"] {
        assert_eq!(text.parse::<Expiry>(), Err(NoExpiry), "{text}");
    }
    assert!(matches!("2027-01-31T00:00:00Z".parse(), Ok(Expiry::At(_))));
}

#[test]
fn a_revoked_key_is_gone_and_an_unknown_one_is_named() {
    let (_temp, file) = own();
    let first = keys(&file).pop().expect("a key").kid;
    let second = added(AddArgs::default(), &file);
    let revoke = |kid: &str| {
        done(
            KeyCommand::Revoke(RevokeArgs {
                kid: kid.to_owned(),
            }),
            &file,
        )
    };

    let unknown = revoke("nobody").expect_err("no such key").to_string();
    assert!(unknown.contains("`nobody`") && unknown.contains(&first) && unknown.contains(&second));
    let (what, told) = revoke(&first).expect("revoked");
    assert_eq!(what, KeysDone::Revoked(first));
    assert!(!told.contains("Warning"));
    let kids: Vec<_> = keys(&file).into_iter().map(|key| key.kid).collect();
    assert_eq!(kids, std::slice::from_ref(&second));
    assert!(
        revoke(&second)
            .expect("revoked")
            .1
            .contains("no key is left")
    );
}

#[test]
fn a_listing_shows_everything_but_the_secret() {
    let (_temp, file) = own();
    let soon = AddArgs {
        nodes: Some("gpu-*".to_owned()),
        expires: Some(Expiry::Days(1)),
        ..AddArgs::default()
    };
    let kid = added(soon, &file);
    let list = |json, now| {
        let mut out = Vec::new();
        let args = KeyArgs {
            command: KeyCommand::List(ListArgs { json }),
        };
        run(&args, &file, now, &mut out).expect("listed");
        String::from_utf8(out).expect("text")
    };
    let text = fs::read_to_string(&file).expect("a file");
    let raw: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let secret = raw
        .pointer("/keys/1/secret")
        .and_then(|secret| secret.as_str())
        .expect("a secret");

    let json: serde_json::Value = serde_json::from_str(&list(true, NOW)).expect("JSON");
    let rows = json.as_array().expect("one array");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1]["kid"], kid.as_str());
    assert_eq!(
        (&rows[1]["state"], &rows[1]["expires"]),
        (&"live".into(), &"1970-01-02T00:00:00Z".into())
    );
    assert_eq!(rows[1]["scope"]["nodes"], "gpu-*");
    let late = list(false, NOW + Duration::days(1));
    assert!(
        late.contains(&kid) && late.contains("expired") && late.contains("nodes gpu-*"),
        "{late}"
    );
    for shown in [list(true, NOW), late] {
        assert!(!shown.contains(secret));
    }
}

#[test]
fn two_commands_at_once_lose_no_key() {
    let (_temp, file) = own();

    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| added(AddArgs::default(), &file));
        }
    });

    assert_eq!(keys(&file).len(), 9);
}

#[test]
fn the_commands_parse_as_the_manual_says() {
    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        key: KeyArgs,
    }
    let parse = |line: &str| {
        use clap::Parser as _;
        Line::try_parse_from(std::iter::once("key").chain(line.split(' ')))
            .map(|line| line.key.command)
    };
    let add = parse(
        "add --nodes gpu-* --sessions web --ports 22,8000-8100 --cluster lab --out f --expires 90d",
    );
    let Ok(KeyCommand::Add(add)) = add else {
        panic!("{add:?}")
    };
    assert_eq!((add.ports.len(), add.expires), (2, Some(Expiry::Days(90))));
    assert!(matches!(
        parse("list --json"),
        Ok(KeyCommand::List(ListArgs { json: true }))
    ));
    assert!(matches!(parse("revoke k1"), Ok(KeyCommand::Revoke(_))));
    for bad in [
        "revoke",
        "add --ports 0",
        "add --expires never",
        "add --public-only",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_a_key_that_was_asked_for_it_offers_ways_to_other_nodes() {
    let (_temp, file) = own();
    let plain = added(AddArgs::default(), &file);
    let hop = AddArgs {
        via: true,
        ..AddArgs::default()
    };
    let hop = added(hop, &file);

    let keys = keys(&file);
    let via = |kid: &str| keys.iter().any(|key| key.kid == kid && key.scope.via);
    assert!(via(&hop) && !via(&plain));
}
