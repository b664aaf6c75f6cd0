//! A tunnel from the moment it is up until it is gone: what its relay says, and whether it may stay.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sallyport_link::admission::{Admitted, NotAdmitted};
use sallyport_link::key::Key;
use sallyport_link::keyring::NoKey;
use sallyport_link::{Closed, Tunnel};
use sallyport_wire::message::{
    Advertise, Advertised, Answer, ControlKind, Drain, Refused, RefusedOffer, Rotate,
};
use sallyport_wire::{ClusterNode, Code};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, info_span, warn};

use crate::arrive::Arrival;
use crate::hub::Hub;
use crate::probes;
use crate::quality::Quality;
use crate::registry::{Grant, Member, NotTaken};

/// How often it is looked whether a tunnel may stay: a key that was revoked ends its tunnels within 5 s.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Within this time relays dial another gateway, or this one again, when it drains.
const REDIAL_WITHIN: Duration = Duration::from_secs(10);

impl Hub {
    /// Takes a tunnel that is up, and attends it in a task of its own.
    pub fn attend(self: &Arc<Self>, tunnel: &Tunnel, arrival: Arrival) {
        let who = arrival.who();
        let Arrival {
            tunnel: id,
            admitted,
            key,
        } = arrival;
        let span = info_span!("tunnel", node = %who.node, tunnel = id);
        let grant = Grant {
            kid: admitted.kid.clone(),
            scope: admitted.scope.clone(),
        };
        let member = Arc::new(Member::new(id, who, grant, tunnel.clone()));
        let joined = self.change(|registry| registry.join(&member, Instant::now()));
        match joined {
            Ok(older) => {
                for old in older {
                    info!(node = %old.who.node, tunnel = old.id, "tunnel superseded");
                    old.tunnel.close(Code::Superseded);
                }
            }
            Err(why) => {
                warn!(parent: &span, code = %why.code(), cause = %why, "tunnel refused");
                self.figures.refusal(why.code());
                return tunnel.close(why.code());
            }
        }
        let attendance = Attendance {
            hub: Arc::clone(self),
            member: Arc::clone(&member),
            admitted,
            key,
            proven: Instant::now(),
            rotated: None,
            said: Advertise::default(),
            quality: Quality::default(),
            unheard: false,
        };
        self.tasks.spawn(span.clone(), attendance.run());
        let prober = Arc::clone(self);
        self.tasks
            .spawn(span, async move { probes::run(&prober, &member).await });
    }

    /// Closes every tunnel of a node.
    pub fn expel(&self, node: &ClusterNode, code: Code) {
        let members = self.registry().members(node).to_vec();
        for member in members {
            self.change(|registry| registry.leave(member.id, Instant::now()));
            member.tunnel.close(code);
        }
    }
}

/// One tunnel and what its stay rests on. Dropped with the task, it takes the tunnel off the registry.
#[derive(Debug)]
struct Attendance {
    hub: Arc<Hub>,
    member: Arc<Member<Tunnel>>,
    admitted: Admitted,
    key: Arc<Key>,
    proven: Instant,
    rotated: Option<Instant>,
    said: Advertise,
    quality: Quality,
    /// Whether what was said last waits for the node's turn.
    unheard: bool,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.hub
            .change(|registry| registry.leave(self.member.id, Instant::now()));
        self.member.tunnel.close(Code::Closed);
    }
}

/// Waits until the gateway drains.
async fn begins(draining: &mut watch::Receiver<bool>) {
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending().await
    }
}

impl Attendance {
    async fn run(mut self) {
        let tunnel = self.member.tunnel.clone();
        let transport = tunnel.transport();
        let (remote, generation) = (tunnel.remote(), self.member.who.generation);
        info!(%transport, %remote, generation, kid = self.admitted.kid, "relay joined");
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = self.hub.draining();
        let mut told = false;
        loop {
            tokio::select! {
                // What else the relay has to say waits in the tunnel.
                message = tunnel.control(), if !self.unheard => {
                    let Some(message) = message else { break };
                    self.hear(message).await;
                }
                () = self.turn(), if self.unheard => self.advertise_in_turn().await,
                _ = tunnel.closed(), if self.unheard => break,
                _ = look.tick() => {
                    self.judge();
                    self.look().await;
                }
                () = begins(&mut draining), if !told => {
                    told = true;
                    self.tell_drain().await;
                }
            }
        }
        let closed = tunnel.closed().await;
        info!(code = %closed.code, cause = closed.cause, "tunnel ended");
        self.doubt_siblings(&closed);
    }

