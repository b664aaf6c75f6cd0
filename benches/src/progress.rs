//! Lines on standard error for whoever waits.

use std::sync::LazyLock;
use std::time::Instant;

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Says what is being done, with the time since the first line.
pub fn say(line: &str) {
    let since = BEGUN.elapsed().as_secs();
    #[expect(clippy::print_stderr, reason = "this is where progress goes")]
    {
        eprintln!("[{:02}:{:02}] {line}", since / 60, since % 60);
    }
}
