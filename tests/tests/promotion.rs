//! Streams that are encrypted from end to end and leave their tunnel for a data connection while they move much.
//!
//! The gateway looks at nothing but the ClientHello, so the bytes here are a real one and then whatever is to be shown.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::aws_lc_rs as provider;
use sallyport_tests::{Gateway, Relay, Site, eventually};

const MIB: u64 = 1_024 * 1_024;

/// A session whose program ends TLS, and the tunnels that lead there.
struct Desk {
    program: TcpListener,
    relay: Relay,
    gateway: Gateway,
    _site: Site,
}

/// A client and the program that serves it, once the ClientHello has come through.
struct Pair {
    client: TcpStream,
    program: TcpStream,
}

/// `gateway` and `relay` are added to the configurations.
fn desk(gateway: &str, relay: &str) -> Desk {
    let site = Site::new();
    let program = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = program.local_addr().expect("bound");
    let mut gateway_program = site.gateway_init("gw", "127.0.0.1", &[]);
    gateway_program.extend(&format!(
        "[[passthrough]]\nsni = \"desk.example.org\"\nsession = \"desk\"\n{gateway}"
    ));
    gateway_program.start();
    gateway_program.wait_ready();
    let relay = site.relay(
        "node-a",
        &gateway_program,
        &format!(
            "{relay}\n[[session]]\nid = \"desk\"\nprotocol = \"tls\"\ntarget = \"{target}\"\naccess = \"public\"\n"
        ),
    );
    gateway_program.wait_session("desk");
    Desk {
        program,
        relay,
        gateway: gateway_program,
        _site: site,
    }
}

impl Desk {
    fn connect(&self) -> Pair {
        let hello = client_hello();
        let mut client =
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.gateway.port())).expect("listens");
        client.set_nodelay(true).expect("a socket option");
        client.write_all(&hello).expect("taken");
        let (mut program, _) = self.program.accept().expect("a stream");
        program.set_nodelay(true).expect("a socket option");
        let mut came = vec![0; hello.len()];
        program.read_exact(&mut came).expect("the ClientHello");
        assert_eq!(came, hello);
        Pair { client, program }
    }

    /// Streams that a data connection carries now, as the gateway and as the relay count them.
    fn promoted(&self) -> [u64; 2] {
        [
            self.gateway.metric("sallyport_streams_promoted"),
            self.relay.metric("sallyport_relay_streams_promoted"),
        ]
    }

    fn promotions(&self, result: &str) -> u64 {
        let name = format!("sallyport_promotions_total{{result=\"{result}\"}}");
        self.gateway.metric(&name)
    }

    fn wait_promoted(&self, streams: u64) {
        eventually(&format!("{streams} are promoted"), || {
            self.promoted() == [streams; 2]
        });
    }
}

fn client_hello() -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(provider::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the provider's versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "desk.example.org".try_into().expect("a DNS name");
    let mut connection = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("into memory");
    hello
}

/// Bytes that are nowhere the same for long.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            for (to, from) in word.iter_mut().zip(self.0.to_le_bytes()) {
                *to = from;
            }
        }
    }
}

/// Sends `bytes` in writes of `piece`; the SHA-256 of all.
fn send(stream: &mut TcpStream, seed: u64, bytes: u64, piece: usize) -> Vec<u8> {
    let (mut pattern, mut hash) = (Pattern(seed), Context::new(&SHA256));
    let mut buffer = vec![0; piece];
    let mut left = bytes;
    while left > 0 {
        pattern.fill(&mut buffer);
        let part = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let part = buffer.get(..part).unwrap_or_default();
        hash.update(part);
        stream.write_all(part).expect("taken");
        left -= part.len() as u64;
    }
    hash.finish().as_ref().to_vec()
}

/// Reads so many bytes; their SHA-256.
fn receive(stream: &mut TcpStream, bytes: u64) -> Vec<u8> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 256 * 1_024];
    let mut left = bytes;
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = stream.read(buffer.get_mut(..most).unwrap_or_default());
        let read = read.expect("not broken off");
        assert!(read > 0, "the end, {left} bytes too early");
        hash.update(buffer.get(..read).unwrap_or_default());
        left -= read as u64;
    }
    hash.finish().as_ref().to_vec()
}

/// Nothing is left, and the end is an orderly one.
fn assert_ended(stream: &mut TcpStream) {
    let mut rest = [0; 1];
    assert_eq!(stream.read(&mut rest).expect("an end in order"), 0);
}

