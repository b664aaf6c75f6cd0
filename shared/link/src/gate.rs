//! The accepting side: one deadline from the transport to a tunnel that is up, and nothing of the mux before it.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use sallyport_mux::Role;
use sallyport_ops::Tasks;
use sallyport_ops::listen::canonical;
use sallyport_wire::message::{Hello, Refused, Reply, ReplyKind, Welcome};
use sallyport_wire::{BINDING_LABEL, BINDING_LEN, Code, FrameError, MAX_HELLO};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::framed::{self, FramedError};
use crate::settings::Settings;
use crate::tunnel::{self, Facts, Transport, Tunnel};

pub use crate::quic::{EndpointError, quic_endpoint, quic_endpoint_on};

/// Decides who may bring a tunnel up.
pub trait Gatekeeper: Send + Sync + 'static {
    /// Admits a relay by its first message, or says how to refuse it. One that asks for a dry run is told
    /// the same, and changes nothing.
    ///
    /// # Errors
    /// The refusal that the relay is told. Whoever decides has already logged why.
    fn admit(
        &self,
        hello: &Hello,
        binding: &[u8; BINDING_LEN],
        peer: SocketAddr,
        transport: Transport,
    ) -> impl Future<Output = Result<Welcome, Refused>> + Send;
}

/// Why a connection did not become a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No handshake or no hello within the deadline.
    #[error("no hello within the deadline")]
    TooSlow,
    /// The gatekeeper refused; it has logged why.
    #[error("refused: {0}")]
    Refused(Code),
    /// The relay asked only whether it would be let in, and was told that it would.
    #[error("a dry run")]
    DryRun,
    /// The first message is not a hello.
    #[error("not a hello: {0}")]
    Hello(#[from] FrameError),
    /// Datagrams belong to flows, which a relay has only once it is admitted.
    #[error("a datagram before the welcome")]
    Datagram,
    /// The peer went away, or its connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The QUIC handshake or connection failed.
    #[error("the QUIC connection failed: {0}")]
    Quic(#[from] quinn::ConnectionError),
    /// The connection has no keying material to export, so no token can be bound to it.
    #[error("no channel binding")]
    Binding,
}

impl From<FramedError> for AcceptError {
    fn from(error: FramedError) -> Self {
        match error {
            FramedError::Io(error) => Self::Io(error),
            FramedError::Frame(error) => Self::Hello(error),
        }
    }
}

/// Turns a TLS connection with ALPN `sallyport/1` into a tunnel.
///
/// # Errors
/// [`AcceptError`].
pub async fn accept_tls<S, G>(
    mut tls: tokio_rustls::server::TlsStream<S>,
    peer: SocketAddr,
    gatekeeper: &G,
    settings: &Arc<Settings>,
    tasks: &Tasks,
) -> Result<(Tunnel, Hello), AcceptError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    G: Gatekeeper,
{
    let binding = tls
        .get_ref()
        .1
        .export_keying_material([0; BINDING_LEN], BINDING_LABEL, Some(&[]))
        .map_err(|_early| AcceptError::Binding)?;
    let hello = hear(&mut tls, settings.hello_within).await?;
    let decision = gatekeeper
        .admit(&hello, &binding, peer, Transport::Tls)
        .await;
    let welcome = answer(&mut tls, &hello, decision, settings).await?;
    let facts = Facts {
        id: welcome.tunnel,
        features: welcome.features,
        remote: peer,
        binding,
    };
    let tunnel = tunnel::over_tls(tls, Role::Server, facts, settings, tasks);
    Ok((tunnel, hello))
}

/// Turns a QUIC connection into a tunnel: handshake, then hello, each under its deadline.
///
/// # Errors
/// [`AcceptError`].
pub async fn accept_quic<G: Gatekeeper>(
    incoming: quinn::Incoming,
    gatekeeper: &G,
    settings: &Arc<Settings>,
    tasks: &Tasks,
) -> Result<(Tunnel, Hello), AcceptError> {
    let connection = timeout(settings.handshake_within, incoming.accept()?)
        .await
        .map_err(|_elapsed| AcceptError::TooSlow)??;
    let admitted = tokio::select! {
        admitted = admit_quic(&connection, gatekeeper, settings) => admitted,
        early = datagram(&connection) => Err(early),
    };
    let (hello, facts, streams) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            connection.close(close_code(&error), b"");
            return Err(error);
        }
    };
    // Besides the control stream, which lasts as long as the tunnel.
    let theirs = quinn::VarInt::from_u32(settings.streams_of_theirs().saturating_add(1));
    connection.set_max_concurrent_bi_streams(theirs);
    connection.set_receive_window(quinn::VarInt::from_u32(settings.quic_window));
    let tunnel = tunnel::over_quic(connection, streams, facts, settings, tasks);
    Ok((tunnel, hello))
}

