//! Follows files and directories by looking at them, which works on every file system, NFS included.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Entries of a directory that are followed; further ones are not.
const MOST_ENTRIES: usize = 4096;

/// Files and directories that are followed. The content of a directory is, that of its subdirectories is not.
#[derive(Debug)]
pub struct Watch {
    paths: Vec<PathBuf>,
    ticks: Interval,
    seen: BTreeMap<PathBuf, Print>,
    look: Option<JoinHandle<BTreeMap<PathBuf, Print>>>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watch {
    /// Looks at `paths`, which need not exist, once in `every` (more than zero). What they are now is the start.
    ///
    /// # Panics
    /// Outside a tokio runtime, or when `every` is zero.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, every: Duration) -> Self {
        let seen = look_at(&paths);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            paths,
            ticks,
            seen,
            look: None,
        }
    }

    /// Waits until a path appeared, changed or went since the last time. Safe to cancel.
    ///
    /// A file being written may be reported before it is complete, and is then reported again.
    pub async fn changed(&mut self) {
        loop {
            if self.look.is_none() {
                self.ticks.tick().await;
                let paths = self.paths.clone();
                // a file server that does not answer holds up a thread for blocking work only
                self.look = Some(spawn_blocking(move || look_at(&paths)));
            }
            let Some(look) = self.look.as_mut() else {
                continue;
            };
            let found = look.await;
            self.look = None;
            if let Ok(found) = found
                && found != self.seen
            {
                self.seen = found;
                return;
            }
        }
    }
}

fn look_at(paths: &[PathBuf]) -> BTreeMap<PathBuf, Print> {
    let mut found = BTreeMap::new();
    for path in paths {
        let Ok(file) = fs::metadata(path) else {
            continue;
        };
        found.insert(path.clone(), Print::of(&file));
        if file.is_dir() {
            found.extend(entries(path));
        }
    }
    found
}

fn entries(directory: &Path) -> impl Iterator<Item = (PathBuf, Print)> {
    let entries = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .take(MOST_ENTRIES);
    entries.filter_map(|entry| {
        let path = entry.path();
        let file = fs::metadata(&path).ok()?;
        Some((path, Print::of(&file)))
    })
}

impl Print {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    /// Some looks pass without a change being reported.
    async fn is_quiet(watch: &mut Watch) -> bool {
        timeout(3 * EVERY, watch.changed()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_appears_changes_and_goes_is_reported_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.json");
        let mut watch = Watch::new(vec![path.clone()], EVERY);
        assert!(is_quiet(&mut watch).await);

        // a look that is under way may see a file that is not complete yet, but none of these
        crate::files::write_atomic(&path, b"1", 0o600).unwrap();
        watch.changed().await;
        assert!(is_quiet(&mut watch).await);

        fs::write(&path, "22").unwrap();
        watch.changed().await;

        fs::remove_file(&path).unwrap();
        watch.changed().await;
        assert!(is_quiet(&mut watch).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_replaced_by_one_like_it_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "1").unwrap();
        let mut watch = Watch::new(vec![path.clone()], EVERY);

        crate::files::write_atomic(&path, b"2", 0o600).unwrap();

        watch.changed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_is_followed_with_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("site-a.json");
        fs::write(&inside, "1").unwrap();
        let mut watch = Watch::new(vec![dir.path().to_owned()], EVERY);

        fs::write(&inside, "22").unwrap();
        watch.changed().await;
        fs::write(dir.path().join("site-b.json"), "1").unwrap();
        watch.changed().await;
    }

    #[test]
    fn a_directory_with_too_many_entries_is_followed_in_part() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..MOST_ENTRIES + 3 {
            fs::File::create(dir.path().join(n.to_string())).unwrap();
        }
        let found = look_at(&[dir.path().to_owned()]);
        assert_eq!(
            found.len(),
            1 + MOST_ENTRIES,
            "the directory and so many of its entries"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_when_the_wait_is_cancelled_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.json");
        let mut watch = Watch::new(vec![path.clone()], EVERY);
        fs::write(&path, "1").unwrap();

        let mut waits = 0;
        while timeout(EVERY / 10, watch.changed()).await.is_err() {
            waits += 1;
            assert!(waits < 1000, "the change is never reported");
        }
    }
}
