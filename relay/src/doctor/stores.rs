//! Nodes of this cluster that have another store, as the running relay has heard from them.

use sallyport_ops::{admin, places};
use serde_json::Value;

use super::{Finding, Verdict, finding_of};
use crate::config::Config;
use crate::status::other_store;

/// A line for each other store; none where no relay runs, because nobody has met any node then.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let socket = places::admin_socket("relay", &config.path);
    let Ok(status) = admin::ask(&socket, "GET", "/status", None).await else {
        return Vec::new();
    };
    let store = &status["store"];
    let others = store["others"].as_array().into_iter().flatten();
    others.map(|other| found(other, store)).collect()
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
