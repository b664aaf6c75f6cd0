use std::sync::Arc;

use proptest::prelude::*;
use sallyport_wire::Scope;
use sallyport_wire::message::Offer;

use super::*;
use crate::registry::{Grant, Load, Offered, Who};
use sallyport_link::NodeKey;

#[derive(Debug, Clone, Copy)]
struct Fake {
    streams: usize,
    rtt: u64,
    transport: Transport,
}

impl Line for Fake {
    fn streams(&self) -> usize {
        self.streams
    }
    fn capacity(&self) -> usize {
        100
    }
    fn rtt(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.rtt))
    }
    fn transport(&self) -> Transport {
        self.transport
    }
}

#[derive(Debug, Clone)]
struct Spec {
    id: u64,
    node: &'static str,
    streams: usize,
    weight: u32,
    transport: Transport,
}

const PLAIN: Spec = Spec {
    id: 1,
    node: "n1",
    streams: 0,
    weight: 1,
    transport: Transport::Tls,
};

fn path(spec: &Spec) -> Path<Fake> {
    let who = Who {
        kid: "k1".to_owned(),
        node: spec.node.parse().expect("a name"),
        key: NodeKey::new([0; 32]),
        generation: 1,
        successor_of: 0,
        site: if spec.node == "near" {
            "here".to_owned()
        } else {
            String::new()
        },
        software: String::new(),
    };
    let scope = Scope {
        ports: vec!["2000-3000".parse().expect("a range")],
        ..Scope::default()
    };
    let grant = Grant {
        kid: String::new(),
        scope,
    };
    let member = Member::new(
        spec.id,
        who,
        grant,
        Fake {
            streams: spec.streams,
            rtt: 100 - spec.id,
            transport: spec.transport,
        },
    );
    member.probe_crossed();
    let offer = Offer {
        id: format!("s-{}", spec.node),
        weight: spec.weight,
        ..Offer::default()
    };
    let offer = Offered::check(&offer, &Scope::default()).expect("a fair offer");
    Path {
        member: Arc::new(member),
        offer: Arc::new(offer),
        load: Load::of(spec.streams),
    }
}

/// The second member of a pool, at home on a node that three others hop to; only they have a way there.
fn hopped(streams: usize) -> Route<Fake> {
    let load = Load::of(streams);
    let hops = [(11, "h1"), (12, "h2"), (13, "h3")].map(|(id, node)| {
        let path = path(&Spec { id, node, ..PLAIN });
        let offer = Offered {
            id: "s-away".parse().expect("a session id"),
            ..(*path.offer).clone()
        };
        Path {
            offer: Arc::new(offer),
            load: load.clone(),
            ..path
        }
    });
    Route {
        via: hops.into(),
        ..Route::default()
    }
}

fn home(specs: &[Spec]) -> Route<Fake> {
    Route {
        home: specs.iter().map(path).collect(),
        ..Route::default()
    }
}

fn wish(policy: Policy, turn: u64) -> Wish<'static> {
    Wish {
        policy,
        site: "here",
        port: None,
        datagrams: false,
        avoid: &[],
        sticky: None,
        affinity: None,
        turn,
    }
}

fn id(picked: Result<&Path<Fake>, Code>) -> Result<u64, Code> {
    picked.map(|path| path.member.id)
}

fn pooled(specs: &[Spec], wish: &Wish<'_>) -> Result<u64, Code> {
    let routes: Vec<_> = specs
        .iter()
        .map(|spec| home(std::slice::from_ref(spec)))
        .collect();
    id(pool(&routes, wish))
}

#[test]
fn a_session_goes_to_its_home_by_the_emptiest_tunnel() {
    let busy = Spec {
        streams: 9,
        ..PLAIN
    };
    let idle = Spec {
        id: 2,
        streams: 1,
        ..PLAIN
    };
    let hop = Spec {
        id: 3,
        node: "n2",
        ..PLAIN
    };
    let route = Route {
        via: vec![path(&hop)],
        ..home(&[busy, idle])
    };

    assert_eq!(id(session(&route, &wish(Policy::LeastStreams, 0))), Ok(2));
}

