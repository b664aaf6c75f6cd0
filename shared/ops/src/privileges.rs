//! From root to an ordinary user, once the ports are bound.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Uid, User, initgroups, setgid, setresgid, setresuid, setuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What became of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// It runs as this account now, for good.
    User(String),
    /// It was not root, so nothing changed.
    Unprivileged,
    /// There is no such account: it is still root, and the caller warns.
    NoAccount(String),
}

/// Why the process could not become another user. It must then end.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// A system call failed.
    #[error("cannot become user `{user}`: {step}: {cause}")]
    System {
        /// The account.
        user: String,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// Root could be had back.
    #[error("became user `{user}`, but could become root again")]
    Reversible {
        /// The account.
        user: String,
    },
}

/// Becomes `user` with all its groups, for good and in every thread, when the process is root.
///
/// Root or not, the memory of the process, which holds keys, is no longer dumped or open to debuggers. Files that the
/// service owns are read after this.
///
/// # Errors
/// When a system call fails or root could be had back.
pub fn become_user(user: &str) -> Result<Became, PrivilegeError> {
    keep_memory_closed();
    if !Uid::effective().is_root() {
        return Ok(Became::Unprivileged);
    }
    let failed = |step, cause: Errno| PrivilegeError::System {
        user: user.to_owned(),
        step,
        cause: cause.into(),
    };
    let account = User::from_name(user).map_err(|cause| failed("looking it up", cause))?;
    let Some(account) = account else {
        return Ok(Became::NoAccount(user.to_owned()));
    };
    let name = CString::new(account.name).map_err(|_nul| failed("its name", Errno::EINVAL))?;
    let (uid, gid) = (account.uid, account.gid);
    initgroups(&name, gid).map_err(|cause| failed("taking its groups", cause))?;
    setresgid(gid, gid, gid).map_err(|cause| failed("taking its group", cause))?;
    setresuid(uid, uid, uid).map_err(|cause| failed("taking its id", cause))?;
    // a change of user resets it
    keep_memory_closed();
    if !uid.is_root() && (setuid(Uid::from_raw(0)).is_ok() || setgid(0.into()).is_ok()) {
        return Err(PrivilegeError::Reversible {
            user: user.to_owned(),
        });
    }
    Ok(Became::User(user.to_owned()))
}

fn keep_memory_closed() {
    // a sandbox may refuse; nothing depends on it
    let _refused = prctl::set_dumpable(false);
}

/// The uid of the account `user`, if there is one.
///
/// # Errors
/// When the accounts cannot be read.
pub fn uid_of(user: &str) -> io::Result<Option<u32>> {
    Ok(User::from_name(user)?.map(|account| account.uid.as_raw()))
}

/// The uid that this process has after [`become_user`]: whose files it may expect.
///
/// # Errors
/// When the accounts cannot be read.
pub fn will_be(user: &str) -> io::Result<u32> {
    let now = Uid::effective();
    let account = if now.is_root() { uid_of(user)? } else { None };
    Ok(account.unwrap_or_else(|| now.as_raw()))
}

/// Raises the limit of open descriptors as far as the process may, and says how many that is.
///
/// # Errors
/// When the limit cannot be set.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_becomes_the_highest_allowed() {
        let raised = raise_descriptor_limit().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(raised, limit.maximum.unwrap_or(u64::MAX));
    }

    #[test]
    fn accounts_are_looked_up() {
        assert_eq!(uid_of("root").unwrap(), Some(0));
        assert_eq!(uid_of("no-such-account").unwrap(), None);
        let now = Uid::effective();
        assert_eq!(will_be("no-such-account").unwrap(), now.as_raw());
        let after = if now.is_root() {
            uid_of("nobody").unwrap()
        } else {
            None
        };
        assert_eq!(
            will_be("nobody").unwrap(),
            after.unwrap_or_else(|| now.as_raw())
        );
    }
}
