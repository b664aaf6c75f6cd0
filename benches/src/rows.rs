//! The rows of the benchmark, in the order in which they are measured.

mod bulk;
mod latency;
mod opens;
mod http;
mod memory;
mod idle;
mod wan;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;

use crate::lab::Lab;
use crate::outcome::Outcome;
use crate::progress::say;

/// One row: what it is for, and how it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its id, as goals and `--rows` name it.
    pub id: &'static str,
    /// What it measures.
    pub title: &'static str,
    /// Whether `--quick` measures it.
    pub quick: bool,
    run: fn(&Lab) -> Outcome,
}

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        id: "P1",
        title: "Bulk, one stream through an encrypted tunnel over TLS",
        quick: true,
        run: bulk::one_stream,
    },
    Row {
        id: "P2",
        title: "Bulk, eight streams on one tunnel over TLS",
        quick: true,
        run: bulk::eight_streams,
    },
    Row {
        id: "P3",
        title: "Bulk, one stream through a tunnel over QUIC, on a clean path",
        quick: true,
        run: bulk::quic,
    },
    Row {
        id: "P4",
        title: "Bulk, one stream that the gateway passes on blind",
        quick: false,
        run: bulk::blind,
    },
    Row {
        id: "P5",
        title: "64 bytes there and back on a warm stream",
        quick: true,
        run: latency::idle,
    },
    Row {
        id: "P6",
        title: "The same while one bulk stream fills the tunnel",
        quick: true,
        run: latency::loaded,
    },
    Row {
        id: "P7",
        title: "Open, one byte there and back, close, in sequence",
        quick: true,
        run: opens::in_sequence,
    },
    Row {
        id: "P9",
        title: "Requests for a page of 1 KiB over HTTPS",
        quick: false,
        run: http::requests,
    },
    Row {
        id: "P10",
        title: "Memory of an idle client",
        quick: false,
        run: memory::of_idle_clients,
    },
    Row {
        id: "P11",
        title: "Processes that have nothing to do",
        quick: false,
        run: idle::processes,
    },
    Row {
        id: "P3-wan",
        title: "Bulk over a link that loses packets",
        quick: false,
        run: wan::lossy,
    },
    Row {
        id: "P6-wan",
        title: "64 bytes there and back beside a bulk stream, over a link",
        quick: false,
        run: wan::pings_beside_bulk,
    },
    Row {
        id: "P7-wan",
        title: "Open and one byte there and back over a link",
        quick: false,
        run: wan::first_byte,
    },
    Row {
        id: "P8",
        title: "Bulk over a long and fast link",
        quick: false,
        run: wan::long_and_fast,
    },
    Row {
        id: "WAN",
        title: "Bulk over links of 100 Mbit/s",
        quick: false,
        run: wan::table,
    },
];

/// A row and what it found, or why it could not be measured.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Its id.
    pub id: &'static str,
    /// What it measures.
    pub title: &'static str,
    /// What it found.
    pub found: Result<Outcome, String>,
}

impl Row {
    /// Whether `--rows` means it by `wanted`: its id, or what that begins with before a hyphen.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        let row = self.id.split_once('-').map_or(self.id, |(row, _)| row);
        [self.id, row]
            .iter()
            .any(|id| id.eq_ignore_ascii_case(wanted))
    }

    /// Measures it. A row that fails leaves the others alone.
    #[must_use]
    pub fn measure(&self, lab: &Lab) -> Entry {
        say(&format!("{}: {}", self.id, self.title));
        let found = catch_unwind(AssertUnwindSafe(|| (self.run)(lab))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            text.unwrap_or_else(|| "it panicked".to_owned())
        });
        Entry {
            id: self.id,
            title: self.title,
            found,
        }
    }
}
