//! One request and its answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use sallyport_ops::Tasks;
use sallyport_splice::Duplex;
use sallyport_wire::message::{Client, Kind, Protocol};
use sallyport_wire::{ClusterName, Code, SessionId};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Span;

use crate::access_log::{EndedBy, Record};
use crate::blame::{self, Repeat};
use crate::client::HttpVersion;
use crate::client_body::{ClientBody, Grace};
use crate::download::{Answer, Passing};
use crate::gate::{Exchange, Handle};
use crate::lease::Lease;
use crate::opener::{Ask, Found, Opener, OwnAsk};
use crate::reply::{self, Failure, Format};
use crate::request::{Canonical, Framing};
use crate::route::{self, Route, Sites};
use crate::spot::Spot;
use crate::upgrade::{self, Accepted, Opened};
use crate::upload::{Expectation, Upload};
use crate::upstream::{Choice, Upstreams};
use crate::{ClientInfo, Limits, answer, outgoing, request_id, websocket};

/// How long a session may be silent about `Expect: 100-continue` before its body is sent anyway (RFC 9110 §10.1.1).
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// How long an unused body may take to come back from a stream that has failed.
const BODY_BACK_WITHIN: Duration = Duration::from_millis(100);

/// What the requests of one client connection share.
pub(crate) struct Context<O> {
    pub(crate) opener: Arc<O>,
    pub(crate) sites: Arc<Sites>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) tasks: Tasks,
    pub(crate) client: ClientInfo,
    pub(crate) named: Named,
    pub(crate) gate: Handle,
    pub(crate) upstreams: Upstreams<O>,
    /// What follows when hyper has let go of an upgraded connection of HTTP/1.1.
    pub(crate) after: Mutex<Option<BoxFuture<'static, ()>>>,
}

/// A client's addresses as each of its requests tells them.
pub(crate) struct Named {
    address: String,
    local: String,
}

impl Named {
    pub(crate) fn of(client: &ClientInfo) -> Self {
        Self {
            address: client.address.to_string(),
            local: client.local.to_string(),
        }
    }
}

/// What becomes of a request that did not fail.
enum Outcome {
    /// The front answers itself.
    Own(Response<Bytes>),
    /// The session answers.
    Session {
        answer: Response<Incoming>,
        lease: Lease,
        spot: Spot,
    },
    /// The session has taken a WebSocket up; the future carries its bytes once the client has the answer.
    Switched {
        answer: Response<Bytes>,
        carry: BoxFuture<'static, ()>,
    },
}

/// A request on its way to a session.
struct Routed {
    request: Canonical,
    found: Found,
    head: Parts,
    spot: Spot,
}

impl Routed {
    /// Where a browser is sent that opens the session as a page of its own. What a page loads, sends or embeds stays, since
    /// it belongs to the page's origin.
    fn elsewhere(&self) -> Option<String> {
        let base = self.found.elsewhere.as_ref()?;
        let is = |field: &str, word: &str| {
            let value = self.request.headers.get(field);
            value.is_some_and(|value| value == word)
        };
        let reads = matches!(self.request.method, Method::GET | Method::HEAD);
        let opens = is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
        let moves =
            reads && opens && self.request.websocket.is_none() && self.spot.prefix().is_some();
        moves.then(|| format!("{base}{}", self.request.path.target()))
    }
}

