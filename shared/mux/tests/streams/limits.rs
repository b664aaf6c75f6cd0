//! Every bound is reached and answered.

use sallyport_mux::{Broken, Role, Settings, StreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::support::{End, end, pair, soon, stream, why};

#[tokio::test]
async fn streams_beyond_the_backlog_are_reset_with_its_code() {
    let settings = Settings {
        backlog: 2,
        backlog_code: 9,
        ..Settings::default()
    };
    let (client, server) = pair(64 * 1024, &settings);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut opened = client.mux.open().expect("live");
        opened.write_all(b"!").await.expect("live");
        streams.push(opened);
    }
    let mut refused = streams.pop().expect("three");
    assert_eq!(why(soon(refused.read_u8()).await), StreamError::Reset(9));
    for mut opened in streams {
        let mut taken = soon(server.accept()).await.expect("a stream");
        taken.write_all(b"?").await.expect("live");
        soon(opened.read_u8()).await.expect("an answer");
    }
}

#[tokio::test]
async fn an_end_that_takes_no_streams_resets_them() {
    let settings = Settings {
        backlog_code: 9,
        ..Settings::default()
    };
    let (client, server) = pair(64 * 1024, &settings);
    server.arrivals.lock().await.refuse();
    let mut opened = client.mux.open().expect("live");
    opened.write_all(b"!").await.expect("live");
    assert_eq!(why(soon(opened.read_u8()).await), StreamError::Reset(9));
}

#[tokio::test]
async fn the_stream_that_nobody_reads_goes_when_memory_is_short() {
    let settings = Settings {
        unread: 300 * 1024,
        unread_code: 8,
        ..Settings::default()
    };
    let (client, server) = pair(64 * 1024, &settings);
    let (mut slow, mut unread) = stream(&client, &server).await;
    let (mut brisk, mut read) = stream(&client, &server).await;
    slow.write_all(&[0; 200 * 1024]).await.expect("live");
    while server.mux.figures().unread < 200 * 1024 {
        tokio::task::yield_now().await;
    }
    brisk.write_all(&[0; 120 * 1024]).await.expect("live");
    assert_eq!(why(soon(slow.read_u8()).await), StreamError::Reset(8));
    assert_eq!(why(unread.read_u8().await), StreamError::Unread);
    read.read_exact(&mut vec![0; 120 * 1024])
        .await
        .expect("the other one lives");
}

