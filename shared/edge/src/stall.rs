//! Answers on HTTP/2 that their clients do not take.
//!
//! hyper waits for a client's window for as long as the connection lives, and holds the session's stream meanwhile. So
//! the body of an answer notes when it has handed a frame over, and when it is asked for the next one: in between it is
//! the client's turn.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use sallyport_ops::Tasks;
use tokio::time::Instant;
use tracing::Span;

use crate::gate::Alarm;

tokio::task_local! {
    /// Whose turn it is on the stream that the task serves.
    static TURN: Turn;
}

/// Since when a client has to open its window; none while its answer waits for the session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn(Arc<Mutex<Option<Instant>>>);

impl Turn {
    /// That of the stream that this task serves; none on HTTP/1.1, where the gate sees what a client takes.
    pub(crate) fn current() -> Option<Self> {
        TURN.try_with(Self::clone).ok()
    }

    /// A frame is on its way to the client.
    pub(crate) fn of_client(&self) {
        self.set(Some(Instant::now()));
    }

    /// The client has taken what there was.
    pub(crate) fn of_session(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the streams of a client's connection of HTTP/2 as tasks, and gives up those on which the client lets the answer
/// wait for `most`: hyper's future is dropped, which resets the stream.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) tasks: Tasks,
    pub(crate) most: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let turn = Turn::default();
        let watched = watch(future, turn.clone(), self.most);
        self.tasks.spawn(Span::current(), TURN.scope(turn, watched));
    }
}

async fn watch(stream: impl Future<Output = ()>, turn: Turn, most: Duration) {
    let mut stream = pin!(stream);
    let mut alarm = Alarm::default();
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match turn.since() {
            Some(since) => alarm.poll(cx, since + most),
            None => Poll::Pending,
        }
    })
    .await;
}
