//! When a tunnel ends, and what it says meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sallyport_link::{Settings, Transport};
use sallyport_wire::Code;
use sallyport_wire::message::{Advertise, ControlKind, Offer, Rotate};

use crate::support::{BOTH, GateOptions, address, gate, pair, pair_through, pair_with, soon};
use crate::wire_cut::{self, Network};

fn quick(settings: Settings) -> Settings {
    Settings {
        ping_every: Duration::from_millis(250),
        dead_after: Duration::from_secs(1),
        ..settings
    }
}

#[tokio::test]
async fn a_black_hole_is_noticed_in_time() {
    for transport in BOTH {
        let gate = gate(GateOptions {
            settings: quick(Settings::gateway()),
            ..GateOptions::default()
        })
        .await;
        let between = match transport {
            Transport::Tls => wire_cut::tcp(gate.socket).await,
            Transport::Quic => wire_cut::udp(gate.socket).await,
        };
        let to = address(between.address, gate.address.pins[0]);
        let pair = pair_through(gate, &to, transport, quick(Settings::relay())).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(pair.gateway.rtt().is_some(), "it lives while it is heard");

        between.network.send_replace(Network::Frozen);
        let frozen = Instant::now();
        let ends = soon(async { tokio::join!(pair.gateway.closed(), pair.relay.closed()) }).await;

        assert_eq!(
            (ends.0.code, ends.1.code),
            (Code::TunnelLost, Code::TunnelLost)
        );
        let took = frozen.elapsed();
        assert!(took < Duration::from_secs(10), "{transport}: {took:?}");
    }
}

#[tokio::test]
async fn a_restarted_gateway_says_that_tunnels_are_gone() {
    let first = gate(GateOptions::default()).await;
    let second = gate(GateOptions::default()).await;
    let restarted = second.socket;
    let between = wire_cut::udp(first.socket).await;
    let to = address(between.address, first.address.pins[0]);
    let pair = pair_through(first, &to, Transport::Quic, Settings::relay()).await;
    let (mut opened, _taken) = pair.stream().await;

    // From now on the packets reach a process that has the same key and no memory.
    between.network.send_replace(Network::Leads(restarted));
    let led = Instant::now();
    let end = soon(pair.relay.closed()).await;

    assert_eq!(end.code, Code::TunnelLost);
    assert!(
        led.elapsed() < Duration::from_secs(4),
        "{:?} {end}",
        led.elapsed()
    );
    assert!(end.cause.contains("reset"), "{end}");
    opened.abort(Code::Closed);
}

#[tokio::test]
async fn both_ends_export_the_same_binding() {
    for transport in BOTH {
        let one = pair(transport).await;
        let other = pair(transport).await;
        assert_eq!(one.gateway.binding(), one.relay.binding());
        assert_ne!(one.gateway.binding(), other.gateway.binding());
        assert_eq!(one.gateway.id(), one.relay.id());
    }
}

#[tokio::test]
async fn control_messages_keep_their_order() {
    for transport in BOTH {
        let pair = pair(transport).await;
        for revision in 1..=50 {
            let message = ControlKind::Advertise(Advertise {
                revision,
                home: vec![Offer::default(); 20],
                ..Advertise::default()
            });
            pair.relay.send(message).await.expect("a live tunnel");
        }
        for revision in 1..=50 {
            let Some(ControlKind::Advertise(got)) = soon(pair.gateway.control()).await else {
                panic!("an advertisement");
            };
            assert_eq!(got.revision, revision);
        }
    }
}

#[tokio::test]
async fn control_messages_that_nobody_takes_end_the_tunnel() {
    for transport in BOTH {
        let ours = Settings {
            control_queue: 4,
            ..Settings::gateway()
        };
        let pair = pair_with(transport, ours, Settings::relay()).await;
        for _ in 0..5 {
            let sent = pair
                .relay
                .send(ControlKind::Rotate(Rotate::default()))
                .await;
            sent.expect("a live tunnel");
        }
        assert_eq!(soon(pair.gateway.closed()).await.code, Code::Limit);
        assert_eq!(
            soon(pair.relay.closed()).await.code,
            Code::Limit,
            "{transport}"
        );
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_not_sent() {
    let pair = pair(Transport::Tls).await;
    let long = Rotate {
        proof: Bytes::from(vec![0; 61 * 1024]),
        ..Rotate::default()
    };
    assert!(pair.relay.send(ControlKind::Rotate(long)).await.is_err());
    assert!(pair.stream().await.0.number() > 0, "the tunnel lives");
}

#[tokio::test]
async fn nothing_outlives_the_last_handle() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (_opened, _taken) = pair.stream().await;
        drop(pair.relay);
        soon(pair.gateway.closed()).await;
        drop(pair.gateway);
        soon(async {
            while !pair.relay_tasks.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn figures_move() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let before = pair.gateway.figures();
        let stream = pair.stream().await;
        let after = pair.gateway.figures();
        assert!(after.sent > before.sent && after.received > before.received);
        assert_eq!(after.streams, 1);
        soon(async {
            while pair.gateway.figures().rtt.is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(stream);
        assert_eq!(pair.gateway.streams(), 0);
    }
}
