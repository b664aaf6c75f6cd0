use std::fs;

use super::*;

fn sh(script: &str) -> [String; 2] {
    ["-c".to_owned(), script.to_owned()]
}

async fn shell(script: &str, input: Option<&[u8]>, bounds: &Bounds) -> Result<Done, ProgramError> {
    run(Path::new("/bin/sh"), &sh(script), input, bounds).await
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
    let pid = fs::read_to_string(noted).unwrap();
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    // killed; whoever reaps it may take a moment
    let gone = async {
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.unwrap();
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
    let refused = run(Path::new("/no/such"), &[], None, &Bounds::default())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().starts_with("cannot start /no/such: "),
        "{refused}"
    );
}
