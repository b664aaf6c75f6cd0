//! Under load every byte arrives as it was sent, every stream ends as it should, and nobody waits for somebody else.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use sallyport_tests::{BOUND, Gateway, Port, Relay, Site, client_hello};

const MIB: u64 = 1024 * 1024;

/// Server name of the passthrough.
const BLIND: &str = "blind.example.org";

/// What fits into a packet of 1,500 bytes.
const SEGMENT: usize = 1_448;

/// A raw port and a passthrough that lead to one service through one tunnel.
struct Loaded {
    gateway: Gateway,
    raw: Port,
    _relay: Relay,
    _site: Site,
}

impl Loaded {
    fn start(transport: &str, service: u16) -> Self {
        let (site, raw) = (Site::new(), Port::reserve());
        let mut gateway = site.gateway_init("gw", "127.0.0.1", &[]);
        gateway.extend(&format!(
            "[[tcp]]\nlisten = \"127.0.0.1:{}\"\nsession = \"raw\"\n\
             [[passthrough]]\nsni = \"{BLIND}\"\nsession = \"blind\"\n",
            raw.number()
        ));
        // A line for each of thousands of streams would be the load.
        gateway.start_quietly();
        gateway.wait_ready();
        let session = |id, protocol| {
            format!(
                "[[session]]\nid = \"{id}\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:{service}\"\naccess = \"public\"\n"
            )
        };
        let config = format!(
            "transport = \"{transport}\"\ntunnels = 1\n{}{}",
            session("raw", "tcp"),
            session("blind", "tls")
        );
        let mut relay = site.relay_stopped("node-a", &[&gateway], &config);
        relay.start_quietly();
        gateway.wait_session("raw");
        gateway.wait_session("blind");
        Self {
            gateway,
            raw,
            _relay: relay,
            _site: site,
        }
    }

    /// A client of the raw port.
    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect((Ipv4Addr::LOCALHOST, self.raw.number())))
    }

    /// A client whose bytes the gateway cannot read.
    fn connect_blind(&self) -> TcpStream {
        let mut stream = patient(TcpStream::connect((
            Ipv4Addr::LOCALHOST,
            self.gateway.port(),
        )));
        let hello = client_hello(BLIND);
        stream.write_all(&hello).expect("the gateway reads it");
        let mut echo = vec![0; hello.len()];
        stream.read_exact(&mut echo).expect("the session echoes it");
        assert_eq!(echo, hello);
        stream
    }
}

/// Fails a test that would wait for ever.
fn patient(stream: io::Result<TcpStream>) -> TcpStream {
    let stream = stream.expect("a connection");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(BOUND)).expect("an option");
    stream.set_write_timeout(Some(BOUND)).expect("an option");
    stream
}

/// A service; each of its connections has a thread.
fn serve(service: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (service, client) = (service.clone(), patient(client));
            thread::spawn(move || service(client));
        }
    });
    port
}

fn echo(mut client: TcpStream) -> io::Result<()> {
    io::copy(&mut client.try_clone()?, &mut client)?;
    client.shutdown(Shutdown::Write)
}

/// Numbers that look random and are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words
            .take(usize::try_from(count).expect("it fits"))
            .collect()
    }
}

/// What one side sends; known to the other side too.
#[derive(Clone, Copy)]
struct Part {
    seed: u64,
    count: u64,
    /// Most bytes of one write.
    piece: u64,
    /// Most milliseconds between two writes.
    pause: u64,
}

impl Part {
    /// Some talk a lot and hardly rest, some say little and rest often, some say nothing.
    fn of_conversation(seed: u64) -> Self {
        let mut random = Random::new(seed.wrapping_add(1_000));
        let count = match random.below(8) {
            0 => 0,
            1..=4 => random.below(20_000),
            _ => random.below(4 * MIB),
        };
        Self {
            seed,
            count,
            piece: 1 + count / 40,
            pause: if count < 20_000 { 20 } else { 3 },
        }
    }

    fn pieces(self) -> impl Iterator<Item = Vec<u8>> {
        let (mut random, mut left) = (Random::new(self.seed), self.count);
        std::iter::from_fn(move || {
            let length = (1 + random.below(self.piece)).min(left);
            left -= length;
            (length > 0).then(|| random.bytes(length))
        })
    }

