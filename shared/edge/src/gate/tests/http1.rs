use super::*;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const CLOSE: &[u8] = b"GET /z HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

fn rig() -> Rig {
    Rig::new(HttpVersion::One, Limits::default())
}

fn secs(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[track_caller]
fn assert_about(duration: Duration, expected: u64) {
    let expected = Duration::from_secs(expected);
    let late = duration.checked_sub(expected).unwrap_or(Duration::MAX);
    assert!(
        late <= Duration::from_secs(1),
        "{:.2} s instead of {:.2} s",
        secs(duration),
        secs(expected)
    );
}

#[tokio::test(start_paused = true)]
async fn requests_of_every_framing_get_through() {
    let mut rig = rig();
    rig.send(b"\r\n").await;
    rig.send(GET).await;
    rig.send(b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    rig.send(b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    rig.send(b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nx-sum: 1\r\n\r\n")
        .await;
    rig.send(CLOSE).await;

    let (answers, _) = rig.rest().await;
    let bodies = answers.matches("HTTP/1.1 200 OK").count();
    assert_eq!(bodies, 4, "{answers}");
    for body in ["/a 0", "/b 5", "/c 7", "/z 0"] {
        assert!(answers.contains(body), "{body} in {answers}");
    }
    assert_eq!(rig.handle.ended(), None);
    assert_eq!(rig.handle.requests(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_head_in_single_bytes_gets_through_if_in_time() {
    let mut rig = rig();
    for byte in CLOSE {
        rig.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rig.rest().await.0.contains("/z 0"));
}

#[tokio::test(start_paused = true)]
async fn the_next_request_waits_for_the_answer_to_the_one_before() {
    let mut rig = rig();
    rig.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").await;
    rig.send(CLOSE).await;
    assert_eq!(rig.so_far().await, "");
    assert_eq!(rig.seen.requests(), 1);

    rig.seen.go.as_ref().expect("a semaphore").add_permits(1);
    let (answers, _) = rig.rest().await;
    assert!(answers.find("waited") < answers.find("/z 0"), "{answers}");
    assert_eq!(rig.seen.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_comes_after_the_answers_before_it() {
    let mut rig = rig();
    rig.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
    rig.send(b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n")
        .await;

    let (answers, took) = rig.rest().await;
    let refusal =
        String::from_utf8(Bad::Host.answer(rig.handle.refusal_id()).to_vec()).expect("text");
    assert!(
        answers.ends_with(&refusal),
        "{}",
        &answers[answers.len() - 300..]
    );
    let body = answers.find("\r\n\r\n").expect("a body") + 4;
    assert_eq!(answers.len() - refusal.len() - body, 1 << 20);
    assert_eq!(rig.seen.requests(), 1);
    assert_eq!(rig.handle.ended(), Some(Ended::Refused(Bad::Host)));
    assert_about(took, 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_goes_wrong_is_refused_or_reset() {
    let mut rig = rig();
    rig.send(b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX")
        .await;
    let (answer, _) = rig.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(rig.handle.ended(), Some(Ended::Refused(Bad::Chunk)));

    let mut rig = Rig::new(HttpVersion::One, Limits::default());
    rig.send(b"POST /talk HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .await;
    assert!(rig.so_far().await.contains("hello"));
    rig.send(b"zz\r\n").await;
    assert_eq!(rig.rest().await.0, "", "no last chunk and no second answer");
    assert_eq!(rig.handle.ended(), Some(Ended::Refused(Bad::Chunk)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed() {
    let mut rig = rig();
    let (answer, took) = rig.rest().await;
    assert_eq!(answer, "");
    assert_about(took, 10);
    assert_eq!(rig.handle.ended(), Some(Ended::NoFirstByte));
}

#[tokio::test(start_paused = true)]
async fn a_partial_head_is_closed() {
    for partial in [
        "G",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: h\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\r",
    ] {
        let mut rig = rig();
        rig.send(partial.as_bytes()).await;
        let (answer, took) = rig.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_about(took, 10);
        assert_eq!(rig.seen.requests(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dripping_head_has_ten_seconds_in_all() {
    let mut rig = rig();
    let start = Instant::now();
    rig.send(b"GET / HTTP/1.1\r\n").await;
    for drip in 0..12 {
        let field = format!("x-{drip}: 1\r\n");
        if rig.client.write_all(field.as_bytes()).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(rig.rest().await.0.starts_with("HTTP/1.1 408 "));
    assert!(start.elapsed() <= Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let mut rig = rig();
    rig.send(GET).await;
    assert!(rig.so_far().await.contains("/a 0"));
    let (nothing, took) = rig.rest().await;
    assert_eq!(nothing, "");
    assert_about(took + Duration::from_millis(1), 75);
    assert_eq!(rig.handle.ended(), Some(Ended::KeepAlive));
}

#[tokio::test(start_paused = true)]
async fn the_preface_of_http2_is_refused_at_once() {
    for begin in [
        &b"PRI * HTTP/2.0\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut rig = rig();
        rig.send(begin).await;
        let (answer, took) = rig.rest().await;
        assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
        assert_about(took, 0);
    }
    let mut rig = rig();
    rig.send(b"PRI ").await;
    assert_about(rig.rest().await.1, 10);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_is_answered_with_408() {
    let mut rig = rig();
    rig.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhe")
        .await;
    let (answer, took) = rig.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_about(took, 30);
}

#[tokio::test(start_paused = true)]
async fn a_dripping_body_is_answered_with_408() {
    let mut rig = rig();
    let start = Instant::now();
    rig.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n")
        .await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while start.elapsed() < Duration::from_secs(40) {
        ticks.tick().await;
        if rig.client.write_all(b"x").await.is_err() {
            break;
        }
    }
    assert!(rig.rest().await.0.starts_with("HTTP/1.1 408 "));
    assert!(
        start.elapsed() < Duration::from_secs(42),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_at_the_rate_may_take_as_long_as_it_likes() {
    let mut rig = rig();
    rig.send(b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n")
        .await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.send(&[b'x'; 600]).await;
    }
    assert!(rig.so_far().await.contains("/b 60000"));
}

#[tokio::test(start_paused = true)]
async fn a_conversation_may_pause_up_to_the_idle_limit() {
    let mut rig = rig();
    rig.send(b"POST /talk HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhe")
        .await;
    assert!(rig.so_far().await.contains("he"));
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    rig.send(b"ll").await;
    assert!(rig.so_far().await.contains("ll"));
    let (_, took) = rig.rest().await;
    assert_about(took + Duration::from_millis(1), 3_600);
    assert_eq!(rig.handle.ended(), Some(Ended::Idle));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    let mut rig = rig();
    rig.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(rig.handle.ended(), None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.handle.ended(), Some(Ended::WriteStall));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_goes_on_is_served() {
    let mut rig = rig();
    rig.send(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    let (mut got, mut piece) = (0, vec![0; 16 << 10]);
    loop {
        tokio::time::sleep(Duration::from_secs(30)).await;
        match rig.client.read(&mut piece).await.expect("open") {
            0 => break,
            read => got += read,
        }
    }
    assert!(got > 1 << 20);
    assert_eq!(rig.handle.ended(), None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_finished_sending_still_gets_its_answer() {
    let mut rig = rig();
    rig.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").await;
    rig.client.shutdown().await.expect("open");
    tokio::time::sleep(Duration::from_secs(20)).await;
    rig.seen.go.as_ref().expect("a semaphore").add_permits(1);
    assert!(rig.rest().await.0.contains("waited"));

    let mut rig = Rig::new(HttpVersion::One, Limits::default());
    rig.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").await;
    rig.client.shutdown().await.expect("open");
    assert_about(rig.rest().await.1, 30);
    assert_eq!(rig.handle.ended(), Some(Ended::HalfClosed));
}

#[tokio::test(start_paused = true)]
async fn the_last_request_is_answered_and_the_connection_ends() {
    let mut rig = Rig::new(
        HttpVersion::One,
        Limits {
            max_requests: 2,
            ..Limits::default()
        },
    );
    rig.send(GET).await;
    rig.send(GET).await;
    rig.send(GET).await;
    let (answers, took) = rig.rest().await;
    assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
    assert_about(took, 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_asked_to_end() {
    let limits = Limits {
        max_age: Duration::from_secs(100),
        ..Limits::default()
    };
    let mut rig = Rig::new(HttpVersion::One, limits);
    let start = Instant::now();
    rig.send(GET).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    rig.send(GET).await;
    let (_, _) = rig.rest().await;
    let age = secs(start.elapsed());
    assert!((90.0..=110.1).contains(&age), "{age}");
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_an_upgrade_wait_for_it() {
    let mut rig = rig();
    rig.send(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly").await;
    let mut answer = rig.so_far().await;
    answer.push_str(&rig.so_far().await);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nearly"), "{answer}");
    rig.send(b"later").await;
    assert_eq!(rig.so_far().await, "later");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_early_can_be_read() {
    let mut rig = rig();
    rig.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n")
        .await;
    rig.send(&[b'x'; 60_000]).await;
    let (answer, took) = rig.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_about(took, 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_is_let_go_after_the_linger() {
    let mut rig = rig();
    rig.send(b"\x00").await;
    assert!(rig.rest().await.0.starts_with("HTTP/1.1 400 "));
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(rig.client.write_all(b"x").await.is_ok());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(rig.client.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn a_connection_that_breaks_during_the_answer_is_noticed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("an address");
    let (client, accepted) =
        tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (mut client, (server, _)) = (client.expect("connected"), accepted.expect("connected"));
    let (mut gate, handle) = Gate::new(server, HttpVersion::One, &Arc::new(Limits::default()));
    client.write_all(GET).await.expect("open");
    let mut head = vec![0; GET.len()];
    gate.read_exact(&mut head).await.expect("the head");
    assert_eq!(head, GET);

    let _exchange = handle.begin();
    client.set_zero_linger().expect("a socket");
    drop(client);
    let broken = gate.read(&mut head).await.expect_err("a reset");
    assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn of_a_refused_client_only_so_much_is_read() {
    let limits = Limits {
        linger_bytes: 10,
        linger: Duration::from_secs(5),
        ..Limits::default()
    };
    let mut rig = Rig::new(HttpVersion::One, limits);
    rig.send(b"\x00").await;
    assert!(rig.rest().await.0.starts_with("HTTP/1.1 400 "));
    let start = Instant::now();
    let flood = vec![0; 300 << 10];
    assert!(
        rig.client.write_all(&flood).await.is_err(),
        "nobody reads it"
    );
    assert_about(start.elapsed(), 5);
}
