//! Tends one live tunnel: serves its streams, advertises, renews its token, and ends it without cutting anyone
//! off when the gateway, the files or the relay itself say so.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use sallyport_link::token::Grant;
use sallyport_link::{Closed, Tunnel};
use sallyport_ops::Tasks;
use sallyport_wire::Code;
use sallyport_wire::message::{Advertised, Answer, ControlKind, Data, Drain};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument as _, debug, info, info_span, warn};

use crate::advertise::{self, NEEDS_VIA};
use crate::board::Row;
use crate::lanes::Lanes;
use crate::outfit::Outfit;
use crate::promote::Invitations;
use crate::rotation::Rotation;
use crate::streams::Source;
use crate::wanted::Wanted;

/// The gateway takes note of a drain within this time, or the drain goes on without.
const NOTE_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait that a gateway may order before this relay dials it again.
const MOST_REDIAL_IN: Duration = Duration::from_secs(300);

/// Where a tunnel stands, for the lane that dialled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It serves.
    Up,
    /// The gateway drains it: another is to be dialled within this time.
    Leaving {
        /// The time over which relays spread their dials.
        redial_in: Duration,
    },
    /// Nobody wants it any more: it drains, and none is to follow.
    Unwanted,
    /// It ended.
    Lost,
}

/// A tunnel to be tended, and who has a say in it.
#[derive(Debug)]
pub struct Tended {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The key that the gateway took last.
    pub kid: String,
    /// The gateway's URL.
    pub url: String,
    /// The gateway's address and keys, as the files say; closed when they name it no more.
    pub wishes: watch::Receiver<Arc<Wanted>>,
    /// The lanes to the gateway.
    pub lanes: Lanes,
    /// Which of them this tunnel is in.
    pub lane: usize,
    /// Told to the lane.
    pub phase: watch::Sender<Phase>,
}

/// Tends a tunnel until it is closed.
pub async fn tend(tended: Tended, outfit: Arc<Outfit>, tasks: Tasks) {
    let row = outfit
        .board
        .tunnel(&tended.url, &tended.tunnel, &tended.kid);
    let streams = Arc::clone(&outfit.streams);
    let invitations = Invitations::new(Arc::clone(streams.promotions()));
    let accepting = streams.serve(Source {
        tunnel: tended.tunnel.clone(),
        invitations: Arc::clone(&invitations),
        tasks: tasks.clone(),
        hops: true,
    });
    let tender = Tender {
        rotation: Rotation::new(tended.kid.clone()),
        tended,
        outfit,
        tasks,
        invitations,
        row,
        revision: 0,
        ended: Box::pin(Fuse::terminated()),
    };
    tokio::join!(accepting.in_current_span(), tender.run());
}

struct Tender {
    tended: Tended,
    outfit: Arc<Outfit>,
    tasks: Tasks,
    invitations: Arc<Invitations>,
    row: Row,
    revision: u64,
    rotation: Rotation,
    /// The end of all streams, once the tunnel drains.
    ended: Pin<Box<Fuse<futures::future::BoxFuture<'static, ()>>>>,
}

/// What a tunnel's tender wakes up for.
enum Event {
    Control(Option<ControlKind>),
    RotationDue,
    OffersChanged,
    /// The files changed, or name the gateway no more.
    Wish(bool),
    LaneUnwanted,
    RelayLeaves,
    StreamsEnded,
}

impl Tender {
    async fn run(mut self) {
        let streams = &self.outfit.streams;
        let mut offers = (
            streams.sessions().changes(),
            streams.hop().directory().changes(),
        );
        self.advertise(false).await;
        loop {
            match self.event(&mut offers).await {
                Ok(event) => self.handle(event).await,
                Err(closed) => return self.closed(&closed),
            }
        }
    }

