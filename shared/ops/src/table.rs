//! Listings for people.

use std::fmt::{self, Write as _};

use crate::escape::{Escaped, FIELD};

/// Between two columns.
const GAP: &str = "  ";
/// Where there is nothing to show.
const EMPTY: &str = "-";

/// A plain-text table: a line of headings, then the rows, in columns as wide as they need.
///
/// Cells are escaped: what a relay calls itself cannot draw on the administrator's terminal.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![
                headings
                    .iter()
                    .map(|heading| heading.to_ascii_uppercase())
                    .collect(),
            ],
        }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| match Escaped::new(&cell, FIELD).to_string() {
            shown if shown.is_empty() => EMPTY.to_owned(),
            shown => shown,
        };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        (0..columns).map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}{GAP}")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let mut table = Table::new(&["NODE", "TRANSPORT", "STREAMS"]);
        table.row(["node-with-a-long-name".into(), "quic".into(), "12".into()]);
        table.row(["ä".into(), String::new(), "0".into()]);

        assert_eq!(
            table.to_string(),
            "NODE                   TRANSPORT  STREAMS\n\
             node-with-a-long-name  quic       12\n\
             ä                      -          0\n"
        );
    }

    #[test]
    fn a_cell_cannot_leave_its_row() {
        let mut table = Table::new(&["NODE"]);
        table.row(["a\nb\u{1b}[2J".into()]);
        assert_eq!(table.to_string(), "NODE\na\\nb\\u{1b}[2J\n");
    }
}
