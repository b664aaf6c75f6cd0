//! How many connections may be open, in all and per source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::metrics::Metrics;
use crate::source::Source;

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Full {
    /// All slots are taken.
    #[error("all connection slots are taken")]
    Total,
    /// This source has as many as one may have.
    #[error("this source has as many connections as one may have")]
    Source,
}

/// A bounded number of slots, shared by all clones.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: usize,
    per_source: usize,
    exempt: Vec<IpNet>,
    taken: Mutex<Taken>,
    open: Gauge,
    refused: Family<Refused, Counter>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_source: HashMap<Source, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    limit: &'static str,
}

impl Slots {
    /// `total` slots, at most `per_source` of them for one [source](Source).
    ///
    /// Sources in `exempt` (trusted proxies, behind which many clients stand) count in the total only.
    #[must_use]
    pub fn new(total: usize, per_source: usize, exempt: Vec<IpNet>) -> Self {
        Self(Arc::new(Shared {
            total,
            per_source,
            exempt,
            taken: Mutex::default(),
            open: Gauge::default(),
            refused: Family::default(),
        }))
    }

    /// Shows `sallyport_connections` and `sallyport_connections_refused_total{limit}`; for one value of a process.
    pub fn expose(&self, metrics: &Metrics) {
        metrics.register("connections", "Connections open now", self.0.open.clone());
        metrics.register(
            "connections_refused",
            "Connections closed at once because a limit was reached",
            self.0.refused.clone(),
        );
    }

    /// Takes a slot for a connection from `source`.
    ///
    /// # Errors
    /// Which limit was reached; the refusal is counted.
    pub fn take(&self, source: IpAddr) -> Result<Slot, Full> {
        let counted = self.counted(source);
        let taken = self.0.take(counted);
        if let Err(full) = taken {
            let limit = match full {
                Full::Total => "total",
                Full::Source => "source",
            };
            self.0.refused.get_or_create(&Refused { limit }).inc();
        }
        taken.map(|()| {
            self.0.open.inc();
            Slot {
                shared: Arc::clone(&self.0),
                counted,
            }
        })
    }

    /// How many slots are taken.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.0.lock().total
    }

    fn counted(&self, source: IpAddr) -> Option<Source> {
        let address = source.to_canonical();
        let exempt = self.0.exempt.iter().any(|net| net.contains(&address));
        (!exempt).then(|| Source::of(address))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, counted: Option<Source>) -> Result<(), Full> {
        let mut taken = self.lock();
        if taken.total >= self.total {
            return Err(Full::Total);
        }
        if let Some(source) = counted {
            let has = taken.by_source.get(&source).copied().unwrap_or_default();
            if has >= self.per_source {
                return Err(Full::Source);
            }
            taken.by_source.insert(source, has + 1);
        }
        taken.total += 1;
        Ok(())
    }

    fn give_back(&self, counted: Option<Source>) {
        let mut taken = self.lock();
        taken.total = taken.total.saturating_sub(1);
        let Some(source) = counted else { return };
        match taken.by_source.get_mut(&source) {
            Some(has) if *has > 1 => *has -= 1,
            _ => drop(taken.by_source.remove(&source)),
        }
    }
}

/// One taken slot; dropping it gives it back.
#[derive(Debug)]
#[must_use = "a slot that is not kept is given back at once"]
pub struct Slot {
    shared: Arc<Shared>,
    counted: Option<Source>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.open.dec();
        self.shared.give_back(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_total_is_a_limit_and_a_dropped_slot_is_free_again() {
        let slots = Slots::new(2, 2, Vec::new());
        let first = slots.take(ip("127.0.0.1")).unwrap();
        let _second = slots.take(ip("127.0.0.2")).unwrap();

        assert_eq!(slots.take(ip("127.0.0.3")).unwrap_err(), Full::Total);
        drop(first);

        assert!(slots.take(ip("127.0.0.3")).is_ok());
    }

    #[test]
    fn one_source_cannot_take_all() {
        let slots = Slots::new(10, 1, Vec::new());
        let _one = slots.take(ip("127.0.0.1")).unwrap();

        assert_eq!(
            slots.take(ip("::ffff:127.0.0.1")).unwrap_err(),
            Full::Source
        );
        assert!(slots.take(ip("127.0.0.2")).is_ok());
    }

    #[test]
    fn an_ipv6_source_is_a_whole_64() {
        let slots = Slots::new(10, 1, Vec::new());
        let _one = slots.take(ip("2001:db8:0:1::1")).unwrap();

        assert_eq!(
            slots.take(ip("2001:db8:0:1:ffff::2")).unwrap_err(),
            Full::Source
        );
        assert!(slots.take(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn trusted_proxies_count_in_the_total_only() {
        let slots = Slots::new(3, 1, vec!["10.0.0.0/8".parse().unwrap()]);
        let _kept: Vec<_> = (0..3)
            .map(|_| slots.take(ip("::ffff:10.1.2.3")).unwrap())
            .collect();

        assert_eq!(slots.take(ip("10.1.2.3")).unwrap_err(), Full::Total);
    }

    #[test]
    fn sources_that_left_are_forgotten_and_everything_is_counted() {
        let metrics = Metrics::new();
        let slots = Slots::new(1, 1, Vec::new());
        slots.expose(&metrics);

        let slot = slots.take(ip("127.0.0.1")).unwrap();
        assert!(slots.take(ip("127.0.0.1")).is_err());
        assert!(metrics.encode().contains("sallyport_connections 1\n"));
        drop(slot);

        let text = metrics.encode();
        assert!(text.contains("sallyport_connections 0\n"), "{text}");
        assert!(
            text.contains("sallyport_connections_refused_total{limit=\"total\"} 1\n"),
            "{text}"
        );
        assert!(slots.0.lock().by_source.is_empty());
    }
}