    fn sum(self) -> Digest {
        let mut sum = Context::new(&SHA256);
        self.pieces().for_each(|piece| sum.update(&piece));
        sum.finish()
    }

    /// Sends it and ends the direction.
    fn send(self, mut stream: &TcpStream) {
        let mut random = Random::new(self.seed.wrapping_add(2_000));
        for piece in self.pieces() {
            stream.write_all(&piece).expect("the stream takes them");
            if self.pause > 0 {
                thread::sleep(Duration::from_millis(random.below(self.pause)));
            }
        }
        stream.shutdown(Shutdown::Write).expect("still open");
    }

    /// Reads to the end, which comes after exactly this.
    fn expect_from(self, stream: &TcpStream) {
        let (count, sum) = receive(stream);
        assert_eq!(count, self.count, "bytes of {}", self.seed);
        assert_eq!(sum.as_ref(), self.sum().as_ref(), "sum of {}", self.seed);
    }

    /// Sends it through an echo and reads it back meanwhile.
    fn through_echo(self, stream: &TcpStream) {
        thread::scope(|scope| {
            scope.spawn(|| self.send(stream));
            self.expect_from(stream);
        });
    }
}

/// Reads to the end: how many bytes came, and their sum.
fn receive(mut stream: &TcpStream) -> (u64, Digest) {
    let (mut sum, mut count) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).expect("an orderly end");
        if read == 0 {
            return (count, sum.finish());
        }
        sum.update(buffer.get(..read).expect("as many were read"));
        count += u64::try_from(read).expect("it fits");
    }
}

fn bulk(transport: &str) {
    let loaded = Loaded::start(transport, serve(echo));
    thread::scope(|scope| {
        for seed in 0..8 {
            let stream = loaded.connect();
            let part = Part {
                seed,
                count: 32 * MIB,
                piece: 256 * 1024,
                pause: 0,
            };
            scope.spawn(move || part.through_echo(&stream));
        }
    });
}

#[test]
fn heavy_every_byte_of_bulk_comes_back_over_tls() {
    bulk("tls");
}

#[test]
fn heavy_every_byte_of_bulk_comes_back_over_quic() {
    bulk("quic");
}

/// The service's side of a conversation: it learns its number, says its part, and meanwhile hears the client's.
fn answer(mut client: TcpStream, heard: &Sender<u64>) -> io::Result<()> {
    let mut number = [0; 8];
    client.read_exact(&mut number)?;
    let number = u64::from_le_bytes(number);
    converse(&client, [number + 1, number]);
    heard.send(number).map_err(io::Error::other)
}

/// Says one part and hears the other one; each side ends its own when it has said it.
fn converse(stream: &TcpStream, [own, other]: [u64; 2]) {
    thread::scope(|scope| {
        scope.spawn(|| Part::of_conversation(own).send(stream));
        Part::of_conversation(other).expect_from(stream);
    });
}

