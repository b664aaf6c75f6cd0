//! The yamux crate at the other end, in both roles.

use std::task::Poll;

use futures::future::poll_fn;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use proptest::prelude::*;
use sallyport_mux::{Role, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::support::{End, end, pattern, soon};

type Theirs = yamux::Connection<Compat<DuplexStream>>;

fn theirs(io: DuplexStream, mode: yamux::Mode) -> Theirs {
    yamux::Connection::new(io.compat(), yamux::Config::default(), mode)
}

/// Echoes every stream of the other side until the connection ends.
async fn echo_theirs(mut connection: Theirs) {
    while let Some(Ok(mut stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
        tokio::spawn(async move {
            let mut buffer = vec![0; 10_000];
            while let Ok(read) = stream.read(&mut buffer).await {
                if read == 0 || stream.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
            drop(stream.close().await);
        });
    }
}

pub(crate) async fn echo_ours(end: &End) {
    while let Some(stream) = end.accept().await {
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer)
                .await
                .expect("live");
            writer.shutdown().await.expect("live");
        });
    }
}

/// We open, they echo.
async fn asked_by_us(sizes: Vec<usize>, room: usize, role: Role) {
    let (here, there) = duplex(room);
    let ours = end(here, role, Settings::default());
    let mode = match role {
        Role::Client => yamux::Mode::Server,
        Role::Server => yamux::Mode::Client,
    };
    tokio::spawn(echo_theirs(theirs(there, mode)));
    ask_ours(&ours, sizes).await;
}

/// Opens a stream for each size, sends as many bytes and expects them back.
async fn ask_ours(ours: &End, sizes: Vec<usize>) {
    let tasks: Vec<_> = sizes
        .into_iter()
        .map(|size| {
            let stream = ours.mux.open().expect("live");
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let mut got = Vec::new();
                let sending = async {
                    writer.write_all(&pattern(0, size)).await.expect("live");
                    writer.shutdown().await.expect("live");
                };
                let (read, ()) = tokio::join!(reader.read_to_end(&mut got), sending);
                read.expect("an orderly end");
                assert!(got == pattern(0, size), "{size} bytes came back changed");
            })
        })
        .collect();
    for task in tasks {
        soon(task).await.expect("no panic");
    }
}

/// They open, we echo.
async fn asked_by_them(sizes: Vec<usize>, room: usize, role: Role) {
    let (here, there) = duplex(room);
    let ours = end(here, role, Settings::default());
    let mode = match role {
        Role::Client => yamux::Mode::Server,
        Role::Server => yamux::Mode::Client,
    };
    let mut connection = theirs(there, mode);
    let mut tasks = Vec::new();
    for size in sizes {
        let stream = poll_fn(|cx| connection.poll_new_outbound(cx))
            .await
            .expect("a stream");
        tasks.push(tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            let mut got = Vec::new();
            let sending = async {
                // The crate opens a stream with its first bytes, never with its end alone.
                writer
                    .write_all(&pattern(0, size.max(1)))
                    .await
                    .expect("live");
                writer.close().await.expect("live");
            };
            let (read, ()) = tokio::join!(reader.read_to_end(&mut got), sending);
            read.expect("an end");
            assert!(
                got == pattern(0, size.max(1)),
                "{size} bytes came back changed"
            );
        }));
    }
    tokio::spawn(async move {
        poll_fn(|cx| {
            loop {
                match connection.poll_next_inbound(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    });
    let asking = async {
        for task in tasks {
            task.await.expect("no panic");
        }
    };
    soon(async {
        tokio::select! {
            () = echo_ours(&ours) => panic!("the connection ended"),
            () = asking => {}
        }
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn the_crate_at_the_other_end_is_understood_and_understands(
        sizes in prop::collection::vec(prop_oneof![0_usize..2_000, 0_usize..900_000], 1..12),
        room in 100_usize..200_000,
        client: bool,
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(asked_by_us(sizes.clone(), room, role));
        runtime.block_on(asked_by_them(sizes, room, role));
    }
}
