//! The cookie that keeps a client with one member of a pool.

use sallyport_edge::Affinity;

use crate::app;
use crate::harness::{Raw, Site, header, status};
use crate::http2;

const PATH: &str = "__Secure-sallyport-pool";
const HOST: &str = "__Host-sallyport-pool";

/// What keeps the client of the latest stream with its member.
fn asked(site: &Site) -> Option<Affinity> {
    site.host.asked().last()?.affinity
}

fn digits(affinity: Affinity) -> String {
    format!("{:032x}", affinity.value())
}

async fn get(raw: &mut Raw, cookies: &str) -> (Option<String>, String) {
    raw.send(&format!(
        "GET /s/pool/x HTTP/1.1\r\nHost: gw.test\r\n{cookies}\r\n"
    ))
    .await;
    let (head, body) = raw.answer().await;
    assert_eq!(status(&head), 200, "{head}");
    (header(&head, "set-cookie").map(str::to_owned), body)
}

#[tokio::test]
async fn the_first_answer_gives_a_cookie_by_which_the_next_requests_go() {
    let site = Site::new();
    let count = app::pool(&site).await;
    let mut raw = site.raw().await;

    let (given, _) = get(&mut raw, "").await;
    let first = asked(&site).expect("one");
    let whole = format!(
        "{PATH}={}; Path=/s/pool/; Secure; HttpOnly; SameSite=Lax",
        digits(first)
    );
    assert_eq!(given, Some(whole));

    let (again, seen) = get(
        &mut raw,
        &format!("Cookie: a=1; {PATH}={}\r\n", digits(first)),
    )
    .await;
    assert_eq!(again, None, "it knows");
    assert!(
        seen.contains("cookie: a=1\n") && !seen.to_lowercase().contains("sallyport"),
        "{seen}"
    );
    assert_eq!(count.get(), 1, "on the stream that is kept for it");

    let (again, _) = get(&mut raw, &format!("Cookie: {PATH}={:032x}\r\n", 7)).await;
    assert_eq!((again, asked(&site)), (None, Some(Affinity::new(7))));
    assert_eq!(count.get(), 2, "another browser, on another stream");

    for bad in [
        "x",
        "",
        "00000000000000000000000000000000A",
        "+0000000000000000000000000000001",
    ] {
        let (given, seen) = get(&mut raw, &format!("Cookie: {PATH}={bad}\r\n")).await;
        let new = asked(&site).expect("one");
        assert!(
            given.is_some_and(|given| given.contains(&digits(new))),
            "{bad}"
        );
        assert!(!seen.to_lowercase().contains("sallyport"), "{seen}");
    }
}

#[tokio::test]
async fn a_host_of_its_own_has_a_cookie_that_no_other_host_can_set() {
    let site = Site::new();
    app::pool(&site).await;
    let ask = |cookies: String| {
        let site = &site;
        async move {
            let request = format!("GET / HTTP/1.1\r\nHost: pool.sessions.test\r\n{cookies}\r\n");
            site.fetch(&request).await
        }
    };

    let told = ask(format!("Cookie: {PATH}={:032x}\r\n", 7)).await;
    let first = asked(&site).expect("one");
    assert_ne!(first, Affinity::new(7), "that of a path is none here");
    let whole = format!(
        "{HOST}={}; Path=/; Secure; HttpOnly; SameSite=Lax",
        digits(first)
    );
    assert_eq!(header(&told, "set-cookie"), Some(whole.as_str()), "{told}");

    let told = ask(format!("Cookie: {HOST}={}\r\n", digits(first))).await;
    assert_eq!(
        (header(&told, "set-cookie"), asked(&site)),
        (None, Some(first))
    );
}

#[tokio::test]
async fn a_session_neither_sees_nor_sets_it() {
    let site = Site::new();
    app::pool(&site).await;
    app::web(&site).await;

    let told = site
        .fetch("GET /s/pool/cookies HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        .await;
    let ours: Vec<_> = told
        .lines()
        .filter(|line| line.contains("sallyport"))
        .collect();
    let given = format!("{PATH}={};", digits(asked(&site).expect("one")));
    assert!(matches!(ours[..], [one] if one.contains(&given)), "{told}");

    let told = site
        .fetch(&format!(
            "GET /s/web/x HTTP/1.1\r\nHost: gw.test\r\nCookie: {PATH}=1; a=1; {HOST}=2\r\n\r\n"
        ))
        .await;
    assert_eq!(asked(&site), None, "not a pool with cookies");
    assert!(!told.contains("sallyport-pool"), "{told}");
    assert!(told.contains("cookie: a=1\n"), "{told}");
}

#[tokio::test]
async fn http2_is_alike() {
    let site = Site::new();
    app::pool(&site).await;
    let mut sender = http2::client(&site).await;

    let request = http2::request("GET", "/s/pool/x", http2::empty());
    let answer = sender.send_request(request).await.expect("an answer");
    let given = answer.headers().get("set-cookie").expect("given").clone();
    let first = asked(&site).expect("one");
    assert!(given.to_str().expect("text").contains(&digits(first)));

    let mut request = http2::request("GET", "/s/pool/x", http2::empty());
    for crumb in ["a=1".to_owned(), format!("{PATH}={}", digits(first))] {
        let crumb = crumb.parse().expect("a value");
        request.headers_mut().append("cookie", crumb);
    }
    let answer = sender.send_request(request).await.expect("an answer");
    assert!(!answer.headers().contains_key("set-cookie"));
    assert_eq!(asked(&site), Some(first));
    let seen = http2::text(answer).await;
    assert!(
        seen.contains("cookie: a=1\n") && !seen.contains("sallyport-pool"),
        "{seen}"
    );
}
