//! Bytes both ways.

use aws_lc_rs::digest::{Context, SHA256};
use sallyport_link::{OpenError, Settings, Tunnel};
use sallyport_splice::{Ended, EndedBy, Limits, Meter};
use sallyport_wire::message::{Client, Head};
use sallyport_wire::{Code, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tracing::Span;

use crate::support::{BOTH, SOON, code, pair, pair_with, soon, take};

/// Sends everything back on every stream that comes.
async fn echo(tunnel: Tunnel, tasks: sallyport_ops::Tasks) {
    while let Some(incoming) = tunnel.accept().await {
        tasks.spawn(Span::none(), async move {
            let (_head, stream) = incoming.head(SOON).await.expect("a head");
            let (mut read, mut write) = tokio::io::split(stream);
            let copied = tokio::io::copy(&mut read, &mut write).await;
            copied.expect("an orderly end");
            write.shutdown().await.expect("a live stream");
        });
    }
}

#[tokio::test]
async fn head_and_first_bytes_arrive_together() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let head = Head {
            target: "desk".to_owned(),
            client: Some(Client::default()),
            ..Head::default()
        };
        let mut opened = pair.gateway.open(head.clone()).await.expect("a stream");
        opened.write_all(b"first").await.expect("a live stream");

        let incoming = soon(pair.relay.accept()).await.expect("a stream");
        let (got, mut taken) = incoming.head(SOON).await.expect("a head");
        let mut first = [0; 5];
        soon(taken.read_exact(&mut first)).await.expect("bytes");

        assert_eq!(got, head);
        assert_eq!(&first, b"first");
        assert_eq!(taken.number(), opened.number());
    }
}

/// Joins a pipe to a new stream of the gateway's.
async fn ask(gateway: &Tunnel, mut client: DuplexStream) -> Ended {
    let mut stream = gateway.open(Head::default()).await.expect("a stream");
    sallyport_splice::run(&mut client, &mut stream, &Limits::default(), &Meter::new()).await
}

/// Joins the stream that comes to a pipe.
async fn serve(relay: &Tunnel, mut session: DuplexStream) -> Ended {
    let mut stream = take(relay).await;
    sallyport_splice::run(&mut stream, &mut session, &Limits::default(), &Meter::new()).await
}

/// Writes and reads until both directions have ended.
async fn talk(pipe: DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(pipe);
    let mut got = Vec::new();
    let writing = async {
        write.write_all(bytes).await.expect("a live pipe");
        write.shutdown().await.expect("a live pipe");
    };
    let (ended, ()) = tokio::join!(read.read_to_end(&mut got), writing);
    ended.expect("an orderly end");
    got
}

#[tokio::test]
async fn joined_streams_carry_head_answer_and_every_byte() {
    let bytes = |seed: u32| -> Vec<u8> {
        let places = 0..1_000_003_u32;
        places
            .map(|place| (place.wrapping_mul(seed)).to_be_bytes()[0])
            .collect()
    };
    let (up, down) = (bytes(0x9e37_79b9), bytes(0x85eb_ca6b));
    for transport in BOTH {
        let pair = pair(transport).await;
        let (client, near) = duplex(64 * 1024);
        let (session, far) = duplex(64 * 1024);
        let (asked, served, got_down, got_up) = soon(async {
            tokio::join!(
                ask(&pair.gateway, near),
                serve(&pair.relay, far),
                talk(client, &up),
                talk(session, &down),
            )
        })
        .await;
        assert!(got_up == up && got_down == down, "{transport}");
        for Ended { up, down, by } in [asked, served] {
            assert!(matches!(by, EndedBy::Both), "{by:?}");
            assert_eq!((up, down), (1_000_003, 1_000_003));
        }
    }
}

