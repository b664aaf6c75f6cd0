use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// HPACK of `:method`, `:scheme: https`, `:path: /` and `:authority: h` (RFC 7541, appendix A).
const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 1, b'h'];
const POST: &[u8] = &[0x83, 0x87, 0x84, 0x41, 1, b'h'];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

async fn greeted(limits: Limits) -> Rig {
    let mut rig = Rig::new(HttpVersion::Two, limits);
    rig.send(PREFACE).await;
    rig.send(&frame(SETTINGS, 0, 0, &[])).await;
    rig
}

/// Kind, flags, stream and payload of each frame until the connection ends; how long that took.
async fn frames(rig: &mut Rig) -> (Vec<(u8, u8, u32, Vec<u8>)>, Duration) {
    let start = Instant::now();
    let mut raw = Vec::new();
    rig.client.read_to_end(&mut raw).await.expect("an end");
    let (mut rest, mut all) = (raw.as_slice(), Vec::new());
    while let [l2, l1, l0, kind, flags, s3, s2, s1, s0, tail @ ..] = rest {
        let length = u32::from_be_bytes([0, *l2, *l1, *l0]) as usize;
        let stream = u32::from_be_bytes([*s3, *s2, *s1, *s0]);
        all.push((*kind, *flags, stream, tail[..length].to_vec()));
        rest = &tail[length..];
    }
    assert!(rest.is_empty(), "frames are whole");
    (all, start.elapsed())
}

/// Last stream and error code of the GOAWAY that ended the connection.
async fn farewell(rig: &mut Rig) -> (u32, u32, Duration) {
    let (frames, took) = frames(rig).await;
    let (_, _, _, payload) = frames
        .iter()
        .rfind(|frame| frame.0 == GOAWAY)
        .expect("GOAWAY");
    let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
    (word(0), word(4), took)
}

