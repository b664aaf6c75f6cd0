//! Clients with a way to a session that is open: one half downloads, the other uploads more than anyone takes.

use std::io;
use std::time::Duration;

use futures::future::join_all;
use sallyport_wire::{Code, Refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use crate::gateway::Served;
use crate::world::BOUND;

/// Waits until each client is told that its session is lost, and not that it ended; the times that it took.
pub(crate) async fn told(clients: Vec<Served>) -> Vec<Duration> {
    let clients = clients.into_iter().enumerate();
    let told = clients.map(|(number, client)| async move {
        let since = Instant::now();
        let end = timeout(BOUND, async {
            if number % 2 == 0 {
                download(client).await
            } else {
                upload(client).await
            }
        });
        let error = end.await.expect("an end");
        let code = Refusal::in_chain(&error).expect("a code in the error").0;
        assert!(
            matches!(code, Code::TunnelLost | Code::Superseded),
            "{code}: {error}"
        );
        since.elapsed()
    });
    join_all(told).await
}

async fn download(mut client: Served) -> io::Error {
    let mut buffer = [0; 1_024];
    loop {
        match client.stream.read(&mut buffer).await {
            Ok(read) => assert!(read > 0, "a cut answer looks complete"),
            Err(error) => return error,
        }
    }
}

async fn upload(mut client: Served) -> io::Error {
    let chunk = vec![0; 64 * 1_024];
    loop {
        let written = client.stream.write_all(&chunk).await;
        if let Err(error) = written.and(client.stream.flush().await) {
            return error;
        }
    }
}
