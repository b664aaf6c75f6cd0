//! Commands that show what the relay logs, and have it log more.

use std::io;
use std::time::Duration;

use clap::{Args, Subcommand};
use sallyport_ops::debug::{self, DEBUG, Order};
use sallyport_ops::logs::{self, Wish};
use sallyport_ops::telemetry::NoCategory;
use sallyport_ops::{Category, Exit, Workers, duration, places};
use serde_json::json;

use super::{Listing, asked, complain, shown};
use crate::debug::CATEGORIES;

/// `logs`.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Go on with what is logged from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only lines of this category; `debug` lists them
    #[arg(long, value_parser = category)]
    category: Option<&'static Category>,
    #[command(flatten)]
    listing: Listing,
}

fn category(name: &str) -> Result<&'static Category, NoCategory> {
    Category::find(CATEGORIES, name)
}

/// Shows the log.
pub(super) fn logs(args: &LogsArgs) -> Exit {
    let wish = Wish {
        follow: args.follow,
        category: args.category.map(|category| category.name.to_owned()),
        json: args.listing.json,
    };
    let socket = places::admin_socket("relay", &args.listing.config.file());
    let runtime = match Workers::ONE.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, Exit::Failure),
    };
    let mut out = io::stdout().lock();
    match runtime.block_on(logs::show(&socket, &wish, &mut out)) {
        Ok(()) => Exit::Ok,
        Err(error) => complain(&error, Exit::Failure),
    }
}

/// `debug`.
#[derive(Debug, Args)]
pub(super) struct DebugArgs {
    #[command(subcommand)]
    command: Option<DebugCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum DebugCommand {
    /// Log details of a category
    On {
        /// Which one
        #[arg(value_parser = category)]
        category: &'static Category,
        /// For how long, like 30m or 2h [default: debug_for of relay.toml, 30m]
        #[arg(long = "for", value_name = "TIME", value_parser = duration::argument)]
        within: Option<Duration>,
    },
    /// Log them no more
    Off {
        /// Which one, or `all`
        #[arg(value_name = "CATEGORY", value_parser = off)]
        order: Order,
    },
}

fn off(name: &str) -> Result<Order, NoCategory> {
    Order::off(CATEGORIES, name)
}

/// Shows or switches categories.
pub(super) fn debug(args: &DebugArgs) -> Exit {
    let order = args.command.as_ref().map(|command| match command {
        DebugCommand::On { category, within } => Order::on(category, *within),
        DebugCommand::Off { order } => order.clone(),
    });
    let answer = match order {
        Some(order) => asked(&args.listing, "POST", DEBUG, Some(json!(order))),
        None => asked(&args.listing, "GET", DEBUG, None),
    };
    shown(answer, &args.listing, debug::text)
}
