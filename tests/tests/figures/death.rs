//! A process that dies: who hears of it when, and when all is well again.

use std::time::Duration;

use sallyport_link::Choice;
use sallyport_wire::Code;
use tokio::time::{Instant, sleep};

use crate::client::told;
use crate::relay::Setup;
use crate::world::{World, longest, until};
use crate::{AT_ONCE, DEAD, SERVED, STABLE, relays};

/// When somebody else hears that a process died: TCP says so, UDP does not.
const HEARD: [(Choice, Duration); 2] = [(Choice::Tls, AT_ONCE), (Choice::Quic, DEAD)];

#[tokio::test(start_paused = true)]
async fn a_dead_relay_is_noticed_and_its_clients_are_told() {
    for (choice, within) in HEARD {
        let mut world = World::running(relays(choice, 20)).await;
        let clients = world.clients().await;
        sleep(Duration::from_millis(700)).await;
        world.relays.iter_mut().for_each(|relay| relay.kill());

        let (noticed, told) = tokio::join!(world.until_gateway_notices(), told(clients));
        assert!(longest(&noticed) <= within, "{choice:?}: {noticed:?}");
        assert!(longest(&told) <= within, "{choice:?}: {told:?}");
        let since = Instant::now();
        for relay in &world.relays {
            let denial = world.gateway.refusal(&relay.node).await;
            assert_eq!((denial.code, denial.code.status()), (Code::HomeLost, 503));
            assert!(denial.retry_after.is_some());
        }
        assert_eq!(since.elapsed(), Duration::ZERO, "a refusal takes no time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_relay_with_tunnels_of_both_transports_is_missed_at_once() {
    let both = |setup| Setup {
        tunnels: 2,
        ..setup
    };
    let mut world = World::running(relays(Choice::Auto, 20).map(both)).await;
    let tunnels = |world: &World, wanted| {
        let mut relays = world.relays.iter();
        relays.all(|relay| world.gateway.tunnels(&relay.node) == wanted)
    };
    until(|| tunnels(&world, 2)).await;
    sleep(STABLE).await;
    let since = Instant::now();
    world.relays.iter_mut().for_each(|relay| relay.kill());
    until(|| tunnels(&world, 1)).await;

    let nodes = world.relays.iter().map(|relay| &relay.node);
    let refused = nodes.map(|node| world.gateway.refusal(node));
    for denial in futures::future::join_all(refused).await {
        assert_eq!((denial.code, denial.code.status()), (Code::HomeLost, 503));
    }
    assert!(since.elapsed() <= AT_ONCE, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dead_gateway_is_noticed() {
    for (choice, within) in HEARD {
        let mut world = World::running(relays(choice, 20)).await;
        sleep(Duration::from_millis(700)).await;
        world.gateway.kill();

        let noticed = world.until_relays_notice().await;
        assert!(longest(&noticed) <= within, "{choice:?}: {noticed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_back_serves_soon_and_ends_what_its_predecessor_held() {
    for choice in [Choice::Tls, Choice::Quic, Choice::Auto] {
        for away in [100, 3_000, 10_000].map(Duration::from_millis) {
            let mut world = World::running(relays(choice, 20)).await;
            sleep(STABLE).await;
            let clients = world.clients().await;
            world.relays.iter_mut().for_each(|relay| relay.kill());
            sleep(away).await;
            world.start_relays();

            let (served, told) = tokio::join!(world.until_all_served(), told(clients));
            assert!(
                longest(&served) <= SERVED,
                "{choice:?} {away:?}: {served:?}"
            );
            assert!(longest(&told) <= SERVED, "{choice:?} {away:?}: {told:?}");
        }
    }
}
