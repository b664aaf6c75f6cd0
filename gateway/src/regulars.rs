//! Clients of pools, and the members that they had.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_edge::Affinity;
use sallyport_wire::message::{Kind, Sticky};
use sallyport_wire::{ClusterName, PoolName, SessionId};
use tokio::time::Instant;

use crate::recent::Recent;

/// Members that clients had: for one hour, and of so many clients of each kind.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
const KEPT_MOST: usize = 65_536;

/// What a client is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Regular {
    /// Its address.
    Source(IpAddr),
    /// The cookie that it shows.
    Cookie(Affinity),
}

impl Regular {
    /// What the client of a stream to a pool is known by; none where it is free to go to any member.
    pub fn of(sticky: Sticky, kind: Kind, source: IpAddr, shown: Option<Affinity>) -> Option<Self> {
        let is_http = kind == Kind::Http;
        match sticky {
            Sticky::None => None,
            Sticky::Unset if is_http => None,
            Sticky::Cookie if is_http => shown.map(Self::Cookie),
            Sticky::Unset | Sticky::Source | Sticky::Cookie => {
                Some(Self::Source(source.to_canonical()))
            }
        }
    }

    /// The cookie, where it is one.
    pub const fn affinity(self) -> Option<Affinity> {
        match self {
            Self::Cookie(affinity) => Some(affinity),
            Self::Source(_) => None,
        }
    }
}

/// What keeps clients with one member of a pool, by what its members say: what goes before the others.
pub fn strongest(said: impl IntoIterator<Item = Sticky>) -> Sticky {
    said.into_iter().max().unwrap_or_default()
}

type Key = (ClusterName, PoolName, Regular);

/// The members that clients had. Cookies cost nothing to make up, so they have a table of their own; who falls out of it
/// is found by his cookie alone, and moves only if members have come or gone.
#[derive(Debug)]
pub struct Regulars {
    by_source: Mutex<Recent<Key, SessionId>>,
    by_cookie: Mutex<Recent<Key, SessionId>>,
}

impl Default for Regulars {
    fn default() -> Self {
        Self::new(KEPT_MOST)
    }
}

impl Regulars {
    fn new(most: usize) -> Self {
        let table = || Mutex::new(Recent::new(KEPT_FOR, most));
        Self {
            by_source: table(),
            by_cookie: table(),
        }
    }

    /// The member of a pool that a client had before.
    pub fn member(
        &self,
        (cluster, pool): (&ClusterName, &PoolName),
        client: Regular,
    ) -> Option<SessionId> {
        let key = (cluster.clone(), pool.clone(), client);
        self.table(client).get(&key, Instant::now()).cloned()
    }

    /// Remembers which member of a pool a client has now.
    pub fn keep(
        &self,
        (cluster, pool): (&ClusterName, &PoolName),
        client: Regular,
        member: &SessionId,
    ) {
        let key = (cluster.clone(), pool.clone(), client);
        self.table(client)
            .insert(key, member.clone(), Instant::now());
    }

    fn table(&self, client: Regular) -> MutexGuard<'_, Recent<Key, SessionId>> {
        let table = match client {
            Regular::Source(_) => &self.by_source,
            Regular::Cookie(_) => &self.by_cookie,
        };
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn of_members_that_differ_the_strongest_holds_in_any_order() {
        use Sticky::{Cookie, None, Source, Unset};
        for (said, holds) in [
            (vec![], Unset),
            (vec![Unset, None], None),
            (vec![Source, None, Unset], Source),
            (vec![None, Cookie, Source], Cookie),
        ] {
            assert_eq!(strongest(said.iter().copied()), holds, "{said:?}");
            assert_eq!(strongest(said.iter().rev().copied()), holds, "{said:?}");
        }
    }

    #[test]
    fn http_goes_by_a_cookie_where_that_is_asked_and_raw_streams_by_the_source() {
        let cookie = Affinity::new(1);
        let source = Some(Regular::Source(HERE));
        for (sticky, http, raw) in [
            (Sticky::Unset, None, source),
            (Sticky::None, None, None),
            (Sticky::Source, source, source),
            (Sticky::Cookie, Some(Regular::Cookie(cookie)), source),
        ] {
            let of = |kind, from| Regular::of(sticky, kind, from, Some(cookie));
            assert_eq!(of(Kind::Http, HERE), http, "{sticky:?}");
            let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
            for kind in [Kind::Tcp, Kind::Tls, Kind::Udp] {
                assert_eq!(of(kind, mapped), raw, "{sticky:?}");
            }
        }
        assert_eq!(Regular::of(Sticky::Cookie, Kind::Http, HERE, None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_cookies_push_nobody_out_who_is_known_by_his_address() {
        let regulars = Regulars::new(4);
        let (cluster, pool) = (ClusterName::DEFAULT, "web".parse().expect("a name"));
        let of = (&cluster, &pool);
        let member: SessionId = "web-a".parse().expect("an id");
        let client = Regular::Source(HERE);
        regulars.keep(of, client, &member);

        for value in 0..100 {
            regulars.keep(of, Regular::Cookie(Affinity::new(value)), &member);
        }

        assert_eq!(regulars.member(of, client), Some(member.clone()));
        let last = Regular::Cookie(Affinity::new(99));
        assert_eq!(regulars.member(of, last), Some(member));
        assert_eq!(regulars.member(of, Regular::Cookie(Affinity::new(0))), None);
    }
}