/// Sends both ways at once, and compares.
fn exchange(pair: &Pair, bytes: u64, piece: usize) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
    thread::scope(|scope| {
        let (mut up, mut down) = (clone(&pair.client), clone(&pair.program));
        let up = scope.spawn(move || send(&mut up, 1, bytes, piece));
        let down = scope.spawn(move || send(&mut down, 2, bytes, piece));
        let (mut at_program, mut at_client) = (clone(&pair.program), clone(&pair.client));
        let came_up = scope.spawn(move || receive(&mut at_program, bytes));
        let came_down = receive(&mut at_client, bytes);
        assert_eq!(up.join().expect("sent"), came_up.join().expect("received"));
        assert_eq!(down.join().expect("sent"), came_down);
    });
}

/// Sends one way while the other end reads, and compares.
fn pass(from: &TcpStream, to: &TcpStream, bytes: u64, piece: usize) {
    let mut from = from.try_clone().expect("a second handle");
    let mut to = to.try_clone().expect("a second handle");
    let sending = thread::spawn(move || send(&mut from, bytes, bytes, piece));
    let came = receive(&mut to, bytes);
    assert_eq!(sending.join().expect("sent"), came);
}

#[test]
fn heavy_much_is_carried_beside_a_tunnel_over_tls_and_ends_in_order() {
    carries_much("tls");
}

#[test]
fn heavy_much_is_carried_beside_a_tunnel_over_quic_and_ends_in_order() {
    carries_much("auto");
}

fn carries_much(transport: &str) {
    let desk = desk("", &format!("transport = \"{transport}\""));
    let mut pair = desk.connect();

    exchange(&pair, 1_024 * MIB, 64 * 1_024);

    assert!(desk.promotions("carried") >= 1);
    desk.wait_promoted(0); // idle by now
    pair.client.shutdown(Shutdown::Write).expect("open");
    assert_ended(&mut pair.program);
    pass(&pair.program, &pair.client, 64 * MIB, 64 * 1_024);
    pair.program.shutdown(Shutdown::Write).expect("open");
    assert_ended(&mut pair.client);
    desk.wait_promoted(0);
    assert!(desk.promotions("carried") >= 2);
    eventually("the stream has ended", || {
        desk.gateway.metric("sallyport_streams_open") == 0
    });
    let bytes = desk.gateway.metric("sallyport_bytes_down_total");
    assert_eq!(bytes, (1_024 + 64) * MIB);
}

#[test]
fn ends_arrive_in_order_while_a_data_connection_carries_the_stream() {
    let desk = desk(
        "[promotion]\nidle = \"1h\"\n",
        "[limits]\ndata_idle = \"1h\"\n",
    );
    for client_first in [true, false] {
        let Pair { client, program } = desk.connect();
        pass(&program, &client, MIB, 64 * 1_024);
        desk.wait_promoted(1);
        let (mut first, mut second) = if client_first {
            (client, program)
        } else {
            (program, client)
        };

        pass(&first, &second, 3 * MIB + 1, 64 * 1_024);
        first.shutdown(Shutdown::Write).expect("open");
        assert_ended(&mut second);
        assert_eq!(desk.promoted(), [1, 1], "one way is left");
        pass(&second, &first, 3 * MIB + 1, 64 * 1_024);
        second.shutdown(Shutdown::Write).expect("open");
        assert_ended(&mut first);
        desk.wait_promoted(0);
    }
    let refused = desk.gateway.log().contains("ended_by\":\"session");
    assert!(!refused, "nothing was broken off");
}

#[test]
fn ends_that_meet_a_data_connection_on_its_way_stay_in_order() {
    let desk = desk("[promotion]\nafter = 4096\n", "");
    let mut sizes = Pattern(11);
    for round in 0..100 {
        let mut pair = desk.connect();
        let mut size = [0; 8];
        sizes.fill(&mut size);
        let size = 4_096 + u64::from_le_bytes(size) % 400_000;
        let mut program = pair.program.try_clone().expect("a second handle");
        let sending = thread::spawn(move || {
            let sent = send(&mut program, size, size, 20_000);
            program.shutdown(Shutdown::Write).expect("open");
            sent
        });
        if round % 2 == 0 {
            pair.client.shutdown(Shutdown::Write).expect("open");
        }
        assert_eq!(
            receive(&mut pair.client, size),
            sending.join().expect("sent")
        );
        assert_ended(&mut pair.client);
        if round % 2 == 1 {
            pass(&pair.client, &pair.program, size, 20_000);
            pair.client.shutdown(Shutdown::Write).expect("open");
        }
        assert_ended(&mut pair.program);
    }
    desk.wait_promoted(0);
}

