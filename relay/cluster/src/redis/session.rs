//! The way to one server: connection, TLS, our user, a server that takes changes, and the place of this cluster.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::ears::{Ears, Listening};
use super::info::Info;
use super::names::Names;
use super::resp::{Reply, command};
use super::text_of;
use super::values::{self, PAGE_BYTES};
use super::wire::{Duplex, Wire};
use super::{End, Examined};
use crate::broker::{Broker, Host, Login};
use crate::limits::Limits;
use crate::progress::{Failing, Step};

/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(5);

/// What a reply has beside values, at most: keys, numbers and lengths of a page.
const OVERHEAD: usize = 512 << 10;

/// Connections that were found in order.
#[derive(Debug)]
pub(super) struct Session<'e> {
    /// For commands.
    pub(super) wire: Wire,
    /// For what the server tells by itself.
    pub(super) listening: Listening<'e>,
    pub(super) version: String,
    /// Which store it is.
    pub(super) store: Reply,
}

/// What a connection is made with.
#[derive(Debug)]
pub(super) struct Way<'w> {
    pub(super) broker: &'w Broker,
    pub(super) tls: Option<&'w ClientConfig>,
    pub(super) names: &'w Names,
    pub(super) limits: Limits,
    /// What a store is called that we make.
    pub(super) fresh: &'w str,
}

impl Way<'_> {
    /// Goes the whole way to `host`.
    pub(super) async fn go<'e>(&self, host: &Host, ears: &'e Ears) -> Result<Session<'e>, Failing> {
        let session = async {
            let (mut wire, info) = self.let_in(host).await?;
            let join = values::join(self.names, self.fresh, true);
            let store = asked(&mut wire, Step::Namespace, &join).await?;
            let look = values::look(self.names);
            asked(&mut wire, Step::Namespace, &look).await?;
            let ear = self.connected(host).await?;
            let beginning = Box::pin(Listening::begin(ears, ear));
            Ok(Session {
                wire,
                listening: within(Step::Namespace, beginning).await?,
                version: info.version().to_owned(),
                store,
            })
        };
        session.await.map_err(|end| failing(host, end))
    }

    /// Goes the way to `host` without making anything there.
    pub(super) async fn look(&self, host: &Host) -> Result<Examined, Failing> {
        let looked = async {
            let (mut wire, info) = self.let_in(host).await?;
            let look = values::look(self.names);
            asked(&mut wire, Step::Namespace, &look).await?;
            Ok((wire, info))
        };
        let looked = Box::pin(looked).await;
        let (mut wire, info) = looked.map_err(|end| failing(host, end))?;
        // our user may be refused it, and then nothing is said about it
        let kept = command(&[b"CONFIG", b"GET", b"appendonly"]);
        let kept = asked(&mut wire, Step::Storage, &kept).await.ok();
        Ok(Examined {
            version: info.version().to_owned(),
            warnings: info.warnings(kept.as_ref()),
        })
    }

    /// A connection on which our user is let in, to a server that takes changes.
    async fn let_in(&self, host: &Host) -> Result<(Wire, Info), End> {
        let mut wire = self.connected(host).await?;
        // while it reads its file, and as long as it has lost its primary, it answers this with an error
        let probe = command(&[b"EXISTS", self.names.store.as_bytes()]);
        asked(&mut wire, Step::Storage, &probe).await?;
        let info = match asked(&mut wire, Step::Storage, &command(&[b"INFO"])).await {
            Ok(Reply::Bytes(info)) => Info::new(&info),
            // refused to our user: what a change is answered with will tell
            Ok(_) | Err((Step::Credentials, _)) => Info::default(),
            Err(end) => return Err(end),
        };
        info.takes_changes()
            .map_err(|cause| (Step::Storage, cause))?;
        Ok((wire, info))
    }

    /// A connection on which our user is known.
    async fn connected(&self, host: &Host) -> Result<Wire, End> {
        let stream = self.stream(host).await?;
        let values = self.limits.value.saturating_add(PAGE_BYTES);
        let most = values.max(self.limits.message).saturating_add(OVERHEAD);
        let mut wire = Wire::new(stream, most);
        let login = Zeroizing::new(match &self.broker.login {
            Some(Login::Password { user, password }) if user == "default" => {
                // servers before 6 know no other user, and no name for this one
                command(&[b"AUTH", password.as_bytes()])
            }
            Some(Login::Password { user, password }) => {
                command(&[b"AUTH", user.as_bytes(), password.as_bytes()])
            }
            Some(Login::Creds(_)) | None => command(&[b"PING"]),
        });
        asked(&mut wire, Step::Credentials, &login).await?;
        Ok(wire)
    }

    async fn stream(&self, host: &Host) -> Result<Box<dyn Duplex>, End> {
        let tcp = dial(host).await?;
        let Some(tls) = self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = ServerName::try_from(host.name.clone());
        let name = name.map_err(|error| (Step::Tls, error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(tls.clone()));
        let shaken = async {
            let shaken = Box::pin(connector.connect(name, tcp)).await;
            shaken.map_err(|error| (Step::Tls, error.to_string()))
        };
        Ok(Box::new(within(Step::Tls, shaken).await?))
    }
}

async fn dial(host: &Host) -> Result<TcpStream, End> {
    let found = async {
        let found = lookup_host((host.name.as_str(), host.port)).await;
        found.map_err(|error| (Step::Dns, error.to_string()))
    };
    let addresses = within(Step::Dns, found).await?;
    let mut last = (Step::Dns, "the name has no address".to_owned());
    for address in addresses {
        let dialled = async {
            let dialled = TcpStream::connect(address).await;
            dialled.map_err(|error| (Step::Tcp, error.to_string()))
        };
        match within(Step::Tcp, dialled).await {
            Ok(stream) => {
                let set = stream.set_nodelay(true);
                set.map_err(|error| (Step::Tcp, error.to_string()))?;
                return Ok(stream);
            }
            Err(end) => last = end,
        }
    }
    Err(last)
}

async fn within<T>(step: Step, work: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    let done = timeout(STEP_WITHIN, work).await;
    done.unwrap_or_else(|_elapsed| Err((step, "no answer".to_owned())))
}

/// Asks one thing and is refused at `step`, or at an earlier one that the text is about.
async fn asked(wire: &mut Wire, step: Step, command: &[u8]) -> Result<Reply, End> {
    let reply = within(step, wire.ask(command)).await?;
    reply.accepted().map_err(|text| refused(step, &text))
}

fn refused(step: Step, text: &str) -> End {
    let about = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let of_user = about(&["NOAUTH", "WRONGPASS", "DENIED"]);
    let step = if about(&["max number of clients"]) {
        Step::Tcp
    } else if of_user || (step != Step::Namespace && about(&["NOPERM"])) {
        Step::Credentials
    } else if about(&[
        "LOADING",
        "MASTERDOWN",
        "READONLY",
        "MISCONF",
        "OOM",
        "BUSY",
        "CLUSTERDOWN",
        "MOVED",
    ]) {
        Step::Storage
    } else {
        step
    };
    (step, text_of(text))
}

fn failing(host: &Host, (step, cause): End) -> Failing {
    Failing {
        host: host.to_string(),
        step,
        cause,
    }
}
