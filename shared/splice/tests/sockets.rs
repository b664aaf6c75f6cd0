//! Over real sockets: what the peers of a joined stream see of its end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use rustls_pki_types::ServerName;
use sallyport_certs::{
    Identity, Reloading, Trust, self_signed, tunnel_client_config, tunnel_server_config,
};
use sallyport_splice::{Duplex, Ended, EndedBy, Ledger, Limits, Live, Meter, Rewound, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Two ends of a TCP connection.
async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// TLS over such a connection: the client's end and the server's.
async fn tls() -> (
    client::TlsStream<TcpStream>,
    server::TlsStream<Rewound<TcpStream>>,
) {
    let own = self_signed(&["localhost".to_owned()], 1).unwrap();
    let identity = Identity::from_pem(own.cert_pem.as_bytes(), own.key_pem.as_bytes()).unwrap();
    let trust = Trust::Pins(vec![identity.pin().unwrap()]);
    let connector = TlsConnector::from(tunnel_client_config(&trust, &[]).unwrap());
    let certs = Reloading::new(identity);
    let acceptor = TlsAcceptor::from(tunnel_server_config(certs, &[]).unwrap());
    let (near, mut far) = tcp().await;
    let name = ServerName::try_from("localhost").unwrap();
    let accept = async {
        // as an edge does that looks at the first bytes before it knows what they are
        let mut first = vec![0; 100];
        far.read_exact(&mut first).await.unwrap();
        acceptor.accept(Rewound::new(first.into(), far)).await
    };
    let (client, server) = tokio::join!(connector.connect(name, near), accept);
    (client.unwrap(), server.unwrap())
}

/// Joins two streams and drops them when it is over, as their owner does.
async fn join(mut client: impl Duplex, mut session: impl Duplex) -> Ended {
    run(&mut client, &mut session, &Limits::default(), &Meter::new()).await
}

async fn read_all(peer: &mut (impl tokio::io::AsyncRead + Unpin)) -> (Vec<u8>, io::Result<()>) {
    let mut got = Vec::new();
    let end = peer.read_to_end(&mut got).await;
    (got, end.map(|_length| ()))
}

#[tokio::test]
async fn over_tcp_an_orderly_end_stays_one_and_half_close_is_kept() {
    let (client, mut browser) = tcp().await;
    let (session, mut program) = tcp().await;
    let talk = async {
        browser.write_all(b"question").await.unwrap();
        browser.shutdown().await.unwrap();
        assert_eq!(read_all(&mut program).await.0, b"question");
        program.write_all(b"answer").await.unwrap();
        program.shutdown().await.unwrap();
        let (got, end) = read_all(&mut browser).await;
        assert_eq!(got, b"answer");
        end.unwrap();
    };

    let (ended, ()) = tokio::join!(join(client, session), talk);

    assert!(matches!(ended.by, EndedBy::Both), "{:?}", ended.by);
    assert_eq!((ended.up, ended.down), (8, 6));
}

#[tokio::test]
async fn over_tcp_a_reset_is_passed_on_as_a_reset() {
    let (client, mut browser) = tcp().await;
    let (session, mut program) = tcp().await;
    let talk = async {
        program.write_all(b"half an answ").await.unwrap();
        browser.read_exact(&mut [0; 12]).await.unwrap();
        program.set_zero_linger().unwrap();
        drop(program);
        read_all(&mut browser).await.1
    };

    let (ended, end) = tokio::join!(join(client, session), talk);

    assert!(matches!(ended.by, EndedBy::Session(_)), "{:?}", ended.by);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropping_the_join_resets_both_tcp_peers() {
    let (mut client, mut browser) = tcp().await;
    let (mut session, mut program) = tcp().await;
    let (limits, meter) = (Limits::default(), Meter::new());
    browser.write_all(b"x").await.unwrap();

    tokio::select! {
        ended = run(&mut client, &mut session, &limits, &meter) => panic!("{ended:?}"),
        byte = program.read_u8() => assert_eq!(byte.unwrap(), b'x'),
    }
    drop((client, session));

    for peer in [&mut browser, &mut program] {
        let (_, end) = read_all(peer).await;
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn over_tls_half_close_is_kept_and_the_end_is_authenticated() {
    let (mut browser, client) = tls().await;
    let (session, mut program) = UnixStream::pair().unwrap();
    let question = vec![7; 1_000_000];
    let talk = async {
        let (ask, serve) = (
            async {
                browser.write_all(&question).await.unwrap();
                browser.shutdown().await.unwrap();
            },
            read_all(&mut program),
        );
        let ((), (got, _)) = tokio::join!(ask, serve);
        assert!(got == question);
        program.write_all(b"answer").await.unwrap();
        program.shutdown().await.unwrap();
        let (got, end) = read_all(&mut browser).await;
        end.unwrap(); // rustls reports a missing close_notify as an error
        assert_eq!(got, b"answer");
    };

    let (ended, ()) = tokio::join!(join(client, session), talk);

    assert!(matches!(ended.by, EndedBy::Both), "{:?}", ended.by);
}

#[tokio::test]
async fn over_tls_an_end_without_close_notify_is_an_abort() {
    let (mut browser, client) = tls().await;
    let (session, mut program) = tcp().await;
    let talk = async {
        browser.write_all(b"cut he").await.unwrap();
        browser.flush().await.unwrap();
        program.read_exact(&mut [0; 6]).await.unwrap();
        drop(browser.into_inner().0); // FIN below, nothing from TLS
        read_all(&mut program).await.1
    };

    let (ended, end) = tokio::join!(join(client, session), talk);

    assert!(matches!(ended.by, EndedBy::Client(_)), "{:?}", ended.by);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn over_tls_an_abort_never_looks_complete() {
    let (mut browser, client) = tls().await;
    let (session, mut program) = tcp().await;
    let talk = async {
        program.write_all(b"half an answ").await.unwrap();
        browser.read_exact(&mut [0; 12]).await.unwrap();
        program.set_zero_linger().unwrap();
        drop(program);
        read_all(&mut browser).await.1
    };

    let boxed: Box<dyn Duplex> = Box::new(client);
    let (_, end) = tokio::join!(join(boxed, session), talk);

    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_unix_program_that_stops_reading_still_answers() {
    let (client, mut browser) = tcp().await;
    let (session, program) = UnixStream::pair().unwrap();
    let program = program.into_std().unwrap();
    program.shutdown(std::net::Shutdown::Read).unwrap();
    let mut program = UnixStream::from_std(program).unwrap();
    let talk = async {
        browser.write_all(b"a long question").await.unwrap();
        tokio::task::yield_now().await;
        program.write_all(b"413").await.unwrap();
        program.shutdown().await.unwrap();
        browser.shutdown().await.unwrap();
        let (got, end) = read_all(&mut browser).await;
        end.unwrap();
        got
    };

    let (ended, got) = tokio::join!(join(client, session), talk);

    assert_eq!(got, b"413");
    assert!(matches!(ended.by, EndedBy::Session(_)), "{:?}", ended.by);
}

#[tokio::test]
async fn a_rewound_stream_gives_first_what_was_taken() {
    let (mut near, far) = tcp().await;
    near.write_all(b" and the rest").await.unwrap();
    near.shutdown().await.unwrap();
    let mut rewound = Rewound::new(Bytes::from_static(b"the start"), far);
    let mut few = [0; 4];
    rewound.read_exact(&mut few).await.unwrap();
    assert_eq!(&few, b"the ");

    assert_eq!(read_all(&mut rewound).await.0, b"start and the rest");
    rewound.write_all(b"back").await.unwrap();
    drop(rewound);

    assert_eq!(read_all(&mut near).await.0, b"back");
}

#[tokio::test]
async fn the_ledger_lists_a_stream_while_it_runs() {
    let ledger = Ledger::new();
    let (mut client, mut browser) = tcp().await;
    let (mut session, mut program) = tcp().await;
    let entry = ledger.open(Live {
        id: "r-1".to_owned(),
        session: "notebook".to_owned(),
        cluster: String::new(),
        node: "n1".to_owned(),
        client: "192.0.2.1:50000".to_owned(),
        kind: "tcp",
        transport: "quic",
        since: SystemTime::now(),
    });
    let (limits, meter) = (Limits::default(), Arc::clone(entry.meter()));
    browser.write_all(b"12345").await.unwrap();

    tokio::select! {
        ended = run(&mut client, &mut session, &limits, &meter) => panic!("{ended:?}"),
        first = program.read_u32() => assert_eq!(first.unwrap(), 0x3132_3334),
    }

    let [figures] = ledger.list().try_into().unwrap();
    assert_eq!((figures.up, figures.down), (5, 0));
    let json = serde_json::to_value(&figures).unwrap();
    assert_eq!(json["session"], "notebook");
    assert_eq!(json["up"], 5);
    drop(entry);
    assert!(ledger.is_empty());
}
