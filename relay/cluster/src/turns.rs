//! Operations on a broker: so many at the same time, and each in its time.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::ClusterError;
use crate::limits::Limits;

/// The turns of one relay.
#[derive(Debug)]
pub(crate) struct Turns {
    places: Semaphore,
    within: Duration,
}

impl Turns {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            places: Semaphore::new(limits.operations),
            within: limits.operation,
        }
    }

    /// Does `work` in its turn and its time, the wait for the turn included.
    pub(crate) async fn take<T>(
        &self,
        work: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        let in_turn = async {
            let place = self.places.acquire().await;
            let _place = place.map_err(|_closed| ClusterError::Closed)?;
            work.await
        };
        let in_time = timeout(self.within, in_turn).await;
        in_time.map_err(|_elapsed| ClusterError::TimedOut)?
    }
}
