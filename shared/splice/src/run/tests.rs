//! Two in-memory pipes joined by the code under test, on a paused clock.

mod ends;

use std::io;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use self::ends::{Endless, aborted, end};
use super::run_with;
use crate::buffers::{Pool, PoolLimits};
use crate::{Ended, EndedBy, Limits, Meter, Side, run};

const ROOM: usize = 64 * 1_024;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a peer sends, in pieces of these sizes.
async fn send(pipe: &mut (impl AsyncWrite + Unpin), bytes: &[u8], pieces: &[usize]) {
    send_open(pipe, bytes, pieces).await;
    pipe.shutdown().await.unwrap();
}

/// The same without an end.
async fn send_open(pipe: &mut (impl AsyncWrite + Unpin), bytes: &[u8], pieces: &[usize]) {
    let mut rest = bytes;
    for piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        pipe.write_all(now).await.unwrap();
        rest = later;
    }
}

async fn receive(pipe: &mut (impl AsyncRead + Unpin), piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        let came = pipe.read(&mut buffer).await.unwrap();
        if came == 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..came]);
    }
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + usize::from(seed)) % 251).unwrap())
        .collect()
}

fn on_paused_clock<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_arrives_in_order_however_it_is_cut(
        lengths in (0_usize..400_000, 0_usize..400_000),
        rooms in (1_usize..70_000, 1_usize..70_000),
        pieces in (
            prop::collection::vec(1_usize..90_000, 1..6),
            prop::collection::vec(1_usize..90_000, 1..6),
        ),
        reads in (64_usize..90_000, 64_usize..90_000),
        hands_over in (prop::option::of(64_usize..90_000), prop::option::of(64_usize..90_000)),
    ) {
        let (upload, download) = (pattern(lengths.0, 1), pattern(lengths.1, 2));
        let meter = Meter::new();

        let (ended, got_up, got_down) = on_paused_clock(async {
            let (mut client, client_far, _) = end(rooms.0.max(64));
            let (mut session, session_far, _) = end(rooms.1.max(64));
            (client.pieces, session.pieces) = hands_over;
            let (mut client_in, mut client_out) = tokio::io::split(client_far);
            let (mut session_in, mut session_out) = tokio::io::split(session_far);
            let limits = Limits::default();
            let (ended, (), (), got_up, got_down) = tokio::join!(
                run(&mut client, &mut session, &limits, &meter),
                send(&mut client_out, &upload, &pieces.0),
                send(&mut session_out, &download, &pieces.1),
                receive(&mut session_in, reads.0),
                receive(&mut client_in, reads.1),
            );
            (ended, got_up, got_down)
        });

        prop_assert!(matches!(ended.by, EndedBy::Both), "{:?}", ended.by);
        prop_assert_eq!((ended.up, ended.down), (upload.len() as u64, download.len() as u64));
        prop_assert_eq!((meter.up(), meter.down()), (ended.up, ended.down));
        prop_assert!(got_up == upload && got_down == download);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn wherever_a_side_breaks_off_the_other_gets_what_was_said_and_an_abort(
        length in 0_usize..300_000,
        room in 1_usize..70_000,
        pieces in prop::collection::vec(1_usize..90_000, 1..6),
        hands_over in (prop::option::of(64_usize..90_000), prop::option::of(64_usize..90_000)),
        from_client: bool,
    ) {
        let sent = pattern(length, 3);
        let (ended, aborts, got) = on_paused_clock(async {
            let (mut client, client_far, client_seen) = end(room);
            let (mut session, session_far, session_seen) = end(room);
            (client.pieces, session.pieces) = hands_over;
            let (mut from, mut to, broken) = if from_client {
                (client_far, session_far, &client_seen)
            } else {
                (session_far, client_far, &session_seen)
            };
            let limits = Limits::default();
            let talk = async {
                let (mut reader, _writer) = tokio::io::split(&mut to);
                let break_off = async {
                    send_open(&mut from, &sent, &pieces).await;
                    broken.lock().unwrap().read_fault = Some(io::ErrorKind::ConnectionReset);
                    drop(from);
                };
                let mut got = vec![0; length];
                let (_, read) = tokio::join!(break_off, reader.read_exact(&mut got));
                read.unwrap();
                got
            };
            let meter = Meter::new();
            let (ended, got) = tokio::join!(
                run(&mut client, &mut session, &limits, &meter),
                talk,
            );
            (ended, (aborted(&client_seen), aborted(&session_seen)), got)
        });

        let code = if from_client { 20 } else { 16 };
        prop_assert_eq!(aborts, (Some(code), Some(code)));
        prop_assert_eq!(matches!(ended.by, EndedBy::Client(_)), from_client);
        prop_assert!(got == sent);
    }
}

