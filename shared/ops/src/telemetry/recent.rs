//! The lines that were logged last, for whoever asks the running process for them.
//!
//! They are kept once, whoever reads: a reader is a place among them and holds no lines of its own, so one that is slow
//! costs nothing but what it misses.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::category::Category;
use super::{Keep, lines};

/// Lines that are looked at while nobody can log.
const AT_ONCE: usize = 256;
/// A reader that waits is woken once for all that is logged within this time.
const GATHER: Duration = Duration::from_millis(20);

/// The lines that were logged last. Clones are the same lines.
#[derive(Debug, Clone)]
pub(super) struct Recent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    keep: Keep,
    kept: Mutex<Kept>,
    places: Arc<Semaphore>,
    news: Notify,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<(&'static str, Bytes)>,
    bytes: usize,
    /// The number of the line that comes next; numbers begin at 0.
    next: u64,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("lines", &self.lines.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Kept {
    /// The number of the oldest line that is still there.
    fn oldest(&self) -> u64 {
        let lines = u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
        self.next.saturating_sub(lines)
    }

    fn push(&mut self, target: &'static str, line: Bytes, keep: &Keep) {
        self.bytes = self.bytes.saturating_add(line.len());
        self.lines.push_back((target, line));
        self.next = self.next.saturating_add(1);
        while self.lines.len() > keep.lines || self.bytes > keep.bytes {
            let Some((_, oldest)) = self.lines.pop_front() else {
                return;
            };
            self.bytes = self.bytes.saturating_sub(oldest.len());
        }
    }
}

/// Why the log cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// As many read it as may.
    #[error("{0} read the log already, and no more may: end one, or raise `readers` of [log]")]
    TooMany(usize),
    /// Nothing is kept.
    #[error("no lines are kept: `keep_lines` or `keep_bytes` of [log] is 0")]
    NothingKept,
}

impl Recent {
    pub(super) fn new(keep: Keep) -> Self {
        Self(Arc::new(Shared {
            keep,
            kept: Mutex::default(),
            places: Arc::new(Semaphore::new(keep.readers)),
            news: Notify::new(),
        }))
    }

    /// Whether anything is kept at all.
    pub(super) fn keeps(&self) -> bool {
        self.0.keep.lines > 0 && self.0.keep.bytes > 0
    }

    /// Keeps a line of JSON, and lets the oldest go.
    pub(super) fn put(&self, target: &'static str, line: Bytes) {
        self.lock().push(target, line, &self.0.keep);
        if self.0.places.available_permits() < self.0.keep.readers {
            self.0.news.notify_waiters();
        }
    }

    /// A reader from the oldest line on, of one category or of all.
    pub(super) fn read(
        &self,
        category: Option<&'static Category>,
        follow: bool,
    ) -> Result<Reader, NotRead> {
        if !self.keeps() {
            return Err(NotRead::NothingKept);
        }
        let place = Arc::clone(&self.0.places)
            .try_acquire_owned()
            .map_err(|_none| NotRead::TooMany(self.0.keep.readers))?;
        let (next, end) = {
            let kept = self.lock();
            (kept.oldest(), kept.next)
        };
        Ok(Reader {
            recent: self.clone(),
            category,
            next,
            end: (!follow).then_some(end),
            _place: place,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads lines in the order in which they were logged.
#[derive(Debug)]
pub struct Reader {
    recent: Recent,
    category: Option<&'static Category>,
    /// The number of the line to be looked at next.
    next: u64,
    /// The number at which reading ends; none goes on with what is logged later.
    end: Option<u64>,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// The next lines of JSON, each with its end, as soon as there are any; nothing at the end. Lines that were let go
    /// before they could be read are counted in a line of their own.
    pub async fn next(&mut self) -> Option<Bytes> {
        let shared = Arc::clone(&self.recent.0);
        loop {
            // made before looking, so that what is logged in between wakes it
            let news = shared.news.notified();
            let before = self.next;
            let chunk = self.look();
            if !chunk.is_empty() {
                return Some(chunk.into());
            }
            if self.end.is_some_and(|end| self.next >= end) {
                return None;
            }
            if self.next == before {
                news.await;
                sleep(GATHER).await;
            }
        }
    }

    /// Takes the next lines that are there, as far as they are wanted.
    fn look(&mut self) -> Vec<u8> {
        let (lost, lines) = self.take();
        let mut chunk = Vec::with_capacity(lines.iter().map(Bytes::len).sum());
        if lost > 0 {
            chunk.extend_from_slice(&lines::missed_as_json(lost));
        }
        for line in &lines {
            chunk.extend_from_slice(line);
        }
        chunk
    }

    fn take(&mut self) -> (u64, Vec<Bytes>) {
        let kept = self.recent.lock();
        let lost = kept.oldest().saturating_sub(self.next);
        self.next = self.next.saturating_add(lost);
        let left = self
            .end
            .map_or(u64::MAX, |end| end.saturating_sub(self.next));
        let left = usize::try_from(left).unwrap_or(usize::MAX).min(AT_ONCE);
        let at = usize::try_from(self.next.saturating_sub(kept.oldest())).unwrap_or(usize::MAX);
        let mut lines = Vec::new();
        for (target, line) in kept.lines.iter().skip(at).take(left) {
            self.next = self.next.saturating_add(1);
            if self.category.is_none_or(|category| category.covers(target)) {
                lines.push(line.clone());
            }
        }
        (lost, lines)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::Value;

    use super::*;

    const ONES: Category = Category {
        name: "ones",
        about: "",
        targets: &["one"],
    };

    fn keeping(lines: usize, bytes: usize) -> Recent {
        Recent::new(Keep {
            lines,
            bytes,
            readers: 2,
        })
    }

    fn put(recent: &Recent, numbers: std::ops::Range<usize>) {
        for number in numbers {
            recent.put("one", format!("{number}\n").into());
        }
    }

    /// What there is to read just now.
    fn now(reader: &mut Reader) -> String {
        let mut text = String::new();
        while let Some(Some(chunk)) = reader.next().now_or_never() {
            text.push_str(str::from_utf8(&chunk).unwrap());
        }
        text
    }

    #[test]
    fn the_oldest_lines_go_by_number_and_by_size() {
        for (lines, bytes) in [(3, 1000), (1000, 6)] {
            let recent = keeping(lines, bytes);
            put(&recent, 0..10);
            assert_eq!(now(&mut recent.read(None, false).unwrap()), "7\n8\n9\n");
        }
        for (lines, bytes) in [(0, 1000), (1000, 0)] {
            let nothing = keeping(lines, bytes);
            put(&nothing, 0..10);
            assert_eq!(nothing.read(None, true).unwrap_err(), NotRead::NothingKept);
        }
    }

    #[test]
    fn more_lines_than_are_looked_at_at_once_are_all_read() {
        let recent = keeping(10 * AT_ONCE, 1 << 20);
        put(&recent, 0..3 * AT_ONCE + 1);
        let text = now(&mut recent.read(None, false).unwrap());
        assert_eq!(text.lines().count(), 3 * AT_ONCE + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_waits_for_what_comes_and_another_ends() {
        let recent = keeping(10, 1000);
        put(&recent, 0..1);
        let mut once = recent.read(None, false).unwrap();
        let mut follower = recent.read(None, true).unwrap();
        assert_eq!(once.next().await.unwrap(), "0\n");
        assert_eq!(follower.next().await.unwrap(), "0\n");

        put(&recent, 1..2);
        assert_eq!(once.next().await, None);
        assert_eq!(follower.next().await.unwrap(), "1\n");
        assert!(follower.next().now_or_never().is_none());
        let late = recent.clone();
        let (_, read) = tokio::join!(
            async {
                sleep(Duration::from_secs(1)).await;
                put(&late, 2..4);
            },
            follower.next()
        );
        assert_eq!(read.unwrap(), "2\n3\n");
    }

    #[test]
    fn a_slow_reader_is_told_how_many_lines_it_missed() {
        let recent = keeping(3, 1000);
        put(&recent, 0..1);
        let mut reader = recent.read(None, true).unwrap();
        put(&recent, 1..6);

        let text = now(&mut reader);

        let (told, rest) = text.split_once('\n').unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!((&told["level"], &told["lost"]), (&"WARN".into(), &3.into()));
        assert_eq!(rest, "3\n4\n5\n");
        put(&recent, 6..7);
        assert_eq!(now(&mut reader), "6\n");
    }

    #[test]
    fn a_category_leaves_out_the_others() {
        let recent = keeping(2000, 1 << 20);
        for number in 0..600 {
            recent.put("one_more", "not this\n".into());
            let target = if number % 2 == 0 { "one" } else { "one::below" };
            recent.put(target, format!("{number}\n").into());
        }

        let text = now(&mut recent.read(Some(&ONES), false).unwrap());

        assert_eq!(text.lines().count(), 600);
        assert!(!text.contains("not this"));
    }

    #[test]
    fn readers_are_bounded_and_one_that_goes_makes_room() {
        let recent = keeping(3, 1000);
        let first = recent.read(None, true).unwrap();
        let _second = recent.read(None, true).unwrap();
        assert_eq!(recent.read(None, true).unwrap_err(), NotRead::TooMany(2));
        drop(first);
        assert!(recent.read(None, true).is_ok());
    }
}