#[test]
fn among_tunnels_of_a_node_bulk_and_delay_count_before_the_transport_and_that_before_streams() {
    let tls = Spec {
        streams: 9,
        ..PLAIN
    };
    let quic = Spec {
        id: 2,
        transport: Transport::Quic,
        ..PLAIN
    };
    let route = home(&[tls, quic]);
    let wish = wish(Policy::LeastStreams, 0);
    let picked = || id(session(&route, &wish));
    let [tls, quic] = [0, 1].map(|place| &route.home[place].member);

    assert_eq!(picked(), Ok(1), "TLS costs less");
    tls.set_busy(true);
    assert_eq!(picked(), Ok(2), "nobody waits behind bulk");
    quic.set_busy(true);
    assert_eq!(picked(), Ok(1), "unless there is bulk everywhere");
    tls.set_lagging(true);
    assert_eq!(picked(), Ok(2), "bulk is better than stalls");
    quic.drain();
    assert_eq!(picked(), Ok(1), "and a slow tunnel better than none");
}

#[test]
fn datagrams_go_over_quic_while_it_is_there() {
    let quic = Spec {
        id: 2,
        streams: 9,
        transport: Transport::Quic,
        ..PLAIN
    };
    let route = home(&[PLAIN, quic]);
    let wish = Wish {
        datagrams: true,
        ..wish(Policy::LeastStreams, 0)
    };
    route.home[1].member.set_busy(true);

    assert_eq!(id(session(&route, &wish)), Ok(2));
    route.home[1].member.drain();
    assert_eq!(id(session(&route, &wish)), Ok(1));
}

#[test]
fn a_hop_serves_while_no_probe_crosses_to_the_home() {
    let hop = Spec {
        id: 3,
        node: "n2",
        ..PLAIN
    };
    let route = Route {
        via: vec![path(&hop)],
        ..home(&[PLAIN])
    };
    route.home[0].member.probe_missed(1);

    assert_eq!(id(session(&route, &wish(Policy::LeastStreams, 0))), Ok(3));
    assert_eq!(
        id(session(
            &Route {
                via: Vec::new(),
                ..route
            },
            &wish(Policy::LeastStreams, 0)
        )),
        Err(Code::HomeLost)
    );
}

#[test]
fn a_silent_tunnel_takes_nothing_until_a_probe_crosses() {
    let wish = wish(Policy::LeastStreams, 0);
    let route = home(&[PLAIN]);
    let member = &route.home[0].member;

    assert!(member.fall_silent());
    assert!(!member.fall_silent(), "it was so before");
    assert_eq!(id(session(&route, &wish)), Err(Code::HomeLost));
    assert!(!member.is_undecided(), "nobody waits for it");
    assert!(member.probe_crossed());
    assert_eq!(id(session(&route, &wish)), Ok(1));
}

#[test]
fn why_there_is_no_way_is_told_apart() {
    let wish = wish(Policy::LeastStreams, 0);
    let mut down = home(&[PLAIN]);
    let offer = Offered {
        down: true,
        ..(*down.home[0].offer).clone()
    };
    down.home[0].offer = Arc::new(offer);
    let draining = home(&[PLAIN]);
    draining.home[0].member.drain();
    let full = home(&[Spec {
        streams: 100,
        ..PLAIN
    }]);

    assert_eq!(id(session(&down, &wish)), Err(Code::SessionDown));
    assert_eq!(id(session(&draining, &wish)), Err(Code::Draining));
    assert_eq!(id(session(&full, &wish)), Err(Code::Limit));
    assert_eq!(id(session(&home(&[]), &wish)), Err(Code::NoRelay));
}

#[test]
fn a_replaced_process_serves_only_while_it_is_alone() {
    let route = home(&[
        PLAIN,
        Spec {
            id: 2,
            streams: 5,
            ..PLAIN
        },
    ]);
    route.home[0].member.replace();
    assert_eq!(id(session(&route, &wish(Policy::LeastStreams, 0))), Ok(2));

    let alone = home(&[PLAIN]);
    alone.home[0].member.replace();
    assert_eq!(id(session(&alone, &wish(Policy::LeastStreams, 0))), Ok(1));
}

#[test]
fn the_nearest_site_comes_first_whatever_the_load() {
    let far = PLAIN;
    let near = Spec {
        id: 2,
        node: "near",
        streams: 50,
        ..PLAIN
    };

    assert_eq!(pooled(&[far, near], &wish(Policy::LeastStreams, 0)), Ok(2));
}

#[test]
fn tunnels_to_avoid_are_avoided() {
    let other = Spec {
        id: 2,
        node: "n2",
        streams: 7,
        ..PLAIN
    };
    let wish = Wish {
        avoid: &[1],
        ..wish(Policy::LeastStreams, 0)
    };

    assert_eq!(pooled(&[PLAIN, other], &wish), Ok(2));
    assert_eq!(pooled(&[PLAIN], &wish), Err(Code::NoRelay));
}

