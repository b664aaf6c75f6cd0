//! A front, its host and its clients.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use sallyport_edge::client::HttpVersion;
use sallyport_edge::{
    Ask, ClientInfo, Credential, Denial, Found, Front, Limits, Opener, Page, Sites, Way,
};
use sallyport_ops::Tasks;
use sallyport_splice::{Abort, Duplex};
use sallyport_wire::message::Protocol;
use sallyport_wire::{ClusterName, Code, Refusal, SessionId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes; a test that meets it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Sessions of a test, and what was asked for them.
#[derive(Clone, Default)]
pub(crate) struct Host(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sessions: HashMap<String, (Found, SocketAddr)>,
    /// Answers to the next opens, before real streams are given.
    script: VecDeque<Scripted>,
    asked: Vec<Ask>,
}

/// What an open does instead of connecting.
pub(crate) enum Scripted {
    Denied(Denial),
    /// A stream whose reads fail with this refusal, over [`way`].
    Refused(Code),
}

/// The tunnel that every stream claims to go through.
pub(crate) const TUNNEL: u64 = 7;

/// The way that every stream claims to take.
pub(crate) fn way() -> Arc<Way> {
    Arc::new(Way {
        node: "n1".parse().expect("a name"),
        tunnel: TUNNEL,
        transport: "quic",
    })
}

impl Host {
    pub(crate) fn add(&self, id: &str, address: SocketAddr, change: impl FnOnce(&mut Found)) {
        let session: SessionId = id.parse().expect("an id");
        let mut found = Found {
            session,
            cluster: ClusterName::DEFAULT,
            protocol: Protocol::Http,
            keep_prefix: false,
            answer_within: None,
            anonymous: true,
            elsewhere: None,
            by_cookie: false,
        };
        change(&mut found);
        self.state()
            .sessions
            .insert(id.to_owned(), (found, address));
    }

    pub(crate) fn script(&self, next: Scripted) {
        self.state().script.push_back(next);
    }

    pub(crate) fn asked(&self) -> Vec<Ask> {
        self.state().asked.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("a lock")
    }
}

impl Opener for Host {
    type Stream = Box<dyn Duplex>;

    async fn find(
        &self,
        _cluster: &ClusterName,
        session: &SessionId,
        _credential: &Credential,
    ) -> Result<Found, Denial> {
        match session.as_str() {
            "down" => Err(Denial {
                session: Some(session.clone()),
                ..Denial::new(Code::SessionDown, "node n1: 10.0.0.7:80 refused")
            }),
            "lost" => Err(Denial {
                retry_after: Some(Duration::from_secs(3)),
                ..Denial::new(Code::HomeLost, "node n1 is gone")
            }),
            id => match self.state().sessions.get(id) {
                Some((found, _)) => Ok(found.clone()),
                None => Err(Denial::new(Code::UnknownSession, "never heard of")),
            },
        }
    }

    async fn open(&self, ask: &Ask) -> Result<Box<dyn Duplex>, Denial> {
        let (script, address) = {
            let mut state = self.state();
            state.asked.push(ask.clone());
            let address = state
                .sessions
                .get(ask.found.session.as_str())
                .map(|(_, address)| *address);
            (state.script.pop_front(), address.expect("a session"))
        };
        match script {
            Some(Scripted::Denied(denial)) => Err(denial),
            Some(Scripted::Refused(code)) => Ok(Box::new(Refusing {
                code,
                asked: false,
                reader: None,
            })),
            None => TcpStream::connect(address)
                .await
                .map(|stream| Box::new(stream) as Box<dyn Duplex>)
                .map_err(|error| Denial::new(Code::SessionRefused, error.to_string())),
        }
    }

    fn way(&self, _stream: &Box<dyn Duplex>) -> Arc<Way> {
        way()
    }

    fn refused(&self, _code: Code) {}

    fn root(&self, _cluster: &ClusterName, accept_json: bool) -> Page {
        let body = if accept_json { "{}" } else { "the front" };
        Page {
            status: StatusCode::OK,
            content_type: "text/plain",
            body: Bytes::from_static(body.as_bytes()),
        }
    }
}

/// A stream that takes a request and then refuses, as a relay does.
struct Refusing {
    code: Code,
    asked: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Refusing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.asked {
            return Poll::Ready(Err(Refusal(self.code).into()));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Refusing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Duplex for Refusing {}

impl Abort for Refusing {
    fn abort(&mut self, _code: u32) {}
}

/// A front with its sessions.
pub(crate) struct Site {
    pub(crate) host: Host,
    pub(crate) front: Arc<Front<Host>>,
    pub(crate) tasks: Tasks,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::limited(|_| {})
    }

    pub(crate) fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let host = Host::default();
        let tasks = Tasks::new();
        let sites = Sites::new(["gw.test"], Some("sessions.test")).expect("names");
        let front = Front::new(host.clone(), sites, Arc::new(limits), tasks.clone());
        Self { host, front, tasks }
    }

    /// A session that `serve` serves, one connection after the other and all at once.
    pub(crate) async fn session<F>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Found),
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        self.host
            .add(id, listener.local_addr().expect("an address"), change);
        let tasks = self.tasks.clone();
        self.tasks.spawn(tracing::Span::none(), async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(tracing::Span::none(), serve(stream));
            }
        });
    }

    /// A client's end of a new connection.
    pub(crate) async fn connect(
        &self,
        http: HttpVersion,
        change: impl FnOnce(&mut ClientInfo),
    ) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let local = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(local), listener.accept());
        let (stream, peer) = accepted.expect("a connection");
        let mut info = ClientInfo {
            peer,
            address: peer,
            local,
            trusted: false,
            sni: None,
            http,
            tls: "TLSv1.3".to_owned(),
        };
        change(&mut info);
        let front = Arc::clone(&self.front);
        self.tasks.spawn(tracing::Span::none(), async move {
            front.serve(stream, info).await
        });
        client.expect("a connection")
    }

    /// A client of HTTP/1.1 that writes and reads bytes.
    pub(crate) async fn raw(&self) -> Raw {
        Raw(self.connect(HttpVersion::One, |_| {}).await)
    }

    /// One request of HTTP/1.1 on a connection of its own, and all that comes back.
    pub(crate) async fn fetch(&self, request: &str) -> String {
        let mut raw = self.raw().await;
        raw.send(request).await;
        raw.rest().await
    }
}

