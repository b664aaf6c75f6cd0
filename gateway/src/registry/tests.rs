use sallyport_wire::message::Offer;

use super::*;
use sallyport_link::NodeKey;
use sallyport_wire::{PoolName, Scope};

mod apart;
mod steps;

/// The default cluster.
const HERE: &ClusterName = &ClusterName::DEFAULT;

const BOUNDS: Bounds = Bounds {
    tunnels: 64,
    tunnels_per_key: 64,
    tunnels_per_node: 4,
    offers_per_tunnel: 3,
    lost: 1_000,
    lost_for: Duration::from_secs(86_400),
    home_grace: Duration::from_secs(60),
};

fn registry() -> Registry<()> {
    Registry::new(BOUNDS)
}

/// A node of the default cluster, or of another: `bio/n1`.
fn at(node: &str) -> ClusterNode {
    node.parse().expect("a node")
}

fn bio() -> ClusterName {
    "bio".parse().expect("a cluster name")
}

fn who(node: &str, generation: u64) -> Who {
    Who {
        node: at(node),
        key: NodeKey::new([7; 32]),
        kid: "k1".to_owned(),
        generation,
        successor_of: 0,
        site: String::new(),
        software: String::new(),
    }
}

fn tunnel(id: u64, who: Who) -> Arc<Member<()>> {
    let scope = Scope {
        via: true,
        ..Scope::default()
    };
    scoped(id, who, scope)
}

fn scoped(id: u64, who: Who, scope: Scope) -> Arc<Member<()>> {
    Arc::new(Member::new(
        id,
        who,
        Grant {
            kid: "k1".to_owned(),
            scope,
        },
        (),
    ))
}

fn offer(id: &str) -> Offer {
    Offer {
        id: id.to_owned(),
        weight: 1,
        ..Offer::default()
    }
}

fn homes(ids: &[&str]) -> Advertise {
    Advertise {
        home: ids.iter().map(|id| offer(id)).collect(),
        ..Advertise::default()
    }
}

/// Ways to sessions that are at home on `home`.
fn vias(home: &str, ids: &[&str]) -> Advertise {
    let hop = |id: &&str| Offer {
        node: home.to_owned(),
        ..offer(id)
    };
    Advertise {
        via: ids.iter().map(hop).collect(),
        ..Advertise::default()
    }
}

fn session(id: &str) -> SessionId {
    id.parse().expect("a session id")
}

fn ids(members: &[Arc<Member<()>>]) -> Vec<u64> {
    members.iter().map(|member| member.id).collect()
}

fn joined(registry: &mut Registry<()>, id: u64, who: Who) -> Vec<u64> {
    ids(&registry
        .join(&tunnel(id, who), Instant::now())
        .expect("it may join"))
}

fn code_of(refused: Option<Vec<NotTaken>>) -> Option<Code> {
    assert!(refused.is_some(), "the tunnel is known");
    refused?.first().map(|refused| refused.code)
}

#[test]
fn a_newer_process_takes_the_place_of_the_older_one_at_once() {
    let mut registry = registry();
    joined(&mut registry, 1, who("n1", 10));
    joined(&mut registry, 2, who("n1", 10));
    registry.advertise(1, &homes(&["desk"]), Instant::now());

    assert_eq!(joined(&mut registry, 3, who("n1", 11)), [1, 2]);
    registry.advertise(3, &homes(&["desk"]), Instant::now());
    assert!(
        !registry.leave(1, Instant::now()),
        "the late clean-up finds nothing"
    );
    let route = registry.route(HERE, &session("desk")).expect("reachable");
    assert_eq!(
        route
            .home
            .iter()
            .map(|path| path.member.id)
            .collect::<Vec<_>>(),
        [3]
    );
}

#[test]
fn an_older_process_is_refused_while_a_newer_one_lives() {
    let mut registry = registry();
    joined(&mut registry, 1, who("n1", 11));

    let late = registry.join(&tunnel(2, who("n1", 10)), Instant::now());
    assert_eq!(late.expect_err("older"), NotJoined::Superseded);
    registry.leave(1, Instant::now());
    joined(&mut registry, 3, who("n1", 10));
}

#[test]
fn a_successor_leaves_the_streams_of_its_predecessor_alone() {
    let mut registry = registry();
    let old = tunnel(1, who("n1", 10));
    registry.join(&old, Instant::now()).expect("first");

    let successor = Who {
        successor_of: 10,
        ..who("n1", 11)
    };
    assert!(joined(&mut registry, 2, successor).is_empty());
    assert!(old.is_replaced());
    assert_eq!(ids(registry.members(&at("n1"))), [1, 2]);
}

