//! How streams ended, told over the control stream.
//!
//! The yamux crate shows a finished stream, an aborted stream and a lost connection alike as end of file. So each
//! side says on the control stream how a stream of its ended, and a reader believes an end of file only when the
//! other side's word and byte count agree with it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use futures::task::AtomicWaker;
use sallyport_wire::Code;
use sallyport_wire::message::{ControlKind, Finish, Reset};
use tokio::sync::Notify;

/// Words about streams not yet seen that are kept: the word may overtake the stream.
const EARLY: usize = 1_024;

/// Words not yet sent; a tunnel that cannot get rid of more is stuck.
const UNSENT: usize = 8_192;

/// What the other side said about one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Word {
    /// It finished after so many bytes.
    pub(crate) finished: Option<u64>,
    /// It gave up.
    pub(crate) reset: Option<Code>,
}

/// What is known about one stream, shared with its owner.
#[derive(Debug, Default)]
pub(crate) struct End {
    word: Mutex<Word>,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl End {
    pub(crate) fn word(&self) -> Word {
        *lock(&self.word)
    }

    /// Wakes this task when the other side says something; look at [`End::word`] afterwards.
    pub(crate) fn watch_read(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    /// The same for the writing side.
    pub(crate) fn watch_write(&self, cx: &Context<'_>) {
        self.writer.register(cx.waker());
    }

    fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// The ends of all streams of one tunnel.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Whether our own streams have odd numbers.
    odd: bool,
    inner: Mutex<Inner>,
    unsent: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<u64, Arc<End>>,
    early: VecDeque<(u64, Word)>,
    unsent: VecDeque<ControlKind>,
}

/// More words wait to be sent than a working tunnel ever has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stuck;

impl Ends {
    pub(crate) fn new(odd: bool) -> Self {
        Self {
            odd,
            inner: Mutex::default(),
            unsent: Notify::new(),
        }
    }

    /// Begins to follow a stream.
    pub(crate) fn follow(&self, stream: u64) -> Arc<End> {
        let mut inner = lock(&self.inner);
        let end = Arc::new(End::default());
        if let Some(place) = inner.early.iter().position(|(id, _)| *id == stream)
            && let Some((_, word)) = inner.early.remove(place)
        {
            *lock(&end.word) = word;
        }
        inner.live.insert(stream, Arc::clone(&end));
        end
    }

    /// The stream is gone here; what is still said about it is ignored.
    pub(crate) fn forget(&self, stream: u64) {
        lock(&self.inner).live.remove(&stream);
    }

    /// Tells the other side how a stream of ours ended.
    pub(crate) fn tell(&self, word: ControlKind) -> Result<(), Stuck> {
        let mut inner = lock(&self.inner);
        if inner.unsent.len() >= UNSENT {
            return Err(Stuck);
        }
        inner.unsent.push_back(word);
        drop(inner);
        self.unsent.notify_one();
        Ok(())
    }

    /// The next word to send.
    pub(crate) async fn unsent(&self) -> ControlKind {
        loop {
            let told = self.unsent.notified();
            if let Some(word) = self.take() {
                return word;
            }
            told.await;
        }
    }

    /// The next word to send, if there is one now.
    pub(crate) fn take(&self) -> Option<ControlKind> {
        lock(&self.inner).unsent.pop_front()
    }

    /// The other side finished a stream.
    pub(crate) fn finished(&self, finish: Finish) {
        self.hear(finish.stream, |word| {
            word.finished.get_or_insert(finish.bytes);
        });
    }

    /// The other side gave a stream up.
    pub(crate) fn reset(&self, reset: Reset) {
        self.hear(reset.stream, |word| {
            word.reset
                .get_or_insert_with(|| Code::from_number(reset.code));
        });
    }

    /// The tunnel is lost: whoever waits looks again.
    pub(crate) fn wake_all(&self) {
        for end in lock(&self.inner).live.values() {
            end.wake();
        }
    }

    fn hear(&self, stream: u64, say: impl FnOnce(&mut Word)) {
        let mut inner = lock(&self.inner);
        if let Some(end) = inner.live.get(&stream) {
            say(&mut lock(&end.word));
            end.wake();
            return;
        }
        if (stream % 2 == 1) == self.odd {
            return; // a stream of our own that is gone
        }
        let place = inner.early.iter().position(|(id, _)| *id == stream);
        match place.and_then(|place| inner.early.get_mut(place)) {
            Some((_, word)) => say(word),
            None => {
                let mut word = Word::default();
                say(&mut word);
                if inner.early.len() >= EARLY {
                    inner.early.pop_front();
                }
                inner.early.push_back((stream, word));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(stream: u64, bytes: u64) -> Finish {
        Finish { stream, bytes }
    }

    #[test]
    fn a_word_that_overtakes_its_stream_is_kept() {
        let ends = Ends::new(true);
        ends.finished(finish(2, 7));
        ends.reset(Reset {
            stream: 2,
            code: 20,
        });

        let word = ends.follow(2).word();

        assert_eq!(word.finished, Some(7));
        assert_eq!(word.reset, Some(Code::ClientGone));
        assert_eq!(ends.follow(2).word(), Word::default(), "it is used once");
    }

    #[test]
    fn the_first_word_counts() {
        let ends = Ends::new(true);
        let end = ends.follow(2);
        ends.finished(finish(2, 7));
        ends.finished(finish(2, 9));
        assert_eq!(end.word().finished, Some(7));
    }

    #[test]
    fn words_about_nothing_take_no_room() {
        let ends = Ends::new(true);
        for id in 0..100_000 {
            ends.finished(finish(id, 1));
        }
        assert_eq!(lock(&ends.inner).early.len(), EARLY);
        assert_eq!(
            ends.follow(1).word(),
            Word::default(),
            "our own are not kept"
        );
        assert_eq!(ends.follow(99_998).word().finished, Some(1));
    }

    #[test]
    fn a_stuck_tunnel_is_noticed() {
        let ends = Ends::new(true);
        for id in 0..UNSENT {
            let word = ControlKind::Finish(finish(id as u64, 0));
            assert_eq!(ends.tell(word), Ok(()));
        }
        assert_eq!(ends.tell(ControlKind::Finish(finish(1, 0))), Err(Stuck));
    }
}
