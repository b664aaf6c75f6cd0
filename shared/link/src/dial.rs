//! The dialling side: QUIC and TLS are raced, and the hello goes over the winner alone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use sallyport_certs::{Trust, tunnel_client_config};
use sallyport_mux::Role;
use sallyport_ops::Tasks;
use sallyport_wire::message::{DRY_RUN, Hello, Reply, ReplyKind, Welcome};
use sallyport_wire::{ALPN, BINDING_LABEL, BINDING_LEN, Code, MAX_HELLO, NodeName, PEER_ALPN};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::connect::{Connector, Route, Won};
use crate::framed::{self, FramedError};
use crate::gateway_file::GatewayAddress;
use crate::gateway_url::GatewayUrl;
use crate::network::{Network, System, Tcp};
use crate::peer::{self, PeerAddress};
use crate::proxy::ProxyRules;
use crate::settings::Settings;
use crate::tunnel::{self, Facts, Tunnel};

pub use crate::connect::Choice;
pub use crate::dial_error::{Cause, DialError, Step};

/// Makes the first message for a connection.
pub trait Introduce: Send + Sync {
    /// The hello for the gateway of this audience on the connection with this binding.
    ///
    /// # Errors
    /// If there is no key for that gateway, in words for the log.
    fn hello(&self, audience: &str, binding: &[u8; BINDING_LEN]) -> Result<Hello, String>;
}

/// As [`Introduce`], towards a node of the own cluster, which proves in its welcome who it is.
pub trait Recognise: Introduce {
    /// Checks what a welcome proves about `node` on the connection with this binding.
    ///
    /// # Errors
    /// What is wrong, in words for the log.
    fn recognise(
        &self,
        node: &NodeName,
        welcome: &Welcome,
        binding: &[u8; BINDING_LEN],
    ) -> Result<(), String>;
}

/// A tunnel that came up.
#[derive(Debug)]
pub struct Dialled {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// What the gateway said.
    pub welcome: Welcome,
}

/// Dials gateways. Clones share their UDP sockets.
#[derive(Debug, Clone)]
pub struct Dialer {
    connector: Arc<Connector>,
    proxies: Arc<ProxyRules>,
    settings: Arc<Settings>,
    tasks: Tasks,
}

impl Dialer {
    /// A dialler through this host's network, whose tunnels run in `tasks`.
    #[must_use]
    pub fn new(settings: Arc<Settings>, proxies: ProxyRules, tasks: Tasks) -> Self {
        let network = System {
            congestion: settings.congestion,
        };
        Self::through(Arc::new(network), settings, proxies, tasks)
    }

    /// As [`Dialer::new`], through another network.
    #[must_use]
    pub fn through(
        network: Arc<dyn Network>,
        settings: Arc<Settings>,
        proxies: ProxyRules,
        tasks: Tasks,
    ) -> Self {
        Self {
            connector: Arc::new(Connector::new(network, Arc::clone(&settings))),
            proxies: Arc::new(proxies),
            settings,
            tasks,
        }
    }

    /// Brings a tunnel to a gateway up.
    ///
    /// # Errors
    /// [`DialError`] with the step that failed.
    pub async fn dial(
        &self,
        gateway: &GatewayAddress,
        choice: Choice,
        who: &dyn Introduce,
    ) -> Result<Dialled, DialError> {
        let audience = gateway.url.audience();
        match Box::pin(self.connect(gateway, choice)).await? {
            Won::Quic(connection) => {
                let greeted = Box::pin(self.greet_quic(&connection, &audience, who)).await?;
                Ok(self.tunnel_over_quic(connection, greeted))
            }
            Won::Tls(mut tls, remote) => {
                let greeted = Box::pin(self.greet_tls(&mut tls, &audience, who)).await?;
                Ok(self.tunnel_over_tls(*tls, remote, greeted))
            }
        }
    }

