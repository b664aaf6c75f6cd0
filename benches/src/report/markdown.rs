//! The report as Markdown.

use std::fmt::{self, Write};

use super::Report;
use crate::outcome::{Cost, Goal, Metric, Outcome};
use crate::rows::Entry;
use crate::stats;

/// Writes it, with pictures from a folder beside it if there is one.
pub(super) fn write(report: &Report, pictures: Option<&str>) -> String {
    let mut text = String::new();
    whole(&mut text, report, pictures).expect("a string takes all that is written");
    text
}

fn whole(out: &mut String, report: &Report, pictures: Option<&str>) -> fmt::Result {
    head(out, report)?;
    summary(out, &report.rows)?;
    for row in &report.rows {
        entry(out, row, pictures)?;
    }
    Ok(())
}

fn head(out: &mut String, report: &Report) -> fmt::Result {
    let machine = &report.machine;
    writeln!(out, "# Results\n")?;
    writeln!(
        out,
        "Ratios inside one run are what counts: a ratio is the median of the ratios of each round, and figures of \
         different runs or machines are not comparable. `lowest – highest` is the spread over {} rounds.\n",
        report.rounds
    )?;
    writeln!(out, "| | |\n| --- | --- |")?;
    writeln!(
        out,
        "| Date | {} |\n| Command | `{}` |",
        report.date, report.command
    )?;
    writeln!(
        out,
        "| Machine | {} × {}, {} MiB, Linux {}, load before the run {} |",
        machine.processors, machine.processor, machine.memory, machine.kernel, machine.load
    )?;
    for peer in &report.peers {
        let version = peer.version.as_deref().unwrap_or("absent");
        writeln!(out, "| {} | {version} |", peer.program)?;
    }
    writeln!(out)
}

fn summary(out: &mut String, rows: &[Entry]) -> fmt::Result {
    writeln!(
        out,
        "## Goals\n\n| row | goal | found | lowest – highest | |\n| --- | --- | --- | --- | --- |"
    )?;
    for row in rows {
        match &row.found {
            Ok(found) => found
                .goals
                .iter()
                .try_for_each(|found| goal(out, row.id, found))?,
            Err(why) => writeln!(
                out,
                "| {} | | not measured: {} | | |",
                row.id,
                one_line(why)
            )?,
        }
    }
    writeln!(out)
}

fn goal(out: &mut String, id: &str, goal: &Goal) -> fmt::Result {
    let (found, spread) = match goal.values.as_slice() {
        [] => ("–".to_owned(), String::new()),
        values => (
            format!("{} {}", number(stats::median(values)), goal.unit),
            format!(
                "{} – {}",
                number(stats::least(values)),
                number(stats::most(values))
            ),
        ),
    };
    writeln!(
        out,
        "| {id} | {} | {found} | {spread} | {} |",
        goal.text,
        goal.verdict()
    )
}

fn entry(out: &mut String, row: &Entry, pictures: Option<&str>) -> fmt::Result {
    writeln!(out, "## {}: {}\n", row.id, row.title)?;
    match &row.found {
        Ok(found) => {
            if let Some(folder) = pictures {
                writeln!(out, "![{}]({folder}/{}.svg)\n", row.title, row.id)?;
            }
            outcome(out, found)
        }
        Err(why) => writeln!(out, "Not measured: {}\n", one_line(why)),
    }
}

fn outcome(out: &mut String, found: &Outcome) -> fmt::Result {
    found
        .metrics
        .iter()
        .try_for_each(|found| metric(out, found))?;
    costs(out, found)?;
    for note in &found.notes {
        writeln!(out, "- {note}")?;
    }
    writeln!(out)
}

fn metric(out: &mut String, metric: &Metric) -> fmt::Result {
    let reference = metric.reference.as_deref().unwrap_or_default();
    let peer = metric.of(reference);
    let (title, rule) = if peer.is_empty() {
        (String::new(), "")
    } else {
        (format!(" × {reference} |"), " ---: |")
    };
    writeln!(
        out,
        "| {} | {} | lowest – highest |{title}",
        metric.name, metric.unit
    )?;
    writeln!(out, "| --- | ---: | ---: |{rule}")?;
    for series in &metric.series {
        let values = &series.values;
        let ratio = match peer {
            [] => String::new(),
            peer => format!(" {} |", number(stats::median(&stats::ratios(values, peer)))),
        };
        writeln!(
            out,
            "| {} | {} | {} – {} |{ratio}",
            series.way,
            number(stats::median(values)),
            number(stats::least(values)),
            number(stats::most(values)),
        )?;
    }
    writeln!(out)
}

fn costs(out: &mut String, found: &Outcome) -> fmt::Result {
    if found.costs.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "| CPU of each process, {} | process | user | system |",
        found.cost_of
    )?;
    writeln!(out, "| --- | --- | ---: | ---: |")?;
    for cost in &found.costs {
        let Cost { way, process, cpu } = cost;
        writeln!(
            out,
            "| {way} | {process} | {} | {} |",
            number(cpu.user),
            number(cpu.system)
        )?;
    }
    writeln!(out)
}

/// With three digits that say something.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        below if below < 0.9995 => 3,
        below if below < 9.995 => 2,
        below if below < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.123, 9.994, 9.996, 42.04, 1_234.5].map(number);
        assert_eq!(written, ["0.123", "9.99", "10.0", "42.0", "1234"]);
    }
}
