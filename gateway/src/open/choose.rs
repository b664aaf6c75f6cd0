//! From a name to a tunnel that leads there, or to the reason why there is none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sallyport_edge::opener::Denial;
use sallyport_link::Tunnel;
use sallyport_wire::message::{Kind, Protocol, Sticky};
use sallyport_wire::{ClusterName, Code, PoolName, SessionId};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{Want, kind_word};
use crate::config::{Destination, Goal, Policy};
use crate::hub::Hub;
use crate::pick::{self, Wish};
use crate::registry::{Cluster, Offered, Path, Route};
use crate::regulars::{self, Regular};

/// When to try again, by what is missing.
const RETRY_SOON: Duration = Duration::from_secs(1);
const RETRY_LATER: Duration = Duration::from_secs(2);
const RETRY_DOWN: Duration = Duration::from_secs(5);

/// Why there is no way to a session.
pub(super) struct NoWay {
    denial: Denial,
    /// Whether a relay is likely to come that changes it.
    may_come: bool,
}

impl From<Denial> for NoWay {
    fn from(denial: Denial) -> Self {
        Self {
            denial,
            may_come: false,
        }
    }
}

impl Hub {
    /// What a name under `/s/` or below the sessions' domain of a cluster means: a session, else a pool of that name.
    pub fn destination(&self, cluster: &ClusterName, name: &SessionId) -> Destination {
        Destination {
            cluster: cluster.clone(),
            to: self.goal(cluster, name),
        }
    }

    fn goal(&self, cluster: &ClusterName, name: &SessionId) -> Goal {
        let registry = self.registry();
        let known = registry.cluster(cluster);
        let as_pool = name.as_str().parse::<PoolName>().ok();
        match known.zip(as_pool) {
            Some((known, pool)) if known.route(name).is_none() && known.has_pool(&pool) => {
                Goal::Pool(pool)
            }
            _ => Goal::Session(name.clone()),
        }
    }

    /// Looks for something by a name of a cluster; again whenever a relay has come that offers that name, for a limited
    /// time.
    pub(super) async fn patiently<T>(
        &self,
        cluster: &ClusterName,
        name: &str,
        look: impl Fn() -> Result<T, NoWay>,
    ) -> Result<T, Denial> {
        let denial = match look() {
            Err(NoWay { denial, may_come }) if may_come => denial,
            found => return found.map_err(|none| none.denial),
        };
        let (within, most) = {
            let limits = &self.config().limits;
            (limits.relay_wait, limits.relay_waiting)
        };
        let Some(waiter) = self.waiting.enter(cluster, name, most) else {
            let cause = format!("{}, and {most} requests wait already", denial.cause);
            return Err(Denial { cause, ..denial });
        };
        debug!(cause = denial.cause, "waiting for a relay");
        let until = Instant::now() + within;
        loop {
            let rung = waiter.rung();
            match look() {
                Err(none) if none.may_come => {}
                found => return found.map_err(|none| none.denial),
            }
            if timeout_at(until, rung).await.is_err() {
                return look().map_err(|none| none.denial);
            }
        }
    }

    /// What HTTP can reach by a name of a cluster, from what is known just now, and whether a cookie keeps its clients with
    /// one of several members.
    pub(super) fn offer(
        &self,
        cluster: &ClusterName,
        name: &SessionId,
    ) -> Result<(Arc<Offered>, bool), NoWay> {
        let (offer, sticky) = match self.goal(cluster, name) {
            Goal::Session(id) => {
                let route = self.registry().route(cluster, &id);
                let offer = route.and_then(|route| route.offer().cloned());
                let offer = offer.ok_or_else(|| self.absent(cluster, &id))?;
                (offer, Sticky::None)
            }
            Goal::Pool(pool) => {
                let routes = {
                    let registry = self.registry();
                    let known = registry.cluster(cluster);
                    known.and_then(|known| known.pool(&pool))
                };
                let routes = routes.unwrap_or_default();
                let offer = routes.iter().find_map(|route| route.offer().cloned());
                let offer = offer.ok_or_else(|| self.empty_pool(cluster, &pool))?;
                (offer, sticky(&routes))
            }
        };
        suits(&offer, Kind::Http)?;
        Ok((offer, sticky == Sticky::Cookie))
    }

    /// A tunnel for a stream, from what is known just now.
    pub(super) fn choose(&self, to: &Destination, want: &Want) -> Result<Path<Tunnel>, NoWay> {
        let cluster = &to.cluster;
        match &to.to {
            Goal::Session(session) => {
                let route = self.registry().route(cluster, session);
                let route = route.ok_or_else(|| self.absent(cluster, session))?;
                let offer = route.offer();
                let offer = offer.ok_or_else(|| self.absent(cluster, session))?;
                suits(offer, want.kind)?;
                let config = self.config();
                let wish = wish(&config.site, config.policy, want, self.number());
                let picked = pick::session(&route, &wish);
                picked.cloned().map_err(|code| {
                    let cause = format!("no tunnel of {} can take it", nodes(&route));
                    NoWay {
                        may_come: passes(code) && has_new(&route),
                        denial: denied(code, session, &cause),
                    }
                })
            }
            Goal::Pool(pool) => self.choose_member(cluster, pool, want),
        }
    }

