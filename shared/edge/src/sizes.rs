//! How much room the futures of clients take. Whoever is idle for an hour holds the future of its connection as long.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use sallyport_ops::Accepted;
use sallyport_wire::{ClusterName, Code, SessionId};
use tokio::io::DuplexStream;

use crate::credential::Credential;
use crate::exchange::Context;
use crate::opener::{Ask, Denial, Found, Opener, Page, Way};
use crate::{ClientInfo, Front, Rules, establish};

/// An opener that is never asked.
#[derive(Debug)]
struct Nobody;

impl Opener for Nobody {
    type Stream = DuplexStream;

    async fn find(
        &self,
        _cluster: &ClusterName,
        _session: &SessionId,
        _credential: &Credential,
    ) -> Result<Found, Denial> {
        std::future::pending().await
    }

    async fn open(&self, _ask: &Ask) -> Result<DuplexStream, Denial> {
        std::future::pending().await
    }

    fn way(&self, _stream: &DuplexStream) -> Arc<Way> {
        Arc::new(Way {
            node: "node".parse().expect("a name"),
            tunnel: 0,
            transport: "none",
        })
    }

    fn refused(&self, _code: Code) {}

    fn root(&self, _cluster: &ClusterName, _accept_json: bool) -> Page {
        Page {
            status: StatusCode::OK,
            content_type: "text/plain",
            body: Bytes::new(),
        }
    }
}

fn of_one<A, F>(_: impl FnOnce(A) -> F) -> usize {
    size_of::<F>()
}

fn of_two<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_request_takes_little_room() {
    let size = of_two(
        |context: Arc<Context<Nobody>>, request: Request<Incoming>| {
            context.serve::<DuplexStream>(request)
        },
    );
    assert!(size <= 4 * 1024, "{size}");
}

#[test]
fn a_connection_takes_little_room() {
    let size = of_two(
        |io: DuplexStream, (front, client): (&'static Arc<Front<Nobody>>, ClientInfo)| {
            front.serve(io, client)
        },
    );
    assert!(size <= 512, "{size}");
}

#[test]
fn a_handshake_takes_little_room() {
    let size = of_one(|(accepted, rules): (Accepted, &'static Rules)| establish(accepted, rules));
    assert!(size <= 3 * 1024, "{size}");
}