#[test]
fn tunnels_of_one_process_coexist_up_to_the_limit() {
    let mut registry = registry();
    for id in 1..=4 {
        joined(&mut registry, id, who("n1", 10));
    }

    let fifth = registry.join(&tunnel(5, who("n1", 10)), Instant::now());
    assert_eq!(fifth.expect_err("full"), NotJoined::Full);
    joined(&mut registry, 6, who("n1", 11));
}

#[test]
fn all_tunnels_together_are_limited() {
    let mut registry = Registry::new(Bounds {
        tunnels: 1,
        ..BOUNDS
    });
    joined(&mut registry, 1, who("n1", 10));

    let second = registry.join(&tunnel(2, who("n2", 10)), Instant::now());
    assert_eq!(second.expect_err("full"), NotJoined::Full);
}

#[test]
fn tunnels_of_one_key_are_limited_and_another_key_finds_room() {
    let mut registry = Registry::new(Bounds {
        tunnels_per_key: 2,
        ..BOUNDS
    });
    let other = Who {
        kid: "k2".to_owned(),
        ..who("n4", 10)
    };
    joined(&mut registry, 1, who("n1", 10));
    joined(&mut registry, 2, who("n2", 10));

    let third = registry.join(&tunnel(3, who("n3", 10)), Instant::now());
    assert_eq!(third.expect_err("its share"), NotJoined::Share);
    let newcomer = registry.may_take_over(&who("n3", 10));
    assert_eq!(newcomer.expect_err("its share"), NotJoined::Share);
    let restarted = registry.may_take_over(&who("n2", 11));
    restarted.expect("in place of its own");
    joined(&mut registry, 4, other);
    registry.leave(1, Instant::now());
    joined(&mut registry, 5, who("n3", 10));
}

#[test]
fn another_node_key_cannot_join_a_live_node() {
    let mut registry = registry();
    joined(&mut registry, 1, who("n1", 10));

    let thief = Who {
        key: NodeKey::new([8; 32]),
        ..who("n1", 99)
    };
    let refused = registry.join(&tunnel(2, thief), Instant::now());
    assert_eq!(refused.expect_err("another key"), NotJoined::NameTaken);
}

#[test]
fn a_home_is_not_stolen_but_moves_once_it_is_free() {
    let mut registry = registry();
    let now = Instant::now();
    joined(&mut registry, 1, who("n1", 10));
    joined(&mut registry, 2, who("n2", 10));
    registry.advertise(1, &homes(&["desk"]), now);

    assert_eq!(
        code_of(registry.advertise(2, &homes(&["desk"]), now)),
        Some(Code::HomeTaken)
    );
    assert_eq!(
        code_of(registry.advertise(2, &vias("n1", &["desk"]), now)),
        None
    );
    registry.leave(1, now);
    assert!(registry.lost_home(HERE, &session("desk"), now).is_some());
    let claim = |registry: &mut Registry<()>, seconds| {
        let at = now + Duration::from_secs(seconds);
        code_of(registry.advertise(2, &homes(&["desk"]), at))
    };
    assert_eq!(claim(&mut registry, 59), Some(Code::HomeTaken));
    assert_eq!(claim(&mut registry, 60), None);
    assert!(registry.lost_home(HERE, &session("desk"), now).is_none());
}

#[test]
fn a_relay_that_closes_tunnels_full_of_homes_takes_no_other_home() {
    let mut registry = Registry::new(Bounds { lost: 8, ..BOUNDS });
    let now = Instant::now();
    joined(&mut registry, 1, who("n1", 10));
    registry.advertise(1, &homes(&["desk"]), now);
    registry.leave(1, now);
    for id in 2..20 {
        joined(&mut registry, id, who("n2", 10));
        registry.advertise(id, &homes(&["a", "b", "c"]), now);
        registry.leave(id, now);
    }

    joined(&mut registry, 20, who("n2", 10));
    let claim = registry.advertise(20, &homes(&["desk"]), now);
    assert_eq!(code_of(claim), Some(Code::HomeTaken));
}

