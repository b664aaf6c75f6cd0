//! The rows of the benchmark, in the order in which they are measured.

mod bulk;
mod latency;
mod opens;
mod http;
mod memory;
mod idle;
mod neighbours;
mod wan;
mod scale;
mod nodes;
mod hostile;
mod placement;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lab::{Effort, Lab};
use crate::outcome::Outcome;

/// One row: what it is for, and how it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its id, as goals and `--rows` name it.
    pub id: &'static str,
    /// What it measures.
    pub title: &'static str,
    /// Whether `--quick` measures it.
    pub quick: bool,
    /// Seconds after which a measurement of [`FULL`] is given up: several times what it takes.
    within: u64,
    run: fn(&Lab) -> Outcome,
}

/// What deadlines are meant for.
const FULL: Effort = Effort::FULL;

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        id: "P1",
        title: "Bulk, one stream through an encrypted tunnel over TLS",
        quick: true,
        within: 300,
        run: bulk::one_stream,
    },
    Row {
        id: "P2",
        title: "Bulk, eight streams on one tunnel over TLS",
        quick: true,
        within: 300,
        run: bulk::eight_streams,
    },
    Row {
        id: "P3",
        title: "Bulk, one stream through a tunnel over QUIC, on a clean path",
        quick: true,
        within: 300,
        run: bulk::quic,
    },
    Row {
        id: "P4",
        title: "Bulk, one stream that the gateway passes on blind",
        quick: false,
        within: 180,
        run: bulk::blind,
    },
    Row {
        id: "P5",
        title: "64 bytes there and back on a warm stream",
        quick: true,
        within: 240,
        run: latency::idle,
    },
    Row {
        id: "P6",
        title: "The same while one bulk stream fills the tunnel",
        quick: true,
        within: 300,
        run: latency::loaded,
    },
    Row {
        id: "P7",
        title: "Open, one byte there and back, close, in sequence",
        quick: true,
        within: 180,
        run: opens::in_sequence,
    },
    Row {
        id: "SLOW",
        title: "A hundred streams beside one that nobody reads",
        quick: false,
        within: 240,
        run: neighbours::of_a_stuck_reader,
    },
    Row {
        id: "P9",
        title: "Requests for a page of 1 KiB over HTTPS",
        quick: false,
        within: 240,
        run: http::requests,
    },
    Row {
        id: "P10",
        title: "Memory of an idle client",
        quick: false,
        within: 300,
        run: memory::of_idle_clients,
    },
    Row {
        id: "P11",
        title: "Processes that have nothing to do",
        quick: false,
        within: 120,
        run: idle::processes,
    },
    Row {
        id: "P3-wan",
        title: "Bulk over a link that loses packets",
        quick: false,
        within: 300,
        run: wan::lossy,
    },
    Row {
        id: "P7-wan",
        title: "Open and one byte there and back over a link",
        quick: false,
        within: 180,
        run: wan::first_byte,
    },
    Row {
        id: "P8",
        title: "Bulk over a long and fast link",
        quick: false,
        within: 300,
        run: wan::long_and_fast,
    },
    Row {
        id: "WAN",
        title: "P6 and P8 over links of 100 Mbit/s: bulk, and 64 bytes there and back beside it",
        quick: false,
        within: 480,
        run: wan::table,
    },
    Row {
        id: "P12",
        title: "Ten thousand streams over a hundred relays",
        quick: false,
        within: 180,
        run: scale::streams,
    },
    Row {
        id: "P12-back",
        title: "A thousand relays after a restart of their gateway",
        quick: false,
        within: 180,
        run: scale::back,
    },
    Row {
        id: "P12-many",
        title: "Two thousand relays on one gateway",
        quick: false,
        within: 180,
        run: scale::many,
    },
    Row {
        id: "NODES",
        title: "A thousand nodes of one cluster tell each other what they are",
        quick: false,
        within: 400,
        run: nodes::of_one_cluster,
    },
    Row {
        id: "P13",
        title: "Which of a thousand servers, by a chain of three scripts",
        quick: false,
        within: 240,
        run: placement::of_a_thousand_servers,
    },
    Row {
        id: "HOSTILE",
        title: "Decisions beside forty scripts that do harm, one after the other",
        quick: false,
        within: 400,
        run: hostile::beside_forty,
    },
];

/// A row and what it found, or why it could not be measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// What it measures.
    pub title: String,
    /// What it found.
    pub found: Result<Outcome, String>,
}

impl Row {
    /// The row with this id.
    #[must_use]
    pub fn of(id: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.id == id)
    }

    /// Whether `--rows` means it by `wanted`: its id, or what that begins with before a hyphen.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        let row = self.id.split_once('-').map_or(self.id, |(row, _)| row);
        [self.id, row]
            .iter()
            .any(|id| id.eq_ignore_ascii_case(wanted))
    }

    /// How long it may take; longer if it is to measure more than usual.
    #[must_use]
    pub fn deadline(&self, effort: Effort) -> Duration {
        let more = effort.rounds.div_ceil(FULL.rounds).max(1);
        let larger = effort.bytes.div_ceil(FULL.bytes).max(1);
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        Duration::from_secs(self.within.saturating_mul(more).saturating_mul(larger))
    }

    /// Measures it.
    #[must_use]
    pub fn measure(&self, lab: &Lab) -> Entry {
        let found = catch_unwind(AssertUnwindSafe(|| (self.run)(lab))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            text.unwrap_or_else(|| "it panicked".to_owned())
        });
        self.entry(found)
    }

    /// An entry that says why there are no figures.
    #[must_use]
    pub fn failed(&self, why: String) -> Entry {
        self.entry(Err(why))
    }

    fn entry(&self, found: Result<Outcome, String>) -> Entry {
        Entry {
            id: self.id.to_owned(),
            title: self.title.to_owned(),
            found,
        }
    }
}
