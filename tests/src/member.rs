//! Members of a pool, which say their names, and clients of theirs from addresses of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Starts a service that says its name, then sends back what comes until the client is done; its port.
///
/// # Panics
/// If there is no port.
#[must_use]
pub fn service(name: &'static str) -> u16 {
    serve(name, talk)
}

/// Starts an HTTP service that answers every request with its name; its port.
///
/// # Panics
/// If there is no port.
#[must_use]
pub fn http_service(name: &'static str) -> u16 {
    serve(name, answer)
}

fn serve(name: &'static str, talk: fn(TcpStream, &str) -> Option<()>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || talk(client, name));
        }
    });
    port
}

fn talk(mut client: TcpStream, name: &str) -> Option<()> {
    client.write_all(name.as_bytes()).ok()?;
    let mut from = client.try_clone().ok()?;
    std::io::copy(&mut from, &mut client).ok()?;
    client.shutdown(Shutdown::Write).ok()
}

/// One answer, after the empty line that ends a request.
fn answer(mut client: TcpStream, name: &str) -> Option<()> {
    let mut head = BufReader::new(client.try_clone().ok()?).lines();
    head.find(|line| line.as_ref().ok().is_none_or(String::is_empty))?
        .ok()?;
    let length = name.len();
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}");
    client.write_all(answer.as_bytes()).ok()?;
    client.shutdown(Shutdown::Write).ok()
}

/// A connection to a port of loopback from an address of it.
///
/// # Panics
/// If nobody listens.
#[must_use]
pub fn connect(port: u16, from: Ipv4Addr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((from, 0)).into())
        .expect("an address of loopback");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&to.into()).expect("the gateway listens");
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket option");
    stream
}

/// Says something and reads all to the end: the member's name, then what was said.
///
/// # Panics
/// If it does not come to an orderly end.
#[must_use]
pub fn visit(port: u16, from: Ipv4Addr) -> String {
    let mut stream = connect(port, from);
    stream.write_all(b" hello").expect("taken");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an orderly end");
    said
}

/// The member that a connection reached, by a name of one letter; the connection stays open.
///
/// # Panics
/// If none answers.
pub fn member(stream: &mut TcpStream) -> String {
    let mut name = [0; 1];
    stream.read_exact(&mut name).expect("a member answers");
    String::from_utf8_lossy(&name).into_owned()
}

/// The address of a client of its own.
#[must_use]
pub const fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}
