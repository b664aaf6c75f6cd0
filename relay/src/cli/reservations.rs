//! Commands about servers that somebody has for himself.

use clap::{Args, Subcommand};
use sallyport_ops::{Exit, Table};
use sallyport_wire::NodeName;
use serde_json::{Value, json};

use super::{Listing, asked, shown};
use crate::reservations::{Order, RESERVATIONS};

/// `reservations`.
#[derive(Debug, Args)]
pub(super) struct ReservationsArgs {
    #[command(subcommand)]
    command: Option<ReservationsCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum ReservationsCommand {
    /// Free a node, whoever has it: others may log in there at once; its user keeps what runs there
    Free {
        /// Name of the node
        node: NodeName,
    },
}

/// Lists what is reserved, or frees a node.
pub(super) fn reservations(args: &ReservationsArgs) -> Exit {
    let listing = &args.listing;
    let (order, text): (_, fn(&Value) -> String) = match &args.command {
        None => (Order::List, table),
        Some(ReservationsCommand::Free { node }) => (Order::Free(node.clone()), freed),
    };
    let answer = asked(listing, "POST", RESERVATIONS, Some(json!(order)));
    shown(answer, listing, text)
}

fn table(answer: &Value) -> String {
    let mut table = Table::new(&["node", "state", "user", "since", "logins", "note"]);
    for row in answer.as_array().into_iter().flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let logins = row["logins"].as_array().map(Vec::len);
        let from = row["source"]
            .as_str()
            .map(|source| format!("from {source}"));
        table.row([
            text("server"),
            text("state"),
            text("user"),
            text("since"),
            logins.map(|logins| logins.to_string()).unwrap_or_default(),
            from.unwrap_or_else(|| text("cause")),
        ]);
    }
    table.to_string()
}

fn freed(answer: &Value) -> String {
    let node = answer["node"].as_str().unwrap_or_default();
    format!("Node {node} is free again.\n")
}
