//! Store and bus of a single machine: one file, which survives the end of its process at any moment, and queues within
//! the process.

mod table;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, stream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::bus::{Bus, Delivery, Message, ReplyTo, Subscription};
use crate::error::{Answer, ClusterError};
use crate::hub::{Hub, Inbox, Told};
use crate::key::{Key, Prefix};
use crate::limits::Limits;
use crate::requests::Requests;
use crate::store::{Change, Entry, Revision, Store, Watch};

pub use table::OpenError;

use table::{Table, Write};

/// The file in the state directory.
pub const STORE_FILE: &str = "store.redb";

/// Store and bus of this process. A clone is the same one; the file is closed when the last clone, watch and
/// subscription is gone.
#[derive(Debug, Clone)]
pub struct Embedded(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Table,
    limits: Limits,
    /// A disk that hangs holds up so many threads at most.
    places: Arc<Semaphore>,
    changes: Hub<Noted>,
    messages: Hub<Message>,
    requests: Requests,
}

/// That a key changed. The value is read when a watcher comes to it, so that queues hold no values.
#[derive(Debug, Clone)]
struct Noted {
    key: Key,
    revision: Revision,
}

impl Embedded {
    /// Opens the file, or makes an empty one, mode 0600. It blocks, after a crash for as long as reading the file takes.
    ///
    /// # Errors
    /// [`OpenError`], for instance if another process has it open.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(Shared {
            table: Table::open(path)?,
            limits,
            places: Arc::new(Semaphore::new(limits.operations)),
            changes: Hub::default(),
            messages: Hub::default(),
            requests: Requests::default(),
        })))
    }

    /// Does `work` on a thread that may block. Once begun, it goes on though nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, ClusterError> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let shared = Arc::clone(&self.0);
        let in_turn = async {
            let place = Arc::clone(&shared.places).acquire_owned().await;
            let place = place.map_err(|_closed| ClusterError::Closed)?;
            let done = spawn_blocking(move || {
                let _place = place;
                work(&shared)
            });
            done.await.map_err(|_ended| ClusterError::Closed)?
        };
        let in_time = timeout(self.0.limits.operation, in_turn).await;
        in_time.map_err(|_elapsed| ClusterError::TimedOut)?
    }

    async fn write(&self, key: &Key, write: Write) -> Result<Option<Revision>, ClusterError> {
        let key = key.clone();
        let written = self.blocking(move |shared| {
            let revision = shared.table.write(&key, &write)?;
            if let Some(revision) = revision {
                shared.changes.tell(&key.clone(), &Noted { key, revision });
            }
            Ok(revision)
        });
        written.await
    }

    fn set<'a>(
        &'a self,
        key: &'a Key,
        value: Bytes,
        write: impl FnOnce(Bytes) -> Write + Send + 'a,
    ) -> Answer<'a, Revision> {
        async move {
            self.0.limits.fits(&value)?;
            let written = self.write(key, write(value)).await?;
            written.ok_or_else(|| ClusterError::Broken("a change without a number".to_owned()))
        }
        .boxed()
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        let key = key.clone();
        self.blocking(move |shared| shared.table.get(&key)).boxed()
    }

    fn put<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.set(key, value, Write::Put)
    }

    fn create<'a>(&'a self, key: &'a Key, value: Bytes) -> Answer<'a, Revision> {
        self.set(key, value, Write::Create)
    }

    fn replace<'a>(&'a self, key: &'a Key, value: Bytes, known: Revision) -> Answer<'a, Revision> {
        self.set(key, value, move |value| Write::Replace(value, known))
    }

    fn delete<'a>(&'a self, key: &'a Key, known: Option<Revision>) -> Answer<'a, ()> {
        async move { self.write(key, Write::Delete(known)).await.map(drop) }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Vec<Entry>> {
        let prefix = prefix.clone();
        let listed = self.blocking(move |shared| shared.table.list(&prefix));
        async move { Ok(listed.await?.0) }.boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a Prefix) -> Answer<'a, Watch> {
        let watched = Watched {
            // before the snapshot, so that nothing falls between them
            noted: self.0.changes.listen(prefix.clone(), self.0.limits.changes),
            store: self.clone(),
            prefix: prefix.clone(),
            shown: None,
        };
        let changes = stream::unfold(watched, |mut watched| async move {
            let change = watched.next().await?;
            Some((change, watched))
        });
        async move { Ok(Watch::new(changes)) }.boxed()
    }
}