#[test]
fn a_quiet_stream_needs_less_than_a_kilobyte() {
    let (mut client, _client_far, _) = end(1);
    let (mut session, _session_far, _) = end(1);
    let (limits, meter) = (Limits::default(), Meter::new());

    let task = run(&mut client, &mut session, &limits, &meter);

    assert!(size_of_val(&task) < 1_024, "{}", size_of_val(&task));
}

#[tokio::test(start_paused = true)]
async fn one_side_may_finish_long_before_the_other() {
    for first in [Side::Client, Side::Session] {
        let (mut client, client_far, client_seen) = end(ROOM);
        let (mut session, session_far, session_seen) = end(ROOM);
        let (mut early, mut late) = match first {
            Side::Client => (client_far, session_far),
            Side::Session => (session_far, client_far),
        };
        let talk = async {
            early.write_all(b"all I have").await.unwrap();
            early.shutdown().await.unwrap();
            assert_eq!(receive(&mut late, 100).await, b"all I have");
            sleep(secs(3_500)).await;
            late.write_all(b"the answer").await.unwrap();
            late.shutdown().await.unwrap();
            assert_eq!(receive(&mut early, 100).await, b"the answer");
        };
        let (limits, meter) = (Limits::default(), Meter::new());

        let (ended, ()) = tokio::join!(run(&mut client, &mut session, &limits, &meter), talk);

        assert!(matches!(ended.by, EndedBy::Both), "{:?}", ended.by);
        assert_eq!(
            (aborted(&client_seen), aborted(&session_seen)),
            (None, None)
        );
    }
}

