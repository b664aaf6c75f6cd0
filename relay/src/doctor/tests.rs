use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;

use sallyport_link::{GatewayAddress, GatewayFile, Key};

use sallyport_wire::Code;
use tokio::net::TcpSocket;

use super::visit::refusal;
use super::*;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn config(&self, extra: &str) -> Config {
        let text =
            format!("node = \"n1\"\ngateway_file = \"gateway.json\"\nproxy = \"none\"\n{extra}");
        Config::parse(&text, &self.folder.path().join("relay.toml")).expect("loads")
    }

    fn gateway(&self, url: &str) {
        let key = Key::generate(sallyport_wire::Scope::default(), None).expect("a key");
        let address = GatewayAddress {
            url: url.parse().expect("a URL"),
            pins: Vec::new(),
        };
        let file = GatewayFile {
            gateways: vec![address],
            keys: vec![key],
        };
        file.save_new(&self.folder.path().join("gateway.json"))
            .expect("written");
    }
}

fn step<'f>(findings: &'f [Finding], step: &str) -> &'f Finding {
    findings
        .iter()
        .find(|finding| finding.step == step)
        .unwrap_or_else(|| panic!("no {step} in {findings:?}"))
}

#[tokio::test]
async fn a_missing_file_is_the_first_thing_to_mend() {
    let findings = examine(&Place::new().config("")).await;

    let files = step(&findings, "files");
    assert_eq!(files.verdict, Verdict::Fail);
    assert!(files.cure.contains("gateway.json"), "{files:?}");
    let text = text(&findings);
    assert!(
        text.contains("FAIL") && text.contains("What to do:"),
        "{text}"
    );
}

/// What is said of the gateway files under this configuration, which names none.
fn without_gateway(extra: &str, broker: Option<&str>) -> Finding {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("node = \"n1\"\n{extra}");
    let config = Config::parse(&text, &folder.path().join("relay.toml")).expect("loads");
    if let Some(broker) = broker {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(folder.path().join("broker.json"));
        std::io::Write::write_all(&mut file.expect("made"), broker.as_bytes()).expect("written");
    }
    let files = Files::new(config.gateway_files.clone());
    let mut found = file_findings(&config, &files);
    found.remove(0)
}

#[test]
fn a_node_needs_a_gateway_only_if_nobody_reaches_it_otherwise() {
    let nats = Some(r#"{ "host": "127.0.0.1:4222" }"#);
    for (extra, broker, verdict) in [
        ("", None, Verdict::Fail),
        ("[direct]\nlisten = \"[::1]:0\"\n", None, Verdict::Skip),
        (
            "[[peer]]\nnode = \"n2\"\naddress = \"n2\"\n",
            None,
            Verdict::Skip,
        ),
        ("", nats, Verdict::Skip),
    ] {
        let found = without_gateway(extra, broker);
        assert_eq!(found.verdict, verdict, "{extra} {broker:?}: {found:?}");
        assert_eq!(found.cure.is_empty(), verdict == Verdict::Skip, "{found:?}");
    }
}

#[tokio::test]
async fn a_file_that_others_can_read_is_named_with_the_cure() {
    let place = Place::new();
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    drop(
        options
            .open(place.folder.path().join("gateway.json"))
            .expect("made"),
    );

    let findings = examine(&place.config("")).await;

    assert!(
        step(&findings, "files").seen.contains("chmod 600"),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_port_where_nobody_listens_fails_at_tcp() {
    let place = Place::new();
    // Bound and not listening: it refuses, and nobody else gets the port.
    let held = TcpSocket::new_v4().expect("a socket");
    held.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let port = held.local_addr().expect("bound").port();
    place.gateway(&format!("https://127.0.0.1:{port}"));

    let findings = examine(&place.config("")).await;

    assert_eq!(step(&findings, "dns").verdict, Verdict::Ok);
    let tcp = step(&findings, "tcp");
    assert!(
        tcp.verdict == Verdict::Fail && tcp.cure.contains(&port.to_string()),
        "{tcp:?}"
    );
    assert!(
        findings.iter().all(|finding| finding.step != "tls"),
        "{findings:?}"
    );
}

#[tokio::test]
async fn something_that_is_no_gateway_fails_at_tls() {
    let place = Place::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        use std::io::Write as _;
        while let Ok((mut stream, _)) = listener.accept() {
            drop(stream.write_all(b"SSH-2.0-x\r\n"));
        }
    });
    place.gateway(&format!("https://127.0.0.1:{port}"));

    let findings = examine(&place.config("transport = \"tls\"\n")).await;

    assert_eq!(step(&findings, "tcp").verdict, Verdict::Ok);
    assert_eq!(
        step(&findings, "tls").verdict,
        Verdict::Fail,
        "{findings:?}"
    );
}

#[test]
fn small_buffers_are_a_hint_and_not_a_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rmem_max");
    for (text, verdict) in [
        ("212992\n", Verdict::Warn),
        ("8388608\n", Verdict::Ok),
        ("x", Verdict::Skip),
    ] {
        std::fs::write(&file, text).expect("written");
        assert_eq!(buffers(&file).verdict, verdict);
    }
}

#[test]
fn every_refusal_has_its_step_and_a_cure() {
    assert_eq!(refusal(Code::ClockSkew).0, "clock");
    for code in Code::ALL {
        assert!(!refusal(*code).1.is_empty());
    }
}