#[test]
fn a_node_that_restarts_finds_its_home_and_a_forgotten_one_holds_none() {
    let mut registry = registry();
    let now = Instant::now();
    joined(&mut registry, 1, who("n1", 10));
    joined(&mut registry, 2, who("n2", 10));
    registry.advertise(1, &homes(&["desk", "shell"]), now);
    registry.leave(1, now);
    let claim = |registry: &mut Registry<()>, tunnel, id: &str| {
        code_of(registry.advertise(tunnel, &homes(&[id]), now))
    };

    assert_eq!(claim(&mut registry, 2, "desk"), Some(Code::HomeTaken));
    joined(&mut registry, 3, who("n1", 11));
    assert_eq!(claim(&mut registry, 3, "desk"), None);
    registry.release_homes(&at("n1"));
    assert_eq!(claim(&mut registry, 2, "shell"), None);
}

#[test]
fn only_a_key_that_says_so_offers_ways_to_the_sessions_of_others() {
    let mut registry = registry();
    let now = Instant::now();
    let plain = scoped(1, who("n1", 10), Scope::default());
    registry.join(&plain, now).expect("it may join");

    assert_eq!(
        code_of(registry.advertise(1, &vias("n9", &["desk"]), now)),
        Some(Code::OutOfScope)
    );
    assert!(registry.route(HERE, &session("desk")).is_none());
    assert_eq!(code_of(registry.advertise(1, &homes(&["desk"]), now)), None);
}

#[test]
fn a_node_is_dead_once_every_tunnel_missed_enough_probes() {
    let mut registry = registry();
    let both = [tunnel(1, who("n1", 10)), tunnel(2, who("n1", 10))];
    let is_dead = |registry: &Registry<()>| registry.is_dead(&both[0].who.node, 2);
    for member in &both {
        registry.join(member, Instant::now()).expect("it may join");
        member.probe_missed(2);
    }

    assert!(!is_dead(&registry), "one probe each");
    both[0].probe_missed(2);
    assert!(!is_dead(&registry), "one tunnel alone");
    both[1].probe_missed(2);
    assert!(is_dead(&registry));
}

#[test]
fn a_session_that_its_relay_gives_up_is_unknown_not_lost() {
    let mut registry = registry();
    let now = Instant::now();
    joined(&mut registry, 1, who("n1", 10));
    registry.advertise(1, &homes(&["desk", "shell"]), now);
    registry.advertise(1, &homes(&["shell"]), now);

    assert!(registry.route(HERE, &session("desk")).is_none());
    assert!(registry.lost_home(HERE, &session("desk"), now).is_none());
    assert!(registry.route(HERE, &session("shell")).is_some());
}

#[test]
fn a_key_serves_what_its_scope_says() {
    let mut registry = registry();
    let now = Instant::now();
    let scope = Scope {
        sessions: sallyport_wire::Glob::new("web*"),
        ..Scope::default()
    };
    registry
        .join(&scoped(1, who("n1", 10), scope), now)
        .expect("it may join");
    let in_pool = Offer {
        pool: "ssh".to_owned(),
        ..offer("web-1")
    };

    let advertise = Advertise {
        home: vec![offer("web-2"), in_pool, offer("desk")],
        ..homes(&[])
    };
    let refused = registry.advertise(1, &advertise, now).expect("known");
    let named: Vec<_> = refused
        .iter()
        .map(|refused| (refused.id.as_str(), refused.code))
        .collect();
    assert_eq!(
        named,
        [("web-1", Code::OutOfScope), ("desk", Code::OutOfScope)]
    );
    assert!(registry.route(HERE, &session("web-2")).is_some());
}

#[test]
fn malformed_and_surplus_offers_are_refused_one_by_one() {
    let mut registry = registry();
    joined(&mut registry, 1, who("n1", 10));

    let asked = homes(&["Not A Name", "a", "b", "c", "d"]);
    let refused = registry
        .advertise(1, &asked, Instant::now())
        .expect("known");
    let codes: Vec<_> = refused.iter().map(|refused| refused.code).collect();
    assert_eq!(codes, [Code::Protocol, Code::Limit]);
}

