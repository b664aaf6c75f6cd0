//! How much of a stream the other side's reader has taken, as its sender learns it.

use proptest::prelude::*;
use sallyport_link::{Settings, Transport, TunnelStream};
use sallyport_wire::message::ACK;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{BOTH, GateOptions, Pair, gate, pair, pair_through, soon};

/// Where acknowledgements are told in these tests.
const EVERY: usize = 10_000;

/// Bytes that may wait to be read: every window holds as many.
const UNDER_WAY: usize = 128 * 1024;

/// A pair whose sides tell what they have taken.
async fn telling(transport: Transport) -> Pair {
    let tells = |settings| Settings {
        ack_every: EVERY,
        ..settings
    };
    let gate = gate(GateOptions {
        settings: tells(Settings::gateway()),
        features: vec![ACK.to_owned()],
        ..GateOptions::default()
    })
    .await;
    let to = gate.address.clone();
    Box::pin(pair_through(gate, &to, transport, tells(Settings::relay()))).await
}

/// Waits until the other side has told that it took so much.
async fn told(stream: &TunnelStream, bytes: u64) {
    soon(async {
        while stream.taken().expect("both sides tell") < bytes {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Writes and reads as `steps` say, both on the same task, up to the end; at no time is more told than was read.
async fn carry(from: &mut TunnelStream, to: &mut TunnelStream, steps: &[(usize, usize)]) {
    let (mut sent, mut read) = (0, 0);
    let mut buffer = vec![0; UNDER_WAY];
    for (writes, reads) in steps {
        from.write_all(&buffer[..*writes]).await.expect("live");
        sent += writes;
        let wanted = (*reads).min(sent - read);
        let must = (sent - read).saturating_sub(UNDER_WAY);
        let space = &mut buffer[..wanted.max(must)];
        soon(to.read_exact(space)).await.expect("live");
        read += wanted.max(must);
        assert!(from.taken().expect("told") <= read as u64);
    }
    told(from, (read - read % EVERY).saturating_sub(UNDER_WAY) as u64).await;
    from.shutdown().await.expect("live");
    let mut rest = Vec::new();
    soon(to.read_to_end(&mut rest)).await.expect("an end");
    assert_eq!(read + rest.len(), sent);
    told(from, sent as u64).await;
    assert_eq!(from.taken(), Some(sent as u64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn nothing_is_taken_before_it_is_read_and_in_the_end_all_is(
        up in prop::collection::vec((1_usize..60_000, 0_usize..60_000), 1..30),
        down in prop::collection::vec((1_usize..60_000, 0_usize..60_000), 1..30),
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            for transport in BOTH {
                let pair = telling(transport).await;
                let (mut ours, mut theirs) = pair.stream().await;
                carry(&mut ours, &mut theirs, &up).await;
                carry(&mut theirs, &mut ours, &down).await;
            }
        });
    }
}

#[tokio::test]
async fn who_did_not_agree_to_tell_tells_nothing() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (mut ours, mut theirs) = pair.stream().await;
        ours.write_all(b"a few bytes").await.expect("live");
        ours.shutdown().await.expect("live");
        let mut all = Vec::new();
        soon(theirs.read_to_end(&mut all)).await.expect("an end");
        assert_eq!(ours.taken(), None);
    }
}