    /// Waits for the next event, or the end of the tunnel. One that drains already is not drained again.
    async fn event(
        &mut self,
        (own, others): &mut (watch::Receiver<u64>, watch::Receiver<u64>),
    ) -> Result<Event, Closed> {
        let draining = self.is_draining();
        let Tended {
            tunnel,
            wishes,
            lanes,
            lane,
            ..
        } = &mut self.tended;
        let event = tokio::select! {
            closed = tunnel.closed() => return Err(closed),
            message = tunnel.control() => Event::Control(message),
            () = sleep_until(self.rotation.due()) => Event::RotationDue,
            Ok(()) = own.changed() => Event::OffersChanged,
            Ok(()) = others.changed() => Event::OffersChanged,
            wish = wishes.changed(), if !draining => Event::Wish(wish.is_ok()),
            () = lanes.unwanted(*lane), if !draining => Event::LaneUnwanted,
            () = self.outfit.leaving.cancelled(), if !draining => Event::RelayLeaves,
            () = &mut self.ended, if draining => Event::StreamsEnded,
        };
        Ok(event)
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Control(Some(message)) => self.obey(message),
            Event::Control(None) => self.tended.tunnel.close(Code::TunnelLost),
            Event::RotationDue => self.rotate().await,
            Event::OffersChanged => self.advertise(self.is_draining()).await,
            Event::Wish(true) => self.renew(),
            Event::Wish(false) | Event::LaneUnwanted | Event::RelayLeaves => self.leave().await,
            Event::StreamsEnded => self.tended.tunnel.close(Code::Closed),
        }
    }

    fn closed(&self, closed: &Closed) {
        if self.is_draining() && closed.code == Code::Closed {
            info!("tunnel closed");
        } else {
            warn!(code = %closed.code, cause = %closed.cause, "tunnel lost");
        }
        self.tended.phase.send_replace(Phase::Lost);
    }

    fn is_draining(&self) -> bool {
        !matches!(*self.tended.phase.borrow(), Phase::Up)
    }

    async fn advertise(&mut self, draining: bool) {
        self.revision = self.revision.saturating_add(1);
        let streams = &self.outfit.streams;
        let others = streams.hop().directory().offers(Instant::now());
        let offers = advertise::offers(streams.sessions(), others, self.revision, draining);
        send(&self.tended.tunnel, ControlKind::Advertise(offers)).await;
    }

    fn obey(&mut self, message: ControlKind) {
        match message {
            ControlKind::Advertised(answer) => self.note(&answer),
            ControlKind::Rotated(answer) => self.answered(&answer),
            ControlKind::Drain(drain) if !self.is_draining() => self.drained(drain),
            ControlKind::Data(data) => self.invited(data),
            ControlKind::Drain(_)
            | ControlKind::Ack(_)
            | ControlKind::Store(_)
            | ControlKind::Advertise(_)
            | ControlKind::Ping(_)
            | ControlKind::Pong(_)
            | ControlKind::Rotate(_) => debug!("a control message that is not for a relay"),
        }
    }

    fn note(&self, answer: &Advertised) {
        let refused = advertise::refusals(answer);
        if self.row.refused(&refused) {
            self.tell_refused(&refused);
        }
    }

    fn tell_refused(&self, refused: &[(String, Code)]) {
        let own = self.outfit.streams.sessions();
        let is_own = |session: &str| own.iter().any(|own| own.id().as_str() == session);
        let mut foreign = 0_usize;
        for (session, code) in refused {
            if *code == Code::OutOfScope && !is_own(session) {
                foreign = foreign.saturating_add(1);
                continue;
            }
            warn!(%session, %code, cause = code.text(), "the gateway does not take a session");
        }
        if foreign > 0 {
            let kid = self.rotation.kid();
            warn!(
                sessions = foreign,
                kid,
                cure = NEEDS_VIA,
                "the gateway does not take sessions of other nodes from this key"
            );
        }
    }

    /// A stream of this tunnel is to have a data connection.
    fn invited(&self, data: Data) {
        let dialler = self.outfit.dialer.clone();
        let (wishes, tunnel) = (self.tended.wishes.clone(), self.tended.tunnel.clone());
        let dialling = async move {
            let address = wishes.borrow().address.clone();
            dialler.data(&address, &tunnel).await
        };
        let invited = Arc::clone(&self.invitations).invited(data, dialling);
        self.tasks.spawn(info_span!("data connection"), invited);
    }

    /// The gateway takes nothing new here. What runs goes on; the lane dials anew meanwhile.
    fn drained(&mut self, drain: Drain) {
        // A gateway that has fallen must not be able to send its relays away for good.
        let redial_in = Duration::from_millis(drain.redial_in_ms.into()).min(MOST_REDIAL_IN);
        let finish_by = Duration::from_millis(drain.finish_by_ms.into());
        info!(?redial_in, ?finish_by, "the gateway drains this tunnel");
        self.finish_within(finish_by);
        self.tended.phase.send_replace(Phase::Leaving { redial_in });
    }

    /// Nobody wants this tunnel: the gateway is told, and what runs goes on for as long as is configured.
    async fn leave(&mut self) {
        info!(within = ?self.outfit.limits.drain, "draining this tunnel");
        self.tended.phase.send_replace(Phase::Unwanted);
        let finish_by = u32::try_from(self.outfit.limits.drain.as_millis()).unwrap_or(u32::MAX);
        send(
            &self.tended.tunnel,
            ControlKind::Drain(Drain {
                redial_in_ms: 0,
                finish_by_ms: finish_by,
            }),
        )
        .await;
        // Last, so that its answer says that the drain before it was taken note of.
        self.advertise(true).await;
        if timeout(NOTE_WITHIN, self.noted()).await.is_err() {
            debug!("the gateway did not take note of the drain");
        }
        self.finish_within(self.outfit.limits.drain);
    }

    /// Waits for the answer to the last advertisement: after it the gateway opens nothing more here.
    async fn noted(&mut self) {
        while let Some(message) = self.tended.tunnel.control().await {
            let last = matches!(&message, ControlKind::Advertised(answer) if answer.revision == self.revision);
            self.obey(message);
            if last {
                return;
            }
        }
    }

    fn finish_within(&mut self, grace: Duration) {
        self.row.draining();
        let tasks = self.tasks.clone();
        let ended = async move {
            let cut = tasks.drain(grace).await;
            if cut > 0 {
                warn!(streams = cut, "cut what outlived the tunnel's drain");
            }
        };
        if self.ended.is_terminated() {
            self.ended.set(ended.boxed().fuse());
        }
    }

    /// The files changed.
    fn renew(&mut self) {
        let wanted = Arc::clone(&self.tended.wishes.borrow_and_update());
        let node = &self.outfit.person.node;
        self.rotation.renew(&wanted.keys_of(node));
    }

    async fn rotate(&mut self) {
        let wanted = Arc::clone(&self.tended.wishes.borrow());
        let (person, tunnel) = (&self.outfit.person, &self.tended.tunnel);
        let grant = Grant {
            node: &person.node,
            audience: &self.tended.url,
            binding: tunnel.binding(),
        };
        let keys = wanted.keys_of(&person.node);
        if let Some(rotate) = self.rotation.next(&keys, &person.identity, &grant) {
            send(tunnel, ControlKind::Rotate(rotate)).await;
        }
    }

    fn answered(&mut self, answer: &Answer) {
        let wanted = Arc::clone(&self.tended.wishes.borrow());
        let keys = wanted.keys_of(&self.outfit.person.node);
        if self.rotation.answered(answer, &keys) {
            self.row.key(self.rotation.kid());
        }
    }
}

async fn send(tunnel: &Tunnel, message: ControlKind) {
    if tunnel.send(message).await.is_err() {
        debug!("the tunnel closed before a control message left");
    }
}
