//! The socket's file: who may open it, what a dead process left, and names longer than an address may be.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use rustix::fs::OFlags;
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

/// Whoever is in this group administers.
const GROUP: &str = "sallyport-admin";
const MODE_ALONE: u32 = 0o600;
const MODE_GROUP: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o755;
/// sockaddr_un has 108 bytes, one of which ends the name.
const LONGEST_ADDRESS: usize = 107;

/// A listening socket, and its file for as long as it listens.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) socket: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listening {
    /// Listens on `path`; the file appears there with its right mode and group or not at all.
    pub(super) fn on(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or_else(|| Path::new("/"));
        if !directory.exists() {
            fs::DirBuilder::new()
                .mode(DIRECTORY_MODE)
                .create(directory)?;
        }
        refuse_what_lives(path)?;
        let passing = path.with_extension(format!("{}.new", std::process::id()));
        remove_if_there(&passing)?;
        let address = Address::of(&passing)?;
        let socket = UnixListener::bind(&address.path)?;
        let opened = open_to_administrators(&passing).and_then(|()| fs::rename(&passing, path));
        if let Err(cause) = opened {
            remove_if_there(&passing)?;
            return Err(cause);
        }
        let file = fs::symlink_metadata(path)?;
        let file = SocketFile {
            path: path.to_owned(),
            identity: (file.dev(), file.ino()),
        };
        Ok(Self { socket, file })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let SocketFile { path, identity } = &self.file;
        // a successor's file is left alone
        let ours = fs::symlink_metadata(path).is_ok_and(|f| (f.dev(), f.ino()) == *identity);
        if ours && let Err(cause) = fs::remove_file(path) {
            debug!(%cause, path = %path.display(), "cannot remove the admin socket");
        }
    }
}

fn refuse_what_lives(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let named = |kind, text: &str| Err(io::Error::new(kind, format!("{}: {text}", path.display())));
    if !found.file_type().is_socket() {
        return named(
            io::ErrorKind::AlreadyExists,
            "not a socket, and not removed",
        );
    }
    let address = Address::of(path)?;
    match std::os::unix::net::UnixStream::connect(&address.path) {
        Ok(_) => named(
            io::ErrorKind::AddrInUse,
            "another process answers there; is it running already?",
        ),
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(cause) => named(cause.kind(), &cause.to_string()),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn open_to_administrators(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(MODE_ALONE))?;
    let Ok(Some(group)) = Group::from_name(GROUP) else {
        return Ok(());
    };
    // Only once it is theirs: until then its group is whatever group this process runs with.
    match chown(path, None, Some(group.gid.as_raw())) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(MODE_GROUP)),
        Err(cause) => {
            debug!(%cause, "cannot give the admin socket to the group {GROUP}");
            Ok(())
        }
    }
}

/// Connects to the socket at `path`.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = Address::of(path)?;
    UnixStream::connect(&address.path).await
}

/// A name short enough for a socket address; a longer one goes through its directory's descriptor.
#[derive(Debug)]
struct Address {
    path: PathBuf,
    _directory: Option<File>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= LONGEST_ADDRESS {
            return Ok(Self {
                path: path.to_owned(),
                _directory: None,
            });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = i32::try_from((OFlags::PATH | OFlags::DIRECTORY).bits()).unwrap_or_default();
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(parent)?;
        let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        Ok(Self {
            path: through.join(name),
            _directory: Some(directory),
        })
    }
}
