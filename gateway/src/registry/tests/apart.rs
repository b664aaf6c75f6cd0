//! Names of one cluster mean nothing in another.

use proptest::prelude::*;

use super::*;

/// The same on both sides: node `n1` of the default cluster by tunnel 1, of `bio` by tunnel 2.
fn both() -> Registry<()> {
    let mut registry = registry();
    joined(&mut registry, 1, who("n1", 10));
    let namesake = Who {
        key: NodeKey::new([8; 32]),
        ..who("bio/n1", 3)
    };
    joined(&mut registry, 2, namesake);
    registry
}

fn tunnels(registry: &Registry<()>, cluster: &ClusterName, id: &str) -> Vec<u64> {
    let route = registry.route(cluster, &session(id));
    let paths = route.iter().flat_map(|route| route.paths());
    paths.map(|path| path.member.id).collect()
}

#[test]
fn nodes_of_one_name_and_sessions_of_one_id_stand_side_by_side() {
    let mut registry = both();
    let now = Instant::now();
    for tunnel in [1, 2] {
        let taken = registry.advertise(tunnel, &homes(&["notebook"]), now);
        assert_eq!(code_of(taken), None, "{tunnel}");
    }

    assert_eq!(tunnels(&registry, HERE, "notebook"), [1]);
    assert_eq!(tunnels(&registry, &bio(), "notebook"), [2]);
    assert_eq!(ids(registry.members(&at("n1"))), [1]);
    assert_eq!(ids(registry.members(&at("bio/n1"))), [2]);
    let counts = registry.counts();
    assert_eq!((counts.nodes, counts.tunnels, counts.sessions), (2, 2, 2));
}

#[test]
fn a_newer_process_puts_out_nobody_of_another_cluster() {
    let mut registry = both();
    let now = Instant::now();
    registry.advertise(1, &homes(&["notebook"]), now);

    assert_eq!(joined(&mut registry, 3, who("geo/n1", 99)), [0; 0]);
    let newer = Who {
        key: NodeKey::new([8; 32]),
        ..who("bio/n1", 99)
    };
    assert_eq!(joined(&mut registry, 4, newer), [2]);
    assert_eq!(tunnels(&registry, HERE, "notebook"), [1]);
    joined(&mut registry, 5, who("n1", 10));
}

#[test]
fn a_node_that_is_dead_here_may_be_alive_there() {
    let mut registry = registry();
    let member = tunnel(1, who("n1", 10));
    registry.join(&member, Instant::now()).expect("it may join");

    assert!(registry.is_dead(&at("bio/n1"), 1));
    assert!(!registry.is_dead(&at("n1"), 1));
}

#[test]
fn a_lost_home_is_missed_in_its_own_cluster_and_can_be_had_in_another() {
    let mut registry = both();
    let now = Instant::now();
    registry.advertise(1, &homes(&["notebook"]), now);
    registry.leave(1, now);

    let lost = |registry: &Registry<()>, cluster: &ClusterName| {
        registry
            .lost_home(cluster, &session("notebook"), now)
            .is_some()
    };
    assert!(lost(&registry, HERE) && !lost(&registry, &bio()));
    let taken = registry.advertise(2, &homes(&["notebook"]), now);
    assert_eq!(code_of(taken), None);
    assert!(lost(&registry, HERE), "it is still missed");
    registry.release_homes(&at("bio/n1"));
    assert!(lost(&registry, HERE), "that was another node");
    registry.release_homes(&at("n1"));
    assert!(!lost(&registry, HERE));
    assert_eq!(tunnels(&registry, &bio(), "notebook"), [2]);
}

#[test]
fn a_cluster_that_loses_many_homes_has_none_of_another_forgotten() {
    let mut registry = Registry::new(Bounds { lost: 3, ..BOUNDS });
    let now = Instant::now();
    joined(&mut registry, 1, who("n1", 10));
    registry.advertise(1, &homes(&["notebook"]), now);
    registry.leave(1, now);
    for id in 2..20 {
        joined(&mut registry, id, who(&format!("bio/n{id}"), 10));
        let [a, b] = [0, 1].map(|number| format!("s{id}-{number}"));
        registry.advertise(id, &homes(&[&a, &b]), now);
        registry.leave(id, now);
    }

    assert!(
        registry
            .lost_home(HERE, &session("notebook"), now)
            .is_some()
    );
}

#[test]
fn a_hop_leads_to_its_own_cluster_only() {
    let mut registry = both();
    let now = Instant::now();
    registry.advertise(1, &homes(&["notebook"]), now);

    let told = registry.advertise(2, &vias("n7", &["notebook"]), now);
    assert_eq!(code_of(told), None, "a session of its own cluster");
    assert_eq!(tunnels(&registry, HERE, "notebook"), [1]);
    assert_eq!(tunnels(&registry, &bio(), "notebook"), [2]);
    registry.leave(1, now);
    assert_eq!(tunnels(&registry, HERE, "notebook"), [0; 0]);
}

