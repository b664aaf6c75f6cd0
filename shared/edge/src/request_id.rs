//! Ids by which a client's report and our log find each other.

use aws_lc_rs::rand;

const DIGITS: [char; 16] = [
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
];

/// 80 random bits in hexadecimal.
pub(crate) fn fresh() -> String {
    let mut bytes = [0_u8; 10];
    if rand::fill(&mut bytes).is_err() {
        tracing::warn!("no randomness, so request ids repeat");
    }
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let halves = [byte >> 4, byte & 0xf].map(|half| DIGITS.get(usize::from(half)));
        text.extend(halves.into_iter().flatten());
    }
    text
}
