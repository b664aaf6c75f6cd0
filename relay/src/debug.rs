//! What is logged in detail when an administrator asks for it: which modules each category stands for.

use sallyport_ops::Category;

/// The categories, each with the modules whose lines it has. A module may be in several.
pub const CATEGORIES: &[Category] = &[
    Category {
        name: "cluster",
        about: "cluster communication: bus, members, peers",
        targets: &[
            "sallyport_cluster::bus",
            "sallyport_cluster::cluster",
            "sallyport_cluster::hub",
            "sallyport_cluster::nats",
            "sallyport_link::connect",
            "sallyport_link::dial",
            "sallyport_link::gate",
            "sallyport_relay::advertise",
            "sallyport_relay::credentials",
            "sallyport_relay::direct",
            "sallyport_relay::directory",
            "sallyport_relay::drain",
            "sallyport_relay::hop",
            "sallyport_relay::membership",
            "sallyport_relay::peers",
            "sallyport_relay::rotation",
        ],
    },
    Category {
        name: "external",
        about: "connections from outside: gateways, tunnels, streams",
        targets: &[
            "sallyport_edge",
            "sallyport_link",
            "sallyport_relay::access",
            "sallyport_relay::advertise",
            "sallyport_relay::carry",
            "sallyport_relay::gateways",
            "sallyport_relay::health",
            "sallyport_relay::keeper",
            "sallyport_relay::promote",
            "sallyport_relay::rotation",
            "sallyport_relay::streams",
            "sallyport_relay::tend",
            "sallyport_relay::terminate",
            "sallyport_relay::udp",
            "sallyport_relay::vnc",
        ],
    },
    Category {
        name: "database",
        about: "the cluster's store and the way to it: values, leases, watches",
        targets: &[
            "sallyport_cluster::election",
            "sallyport_cluster::embedded",
            "sallyport_cluster::global",
            "sallyport_cluster::hub",
            "sallyport_cluster::lease",
            "sallyport_cluster::nats",
            "sallyport_cluster::signed",
            "sallyport_cluster::store",
            "sallyport_placement::queue",
            "sallyport_placement::reservations",
            "sallyport_relay::global",
            "sallyport_relay::queue",
            "sallyport_relay::reservations",
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Where the crates stand, seen from this one.
    const CRATES: &[(&str, &str)] = &[
        ("sallyport_cluster", "cluster/src"),
        ("sallyport_edge", "../shared/edge/src"),
        ("sallyport_link", "../shared/link/src"),
        ("sallyport_placement", "placement/src"),
        ("sallyport_relay", "src"),
    ];

    #[test]
    fn every_module_of_a_category_is_there() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for target in CATEGORIES.iter().flat_map(|category| category.targets) {
            let mut parts = target.split("::");
            let name = parts.next().unwrap();
            let krate = CRATES.iter().find(|(known, _)| *known == name).unwrap();
            let module = parts.fold(here.join(krate.1), |folder, part| folder.join(part));
            let files = ["lib.rs", "mod.rs"].map(|file| module.join(file));
            let there =
                module.with_extension("rs").exists() || files.iter().any(|file| file.exists());
            assert!(there, "{target}");
        }
    }
}
