//! Buffers that are lent while bytes are on the way and given back at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::ReadBuf;

/// The pool that every stream of the process borrows from.
pub(crate) static SHARED: Pool = Pool::new(PoolLimits {
    kept: [64, 16, 8],
    lent: 64 * MIB,
});

const KIB: usize = 1_024;
const MIB: usize = 1_024 * KIB;

/// How large a buffer is. A stream begins small and grows while its reads come back full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Small => 16 * KIB,
            Self::Medium => 64 * KIB,
            Self::Large => 256 * KIB,
        }
    }

    pub(crate) const fn larger(self) -> Self {
        match self {
            Self::Small => Self::Medium,
            Self::Medium | Self::Large => Self::Large,
        }
    }

    pub(crate) const fn smaller(self) -> Self {
        match self {
            Self::Small | Self::Medium => Self::Small,
            Self::Large => Self::Medium,
        }
    }

    /// The size for the next read after one into a buffer of this size brought `filled` bytes.
    pub(crate) const fn after(self, filled: usize) -> Self {
        if filled >= self.bytes() {
            self.larger()
        } else if filled <= self.smaller().bytes() / 2 {
            self.smaller()
        } else {
            self
        }
    }
}

/// Bounds of a [`Pool`].
#[derive(Debug)]
pub(crate) struct PoolLimits {
    /// Unused buffers kept for later, of each size from small to large.
    pub(crate) kept: [usize; 3],
    /// Bytes in medium and large buffers lent at a time. Beyond it streams get small ones, which
    /// are bounded by how many streams there may be.
    pub(crate) lent: usize,
}

/// Lends buffers and keeps some of those that come back.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: PoolLimits,
    lent: AtomicUsize,
    small: Mutex<Vec<Box<[u8]>>>,
    medium: Mutex<Vec<Box<[u8]>>>,
    large: Mutex<Vec<Box<[u8]>>>,
}

impl Pool {
    pub(crate) const fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            lent: AtomicUsize::new(0),
            small: Mutex::new(Vec::new()),
            medium: Mutex::new(Vec::new()),
            large: Mutex::new(Vec::new()),
        }
    }

    /// Lends a buffer of `wanted` size, or a smaller one when too much is lent already.
    pub(crate) fn take(&self, wanted: Size) -> Buffer<'_> {
        let mut size = wanted;
        while !self.charge(size) {
            size = size.smaller();
        }
        let kept = self.shelf(size).pop();
        Buffer {
            pool: self,
            size,
            memory: kept.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice()),
            sent: 0,
            filled: 0,
        }
    }

    fn charge(&self, size: Size) -> bool {
        if size == Size::Small {
            return true;
        }
        let before = self.lent.fetch_add(size.bytes(), Ordering::Relaxed);
        let fits = before.saturating_add(size.bytes()) <= self.limits.lent;
        if !fits {
            self.lent.fetch_sub(size.bytes(), Ordering::Relaxed);
        }
        fits
    }

    fn give_back(&self, size: Size, memory: Box<[u8]>) {
        if size != Size::Small {
            self.lent.fetch_sub(size.bytes(), Ordering::Relaxed);
        }
        let [small, medium, large] = self.limits.kept;
        let most = match size {
            Size::Small => small,
            Size::Medium => medium,
            Size::Large => large,
        };
        let mut shelf = self.shelf(size);
        if shelf.len() < most {
            shelf.push(memory);
        }
    }

    fn shelf(&self, size: Size) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        let shelf = match size {
            Size::Small => &self.small,
            Size::Medium => &self.medium,
            Size::Large => &self.large,
        };
        shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lent buffer: bytes are filled in at the end and sent from the front. Dropping it gives it
/// back.
#[derive(Debug)]
pub(crate) struct Buffer<'p> {
    pool: &'p Pool,
    size: Size,
    memory: Box<[u8]>,
    sent: usize,
    filled: usize,
}

impl Buffer<'_> {
    pub(crate) const fn size(&self) -> Size {
        self.size
    }

    /// Bytes that came in since the buffer was last empty.
    pub(crate) const fn filled(&self) -> usize {
        self.filled
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.sent == self.filled
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.filled >= self.memory.len()
    }

    /// What is still to be sent.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.memory.get(self.sent..self.filled).unwrap_or_default()
    }

    /// Marks `amount` bytes as sent. Once all are, the whole buffer is free again.
    pub(crate) fn advance(&mut self, amount: usize) {
        self.sent = self.sent.saturating_add(amount).min(self.filled);
        if self.sent == self.filled {
            self.clear();
        }
    }

    pub(crate) const fn clear(&mut self) {
        self.sent = 0;
        self.filled = 0;
    }

    /// Lets `read` put bytes behind those that are here; returns what it said and how many came.
    pub(crate) fn fill<T>(&mut self, read: impl FnOnce(&mut ReadBuf<'_>) -> T) -> (T, usize) {
        let spare = self.memory.get_mut(self.filled..).unwrap_or_default();
        let mut spare = ReadBuf::new(spare);
        let said = read(&mut spare);
        let came = spare.filled().len();
        self.filled = self.filled.saturating_add(came).min(self.memory.len());
        (said, came)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.pool
            .give_back(self.size, std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
impl Pool {
    /// Bytes in medium and large buffers that are lent now.
    pub(crate) fn lent_now(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Buffers that wait for the next borrower.
    pub(crate) fn kept_now(&self) -> usize {
        let sizes = [Size::Small, Size::Medium, Size::Large];
        sizes.iter().map(|size| self.shelf(*size).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(kept: [usize; 3], lent: usize) -> Pool {
        Pool::new(PoolLimits { kept, lent })
    }

    #[test]
    fn a_buffer_is_lent_again_and_only_so_many_are_kept() {
        let pool = pool([2, 0, 0], MIB);
        let lent: Vec<_> = (0..5).map(|_| pool.take(Size::Small)).collect();
        let medium = pool.take(Size::Medium);
        assert_eq!(pool.kept_now(), 0);

        drop((lent, medium));
        assert_eq!(pool.kept_now(), 2);

        let again = pool.take(Size::Small);
        assert_eq!((pool.kept_now(), again.is_empty()), (1, true));
    }

    #[test]
    fn when_too_much_is_lent_buffers_get_smaller_but_never_fail() {
        let pool = pool([0; 3], 400 * KIB);
        let sizes =
            |count: usize| -> Vec<_> { (0..count).map(|_| pool.take(Size::Large)).collect() };

        let lent = sizes(5);

        let got: Vec<_> = lent.iter().map(Buffer::size).collect();
        let [small, medium, large] = [Size::Small, Size::Medium, Size::Large];
        assert_eq!(got, [large, medium, medium, small, small]);
        assert_eq!(pool.lent_now(), 384 * KIB);
        drop(lent);
        assert_eq!(pool.lent_now(), 0);
        assert_eq!(pool.take(Size::Large).size(), Size::Large);
    }

    #[test]
    fn sizes_follow_how_full_the_reads_come_back() {
        assert_eq!(Size::Small.after(16 * KIB), Size::Medium);
        assert_eq!(Size::Medium.after(64 * KIB), Size::Large);
        assert_eq!(Size::Large.after(256 * KIB), Size::Large);
        assert_eq!(Size::Large.after(100 * KIB), Size::Large);
        assert_eq!(Size::Large.after(1), Size::Medium);
        assert_eq!(Size::Medium.after(1), Size::Small);
        assert_eq!(Size::Small.after(1), Size::Small);
    }
}
