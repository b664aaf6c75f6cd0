//! The relay's limits, each reached with a small value: what is beyond is refused, what is within goes on.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sallyport_tests::service::Nginx;
use sallyport_tests::{Gateway, HandMade, Port, Relay, Site, eventually};
use sallyport_wire::Code;
use sallyport_wire::message::{Head, Kind};
use socket2::{Domain, Socket, Type};

/// A gateway with a raw port that leads to `target`, and a relay with these settings.
struct Limited {
    gateway: Gateway,
    port: u16,
    relay: Relay,
    _rest: (Port, Site),
}

fn limited(settings: &str, target: u16) -> Limited {
    let site = Site::new();
    let port = Port::reserve();
    let number = port.number();
    let extra = format!(
        "[[tcp]]\nlisten = \"127.0.0.1:{number}\"\nsession = \"raw\"\n[tunnels]\nprobe_every = \"200ms\"\n"
    );
    let gateway = site.gateway_with("gw", "127.0.0.1", &extra);
    let config = format!(
        "{settings}\n[[session]]\nid = \"raw\"\nprotocol = \"tcp\"\ntarget = \"127.0.0.1:{target}\"\naccess = \"public\"\n\
         [[session]]\nid = \"web\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{target}\"\naccess = \"public\"\n"
    );
    let relay = site.relay("node-a", &gateway, &config);
    gateway.wait_session("raw");
    gateway.wait_session("web");
    Limited {
        gateway,
        port: number,
        relay,
        _rest: (port, site),
    }
}

/// Sends back what comes.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut from = client.try_clone().expect("a second handle");
                std::io::copy(&mut from, &mut client)
            });
        }
    });
    port
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the gateway listens");
    let within = Some(Duration::from_secs(20));
    stream.set_read_timeout(within).expect("a socket option");
    stream
}

/// Whether a byte comes back; `false` if the connection was refused.
fn carries(stream: &mut TcpStream) -> bool {
    let mut back = [0; 1];
    let sent = stream.write_all(b"x");
    match sent.and_then(|()| stream.read(&mut back)) {
        Ok(got) => got == 1,
        Err(error) => {
            assert_ne!(
                error.kind(),
                ErrorKind::WouldBlock,
                "neither carried nor refused"
            );
            false
        }
    }
}

#[test]
fn streams_beyond_the_cap_are_refused_and_the_tunnel_stays() {
    for transport in ["tls", "quic"] {
        for cap in ["streams_per_tunnel = 2", "streams = 2"] {
            let settings = format!("transport = \"{transport}\"\ntunnels = 1\n[limits]\n{cap}\n");
            let limited = limited(&settings, echo());
            let before = limited.gateway.tunnels();
            assert_eq!(before.len(), 1);
            let mut open = [connect(limited.port), connect(limited.port)];
            assert!(open.iter_mut().all(carries), "{transport} {cap}");

            let asked = Instant::now();
            let beyond = limited
                .gateway
                .curl()
                .arg(limited.gateway.session_url("web", "/"))
                .go();
            assert_eq!(beyond.status(), 503, "{transport} {cap}");
            assert!(!carries(&mut connect(limited.port)), "{transport} {cap}");
            assert!(
                asked.elapsed() < Duration::from_secs(10),
                "a refusal, not a wait"
            );

            // Far longer than it takes to count as dead, were probes refused too.
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                assert!(open.iter_mut().all(carries), "{transport} {cap}");
                thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(limited.gateway.tunnels(), before, "{transport} {cap}");

            let [first, _second] = open;
            drop(first);
            eventually("the place is given back", || {
                carries(&mut connect(limited.port))
            });
        }
    }
}