#[test]
fn a_raw_port_must_be_in_the_keys_scope() {
    let through = |port| Wish {
        port: Some(port),
        ..wish(Policy::LeastStreams, 0)
    };

    assert_eq!(id(session(&home(&[PLAIN]), &through(2_222))), Ok(1));
    assert_eq!(
        id(session(&home(&[PLAIN]), &through(22))),
        Err(Code::OutOfScope)
    );
}

#[test]
fn least_streams_counts_by_weight_and_breaks_ties_in_turn() {
    let heavy = Spec {
        streams: 10,
        weight: 10,
        ..PLAIN
    };
    let light = Spec {
        id: 2,
        node: "n2",
        streams: 2,
        ..PLAIN
    };
    let policy = Policy::LeastStreams;
    assert_eq!(pooled(&[heavy, light], &wish(policy, 0)), Ok(1));

    let equals = [
        PLAIN,
        Spec {
            id: 2,
            node: "n2",
            ..PLAIN
        },
    ];
    assert_eq!(pooled(&equals, &wish(policy, 0)), Ok(1));
    assert_eq!(pooled(&equals, &wish(policy, 1)), Ok(2));
}

#[test]
fn round_robin_gives_each_its_weight_in_turn() {
    let picked = |weights: &[u32], turns: u64| -> Vec<u64> {
        let nodes = ["n1", "n2", "n3", "n4"];
        let specs: Vec<_> = (1..)
            .zip(weights.iter().zip(nodes))
            .map(|(id, (&weight, node))| Spec {
                id,
                node,
                weight,
                ..PLAIN
            })
            .collect();
        let turns =
            (0..turns).map(|turn| pooled(&specs, &wish(Policy::RoundRobin, turn)).expect("one"));
        turns.collect()
    };

    assert_eq!(picked(&[100, 100], 6), [1, 2, 1, 2, 1, 2]);
    assert_eq!(picked(&[7, 7, 7], 6), [1, 2, 3, 1, 2, 3]);
    assert_eq!(picked(&[3, 1], 8), [1, 1, 2, 1, 1, 1, 2, 1]);
    assert_eq!(picked(&[1_000], 3), [1, 1, 1]);
    for weights in [[100, 50, 25, 1], [1_000, 999, 3, 500], [5, 1, 1, 1]] {
        let total = weights.iter().map(|weight| u64::from(*weight)).sum::<u64>();
        let picked = picked(&weights, 2 * total);
        let mut counts = [0_u64; 4];
        for (turns, id) in (1..).zip(picked) {
            counts[usize::try_from(id).expect("small") - 1] += 1;
            for (count, weight) in counts.iter().zip(weights) {
                let (got, share) = (count * total, turns * u64::from(weight));
                assert!(
                    got.abs_diff(share) <= 2 * total,
                    "{weights:?}: {counts:?} after {turns} turns"
                );
            }
        }
        assert_eq!(counts, weights.map(|weight| 2 * u64::from(weight)));
    }
}

#[test]
fn a_random_choice_gives_each_its_weight_in_the_long_run() {
    let specs = [
        Spec { weight: 3, ..PLAIN },
        Spec {
            id: 2,
            node: "n2",
            ..PLAIN
        },
    ];
    let turns = (0..4_000).map(|turn| pooled(&specs, &wish(Policy::Random, turn)));
    let first = turns.filter(|picked| *picked == Ok(1)).count();

    assert!((2_800..3_200).contains(&first), "{first} of 4000");
}

#[test]
fn a_member_has_one_share_however_many_hops_lead_to_it() {
    for policy in [Policy::LeastStreams, Policy::RoundRobin] {
        let routes = [hopped(0), home(&[PLAIN])];
        let picked: Vec<_> = (0..60)
            .map(|turn| id(pool(&routes, &wish(policy, turn))).expect("one"))
            .collect();

        let at_home = picked.iter().filter(|id| **id == 1).count();
        assert_eq!(at_home, 30, "{policy:?}");
        for hop in [11, 12, 13] {
            assert!(picked.contains(&hop), "{policy:?}: hop {hop} is used, too");
        }
    }
}

#[test]
fn least_streams_counts_what_a_member_carries_over_all_hops() {
    let policy = Policy::LeastStreams;
    let busy = Spec {
        streams: 5,
        ..PLAIN
    };
    for turn in 0..6 {
        let wish = wish(policy, turn);
        assert_eq!(
            id(pool(&[hopped(6), home(std::slice::from_ref(&busy))], &wish)),
            Ok(1),
            "though each hop's tunnels carry fewer"
        );
        let hop = id(pool(&[hopped(4), home(std::slice::from_ref(&busy))], &wish)).expect("a hop");
        assert!(hop > 10);
    }
}

