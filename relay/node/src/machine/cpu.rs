//! How busy the processors are, from the ticks that the kernel counts (proc_stat(5)).

use std::fs;
use std::io;
use std::path::Path;

/// Columns of a line: user, nice, system, idle, iowait, irq, softirq, steal. Guests are in user already.
const COLUMNS: usize = 8;
const IDLE: usize = 3;
const IOWAIT: usize = 4;

/// Ticks since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    /// Processors that are on line.
    pub(super) processors: u32,
    busy: u64,
    all: u64,
}

impl Ticks {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let wrong = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: no ticks", path.display()),
            )
        };
        Self::parse(&text).ok_or_else(wrong)
    }

    fn parse(text: &str) -> Option<Self> {
        // what follows the processors may be far longer than they are
        let lines = || text.lines().take_while(|line| line.starts_with("cpu"));
        let all = lines().next()?.strip_prefix("cpu ")?;
        let ticks = all
            .split_ascii_whitespace()
            .take(COLUMNS)
            .map(str::parse::<u64>);
        let ticks: Vec<u64> = ticks.collect::<Result<_, _>>().ok()?;
        let all = ticks.iter().copied().fold(0, u64::saturating_add);
        let column = |place| ticks.get(place).copied().unwrap_or_default();
        let idle = ticks.get(IDLE)?.saturating_add(column(IOWAIT));
        Some(Self {
            processors: u32::try_from(lines().skip(1).count()).unwrap_or(u32::MAX),
            busy: all.saturating_sub(idle),
            all,
        })
    }

    /// Percent of the ticks since `before`, or since the start of the machine, in which something ran.
    pub(super) fn busy_since(self, before: Option<Self>) -> f64 {
        let (busy, all) = before.map_or((0, 0), |before| (before.busy, before.all));
        let all = self.all.saturating_sub(all);
        if all == 0 {
            return 0.0;
        }
        let busy = self.busy.saturating_sub(busy).min(all); // iowait may go back
        let tenths = (u128::from(busy) * 1000).div_ceil(u128::from(all));
        f64::from(u16::try_from(tenths).unwrap_or(1000)) / 10.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_ran_since_the_last_look_counts() {
        let ticks =
            |line: &str| Ticks::parse(&format!("cpu  {line}\ncpu0 {line}\n")).expect("ticks");
        let before = ticks("100 0 0 900 0 0 0 0 0 0");
        let after = ticks("100 25 25 1000 50 0 0 0 7 7");

        assert_eq!(before.busy_since(None).to_string(), "10");
        assert_eq!(after.busy_since(Some(before)).to_string(), "25");
        assert_eq!(before.busy_since(Some(before)).to_string(), "0");
        assert_eq!(before.busy_since(Some(after)).to_string(), "0");
    }

    #[test]
    fn old_kernels_have_fewer_columns() {
        let ticks = Ticks::parse("cpu  1 0 1 2\ncpu0 1 0 1 2\n").expect("ticks");
        assert_eq!((ticks.processors, ticks.busy, ticks.all), (1, 2, 4));
        assert_eq!(Ticks::parse("cpu  1 0 1\n"), None);
        assert_eq!(Ticks::parse(""), None);
    }

    proptest! {
        #[test]
        fn it_is_a_percentage(before in any::<[u64; 8]>(), after in any::<[u64; 8]>()) {
            let ticks = |all: [u64; 8]| {
                let columns: Vec<_> = all.iter().map(u64::to_string).collect();
                Ticks::parse(&format!("cpu  {}\n", columns.join(" "))).expect("ticks")
            };
            let busy = ticks(after).busy_since(Some(ticks(before)));
            prop_assert!((0.0..=100.0).contains(&busy));
        }
    }
}
