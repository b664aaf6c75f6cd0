//! WebSockets of an independent implementation, over HTTP/1.1 and HTTP/2.

use sallyport_tests::service::{PythonPeer, python_talk};
use sallyport_tests::{Gateway, Relay, Site};

struct Chat {
    gateway: Gateway,
    _relay: Relay,
    _peer: PythonPeer,
    _site: Site,
}

fn chat() -> Chat {
    let site = Site::new();
    let peer = PythonPeer::serve(site.path(), "websocket_peer.py");
    let gateway = site.gateway("gw");
    let relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[[session]]\nid = \"chat\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            peer.port.number(),
        ),
    );
    gateway.wait_session("chat");
    Chat {
        gateway,
        _site: site,
        _relay: relay,
        _peer: peer,
    }
}

#[test]
fn echo_large_messages_ping_and_close_codes_over_http1() {
    let chat = chat();
    let url = chat
        .gateway
        .session_url("chat", "/")
        .replace("https", "wss");
    let ca = chat.gateway.certificate().display().to_string();

    python_talk("websocket_peer.py", &["talk", &url, &ca]);
}

#[test]
fn echo_over_http2() {
    let chat = chat();
    let ca = chat.gateway.certificate().display().to_string();
    let port = chat.gateway.port().to_string();

    python_talk(
        "websocket_peer.py",
        &["talk2", "127.0.0.1", &port, "/s/chat/", &ca],
    );
}
