//! A row as a picture: a bar for each way's median, a line from its lowest to its highest round.

use std::fmt::{self, Write};

use super::markdown::number;
use crate::outcome::{Grid, Metric, Outcome, Series};
use crate::stats;

const WIDTH: u32 = 860;
const LABELS: f64 = 210.0;
const BARS: f64 = 520.0;
const LINE: f64 = 22.0;
const TITLE: f64 = 34.0;

/// Draws it.
pub(super) fn draw(title: &str, found: &Outcome) -> String {
    let mut svg = String::new();
    whole(&mut svg, title, found).expect("a string takes all that is written");
    svg
}

fn whole(out: &mut String, title: &str, found: &Outcome) -> fmt::Result {
    let of_grids = found.grids.iter().flat_map(panels);
    let panels: Vec<_> = found
        .metrics
        .iter()
        .map(Panel::of)
        .chain(of_grids)
        .collect();
    let height = TITLE + panels.iter().map(Panel::height).sum::<f64>();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>",
        escaped(title)
    )?;
    let mut top = TITLE;
    for one in &panels {
        panel(out, top, one)?;
        top += one.height();
    }
    writeln!(out, "</svg>")
}

/// Bars with a common scale.
struct Panel<'o> {
    title: String,
    metric: &'o Metric,
}

impl<'o> Panel<'o> {
    fn of(metric: &'o Metric) -> Self {
        Self {
            title: format!("{}, {}", metric.name, metric.unit),
            metric,
        }
    }

    fn height(&self) -> f64 {
        let lines = u32::try_from(self.metric.series.len()).unwrap_or(u32::MAX);
        f64::from(lines) * LINE + 40.0
    }
}

/// One for each condition.
fn panels(grid: &Grid) -> impl Iterator<Item = Panel<'_>> {
    grid.lines.iter().map(|metric| Panel {
        title: format!("{}, {}: {}", grid.name, grid.unit, metric.name),
        metric,
    })
}

fn panel(out: &mut String, top: f64, panel: &Panel<'_>) -> fmt::Result {
    let metric = panel.metric;
    writeln!(
        out,
        "<text x=\"12\" y=\"{:.0}\" fill=\"#444\">{}</text>",
        top + 16.0,
        escaped(&panel.title)
    )?;
    let highest = metric
        .series
        .iter()
        .map(|series| stats::most(&series.values));
    let highest = highest.fold(f64::MIN_POSITIVE, f64::max);
    let mut y = top + 24.0;
    for series in &metric.series {
        bar(out, y, series, BARS / highest)?;
        y += LINE;
    }
    Ok(())
}

fn bar(out: &mut String, y: f64, series: &Series, scale: f64) -> fmt::Result {
    let values = &series.values;
    let at = |value: f64| LABELS + value.max(0.0) * scale;
    let (median, least, most) = (
        stats::median(values),
        stats::least(values),
        stats::most(values),
    );
    let fill = if series.way.starts_with("Sallyport") {
        "#1b6ca8"
    } else {
        "#a9b4bf"
    };
    let middle = y + LINE / 2.0;
    writeln!(
        out,
        "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        LABELS - 8.0,
        middle + 4.5,
        escaped(&series.way)
    )?;
    writeln!(
        out,
        "<rect x=\"{LABELS:.0}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
        y + 3.0,
        at(median) - LABELS,
        LINE - 6.0
    )?;
    writeln!(
        out,
        "<path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#222\"/>\n<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        at(least),
        at(most),
        at(most) + 8.0,
        middle + 4.5,
        number(median)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
