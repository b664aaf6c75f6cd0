//! Requests of this process whose answers are waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::ClusterError;

/// Who waits, each under a number that no other request of this process has.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    waiting: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
    last: AtomicU64,
}

/// A request whose answer is waited for, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'r> {
    requests: &'r Requests,
    /// Where its answer goes.
    pub(crate) number: u64,
    answer: oneshot::Receiver<Bytes>,
}

impl Requests {
    pub(crate) fn begin(&self) -> Waiting<'_> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(number, sender);
        Waiting {
            requests: self,
            number,
            answer,
        }
    }

    /// Gives the answer to whoever waits for it. Nobody may any more.
    pub(crate) fn answer(&self, number: u64, payload: Bytes) {
        if let Some(waiting) = self.waiting().remove(&number) {
            // who asked may have given up just now
            let _heard = waiting.send(payload);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Bytes>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    pub(crate) async fn answered(mut self, within: Duration) -> Result<Bytes, ClusterError> {
        let in_time = timeout(within, &mut self.answer).await;
        let answer = in_time.map_err(|_elapsed| ClusterError::TimedOut)?;
        answer.map_err(|_dropped| ClusterError::Closed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.requests.waiting().remove(&self.number);
    }
}
