//! Collects everything that is wrong with a file, each with its line, so that it is fixed in one go.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1; none for a fault of the whole.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub text: String,
}

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FaultList {
    /// The file.
    pub path: PathBuf,
    /// At least one fault, in the order of the lines.
    pub faults: Vec<Fault>,
}

impl fmt::Display for FaultList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.faults.iter().enumerate() {
            let newline = if place == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", self.path.display())?;
            if let Some(line) = fault.line {
                write!(f, ": line {line}")?;
            }
            write!(f, ": {}", fault.text)?;
        }
        Ok(())
    }
}

/// The faults found so far in one file.
pub(super) struct Faults<'a> {
    text: &'a str,
    path: &'a Path,
    found: Vec<Fault>,
}

impl<'a> Faults<'a> {
    pub(super) const fn new(text: &'a str, path: &'a Path) -> Self {
        Self {
            text,
            path,
            found: Vec::new(),
        }
    }

    /// The value if nothing was wrong, else all faults.
    pub(super) fn none_or<T>(self, value: Option<T>) -> Result<T, FaultList> {
        let Self {
            path, mut found, ..
        } = self;
        match value {
            Some(value) if found.is_empty() => Ok(value),
            _ => {
                found.sort_by_key(|fault| fault.line);
                Err(FaultList {
                    path: path.to_owned(),
                    faults: found,
                })
            }
        }
    }

    pub(super) const fn path(&self) -> &Path {
        self.path
    }

    /// A path of the file, which counts from the file's own folder.
    pub(super) fn beside(&self, path: &Path) -> PathBuf {
        self.path
            .parent()
            .unwrap_or_else(|| Path::new(""))
            .join(path)
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        before
            .filter(|byte| **byte == b'\n')
            .count()
            .saturating_add(1)
    }

    pub(super) fn at(&mut self, span: &Range<usize>, text: String) {
        let line = Some(self.line(span.start));
        self.found.push(Fault { line, text });
    }

    pub(super) fn whole(&mut self, text: String) {
        self.found.push(Fault { line: None, text });
    }

    /// A value that checks itself.
    pub(super) fn parsed<T>(&mut self, given: &Spanned<String>) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        match given.get_ref().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.at(&given.span(), error.to_string());
                None
            }
        }
    }

    /// A number that must lie in a range; the default where none is given.
    pub(super) fn in_range<N>(
        &mut self,
        key: &str,
        given: Option<Spanned<N>>,
        default: N,
        range: RangeInclusive<N>,
    ) -> N
    where
        N: Copy + PartialOrd + fmt::Debug,
    {
        let Some(given) = given else { return default };
        let value = *given.get_ref();
        if range.contains(&value) {
            return value;
        }
        let (low, high) = (range.start(), range.end());
        self.at(
            &given.span(),
            format!("`{key} = {value:?}` must be between {low:?} and {high:?}"),
        );
        default
    }

    /// A short label without control characters.
    pub(super) fn word(&mut self, key: &str, given: Spanned<String>) -> String {
        let fits =
            |text: &str| (1..=64).contains(&text.len()) && !text.chars().any(char::is_control);
        if !fits(given.get_ref()) {
            self.at(
                &given.span(),
                format!("a {key} has 1 to 64 printable characters"),
            );
        }
        given.into_inner()
    }
}
