//! Where things are kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

const CONFIG_DIR: &str = "/etc/sallyport";
const STATE_DIR: &str = "/var/lib/sallyport";
const RUN_DIR: &str = "/run/sallyport";

/// The directory of configuration files: `SALLYPORT_CONFIG_DIR`, else `/etc/sallyport`.
#[must_use]
pub fn config_dir() -> PathBuf {
    from_environment("SALLYPORT_CONFIG_DIR", CONFIG_DIR.into())
}

/// The configuration file that `program` ("gateway" or "relay") uses when none is named.
#[must_use]
pub fn config_file(program: &str) -> PathBuf {
    config_dir().join(program).with_extension("toml")
}

/// The directory of what a process that runs with the file `config` remembers: `SALLYPORT_STATE_DIR`, else
/// `/var/lib/sallyport` for a configuration in the default directory, else `state` beside the file, as a directory
/// of one's own needs no other rights.
#[must_use]
pub fn state_dir(config: &Path) -> PathBuf {
    let own = config.parent() != Some(&config_dir());
    let default = if own {
        config.with_file_name("state")
    } else {
        STATE_DIR.into()
    };
    from_environment("SALLYPORT_STATE_DIR", default)
}

fn from_environment(variable: &str, default: PathBuf) -> PathBuf {
    let set: Option<OsString> = std::env::var_os(variable).filter(|value| !value.is_empty());
    set.map_or(default, PathBuf::from)
}

/// A path as it is written in the file `named_in`: a relative one counts from that file's directory.
#[must_use]
pub fn relative_to(named_in: &Path, path: &Path) -> PathBuf {
    match named_in.parent() {
        Some(directory) => directory.join(path),
        None => path.to_owned(),
    }
}

/// The admin socket of `program` ("gateway" or "relay") when it runs with the file `config`.
///
/// For a configuration in `/etc/sallyport` that is `/run/sallyport/gateway.sock` if that directory exists or this
/// process, as root, may make it; for any other it is `gateway.sock` beside the file. A socket that is there already
/// decides, so that root finds the one of a process that could not use `/run`.
#[must_use]
pub fn admin_socket(program: &str, config: &Path) -> PathBuf {
    let beside = config.with_file_name(program).with_extension("sock");
    if config.parent() != Some(Path::new(CONFIG_DIR)) {
        return beside;
    }
    let run = Path::new(RUN_DIR).join(program).with_extension("sock");
    let can_run = || Path::new(RUN_DIR).is_dir() || rustix::process::geteuid().is_root();
    let uses_run = run.exists() || (!beside.exists() && can_run());
    if uses_run { run } else { beside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_counts_from_the_file_that_names_it() {
        let file = Path::new("/etc/sallyport/relay.toml");
        let path = |text| relative_to(file, Path::new(text));
        assert_eq!(
            path("gateway.json"),
            Path::new("/etc/sallyport/gateway.json")
        );
        assert_eq!(path("/srv/gateway.json"), Path::new("/srv/gateway.json"));
        assert_eq!(
            relative_to(Path::new("relay.toml"), Path::new("a")),
            Path::new("a")
        );
    }

    #[test]
    fn state_stands_beside_a_config_file_of_ones_own() {
        let state = |config| state_dir(Path::new(config));
        assert_eq!(state("/home/ann/relay.toml"), Path::new("/home/ann/state"));
        assert_eq!(state("/etc/sallyport/relay.toml"), Path::new(STATE_DIR));
    }

    #[test]
    fn the_admin_socket_stands_beside_a_config_file_of_ones_own() {
        let socket = |config| admin_socket("relay", Path::new(config));
        assert_eq!(
            socket("/home/ann/relay.toml"),
            Path::new("/home/ann/relay.sock")
        );
        assert_eq!(socket("relay.toml"), Path::new("relay.sock"));

        let default = socket("/etc/sallyport/relay.toml");
        if Path::new(RUN_DIR).is_dir() || rustix::process::geteuid().is_root() {
            assert_eq!(default, Path::new("/run/sallyport/relay.sock"));
        } else {
            assert_eq!(default, Path::new("/etc/sallyport/relay.sock"));
        }
    }
}
