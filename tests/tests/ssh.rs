//! ssh and scp through a raw TCP listener to a real sshd, and half-close in both directions.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use sallyport_tests::service::{Sshd, random_file, sha256};
use sallyport_tests::{Gateway, Port, Relay, Site, run_ok};

struct Raw {
    _gateway: Gateway,
    _relay: Relay,
    public: Port,
    site: Site,
}

/// A gateway port that leads to `target`.
fn raw(site: Site, target: u16) -> Raw {
    let public = Port::reserve();
    let gateway = site.gateway_with(
        "gw",
        "127.0.0.1",
        &format!(
            "[[tcp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"shell\"\n",
            public.number()
        ),
    );
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!("[[session]]\nid = \"shell\"\nprotocol = \"tcp\"\ntarget = \"127.0.0.1:{target}\"\naccess = \"public\"\n"),
    );
    gateway.wait_session("shell");
    Raw {
        site,
        _gateway: gateway,
        _relay: relay,
        public,
    }
}

#[test]
fn ssh_runs_a_command() {
    let site = Site::new();
    let sshd = Sshd::start(site.path());
    let raw = raw(site, sshd.port.number());

    let said = run_ok(
        sshd.client("ssh", raw.public.number())
            .args(["root@127.0.0.1", "echo from the node"]),
    );

    assert_eq!(said, "from the node\n");
}

#[test]
fn heavy_scp_of_a_gibibyte_both_ways() {
    let site = Site::new();
    let sshd = Sshd::start(site.path());
    let raw = raw(site, sshd.port.number());
    let source = raw.site.path().join("source");
    let (there, back) = (raw.site.path().join("there"), raw.site.path().join("back"));
    let sum = random_file(&source, 1 << 30);
    let remote = format!("root@127.0.0.1:{}", there.display());

    run_ok(
        sshd.client("scp", raw.public.number())
            .arg("-q")
            .arg(&source)
            .arg(&remote),
    );
    assert_eq!(sha256(&there), sum);

    run_ok(
        sshd.client("scp", raw.public.number())
            .arg("-q")
            .arg(&remote)
            .arg(&back),
    );
    assert_eq!(sha256(&back), sum);
}

#[test]
fn half_close_is_kept_when_the_client_ends_first() {
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = service.local_addr().expect("bound").port();
    let raw = raw(Site::new(), port);
    let server = thread::spawn(move || {
        let (mut stream, _) = service.accept().expect("the relay connects");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("an orderly end");
        // Only after the client's end was seen does the answer begin.
        stream
            .write_all(format!("{} bytes", got.len()).as_bytes())
            .expect("the other half is open");
    });

    let mut client =
        TcpStream::connect((Ipv4Addr::LOCALHOST, raw.public.number())).expect("listens");
    client.write_all(&[7; 100_000]).expect("taken");
    client.shutdown(Shutdown::Write).expect("half closed");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an orderly end");

    assert_eq!(answer, "100000 bytes");
    server.join().expect("the service is content");
}

#[test]
fn half_close_is_kept_when_the_session_ends_first() {
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = service.local_addr().expect("bound").port();
    let raw = raw(Site::new(), port);
    let server = thread::spawn(move || {
        let (mut stream, _) = service.accept().expect("the relay connects");
        stream.write_all(b"all I have").expect("taken");
        stream.shutdown(Shutdown::Write).expect("half closed");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("an orderly end");
        got.len()
    });

    let mut client =
        TcpStream::connect((Ipv4Addr::LOCALHOST, raw.public.number())).expect("listens");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("an orderly end");
    client
        .write_all(&[7; 100_000])
        .expect("the other half is open");
    client.shutdown(Shutdown::Write).expect("half closed");

    assert_eq!(said, "all I have");
    assert_eq!(server.join().expect("the service is content"), 100_000);
}
