//! Store and bus in Redis: values in hashes that scripts change, messages on channels, all below the cluster's namespace.
//!
//! It is connected in the background and stays usable as a handle all the time, like [`Nats`](crate::Nats): what is asked
//! for while no server can be reached fails at once and says at which step the way ends, watches and subscriptions wait
//! and begin anew.

mod follow;
mod session;
mod info;
mod values;
mod ears;
mod wire;
mod resp;
mod names;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt as _, Stream, stream};
use rustls::ClientConfig;
use sallyport_ops::Tasks;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, interval_at, sleep, timeout};
use tracing::{info, info_span, warn};

use crate::broker::{Broker, Host};
use crate::bus::{Bus, Delivery, Message, ReplyTo, Subscription};
use crate::error::{Answer, ClusterError};
use crate::hub::Told;
use crate::key::{Key, Prefix};
use crate::limits::Limits;
use crate::progress::{Failing, Progress, Step, changes_of};
use crate::store::{Entry, Revision, Store, Watch};
use crate::turns::Turns;

use ears::{Ear, Ears, Heard};
use follow::Follower;
use names::Names;
use resp::Reply;
use session::{Session, Way};
use values::{Asked, Commands, Expected};
use wire::Wire;

/// Wait before a watch tries again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// First wait before a server is tried again, doubled with each try.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Longest such wait.
const RETRY_CAP: Duration = Duration::from_secs(2);

/// How often a server is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(2);

/// A server that has said nothing for so long is dead.
const SILENT: Duration = Duration::from_secs(6);

/// Most that is shown of what a server says.
const MOST_TEXT: usize = 200;

/// Random bytes that name a process, or a store.
const NAME_BYTES: usize = 8;

/// Where a way ends, and why.
type End = (Step, String);

/// Store and bus of a cluster whose broker is Redis. A clone is the same one; its tasks end with their owner.
#[derive(Debug, Clone)]
pub struct Redis(Arc<Shared>);

/// What a server is, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its version, like `7.0.15`; empty if it does not say.
    pub version: String,
    /// What may lose values there.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    broker: Broker,
    tls: Option<ClientConfig>,
    names: Names,
    limits: Limits,
    /// What this process is called where answers to it go.
    process: String,
    turns: Turns,
    state: watch::Sender<State>,
    ears: Arc<Ears>,
}

/// What is known of the connection.
#[derive(Debug, Default)]
struct State {
    /// There while it can be used.
    commands: Option<Commands>,
    failing: Option<Failing>,
}

impl State {
    fn progress(&self) -> Progress {
        match (&self.commands, &self.failing) {
            (Some(_), _) => Progress::Ready,
            (None, Some(failing)) => Progress::Failing(failing.clone()),
            (None, None) => Progress::Connecting,
        }
    }

    fn usable(&self) -> Result<Commands, ClusterError> {
        let unreachable = || ClusterError::Unreachable(self.progress().to_string());
        self.commands.clone().ok_or_else(unreachable)
    }
}

impl Redis {
    /// Begins to connect to the servers of `broker`, and returns at once. `tls` is what its `tls` says.
    #[must_use]
    pub fn start(broker: Broker, tls: Option<ClientConfig>, limits: Limits, tasks: &Tasks) -> Self {
        let (names, process) = (Names::new(&broker.namespace), random_name());
        let ears = Ears::new(names.clone(), names.answers_to(&process));
        let redis = Self(Arc::new(Shared {
            broker,
            tls,
            names,
            limits,
            process,
            turns: Turns::new(&limits),
            state: watch::Sender::default(),
            ears: Arc::new(ears),
        }));
        let connecting = redis.clone();
        tasks.spawn(info_span!("broker"), async move {
            Box::pin(connecting.connect()).await;
        });
        redis
    }

