//! Nodes of one cluster that share one process: the relay's own code for what a node tells the others, once for each, with
//! a name and a connection to the broker of its own. Some hear all the others, too.
//!
//! `many-nodes FOLDER COUNT OBSERVERS`, until it is ended. FOLDER has broker.json, cluster-keys.json and `server.json`, a
//! server object that each says of itself.
#![expect(
    clippy::expect_used,
    reason = "a load of the benchmark that cannot be made ends"
)]

use std::path::Path;
use std::time::Duration;

use sallyport_benches::node::Load;
use sallyport_ops::{Tasks, privileges};
use tokio::time::sleep;

/// Nodes are not switched on in the same instant.
const BETWEEN: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, count, observers] = args.as_slice() else {
        return;
    };
    privileges::raise_descriptor_limit().expect("up to the hard limit anyone may go");
    let load = Load::read(Path::new(folder));
    let observers: u32 = observers.parse().expect("a number");
    let tasks = Tasks::new();
    for number in 0..count.parse::<u32>().expect("a number") {
        let node = load.node(&format!("n{number}"), &tasks);
        node.speak(&tasks);
        if number < observers {
            node.observer.observe(&tasks);
        }
        sleep(BETWEEN).await;
    }
    std::future::pending::<()>().await;
}
