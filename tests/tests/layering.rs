//! The shape of the code, written down: which crate may use which, and in what order a crate's modules are read. A new
//! edge is a decision, so it is made here.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Each crate, and the workspace's crates that it may depend on outside its tests.
const EDGES: &[(&str, &[&str])] = &[
    ("sallyport-wire", &[]),
    ("sallyport-ops", &[]),
    ("sallyport-certs", &[]),
    ("sallyport-splice", &[]),
    ("sallyport-mux", &["splice"]),
    ("sallyport-link", &["certs", "mux", "ops", "splice", "wire"]),
    ("sallyport-edge", &["ops", "splice", "wire"]),
    ("sallyport-cluster", &["certs", "ops"]),
    ("sallyport-scripts", &["ops"]),
    (
        "sallyport-gateway",
        &["certs", "edge", "link", "ops", "splice", "wire"],
    ),
    ("sallyport-node", &["ops", "wire"]),
    (
        "sallyport-placement",
        &["cluster", "node", "ops", "scripts", "wire"],
    ),
    (
        "sallyport-relay",
        &[
            "certs",
            "cluster",
            "edge",
            "link",
            "node",
            "ops",
            "placement",
            "scripts",
            "splice",
            "wire",
        ],
    ),
];

/// May depend on everything; only the benchmark depends on one of them, the tests.
const BESIDE: &[&str] = &[
    "sallyport-benches",
    "sallyport-plain-quinn",
    "sallyport-tests",
];

/// Where the crates stand whose modules are read top to bottom.
const READ_IN_ORDER: &[&str] = &[
    "benches",
    "certs",
    "gateway",
    "relay",
    "relay/cluster",
    "relay/node",
    "relay/placement",
    "relay/scripts",
    "shared/edge",
    "shared/link",
    "shared/ops",
    "shared/splice",
    "shared/mux",
];

/// What the gateway, which is attacked first, has no code of: the cluster's bus, scripts, a database.
const NOT_IN_THE_GATEWAY: &[&str] = &["async-nats", "rquickjs", "redb"];

#[test]
fn crates_depend_only_on_what_is_declared() {
    let mut actual = workspace_edges();
    actual.retain(|krate, _| !BESIDE.contains(&krate.as_str()));

    let with_prefix = |names: &&[&str]| {
        names
            .iter()
            .map(|name| format!("sallyport-{name}"))
            .collect()
    };
    let declared: BTreeMap<String, BTreeSet<String>> = EDGES
        .iter()
        .map(|(krate, edges)| ((*krate).to_owned(), with_prefix(edges)))
        .collect();
    let new: Vec<_> = actual
        .keys()
        .filter(|krate| !declared.contains_key(*krate))
        .collect();
    assert!(new.is_empty(), "there and not declared: {new:?}");
    for (krate, allowed) in &declared {
        let edges = actual
            .get(krate)
            .unwrap_or_else(|| panic!("declared and not there: {krate}"));
        let undeclared: Vec<_> = edges.difference(allowed).collect();
        assert!(undeclared.is_empty(), "{krate} depends on {undeclared:?}");
    }
}

#[test]
fn modules_use_only_modules_below_them() {
    let upward: Vec<String> = READ_IN_ORDER
        .iter()
        .flat_map(|krate| looks_up(krate))
        .collect();
    assert!(upward.is_empty(), "\n{}", upward.join("\n"));
}

#[test]
fn the_gateway_has_no_code_of_the_cluster() {
    for absent in NOT_IN_THE_GATEWAY {
        let tree = cargo(&[
            "tree",
            "-p",
            "sallyport-gateway",
            "--all-features",
            "-i",
            absent,
        ]);
        let said = String::from_utf8_lossy(&tree.stderr);
        assert!(
            !tree.status.success(),
            "{absent}: {}",
            String::from_utf8_lossy(&tree.stdout)
        );
        assert!(
            said.contains("did not match any packages"),
            "{absent}: {said}"
        );
    }
    // the question itself is right: something that is there is found
    let tree = cargo(&[
        "tree",
        "-p",
        "sallyport-gateway",
        "--all-features",
        "-i",
        "tokio",
    ]);
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
}

