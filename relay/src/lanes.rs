//! The lanes to one gateway, each of which holds one tunnel: how many are wanted, and whose turn it is to dial.

use tokio::sync::watch;

/// The lanes to one gateway. Clones are the same lanes.
#[derive(Debug, Clone)]
pub struct Lanes(watch::Sender<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    wanted: usize,
    up: usize,
}

impl State {
    const fn may_dial(self, lane: usize) -> bool {
        lane < self.wanted && (lane == 0 || self.up > 0)
    }
}

/// A lane that holds a tunnel which serves.
#[derive(Debug)]
pub struct Held(Lanes);

impl Lanes {
    /// One lane is wanted until the gateway has said how many.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(State { wanted: 1, up: 0 }))
    }

    /// Waits until a lane may dial. While no tunnel is up only the first one may, so that a gateway that is away or
    /// refuses is asked once and not by each lane.
    pub async fn turn(&self, lane: usize) {
        self.until(|state| state.may_dial(lane)).await;
    }

    /// Whether a lane may dial now.
    #[must_use]
    pub fn is_turn(&self, lane: usize) -> bool {
        self.0.borrow().may_dial(lane)
    }

    /// A tunnel came up, to a gateway that wants so many; it counts until the guard is dropped.
    #[must_use]
    pub fn hold(&self, wanted: usize) -> Held {
        self.0.send_modify(|state| {
            state.wanted = wanted;
            state.up = state.up.saturating_add(1);
        });
        Held(self.clone())
    }

    /// Whether a lane is to hold a tunnel.
    #[must_use]
    pub fn is_wanted(&self, lane: usize) -> bool {
        lane < self.0.borrow().wanted
    }

    /// Waits until a lane is not to hold a tunnel any more.
    pub async fn unwanted(&self, lane: usize) {
        self.until(|state| lane >= state.wanted).await;
    }

    async fn until(&self, state: impl FnMut(&State) -> bool) {
        let waited = self.0.subscribe().wait_for(state).await.is_ok();
        debug_assert!(waited, "the sender is here");
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Self(Lanes(state)) = self;
        state.send_modify(|state| state.up = state.up.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn turns(lanes: &Lanes) -> Vec<usize> {
        let may = |lane: &usize| lanes.turn(*lane).now_or_never().is_some();
        (0..4).filter(may).collect()
    }

    #[test]
    fn the_first_lane_asks_and_the_others_follow_while_a_tunnel_is_up() {
        let lanes = Lanes::new();
        assert_eq!(turns(&lanes), [0]);

        let first = lanes.hold(3);
        assert_eq!(turns(&lanes), [0, 1, 2]);
        let second = lanes.hold(3);
        drop(first);
        assert_eq!(turns(&lanes), [0, 1, 2]);
        drop(second);
        assert_eq!(turns(&lanes), [0]);
    }

    #[test]
    fn a_gateway_may_want_fewer() {
        let lanes = Lanes::new();
        let _first = lanes.hold(3);
        let _second = lanes.hold(1);

        assert_eq!(turns(&lanes), [0]);
        assert!(lanes.is_wanted(0) && !lanes.is_wanted(1));
        assert!(lanes.unwanted(1).now_or_never().is_some());
        assert!(lanes.unwanted(0).now_or_never().is_none());
    }
}