    /// How far the connection is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.state.borrow().progress()
    }

    /// What [`progress`](Self::progress) says now, and whatever it says later.
    pub fn progress_changes(&self) -> impl Stream<Item = Progress> + Send + 'static {
        changes_of(self.0.state.subscribe(), State::progress)
    }

    /// Goes the way to each server of `broker` once, changing nothing there, and says for each how that ended: with what
    /// it is or where.
    pub async fn examine(
        broker: &Broker,
        tls: Option<&ClientConfig>,
        limits: Limits,
    ) -> Vec<Result<Examined, Failing>> {
        let names = Names::new(&broker.namespace);
        let way = Way {
            broker,
            tls,
            names: &names,
            limits,
            fresh: "",
        };
        join_all(broker.hosts.iter().map(|host| way.look(host))).await
    }

    /// Tries the servers in turn, from the first one again whenever one that had let us in is lost: that may be back.
    async fn connect(&self) {
        let hosts = &self.0.broker.hosts;
        let mut tries = 0_u32;
        let mut turns = hosts.iter().cycle();
        let Some(mut host) = turns.next() else {
            return;
        };
        loop {
            let failing = match Box::pin(self.visit(host)).await {
                Visit::Refused(failing) => {
                    tries = tries.saturating_add(1);
                    host = turns.next().unwrap_or(host);
                    failing
                }
                Visit::Lost(failing) => {
                    tries = 0;
                    failing
                }
            };
            self.failed(failing);
            let wait = RETRY_AFTER.saturating_mul(2_u32.saturating_pow(tries.min(8)));
            sleep(wait.min(RETRY_CAP)).await;
        }
    }

    /// Goes the way to `host` and uses it for as long as that lasts.
    async fn visit(&self, host: &Host) -> Visit {
        let (shared, fresh) = (&self.0, random_name());
        let way = Way {
            broker: &shared.broker,
            tls: shared.tls.as_ref(),
            names: &shared.names,
            limits: shared.limits,
            fresh: &fresh,
        };
        let session = match Box::pin(way.go(host, &shared.ears)).await {
            Ok(session) => session,
            Err(failing) => {
                shared.ears.lost();
                return Visit::Refused(failing);
            }
        };
        let Session {
            wire,
            listening,
            version,
            store,
        } = session;
        info!(broker = %host, %version, "connected to the broker");
        let (commands, asked) = Commands::new(shared.limits.operations);
        shared.state.send_replace(State {
            commands: Some(commands),
            failing: None,
        });
        let (step, cause) = tokio::select! {
            end = serve(wire, asked, &shared.names, &store) => end,
            end = listening.run() => end,
        };
        shared.ears.lost();
        Visit::Lost(Failing {
            host: host.to_string(),
            step,
            cause: format!("the connection was lost: {cause}"),
        })
    }

    fn failed(&self, failing: Failing) {
        self.0.state.send_modify(|state| {
            if state.failing.as_ref() != Some(&failing) {
                warn!(%failing, "the broker cannot be used");
            }
            state.commands = None;
            state.failing = Some(failing);
        });
    }

    fn usable(&self) -> Result<Commands, ClusterError> {
        self.0.state.borrow().usable()
    }

    /// Until the server knows that somebody listens; false if there is none that could.
    async fn stands(&self, ear: &mut Ear) -> Result<bool, ClusterError> {
        let mut state = self.0.state.subscribe();
        let away = state.wait_for(|state| state.commands.is_none());
        let stands = async {
            tokio::select! {
                stands = ear.stands() => stands.map(|()| true),
                _away = away => Ok(false),
            }
        };
        let in_time = timeout(self.0.limits.operation, stands).await;
        in_time.map_err(|_elapsed| ClusterError::TimedOut)?
    }

    async fn write(
        &self,
        key: &Key,
        value: Option<Bytes>,
        expected: Expected,
    ) -> Result<Option<Revision>, ClusterError> {
        let (commands, names) = (self.usable()?, &self.0.names);
        let work = commands.write(names, key, value.as_ref(), expected).boxed();
        self.0.turns.take(work).await
    }

    fn set<'a>(&'a self, key: &'a Key, value: Bytes, expected: Expected) -> Answer<'a, Revision> {
        async move {
            self.0.limits.fits(&value)?;
            let written = self.write(key, Some(value), expected).await?;
            written.ok_or_else(|| ClusterError::Broken("a change without a number".to_owned()))
        }
        .boxed()
    }

    /// Tells it on a channel, and how many listen there.
    async fn tell(&self, channel: &str, payload: &[u8]) -> Result<i64, ClusterError> {
        let commands = self.usable()?;
        let work = commands.publish(channel, payload).boxed();
        self.0.turns.take(work).await
    }
}

