//! Datagrams through a gateway port, over QUIC and over TLS.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use sallyport_tests::{BOUND, Port, Relay, Site};

/// Answers each datagram with its bytes reversed until it gets `end`.
fn reverser() -> (u16, thread::JoinHandle<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = socket.local_addr().expect("bound").port();
    let server = thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).expect("a datagram");
            let got = buffer.get_mut(..len).expect("received");
            if got == b"end" {
                return;
            }
            got.reverse();
            socket.send_to(got, from).expect("sent");
        }
    });
    (port, server)
}

fn ask(client: &UdpSocket, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    // Datagrams may be lost by right; a client asks again.
    for _ in 0..BOUND.as_secs() {
        client.send(payload).expect("sent");
        let mut mirrored = payload.to_vec();
        mirrored.reverse();
        while let Ok(len) = client.recv(&mut buffer) {
            if buffer.get(..len) == Some(&mirrored[..]) {
                return mirrored;
            }
        }
    }
    Vec::new()
}

fn datagrams_over(transport: &str) {
    let site = Site::new();
    let (target, server) = reverser();
    let public = Port::reserve();
    let gateway = site.gateway_with(
        "gw",
        "127.0.0.1",
        &format!(
            "[[udp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"names\"\n",
            public.number()
        ),
    );
    let _relay: Relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "transport = \"{transport}\"\n[[session]]\nid = \"names\"\nprotocol = \"udp\"\n\
             target = \"127.0.0.1:{target}\"\naccess = \"public\"\n"
        ),
    );
    gateway.wait_session("names");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    client
        .connect((Ipv4Addr::LOCALHOST, public.number()))
        .expect("an address");
    client
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a bound");

    for len in [1, 64, 512, 1_200, 1_472, 8_000] {
        let payload: Vec<u8> = (0..len)
            .map(|n| u8::try_from(n % 251).unwrap_or(0))
            .collect();
        let mut mirrored = payload.clone();
        mirrored.reverse();
        assert_eq!(
            ask(&client, &payload),
            mirrored,
            "{len} bytes over {transport}"
        );
    }
    let direct = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    direct
        .send_to(b"end", (Ipv4Addr::LOCALHOST, target))
        .expect("sent");
    server.join().expect("the service is content");
}

#[test]
fn request_and_response_over_quic() {
    datagrams_over("quic");
}

#[test]
fn request_and_response_over_tls() {
    datagrams_over("tls");
}
