//! Ids by which a client's report and our log find each other.

use std::fmt::Write;

use aws_lc_rs::rand;

/// 80 random bits in hexadecimal.
pub(crate) fn fresh() -> String {
    let mut bytes = [0_u8; 10];
    if rand::fill(&mut bytes).is_err() {
        tracing::warn!("no randomness, so request ids repeat");
    }
    bytes
        .iter()
        .fold(String::with_capacity(20), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        })
}
