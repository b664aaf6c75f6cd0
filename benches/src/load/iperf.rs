//! What the link itself carries: iperf3 over TCP.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sallyport_tests::{Port, run_ok};
use serde_json::Value;

use crate::host::Host;
use crate::lab::Lab;

/// Bits a second of one TCP connection from the far end to the near one, taken over `time` after `settle`.
///
/// # Panics
/// If iperf3 is not there or fails.
#[must_use]
pub fn run(lab: &Lab, (settle, time): (Duration, Duration)) -> f64 {
    let site = lab.site();
    let port = Port::reserve();
    let (ip, number) = (lab.near.ip().to_string(), port.number().to_string());
    let iperf3 = Path::new("iperf3");
    let server = ["-s", "-B", &ip, "-p", &number];
    let _server = lab.near.daemon(site.path(), iperf3, &server);
    lab.near.wait_listening(port.number());
    let [settle, time] = [settle, time].map(|time| time.as_secs().max(1).to_string());
    let mut client = command(&lab.far);
    let said = run_ok(client.args(["-J", "-c", &ip, "-p", &number, "-O", &settle, "-t", &time]));
    let said: Value = serde_json::from_str(&said).unwrap_or_default();
    let rate = said.pointer("/end/sum_received/bits_per_second");
    rate.and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("iperf3 said {said}"))
}

fn command(host: &Host) -> Command {
    match host.network() {
        None => Command::new("iperf3"),
        Some(network) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", network, "iperf3"]);
            command
        }
    }
}
