//! Ports that two tests never share.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::{TcpListener, UdpSocket};

/// Below the kernel's ephemeral range, so that no outgoing connection takes one by chance.
const FIRST: u16 = 10_000;
const COUNT: u32 = 20_000;

/// A port, free on TCP and UDP, reserved for this test until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves one.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn reserve() -> Self {
        let folder = std::env::temp_dir().join("sallyport-test-ports");
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let start = std::process::id().wrapping_mul(7_919);
        (0..COUNT)
            .map(|step| start.wrapping_add(step) % COUNT)
            .filter_map(|offset| FIRST.checked_add(u16::try_from(offset).ok()?))
            .find_map(|number| {
                let path = folder.join(number.to_string());
                let lock = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .ok()?;
                match lock.try_lock() {
                    Ok(()) => is_free(number).then_some(Self {
                        number,
                        _lock: lock,
                    }),
                    Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
                }
            })
            .expect("a port is free")
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }
}

fn is_free(number: u16) -> bool {
    let any = (std::net::Ipv6Addr::UNSPECIFIED, number);
    TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok()
}