#[tokio::test]
async fn a_joined_stream_ends_with_the_refusal() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let (mut client, near) = duplex(64 * 1024);
        client.write_all(b"anybody?").await.expect("a live pipe");
        let refusing = async {
            let incoming = pair.relay.accept().await.expect("a stream");
            let (_head, stream) = incoming.head(SOON).await.expect("a head");
            stream.refuse(Code::SessionDown).await;
        };
        let (ended, ()) = soon(async { tokio::join!(ask(&pair.gateway, near), refusing) }).await;
        let EndedBy::Session(error) = ended.by else {
            panic!("{transport}: {:?}", ended.by);
        };
        assert_eq!(
            Refusal::in_chain(&error).map(|refusal| refusal.0),
            Some(Code::SessionDown)
        );
    }
}

#[tokio::test]
async fn streams_that_nobody_reads_hold_up_no_other() {
    for transport in BOTH {
        let ours = Settings {
            unread: 512 * 1024,
            quic_stream_window: 64 * 1024,
            quic_window: 512 * 1024,
            ..Settings::gateway()
        };
        let pair = pair_with(transport, ours, Settings::relay()).await;
        let mut unread = Vec::new();
        for _ in 0..12 {
            let (opened, mut taken) = pair.stream().await;
            unread.push(opened);
            pair.relay_tasks.spawn(Span::none(), async move {
                drop(taken.write_all(&[7; 1024 * 1024]).await);
            });
        }
        let (mut asking, mut answering) = pair.stream().await;
        for byte in 0..100 {
            soon(answering.write_all(&[byte; 10_000]))
                .await
                .expect("a live stream");
            let mut came = [0; 10_000];
            soon(asking.read_exact(&mut came))
                .await
                .expect("a live stream");
            assert_eq!(came, [byte; 10_000]);
        }
        let mut given_up = 0;
        for mut stream in unread {
            let mut all = Vec::new();
            let read = soon(stream.read_to_end(&mut all)).await;
            assert!(read.is_err() || all.len() == 1024 * 1024, "{}", all.len());
            given_up += u32::from(read.is_err_and(|error| code::<()>(Err(error)) == Code::Limit));
        }
        assert!(given_up > 0);
        assert!(
            pair.gateway.open(Head::default()).await.is_ok(),
            "the tunnel lives"
        );
    }
}

#[tokio::test]
async fn a_stream_is_half_closed_from_either_side() {
    for transport in BOTH {
        let pair = pair(transport).await;
        for gateway_first in [true, false] {
            let (opened, taken) = pair.stream().await;
            let (mut first, mut second) = if gateway_first {
                (opened, taken)
            } else {
                (taken, opened)
            };
            first.write_all(b"question").await.expect("a live stream");
            first.shutdown().await.expect("a live stream");
            let mut question = Vec::new();
            soon(second.read_to_end(&mut question))
                .await
                .expect("an orderly end");
            second
                .write_all(b"answer")
                .await
                .expect("the other half is open");
            second.shutdown().await.expect("a live stream");
            let mut answer = Vec::new();
            soon(first.read_to_end(&mut answer))
                .await
                .expect("an orderly end");
            assert_eq!(
                (question, answer),
                (b"question".to_vec(), b"answer".to_vec())
            );
        }
    }
}

