//! Datagrams both ways.

use std::time::Duration;

use bytes::Bytes;
use sallyport_link::{Flow, Settings, Transport};
use sallyport_wire::Code;
use sallyport_wire::message::{Head, Kind};

use crate::support::{BOTH, Pair, SOON, pair, pair_with, soon};

fn head() -> Head {
    Head {
        kind: Kind::Udp.into(),
        ..Head::default()
    }
}

async fn flow(pair: &Pair) -> (Flow, Flow) {
    let opened = pair.gateway.open_flow(head()).await.expect("a flow");
    let incoming = soon(pair.relay.accept()).await.expect("a stream");
    let (got, stream) = incoming.head(SOON).await.expect("a head");
    assert_eq!(got.kind(), Kind::Udp);
    (opened, stream.into_flow(&pair.relay))
}

/// Sends until it arrives, as who uses datagrams must.
async fn passes(from: &Flow, to: &Flow, datagram: Bytes) {
    let sending = async {
        loop {
            from.send(datagram.clone()).await.expect("a live flow");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Those of an earlier call, sent twice, may still be on their way.
    let arriving = async { while to.recv().await.expect("a live flow") != datagram {} };
    tokio::select! {
        endless = sending => endless,
        () = arriving => {}
    }
}

#[tokio::test]
async fn datagrams_of_any_size_pass_both_ways() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (ours, theirs) = flow(&pair).await;
        for size in [0, 1, 1_100, 1_200, 9_000, 65_535] {
            let datagram = Bytes::from(vec![u8::try_from(size % 251).expect("small"); size]);
            soon(passes(&ours, &theirs, datagram.clone())).await;
            soon(passes(&theirs, &ours, datagram)).await;
        }
        assert_eq!(ours.dropped() + theirs.dropped(), 0);
    }
}

#[tokio::test]
async fn the_first_datagram_does_not_overtake_its_flow() {
    for transport in BOTH {
        for _ in 0..20 {
            let pair = pair(transport).await;
            let opened = pair.gateway.open_flow(head()).await.expect("a flow");
            opened
                .send(Bytes::from_static(b"first"))
                .await
                .expect("a live flow");
            let incoming = soon(pair.relay.accept()).await.expect("a stream");
            let (_head, stream) = incoming.head(SOON).await.expect("a head");
            let taken = stream.into_flow(&pair.relay);
            assert_eq!(soon(taken.recv()).await.expect("a datagram"), "first");
        }
    }
}

#[tokio::test]
async fn flows_do_not_mix() {
    let pair = pair(Transport::Quic).await;
    let (one, one_end) = flow(&pair).await;
    let (two, two_end) = flow(&pair).await;
    soon(passes(&one, &one_end, Bytes::from_static(b"one"))).await;
    soon(passes(&two, &two_end, Bytes::from_static(b"two"))).await;
    soon(passes(&one_end, &one, Bytes::from_static(b"one"))).await;
    soon(passes(&two_end, &two, Bytes::from_static(b"two"))).await;
}

/// Sends ten datagrams and reads what is left of them.
async fn burst(from: &Flow, to: &Flow) -> Vec<u8> {
    let quiet = Duration::from_millis(150);
    for number in 0..10_u8 {
        let sent = from.send(Bytes::from(vec![number])).await;
        sent.expect("a live flow");
    }
    tokio::time::sleep(quiet).await;
    let mut left = Vec::new();
    while let Ok(datagram) = tokio::time::timeout(quiet, to.recv()).await {
        left.extend(datagram.expect("a live flow"));
    }
    left
}

#[tokio::test]
async fn a_full_queue_drops_the_newest() {
    for transport in BOTH {
        let theirs = Settings {
            flow_queue: 2,
            ..Settings::relay()
        };
        let pair = pair_with(transport, Settings::gateway(), theirs).await;
        let (ours, theirs) = flow(&pair).await;
        // Whether a burst is over when it is read cannot be seen from here; once it is, two of it are left.
        soon(async { while burst(&ours, &theirs).await != [0, 1] {} }).await;
        soon(passes(&ours, &theirs, Bytes::from_static(b"later"))).await;
    }
}

#[tokio::test]
async fn a_flow_ends_with_either_handle_and_with_the_tunnel() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (ours, theirs) = flow(&pair).await;
        drop(ours);
        assert_eq!(soon(theirs.recv()).await, None);
        let (ours, theirs) = flow(&pair).await;
        drop(theirs);
        assert_eq!(soon(ours.recv()).await, None);
        assert!(ours.send(Bytes::new()).await.is_err());
        let (ours, theirs) = flow(&pair).await;
        pair.relay.close(Code::Closed);
        assert_eq!(soon(ours.recv()).await, None);
        assert_eq!(soon(theirs.recv()).await, None);
    }
}
