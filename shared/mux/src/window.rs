//! How much the other side may send: windows that grow to fit the path, from one budget.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::settings::INITIAL_WINDOW;

/// A window that was not half used within this many round trips gets smaller again.
const IDLE_ROUND_TRIPS: u32 = 100;

/// A window gets smaller at the earliest after this time.
const IDLE: Duration = Duration::from_secs(10);

/// What the windows of a connection may grow by, shared.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub(crate) const fn new(bytes: usize) -> Self {
        Self {
            left: AtomicUsize::new(bytes),
        }
    }

    /// Takes all of `bytes`, or nothing.
    fn take(&self, bytes: u32) -> bool {
        let bytes = bytes as usize;
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        taken.is_ok()
    }

    fn give_back(&self, bytes: u32) {
        self.left.fetch_add(bytes as usize, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

/// The receive window of one stream.
#[derive(Debug)]
pub(crate) struct Window {
    /// What the other side may still send.
    open: u32,
    /// What it may have under way and unread altogether.
    size: u32,
    /// What was read here and not yet granted anew.
    read: u32,
    /// When credit was last granted.
    granted: Instant,
}

/// What a decision about a window depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'b> {
    pub(crate) now: Instant,
    /// Round trip, once known.
    pub(crate) rtt: Option<Duration>,
    /// No window gets larger than this.
    pub(crate) largest: u32,
    pub(crate) budget: &'b Budget,
}

impl Window {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            open: INITIAL_WINDOW,
            size: INITIAL_WINDOW,
            read: 0,
            granted: now,
        }
    }

    /// Bytes arrived; false if they are more than the other side was allowed.
    pub(crate) const fn receive(&mut self, bytes: u32) -> bool {
        match self.open.checked_sub(bytes) {
            Some(open) => {
                self.open = open;
                true
            }
            None => false,
        }
    }

    /// Bytes were read. True if credit is due, which is so once half the window was read.
    pub(crate) const fn read(&mut self, bytes: u32) -> bool {
        self.read = self.read.saturating_add(bytes);
        self.read >= self.size / 2
    }

    /// The credit that is due, after the window was fitted to the path: it doubles while half of it is read within
    /// two round trips, and halves when that takes very long.
    pub(crate) fn grant(&mut self, unread: usize, path: Path<'_>) -> Option<u32> {
        if self.read < self.size / 2 {
            return None;
        }
        self.fit(path);
        let unread = u32::try_from(unread).unwrap_or(u32::MAX);
        let room = self.size.saturating_sub(self.open).saturating_sub(unread);
        self.read -= self.read.min(room);
        self.open += room;
        self.granted = path.now;
        (room > 0).then_some(room)
    }

    fn fit(&mut self, path: Path<'_>) {
        let Some(rtt) = path.rtt else {
            return;
        };
        let took = path.now.saturating_duration_since(self.granted);
        let larger = self.size.saturating_mul(2).min(path.largest);
        if took < rtt * 2 && larger > self.size && path.budget.take(larger - self.size) {
            self.size = larger;
        } else if took > IDLE && took > rtt * IDLE_ROUND_TRIPS {
            let smaller = (self.size / 2).max(INITIAL_WINDOW);
            path.budget.give_back(self.size - smaller);
            self.size = smaller;
        }
    }

    /// The stream is over: what its window had grown by is for others.
    pub(crate) fn close(&mut self, budget: &Budget) {
        budget.give_back(self.size.saturating_sub(INITIAL_WINDOW));
        self.size = INITIAL_WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u32 = 1024 * 1024;

    fn path(budget: &Budget, now: Instant) -> Path<'_> {
        Path {
            now,
            rtt: Some(Duration::from_millis(100)),
            largest: 16 * MIB,
            budget,
        }
    }

    /// Receives and reads half a window at a time, every `pause`, and says how large it ends.
    fn size_after(rounds: usize, pause: Duration, budget: &Budget) -> u32 {
        let mut now = Instant::now();
        let mut window = Window::new(now);
        for _ in 0..rounds {
            let half = window.size / 2;
            assert!(window.receive(half));
            assert!(window.read(half));
            now += pause;
            window.grant(0, path(budget, now));
        }
        window.size
    }

    #[test]
    fn a_window_grows_while_it_is_what_holds_the_sender_back() {
        let budget = Budget::new(64 * MIB as usize);
        assert_eq!(
            size_after(20, Duration::from_millis(150), &budget),
            16 * MIB
        );
        assert_eq!(
            budget.left(),
            64 * MIB as usize - (16 * MIB - INITIAL_WINDOW) as usize
        );
    }

    #[test]
    fn a_slow_reader_gets_no_larger_window() {
        let budget = Budget::new(64 * MIB as usize);
        assert_eq!(
            size_after(20, Duration::from_millis(250), &budget),
            INITIAL_WINDOW
        );
    }

    #[test]
    fn without_budget_no_window_grows() {
        let budget = Budget::new(INITIAL_WINDOW as usize);
        assert_eq!(size_after(20, Duration::ZERO, &budget), 2 * INITIAL_WINDOW);
    }

    #[test]
    fn an_idle_window_gives_its_budget_back() {
        let budget = Budget::new(64 * MIB as usize);
        let mut now = Instant::now();
        let mut window = Window::new(now);
        for pause in [1, 1, 1, 1, 60_000, 60_000, 60_000, 60_000, 60_000] {
            let half = window.size / 2;
            assert!(window.receive(half.min(window.open)));
            window.read(half);
            now += Duration::from_millis(pause);
            window.grant(0, path(&budget, now));
        }
        assert_eq!(window.size, INITIAL_WINDOW);
        assert_eq!(budget.left(), 64 * MIB as usize);
    }

    #[test]
    fn a_closed_window_gives_its_budget_back() {
        let budget = Budget::new(MIB as usize);
        let now = Instant::now();
        let mut window = Window::new(now);
        window.receive(INITIAL_WINDOW);
        window.read(INITIAL_WINDOW);
        window.grant(0, path(&budget, now));
        assert!(budget.left() < MIB as usize);
        window.close(&budget);
        assert_eq!(budget.left(), MIB as usize);
    }

    proptest! {
        /// Whatever is received and read in whatever order, the other side is never allowed more than the window, and a
        /// window cannot be starved.
        #[test]
        fn nobody_is_allowed_more_than_the_window_and_nobody_starves(
            steps in prop::collection::vec((1_u32..400_000, 0_u64..500), 1..200),
        ) {
            let budget = Budget::new(4 * MIB as usize);
            let mut now = Instant::now();
            let mut window = Window::new(now);
            let (mut unread, mut allowed) = (0_u32, INITIAL_WINDOW);
            for (wanted, pause) in steps {
                now += Duration::from_millis(pause);
                let arrives = wanted.min(allowed);
                prop_assert!(window.receive(arrives));
                allowed -= arrives;
                unread += arrives;
                let reads = wanted.min(unread);
                unread -= reads;
                window.read(reads);
                if let Some(grant) = window.grant(unread as usize, path(&budget, now)) {
                    allowed += grant;
                }
                prop_assert_eq!(allowed, window.open);
                prop_assert!(u64::from(allowed) + u64::from(unread) <= u64::from(window.size.max(allowed + unread)));
                prop_assert!(allowed > 0 || unread > 0, "starved");
            }
        }
    }
}
