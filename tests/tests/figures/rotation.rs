//! Keys that change under tunnels which carry something, in whatever order gateway and nodes hear of it.

use std::time::Duration;

use sallyport_link::{Choice, GatewayFile, Key};
use sallyport_wire::Scope;
use tokio::time::timeout;

use crate::client::told;
use crate::relays;
use crate::world::{World, until};

/// Long enough for a tunnel that is to end to have ended.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_key_counts_before_the_gateway_has_looked_at_its_file() {
    for choice in [Choice::Tls, Choice::Quic] {
        let world = World::running(relays(choice, 1)).await;
        let relay = world.relays.first().expect("one relay");
        let clients = world.clients().await;

        let (file, new) = world.gateway.add_key();
        relay.give(&file);

        let served = told(clients);
        tokio::pin!(served);
        let changed = timeout(SOON, async {
            until(|| world.gateway.keys(&relay.node) == [new.as_str()]).await
        });
        tokio::select! {
            changed = changed => assert!(changed.is_ok(), "{choice:?}: it is never taken"),
            cut = &mut served => assert!(cut.is_empty(), "{choice:?}: streams were cut after {cut:?}"),
        }
        assert!(
            timeout(SOON, served).await.is_err(),
            "{choice:?}: streams were cut"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_gateway_was_never_given_ends_no_tunnel() {
    let world = World::running(relays(Choice::Auto, 1)).await;
    let relay = world.relays.first().expect("one relay");
    let clients = world.clients().await;
    let before = world.gateway.keys(&relay.node);
    let file = world.gateway.file();
    let stranger = Key::generate(Scope::default(), None).expect("a key");

    relay.give(&GatewayFile {
        keys: vec![stranger],
        ..file
    });

    let cut = timeout(SOON, told(clients)).await;
    assert!(cut.is_err(), "streams were cut after {cut:?}");
    assert_eq!(world.gateway.keys(&relay.node), before);
}