/// One watch.
#[derive(Debug)]
struct Watched {
    store: Embedded,
    prefix: Prefix,
    noted: Inbox<Noted>,
    /// The last change that the last snapshot shows; none before the first.
    shown: Option<u64>,
}

impl Watched {
    async fn next(&mut self) -> Option<Result<Change, ClusterError>> {
        loop {
            let change = match self.shown {
                None => self.snapshot().await,
                Some(shown) => match self.noted.next().await? {
                    Told::Item(noted) if noted.revision.get() > shown => {
                        self.changed(noted.key).await
                    }
                    Told::Item(_in_the_snapshot) => continue,
                    Told::Gap => Err(ClusterError::TimedOut),
                },
            };
            match change {
                // whatever was missed is in the next snapshot
                Err(error) if error.is_passing() => self.shown = None,
                change => return Some(change),
            }
        }
    }

    async fn snapshot(&mut self) -> Result<Change, ClusterError> {
        // what is noted so far was written before, so the snapshot shows it
        self.noted.forget();
        let prefix = self.prefix.clone();
        let listed = self
            .store
            .blocking(move |shared| shared.table.list(&prefix));
        let (entries, last) = listed.await?;
        self.shown = Some(last);
        Ok(Change::Snapshot(entries))
    }

    async fn changed(&self, key: Key) -> Result<Change, ClusterError> {
        let there = self.store.get(&key).await?;
        Ok(there.map_or(Change::Deleted(key), Change::Put))
    }
}

impl Bus for Embedded {
    fn publish<'a>(&'a self, topic: &'a Key, payload: Bytes) -> Answer<'a, ()> {
        let told = self.tell(topic, payload, None).map(drop);
        async move { told }.boxed()
    }

    fn subscribe<'a>(&'a self, topics: &'a Prefix) -> Answer<'a, Subscription> {
        let listening = self
            .0
            .messages
            .listen(topics.clone(), self.0.limits.messages);
        let deliveries = stream::unfold(listening, |mut inbox| async move {
            let delivery = match inbox.next().await? {
                Told::Item(message) => Delivery::Message(message),
                Told::Gap => Delivery::Gap,
            };
            Some((delivery, inbox))
        });
        async move { Ok(Subscription::new(deliveries)) }.boxed()
    }

    fn request<'a>(
        &'a self,
        topic: &'a Key,
        payload: Bytes,
        within: Duration,
    ) -> Answer<'a, Bytes> {
        async move {
            let waiting = self.0.requests.begin();
            let reply_to = ReplyTo(waiting.number.to_string().into());
            let heard = self.tell(topic, payload, Some(reply_to))?;
            if heard == 0 {
                return Err(ClusterError::NobodyAnswers(topic.clone()));
            }
            waiting.answered(within).await
        }
        .boxed()
    }

    fn answer<'a>(&'a self, to: &'a ReplyTo, payload: Bytes) -> Answer<'a, ()> {
        let fits = self.0.limits.carries(&payload);
        async move {
            fits?;
            if let Ok(number) = to.0.parse() {
                self.0.requests.answer(number, payload);
            }
            Ok(())
        }
        .boxed()
    }
}

impl Embedded {
    fn tell(
        &self,
        topic: &Key,
        payload: Bytes,
        reply_to: Option<ReplyTo>,
    ) -> Result<usize, ClusterError> {
        self.0.limits.carries(&payload)?;
        let message = Message {
            topic: topic.clone(),
            payload,
            reply_to,
        };
        Ok(self.0.messages.tell(topic, &message))
    }
}
