//! Bytes both ways between a client and a session: pooled buffers, half-close, deadlines, live
//! counts, and a truthful answer to who ended the stream.
//!
//! The one rule behind every module: an abort is never turned into an orderly end. Whoever reads
//! end-of-file may trust that the other side said all it had to say.

mod run;
mod direction;
mod clock;
mod ended;
mod limits;
mod ledger;
mod meter;
mod duplex;
mod pieces;
mod buffers;
mod pipe;
mod bare;
mod rewound;
mod abort;

pub use abort::Abort;
pub use bare::{Bare, Socket};
pub use duplex::Duplex;
pub use ended::{Ended, EndedBy, Side};
pub use ledger::{Entry, Ledger, Live, LiveFigures};
pub use limits::{Codes, Limits};
pub use meter::Meter;
pub use pieces::Pieces;
pub use rewound::Rewound;
pub use run::{run, run_bare};
