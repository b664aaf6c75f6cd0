//! Connections that nobody knows yet, in limited number: when there are too many, one at random goes.
//!
//! Dropping one that waits rather than the one that comes keeps the door open: whoever fills it with silent
//! connections loses those, and a client that finishes its handshake in time is hardly ever the one.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use sallyport_ops::source::Source;
use tokio::sync::watch;

/// Connections that are not established yet.
#[derive(Debug, Clone)]
pub struct Newcomers(Arc<Room>);

#[derive(Debug)]
struct Room {
    most: usize,
    per_source: usize,
    exempt: Vec<IpNet>,
    chance: RandomState,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    present: Vec<Present>,
    by_source: HashMap<Source, usize>,
}

#[derive(Debug)]
struct Present {
    number: u64,
    source: Option<Source>,
    tell: watch::Sender<bool>,
}

/// One connection's place among them; given back when dropped.
#[derive(Debug)]
pub struct Newcomer {
    number: u64,
    gone: watch::Receiver<bool>,
    room: Arc<Room>,
}

impl Newcomers {
    /// Room for `most`, of which one [source](Source) may take `per_source`. Sources in `exempt` (trusted proxies,
    /// behind which many stand) count in the total only.
    #[must_use]
    pub fn new(most: usize, per_source: usize, exempt: Vec<IpNet>) -> Self {
        Self(Arc::new(Room {
            most,
            per_source,
            exempt,
            chance: RandomState::new(),
            list: Mutex::default(),
        }))
    }

    /// Takes a connection in. If that is one too many of its source, another one of that source is told to go; if it
    /// is one too many of all, any other one.
    #[must_use]
    pub fn enter(&self, from: IpAddr) -> Newcomer {
        let source = self.0.counted(from);
        let mut list = self.0.list();
        list.last = list.last.wrapping_add(1);
        self.0.make_place(&mut list, source);
        let (tell, gone) = watch::channel(false);
        let number = list.last;
        list.add(Present {
            number,
            source,
            tell,
        });
        drop(list);
        Newcomer {
            number,
            gone,
            room: Arc::clone(&self.0),
        }
    }

    /// Whether so many percent of the places are taken, of all or of this source's.
    #[must_use]
    pub fn is_crowded(&self, from: IpAddr, percent: u8) -> bool {
        let share = |of: usize| of.saturating_mul(percent.into()).div_ceil(100);
        let source = self.0.counted(from);
        let list = self.0.list();
        let own = source.map_or(0, |source| list.count(source));
        list.present.len() >= share(self.0.most) || own >= share(self.0.per_source)
    }
}

impl Room {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self, from: IpAddr) -> Option<Source> {
        let address = from.to_canonical();
        let exempt = self.exempt.iter().any(|net| net.contains(&address));
        (!exempt).then(|| Source::of(address))
    }

    fn make_place(&self, list: &mut List, source: Option<Source>) {
        let crowding = source.filter(|source| list.count(*source) >= self.per_source);
        let among = match crowding {
            Some(source) => list.count(source),
            None if list.present.len() >= self.most => list.present.len(),
            None => return,
        };
        let unlucky = usize::try_from(self.chance.hash_one(list.last)).unwrap_or(0);
        let candidates = list.present.iter().enumerate();
        let candidates =
            candidates.filter(|(_, present)| crowding.is_none() || present.source == crowding);
        let chosen = candidates
            .map(|(place, _)| place)
            .nth(unlucky % among.max(1));
        if let Some(place) = chosen {
            list.take(place).tell.send_replace(true);
        }
    }
}

impl List {
    fn count(&self, source: Source) -> usize {
        self.by_source.get(&source).copied().unwrap_or(0)
    }

    fn add(&mut self, present: Present) {
        if let Some(source) = present.source {
            *self.by_source.entry(source).or_default() += 1;
        }
        self.present.push(present);
    }

    fn take(&mut self, place: usize) -> Present {
        let present = self.present.swap_remove(place);
        if let Some(source) = present.source {
            let left = self.count(source).saturating_sub(1);
            if left == 0 {
                self.by_source.remove(&source);
            } else {
                self.by_source.insert(source, left);
            }
        }
        present
    }
}

