//! Several sessions, relays and gateways at once; names that several claim.

use sallyport_tests::service::Nginx;
use sallyport_tests::{Gateway, Relay, Site};

fn session(id: &str, port: u16) -> String {
    format!(
        "[[session]]\nid = \"{id}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{port}\"\naccess = \"public\"\n"
    )
}

fn works(gateway: &Gateway, id: &str) {
    gateway.wait_session(id);
    drop(
        gateway
            .curl()
            .arg(gateway.session_url(id, "/echo"))
            .go()
            .expect(200),
    );
}

#[test]
fn two_relays_on_one_gateway() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let _a = site.relay(
        "node-a",
        &gateway,
        &(session("one", nginx.port.number()) + &session("two", nginx.port.number())),
    );
    let _b = site.relay("node-b", &gateway, &session("three", nginx.port.number()));

    for id in ["one", "two", "three"] {
        works(&gateway, id);
    }
}

#[test]
fn one_relay_on_two_gateways_that_share_keys() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let first = site.gateway("gw-1");
    let file = first.path().join("gateway.json").display().to_string();
    let mut second = site.gateway_init("gw-2", "127.0.0.1", &["--join", &file]);
    second.start();
    second.wait_ready();
    // The joined file names both gateways: one copy is enough.
    let relay: Relay = site
        .relay_stopped("node-a", &[&second], &session("web", nginx.port.number()))
        .started();

    works(&first, "web");
    works(&second, "web");
    drop(relay);
}

#[test]
fn a_name_that_is_live_elsewhere_is_refused_not_stolen() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let _a = site.relay("node-a", &gateway, &session("web", nginx.port.number()));
    works(&gateway, "web");
    let both = session("web", 9) + &session("mine", nginx.port.number());

    let second = site.relay("node-b", &gateway, &both);

    works(&gateway, "mine");
    drop(gateway.wait_for_line(&["home_taken", "web", "node-b"]));
    drop(second.wait_for_line(&["web", "home_taken"]));
    works(&gateway, "web");
}

#[test]
fn another_relay_cannot_take_the_name_of_a_node() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let mut rightful = site.relay("node-a", &gateway, &session("web", nginx.port.number()));
    works(&gateway, "web");
    let elsewhere = Site::new();
    let impostor = elsewhere.relay("node-a", &gateway, &session("other", nginx.port.number()));

    drop(gateway.wait_for_line(&["name_taken", "node-a"]));
    drop(impostor);
    works(&gateway, "web");

    // The name stays bound while its node is away, until the administrator releases it.
    rightful.daemon().kill();
    let forgotten = gateway.command(&["relays", "forget", "node-a"]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    let _heir = elsewhere.relay("node-a", &gateway, &session("heir", nginx.port.number()));
    works(&gateway, "heir");
}

#[test]
fn a_gateway_file_that_appears_changes_and_goes_is_followed() {
    let site = Site::new();
    let nginx = Nginx::start(site.path(), "");
    let gateway = site.gateway("gw");
    let relay = site
        .relay_stopped("node-a", &[], &session("web", nginx.port.number()))
        .started();
    let file = relay.path().join("gateways/gw.json");

    assert!(std::fs::copy(gateway.path().join("gateway.json"), &file).is_ok());
    works(&gateway, "web");

    std::fs::remove_file(&file).expect("it was there");
    sallyport_tests::eventually("the relay leaves", || !gateway.has_session("web"));

    assert!(std::fs::copy(gateway.path().join("gateway.json"), &file).is_ok());
    works(&gateway, "web");
}
