//! Requests that must not get through, each with what is wrong with it.

use super::*;

/// A request line and a Host that are good.
const OK: &str = "GET / HTTP/1.1\r\nHost: h\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\n";

fn with(start: &str, rest: &str) -> Vec<u8> {
    format!("{start}{rest}\r\n\r\n").into_bytes()
}

/// A whole head with this request line.
fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: h\r\n\r\n").into_bytes()
}

fn host(value: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n").into_bytes()
}

fn cases() -> Vec<(Bad, Vec<Vec<u8>>)> {
    [
        lines(),
        line_ends(),
        fields(),
        hosts(),
        framings(),
        upgrades(),
        sizes(),
    ]
    .concat()
}

/// Request lines.
const LINES: &[(Bad, &[&str])] = &[
    (
        Bad::Line,
        &[
            " GET / HTTP/1.1",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / a HTTP/1.1",
            "GET\t/\tHTTP/1.1",
            "G(T / HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1",
            "GET / HTTP/1.10",
            "GET / HTTP/11",
            "GET / XTTP/1.1",
            "\"GET\" / HTTP/1.1",
            "/ HTTP/1.1 GET x",
            "\x16\x03\x01 / HTTP/1.1",
            "\r\n\r\nGET / HTTP/1.1",
        ],
    ),
    (
        Bad::Version,
        &[
            "GET /",
            "GET / HTTP/0.9",
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET / HTTP/3.0",
            "PRI * HTTP/2.0",
        ],
    ),
    (
        Bad::Method,
        &[
            "CONNECT h:443 HTTP/1.1",
            "TRACE / HTTP/1.1",
            "TRACK / HTTP/1.1",
            "get / HTTP/1.1",
            "GETS / HTTP/1.1",
            "DEBUG / HTTP/1.1",
            "X-GET / HTTP/1.1",
        ],
    ),
    (
        Bad::Target,
        &[
            "GET * HTTP/1.1",
            "GET a HTTP/1.1",
            "GET h:443 HTTP/1.1",
            "GET ftp://h/ HTTP/1.1",
            "GET file:///x HTTP/1.1",
            "GET http:/h/ HTTP/1.1",
            "GET http:///x HTTP/1.1",
            "GET ://h/ HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /a\\b HTTP/1.1",
            "GET /\x7f HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /<x> HTTP/1.1",
            "GET /a\tb HTTP/1.1",
            "GET /?a<b HTTP/1.1",
            "GET ?x HTTP/1.1",
            "GET javascript:alert(1) HTTP/1.1",
            "OPTIONS ** HTTP/1.1",
        ],
    ),
    (
        Bad::HostMismatch,
        &[
            "GET http://i/ HTTP/1.1",
            "GET http://h:81/ HTTP/1.1",
            "GET http://u@h/ HTTP/1.1",
            "GET http://u:p@h/ HTTP/1.1",
            "GET https://h.i/ HTTP/1.1",
            "GET http://h@i/ HTTP/1.1",
            "GET http://[::1]/ HTTP/1.1",
        ],
    ),
];

fn lines() -> Vec<(Bad, Vec<Vec<u8>>)> {
    let whole = |texts: &[&str]| texts.iter().map(|text| line(text)).collect();
    LINES
        .iter()
        .map(|(bad, texts)| (*bad, whole(texts)))
        .collect()
}

fn line_ends() -> Vec<(Bad, Vec<Vec<u8>>)> {
    let all = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect();
    vec![
        (
            Bad::Ending,
            all(&[
                b"GET / HTTP/1.1\nHost: h\n\n",
                b"GET / HTTP/1.1\r\nHost: h\n\r\n",
                b"GET / HTTP/1.1\r\nHost: h\r\n\n",
                b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
                b"GET /\rx HTTP/1.1\r\n\r\n",
                b"\nGET / HTTP/1.1\r\n\r\n",
                b"\rGET / HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nA: b\r\nHost: h\n",
                b"GET / HTTP/1.1\r\nHost: h\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
            ]),
        ),
        (
            Bad::Control,
            all(&[
                b"\0",
                b"GET /\0 HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: h\0\r\n\r\n",
                b"GET / HTTP/1.1\r\nX: \0\r\nHost: h\r\n\r\n",
            ]),
        ),
    ]
}

