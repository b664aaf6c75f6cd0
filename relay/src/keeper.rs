//! Keeps one gateway's tunnels up: dials, waits between tries, and dials anew before a tunnel that drains ends.
//!
//! A gateway has up to four lanes, each of which holds one tunnel. The first lane asks the gateway how many
//! it wants; the others wait for that.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use sallyport_link::dial::{Dialled, Introduce};
use sallyport_link::token::Grant;
use sallyport_link::{Backoff, BackoffSettings, DialError};
use sallyport_ops::Tasks;
use sallyport_wire::message::Hello;
use sallyport_wire::{BINDING_LEN, Code, VERSIONS};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, info_span, warn};

use crate::config::MAX_TUNNELS;
use crate::lanes::Lanes;
use crate::outfit::{Outfit, Person};
use crate::tend::{self, Phase, Tended};
use crate::wanted::Wanted;

/// The other lanes dial within this time once the first has its tunnel.
const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

/// Keeps the tunnels of one gateway until its wishes end, or the relay leaves.
pub async fn keep(outfit: Arc<Outfit>, wishes: watch::Receiver<Arc<Wanted>>, tasks: Tasks) {
    let keeper = Arc::new(Keeper {
        url: wishes.borrow().address.url.audience(),
        lanes: Lanes::new(),
        turn: Mutex::new(0),
        outfit,
        tasks: tasks.clone(),
    });
    for lane in 0..MAX_TUNNELS {
        let span = info_span!("lane", lane);
        tasks.spawn(span, Arc::clone(&keeper).run(lane, wishes.clone()));
    }
    let mut wishes = wishes;
    while wishes.changed().await.is_ok() {
        keeper.restart_keys();
    }
    keeper.outfit.board.forget(&keeper.url);
}

#[derive(Debug)]
struct Keeper {
    url: String,
    lanes: Lanes,
    /// Which of the keys comes next, counted from the newest.
    turn: Mutex<usize>,
    outfit: Arc<Outfit>,
    tasks: Tasks,
}

/// What a lane does after a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Dial at some time within this, without backoff.
    Redial(Duration),
    /// Dial after the backoff's wait.
    Lost,
    /// Nothing more.
    End,
}

impl Keeper {
    async fn run(self: Arc<Self>, lane: usize, mut wishes: watch::Receiver<Arc<Wanted>>) {
        let mut backoff = Backoff::new(BackoffSettings::default(), self.seed(lane));
        let mut said = None;
        loop {
            tokio::select! {
                () = self.turn_to_dial(lane, &mut backoff) => {}
                () = self.over(wishes.clone()) => return,
            }
            let wanted = Arc::clone(&wishes.borrow_and_update());
            let mut since = Instant::now();
            let next = match self.dial(&wanted, lane).await {
                Ok((dialled, kid)) => {
                    backoff.up(Instant::now());
                    said = None;
                    let next = self.hold(dialled, kid, (lane, wishes.clone())).await;
                    since = Instant::now();
                    backoff.lost(since);
                    next
                }
                Err(error) => {
                    self.complain(&error, &mut said);
                    obey(&error, &mut backoff);
                    Next::Lost
                }
            };
            let at = match next {
                Next::End => return,
                Next::Redial(within) => since + backoff.part(within),
                Next::Lost => backoff.next(since),
            };
            debug!(wait = ?at.saturating_duration_since(Instant::now()), "dialling again after a wait");
            wishes.mark_unchanged();
            tokio::select! {
                () = sleep_until(at) => {}
                changed = wishes.changed() => if changed.is_err() { return },
                () = self.outfit.leaving.cancelled() => return,
            }
        }
    }

    /// Waits until a lane may dial. Those that follow the first come one after another: when a gateway is back, all its
    /// relays have just found it.
    async fn turn_to_dial(&self, lane: usize, backoff: &mut Backoff) {
        if !self.lanes.is_turn(lane) {
            self.lanes.turn(lane).await;
            sleep(backoff.part(FOLLOW_WITHIN)).await;
        }
    }

    /// Waits until this gateway is not to be dialled any more.
    async fn over(&self, mut wishes: watch::Receiver<Arc<Wanted>>) {
        tokio::select! {
            () = self.outfit.leaving.cancelled() => {}
            () = async { while wishes.changed().await.is_ok() {} } => {}
        }
    }

