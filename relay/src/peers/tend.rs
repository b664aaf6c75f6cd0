//! Tends one live peer tunnel, at either end. The node that dialled opens streams in it; the one that answered says what
//! it has and serves them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Fuse, FusedFuture as _, FutureExt as _};
use sallyport_link::token::Grant;
use sallyport_link::{Closed, ClusterKeys, Tunnel, peer};
use sallyport_ops::Tasks;
use sallyport_wire::message::{Advertise, Advertised, ControlKind, Drain, Rotate, Store};
use sallyport_wire::{Code, NodeName};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use super::Peers;
use super::board::{End, Row};
use super::standing::{Fault, Standing};
use crate::advertise;
use crate::promote::Invitations;
use crate::rotation::{Keys as _, Rotation};
use crate::streams::Source;

/// How often it is looked whether a tunnel may stay: a key that was revoked ends its tunnels within 5 s.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A peer tunnel that came up.
#[derive(Debug)]
pub(super) struct Tended {
    /// The tunnel.
    pub(super) tunnel: Tunnel,
    /// The node at the other end.
    pub(super) node: NodeName,
    /// Which end this is.
    pub(super) end: End,
    /// The key by which this end proved itself.
    pub(super) kid: String,
    /// What the other end has proven.
    pub(super) standing: Standing,
    /// Its place in status.
    pub(super) row: Row,
}

/// Tends a tunnel that this node dialled until it is closed; true if that was because nobody needed it.
pub(super) async fn tend(tended: Tended, peers: Arc<Peers>, tasks: Tasks) -> bool {
    Tender::new(tended, peers, tasks).run().await
}

/// Tends a tunnel that another node dialled until it is closed, and serves its streams in `tasks`.
pub(super) async fn serve(tended: Tended, peers: Arc<Peers>, tasks: Tasks) {
    let streams = Arc::clone(&peers.outfit.streams);
    let source = Source {
        tunnel: tended.tunnel.clone(),
        invitations: Invitations::new(Arc::clone(streams.promotions())),
        tasks: tasks.clone(),
        hops: false,
    };
    let tender = Tender::new(tended, peers, tasks);
    tokio::join!(streams.serve(source), tender.run());
}

struct Tender {
    tunnel: Tunnel,
    node: NodeName,
    end: End,
    rotation: Rotation,
    standing: Standing,
    row: Row,
    peers: Arc<Peers>,
    tasks: Tasks,
    revision: u64,
    /// Whether this node leaves.
    leaves: bool,
    /// The end of all streams, once this node leaves.
    ended: Pin<Box<Fuse<BoxFuture<'static, ()>>>>,
    /// Since when no stream is open.
    idle: Option<Instant>,
    course: Course,
}

/// What becomes of new streams at the end that dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// They come here, once the other node has said what it has.
    Leads,
    /// They ask for a tunnel again: nobody has needed this one for a while.
    Rests,
    /// They do not come here any more, and the tunnel goes with the last of those that are open.
    Ends,
}

/// What a tunnel's tender wakes up for.
enum Event {
    Control(Option<ControlKind>),
    RotationDue,
    KeysChanged,
    OffersChanged,
    StoreChanged(Option<Store>),
    Look,
    Wanted,
    NodeLeaves,
    StreamsEnded,
}

/// What changes beside the tunnel itself.
struct Signs {
    offers: watch::Receiver<u64>,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    store: watch::Receiver<Option<Store>>,
    look: Interval,
}

impl Tender {
    fn new(tended: Tended, peers: Arc<Peers>, tasks: Tasks) -> Self {
        Self {
            rotation: Rotation::new(tended.kid),
            revision: 0,
            leaves: false,
            ended: Box::pin(Fuse::terminated()),
            tunnel: tended.tunnel,
            tasks,
            node: tended.node,
            end: tended.end,
            standing: tended.standing,
            row: tended.row,
            peers,
            idle: None,
            course: Course::Leads,
        }
    }

    /// True if it was closed because nobody needed it.
    async fn run(mut self) -> bool {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signs = Signs {
            offers: self.peers.outfit.streams.sessions().changes(),
            keys: self.peers.credentials().changes(),
            store: self.peers.stores.own(),
            look,
        };
        signs.store.mark_changed();
        self.rotation.renew(&self.peers.credentials().signing());
        if self.end == End::Answered {
            self.advertise().await;
        }
        loop {
            match self.event(&mut signs).await {
                Ok(event) => self.handle(event).await,
                Err(closed) => {
                    self.closed(&closed);
                    return self.course == Course::Rests;
                }
            }
        }
    }