#[test]
fn a_session_that_does_not_answer_the_connection_is_too_slow() {
    // A full accept queue: the kernel drops what comes next.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("a port");
    socket.listen(0).expect("listens");
    let address = socket
        .local_addr()
        .expect("bound")
        .as_socket()
        .expect("IPv4");
    let _first = TcpStream::connect(address).expect("the queue has one place");
    let limited = limited("[limits]\nconnect = \"1s\"\n", address.port());

    let asked = Instant::now();
    let answer = limited
        .gateway
        .curl()
        .arg(limited.gateway.session_url("web", "/"))
        .go()
        .expect(504);

    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(answer);
    drop(
        limited
            .relay
            .wait_for_line(&["session not reached", "within 1s"]),
    );
    assert!(!carries(&mut connect(limited.port)));
}

#[test]
fn a_drain_ends_what_does_not_end_by_itself() {
    let mut limited = limited("[limits]\ndrain = \"1s\"\n", echo());
    let mut held = connect(limited.port);
    assert!(carries(&mut held));

    let asked = Instant::now();
    let ended = limited.relay.daemon().terminate();

    let took = asked.elapsed();
    assert!(ended.success(), "{ended}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(!carries(&mut held), "it was cut off");
}

#[test]
fn a_second_signal_ends_a_drain() {
    let mut limited = limited("[limits]\ndrain = \"1h\"\n", echo());
    let mut held = connect(limited.port);
    assert!(carries(&mut held));

    limited.relay.daemon().signal(rustix::process::Signal::TERM);
    drop(limited.relay.wait_for_line(&["draining; a second signal"]));
    assert!(carries(&mut held), "the first lets streams finish");
    assert!(limited.relay.daemon().terminate().success());

    assert!(!carries(&mut held), "it was cut off");
}

#[test]
fn a_silent_stream_ends_as_idle() {
    let limited = limited("[limits]\nidle = \"3s\"\n", echo());
    let mut held = connect(limited.port);
    // Bytes keep it open for longer than that.
    for _ in 0..14 {
        assert!(carries(&mut held));
        thread::sleep(Duration::from_millis(300));
    }
    let mut rest = [0; 1];
    assert!(!matches!(held.read(&mut rest), Ok(1)), "nothing more comes");
    drop(limited.relay.wait_for_line(&["stream ended", "idle"]));
}

#[test]
fn a_session_that_takes_nothing_is_cut_off() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let limited = limited("[limits]\nwrite_stall = \"1s\"\n", port);
    let mut held = connect(limited.port);
    let within = Some(Duration::from_secs(20));
    held.set_write_timeout(within).expect("a socket option");
    let (_unread, _) = listener.accept().expect("the relay connects");

    let part = [0; 1 << 16];
    let refused = loop {
        if let Err(error) = held.write_all(&part) {
            break error;
        }
    };

    assert_ne!(refused.kind(), ErrorKind::WouldBlock, "still held up");
    drop(
        limited
            .relay
            .wait_for_line(&["stream ended", "session_stalled"]),
    );
}

#[test]
fn a_stream_whose_head_does_not_come_is_given_up_and_the_tunnel_stays() {
    let site = Site::new();
    let gateway = site.gateway_init("gw", "127.0.0.1", &[]);
    let by_hand = HandMade::listen(&gateway);
    let config = "transport = \"quic\"\ntunnels = 1\n[limits]\nhead = \"1s\"\n";
    let _relay = site.relay("node-a", &gateway, config);
    let tunnel = by_hand.welcome();

    let asked = Instant::now();
    let ended = tunnel.open_with(&[0]);

    assert_eq!(ended, Some(Code::TooSlow));
    assert!(asked.elapsed() >= Duration::from_secs(1));
    let probe = Head {
        kind: Kind::Probe.into(),
        ..Head::default()
    };
    assert!(tunnel.probe(&probe), "the tunnel works");
}

#[test]
fn health_decides_after_so_many_failures() {
    let site = Site::new();
    let mut nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[limits]\nhealth_every = \"1s\"\nhealth_failures = 1\n[[session]]\nid = \"web\"\nprotocol = \"http\"\n\
             target = \"127.0.0.1:{}\"\naccess = \"public\"\nhealth = \"/\"\n",
            nginx.port.number()
        ),
    );
    gateway.wait_session("web");

    nginx.daemon.kill();
    eventually("the session is down", || !gateway.has_session("web"));
    drop(relay);
}
