//! What the other end of a loopback connection has not read yet, as the kernel tells it (sock_diag(7)).

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use crate::wait::BOUND;

const NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const EVERY_STATE: u32 = u32::MAX;
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Length of a netlink header, and where the count stands in the answer behind it.
const HEADER: usize = 16;
const RECEIVE_QUEUE: usize = HEADER + 4 + 48 + 4;

/// Waits until the other end of a loopback connection has read all that was sent, or has closed, so that what is sent
/// next reaches it by itself.
///
/// # Panics
/// If the bytes stay unread.
pub fn wait_read(stream: &TcpStream) {
    let until = Instant::now() + BOUND;
    while let (Ok(here), Ok(there)) = (stream.local_addr(), stream.peer_addr())
        && unread(there, here).is_some_and(|bytes| bytes > 0)
    {
        assert!(Instant::now() < until, "unread for {BOUND:?}");
        thread::yield_now();
    }
}

/// Bytes that wait to be read by the socket of `local` that is connected to `remote`; none if there is no such one.
fn unread(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let kind = Some(Protocol::from(SOCK_DIAG));
    let mut socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, kind).expect("netlink");
    socket.write_all(&question(local, remote)).expect("asked");
    let mut answer = [0; 512];
    let len = socket.read(&mut answer).expect("the kernel answers");
    let message = answer.get(..len)?;
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let count = message.get(RECEIVE_QUEUE..)?.first_chunk()?;
    (kind == SOCK_DIAG_BY_FAMILY).then(|| u32::from_ne_bytes(*count))
}

/// A netlink header and an `inet_diag_req_v2`.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { 2_u8 } else { 10 };
    let mut request = vec![family, IPPROTO_TCP, 0, 0];
    request.extend(EVERY_STATE.to_ne_bytes());
    for port in [local.port(), remote.port()] {
        request.extend(port.to_be_bytes());
    }
    for address in [local.ip(), remote.ip()] {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        request.extend(bytes);
    }
    request.extend([0; 4]); // any interface
    request.extend(NO_COOKIE);
    let length = u32::try_from(HEADER + request.len()).expect("short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence and sender
    message.extend(request);
    message
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn what_was_sent_is_unread_until_it_is_read() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
        let (here, there) = (near.local_addr(), near.peer_addr());
        let ends = (there.expect("connected"), here.expect("connected"));
        near.write_all(b"abc").expect("taken");

        assert_eq!(unread(ends.0, ends.1), Some(3), "not even accepted");
        let (mut far, _) = listener.accept().expect("it came");
        assert_eq!(unread(ends.0, ends.1), Some(3));
        far.read_exact(&mut [0; 2]).expect("there");
        assert_eq!(unread(ends.0, ends.1), Some(1));
        far.read_exact(&mut [0; 1]).expect("there");
        wait_read(&near);
        drop((far, listener));
        near.write_all(b"abc").ok();
        wait_read(&near);
    }
}
