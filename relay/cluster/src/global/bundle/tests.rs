use proptest::prelude::*;
use serde_json::json;

use super::*;

fn bundle(objects: &Value) -> Result<Bundle, BundleError> {
    let text = json!({ "format": FORMAT, "objects": objects }).to_string();
    Bundle::parse(text.as_bytes())
}

fn good(objects: &Value) -> Bundle {
    bundle(objects).expect("a good bundle")
}

fn function(source: &str) -> Value {
    json!({ "kind": "javascript", "source": source, "enabled": true })
}

fn faults(objects: &Value) -> Vec<String> {
    match bundle(objects) {
        Err(BundleError::Faults(faults)) => faults.to_string().lines().map(str::to_owned).collect(),
        other => panic!("faults are expected: {other:?}"),
    }
}

#[test]
fn every_fault_is_named_with_kind_name_and_field() {
    let objects = json!({
        "metrics": {
            "a": { "kind": "shell", "source": "x", "enabled": "yes" },
            "b": { "kind": "executable", "path": "bin/b", "enabled": false, "user": "root" },
            "c": { "kind": "javascript", "path": "/bin/c", "enabled": true },
            "d e": function("1"),
            "e.js": function("1"),
            "f": [],
            "g": { "kind": "javascript", "source": "x".repeat((64 << 10) + 1), "enabled": true },
        },
        "roles": {},
        "settings": { "history": { "keep": 1 }, "colour": { "of": "pages" } },
    });
    assert_eq!(
        faults(&objects),
        [
            "metrics/a: `enabled`: it is neither true nor false",
            "metrics/a: `kind`: it is none of javascript, executable",
            "metrics/b: `path`: it is no absolute path, like /usr/local/bin/licences",
            "metrics/b: `user`: there is no such field",
            "metrics/c: `source`: it is missing",
            "metrics/c: `path`: there is no such field",
            "metrics/d e: its name is not 1 to 64 characters a-z A-Z 0-9 - _ .",
            "metrics/e.js: the name of a metric has no dot",
            "metrics/f: it is no object",
            "metrics/g: `source`: it is no text of 1 to 65536 bytes",
            "roles: there is no such kind; there are: chains, metrics, scripts, settings",
            "settings/colour: there is no such setting; there are: history, placement, queue",
            "settings/history: `keep`: it is no number from 2 to 100",
        ]
    );
}

#[test]
fn scripts_and_chains_are_checked() {
    let objects = json!({
        "chains": {
            "login": { "scripts": [] },
            "lunch": { "scripts": ["random-server"] },
            "start": { "scripts": "random-server", "of": 1 },
        },
        "scripts": {
            "get-gpu": { "kind": "javascript", "source": "() => 0" },
            "licence": { "kind": "executable", "path": "licence" },
            "mine": { "kind": "javascript", "source": "() => 0", "enabled": true },
        },
        "settings": { "placement": { "on_script_failure": "retry" } },
    });
    assert_eq!(
        faults(&objects),
        [
            "chains: 3 are too many: at most 2 are allowed",
            "chains/login: `scripts`: it is no list of 1 to 64 names of scripts",
            "chains/lunch: there is no such chain; there are: login, start",
            "chains/start: `scripts`: it is no list of 1 to 64 names of scripts",
            "chains/start: `of`: there is no such field",
            "scripts/get-gpu: this name is that of a predefined script",
            "scripts/licence: `path`: it is no absolute path, like /usr/local/bin/licences",
            "scripts/mine: `enabled`: there is no such field",
            "settings/placement: `on_script_failure`: it is none of error, builtin",
        ]
    );
    let names = vec!["random-server"; 65];
    let long = faults(&json!({ "chains": { "start": { "scripts": names } } }));
    assert_eq!(
        long,
        ["chains/start: `scripts`: it is no list of 1 to 64 names of scripts"]
    );
}

#[test]
fn a_chain_names_scripts_that_are_there() {
    let scripts = json!({ "mine": { "kind": "javascript", "source": "() => 0" } });
    let chains = json!({ "start": { "scripts": ["mine", "random-server"] } });
    let whole = good(&json!({ "scripts": scripts, "chains": chains }));
    assert_eq!(whole.check_whole(), Ok(()));
    let without = whole.with_object("scripts", "mine", None);
    let error = without
        .check_whole()
        .expect_err("it names one that is gone");
    assert_eq!(
        error.to_string(),
        "chains/start: `scripts`: there is no script `mine`"
    );
}

#[test]
fn there_are_only_so_many_of_a_kind() {
    let many = |count: usize| {
        let metrics = (0..count).map(|number| (format!("m{number}"), function("1")));
        json!({ "metrics": metrics.collect::<Object>() })
    };
    assert!(bundle(&many(64)).is_ok());
    assert_eq!(
        faults(&many(65)),
        ["metrics: 65 are too many: at most 64 are allowed"]
    );
}

