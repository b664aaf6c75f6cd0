//! Who is in the cluster: the servers that were heard of, and since when one was not heard of any more.
//!
//! Each node says what it is every two seconds. A message that comes over the bus proves two things: that its sender
//! lives, and that the bus does. A relay hears its own messages too, and so tells a bus that is away from nodes that are:
//! while it does not hear itself, nobody is taken for gone, and what it knows is marked stale. Once it hears itself again,
//! all others have their whole time to be heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sallyport_wire::NodeName;
use tokio::time::Instant;

use crate::server::Server;

/// Longest time between two messages of a node; each waits a little less, by chance, so that they do not all speak at
/// once.
pub const SPEAK_EVERY: Duration = Duration::from_secs(2);

/// A node that was not heard of for this long is gone: two of its messages may be lost.
pub const GONE_AFTER: Duration = Duration::from_millis(5_500);

/// Who does not hear itself for this long has missed others too.
const MISSED_AFTER: Duration = Duration::from_secs(3);

/// Most nodes of a cluster; further ones are refused.
pub const MOST: usize = 10_000;

/// One process of one machine that speaks as a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    /// The node's name.
    pub node: NodeName,
    /// The id of its node key, which another machine of that name does not have.
    pub id: String,
    /// Rises with every start.
    pub generation: u64,
}

impl Incarnation {
    /// Whether this one was started before `other`, as all who hear both decide alike.
    #[must_use]
    pub fn was_before(&self, other: &Self) -> bool {
        (self.generation, &self.id) < (other.generation, &other.id)
    }
}

/// What hearing of a server changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It was not known.
    New,
    /// It was known.
    Known,
    /// Its node was started again since: what the earlier process said holds no more.
    Reborn,
    /// It was said before, or by an earlier process of the node.
    Old,
    /// There are too many nodes.
    TooMany,
    /// Another machine has the name and was there before.
    Taken,
    /// Another process with the key of this node says that it is this node.
    Rival,
}

/// The other servers that are known to one relay.
#[derive(Debug)]
pub struct Members {
    own: Incarnation,
    known: BTreeMap<NodeName, Member>,
    /// When the bus last brought back what this node said.
    echo: Option<Instant>,
    /// Since when it does so without a pause.
    unbroken: Option<Instant>,
}

/// A server, and when it was heard of last.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it said.
    pub server: Arc<Server>,
    /// The id of its node key.
    id: String,
    /// When that was heard.
    pub heard: Instant,
    /// The number of what it said last.
    version: u64,
}

impl Members {
    /// Nobody yet, seen by the process `own`.
    #[must_use]
    pub const fn new(own: Incarnation) -> Self {
        Self {
            own,
            known: BTreeMap::new(),
            echo: None,
            unbroken: None,
        }
    }

    /// A node said what it is, by a machine's node key and in a message with a number that rises. Whether it may say so, the
    /// caller has checked.
    pub fn hear(&mut self, server: Server, (id, version): (&str, u64), now: Instant) -> Heard {
        let said = Incarnation {
            node: server.server_id.clone(),
            id: id.to_owned(),
            generation: server.generation,
        };
        if said.node == self.own.node {
            return self.hear_itself(&said, now);
        }
        let before = self.known.get(&said.node);
        let heard = match before {
            None if self.known.len() >= MOST => return Heard::TooMany,
            None => Heard::New,
            Some(before) if before.id != said.id => {
                if before.incarnation().was_before(&said) {
                    return Heard::Taken;
                }
                Heard::Reborn
            }
            Some(before) if before.is_later_than(&server, version) => return Heard::Old,
            Some(before) if before.server.generation < server.generation => Heard::Reborn,
            Some(_same) => Heard::Known,
        };
        let member = Member {
            server: Arc::new(server),
            id: said.id,
            heard: now,
            version,
        };
        self.known.insert(said.node, member);
        heard
    }

