//! Raw TCP ports, bound to a session or a pool.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use sallyport_edge::proxy_protocol::{self, Addresses};
use sallyport_ops::{Accepted, Slot, Slots, Tasks, listen};
use sallyport_splice::Rewound;
use sallyport_wire::message::Kind;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::{debug, info_span};

use crate::carry::{Caller, carry};
use crate::config::{Config, Raw};
use crate::hub::Hub;

/// Serves one raw port until `listeners` is stopped. Connections belong to `clients`.
pub async fn serve(
    hub: Arc<Hub>,
    (listener, raw): (TcpListener, Raw),
    slots: Slots,
    listeners: Tasks,
    clients: Tasks,
) {
    let places = slots.clone();
    let on = |accepted: Accepted| {
        let span = info_span!("raw", peer = %accepted.peer, port = raw.listen.port());
        let (hub, raw, places) = (Arc::clone(&hub), raw.clone(), places.clone());
        clients.spawn(span, async move {
            let (peer, local) = (accepted.peer, accepted.local);
            let within = hub.config().limits.establish;
            let Some((mut io, address)) =
                Box::pin(newcomer(&hub, accepted.stream, peer, within)).await
            else {
                return hub.figures.handshake_failed("proxy_header");
            };
            let Some(slot) = place_for(&places, accepted.slot, peer, address) else {
                return hub.figures.handshake_failed("full");
            };
            hub.figures.connection("tcp");
            let caller = Caller {
                kind: Kind::Tcp,
                address,
                local,
                host: String::new(),
                port: Some(raw.listen.port()),
                id: hub.request_id(),
            };
            carry(&hub, &raw.to, &caller, &mut io).await;
            drop((io, slot));
        });
    };
    listen::accept_loop(listener, slots, listeners.stopping(), on).await;
}

/// The place of the client itself. A proxy's own has no limit of its source, so it is given back for one that has.
fn place_for(places: &Slots, taken: Slot, peer: SocketAddr, client: SocketAddr) -> Option<Slot> {
    if client == peer {
        return Some(taken);
    }
    drop(taken);
    let place = places.take(client.ip());
    place
        .inspect_err(|full| debug!(%client, cause = %full, "client refused"))
        .ok()
}

/// The connection and who it is from: behind a trusted proxy, what its PROXY header says.
async fn newcomer(
    hub: &Hub,
    mut stream: TcpStream,
    peer: SocketAddr,
    within: Duration,
) -> Option<(Rewound<TcpStream>, SocketAddr)> {
    if !is_proxy(&hub.config(), peer) {
        return Some((Rewound::new(Bytes::new(), stream), peer));
    }
    match timeout(within, read_header(&mut stream)).await {
        Ok(Some((rest, addresses))) => {
            let address = addresses.map_or(peer, |addresses| addresses.source);
            Some((Rewound::new(rest, stream), address))
        }
        Ok(None) | Err(_) => {
            debug!("no PROXY header from a trusted proxy");
            None
        }
    }
}

fn is_proxy(config: &Config, peer: SocketAddr) -> bool {
    let address = peer.ip().to_canonical();
    config.proxy_protocol
        && config
            .trusted_proxies
            .iter()
            .any(|net| net.contains(&address))
}

async fn read_header(stream: &mut TcpStream) -> Option<(Bytes, Option<Addresses>)> {
    let mut read = BytesMut::with_capacity(proxy_protocol::MOST_BYTES);
    loop {
        if let Some(header) = proxy_protocol::read(&read).ok()? {
            read.advance(header.length.min(read.len()));
            return Some((read.freeze(), header.addresses));
        }
        if read.len() >= proxy_protocol::MOST_BYTES || stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}
