//! Every task has an owner. This is the only place where `tokio::spawn` happens.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use prometheus_client::metrics::counter::Counter;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, error};

use crate::metrics::Metrics;
use crate::telemetry::panic_text;

/// The tasks of one owner.
///
/// A clone is the same owner; a [child](Tasks::child) is an owner of its own that can be stopped alone. The tasks end
/// when their owner or an owner above it is stopped, at their next await, by being dropped: what must not look like an
/// orderly end (a TCP connection cut mid-way) needs a guard of its own that aborts on drop.
///
/// A process that drains gives its listeners, its streams and its admin server a child each: it stops the listeners,
/// drains the streams, and stops the rest last.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    above: Vec<TaskTracker>,
    stop: CancellationToken,
    panics: Counter,
}

impl Tasks {
    /// An owner without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An owner below this one: stopped with it, waited for by its [drain](Tasks::drain), and counted by its
    /// [len](Tasks::len), but stopped and drained alone without touching it.
    #[must_use]
    pub fn child(&self) -> Self {
        let above = self.above.iter().chain([&self.tracker]).cloned().collect();
        Self {
            tracker: TaskTracker::new(),
            above,
            stop: self.stop.child_token(),
            panics: self.panics.clone(),
        }
    }

    /// Shows `sallyport_task_panics_total`, which counts this owner's tasks and those of its children.
    pub fn expose(&self, metrics: &Metrics) {
        metrics.register(
            "task_panics",
            "Tasks that ended by a panic; only their own connection or stream was lost",
            self.panics.clone(),
        );
    }

    /// Starts a task that logs within `span`.
    ///
    /// A panic in it is caught, counted and logged; nothing else ends with it.
    pub fn spawn(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(self.watched(task).instrument(span));
    }

    /// A task that ends when its owner is stopped, and whose panic goes no further.
    fn watched<F>(&self, task: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Each future around it would else have room for the whole task more than once, for as long as it lives.
        let task = Box::pin(task);
        let stop = self.stop.clone();
        let counted_above: Vec<_> = self.above.iter().map(TaskTracker::token).collect();
        let panics = self.panics.clone();
        async move {
            let _counted = counted_above;
            let stoppable = stop.run_until_cancelled_owned(task);
            if let Err(panic) = AssertUnwindSafe(stoppable).catch_unwind().await {
                panics.inc();
                error!(
                    panic = panic_text(&*panic),
                    "a task panicked; what it served is lost"
                );
            }
        }
    }

    /// Cancelled when the tasks are to end; for a task that has something to do before it does.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends all tasks of this owner and of its children at their next await. A task started later ends at once.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// How many tasks run, those of children included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits up to `grace` for the tasks to end by themselves, then ends them, and says how many those were: what
    /// that means the caller knows.
    ///
    /// Before this, listeners are stopped and peers told to move. An accept loop among these tasks would be waited for
    /// to the end of the grace, and so would tasks started meanwhile.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.tracker.close();
        let in_time = timeout(grace, self.tracker.wait()).await.is_ok();
        let left = if in_time { 0 } else { self.len() };
        self.stop();
        self.tracker.wait().await;
        left
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::{Instant, sleep};

    use super::*;

    fn forever() -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }

    #[test]
    fn a_task_is_held_once() {
        let large = async {
            let held = [0_u8; 4096];
            std::future::pending::<()>().await;
            assert_eq!(held.len(), 4096);
        };
        let size = size_of_val(&Tasks::new().watched(large));
        assert!(size <= 512, "{size}");
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_a_task_that_ends_in_time() {
        let tasks = Tasks::new();
        let (done, ended) = oneshot::channel();
        tasks.spawn(Span::none(), async move {
            sleep(Duration::from_secs(3)).await;
            let _received = done.send(());
        });

        let start = Instant::now();
        let cut = tasks.drain(Duration::from_secs(10)).await;

        assert_eq!((cut, start.elapsed()), (0, Duration::from_secs(3)));
        assert!(ended.await.is_ok(), "the task ran to its end");
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_cuts_what_outlives_the_grace() {
        let tasks = Tasks::new();
        tasks.spawn(Span::none(), forever());
        tasks.child().spawn(Span::none(), forever());
        assert_eq!(tasks.len(), 2);

        let start = Instant::now();
        let cut = tasks.drain(Duration::from_secs(10)).await;

        assert_eq!((cut, start.elapsed()), (2, Duration::from_secs(10)));
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_is_drained_alone() {
        let tasks = Tasks::new();
        let child = tasks.child();
        tasks.spawn(Span::none(), forever());
        child.spawn(Span::none(), forever());

        child.drain(Duration::from_secs(1)).await;

        assert_eq!((tasks.len(), child.len()), (1, 0));
        assert!(!tasks.stopping().is_cancelled());
    }

    #[tokio::test]
    async fn stopping_an_owner_ends_its_children_and_whatever_is_started_later() {
        let tasks = Tasks::new();
        let grandchild = tasks.child().child();
        grandchild.spawn(Span::none(), forever());

        tasks.stop();
        grandchild.spawn(Span::none(), forever());
        tasks.drain(Duration::ZERO).await;

        assert!(grandchild.is_empty());
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_nothing_else() {
        let tasks = Tasks::new();
        let metrics = Metrics::new();
        tasks.expose(&metrics);
        let (ask, asked) = oneshot::channel::<()>();
        let (answer, answered) = oneshot::channel();
        tasks.spawn(Span::none(), async move {
            let _asked = asked.await;
            let _received = answer.send(());
        });

        let child = tasks.child();
        child.spawn(Span::none(), async { panic!("as this test wants it") });
        child.drain(Duration::from_secs(5)).await;

        assert!(ask.send(()).is_ok(), "the other task still listens");
        assert!(answered.await.is_ok());
        assert!(metrics.encode().contains("sallyport_task_panics_total 1\n"));
    }
}
