//! Which servers a worker has parsed already, so that it is sent only what is new to it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::protocol::{Put, Servers};
use crate::script::Server;

/// Places that may be taken beyond twice the list before those of absent servers are given away.
const SPARE: usize = 64;

/// What one worker keeps, place by place. A server is known by the address of its `Arc`, which is held here, so that no
/// other server can come to have it.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    places: HashMap<usize, u32>,
    held: HashMap<u32, Arc<Server>>,
    free: Vec<u32>,
}

impl Kept {
    /// The list as places, with what the worker has not seen. The worker must be sent it.
    pub(crate) fn take(&mut self, list: &[Arc<Server>]) -> Servers {
        if self.held.len() > list.len().saturating_mul(2).saturating_add(SPARE) {
            self.forget_all_but(list);
        }
        let mut put = Vec::new();
        let list = list
            .iter()
            .map(|server| {
                let known = self.places.get(&address(server)).copied();
                known.unwrap_or_else(|| {
                    let place = self.settle(server);
                    put.push(Put {
                        place,
                        json: server.json().to_owned(),
                    });
                    place
                })
            })
            .collect();
        Servers { put, list }
    }

    fn settle(&mut self, server: &Arc<Server>) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            // more than u32::MAX servers do not fit a message
            u32::try_from(self.held.len()).unwrap_or(u32::MAX)
        });
        self.places.insert(address(server), place);
        self.held.insert(place, Arc::clone(server));
        place
    }

    fn forget_all_but(&mut self, list: &[Arc<Server>]) {
        let stay: HashSet<usize> = list.iter().map(address).collect();
        self.places.retain(|address, _| stay.contains(address));
        let free = &mut self.free;
        self.held.retain(|place, server| {
            let stays = stay.contains(&address(server));
            if !stays {
                free.push(*place);
            }
            stays
        });
    }
}

fn address(server: &Arc<Server>) -> usize {
    Arc::as_ptr(server).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Vec<Arc<Server>> {
        let one = |n: usize| Arc::new(Server::new(format!("n{n}"), &serde_json::json!({ "n": n })));
        (0..count).map(one).collect()
    }

    #[test]
    fn a_server_is_sent_once_whatever_list_it_is_in() {
        let mut kept = Kept::default();
        let all = servers(5);
        assert_eq!(kept.take(&all).put.len(), 5);
        let mut fewer = all.clone();
        fewer.reverse();
        fewer.truncate(3);
        let again = kept.take(&fewer);
        assert_eq!((again.put.len(), again.list), (0, vec![4, 3, 2]));
        assert_eq!(kept.take(&all).put, []);
    }

    #[test]
    fn a_changed_server_is_sent_alone() {
        let mut kept = Kept::default();
        let mut all = servers(5);
        kept.take(&all);
        all[2] = Arc::new(Server::new("n2", &serde_json::json!({ "n": "new" })));
        let changed = kept.take(&all);
        assert_eq!(changed.put.len(), 1);
        assert_eq!(changed.put[0].json, r#"{"n":"new"}"#);
        assert_eq!(changed.list, [0, 1, 5, 3, 4]);
    }

    #[test]
    fn places_are_given_away_and_stay_bounded() {
        let mut kept = Kept::default();
        let mut last = 0;
        for _ in 0..100 {
            let fresh = servers(10);
            let list = kept.take(&fresh).list;
            assert_eq!(list.iter().collect::<HashSet<_>>().len(), 10, "{list:?}");
            last = last.max(list.into_iter().max().unwrap());
        }
        assert!(last < 100, "place {last}");
    }
}