#[test]
fn a_pool_has_the_sessions_that_say_so() {
    let mut registry = registry();
    let now = Instant::now();
    let pooled = |id: &str| Offer {
        pool: "web".to_owned(),
        ..offer(id)
    };
    for (id, node) in [(1, "n1"), (2, "n2")] {
        joined(&mut registry, id, who(node, 10));
        let advertise = Advertise {
            home: vec![pooled(&format!("web-{id}"))],
            ..homes(&[])
        };
        registry.advertise(id, &advertise, now);
    }
    let web: PoolName = "web".parse().expect("a pool name");
    let members = |registry: &Registry<()>, cluster: &ClusterName| {
        let routes = registry.cluster(cluster)?.pool(&web)?;
        Some(routes.len())
    };

    assert_eq!(members(&registry, HERE), Some(2));
    assert!(members(&registry, &bio()).is_none());
    registry.leave(1, now);
    assert_eq!(members(&registry, HERE), Some(1));
    registry.advertise(2, &homes(&["web-2"]), now);
    assert!(members(&registry, HERE).is_none());
}

#[test]
fn a_hop_that_is_lost_leaves_its_session_missed_and_holds_nobody_up() {
    let mut registry = registry();
    let now = Instant::now();
    joined(&mut registry, 1, who("n1", 10));
    joined(&mut registry, 3, who("n3", 10));
    registry.advertise(1, &vias("n2", &["desk"]), now);
    registry.advertise(3, &vias("n2", &["desk"]), now);

    registry.leave(1, now);
    assert!(
        registry.route(HERE, &session("desk")).is_some(),
        "the other hop"
    );
    registry.leave(3, now);
    let home = registry.lost_home(HERE, &session("desk"), now);
    assert_eq!(home.map(NodeName::as_str), Some("n2"));
    joined(&mut registry, 4, who("n4", 10));
    assert_eq!(code_of(registry.advertise(4, &homes(&["desk"]), now)), None);
}

#[test]
fn a_hop_never_leads_to_another_nodes_session_of_the_same_name() {
    let mut registry = registry();
    let now = Instant::now();
    for (id, node) in [(1, "n1"), (2, "n2"), (3, "n3")] {
        joined(&mut registry, id, who(node, 10));
    }
    let hop = |registry: &mut Registry<()>, home| {
        code_of(registry.advertise(1, &vias(home, &["desk"]), now))
    };
    assert_eq!(hop(&mut registry, "n2"), None);
    let other = registry.advertise(3, &vias("n5", &["desk"]), now);
    assert_eq!(code_of(other), Some(Code::HomeTaken));

    registry.advertise(3, &homes(&["desk"]), now);
    let route = registry.route(HERE, &session("desk")).expect("at home");
    assert!(route.via.is_empty(), "what the hop told is void");
    assert_eq!(hop(&mut registry, "n2"), Some(Code::HomeTaken));
    assert_eq!(hop(&mut registry, "n3"), None);
    registry.leave(3, now);
    assert_eq!(hop(&mut registry, "n2"), Some(Code::HomeTaken), "held");
    let route = registry.route(HERE, &session("desk"));
    assert!(route.is_none_or(|route| route.via.is_empty()));
}

#[test]
fn all_ways_to_a_session_count_its_streams_together_through_every_change() {
    let mut registry = registry();
    let now = Instant::now();
    for (id, node) in [(1, "n1"), (2, "n2"), (3, "n3")] {
        joined(&mut registry, id, who(node, 10));
    }
    let streams = |registry: &Registry<()>, id: &str| -> Vec<usize> {
        let route = registry.route(HERE, &session(id)).expect("there");
        route.paths().map(|path| path.load.streams()).collect()
    };
    registry.advertise(1, &vias("n3", &["desk", "other"]), now);
    registry.advertise(2, &vias("n3", &["desk"]), now);
    let first = registry.route(HERE, &session("desk")).expect("there");
    let counted = first.via[0].load.add();
    assert_eq!(streams(&registry, "desk"), [1, 1]);
    assert_eq!(streams(&registry, "other"), [0]);

    registry.advertise(3, &homes(&["desk"]), now);
    registry.leave(1, now);
    assert_eq!(streams(&registry, "desk"), [1, 1]);
    drop(counted);
    assert_eq!(streams(&registry, "desk"), [0, 0]);
}

#[test]
fn a_hop_names_another_home_than_itself_and_a_home_names_none() {
    let mut registry = registry();
    let now = Instant::now();
    joined(&mut registry, 1, who("n1", 10));
    let turned = Advertise {
        home: vias("n2", &["desk"]).via,
        ..Advertise::default()
    };
    let nameless = Advertise {
        via: homes(&["desk"]).home,
        ..Advertise::default()
    };
    for said in [vias("n1", &["desk"]), turned, nameless] {
        assert_eq!(
            code_of(registry.advertise(1, &said, now)),
            Some(Code::Protocol)
        );
    }
}
