//! Certificates for nodes' own ports, by the authority that `cluster init` wrote: who trusts it gets in, and nobody's key is
//! left open or overwritten.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use sallyport_tests::cluster::Cluster;
use sallyport_tests::service::Nginx;
use sallyport_tests::{Curl, Port, Site, eventually, program};
use serde_json::{Value, json};

/// curl's code for a server that it does not trust.
const UNTRUSTED: Option<i32> = Some(60);

fn make(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program("sallyport-relay"));
    command.args(["cluster", "certificate", "--dir"]).arg(dir);
    command.args(args).output().expect("it is built")
}

fn mode(path: &Path) -> u32 {
    let found = fs::metadata(path).expect("it is there");
    found.permissions().mode() & 0o777
}

#[test]
fn who_trusts_the_clusters_authority_reaches_a_node_at_its_own_port() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let cluster = Cluster::single(site.path());
    let made = make(
        &cluster.folder,
        &["near,localhost,127.0.0.1", "far", "--json"],
    );
    let rows: Vec<Value> = serde_json::from_slice(&made.stdout).expect("an array");
    let names = rows.iter().map(|row| row["names"].clone());
    assert_eq!(
        names.collect::<Vec<_>>(),
        [json!(["near", "localhost", "127.0.0.1"]), json!(["far"])]
    );
    let [cert, key] =
        ["cert", "key"].map(|file| rows[0][file].as_str().expect("a path").to_owned());
    assert_eq!(
        (mode(Path::new(&key)), mode(Path::new(&cert))),
        (0o600, 0o644)
    );

    let port = Port::reserve();
    let (number, web) = (port.number(), nginx.port.number());
    let config = format!(
        "[direct]\nlisten = \"127.0.0.1:{number}\"\nurl = \"https://localhost:{number}\"\ncert = {cert:?}\nkey = {key:?}\n\
         [[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{web}\"\naccess = \"public\"\n"
    );
    let _relay = site.relay_stopped("near", &[], &config).started();
    let get = |ca: &Path, host: &str| {
        let url = format!("https://{host}:{number}/s/web/echo");
        Curl::new(ca, site.path()).arg("--ipv4").arg(url).go()
    };
    let ca = cluster.folder.join("cluster-ca.pem");
    eventually("it is reached", || get(&ca, "localhost").status() == 200);

    let elsewhere = Site::within(site.path());
    let other = Cluster::single(elsewhere.path())
        .folder
        .join("cluster-ca.pem");
    assert_eq!(get(&other, "localhost").exit, UNTRUSTED);
}

#[test]
fn nothing_is_overwritten_and_what_is_missing_is_named() {
    let site = Site::new();
    let cluster = Cluster::single(site.path());
    let dir = &cluster.folder;
    assert!(make(dir, &["near"]).status.success());
    let key = dir.join("node-near/node.key");
    let before = fs::read(&key).expect("written");
    let told = make(dir, &["other"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains("node-other") && told.contains("[direct]"),
        "{told}"
    );

    let open = site.path().join("open");
    fs::create_dir(&open).expect("writable");
    for (file, mode) in [("cluster-ca.pem", 0o644), ("cluster-ca.key", 0o644)] {
        fs::copy(dir.join(file), open.join(file)).expect("copied");
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(open.join(file), mode).expect("ours");
    }
    let nowhere = site.path().join("nowhere");
    for (dir, args, code, part) in [
        (dir, &["fresh", "near"][..], 1, "node-near exists"),
        (dir, &["fresh,not_a name"], 64, "not_a name"),
        (dir, &["Fresh"], 64, "Fresh"),
        (dir, &["fresh", "--days", "826"], 64, "826"),
        (&nowhere, &["fresh"], 1, "cluster-ca.pem is not there"),
        (&open, &["fresh"], 1, "cluster-ca.key"),
    ] {
        let refused = make(dir, args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
        assert!(
            !dir.join("node-fresh").exists(),
            "nothing is left of {args:?}"
        );
    }
    assert_eq!(fs::read(&key).expect("there"), before);
}
