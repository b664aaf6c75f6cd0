//! hyper's tasks, with an owner.

use hyper::rt::Executor;
use sallyport_ops::Tasks;
use tracing::Span;

/// Runs what hyper wants to run beside a connection (one future per stream of HTTP/2) as tasks of that connection.
#[derive(Debug, Clone)]
pub(crate) struct Owned(pub(crate) Tasks);

impl<F> Executor<F> for Owned
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(Span::current(), async move {
            drop(future.await);
        });
    }
}