/// Fields after a good Host.
const FIELDS: &[(Bad, &[&str])] = &[
    (
        Bad::FieldName,
        &[
            "X : y",
            "X\t: y",
            "X",
            ": y",
            "X Y: z",
            "X\": y",
            "X(: y",
            "X\u{e9}: y",
            "Content-Length : 0",
            "Transfer-Encoding : chunked",
            "@x: y",
            "x/y: z",
            "[x]: y",
            "{x}: y",
        ],
    ),
    (
        Bad::Underscore,
        &[
            "X_Forwarded_For: 1",
            "content_length: 5",
            "_: y",
            "X-A_b: c",
        ],
    ),
    (
        Bad::FieldValue,
        &[
            "X: a\x01b",
            "X: a\x0bb",
            "X: a\x0cb",
            "X: a\x1bb",
            "X: a\x7fb",
            "X: a\x08",
        ],
    ),
    (
        Bad::Folded,
        &["X: y\r\n z", "X: y\r\n\tz", " X: y", "X: y\r\n \r\nZ: y"],
    ),
    (
        Bad::Connection,
        &[
            "Connection: Host",
            "Connection: close, content-length",
            "Connection: transfer-encoding",
            "Connection: close\r\nConnection: HOST",
        ],
    ),
    (
        Bad::Expect,
        &[
            "Expect: 200-ok",
            "Expect: ",
            "Expect: 100-continue, x",
            "Expect: 100-continue\r\nExpect: 100-continue",
        ],
    ),
];

fn fields() -> Vec<(Bad, Vec<Vec<u8>>)> {
    let whole = |texts: &[&str]| texts.iter().map(|text| with(OK, text)).collect();
    FIELDS
        .iter()
        .map(|(bad, texts)| (*bad, whole(texts)))
        .collect()
}

