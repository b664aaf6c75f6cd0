//! Buffers that are lent while bytes are on the way and given back at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::ReadBuf;

/// The pool that every stream of the process borrows from.
pub(crate) static SHARED: Pool = Pool::new(PoolLimits {
    kept: [64, 16, 8],
    lent: 64 * MIB,
});

/// A buffer changes hands with its bytes if at least one part in so many of it is filled.
const WORTH_KEEPING: usize = 4;

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

    /// Allows that as many bytes are held as a buffer of `wanted` size has, or fewer when too much is lent already.
    pub(crate) fn lend(&'static self, wanted: Size) -> Loan {
        let mut size = wanted;
        while !self.charge(size) {
            size = size.smaller();
        }
        Loan { pool: self, size }
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

    fn keep(&self, size: Size, memory: Box<[u8]>) {
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

/// Leave to hold as many bytes as a buffer of its size. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct Loan {
    pool: &'static Pool,
    size: Size,
}

impl Loan {
    pub(crate) const fn size(&self) -> Size {
        self.size
    }

    /// A buffer to hold them in.
    pub(crate) fn buffer(self) -> Buffer {
        let kept = self.pool.shelf(self.size).pop();
        Buffer {
            memory: kept.unwrap_or_else(|| vec![0; self.size.bytes()].into_boxed_slice()),
            loan: self,
            filled: 0,
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.size != Size::Small {
            self.pool
                .lent
                .fetch_sub(self.size.bytes(), Ordering::Relaxed);
        }
    }
}

/// A lent buffer, filled from the front. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    loan: Loan,
    filled: usize,
}

impl Buffer {
    pub(crate) const fn size(&self) -> Size {
        self.loan.size()
    }

    /// Bytes that came in.
    pub(crate) const fn filled(&self) -> usize {
        self.filled
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.filled >= self.memory.len()
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

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }
}

impl From<Buffer> for Bytes {
    /// The bytes with the buffer, or a copy where they are few: so whoever keeps them keeps hardly more memory than bytes.
    fn from(buffer: Buffer) -> Self {
        if buffer.filled < buffer.memory.len() / WORTH_KEEPING {
            return Self::copy_from_slice(buffer.as_ref());
        }
        Self::from_owner(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.loan.pool.keep(self.loan.size, memory);
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

    fn pool(kept: [usize; 3], lent: usize) -> &'static Pool {
        Box::leak(Box::new(Pool::new(PoolLimits { kept, lent })))
    }

    #[test]
    fn a_buffer_is_lent_again_and_only_so_many_are_kept() {
        let pool = pool([2, 0, 0], MIB);
        let lent: Vec<_> = (0..5).map(|_| pool.lend(Size::Small).buffer()).collect();
        let medium = pool.lend(Size::Medium).buffer();
        assert_eq!(pool.kept_now(), 0);

        drop((lent, medium));
        assert_eq!(pool.kept_now(), 2);

        let again = pool.lend(Size::Small).buffer();
        assert_eq!((pool.kept_now(), again.filled()), (1, 0));
    }

    #[test]
    fn when_too_much_is_lent_buffers_get_smaller_but_never_fail() {
        let pool = pool([0; 3], 400 * KIB);
        let lent: Vec<_> = (0..5).map(|_| pool.lend(Size::Large)).collect();

        let got: Vec<_> = lent.iter().map(Loan::size).collect();
        let [small, medium, large] = [Size::Small, Size::Medium, Size::Large];
        assert_eq!(got, [large, medium, medium, small, small]);
        assert_eq!(pool.lent_now(), 384 * KIB);
        drop(lent);
        assert_eq!(pool.lent_now(), 0);
        assert_eq!(pool.lend(Size::Large).size(), Size::Large);
    }

    /// A buffer of 16 KiB with so many bytes in it.
    fn filled(pool: &'static Pool, bytes: usize) -> Buffer {
        let mut buffer = pool.lend(Size::Small).buffer();
        buffer.fill(|spare| spare.put_slice(&vec![7; bytes]));
        buffer
    }

    #[test]
    fn a_buffer_goes_with_its_bytes_and_comes_back_with_the_last_of_them() {
        let pool = pool([1; 3], MIB);
        let mut bytes = Bytes::from(filled(pool, 9 * KIB));
        let first = bytes.split_to(KIB);
        assert_eq!((first.len(), bytes.len()), (KIB, 8 * KIB));
        drop(first);
        assert_eq!(pool.kept_now(), 0);
        drop(bytes);
        assert_eq!(pool.kept_now(), 1);
    }

    #[test]
    fn few_bytes_keep_no_buffer() {
        let pool = pool([1; 3], MIB);
        let bytes = Bytes::from(filled(pool, 3));
        assert_eq!((bytes.len(), pool.kept_now()), (3, 1));
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
