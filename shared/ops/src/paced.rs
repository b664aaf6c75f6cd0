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

/// Lets one event of each cause through every so often and counts the rest, for lines that repeat while something lasts.
#[derive(Debug)]
pub struct PacedCauses {
    every: Duration,
    most: usize,
    told: Mutex<HashMap<String, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    held_back: u64,
}

impl Default for PacedCauses {
    /// One line a minute and cause, 64 causes.
    fn default() -> Self {
        Self::new(Duration::from_secs(60), 64)
    }
}

impl PacedCauses {
    /// One event of a cause `every` so often, for at most `most` causes at a time: those beyond share a place.
    #[must_use]
    pub fn new(every: Duration, most: usize) -> Self {
        Self {
            every,
            most,
            told: Mutex::default(),
        }
    }

    /// `Some(n)` when this event may pass; `n` of its cause were held back since the last one that passed.
    #[must_use]
    pub fn pass(&self, cause: &str) -> Option<u64> {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= self.most && !told.contains_key(cause) {
            // what was quiet and owes no count
            told.retain(|_, told| told.held_back > 0 || now.duration_since(told.at) < self.every);
        }
        let is_one_too_many = told.len() >= self.most && !told.contains_key(cause);
        let place = if is_one_too_many { "" } else { cause };
        match told.get_mut(place) {
            None => {
                let first = Told {
                    at: now,
                    held_back: 0,
                };
                told.insert(place.to_owned(), first);
                Some(0)
            }
            Some(known) if now.duration_since(known.at) >= self.every => {
                known.at = now;
                Some(std::mem::take(&mut known.held_back))
            }
            Some(known) => {
                known.held_back = known.held_back.saturating_add(1);
                None
            }
        }
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
    async fn each_cause_has_a_line_of_its_own_and_a_count() {
        let paced = PacedCauses::new(60 * SECOND, 2);
        let passed = |causes: [&str; 4]| causes.map(|cause| paced.pass(cause));
        assert_eq!(passed(["a", "a", "b", "a"]), [Some(0), None, Some(0), None]);
        // no place is left, so the others share one
        assert_eq!(passed(["c", "d", "c", "b"]), [Some(0), None, None, None]);

        advance(60 * SECOND).await;

        assert_eq!(
            passed(["a", "a", "c", "b"]),
            [Some(2), None, Some(2), Some(1)]
        );
        advance(120 * SECOND).await;
        assert_eq!(
            paced.pass("e"),
            Some(0),
            "b was quiet, so its place is free"
        );
    }

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