#[test]
fn pools_of_one_name_have_members_and_turns_of_their_own() {
    let mut registry = both();
    let now = Instant::now();
    let web: PoolName = "web".parse().expect("a pool name");
    let pooled = |id: &str| Offer {
        pool: "web".to_owned(),
        ..offer(id)
    };
    for tunnel in [1, 2] {
        let said = Advertise {
            home: vec![pooled("web-1")],
            ..Advertise::default()
        };
        registry.advertise(tunnel, &said, now);
    }
    let members = |registry: &Registry<()>, cluster: &ClusterName| {
        let known = registry.cluster(cluster)?;
        known.pool(&web)?; // who only looks takes no turn
        let (routes, turn) = known.pool_in_turn(&web)?;
        let paths = routes.iter().flat_map(|route| route.paths());
        Some((paths.map(|path| path.member.id).collect::<Vec<_>>(), turn))
    };

    assert_eq!(members(&registry, HERE), Some((vec![1], 0)));
    assert_eq!(members(&registry, HERE), Some((vec![1], 1)));
    assert_eq!(members(&registry, &bio()), Some((vec![2], 0)));
    registry.leave(1, now);
    assert_eq!(members(&registry, HERE), None);
    assert_eq!(members(&registry, &bio()), Some((vec![2], 1)));
}

/// A change by a node of one cluster: its tunnel comes, goes, or offers these sessions.
#[derive(Debug, Clone)]
enum Step {
    Join(u8, u64),
    Leave(usize),
    Offer(usize, Vec<u8>, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let sessions = proptest::collection::vec(0_u8..4, 0..4);
    prop_oneof![
        (0_u8..3, 1_u64..5).prop_map(|(node, generation)| Step::Join(node, generation)),
        (0_usize..8).prop_map(Step::Leave),
        (0_usize..8, sessions, any::<bool>())
            .prop_map(|(nth, ids, via)| Step::Offer(nth, ids, via)),
    ]
}

/// One side of a registry: the tunnels that joined there, in order.
struct Side {
    prefix: &'static str,
    tunnels: Vec<u64>,
}

impl Side {
    fn apply(&mut self, registry: &mut Registry<()>, step: &Step, next: u64, now: Instant) {
        match step {
            Step::Join(node, generation) => {
                let who = who(&format!("{}n{node}", self.prefix), *generation);
                if registry.join(&tunnel(next, who), now).is_ok() {
                    self.tunnels.push(next);
                }
            }
            Step::Leave(nth) => {
                if let Some(id) = self.tunnels.get(*nth) {
                    registry.leave(*id, now);
                }
            }
            Step::Offer(nth, ids, via) => {
                let names: Vec<_> = ids.iter().map(|id| format!("s{id}")).collect();
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                let said = if *via {
                    vias("n9", &names)
                } else {
                    homes(&names)
                };
                if let Some(id) = self.tunnels.get(*nth) {
                    registry.advertise(*id, &said, now);
                }
            }
        }
    }
}

/// All that can be seen of a cluster: nodes and sessions with their tunnels, and lost homes.
fn seen(registry: &Registry<()>, cluster: &ClusterName, now: Instant) -> Vec<String> {
    let session = |number: u8| {
        let name = format!("s{number}");
        let lost = registry.lost_home(cluster, &session(&name), now);
        format!("{name} {:?} {lost:?}", tunnels(registry, cluster, &name))
    };
    let node = |number: u8| {
        let name = format!("n{number}").parse().expect("a name");
        let node = ClusterNode {
            cluster: cluster.clone(),
            name,
        };
        format!("{:?}", ids(registry.members(&node)))
    };
    (0..4).map(session).chain((0..3).map(node)).collect()
}

proptest! {
    #[test]
    fn whatever_happens_in_one_cluster_the_other_is_as_if_it_were_alone(
        steps in proptest::collection::vec((any::<bool>(), step()), 0..80),
    ) {
        let now = Instant::now();
        let (mut together, mut alone) = (registry(), registry());
        let mut other = Side { prefix: "bio/", tunnels: Vec::new() };
        let [mut watched, mut lone] = [(), ()].map(|()| Side { prefix: "", tunnels: Vec::new() });
        for (next, (here, step)) in (1..).zip(&steps) {
            if *here {
                watched.apply(&mut together, step, next, now);
                lone.apply(&mut alone, step, next, now);
            } else {
                other.apply(&mut together, step, next, now);
            }
            prop_assert_eq!(seen(&together, HERE, now), seen(&alone, HERE, now));
        }
    }
}
