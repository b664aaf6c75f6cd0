//! What the handles, the streams and the driver of a connection share.
//!
//! Locks are taken in one order: a channel's state before the table.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use crate::channel::{After, Channel};
use crate::header::Flags;
use crate::schedule::{Class, Schedule};
use crate::settings::Settings;
use crate::window::{Budget, Path};

/// Which side of a connection this is; the two number their streams differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that dialled: odd numbers.
    Client,
    /// The side that was dialled: even numbers.
    Server,
}

impl Role {
    /// The remainder by two of this side's numbers.
    pub(crate) const fn parity(self) -> u32 {
        self.first() % 2
    }

    const fn first(self) -> u32 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }
}

/// Live figures of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Streams that are not over on the connection.
    pub streams: usize,
    /// Bytes received that nobody has read.
    pub unread: usize,
    /// Round trip, once known.
    pub rtt: Option<Duration>,
}

/// What handle, streams and driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) role: Role,
    pub(crate) settings: Settings,
    table: Mutex<Table>,
    driver: AtomicWaker,
    budget: Budget,
    unread: AtomicUsize,
    rtt_us: AtomicU64,
    lost: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) channels: HashMap<u32, Arc<Channel>>,
    pub(crate) ready: Schedule<Arc<Channel>>,
    /// The number of our next stream.
    next: Option<u32>,
    /// Channels without a handle, whose end is still to be told.
    abandoned: usize,
}

impl Shared {
    pub(crate) fn new(role: Role, settings: Settings) -> Self {
        Self {
            role,
            budget: Budget::new(settings.budget),
            settings,
            table: Mutex::new(Table {
                channels: HashMap::new(),
                ready: Schedule::new(),
                next: Some(role.first()),
                abandoned: 0,
            }),
            driver: AtomicWaker::new(),
            unread: AtomicUsize::new(0),
            rtt_us: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            streams: self.table().channels.len(),
            unread: self.unread.load(Ordering::Relaxed),
            rtt: self.rtt(),
        }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) const fn driver(&self) -> &AtomicWaker {
        &self.driver
    }

    /// Gives a channel its turn, and the driver a reason to go on.
    pub(crate) fn schedule(&self, channel: &Arc<Channel>) {
        self.table().ready.add(channel.class, Arc::clone(channel));
        self.driver.wake();
    }

    /// Does what a change made necessary.
    pub(crate) fn settle(&self, channel: &Arc<Channel>, after: After) {
        if after.schedule {
            self.schedule(channel);
        }
        after.wake();
    }

    /// The next channel that has something to send.
    pub(crate) fn next_ready(&self) -> Option<(Class, Arc<Channel>)> {
        self.table().ready.next()
    }

    pub(crate) fn find(&self, number: u32) -> Option<Arc<Channel>> {
        self.table().channels.get(&number).cloned()
    }

    /// The number that our next stream would have.
    pub(crate) fn next_number(&self) -> Option<u32> {
        self.table().next
    }

    /// Begins a stream of ours. `None` if the connection is gone, or all numbers are used up.
    pub(crate) fn open(&self, class: Class) -> Option<Arc<Channel>> {
        let mut table = self.table();
        // Looked at under the lock: what is begun after `lose` has emptied the table would never hear of it.
        if self.is_lost() {
            return None;
        }
        let number = table.next?;
        table.next = number.checked_add(2);
        let channel = Arc::new(Channel::new(number, class, Flags::SYN, Instant::now()));
        table.channels.insert(number, Arc::clone(&channel));
        Some(channel)
    }

    /// Takes in a stream of the other side.
    pub(crate) fn adopt(&self, number: u32) -> Arc<Channel> {
        let class = Class::Sparse;
        let channel = Arc::new(Channel::new(number, class, Flags::ACK, Instant::now()));
        self.table().channels.insert(number, Arc::clone(&channel));
        channel
    }

    /// A channel is over: nothing more will come or go. Only its turn may say so, so that none is scheduled any more
    /// whose number is free.
    pub(crate) fn forget(&self, channel: &Arc<Channel>) {
        let abandoned = channel.lock().forget(&self.budget);
        let mut table = self.table();
        let kept = table.channels.get(&channel.number);
        if kept.is_some_and(|kept| Arc::ptr_eq(kept, channel)) {
            table.channels.remove(&channel.number);
        }
        table.abandoned -= usize::from(abandoned && table.abandoned > 0);
    }

    /// A handle went before its stream was over.
    pub(crate) fn abandon(&self) {
        self.table().abandoned += 1;
    }

    /// Whether more streams were abandoned than the connection can tell the other side about.
    pub(crate) fn is_flooded(&self) -> bool {
        self.table().abandoned > self.settings.resets
    }

    /// So many bytes wait for readers; true if they are too many.
    pub(crate) fn add_unread(&self, bytes: usize) -> bool {
        let before = self.unread.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) > self.settings.unread
    }

    pub(crate) fn sub_unread(&self, bytes: usize) {
        self.unread.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The channel with the most unread bytes.
    pub(crate) fn least_read(&self) -> Option<Arc<Channel>> {
        let channels: Vec<_> = self.table().channels.values().cloned().collect();
        channels
            .into_iter()
            .max_by_key(|channel| channel.lock().unread())
    }

    /// What decisions about windows depend on now.
    pub(crate) fn path(&self) -> Path<'_> {
        Path {
            now: Instant::now(),
            rtt: self.rtt(),
            largest: self.settings.window,
            budget: &self.budget,
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        let us = self.rtt_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    pub(crate) fn measured(&self, rtt: Duration) {
        let us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        self.rtt_us.store(us.max(1), Ordering::Relaxed);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The connection is gone: whoever waits looks again.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        let channels: Vec<_> = self.table().channels.drain().collect();
        for (_, channel) in channels {
            let after = channel.lock().stop();
            after.wake();
        }
    }
}
