//! Errors that people can use, and nothing more than they may hear.

use sallyport_tests::{Gateway, Site, eventually};
use serde_json::Value;

fn get(gateway: &Gateway, id: &str, accept: &str) -> sallyport_tests::Answer {
    let accept = format!("Accept: {accept}");
    gateway
        .curl()
        .args(&["-H", &accept])
        .arg(gateway.session_url(id, "/"))
        .go()
}

fn refusals(gateway: &Gateway, code: &str) -> u64 {
    gateway.metric(&format!("sallyport_refusals_total{{code=\"{code}\"}}"))
}

#[test]
fn without_any_relay_every_session_is_503() {
    let site = Site::new();
    let gateway = site.gateway("gw");

    let answer = get(&gateway, "web", "text/html");

    assert_eq!(answer.status(), 503);
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
}

#[test]
fn each_error_has_its_status_a_request_id_and_the_form_that_was_asked_for() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let relay = site.relay(
        "node-a",
        &gateway,
        "[[session]]\nid = \"closed\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n\
         [[session]]\nid = \"private\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\n\
         [[session]]\nid = \"staff\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = { users = [\"ann\"] }\n",
    );
    for id in ["closed", "private", "staff"] {
        gateway.wait_session(id);
    }

    for (id, status) in [("closed", 502), ("private", 401), ("staff", 401)] {
        let page = get(&gateway, id, "text/html,*/*");
        assert_eq!(page.status(), status, "{id}");
        let request = page.header("x-request-id").unwrap_or_default();
        assert!(
            !request.is_empty() && page.text().contains(&request),
            "{}",
            page.text()
        );
        assert!(
            page.header("content-type")
                .is_some_and(|kind| kind.starts_with("text/html"))
        );
        assert!(
            !page.text().contains("127.0.0.1:9"),
            "the target is nobody's business"
        );
        assert!(!page.text().contains("node-a"), "nor is the node");

        let json = get(&gateway, id, "application/json");
        assert_eq!(json.status(), status, "{id}");
        let said: Value = serde_json::from_slice(&json.body).unwrap_or_default();
        assert!(
            said.pointer("/error/name").is_some_and(Value::is_string),
            "{said}"
        );
        assert!(
            said.pointer("/error/message").is_some_and(Value::is_string),
            "{said}"
        );
        assert!(
            said.get("request_id").is_some_and(Value::is_string),
            "{said}"
        );
    }
    // The line for the administrator names node, session and cause.
    drop(relay.wait_for_line(&["closed", "127.0.0.1:9"]));
    eventually("the gateway logs the request", || {
        gateway
            .log()
            .lines()
            .any(|line| line.contains("closed") && line.contains("502"))
    });
    assert_eq!(
        [
            refusals(&gateway, "session_refused"),
            refusals(&gateway, "login_required")
        ],
        [2, 4]
    );
}

#[test]
fn an_unknown_session_is_404_once_the_gateway_knows_its_relays() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let _relay = site.relay(
        "node-a",
        &gateway,
        "[[session]]\nid = \"here\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n",
    );
    gateway.wait_session("here");

    let answer = get(&gateway, "nowhere", "text/html");

    assert_eq!(answer.status(), 404);
    assert!(
        !answer.text().contains("nowhere"),
        "a page never repeats what was asked"
    );
    assert_eq!(refusals(&gateway, "unknown_session"), 1);
}

#[test]
fn a_session_that_takes_too_long_is_504() {
    use std::net::{Ipv4Addr, TcpListener};

    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let site = Site::new();
    let gateway = site.gateway("gw");
    let _relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[[session]]\nid = \"slow\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n\
             answer_within = 1\n"
        ),
    );
    gateway.wait_session("slow");

    assert_eq!(get(&gateway, "slow", "text/html").status(), 504);
}

#[test]
fn the_root_is_a_plain_status_page() {
    let site = Site::new();
    let gateway = site.gateway("gw");
    let _relay = site.relay(
        "node-secret-name",
        &gateway,
        "[[session]]\nid = \"here\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:9\"\naccess = \"public\"\n",
    );
    gateway.wait_session("here");

    let page = gateway
        .curl()
        .arg(format!("{}/", gateway.url()))
        .go()
        .expect(200);

    assert!(page.text().contains("Sallyport"), "{}", page.text());
    assert!(!page.text().contains("node-secret-name"), "{}", page.text());
}
