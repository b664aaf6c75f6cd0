//! Signals of the operating system. Alone in its file, because they reach the whole process.

use std::time::Duration;

use rustix::process::{Signal as Sent, getpid, kill_process};
use sallyport_ops::{Signal, Signals};
use tokio::time::timeout;

#[tokio::test]
async fn each_signal_is_told_apart_and_ends_nothing_by_itself() {
    let mut signals = Signals::new().expect("handlers");
    let expected = [
        (Sent::TERM, Signal::Terminate),
        (Sent::INT, Signal::Terminate),
        (Sent::HUP, Signal::Reload),
        (Sent::USR1, Signal::Rotate),
        (Sent::TERM, Signal::Terminate),
    ];
    for (sent, seen) in expected {
        kill_process(getpid(), sent).expect("to itself");
        let next = timeout(Duration::from_secs(5), signals.next()).await;
        assert_eq!(next.expect("in time"), seen);
    }
}
