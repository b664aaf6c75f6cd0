use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use sallyport_ops::files;

use super::*;
use crate::Broker;

fn args(dir: &Path, hosts: &[&str]) -> InitArgs {
    InitArgs {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        dir: dir.join("cluster"),
        namespace: "sallyport".to_owned(),
        data: dir.join("data"),
    }
}

fn init(args: &InitArgs) -> Result<String, InitError> {
    let mut out = Vec::new();
    run(args, &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_can_be_used_and_secrets_are_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let args = args(dir.path(), &["n1", "n2:4333", "10.0.0.3"]);

    let said = init(&args).expect("written");

    assert_eq!(
        names(&args.dir),
        [
            "broker.json",
            "cluster-ca.key",
            "cluster-ca.pem",
            "nats-10.0.0.3_4222",
            "nats-n1_4222",
            "nats-n2_4333"
        ]
    );
    let broker = Broker::load(&args.dir.join(BROKER_FILE)).expect("a good file");
    let hosts: Vec<_> = broker.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["n1:4222", "n2:4333", "10.0.0.3:4222"]);
    assert!(broker.warnings().is_empty());
    assert!(broker.client_config().expect("good files").is_some());
    for secret in [
        "broker.json",
        "cluster-ca.key",
        "nats-n1_4222/server.key",
        "nats-n1_4222/nats-server.conf",
    ] {
        files::check_secret(&args.dir.join(secret)).expect(secret);
    }
    let mode = fs::metadata(args.dir.join("nats-n1_4222")).expect("a folder");
    assert_eq!(mode.permissions().mode() & 0o777, 0o700);
    for part in [
        "tcp 4222, 4333  from the nodes",
        "tcp 6222, 6333  among",
        "broker.json",
        "cluster-ca.key",
        "tcp, udp 3300  among the nodes",
        "on n2: nft add rule inet filter input ip saddr '{ NODES }' tcp dport 4333 accept",
        "on n2: nft add rule inet filter input ip saddr '{ SERVERS }' tcp dport 6333 accept",
        "on each node: nft add rule inet filter input ip saddr '{ NODES }' udp dport 3300 accept",
        "key add --via",
    ] {
        assert!(said.contains(part), "no {part} in\n{said}");
    }
    let opened = said.lines().filter(|line| line.contains("accept"));
    let to_everybody: Vec<_> = opened.filter(|line| !line.contains("saddr")).collect();
    assert!(to_everybody.is_empty(), "{to_everybody:?}");
    let config = fs::read_to_string(args.dir.join("nats-n2_4333/nats-server.conf")).expect("text");
    assert!(
        config.contains("listen: \"0.0.0.0:4333\"") && config.contains("@10.0.0.3:6222"),
        "{config}"
    );
    let secret = config
        .split("password: \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    assert!(
        !said.contains(secret.expect("a password")),
        "no secret is printed"
    );
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let args = args(dir.path(), &["n1"]);
    fs::create_dir(&args.dir).expect("a directory");
    fs::write(args.dir.join(CA_FILE), "mine").expect("a file");

    let refused = init(&args);

    assert!(matches!(refused, Err(InitError::Exists(_))), "{refused:?}");
    assert_eq!(names(&args.dir), [CA_FILE]);
    assert_eq!(
        fs::read_to_string(args.dir.join(CA_FILE)).expect("text"),
        "mine"
    );
}

#[test]
fn hosts_that_make_no_cluster_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    for (hosts, part) in [
        (&[][..], "0 servers"),
        (&["a", "b"], "2 servers"),
        (&["a", "a:4222", "b"], "given twice"),
        (&["a b"], "is no host"),
    ] {
        let refused = init(&args(dir.path(), hosts)).expect_err("no cluster");
        assert!(
            refused.is_usage() && refused.to_string().contains(part),
            "{refused}"
        );
    }
    assert!(names(dir.path()).is_empty());
}
