//! The log of a running process for its administrator: the route that tells it, and the reading of it by commands.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::StatusCode;
use hyper::body::Bytes;

use crate::admin::{Admin, AdminError, AdminRequest, AskError, listen, query};
use crate::debug::Debugging;
use crate::tasks::Tasks;
use crate::telemetry::{Category, Log, Logging, for_people};

/// The lines that are kept, as lines of JSON. Parameters: `follow=yes`, `category`.
const LOGS: &str = "/logs";
const FOLLOW: &str = "follow";
const CATEGORY: &str = "category";
const YES: &str = "yes";

/// Adds `GET /logs`, and [the switches](crate::debug::DEBUG) of these categories; a task ends each in its time.
#[must_use]
pub fn routes(
    admin: Admin,
    (categories, log): (&'static [Category], Log),
    logging: Logging,
    tasks: &Tasks,
) -> Admin {
    let debugging = Debugging::new(categories, log, logging.clone(), tasks);
    let admin = admin.stream(LOGS, move |request| read(&logging, categories, &request));
    debugging.route(admin)
}

fn read(
    logging: &Logging,
    categories: &'static [Category],
    request: &AdminRequest,
) -> Result<BoxStream<'static, Bytes>, AdminError> {
    let parameter = |name| request.query.get(name).map(String::as_str);
    let category = parameter(CATEGORY).map(|name| Category::find(categories, name));
    let category = category
        .transpose()
        .map_err(|error| AdminError::bad_request(error.to_string()))?;
    let follow = parameter(FOLLOW) == Some(YES);
    let reader = logging
        .read(category, follow)
        .map_err(|error| AdminError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let lines = stream::unfold(reader, async |mut reader| {
        let lines = reader.next().await?;
        Some((lines, reader))
    });
    Ok(lines.boxed())
}

/// What a command wants to see of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Whether to go on with what is logged later.
    pub follow: bool,
    /// Lines of this category only.
    pub category: Option<String>,
    /// Lines of JSON, as they are kept; else text for people.
    pub json: bool,
}

/// Why a log is not read further.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The process does not tell it.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It cannot be written on.
    #[error("writing the log: {0}")]
    Io(#[from] io::Error),
}

/// Writes the log of the process at `socket` to `out`: what is kept, and what comes if that is wished.
///
/// # Errors
/// [`LogsError`]. That nobody reads `out` any more is none.
pub async fn show(socket: &Path, wish: &Wish, out: &mut dyn Write) -> Result<(), LogsError> {
    let mut parameters = Vec::new();
    if wish.follow {
        parameters.push((FOLLOW, YES));
    }
    if let Some(category) = &wish.category {
        parameters.push((CATEGORY, category.as_str()));
    }
    let mut written = Ok(());
    let mut lines = Lines::default();
    listen(socket, &query(LOGS, &parameters), |bytes| {
        let done = if wish.json {
            out.write_all(bytes)
        } else {
            lines.write(bytes, out)
        };
        written = done.and_then(|()| out.flush());
        if written.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
    .await?;
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whole lines of bytes that come in pieces.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Writes the lines that have ended by now as text for people.
    fn write(&mut self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        self.begun.extend_from_slice(bytes);
        let end = self.begun.iter().rposition(|byte| *byte == b'\n');
        let rest = self
            .begun
            .split_off(end.map_or(0, |end| end.saturating_add(1)));
        let whole = std::mem::replace(&mut self.begun, rest);
        let text: String = String::from_utf8_lossy(&whole)
            .lines()
            .map(|line| for_people(line) + "\n")
            .collect();
        out.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_pieces_are_shown_whole() {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        let line = "{\"time\":\"t\",\"level\":\"INFO\",\"target\":\"a\",\"message\":\"ä\"}\n";
        for byte in line.repeat(2).bytes() {
            lines.write(&[byte], &mut out).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "t INFO  a: ä\n".repeat(2));
    }
}
