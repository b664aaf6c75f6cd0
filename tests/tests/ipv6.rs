//! IPv6 end to end: client, gateway, tunnel and session on `::1`.

use std::net::Ipv6Addr;

use sallyport_tests::Site;
use sallyport_tests::service::Nginx;
use sallyport_tests::{Port, service};

#[test]
fn every_hop_over_ipv6() {
    let site = Site::new();
    let port = Port::reserve();
    let _nginx = Nginx::start(site.path(), &format!("listen [::1]:{};", port.number()));
    service::wait_listening_on((Ipv6Addr::LOCALHOST, port.number()).into());
    for transport in ["quic", "tls"] {
        let gateway = site.gateway_with(&format!("gw-{transport}"), "[::1]", "");
        let relay = site.relay(
            &format!("node-{transport}"),
            &gateway,
            &format!(
                "transport = \"{transport}\"\n[[session]]\nid = \"six\"\nprotocol = \"http\"\n\
                 target = \"[::1]:{}\"\naccess = \"public\"\n",
                port.number()
            ),
        );
        gateway.wait_session("six");

        let answer = gateway
            .curl()
            .arg("-6")
            .arg(gateway.session_url("six", "/echo"))
            .go()
            .expect(200);

        assert!(
            answer.text().contains("for=::1") || answer.text().contains("for=[::1]"),
            "{}",
            answer.text()
        );
        drop(relay);
    }
}