    /// Brings a tunnel to another node of the cluster up, over TLS. Until the welcome has proven who answers, nothing is
    /// said but the hello, whose token is worth nothing elsewhere.
    ///
    /// # Errors
    /// [`DialError`] with the step that failed.
    pub async fn dial_peer(
        &self,
        node: &NodeName,
        address: &PeerAddress,
        who: &dyn Recognise,
    ) -> Result<Dialled, DialError> {
        let tls = tunnel_client_config(&Trust::ProvenLater, &[PEER_ALPN]);
        let tls = tls.map_err(|error| DialError::new(Step::Tls, error))?;
        let host = bare_host(address.url());
        let route = Route {
            host: &host,
            port: address.url().port(),
            server_name: address.url().server_name(),
            proxy: None,
            tls,
        };
        let won = Box::pin(self.connector.race(&route, Choice::Tls)).await?;
        let Won::Tls(mut tls, remote) = won else {
            return Err(DialError::new(Step::Tls, Cause::NoGateway));
        };
        let audience = peer::audience(node);
        let greeted = Box::pin(self.greet_tls(&mut tls, &audience, who)).await?;
        let recognised = who.recognise(node, &greeted.welcome, &greeted.binding);
        recognised.map_err(|cause| {
            let node = node.clone();
            failed(Cause::Unproven { node, cause })
        })?;
        Ok(self.tunnel_over_tls(*tls, remote, greeted))
    }

    /// Asks a gateway whether it would let this relay in. No tunnel comes of it, and the gateway changes nothing.
    ///
    /// # Errors
    /// [`DialError`] with the step that failed; a gateway that knows no dry run refuses as incompatible.
    pub async fn dry_run(
        &self,
        gateway: &GatewayAddress,
        choice: Choice,
        who: &dyn Introduce,
    ) -> Result<Welcome, DialError> {
        let (audience, who) = (gateway.url.audience(), DryRun(who));
        Ok(match Box::pin(self.connect(gateway, choice)).await? {
            Won::Quic(connection) => {
                let greeting = self.greet_quic(&connection, &audience, &who);
                Box::pin(greeting).await?.welcome
            }
            Won::Tls(mut tls, _) => {
                let greeting = self.greet_tls(&mut tls, &audience, &who);
                Box::pin(greeting).await?.welcome
            }
        })
    }

    /// Whether a handshake with a gateway succeeds; nothing is said after it.
    ///
    /// # Errors
    /// [`DialError`] with the step that failed.
    pub async fn reach(&self, gateway: &GatewayAddress, choice: Choice) -> Result<(), DialError> {
        Box::pin(self.connect(gateway, choice)).await.map(drop)
    }

    /// A bare connection to the gateway at the other end of a tunnel: to the same address, or through the same proxy.
    ///
    /// # Errors
    /// If there is none.
    pub async fn data(&self, gateway: &GatewayAddress, tunnel: &Tunnel) -> io::Result<TcpStream> {
        let host = bare_host(&gateway.url);
        let proxy = self.proxies.proxy_for(&host);
        let to = (host.as_str(), gateway.url.port());
        self.connector.data(proxy, to, tunnel.remote()).await
    }

    /// Waits, not for long, until the other sides have heard of all connections that are closed by now.
    pub async fn farewell(&self) {
        self.connector.farewell().await;
    }

    async fn connect(&self, gateway: &GatewayAddress, choice: Choice) -> Result<Won, DialError> {
        let tls = self.tls(gateway)?;
        let host = bare_host(&gateway.url);
        let route = Route {
            host: &host,
            port: gateway.url.port(),
            server_name: gateway.url.server_name(),
            proxy: self.proxies.proxy_for(&host),
            tls,
        };
        self.connector.race(&route, choice).await
    }

    fn tls(&self, gateway: &GatewayAddress) -> Result<Arc<ClientConfig>, DialError> {
        let trust = if gateway.pins.is_empty() {
            Trust::system()
        } else {
            Ok(Trust::Pins(gateway.pins.clone()))
        };
        trust
            .and_then(|trust| tunnel_client_config(&trust, &[ALPN]))
            .map_err(|error| DialError::new(Step::Tls, error))
    }

    async fn greet_tls(
        &self,
        mut tls: &mut TlsStream<Box<dyn Tcp>>,
        audience: &str,
        who: &dyn Introduce,
    ) -> Result<Greeted<()>, DialError> {
        let exported =
            tls.get_ref()
                .1
                .export_keying_material([0; BINDING_LEN], BINDING_LABEL, Some(&[]));
        let binding = exported.map_err(|error| failed(io::Error::other(error)))?;
        let hello = who.hello(audience, &binding);
        let hello = hello.map_err(|fault| failed(Cause::Introduce(fault)))?;
        let (mut read, mut write) = tokio::io::split(&mut tls);
        let welcome = self.greet(&mut read, &mut write, &hello).await?;
        Ok(Greeted {
            welcome,
            binding,
            control: (),
        })
    }

