//! `sallyport-relay cluster-key`: the keys of `cluster-keys.json`, added, listed and revoked. Running relays follow the
//! file, so none of this needs one stopped, or running.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sallyport_link::key::KeyError;
use sallyport_link::key_file::{self, Listed};
use sallyport_link::{ClusterKeys, Expiry, Key, KeyFileError, Past};
use sallyport_ops::{Exit, Table};
use sallyport_wire::Scope;
use serde::Serialize;
use time::OffsetDateTime;

/// What to do with cluster keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key and add it; the first one makes the file
    Add(AddArgs),
    /// List the keys; no secret is shown
    List(ListArgs),
    /// Remove a key from this node's file
    Revoke(RevokeArgs),
}

/// How long a new key lives.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AddArgs {
    /// When it ends, like `2027-01-31T00:00:00Z` or `90d`
    #[arg(long, value_name = "TIME")]
    pub expires: Option<Expiry>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// How to list.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ListArgs {
    /// One JSON array
    #[arg(long)]
    pub json: bool,
}

/// Which key to remove.
#[derive(Debug, Clone, clap::Args)]
pub struct RevokeArgs {
    /// Key id
    pub kid: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterKeyError {
    /// `cluster-keys.json`.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key would be dead from the start.
    #[error("--expires: {0}")]
    Past(#[from] Past),
    /// There is no file yet.
    #[error("{} is not there; make it with `sallyport-relay cluster-key add`, or copy it from another node", .0.display())]
    None(PathBuf),
    /// What was done could not be told.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl ClusterKeyError {
    /// How the process ends by it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Past(_) => Exit::Usage,
            Self::File(error) if error.is_config() => Exit::Config,
            Self::File(_) | Self::Key(_) | Self::None(_) | Self::Output(_) => Exit::Failure,
        }
    }
}

