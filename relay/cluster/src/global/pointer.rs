//! The pointer: which epochs are kept, and where their contents stand.

use serde::{Deserialize, Serialize};

/// The form that this version writes and reads.
const FORMAT: u64 = 1;

/// The pointer's value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pointer {
    format: u64,
    /// The newest last.
    epochs: Vec<Record>,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number, from 1.
    pub epoch: u64,
    /// When it was made, in milliseconds since 1970 by the clock of whoever made it.
    pub made: u64,
    /// The node or machine that made it.
    pub by: String,
    /// The epoch whose content it took back; none if it was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// How many objects it has.
    pub objects: u64,
    /// Its content.
    pub content: Content,
}

/// Where a content stands, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The word below which its parts stand.
    pub set: String,
    /// How many parts it has.
    pub parts: usize,
    /// How long it is, in bytes.
    pub bytes: usize,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Reads the pointer; none if it has another form.
pub(super) fn read(payload: &[u8]) -> Option<Vec<Record>> {
    let pointer: Pointer = serde_json::from_slice(payload).ok()?;
    let rises = pointer
        .epochs
        .is_sorted_by(|one, next| one.epoch < next.epoch);
    (pointer.format == FORMAT && rises && !pointer.epochs.is_empty()).then_some(pointer.epochs)
}

/// The pointer to these epochs.
pub(super) fn write(epochs: Vec<Record>) -> Vec<u8> {
    let pointer = Pointer {
        format: FORMAT,
        epochs,
    };
    // texts and numbers always become JSON
    serde_json::to_vec(&pointer).unwrap_or_default()
}
