//! From a host's name to one connection: resolved, then tried address by address (RFC 8305) and transport by transport.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::dial_error::{Cause, DialError, Step};
use crate::network::{Network, Tcp};
use crate::proxy::Proxy;
use crate::quic::{self, EndpointError};
use crate::settings::Settings;

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Which transport to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Both, QUIC first; the first that is up wins.
    #[default]
    Auto,
    /// Both, TLS first; the first that is up wins. Not for configuration files: see [`Choice::of_lane`].
    #[serde(skip)]
    TlsFirst,
    /// Only TLS.
    Tls,
    /// Only QUIC.
    Quic,
}

impl Choice {
    /// The choice for one of several tunnels to the same gateway. Where both transports work, there shall be tunnels of
    /// both: then it can be measured which is better, and one is at hand when the other fails.
    #[must_use]
    pub const fn of_lane(self, lane: usize) -> Self {
        match self {
            Self::Auto if lane % 2 == 1 => Self::TlsFirst,
            Self::Auto | Self::TlsFirst | Self::Tls | Self::Quic => self,
        }
    }
}

/// The way to one gateway.
pub(crate) struct Route<'r> {
    /// Without brackets.
    pub(crate) host: &'r str,
    pub(crate) port: u16,
    pub(crate) server_name: Option<ServerName<'static>>,
    pub(crate) proxy: Option<&'r Proxy>,
    /// Its one protocol is what the other side must speak.
    pub(crate) tls: Arc<ClientConfig>,
}

/// The connection that won.
pub(crate) enum Won {
    Quic(quinn::Connection),
    Tls(Box<TlsStream<Box<dyn Tcp>>>, SocketAddr),
}

impl Won {
    fn log(&self) {
        let (transport, remote) = match self {
            Self::Quic(connection) => ("quic", connection.remote_address()),
            Self::Tls(_, remote) => ("tls", *remote),
        };
        debug!(transport, %remote, "connected");
    }
}

/// Makes connections; keeps one UDP socket for each family.
#[derive(Debug)]
pub(crate) struct Connector {
    network: Arc<dyn Network>,
    settings: Arc<Settings>,
    endpoints: Mutex<Endpoints>,
}

#[derive(Debug, Default)]
struct Endpoints {
    v4: Option<quinn::Endpoint>,
    v6: Option<quinn::Endpoint>,
}

impl Connector {
    pub(crate) fn new(network: Arc<dyn Network>, settings: Arc<Settings>) -> Self {
        Self {
            network,
            settings,
            endpoints: Mutex::default(),
        }
    }

    /// The first connection whose handshake is done. No other says more than its handshake: it is dropped, which
    /// closes it.
    pub(crate) async fn race(&self, route: &Route<'_>, choice: Choice) -> Result<Won, DialError> {
        let target = match route.proxy {
            Some(_) if choice == Choice::Quic => {
                return Err(DialError::new(Step::Proxy, Cause::QuicThroughProxy));
            }
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (route.host, route.port),
        };
        let addresses = self.resolve(target).await?;
        debug!(host = target.0, ?addresses, ?choice, "dialling");
        let stagger = self.settings.stagger;
        let quic = first(&addresses, stagger, |to| self.quic(route, to));
        let tls = first(&addresses, stagger, |to| self.tls(route, to));
        let won = match choice {
            Choice::Quic => quic.await,
            Choice::Tls => tls.await,
            Choice::Auto | Choice::TlsFirst if route.proxy.is_some() => tls.await,
            Choice::Auto => quic_first(quic, tls, &self.settings).await,
            Choice::TlsFirst => tls_first(quic, tls, &self.settings).await,
        };
        won.inspect(Won::log)
    }

    /// A bare connection to `known`, or through a proxy to `to`.
    pub(crate) async fn data(
        &self,
        proxy: Option<&Proxy>,
        to: (&str, u16),
        known: SocketAddr,
    ) -> io::Result<TcpStream> {
        let Some(proxy) = proxy else {
            return self.network.data(known).await;
        };
        let addresses = self.resolve((proxy.host(), proxy.port())).await;
        let addresses = addresses.map_err(io::Error::other)?;
        let mut tcp = first(&addresses, self.settings.stagger, async |to| {
            let dialled = self.network.data(to).await;
            dialled.map_err(|error| DialError::new(Step::Tcp, error))
        })
        .await
        .map_err(io::Error::other)?;
        let asked = proxy.ask(&mut tcp, to, self.settings.proxy_answer).await;
        asked.map_err(io::Error::other)?;
        Ok(tcp)
    }

