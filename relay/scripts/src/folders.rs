//! Where the programs lie that a cluster's configuration may have run on a node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sallyport_ops::files::{FileError, check_unchangeable};

/// Folders of this node whose programs the cluster's configuration may name. Any node of the cluster can sign a
/// configuration, so it is each node that says what is run on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders(Arc<[PathBuf]>);

/// A program that is not run.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be found.
    #[error("{}: {cause}", path.display())]
    Absent {
        /// As it was named.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// It lies somewhere else.
    #[error(
        "{} lies in none of the folders whose programs this node runs for the cluster: `[cluster] programs` of relay.toml",
        .0.display()
    )]
    Elsewhere(PathBuf),
    /// Others could change it, or a folder on the way to it.
    #[error(transparent)]
    Changeable(#[from] FileError),
}

impl Folders {
    /// These and what is below them. Who may write where they themselves stand is not looked at.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(folders.into_iter().collect())
    }

    /// The file that `program` leads to, which nobody but the running user and root can change from one of the folders on.
    /// It waits for the disks that it lies on.
    ///
    /// # Errors
    /// [`FolderError`] if it is not to be run.
    pub fn find(&self, program: &Path) -> Result<PathBuf, FolderError> {
        let found = fs::canonicalize(program).map_err(|cause| FolderError::Absent {
            path: program.to_owned(),
            cause,
        })?;
        let folders = self.0.iter().filter_map(|path| fs::canonicalize(path).ok());
        let folder = folders
            .filter(|folder| found.starts_with(folder) && found != *folder)
            .min_by_key(|folder| folder.components().count());
        let Some(folder) = folder else {
            return Err(FolderError::Elsewhere(found));
        };
        for step in found
            .ancestors()
            .take_while(|step| step.starts_with(&folder))
        {
            check_unchangeable(step)?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn file(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_what_lies_in_a_folder_and_stays_as_it_is_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("ours/deep")).unwrap();
        for (name, mode) in [
            ("ours/good", 0o755),
            ("ours/deep/good", 0o755),
            ("ours/loose", 0o777),
            ("other", 0o755),
        ] {
            file(&at(name), mode);
        }
        symlink(at("other"), at("ours/away")).unwrap();
        symlink(at("ours/good"), at("link")).unwrap();
        let folders = Folders::new([at("absent"), at("ours")]);

        for good in ["ours/good", "ours/deep/good", "link", "ours/deep/../good"] {
            assert!(folders.find(&at(good)).is_ok(), "{good}");
        }
        for away in ["other", "ours/away", "ours", "ours/../other"] {
            let refused = folders.find(&at(away));
            assert!(matches!(refused, Err(FolderError::Elsewhere(_))), "{away}");
        }
        let absent = folders.find(&at("ours/absent"));
        assert!(matches!(absent, Err(FolderError::Absent { .. })));
        let loose = folders.find(&at("ours/loose"));
        assert!(matches!(loose, Err(FolderError::Changeable(_))));
        fs::set_permissions(at("ours/deep"), fs::Permissions::from_mode(0o777)).unwrap();
        let deep = folders.find(&at("ours/deep/good"));
        assert!(matches!(deep, Err(FolderError::Changeable(_))));
        assert!(Folders::default().find(&at("ours/good")).is_err());
    }
}
