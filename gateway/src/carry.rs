//! A client without identity, joined to a session: what raw TCP and passthrough have in common.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sallyport_edge::opener::{Denial, Way};
use sallyport_link::{Promotable, TunnelStream};
use sallyport_splice::{Bare, Duplex, Ended, EndedBy};
use sallyport_wire::Refusal;
use sallyport_wire::message::{Client, Kind};
use tokio::time::Instant;
use tracing::{debug, field, info, warn};

use crate::config::Destination;
use crate::hub::Hub;
use crate::open::{Opened, Passage, Want};

/// How often a stream that no tunnel took is tried again on another one: all tunnels of a node may end at once,
/// and there are at most eight.
const RETRIES: usize = 8;

/// A client without identity.
#[derive(Debug, Clone)]
pub struct Caller {
    /// How its stream is to be treated.
    pub kind: Kind,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Where it came to.
    pub local: SocketAddr,
    /// Server name that it asked for; empty for none.
    pub host: String,
    /// Raw port that it came to; none for passthrough.
    pub port: Option<u16>,
    /// Id of its connection, the same in every log line about it.
    pub id: String,
}

impl Caller {
    /// What a stream for this client is wanted for.
    pub fn want(&self) -> Want {
        Want {
            kind: self.kind,
            client: Client {
                address: self.address.to_string(),
                host: self.host.clone(),
                tls: self.kind == Kind::Tls,
                local: self.local.to_string(),
            },
            request_id: self.id.clone(),
            credential: String::new(),
            port: self.port,
            affinity: None,
            avoid: Vec::new(),
        }
    }
}

/// Carries a client's bytes to a session and back until both are done.
pub async fn carry<C: Duplex + Bare>(
    hub: &Arc<Hub>,
    to: &Destination,
    caller: &Caller,
    client: &mut C,
) {
    let start = Instant::now();
    let opened = match Box::pin(open(hub, to, caller.want())).await {
        Ok(opened) => opened,
        Err(denial) => {
            hub.figures.refusal(denial.code);
            client.abort(denial.code.number());
            let way = denial.way.as_deref();
            return warn!(target: "sallyport::access", id = caller.id, client = %caller.address, %to,
                node = way.map(|way| field::display(&way.node)), tunnel = way.map(|way| way.tunnel),
                transport = way.map(|way| way.transport), code = %denial.code, cause = denial.cause, "stream denied");
        }
    };
    let Opened { stream, passage } = opened;
    let ended = join(hub, client, stream, &passage).await;
    let (session, cluster) = (&passage.session, passage.cluster.named());
    let Way {
        node,
        tunnel,
        transport,
    } = &*passage.way;
    let Ended { up, down, by } = &ended;
    let (kind, elapsed) = (caller.kind, start.elapsed());
    let (id, client, ended_by) = (&caller.id, caller.address, by.word());
    let cause = cause(by);
    info!(target: "sallyport::access", id, ?kind, %client, %session, cluster, %node, tunnel, transport,
        up, down, milliseconds = milliseconds(elapsed), ended_by, cause, "stream ended");
}

async fn open(hub: &Hub, to: &Destination, mut want: Want) -> Result<Opened<TunnelStream>, Denial> {
    loop {
        let denial = match hub.open_stream(to, &want).await {
            Ok(opened) => return Ok(opened),
            Err(denial) => denial,
        };
        match &denial.way {
            Some(way) if want.avoid.len() < RETRIES => {
                debug!(cause = denial.cause, "trying another tunnel");
                want.avoid.push(way.tunnel);
            }
            _ => return Err(denial),
        }
    }
}

/// Where it may, a stream that moves much leaves its tunnel for a data connection and comes back. Each kind has room for
/// itself alone for as long as it lasts.
fn join<'a, C: Duplex + Bare>(
    hub: &Hub,
    client: &'a mut C,
    mut stream: TunnelStream,
    passage: &'a Passage,
) -> Pin<Box<dyn Future<Output = Ended> + Send + 'a>> {
    let (limits, meter) = (limits(hub), passage.meter());
    let Some(tunnel) = &passage.beside else {
        let joined =
            async move { sallyport_splice::run(client, &mut stream, &limits, meter).await };
        return Box::pin(joined);
    };
    let promotions = &hub.promotions;
    let promoter = promotions.promoter(tunnel.clone(), stream.number(), Arc::clone(meter));
    let mut stream = Promotable::new(stream, promoter, promotions.idle());
    let joined =
        async move { sallyport_splice::run_bare(client, &mut stream, &limits, meter).await };
    Box::pin(joined)
}

fn limits(hub: &Hub) -> sallyport_splice::Limits {
    let limits = &hub.config().limits;
    sallyport_splice::Limits {
        idle: Some(limits.idle),
        closing: Some(limits.half_closed),
        write_stall: Some(limits.write_stall),
        ..sallyport_splice::Limits::default()
    }
}

fn cause(by: &EndedBy) -> Option<String> {
    match by {
        EndedBy::Client(error) | EndedBy::Session(error) => Some(
            Refusal::in_chain(error)
                .map_or_else(|| error.to_string(), |refusal| refusal.0.word().to_owned()),
        ),
        EndedBy::Both | EndedBy::Idle | EndedBy::Closing | EndedBy::WriteStall(_) => None,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