#[test]
fn short_segments_and_single_bytes_arrive() {
    let desk = desk(
        "[promotion]\nidle = \"1h\"\n",
        "[limits]\ndata_idle = \"1h\"\n",
    );
    let pair = desk.connect();
    pass(&pair.program, &pair.client, MIB, 64 * 1_024);
    desk.wait_promoted(1);

    exchange(&pair, 32 * MIB, 1_448);
    exchange(&pair, 20_000, 1);
    exchange(&pair, 32 * MIB, 1_448);

    assert_eq!(desk.promoted(), [1, 1]);
}

#[test]
fn a_stream_leaves_its_tunnel_and_returns_whenever_it_is_idle() {
    let desk = desk("[promotion]\nafter = 4096\nidle = \"200ms\"\n", "");
    let pair = desk.connect();
    let mut sizes = Pattern(7);
    for round in 1..=6 {
        let mut size = [0; 8];
        sizes.fill(&mut size);
        let size = 8_192 + u64::from_le_bytes(size) % (4 * MIB);
        match round % 3 {
            0 => exchange(&pair, size, 10_000),
            1 => pass(&pair.client, &pair.program, size, 10_000),
            _ => pass(&pair.program, &pair.client, size, 10_000),
        }
        // a busy machine may be done with all that before it is asked to carry it
        let promoted = || desk.promotions("carried") >= round;
        eventually("it was promoted", || {
            promoted() || {
                exchange(&pair, 100_000, 10_000);
                promoted()
            }
        });
        if round % 2 == 0 {
            exchange(&pair, 1, 1); // in the midst of coming and going
            exchange(&pair, 100_000, 333);
        }
        desk.wait_promoted(0);
        exchange(&pair, 1_000, 1_000);
    }
}

#[test]
fn who_dies_in_the_midst_leaves_no_false_end() {
    for transport in ["tls", "auto"] {
        for kill_relay in [true, false] {
            let mut desk = desk("", &format!("transport = \"{transport}\""));
            let Pair {
                mut client,
                mut program,
            } = desk.connect();
            // The one that lives has the other end of the stream behind it.
            let (mut sender, receiver) = if kill_relay {
                (program.try_clone().expect("a handle"), &mut client)
            } else {
                (client.try_clone().expect("a handle"), &mut program)
            };
            let sending = thread::spawn(move || {
                let bytes = vec![7; 64 * 1_024];
                while sender.write_all(&bytes).is_ok() {}
            });
            let before = receive(receiver, MIB);
            assert!(!before.is_empty());
            let mut bytes = vec![0; 256 * 1_024];
            eventually("it is promoted", || {
                let read = receiver.read(&mut bytes).expect("it flows");
                read > 0 && desk.promotions("carried") == 1
            });

            if kill_relay {
                desk.relay.daemon().kill();
            } else {
                desk.gateway.daemon().kill();
            }

            let end = loop {
                match receiver.read(&mut bytes) {
                    Ok(0) => break None,
                    Ok(_) => {}
                    Err(error) => break Some(error.kind()),
                }
            };
            assert_eq!(
                end,
                Some(ErrorKind::ConnectionReset),
                "{transport} {kill_relay}"
            );
            sending.join().expect("it was told, too");
        }
    }
}

/// What a proxy does with connections beyond the first ones.
#[derive(Clone, Copy)]
enum Then {
    Refuse,
    Swallow,
}

/// A proxy that lets so many through.
fn proxy(most: usize, then: Then) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            thread::spawn(move || relay_one(stream, number < most, then));
        }
    });
    port
}