/// How a visit to a server ended.
enum Visit {
    /// It did not let us in.
    Refused(Failing),
    /// It did, and was lost.
    Lost(Failing),
}

/// Sends what is asked and gives each its reply, until the connection is lost or leads to another store.
async fn serve(
    mut wire: Wire,
    mut asked: mpsc::Receiver<Asked>,
    names: &Names,
    store: &Reply,
) -> End {
    let sign = values::join(names, "", false);
    let mut beat = interval_at(Instant::now(), PING_EVERY);
    let mut waiting = VecDeque::new();
    loop {
        let went = tokio::select! {
            reply = wire.reply() => reply.and_then(|reply| give(reply, waiting.pop_front(), store)),
            Some(asked) = asked.recv(), if wire.has_room() => {
                wire.push(&asked.command);
                waiting.push_back(Some(asked.answer));
                Ok(())
            }
            _now = beat.tick() => {
                wire.push(&sign);
                waiting.push_back(None);
                silent(&wire)
            }
        };
        if let Err(end) = went {
            return end;
        }
    }
}

/// Gives a reply to who waits for it: nobody for a sign of life, which says which store this is.
fn give(
    reply: Reply,
    waiting: Option<Option<oneshot::Sender<Reply>>>,
    store: &Reply,
) -> Result<(), End> {
    let refused = match &reply {
        Reply::Error(text) => Some(text_of(text)),
        Reply::Status(_) | Reply::Number(_) | Reply::Bytes(_) | Reply::Nothing | Reply::List(_) => {
            None
        }
    };
    match (waiting, refused) {
        (None, _) => Err((Step::Tcp, "a reply that nobody asked for".to_owned())),
        (Some(None), Some(text)) => Err((Step::Storage, text)),
        (Some(None), None) if reply != *store => {
            Err((Step::Namespace, "the store was emptied".to_owned()))
        }
        (Some(None), None) => Ok(()),
        (Some(Some(answer)), refused) => {
            // who asked may have given up
            let _heard = answer.send(reply);
            match refused {
                Some(text) if text.contains("READONLY") => Err((Step::Storage, text)),
                Some(_) | None => Ok(()),
            }
        }
    }
}

fn silent(wire: &Wire) -> Result<(), End> {
    if wire.silent_for() > SILENT {
        return Err((Step::Tcp, "the server does not answer".to_owned()));
    }
    Ok(())
}

/// What a server says, fit to be shown.
fn text_of(said: &str) -> String {
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    said.chars().take(MOST_TEXT).map(plain).collect()
}

