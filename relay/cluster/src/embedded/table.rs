//! The file: entries and the number of the last change, each write one transaction that is on the disk before it is
//! answered.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable, TableDefinition,
    WriteTransaction,
};
use sallyport_ops::files::{self, FileError};

use crate::error::ClusterError;
use crate::key::{Key, Prefix};
use crate::store::{Entry, Revision};

/// Key → revision and value.
const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");

/// Numbers about the file itself.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// Of the last change.
const REVISION: &str = "revision";

/// Of the layout of this file.
const FORMAT: &str = "format";

/// The layout that this version writes and reads.
const OWN_FORMAT: u64 = 1;

/// Memory for pages, in bytes; what a cluster of one machine holds is far smaller.
const CACHE: usize = 16 << 20;

/// For the relay alone.
const MODE: u32 = 0o600;

/// Why the file cannot be opened. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "{} is in use by another process: two relays of one machine need state directories of their own \
         (SALLYPORT_STATE_DIR), or a broker.json to share a store",
        .0.display()
    )]
    InUse(PathBuf),
    /// Others could read or change it.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be made.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A later version wrote it.
    #[error("{} has format {format} and this version reads {OWN_FORMAT}: run the version that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// It is no store, or damaged.
    #[error("{}: {cause}; put a backup there, or remove the file to begin with an empty store", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
}

/// What a write does, and on which condition.
#[derive(Debug)]
pub(super) enum Write {
    Put(Bytes),
    Create(Bytes),
    Replace(Bytes, Revision),
    Delete(Option<Revision>),
}

#[derive(Debug)]
pub(super) struct Table {
    database: Database,
}

impl Table {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        if !path.exists() {
            make(path)?;
        }
        files::check_secret(path)?;
        Self::open_file(path)
    }

    fn open_file(path: &Path) -> Result<Self, OpenError> {
        let opened = Database::builder().set_cache_size(CACHE).create(path);
        let database = opened.map_err(|error| {
            let in_use = matches!(
                error,
                DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch
            );
            if in_use {
                return OpenError::InUse(path.to_owned());
            }
            damaged(path, &error)
        })?;
        let table = Self { database };
        let format = table.prepare().map_err(|error| damaged(path, &error))?;
        if format == OWN_FORMAT {
            return Ok(table);
        }
        Err(OpenError::Format {
            path: path.to_owned(),
            format,
        })
    }

    /// Makes the tables of a new file, and says the format of whatever is there.
    fn prepare(&self) -> Result<u64, redb::Error> {
        let transaction = self.database.begin_write()?;
        let known = {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let known = numbers.get(FORMAT)?.map(|format| format.value());
            if known.is_none() {
                numbers.insert(FORMAT, OWN_FORMAT)?;
                numbers.insert(REVISION, 0)?;
                transaction.open_table(ENTRIES)?;
            }
            known
        };
        match known {
            Some(known) => {
                transaction.abort()?;
                Ok(known)
            }
            None => {
                transaction.commit()?;
                Ok(OWN_FORMAT)
            }
        }
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, ClusterError> {
        let read = || -> Result<_, redb::Error> {
            let entries = self.database.begin_read()?.open_table(ENTRIES)?;
            let found = entries.get(key.as_str())?;
            Ok(found.and_then(|found| entry(key.clone(), found.value())))
        };
        read().map_err(|error| broken(&error))
    }

    /// The entries of the prefix, and the number of the last change that they show.
    pub(super) fn list(&self, prefix: &Prefix) -> Result<(Vec<Entry>, u64), ClusterError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let last = last_change(&transaction.open_table(NUMBERS)?)?;
            let table = transaction.open_table(ENTRIES)?;
            let (from, to) = bounds(prefix);
            let mut entries = Vec::new();
            for found in table.range(from.as_str()..to.as_str())? {
                let (key, value) = found?;
                let key: Option<Key> = key.value().parse().ok();
                entries.extend(key.and_then(|key| entry(key, value.value())));
            }
            Ok((entries, last))
        };
        read().map_err(|error| broken(&error))
    }

    /// The change that was made; none for taking away what was not there.
    pub(super) fn write(&self, key: &Key, write: &Write) -> Result<Option<Revision>, ClusterError> {
        let begun = self.database.begin_write();
        let transaction = begun.map_err(|error| broken(&error.into()))?;
        let changed = change(&transaction, key, write).map_err(|error| broken(&error))?;
        let Some(changed) = changed else {
            let aborted = transaction.abort();
            aborted.map_err(|error| broken(&error.into()))?;
            return Err(ClusterError::Conflict(key.clone()));
        };
        let committed = transaction.commit();
        committed.map_err(|error| broken(&error.into()))?;
        Ok(changed)
    }
}

