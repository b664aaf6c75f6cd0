//! gRPC of an independent implementation to an `h2c` session, in host mode.

use sallyport_tests::Site;
use sallyport_tests::service::{Certificate, PythonPeer, python_talk};

#[test]
fn unary_and_streaming_calls_with_trailers_and_error_status() {
    let site = Site::new();
    let peer = PythonPeer::serve(site.path(), "grpc_peer.py");
    let names = "IP:127.0.0.1,DNS:*.sessions.example.org";
    let certificate = Certificate::make(site.path(), "site", names);
    let args = certificate.init_args();
    let mut gateway = site.gateway_init("gw", "127.0.0.1", &args.each_ref().map(String::as_str));
    gateway.extend("sessions_domain = \"sessions.example.org\"\n");
    gateway.start();
    gateway.wait_ready();
    let _relay = site.relay(
        "node-a",
        &gateway,
        &format!(
            "[[session]]\nid = \"calls\"\nprotocol = \"h2c\"\ntarget = \"127.0.0.1:{}\"\naccess = \"public\"\n",
            peer.port.number(),
        ),
    );
    gateway.wait_session("calls");

    let address = format!("127.0.0.1:{}", gateway.port());
    let name = format!("calls.sessions.example.org:{}", gateway.port());
    let ca = gateway.certificate().display().to_string();
    python_talk("grpc_peer.py", &["talk", &address, &name, &ca]);
}