/// Waits for a datagram, so that none is kept for a stranger. Whether the connection ends is for others to say.
async fn datagram(connection: &quinn::Connection) -> AcceptError {
    match connection.read_datagram().await {
        Ok(_) => AcceptError::Datagram,
        Err(_closed) => std::future::pending().await,
    }
}

type ControlStream = (quinn::SendStream, quinn::RecvStream);

async fn admit_quic<G: Gatekeeper>(
    connection: &quinn::Connection,
    gatekeeper: &G,
    settings: &Settings,
) -> Result<(Hello, Facts, ControlStream), AcceptError> {
    let mut binding = [0; BINDING_LEN];
    connection
        .export_keying_material(&mut binding, BINDING_LABEL, &[])
        .map_err(|_early| AcceptError::Binding)?;
    let first = async {
        let (send, mut recv) = connection.accept_bi().await?;
        let hello = framed::read::<Hello>(&mut recv, MAX_HELLO).await?;
        Ok::<_, AcceptError>((hello, send, recv))
    };
    let (hello, mut send, recv) = timeout(settings.hello_within, first)
        .await
        .map_err(|_elapsed| AcceptError::TooSlow)??;
    let remote = canonical(connection.remote_address());
    let decision = gatekeeper
        .admit(&hello, &binding, remote, Transport::Quic)
        .await;
    let welcome = answer(&mut send, &hello, decision, settings).await;
    if matches!(welcome, Err(AcceptError::Refused(_) | AcceptError::DryRun)) {
        // A close would overtake the reply: wait until the relay has it.
        drop(timeout(settings.close_within, send.stopped()).await);
    }
    let welcome = welcome?;
    let facts = Facts {
        id: welcome.tunnel,
        features: welcome.features,
        remote,
        binding,
    };
    Ok((hello, facts, (send, recv)))
}

fn close_code(error: &AcceptError) -> quinn::VarInt {
    let code = match error {
        AcceptError::TooSlow => Code::TooSlow,
        AcceptError::Refused(code) => *code,
        AcceptError::Hello(_) | AcceptError::Datagram => Code::Protocol,
        AcceptError::DryRun | AcceptError::Io(_) | AcceptError::Quic(_) | AcceptError::Binding => {
            Code::Closed
        }
    };
    quinn::VarInt::from_u32(code.number())
}

async fn hear(io: &mut (impl AsyncRead + Unpin), within: Duration) -> Result<Hello, AcceptError> {
    let hello = framed::read::<Hello>(io, MAX_HELLO);
    let hello = timeout(within, hello).await;
    Ok(hello.map_err(|_elapsed| AcceptError::TooSlow)??)
}

/// Writes the reply. A refusal is held back for a random time. After it, and after a dry run, the direction is
/// closed in order.
async fn answer(
    io: &mut (impl AsyncWrite + Unpin),
    hello: &Hello,
    decision: Result<Welcome, Refused>,
    settings: &Settings,
) -> Result<Welcome, AcceptError> {
    if decision.is_err() {
        sleep(between(&settings.refusal_delay)).await;
    }
    let kind = match &decision {
        Ok(welcome) => ReplyKind::Welcome(welcome.clone()),
        Err(refused) => ReplyKind::Refused(*refused),
    };
    let reply = Reply { kind: Some(kind) };
    let saying = async {
        framed::write(io, &reply, MAX_HELLO).await?;
        if decision.is_err() || hello.dry_run {
            io.shutdown().await?;
        }
        Ok::<_, FramedError>(())
    };
    timeout(settings.hello_within, saying)
        .await
        .map_err(|_elapsed| AcceptError::TooSlow)??;
    match decision {
        Ok(_) if hello.dry_run => Err(AcceptError::DryRun),
        Ok(welcome) => Ok(welcome),
        Err(refused) => Err(AcceptError::Refused(Code::from_number(refused.code))),
    }
}

/// A random time in a range; the shortest if there is no randomness.
fn between(range: &RangeInclusive<Duration>) -> Duration {
    let mut random = [0; 4];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return *range.start();
    }
    let share = f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX);
    let width = range.end().saturating_sub(*range.start());
    range.start().saturating_add(width.mul_f64(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_time_stays_in_its_range() {
        let range = Duration::from_millis(50)..=Duration::from_millis(150);
        let times: Vec<_> = (0..200).map(|_| between(&range)).collect();
        assert!(times.iter().all(|time| range.contains(time)));
        assert!(times.iter().any(|time| Some(time) != times.first()));
    }
}