/// Makes an empty store under another name and gives it the right one when it is whole: a file whose making was
/// interrupted is none that redb opens. One that another process has made meanwhile stays.
fn make(path: &Path) -> Result<(), OpenError> {
    let draft = Draft::of(path)?;
    drop(Table::open_file(&draft.0)?);
    let io = |cause| io_error(path, cause);
    match fs::hard_link(&draft.0, path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(io(cause)),
        _ => {
            let named = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let directory = named.unwrap_or_else(|| Path::new("."));
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(io)
        }
    }
}

/// The other name, which goes with the value.
struct Draft(PathBuf);

impl Draft {
    /// An empty file, closed to others as one that redb makes would not be.
    fn of(path: &Path) -> Result<Self, OpenError> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.new", std::process::id()));
        let draft = Self(path.with_file_name(name));
        // what is there is from a process of this number that ended before its time
        drop(fs::remove_file(&draft.0));
        let mut options = OpenOptions::new();
        let made = options
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&draft.0);
        made.map_err(|cause| io_error(path, cause))?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn io_error(path: &Path, cause: io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_owned(),
        cause,
    }
}

/// None if the condition does not hold; else the change, if there is anything to change.
fn change(
    transaction: &WriteTransaction,
    key: &Key,
    write: &Write,
) -> Result<Option<Option<Revision>>, redb::Error> {
    let mut entries = transaction.open_table(ENTRIES)?;
    let there = entries.get(key.as_str())?.map(|found| found.value().0);
    let known = |known: &Revision| there == Some(known.get());
    let (holds, value) = match write {
        Write::Put(value) => (true, Some(value)),
        Write::Create(value) => (there.is_none(), Some(value)),
        Write::Replace(value, revision) => (known(revision), Some(value)),
        Write::Delete(Some(revision)) => (known(revision), None),
        Write::Delete(None) if there.is_none() => return Ok(Some(None)),
        Write::Delete(None) => (true, None),
    };
    if !holds {
        return Ok(None);
    }
    let mut numbers = transaction.open_table(NUMBERS)?;
    let next = last_change(&numbers)?.saturating_add(1);
    numbers.insert(REVISION, next)?;
    match value {
        Some(value) => drop(entries.insert(key.as_str(), (next, value.as_ref()))?),
        None => drop(entries.remove(key.as_str())?),
    }
    Ok(Some(Revision::new(next)))
}

fn last_change(numbers: &impl ReadableTable<&'static str, u64>) -> Result<u64, redb::Error> {
    Ok(numbers.get(REVISION)?.map_or(0, |last| last.value()))
}

/// The range of texts in which the prefix's keys lie: `0` is the byte after `/`, and no key has a byte as high as `~`.
fn bounds(prefix: &Prefix) -> (String, String) {
    match prefix.words() {
        Some(own) => (format!("{own}/"), format!("{own}0")),
        None => (String::new(), "~".to_owned()),
    }
}

fn entry(key: Key, (revision, value): (u64, &[u8])) -> Option<Entry> {
    Some(Entry {
        key,
        value: Bytes::copy_from_slice(value),
        revision: Revision::new(revision)?,
    })
}

fn damaged(path: &Path, cause: &dyn std::error::Error) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

/// After a failed write redb answers nothing until the file is opened again.
fn broken(error: &redb::Error) -> ClusterError {
    ClusterError::Broken(format!(
        "{error}; see that its disk is well and has room, then restart the relay"
    ))
}
