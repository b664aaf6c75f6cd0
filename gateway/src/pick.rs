//! Which tunnel a new stream takes: a pure function over what is known now.

use std::collections::BTreeMap;
use std::time::Duration;

use sallyport_edge::Affinity;
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
    /// The cookie that decides on the member of the pool in place of the policy.
    pub affinity: Option<Affinity>,
    /// Counts up from choice to choice: whose turn it is.
    pub turn: u64,
}

/// Chooses a tunnel to one session: its home, else a hop.
///
/// # Errors
/// The code that says why there is none now.
pub fn session<'a, T: Line>(route: &'a Route<T>, wish: &Wish<'_>) -> Result<&'a Path<T>, Code> {
    let ways = ways(route.home.iter().collect(), &route.via, wish)?;
    way(ways, wish).ok_or(Code::NoRelay)
}

/// Chooses a member of a pool, and a tunnel to it. A session is one member, however many ways lead to it.
///
/// # Errors
/// The code that says why there is none now.
pub fn pool<'a, T: Line>(
    routes: impl IntoIterator<Item = &'a Route<T>>,
    wish: &Wish<'_>,
) -> Result<&'a Path<T>, Code> {
    let mut why = Code::NoRelay;
    let mut members = Vec::new();
    for route in routes {
        match taking(route, wish) {
            Ok(ways) => members.push(Place::member(ways)),
            Err(code) => why = code,
        }
    }
    let kept = |member: &Place<'_, T>| {
        let mut paths = member.paths.iter();
        paths.any(|path| Some(&path.offer.id) == wish.sticky)
    };
    let members = preferred(members, kept);
    let members = preferred(members, |member| {
        member.paths.iter().any(|path| is_near(path, wish))
    });
    let member = match wish.affinity {
        Some(affinity) => by_cookie(members, affinity),
        None => choose(members, wish),
    };
    let member = member.ok_or(why)?;
    // Or whoever has every other turn would always be reached by the same of two hops.
    let turn = mixed(wish.turn);
    way(member.paths, &Wish { turn, ..*wish }).ok_or(why)
}

/// The ways to a member that takes something new. One whose home takes nothing takes nothing through others either.
fn taking<'a, T: Line>(route: &'a Route<T>, wish: &Wish<'_>) -> Result<Vec<&'a Path<T>>, Code> {
    let taking = |path: &&Path<T>| path.offer.weight > 0;
    let home: Vec<_> = route.home.iter().filter(taking).collect();
    if home.is_empty() && !route.home.is_empty() {
        return Err(Code::NoRelay);
    }
    let ways = ways(home, &route.via, wish)?;
    kept(ways, Code::NoRelay, |path| taking(&path))
}

/// The best ways to a session that a stream can take now: those to its home, else those over hops.
fn ways<'a, T: Line>(
    home: Vec<&'a Path<T>>,
    via: &'a [Path<T>],
    wish: &Wish<'_>,
) -> Result<Vec<&'a Path<T>>, Code> {
    match fit(home, wish) {
        Err(Code::HomeLost | Code::NoRelay) if !via.is_empty() => fit(via.iter().collect(), wish),
        home => home,
    }
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

fn preferred<P>(all: Vec<P>, better: impl Fn(&P) -> bool) -> Vec<P> {
    if all.iter().any(&better) {
        return all.into_iter().filter(better).collect();
    }
    all
}

/// What one is chosen from: the members of a pool, or the nodes that lead to a session.
#[derive(Debug)]
struct Place<'a, T> {
    paths: Vec<&'a Path<T>>,
    weight: u64,
    streams: u64,
    rtt: Duration,
}

impl<'a, T: Line> Place<'a, T> {
    /// A member of a pool, with all that it carries whichever way that goes.
    fn member(paths: Vec<&'a Path<T>>) -> Self {
        let streams = paths.first().map_or(0, |path| path.load.streams());
        Self::new(paths, streams)
    }

    /// A node, with all that its tunnels carry.
    fn node(paths: Vec<&'a Path<T>>) -> Self {
        let streams = paths.iter().map(|path| path.member.tunnel.streams()).sum();
        Self::new(paths, streams)
    }

    fn new(paths: Vec<&'a Path<T>>, streams: usize) -> Self {
        let first = paths.first();
        Self {
            weight: first.map_or(1, |path| u64::from(path.offer.weight.max(1))),
            streams: streams as u64,
            rtt: paths
                .iter()
                .map(|path| rtt(path))
                .min()
                .unwrap_or(Duration::MAX),
            paths,
        }
    }
}

fn rtt<T: Line>(path: &Path<T>) -> Duration {
    path.member.tunnel.rtt().unwrap_or(Duration::MAX)
}

fn is_near<T>(path: &Path<T>, wish: &Wish<'_>) -> bool {
    !wish.site.is_empty() && path.member.who.site == wish.site
}

