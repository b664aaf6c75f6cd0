//! A session that writes down every byte it gets and answers each request head with 200.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a session saw, byte for byte. Its threads end when their sockets do.
#[derive(Debug, Clone)]
pub struct Recorder {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    /// Starts listening on loopback.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let book = Arc::clone(&book);
                thread::spawn(move || record(stream, &book));
            }
        });
        Self { port, seen }
    }

    /// Port that it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// All bytes so far.
    ///
    /// # Panics
    /// If a recording thread panicked.
    #[must_use]
    pub fn seen(&self) -> String {
        let seen = self.seen.lock().expect("no thread panicked");
        String::from_utf8_lossy(&seen).into_owned()
    }
}

fn record(mut stream: TcpStream, book: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4_096];
    let mut unanswered = Vec::new();
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let got = buffer.get(..len).unwrap_or_default();
        if let Ok(mut book) = book.lock() {
            book.extend_from_slice(got);
        }
        unanswered.extend_from_slice(got);
        while let Some(end) = unanswered.windows(4).position(|part| part == b"\r\n\r\n") {
            unanswered.drain(..end + 4);
            if stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .is_err()
            {
                return;
            }
        }
    }
}