    fn hear_itself(&mut self, said: &Incarnation, now: Instant) -> Heard {
        if said.id != self.own.id {
            return Heard::Taken;
        }
        if said.generation != self.own.generation {
            return Heard::Rival;
        }
        let paused = self.echo.is_none_or(|echo| now >= echo + MISSED_AFTER);
        if paused {
            self.unbroken = Some(now);
        }
        self.echo = Some(now);
        Heard::Known
    }

    /// A process of a node said that it ends; true if that was the one that is known.
    pub fn leave(&mut self, node: &NodeName, id: &str, generation: u64) -> bool {
        let known = self.known.get(node);
        let known = known.filter(|member| member.id == id);
        let ends = known.is_some_and(|member| member.server.generation <= generation);
        if ends {
            self.known.remove(node);
        }
        ends
    }

    /// Takes out and names those that are gone.
    pub fn sweep(&mut self, now: Instant) -> Vec<NodeName> {
        let (Some(echo), Some(unbroken)) = (self.echo, self.unbroken) else {
            return Vec::new();
        };
        let gone = |member: &Member| {
            let silent = member.heard.max(unbroken);
            // the bus worked when it should have brought a message of this one
            let missed = echo >= silent + (GONE_AFTER - SPEAK_EVERY);
            missed && now >= silent + GONE_AFTER
        };
        self.known
            .extract_if(.., |_id, member| gone(member))
            .map(|(id, _member)| id)
            .collect()
    }

    /// Whether the bus is away: what is known is the last state, and may be wrong by now.
    #[must_use]
    pub fn is_stale(&self, now: Instant) -> bool {
        self.echo.is_none_or(|echo| now >= echo + GONE_AFTER)
    }

    /// All others, by name.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.known.values()
    }
}

impl Member {
    fn incarnation(&self) -> Incarnation {
        Incarnation {
            node: self.server.server_id.clone(),
            id: self.id.clone(),
            generation: self.server.generation,
        }
    }

