//! Commands about the names of other nodes.

use clap::{Args, Subcommand};
use sallyport_ops::{Exit, Table};
use sallyport_wire::NodeName;
use serde_json::{Value, json};

use super::{Listing, asked, shown};
use crate::peers::{FORGET, Forget, NAMES};

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
        #[arg(required_unless_present = "key", conflicts_with = "key")]
        node: Option<NodeName>,
        /// Every name that was taken by this cluster key, after it was revoked: who had stolen it may have taken many
        #[arg(long, value_name = "KID")]
        key: Option<String>,
    },
}

/// Lists the names of other nodes, or releases one.
pub(super) fn peers(args: &PeersArgs) -> Exit {
    let listing = &args.listing;
    match &args.command {
        None => shown(asked(listing, "GET", NAMES, None), listing, names),
        Some(PeersCommand::Forget { node, key }) => {
            let forget = Forget {
                node: node.clone(),
                key: key.clone(),
            };
            let answer = asked(listing, "POST", FORGET, Some(json!(forget)));
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
    let tunnels = &answer["tunnels"];
    match answer["node"].as_str() {
        Some(node) => format!("The name {node} is free again; {tunnels} tunnels were ended.\n"),
        None => format!(
            "{} names are free again; {tunnels} tunnels were ended.\n",
            answer["names"]
        ),
    }
}
