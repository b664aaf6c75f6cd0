//! What a server says of itself.

use std::collections::HashMap;

use super::resp::Reply;

/// The answer to `INFO`: empty if the server does not let us ask.
#[derive(Debug, Default)]
pub(super) struct Info(HashMap<String, String>);

impl Info {
    pub(super) fn new(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Self(pairs.collect())
    }

    fn of(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn version(&self) -> &str {
        self.of("redis_version")
    }

    /// Whether changes may be made there, or why not.
    pub(super) fn takes_changes(&self) -> Result<(), String> {
        if self.of("role") == "slave" {
            let (host, port) = (self.of("master_host"), self.of("master_port"));
            return Err(format!(
                "it is a replica and takes no changes; its primary is {host}:{port}"
            ));
        }
        match self.of("redis_mode") {
            mode @ ("cluster" | "sentinel") => Err(format!(
                "it runs as {mode}, which keeps no values of ours: give a server that stands alone"
            )),
            _ => Ok(()),
        }
    }

    /// What may lose values. `kept` is what it says of `appendonly`, if it lets us ask.
    pub(super) fn warnings(&self, kept: Option<&Reply>) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_off = match kept {
            Some(Reply::List(words)) => words.iter().any(|word| *word == Reply::Bytes("no".into())),
            _ => self.of("aof_enabled") == "0",
        };
        if is_off {
            warnings.push(
                "`appendonly` is off: when this server ends, changes that it has acknowledged are lost"
                    .to_owned(),
            );
        }
        let policy = self.of("maxmemory_policy");
        if policy.starts_with("allkeys") && self.of("maxmemory") != "0" {
            warnings.push(format!(
                "`maxmemory-policy` is {policy}: once its memory is full, this server drops values"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_primary_that_stands_alone_takes_changes() {
        for (said, part) in [
            ("role:master\r\nredis_mode:standalone\r\n", None),
            ("", None),
            (
                "role:slave\r\nmaster_host:n1\r\nmaster_port:6379\r\n",
                Some("n1:6379"),
            ),
            ("role:master\r\nredis_mode:cluster\r\n", Some("cluster")),
            ("redis_mode:sentinel\r\n", Some("sentinel")),
        ] {
            let takes = Info::new(said.as_bytes()).takes_changes();
            let fits = match part {
                None => takes.is_ok(),
                Some(part) => takes.is_err_and(|cause| cause.contains(part)),
            };
            assert!(fits, "{said}");
        }
    }

    #[test]
    fn what_may_lose_values_is_said_as_far_as_the_server_tells() {
        let list = |value: &'static str| {
            let words = ["appendonly", value].map(|word| Reply::Bytes(word.into()));
            Reply::List(words.into())
        };
        let none = Info::default();
        assert!(none.warnings(None).is_empty());
        assert!(none.warnings(Some(&list("yes"))).is_empty());
        assert_eq!(none.warnings(Some(&list("no"))).len(), 1);
        let drops =
            Info::new(b"aof_enabled:0\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n");
        assert_eq!(drops.warnings(None).len(), 2);
        let unbounded =
            Info::new(b"aof_enabled:1\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n");
        assert!(unbounded.warnings(None).is_empty());
    }
}