    fn choose_member(
        &self,
        cluster: &ClusterName,
        pool: &PoolName,
        want: &Want,
    ) -> Result<Path<Tunnel>, NoWay> {
        let members = {
            let registry = self.registry();
            let known = registry.cluster(cluster);
            known.and_then(|known| known.pool_in_turn(pool))
        };
        let Some((routes, turn)) = members else {
            return Err(self.empty_pool(cluster, pool));
        };
        let client = Regular::of(sticky(&routes), want.kind, want.source(), want.affinity);
        let before = client.and_then(|client| self.regulars.member((cluster, pool), client));
        let config = self.config();
        let wish = Wish {
            sticky: before.as_ref(),
            affinity: client.and_then(Regular::affinity),
            ..wish(&config.site, config.policy, want, turn)
        };
        let picked = pick::pool(routes.iter().map(AsRef::as_ref), &wish);
        let path = picked.map_err(|code| NoWay {
            may_come: passes(code) && routes.iter().any(|route| has_new(route)),
            denial: denial(code, format!("no member of pool {pool} can take it")),
        })?;
        suits(&path.offer, want.kind)?;
        if let Some(client) = client {
            let member = &path.offer.id;
            self.regulars.keep((cluster, pool), client, member);
        }
        Ok(path.clone())
    }

    /// Why there is no way to a session: it may come back, may be on its way, or is unknown.
    fn absent(&self, cluster: &ClusterName, session: &SessionId) -> NoWay {
        let lost = {
            let registry = self.registry();
            let home = registry.lost_home(cluster, session, Instant::now());
            home.cloned()
        };
        if let Some(node) = lost {
            let cause = format!("its home {node} was lost lately");
            return denied(Code::HomeLost, session, &cause).into();
        }
        self.nobody(cluster, session.as_str()).unwrap_or_else(|| {
            Denial::new(Code::UnknownSession, format!("nobody offers {session}")).into()
        })
    }

    fn empty_pool(&self, cluster: &ClusterName, pool: &PoolName) -> NoWay {
        let name = format!("pool {pool}");
        self.nobody(cluster, &name)
            .unwrap_or_else(|| denial(Code::HomeLost, format!("{name}: it has no member")).into())
    }

    /// What holds for every name that nobody offers while relays of its cluster are missing; none once they are there.
    fn nobody(&self, cluster: &ClusterName, name: &str) -> Option<NoWay> {
        let counts = {
            let registry = self.registry();
            registry.cluster(cluster).map(Cluster::counts)
        };
        let counts = counts.unwrap_or_default();
        let settling = self.is_settling(cluster);
        let (code, cause) = if counts.nodes == 0 {
            (Code::NoRelay, "no relay is connected")
        } else if settling {
            let cause = "the gateway started lately and not all nodes are back";
            (Code::HomeLost, cause)
        } else {
            return None;
        };
        Some(NoWay {
            denial: denial(code, format!("{name}: {cause}")),
            // Whoever lost its relay hears so at once; a gateway that has just started has lost nobody.
            may_come: settling || counts.lost == 0,
        })
    }
}

fn sticky(routes: &[Arc<Route<Tunnel>>]) -> Sticky {
    let offers = routes.iter().filter_map(|route| route.offer());
    regulars::strongest(offers.map(|offer| offer.sticky))
}

/// Whether a tunnel that is new may soon take what none takes now.
const fn passes(code: Code) -> bool {
    matches!(code, Code::HomeLost | Code::Draining)
}

/// Whether one of its tunnels has just come.
fn has_new(route: &Route<Tunnel>) -> bool {
    route.paths().any(|path| path.member.is_undecided())
}

/// Whether a session can be reached in this way by somebody without a login. One that HTTP cannot speak to does not
/// exist for HTTP; one whose TLS is not opened here may be reached over another connection.
fn suits(offer: &Offered, kind: Kind) -> Result<(), Denial> {
    let blind = offer.blind || offer.protocol == Protocol::Tls;
    let fits = match kind {
        Kind::Http => {
            let spoken = [Protocol::Http, Protocol::H2c, Protocol::Vnc];
            spoken.contains(&offer.protocol) && !blind
        }
        Kind::Tls => blind,
        Kind::Tcp => offer.protocol != Protocol::Udp,
        Kind::Udp => offer.protocol == Protocol::Udp,
        Kind::Probe => false,
    };
    if !fits {
        let code = match kind {
            Kind::Http if !blind => Code::UnknownSession,
            Kind::Http | Kind::Tls | Kind::Tcp | Kind::Udp | Kind::Probe => Code::Misdirected,
        };
        let (id, spoken) = (&offer.id, offer.protocol.word());
        let cause = format!("{id} speaks {spoken} and is not for {}", kind_word(kind));
        return Err(Denial::new(code, cause));
    }
    if !offer.anonymous {
        let cause = format!("{} lets nobody in without a login", offer.id);
        return Err(Denial::new(Code::LoginRequired, cause));
    }
    Ok(())
}

fn wish<'a>(site: &'a str, policy: Policy, want: &'a Want, turn: u64) -> Wish<'a> {
    Wish {
        policy,
        site,
        port: want.port,
        datagrams: want.kind == Kind::Udp,
        avoid: &want.avoid,
        sticky: None,
        affinity: None,
        turn,
    }
}

pub(super) fn denied(code: Code, session: &SessionId, cause: &str) -> Denial {
    Denial {
        session: Some(session.clone()),
        ..denial(code, format!("{session}: {cause}"))
    }
}

fn denial(code: Code, cause: String) -> Denial {
    Denial {
        retry_after: retry_after(code),
        ..Denial::new(code, cause)
    }
}

/// The nodes that offer a session, for the log.
fn nodes(route: &Route<Tunnel>) -> String {
    let names: BTreeSet<&str> = route
        .paths()
        .map(|path| path.member.who.node.name.as_str())
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

const fn retry_after(code: Code) -> Option<Duration> {
    match code.status() {
        503 if matches!(code, Code::SessionDown) => Some(RETRY_DOWN),
        503 if matches!(code, Code::HomeLost | Code::NoRelay) => Some(RETRY_LATER),
        503 => Some(RETRY_SOON),
        _ => None,
    }
}
