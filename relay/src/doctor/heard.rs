//! What the running relay has heard from other machines: that one has its name, and which have another store.

use sallyport_ops::{admin, places};
use serde_json::Value;

use super::{Finding, Verdict, finding_of};
use crate::config::Config;
use crate::status::{self, other_store};

/// A line for each fault; none where no relay runs, because nobody has heard anything then.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let socket = places::admin_socket("relay", &config.path);
    let Ok(status) = admin::ask(&socket, "GET", "/status", None).await else {
        return Vec::new();
    };
    let store = &status["store"];
    let others = store["others"].as_array().into_iter().flatten();
    let others = others.map(|other| found(other, store));
    of_name(&status["rival"])
        .into_iter()
        .chain(others)
        .collect()
}

/// The one who was refused has the fault, as long as nobody says otherwise.
fn of_name(rival: &Value) -> Option<Finding> {
    let seen = status::rival(rival)?;
    let verdict = if rival["refused"] == true {
        Verdict::Fail
    } else {
        Verdict::Warn
    };
    let cure = rival["cure"].as_str().unwrap_or_default();
    Some(finding_of("", "name", verdict, (&seen, cure)))
}

/// Nodes without any broker are a cluster by their tunnels alone, which works as far as it goes.
fn found(other: &Value, own: &Value) -> Finding {
    let is_shared = other["shared"] == true || own["transporter"] != "embedded";
    let verdict = if is_shared {
        Verdict::Fail
    } else {
        Verdict::Warn
    };
    let cure = other["cure"].as_str().unwrap_or_default();
    finding_of("", "store", verdict, (&other_store(other), cure))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_that_is_taken_is_the_fault_of_whoever_came_later() {
        for (refused, verdict, part) in [
            (true, Verdict::Fail, "taken: machine m2 (node id ab)"),
            (false, Verdict::Warn, "machine m2 (node id ab) was refused"),
        ] {
            let rival =
                json!({ "hostname": "m2", "id": "ab", "refused": refused, "cure": "set it" });
            let found = of_name(&rival).expect("a finding");
            assert_eq!((found.verdict, found.cure.as_str()), (verdict, "set it"));
            assert!(found.seen.contains(part), "{found:?}");
        }
        assert_eq!(of_name(&Value::Null), None);
    }

    #[test]
    fn another_store_is_a_fault_where_one_could_be_shared() {
        for (transporter, shared, verdict) in [
            ("nats", false, Verdict::Fail),
            ("embedded", true, Verdict::Fail),
            ("embedded", false, Verdict::Warn),
        ] {
            let other =
                json!({ "nodes": ["n2"], "older": true, "shared": shared, "cure": "copy it" });
            let found = found(&other, &json!({ "transporter": transporter }));
            assert_eq!((found.verdict, found.cure.as_str()), (verdict, "copy it"));
            assert!(found.seen.contains("n2"), "{found:?}");
        }
    }
}