    /// Waits for the next event, or the end of the tunnel.
    async fn event(&mut self, signs: &mut Signs) -> Result<Event, Closed> {
        let serves = self.end == End::Answered;
        let drains = !self.ended.is_terminated();
        let event = tokio::select! {
            closed = self.tunnel.closed() => return Err(closed),
            message = self.tunnel.control() => Event::Control(message),
            () = sleep_until(self.rotation.due()) => Event::RotationDue,
            Ok(()) = signs.keys.changed() => Event::KeysChanged,
            Ok(()) = signs.offers.changed(), if serves => Event::OffersChanged,
            Ok(()) = signs.store.changed() => Event::StoreChanged(signs.store.borrow().clone()),
            _ = signs.look.tick() => Event::Look,
            () = self.peers.hop().wanted(&self.node), if self.course == Course::Rests => Event::Wanted,
            () = self.peers.outfit.leaving.cancelled(), if serves && !self.leaves => Event::NodeLeaves,
            () = &mut self.ended, if drains => Event::StreamsEnded,
        };
        Ok(event)
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Control(Some(message)) => self.hear(message).await,
            Event::Control(None) => self.tunnel.close(Code::TunnelLost),
            Event::RotationDue => self.rotate().await,
            Event::KeysChanged => self.rotation.renew(&self.peers.credentials().signing()),
            Event::OffersChanged => self.advertise().await,
            Event::StoreChanged(Some(store)) => {
                send(&self.tunnel, ControlKind::Store(store)).await;
            }
            Event::StoreChanged(None) => {}
            Event::Look => {
                let stands = self.standing.look(self.peers.credentials());
                self.end_at_fault(stands);
                if self.end == End::Dialled {
                    self.look_at_use();
                }
            }
            Event::Wanted => self.lead_again(),
            Event::NodeLeaves => self.leave().await,
            Event::StreamsEnded => self.tunnel.close(Code::Closed),
        }
    }

    fn closed(&mut self, closed: &Closed) {
        if self.end == End::Dialled && self.course != Course::Rests {
            self.leads_nowhere();
        }
        info!(node = %self.node, code = %closed.code, cause = %closed.cause, "peer tunnel ended");
    }

    async fn hear(&mut self, message: ControlKind) {
        match message {
            ControlKind::Advertise(said) if self.end == End::Dialled => {
                let answer = self.learn(said);
                send(&self.tunnel, ControlKind::Advertised(answer)).await;
            }
            ControlKind::Store(store) => self.peers.stores.hear(&self.node, store),
            ControlKind::Rotate(rotate) => self.renew(&rotate).await,
            ControlKind::Rotated(answer) => {
                let news = self
                    .rotation
                    .answered(&answer, &self.peers.credentials().signing());
                if news {
                    let kid = self.rotation.kid();
                    self.row.key(kid);
                    info!(node = %self.node, key = kid, "the other node took another key");
                }
            }
            ControlKind::Drain(_) if self.end == End::Dialled => {
                info!(node = %self.node, "the node leaves: nothing new goes there");
                self.leads_nowhere();
            }
            ControlKind::Advertise(_)
            | ControlKind::Advertised(_)
            | ControlKind::Drain(_)
            | ControlKind::Ack(_)
            | ControlKind::Data(_)
            | ControlKind::Ping(_)
            | ControlKind::Pong(_) => debug!("a control message that is not for this end"),
        }
    }

    /// What the other node has. The first time makes it reachable; one that leaves is not reached any more.
    fn learn(&mut self, said: Advertise) -> Advertised {
        let sessions = said.home.len();
        debug!(node = %self.node, revision = said.revision, sessions, draining = said.draining, "the node tells its sessions");
        let answer = Advertised {
            revision: said.revision,
            refused: Vec::new(),
        };
        if said.draining {
            self.leads_nowhere();
        } else {
            if self.course == Course::Leads {
                self.peers.hop().leads(&self.node, self.tunnel.clone());
            }
            let directory = self.peers.hop().directory();
            directory.learn(&self.node, said, Instant::now());
        }
        answer
    }

    /// Nothing new goes here. A tunnel that is held for ever shows whether the node is there; of another one's end nothing
    /// follows.
    fn leads_nowhere(&mut self) {
        self.course = Course::Ends;
        let hop = self.peers.hop();
        match self.peers.known.get(&self.node) {
            Some(peer) if peer.keep => hop.lost(&self.node),
            Some(_) | None => hop.away(&self.node),
        }
    }

    /// Lets the tunnel go when nobody has needed it for a while. New streams go elsewhere for one look before: one that
    /// was about to be opened is open by then.
    fn look_at_use(&mut self) {
        let known = self.peers.known.get(&self.node);
        if known.is_none() && self.course != Course::Ends {
            self.leads_nowhere();
        }
        let is_needed = known.is_some_and(|peer| peer.keep) || self.tunnel.streams() > 0;
        match self.course {
            Course::Leads if is_needed => self.idle = None,
            Course::Leads => {
                let idle = self.idle.get_or_insert_with(Instant::now).elapsed();
                if idle >= self.peers.outfit.limits.peer_idle {
                    self.course = Course::Rests;
                    self.peers.hop().rests(&self.node);
                }
            }
            Course::Rests if is_needed => self.lead_again(),
            Course::Ends if is_needed => {}
            Course::Rests | Course::Ends => self.tunnel.close(Code::Closed),
        }
    }

    fn lead_again(&mut self) {
        self.course = Course::Leads;
        self.idle = None;
        self.peers.hop().leads(&self.node, self.tunnel.clone());
    }

    async fn advertise(&mut self) {
        self.revision = self.revision.saturating_add(1);
        let outfit = &self.peers.outfit;
        let process = (outfit.streams.sessions().as_ref(), outfit.person.generation);
        let offers = advertise::to_nodes(process, self.revision, self.leaves);
        send(&self.tunnel, ControlKind::Advertise(offers)).await;
    }

    async fn renew(&mut self, rotate: &Rotate) {
        let (binding, credentials) = (self.tunnel.binding(), self.peers.credentials());
        match self.standing.renew(rotate, binding, credentials) {
            Ok(answer) => {
                send(&self.tunnel, ControlKind::Rotated(answer)).await;
                self.follow();
            }
            Err(fault) => self.end_at_fault(Err(fault)),
        }
    }

    /// Shows the newest key soon where the other node has just shown that it has it.
    fn follow(&mut self) {
        let keys = self.peers.credentials().signing();
        if keys
            .key(0)
            .is_some_and(|key| key.kid == self.standing.kid())
        {
            self.rotation.renew(&keys);
        }
    }

    async fn rotate(&mut self) {
        let person = &self.peers.outfit.person;
        let audience = peer::audience(&self.node);
        let grant = Grant {
            node: &person.node,
            audience: &audience,
            binding: self.tunnel.binding(),
        };
        let keys = self.peers.credentials().signing();
        if let Some(rotate) = self.rotation.next(&keys, &person.identity, &grant) {
            send(&self.tunnel, ControlKind::Rotate(rotate)).await;
        }
    }

    /// This node takes nothing new: the other one is told, and what runs goes on for as long as is configured.
    async fn leave(&mut self) {
        self.leaves = true;
        let grace = self.peers.outfit.limits.drain;
        let finish_by_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        let drain = Drain {
            redial_in_ms: 0,
            finish_by_ms,
        };
        send(&self.tunnel, ControlKind::Drain(drain)).await;
        let tasks = self.tasks.clone();
        let ended = async move {
            let cut = tasks.drain(grace).await;
            if cut > 0 {
                warn!(
                    streams = cut,
                    "cut what outlived the drain of a peer tunnel"
                );
            }
        };
        self.ended.set(ended.boxed().fuse());
    }

    fn end_at_fault(&self, stands: Result<(), Fault>) {
        if let Err((code, cause)) = stands {
            warn!(node = %self.node, %code, cause, "peer tunnel ended by this node");
            self.tunnel.close(code);
        }
    }
}

async fn send(tunnel: &Tunnel, message: ControlKind) {
    if tunnel.send(message).await.is_err() {
        debug!("the tunnel closed before a control message left");
    }
}