    /// Every lane of every keeper waits in its own way.
    fn seed(&self, lane: usize) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.outfit.seed, &self.url, lane).hash(&mut hasher);
        hasher.finish()
    }

    async fn dial(&self, wanted: &Wanted, lane: usize) -> Result<(Dialled, String), DialError> {
        let introducer = Introducer::new(&self.outfit.person, wanted, self.turn());
        let choice = self.outfit.choice.of_lane(lane);
        let dialled = self
            .outfit
            .dialer
            .dial(&wanted.address, choice, &introducer)
            .await;
        if dialled.as_ref().is_err_and(|error| {
            error
                .refused()
                .is_some_and(|(code, _)| code == Code::Unauthorised)
        }) {
            self.next_key();
        }
        dialled.map(|dialled| (dialled, introducer.into_kid()))
    }

    async fn hold(
        &self,
        dialled: Dialled,
        kid: String,
        (lane, wishes): (usize, watch::Receiver<Arc<Wanted>>),
    ) -> Next {
        let Dialled { tunnel, welcome } = dialled;
        let asked = usize::try_from(welcome.tunnels)
            .unwrap_or(0)
            .min(MAX_TUNNELS);
        let wanted = if asked == 0 {
            self.outfit.tunnels
        } else {
            asked
        };
        let _held = self.lanes.hold(wanted);
        let span = info_span!(
            "tunnel",
            tunnel = tunnel.id(),
            transport = tunnel.transport().word()
        );
        span.in_scope(|| {
            info!(remote = %tunnel.remote(), peer = %welcome.gateway, version = %welcome.software, key = %kid, "tunnel up");
        });
        let (phase, mut phases) = watch::channel(Phase::Up);
        let tended = Tended {
            tunnel,
            kid,
            url: self.url.clone(),
            wishes,
            lanes: self.lanes.clone(),
            lane,
            phase,
        };
        let outfit = Arc::clone(&self.outfit);
        self.tasks
            .spawn(span, tend::tend(tended, outfit, self.tasks.child()));
        match phases
            .wait_for(|phase| *phase != Phase::Up)
            .await
            .map(|phase| *phase)
        {
            Ok(Phase::Leaving { redial_in }) => Next::Redial(redial_in),
            Ok(Phase::Unwanted) if !self.lanes.is_wanted(lane) => Next::Redial(Duration::ZERO),
            Ok(Phase::Unwanted) => Next::End,
            Ok(Phase::Up | Phase::Lost) | Err(_) => Next::Lost,
        }
    }

    /// Says why a dial failed: at once when the cause is new, else only to who asks for details.
    fn complain(&self, error: &DialError, said: &mut Option<String>) {
        let text = error.to_string();
        self.outfit.board.failed(&self.url, &text);
        if said.as_ref() == Some(&text) {
            debug!(step = %error.step, cause = %text, "still no tunnel");
        } else {
            warn!(step = %error.step, cause = %text, "no tunnel to the gateway; `sallyport-relay doctor` says what to do");
            *said = Some(text);
        }
    }

    fn turn(&self) -> usize {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_key(&self) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = turn.wrapping_add(1);
    }

    fn restart_keys(&self) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }
}

/// Takes note of when the gateway wants to be dialled again, if it said so.
fn obey(error: &DialError, backoff: &mut Backoff) {
    if let Some((_, Some(wait))) = error.refused() {
        backoff.retry_after(Instant::now(), wait);
    }
}

/// Says hello for a relay.
#[derive(Debug)]
pub struct Introducer<'k> {
    person: &'k Person,
    wanted: &'k Wanted,
    turn: usize,
    used: Mutex<String>,
}

impl<'k> Introducer<'k> {
    /// With the key of `wanted` whose turn it is, counted from the newest.
    #[must_use]
    pub fn new(person: &'k Person, wanted: &'k Wanted, turn: usize) -> Self {
        Self {
            person,
            wanted,
            turn,
            used: Mutex::default(),
        }
    }

    /// The id of the key that was used; empty before the hello.
    #[must_use]
    pub fn into_kid(self) -> String {
        self.used
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Introduce for Introducer<'_> {
    fn hello(&self, audience: &str, binding: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        let person = self.person;
        let key = self.wanted.key(&person.node, self.turn).ok_or_else(|| {
            format!("no key of the gateway file may be used by node {} now: each is expired or for other nodes", person.node)
        })?;
        let grant = Grant {
            node: &person.node,
            audience,
            binding,
        };
        let proof = person
            .identity
            .prove(key, &grant, SystemTime::now())
            .map_err(|error| error.to_string())?;
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&key.kid);
        Ok(Hello {
            oldest: *VERSIONS.start(),
            newest: *VERSIONS.end(),
            node: person.node.to_string(),
            generation: person.generation,
            successor_of: 0,
            token: proof.token,
            node_key: bytes::Bytes::copy_from_slice(person.identity.public()),
            proof: proof.proof,
            features: person.features.clone(),
            required: Vec::new(),
            dry_run: false,
            site: person.site.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
