//! New files that are there together or not at all.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::files;

/// Mode of a directory that is the administrator's alone.
pub const MODE_DIR: u32 = 0o700;

/// Mode of a file with a secret.
pub const MODE_SECRET: u32 = 0o600;

/// Mode of a file that everybody may read.
pub const MODE_PUBLIC: u32 = 0o644;

/// What has been written so far; removed again unless everything is.
#[derive(Debug, Default)]
pub struct Written(Vec<PathBuf>);

impl Written {
    /// Makes a directory that is not there yet.
    ///
    /// # Errors
    /// As of the system; [`io::ErrorKind::AlreadyExists`] if something is there.
    pub fn make_directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().mode(mode).create(path)?;
        self.0.push(path.to_owned());
        Ok(())
    }

    /// Writes a file that is not there yet.
    ///
    /// # Errors
    /// As [`files::write_new`].
    pub fn put(&mut self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        files::write_new(path, bytes, mode)?;
        self.0.push(path.to_owned());
        Ok(())
    }

    /// Notes what was made otherwise, so that it goes or stays with the rest.
    pub fn note(&mut self, path: &Path) {
        self.0.push(path.to_owned());
    }

    /// All of it, in the order in which it was written.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// Everything is written: it stays.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // the error that led here is the one to tell
            drop(fs::remove_file(path).or_else(|_directory| fs::remove_dir(path)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path) -> io::Result<Written> {
        let mut written = Written::default();
        let inside = folder.join("new");
        written.make_directory(&inside, 0o700)?;
        written.put(&inside.join("a"), b"1", 0o600)?;
        written.put(&folder.join("b"), b"2", 0o600)?;
        Ok(written)
    }

    #[test]
    fn all_of_it_stays_or_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let there = |name: &str| folder.path().join(name).exists();
        fs::write(folder.path().join("b"), "old").expect("writable");

        let refused = write(folder.path()).expect_err("b is there");

        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(!there("new") && there("b"), "what was there stays");

        fs::remove_file(folder.path().join("b")).expect("ours");
        let written = write(folder.path()).expect("written");
        assert_eq!(written.paths().len(), 3);
        written.keep();
        assert!(there("new/a") && there("b"));
    }
}
