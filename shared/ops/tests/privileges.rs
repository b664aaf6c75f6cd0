//! Becoming another user. Alone in its file, because there is no way back.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::thread;

use sallyport_ops::privileges::{Became, become_user};

#[test]
fn root_becomes_the_account_in_every_thread_and_stays_it() {
    if !rustix::process::geteuid().is_root() {
        assert_eq!(
            become_user("nobody").expect("nothing to do"),
            Became::Unprivileged
        );
        return;
    }
    let absent = become_user("no-such-account").expect("not an error");
    assert_eq!(absent, Became::NoAccount("no-such-account".to_owned()));
    assert!(rustix::process::geteuid().is_root());

    let (go, wait) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        wait.recv().expect("told to look");
        identities()
    });

    assert_eq!(
        become_user("nobody").expect("root may"),
        Became::User("nobody".to_owned())
    );
    go.send(()).expect("the thread waits");

    let nobody = rustix::process::geteuid().as_raw().to_string();
    assert_ne!(nobody, "0");
    for seen in [identities(), other.join().expect("the thread looked")] {
        assert!(!seen.contains(&"0".to_owned()), "root is left in {seen:?}");
        assert_eq!(seen.first(), Some(&nobody));
    }
    assert!(fs::File::open("/etc/shadow").is_err());
    assert_eq!(become_user("root").expect("no error"), Became::Unprivileged);
}

/// Real, effective, saved and file-system ids, then groups, of the calling thread.
fn identities() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").expect("Linux");
    let line = |name| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("there")
    };
    let ids = [line("Uid:"), line("Gid:"), line("Groups:")].map(str::split_whitespace);
    ids.into_iter().flatten().map(str::to_owned).collect()
}