impl Newcomer {
    /// Resolves when this connection is to go.
    pub async fn dropped(&self) {
        let mut gone = self.gone.clone();
        // The sender goes only after it has told.
        let _told_or_gone = gone.wait_for(|gone| *gone).await.is_ok();
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut list = self.room.list();
        let mut all = list.present.iter();
        // One that was told to go has no place any more.
        if let Some(place) = all.position(|present| present.number == self.number) {
            list.take(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// An address of its own for each number.
    fn somebody(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    async fn is_dropped(newcomer: &Newcomer) -> bool {
        timeout(Duration::from_millis(1), newcomer.dropped())
            .await
            .is_ok()
    }

    async fn dropped(newcomers: &[Newcomer]) -> usize {
        let mut count = 0;
        for newcomer in newcomers {
            count += usize::from(is_dropped(newcomer).await);
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_stays_and_one_of_the_others_goes() {
        let newcomers = Newcomers::new(4, 100, Vec::new());
        let mut all: Vec<_> = (0..4).map(|n| newcomers.enter(somebody(n))).collect();
        assert_eq!(dropped(&all).await, 0);

        for surplus in 1..=3_u8 {
            all.push(newcomers.enter(somebody(3 + surplus)));
            assert_eq!(dropped(&all).await, usize::from(surplus));
            let newest = all.last().expect("just added");
            assert!(!is_dropped(newest).await, "the newest stays");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_beyond_its_share_loses_its_own() {
        let newcomers = Newcomers::new(100, 2, Vec::new());
        let others: Vec<_> = (0..9).map(|n| newcomers.enter(somebody(n))).collect();
        let mut flood = Vec::new();
        for (number, address) in (0..8).zip((1..=8).map(|n| ip(&format!("2001:db8::{n}")))) {
            flood.push(newcomers.enter(address));
            let surplus = (number + 1_usize).saturating_sub(2);
            assert_eq!(dropped(&flood).await, surplus, "one /64 is one source");
        }

        assert_eq!(dropped(&others).await, 0);
        let _elsewhere = newcomers.enter(ip("2001:db8:0:1::1"));
        assert_eq!((dropped(&others).await, dropped(&flood).await), (0, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn trusted_proxies_count_in_the_total_only() {
        let trusted = vec!["10.0.0.0/8".parse().expect("a network")];
        let newcomers = Newcomers::new(3, 1, trusted);
        let mut all: Vec<_> = (0..3)
            .map(|_| newcomers.enter(ip("::ffff:10.1.2.3")))
            .collect();
        assert_eq!(dropped(&all).await, 0);

        all.push(newcomers.enter(ip("10.1.2.3")));
        assert_eq!(dropped(&all).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back() {
        let newcomers = Newcomers::new(2, 1, Vec::new());
        let first = newcomers.enter(somebody(1));
        drop(newcomers.enter(somebody(2)));
        let third = newcomers.enter(somebody(2));

        assert_eq!(dropped(&[first, third]).await, 0);
        assert!(
            newcomers.0.list().by_source.is_empty(),
            "sources are forgotten"
        );
    }

    #[test]
    fn a_share_is_rounded_up_and_counts_in_all_and_by_source() {
        let newcomers = Newcomers::new(10, 3, Vec::new());
        assert!(newcomers.is_crowded(somebody(1), 0), "0 is always");
        assert!(!newcomers.is_crowded(somebody(1), 1));
        let _one = newcomers.enter(somebody(1));
        assert!(
            newcomers.is_crowded(somebody(2), 1),
            "one of ten, rounded up"
        );
        assert!(!newcomers.is_crowded(somebody(2), 34));
        assert!(!newcomers.is_crowded(somebody(1), 34));
        let _two = newcomers.enter(somebody(1));
        assert!(newcomers.is_crowded(somebody(1), 34), "two of three");
        assert!(!newcomers.is_crowded(somebody(2), 34), "two of ten");
    }
}
