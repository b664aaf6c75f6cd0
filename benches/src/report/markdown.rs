//! The report as Markdown.

use std::fmt::{self, Write};

use super::Report;
use super::tried::Tried;
use crate::outcome::{Cost, Goal, Grid, Metric, Outcome};
use crate::rows::Entry;
use crate::stats;

/// What stands beside a report in its folder.
#[derive(Clone, Copy)]
pub(super) struct Beside<'f> {
    /// Folder of the pictures.
    pub(super) pictures: &'f str,
    /// What was tried.
    pub(super) tried: &'f Tried,
}

/// Writes it, with what stands beside it if it is for a folder.
pub(super) fn write(report: &Report, beside: Option<Beside<'_>>) -> String {
    let mut text = String::new();
    whole(&mut text, report, beside).expect("a string takes all that is written");
    text
}

fn whole(out: &mut String, report: &Report, beside: Option<Beside<'_>>) -> fmt::Result {
    head(out, report)?;
    summary(out, &report.rows)?;
    for row in &report.rows {
        entry(out, row, (report.rounds, beside))?;
    }
    Ok(())
}

fn head(out: &mut String, report: &Report) -> fmt::Result {
    let machine = &report.machine;
    writeln!(out, "# Results\n")?;
    writeln!(
        out,
        "Ratios inside one run are what counts: a ratio is the median of the ratios of each round, and figures of \
         different runs or machines are not comparable. `lowest – highest` is the spread over the rounds, of which there \
         are {} where a table does not say otherwise.\n",
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
                .try_for_each(|found| goal(out, &row.id, found))?,
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

fn entry(
    out: &mut String,
    row: &Entry,
    (usual, beside): (usize, Option<Beside<'_>>),
) -> fmt::Result {
    writeln!(out, "## {}: {}\n", row.id, row.title)?;
    match &row.found {
        Ok(found) => {
            if let Some(Beside { pictures, .. }) = beside {
                writeln!(out, "![{}]({pictures}/{}.svg)\n", row.title, row.id)?;
            }
            outcome(out, found, usual)?;
        }
        Err(why) => writeln!(out, "Not measured: {}\n", one_line(why))?,
    }
    match beside.and_then(|beside| beside.tried.of(&row.id)) {
        Some(tried) => writeln!(out, "What was tried:\n\n{tried}\n"),
        None => Ok(()),
    }
}

fn outcome(out: &mut String, found: &Outcome, usual: usize) -> fmt::Result {
    found
        .metrics
        .iter()
        .try_for_each(|found| metric(out, found, usual))?;
    found.grids.iter().try_for_each(|found| grid(out, found))?;
    costs(out, found)?;
    for note in &found.notes {
        writeln!(out, "- {note}")?;
    }
    writeln!(out)
}

fn metric(out: &mut String, metric: &Metric, usual: usize) -> fmt::Result {
    let reference = metric.reference.as_deref().unwrap_or_default();
    let peer = metric.of(reference);
    let rounds = metric.series.iter().map(|series| series.values.len());
    let name = match rounds.max() {
        Some(rounds) if rounds != usual => format!("{} ({rounds} {})", metric.name, plural(rounds)),
        Some(_) | None => metric.name.clone(),
    };
    let (title, rule) = if peer.is_empty() {
        (String::new(), "")
    } else {
        (format!(" × {reference} |"), " ---: |")
    };
    writeln!(
        out,
        "| {name} | {} | lowest – highest |{title}",
        metric.unit
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

/// Conditions below each other, ways side by side; beside a way's figure what it is of the way that others are divided by.
fn grid(out: &mut String, grid: &Grid) -> fmt::Result {
    let ways = grid.ways();
    writeln!(
        out,
        "| {}, {} | {} |",
        grid.name,
        grid.unit,
        ways.join(" | ")
    )?;
    writeln!(out, "| --- |{}", " ---: |".repeat(ways.len()))?;
    for line in &grid.lines {
        let reference = line.reference.as_deref().unwrap_or_default();
        let cells = ways.iter().map(|way| match stats::median(line.of(way)) {
            none if none.is_nan() => "–".to_owned(),
            found if *way == reference || reference.is_empty() => number(found),
            found => {
                let ratio = stats::median(&stats::ratios(line.of(way), line.of(reference)));
                format!("{} ({} ×)", number(found), number(ratio))
            }
        });
        writeln!(
            out,
            "| {} | {} |",
            line.name,
            cells.collect::<Vec<_>>().join(" | ")
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

const fn plural(rounds: usize) -> &'static str {
    if rounds == 1 { "round" } else { "rounds" }
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
