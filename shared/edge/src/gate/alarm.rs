//! One timer for a deadline that moves often.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is set again only when it must ring earlier than it would: a deadline that moves
/// away with every byte costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `deadline` has passed; else the task is woken then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline || sleep.is_elapsed() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_a_deadline_that_moved_either_way() {
        let start = Instant::now();
        let mut alarm = Alarm::default();
        let mut waker = Context::from_waker(std::task::Waker::noop());
        assert!(
            alarm
                .poll(&mut waker, start + Duration::from_secs(5))
                .is_pending()
        );

        poll_fn(|cx| alarm.poll(cx, start + Duration::from_secs(9))).await;
        assert_eq!(start.elapsed().as_secs(), 9);

        assert!(
            alarm
                .poll(&mut waker, start + Duration::from_secs(99))
                .is_pending()
        );
        poll_fn(|cx| alarm.poll(cx, start + Duration::from_secs(10))).await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }
}