/// Waits until so much that arrived at an end was not read.
async fn until_unread(end: &End, bytes: usize) {
    while end.mux.figures().unread < bytes {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_that_lost_bytes_never_ends_in_order() {
    let settings = Settings {
        unread: 300 * 1024,
        ..Settings::default()
    };
    let (client, server) = pair(64 * 1024, &settings);
    for finishes_before in [true, false] {
        let (mut slow, mut unread) = stream(&client, &server).await;
        let (mut brisk, mut read) = stream(&client, &server).await;
        slow.write_all(&[0; 200 * 1024]).await.expect("live");
        if finishes_before {
            slow.shutdown().await.expect("live");
        }
        until_unread(&server, 200 * 1024).await;
        brisk.write_all(&[0; 120 * 1024]).await.expect("live");
        read.read_exact(&mut vec![0; 120 * 1024])
            .await
            .expect("the other one lives");
        if !finishes_before {
            drop(slow.shutdown().await);
            brisk.write_all(b"?").await.expect("live");
            read.read_u8().await.expect("sent after the end");
        }
        assert_eq!(why(unread.read_u8().await), StreamError::Unread);
    }
}

#[tokio::test]
async fn a_stream_that_has_ended_counts_until_it_is_read() {
    let settings = Settings {
        unread: 300 * 1024,
        ..Settings::default()
    };
    let (client, server) = pair(64 * 1024, &settings);
    let (mut slow, mut unread) = stream(&client, &server).await;
    let (mut brisk, mut read) = stream(&client, &server).await;
    slow.write_all(&[0; 200 * 1024]).await.expect("live");
    slow.shutdown().await.expect("live");
    unread.shutdown().await.expect("live");
    until_unread(&server, 200 * 1024).await;

    brisk.write_all(&[0; 120 * 1024]).await.expect("live");
    read.read_exact(&mut vec![0; 120 * 1024])
        .await
        .expect("the one that is read lives");
    assert_eq!(why(unread.read_u8().await), StreamError::Unread);
    drop((slow, unread, brisk, read));
    for end in [&client, &server] {
        while end.mux.figures().streams > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(end.mux.figures().unread, 0);
    }
}

#[tokio::test]
async fn what_has_ended_can_be_read_to_the_end() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, mut taken) = stream(&client, &server).await;
    opened.write_all(&[7; 100_000]).await.expect("live");
    opened.shutdown().await.expect("live");
    taken.shutdown().await.expect("live");
    until_unread(&server, 100_000).await;
    assert_eq!(server.mux.figures().streams, 1);

    let mut all = Vec::new();
    taken.read_to_end(&mut all).await.expect("an orderly end");
    assert_eq!(all.len(), 100_000);
    while server.mux.figures().streams > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_writer_waits_once_enough_is_unsent() {
    let settings = Settings {
        unsent: 10_000,
        ..Settings::default()
    };
    let (client, server) = pair(64 * 1024, &settings);
    let (mut opened, _taken) = stream(&client, &server).await;
    assert_eq!(opened.write(&[0; 50_000]).await.expect("live"), 10_000);
}

#[tokio::test]
async fn more_abandoned_streams_than_can_be_told_end_the_connection() {
    let settings = Settings {
        resets: 100,
        ..Settings::default()
    };
    let (here, mut there) = duplex(1_024);
    let client = end(here, Role::Client, settings);
    let mut streams = Vec::new();
    for _ in 0..101 {
        let mut opened = client.mux.open().expect("live");
        opened.write_all(b"!").await.expect("live");
        streams.push(opened);
    }
    let told = soon(there.read_exact(&mut [0; 101 * 13])).await;
    told.expect("the other side knows them");
    let mut bulk = client.mux.open().expect("live");
    let writing = async { bulk.write_all(&vec![0; 1024 * 1024]).await };
    let abandoning = async {
        tokio::task::yield_now().await; // nobody reads: the pipe is full now
        drop(streams);
    };
    let (_, (), broken) = soon(async { tokio::join!(writing, abandoning, client.driver) }).await;
    assert!(matches!(broken.expect("a cause"), Broken::Flood));
}

#[tokio::test]
async fn a_flood_of_streams_that_are_reset_at_once_ends_the_connection() {
    let settings = Settings {
        resets: 100,
        ..Settings::default()
    };
    let (here, mut there) = duplex(1_024);
    let server = end(here, Role::Server, settings);
    server.arrivals.lock().await.refuse();
    let numbers = (1..=u8::MAX).step_by(2).cycle().take(1_000);
    let numbers = numbers.zip((0..=u8::MAX).flat_map(|high| [high; 128]));
    let mut flood = Vec::new();
    for (place, (low, high)) in numbers.enumerate() {
        // Nobody reads what the first ones are answered, so the others wait for their turn.
        let flags = if place < 90 { 1 } else { 9 };
        flood.extend([0, 1, 0, flags, 0, 0, high, low, 0, 0, 0, 0]);
    }
    let flooding = async { drop(there.write_all(&flood).await) };
    let (broken, ()) = soon(async { tokio::join!(server.driver, flooding) }).await;
    assert!(matches!(broken.expect("a cause"), Broken::Flood));
}

/// What a connection says of these bytes.
async fn broken_by(bytes: &[u8]) -> String {
    let (here, mut there) = duplex(64 * 1024);
    let server = end(here, Role::Server, Settings::default());
    there.write_all(bytes).await.expect("a pipe");
    soon(server.driver).await.expect("a cause").to_string()
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut() {
    let syn = |number: u8| [0, 1, 0, 1, 0, 0, 0, number, 0, 0, 0, 0];
    let reset = [0, 1, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0];
    let cases: [(&[&[u8]], &str); 7] = [
        (&[&[1; 12]], "unknown version"),
        (
            &[&[0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]],
            "unknown kind of frame",
        ),
        (&[&syn(2)], "a stream with a used number"),
        (&[&syn(3), &syn(3)], "a stream with a used number"),
        (&[&syn(3), &reset, &syn(3)], "a stream with a used number"),
        (
            &[&[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0]],
            "a stream that nobody opened",
        ),
        (
            &[&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]],
            "a stream that nobody opened",
        ),
    ];
    for (frames, cause) in cases {
        let said = broken_by(&frames.concat()).await;
        assert_eq!(said, format!("the other side broke the protocol: {cause}"));
    }
}

#[tokio::test]
async fn more_than_the_window_is_not_taken() {
    let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 4, 0, 1];
    bytes.resize(12 + 256 * 1024 + 1, 7);
    let (here, mut there) = duplex(1024 * 1024);
    let server = end(here, Role::Server, Settings::default());
    there.write_all(&bytes).await.expect("a pipe");
    let stream = soon(server.accept()).await;
    let said = soon(server.driver).await.expect("a cause").to_string();
    assert_eq!(
        said,
        "the other side broke the protocol: more data than the window allows"
    );
    drop(stream);
}
