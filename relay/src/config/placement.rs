//! The `[placement]` table: what is kept of placements, and how many may wait.

use sallyport_placement::Settings;
use sallyport_placement::traces::Room;
use serde::Deserialize;
use toml::Spanned;

use super::faults::Faults;

/// What this relay keeps of placements, and how many wait at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacementConfig {
    /// Placements whose traces are kept.
    pub traces: u32,
    /// MiB that they may take.
    pub trace_mib: u32,
    /// Placements that wait for their turn.
    pub waiting: u32,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            traces: 1_000,
            trace_mib: 64,
            waiting: 1_024,
        }
    }
}

impl PlacementConfig {
    /// As the placement itself takes them.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Settings {
            room: Room {
                traces: count(self.traces),
                bytes: count(self.trace_mib).saturating_mul(1 << 20),
            },
            waiting: count(self.waiting),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPlacement {
    traces: Option<Spanned<u32>>,
    trace_mib: Option<Spanned<u32>>,
    waiting: Option<Spanned<u32>>,
}

impl RawPlacement {
    pub(super) fn check(self, faults: &mut Faults<'_>) -> PlacementConfig {
        let default = PlacementConfig::default();
        PlacementConfig {
            traces: faults.in_range("traces", self.traces, default.traces, 0..=100_000),
            trace_mib: faults.in_range("trace_mib", self.trace_mib, default.trace_mib, 1..=4_096),
            waiting: faults.in_range("waiting", self.waiting, default.waiting, 1..=100_000),
        }
    }
}
