//! A load balancer that passes TCP on behind a PROXY header.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use socket2::{Domain, Socket, Type};

/// Where it connects from.
pub const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The client that its headers name.
pub const CLIENT: &str = "203.0.113.9";

/// Starts one in front of the local port `to`, which sends `header` first; its own port.
///
/// # Panics
/// If there is no free port.
#[must_use]
pub fn balancer(to: u16, header: Vec<u8>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let header = header.clone();
            thread::spawn(move || forward(client, to, &header));
        }
    });
    port
}

fn forward(client: TcpStream, to: u16, header: &[u8]) -> Option<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from((PROXY, 0)).into()).ok()?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, to));
    socket.connect(&to.into()).ok()?;
    let mut server = TcpStream::from(socket);
    server.write_all(header).ok()?;
    let (mut up, mut into) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let upwards = thread::spawn(move || {
        let _ended = io::copy(&mut up, &mut into);
        let _closed = into.shutdown(Shutdown::Write);
    });
    let mut client = client;
    let _ended = io::copy(&mut server, &mut client);
    let _closed = client.shutdown(Shutdown::Both);
    upwards.join().ok()
}

/// Both forms of the header of [`CLIENT`].
#[must_use]
pub fn headers() -> [Vec<u8>; 2] {
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend([203, 0, 113, 9, 192, 0, 2, 1, 0x10, 0, 0x01, 0xbb]);
    let text = format!("PROXY TCP4 {CLIENT} 192.0.2.1 4096 443\r\n").into_bytes();
    [text, binary]
}