fn relay_one(mut client: TcpStream, open: bool, then: Then) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        client.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    if !open && matches!(then, Then::Refuse) {
        return client.write_all(b"HTTP/1.1 403 No\r\n\r\n").ok();
    }
    client.write_all(b"HTTP/1.1 200 Yes\r\n\r\n").ok()?;
    if !open {
        return std::io::copy(&mut client, &mut std::io::sink())
            .ok()
            .map(drop);
    }
    let head = String::from_utf8(head).ok()?;
    let server = TcpStream::connect(head.split(' ').nth(1)?).ok()?;
    let copy = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (
            from.try_clone().expect("a handle"),
            to.try_clone().expect("a handle"),
        );
        move || {
            let _broken = std::io::copy(&mut from, &mut to);
            let _gone = to.shutdown(Shutdown::Write);
        }
    };
    let up = thread::spawn(copy(&client, &server));
    copy(&server, &client)();
    up.join().ok()
}

#[test]
fn a_data_connection_goes_through_the_same_proxy() {
    let port = proxy(usize::MAX, Then::Refuse);
    let desk = desk("", &format!("proxy = \"http://127.0.0.1:{port}\""));
    let pair = desk.connect();
    exchange(&pair, 16 * MIB, 64 * 1_024);
    eventually("it was promoted", || desk.promotions("carried") >= 1);
    exchange(&pair, 16 * MIB, 64 * 1_024);
}

#[test]
fn where_none_can_be_dialled_the_tunnel_carries_everything() {
    for then in [Then::Refuse, Then::Swallow] {
        let port = proxy(1, then);
        let relay = format!("tunnels = 1\nproxy = \"http://127.0.0.1:{port}\"");
        let desk = desk("[promotion]\nwait = \"1s\"\n", &relay);
        let mut pair = desk.connect();

        exchange(&pair, 16 * MIB, 64 * 1_024);
        eventually("it was given up", || {
            exchange(&pair, 1, 1);
            desk.promotions("late") == 1
        });
        exchange(&pair, 16 * MIB, 64 * 1_024);

        assert_eq!(desk.promotions("late"), 1, "it is left alone for a while");
        assert_eq!((desk.promotions("carried"), desk.promoted()), (0, [0, 0]));
        pair.client.shutdown(Shutdown::Write).expect("open");
        assert_ended(&mut pair.program);
    }
}

#[test]
fn so_many_data_connections_and_no_more() {
    for (gateway, relay) in [
        (
            "[promotion]\nmost = 1\nidle = \"1h\"\n",
            "[limits]\ndata_idle = \"1h\"\n",
        ),
        (
            "[promotion]\nidle = \"1h\"\n",
            "[limits]\ndata_connections = 1\ndata_idle = \"1h\"\n",
        ),
    ] {
        let desk = desk(gateway, relay);
        let (first, second) = (desk.connect(), desk.connect());
        exchange(&first, 4 * MIB, 64 * 1_024);
        desk.wait_promoted(1);

        exchange(&second, 4 * MIB, 64 * 1_024);

        assert_eq!(desk.promoted(), [1, 1]);
        exchange(&first, 4 * MIB, 64 * 1_024);
    }
}

#[test]
fn where_one_side_wants_none_nobody_is_invited() {
    for (gateway, relay) in [
        ("[promotion]\nmost = 0\n", ""),
        ("", "[limits]\ndata_connections = 0\n"),
        ("", "transport = \"quic\""),
    ] {
        let desk = desk(gateway, relay);
        let pair = desk.connect();
        exchange(&pair, 4 * MIB, 64 * 1_024);
        assert_eq!(desk.promotions("carried") + desk.promotions("late"), 0);
    }
}

#[test]
fn little_stays_in_the_tunnel() {
    let desk = desk("[promotion]\nafter = 1048576\n", "");
    let pair = desk.connect();
    // The ClientHello counts.
    exchange(&pair, MIB - 4_096, 1_000);
    assert_eq!(desk.promotions("carried"), 0);
    exchange(&pair, MIB, 1_000);
    eventually("it was promoted", || desk.promotions("carried") == 1);
}

#[test]
fn strangers_get_nothing_from_the_preamble() {
    let desk = desk("", "");
    let knock = [b"sallyport-data/1".as_slice(), &[7; 48]].concat();

    let mut stranger =
        TcpStream::connect((Ipv4Addr::LOCALHOST, desk.gateway.port())).expect("listens");
    stranger.write_all(&knock).expect("taken");

    let mut answer = Vec::new();
    let _closed = stranger.read_to_end(&mut answer);
    assert!(answer.is_empty());
    let failed = r#"sallyport_handshakes_failed_total{cause="data"}"#;
    eventually("it is counted", || desk.gateway.metric(failed) == 1);
}
