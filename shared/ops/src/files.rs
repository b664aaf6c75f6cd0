//! Files with secrets, and writing files so that nobody ever sees half of one.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

/// A secret file larger than this is a mistake.
const MOST_BYTES: usize = 1 << 20;
const OTHERS: u32 = 0o077;
const CHANGED_BY_OTHERS: u32 = 0o022;
const ROOT: u32 = 0;

/// Why a secret file is not used. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("{}: not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Group or world may do something with it.
    #[error("{path} holds a secret and is open to others (mode {mode:04o}): run `chmod 600 {path}`", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to another user, who can read and change it.
    #[error("{path} holds a secret and belongs to uid {owner}: run `chown {wanted} {path}`", path = path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it may be (besides root's).
        wanted: u32,
    },
    /// Others could change what is run as this user.
    #[error("{path} can be changed by others (mode {mode:04o}): run `chmod go-w {path}`", path = path.display())]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to another user, who can change what is run as this one.
    #[error("{path} belongs to uid {owner}: run `chown {wanted} {path}`", path = path.display())]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it may be (besides root's).
        wanted: u32,
    },
    /// It is not UTF-8.
    #[error("{}: not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It is far larger than any secret.
    #[error("{}: larger than {MOST_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a file of at most 1 MiB that holds a secret: a regular file, owned by the running user or root and closed to
/// group and world. Call it after [becoming](crate::privileges::become_user) the user that the process stays.
///
/// # Errors
/// When it is not such a file, or cannot be read.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, FileError> {
    read_secret_of(path, rustix::process::geteuid().as_raw())
}

/// As [`read_secret`], for the user `uid`, who must own the file: what `check`, run as root, asks about the service's
/// files.
///
/// # Errors
/// When it is not such a file, or cannot be read.
pub fn read_secret_of(path: &Path, uid: u32) -> Result<Zeroizing<String>, FileError> {
    let file = open_secret(path, uid)?;
    let mut bytes = Zeroizing::new(Vec::new());
    // reserved at once, because a growing buffer leaves copies behind
    bytes.reserve_exact(MOST_BYTES + 1);
    let read = file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|cause| FileError::Io {
        path: path.to_owned(),
        cause,
    })?;
    if bytes.len() > MOST_BYTES {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    let text = str::from_utf8(&bytes).map_err(|_| FileError::NotText {
        path: path.to_owned(),
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Checks what [`read_secret`] checks without keeping the content.
///
/// # Errors
/// When it is not a regular file, cannot be opened, or is open to others.
pub fn check_secret(path: &Path) -> Result<(), FileError> {
    open_secret(path, rustix::process::geteuid().as_raw()).map(drop)
}

/// Checks that nobody but the running user and root can change `path`, a file or a directory whose content is run or
/// believed, and says what it is. Symbolic links are followed.
///
/// # Errors
/// [`FileError::Io`], [`FileError::Foreign`] and [`FileError::Writable`].
pub fn check_unchangeable(path: &Path) -> Result<Metadata, FileError> {
    let found = fs::metadata(path).map_err(|cause| FileError::Io {
        path: path.to_owned(),
        cause,
    })?;
    let (path, wanted) = (path.to_owned(), rustix::process::geteuid().as_raw());
    let owner = found.uid();
    if owner != wanted && owner != ROOT {
        return Err(FileError::Foreign {
            path,
            owner,
            wanted,
        });
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & CHANGED_BY_OTHERS != 0 {
        return Err(FileError::Writable { path, mode });
    }
    Ok(found)
}

/// Opens first and looks afterwards, so that what was looked at is what is read.
fn open_secret(path: &Path, uid: u32) -> Result<File, FileError> {
    let io = |cause| FileError::Io {
        path: path.to_owned(),
        cause,
    };
    // a pipe without a writer would be waited for
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(io)?;
    closed_to_others(path, &file.metadata().map_err(io)?, uid)?;
    Ok(file)
}

fn closed_to_others(path: &Path, file: &Metadata, uid: u32) -> Result<(), FileError> {
    let path = path.to_owned();
    if !file.is_file() {
        return Err(FileError::NotRegular { path });
    }
    // What root keeps to itself is of no use to a user for whom root only asks.
    let readable =
        file.uid() == uid || (file.uid() == ROOT && uid == rustix::process::geteuid().as_raw());
    if !readable {
        return Err(FileError::Owner {
            path,
            owner: file.uid(),
            wanted: uid,
        });
    }
    let mode = file.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(FileError::Open { path, mode });
    }
    Ok(())
}

/// Keeps others who call it for the same file out until the lock is dropped: of two who change it at once, the second
/// would write back what it read before the first was done. It is the folder that is locked, since the file is replaced.
///
/// # Errors
/// When the folder cannot be opened or locked.
pub fn lock_folder_of(path: &Path) -> io::Result<File> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(folder)
}

/// Replaces the content of `path` as a whole: after a crash at any moment it is the old or the new one.
///
/// A symbolic link is replaced, not followed. Written by root, the file belongs to whom it belonged, a new one to the
/// owner of its directory, so that a service's files stay the service's.
///
/// # Errors
/// When a step fails; the old content is then still there.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = Draft::write(path, bytes, mode)?;
    fs::rename(&new.path, path)?;
    sync_directory(path)
}

/// Makes the file `path` with `bytes` as its content, as a whole or not at all. The owner is as [`write_atomic`]'s.
///
/// # Errors
/// `AlreadyExists` when something of that name is there, which is not touched; else when a step fails.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = Draft::write(path, bytes, mode)?;
    // unlike a rename, a link never replaces
    fs::hard_link(&new.path, path)?;
    sync_directory(path)
}

