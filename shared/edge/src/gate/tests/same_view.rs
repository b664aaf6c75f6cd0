//! What passes the gate means to hyper what it means to the gate.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Parts of which requests are made, good ones and bad ones.
fn part() -> impl Strategy<Value = &'static str> {
    select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "PUT http://h/ HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "Host: h\r\n",
        "Host: h\r\n",
        "Host: h\r\n",
        "host:h:80\r\n",
        "Host: \r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 3\r\n",
        "content-length:0\r\n",
        "Content-Length: 03\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:\tCHUNKED\t\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Expect: 100-continue\r\n",
        "X: y\r\n",
        "X:\x0b\r\n",
        "X\r\n",
        " X: y\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        "abc",
        "abc",
        "3\r\nabc\r\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "Y: z\r\n",
        "1;a=b\r\nx\r\n",
        "0x1\r\nx\r\n",
    ])
}

/// A request that is likely to be valid, and how long its body is.
fn likely() -> impl Strategy<Value = (String, usize)> {
    let body = prop::collection::vec("[a-z]{1,40}", 0..5);
    (
        select(vec!["POST", "PUT", "GET", "REPORT"]),
        "(/[a-z%0-9~.]{0,8}){1,4}",
        any::<bool>(),
        body,
    )
        .prop_map(|(method, path, chunked, parts)| {
            let path = path.replace('%', "%2");
            let length: usize = parts.iter().map(String::len).sum();
            let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n");
            let body = if chunked {
                let chunk = |part: &String| format!("{:x}\r\n{part}\r\n", part.len());
                let chunks: String = parts.iter().map(chunk).collect();
                format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
            } else {
                format!("Content-Length: {length}\r\n\r\n{}", parts.concat())
            };
            (head + &body, length)
        })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

/// Sends `raw` in pieces and the end of the stream; gives the answers.
async fn exchange(raw: &[u8], piece: usize) -> (String, Option<Ended>, usize) {
    let mut rig = Rig::new(HttpVersion::One, Limits::default());
    for bytes in raw.chunks(piece) {
        if rig.client.write_all(bytes).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(rig.client.shutdown().await);
    let (answers, _) = rig.rest().await;
    (answers, rig.handle.ended(), rig.seen.requests())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn hyper_finds_no_fault_that_the_gate_overlooked(
        parts in prop::collection::vec(part(), 1..12),
        piece in 1_usize..60,
    ) {
        let raw = parts.concat();
        let (answers, ended, requests) = block_on(exchange(raw.as_bytes(), piece));
        // hyper's own refusal has an empty body; ours names its status, the service's its finding.
        prop_assert!(!answers.contains("content-length: 0\r\n"), "{raw:?} -> {answers:?}");
        let refused = matches!(ended, Some(Ended::Refused(_)));
        let answered = answers.matches("HTTP/1.1 200 OK").count() + answers.matches("HTTP/1.0 200 OK").count();
        prop_assert!(answered <= requests);
        prop_assert!(!refused || !answers.is_empty());
    }

    #[test]
    fn pipelined_requests_arrive_with_the_lengths_they_have(
        requests in prop::collection::vec(likely(), 1..5),
        piece in 1_usize..200,
    ) {
        let raw: String = requests.iter().map(|(raw, _)| raw.as_str()).collect();
        let (answers, ended, seen) = block_on(exchange(raw.as_bytes(), piece));
        prop_assert_eq!(ended, None, "{} -> {}", raw, answers);
        prop_assert_eq!(seen, requests.len());
        let mut rest = answers.as_str();
        for (raw, length) in &requests {
            let path = raw.split(' ').nth(1).unwrap();
            let wanted = format!("\r\n\r\n{path} {length}");
            let at = rest.find(&wanted);
            prop_assert!(at.is_some(), "{wanted:?} in {answers:?}");
            rest = &rest[at.unwrap() + wanted.len()..];
        }
    }

    #[test]
    fn any_bytes_in_any_pieces_end_without_a_panic(
        raw in prop::collection::vec(any::<u8>(), 0..400),
        piece in 1_usize..50,
        two in any::<bool>(),
    ) {
        let limits = Limits::default();
        let _any = validate_head(&raw, &limits);
        block_on(async {
            let http = if two { HttpVersion::Two } else { HttpVersion::One };
            let mut rig = Rig::new(http, limits);
            if two {
                rig.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            }
            for bytes in raw.chunks(piece) {
                drop(rig.client.write_all(bytes).await);
                tokio::task::yield_now().await;
            }
            drop(rig.client.shutdown().await);
            drop(rig.rest().await);
        });
    }
}
