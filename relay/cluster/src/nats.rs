//! Store and bus in NATS: values in a JetStream bucket, messages on plain subjects, both below the cluster's namespace.
//!
//! It is connected in the background and stays usable as a handle all the time: what is asked for while no server can be
//! reached fails at once and says at which step the way ends, watches and subscriptions wait and begin anew.

mod follow;
mod listen;
mod names;
mod session;
mod state;
mod values;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Request;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt as _, Stream, stream};
use rustls::ClientConfig;
use sallyport_ops::Tasks;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, info_span, warn};

use crate::broker::{Broker, Host};
use crate::bus::{Bus, ReplyTo, Subscription};
use crate::error::{Answer, ClusterError};
use crate::hub::queue;
use crate::key::{Key, Prefix};
use crate::limits::Limits;
use crate::progress::{Failing, Progress, Step, changes_of};
use crate::store::{Entry, Revision, Store, Watch};
use crate::turns::Turns;

use follow::Follower;
use listen::{Listener, heard};
use names::Names;
use session::{Session, Way};
use state::{State, note};

/// Waits between two rounds over all servers, until the first one lets us in; and between two tries of a watch.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How often a connection of which nothing is heard is asked whether it is one, and how long that may take: longer than
/// until the client itself notices.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// What reads of the bucket go through, as far as refusals name it.
const API: &str = "$JS.API";

/// Store and bus of a cluster whose broker is NATS. A clone is the same one; its tasks end with their owner.
#[derive(Debug, Clone)]
pub struct Nats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    broker: Broker,
    tls: Option<ClientConfig>,
    names: Names,
    limits: Limits,
    turns: Turns,
    state: watch::Sender<State>,
    tasks: Tasks,
}

impl Nats {
    /// Begins to connect to the servers of `broker`, and returns at once. `tls` is what its `tls` says.
    #[must_use]
    pub fn start(broker: Broker, tls: Option<ClientConfig>, limits: Limits, tasks: &Tasks) -> Self {
        let nats = Self(Arc::new(Shared {
            names: Names::new(&broker.namespace),
            broker,
            tls,
            limits,
            turns: Turns::new(&limits),
            state: watch::Sender::default(),
            tasks: tasks.clone(),
        }));
        let connecting = nats.clone();
        tasks.spawn(info_span!("broker"), async move {
            Box::pin(connecting.keep()).await;
        });
        nats
    }

