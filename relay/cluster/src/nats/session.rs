//! The way to one server: connection, JetStream, and the bucket of this cluster.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode, stream::Stream};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::names::Names;
use crate::broker::{Broker, Host, Login};
use crate::limits::Limits;
use crate::progress::{Failing, Step};

/// How long a server may take to let us in.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A server that has said nothing for three of these is dead.
const PING_EVERY: Duration = Duration::from_secs(2);

/// Longest wait between two tries to come back.
const RETRY_CAP: Duration = Duration::from_secs(2);

/// What a message of the bucket has beside its value, at most: subject and headers.
const OVERHEAD: usize = 4096;

/// From this version of nats-server on, one wins of two who change a key of a replicated bucket at once.
const ONE_WINS: (i64, i64) = (2, 12);

/// Servers from which on each value is kept on three of them.
const REPLICATED: usize = 3;

/// A connection that was found in order.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) stream: Stream,
    /// Whether of two who expect the same message both may be let in.
    pub(super) lets_two_win: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

/// What a connection is made with.
#[derive(Debug)]
pub(super) struct Way<'w> {
    pub(super) broker: &'w Broker,
    pub(super) tls: Option<&'w ClientConfig>,
    pub(super) names: &'w Names,
    pub(super) limits: Limits,
}

impl Way<'_> {
    /// Goes the whole way to `host`. What the connection has to tell later goes to `note`.
    pub(super) async fn go(
        &self,
        host: &Host,
        note: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Session, Failing> {
        let (client, context) = Box::pin(self.connect(host, note)).await?;
        let stream = Box::pin(self.bucket(&context)).await;
        let stream = stream.map_err(|end| failing(host, end))?;
        // from now on each of them will do
        let all = self.broker.hosts.iter().map(|host| self.address(host));
        let all: Vec<_> = all.collect();
        let pooled = client.set_server_pool(all.as_slice()).await;
        pooled.map_err(|error| failing(host, (Step::Tcp, error.to_string())))?;
        let replicated = stream.cached_info().config.num_replicas > 1;
        let (major, minor) = ONE_WINS;
        Ok(Session {
            lets_two_win: replicated && !client.is_server_compatible(major, minor, 0),
            client,
            context,
            stream,
        })
    }

    /// Goes the way to `host` without making anything there; the server's version.
    pub(super) async fn look(&self, host: &Host) -> Result<String, Failing> {
        let connected = self.connect(host, |_event| {}).await;
        let (client, context) = match connected {
            Ok(connected) => connected,
            Err(failing) if failing.step == Step::Tcp && dial(host).await.is_ok() => {
                let cause = format!(
                    "another service seems to answer there: it takes connections and does not speak as nats-server does ({})",
                    failing.cause
                );
                return Err(Failing { cause, ..failing });
            }
            Err(failing) => return Err(failing),
        };
        let found = self.find(&context).await;
        found.map_err(|end| failing(host, end))?;
        Ok(client.server_info().version)
    }

    async fn connect(
        &self,
        host: &Host,
        note: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<(Client, Context), Failing> {
        let client = self.let_in(host, note).await;
        let client = client.map_err(|end| failing(host, end))?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(self.limits.operation.min(CONNECT_WITHIN));
        Ok((client, context))
    }

    async fn let_in(
        &self,
        host: &Host,
        note: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Client, End> {
        let options = self.options().map_err(|cause| (Step::Credentials, cause))?;
        let options = options.event_callback(move |event| {
            note(event);
            std::future::ready(())
        });
        let connected = timeout(
            CONNECT_WITHIN.saturating_mul(2),
            Box::pin(options.connect(self.address(host))),
        );
        match connected.await {
            Ok(connected) => connected.map_err(|error| (step_of(&error), cause_of(&error))),
            Err(_elapsed) => Err((Step::Tcp, "no answer".to_owned())),
        }
    }

    fn options(&self) -> Result<ConnectOptions, String> {
        let mut options = ConnectOptions::new()
            .name("sallyport-relay")
            .connection_timeout(CONNECT_WITHIN)
            .request_timeout(Some(self.limits.operation))
            .ping_interval(PING_EVERY)
            .reconnect_delay_callback(retry_after)
            // what a server says about others is no reason to go there
            .ignore_discovered_servers()
            .retain_servers_order();
        options = match &self.broker.login {
            None => options,
            Some(Login::Password { user, password }) => {
                options.user_and_password(user.clone(), password.to_string())
            }
            Some(Login::Creds(creds)) => options
                .credentials(creds)
                .map_err(|error| format!("creds: {error}"))?,
        };
        Ok(match self.tls {
            Some(tls) => options.require_tls(true).tls_client_config(tls.clone()),
            None => options,
        })
    }

    fn address(&self, host: &Host) -> String {
        let scheme = if self.tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://{host}")
    }

    /// The bucket, made if it is not there.
    pub(super) async fn bucket(&self, context: &Context) -> Result<Stream, End> {
        match self.find(context).await? {
            Some(stream) => Ok(stream),
            None => self.make(context).await,
        }
    }

    /// The bucket, if it is there.
    async fn find(&self, context: &Context) -> Result<Option<Stream>, End> {
        let error = match context.get_stream(self.names.stream()).await {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) => error,
        };
        match error.kind() {
            GetStreamErrorKind::JetStream(cause)
                if cause.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::Request
            | GetStreamErrorKind::InvalidStreamName
            | GetStreamErrorKind::JetStream(_) => Err((Step::Storage, cause_of(&error))),
        }
    }

    /// Makes the bucket; not with the client's own call for it, which servers before 2.10 do not understand.
    async fn make(&self, context: &Context) -> Result<Stream, End> {
        let made = context.create_stream(self.bucket_config()).await;
        made.map_err(|error| {
            let unavailable = matches!(
                error.kind(),
                CreateStreamErrorKind::JetStreamUnavailable | CreateStreamErrorKind::TimedOut
            );
            let step = if unavailable {
                Step::Storage
            } else {
                Step::Namespace
            };
            (step, cause_of(&error))
        })
    }

    fn bucket_config(&self) -> Config {
        let largest = self.limits.value.saturating_add(OVERHEAD);
        let replicas = if self.broker.hosts.len() >= REPLICATED {
            REPLICATED
        } else {
            1
        };
        Config {
            name: self.names.stream(),
            subjects: vec![self.names.all_values()],
            max_messages_per_subject: 1,
            max_message_size: i32::try_from(largest).unwrap_or(i32::MAX),
            storage: StorageType::File,
            num_replicas: replicas,
            deny_delete: true,
            deny_purge: true,
            // a replica that lags behind would answer with what was
            allow_direct: false,
            ..Config::default()
        }
    }
}

/// Whether the server's port takes a connection; the client tells less of why it does not.
pub(super) async fn dial(host: &Host) -> Result<(), String> {
    let dialled = TcpStream::connect((host.name.as_str(), host.port));
    match timeout(CONNECT_WITHIN, dialled).await {
        Ok(Ok(_connection)) => Ok(()),
        Ok(Err(cause)) => Err(cause.to_string()),
        Err(_elapsed) => Err("no answer".to_owned()),
    }
}

/// Where a way ends, and why.
pub(super) type End = (Step, String);

fn failing(host: &Host, (step, cause): End) -> Failing {
    Failing {
        host: host.to_string(),
        step,
        cause,
    }
}

/// Full jitter is not needed: the servers of a cluster are few and each relay has one connection.
fn retry_after(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.min(8)).unwrap_or(8);
    let wait = Duration::from_millis(25).saturating_mul(2_u32.saturating_pow(exponent));
    if attempts <= 1 {
        return Duration::ZERO;
    }
    wait.min(RETRY_CAP)
}

fn step_of(error: &ConnectError) -> Step {
    match error.kind() {
        ConnectErrorKind::Dns | ConnectErrorKind::ServerParse => Step::Dns,
        ConnectErrorKind::Tls => Step::Tls,
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Step::Credentials
        }
        ConnectErrorKind::Io if is_about_tls(error) => Step::Tls,
        ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::MaxReconnects => {
            Step::Tcp
        }
    }
}

/// A handshake that fails is an I/O error to the client.
fn is_about_tls(error: &ConnectError) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The innermost text, which says what happened; those around it say where in the client.
fn cause_of(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
