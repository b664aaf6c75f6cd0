//! What all rows share: how much effort to make, a folder, and the origin.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sallyport_tests::{Site, Wan};

use crate::cli::Cli;
use crate::host::Host;
use crate::origin::Origin;

const MIB: u64 = 1024 * 1024;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Whether peers take part that no goal names.
    pub every_peer: bool,
    /// Rounds of each row.
    pub rounds: usize,
    /// Bytes that one measurement of throughput moves.
    pub bytes: u64,
    /// How long one measurement of latency lasts.
    pub pings: Duration,
    /// Streams that one measurement of opens opens.
    pub opens: u32,
    /// How long one measurement of requests lasts.
    pub requests: Duration,
}

impl Effort {
    /// What `make bench` makes.
    pub const FULL: Self = Self {
        every_peer: true,
        rounds: 7,
        bytes: 512 * MIB,
        pings: Duration::from_secs(1),
        opens: 2_000,
        requests: Duration::from_secs(1),
    };

    /// What `make bench-quick` makes.
    pub const QUICK: Self = Self {
        every_peer: false,
        rounds: 3,
        bytes: 256 * MIB,
        opens: 500,
        ..Self::FULL
    };

    /// What the command line asks for.
    #[must_use]
    pub fn of(cli: &Cli) -> Self {
        let usual = if cli.quick { Self::QUICK } else { Self::FULL };
        Self {
            rounds: cli.rounds.unwrap_or(usual.rounds).max(1),
            bytes: cli
                .mebibytes
                .map_or(usual.bytes, |mebibytes| mebibytes.max(1) * MIB),
            ..usual
        }
    }
}

/// Where rows are measured.
#[derive(Debug)]
pub struct Lab {
    /// How much is measured.
    pub effort: Effort,
    /// Where users are, and what they connect to.
    pub near: Host,
    /// The node, with the origin.
    pub far: Host,
    /// The service at the far end.
    pub origin: Origin,
    folder: PathBuf,
}

impl Lab {
    /// A lab on this machine that keeps its files below `folder`.
    #[must_use]
    pub fn new(effort: Effort, folder: &Path) -> Self {
        Self {
            effort,
            near: Host::here(),
            far: Host::here(),
            origin: Origin::start(&Host::here()),
            folder: folder.to_owned(),
        }
    }

    /// The same with its ends at those of a link.
    #[must_use]
    pub fn over(&self, wan: &Wan) -> Self {
        let far = Host::of_network(wan.second(), Wan::SECOND);
        Self {
            effort: self.effort,
            near: Host::of_network(wan.first(), Wan::FIRST),
            origin: Origin::start(&far),
            far,
            folder: self.folder.clone(),
        }
    }

    /// An empty installation of its own.
    #[must_use]
    pub fn site(&self) -> Site {
        Site::within(&self.folder)
    }
}
