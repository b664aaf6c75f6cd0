//! What this process listens to: patterns of channels, each with those who want to hear. They outlive connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, interval_at};

use super::names::Names;
use super::resp::{Reply, command};
use super::wire::Wire;
use super::{End, PING_EVERY, silent, text_of};
use crate::error::ClusterError;
use crate::hub::{Inbox, Outbox, Told, queue};
use crate::key::Key;
use crate::progress::Step;
use crate::requests::Requests;

/// What came on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) key: Key,
    pub(super) payload: Bytes,
}

#[derive(Debug)]
pub(super) struct Ears {
    patterns: Mutex<BTreeMap<String, Pattern>>,
    /// Told when a pattern may be new, or wanted by nobody any more.
    changed: Notify,
    names: Names,
    /// The pattern on which answers to this process come.
    answers: String,
    requests: Requests,
}

#[derive(Debug)]
struct Pattern {
    standing: watch::Sender<Standing>,
    outboxes: Vec<Outbox<Heard>>,
}

/// Whether the server knows that we listen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Unknown,
    Stands,
    Refused(String),
}

/// Hears what comes on the channels of one pattern, until it is dropped.
#[derive(Debug)]
pub(super) struct Ear {
    // dropped before it is told that somebody left
    inbox: Inbox<Heard>,
    standing: watch::Receiver<Standing>,
    _leaves: Leaves,
}

#[derive(Debug)]
struct Leaves(Arc<Ears>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.changed.notify_one();
    }
}

impl Ear {
    /// Until the server knows that we listen.
    pub(super) async fn stands(&mut self) -> Result<(), ClusterError> {
        let known = |standing: &Standing| *standing != Standing::Unknown;
        let standing = self.standing.wait_for(known).await;
        match &*standing.map_err(|_closed| ClusterError::Closed)? {
            Standing::Refused(text) => Err(ClusterError::Denied(text.clone())),
            Standing::Stands | Standing::Unknown => Ok(()),
        }
    }

    /// Leaves out what waits.
    pub(super) fn forget(&mut self) {
        self.inbox.forget();
    }

    /// Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<Told<Heard>> {
        self.inbox.next().await
    }
}

impl Ears {
    /// `answers` is the pattern on which answers to this process come.
    pub(super) fn new(names: Names, answers: String) -> Self {
        Self {
            patterns: Mutex::default(),
            changed: Notify::new(),
            names,
            answers,
            requests: Requests::default(),
        }
    }

    /// Who waits for answers.
    pub(super) const fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Listens from now on, with room for `most` that wait (more than zero).
    pub(super) fn listen(self: &Arc<Self>, pattern: String, most: usize) -> Ear {
        let (outbox, inbox) = queue(most);
        let mut patterns = self.patterns();
        sweep(&mut patterns);
        let pattern = patterns.entry(pattern).or_insert_with(|| Pattern {
            standing: watch::Sender::new(Standing::Unknown),
            outboxes: Vec::new(),
        });
        pattern.outboxes.push(outbox);
        let standing = pattern.standing.subscribe();
        drop(patterns);
        self.changed.notify_one();
        Ear {
            inbox,
            standing,
            _leaves: Leaves(Arc::clone(self)),
        }
    }

    /// The patterns that somebody wants.
    fn wanted(&self) -> Vec<String> {
        let mut patterns = self.patterns();
        sweep(&mut patterns);
        patterns.keys().cloned().collect()
    }

    fn stand(&self, pattern: &str, standing: Standing) {
        if let Some(pattern) = self.patterns().get(pattern) {
            pattern.standing.send_replace(standing);
        }
    }

    /// What was heard so far may not be all: tells everybody.
    fn gap(&self) {
        for pattern in self.patterns().values() {
            pattern.outboxes.iter().for_each(Outbox::gap);
        }
    }

    /// The connection is lost, so the server knows nothing of us.
    pub(super) fn lost(&self) {
        for pattern in self.patterns().values() {
            pattern.standing.send_replace(Standing::Unknown);
        }
    }

    fn tell(&self, pattern: &str, heard: &Heard) {
        let mut patterns = self.patterns();
        let Some(known) = patterns.get_mut(pattern) else {
            return;
        };
        known.outboxes.retain(|outbox| outbox.push(heard.clone()));
        if known.outboxes.is_empty() {
            self.changed.notify_one();
        }
    }

