//! How closed a worker is, as the kernel sees it.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use sallyport_ops::{Bounds, Guard, Program, ProgramError, Programs};

use crate::{scripts, settings, until_there_are, workers};

#[tokio::test]
async fn a_worker_holds_two_pipes_and_can_get_no_more() {
    let _scripts = scripts();
    until_there_are(settings().workers + 1).await;
    let pid = *workers().first().expect("a worker");
    // it closes its box, then says that it is ready, then waits for calls
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    while !status().contains("Seccomp:\t2") {
        tokio::task::yield_now().await;
    }
    assert!(status().contains("NoNewPrivs:\t1"), "{}", status());
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let limit = |name: &str| {
        let line = limits
            .lines()
            .find(|line| line.starts_with(name))
            .expect(name);
        let rest = line.strip_prefix(name).expect(name);
        rest.split_whitespace()
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(limit("Max open files"), ["0", "0"]);
    assert_eq!(limit("Max file size"), ["0", "0"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max processes"), ["0", "0"]);
    assert_eq!(limit("Max cpu time"), ["60", "60"]);
    let data = 64 << 20;
    assert_eq!(limit("Max data size"), [data.to_string(), data.to_string()]);

    // its memory is closed, so only root may look further
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => assert_eq!(entries.count(), 3),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
    }
    match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environ) => assert_eq!(environ, b""),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
    }
}

#[test]
fn a_worker_without_a_relay_ends() {
    for input in [Stdio::null(), Stdio::piped()] {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_sallyport-relay"))
            .arg("script-worker")
            .stdin(input)
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        drop(worker.stdin.take());
        assert!(worker.wait().expect("it ends").success());
    }
}

#[test]
fn the_hidden_commands_are_nobodys_business() {
    let help = Command::new(env!("CARGO_BIN_EXE_sallyport-relay"))
        .arg("--help")
        .output()
        .expect("it runs");
    let help = String::from_utf8_lossy(&help.stdout);
    assert!(
        help.contains("doctor")
            && !help.contains("script-worker")
            && !help.contains("program-guard"),
        "{help}"
    );
}

#[tokio::test]
async fn a_guarded_program_has_lost_what_it_must_not_have() {
    let guard = Guard {
        program: env!("CARGO_BIN_EXE_sallyport-relay").into(),
        ..Guard::ourselves()
    };
    let programs = Programs::guarded(1, guard);
    let files = [
        "/proc/self/status",
        "/proc/self/limits",
        "/proc/self/environ",
    ];
    let cat = Program::new("/bin/cat", files);
    let done = programs.run(&cat, None, &Bounds::default()).await;
    let done = done.expect("it runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    for (name, most) in [
        ("core file size", "0"),
        ("cpu time", "60"),
        ("data size", "1073741824"),
    ] {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("Max {name}")));
        let found: Vec<_> = line
            .expect(name)
            .split_whitespace()
            .rev()
            .skip(1)
            .take(2)
            .collect();
        assert_eq!(found, [most, most], "{name}");
    }
    // our own has far more
    let environ = text.lines().next_back().expect("the last file");
    assert_eq!(
        environ.len(),
        "PATH=/usr/bin:/bin LANG=C.UTF-8 ".len(),
        "{environ}"
    );

    let missing = Program::new("/etc/passwd", [""; 0]);
    let refused = programs.run(&missing, None, &Bounds::default()).await;
    assert!(
        matches!(refused, Err(ProgramError::Start { .. })),
        "{refused:?}"
    );
}