    async fn greet_quic(
        &self,
        connection: &quinn::Connection,
        audience: &str,
        who: &dyn Introduce,
    ) -> Result<Greeted<(quinn::SendStream, quinn::RecvStream)>, DialError> {
        let mut binding = [0; BINDING_LEN];
        let exported = connection.export_keying_material(&mut binding, BINDING_LABEL, &[]);
        exported.map_err(|_early| failed(Cause::NoGateway))?;
        let hello = who.hello(audience, &binding);
        let hello = hello.map_err(|fault| failed(Cause::Introduce(fault)))?;
        let (mut send, mut recv) = connection.open_bi().await.map_err(failed)?;
        Ok(Greeted {
            welcome: self.greet(&mut recv, &mut send, &hello).await?,
            binding,
            control: (send, recv),
        })
    }

    fn tunnel_over_tls(
        &self,
        tls: TlsStream<Box<dyn Tcp>>,
        remote: SocketAddr,
        greeted: Greeted<()>,
    ) -> Dialled {
        let facts = Facts {
            id: greeted.welcome.tunnel,
            features: greeted.welcome.features.clone(),
            remote,
            binding: greeted.binding,
        };
        let tunnel = tunnel::over_tls(tls, Role::Client, facts, &self.settings, &self.tasks);
        Dialled {
            tunnel,
            welcome: greeted.welcome,
        }
    }

    fn tunnel_over_quic(
        &self,
        connection: quinn::Connection,
        greeted: Greeted<(quinn::SendStream, quinn::RecvStream)>,
    ) -> Dialled {
        let facts = Facts {
            id: greeted.welcome.tunnel,
            features: greeted.welcome.features.clone(),
            remote: connection.remote_address(),
            binding: greeted.binding,
        };
        let control = greeted.control;
        let tunnel = tunnel::over_quic(connection, control, facts, &self.settings, &self.tasks);
        Dialled {
            tunnel,
            welcome: greeted.welcome,
        }
    }

    /// Says hello and hears the reply.
    async fn greet(
        &self,
        read: &mut (impl AsyncRead + Unpin),
        write: &mut (impl AsyncWrite + Unpin),
        hello: &Hello,
    ) -> Result<Welcome, DialError> {
        let within = self.settings.hello_within;
        let talk = async {
            framed::write(write, hello, MAX_HELLO).await?;
            framed::read::<Reply>(read, MAX_HELLO).await
        };
        debug!(node = hello.node, features = ?hello.features, dry_run = hello.dry_run, "saying hello");
        let reply = match timeout(within, talk).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(FramedError::Io(error))) => return Err(failed(error)),
            Ok(Err(FramedError::Frame(error))) => return Err(failed(error)),
            Err(_elapsed) => return Err(failed(Cause::TooSlow(within))),
        };
        log_reply(reply.kind.as_ref());
        match reply.kind {
            Some(ReplyKind::Welcome(welcome)) => Ok(welcome),
            Some(ReplyKind::Refused(refused)) => Err(failed(Cause::Refused {
                code: Code::from_number(refused.code),
                retry_after: (refused.retry_after_ms > 0)
                    .then(|| Duration::from_millis(refused.retry_after_ms.into())),
            })),
            None => Err(failed(Cause::NoGateway)),
        }
    }
}

/// A connection on which the relay was welcomed, and the control stream where that is known by then.
struct Greeted<C> {
    welcome: Welcome,
    binding: [u8; BINDING_LEN],
    control: C,
}

/// Asks what another introducer would be told.
struct DryRun<'w>(&'w dyn Introduce);

impl Introduce for DryRun<'_> {
    fn hello(&self, audience: &str, binding: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        let mut hello = self.0.hello(audience, binding)?;
        hello.dry_run = true;
        hello.required.push(DRY_RUN.to_owned());
        Ok(hello)
    }
}

fn log_reply(reply: Option<&ReplyKind>) {
    match reply {
        Some(ReplyKind::Welcome(welcome)) => debug!(
            tunnel = welcome.tunnel,
            version = welcome.version,
            features = ?welcome.features,
            "welcomed"
        ),
        Some(ReplyKind::Refused(refused)) => debug!(
            code = %Code::from_number(refused.code),
            retry_after_ms = refused.retry_after_ms,
            "refused"
        ),
        None => debug!("an answer that is none"),
    }
}

fn failed(cause: impl Into<Cause>) -> DialError {
    DialError::new(Step::Hello, cause)
}

/// The host as resolvers and proxies want it: without brackets.
fn bare_host(url: &GatewayUrl) -> String {
    match url.address() {
        Some(address) => address.ip().to_string(),
        None => url.host().to_string(),
    }
}
