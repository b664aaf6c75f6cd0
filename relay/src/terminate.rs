//! Sessions with `tls = { cert, key }`: the relay ends the TLS that the gateway passed through unopened. What
//! is inside goes to the session as bytes, or through the same front that a gateway has.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sallyport_edge::client::{ClientInfo, HttpVersion};
use sallyport_edge::{Ask, Credential, Denial, Found, Front, Opener, Page, Sites, Way};
use sallyport_link::TunnelStream;
use sallyport_splice::{Abort as _, Entry};
use sallyport_wire::message::Protocol;
use sallyport_wire::{ClusterName, Code, SessionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use crate::access;
use crate::carry::{self, Admitted, Carrier};
use crate::outlet::{self, Outlet};

/// How long a client may take to read why its handshake failed, and what it may send meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 << 10;

/// Serves a stream that begins with a ClientHello.
pub(crate) async fn serve(carrier: Arc<Carrier>, admitted: Admitted, stream: TunnelStream) {
    let Some(config) = admitted.session.tls.clone() else {
        return debug!("the session has no certificate");
    };
    let handshake = TlsAcceptor::from(config).accept(stream).into_fallible();
    let mut tls = match timeout(carrier.limits().tls_handshake, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err((cause, stream))) => {
            tell(&carrier, &admitted, &cause);
            return end_after_alert(stream).await;
        }
        Err(_elapsed) => return tell(&carrier, &admitted, &"too slow"),
    };
    match admitted.session.config.protocol {
        Protocol::Http | Protocol::H2c | Protocol::Vnc => {
            Box::pin(front(carrier, admitted, tls)).await
        }
        Protocol::Tcp | Protocol::Tls | Protocol::Udp => match carrier.reach(&admitted).await {
            Ok(mut upstream) => carrier.splice(&admitted, &mut tls, &mut upstream).await,
            Err(error) => tls.abort(error.code().number()),
        },
    }
}

fn tell(carrier: &Carrier, admitted: &Admitted, cause: &dyn Display) {
    info!(
        node = %carrier.node(),
        session = %admitted.session.id(),
        client = carry::client(&admitted.request),
        %cause,
        "TLS handshake failed"
    );
}

/// Ends a stream whose last bytes are a TLS alert, in order: an abort would overtake it. Then the client closes, or has
/// had its time.
async fn end_after_alert(mut stream: TunnelStream) {
    let ending = async {
        stream.shutdown().await?;
        copy(&mut (&mut stream).take(LINGER_BYTES), &mut sink()).await
    };
    match timeout(LINGER, ending).await {
        Ok(Ok(bytes)) if bytes < LINGER_BYTES => {}
        Ok(_) | Err(_) => stream.abort(Code::Forbidden),
    }
}

async fn front(carrier: Arc<Carrier>, admitted: Admitted, tls: TlsStream<TunnelStream>) {
    let client = client_info(&admitted, &tls);
    let sites = Sites::one(admitted.session.id().clone());
    let tasks = admitted.tasks.clone();
    let limits = Arc::new(sallyport_edge::Limits::default());
    let opener = Here {
        entry: Arc::new(carrier.enter(&admitted)),
        way: Arc::new(Way {
            node: carrier.node().clone(),
            tunnel: admitted.tunnel,
            transport: admitted.transport,
        }),
        carrier,
        admitted: Arc::new(admitted),
    };
    Front::new(opener, sites, limits, tasks)
        .serve(tls, client)
        .await;
}

fn client_info(admitted: &Admitted, tls: &TlsStream<TunnelStream>) -> ClientInfo {
    let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let origin = &admitted.request.client;
    let peer = origin.peer.unwrap_or(unknown);
    let (_, session) = tls.get_ref();
    let suite = session
        .negotiated_cipher_suite()
        .map(|suite| format!("{:?}", suite.suite()));
    let version = session
        .protocol_version()
        .map(|version| format!("{version:?}"));
    ClientInfo {
        peer,
        address: peer,
        local: origin.local.unwrap_or(unknown),
        trusted: false,
        sni: session
            .server_name()
            .map(|name| name.trim_end_matches('.').to_ascii_lowercase()),
        http: match session.alpn_protocol() {
            Some(b"h2") => HttpVersion::Two,
            _ => HttpVersion::One,
        },
        tls: format!(
            "{} {}",
            version.unwrap_or_default(),
            suite.unwrap_or_default()
        )
        .trim()
        .to_owned(),
    }
}

/// Opens streams to the one session that a TLS connection is for.
struct Here {
    carrier: Arc<Carrier>,
    admitted: Arc<Admitted>,
    entry: Arc<Entry>,
    way: Arc<Way>,
}

impl Opener for Here {
    type Stream = Outlet;

    async fn find(
        &self,
        _cluster: &ClusterName,
        session: &SessionId,
        _credential: &Credential,
    ) -> Result<Found, Denial> {
        let here = &self.admitted.session;
        if session != here.id() {
            return Err(Denial::new(
                Code::UnknownSession,
                "another session than the connection's",
            ));
        }
        access::decide_inside_tls(&here.config).map_err(|code| {
            Denial::new(
                code,
                "behind TLS without certificate, source or public access",
            )
        })?;
        if here.is_down() {
            let cause = format!("session {} is down", here.id());
            return Err(Denial {
                session: Some(here.id().clone()),
                ..Denial::new(Code::SessionDown, cause)
            });
        }
        Ok(outlet::found(&here.config))
    }

    async fn open(&self, _ask: &Ask) -> Result<Outlet, Denial> {
        let entry = || Arc::clone(&self.entry);
        let way = Arc::clone(&self.way);
        let opened = Outlet::reach(&self.carrier, &self.admitted, way, entry).await;
        opened.map_err(|error| Denial {
            session: Some(self.admitted.session.id().clone()),
            ..Denial::new(error.code(), error.to_string())
        })
    }

    fn way(&self, stream: &Outlet) -> Arc<Way> {
        Arc::clone(stream.way())
    }

    /// Its stream was let in, so that only the access log has it.
    fn refused(&self, _code: Code) {}

    fn root(&self, _cluster: &ClusterName, _accept_json: bool) -> Page {
        outlet::no_page()
    }
}
