//! Kinds of log lines that an administrator asks for by one name.

/// Log lines that belong together, whatever their level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Category {
    /// How commands call it.
    pub name: &'static str,
    /// What it tells of.
    pub about: &'static str,
    /// The modules whose lines these are, each with all that is below it.
    pub targets: &'static [&'static str],
}

/// There is no such category.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no category `{}`: there are {known}", name.escape_debug())]
pub struct NoCategory {
    name: String,
    known: String,
}

impl Category {
    /// The one of this name.
    ///
    /// # Errors
    /// [`NoCategory`], which names those that there are.
    pub fn find(all: &'static [Self], name: &str) -> Result<&'static Self, NoCategory> {
        let found = all.iter().find(|category| category.name == name);
        found.ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|category| category.name).collect();
            NoCategory {
                name: name.to_owned(),
                known: known.join(", "),
            }
        })
    }

    /// Whether lines of this target belong to it.
    #[must_use]
    pub fn covers(&self, target: &str) -> bool {
        self.targets.iter().any(|module| {
            let rest = target.strip_prefix(module);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Category] = &[
        Category {
            name: "roads",
            about: "",
            targets: &["town::road", "bridge"],
        },
        Category {
            name: "rails",
            about: "",
            targets: &["rail"],
        },
    ];

    #[test]
    fn a_module_stands_for_all_below_it_and_for_no_namesake() {
        let roads = Category::find(ALL, "roads").unwrap();
        for (target, covered) in [
            ("town::road", true),
            ("town::road::side", true),
            ("bridge", true),
            ("town", false),
            ("town::roadhouse", false),
            ("rail", false),
        ] {
            assert_eq!(roads.covers(target), covered, "{target}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = Category::find(ALL, "ro\nads").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no category `ro\\nads`: there are roads, rails"
        );
    }
}