/// One of the ways to a session: first the node, by site and policy, then the tunnel to it.
fn way<'a, T: Line>(paths: Vec<&'a Path<T>>, wish: &Wish<'_>) -> Option<&'a Path<T>> {
    let paths = preferred(paths, |path| is_near(path, wish));
    let mut nodes: BTreeMap<_, Vec<&Path<T>>> = BTreeMap::new();
    for path in paths {
        nodes.entry(&path.member.who.node).or_default().push(path);
    }
    let nodes = nodes.into_values().map(Place::node).collect();
    let tunnels = choose(nodes, wish)?.paths.into_iter();
    if wish.policy == Policy::Fastest {
        return tunnels.min_by_key(|path| rtt(path));
    }
    tunnels.min_by_key(|path| cost(&path.member, wish.datagrams))
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

fn choose<'a, T>(mut places: Vec<Place<'a, T>>, wish: &Wish<'_>) -> Option<Place<'a, T>> {
    let chosen = match wish.policy {
        Policy::LeastStreams => in_turn(&places, wish.turn)
            .min_by(|(_, a), (_, b)| (a.streams * b.weight).cmp(&(b.streams * a.weight)))
            .map(|(at, _)| at),
        Policy::Fastest => in_turn(&places, wish.turn)
            .min_by_key(|(_, place)| place.rtt)
            .map(|(at, _)| at),
        Policy::RoundRobin => by_weight(&places, wish.turn),
        Policy::Random => by_weight(&places, mixed(wish.turn)),
    };
    chosen.map(|at| places.swap_remove(at))
}

/// The member that a cookie stands for: each has a rank for each cookie, and the highest counts (weighted rendezvous hashing).
/// So gateways that know the same members agree without a word, and when one comes or goes only its own share moves.
fn by_cookie<'a, T>(members: Vec<Place<'a, T>>, affinity: Affinity) -> Option<Place<'a, T>> {
    let ranked = members
        .into_iter()
        .map(|member| (rank(&member, affinity), member));
    let first = ranked.max_by(|(a, _), (b, _)| a.total_cmp(b));
    first.map(|(_, member)| member)
}

/// The rank of a member of weight w is w / -ln(x), with x between 0 and 1 by chance: so each is the highest for as many
/// cookies as its weight says, whatever the others' weights are.
fn rank<T>(member: &Place<'_, T>, affinity: Affinity) -> f64 {
    let Some(path) = member.paths.first() else {
        return 0.0;
    };
    let bytes = affinity.value().to_be_bytes().into_iter();
    let bytes = bytes.chain(path.offer.id.as_str().bytes());
    let hash = bytes.fold(0, |hash, byte| mixed(hash ^ u64::from(byte)));
    let chance = u32::try_from(hash >> 32).unwrap_or(u32::MAX);
    let chance = (f64::from(chance) + 0.5) / CHANCES;
    f64::from(path.offer.weight) / -chance.ln()
}

/// All places, beginning with the one whose turn it is, so that ties go round.
fn in_turn<'p, 'a, T>(
    places: &'p [Place<'a, T>],
    turn: u64,
) -> impl Iterator<Item = (usize, &'p Place<'a, T>)> {
    let count = places.len();
    let first = turn
        .checked_rem(count as u64)
        .and_then(|first| usize::try_from(first).ok());
    let all = places.iter().enumerate().cycle();
    all.skip(first.unwrap_or(0)).take(count)
}

/// Values of 32 random bits.
const CHANCES: f64 = 4_294_967_296.0;

/// Moments in a round of turns.
const ROUND: u64 = 1 << 32;

/// The place whose turn it is when each gets as many turns of a round as it has weight, spread evenly over the round: a
/// place of weight w is due at 1/2w, 3/2w, 5/2w, … of it, and who is due first goes first.
fn by_weight<T>(places: &[Place<'_, T>], turn: u64) -> Option<usize> {
    let due = |place: &Place<'_, T>, moment: u64| {
        place
            .weight
            .saturating_mul(2 * moment)
            .saturating_add(ROUND)
            / (2 * ROUND)
    };
    let all_due = |moment| places.iter().map(|place| due(place, moment)).sum::<u64>();
    let slot = turn.checked_rem(all_due(ROUND))?;
    // Always: not all that go up to this turn are due before `early`, and they are by `late`.
    let (mut early, mut late) = (0, ROUND);
    while late - early > 1 {
        let middle = u64::midpoint(early, late);
        if all_due(middle) > slot {
            late = middle;
        } else {
            early = middle;
        }
    }
    let mut before = slot - all_due(early);
    places.iter().position(|place| {
        let now = due(place, late) - due(place, early);
        let is_it = before < now;
        before = before.saturating_sub(now);
        is_it
    })
}

/// Spreads numbers that count up over all numbers (the finaliser of SplitMix64).
const fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