#[track_caller]
fn assert_about(took: Duration, expected: u64) {
    let late = took
        .checked_sub(Duration::from_secs(expected))
        .unwrap_or(Duration::MAX);
    assert!(
        late <= Duration::from_secs(1),
        "{took:?} instead of {expected} s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_gets_through_in_any_pieces() {
    for size in [1, 7, 1_000] {
        let mut rig = Rig::new(HttpVersion::Two, Limits::default());
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(frame(HEADERS, 0, 1, &POST[..2]));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &POST[2..]));
        bytes.extend(frame(DATA, END_STREAM, 1, b"hello"));
        for piece in bytes.chunks(size) {
            rig.send(piece).await;
            tokio::task::yield_now().await;
        }
        rig.client.shutdown().await.expect("open");
        let (frames, _) = frames(&mut rig).await;
        assert!(
            frames
                .iter()
                .any(|frame| frame.0 == DATA && frame.3 == b"/ 5"),
            "{frames:?}"
        );
        assert_eq!(rig.handle.ended(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn no_or_half_a_preface_is_closed() {
    for begin in [&b""[..], b"PRI * HTTP", &PREFACE[..23]] {
        let mut rig = Rig::new(HttpVersion::Two, Limits::default());
        rig.send(begin).await;
        assert_about(frames(&mut rig).await.1, 10);
        assert_eq!(rig.handle.ended(), Some(Ended::NoPreface));
    }
    let mut rig = Rig::new(HttpVersion::Two, Limits::default());
    rig.send(b"GET / HTTP/1.1\r\n").await;
    assert_about(frames(&mut rig).await.1, 0);
    assert_eq!(rig.handle.ended(), Some(Ended::NoPreface));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_requests_is_closed() {
    let mut rig = greeted(Limits::default()).await;
    let (last, code, took) = farewell(&mut rig).await;
    assert_eq!((last, code), (0, 0));
    assert_about(took, 75);
    assert_eq!(rig.handle.ended(), Some(Ended::KeepAlive));
}

#[tokio::test(start_paused = true)]
async fn idle_time_counts_from_the_last_answer_and_pings_do_not_prolong_it() {
    let mut rig = greeted(Limits::default()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, GET))
        .await;
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        rig.send(&frame(PING, 0, 0, &[0; 8])).await;
    }
    assert_eq!(rig.handle.ended(), None);
    let (last, code, took) = farewell(&mut rig).await;
    assert_eq!((last, code), (1, 0));
    assert_about(took, 5);
}

#[tokio::test(start_paused = true)]
async fn a_header_block_without_end_is_closed() {
    let mut rig = greeted(Limits::default()).await;
    rig.send(&frame(HEADERS, 0, 1, GET)).await;
    let (last, code, took) = farewell(&mut rig).await;
    assert_eq!((last, code), (0, 11));
    assert_about(took, 10);
    assert_eq!(rig.handle.ended(), Some(Ended::SlowFrame));
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_is_closed() {
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
    for cut in [1, 8, 9, whole.len() - 1] {
        let mut rig = greeted(Limits::default()).await;
        rig.send(&whole[..cut]).await;
        assert_about(farewell(&mut rig).await.2, 10);
        assert_eq!(rig.handle.ended(), Some(Ended::SlowFrame), "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn continuations_are_bounded_in_time_and_bytes() {
    let mut rig = greeted(Limits::default()).await;
    let start = Instant::now();
    rig.send(&frame(HEADERS, 0, 1, GET)).await;
    while rig
        .client
        .write_all(&frame(CONTINUATION, 0, 1, b"\x40\x01a\x01b"))
        .await
        .is_ok()
    {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert!(
        start.elapsed() <= Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(rig.handle.ended(), Some(Ended::SlowFrame));

    let mut rig = greeted(Limits {
        head_bytes: 1_000,
        ..Limits::default()
    })
    .await;
    rig.send(&frame(HEADERS, 0, 1, GET)).await;
    rig.send(&frame(CONTINUATION, 0, 1, &[0; 1_000])).await;
    assert_about(farewell(&mut rig).await.2, 0);
    assert_eq!(rig.handle.ended(), Some(Ended::HeaderBlockTooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_or_dripping_body_is_answered_with_408() {
    for drips in [0, 40] {
        let mut rig = greeted(Limits::default()).await;
        let start = Instant::now();
        rig.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
        let mut answer = rig.so_far().await;
        for _ in 0..drips {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(rig.client.write_all(&frame(DATA, 0, 1, b"x")).await);
            answer.push_str(&rig.so_far().await);
        }
        if drips == 0 {
            tokio::time::sleep(Duration::from_secs(31)).await;
            answer.push_str(&rig.so_far().await);
        }
        assert!(
            answer.ends_with("slow") || answer.contains("slow"),
            "{answer:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(45));
    }
}

#[tokio::test(start_paused = true)]
async fn resets_are_counted() {
    let flood = |limits: Limits, resets: u32| async move {
        let mut rig = greeted(limits).await;
        for stream in (0..resets).map(|count| 2 * count + 1) {
            rig.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, GET))
                .await;
            rig.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
            tokio::task::yield_now().await;
        }
        rig
    };
    let few = Limits {
        h2_resets: 10,
        ..Limits::default()
    };
    let mut rig = flood(few.clone(), 11).await;
    assert_about(farewell(&mut rig).await.2, 0);
    assert_eq!(rig.handle.ended(), Some(Ended::TooManyResets));

    let rig = flood(few, 10).await;
    assert_eq!(rig.handle.ended(), None);
}

#[tokio::test(start_paused = true)]
async fn frames_that_move_nothing_are_counted() {
    let kinds = [
        frame(PING, 0, 0, &[0; 8]),
        frame(PING, 1, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(0xfe, 0, 0, &[]),
    ];
    for kind in kinds {
        let mut rig = greeted(Limits {
            h2_glitches: 50,
            ..Limits::default()
        })
        .await;
        let mut sent = 0;
        while rig.handle.ended().is_none() && sent < 120 {
            drop(rig.client.write_all(&kind).await);
            drop(rig.so_far().await);
            sent += 1;
        }
        assert!((38..=70).contains(&sent), "{sent} of {kind:?}");
        assert!(rig.handle.is_closing(), "asked to end before");
        let ended = rig.handle.ended();
        assert!(
            ended == Some(Ended::TooManyGlitches) || sent < 50,
            "{ended:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn empty_data_is_counted() {
    let mut rig = greeted(Limits {
        h2_glitches: 50,
        ..Limits::default()
    })
    .await;
    rig.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    for _ in 0..60 {
        drop(rig.client.write_all(&frame(DATA, 0, 1, &[])).await);
    }
    assert_about(farewell(&mut rig).await.2, 0);
    assert_eq!(rig.handle.ended(), Some(Ended::TooManyGlitches));
}

#[tokio::test(start_paused = true)]
async fn window_updates_that_follow_payload_are_free() {
    let mut rig = greeted(Limits {
        h2_glitches: 10,
        ..Limits::default()
    })
    .await;
    rig.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    for _ in 0..500 {
        rig.send(&frame(DATA, 0, 1, b"a few keys typed")).await;
        rig.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9])).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.handle.ended(), None);
    assert!(!rig.handle.is_closing());
}

#[tokio::test(start_paused = true)]
async fn bytes_without_payload_are_counted() {
    let limits = Limits {
        h2_overhead: 1_000,
        h2_glitches: 1_000_000,
        ..Limits::default()
    };
    let mut rig = greeted(limits).await;
    for _ in 0..20 {
        drop(rig.client.write_all(&frame(0xfe, 0, 0, &[0; 1_000])).await);
    }
    assert_about(farewell(&mut rig).await.2, 0);
    assert_eq!(rig.handle.ended(), Some(Ended::TooMuchOverhead));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_in_which_nothing_moves_is_cut() {
    let mut rig = greeted(Limits {
        idle: Duration::from_secs(200),
        ..Limits::default()
    })
    .await;
    let wait = [
        0x82, 0x87, 0x44, 5, b'/', b'w', b'a', b'i', b't', 0x41, 1, b'h',
    ];
    rig.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &wait))
        .await;
    tokio::time::sleep(Duration::from_secs(199)).await;
    assert_eq!(rig.handle.ended(), None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.handle.ended(), Some(Ended::Idle));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    let mut rig = greeted(Limits::default()).await;
    let window = [0x3f, 0xff, 0, 0];
    let large = [
        0x82, 0x87, 0x44, 6, b'/', b'l', b'a', b'r', b'g', b'e', 0x41, 1, b'h',
    ];
    rig.send(&frame(SETTINGS, 0, 0, &[&[0, 4][..], &window].concat()))
        .await;
    rig.send(&frame(WINDOW_UPDATE, 0, 0, &window)).await;
    rig.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &large))
        .await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(rig.handle.ended(), None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.handle.ended(), Some(Ended::WriteStall));
}
