//! The service at the far end of every way: it takes, gives or echoes bytes, as the first byte of a connection asks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::host::Host;
use crate::pattern;

/// First byte of a connection whose bytes, this one included, are echoed.
pub const ECHO: u8 = b'E';
/// First byte of one that sends a count (8 bytes, little endian) and as many bytes of the pattern; answered by [`DONE`].
pub const TAKE: u8 = b'T';
/// First byte of one that sends a count and is given as many bytes of the pattern.
pub const GIVE: u8 = b'S';
/// First byte of a connection on which it is echoed, and every further byte is answered by a burst.
pub const BURSTS: u8 = b'B';
/// Bytes of a burst, which are the pattern's.
pub const BURST: u64 = 1024 * 1024;
/// The answer to [`TAKE`] once every byte has come and was right.
pub const DONE: u8 = b'!';

/// First byte of an HTTP request, which asks for a WebSocket with the key of RFC 6455's example (§1.3). It is granted,
/// and from then on every byte is answered by a burst.
const HTTP: u8 = b'G';

/// The answer to that key.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Type of a TLS record with handshake messages (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Room for a thread that only moves bytes between a socket and the heap.
const STACK: usize = 128 * 1024;

/// A listening origin. Its threads end when their sockets do.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    taken: Arc<AtomicU64>,
}

impl Origin {
    /// Starts it on a port of a host.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let listener = host.within(|| TcpListener::bind(host.at(0)).expect("a port"));
        let address = listener.local_addr().expect("it is bound");
        let taken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let thread = thread::Builder::new().stack_size(STACK);
                let counter = Arc::clone(&counter);
                // A client that goes away in the middle of something is the client's affair.
                let serving = thread.spawn(move || drop(serve(stream, &counter)));
                serving.expect("the origin has a thread for each connection");
            }
        });
        Self { address, taken }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that [`TAKE`] has taken so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, taken: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match read_byte(&mut stream)? {
        ECHO => {
            stream.write_all(&[ECHO])?;
            echo(stream)
        }
        BURSTS => {
            stream.write_all(&[BURSTS])?;
            bursts(stream)
        }
        TAKE => {
            let count = read_count(&mut stream)?;
            pattern::receive(&mut stream, count, taken)?;
            stream.write_all(&[DONE])?;
            read_to_end(stream)
        }
        GIVE => {
            let count = read_count(&mut stream)?;
            pattern::send(&mut stream, count)?;
            read_to_end(stream)
        }
        // A blind way begins with a ClientHello, which is all that its proxies ever read of TLS.
        TLS_HANDSHAKE => {
            skip_record(&mut stream)?;
            serve(stream, taken)
        }
        HTTP => {
            skip_head(&mut stream)?;
            stream.write_all(SWITCHING)?;
            bursts(stream)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..read).unwrap_or_default())?;
    }
}

fn bursts(mut stream: TcpStream) -> io::Result<()> {
    while stream.read(&mut [0])? > 0 {
        pattern::send(&mut stream, BURST)?;
    }
    Ok(())
}

/// Lets the client close first.
fn read_to_end(mut stream: TcpStream) -> io::Result<()> {
    let mut ignored = [0; 64];
    while stream.read(&mut ignored)? > 0 {}
    Ok(())
}

fn read_byte(stream: &mut TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn read_count(stream: &mut TcpStream) -> io::Result<u64> {
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_le_bytes(count))
}

/// Skips a request head after its first byte; its client sends nothing more until it is answered.
fn skip_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(read_byte(stream)?);
    }
    Ok(())
}

/// Skips a TLS record after its first byte.
fn skip_record(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = u16::from_be_bytes([head[2], head[3]]);
    let mut body = vec![0; length.into()];
    stream.read_exact(&mut body)
}
