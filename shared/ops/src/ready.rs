//! Whether the process can do its work, step by step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The steps to being ready.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Ready {
    /// Not ready until each of `steps` was set to `Ok`; without steps, ready from the start.
    #[must_use]
    pub fn new(steps: &[&'static str]) -> Self {
        let waiting = steps
            .iter()
            .map(|step| (*step, Err("not yet".to_owned())))
            .collect();
        Self(Arc::new(Mutex::new(waiting)))
    }

    /// Says how `step` stands; the text of an `Err` says what is missing and is shown.
    pub fn set(&self, step: &'static str, state: Result<(), String>) {
        self.lock().insert(step, state);
    }

    /// Whether every step is `Ok`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Result::is_ok)
    }

    /// All steps and how they stand.
    #[must_use]
    pub fn steps(&self) -> BTreeMap<&'static str, Result<(), String>> {
        self.lock().clone()
    }

    /// All steps as the administrator sees them: `ok`, or what is missing.
    pub(crate) fn shown(&self) -> BTreeMap<&'static str, String> {
        let text = |state| match state {
            Ok(()) => "ok".to_owned(),
            Err(missing) => missing,
        };
        self.steps()
            .into_iter()
            .map(|(step, state)| (step, text(state)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_counts_and_may_be_lost_again() {
        let ready = Ready::new(&["listen", "tunnels"]);
        ready.set("listen", Ok(()));
        assert!(!ready.is_ready());
        ready.set("tunnels", Ok(()));
        assert!(ready.is_ready());

        ready.set("tunnels", Err("no gateway answers".to_owned()));
        assert!(!ready.is_ready());
        assert_eq!(ready.shown()["tunnels"], "no gateway answers");
    }
}
