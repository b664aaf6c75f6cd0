//! Whatever comes and goes, the registry's rules hold.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Join {
        node: u8,
        generation: u64,
        successor_of: u64,
    },
    Leave {
        nth: usize,
    },
    Advertise {
        nth: usize,
        home: Vec<u8>,
        /// Sessions and their homes.
        via: Vec<(u8, u8)>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let sessions = || proptest::collection::vec(0_u8..4, 0..4);
    let hops = || proptest::collection::vec((0_u8..4, 0_u8..4), 0..4);
    prop_oneof![
        (0_u8..3, 1_u64..5, 0_u64..5).prop_map(|(node, generation, successor_of)| {
            Step::Join {
                node,
                generation,
                successor_of,
            }
        }),
        (0_usize..40).prop_map(|nth| Step::Leave { nth }),
        (0_usize..40, sessions(), hops()).prop_map(|(nth, home, via)| Step::Advertise {
            nth,
            home,
            via
        }),
    ]
}

fn apply(registry: &mut Registry<()>, step: Step, next: u64) {
    let now = Instant::now();
    let names = |ids: Vec<u8>| ids.into_iter().map(|id| offer(&format!("s{id}"))).collect();
    let hop = |(id, home): (u8, u8)| Offer {
        node: format!("n{home}"),
        ..offer(&format!("s{id}"))
    };
    match step {
        Step::Join {
            node,
            generation,
            successor_of,
        } => {
            let who = Who {
                successor_of,
                ..who(&format!("n{node}"), generation)
            };
            let newest = registry
                .members(&who.node)
                .iter()
                .map(|m| m.who.generation)
                .max();
            let result = registry.join(&tunnel(next, who), now);
            if newest.is_some_and(|newest| newest > generation) {
                assert_eq!(result.expect_err("older"), NotJoined::Superseded);
            } else if let Ok(out) = result {
                assert!(out.iter().all(|old| old.who.generation < generation));
                assert!(registry.tunnels().any(|member| member.id == next));
            }
        }
        Step::Leave { nth } => {
            let id = registry.tunnels().nth(nth).map(|member| member.id);
            let before = registry.counts().tunnels;
            let gone = id.is_some_and(|id| registry.leave(id, now));
            assert_eq!(registry.counts().tunnels, before - usize::from(gone));
        }
        Step::Advertise { nth, home, via } => {
            let id = registry.tunnels().nth(nth).map(|member| member.id);
            if let Some(id) = id {
                let asked = Advertise {
                    home: names(home),
                    via: via.into_iter().map(hop).collect(),
                    ..homes(&[])
                };
                registry.advertise(id, &asked, now);
            }
        }
    }
}

fn check(registry: &Registry<()>) {
    let live: HashSet<u64> = registry.tunnels().map(|member| member.id).collect();
    let clusters = registry.clusters().map(|(_, cluster)| cluster);
    for (session, route) in clusters.flat_map(Cluster::sessions) {
        let nodes: HashSet<_> = route
            .home
            .iter()
            .map(|path| &path.member.who.node.name)
            .collect();
        assert!(nodes.len() <= 1, "{session} has two homes: {nodes:?}");
        let told: HashSet<_> = route.via.iter().map(|path| &path.offer.home).collect();
        let told: HashSet<_> = told.into_iter().flatten().chain(nodes).collect();
        assert!(
            told.len() <= 1,
            "{session} leads to several homes: {told:?}"
        );
        assert!(!route.is_empty(), "{session} leads nowhere");
        let mut seen = HashSet::new();
        for path in route.paths() {
            assert!(
                live.contains(&path.member.id),
                "{session} leads to a tunnel that is gone"
            );
            assert!(seen.insert(path.member.id), "{session} has a tunnel twice");
        }
    }
    for member in registry.tunnels() {
        let members = registry.members(&member.who.node);
        assert!(members.iter().any(|known| known.id == member.id));
        let newest = members.iter().map(|member| member.who.generation).max();
        assert!(newest == Some(member.who.generation) || member.is_replaced());
    }
}

proptest! {
    #[test]
    fn whatever_comes_and_goes_every_session_has_one_home(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut registry = registry();
        for (next, step) in steps.into_iter().enumerate() {
            apply(&mut registry, step, next as u64);
            check(&registry);
        }
    }
}
