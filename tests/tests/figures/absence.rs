//! A gateway that is away for a while: when its relays are back, and how often they try meanwhile.

use std::time::Duration;

use sallyport_link::Choice;
use tokio::time::{Instant, sleep};

use crate::network::Weather;
use crate::relay::Setup;
use crate::world::{World, longest};
use crate::{BACK, SHORT, STABLE, relays};

/// How long the gateway is away, in milliseconds.
const AWAY: [u64; 7] = [100, 500, 1_000, 3_000, 5_000, 8_000, 10_000];

/// Kills the gateway, starts it again after each of these times, and checks when the relays are back. First it runs long
/// enough in between for the backoff to begin anew, then not.
async fn the_gateway_comes_back(choice: Choice, weather: Weather) {
    let mut world = World::running(relays(choice, 100)).await;
    world.network.turn(weather);
    sleep(STABLE).await;
    let absences = AWAY.map(Duration::from_millis);
    let absences = [STABLE, SHORT].map(|lived| absences.map(|away| (lived, away)));
    for (lived, away) in absences.into_iter().flatten() {
        sleep(lived).await;
        world.until_all_served().await;
        world.gateway.kill();
        sleep(away).await;
        world.gateway.start();
        let back = world.until_all_served().await;
        let worst = longest(&back);
        assert!(
            worst <= BACK,
            "away for {away:?} after {lived:?}: {worst:?} of {back:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn relays_are_back_soon_after_their_gateway_over_tls() {
    the_gateway_comes_back(Choice::Tls, Weather::FAIR).await;
}

#[tokio::test(start_paused = true)]
async fn relays_are_back_soon_after_their_gateway_over_quic() {
    the_gateway_comes_back(Choice::Quic, Weather::FAIR).await;
}

#[tokio::test(start_paused = true)]
async fn relays_are_back_soon_after_their_gateway_when_both_are_raced() {
    the_gateway_comes_back(Choice::Auto, Weather::FAIR).await;
}

#[tokio::test(start_paused = true)]
async fn relays_are_back_soon_after_their_gateway_where_udp_is_dropped() {
    the_gateway_comes_back(Choice::Auto, Weather::WITHOUT_UDP).await;
}

/// Relays with more tunnels than one, which are no reason to ask more often.
fn with_two_tunnels(choice: Choice) -> impl Iterator<Item = Setup> {
    relays(choice, 100).map(|setup| Setup {
        tunnels: 2,
        ..setup
    })
}

/// How often each relay dials from now on until `end`, and when.
async fn tries(world: &World, meanwhile: impl Future<Output = ()>) -> Vec<Vec<Instant>> {
    let begin = Instant::now();
    meanwhile.await;
    let all = world.relays.iter();
    all.map(|relay| {
        let mut dialled = world.network.dialled(relay.ip);
        dialled.retain(|at| *at > begin);
        dialled
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_restarts_within_a_second_is_not_hammered() {
    let mut world = World::running(with_two_tunnels(Choice::Tls)).await;
    sleep(STABLE).await;
    world.gateway.kill();
    let away = tries(&world, sleep(Duration::from_secs(1))).await;
    let most = away.iter().map(Vec::len).max();
    assert!(most <= Some(6), "{most:?}");
}

async fn ten_minutes(choice: Choice) {
    let mut world = World::running(with_two_tunnels(choice)).await;
    sleep(STABLE).await;
    world.gateway.kill();
    let away = tries(&world, sleep(Duration::from_secs(600))).await;
    let (least, most) = (
        away.iter().map(Vec::len).min(),
        away.iter().map(Vec::len).max(),
    );
    assert!(
        least >= Some(40) && most <= Some(80),
        "{least:?} to {most:?}"
    );

    // By now nobody knows any more when it went: they come back one by one.
    let (begin, mut slots) = (Instant::now(), [0_u32; 31]);
    world.gateway.start();
    let mut back = Vec::new();
    let returned = tries(&world, async { back = world.until_all_served().await }).await;
    for first in returned.iter().filter_map(|dialled| dialled.first()) {
        let second = usize::try_from((*first - begin).as_secs()).expect("few");
        slots[second] += 1;
    }
    assert!(longest(&back) <= Duration::from_secs(35), "{back:?}");
    assert!(slots.iter().all(|slot| *slot <= 15), "{slots:?}");
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_take_at_most_eighty_tries_and_end_without_a_herd() {
    ten_minutes(Choice::Tls).await;
}

#[tokio::test(start_paused = true)]
async fn a_race_takes_no_more_tries() {
    ten_minutes(Choice::Auto).await;
}
