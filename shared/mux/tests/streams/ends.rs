//! Finished, aborted and lost are three things.

use sallyport_mux::{Broken, Role, Settings, StreamError, connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, duplex};

use crate::support::{end, pair, soon, stream, why};

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, mut taken) = stream(&client, &server).await;
    opened.write_all(b"question").await.expect("live");
    opened.shutdown().await.expect("live");
    let mut question = Vec::new();
    soon(taken.read_to_end(&mut question))
        .await
        .expect("an end");
    assert_eq!(question, b"question");

    taken.write_all(b"answer").await.expect("still open");
    taken.shutdown().await.expect("live");
    let mut answer = Vec::new();
    soon(opened.read_to_end(&mut answer)).await.expect("an end");
    assert_eq!(answer, b"answer");
    assert_eq!(why(opened.write_all(b"more").await), StreamError::Closed);
}

#[tokio::test]
async fn streams_that_are_over_leave_nothing() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    for _ in 0..100 {
        let (mut opened, mut taken) = stream(&client, &server).await;
        opened.shutdown().await.expect("live");
        taken.shutdown().await.expect("live");
        assert_eq!(soon(opened.read(&mut [0])).await.expect("an end"), 0);
        assert_eq!(soon(taken.read(&mut [0])).await.expect("an end"), 0);
    }
    assert_eq!(client.mux.figures().streams, 0);
    assert_eq!(server.mux.figures().streams, 0);
}

#[tokio::test]
async fn an_abort_tells_its_code_to_reads_and_writes() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, mut taken) = stream(&client, &server).await;
    opened.write_all(b"half of it").await.expect("live");
    opened.abort(42);
    let mut got = Vec::new();
    assert_eq!(
        why(soon(taken.read_to_end(&mut got)).await),
        StreamError::Reset(42)
    );
    assert_eq!(why(taken.write_all(b"x").await), StreamError::Reset(42));
    assert_eq!(why(opened.read_u8().await), StreamError::Closed);
}

#[tokio::test]
async fn a_dropped_stream_is_an_abort() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, taken) = stream(&client, &server).await;
    drop(taken);
    assert_eq!(why(soon(opened.read_u8()).await), StreamError::Reset(0));
    let (opened, mut taken) = stream(&client, &server).await;
    drop(opened);
    assert_eq!(why(soon(taken.read_u8()).await), StreamError::Reset(0));
}

#[tokio::test]
async fn what_was_finished_arrives_although_its_sender_stops_listening() {
    let (client, server) = pair(16 * 1024, &Settings::default());
    let (mut opened, mut taken) = stream(&client, &server).await;
    let sending = async {
        opened.write_all(&[7; 100_000]).await.expect("live");
        opened.shutdown().await.expect("live");
        drop(opened);
    };
    let mut got = Vec::new();
    let (read, ()) = soon(async { tokio::join!(taken.read_to_end(&mut got), sending) }).await;
    read.expect("an orderly end");
    assert_eq!(got.len(), 100_000);
    loop {
        if let Err(error) = taken.write_all(&[0; 1_000]).await {
            assert_eq!(StreamError::of(&error), Some(StreamError::Reset(0)));
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_abort_frees_a_writer_that_waits_for_credit() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, taken) = stream(&client, &server).await;
    let writing = async {
        loop {
            if let Err(error) = opened.write_all(&[0; 10_000]).await {
                return StreamError::of(&error);
            }
        }
    };
    let aborting = async {
        while server.mux.figures().unread < 256 * 1024 - 1 {
            tokio::task::yield_now().await;
        }
        taken.abort(7);
    };
    let (failed, ()) = soon(async { tokio::join!(writing, aborting) }).await;
    assert_eq!(failed, Some(StreamError::Reset(7)));
    drop(taken);
    assert_eq!(server.mux.figures().unread, 0);
}

#[tokio::test]
async fn a_stream_that_was_never_used_is_never_heard_of() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    drop(client.mux.open().expect("live"));
    let (opened, _taken) = stream(&client, &server).await;
    assert_eq!(
        opened.number(),
        3,
        "the first one's number is not used again"
    );
    assert_eq!(client.mux.figures().streams, 1);
}

#[tokio::test]
async fn a_lost_connection_is_lost_for_every_stream() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let (mut opened, mut taken) = stream(&client, &server).await;
    opened.write_all(b"before").await.expect("live");
    taken.read_exact(&mut [0; 6]).await.expect("arrives");
    client.driver.abort();
    assert_eq!(why(soon(opened.read_u8()).await), StreamError::Lost);
    assert_eq!(why(soon(taken.read_u8()).await), StreamError::Lost);
    assert!(soon(server.accept()).await.is_none());
    assert!(client.mux.open().is_none());
    let cause = soon(server.driver).await.expect("a cause");
    assert!(
        matches!(cause, Broken::HungUp | Broken::Transport(_)),
        "{cause}"
    );
}

#[tokio::test]
async fn a_goodbye_says_why_after_everything_else() {
    let (here, there) = duplex(64 * 1024);
    let (mux, _arrivals, mut driver) =
        connection(BufReader::new(here), Role::Client, Settings::default());
    let server = end(there, Role::Server, Settings::default());
    let mut opened = mux.open().expect("live");
    opened.write_all(b"the last words").await.expect("live");
    let (finished, ()) = tokio::join!(opened.shutdown(), async {
        tokio::select! {
            broken = driver.run() => panic!("{broken}"),
            () = tokio::task::yield_now() => {}
        }
    });
    finished.expect("all has left");
    let (closed, cause) = soon(async { tokio::join!(driver.close(5), server.driver) }).await;
    closed.expect("in order");
    assert!(matches!(cause.expect("a cause"), Broken::GoneAway(5)));
    assert_eq!(why(opened.read_u8().await), StreamError::Lost);
    let mut taken = server.arrivals.lock().await.next().await.expect("a stream");
    let mut words = Vec::new();
    taken.read_to_end(&mut words).await.expect("an orderly end");
    assert_eq!(words, b"the last words");
}