#[test]
fn uses_are_found_in_code_and_not_in_comments() {
    let text = "use crate::alpha::A;\n/// [b](crate::beta)\nuse crate::{gamma, delta::{self, D}};\n\
                // crate::beta\nfn f() { crate::epsilon::run() } // crate::beta";
    let expected = ["alpha", "delta", "epsilon", "gamma"].map(str::to_owned);
    assert_eq!(uses_in(text), BTreeSet::from(expected));
}

fn workspace_edges() -> BTreeMap<String, BTreeSet<String>> {
    let out = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let meta: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let packages = meta
        .get("packages")
        .and_then(Value::as_array)
        .expect("packages");
    let ours: BTreeSet<String> = packages.iter().map(name_of).collect();

    packages
        .iter()
        .map(|package| {
            let uses = package
                .get("dependencies")
                .and_then(Value::as_array)
                .expect("a list");
            let outside_tests = uses
                .iter()
                .filter(|used| used.get("kind") != Some(&"dev".into()));
            let edges = outside_tests
                .map(name_of)
                .filter(|used| ours.contains(used))
                .collect();
            (name_of(package), edges)
        })
        .collect()
}

fn name_of(package: &Value) -> String {
    package
        .get("name")
        .and_then(Value::as_str)
        .expect("a name")
        .to_owned()
}

fn looks_up(krate: &str) -> Vec<String> {
    let src = root().join(krate).join("src");
    let order = declared_modules(&src.join("lib.rs"));
    let place_of = |name: &String| order.iter().position(|module| module == name);
    let mut upward = Vec::new();
    for (place, module) in order.iter().enumerate() {
        for used in uses_of(&src, module) {
            if place_of(&used).is_some_and(|target| target < place) {
                upward.push(format!("{krate}: `{module}` looks up at `{used}`"));
            }
        }
    }
    upward
}

fn declared_modules(lib: &Path) -> Vec<String> {
    let text = fs::read_to_string(lib).expect("lib.rs is there");
    text.lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.split_once("mod "))
        .filter(|(visibility, _)| visibility.is_empty() || visibility.starts_with("pub"))
        .map(|(_visibility, name)| name.to_owned())
        .collect()
}

/// The modules that `module`, its submodules included, names as `crate::…`.
fn uses_of(src: &Path, module: &str) -> BTreeSet<String> {
    let mut queue = vec![src.join(format!("{module}.rs")), src.join(module)];
    let mut used = BTreeSet::new();
    while let Some(path) = queue.pop() {
        if let Ok(entries) = fs::read_dir(&path) {
            queue.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            used.extend(uses_in(&text));
        }
    }
    used
}

fn uses_in(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .collect();
    code.join("\n")
        .split("crate::")
        .skip(1)
        .flat_map(first_names)
        .collect()
}

/// The names that a path goes on with: one, or in `{a, b::{c, d}}` those of the outer list.
fn first_names(path: &str) -> Vec<String> {
    let Some(list) = path.strip_prefix('{') else {
        return vec![leading_name(path)];
    };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    for piece in list.split_inclusive([',', '{', '}']) {
        if depth == 0 {
            names.push(leading_name(piece.trim()));
        }
        depth = match (piece.chars().last(), depth) {
            (Some('{'), _) => depth + 1,
            (Some('}'), 0) => break,
            (Some('}'), _) => depth - 1,
            _ => depth,
        };
    }
    names.retain(|name| !name.is_empty());
    names
}

fn leading_name(path: &str) -> String {
    path.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn cargo(arguments: &[&str]) -> Output {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(root());
    cargo.output().expect("cargo runs")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
