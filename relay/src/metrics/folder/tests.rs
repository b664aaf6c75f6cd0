use std::os::unix::fs::symlink;

use super::*;

fn put(folder: &Path, name: &str, text: &str, mode: u32) {
    let path = folder.join(name);
    fs::write(&path, text).expect("writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
}

type Named<T> = Vec<(String, T)>;

fn found(folder: &Path) -> (Named<&'static str>, Named<String>) {
    let config = MetricsConfig {
        folder: folder.to_owned(),
        ..MetricsConfig::default()
    };
    let defined = look(&config);
    let metrics = defined.metrics.iter();
    let named = metrics.map(|metric| (metric.name().to_owned(), metric.kind()));
    (named.collect(), defined.faults)
}

#[test]
fn functions_and_programs_are_known_by_their_files_and_the_rest_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path();
    put(folder, "licences.js", "() => 1", 0o644);
    put(folder, "disk.sh", "#!/bin/sh\n", 0o755);
    put(folder, "load", "#!/bin/sh\n", 0o700);
    put(folder, ".hidden.js", "x", 0o644);
    put(folder, "load~", "x", 0o755);
    symlink(folder.join("disk.sh"), folder.join("space")).expect("a link");
    for (name, mode) in [
        ("README", 0o644),
        ("a b.js", 0o644),
        ("load.py", 0o755),
        ("open.js", 0o666),
    ] {
        put(folder, name, "x", mode);
    }
    put(folder, "long.js", &"x".repeat(65 << 10), 0o644);
    fs::create_dir(folder.join("lib")).expect("made");

    let (metrics, faults) = found(folder);

    let expected = [
        ("disk", "executable"),
        ("licences", "function"),
        ("load", "executable"),
        ("space", "executable"),
    ];
    let expected = expected.map(|(name, kind)| (name.to_owned(), kind));
    assert_eq!(metrics, expected);
    let parts = [
        ("README", "chmod +x"),
        ("a b.js", "letters, digits"),
        ("lib", "not a file"),
        ("load.py", "load has this name already"),
        ("long.js", "at most 65536 bytes"),
        ("open.js", "chmod go-w"),
    ];
    assert_eq!(faults.len(), parts.len(), "{faults:?}");
    for ((name, fault), (file, part)) in faults.iter().zip(parts) {
        assert!(name == file && fault.contains(part), "{name}: {fault}");
    }
}

#[test]
fn a_folder_that_others_can_change_defines_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("metrics");
    assert_eq!(
        found(&folder),
        (Vec::new(), Vec::new()),
        "it need not be there"
    );
    fs::create_dir(&folder).expect("made");
    put(&folder, "one.js", "() => 1", 0o644);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("ours");

    let (metrics, faults) = found(&folder);

    assert_eq!(metrics, []);
    assert!(faults[0].1.contains("chmod go-w"), "{faults:?}");
}

#[test]
fn further_metrics_than_a_node_may_have_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    for n in 0..=MOST_METRICS {
        put(dir.path(), &format!("m{n}.js"), "() => 1", 0o644);
    }
    let (metrics, faults) = found(dir.path());
    assert_eq!((metrics.len(), faults.len()), (MOST_METRICS, 1));
}
