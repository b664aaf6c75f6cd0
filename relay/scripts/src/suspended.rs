//! Scripts that had to be stopped again and again are left alone for a while, so that one of them does not cost every
//! user a worker.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::script::{Fault, Script};

/// So many stops suspend a script.
const STOPS: usize = 3;

/// Within this time, and until so long after the first of them.
const WITHIN: Duration = Duration::from_secs(60);

/// Most scripts that are remembered.
const MOST: usize = 256;

/// When which text last had to be stopped. A script that is edited starts anew.
#[derive(Debug, Default)]
pub(crate) struct Suspended {
    stops: HashMap<Arc<str>, VecDeque<Instant>>,
}

impl Suspended {
    /// The fault that it gets instead of being run, if it is suspended.
    pub(crate) fn fault(&self, script: &Script, now: Instant) -> Option<Fault> {
        let stops = self.stops.get(&script.source)?;
        let first = stops.front().filter(|_| stops.len() >= STOPS)?;
        let left = WITHIN.checked_sub(now.duration_since(*first))?;
        Some(Fault::Suspended {
            stops: STOPS,
            within: WITHIN,
            left,
        })
    }

    /// It had to be stopped.
    pub(crate) fn note(&mut self, script: &Script, now: Instant) {
        if self.stops.len() >= MOST {
            let recent =
                |stops: &VecDeque<Instant>| stops.back().is_some_and(|at| now - *at < WITHIN);
            self.stops.retain(|_, stops| recent(stops));
        }
        if self.stops.len() >= MOST && !self.stops.contains_key(&script.source) {
            return;
        }
        let stops = self.stops.entry(Arc::clone(&script.source)).or_default();
        if stops.len() >= STOPS {
            stops.pop_front();
        }
        stops.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_third_stop_within_a_minute_suspends_for_the_rest_of_it() {
        let (script, mut suspended) = (Script::new("s", "x"), Suspended::default());
        let start = Instant::now();
        suspended.note(&script, start);
        suspended.note(&script, start + seconds(20));
        assert_eq!(suspended.fault(&script, start + seconds(30)), None);
        suspended.note(&script, start + seconds(30));
        let fault = suspended.fault(&script, start + seconds(40)).unwrap();
        let expected = Fault::Suspended {
            stops: 3,
            within: seconds(60),
            left: seconds(20),
        };
        assert_eq!(fault, expected);
        assert_eq!(
            suspended.fault(&Script::new("s", "y"), start + seconds(40)),
            None
        );
        assert_eq!(suspended.fault(&script, start + seconds(61)), None);
        // the one that left the minute does not count any more
        suspended.note(&script, start + seconds(85));
        let fault = suspended.fault(&script, start + seconds(85));
        assert_eq!(fault, None, "20, 30 and 85 lie 65 s apart");
        suspended.note(&script, start + seconds(86));
        assert!(
            suspended.fault(&script, start + seconds(86)).is_some(),
            "30, 85, 86"
        );
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut suspended = Suspended::default();
        let now = Instant::now();
        for n in 0..2 * MOST {
            suspended.note(&Script::new("s", n.to_string()), now);
        }
        assert_eq!(suspended.stops.len(), MOST);
        suspended.note(&Script::new("s", "late"), now + WITHIN);
        assert_eq!(suspended.stops.len(), 1);
    }
}
