//! Tables, pictures and JSON of what was found.

mod markdown;
mod picture;
mod tried;

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use self::markdown::Beside;
use self::tried::Tried;
use crate::machine::Machine;
use crate::peers::Peer;
use crate::rows::Entry;

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When it began, UTC.
    pub date: String,
    /// The command that made it.
    pub command: String,
    /// Rounds of each row.
    pub rounds: usize,
    /// Where it ran.
    pub machine: Machine,
    /// Whom it met there.
    pub peers: Vec<Peer>,
    /// The rows.
    pub rows: Vec<Entry>,
}

impl Report {
    /// As Markdown, without pictures.
    #[must_use]
    pub fn text(&self) -> String {
        markdown::write(self, None)
    }

    /// Writes RESULTS.md, with what TRIED.md beside it says of each row, and a picture of each row into `pictures`.
    ///
    /// # Errors
    /// If the folder is not writable, or TRIED.md not readable.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        let pictures = folder.join("pictures");
        fs::create_dir_all(&pictures)?;
        for row in &self.rows {
            if let Ok(found) = &row.found {
                let picture = picture::draw(&format!("{}: {}", row.id, row.title), found);
                fs::write(pictures.join(format!("{}.svg", row.id)), picture)?;
            }
        }
        let tried = Tried::read(&folder.join("TRIED.md"))?;
        let beside = Beside {
            pictures: "pictures",
            tried: &tried,
        };
        let text = markdown::write(self, Some(beside));
        fs::write(folder.join("RESULTS.md"), text)
    }

    /// Writes all of it as JSON.
    ///
    /// # Errors
    /// If the file is not writable.
    pub fn write_json(&self, file: &Path) -> io::Result<()> {
        fs::write(file, serde_json::to_vec_pretty(self)?)
    }
}