#[test]
fn what_is_no_bundle_says_why() {
    let refused = |text: &str| {
        Bundle::parse(text.as_bytes())
            .expect_err("none")
            .to_string()
    };
    for (text, part) in [
        ("", "EOF"),
        (
            "{\"format\": \"sallyport-config/2\", \"objects\": {}}",
            "sallyport-config/2",
        ),
        ("{\"format\": \"sallyport-config/1\"}", "objects"),
        (
            "{\"format\": \"sallyport-config/1\", \"objects\": {}, \"more\": 1}",
            "more",
        ),
        (
            "{\"format\": \"sallyport-config/1\", \"objects\": {\"metrics\": {\"a\": {}, \"a\": {}}}}",
            "`a` stands there twice",
        ),
    ] {
        let said = refused(text);
        assert!(said.contains(part), "{text}: {said}");
    }
    let long = " ".repeat(MOST_BYTES + 1);
    assert!(refused(&long).contains("too many"));
    let hostile = json!({ "\u{1b}[2J".repeat(1000): {} });
    let said = faults(&hostile).join("\n");
    assert!(said.len() < 1000 && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_kind_that_is_not_spoken_of_stays() {
    let old = good(
        &json!({ "metrics": { "a": function("1"), "b": function("2") }, "settings": { "history": { "keep": 3 } } }),
    );
    let new = good(&json!({ "metrics": { "b": function("3"), "c": function("4") } }));

    let change = |(name, change): (&str, Change)| Difference {
        kind: "metrics".to_owned(),
        name: name.to_owned(),
        change,
    };
    let changes = [
        ("a", Change::Removed),
        ("b", Change::Changed),
        ("c", Change::Added),
    ];
    assert_eq!(old.differences(&new), changes.map(change));
    assert_eq!(old.with(&new).kept(), 3);
    assert_eq!(old.with(&new).only("metrics"), Ok(new));
    let same = old.differences(&old.only("settings").expect("there"));
    assert_eq!((same.len(), same[0].change), (1, Change::Same));
    assert!(
        old.only("roles")
            .expect_err("none")
            .to_string()
            .contains("metrics, settings")
    );
}

/// The members of each object in the order that `turn` makes of it.
fn text_in_order(value: &Value, turn: usize) -> String {
    let Value::Object(object) = value else {
        return value.to_string();
    };
    let mut members: Vec<_> = object
        .iter()
        .map(|(name, value)| format!(" {} :\n{}", json!(name), text_in_order(value, turn)))
        .collect();
    let count = members.len().max(1);
    members.rotate_left(turn % count);
    if turn % 2 == 1 {
        members.reverse();
    }
    format!("{{{}}}", members.join(","))
}

fn objects() -> impl Strategy<Value = Value> {
    let metric = prop_oneof![
        "\\PC{1,40}".prop_map(|source| function(&source)),
        "/[a-z/]{0,20}"
            .prop_map(|path| json!({ "kind": "executable", "path": path, "enabled": false })),
    ];
    let metrics = prop::collection::btree_map("[a-zA-Z0-9_-]{1,64}", metric, 0..6);
    (metrics, prop::option::of(2_u64..=100)).prop_map(|(metrics, keep)| match keep {
        Some(keep) => json!({ "metrics": metrics, "settings": { "history": { "keep": keep } } }),
        None => json!({ "metrics": metrics }),
    })
}

proptest! {
    #[test]
    fn the_same_objects_are_the_same_bytes_in_whatever_order_they_come(objects in objects(), turn in 0_usize..20) {
        let value = json!({ "format": FORMAT, "objects": objects });
        let sorted = good(&objects).to_bytes();

        let other = Bundle::parse(text_in_order(&value, turn).as_bytes()).expect("the same");

        prop_assert_eq!(&other.to_bytes(), &sorted);
        prop_assert_eq!(Bundle::parse(&sorted).expect("ours").to_bytes(), sorted);
        prop_assert_eq!(Bundle::from_value(other.to_value()), Ok(other));
    }

    #[test]
    fn a_change_makes_what_its_differences_say(old in objects(), new in objects()) {
        let (old, new) = (good(&old), good(&new));
        let made = old.with(&new);
        for difference in old.differences(&new) {
            let (kind, name) = (&difference.kind, &difference.name);
            let is_new = made.object(kind, name) == new.object(kind, name);
            let is_same = made.object(kind, name) == old.object(kind, name);
            prop_assert!(is_new);
            prop_assert_eq!(is_same, difference.change == Change::Same);
            prop_assert_eq!(made.object(kind, name).is_none(), difference.change == Change::Removed);
        }
        prop_assert!(made.differences(&new).iter().all(|difference| difference.change == Change::Same));
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _refused = Bundle::parse(text.as_bytes());
    }
}
