//! A node has tunnels of both transports, and what is opened beside bulk does not wait behind it.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use sallyport_tests::service::Nginx;
use sallyport_tests::{Daemon, Gateway, Port, Site, eventually};
use serde_json::Value;

/// Some rows of the gateway's status.
fn rows(gateway: &Gateway, list: &str) -> Vec<Value> {
    let status = gateway.status().unwrap_or_default();
    status
        .get(list)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

/// What carries a session's only stream.
fn carrier(gateway: &Gateway, session: &str) -> Option<Value> {
    let streams = rows(gateway, "streams");
    let stream = streams.iter().find(|stream| stream["session"] == session)?;
    stream.get("transport").cloned()
}

/// Sends back what comes.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut from = client.try_clone().expect("a second handle");
            thread::spawn(move || std::io::copy(&mut from, &mut client));
        }
    });
    port
}

#[test]
fn a_stream_that_is_opened_beside_bulk_takes_another_tunnel() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let large = File::create(nginx.root.join("large")).expect("the folder is writable");
    large.set_len(1 << 36).expect("a file with a hole");
    let port = Port::reserve();
    let number = port.number();
    let extra = format!("[[tcp]]\nlisten = \"127.0.0.1:{number}\"\nsession = \"shell\"\n");
    let gateway = site.gateway_with("gw", "127.0.0.1", &extra);
    let config = format!(
        "[[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n\
         [[session]]\nid = \"shell\"\nprotocol = \"tcp\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
        nginx.port.number(),
        echo()
    );
    let _relay = site.relay("node-a", &gateway, &config);
    gateway.wait_session("web");
    eventually("tunnels of both transports", || {
        let up = |transport| {
            move |tunnel: &Value| tunnel["transport"] == transport && tunnel["up"] == true
        };
        let tunnels = rows(&gateway, "tunnels");
        tunnels.iter().any(up("tls")) && tunnels.iter().any(up("quic"))
    });

    let certificate = gateway.certificate().display().to_string();
    let url = gateway.session_url("web", "/large");
    let bulk = [
        "-sS",
        "-o",
        "/dev/null",
        "--limit-rate",
        "40M",
        "--cacert",
        &certificate,
        &url,
    ];
    let _bulk = Daemon::start(Path::new("curl"), &bulk, &site.path().join("curl.log"));
    eventually("bulk over TLS is seen", || {
        carrier(&gateway, "web").is_some_and(|over| over == "tls")
            && rows(&gateway, "tunnels")
                .iter()
                .any(|tunnel| tunnel["busy"] == true && tunnel["transport"] == "tls")
    });

    let mut shell = TcpStream::connect((Ipv4Addr::LOCALHOST, number)).expect("the gateway listens");
    shell.write_all(b"x").expect("a stream");
    shell.read_exact(&mut [0]).expect("an echo");
    assert_eq!(carrier(&gateway, "shell").expect("a stream"), "quic");
}
