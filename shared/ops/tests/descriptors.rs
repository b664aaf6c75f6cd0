//! What happens when the process runs out of descriptors. Alone in its file, because the limit is the process's.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sallyport_ops::listen::{accept_loop, bind_tcp};
use sallyport_ops::{Slots, Tasks};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::Span;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn clients_are_reset_while_descriptors_are_out_and_served_again_afterwards() {
    let listener = bind_tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let tasks = Tasks::new();
    let (tell, mut accepted) = mpsc::channel(16);
    let slots = Slots::new(16, 16, Vec::new());
    let on = move |accepted| tell.try_send(accepted).expect("room");
    tasks.spawn(
        Span::none(),
        accept_loop(listener, slots, tasks.stopping(), on),
    );
    TcpStream::connect(addr)
        .await
        .expect("descriptors are there");
    accepted.recv().await.expect("served");

    // the client's socket is the last one before the limit
    let client = TcpSocket::new_v4().expect("descriptors are there");
    let hoard = take_all_descriptors();
    let mut client = client
        .connect(addr)
        .await
        .expect("the system still takes connections");
    let refused = timeout(PATIENCE, client.read_u8())
        .await
        .expect("an answer");
    assert_eq!(
        refused.expect_err("not served").kind(),
        io::ErrorKind::ConnectionReset
    );
    drop((client, hoard));

    let _client = TcpStream::connect(addr)
        .await
        .expect("descriptors are there again");
    let served = timeout(Duration::from_secs(1), accepted.recv()).await;
    assert!(served.expect("served within a second").is_some());
}

fn take_all_descriptors() -> Vec<File> {
    let limit = getrlimit(Resource::Nofile);
    let low = Rlimit {
        current: Some(64),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, low).expect("lowering is allowed");
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}
