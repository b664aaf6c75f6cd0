//! Medians and spreads of a handful of rounds.

/// The value in the middle, or the mean of the two in the middle; not a number if there is none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 {
        return upper;
    }
    let lower = middle.checked_sub(1).and_then(|at| sorted.get(at));
    lower.map_or(upper, |lower| f64::midpoint(*lower, upper))
}

/// The smallest value.
#[must_use]
pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::min)
}

/// The greatest value.
#[must_use]
pub fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// One value a round: what `of` makes of the two of that round.
#[must_use]
pub fn by_round(ours: &[f64], peer: &[f64], of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    ours.iter()
        .zip(peer)
        .map(|(ours, peer)| of(*ours, *peer))
        .collect()
}

/// Ours over the peer's.
#[must_use]
pub fn ratios(ours: &[f64], peer: &[f64]) -> Vec<f64> {
    by_round(ours, peer, |ours, peer| ours / peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_ratio_compares_within_its_round() {
        let ratios = ratios(&[1.0, 20.0], &[2.0, 10.0]);
        assert!((least(&ratios) - 0.5).abs() < f64::EPSILON);
        assert!((most(&ratios) - 2.0).abs() < f64::EPSILON);
    }
}