impl<O: Opener> Context<O> {
    /// Answers one request. `S` is the client's stream below the gate.
    pub(crate) async fn serve<S: Duplex + 'static>(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, Infallible> {
        let exchange = Arc::new(self.gate.begin());
        self.upstreams.stir();
        let record = Arc::new(Record::new(
            request_id::fresh(),
            self.named.address.clone(),
            &request,
        ));
        let grace = Grace::new(self.client.http, request.body(), &self.limits, &self.tasks);
        let passing = Passing::to(&request, &record, &exchange, grace.clone());
        let request = request.map(|body| ClientBody::new(body, &exchange, &self.limits, grace));
        let outcome = self.answer::<S>(request, &record, &exchange).await;
        let mut response = match outcome {
            Ok(Outcome::Own(response)) => {
                record.ended(EndedBy::Gateway);
                passing.own(response)
            }
            Ok(Outcome::Session {
                answer,
                lease,
                spot,
            }) => match passing.session(answer, lease, spot.prefix()) {
                Ok(mut response) => {
                    spot.tell(response.headers_mut());
                    // A body that answers while it is asked has a head that must not wait for it.
                    if response.status().is_client_error() || response.status().is_server_error() {
                        response.body_mut().gather(self.limits.linger).await;
                    }
                    response
                }
                Err(bad) => self.refuse(&passing, &Failure::new(Code::BadAnswer, bad.to_string())),
            },
            Ok(Outcome::Switched { answer, carry }) => {
                self.switch(carry);
                passing.own(answer)
            }
            Err(failure) => self.refuse(&passing, &failure),
        };
        reply::tell_request_id(response.headers_mut(), record.request_id());
        record.answered(response.status());
        exchange.answering();
        Ok(response)
    }

    fn refuse(&self, passing: &Passing, failure: &Failure) -> Response<Answer> {
        self.opener.refused(failure.code);
        passing.failed(failure)
    }

    async fn answer<S: Duplex + 'static>(
        &self,
        request: Request<ClientBody>,
        record: &Arc<Record>,
        exchange: &Arc<Exchange>,
    ) -> Result<Outcome, Failure> {
        let (mut head, body) = request.into_parts();
        let upgrade = head.extensions.remove::<OnUpgrade>();
        self.expect_unused::<S>(upgrade.clone());
        let canonical =
            Canonical::from_head(&head, body.is_end_stream(), &self.client, &self.limits)
                .inspect_err(|_refused| record.asked_for(&head))?;
        let (cluster, route) = self
            .sites
            .route(&canonical.host, &canonical.path, self.client.local.ip())
            .inspect_err(|_refused| record.asked_for(&head))?;
        let (session, prefix) = match route {
            Route::Root => return self.root(&cluster, &head).map(Outcome::Own),
            Route::Own(path) => return self.own(&canonical, &path).map(Outcome::Own),
            Route::Slash(location) => return Ok(Outcome::Own(reply::redirect(&location))),
            Route::Session {
                session,
                prefix,
                target: _,
            } => (session, prefix),
        };
        record.routed(canonical.host.as_str(), &session);
        let routed = self
            .routed(canonical, (&cluster, &session), prefix, record)
            .await?;
        if let Some(location) = routed.elsewhere() {
            return Ok(Outcome::Own(reply::elsewhere(&location)));
        }
        match (&routed.request.websocket, upgrade) {
            (Some(_), Some(upgrade)) => {
                // Rare and large: it has a place of its own, so that no other request has to make room for it.
                Box::pin(self.websocket::<S>(routed, upgrade, record, exchange)).await
            }
            (Some(_), None) => Err(Failure::new(
                Code::Internal,
                "no upgrade on this connection",
            )),
            (None, _) => {
                let spot = routed.spot.clone();
                let (answer, lease) = Box::pin(self.forward(routed, body, record)).await?;
                Ok(Outcome::Session {
                    answer,
                    lease,
                    spot,
                })
            }
        }
    }

    fn root(&self, cluster: &ClusterName, head: &Parts) -> Result<Response<Bytes>, Failure> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(
                Failure::new(Code::BadRequest, "the page at / is only for reading")
                    .with_status(StatusCode::METHOD_NOT_ALLOWED),
            );
        }
        let json = Format::of(&head.headers) == Format::Json;
        Ok(reply::page(self.opener.root(cluster, json)))
    }

    fn own(&self, request: &Canonical, path: &str) -> Result<Response<Bytes>, Failure> {
        let asked = OwnAsk {
            method: &request.method,
            path,
            headers: &request.headers,
            credential: &request.credential,
        };
        let nothing = || Failure::new(Code::UnknownSession, "nothing of ours has that path");
        let mut answer = self.opener.own(&asked).ok_or_else(nothing)?;
        reply::guard(answer.headers_mut());
        Ok(answer)
    }

    /// Finds the session and writes the head that it will see.
    async fn routed(
        &self,
        request: Canonical,
        (cluster, session): (&ClusterName, &SessionId),
        prefix: Option<String>,
        record: &Record,
    ) -> Result<Routed, Failure> {
        let found = self
            .opener
            .find(cluster, session, &request.credential)
            .await?;
        match found.protocol {
            Protocol::Http | Protocol::H2c | Protocol::Vnc => {}
            Protocol::Tcp | Protocol::Tls | Protocol::Udp => {
                let cause = format!("the session speaks {}", found.protocol.word());
                return Err(Failure::new(Code::UnknownSession, cause));
            }
        }
        if !found.anonymous && request.credential.expose().is_empty() {
            return Err(Failure::new(
                Code::LoginRequired,
                "the session is not for everyone, and nothing was shown",
            ));
        }
        let taken = prefix.as_deref().filter(|_| !found.keep_prefix);
        let path = route::inside(&request.path, taken)
            .map_err(|error| Failure::new(Code::BadRequest, error.why()))?;
        let head = outgoing::head(&request, found.protocol, &path, taken, record.request_id())
            .ok_or_else(|| Failure::new(Code::BadRequest, "the request cannot be written anew"))?;
        Ok(Routed {
            spot: Spot::of(prefix, &found, &request.affinity),
            request,
            found,
            head,
        })
    }

    fn ask(&self, routed: &Routed, record: &Record) -> Ask {
        let request = &routed.request;
        let seen = self.client.address;
        // A trusted proxy in front names the client, but not its port.
        let address = match request.origin.client() {
            Some(told) if told != seen.ip().to_canonical() => {
                SocketAddr::from((told, 0)).to_string()
            }
            _ => self.named.address.clone(),
        };
        Ask {
            found: routed.found.clone(),
            kind: Kind::Http,
            client: Client {
                address,
                host: request.host.as_str().to_owned(),
                tls: !self.client.tls.is_empty(),
                local: self.named.local.clone(),
            },
            request_id: record.request_id().to_owned(),
            credential: request.credential.expose().to_owned(),
            port: 0,
            affinity: routed.spot.affinity(),
            avoid: Vec::new(),
        }
    }

    /// Sends a request and waits for its answer; once more over another way, if the first try certainly did nothing.
    async fn forward(
        &self,
        routed: Routed,
        body: ClientBody,
        record: &Arc<Record>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut ask = self.ask(&routed, record);
        let mut next = Some(body);
        let mut choice = Choice::Kept;
        loop {
            let (mut upload, unused) = Upload::new(next.take(), record);
            let mut head = routed.head.clone();
            let expectation = routed
                .request
                .expects
                .then(|| expect(&mut upload, &mut head));
            let request = Request::from_parts(head, upload);
            let sent = {
                let sent = pin!(self.upstreams.send(&ask, request, record, choice));
                self.within(&routed.found, record, sent).await
            };
            let error = match sent.ok_or_else(|| blame::too_slow(&ask.found.session))? {
                Ok(answered) => {
                    if let Some(expectation) = expectation {
                        expectation.answered.cancel();
                    }
                    return Ok(answered);
                }
                Err(error) => error,
            };
            let bodiless = matches!(routed.request.body, Framing::None | Framing::Length(0));
            let repeat = Repeat {
                bodiless,
                idempotent: routed.request.method.is_idempotent(),
            };
            if choice == Choice::Fresh || !repeat.allows(&error) {
                return Err(blame::unanswered(error, &ask.found.session));
            }
            if !bodiless {
                match timeout(BODY_BACK_WITHIN, unused).await {
                    Ok(Ok(body)) => next = Some(body),
                    Ok(Err(_)) | Err(_) => {
                        return Err(blame::unanswered(error, &ask.found.session));
                    }
                }
            }
            record.retried(blame::cause(&error));
            ask.avoid.extend(blame::avoidable(&error));
            self.upstreams.forget(&ask);
            choice = Choice::Fresh;
        }
    }

    /// Waits for the head of an answer for as long as the session has, counted from the last byte that the client sent.
    async fn within<F: Future>(
        &self,
        found: &Found,
        record: &Record,
        mut answer: Pin<&mut F>,
    ) -> Option<F::Output> {
        let limit = found.answer_within.unwrap_or(self.limits.answer);
        loop {
            let due = record.last_heard() + limit;
            tokio::select! {
                answer = &mut answer => return Some(answer),
                () = sleep_until(due) => {
                    if record.last_heard() + limit <= Instant::now() {
                        return None;
                    }
                }
            }
        }
    }

    async fn websocket<S: Duplex + 'static>(
        &self,
        mut routed: Routed,
        upgrade: OnUpgrade,
        record: &Arc<Record>,
        exchange: &Arc<Exchange>,
    ) -> Result<Outcome, Failure> {
        let session = routed.found.session.clone();
        let handshake = routed.request.websocket.clone();
        let Some(handshake) = handshake.filter(|_| routed.found.protocol != Protocol::H2c) else {
            let failure =
                Failure::new(Code::BadRequest, "a WebSocket to a session that speaks h2c");
            return Err(failure
                .with_status(StatusCode::NOT_IMPLEMENTED)
                .about(&session));
        };
        handshake.write(&mut routed.head.headers);
        let opened = {
            let opened = pin!(self.open_websocket(&routed, record));
            self.within(&routed.found, record, opened).await
        };
        let (answer, lease, raw) = opened.ok_or_else(|| blame::too_slow(&session))??;
        let spot = routed.spot;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Outcome::Session {
                answer,
                lease,
                spot,
            });
        }
        if !handshake.is_taken_up(answer.status(), answer.headers()) {
            let cause = "the session's 101 is not for this WebSocket";
            return Err(Failure::new(Code::BadAnswer, cause).about(&session));
        }
        let accepted = Accepted {
            session: raw,
            lease,
            record: Arc::clone(record),
            exchange: Arc::clone(exchange),
            limits: Arc::clone(&self.limits),
        };
        let two = self.client.http == HttpVersion::Two;
        let answer = switched(answer, &spot, two);
        let carry: BoxFuture<'static, ()> = if two {
            Box::pin(accepted.join_two(upgrade))
        } else {
            Box::pin(accepted.join_one::<S>(upgrade))
        };
        Ok(Outcome::Switched { answer, carry })
    }

    /// Sends the request of an upgrade, on a stream of its own; once more over another way, if the first one failed.
    async fn open_websocket(
        &self,
        routed: &Routed,
        record: &Arc<Record>,
    ) -> Result<Opened<O::Stream>, Failure> {
        let mut ask = self.ask(routed, record);
        let repeat = Repeat {
            bodiless: true,
            idempotent: true,
        };
        let first = upgrade::ask(
            &*self.opener,
            &self.tasks,
            &ask,
            routed.head.clone(),
            record,
        );
        let error = match first.await {
            Ok(opened) => return Ok(opened),
            Err(error) if repeat.allows(&error) => error,
            Err(error) => return Err(blame::unanswered(error, &ask.found.session)),
        };
        record.retried(blame::cause(&error));
        ask.avoid.extend(blame::avoidable(&error));
        let second = upgrade::ask(
            &*self.opener,
            &self.tasks,
            &ask,
            routed.head.clone(),
            record,
        );
        second
            .await
            .map_err(|error| blame::unanswered(error, &ask.found.session))
    }

    /// hyper lets go of a connection of HTTP/1.1 without ending it if any of its requests asked for an upgrade, even
    /// one that was not taken up; then the orderly end is ours to make.
    fn expect_unused<S: Duplex + 'static>(&self, upgrade: Option<OnUpgrade>) {
        if let (HttpVersion::One, Some(upgrade)) = (self.client.http, upgrade) {
            self.follow(Box::pin(upgrade::end_unused::<S>(upgrade)));
        }
    }

    fn follow(&self, after: BoxFuture<'static, ()>) {
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
    }

    fn switch(&self, carry: BoxFuture<'static, ()>) {
        match self.client.http {
            HttpVersion::One => {
                self.gate.upgraded();
                self.follow(carry);
            }
            HttpVersion::Two => self.tasks.spawn(Span::current(), carry),
        }
    }
}

/// The verified answer to an upgrade, for the client.
fn switched(answer: Response<Incoming>, spot: &Spot, two: bool) -> Response<Bytes> {
    let mut headers = answer.into_parts().0.headers;
    answer::filter_fields(&mut headers, spot.prefix());
    spot.tell(&mut headers);
    websocket::confirm(&mut headers, two);
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = if two {
        StatusCode::OK
    } else {
        StatusCode::SWITCHING_PROTOCOLS
    };
    *response.headers_mut() = headers;
    response
}

/// Holds a body back until the session wants it, and listens for its word.
fn expect(upload: &mut Upload, head: &mut Parts) -> Expectation {
    let expectation = Expectation::default();
    upload.hold(expectation.clone(), EXPECT_PATIENCE);
    let granted = expectation.granted.clone();
    let mut listener = Request::new(());
    hyper::ext::on_informational(&mut listener, move |response| {
        if response.status() == StatusCode::CONTINUE {
            granted.cancel();
        }
    });
    head.extensions.extend(listener.into_parts().0.extensions);
    expectation
}
