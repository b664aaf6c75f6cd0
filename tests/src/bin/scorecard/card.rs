//! What was promised, and what was measured of it.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One promise.
#[derive(Debug)]
struct Figure {
    name: String,
    /// Seconds, at most.
    goal: f64,
    /// Seconds, sorted.
    measured: Vec<f64>,
}

/// Everything that was promised and measured.
#[derive(Debug)]
pub(crate) struct Card {
    /// How often each figure is measured.
    pub(crate) rounds: u32,
    figures: Vec<Figure>,
    faults: Vec<String>,
}

impl Figure {
    fn shortest(&self) -> f64 {
        self.measured.first().copied().unwrap_or(f64::INFINITY)
    }

    fn median(&self) -> f64 {
        let middle = self.measured.get(self.measured.len() / 2);
        middle.copied().unwrap_or(f64::INFINITY)
    }

    fn longest(&self) -> f64 {
        self.measured.last().copied().unwrap_or(f64::INFINITY)
    }

    fn is_met(&self) -> bool {
        self.longest() <= self.goal
    }
}

impl Card {
    pub(crate) const fn new(rounds: u32) -> Self {
        Self {
            rounds,
            figures: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Takes down a time in seconds, which is to be at most `goal`.
    pub(crate) fn note(&mut self, name: &str, goal: f64, seconds: f64) {
        let known = self.figures.iter().position(|figure| figure.name == name);
        let place = known.unwrap_or_else(|| {
            self.figures.push(Figure {
                name: name.to_owned(),
                goal,
                measured: Vec::new(),
            });
            self.figures.len() - 1
        });
        if let Some(figure) = self.figures.get_mut(place) {
            figure.measured.push(seconds);
            figure.measured.sort_by(f64::total_cmp);
        }
    }

    /// Takes down what must never happen, and did.
    pub(crate) fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    /// Whether all went as promised, and anything was measured at all.
    pub(crate) fn is_met(&self) -> bool {
        let met = self.figures.iter().all(Figure::is_met);
        met && self.faults.is_empty() && !self.figures.is_empty()
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<58} {:>8} {:>8} {:>8} {:>8}\n",
            "seconds", "goal", "min", "median", "max"
        );
        for figure in &self.figures {
            let times = [
                figure.goal,
                figure.shortest(),
                figure.median(),
                figure.longest(),
            ];
            write!(text, "{:<58}", figure.name).expect("a string takes all");
            for time in times {
                write!(text, " {time:>8.3}").expect("a string takes all");
            }
            text.push_str(if figure.is_met() { "\n" } else { "  MISSED\n" });
        }
        for fault in &self.faults {
            writeln!(text, "FAULT: {fault}").expect("a string takes all");
        }
        write!(text, "{} rounds", self.rounds).expect("a string takes all");
        text
    }

    pub(crate) fn json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "figure": figure.name,
                "goal": figure.goal,
                "min": figure.shortest(),
                "median": figure.median(),
                "max": figure.longest(),
                "met": figure.is_met(),
            })
        });
        json!({
            "rounds": self.rounds,
            "seconds": figures.collect::<Vec<_>>(),
            "faults": self.faults,
            "met": self.is_met(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_too_long_misses_the_goal() {
        let mut card = Card::new(3);
        assert!(!card.is_met(), "nothing was measured");
        for seconds in [0.3, 0.1, 0.2] {
            card.note("a", 0.3, seconds);
        }
        assert!(card.is_met());
        assert_eq!(card.figures[0].measured, [0.1, 0.2, 0.3]);

        card.note("b", 0.2, 0.25);
        assert!(!card.is_met());
        assert_eq!(card.json()["seconds"][1]["met"], false);
        assert_eq!(card.table().matches("MISSED").count(), 1);
    }

    #[test]
    fn a_fault_is_never_met() {
        let mut card = Card::new(1);
        card.note("a", 1.0, 0.5);
        card.fault("a cut answer looked complete".to_owned());
        assert!(!card.is_met());
        assert!(card.table().contains("FAULT: a cut answer"));
    }
}