/// Makes a directory that is not there, with those above it; made by root, it belongs to the user `uid`.
///
/// # Errors
/// When it cannot be made.
pub fn make_directory(path: &Path, uid: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    if rustix::process::geteuid().is_root() {
        chown(path, Some(uid), None)?;
    }
    Ok(())
}

/// A complete file under a passing name beside the one it is for; the name goes with the value.
#[derive(Debug)]
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(target: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let path = passing_name(target)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let draft = Self { path };
        file.write_all(bytes)?;
        keep_owner(&file, target)?;
        // set apart from making it, because the umask would take bits away
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // after a rename there is nothing left to remove
        drop(fs::remove_file(&self.path));
    }
}

fn passing_name(target: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = target.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a path that names no file",
        ));
    };
    let mut passing = OsString::from(".");
    passing.push(name);
    passing.push(format!(
        ".{}.{}.new",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    Ok(target.with_file_name(passing))
}

fn keep_owner(file: &File, target: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let model = fs::symlink_metadata(target).or_else(|_absent| fs::metadata(directory(target)))?;
    fchown(file, Some(model.uid()), Some(model.gid()))
}

fn sync_directory(of: &Path) -> io::Result<()> {
    File::open(directory(of))?.sync_all()
}

fn directory(of: &Path) -> &Path {
    match of.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_others_can_change_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("code.js");
        fs::write(&path, "1").unwrap();
        let mode = |mode: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            check_unchangeable(&path).map(drop)
        };
        assert!(mode(0o755).is_ok() && mode(0o400).is_ok());
        for open in [0o664, 0o602, 0o777] {
            let refused = mode(open).unwrap_err();
            assert!(
                matches!(refused, FileError::Writable { mode, .. } if mode == open),
                "{refused}"
            );
            assert!(refused.to_string().contains("chmod go-w"), "{refused}");
        }
        let absent = check_unchangeable(&dir.path().join("absent")).unwrap_err();
        assert!(matches!(absent, FileError::Io { .. }), "{absent}");
    }

    #[test]
    fn a_secret_open_to_others_is_refused_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "secret").unwrap();

        for open in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            let error = read_secret(&path).unwrap_err().to_string();
            assert!(
                error.contains(&format!("(mode {open:04o}): run `chmod 600 /")),
                "{error}"
            );
            assert!(check_secret(&path).is_err());
        }

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(*read_secret(&path).unwrap(), "secret");
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_new(&path, b"secret", 0o600).unwrap();
        let (me, another) = (rustix::process::geteuid().as_raw(), 54_321);

        if me == ROOT {
            let error = read_secret_of(&path, another).unwrap_err().to_string();
            assert!(
                error.contains("belongs to uid 0: run `chown 54321 /"),
                "{error}"
            );
            chown(&path, Some(another), None).unwrap();
            let error = read_secret(&path).unwrap_err().to_string();
            assert!(
                error.contains("belongs to uid 54321: run `chown 0 /"),
                "{error}"
            );
            assert!(read_secret_of(&path, another).is_ok());
        } else {
            assert!(matches!(
                read_secret_of(&path, another),
                Err(FileError::Owner { .. })
            ));
        }
    }

    #[test]
    fn what_is_no_regular_text_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert!(matches!(read_secret(&path), Err(FileError::Io { .. })));
        assert!(matches!(
            read_secret(dir.path()),
            Err(FileError::NotRegular { .. })
        ));

        let pipe = dir.path().join("pipe");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(
            read_secret(&pipe),
            Err(FileError::NotRegular { .. })
        ));

        write_atomic(&path, b"\xff", 0o600).unwrap();
        assert!(matches!(read_secret(&path), Err(FileError::NotText { .. })));
        write_atomic(&path, &[b'x'; MOST_BYTES + 1], 0o600).unwrap();
        assert!(matches!(
            read_secret(&path),
            Err(FileError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_directory_is_made_for_whom_it_is_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let me = rustix::process::geteuid().as_raw();
        let other = if me == ROOT { 54_321 } else { me };

        make_directory(&path, other).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().uid(), other);
        make_directory(&path, me).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().uid(), other, "it was there");
        fs::write(path.join("file"), "").unwrap();
        assert!(make_directory(&path.join("file"), me).is_err());
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");

        write_atomic(&path, b"old", 0o640).unwrap();
        let mut reader = File::open(&path).unwrap();
        write_atomic(&path, b"new and longer", 0o600).unwrap();

        let mut seen = String::new();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "old", "an open file keeps its content");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new and longer");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn a_new_file_never_replaces_anything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.json");
        write_new(&path, b"first", 0o600).unwrap();
        let link = dir.path().join("dangling");
        symlink("nowhere", &link).unwrap();

        for taken in [&path, &link] {
            let error = write_new(taken, b"second", 0o600).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }

        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(names(dir.path()).len(), 2, "no draft is left");
    }

    #[test]
    fn what_root_writes_stays_the_services() {
        if !rustix::process::geteuid().is_root() {
            return; // only root can show it
        }
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(54_321), Some(54_322)).unwrap();
        let path = dir.path().join("gateway.json");

        write_new(&path, b"1", 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().uid(), 54_321);
        chown(&path, Some(54_323), None).unwrap();
        write_atomic(&path, b"2", 0o600).unwrap();

        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.uid(), file.gid()), (54_323, 54_322));
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent").join("file");
        assert!(write_atomic(&absent, b"x", 0o600).is_err());
        assert!(write_atomic(Path::new("/"), b"x", 0o600).is_err());

        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(write_atomic(&dir.path().join("taken"), b"x", 0o600).is_err());
        assert_eq!(names(dir.path()), ["taken"]);
    }
}
