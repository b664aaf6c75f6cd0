//! Watches of a bucket.

use async_nats::jetstream::consumer::push;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;

use super::{AGAIN_AFTER, API, Nats, values};
use crate::error::ClusterError;
use crate::key::Prefix;
use crate::store::Change;

/// One watch. It begins anew with every connection: the server may have been restored from something older.
pub(super) struct Follower {
    nats: Nats,
    prefix: Prefix,
    run: Option<Run>,
}

struct Run {
    epoch: u64,
    messages: push::Ordered,
}

impl Follower {
    pub(super) const fn new(nats: Nats, prefix: Prefix) -> Self {
        Self {
            nats,
            prefix,
            run: None,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Change, ClusterError> {
        loop {
            let change = match self.run.take() {
                None => self.begin().await,
                Some(run) => self.go_on(run).await,
            };
            match change {
                Ok(change) => return Ok(change),
                Err(error) if error.is_passing() || error == ClusterError::Closed => {
                    sleep(AGAIN_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn begin(&mut self) -> Result<Change, ClusterError> {
        let mut state = self.nats.0.state.subscribe();
        let (session, epoch) = {
            let usable = state.wait_for(|state| state.usable().is_some()).await;
            let usable = usable.map_err(|_closed| ClusterError::Closed)?;
            (usable.usable(), usable.epoch)
        };
        let session = session.ok_or(ClusterError::Closed)?;
        let following = session.follow(&self.nats.0.names, &self.prefix).boxed();
        let (entries, messages) = self.nats.within(API, following).await?;
        self.run = Some(Run { epoch, messages });
        Ok(Change::Snapshot(entries))
    }

    /// Puts the run back unless it is over.
    async fn go_on(&mut self, mut run: Run) -> Result<Change, ClusterError> {
        let mut state = self.nats.0.state.subscribe();
        loop {
            let over = state.wait_for(|state| !state.connected || state.epoch != run.epoch);
            let message = tokio::select! {
                _over = over => return Err(ClusterError::TimedOut),
                message = run.messages.next() => message.ok_or(ClusterError::Closed)?,
            };
            let message = message.map_err(|error| values::failed(&error))?;
            if let Some(change) = values::change(&self.nats.0.names, &message) {
                self.run = Some(run);
                return Ok(change);
            }
        }
    }
}
