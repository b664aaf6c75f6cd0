//! Commands about what waits for a server.

use clap::{Args, Subcommand};
use sallyport_ops::{Exit, Table};
use serde_json::{Value, json};

use super::{Listing, asked, shown};
use crate::queue::{Order, QUEUE};

/// `queue`.
#[derive(Debug, Args)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    command: Option<QueueCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Show what waits, in turn (this is also done without a command)
    List,
    /// Leave something out until it is released; it keeps its place
    Hold {
        /// As the list has it
        id: String,
    },
    /// Let something wait again that was held
    Release {
        /// As the list has it
        id: String,
    },
    /// Take something out for good
    Cancel {
        /// As the list has it
        id: String,
    },
}

/// Lists what waits, or changes it.
pub(super) fn queue(args: &QueueArgs) -> Exit {
    let listing = &args.listing;
    let (order, done) = match &args.command {
        None | Some(QueueCommand::List) => {
            let answer = asked(listing, "POST", QUEUE, Some(json!(Order::List)));
            return shown(answer, listing, table);
        }
        Some(QueueCommand::Hold { id }) => (Order::Hold(id.clone()), "is held"),
        Some(QueueCommand::Release { id }) => (Order::Release(id.clone()), "waits"),
        Some(QueueCommand::Cancel { id }) => (Order::Cancel(id.clone()), "was taken out"),
    };
    let answer = asked(listing, "POST", QUEUE, Some(json!(order)));
    shown(answer, listing, |ticket| {
        let [id, user] = ["id", "user"].map(|key| ticket[key].as_str().unwrap_or_default());
        format!("{id} of {user} {done}.\n")
    })
}

fn table(answer: &Value) -> String {
    let columns = [
        "position", "id", "user", "state", "since", "attempts", "reason",
    ];
    let mut table = Table::new(&columns);
    for row in answer.as_array().into_iter().flatten() {
        table.row(columns.map(|column| match &row[column] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
        }));
    }
    table.to_string()
}