/// Ends and how long that took, with a peer that does as `talk` says.
async fn timed(
    talk: impl AsyncFnOnce(DuplexStream, DuplexStream),
    limits: Limits,
) -> (Ended, Duration, Option<u32>, Option<u32>) {
    let (mut client, client_far, client_seen) = end(64);
    let (mut session, session_far, session_seen) = end(64);
    let meter = Meter::new();
    let began = Instant::now();
    let (ended, ()) = tokio::join!(
        async {
            let ended = run(&mut client, &mut session, &limits, &meter).await;
            (ended, began.elapsed())
        },
        talk(client_far, session_far)
    );
    let (ended, took) = ended;
    (ended, took, aborted(&client_seen), aborted(&session_seen))
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_byte_for_an_hour_is_ended() {
    let talk = async |mut client: DuplexStream, mut session: DuplexStream| {
        let mut byte = [0];
        sleep(secs(3_000)).await;
        client.write_all(b"x").await.unwrap();
        session.read_exact(&mut byte).await.unwrap();
        sleep(secs(3_000)).await;
        session.write_all(b"y").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        sleep(secs(4_000)).await;
    };

    let (ended, took, client, session) = timed(talk, Limits::default()).await;

    assert!(matches!(ended.by, EndedBy::Idle), "{:?}", ended.by);
    assert_eq!(took.as_secs(), 6_000 + 3_600);
    assert_eq!((client, session), (Some(24), Some(24)));
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_limit_a_quiet_stream_stays() {
    let limits = Limits {
        idle: None,
        ..Limits::default()
    };
    let talk = async |client: DuplexStream, session: DuplexStream| {
        sleep(secs(100_000)).await;
        drop((client, session));
    };

    let (ended, took, ..) = timed(talk, limits).await;

    assert!(matches!(ended.by, EndedBy::Both), "{:?}", ended.by);
    assert_eq!(took.as_secs(), 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_for_a_minute_is_given_up() {
    let talk = async |mut client: DuplexStream, session: DuplexStream| {
        client.write_all(&[7; 150]).await.unwrap();
        sleep(secs(100)).await;
        drop((client, session));
    };

    let (ended, took, client, session) = timed(talk, Limits::default()).await;

    assert!(
        matches!(ended.by, EndedBy::WriteStall(Side::Session)),
        "{:?}",
        ended.by
    );
    assert_eq!((took.as_secs(), ended.up), (60, 64));
    assert_eq!((client, session), (Some(16), Some(16)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_a_little_now_and_then_is_not_stalled() {
    let talk = async |mut client: DuplexStream, mut session: DuplexStream| {
        session.write_all(&[7; 128]).await.unwrap();
        session.shutdown().await.unwrap();
        for _ in 0..64 {
            sleep(secs(59)).await;
            client.read_exact(&mut [0; 2]).await.unwrap();
        }
    };

    let (ended, _, client, _) = timed(talk, Limits::default()).await;

    // Both talkers are gone at the end, so the client's side ended in order too.
    assert!(matches!(ended.by, EndedBy::Both), "{:?}", ended.by);
    assert_eq!((ended.down, client), (128, None));
}

#[tokio::test(start_paused = true)]
async fn once_both_have_finished_the_rest_has_thirty_seconds() {
    let talk = async |mut client: DuplexStream, mut session: DuplexStream| {
        client.write_all(&[7; 100]).await.unwrap();
        client.shutdown().await.unwrap();
        sleep(secs(10)).await;
        session.shutdown().await.unwrap();
        sleep(secs(100)).await;
    };

    let (ended, took, client, session) = timed(talk, Limits::default()).await;

    assert!(matches!(ended.by, EndedBy::Closing), "{:?}", ended.by);
    assert_eq!(took.as_secs(), 40);
    assert_eq!((client, session), (Some(24), Some(24)));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_breaks_off_aborts_the_other_after_what_it_said() {
    for side in [Side::Client, Side::Session] {
        let (mut client, mut client_far, client_seen) = end(ROOM);
        let (mut session, mut session_far, session_seen) = end(ROOM);
        let (broken, from, to) = match side {
            Side::Client => (&client_seen, &mut client_far, &mut session_far),
            Side::Session => (&session_seen, &mut session_far, &mut client_far),
        };
        from.write_all(b"half a sent").await.unwrap();
        broken.lock().unwrap().read_fault = Some(io::ErrorKind::ConnectionReset);

        let ended = run(&mut client, &mut session, &Limits::default(), &Meter::new()).await;

        let code = match (side, &ended.by) {
            (Side::Client, EndedBy::Client(_)) => Some(20),
            (Side::Session, EndedBy::Session(_)) => Some(16),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (aborted(&client_seen), aborted(&session_seen)),
            (code, code)
        );
        let mut got = [0; 11];
        to.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"half a sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_more_aborts_the_session() {
    let (mut client, mut client_far, client_seen) = end(ROOM);
    let (mut session, mut session_far, session_seen) = end(ROOM);
    client_far.shutdown().await.unwrap();
    session_far.write_all(b"news").await.unwrap();
    client_seen.lock().unwrap().write_fault = Some(io::ErrorKind::BrokenPipe);

    let ended = run(&mut client, &mut session, &Limits::default(), &Meter::new()).await;

    assert!(matches!(ended.by, EndedBy::Client(_)), "{:?}", ended.by);
    assert_eq!(aborted(&session_seen), Some(20));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_stops_reading_may_finish_its_answer() {
    let (mut client, mut client_far, client_seen) = end(ROOM);
    let (mut session, mut session_far, session_seen) = end(ROOM);
    session_seen.lock().unwrap().write_fault = Some(io::ErrorKind::BrokenPipe);
    let talk = async {
        client_far.write_all(&[1; ROOM]).await.unwrap();
        sleep(secs(100)).await;
        session_far.write_all(b"413 too large").await.unwrap();
        session_far.shutdown().await.unwrap();
        assert_eq!(receive(&mut client_far, 64).await, b"413 too large");
        client_far.write_all(&[1; ROOM]).await.unwrap();
        client_far.shutdown().await.unwrap();
    };
    let (limits, meter) = (Limits::default(), Meter::new());

    let (ended, ()) = tokio::join!(run(&mut client, &mut session, &limits, &meter), talk);

    assert!(matches!(ended.by, EndedBy::Session(_)), "{:?}", ended.by);
    assert_eq!((ended.up, ended.down), (0, 13));
    assert_eq!(
        (aborted(&client_seen), aborted(&session_seen)),
        (None, None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_uploads_for_ever_after_the_answer_is_cut_off() {
    let (mut client, mut client_far, client_seen) = end(ROOM);
    let (mut session, mut session_far, session_seen) = end(ROOM);
    session_seen.lock().unwrap().write_fault = Some(io::ErrorKind::BrokenPipe);
    session_far.shutdown().await.unwrap();
    let (limits, meter) = (Limits::default(), Meter::new());
    let began = Instant::now();

    let ended = tokio::select! {
        ended = run(&mut client, &mut session, &limits, &meter) => ended,
        () = async { while client_far.write_all(&[1; 100]).await.is_ok() { sleep(secs(1)).await } } => panic!(),
    };

    assert!(matches!(ended.by, EndedBy::Session(_)), "{:?}", ended.by);
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(aborted(&client_seen), Some(16));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_resets_while_written_to_never_ends_in_order() {
    let (mut client, mut client_far, client_seen) = end(ROOM);
    let (mut session, _session_far, session_seen) = end(ROOM);
    session_seen.lock().unwrap().write_fault = Some(io::ErrorKind::ConnectionReset);
    client_far.write_all(b"x").await.unwrap();

    let ended = run(&mut client, &mut session, &Limits::default(), &Meter::new()).await;

    assert!(matches!(ended.by, EndedBy::Session(_)), "{:?}", ended.by);
    assert_eq!(aborted(&client_seen), Some(16));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_after_it_finished_need_not_be_told_of_the_end() {
    let (mut client, mut client_far, client_seen) = end(ROOM);
    let (mut session, mut session_far, session_seen) = end(ROOM);
    client_far.shutdown().await.unwrap();
    session_far.shutdown().await.unwrap();
    client_seen.lock().unwrap().write_fault = Some(io::ErrorKind::NotConnected);

    let ended = run(&mut client, &mut session, &Limits::default(), &Meter::new()).await;

    assert!(matches!(ended.by, EndedBy::Both), "{:?}", ended.by);
    assert_eq!(aborted(&session_seen), None);
}

#[tokio::test(start_paused = true)]
async fn dropping_it_before_the_end_aborts_both() {
    let (mut client, _client_far, client_seen) = end(ROOM);
    let (mut session, _session_far, session_seen) = end(ROOM);
    let (limits, meter) = (Limits::default(), Meter::new());

    let cut = tokio::time::timeout(secs(5), run(&mut client, &mut session, &limits, &meter)).await;

    assert!(cut.is_err());
    assert_eq!(
        (aborted(&client_seen), aborted(&session_seen)),
        (Some(10), Some(10))
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_flushed_before_it_waits() {
    let (mut client, mut client_far, _) = end(ROOM);
    let (mut session, mut session_far, session_seen) = end(ROOM);
    let (limits, meter) = (Limits::default(), Meter::new());
    let talk = async {
        client_far.write_all(b"ping").await.unwrap();
        session_far.read_exact(&mut [0; 4]).await.unwrap();
        sleep(secs(1)).await;
        assert!(!session_seen.lock().unwrap().unflushed);
    };

    tokio::select! {
        ended = run(&mut client, &mut session, &limits, &meter) => panic!("{ended:?}"),
        () = talk => {}
    }
}

#[tokio::test(start_paused = true)]
async fn writes_grow_under_load_and_a_quiet_stream_holds_no_buffer() {
    const BULK: usize = 4 * 1_024 * 1_024;
    static POOL: Pool = Pool::new(PoolLimits {
        kept: [4, 4, 4],
        lent: 1_024 * 1_024,
    });
    let (mut client, mut client_far, _) = end(BULK);
    let (mut session, mut session_far, session_seen) = end(BULK);
    let (limits, meter) = (Limits::default(), Meter::new());
    let talk = async {
        client_far.write_all(&vec![3; BULK]).await.unwrap();
        session_far.read_exact(&mut vec![0; BULK]).await.unwrap();
        sleep(secs(1)).await;
        assert_eq!(POOL.lent_now(), 0);
        assert!(POOL.kept_now() > 0, "buffers came back");
    };

    tokio::select! {
        ended = run_with(&POOL, &mut client, &mut session, &limits, &meter) => panic!("{ended:?}"),
        () = talk => {}
    }

    assert_eq!(session_seen.lock().unwrap().largest_write, 256 * 1_024);
}

#[tokio::test(start_paused = true)]
async fn two_endless_sides_share_the_thread_with_each_other_and_with_others() {
    let (mut client, mut session) = (Endless, Endless);
    let (limits, meter) = (Limits::default(), Meter::new());
    let others = async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };

    tokio::select! {
        biased;
        ended = run(&mut client, &mut session, &limits, &meter) => panic!("{ended:?}"),
        () = others => {}
    }

    assert!(meter.up() > 0 && meter.up() == meter.down(), "{meter:?}");
}
