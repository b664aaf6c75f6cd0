//! Commands that show what the gateway logs, and have it log more.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use sallyport_ops::debug::{self, DEBUG, Order};
use sallyport_ops::logs::{self, Wish};
use sallyport_ops::telemetry::NoCategory;
use sallyport_ops::{Category, duration, escape, places};
use serde_json::json;

use super::{CommandError, asked, runtime};
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
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

fn category(name: &str) -> Result<&'static Category, NoCategory> {
    Category::find(CATEGORIES, name)
}

/// Shows the log.
pub(super) fn logs(args: &LogsArgs, path: &Path, out: &mut dyn Write) -> Result<(), CommandError> {
    let wish = Wish {
        follow: args.follow,
        category: args.category.map(|category| category.name.to_owned()),
        json: args.json,
    };
    let socket = places::admin_socket("gateway", path);
    runtime()?.block_on(logs::show(&socket, &wish, out))?;
    Ok(())
}

/// `debug`.
#[derive(Debug, Args)]
pub(super) struct DebugArgs {
    /// One JSON array
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<DebugCommand>,
}

#[derive(Debug, Subcommand)]
enum DebugCommand {
    /// Log details of a category
    On {
        /// Which one
        #[arg(value_parser = category)]
        category: &'static Category,
        /// For how long, like 30m or 2h [default: debug_for of gateway.toml, 30m]
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
pub(super) fn debug(
    args: &DebugArgs,
    path: &Path,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let order = args.command.as_ref().map(|command| match command {
        DebugCommand::On { category, within } => Order::on(category, *within),
        DebugCommand::Off { order } => order.clone(),
    });
    let answer = match order {
        Some(order) => asked(path, "POST", DEBUG, Some(json!(order)))?,
        None => asked(path, "GET", DEBUG, None)?,
    };
    if args.json {
        writeln!(out, "{}", escape::json(&answer))?;
    } else {
        write!(out, "{}", debug::text(&answer))?;
    }
    Ok(())
}
