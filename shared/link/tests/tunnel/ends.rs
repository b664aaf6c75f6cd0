//! An abort never looks like an end.

use sallyport_link::Settings;
use sallyport_wire::Code;
use sallyport_wire::message::Head;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{BOTH, SOON, code, pair, pair_through, soon};
use crate::support::{GateOptions, address, gate};
use crate::wire_cut::{self, Network};

#[tokio::test]
async fn an_abort_fails_the_other_sides_reads_and_writes() {
    for transport in BOTH {
        let pair = pair(transport).await;
        for gateway_aborts in [true, false] {
            let (opened, taken) = pair.stream().await;
            let (mut aborts, mut other) = if gateway_aborts {
                (opened, taken)
            } else {
                (taken, opened)
            };
            aborts
                .write_all(b"half of it")
                .await
                .expect("a live stream");
            aborts.abort(Code::ClientGone);
            drop(aborts);
            let mut got = Vec::new();
            let read = soon(other.read_to_end(&mut got)).await;
            assert_eq!(code(read), Code::ClientGone, "{transport}");
            let write = soon(until_it_fails(&mut other)).await;
            assert_eq!(write, Code::ClientGone, "{transport}");
        }
    }
}

async fn until_it_fails(stream: &mut sallyport_link::TunnelStream) -> Code {
    loop {
        if let Err(error) = stream.write_all(&[0; 1_000]).await {
            return code::<()>(Err(error));
        }
    }
}

#[tokio::test]
async fn an_abort_frees_a_writer_that_waits_for_credit() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (mut opened, mut taken) = pair.stream().await;
        let writing = until_it_fails(&mut opened);
        let aborting = async {
            // Read a little, so that the writer has long run out of credit when the abort comes.
            taken.read_exact(&mut [0; 1_000]).await.expect("bytes");
            taken.abort(Code::SessionDown);
        };
        let (failed, ()) = soon(async { tokio::join!(writing, aborting) }).await;
        assert_eq!(failed, Code::SessionDown, "{transport}");
    }
}

#[tokio::test]
async fn a_dropped_stream_is_an_abort() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (mut opened, taken) = pair.stream().await;
        drop(taken);
        let read = soon(opened.read_u8()).await;
        assert_eq!(code(read), Code::Internal, "{transport}");

        let (opened, mut taken) = pair.stream().await;
        drop(opened);
        let read = soon(taken.read_u8()).await;
        assert_eq!(code(read), Code::Internal, "{transport}");
    }
}

#[tokio::test]
async fn what_was_finished_arrives_although_its_sender_stops_listening() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (mut opened, mut taken) = pair.stream().await;
        opened
            .write_all(&[7; 100_000])
            .await
            .expect("a live stream");
        opened.shutdown().await.expect("a live stream");
        drop(opened);
        let mut got = Vec::new();
        soon(taken.read_to_end(&mut got))
            .await
            .expect("an orderly end");
        assert_eq!(got.len(), 100_000, "{transport}");
        assert_eq!(soon(until_it_fails(&mut taken)).await, Code::Closed);
    }
}

#[tokio::test]
async fn a_refusal_is_read_and_fails_later_writes() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let mut opened = pair.gateway.open(Head::default()).await.expect("a stream");
        opened.write_all(b"GET /").await.expect("a live stream");
        let incoming = soon(pair.relay.accept()).await.expect("a stream");
        let (_head, stream) = incoming.head(SOON).await.expect("a head");
        soon(stream.refuse(Code::SessionRefused)).await;

        let read = soon(opened.read_u8()).await;
        assert_eq!(code(read), Code::SessionRefused, "{transport}");
        assert_eq!(until_it_fails(&mut opened).await, Code::SessionRefused);
    }
}

#[tokio::test]
async fn a_stream_without_a_head_is_reset() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let mut opened = pair.gateway.open(Head::default()).await.expect("a stream");
        opened.flush().await.expect("a live stream");
        let incoming = soon(pair.relay.accept()).await.expect("a stream");
        drop(incoming);
        assert_eq!(
            code(soon(opened.read_u8()).await),
            Code::Internal,
            "{transport}"
        );
    }
}

#[tokio::test]
async fn a_lost_connection_is_an_error_on_both_sides() {
    let gate = gate(GateOptions::default()).await;
    let between = wire_cut::tcp(gate.socket).await;
    let to = address(between.address, gate.address.pins[0]);
    let pair = pair_through(gate, &to, BOTH[0], Settings::relay()).await;
    let (mut opened, mut taken) = pair.stream().await;
    opened.write_all(b"half").await.expect("a live stream");
    taken.write_all(b"half").await.expect("a live stream");
    opened.read_exact(&mut [0; 4]).await.expect("bytes");
    taken.read_exact(&mut [0; 4]).await.expect("bytes");

    between.network.send_replace(Network::Cut);

    assert_eq!(code(soon(opened.read_u8()).await), Code::TunnelLost);
    assert_eq!(code(soon(taken.read_u8()).await), Code::TunnelLost);
    assert_eq!(soon(until_it_fails(&mut opened)).await, Code::TunnelLost);
    assert_eq!(soon(pair.gateway.closed()).await.code, Code::TunnelLost);
}

#[tokio::test]
async fn a_closed_tunnel_is_an_error_on_both_sides() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (mut opened, mut taken) = pair.stream().await;
        taken.write_all(b"half").await.expect("a live stream");
        pair.relay.close(Code::Draining);
        let mut got = Vec::new();
        let read = soon(opened.read_to_end(&mut got)).await;
        assert_eq!(code(read), Code::TunnelLost, "{transport}");
        assert_eq!(code(soon(taken.read_u8()).await), Code::TunnelLost);
        assert_eq!(
            soon(pair.gateway.closed()).await.code,
            Code::Draining,
            "{transport}"
        );
    }
}
