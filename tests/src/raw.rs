//! Bytes exactly as a test wants them, over TLS to a gateway; shares no code with the product.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::frames::{self, Frame};

/// A TLS connection that sends what it is told.
#[derive(Debug)]
pub struct Raw {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// Of a frame that has not come in full.
    part: Vec<u8>,
}

impl Raw {
    /// Connects with this ALPN (empty for none), whatever certificate comes.
    ///
    /// # Panics
    /// If the address does not listen or the handshake fails.
    #[must_use]
    pub fn connect(to: SocketAddr, alpn: &str) -> Self {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider's versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        if !alpn.is_empty() {
            config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        }
        let name = ServerName::IpAddress(to.ip().into());
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let tcp = TcpStream::connect(to).expect("the gateway listens");
        tcp.set_nodelay(true).expect("a socket option");
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .expect("the handshake succeeds");
        }
        Self {
            stream,
            part: Vec::new(),
        }
    }

    /// Its own address, by which a log knows it.
    ///
    /// # Panics
    /// If the socket has none.
    #[must_use]
    pub fn local(&self) -> String {
        let address = self.stream.sock.local_addr();
        address.expect("a connected socket").to_string()
    }

    /// The connection itself.
    #[must_use]
    pub fn into_stream(self) -> StreamOwned<ClientConnection, TcpStream> {
        self.stream
    }

    /// Sends bytes; a peer that has closed is not an error here, its answer is what counts.
    pub fn send(&mut self, bytes: &[u8]) {
        let _closed = self.stream.write_all(bytes);
        let _closed = self.stream.flush();
    }

    /// Keying material that both ends of this connection export (RFC 9266).
    ///
    /// # Panics
    /// If the handshake is not done.
    #[must_use]
    pub fn binding(&self) -> [u8; 32] {
        let exported =
            self.stream
                .conn
                .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None);
        exported.expect("the handshake is done")
    }

    /// Reads until the peer closes or `bound` has passed: what came, and whether it closed.
    ///
    /// # Panics
    /// If the socket takes no timeout.
    pub fn read_to_close(&mut self, bound: Duration) -> (Vec<u8>, bool) {
        let until = Instant::now() + bound;
        let mut got = Vec::new();
        let mut buffer = [0; 16_384];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (got, false);
            }
            self.stream
                .sock
                .set_read_timeout(Some(left))
                .expect("a socket option");
            match self.stream.read(&mut buffer) {
                Ok(0) => return (got, true),
                Ok(len) => got.extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return (got, true),
            }
        }
    }

    /// Reads until what came contains `needle`, the peer closes, or `bound` has passed.
    pub fn read_until(&mut self, needle: &[u8], bound: Duration) -> Vec<u8> {
        self.read_while(bound, |got| !holds(got, needle))
    }

    /// Reads until what came contains one of `needles`; whether it did before the peer closed or `bound` passed.
    pub fn read_until_any(&mut self, needles: &[&[u8]], bound: Duration) -> bool {
        let found = |got: &[u8]| needles.iter().any(|needle| holds(got, needle));
        let got = self.read_while(bound, |got| !found(got));
        found(&got)
    }

    /// Reads HTTP/2 frames until one is as wanted, the peer closes, or `bound` has passed; all that came since the last
    /// time.
    pub fn frames_until(&mut self, wanted: impl Fn(&Frame) -> bool, bound: Duration) -> Vec<Frame> {
        let mut all = std::mem::take(&mut self.part);
        let before = all.clone();
        all.extend(self.read_while(bound, |got| {
            let got = [&before, got].concat();
            !frames::parse(&got).0.iter().any(&wanted)
        }));
        let (frames, rest) = frames::parse(&all);
        rest.clone_into(&mut self.part);
        frames
    }

    fn read_while(&mut self, bound: Duration, unfinished: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let until = Instant::now() + bound;
        let mut got = Vec::new();
        let mut buffer = [0; 16_384];
        while unfinished(&got) && Instant::now() < until {
            let _set = self
                .stream
                .sock
                .set_read_timeout(Some(Duration::from_millis(100)));
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => got.extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        got
    }
}

fn holds(got: &[u8], needle: &[u8]) -> bool {
    got.windows(needle.len()).any(|part| part == needle)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Accepts every certificate: these tests look at what comes after.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
