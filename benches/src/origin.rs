//! The service at the far end of every way: it takes, gives or echoes bytes, as the first byte of a connection asks.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::pattern;

/// First byte of a connection whose bytes, this one included, are echoed.
pub const ECHO: u8 = b'E';
/// First byte of one that sends a count (8 bytes, little endian) and as many bytes of the pattern; answered by [`DONE`].
pub const TAKE: u8 = b'T';
/// First byte of one that sends a count and is given as many bytes of the pattern.
pub const GIVE: u8 = b'G';
/// The answer to [`TAKE`] once every byte has come and was right.
pub const DONE: u8 = b'!';

/// Type of a TLS record with handshake messages (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Room for a thread that only moves bytes between a socket and the heap.
const STACK: usize = 128 * 1024;

/// A listening origin. Its threads end when their sockets do.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    address: SocketAddr,
}

impl Origin {
    /// Starts it on a loopback port.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let thread = thread::Builder::new().stack_size(STACK);
                // A client that goes away in the middle of something is the client's affair.
                let serving = thread.spawn(move || drop(serve(stream)));
                serving.expect("the origin has a thread for each connection");
            }
        });
        Self { address }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match read_byte(&mut stream)? {
        ECHO => {
            stream.write_all(&[ECHO])?;
            echo(stream)
        }
        TAKE => {
            let count = read_count(&mut stream)?;
            pattern::receive(&mut stream, count)?;
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
            serve(stream)
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

/// Skips a TLS record after its first byte.
fn skip_record(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = u16::from_be_bytes([head[2], head[3]]);
    let mut body = vec![0; length.into()];
    stream.read_exact(&mut body)
}
