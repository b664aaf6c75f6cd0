//! `wan-link DELAY_MS MBIT_PER_S QUEUE_KIB LOSS_PERCENT`: two network namespaces with such a link between them, until
//! Ctrl-C. For trying things by hand: `ip netns exec NAME …`.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "it speaks to the person who typed it"
)]

use std::process::ExitCode;
use std::time::Duration;

use sallyport_tests::wan::{Link, Wan};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut interrupted = signal(SignalKind::interrupt()).expect("signals can be watched");
    let mut terminated = signal(SignalKind::terminate()).expect("signals can be watched");
    let numbers: Vec<f64> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let &[delay, rate, queue, loss] = numbers.as_slice() else {
        println!("wan-link DELAY_MS MBIT_PER_S QUEUE_KIB LOSS_PERCENT");
        return ExitCode::from(2);
    };
    let wan = Wan::lay(Link {
        delay: Duration::from_secs_f64(delay / 1e3),
        rate: rate * 1e6,
        queue: queue * 1024.0,
        loss: loss / 100.0,
    });
    let Some(wan) = wan else {
        println!("this user may not make network namespaces and TUN devices");
        return ExitCode::FAILURE;
    };
    println!(
        "{} is {}, {} is {}; Ctrl-C removes them",
        wan.first(),
        Wan::FIRST,
        wan.second(),
        Wan::SECOND
    );
    tokio::select! { _ = interrupted.recv() => {} _ = terminated.recv() => {} }
    ExitCode::SUCCESS
}