    /// How far the connection is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.state.borrow().progress()
    }

    /// Goes the way to each server of `broker` once, changing nothing there, and says for each how that ended: with its
    /// version or where.
    pub async fn examine(
        broker: &Broker,
        tls: Option<&ClientConfig>,
        limits: Limits,
    ) -> Vec<Result<String, Failing>> {
        let names = Names::new(&broker.namespace);
        let way = Way {
            broker,
            tls,
            names: &names,
            limits,
        };
        join_all(broker.hosts.iter().map(|host| way.look(host))).await
    }

    /// What [`progress`](Self::progress) says now, and whatever it says later.
    pub fn progress_changes(&self) -> impl Stream<Item = Progress> + Send + 'static {
        changes_of(self.0.state.subscribe(), State::progress)
    }

    /// Has a connection made anew whenever the last one has ended for good, were it by a panic in the client: what it reads
    /// before TLS, anybody on the way can write.
    async fn keep(&self) {
        loop {
            let held = AssertUnwindSafe(self.connect()).catch_unwind().await;
            let cause = match held {
                Ok(()) => "the connection does not answer any more",
                Err(_panic) => "what the server says broke the connection",
            };
            self.0.state.send_modify(|state| state.session = None);
            let host = self.0.state.borrow().host.clone();
            self.failed(Failing {
                host,
                step: Step::Tcp,
                cause: cause.to_owned(),
            });
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Tries the servers in turn until one lets us in, and returns when its connection has ended for good. Losses before
    /// that are the client's to mend.
    async fn connect(&self) {
        let shared = &self.0;
        let way = Way {
            broker: &shared.broker,
            tls: shared.tls.as_ref(),
            names: &shared.names,
            limits: shared.limits,
        };
        for host in shared.broker.hosts.iter().cycle() {
            let attempt = shared.state.borrow().attempt.saturating_add(1);
            shared.state.send_modify(|state| {
                state.attempt = attempt;
                state.host = host.to_string();
            });
            let (noted, name) = (self.clone(), host.to_string());
            let noting = move |event| note(&noted.0.state, attempt, &name, event);
            match Box::pin(way.go(host, noting)).await {
                Ok(session) => {
                    self.use_session(session);
                    return self.stay(&way).await;
                }
                Err(failing) => self.failed(failing),
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// After each loss of the connection sees that the bucket is there: its servers may have been set up anew. Returns when
    /// the client has ended without a word.
    async fn stay(&self, way: &Way<'_>) {
        let mut state = self.0.state.subscribe();
        let mut seen = state.borrow_and_update().epoch;
        loop {
            let returned = state.wait_for(|state| state.connected && state.epoch != seen);
            let returned = timeout(PROBE_EVERY, returned).await;
            let returned = returned.map(|now| now.map(|now| (now.usable(), now.epoch)));
            let (session, epoch) = match returned {
                Ok(Ok(returned)) => returned,
                Ok(Err(_closed)) => return,
                Err(_nothing_new) if self.answers().await => {
                    self.look_why_away(way).await;
                    continue;
                }
                Err(_nothing_new) => return,
            };
            let Some(session) = session else { continue };
            match Box::pin(way.bucket(&session.context)).await {
                Ok(_there) => seen = epoch,
                Err((step, cause)) => {
                    if let Some(held_back) = self.tells(&format!("{step}: {cause}")) {
                        warn!(%step, %cause, held_back, "the broker is back, and cannot be used yet");
                    }
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// While it connects again the client tells only that it cannot: why, the server's port says.
    async fn look_why_away(&self, way: &Way<'_>) {
        let away = self.0.state.borrow().away();
        let is_meant = |host: &&Host| away.as_deref() == Some(host.to_string().as_str());
        let Some(host) = way.broker.hosts.iter().find(is_meant) else {
            return;
        };
        if let Err(cause) = session::dial(host).await {
            self.0
                .state
                .send_if_modified(|state| state.is_away_by(cause));
        }
    }

    /// Whether the client still does what it is asked, as far as it takes itself for connected.
    async fn answers(&self) -> bool {
        let Ok(session) = self.usable() else {
            return true;
        };
        let flushed = timeout(PROBE_WITHIN, session.client.flush()).await;
        matches!(flushed, Ok(Ok(()))) || self.usable().is_err()
    }

    fn use_session(&self, session: Session) {
        info!(broker = %session.client.server_info().server_name, version = %session.client.server_info().version, "connected to the broker");
        self.0.state.send_modify(|state| {
            state.session = Some(Arc::new(session));
            state.connected = true;
            state.epoch = state.epoch.saturating_add(1);
        });
    }

    fn failed(&self, failing: Failing) {
        // with several servers it is another one each time
        let held_back = self.tells(&failing.to_string());
        self.0.state.send_modify(|state| {
            if let Some(held_back) = held_back {
                warn!(%failing, held_back, "the broker cannot be used yet");
            }
            state.connected = false;
            state.failing = Some(failing);
        });
    }

    /// Whether a cause is to be told now, with how often it was not.
    fn tells(&self, cause: &str) -> Option<u64> {
        self.0.state.borrow().told.pass(cause)
    }

    fn usable(&self) -> Result<Arc<Session>, ClusterError> {
        let state = self.0.state.borrow();
        let unreachable = || ClusterError::Unreachable(state.progress().to_string());
        state.usable().ok_or_else(unreachable)
    }

    /// Does `work` in its time. A refusal that names `subject` ends it at once, because a refused request is never
    /// answered.
    async fn within<T>(&self, subject: &str, work: Answer<'_, T>) -> Result<T, ClusterError> {
        let mut state = self.0.state.subscribe();
        let before = state.borrow().refusals;
        let refused = async {
            let named = |state: &State| {
                state.refusals > before
                    && state
                        .refused
                        .as_ref()
                        .is_some_and(|text| text.contains(subject))
            };
            let told = state.wait_for(named).await;
            told.map_or(ClusterError::Closed, |state| {
                let text = state.refused.as_deref().unwrap_or_default();
                ClusterError::Denied(text.to_owned())
            })
        };
        let unless_refused = async {
            tokio::select! {
                biased;
                refused = refused => Err(refused),
                done = work => done,
            }
        };
        self.0.turns.take(unless_refused).await
    }
}

impl Store for Nats {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        async move {
            let session = self.usable()?;
            let work = session.get(&self.0.names, key).boxed();
            self.within(API, work).await
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.set(key, value, None)
    }

    fn create<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        async move {
            self.0.limits.fits(&value)?;
            let session = self.usable()?;
            let subject = self.0.names.value(key);
            let work = session.create(&self.0.names, key, value).boxed();
            self.within(&subject, work).await
        }
        .boxed()
    }

    fn replace<'a>(&'a self, key: &'a Key, value: Bytes, known: Revision) -> Answer<'a, Revision> {
        self.set(key, value, Some(known))
    }

    fn delete<'a>(&'a self, key: &'a Key, known: Option<Revision>) -> Answer<'a, ()> {
        async move {
            let session = self.usable()?;
            let subject = self.0.names.value(key);
            let work = session.delete(&self.0.names, key, known).boxed();
            self.within(&subject, work).await
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Vec<Entry>> {
        async move {
            let session = self.usable()?;
            let work = session.list(&self.0.names, prefix).boxed();
            self.within(API, work).await
        }
        .boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Watch> {
        let follower = Follower::new(self.clone(), prefix.clone());
        let changes = stream::unfold(follower, |mut follower| async move {
            let change = Box::pin(follower.next()).await;
            Some((change, follower))
        });
        async move { Ok(Watch::new(changes)) }.boxed()
    }
}

impl Nats {
    fn set<'a>(
        &'a self,
        key: &'a Key,
        value: Bytes,
        known: Option<Revision>,
    ) -> Answer<'a, Revision> {
        async move {
            self.0.limits.fits(&value)?;
            let session = self.usable()?;
            let (names, expected) = (&self.0.names, known.map(Revision::get));
            let work = session.write(names, key, Some(value), expected).boxed();
            self.within(&names.value(key), work).await
        }
        .boxed()
    }
}

impl Bus for Nats {
    fn publish<'a>(&'a self, topic: &'a Key, payload: Bytes) -> Answer<'a, ()> {
        async move {
            self.0.limits.carries(&payload)?;
            let session = self.usable()?;
            let published = session.client.publish(self.0.names.topic(topic), payload);
            let published = async { published.await.map_err(|error| values::failed(&error)) };
            self.within(&self.0.names.topic(topic), published.boxed())
                .await
        }
        .boxed()
    }

    fn subscribe<'a>(&'a self, topics: &'a Prefix) -> Answer<'a, Subscription> {
        async move {
            let (outbox, inbox) = queue(self.0.limits.messages);
            let listener = Listener {
                nats: self.clone(),
                topics: topics.clone(),
                outbox,
            };
            // if the broker is away, the listener waits for it
            let begun = match self.usable() {
                Ok(session) => Some(listener.begin(&session).await?),
                Err(_away) => None,
            };
            let span = info_span!("topics", %topics);
            self.0.tasks.spawn(span, listener.listen(begun));
            Ok(Subscription::new(stream::unfold(inbox, heard)))
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
            let session = self.usable()?;
            let request = Request::new().payload(payload).timeout(Some(within));
            let subject = self.0.names.topic(topic);
            let answer = session.client.send_request(subject, request).await;
            let answer = answer.map_err(|error| match error.kind() {
                RequestErrorKind::TimedOut => ClusterError::TimedOut,
                RequestErrorKind::NoResponders => ClusterError::NobodyAnswers(topic.clone()),
                RequestErrorKind::InvalidSubject
                | RequestErrorKind::MaxPayloadExceeded
                | RequestErrorKind::Other => values::failed(&error),
            })?;
            Ok(answer.payload)
        }
        .boxed()
    }

    fn answer<'a>(&'a self, to: &'a ReplyTo, payload: Bytes) -> Answer<'a, ()> {
        async move {
            self.0.limits.carries(&payload)?;
            let session = self.usable()?;
            let published = session.client.publish(to.0.to_string(), payload).await;
            published.map_err(|error| values::failed(&error))
        }
        .boxed()
    }
}