/// Does it with the keys of `file` and tells `out`.
///
/// # Errors
/// [`ClusterKeyError`]; the file is then as it was.
pub fn run(
    command: &KeyCommand,
    file: &Path,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<(), ClusterKeyError> {
    match command {
        KeyCommand::Add(args) => add(args, file, now, out),
        KeyCommand::List(args) => list(args, file, now, out),
        KeyCommand::Revoke(args) => revoke(args, file, now, out),
    }
}

fn add(
    args: &AddArgs,
    file: &Path,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<(), ClusterKeyError> {
    let expires = args.expires.map(|expiry| expiry.end(now)).transpose()?;
    let _lock = key_file::lock(file)?;
    let key = Key::generate(Scope::default(), expires)?;
    let mut all = match there(file) {
        Ok(all) => all,
        Err(ClusterKeyError::None(_)) => ClusterKeys::default(),
        Err(error) => return Err(error),
    };
    let is_first = all.keys.is_empty();
    all.keys.push(key.clone());
    match file.exists() {
        true => all.save(file)?,
        false => all.save_new(file)?,
    }
    if args.json {
        return tell(&Listed::new(&key, now), out);
    }
    writeln!(out, "Added key {} to {}", key.kid, file.display())?;
    writeln!(
        out,
        "Copy the file to every node of the cluster (mode 600)."
    )?;
    if !is_first {
        writeln!(
            out,
            "Once all have it, an old key can go: sallyport-relay cluster-key revoke KID"
        )?;
    }
    Ok(())
}

fn list(
    args: &ListArgs,
    file: &Path,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<(), ClusterKeyError> {
    let rows: Vec<Listed> = there(file)?
        .keys
        .iter()
        .map(|key| Listed::new(key, now))
        .collect();
    if args.json {
        return tell(&rows, out);
    }
    let mut table = Table::new(&["key", "state", "expires"]);
    for row in rows {
        let expires = row.until();
        table.row([row.kid, row.state.to_owned(), expires]);
    }
    write!(out, "{table}")?;
    Ok(())
}

fn revoke(
    args: &RevokeArgs,
    file: &Path,
    now: OffsetDateTime,
    out: &mut dyn Write,
) -> Result<(), ClusterKeyError> {
    let _lock = key_file::lock(file)?;
    let mut all = there(file)?;
    let gone = key_file::take_out(&mut all.keys, &args.kid)?;
    all.save(file)?;
    if args.json {
        return tell(&Listed::new(&gone, now), out);
    }
    writeln!(
        out,
        "Revoked key {} on this node. Copy the file to the others, too: a node that still has it still takes the key.",
        args.kid
    )?;
    if all.keys.is_empty() {
        writeln!(
            out,
            "Warning: no key is left, so no node reaches another: sallyport-relay cluster-key add"
        )?;
    }
    Ok(())
}

fn there(file: &Path) -> Result<ClusterKeys, ClusterKeyError> {
    if !file.exists() {
        return Err(ClusterKeyError::None(file.to_owned()));
    }
    Ok(ClusterKeys::load_as_administrator(file)?)
}

fn tell(what: &impl Serialize, out: &mut dyn Write) -> Result<(), ClusterKeyError> {
    let text = serde_json::to_string_pretty(what).map_err(io::Error::other)?;
    Ok(writeln!(out, "{text}")?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::Value;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn add_args(expires: Option<Expiry>) -> KeyCommand {
        KeyCommand::Add(AddArgs {
            expires,
            json: true,
        })
    }

    fn json(command: &KeyCommand, file: &Path) -> Value {
        let mut out = Vec::new();
        run(command, file, NOW, &mut out).expect("done");
        serde_json::from_slice(&out).expect("JSON")
    }

    fn listed(file: &Path) -> Vec<String> {
        let rows = json(&KeyCommand::List(ListArgs { json: true }), file);
        let rows = rows.as_array().expect("one array").iter();
        rows.map(|row| row["kid"].as_str().expect("an id").to_owned())
            .collect()
    }

    #[test]
    fn add_makes_the_file_and_revoke_takes_one_key_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cluster-keys.json");

        let first = json(&add_args(None), &file);
        let second = json(&add_args(Some(Expiry::Days(90))), &file);

        let mode = std::fs::metadata(&file).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert_eq!(second["expires"], "1970-04-01T00:00:00Z");
        let kid = first["kid"].as_str().expect("an id").to_owned();
        assert_eq!(listed(&file).len(), 2);
        let gone = json(&KeyCommand::Revoke(RevokeArgs { kid, json: true }), &file);
        assert_eq!(gone["kid"], first["kid"]);
        assert_eq!(listed(&file), [second["kid"].as_str().expect("an id")]);
    }

    #[test]
    fn nothing_that_is_told_holds_a_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cluster-keys.json");
        let mut told = Vec::new();
        let plain = KeyCommand::Add(AddArgs::default());
        for command in [plain, KeyCommand::List(ListArgs::default())] {
            run(&command, &file, NOW, &mut told).expect("done");
        }
        let text: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("there")).expect("JSON");
        let secret = text["keys"][0]["secret"].as_str().expect("a secret");
        assert!(!String::from_utf8_lossy(&told).contains(secret));
    }

    #[test]
    fn what_cannot_be_done_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cluster-keys.json");
        let failed = |command: KeyCommand| {
            let error = run(&command, &file, NOW, &mut Vec::new()).expect_err("refused");
            (error.exit(), error.to_string())
        };
        let revoke = || {
            KeyCommand::Revoke(RevokeArgs {
                kid: "k9".to_owned(),
                json: false,
            })
        };

        let (exit, text) = failed(revoke());
        assert!(
            exit == Exit::Failure && text.contains("cluster-key add"),
            "{text}"
        );
        let (exit, _) = failed(add_args(Some(Expiry::At(NOW))));
        assert_eq!(exit, Exit::Usage);
        json(&add_args(None), &file);
        let (_, text) = failed(revoke());
        assert!(text.contains("no key `k9`; there are: k"), "{text}");
        std::fs::write(&file, "{}").expect("writable");
        let (exit, _) = failed(add_args(None));
        assert_eq!(exit, Exit::Config);
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "{}");
    }
}
