//! Rounds: every way is measured once in each, and each round begins with another one.

/// Runs `measure` for every subject in every round; its answers, by subject and then by round.
pub fn rotate<S, T>(
    rounds: usize,
    subjects: &[S],
    mut measure: impl FnMut(usize, &S) -> T,
) -> Vec<Vec<T>> {
    let mut all: Vec<Vec<T>> = subjects
        .iter()
        .map(|_| Vec::with_capacity(rounds))
        .collect();
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            let which = (turn + round) % subjects.len();
            if let (Some(subject), Some(answers)) = (subjects.get(which), all.get_mut(which)) {
                answers.push(measure(round, subject));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another() {
        let mut order = Vec::new();
        let answers = rotate(3, &['a', 'b', 'c'], |round, subject| {
            order.push(*subject);
            (round, *subject)
        });
        assert_eq!(order.iter().collect::<String>(), "abcbcacab");
        assert_eq!(answers[1], [(0, 'b'), (1, 'b'), (2, 'b')]);
    }
}
