//! Watches of values.

use futures::FutureExt as _;
use tokio::time::sleep;

use super::ears::{Ear, Heard};
use super::{AGAIN_AFTER, Redis};
use crate::error::ClusterError;
use crate::hub::Told;
use crate::key::{Key, Prefix};
use crate::store::{Change, Store as _};

/// One watch. It is told which key changed, by a word that may get lost, and reads the value when it comes to it.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) redis: Redis,
    pub(super) prefix: Prefix,
    pub(super) ear: Ear,
    /// The last change that the last snapshot shows; none before the first.
    pub(super) shown: Option<u64>,
}

impl Follower {
    pub(super) async fn next(&mut self) -> Result<Change, ClusterError> {
        loop {
            let change = match self.shown {
                None => self.snapshot().await,
                Some(shown) => match self.ear.next().await.ok_or(ClusterError::Closed)? {
                    Told::Item(heard) if is_shown(&heard, shown) => continue,
                    Told::Item(heard) => self.changed(heard.key).await,
                    Told::Gap => self.snapshot().await,
                },
            };
            match change {
                // whatever was missed is in the next snapshot
                Err(error) if error.is_passing() => {
                    self.shown = None;
                    sleep(AGAIN_AFTER).await;
                }
                change => return change,
            }
        }
    }

    async fn snapshot(&mut self) -> Result<Change, ClusterError> {
        self.shown = None;
        let mut state = self.redis.0.state.subscribe();
        let usable = state.wait_for(|state| state.commands.is_some()).await;
        let commands = usable.map_err(|_closed| ClusterError::Closed)?.usable()?;
        // before the snapshot, so that nothing falls between them
        if !self.redis.stands(&mut self.ear).await? {
            return Err(ClusterError::TimedOut);
        }
        self.ear.forget();
        let listed = commands.list(&self.redis.0.names, &self.prefix).boxed();
        let (entries, shown) = self.redis.0.turns.take(listed).await?;
        self.shown = Some(shown);
        Ok(Change::Snapshot(entries))
    }

    async fn changed(&self, key: Key) -> Result<Change, ClusterError> {
        let there = self.redis.get(&key).await?;
        Ok(there.map_or(Change::Deleted(key), Change::Put))
    }
}

fn is_shown(heard: &Heard, shown: u64) -> bool {
    let number = std::str::from_utf8(&heard.payload).ok();
    let number = number.and_then(|number| number.parse::<u64>().ok());
    number.is_some_and(|number| number <= shown)
}
