//! Raw UDP ports: a flow of datagrams for every source, bound to a session or a pool.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sallyport_edge::opener::{Denial, Way};
use sallyport_link::Flow;
use sallyport_ops::listen::canonical;
use sallyport_ops::paced::Paced;
use sallyport_ops::{Slot, Slots, Tasks};
use sallyport_wire::message::Kind;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, field, info, info_span, warn};

use crate::carry::Caller;
use crate::config::Raw;
use crate::hub::Hub;
use crate::open::Opened;

/// Longest datagram that UDP can carry.
const MOST_BYTES: usize = 65_535;

/// Log lines about refused flows, a second and port.
const LINES: u32 = 10;

/// Fewer flows are not worth a sweep.
const FEWEST_TO_SWEEP: usize = 64;

/// One raw port.
#[derive(Debug)]
pub struct Port {
    hub: Arc<Hub>,
    socket: Arc<UdpSocket>,
    raw: Raw,
    slots: Slots,
    clients: Tasks,
    flows: Flows,
    refusals: Arc<Paced>,
}

impl Port {
    /// A port that nobody has sent to. Its flows belong to `clients` and share `slots`.
    pub fn new(hub: Arc<Hub>, socket: UdpSocket, raw: Raw, slots: Slots, clients: Tasks) -> Self {
        let (socket, refusals) = (Arc::new(socket), Arc::new(Paced::new(LINES)));
        Self {
            hub,
            socket,
            raw,
            slots,
            clients,
            flows: Flows::default(),
            refusals,
        }
    }

    /// Takes datagrams until the task is stopped.
    pub async fn serve(mut self) {
        let mut buffer = vec![0; MOST_BYTES];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((length, peer)) => {
                    if let Some(datagram) = buffer.get(..length) {
                        self.take(Bytes::copy_from_slice(datagram), peer);
                    }
                }
                // What the network reports about an earlier answer concerns its receiver only.
                Err(error) => debug!(%error, "a datagram could not be read"),
            }
        }
    }

    fn take(&mut self, datagram: Bytes, peer: SocketAddr) {
        if let Some(flow) = self.flows.get(peer) {
            match flow.try_send(datagram.clone()) {
                Ok(()) => return,
                Err(TrySendError::Full(_)) => return debug!(%peer, "a datagram was dropped"),
                Err(TrySendError::Closed(_)) => {}
            }
        }
        let Some(slot) = self.room_for(peer) else {
            return;
        };
        let (flow, datagrams) = mpsc::channel(self.hub.config().flows.queue);
        // The queue is empty and holds at least one.
        if flow.try_send(datagram).is_ok() {
            self.flows.insert(peer, flow);
            let span = info_span!("flow", %peer, port = self.raw.listen.port());
            self.clients
                .spawn(span, self.flow(peer, slot).run(datagrams));
        }
    }

    fn room_for(&self, peer: SocketAddr) -> Option<Slot> {
        let slot = self.slots.take(peer.ip());
        if let Err(full) = &slot
            && let Some(unlogged) = self.refusals.pass()
        {
            warn!(%peer, cause = %full, unlogged, "flow refused");
        }
        slot.ok()
    }

    fn flow(&self, peer: SocketAddr, slot: Slot) -> Conversation {
        let local = self.socket.local_addr().unwrap_or(self.raw.listen);
        let caller = Caller {
            kind: Kind::Udp,
            address: canonical(peer),
            local,
            host: String::new(),
            port: Some(self.raw.listen.port()),
            id: self.hub.request_id(),
        };
        Conversation {
            hub: Arc::clone(&self.hub),
            socket: Arc::clone(&self.socket),
            raw: self.raw.clone(),
            refusals: Arc::clone(&self.refusals),
            caller,
            peer,
            _slot: slot,
        }
    }
}

/// The flows of a port by their source, some of which have ended. Those that live are as many as there are slots.
#[derive(Debug, Default)]
struct Flows {
    queues: HashMap<SocketAddr, Sender<Bytes>>,
    sweep_at: usize,
}

impl Flows {
    fn get(&self, peer: SocketAddr) -> Option<&Sender<Bytes>> {
        self.queues.get(&peer)
    }

