//! Sockets whose bytes the kernel moves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;

use bytes::Bytes;
use sallyport_splice::{Bare, Duplex, Ended, EndedBy, Limits, Meter, Rewound, run_bare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Joins two streams and drops them when it is over, as their owner does.
async fn join(mut client: impl Duplex + Bare, mut session: impl Duplex + Bare) -> Ended {
    run_bare(&mut client, &mut session, &Limits::default(), &Meter::new()).await
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

#[tokio::test]
async fn bytes_arrive_both_ways_behind_those_that_were_read_and_each_end_is_passed_on() {
    let (mut client, near) = tcp().await;
    let (far, mut session) = UnixStream::pair().unwrap();
    let near = Rewound::new(Bytes::from_static(b"hello "), near);
    let sent = pattern(3_000_001);
    let (mut at_session, mut at_client) = (Vec::new(), Vec::new());
    let (mut client_read, mut client_write) = client.split();
    let (mut session_read, mut session_write) = session.split();

    let (ended, (), (), ()) = tokio::join!(
        join(near, far),
        async {
            client_write.write_all(&sent).await.unwrap();
            client_write.shutdown().await.unwrap();
        },
        async {
            session_read.read_to_end(&mut at_session).await.unwrap();
            // the end of one direction leaves the other one open
            session_write.write_all(&sent).await.unwrap();
            session_write.shutdown().await.unwrap();
        },
        async {
            client_read.read_to_end(&mut at_client).await.unwrap();
        },
    );

    assert!(at_session == [b"hello ".as_slice(), &sent].concat());
    assert!(at_client == sent);
    assert!(matches!(ended.by, EndedBy::Both), "{ended:?}");
    assert_eq!((ended.up, ended.down), (3_000_007, 3_000_001));
}

#[tokio::test]
async fn short_segments_fill_the_places_of_a_pipe_and_a_slow_reader_gets_all() {
    let (mut client, near) = tcp().await;
    let (far, mut session) = UnixStream::pair().unwrap();
    client.set_nodelay(true).unwrap();
    let sent = pattern(1_448 * 3_000);
    let mut came = vec![0; sent.len()];

    tokio::join!(
        join(near, far),
        async {
            for segment in sent.chunks(1_448) {
                client.write_all(segment).await.unwrap();
            }
            client.shutdown().await.unwrap();
        },
        async {
            for piece in came.chunks_mut(997) {
                session.read_exact(piece).await.unwrap();
            }
            session.shutdown().await.unwrap();
        },
    );

    assert!(came == sent);
}

#[tokio::test]
async fn a_reset_is_passed_on_as_one() {
    let (client, near) = tcp().await;
    let (far, mut session) = tcp().await;

    client.set_zero_linger().unwrap();
    drop(client);

    let ended = join(near, far).await;
    assert!(matches!(ended.by, EndedBy::Client(_)), "{ended:?}");
    let told = session.read(&mut [0]).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionReset);
}