    fn patterns(&self) -> MutexGuard<'_, BTreeMap<String, Pattern>> {
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sweep(patterns: &mut BTreeMap<String, Pattern>) {
    patterns.retain(|_, pattern| {
        pattern.outboxes.retain(|outbox| !outbox.is_closed());
        !pattern.outboxes.is_empty()
    });
}

/// A connection on which the server tells what came.
#[derive(Debug)]
pub(super) struct Listening<'e> {
    ears: &'e Ears,
    wire: Wire,
    /// What the server has been asked to tell.
    known: Vec<String>,
    /// What it has not answered yet, in order; none for a pattern that is left.
    asked: VecDeque<Option<String>>,
}

impl<'e> Listening<'e> {
    /// Listens on `wire` to all that is wanted, and says that something may be missing. Waits for the server's word.
    pub(super) async fn begin(ears: &'e Ears, wire: Wire) -> Result<Self, End> {
        let mut listening = Self {
            ears,
            wire,
            known: Vec::new(),
            asked: VecDeque::new(),
        };
        listening.ask(ears.answers.clone());
        listening.follow();
        while !listening.asked.is_empty() {
            let reply = listening.wire.reply().await?;
            listening.hear(reply)?;
        }
        ears.gap();
        Ok(listening)
    }

    /// Until the connection is lost.
    pub(super) async fn run(mut self) -> End {
        let ping = command(&[b"PING"]);
        let mut beat = interval_at(Instant::now(), PING_EVERY);
        loop {
            let heard = tokio::select! {
                reply = self.wire.reply() => reply.and_then(|reply| self.hear(reply)),
                () = self.ears.changed.notified() => {
                    self.follow();
                    Ok(())
                }
                _now = beat.tick() => {
                    self.wire.push(&ping);
                    silent(&self.wire)
                }
            };
            if let Err(end) = heard {
                return end;
            }
        }
    }

    /// Asks for what is wanted and not known yet, and leaves what is wanted no more.
    fn follow(&mut self) {
        let wanted = self.ears.wanted();
        let known = std::mem::take(&mut self.known);
        for pattern in known {
            if pattern == self.ears.answers || wanted.contains(&pattern) {
                self.known.push(pattern);
            } else {
                let leave = command(&[b"PUNSUBSCRIBE", pattern.as_bytes()]);
                self.wire.push(&leave);
                self.asked.push_back(None);
            }
        }
        for pattern in wanted {
            if !self.known.contains(&pattern) {
                self.ask(pattern);
            }
        }
    }

    fn ask(&mut self, pattern: String) {
        self.wire
            .push(&command(&[b"PSUBSCRIBE", pattern.as_bytes()]));
        self.known.push(pattern.clone());
        self.asked.push_back(Some(pattern));
    }

    fn hear(&mut self, reply: Reply) -> Result<(), End> {
        match reply {
            Reply::Error(text) => self.refused(&text),
            Reply::List(words) => {
                self.told(&words);
                Ok(())
            }
            Reply::Status(_) | Reply::Number(_) | Reply::Bytes(_) | Reply::Nothing => Ok(()),
        }
    }

    /// A refusal comes in the place of the word that we listen.
    fn refused(&mut self, text: &str) -> Result<(), End> {
        match self.asked.pop_front().flatten() {
            Some(pattern) if pattern != self.ears.answers => {
                self.ears.stand(&pattern, Standing::Refused(text_of(text)));
                Ok(())
            }
            _ => Err((Step::Namespace, text_of(text))),
        }
    }

    fn told(&mut self, words: &[Reply]) {
        let word = |place: usize| match words.get(place) {
            Some(Reply::Bytes(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        match (word(0), word(1), word(2), words.get(3)) {
            (Some("pmessage"), Some(pattern), Some(channel), Some(Reply::Bytes(payload))) => {
                self.message(pattern, channel, payload);
            }
            (Some("psubscribe"), ..) => {
                if let Some(pattern) = self.asked.pop_front().flatten() {
                    self.ears.stand(&pattern, Standing::Stands);
                }
            }
            (Some("punsubscribe"), ..) => drop(self.asked.pop_front()),
            _ => {}
        }
    }

    fn message(&self, pattern: &str, channel: &str, payload: &Bytes) {
        if pattern == self.ears.answers {
            if let Some(number) = self.ears.names.number_of_answer(channel) {
                self.ears.requests.answer(number, payload.clone());
            }
        } else if let Some(key) = self.ears.names.key_of(channel) {
            let payload = payload.clone();
            self.ears.tell(pattern, &Heard { key, payload });
        }
    }
}
