//! So many log lines a second and no more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::Source;

const SECOND: Duration = Duration::from_secs(1);

/// Lets a number of events through each second and counts the rest.
#[derive(Debug)]
pub struct Paced {
    per_second: u32,
    window: Mutex<Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    passed: u32,
    held_back: u64,
}

impl Paced {
    /// At most `per_second` events a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            window: Mutex::new(Window::new(Instant::now())),
        }
    }

    /// `Some(n)` when this event may pass; `n` were held back since the last one that passed.
    #[must_use]
    pub fn pass(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.pass(self.per_second, Instant::now())
    }
}

impl Window {
    fn new(since: Instant) -> Self {
        Self {
            since,
            passed: 0,
            held_back: 0,
        }
    }

    fn pass(&mut self, per_second: u32, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= SECOND {
            self.since = now;
            self.passed = 0;
        }
        if self.passed >= per_second {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// [Paced] for each source of its own, for lines that strangers can cause.
#[derive(Debug)]
pub struct PacedSources {
    per_second: u32,
    most: usize,
    windows: Mutex<HashMap<Source, Window>>,
}

impl Default for PacedSources {
    /// 100 lines a second and source, 65,536 sources.
    fn default() -> Self {
        Self::new(100, 65_536)
    }
}

impl PacedSources {
    /// At most `per_second` events a second for each of at most `most` sources at a time; further sources wait until
    /// others were quiet for a second.
    #[must_use]
    pub fn new(per_second: u32, most: usize) -> Self {
        Self {
            per_second,
            most,
            windows: Mutex::default(),
        }
    }

    /// As [`Paced::pass`], for this source.
    #[must_use]
    pub fn pass(&self, source: IpAddr) -> Option<u64> {
        let now = Instant::now();
        let source = Source::of(source);
        let mut windows = self.lock();
        if windows.len() >= self.most && !windows.contains_key(&source) {
            windows.retain(|_, window| now.duration_since(window.since) < SECOND);
            if windows.len() >= self.most {
                return None;
            }
        }
        let window = windows.entry(source).or_insert_with(|| Window::new(now));
        window.pass(self.per_second, now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_is_told_by_the_next_that_passes() {
        let paced = Paced::new(2);
        assert_eq!([paced.pass(), paced.pass()], [Some(0), Some(0)]);
        assert_eq!(
            [paced.pass(), paced.pass(), paced.pass()],
            [None, None, None]
        );

        advance(SECOND).await;

        assert_eq!(
            [paced.pass(), paced.pass(), paced.pass()],
            [Some(3), Some(0), None]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_loud_source_does_not_silence_another() {
        let paced = PacedSources::new(1, 10);
        let (loud, quiet) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert_eq!([paced.pass(loud), paced.pass(loud)], [Some(0), None]);

        assert_eq!(paced.pass(quiet), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_sources_is_bounded() {
        let paced = PacedSources::new(1, 1);
        let (first, second) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert_eq!([paced.pass(first), paced.pass(second)], [Some(0), None]);

        advance(SECOND).await;

        assert_eq!(paced.pass(second), Some(0));
        assert_eq!(paced.lock().len(), 1);
    }
}