#[tokio::test]
async fn a_stream_may_end_before_anything_is_said() {
    for transport in BOTH {
        let pair = pair(transport).await;
        let mut opened = pair.gateway.open(Head::default()).await.expect("a stream");
        opened.shutdown().await.expect("a live stream");
        let mut taken = soon(take(&pair.relay)).await;
        taken.shutdown().await.expect("a live stream");
        let (mut there, mut back) = (Vec::new(), Vec::new());
        soon(taken.read_to_end(&mut there))
            .await
            .expect("an orderly end");
        soon(opened.read_to_end(&mut back))
            .await
            .expect("an orderly end");
        assert!(there.is_empty() && back.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_arrive_whole() {
    const BLOCKS: usize = 256;
    for transport in BOTH {
        let pair = pair(transport).await;
        let (mut opened, mut taken) = pair.stream().await;
        let send = async move {
            let mut sum = Context::new(&SHA256);
            let mut block = vec![0; 256 * 1024];
            for number in 0..BLOCKS {
                block.fill(u8::try_from(number).expect("small"));
                sum.update(&block);
                opened.write_all(&block).await.expect("a live stream");
            }
            opened.shutdown().await.expect("a live stream");
            (sum.finish(), opened)
        };
        let receive = async move {
            let mut sum = Context::new(&SHA256);
            let mut block = vec![0; 100_000];
            let mut total = 0;
            loop {
                let n = taken.read(&mut block).await.expect("an orderly end");
                if n == 0 {
                    return (sum.finish(), total);
                }
                total += n;
                sum.update(&block[..n]);
            }
        };
        let (sent, received) = soon(async { tokio::join!(send, receive) }).await;
        assert_eq!(received.1, BLOCKS * 256 * 1024);
        assert_eq!(sent.0.as_ref(), received.0.as_ref(), "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_streams_at_once_and_no_more() {
    for transport in BOTH {
        let ours = Settings {
            open: 500,
            ..Settings::gateway()
        };
        let pair = pair_with(transport, ours, Settings::relay()).await;
        pair.relay_tasks.spawn(
            Span::none(),
            echo(pair.relay.clone(), pair.relay_tasks.clone()),
        );
        let mut streams = Vec::new();
        for number in 0..500_u32 {
            let mut stream = pair.gateway.open(Head::default()).await.expect("a stream");
            stream
                .write_all(&number.to_be_bytes())
                .await
                .expect("a live stream");
            streams.push(stream);
        }
        for (number, stream) in (0..500_u32).zip(&mut streams) {
            assert_eq!(soon(stream.read_u32()).await.expect("an echo"), number);
        }
        let full = pair.gateway.open(Head::default()).await;
        assert!(matches!(full, Err(OpenError::Full(500))), "{full:?}");
        assert_eq!(pair.gateway.streams(), 500);
        for mut stream in streams {
            stream.shutdown().await.expect("a live stream");
            let mut rest = Vec::new();
            soon(stream.read_to_end(&mut rest))
                .await
                .expect("an orderly end");
        }
        let mut again = pair
            .gateway
            .open(Head::default())
            .await
            .expect("places are given back");
        again.write_u32(7).await.expect("a live stream");
        assert_eq!(soon(again.read_u32()).await.expect("an echo"), 7);
    }
}

#[tokio::test]
async fn one_stream_too_many_is_refused_and_harms_no_other() {
    let theirs = Settings {
        accept: 2,
        ..Settings::relay()
    };
    let pair = pair_with(BOTH[0], Settings::gateway(), theirs).await;
    let (mut first, mut first_end) = pair.stream().await;
    let _second = pair.stream().await;
    let mut third = pair.gateway.open(Head::default()).await.expect("a stream");

    let refused = soon(async {
        tokio::select! {
            refused = third.answered() => refused,
            _ = pair.relay.accept() => panic!("there are no places left"),
        }
    });

    assert_eq!(code(refused.await), Code::Limit);
    first.write_u8(9).await.expect("a live stream");
    assert_eq!(soon(first_end.read_u8()).await.expect("a byte"), 9);
}

#[tokio::test]
async fn a_gateway_takes_no_streams() {
    let pair = pair(BOTH[0]).await;
    let mut stream = pair.relay.open(Head::default()).await.expect("a stream");
    let refused = soon(stream.answered()).await;
    assert_eq!(code(refused), Code::Limit);

    let theirs = Settings {
        open_within: std::time::Duration::from_millis(50),
        ..Settings::relay()
    };
    let pair = pair_with(BOTH[1], Settings::gateway(), theirs).await;
    let full = soon(pair.relay.open(Head::default())).await;
    assert!(matches!(full, Err(OpenError::Full(_))), "{full:?}");
}
