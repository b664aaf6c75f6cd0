//! What a row found: figures of every round, what they cost, and whether the goals are met.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::cost::{Cpu, Process};
use crate::stats;

/// Everything that one row found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// What was measured under several conditions.
    pub grids: Vec<Grid>,
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
#[derive(Debug, Serialize, Deserialize)]
pub struct Metric {
    /// What.
    pub name: String,
    /// Its unit.
    pub unit: Cow<'static, str>,
    /// The way whose figures the others are divided by.
    pub reference: Option<String>,
    /// The figures.
    pub series: Vec<Series>,
}

/// One thing measured under several conditions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Grid {
    /// What.
    pub name: String,
    /// Its unit.
    pub unit: Cow<'static, str>,
    /// What was found under each condition, which the metric is named for.
    pub lines: Vec<Metric>,
}

/// One way's figures, one a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    /// The way.
    pub way: String,
    /// Its figures.
    #[serde(deserialize_with = "figures")]
    pub values: Vec<f64>,
}

/// Processor time of one process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cost {
    /// The way.
    pub way: String,
    /// The process.
    pub process: String,
    /// Mean of the rounds, for each unit of work.
    pub cpu: Cpu,
}

/// A promise, and how it stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Goal {
    /// What was promised.
    pub text: String,
    /// What was found, one a round; empty if there was nothing to compare with.
    #[serde(deserialize_with = "figures")]
    pub values: Vec<f64>,
    /// Unit of the values; `×` for a ratio.
    pub unit: Cow<'static, str>,
    /// What meets it.
    pub wanted: Wanted,
}

/// When a goal is met.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Wanted {
    /// From this on.
    AtLeast(f64),
    /// Up to this.
    AtMost(f64),
}

impl Grid {
    /// Without figures yet.
    #[must_use]
    pub fn new(name: &str, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            unit: Cow::Borrowed(unit),
            lines: Vec::new(),
        }
    }

    /// The ways, in the order in which they were measured.
    #[must_use]
    pub fn ways(&self) -> Vec<&str> {
        let first = self.lines.iter().max_by_key(|line| line.series.len());
        let series = first.map(|line| line.series.as_slice()).unwrap_or_default();
        series.iter().map(|series| series.way.as_str()).collect()
    }
}

impl Metric {
    /// Without figures yet.
    #[must_use]
    pub fn new(name: &str, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            unit: Cow::Borrowed(unit),
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
            unit: Cow::Borrowed("×"),
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
    /// How it stands: met, or missed by how much.
    #[must_use]
    pub fn verdict(&self) -> String {
        let found = stats::median(&self.values);
        if found.is_nan() {
            return "no figure".to_owned();
        }
        let (bound, short) = match self.wanted {
            Wanted::AtLeast(least) => (least, least - found),
            Wanted::AtMost(most) => (most, found - most),
        };
        if short <= 0.0 {
            return "met".to_owned();
        }
        // Beside a bound of nothing, a share says nothing.
        if bound.abs() < f64::EPSILON {
            return format!("missed by {short:.1} {}", self.unit);
        }
        let percent = short / bound.abs() * 100.0;
        if percent < 10.0 {
            return format!("missed by {percent:.1} %");
        }
        format!("missed by {percent:.0} %")
    }
}

/// JSON has no word for what is not a number; it writes nothing in its place.
fn figures<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    let written = Vec::<Option<f64>>::deserialize(from)?;
    Ok(written
        .into_iter()
        .map(|figure| figure.unwrap_or(f64::NAN))
        .collect())
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
        assert_eq!(goal(1.25).verdict(), "missed by 20 %");
        let alone = metric.ratio("", ("ours", "absent"), Wanted::AtMost(1.0));
        assert_eq!(alone.verdict(), "no figure");
    }

    #[test]
    fn beside_a_bound_of_nothing_the_difference_is_told() {
        let goal = |found| Goal {
            text: String::new(),
            values: vec![found],
            unit: Cow::Borrowed("µs"),
            wanted: Wanted::AtMost(0.0),
        };
        assert_eq!(goal(2.5).verdict(), "missed by 2.5 µs");
        assert_eq!(goal(-2.5).verdict(), "met");
        assert_eq!(goal(f64::NAN).verdict(), "no figure");
    }

    #[test]
    fn what_was_found_is_written_and_read() {
        let mut metric = Metric::new("throughput", "Gbit/s").against("theirs");
        metric.push("ours", vec![1.5, f64::NAN]);
        let outcome = Outcome {
            metrics: vec![metric],
            ..Outcome::default()
        };
        let written = serde_json::to_vec(&outcome).expect("JSON");
        let read: Outcome = serde_json::from_slice(&written).expect("the same");
        let values = read.metrics.first().expect("one").of("ours").to_vec();
        assert!(matches!(values.as_slice(), [found, none] if *found > 1.4 && none.is_nan()));
    }
}
