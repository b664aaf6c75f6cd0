//! The bus: messages under topics, told to whoever listens now and kept by nobody.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{BoxStream, Stream};

use crate::error::Answer;
use crate::key::{Key, Prefix};

/// Messages among relays. Each is delivered at most once; a subscriber is told when some may be missing.
pub trait Bus: fmt::Debug + Send + Sync {
    /// Tells all who listen to `topic`. `Ok` does not say that anybody heard it.
    ///
    /// # Errors
    /// [`ClusterError::TooLarge`](crate::ClusterError::TooLarge), or what keeps the bus from it.
    fn publish<'a>(&'a self, topic: &'a Key, payload: Bytes) -> Answer<'a, ()>;

    /// Listens to all topics of the prefix.
    ///
    /// # Errors
    /// [`ClusterError`](crate::ClusterError) when the bus refuses it for good; where it only cannot be reached, the
    /// subscription waits for it.
    fn subscribe<'a>(&'a self, topics: &'a Prefix) -> Answer<'a, Subscription>;

    /// Asks those who listen to `topic` and takes the first answer.
    ///
    /// # Errors
    /// [`ClusterError::NobodyAnswers`](crate::ClusterError::NobodyAnswers) at once if nobody listens,
    /// [`ClusterError::TimedOut`](crate::ClusterError::TimedOut) if no answer came `within` that time; else what keeps
    /// the bus from it.
    fn request<'a>(&'a self, topic: &'a Key, payload: Bytes, within: Duration)
    -> Answer<'a, Bytes>;

    /// Answers a request. Nobody may be waiting for it any more.
    ///
    /// # Errors
    /// As [`publish`](Bus::publish).
    fn answer<'a>(&'a self, to: &'a ReplyTo, payload: Bytes) -> Answer<'a, ()>;
}

/// One message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub topic: Key,
    /// What it says.
    pub payload: Bytes,
    /// Where its sender waits for an answer, if it does.
    pub reply_to: Option<ReplyTo>,
}

/// Where the sender of a request waits. It means something to the bus that the request came from, and to no other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplyTo(pub(crate) Box<str>);

/// What a [`Subscription`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// A message.
    Message(Message),
    /// Messages may have been missed: the subscriber was too slow, or the broker was away.
    Gap,
}

/// Listens to topics.
pub struct Subscription(BoxStream<'static, Delivery>);

impl Subscription {
    /// A subscription that tells what `deliveries` yields.
    pub fn new(deliveries: impl Stream<Item = Delivery> + Send + 'static) -> Self {
        Self(deliveries.boxed())
    }

    /// The next delivery; none when the bus is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.0.next().await
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription(..)")
    }
}

/// Without the payload, which may be private.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("bytes", &self.payload.len())
            .field("reply_to", &self.reply_to.is_some())
            .finish()
    }
}
