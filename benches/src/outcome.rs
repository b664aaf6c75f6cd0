//! What a row found: figures of every round, what they cost, and whether the goals are met.

use serde::Serialize;

use crate::cost::{Cpu, Process};
use crate::stats;

/// Everything that one row found.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// What [`Outcome::costs`] are counted for and in.
    pub cost_of: String,
    /// What it cost each process.
    pub costs: Vec<Cost>,
    /// What was promised.
    pub goals: Vec<Goal>,
    /// What a reader has to know beside it: what was absent, what was done otherwise than the goal says.
    pub notes: Vec<String>,
}

/// One thing measured on several ways.
#[derive(Debug, Serialize)]
pub struct Metric {
    /// What.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// The way whose figures the others are divided by.
    pub reference: Option<String>,
    /// The figures.
    pub series: Vec<Series>,
}

/// One way's figures, one a round.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// The way.
    pub way: String,
    /// Its figures.
    pub values: Vec<f64>,
}

/// Processor time of one process.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// The way.
    pub way: String,
    /// The process.
    pub process: String,
    /// Mean of the rounds, for each unit of work.
    pub cpu: Cpu,
}

/// A promise, and how it stands.
#[derive(Debug, Serialize)]
pub struct Goal {
    /// What was promised.
    pub text: String,
    /// What was found, one a round; empty if there was nothing to compare with.
    pub values: Vec<f64>,
    /// Unit of the values; `×` for a ratio.
    pub unit: &'static str,
    /// What meets it.
    pub wanted: Wanted,
}

/// When a goal is met.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Wanted {
    /// From this on.
    AtLeast(f64),
    /// Up to this.
    AtMost(f64),
}

impl Metric {
    /// Without figures yet.
    #[must_use]
    pub fn new(name: &str, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            reference: None,
            series: Vec::new(),
        }
    }

    /// Compared with one of its ways.
    #[must_use]
    pub fn against(mut self, reference: &str) -> Self {
        self.reference = Some(reference.to_owned());
        self
    }

    /// Adds a way's figures.
    pub fn push(&mut self, way: &str, values: Vec<f64>) {
        self.series.push(Series {
            way: way.to_owned(),
            values,
        });
    }

    /// A way's figures; none if the way was absent.
    #[must_use]
    pub fn of(&self, way: &str) -> &[f64] {
        let found = self.series.iter().find(|series| series.way == way);
        found.map_or(&[], |series| &series.values)
    }

    /// A goal for the ratio of two ways.
    #[must_use]
    pub fn ratio(&self, text: &str, ways: (&str, &str), wanted: Wanted) -> Goal {
        let (ours, peer) = ways;
        Goal {
            text: text.to_owned(),
            values: stats::ratios(self.of(ours), self.of(peer)),
            unit: "×",
            wanted,
        }
    }
}

impl Cost {
    /// The mean of each process over the rounds, in each of which every process has its place.
    #[must_use]
    pub fn means(way: &str, processes: &[Process], rounds: &[Vec<Cpu>]) -> Vec<Self> {
        let count = f64::from(u32::try_from(rounds.len()).unwrap_or(u32::MAX));
        let mean = |(at, process): (usize, &Process)| {
            let of_process = rounds.iter().filter_map(|round| round.get(at));
            let sum = of_process.fold(Cpu::default(), |sum, cpu| sum + *cpu);
            Self {
                way: way.to_owned(),
                process: process.name.clone(),
                cpu: sum.per(count),
            }
        };
        processes.iter().enumerate().map(mean).collect()
    }
}

impl Goal {
    /// How it stands in one word.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        let found = stats::median(&self.values);
        let met = match self.wanted {
            Wanted::AtLeast(least) => found >= least,
            Wanted::AtMost(most) => found <= most,
        };
        match (self.values.is_empty(), met) {
            (true, _) => "no peer",
            (false, true) => "met",
            (false, false) => "missed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_judged_by_the_median_ratio_of_the_rounds() {
        let mut metric = Metric::new("throughput", "Gbit/s");
        metric.push("ours", vec![1.0, 9.0, 2.0]);
        metric.push("theirs", vec![1.0, 1.0, 4.0]);
        let goal = |least| metric.ratio("", ("ours", "theirs"), Wanted::AtLeast(least));
        assert_eq!(goal(1.0).verdict(), "met");
        assert_eq!(goal(1.1).verdict(), "missed");
        let alone = metric.ratio("", ("ours", "absent"), Wanted::AtMost(1.0));
        assert_eq!(alone.verdict(), "no peer");
    }
}
