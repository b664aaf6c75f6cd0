//! Who sends when, and what is told about it.

use std::future::poll_fn;

use bytes::Bytes;
use sallyport_mux::{Role, Settings, StreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::support::{end, pair, pattern, soon, stream, why};

/// Payload of a frame that fills a TLS record.
const FULL: u32 = 16 * 1024 - 12;

/// The next frame: flags, stream and length of its header; payload is skipped.
async fn frame(io: &mut DuplexStream) -> (u8, u16, u32, u32) {
    let mut header = [0; 12];
    soon(io.read_exact(&mut header)).await.expect("a frame");
    let flags = u16::from_be_bytes([header[2], header[3]]);
    let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    if header[1] == 0 {
        io.read_exact(&mut vec![0; length as usize])
            .await
            .expect("payload");
    }
    (header[1], flags, stream, length)
}

#[tokio::test]
async fn opening_costs_no_frame_of_its_own() {
    let (here, mut there) = duplex(64 * 1024);
    let client = end(here, Role::Client, Settings::default());
    let mut opened = client.mux.open().expect("live");
    opened.write_all(b"hello").await.expect("live");
    assert_eq!(frame(&mut there).await, (0, 1, 1, 5), "data with SYN");
    opened.shutdown().await.expect("live");
    assert_eq!(frame(&mut there).await, (0, 4, 1, 0), "the end");
    let mut whole = client.mux.open().expect("live");
    whole.write_all(b"hello").await.expect("live");
    whole.shutdown().await.expect("live");
    assert_eq!(frame(&mut there).await, (0, 5, 3, 5), "all in one");
}

#[tokio::test]
async fn an_urgent_stream_is_heard_of_first() {
    let (here, mut there) = duplex(64 * 1024);
    let client = end(here, Role::Client, Settings::default());
    let mut urgent = client.mux.open_urgent().expect("live");
    let mut other = client.mux.open().expect("live");
    other.write_all(b"first used").await.expect("live");
    assert_eq!(
        frame(&mut there).await,
        (1, 1, 1, 0),
        "the urgent one opens"
    );
    assert_eq!(frame(&mut there).await, (0, 1, 3, 10));
    urgent.write_all(b"now").await.expect("live");
    assert_eq!(frame(&mut there).await, (0, 0, 1, 3));
}

#[tokio::test]
async fn a_sparse_stream_goes_before_bulk_that_waits() {
    let (here, mut there) = duplex(16);
    let client = end(here, Role::Client, Settings::default());
    let mut bulk = client.mux.open().expect("live");
    bulk.write_all(&[0; 128 * 1024]).await.expect("live");
    tokio::task::yield_now().await; // the first batch is on its way
    let mut sparse = client.mux.open().expect("live");
    sparse.write_all(b"key").await.expect("live");
    let mut order = Vec::new();
    while order.last() != Some(&3) {
        order.push(frame(&mut there).await.2);
    }
    assert!(
        order.len() <= 6,
        "{order:?}: no more than one batch goes before"
    );
}

#[tokio::test]
async fn bulk_streams_share_evenly() {
    let (here, mut there) = duplex(16);
    let client = end(here, Role::Client, Settings::default());
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = client.mux.open().expect("live");
        stream
            .write_all(&[0; 8 * FULL as usize])
            .await
            .expect("live");
        streams.push(stream);
    }
    let mut bytes = [0; 8];
    for _ in 0..28 {
        let (_, _, stream, length) = frame(&mut there).await;
        bytes[stream as usize] += length;
    }
    let shares: Vec<_> = [1, 3, 5, 7].map(|number| bytes[number]).to_vec();
    let (least, most) = (shares.iter().min(), shares.iter().max());
    let spread = most.expect("four") - least.expect("four");
    assert!(spread <= 5 * 16 * 1024, "{shares:?}");
}

#[tokio::test]
async fn bulk_leaves_in_full_frames_however_it_is_cut() {
    let (here, mut there) = duplex(64 * 1024);
    let client = end(here, Role::Client, Settings::default());
    let stream = client.mux.open().expect("live");
    let lengths = [5_000, 30_000, 4_097, 60_000, 20_000];
    for mut piece in lengths.map(|length| Bytes::from(pattern(0, length))) {
        let given = poll_fn(|cx| stream.poll_give(cx, &mut piece)).await;
        assert_eq!((given.expect("live") > 0, piece.len()), (true, 0));
    }
    for _ in 0..lengths.iter().sum::<usize>() / FULL as usize {
        assert_eq!(frame(&mut there).await.3, FULL);
    }
}

#[tokio::test]
async fn what_waits_to_be_sent_is_a_number_of_full_frames() {
    let (here, _there) = duplex(16);
    let client = end(here, Role::Client, Settings::default());
    let stream = client.mux.open().expect("live");
    let mut piece = Bytes::from(pattern(0, 256 * 1024));
    let given = poll_fn(|cx| stream.poll_give(cx, &mut piece)).await;
    assert_eq!(given.expect("live"), 8 * FULL as usize);
}

#[tokio::test]
async fn pieces_are_taken_as_they_came_up_to_the_end() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, taken) = stream(&client, &server).await;
    let sent = pattern(0, 100_000);
    let writing = async {
        opened.write_all(&sent).await.expect("live");
        opened.shutdown().await.expect("live");
    };
    let reading = async {
        let mut pieces: Vec<Bytes> = Vec::new();
        while poll_fn(|cx| taken.poll_take(cx, 40_000, &mut pieces))
            .await
            .expect("live")
            > 0
        {}
        pieces.concat()
    };
    let ((), got) = soon(async { tokio::join!(writing, reading) }).await;
    assert!(got == sent);
    assert_eq!(server.mux.figures().unread, 0);
}

#[tokio::test]
async fn an_abort_is_told_to_who_takes_and_gives_pieces() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (opened, taken) = stream(&client, &server).await;
    opened.abort(7);
    let mut pieces: Vec<Bytes> = Vec::new();
    let read = soon(poll_fn(|cx| taken.poll_take(cx, 1, &mut pieces))).await;
    assert_eq!(why(read), StreamError::Reset(7));
    let mut piece = Bytes::from_static(b"late");
    let written = soon(poll_fn(|cx| taken.poll_give(cx, &mut piece))).await;
    assert_eq!((why(written), piece.len()), (StreamError::Reset(7), 4));
}

#[tokio::test]
async fn a_window_grows_where_the_path_is_long() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, mut taken) = stream(&client, &server).await;
    let total = 64 * 1024 * 1024;
    let writing = async {
        let chunk = vec![0; 64 * 1024];
        for _ in 0..total / chunk.len() {
            opened.write_all(&chunk).await.expect("live");
        }
        opened.shutdown().await.expect("live");
    };
    let reading = async {
        let mut got = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = taken.read(&mut buffer).await.expect("live");
            if read == 0 {
                return got;
            }
            got += read;
        }
    };
    let ((), got) = soon(async { tokio::join!(writing, reading) }).await;
    assert_eq!(got, total);
    assert!(
        server.mux.figures().rtt.is_some(),
        "the round trip was measured"
    );
}