    async fn resolve(&self, (host, port): (&str, u16)) -> Result<Vec<SocketAddr>, DialError> {
        let within = self.settings.handshake_within;
        let found = timeout(within, self.network.resolve(host, port))
            .await
            .map_err(|_elapsed| DialError::new(Step::Dns, Cause::TooSlow(within)))?
            .map_err(|error| DialError::new(Step::Dns, error))?;
        let addresses = interleave(&found);
        if addresses.is_empty() {
            return Err(DialError::new(Step::Dns, Cause::NoAddress));
        }
        Ok(addresses)
    }

    async fn quic(&self, route: &Route<'_>, to: SocketAddr) -> Result<Won, DialError> {
        let failed = |cause: Cause| DialError::new(Step::Quic, cause);
        let config = quic::client_config(Arc::clone(&route.tls), &self.settings)
            .map_err(|error| failed(error.into()))?;
        let begun = self.endpoint(to)?.connect_with(config, to, route.host);
        if let Err(quinn::ConnectError::EndpointStopping) = begun {
            self.forget_endpoints();
        }
        let connecting = begun.map_err(|error| failed(error.into()))?;
        let within = self.settings.handshake_within;
        let connection = timeout(within, connecting)
            .await
            .map_err(|_elapsed| failed(Cause::TooSlow(within)))?
            .map_err(|error| failed(error.into()))?;
        Ok(Won::Quic(connection))
    }

    /// Over QUIC a close is a packet, which a process that ends at once would take along.
    pub(crate) async fn farewell(&self) {
        let endpoints = {
            let endpoints = self
                .endpoints
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            [endpoints.v4.clone(), endpoints.v6.clone()]
        };
        for endpoint in endpoints.into_iter().flatten() {
            drop(timeout(self.settings.close_within, endpoint.wait_idle()).await);
        }
    }

    /// A socket failed: the next try binds a new one.
    fn forget_endpoints(&self) {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *endpoints = Endpoints::default();
    }

