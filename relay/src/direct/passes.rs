//! Passes: what a client got that came in by a ticket, for the sessions that it had tickets for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sallyport_wire::SessionId;
use tokio::time::Instant;

/// How long a pass lets in; streams that are open then go on.
const GOOD_FOR: Duration = Duration::from_secs(12 * 3_600);

/// Most sessions of one pass.
const MOST_SESSIONS: usize = 64;

/// Bytes of a pass, which nobody guesses.
const BYTES: usize = 32;

/// The passes of this process. They go with it.
#[derive(Debug)]
pub(super) struct Passes {
    most: usize,
    held: Mutex<HashMap<String, Pass>>,
}

#[derive(Debug)]
struct Pass {
    sessions: BTreeSet<SessionId>,
    until: Instant,
}

impl Passes {
    /// At most so many; beyond that the one that ends first goes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            held: Mutex::default(),
        }
    }

    /// A new pass for `session`, and for the sessions of the one that was `shown`. That one is not good for more than before:
    /// somebody else may have made the client show it. None if the system gives no random bytes.
    pub(super) fn give(&self, shown: &str, session: &SessionId) -> Option<String> {
        let mut bytes = [0; BYTES];
        rand::fill(&mut bytes).ok()?;
        let new = URL_SAFE_NO_PAD.encode(bytes);
        let now = Instant::now();
        let mut held = self.held();
        let before = held.get(shown).filter(|pass| now < pass.until);
        let mut sessions = before.map_or_else(BTreeSet::new, |pass| pass.sessions.clone());
        if sessions.len() >= MOST_SESSIONS {
            sessions.clear();
        }
        sessions.insert(session.clone());
        make_room(&mut held, self.most);
        let until = now + GOOD_FOR;
        held.insert(new.clone(), Pass { sessions, until });
        Some(new)
    }

    /// Whether what was `shown` is a pass for `session`.
    pub(super) fn lets_in(&self, shown: &str, session: &SessionId) -> bool {
        let held = self.held();
        let pass = held.get(shown).filter(|pass| Instant::now() < pass.until);
        pass.is_some_and(|pass| pass.sessions.contains(session))
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Pass>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(held: &mut HashMap<String, Pass>, most: usize) {
    if held.len() < most {
        return;
    }
    let first = held.iter().min_by_key(|(_, pass)| pass.until);
    let first = first.map(|(shown, _)| shown.clone());
    first.and_then(|shown| held.remove(&shown));
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn id(text: &str) -> SessionId {
        text.parse().expect("an id")
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_is_for_its_sessions_and_for_its_time() {
        let passes = Passes::new(10);
        let pass = passes.give("", &id("web")).expect("a pass");
        assert!(passes.lets_in(&pass, &id("web")) && !passes.lets_in(&pass, &id("desk")));
        assert!(!passes.lets_in("", &id("web")));

        let both = passes.give(&pass, &id("desk")).expect("a pass");
        assert!(passes.lets_in(&both, &id("web")) && passes.lets_in(&both, &id("desk")));
        assert!(passes.lets_in(&pass, &id("web")) && !passes.lets_in(&pass, &id("desk")));
        assert_ne!(
            passes.give("made up", &id("web")).as_deref(),
            Some("made up")
        );

        advance(GOOD_FOR).await;
        assert!(!passes.lets_in(&pass, &id("web")));
        assert_ne!(passes.give(&pass, &id("web")), Some(pass));
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_ends_first_makes_room() {
        let passes = Passes::new(2);
        let mut given = Vec::new();
        for _ in 0..3 {
            given.push(passes.give("", &id("web")).expect("a pass"));
            advance(Duration::from_secs(1)).await;
        }

        let lets_in: Vec<_> = given
            .iter()
            .map(|pass| passes.lets_in(pass, &id("web")))
            .collect();
        assert_eq!(lets_in, [false, true, true]);
    }
}
