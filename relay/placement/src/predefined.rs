//! The functions that every node brings along. They run in the same workers as administrators' own, and nobody can edit
//! them: a function of another name may begin as a copy.

use sallyport_cluster::global::PREDEFINED;

/// A function that is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predefined {
    /// What chains call it.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Its text.
    pub source: &'static str,
}

macro_rules! predefined {
    ($($name:literal: $title:literal,)*) => {
        /// All of them, as [`PREDEFINED`] names them.
        pub const ALL: [Predefined; PREDEFINED.len()] = [$(Predefined {
            name: $name,
            title: $title,
            source: include_str!(concat!("predefined/", $name, ".js")),
        },)*];
    };
}

predefined! {
    "user-selection": "User Selection",
    "find-logged-in": "Find Logged in",
    "users-logged-in-server": "User's Logged In Server",
    "filter-not-logged-in": "Filter not logged in servers",
    "filter-vnode": "Filter Vnode servers",
    "needs-gpu": "Needs GPU",
    "use-gpu-system": "Use GPU System",
    "get-gpu": "Get GPU",
    "most-free-memory": "Most Free Memory",
    "fewest-sessions": "Fewest Sessions",
    "local-server": "Local Server",
    "random-server": "Random Server",
}

/// What decides about logins where nothing is configured.
pub const LOGIN: [&str; 3] = ["user-selection", "find-logged-in", "fewest-sessions"];

/// What decides about starts where nothing is configured.
pub const START: [&str; 3] = [
    "user-selection",
    "users-logged-in-server",
    "fewest-sessions",
];

/// The one with this name.
#[must_use]
pub fn find(name: &str) -> Option<Predefined> {
    ALL.into_iter().find(|predefined| predefined.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_that_a_configuration_may_name() {
        assert_eq!(ALL.map(|predefined| predefined.name), PREDEFINED);
        assert!(LOGIN.iter().chain(&START).all(|name| find(name).is_some()));
    }
}
