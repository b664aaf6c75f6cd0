//! What was tried for a row, in the words of whoever tried it: kept in a file of its own, which no run writes.

use std::fs;
use std::io;
use std::path::Path;

/// What the file says, by row.
#[derive(Debug, Default)]
pub(super) struct Tried {
    sections: Vec<(String, String)>,
}

impl Tried {
    /// Reads the file; nothing was tried if there is none.
    pub(super) fn read(file: &Path) -> io::Result<Self> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Sections that begin with `## <id of a row>`; what stands before the first is for readers of the file.
    fn parse(text: &str) -> Self {
        let after_heading = |section: &str| {
            let (id, text) = section.split_once('\n')?;
            Some((id.trim().to_owned(), text.trim().to_owned()))
        };
        let text = format!("\n{text}");
        let sections = text.split("\n## ").skip(1).filter_map(after_heading);
        Self {
            sections: sections.collect(),
        }
    }

    /// What was tried for a row.
    pub(super) fn of(&self, id: &str) -> Option<&str> {
        let mut sections = self.sections.iter();
        let (_id, text) = sections.find(|(found, _)| found == id)?;
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_section() {
        let tried = Tried::parse(
            "# Tried\n\nWords.\n\n## P1\n\n- larger writes\n\n## P3-wan\n\n- BBR\n- none\n",
        );
        assert_eq!(tried.of("P1"), Some("- larger writes"));
        assert_eq!(tried.of("P3-wan"), Some("- BBR\n- none"));
        assert_eq!(tried.of("P3"), None);
    }
}
