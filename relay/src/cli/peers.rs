//! Commands about the names of other nodes.

use clap::{Args, Subcommand};
use sallyport_ops::{Exit, Table};
use sallyport_wire::NodeName;
use serde_json::{Value, json};

use super::{Listing, asked, shown};
use crate::peers::{FORGET, NAMES};

/// `peers`.
#[derive(Debug, Args)]
pub(super) struct PeersArgs {
    #[command(subcommand)]
    command: Option<PeersCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// Release the name of a node, so that another node key may take it; its tunnels end
    Forget {
        /// Name of the node
        node: NodeName,
    },
}

/// Lists the names of other nodes, or releases one.
pub(super) fn peers(args: &PeersArgs) -> Exit {
    let listing = &args.listing;
    match &args.command {
        None => shown(asked(listing, "GET", NAMES, None), listing, names),
        Some(PeersCommand::Forget { node }) => {
            let answer = asked(listing, "POST", FORGET, Some(json!({ "node": node })));
            shown(answer, listing, forgotten)
        }
    }
}

fn names(answer: &Value) -> String {
    let mut table = Table::new(&["node", "id", "kid", "tunnels"]);
    for row in answer.as_array().into_iter().flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        table.row([
            text("node"),
            text("id"),
            text("kid"),
            row["tunnels"].to_string(),
        ]);
    }
    table.to_string()
}

fn forgotten(answer: &Value) -> String {
    let node = answer["node"].as_str().unwrap_or_default();
    let tunnels = &answer["tunnels"];
    format!("The name {node} is free again; {tunnels} tunnels were ended.\n")
}
