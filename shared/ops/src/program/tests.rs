use std::fs;

use futures::FutureExt as _;

use super::*;

/// Far above anything that is waited for here.
const LONG: Duration = Duration::from_secs(30);

fn sh(script: &str) -> Program {
    Program::new("/bin/sh", ["-c", script])
}

async fn shell(script: &str, input: Option<&[u8]>, bounds: &Bounds) -> Result<Done, ProgramError> {
    Programs::new(1).run(&sh(script), input, bounds).await
}

#[tokio::test]
async fn a_program_gets_its_input_and_nothing_of_our_environment() {
    let done = shell(
        "cat; env; echo hm >&2; exit 3",
        Some(b"in\n"),
        &Bounds::default(),
    )
    .await
    .unwrap();
    assert_eq!(done.status.code(), Some(3));
    assert_eq!(done.stderr, b"hm\n");
    let out = String::from_utf8(done.stdout).unwrap();
    let mut lines: Vec<_> = out
        .lines()
        .filter(|line| !line.starts_with("PWD="))
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, ["LANG=C.UTF-8", "PATH=/usr/bin:/bin", "in"]);
}

/// Until the process whose number was written to `noted` is killed; whoever reaps it may take a moment.
async fn until_gone(noted: &Path) {
    let pid = fs::read_to_string(noted).unwrap();
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    let gone = async {
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn one_that_runs_too_long_is_killed_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let noted = folder.path().join("pid");
    let script = format!("sleep 600 & echo $! >{}; wait", noted.display());
    let bounds = Bounds {
        time: Duration::from_secs(2),
        ..Bounds::default()
    };
    let refused = shell(&script, None, &bounds).await.unwrap_err();
    assert!(
        matches!(refused, ProgramError::TimedOut { .. }),
        "{refused}"
    );
    until_gone(&noted).await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let noted = folder.path().join("pid");
    // the one that stays holds standard output open
    let script = format!("sleep 600 & echo $! >{}; echo done", noted.display());
    let bounds = Bounds {
        time: LONG,
        ..Bounds::default()
    };
    let done = shell(&script, None, &bounds).await.unwrap();
    assert_eq!(done.stdout, b"done\n");
    until_gone(&noted).await;
}

#[tokio::test]
async fn one_that_writes_too_much_is_killed() {
    let bounds = Bounds {
        output: 1000,
        ..Bounds::default()
    };
    let refused = shell("yes", None, &bounds).await.unwrap_err();
    assert!(
        matches!(refused, ProgramError::TooMuch { most: 1000, .. }),
        "{refused}"
    );
    let exact = shell("printf %01000d 0", None, &bounds).await.unwrap();
    assert_eq!(exact.stdout.len(), 1000);
}

#[tokio::test]
async fn one_that_complains_without_end_is_not_held_up_by_it() {
    let done = shell("yes | head -c 300000 >&2", None, &Bounds::default())
        .await
        .unwrap();
    assert_eq!(done.stderr.len() as u64, COMPLAINT);
}

#[tokio::test]
async fn one_that_is_not_there_is_named() {
    let absent = Program::new("/no/such", [""; 0]);
    let refused = Programs::new(1)
        .run(&absent, None, &Bounds::default())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().starts_with("cannot start /no/such: "),
        "{refused}"
    );
}

#[tokio::test]
async fn a_place_is_free_again_when_its_program_is_gone() {
    let programs = Programs::new(1);
    let mut running = programs.start(&sh("cat")).await.unwrap();
    let refused = programs.start(&sh("true")).await.unwrap_err();
    assert!(
        matches!(refused, ProgramError::Busy { most: 1, .. }),
        "{refused}"
    );
    assert!(running.is_alive());
    running.kill();
    let status = timeout(LONG, running.ended()).await.unwrap().unwrap();
    assert!(!status.success() && !running.is_alive(), "{status}");
    assert!(
        programs
            .run(&sh("true"), None, &Bounds::default())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn one_that_nobody_waits_for_any_more_is_killed_as_soon_as_it_runs() {
    let programs = Programs::new(1);
    let cat = sh("cat");
    // looked at once, and dropped
    drop(programs.start(&cat).now_or_never());
    let place_is_free = async {
        while programs.start(&cat).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, place_is_free).await.unwrap();
}

/// A guard with the test's own program in its place: what it is told, and by whom.
#[tokio::test]
async fn a_guard_is_told_who_wants_which_program() {
    let guard = Guard {
        program: "/bin/echo".into(),
        arguments: vec!["program-guard".into()],
        cpu_seconds: 7,
        memory: 8,
    };
    let programs = Programs::guarded(2, guard);
    let bounds = Bounds::default();
    let done = programs.run(&sh("true"), None, &bounds).await.unwrap();
    let expected = format!("program-guard {} 7 8 /bin/sh -c true\n", std::process::id());
    assert_eq!(String::from_utf8(done.stdout).unwrap(), expected);
    for absent in ["/no/such", "/etc/passwd", "/etc"] {
        let refused = programs
            .run(&Program::new(absent, [""; 0]), None, &bounds)
            .await;
        assert!(
            matches!(refused, Err(ProgramError::Start { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_guard_that_is_told_too_little_starts_nothing() {
    for arguments in [
        &["x", "60", "1000", "/bin/true"][..],
        &["1", "60", "1000"],
        &[],
    ] {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        assert_eq!(serve_guard(&arguments), crate::exit::Exit::Failure);
    }
}
