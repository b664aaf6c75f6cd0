//! What someone would write in an hour: raw TCP through one QUIC connection with quinn's defaults, the near end accepting
//! users and the connection, the far end dialling both out and the target. Our own tunnel is measured against it.
//!
//! `plain-quinn near MEETING RAW CERTIFICATE`, then `plain-quinn far MEETING TARGET CERTIFICATE`.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a peer of the benchmark in as few lines as it takes"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [role, meeting, other, certificate] = args.as_slice() else {
        return;
    };
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let (meeting, other, certificate) = (address(meeting), address(other), Path::new(certificate));
    match role.as_str() {
        "near" => near(meeting, other, certificate).await,
        _ => far(meeting, other, certificate).await,
    }
}

async fn near(meeting: SocketAddr, raw: SocketAddr, certificate: &Path) {
    let made =
        rcgen::generate_simple_self_signed([meeting.ip().to_string()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let chain = vec![made.cert.der().clone()];
    let config = ServerConfig::with_single_cert(chain, key.into()).expect("a configuration");
    let endpoint = Endpoint::server(config, meeting).expect("a free port");
    // Only now may the far end come.
    std::fs::write(certificate, made.cert.der()).expect("the folder is writable");
    let arrived = endpoint.accept().await.expect("the far end comes");
    let connection = arrived.await.expect("a handshake");
    let users = TcpListener::bind(raw).await.expect("a free port");
    while let Ok((user, _)) = users.accept().await {
        let opening = connection.clone();
        tokio::spawn(async move {
            let (send, recv) = opening.open_bi().await.expect("a stream");
            join(user, send, recv).await;
        });
    }
}

async fn far(meeting: SocketAddr, target: SocketAddr, certificate: &Path) {
    let mut roots = RootCertStore::empty();
    let certificate = std::fs::read(certificate).expect("the near end wrote it");
    roots
        .add(CertificateDer::from(certificate))
        .expect("a certificate");
    let config = ClientConfig::with_root_certificates(roots.into()).expect("a configuration");
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let mut endpoint = Endpoint::client(any).expect("a free port");
    endpoint.set_default_client_config(config);
    let name = meeting.ip().to_string();
    let dialled = endpoint.connect(meeting, &name).expect("a good address");
    let connection = dialled.await.expect("a handshake");
    while let Ok((send, recv)) = connection.accept_bi().await {
        tokio::spawn(async move {
            let session = TcpStream::connect(target)
                .await
                .expect("the target listens");
            join(session, send, recv).await;
        });
    }
}

async fn join(tcp: TcpStream, send: SendStream, recv: RecvStream) {
    tcp.set_nodelay(true).expect("a socket option");
    let (read, write) = tcp.into_split();
    tokio::join!(pass_on(read, send), pass_on(recv, write));
}

/// A side that goes away ends its direction.
async fn pass_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    if copy(&mut from, &mut to).await.is_ok() {
        drop(to.shutdown().await);
    }
}