fn hosts() -> Vec<(Bad, Vec<Vec<u8>>)> {
    let mut bad: Vec<Vec<u8>> = [
        "",
        " ",
        "a b",
        "a/b",
        "a/b@c",
        "u@h",
        "u:p@h",
        "h:",
        "h:x",
        "h:0",
        "h:65536",
        "h:080808",
        "h:+1",
        "h:80:80",
        "h,i",
        "a..b",
        ".h",
        "-h",
        "h-",
        "[::1",
        "::1",
        "[::g]",
        "[127.0.0.1]",
        "[::1]x",
        "[::1]:x",
        "[fe80::1%25eth0]",
        "0x7f.1",
        "127.1",
        "2130706433",
        "h\\i",
        "h?i",
        "h#i",
        "h%2ei",
        "*",
        "\u{e9}",
        "h;i",
        "http://h",
        "h\th",
    ]
    .map(host)
    .to_vec();
    bad.push(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    bad.push(b"GET / HTTP/1.0\r\n\r\n".to_vec());
    bad.push(b"GET http://h/ HTTP/1.1\r\n\r\n".to_vec());
    bad.push(with(OK, "Host: h"));
    bad.push(with(OK, "hOST: i"));
    bad.push(host(&"a".repeat(64)));
    bad.push(host(&"a.".repeat(130)));
    vec![(Bad::Host, bad)]
}

fn framings() -> Vec<(Bad, Vec<Vec<u8>>)> {
    let all = |fields: &[&str]| fields.iter().map(|field| with(POST, field)).collect();
    let mut encodings: Vec<Vec<u8>> = all(&[
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: chunk ed",
        "Transfer-Encoding: trailers",
    ]);
    encodings.push(b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec());
    vec![
        (Bad::Encoding, encodings),
        (
            Bad::LengthAndEncoding,
            all(&[
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "Transfer-Encoding: chunked\r\nContent-Length: 0",
            ]),
        ),
        (
            Bad::Length,
            all(&[
                "Content-Length: 5\r\nContent-Length: 5",
                "Content-Length: 5\r\nContent-Length: 6",
                "Content-Length: 5, 5",
                "Content-Length: +5",
                "Content-Length: -5",
                "Content-Length: 0x5",
                "Content-Length: 5 5",
                "Content-Length: ",
                "Content-Length: 05",
                "Content-Length: 5.0",
                "Content-Length: 18446744073709551616",
                "Content-Length: 9223372036854775808",
                "Content-Length: five",
                "Content-Length: \u{663}",
            ]),
        ),
    ]
}

fn upgrades() -> Vec<(Bad, Vec<Vec<u8>>)> {
    let all = |start: &str, fields: &[&str]| -> Vec<Vec<u8>> {
        fields.iter().map(|field| with(start, field)).collect()
    };
    let mut bad = all(
        OK,
        &[
            "Connection: Upgrade\r\nUpgrade: h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x",
            "HTTP2-Settings: x",
            "Connection: Upgrade\r\nUpgrade: websocket, h2c",
            "Connection: Upgrade\r\nUpgrade: h2c, websocket",
            "Connection: Upgrade\r\nUpgrade: TLS/1.0",
            "Upgrade: websocket",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket",
            "Connection: Upgrade\r\nUpgrade: ",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5",
            "Connection: close\r\nUpgrade: websocket",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
        ],
    );
    bad.extend(all(POST, &["Connection: Upgrade\r\nUpgrade: websocket"]));
    bad.push(
        b"GET / HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
    );
    vec![(Bad::Upgrade, bad)]
}

fn sizes() -> Vec<(Bad, Vec<Vec<u8>>)> {
    let long = |length: usize| "a".repeat(length);
    let many: Vec<String> = (0..100).map(|count| format!("x-{count}: 1")).collect();
    let large: Vec<String> = (0..5)
        .map(|count| format!("x-{count}: {}", long(8_000)))
        .collect();
    vec![
        (
            Bad::TargetTooLong,
            vec![
                line(&format!("GET /{} HTTP/1.1", long(8_192))),
                format!("GET /{}", long(9_000)).into_bytes(),
            ],
        ),
        (
            Bad::FieldTooLarge,
            vec![
                with(OK, &format!("x: {}", long(16_384))),
                with(OK, &format!("{}: x", long(16_384))),
                format!("{OK}x: {}", long(17_000)).into_bytes(),
            ],
        ),
        (Bad::TooManyFields, vec![with(OK, &many.join("\r\n"))]),
        (Bad::HeadTooLarge, vec![with(OK, &large.join("\r\n"))]),
        (Bad::Line, vec![long(33).into_bytes()]),
    ]
}

#[test]
fn each_is_refused_for_what_is_wrong_with_it() {
    let limits = Limits::default();
    let cases = cases();
    assert!(
        cases
            .iter()
            .map(|(_, requests)| requests.len())
            .sum::<usize>()
            >= 120
    );
    for (bad, requests) in cases {
        for raw in requests {
            let shown = raw[..raw.len().min(200)].escape_ascii().to_string();
            assert_eq!(validate_head(&raw, &limits), Err(bad), "{shown}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn none_reaches_the_service_and_each_is_answered_at_once() {
    for (bad, requests) in cases() {
        for raw in requests {
            let mut rig = Rig::new(HttpVersion::One, Limits::default());
            rig.send(&raw).await;
            let (answer, took) = rig.rest().await;
            let shown = raw[..raw.len().min(200)].escape_ascii().to_string();
            assert_eq!(rig.seen.requests(), 0, "{shown}");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {} ", bad.status())),
                "{shown}: {answer}"
            );
            assert!(took < Duration::from_secs(1), "{shown}: {took:?}");
        }
    }
}

#[test]
fn good_requests_have_the_shape_they_say() {
    let limits = Limits::default();
    let shape =
        |raw: &[u8]| validate_head(raw, &limits).map(|shape| (shape.framing, shape.upgrade));
    let plain = Ok((Framing::None, false));
    let good: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PROPFIND /x HTTP/1.1\r\nHost: h:8443\r\n\r\n",
        b"GET https://H.example./a?b HTTP/1.1\r\nHost: h.example\r\n\r\n",
        b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /s/a/?x=%7B|\\^`{}&y HTTP/1.1\r\nhost:\th\t\r\nCookie: a=\xe9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:443\r\nX:\r\n\r\n",
        b"GET //x/../%2f HTTP/1.1\r\nHost: 127.0.0.1\r\nTE: trailers\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    ];
    for raw in good {
        assert_eq!(shape(raw), plain, "{}", raw.escape_ascii());
    }
    assert_eq!(
        shape(&with(POST, "Content-Length: 12\r\nExpect: 100-continue")),
        Ok((Framing::Length(12), false))
    );
    assert_eq!(
        shape(&with(OK, "Transfer-Encoding: Chunked")),
        Ok((Framing::Chunked, false))
    );
    assert_eq!(
        shape(&with(OK, "Connection: a, upgrade\r\nUpgrade: WebSocket")),
        Ok((Framing::None, true))
    );
}

#[test]
fn the_length_is_that_of_the_head_alone() {
    let raw = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\n";
    assert_eq!(
        validate_head(raw, &Limits::default()).map(|shape| shape.length),
        Ok(27)
    );
}

#[test]
fn limits_are_reached_at_their_exact_values() {
    let limits = Limits {
        fields: 2,
        target_bytes: 4,
        field_bytes: 8,
        head_bytes: 40,
        ..Limits::default()
    };
    let check = |raw: &str| validate_head(raw.as_bytes(), &limits).map(drop);
    assert_eq!(
        check("GET /abc HTTP/1.1\r\nHost: h\r\nabc: 123\r\n\r\n"),
        Ok(())
    );
    assert_eq!(
        check("GET /abcd HTTP/1.1\r\nHost: h\r\n\r\n"),
        Err(Bad::TargetTooLong)
    );
    assert_eq!(
        check("GET / HTTP/1.1\r\nHost: h\r\nabc: 1234\r\n\r\n"),
        Err(Bad::FieldTooLarge)
    );
    assert_eq!(
        check("GET / HTTP/1.1\r\nHost: h\r\na: 1\r\nb: 1\r\n\r\n"),
        Err(Bad::TooManyFields)
    );
    assert_eq!(
        check("GET /abc HTTP/1.1\r\nHost: h\r\nabc: 123\r\nd: 1\r\n\r\n"),
        Err(Bad::HeadTooLarge)
    );
}
