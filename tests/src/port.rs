//! Ports that two tests never share.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Below the kernel's ephemeral range, so that no outgoing connection takes one by chance.
const FIRST: u16 = 10_000;
const COUNT: u32 = 20_000;

/// A port, free on TCP and UDP, reserved for this test until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// An abstract unix socket of the port's name: only one process has it, and it leaves no file behind.
    _lock: UnixDatagram,
}

impl Port {
    /// Reserves one.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn reserve() -> Self {
        let start = std::process::id().wrapping_mul(7_919);
        (0..COUNT)
            .map(|step| start.wrapping_add(step) % COUNT)
            .filter_map(|offset| FIRST.checked_add(u16::try_from(offset).ok()?))
            .find_map(|number| {
                let lock = lock(number)?;
                is_free(number).then_some(Self {
                    number,
                    _lock: lock,
                })
            })
            .expect("a port is free")
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }
}

fn lock(number: u16) -> Option<UnixDatagram> {
    let name = format!("sallyport-test-port-{number}");
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()
}

fn is_free(number: u16) -> bool {
    let any = (std::net::Ipv6Addr::UNSPECIFIED, number);
    TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok()
}