#[test]
fn a_member_is_reached_at_home_else_over_a_hop_unless_its_home_takes_nothing() {
    let mut route = hopped(0);
    route.home = home(&[PLAIN]).home;
    let wish = wish(Policy::LeastStreams, 0);
    let picked = |route: &Route<Fake>| id(pool([route], &wish));

    assert_eq!(picked(&route), Ok(1));
    route.home[0].member.fall_silent();
    assert!(picked(&route).expect("a hop") > 10);
    route.home = home(&[Spec { weight: 0, ..PLAIN }]).home;
    assert_eq!(picked(&route), Err(Code::NoRelay));
}

#[test]
fn the_fastest_has_the_shortest_round_trip() {
    let slow = PLAIN;
    let fast = Spec {
        id: 2,
        node: "n2",
        streams: 50,
        ..PLAIN
    };

    assert_eq!(pooled(&[slow, fast], &wish(Policy::Fastest, 0)), Ok(2));
}

#[test]
fn a_client_keeps_its_member_while_that_can_serve() {
    let busy = Spec {
        streams: 50,
        ..PLAIN
    };
    let other = Spec {
        id: 2,
        node: "n2",
        ..PLAIN
    };
    let before: SessionId = "s-n1".parse().expect("a session id");
    let wish = Wish {
        sticky: Some(&before),
        ..wish(Policy::LeastStreams, 0)
    };
    assert_eq!(pooled(&[busy.clone(), other.clone()], &wish), Ok(1));

    let drained = Spec { weight: 0, ..busy };
    assert_eq!(pooled(&[drained, other], &wish), Ok(2));
}

const MEMBERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn members(weights: &[u32]) -> Vec<Spec> {
    let spec = |(id, (weight, node)): (u64, (&u32, &'static str))| Spec {
        id,
        node,
        weight: *weight,
        ..PLAIN
    };
    (1..).zip(weights.iter().zip(MEMBERS)).map(spec).collect()
}

fn by_cookie(specs: &[Spec], cookie: u128) -> u64 {
    let wish = Wish {
        affinity: Some(Affinity::new(cookie)),
        ..wish(Policy::LeastStreams, 0)
    };
    pooled(specs, &wish).expect("one takes it")
}

#[test]
fn cookies_go_to_members_by_weight() {
    let specs = members(&[100, 300, 0, 100]);
    let mut counts = [0; 4];
    for cookie in 0..5_000 {
        // Also values that follow each other.
        let member = by_cookie(&specs, cookie);
        counts[usize::try_from(member - 1).expect("small")] += 1;
    }
    for (count, expected) in counts.into_iter().zip([1_000, 3_000, 0, 1_000]) {
        assert!(
            (expected * 9 / 10..=expected * 11 / 10).contains(&count),
            "{counts:?}"
        );
    }
}

proptest! {
    #[test]
    fn a_cookie_moves_only_from_a_member_that_goes_or_to_one_that_comes(
        weights in proptest::collection::vec(1_u32..1_000, 2..6),
        cookie in any::<u128>(),
        gone in any::<prop::sample::Index>(),
    ) {
        let all = members(&weights);
        let mut left = all.clone();
        let gone = left.remove(gone.index(all.len())).id;

        let (of_all, of_left) = (by_cookie(&all, cookie), by_cookie(&left, cookie));

        prop_assert!(of_all == of_left || of_all == gone);
        let mut reversed = all;
        reversed.reverse();
        prop_assert_eq!(by_cookie(&reversed, cookie), of_all, "whatever the order");
    }

    #[test]
    fn only_members_that_can_serve_are_ever_chosen(
        weights in proptest::collection::vec((0_u32..4, 0_usize..120), 0..6),
        turn in any::<u64>(),
        policy in prop::sample::select(vec![
            Policy::LeastStreams, Policy::RoundRobin, Policy::Fastest, Policy::Random,
        ]),
    ) {
        let nodes = ["a", "b", "c", "d", "e", "f"];
        let specs: Vec<Spec> = weights.iter().zip(nodes).enumerate()
            .map(|(at, ((weight, streams), node))| Spec {
                id: at as u64 + 1, node, streams: *streams, weight: *weight, ..PLAIN
            })
            .collect();
        let able = |spec: &Spec| spec.weight > 0 && spec.streams < 100;

        match pooled(&specs, &wish(policy, turn)) {
            Ok(id) => prop_assert!(specs.iter().any(|spec| spec.id == id && able(spec))),
            Err(_) => prop_assert!(!specs.iter().any(able)),
        }
    }
}
