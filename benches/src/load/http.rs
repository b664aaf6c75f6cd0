//! Requests as fast as they are answered, by wrk over HTTP/1.1 and h2load over HTTP/2.

use std::process::Command;
use std::time::Duration;

use sallyport_tests::run_ok;

use crate::ways::Running;

/// Requests a second over HTTP/1.1 on 32 connections.
///
/// # Panics
/// If wrk is not there, or an answer is not a success.
#[must_use]
pub fn wrk(way: &Running, time: Duration) -> f64 {
    let seconds = time.as_secs().max(1).to_string();
    let mut wrk = Command::new("wrk");
    let said = run_ok(wrk.args(["-t2", "-c32", "-d", &seconds, &way.url]));
    let failed = said.contains("Non-2xx") || said.contains("Socket errors");
    assert!(!failed, "{}: {said}", way.name());
    number_after(&said, "Requests/sec:").unwrap_or_else(|| panic!("{}: {said}", way.name()))
}

/// Requests a second over HTTP/2 on 8 connections with 16 streams each.
///
/// # Panics
/// If h2load is not there, or an answer is not a success.
#[must_use]
pub fn h2load(way: &Running, time: Duration) -> f64 {
    let seconds = time.as_secs().max(1).to_string();
    let mut h2load = Command::new("h2load");
    let said = run_ok(h2load.args(["-c8", "-m16", "-t1", "-D", &seconds, &way.url]));
    let failed = !said.contains(" 0 failed, 0 errored");
    assert!(!failed, "{}: {said}", way.name());
    let rate = number_after(&said, "s, ");
    rate.unwrap_or_else(|| panic!("{}: {said}", way.name()))
}

/// The number that follows the first `label`.
fn number_after(text: &str, label: &str) -> Option<f64> {
    let (_, rest) = text.split_once(label)?;
    let number = rest.split_whitespace().next()?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found_in_what_the_tools_say() {
        let wrk = "  64 requests in 2.00s, 1MB read\nRequests/sec:  32500.25\nTransfer/sec: 2MB";
        assert_eq!(number_after(wrk, "Requests/sec:"), Some(32_500.25));
        let h2load = "\nfinished in 2.00s, 24500.50 req/s, 27.10MB/s\n";
        assert_eq!(number_after(h2load, "s, "), Some(24_500.5));
    }
}
