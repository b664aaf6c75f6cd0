//! The cluster's configuration: objects by kind and name that hold on every node, in numbered epochs.
//!
//! An epoch is one immutable content in the store and an entry in the pointer `config/current`, which names the epochs
//! that are kept, the newest last. Whoever changes the configuration writes the whole content first and then moves the
//! pointer by compare-and-set, so that a crash at any moment leaves the old or the new one. Where relays share a store
//! the pointer is [signed](crate::signed) and names the digest of each content: who runs the broker can neither make nor
//! mix one. Modules use only modules that stand below them.

mod epochs;
mod pointer;
mod bundle;
mod kinds;

pub use crate::seal::Seal;
pub use bundle::{Bundle, BundleError, Change, Difference, Fault, Faults, MOST_BYTES, Object};
pub use epochs::{Applied, EpochError, Epochs, Outcome, Put, pointers};
pub use kinds::{
    CHAIN_NAMES, CHAINS, METRICS, MOST_IN_CHAIN, MOST_SOURCE, ON_SCRIPT_FAILURE, PLACEMENT,
    PREDEFINED, QUEUE_SETTING, SCRIPTS, SETTINGS, chained, names as kinds,
};
pub use pointer::{Content, Record};
