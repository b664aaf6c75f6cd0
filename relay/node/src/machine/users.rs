//! Who is logged in at the machine: utmp(5), and where the system keeps none any more, the sessions of systemd-logind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A larger list of logins is not read.
const MOST_BYTES: u64 = 4 << 20;

/// Most sessions of systemd-logind that are looked at.
const MOST_SESSIONS: usize = 4096;

/// Size of a record: where time is 64 bits wide in it, it is longer.
const RECORD: usize = if cfg!(target_arch = "x86_64") {
    384
} else {
    400
};
const KIND: std::ops::Range<usize> = 0..2;
const PID: std::ops::Range<usize> = 4..8;
const USER: std::ops::Range<usize> = 44..76;
const USER_PROCESS: i16 = 7;

/// Names of the users, each once, in order.
pub(super) fn logged_in(root: &Path) -> Vec<String> {
    let utmp = ["run/utmp", "var/run/utmp"]
        .into_iter()
        .find_map(|file| read(&root.join(file)));
    let users = match utmp {
        Some(records) => of_records(&records, |pid| root.join(format!("proc/{pid}")).exists()),
        None => of_sessions(&root.join("run/systemd/sessions")),
    };
    users.into_iter().collect()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let size = fs::metadata(path).ok()?.len();
    if size > MOST_BYTES {
        None
    } else {
        fs::read(path).ok()
    }
}

/// A record that a crash left behind names a process that is gone.
fn of_records(records: &[u8], lives: impl Fn(i32) -> bool) -> BTreeSet<String> {
    let (records, _cut_short) = records.as_chunks::<RECORD>();
    records
        .iter()
        .filter_map(|record| user(record, &lives))
        .collect()
}

fn user(record: &[u8; RECORD], lives: impl Fn(i32) -> bool) -> Option<String> {
    let kind = i16::from_ne_bytes(record.get(KIND)?.try_into().ok()?);
    let pid = i32::from_ne_bytes(record.get(PID)?.try_into().ok()?);
    let name = record.get(USER)?.split(|byte| *byte == 0).next()?;
    let name = str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    (kind == USER_PROCESS && lives(pid)).then(|| name.to_owned())
}

fn of_sessions(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .take(MOST_SESSIONS)
        .filter_map(|entry| user_of_session(&fs::read_to_string(entry.path()).ok()?))
        .collect()
}

/// Of a session that a person opened: neither a service's, nor one of ours, nor one that is closing.
fn user_of_session(text: &str) -> Option<String> {
    let value = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    let ours = value("SERVICE").is_some_and(|service| service.starts_with("sallyport"));
    let lasts = value("CLASS") == Some("user") && value("STATE") != Some("closing");
    value("USER").filter(|_| lasts && !ours).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: i16, pid: i32, name: &str) -> Vec<u8> {
        let mut record = vec![0; RECORD];
        record[KIND].copy_from_slice(&kind.to_ne_bytes());
        record[PID].copy_from_slice(&pid.to_ne_bytes());
        record[USER][..name.len()].copy_from_slice(name.as_bytes());
        record
    }

    #[test]
    fn users_whose_process_lives_are_named_once() {
        let root = tempfile::tempdir().expect("a directory");
        for directory in ["run", "proc/10", "proc/11"] {
            fs::create_dir_all(root.path().join(directory)).expect("made");
        }
        let records = [
            record(USER_PROCESS, 11, "bob"),
            record(USER_PROCESS, 10, "ann"),
            record(USER_PROCESS, 11, "ann"),
            record(USER_PROCESS, 12, "gone"),
            record(8, 10, "dead"),
            record(USER_PROCESS, 10, ""),
            vec![7; 100],
        ];
        fs::write(root.path().join("run/utmp"), records.concat()).expect("written");

        assert_eq!(logged_in(root.path()), ["ann", "bob"]);
    }

    #[test]
    fn a_name_may_fill_its_field() {
        let name = "n".repeat(USER.len());
        assert_eq!(
            of_records(&record(USER_PROCESS, 1, &name), |_| true),
            BTreeSet::from([name])
        );
    }

    #[test]
    fn without_utmp_sessions_of_people_count() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(logged_in(root.path()).is_empty());
        let sessions = root.path().join("run/systemd/sessions");
        fs::create_dir_all(&sessions).expect("made");
        for (id, text) in [
            (
                "1",
                "UID=1000\nUSER=ann\nSTATE=active\nCLASS=user\nSERVICE=sshd\n",
            ),
            ("2", "USER=gdm\nSTATE=active\nCLASS=greeter\n"),
            ("3", "USER=bob\nSTATE=closing\nCLASS=user\n"),
            (
                "4",
                "USER=eve\nSTATE=active\nCLASS=user\nSERVICE=sallyport\n",
            ),
            ("5", ""),
        ] {
            fs::write(sessions.join(id), text).expect("written");
        }

        assert_eq!(logged_in(root.path()), ["ann"]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
            let _users = of_records(&bytes, |_| true);
        }
    }
}
