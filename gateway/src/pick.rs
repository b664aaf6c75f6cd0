//! Which tunnel a new stream takes: a pure function over what is known now.

use std::collections::BTreeMap;
use std::time::Duration;

use sallyport_link::Transport;
use sallyport_wire::{Code, SessionId};

use crate::config::Policy;
use crate::registry::{Line, Member, Path, Route};

/// What a choice goes by besides the tunnels themselves.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// How to choose among equals.
    pub policy: Policy,
    /// Nodes of this site come first; empty for none.
    pub site: &'a str,
    /// Raw port of the gateway that the stream came to, which the key's scope must allow; none for HTTP.
    pub port: Option<u16>,
    /// Whether it is for datagrams, which only QUIC carries as such.
    pub datagrams: bool,
    /// Tunnels to leave out.
    pub avoid: &'a [u64],
    /// Member of the pool that this client had before.
    pub sticky: Option<&'a SessionId>,
    /// Counts up from choice to choice, or is random: whose turn it is.
    pub turn: u64,
}

/// Chooses a tunnel to one session: its home, else a hop.
///
/// # Errors
/// The code that says why there is none now.
pub fn session<'a, T: Line>(route: &'a Route<T>, wish: &Wish<'_>) -> Result<&'a Path<T>, Code> {
    let home = fit(route.home.iter().collect(), wish);
    let fitting = match home {
        Err(Code::HomeLost | Code::NoRelay) if !route.via.is_empty() => {
            fit(route.via.iter().collect(), wish)?
        }
        home => home?,
    };
    choose(fitting, wish).ok_or(Code::NoRelay)
}

/// Chooses a member of a pool, and a tunnel to it.
///
/// # Errors
/// The code that says why there is none now.
pub fn pool<'a, T: Line>(
    routes: impl IntoIterator<Item = &'a Route<T>>,
    wish: &Wish<'_>,
) -> Result<&'a Path<T>, Code> {
    let mut why = Code::NoRelay;
    let mut usable = Vec::new();
    for route in routes {
        let paths = if route.home.is_empty() {
            &route.via
        } else {
            &route.home
        };
        match fit(
            paths.iter().filter(|path| path.offer.weight > 0).collect(),
            wish,
        ) {
            Ok(fitting) => usable.extend(fitting),
            Err(code) => why = code,
        }
    }
    let kept = usable
        .iter()
        .filter(|path| Some(&path.offer.id) == wish.sticky)
        .copied();
    let kept: Vec<_> = kept.collect();
    choose(if kept.is_empty() { usable } else { kept }, wish).ok_or(why)
}

/// The paths that a stream can take now, those of a node's newest process first and alone.
fn fit<'a, T: Line>(paths: Vec<&'a Path<T>>, wish: &Wish<'_>) -> Result<Vec<&'a Path<T>>, Code> {
    let paths = kept(paths, Code::NoRelay, |path| {
        !wish.avoid.contains(&path.member.id)
    })?;
    let allows = |path: &Path<T>, port| path.member.grant().scope.allows_port(port);
    let paths = kept(paths, Code::OutOfScope, |path| {
        wish.port.is_none_or(|port| allows(path, port))
    })?;
    let paths = kept(paths, Code::SessionDown, |path| !path.offer.down)?;
    let paths = kept(paths, Code::HomeLost, |path| path.member.is_up())?;
    let paths = kept(paths, Code::Draining, |path| !path.member.is_draining())?;
    let paths = kept(paths, Code::Limit, |path| {
        path.member.tunnel.streams() < path.member.tunnel.capacity()
    })?;
    Ok(preferred(paths, |path| !path.member.is_replaced()))
}

fn kept<P: Copy>(paths: Vec<P>, or: Code, keep: impl Fn(P) -> bool) -> Result<Vec<P>, Code> {
    let kept: Vec<P> = paths.into_iter().filter(|path| keep(*path)).collect();
    if kept.is_empty() { Err(or) } else { Ok(kept) }
}

