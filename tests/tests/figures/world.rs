//! One gateway and its relays on one network.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::gateway::{Gateway, Served};
use crate::network::Network;
use crate::relay::{Relay, Setup};

/// How often a state is looked at: the figures are this exact.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Relays start this much after one another, so that they do not all ping at the same moment.
const APART: Duration = Duration::from_millis(37);

/// No state is waited for longer than this, whatever was promised.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) gateway: Gateway,
    pub(crate) relays: Vec<Relay>,
}

impl World {
    /// A gateway that runs and relays that do not.
    pub(crate) fn at_rest(setups: impl IntoIterator<Item = Setup>) -> Self {
        let network = Network::new();
        let mut gateway = Gateway::new(&network);
        let relays: Vec<_> = (0..)
            .zip(setups)
            .map(|(number, setup)| Relay::new(number, setup))
            .collect();
        let nodes: Vec<_> = relays
            .iter()
            .map(|relay| (relay.node.clone(), relay.identity()))
            .collect();
        gateway.know(&nodes);
        gateway.start();
        Self {
            network,
            gateway,
            relays,
        }
    }

    /// A gateway and relays whose sessions are all served.
    pub(crate) async fn running(setups: impl IntoIterator<Item = Setup>) -> Self {
        let mut world = Self::at_rest(setups);
        let file = world.gateway.file();
        for relay in &mut world.relays {
            relay.start(&world.network, &file);
            sleep(APART).await;
        }
        world.until_all_served().await;
        world
    }

    /// Starts every relay, all at once.
    pub(crate) fn start_relays(&mut self) {
        let file = self.gateway.file();
        for relay in &mut self.relays {
            relay.start(&self.network, &file);
        }
    }

    /// Waits until every session is served; the times that it took, in the order of the relays.
    pub(crate) async fn until_all_served(&self) -> Vec<Duration> {
        let served = self.relays.iter().map(|relay| async {
            let since = Instant::now();
            while self.gateway.open(&relay.node).await.is_none() {
                sleep(LOOK_EVERY).await;
                assert!(since.elapsed() < BOUND, "{} is not served", relay.node);
            }
            since.elapsed()
        });
        futures::future::join_all(served).await
    }

    /// An open way to each session.
    pub(crate) async fn clients(&self) -> Vec<Served> {
        let open = self.relays.iter().map(|relay| async {
            let open = self.gateway.open(&relay.node).await;
            open.expect("it is served")
        });
        futures::future::join_all(open).await
    }

    /// How long each relay still holds a tunnel for live.
    pub(crate) async fn until_relays_notice(&self) -> Vec<Duration> {
        let noticed = self.relays.iter();
        let noticed = noticed.map(|relay| until(|| relay.tunnels() == 0));
        futures::future::join_all(noticed).await
    }

    /// How long the gateway still holds a tunnel of each relay for live.
    pub(crate) async fn until_gateway_notices(&self) -> Vec<Duration> {
        let noticed = self.relays.iter();
        let noticed = noticed.map(|relay| until(|| self.gateway.tunnels(&relay.node) == 0));
        futures::future::join_all(noticed).await
    }
}

/// Waits until a state holds; the time that it took.
pub(crate) async fn until(mut state: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !state() {
        sleep(LOOK_EVERY).await;
        assert!(since.elapsed() < BOUND, "it never came");
    }
    since.elapsed()
}

/// The longest of some times.
pub(crate) fn longest(times: &[Duration]) -> Duration {
    times.iter().copied().max().expect("there are some")
}
