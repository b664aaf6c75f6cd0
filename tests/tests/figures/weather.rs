//! Networks that drop what is sent: everything, or UDP alone.

use std::time::Duration;

use sallyport_link::Choice;
use tokio::time::sleep;

use crate::client::told;
use crate::network::Weather;
use crate::world::{World, longest, until};
use crate::{BACK, DEAD, ON_TLS, STABLE, relays};

async fn a_black_hole(choice: Choice) {
    let world = World::running(relays(choice, 40)).await;
    sleep(STABLE).await;
    let clients = world.clients().await;
    world.network.turn(Weather::BLACK_HOLE);

    let (at_relays, at_gateway, told) = tokio::join!(
        world.until_relays_notice(),
        world.until_gateway_notices(),
        told(clients)
    );
    assert!(longest(&at_relays) <= DEAD, "{at_relays:?}");
    assert!(longest(&at_gateway) <= DEAD, "{at_gateway:?}");
    assert!(longest(&told) <= DEAD, "{told:?}");

    world.network.turn(Weather::FAIR);
    let healed = world.until_all_served().await;
    assert!(longest(&healed) <= BACK, "{healed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_at_both_ends_over_tls() {
    a_black_hole(Choice::Tls).await;
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_at_both_ends_over_quic() {
    a_black_hole(Choice::Quic).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_soon_on_tls_where_udp_is_dropped() {
    let slow = Weather {
        delay: Duration::from_millis(75),
        ..Weather::WITHOUT_UDP
    };
    for weather in [Weather::WITHOUT_UDP, slow] {
        let mut world = World::at_rest(relays(Choice::Auto, 20));
        world.network.turn(weather);
        world.start_relays();
        let relays = world.relays.iter();
        let up = relays.map(|relay| until(|| relay.tunnels() > 0));
        let up = futures::future::join_all(up).await;
        assert!(longest(&up) <= ON_TLS, "{weather:?}: {up:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn tunnels_move_to_tls_when_udp_begins_to_be_dropped() {
    let world = World::running(relays(Choice::Auto, 20)).await;
    let over = |word: &'static str| {
        let mut relays = world.relays.iter();
        relays.all(|relay| world.gateway.transports(&relay.node) == [word])
    };
    assert!(over("quic"));
    sleep(STABLE).await;
    world.network.turn(Weather::WITHOUT_UDP);

    let moved = until(|| over("tls")).await;
    assert!(moved <= DEAD + ON_TLS, "{moved:?}");
}
