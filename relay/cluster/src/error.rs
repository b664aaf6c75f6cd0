//! Why the store or the bus did not do what it was asked for.

use futures::future::BoxFuture;

use crate::key::Key;

/// What store and bus answer, some time later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ClusterError>>;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The store or the broker cannot be used now; the text says at which step it fails. Nothing was changed.
    #[error("the cluster's store cannot be reached: {0}")]
    Unreachable(String),
    /// No answer came in time. A change may have been made or not: read before trying again.
    #[error("the cluster's store did not answer in time")]
    TimedOut,
    /// The key is there already, or has another revision than the one named. Nothing was changed.
    #[error("`{0}` was changed by somebody else meanwhile: read it again")]
    Conflict(Key),
    /// The value or message is larger than any may be. Nothing was changed.
    #[error("{bytes} bytes are too many: at most {most} fit")]
    TooLarge {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// The broker does not let this relay do that.
    #[error(
        "the broker refuses it to this relay's user: {0}; give that user the rights that `cluster init` writes"
    )]
    Denied(String),
    /// Nobody listens to the topic of a request.
    #[error("nobody answers requests on `{0}`")]
    NobodyAnswers(Key),
    /// The store has failed or holds what no relay has written.
    #[error("the cluster's store is broken: {0}")]
    Broken(String),
    /// The store was closed, because the relay ends.
    #[error("the cluster's store was closed")]
    Closed,
}

impl ClusterError {
    /// Whether the same may well succeed later, without anybody changing anything but the broker's state.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::TimedOut | Self::NobodyAnswers(_)
        )
    }
}