    /// Those that ended are swept out when there are twice as many as the last sweep left: a flow costs the same
    /// however many there are, and strangers cannot cause sweeps that free nothing.
    fn insert(&mut self, peer: SocketAddr, queue: Sender<Bytes>) {
        if self.queues.len() >= self.sweep_at {
            self.queues.retain(|_, queue| !queue.is_closed());
            self.sweep_at = self.queues.len().saturating_mul(2).max(FEWEST_TO_SWEEP);
        }
        self.queues.insert(peer, queue);
    }
}

/// One source's flow.
#[derive(Debug)]
struct Conversation {
    hub: Arc<Hub>,
    socket: Arc<UdpSocket>,
    raw: Raw,
    refusals: Arc<Paced>,
    caller: Caller,
    peer: SocketAddr,
    _slot: Slot,
}

impl Conversation {
    async fn run(self, datagrams: Receiver<Bytes>) {
        let opened = match self.hub.open_flow(&self.raw.to, &self.caller.want()).await {
            Ok(opened) => opened,
            Err(denial) => return self.denied(&denial),
        };
        self.hub.figures.connection("udp");
        let ended_by = self.carry(&opened, datagrams).await;
        let passage = &opened.passage;
        let (session, cluster) = (&passage.session, passage.cluster.named());
        let Way {
            node,
            tunnel,
            transport,
        } = &*passage.way;
        let (up, down) = (passage.meter().up(), passage.meter().down());
        info!(target: "sallyport::access", id = self.caller.id, client = %self.caller.address,
            %session, cluster, %node, tunnel, transport, up, down, ended_by, "flow ended");
    }

    /// Carries datagrams both ways; says who ended it.
    async fn carry(&self, opened: &Opened<Flow>, mut datagrams: Receiver<Bytes>) -> &'static str {
        let Opened {
            stream: flow,
            passage,
        } = opened;
        let idle = self.hub.config().flows.idle;
        let mut last = Instant::now();
        loop {
            tokio::select! {
                datagram = datagrams.recv() => {
                    let Some(datagram) = datagram else { return "port" };
                    passage.meter().add_up(datagram.len() as u64);
                    if flow.send(datagram).await.is_err() {
                        return "session";
                    }
                }
                datagram = flow.recv() => {
                    let Some(datagram) = datagram else { return "session" };
                    passage.meter().add_down(datagram.len() as u64);
                    self.answer(&datagram).await;
                }
                () = sleep_until(last + idle) => return "idle",
            }
            last = Instant::now();
        }
    }

    async fn answer(&self, datagram: &[u8]) {
        if let Err(error) = self.socket.send_to(datagram, self.peer).await {
            debug!(%error, "a datagram could not be sent");
        }
    }

    fn denied(&self, denial: &Denial) {
        self.hub.figures.refusal(denial.code);
        if let Some(unlogged) = self.refusals.pass() {
            let way = denial.way.as_deref();
            warn!(target: "sallyport::access", id = self.caller.id, to = %self.raw.to,
                node = way.map(|way| field::display(&way.node)), tunnel = way.map(|way| way.tunnel),
                transport = way.map(|way| way.transport), code = %denial.code, cause = denial.cause, unlogged, "flow denied");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: usize) -> SocketAddr {
        let port = u16::try_from(number).expect("few");
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn sweeps_become_rarer_as_flows_become_more() {
        let mut flows = Flows::default();
        let mut live = Vec::new();
        let mut sweeps = 0;
        for number in 0..10_000 {
            let (queue, datagrams) = mpsc::channel(1);
            live.push(datagrams);
            let before = flows.sweep_at;
            flows.insert(peer(number), queue);
            sweeps += usize::from(flows.sweep_at != before);
        }

        assert_eq!(flows.queues.len(), live.len());
        assert!(sweeps <= 10, "{sweeps}");
    }

    #[test]
    fn flows_that_ended_are_at_most_as_many_again_as_lived() {
        let mut flows = Flows::default();
        let mut live = Vec::new();
        for number in 0..10_000 {
            let (queue, datagrams) = mpsc::channel(1);
            if number < 500 {
                live.push(datagrams);
            }
            flows.insert(peer(number), queue);
            assert!(flows.queues.len() <= 2 * live.len().max(FEWEST_TO_SWEEP));
        }
        assert!(live.iter().all(|datagrams| !datagrams.is_closed()));
        assert!((0..500).all(|number| flows.get(peer(number)).is_some()));
    }
}
