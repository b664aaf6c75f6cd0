//! Which tokens have been seen: each is good for one hello.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::token::{ID_LEN, LIFETIME};

/// How long a token's id is remembered: well past its life and the leeway on both sides of it.
pub const REMEMBERED: Duration = Duration::from_secs(4 * LIFETIME.as_secs());

/// Token ids remembered at once, by default. New ones are then refused rather than old ones forgotten.
pub const MAX_REMEMBERED: usize = 65_536;

/// One part in so many is what the tokens of one key may take, so that whoever has that key cannot keep
/// out the relays of the others.
const SHARES: usize = 4;

/// The ids of the tokens of the last [`REMEMBERED`].
#[derive(Debug)]
pub struct Replays {
    seen: Mutex<Seen>,
    most: usize,
}

#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<[u8; ID_LEN]>,
    by_age: VecDeque<Taken>,
    by_key: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Taken {
    at: SystemTime,
    id: [u8; ID_LEN],
    kid: Arc<str>,
}

/// Why an id was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Replay {
    /// It was seen before.
    #[error("the token was used before")]
    Seen,
    /// No more can be remembered now.
    #[error("too many tokens in a short time, no more can be remembered")]
    Full,
    /// No more of this key can be remembered now.
    #[error("too many tokens of this key in a short time, no more of it can be remembered")]
    Share,
}

impl Replays {
    /// Remembers at most `most` ids at once, a quarter of them of one key.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            seen: Mutex::default(),
            most,
        }
    }

    /// Takes an id that has not been seen, once. `kid` names the key that its token is proven to be made with.
    ///
    /// # Errors
    /// [`Replay`].
    pub fn take(&self, id: [u8; ID_LEN], kid: &str, now: SystemTime) -> Result<(), Replay> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget_before(
            now.checked_sub(REMEMBERED)
                .unwrap_or(SystemTime::UNIX_EPOCH),
        );
        if seen.ids.contains(&id) {
            return Err(Replay::Seen);
        }
        if seen.ids.len() >= self.most {
            return Err(Replay::Full);
        }
        if seen.count(kid) >= (self.most / SHARES).max(1) {
            return Err(Replay::Share);
        }
        seen.remember(id, kid, now);
        Ok(())
    }
}

impl Seen {
    /// Forgets from the front only: after a step of the clock ids are kept too long, never too short.
    fn forget_before(&mut self, then: SystemTime) {
        while let Some(taken) = self.by_age.pop_front_if(|taken| taken.at < then) {
            self.ids.remove(&taken.id);
            let left = self.count(&taken.kid).saturating_sub(1);
            if left == 0 {
                self.by_key.remove(&taken.kid);
            } else {
                self.by_key.insert(taken.kid, left);
            }
        }
    }

    fn count(&self, kid: &str) -> usize {
        self.by_key.get(kid).copied().unwrap_or(0)
    }

    fn remember(&mut self, id: [u8; ID_LEN], kid: &str, at: SystemTime) {
        let known = self.by_key.get_key_value(kid);
        let kid = known.map_or_else(|| Arc::from(kid), |(kid, _)| Arc::clone(kid));
        *self.by_key.entry(Arc::clone(&kid)).or_default() += 1;
        self.ids.insert(id);
        self.by_age.push_back(Taken { at, id, kid });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn id(number: u8) -> [u8; ID_LEN] {
        [number; ID_LEN]
    }

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn an_id_is_taken_once() {
        let replays = Replays::new(8);

        assert_eq!(replays.take(id(1), "k1", at(0)), Ok(()));
        assert_eq!(replays.take(id(1), "k1", at(239)), Err(Replay::Seen));
        assert_eq!(replays.take(id(2), "k1", at(239)), Ok(()));
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing() {
        let replays = Replays::new(2);
        for (number, kid) in [(1, "k1"), (2, "k2")] {
            assert_eq!(replays.take(id(number), kid, at(0)), Ok(()));
        }

        assert_eq!(replays.take(id(3), "k3", at(1)), Err(Replay::Full));
        assert_eq!(replays.take(id(1), "k1", at(1)), Err(Replay::Seen));
        assert_eq!(replays.take(id(3), "k3", at(241)), Ok(()));
    }

    #[test]
    fn one_key_takes_no_more_than_its_share() {
        let replays = Replays::new(8);
        for number in 1..=2 {
            assert_eq!(replays.take(id(number), "loud", at(0)), Ok(()));
        }

        assert_eq!(replays.take(id(3), "loud", at(1)), Err(Replay::Share));
        assert_eq!(replays.take(id(3), "quiet", at(1)), Ok(()));
        assert_eq!(replays.take(id(4), "loud", at(241)), Ok(()));
    }

    #[test]
    fn a_clock_that_steps_back_forgets_nothing() {
        let replays = Replays::new(8);
        assert_eq!(replays.take(id(1), "k1", at(3_600)), Ok(()));

        assert_eq!(replays.take(id(2), "k1", at(0)), Ok(()));
        assert_eq!(replays.take(id(1), "k1", at(300)), Err(Replay::Seen));
    }
}