fn conversations(transport: &str) {
    const STREAMS: u64 = 64;
    let (heard, hearing) = channel();
    let loaded = Loaded::start(transport, serve(move |client| answer(client, &heard)));
    thread::scope(|scope| {
        for number in (0..STREAMS).map(|number| number * 2) {
            let mut stream = loaded.connect();
            scope.spawn(move || {
                stream.write_all(&number.to_le_bytes()).expect("open");
                converse(&stream, [number, number + 1]);
            });
        }
    });
    let mut numbers: Vec<u64> = (0..STREAMS)
        .map(|_| {
            hearing
                .recv_timeout(BOUND)
                .expect("heard at the other side")
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(u64::try_from(numbers.len()), Ok(STREAMS));
}

#[test]
fn heavy_sixty_four_streams_rest_and_half_close_over_tls() {
    conversations("tls");
}

#[test]
fn heavy_sixty_four_streams_rest_and_half_close_over_quic() {
    conversations("quic");
}

/// First byte of a client that is given bytes without end; others get an echo.
const ENDLESS: u8 = 1;

/// How long a write waits until it counts as stuck.
const STUCK: Duration = Duration::from_millis(500);

fn echo_or_endless(mut client: TcpStream, stuck: &Sender<()>) -> io::Result<()> {
    let mut wish = [0];
    client.read_exact(&mut wish)?;
    if wish != [ENDLESS] {
        return echo(client);
    }
    client.set_write_timeout(Some(STUCK))?;
    let (bytes, mut sent) = (Random::new(7).bytes(PERIOD), 0);
    loop {
        match client.write(bytes.get(sent..).expect("within the period")) {
            Ok(count) => sent = (sent + count) % bytes.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => drop(stuck.send(())),
            Err(error) => return Err(error),
        }
    }
}

/// What an endless stream repeats: no multiple of any buffer.
const PERIOD: u64 = 100_003;

fn stuck_reader(transport: &str) {
    let (stuck, blocked) = channel();
    let service = serve(move |client| echo_or_endless(client, &stuck));
    let loaded = Loaded::start(transport, service);
    let mut unread = loaded.connect();
    unread.write_all(&[ENDLESS]).expect("open");
    blocked.recv_timeout(BOUND).expect("the session is held up");

    thread::scope(|scope| {
        for seed in 0..100 {
            let mut stream = loaded.connect();
            let part = Part {
                seed,
                count: MIB,
                piece: 64 * 1024,
                pause: 0,
            };
            scope.spawn(move || {
                stream.write_all(&[0]).expect("open");
                part.through_echo(&stream);
            });
        }
    });
    while blocked.try_recv().is_ok() {}
    blocked.recv_timeout(BOUND).expect("it still is");

    // Whoever reads at last finds every byte.
    let (bytes, mut got) = (Random::new(7).bytes(PERIOD), vec![0; 100_003]);
    for _ in 0..400 {
        unread.read_exact(&mut got).expect("it goes on");
        assert!(got == bytes, "other bytes");
    }
}

#[test]
fn heavy_a_hundred_streams_pass_one_that_nobody_reads_over_tls() {
    stuck_reader("tls");
}

#[test]
fn heavy_a_hundred_streams_pass_one_that_nobody_reads_over_quic() {
    stuck_reader("quic");
}

/// Segments and single bytes, each written by itself.
fn small_writes(stream: &TcpStream) {
    for (size, count) in [(SEGMENT, 6_000), (1, 20_000)] {
        let sent = Random::new(3).bytes(u64::try_from(size * count).expect("it fits"));
        let mut got = vec![0; sent.len()];
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut to = stream;
                for piece in sent.chunks(size) {
                    to.write_all(piece).expect("the stream takes them");
                }
            });
            let mut from = stream;
            from.read_exact(&mut got).expect("all comes back");
        });
        assert!(got == sent, "other bytes came back of writes of {size}");
    }
    stream.shutdown(Shutdown::Write).expect("still open");
    assert_eq!(receive(stream).0, 0, "nothing but the end is left");
}

#[test]
fn segments_and_single_bytes_come_back_as_they_were_written() {
    for transport in ["tls", "quic"] {
        let loaded = Loaded::start(transport, serve(echo));
        small_writes(&loaded.connect());
        small_writes(&loaded.connect_blind());
    }
}

fn sixty_five_thousand(transport: &str) {
    const STREAMS: u64 = 65_000;
    const CLIENTS: usize = 8;
    let loaded = Loaded::start(transport, serve(echo));
    let before = loaded.gateway.tunnels();
    assert_eq!(before.len(), 1);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let loaded = &loaded;
            scope.spawn(move || {
                for number in (0..STREAMS).skip(client).step_by(CLIENTS) {
                    one_of_many(loaded.connect(), number);
                }
            });
        }
    });
    let after = loaded.gateway.tunnels();
    assert_eq!(after, before, "it is another tunnel");
}

/// A number there and back, and both ends in order.
fn one_of_many(mut stream: TcpStream, number: u64) {
    stream.write_all(&number.to_le_bytes()).expect("open");
    let mut back = [0; 8];
    stream.read_exact(&mut back).expect("the echo");
    assert_eq!(back, number.to_le_bytes());
    stream.shutdown(Shutdown::Write).expect("still open");
    assert_eq!(stream.read(&mut back).expect("an orderly end"), 0);
}

#[test]
fn heavy_sixty_five_thousand_streams_are_one_tunnel_over_tls() {
    sixty_five_thousand("tls");
}

#[test]
fn heavy_sixty_five_thousand_streams_are_one_tunnel_over_quic() {
    sixty_five_thousand("quic");
}