    fn is_later_than(&self, server: &Server, version: u64) -> bool {
        (self.server.generation, self.version) >= (server.generation, version)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn server(id: &str, generation: u64) -> Server {
        serde_json::from_value(json!({
            "serverId": id, "generation": generation, "loginEnabled": true, "startEnabled": true, "reservable": false,
            "version": "1", "lastUpdate": 0,
        }))
        .expect("a server")
    }

    fn incarnation(node: &str, id: &str, generation: u64) -> Incarnation {
        Incarnation {
            node: node.parse().expect("a name"),
            id: id.to_owned(),
            generation,
        }
    }

    fn here() -> (Members, Instant) {
        (Members::new(incarnation("here", "k", 1)), Instant::now())
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn who_falls_silent_is_gone_within_six_seconds_and_others_stay() {
        let (mut members, start) = here();
        assert_eq!(members.hear(server("dies", 1), ("k", 1), start), Heard::New);
        for time in (0..=5_500).step_by(500) {
            let now = start + ms(time);
            members.hear(server("here", 1), ("k", time), now);
            members.hear(server("lives", 1), ("k", time + 1), now);
            let gone = members.sweep(now);
            assert_eq!(gone.is_empty(), now < start + GONE_AFTER);
        }
        let left: Vec<_> = members
            .all()
            .map(|member| member.server.server_id.to_string())
            .collect();
        assert_eq!(left, ["lives"]);
        assert!(GONE_AFTER < Duration::from_secs(6));
    }

    #[test]
    fn a_bus_that_is_away_takes_nobody_with_it() {
        let (mut members, start) = here();
        members.hear(server("there", 1), ("k", 1), start);
        members.hear(server("here", 1), ("k", 1), start + ms(1_900));

        let later = start + ms(60_000);
        assert!(members.sweep(later).is_empty() && members.is_stale(later));

        // it is back: whoever lives has time to be heard
        members.hear(server("here", 1), ("k", 2), later);
        assert!(!members.is_stale(later));
        assert!(members.sweep(later + ms(200)).is_empty());
        members.hear(server("there", 1), ("k", 2), later + ms(3_000));
        members.hear(server("here", 1), ("k", 3), later + ms(1_900));
        assert!(members.sweep(later + ms(6_000)).is_empty());
    }

    #[test]
    fn after_the_bus_was_away_those_who_left_meanwhile_are_gone_in_time_too() {
        let (mut members, start) = here();
        members.hear(server("there", 1), ("k", 1), start);
        let later = start + ms(60_000);
        for time in (0..=6_000).step_by(1_900) {
            members.hear(server("here", 1), ("k", time), later + ms(time));
        }
        assert_eq!(members.sweep(later + ms(6_000)).len(), 1);
    }

    #[test]
    fn an_earlier_process_of_a_node_is_not_believed_nor_what_was_said_before() {
        let (mut members, start) = here();
        members.hear(server("n", 5), ("k", 9), start);
        assert_eq!(members.hear(server("n", 6), ("k", 1), start), Heard::Reborn);
        assert_eq!(
            members.hear(server("n", 5), ("k", 10), start + ms(1)),
            Heard::Old
        );
        assert_eq!(
            members.hear(server("n", 6), ("k", 1), start + ms(2)),
            Heard::Old
        );
        assert_eq!(
            members.hear(server("n", 6), ("k", 2), start + ms(2)),
            Heard::Known
        );

        assert_eq!(
            members.hear(server("here", 1), ("k", 1), start),
            Heard::Known
        );
        assert_eq!(
            members.hear(server("here", 2), ("k", 1), start),
            Heard::Rival
        );

        let n = "n".parse().expect("a name");
        assert!(!members.leave(&n, "k", 5), "the earlier process ends");
        assert!(members.leave(&n, "k", 6) && members.all().next().is_none());
    }

    #[test]
    fn of_two_machines_with_one_name_the_first_has_it_for_as_long_as_it_is_there() {
        let (mut members, start) = here();
        assert_eq!(members.hear(server("n", 5), ("a", 1), start), Heard::New);
        assert_eq!(members.hear(server("n", 9), ("b", 1), start), Heard::Taken);
        assert_eq!(members.hear(server("n", 5), ("a", 2), start), Heard::Known);
        let n = "n".parse().expect("a name");
        assert!(!members.leave(&n, "b", 9), "it never was there");
        // whoever heard the second one first learns better
        assert_eq!(members.hear(server("n", 4), ("c", 1), start), Heard::Reborn);
        assert_eq!(members.hear(server("n", 5), ("a", 3), start), Heard::Taken);
        assert_eq!(
            members.hear(server("here", 7), ("x", 1), start),
            Heard::Taken
        );

        assert!(members.leave(&n, "c", 4));
        assert_eq!(members.hear(server("n", 9), ("b", 2), start), Heard::New);
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut members, start) = here();
        for number in 0..MOST {
            members.hear(server(&format!("n{number}"), 1), ("k", 1), start);
        }
        assert_eq!(
            members.hear(server("more", 1), ("k", 1), start),
            Heard::TooMany
        );
        assert_eq!(members.hear(server("n7", 1), ("k", 2), start), Heard::Known);
    }

    proptest! {
        /// Two nodes speak at random within their time, and up to two messages in a row are lost.
        #[test]
        fn who_lives_is_never_gone(
            gaps in prop::collection::vec((1_700_u64..=1_800, 0_u64..100), 1..50),
        ) {
            let (mut members, start) = here();
            let (mut time, mut version) = (start, 1);
            members.hear(server("there", 1), ("k", version), start);
            for (gap, late) in gaps {
                version += 1;
                members.hear(server("here", 1), ("k", version), time + ms(late));
                for missed in 1..=3 {
                    time += ms(gap);
                    members.hear(server("here", 1), ("k", version), time);
                    prop_assert!(members.sweep(time).is_empty(), "missed {}", missed);
                }
                members.hear(server("there", 1), ("k", version), time);
            }
        }
    }
}
