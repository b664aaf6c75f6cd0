//! What is logged in detail when an administrator asks for it: which modules each category stands for.

use sallyport_ops::Category;

/// The categories, each with the modules whose lines it has. What a gateway does is all for connections from outside.
pub const CATEGORIES: &[Category] = &[Category {
    name: "external",
    about: "connections from outside: clients, relays, tunnels, streams",
    targets: &[
        "sallyport::access",
        "sallyport_edge",
        "sallyport_gateway",
        "sallyport_link",
    ],
}];
