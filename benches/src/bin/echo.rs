//! An origin with room for thousands of connections: it sends back what comes. A process of its own, because a process
//! has so many descriptors and its clients need as many.
//!
//! `echo ADDRESS`, until it is ended.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a service of the benchmark in as few lines as it takes"
)]

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit anyone may go");
    let address = std::env::args().nth(1).expect("an address");
    let listener = TcpListener::bind(address).await.expect("a free port");
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(echo(stream));
    }
}

/// A client that goes away is the client's affair.
async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    drop(tokio::io::copy(&mut from, &mut to).await);
}
