//! A gateway by hand: it welcomes whoever comes over QUIC and opens streams as no gateway of ours would.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::BytesMut;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, ReadError, RecvStream, SendStream, ServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sallyport_wire::message::{Answer, Head, Hello, Reply, ReplyKind, Welcome};
use sallyport_wire::{ALPN, Code, MAX_HEAD, MAX_HELLO, frame};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::site::Gateway;
use crate::wait::BOUND;

/// The port of a gateway that was not started, served by hand.
#[derive(Debug)]
pub struct HandMade {
    runtime: Runtime,
    endpoint: Endpoint,
    url: String,
}

/// A relay that was welcomed.
#[derive(Debug)]
pub struct Welcomed<'g> {
    runtime: &'g Runtime,
    connection: Connection,
    _control: (SendStream, RecvStream),
}

impl HandMade {
    /// Listens where `gateway` would, with its certificate.
    ///
    /// # Panics
    /// If it was not made by `init`, or its port is taken.
    #[must_use]
    pub fn listen(gateway: &Gateway) -> Self {
        let file = |name| gateway.path().join(name);
        let chain = CertificateDer::pem_file_iter(file("cert.pem")).expect("init wrote it");
        let chain: Vec<_> = chain.map(|cert| cert.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_file(file("key.pem")).expect("init wrote it");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider's versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("QUIC");
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let runtime = Runtime::new().expect("threads");
        let here = gateway.address(Ipv4Addr::LOCALHOST.into());
        let endpoint = {
            let _entered = runtime.enter();
            Endpoint::server(config, here).expect("the port is free")
        };
        Self {
            runtime,
            endpoint,
            url: gateway.url().to_owned(),
        }
    }

    /// Waits for a relay and welcomes it, whatever it says.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn welcome(&self) -> Welcomed<'_> {
        let welcoming = async {
            let incoming = self.endpoint.accept().await.expect("it listens");
            let connection = incoming.await.expect("a handshake");
            let (mut send, mut recv) = connection.accept_bi().await.expect("a control stream");
            let _hello: Hello = read(&mut recv, MAX_HELLO).await;
            let welcome = Welcome {
                version: 1,
                gateway: self.url.clone(),
                tunnel: 1,
                max_streams: 100,
                ..Welcome::default()
            };
            let reply = Reply {
                kind: Some(ReplyKind::Welcome(welcome)),
            };
            let reply = frame::encode(&reply, MAX_HELLO).expect("it fits");
            send.write_all(&reply).await.expect("it is there");
            (connection, (send, recv))
        };
        let welcomed = async { timeout(BOUND, welcoming).await.expect("a relay comes") };
        let (connection, control) = self.runtime.block_on(welcomed);
        Welcomed {
            runtime: &self.runtime,
            connection,
            _control: control,
        }
    }
}

impl Welcomed<'_> {
    /// Opens a stream with these bytes and no more: the code that the relay ends it with; none if it ends otherwise.
    ///
    /// # Panics
    /// If it does not end.
    #[must_use]
    pub fn open_with(&self, bytes: &[u8]) -> Option<Code> {
        let opening = async {
            let (mut send, mut recv) = self.connection.open_bi().await.expect("room");
            send.write_all(bytes).await.expect("open");
            match recv.read(&mut [0; 64]).await {
                Err(ReadError::Reset(code)) => u32::try_from(code.into_inner()).ok(),
                Ok(_) | Err(_) => None,
            }
        };
        let ended = async { timeout(BOUND, opening).await.expect("it ends") };
        self.runtime.block_on(ended).map(Code::from_number)
    }

    /// Whether eight bytes come back on a stream with this head.
    ///
    /// # Panics
    /// If nothing comes.
    #[must_use]
    pub fn probe(&self, head: &Head) -> bool {
        let probing = async {
            let (mut send, mut recv) = self.connection.open_bi().await.expect("room");
            let head = frame::encode(head, MAX_HEAD).expect("it fits");
            send.write_all(&head).await.expect("open");
            send.write_all(b"12345678").await.expect("open");
            let _answer: Answer = read(&mut recv, MAX_HEAD).await;
            let mut back = [0; 8];
            recv.read_exact(&mut back).await.is_ok() && back == *b"12345678"
        };
        let probed = async { timeout(BOUND, probing).await.expect("an answer") };
        self.runtime.block_on(probed)
    }
}

/// Reads one message, byte by byte: what follows belongs to somebody else.
async fn read<M: prost::Message + Default>(recv: &mut RecvStream, max: usize) -> M {
    let mut got = BytesMut::new();
    loop {
        let mut byte = [0];
        recv.read_exact(&mut byte).await.expect("a whole message");
        got.extend_from_slice(&byte);
        if let Some(message) = frame::decode(&mut got, max).expect("a message") {
            return message;
        }
    }
}
