//! Programs in a chain: the same input as JSON, and the same answers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::{World, start};

fn program(folder: &Path, text: &str) -> Value {
    let path = folder.join("choose");
    // as a whole: a program that is still being written cannot be run
    let draft = folder.join("draft");
    fs::write(&draft, format!("#!/bin/sh\n{text}\n")).expect("writable");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).expect("ours");
    fs::rename(draft, &path).expect("writable");
    json!({ "kind": "executable", "path": path })
}

fn world(program: &Value) -> World {
    let world = World::new(&["a", "b", "c"].map(|id| json!({ "serverId": id })));
    let half =
        json!({ "kind": "javascript", "source": "i => i.servers.filter(s => s.serverId != 'a')" });
    world.configure(&json!({
        "scripts": { "half": half, "program": program },
        "chains": { "start": { "scripts": ["half", "program", "most-free-memory"] } },
    }));
    world
}

#[tokio::test]
async fn a_program_gets_the_list_of_the_functions_before_it_and_answers_like_one() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for (text, expected) in [
        ("echo '\"a\"'", Ok("a")),
        (
            "grep -q '\"serverId\":\"a\"' && echo '\"a\"' || echo '[{\"serverId\": \"c\"}]'",
            Ok("c"),
        ),
        ("true", Ok("b")),
        ("echo false", Ok("b")),
        ("echo '{\"error\": \"no licence\"}'", Err("no licence")),
        (
            "echo 7",
            Err("No server could be chosen: `program` returned 7"),
        ),
        (
            "echo '[7]'",
            Err(
                "No server could be chosen: `program` returned a list of something else than servers",
            ),
        ),
        (
            "echo lost >&2; exit 3",
            Err("No server could be chosen: `program` failed: exit status: 3: lost"),
        ),
    ] {
        let world = world(&program(folder.path(), text));
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(world.choice(start()).await, expected, "{text}");
    }
}

#[tokio::test]
async fn a_program_that_others_could_change_is_not_run() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let program = program(folder.path(), "echo '\"a\"'");
    let path = folder.path().join("choose");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("ours");
    let said = world(&program).choice(start()).await.expect_err("refused");
    assert!(
        said.contains("`program` was not run: ") && said.contains("choose"),
        "{said}"
    );
}

#[tokio::test]
async fn a_program_is_not_run_again_for_a_replay() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let count = folder.path().join("count");
    let text = format!("echo x >> {}; echo '\"c\"'", count.display());
    let world = world(&program(folder.path(), &text));
    let trace = world.traced(start()).await;
    assert_eq!(trace.server(), Some("c"));
    let replay = world.placement.replay(&trace.id).await.expect("kept");
    assert!(replay.same, "{replay:?}");
    assert_eq!(fs::read_to_string(count).expect("it ran"), "x\n");
}