    /// A process that is gone took its other tunnels along, which may not have noticed.
    fn doubt_siblings(&self, closed: &Closed) {
        let siblings = self.hub.registry().members(&self.member.who.node).to_vec();
        for sibling in siblings {
            if closed.code == Code::TunnelLost {
                sibling.doubt();
            } else {
                sibling.rely();
            }
        }
    }

    async fn hear(&mut self, message: ControlKind) {
        match message {
            ControlKind::Advertise(advertise) => {
                self.said = advertise;
                self.unheard = true;
            }
            ControlKind::Drain(_) => {
                info!("relay drains this tunnel");
                self.member.drain();
            }
            ControlKind::Rotate(rotate) => self.renew(&rotate).await,
            ControlKind::Ack(_)
            | ControlKind::Store(_)
            | ControlKind::Advertised(_)
            | ControlKind::Data(_)
            | ControlKind::Ping(_)
            | ControlKind::Pong(_)
            | ControlKind::Rotated(_) => {
                debug!("a message that a relay does not send was skipped")
            }
        }
    }

    /// Waits until its node may change the registry.
    async fn turn(&self) {
        sleep_until(self.hub.turns.next(&self.member.who.node, Instant::now())).await;
    }

    async fn advertise_in_turn(&mut self) {
        if self.hub.turns.take(&self.member.who.node, Instant::now()) {
            self.advertise().await;
        }
    }

    /// Puts what the relay said last in force, as far as its key allows, and answers it.
    async fn advertise(&mut self) {
        self.unheard = false;
        let (id, said) = (self.member.id, &self.said);
        let (refused, began) = self.hub.change(|registry| {
            let began = Instant::now();
            (registry.advertise(id, said, began), began)
        });
        let node = &self.member.who.node;
        self.hub.turns.took(node, began.elapsed(), Instant::now());
        let Some(refused) = refused else {
            return;
        };
        self.hub.heard_of(&self.member.who.node);
        self.hub.announce(&self.member);
        for NotTaken { id, code } in &refused {
            let session: String = id.chars().take(64).collect();
            warn!(session, %code, "session refused");
            self.hub.figures.refusal(*code);
        }
        let offers = self.said.home.len().saturating_add(self.said.via.len());
        debug!(
            offers,
            refused = refused.len(),
            revision = self.said.revision,
            "advertised"
        );
        let refused = refused
            .into_iter()
            .map(|NotTaken { id, code }| RefusedOffer {
                id,
                code: code.number(),
            });
        let answer = Advertised {
            revision: self.said.revision,
            refused: refused.collect(),
        };
        self.send(ControlKind::Advertised(answer)).await;
    }

    async fn renew(&mut self, rotate: &Rotate) {
        // Before anything is checked: each token takes a place in the memory of those that were used.
        let rotated = self.rotated.replace(Instant::now());
        let least = self.hub.config().tunnels.rotate_every;
        if rotated.is_some_and(|before| before.elapsed() < least) {
            return self.end(Code::Limit, "fresh tokens came too fast");
        }
        let mut shown = self.check(rotate);
        if shown.as_ref().is_err_and(|error| self.is_unheard_of(error)) {
            // It may have been added a moment ago, and be at the nodes already.
            if let Err(cause) = self.hub.look_for_keys().await {
                warn!(%cause, "the keys could not be read again");
            }
            shown = self.check(rotate);
        }
        let now = OffsetDateTime::now_utc();
        match shown {
            Ok(admitted) => match self.hub.keys.live(&admitted.kid, now) {
                Ok(key) => {
                    debug!(kid = admitted.kid, "token renewed");
                    self.admitted = admitted;
                    self.proven = Instant::now();
                    self.answer(None).await;
                    self.regrant(key).await;
                }
                Err(error) => self.end(Code::Unauthorised, &error.to_string()),
            },
            // The last token is good until it is too old: a gateway that is full ends nobody, nor does one whose
            // administrator gave the newest key to the nodes first.
            Err(error) if error.code == Code::Limit || self.is_unheard_of(&error) => {
                warn!(
                    kid = error.kid,
                    cause = error.cause,
                    "fresh token not taken"
                );
                self.answer(Some(error.code)).await;
            }
            Err(error) => self.end(error.code, &error.cause),
        }
    }