fn preferred<P: Copy>(paths: Vec<P>, better: impl Fn(P) -> bool) -> Vec<P> {
    if paths.iter().any(|path| better(*path)) {
        return paths.into_iter().filter(|path| better(*path)).collect();
    }
    paths
}

/// Paths that lead to the same session on the same node, which share its weight.
#[derive(Debug)]
struct Place<'a, T> {
    paths: Vec<&'a Path<T>>,
    weight: u64,
    streams: u64,
    rtt: Duration,
}

impl<'a, T: Line> Place<'a, T> {
    fn new(paths: Vec<&'a Path<T>>) -> Self {
        let weight = paths
            .first()
            .map_or(1, |path| u64::from(path.offer.weight.max(1)));
        let streams = paths
            .iter()
            .map(|path| path.member.tunnel.streams() as u64)
            .sum();
        let rtt = paths
            .iter()
            .map(|path| rtt(path))
            .min()
            .unwrap_or(Duration::MAX);
        Self {
            paths,
            weight,
            streams,
            rtt,
        }
    }
}

fn rtt<T: Line>(path: &Path<T>) -> Duration {
    path.member.tunnel.rtt().unwrap_or(Duration::MAX)
}

/// First the place, by site and policy, then the tunnel to it.
fn choose<'a, T: Line>(paths: Vec<&'a Path<T>>, wish: &Wish<'_>) -> Option<&'a Path<T>> {
    let paths = preferred(paths, |path| {
        !wish.site.is_empty() && path.member.who.site == wish.site
    });
    let mut places: BTreeMap<_, Vec<&Path<T>>> = BTreeMap::new();
    for path in paths {
        places
            .entry((&path.offer.id, &path.member.who.node))
            .or_default()
            .push(path);
    }
    let places: Vec<_> = places.into_values().map(Place::new).collect();
    let place = choose_place(&places, wish)?;
    if wish.policy == Policy::Fastest {
        return place.paths.iter().copied().min_by_key(|path| rtt(path));
    }
    place
        .paths
        .iter()
        .copied()
        .min_by_key(|path| cost(&path.member, wish.datagrams))
}

/// What tells the tunnels of one node apart: one that lags comes last, one that is busy would let a keystroke wait behind
/// bulk, and TLS takes less of the processor than QUIC.
fn cost<T: Line>(member: &Member<T>, datagrams: bool) -> impl Ord + use<T> {
    let wanted = if datagrams {
        Transport::Quic
    } else {
        Transport::Tls
    };
    let other = member.tunnel.transport() != wanted;
    (
        datagrams && other,
        member.is_lagging(),
        member.is_busy(),
        other,
        member.tunnel.streams(),
    )
}

fn choose_place<'p, 'a, T>(
    places: &'p [Place<'a, T>],
    wish: &Wish<'_>,
) -> Option<&'p Place<'a, T>> {
    match wish.policy {
        Policy::LeastStreams => in_turn(places, wish.turn)
            .min_by(|a, b| (a.streams * b.weight).cmp(&(b.streams * a.weight))),
        Policy::Fastest => in_turn(places, wish.turn).min_by_key(|place| place.rtt),
        Policy::RoundRobin | Policy::Random => {
            let total = places.iter().map(|place| place.weight).sum::<u64>();
            let mut slot = wish.turn.checked_rem(total)?;
            places
                .iter()
                .find(|place| match slot.checked_sub(place.weight) {
                    Some(rest) => {
                        slot = rest;
                        false
                    }
                    None => true,
                })
        }
    }
}

/// All places, beginning with the one whose turn it is, so that ties go round.
fn in_turn<'p, 'a, T>(
    places: &'p [Place<'a, T>],
    turn: u64,
) -> impl Iterator<Item = &'p Place<'a, T>> {
    let count = places.len();
    let first = turn
        .checked_rem(count as u64)
        .and_then(|first| usize::try_from(first).ok());
    places.iter().cycle().skip(first.unwrap_or(0)).take(count)
}

#[cfg(test)]
mod tests;