/// A name that nobody else has.
fn random_name() -> String {
    let mut bytes = [0_u8; NAME_BYTES];
    // without random bytes there is no TLS and no key either; the process number still tells those of one machine apart
    if rand::fill(&mut bytes).is_err() {
        return std::process::id().to_string();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store for Redis {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        async move {
            let commands = self.usable()?;
            let work = commands.get(&self.0.names, key).boxed();
            self.0.turns.take(work).await
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.set(key, value, Expected::Any)
    }

    fn create<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.set(key, value, Expected::Nothing)
    }

    fn replace<'a>(&'a self, key: &'a Key, value: Bytes, known: Revision) -> Answer<'a, Revision> {
        self.set(key, value, Expected::Revision(known))
    }

    fn delete<'a>(&'a self, key: &'a Key, known: Option<Revision>) -> Answer<'a, ()> {
        let expected = known.map_or(Expected::Any, Expected::Revision);
        async move { self.write(key, None, expected).await.map(drop) }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Vec<Entry>> {
        async move {
            let commands = self.usable()?;
            let work = commands.list(&self.0.names, prefix).boxed();
            Ok(self.0.turns.take(work).await?.0)
        }
        .boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Watch> {
        let pattern = self.0.names.changes_below(prefix);
        let follower = Follower {
            ear: self.0.ears.listen(pattern, self.0.limits.changes),
            redis: self.clone(),
            prefix: prefix.clone(),
            shown: None,
        };
        let changes = stream::unfold(follower, |mut follower| async move {
            let change = Box::pin(follower.next()).await;
            Some((change, follower))
        });
        async move { Ok(Watch::new(changes)) }.boxed()
    }
}

impl Bus for Redis {
    fn publish<'a>(&'a self, topic: &'a Key, payload: Bytes) -> Answer<'a, ()> {
        async move {
            self.0.limits.carries(&payload)?;
            let channel = self.0.names.topic(topic);
            self.tell(&channel, &enveloped("", &payload))
                .await
                .map(drop)
        }
        .boxed()
    }

    fn subscribe<'a>(&'a self, topics: &'a Prefix) -> Answer<'a, Subscription> {
        async move {
            let pattern = self.0.names.topics_below(topics);
            let mut ear = self.0.ears.listen(pattern, self.0.limits.messages);
            // a server that is away is told when it is back
            let _told = self.stands(&mut ear).await?;
            Ok(Subscription::new(stream::unfold(ear, heard)))
        }
        .boxed()
    }

    fn request<'a>(
        &'a self,
        topic: &'a Key,
        payload: Bytes,
        within: Duration,
    ) -> Answer<'a, Bytes> {
        async move {
            self.0.limits.carries(&payload)?;
            let waiting = self.0.ears.requests().begin();
            let reply_to = format!("{}.{}", self.0.process, waiting.number);
            let channel = self.0.names.topic(topic);
            let asking = async {
                let heard = self.tell(&channel, &enveloped(&reply_to, &payload)).await?;
                if heard == 0 {
                    return Err(ClusterError::NobodyAnswers(topic.clone()));
                }
                waiting.answered(within).await
            };
            let in_time = timeout(within, asking).await;
            in_time.map_err(|_elapsed| ClusterError::TimedOut)?
        }
        .boxed()
    }

    fn answer<'a>(&'a self, to: &'a ReplyTo, payload: Bytes) -> Answer<'a, ()> {
        async move {
            self.0.limits.carries(&payload)?;
            let channel = self.0.names.answer(&to.0);
            self.tell(&channel, &payload).await.map(drop)
        }
        .boxed()
    }
}

/// What a subscriber is told next.
async fn heard(mut ear: Ear) -> Option<(Delivery, Ear)> {
    loop {
        match ear.next().await? {
            Told::Gap => return Some((Delivery::Gap, ear)),
            Told::Item(heard) => {
                if let Some(message) = message(heard) {
                    return Some((Delivery::Message(message), ear));
                }
            }
        }
    }
}

/// Where an answer goes stands in a line before what is said, because Redis has no other place for it.
fn enveloped(reply_to: &str, payload: &[u8]) -> Vec<u8> {
    [reply_to.as_bytes(), b"\n", payload].concat()
}

/// None for what no relay has said.
fn message(heard: Heard) -> Option<Message> {
    let end = heard.payload.iter().position(|byte| *byte == b'\n')?;
    let reply_to = std::str::from_utf8(heard.payload.get(..end)?).ok()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    if !reply_to.bytes().all(fits) || reply_to.len() > 64 {
        return None;
    }
    Some(Message {
        topic: heard.key,
        payload: heard.payload.slice(end.saturating_add(1)..),
        reply_to: (!reply_to.is_empty()).then(|| ReplyTo(reply_to.into())),
    })
}