    /// Tells the relay what became of its fresh token.
    async fn answer(&self, refused: Option<Code>) {
        let refused = refused.map(|code| Refused {
            code: code.number(),
            retry_after_ms: 0,
        });
        self.send(ControlKind::Rotated(Answer { refused })).await;
    }

    fn check(&self, rotate: &Rotate) -> Result<Admitted, NotAdmitted> {
        let (admission, binding) = (&self.hub.admission, self.member.tunnel.binding());
        admission.renew(&self.admitted, rotate, binding, SystemTime::now())
    }

    /// Whether a fresh token was refused only because no key has the id that it names.
    fn is_unheard_of(&self, error: &NotAdmitted) -> bool {
        let live = |kid: &String| self.hub.keys.live(kid, OffsetDateTime::now_utc());
        let live = error.kid.as_ref().map(live);
        error.code == Code::Unauthorised && matches!(live, Some(Err(NoKey::Unknown)))
    }

    /// How the tunnel does beside the others of its node.
    fn judge(&mut self) {
        let siblings = self.hub.registry().members(&self.member.who.node).to_vec();
        let others = siblings
            .iter()
            .filter(|sibling| sibling.id != self.member.id && sibling.is_up())
            .filter_map(|sibling| sibling.tunnel.delay());
        self.quality.look(&self.member, others);
    }

    /// Whether the tunnel may stay: its key lives, still allows it, and was proven not long ago.
    async fn look(&mut self) {
        if self.proven.elapsed() > self.hub.config().tunnels.token_age {
            return self.end(Code::Unauthorised, "no fresh token was presented");
        }
        match self
            .hub
            .keys
            .live(&self.admitted.kid, OffsetDateTime::now_utc())
        {
            Err(error) => self.end(Code::Unauthorised, &error.to_string()),
            Ok(key) if !key.same_material(&self.key) => {
                self.end(Code::Unauthorised, "its key was replaced");
            }
            Ok(key) => self.regrant(key).await,
        }
    }

    /// Takes over what the key allows now; what the relay said is judged again if that changed.
    async fn regrant(&mut self, key: Arc<Key>) {
        let grant = Grant {
            kid: self.admitted.kid.clone(),
            scope: key.scope.clone(),
        };
        self.key = key;
        let before = self.member.grant();
        if *before == grant {
            return;
        }
        let who = &self.member.who;
        let ClusterNode { cluster, name } = &who.node;
        if !grant.scope.nodes.matches(name.as_str()) || grant.scope.cluster != *cluster {
            return self.end(Code::OutOfScope, "its key is not for this node any more");
        }
        let judge = before.scope != grant.scope;
        self.member.regrant(grant);
        if judge {
            self.advertise().await;
        }
    }

    async fn tell_drain(&self) {
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let drain = Drain {
            redial_in_ms: milliseconds(REDIAL_WITHIN),
            finish_by_ms: milliseconds(self.hub.config().drain),
        };
        self.send(ControlKind::Drain(drain)).await;
    }

    async fn send(&self, message: ControlKind) {
        if let Err(error) = self.member.tunnel.send(message).await {
            debug!(%error, "nothing was sent");
        }
    }

    fn end(&self, code: Code, cause: &str) {
        warn!(kid = self.admitted.kid, %code, cause, "tunnel ended by the gateway");
        self.hub.figures.refusal(code);
        self.member.tunnel.close(code);
    }
}