/// A client of HTTP/1.1, byte by byte.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Sends `GET path` to the front's own name.
    pub(crate) async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: gw.test\r\n\r\n"))
            .await;
    }

    /// The next head, with the empty line.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(LONG, self.0.read_u8())
                .await
                .expect("in time");
            head.push(byte.unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head))
            }));
        }
        String::from_utf8(head).expect("text")
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        let read = tokio::time::timeout(LONG, self.0.read_exact(&mut bytes))
            .await
            .expect("in time");
        read.expect("bytes");
        String::from_utf8(bytes).expect("text")
    }

    /// An answer with a `content-length`.
    pub(crate) async fn answer(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = header(&head, "content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let body = self.exactly(length).await;
        (head, body)
    }

    /// All up to the end of the connection, which is asked for first.
    pub(crate) async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        self.0.shutdown().await.expect("an end");
        let read = tokio::time::timeout(LONG, self.0.read_to_end(&mut all))
            .await
            .expect("in time");
        read.expect("an orderly end");
        String::from_utf8(all).expect("text")
    }

    /// Reads until the connection breaks, and says how.
    pub(crate) async fn until_broken(&mut self) -> (Vec<u8>, io::Result<usize>) {
        let mut all = Vec::new();
        let read = tokio::time::timeout(LONG, self.0.read_to_end(&mut all))
            .await
            .expect("in time");
        (all, read)
    }
}

/// The value of a field in a head.
pub(crate) fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status of a head.
pub(crate) fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}
