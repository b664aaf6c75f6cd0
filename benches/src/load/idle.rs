//! Clients that have done something and now do nothing.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::AtomicU64;

use sallyport_tests::Raw;

use super::requests;
use crate::origin::{BURST, BURSTS};
use crate::pattern;
use crate::ways::{LARGE, PATIENCE, Running, Way};

/// The key of RFC 6455's example (§1.3), whose answer the origin knows.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// A client that is connected, has been answered once and waits.
pub struct Client {
    stream: Box<dyn Stream>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects one to a way, as its protocol wants it.
    ///
    /// # Errors
    /// If it is not answered.
    pub fn connect(way: &Running) -> io::Result<Self> {
        if way.url.is_empty() {
            let mut client = Self {
                stream: Box::new(way.connect()),
            };
            client.greet()?;
            return Ok(client);
        }
        let tls = Raw::connect(way.address(), "http/1.1").into_stream();
        tls.sock.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self {
            stream: Box::new(tls),
        };
        if way.way == Way::Upgraded {
            client.upgrade(&way.url)?;
        } else {
            requests::once(&mut client.stream, &way.url)?;
        }
        Ok(client)
    }

    /// Moves a burst of bytes.
    ///
    /// # Errors
    /// If they do not come back.
    pub fn burst(&mut self, way: &Running) -> io::Result<()> {
        if way.way == Way::Https {
            let (folder, _page) = way.url.rsplit_once('/').unwrap_or_default();
            return requests::once(&mut self.stream, &format!("{folder}/{LARGE}"));
        }
        self.stream.write_all(&[BURSTS])?;
        self.stream.flush()?;
        pattern::receive(&mut self.stream, BURST, &AtomicU64::new(0))
    }

    /// A byte there and back.
    fn greet(&mut self) -> io::Result<()> {
        let mut back = [0];
        self.stream.write_all(&[BURSTS])?;
        self.stream.read_exact(&mut back)?;
        let same = back == [BURSTS];
        same.then_some(())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn upgrade(&mut self, url: &str) -> io::Result<()> {
        let (host, path) = requests::parts(url);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            head.extend_from_slice(&byte);
        }
        let granted = head.starts_with(b"HTTP/1.1 101");
        let told = || io::Error::other(String::from_utf8_lossy(&head).into_owned());
        granted.then_some(()).ok_or_else(told)
    }
}