    /// The endpoint of an address's family.
    fn endpoint(&self, to: SocketAddr) -> Result<quinn::Endpoint, DialError> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (slot, any) = match to {
            SocketAddr::V4(_) => (&mut endpoints.v4, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&mut endpoints.v6, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let socket = self.network.bind(any).map_err(EndpointError::from);
        let endpoint = socket.and_then(quic::client_endpoint);
        let endpoint = endpoint.map_err(|error| DialError::new(Step::Quic, error))?;
        Ok(slot.insert(endpoint).clone())
    }

    async fn tls(&self, route: &Route<'_>, to: SocketAddr) -> Result<Won, DialError> {
        let within = self.settings.handshake_within;
        let slow = |step| move |_elapsed| DialError::new(step, Cause::TooSlow(within));
        let mut tcp = timeout(within, self.network.connect(to))
            .await
            .map_err(slow(Step::Tcp))?
            .map_err(|error| DialError::new(Step::Tcp, error))?;
        if let Some(proxy) = route.proxy {
            let target = (route.host, route.port);
            timeout(
                within,
                proxy.ask(&mut tcp, target, self.settings.proxy_answer),
            )
            .await
            .map_err(slow(Step::Proxy))?
            .map_err(|error| DialError::new(Step::Proxy, error))?;
        }
        let name = route.server_name.clone();
        let name = name.ok_or_else(|| DialError::new(Step::Tls, Cause::NoAddress))?;
        let handshake = TlsConnector::from(Arc::clone(&route.tls)).connect(name, tcp);
        let tls = timeout(within, handshake)
            .await
            .map_err(slow(Step::Tls))?
            .map_err(|error| DialError::new(Step::Tls, error))?;
        let spoken = tls.get_ref().1.alpn_protocol();
        if spoken != route.tls.alpn_protocols.first().map(Vec::as_slice) {
            return Err(DialError::new(Step::Tls, Cause::NoGateway));
        }
        Ok(Won::Tls(Box::new(tls), to))
    }
}

/// Tries addresses in turn, the next one when one has failed or the last was given its head start (RFC 8305 §5).
async fn first<T, F>(
    addresses: &[SocketAddr],
    stagger: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut fault = None;
    loop {
        match waiting.next() {
            Some(address) => running.push(attempt(address)),
            None if running.is_empty() => {
                let none = || DialError::new(Step::Dns, Cause::NoAddress);
                return Err(fault.unwrap_or_else(none));
            }
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(ended) = running.next() => match ended {
                Ok(won) => return Ok(won),
                Err(error) => {
                    debug!(step = %error.step, cause = %error.cause, "an address failed");
                    fault = fault.or(Some(error));
                }
            },
            () = sleep(stagger), if more => {}
        }
    }
}

/// QUIC with a head start, then both. TLS begins at once where QUIC has failed.
async fn quic_first(
    quic: impl Future<Output = Result<Won, DialError>>,
    tls: impl Future<Output = Result<Won, DialError>>,
    settings: &Settings,
) -> Result<Won, DialError> {
    tokio::pin!(quic, tls);
    match timeout(settings.stagger, &mut quic).await {
        Ok(Ok(won)) => Ok(won),
        Ok(Err(fault)) => after_quic(tls, fault).await,
        Err(_elapsed) => both(quic, tls, settings).await,
    }
}

/// TLS with a head start, then both. QUIC begins at once where TLS has failed.
async fn tls_first(
    quic: impl Future<Output = Result<Won, DialError>>,
    tls: impl Future<Output = Result<Won, DialError>>,
    settings: &Settings,
) -> Result<Won, DialError> {
    tokio::pin!(quic, tls);
    match timeout(settings.stagger, &mut tls).await {
        Ok(Ok(won)) => Ok(won),
        Ok(Err(fault)) => after_tls(quic, fault, settings).await,
        Err(_elapsed) => both(quic, tls, settings).await,
    }
}

async fn both(
    mut quic: Pin<&mut impl Future<Output = Result<Won, DialError>>>,
    mut tls: Pin<&mut impl Future<Output = Result<Won, DialError>>>,
    settings: &Settings,
) -> Result<Won, DialError> {
    tokio::select! {
        ended = &mut quic => match ended {
            Ok(won) => Ok(won),
            Err(fault) => after_quic(tls, fault).await,
        },
        ended = &mut tls => match ended {
            Ok(won) => Ok(won),
            Err(fault) => after_tls(quic, fault, settings).await,
        },
    }
}

async fn after_quic(
    tls: impl Future<Output = Result<Won, DialError>>,
    fault: DialError,
) -> Result<Won, DialError> {
    tls.await.map_err(|error| with(error, fault))
}

/// Where TLS has failed QUIC is not waited for much longer: a host that refuses TCP has hardly more to say over UDP,
/// while its gateway may be back any moment.
async fn after_tls(
    quic: impl Future<Output = Result<Won, DialError>>,
    error: DialError,
    settings: &Settings,
) -> Result<Won, DialError> {
    let within = settings.quic_alone;
    let slow = || DialError::new(Step::Quic, Cause::TooSlow(within));
    let ended = timeout(within, quic).await;
    let ended = ended.unwrap_or_else(|_elapsed| Err(slow()));
    ended.map_err(|fault| with(error, fault))
}

fn with(mut error: DialError, other: DialError) -> DialError {
    error.also = Some(Box::new(other));
    error
}

/// IPv6 and IPv4 in turn, beginning with what the resolver put first (RFC 8305 §4).
fn interleave(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let family = |v6: bool| found.iter().filter(move |a| a.is_ipv6() == v6).copied();
    let (mut first, mut second) = (family(first_is_v6), family(!first_is_v6));
    let mut addresses = Vec::new();
    while addresses.len() < MAX_ADDRESSES {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            break;
        }
        addresses.extend(pair.into_iter().flatten());
    }
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let found = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1"].map(|a| a.parse().expect("one"));
        let order: Vec<String> = interleave(&found).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
    }

    #[test]
    fn a_name_with_many_addresses_is_cut() {
        let many: Vec<_> = (0..100)
            .map(|n| SocketAddr::from(([10, 0, 0, n], 1)))
            .collect();
        assert_eq!(interleave(&many).len(), MAX_ADDRESSES);
    }

    /// What each address does: answers after so long, or fails after so long.
    async fn dialled(script: &[(u64, bool)]) -> (Result<usize, Step>, Duration) {
        let addresses: Vec<_> = (0_u16..)
            .zip(script)
            .map(|(port, _)| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .collect();
        let begun = tokio::time::Instant::now();
        let stagger = Duration::from_millis(250);
        let won = first(&addresses, stagger, async |to| {
            let place = usize::from(to.port());
            let (ms, works) = script[place];
            sleep(Duration::from_millis(ms)).await;
            let fault = DialError::new(Step::Tcp, Cause::NoGateway);
            if works { Ok(place) } else { Err(fault) }
        });
        (won.await.map_err(|error| error.step), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_costs_a_quarter_of_a_second() {
        let (won, took) = dialled(&[(60_000, true), (10, true)]).await;
        assert_eq!((won, took), (Ok(1), Duration::from_millis(260)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_lets_the_next_begin_at_once() {
        let (won, took) = dialled(&[(5, false), (5, false), (5, true)]).await;
        assert_eq!((won, took), (Ok(2), Duration::from_millis(15)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_may_still_win() {
        let (won, took) = dialled(&[(300, true), (400, true)]).await;
        assert_eq!((won, took), (Ok(0), Duration::from_millis(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_fault_is_told() {
        let (won, took) = dialled(&[(5, false), (50, false)]).await;
        assert_eq!((won, took), (Err(Step::Tcp), Duration::from_millis(55)));
        assert_eq!(dialled(&[]).await.0, Err(Step::Dns));
    }
}
