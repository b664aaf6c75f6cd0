//! Whose turn it is to send: a round robin of frames, in which streams that have little to say go first (RFC 8290 §4.2).

use std::collections::VecDeque;

/// Those that have something to send, in the order of their turns.
#[derive(Debug)]
pub(crate) struct Schedule<T> {
    /// Before all others.
    urgent: VecDeque<T>,
    /// Those that had nothing to send until now.
    sparse: VecDeque<T>,
    /// Those that had more than fits one turn.
    bulk: VecDeque<T>,
}

/// Where something stands in the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Before all others.
    Urgent,
    /// It had nothing to send until now.
    Sparse,
    /// It had more than fits one turn.
    Bulk,
}

impl<T> Schedule<T> {
    pub(crate) const fn new() -> Self {
        Self {
            urgent: VecDeque::new(),
            sparse: VecDeque::new(),
            bulk: VecDeque::new(),
        }
    }

    pub(crate) fn add(&mut self, class: Class, item: T) {
        match class {
            Class::Urgent => self.urgent.push_back(item),
            Class::Sparse => self.sparse.push_back(item),
            Class::Bulk => self.bulk.push_back(item),
        }
    }

    /// The next, and where it stood.
    pub(crate) fn next(&mut self) -> Option<(Class, T)> {
        let urgent = self.urgent.pop_front().map(|item| (Class::Urgent, item));
        let sparse = || self.sparse.pop_front().map(|item| (Class::Sparse, item));
        let bulk = || self.bulk.pop_front().map(|item| (Class::Bulk, item));
        urgent.or_else(sparse).or_else(bulk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_goes_before_sparse_and_sparse_before_bulk() {
        let mut schedule = Schedule::new();
        schedule.add(Class::Bulk, 1);
        schedule.add(Class::Sparse, 2);
        schedule.add(Class::Bulk, 3);
        schedule.add(Class::Urgent, 4);
        schedule.add(Class::Sparse, 5);
        let order: Vec<_> = std::iter::from_fn(|| schedule.next())
            .map(|(_, item)| item)
            .collect();
        assert_eq!(order, [4, 2, 5, 1, 3]);
    }
}
