//! The gateways that this relay dials: those of its gateway files, as these appear, change and go.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sallyport_link::{GatewayFile, KeyFileError};
use sallyport_ops::files::FileError;
use sallyport_ops::{Tasks, Watch};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, info_span, warn};

use crate::keeper;
use crate::outfit::Outfit;
use crate::wanted::Wanted;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most files of one directory that are read.
const MAX_FILES: usize = 64;

/// What is told of a file that does not exist.
const MISSING: &str = "not there; the relay dials when it appears";

/// The same of a folder's.
const WHEN_THERE: &str = "the relay dials when one appears";

/// Follows the gateway files for ever, beginning with what they said at start: one keeper for each gateway
/// that they name.
pub async fn follow(mut files: Files, outfit: Arc<Outfit>, tasks: Tasks) {
    let paths = files.paths.clone();
    let Ok(mut watch) = spawn_blocking(move || Watch::new(paths, LOOK_EVERY)).await else {
        return; // only where the runtime ends
    };
    let mut keepers: BTreeMap<String, watch::Sender<Arc<Wanted>>> = BTreeMap::new();
    loop {
        // a file server that hangs holds up no tunnel
        let reading = spawn_blocking(move || {
            let wanted = files.read();
            (files, wanted)
        });
        let Ok((back, wanted)) = reading.await else {
            return;
        };
        files = back;
        let urls = wanted.keys().cloned().collect();
        outfit.board.files(files.listing(), urls);
        keepers.retain(|url, keeper| {
            let stays = wanted.contains_key(url) && !keeper.is_closed();
            if !stays {
                info!(gateway = %url, "gateway is gone from the files: draining its tunnels");
            }
            stays
        });
        for (url, wanted) in wanted {
            match keepers.get(&url) {
                Some(keeper) => {
                    keeper.send_if_modified(|now| {
                        let news = !now.is_same(&wanted);
                        if news {
                            *now = Arc::new(wanted);
                        }
                        news
                    });
                }
                None => {
                    let (keeper, wishes) = watch::channel(Arc::new(wanted));
                    let span = info_span!("gateway", gateway = %url);
                    tasks.spawn(
                        span,
                        keeper::keep(Arc::clone(&outfit), wishes, tasks.clone()),
                    );
                    keepers.insert(url, keeper);
                }
            }
        }
        watch.changed().await;
    }
}

/// What the gateway files say, and said last when one became unreadable.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    good: BTreeMap<PathBuf, GatewayFile>,
    faults: BTreeMap<PathBuf, String>,
}

impl Files {
    /// Nothing read yet.
    #[must_use]
    pub const fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            good: BTreeMap::new(),
            faults: BTreeMap::new(),
        }
    }

    /// Reads all files. One that is gone is forgotten; one that cannot be used keeps what it said last, and
    /// the log says once why.
    pub fn read(&mut self) -> BTreeMap<String, Wanted> {
        let there = expand(&self.paths);
        self.good.retain(|path, _| there.contains(path));
        self.faults.retain(|path, _| there.contains(path));
        for path in there {
            match GatewayFile::load(&path) {
                Ok(file) => {
                    self.faults.remove(&path);
                    self.good.insert(path, file);
                }
                Err(error) if is_missing(&error) => {
                    self.good.remove(&path);
                    self.faults.insert(path, MISSING.to_owned());
                }
                Err(error) => self.fault(path, error.to_string()),
            }
        }
        merge(&self.good.values().collect::<Vec<_>>())
    }

    /// Why some gateway, or any, is not dialled although nothing is wrong: files may come later.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        if self.paths.is_empty() {
            return vec!["no gateway_file is configured: this relay dials nobody".to_owned()];
        }
        let empty = |path: &&PathBuf| path.is_dir() && inside(path).is_empty();
        let empty = self
            .paths
            .iter()
            .filter(empty)
            .map(|folder| format!("{}: no .json file in it; {WHEN_THERE}", folder.display()));
        let missing = self.faults.iter().filter(|(_, text)| *text == MISSING);
        let missing = missing.map(|(path, text)| format!("{}: {text}", path.display()));
        empty.chain(missing).collect()
    }

    /// What is wrong with files that are there.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        self.faults
            .values()
            .map(String::as_str)
            .filter(|text| *text != MISSING)
    }

    /// Each file with what is wrong with it, `None` if nothing is.
    #[must_use]
    pub fn listing(&self) -> Vec<(PathBuf, Option<String>)> {
        let good = self
            .good
            .keys()
            .filter(|path| !self.faults.contains_key(*path));
        let good = good.map(|path| (path.clone(), None));
        let faulty = self
            .faults
            .iter()
            .map(|(path, text)| (path.clone(), Some(text.clone())));
        good.chain(faulty).collect()
    }

    fn fault(&mut self, path: PathBuf, text: String) {
        let known = self.faults.get(&path) == Some(&text);
        if !known {
            let kept = self.good.contains_key(&path);
            warn!(file = %path.display(), cause = %text, last_good_kept = kept, "gateway file is not used");
        }
        self.faults.insert(path, text);
    }
}

fn is_missing(error: &KeyFileError) -> bool {
    matches!(error, KeyFileError::File(FileError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound)
}

/// Files as they are named, directories as the `.json` files in them.
fn expand(paths: &[PathBuf]) -> Vec<PathBuf> {
    paths
        .iter()
        .flat_map(|path| {
            if path.is_dir() {
                inside(path)
            } else {
                vec![path.clone()]
            }
        })
        .collect()
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| is_gateway_file(path))
        .collect();
    files.sort();
    files.truncate(MAX_FILES);
    files
}

fn is_gateway_file(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && path
            .extension()
            .is_some_and(|extension| extension == "json")
}

/// One entry for each gateway: all pins and all keys of the files that name it.
fn merge(files: &[&GatewayFile]) -> BTreeMap<String, Wanted> {
    let mut merged: BTreeMap<String, GatewayFile> = BTreeMap::new();
    for file in files {
        for address in &file.gateways {
            let entry = merged
                .entry(address.url.audience())
                .or_insert_with(|| GatewayFile {
                    gateways: vec![address.clone()],
                    keys: Vec::new(),
                });
            let (pins, keys) = (&address.pins, &file.keys);
            if let Some(known) = entry.gateways.first_mut() {
                known.pins.extend(pins.iter().copied());
                known.pins.dedup();
            }
            for key in keys {
                if !entry.keys.iter().any(|known| known.kid == key.kid) {
                    entry.keys.push(key.clone());
                }
            }
        }
    }
    let wanted = |file: GatewayFile| {
        let address = file.gateways.first()?.clone();
        Some(Wanted {
            address,
            file: Arc::new(file),
        })
    };
    merged
        .into_iter()
        .filter_map(|(url, file)| Some((url, wanted(file)?)))
        .collect()
}

#[cfg(test)]
mod tests;
