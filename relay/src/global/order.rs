//! What may be asked of the configuration, of a running relay or of a store itself.

use std::fmt;

use sallyport_cluster::global::{Bundle, EpochError, Epochs, Outcome, Put};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::functions;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Order {
    /// All that holds.
    Export,
    /// A new epoch.
    Import {
        /// The objects of the kinds that are to change.
        bundle: Value,
        /// Whether only to say what would change.
        dry_run: bool,
    },
    /// A new epoch in which one object is otherwise.
    Put {
        /// The object.
        put: Put,
        /// Whether only to say what would change.
        dry_run: bool,
    },
    /// What an epoch that is kept says.
    At {
        /// Its number.
        epoch: u64,
    },
    /// The epochs that are kept.
    History,
    /// A new epoch that says what an earlier one said.
    Rollback {
        /// The earlier one.
        epoch: u64,
        /// Whether only to say what would change.
        dry_run: bool,
    },
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Export => f.write_str("export"),
            Self::Import { dry_run: true, .. } => f.write_str("import, looked at"),
            Self::Import { dry_run: false, .. } => f.write_str("import"),
            Self::Put { put, dry_run } => {
                let done = if put.object.is_some() {
                    "put"
                } else {
                    "remove"
                };
                let looked = if *dry_run { ", looked at" } else { "" };
                write!(f, "{done} {}/{}{looked}", put.kind, put.name)
            }
            Self::At { epoch } => write!(f, "export of {epoch}"),
            Self::History => f.write_str("history"),
            Self::Rollback { epoch, .. } => write!(f, "rollback to {epoch}"),
        }
    }
}

/// Does it.
///
/// # Errors
/// [`EpochError`].
pub async fn perform(order: Order, epochs: &Epochs) -> Result<Value, EpochError> {
    match order {
        Order::Export => {
            let now = epochs.holding().await?;
            let epoch = now.as_ref().map_or(0, |now| now.epoch);
            let bundle = now
                .map(|now| Bundle::clone(&now.bundle))
                .unwrap_or_default();
            let bundle = Bundle::empty().with(&bundle).to_value();
            Ok(json!({ "epoch": epoch, "bundle": bundle }))
        }
        Order::Import { bundle, dry_run } => {
            let bundle = Bundle::from_value(bundle)?;
            Box::pin(functions::compile(&functions::of_bundle(&bundle))).await?;
            Ok(shown(&epochs.import(&bundle, dry_run).await?))
        }
        Order::Put { put, dry_run } => {
            Box::pin(functions::compile(&functions::of_put(&put))).await?;
            Ok(shown(&epochs.put(&put, dry_run).await?))
        }
        Order::At { epoch } => {
            let bundle = Bundle::empty().with(&epochs.at(epoch).await?);
            Ok(json!({ "epoch": epoch, "bundle": bundle.to_value() }))
        }
        Order::History => history(epochs).await,
        Order::Rollback { epoch, dry_run } => Ok(shown(&epochs.rollback(epoch, dry_run).await?)),
    }
}

fn shown(outcome: &Outcome) -> Value {
    json!({ "epoch": outcome.epoch, "applied": outcome.applied, "differences": outcome.differences })
}

/// The newest first.
async fn history(epochs: &Epochs) -> Result<Value, EpochError> {
    let records = epochs.history().await?;
    let newest = records.last().map(|record| record.epoch);
    let rows = records.iter().rev().map(|record| {
        json!({
            "epoch": record.epoch,
            "holds": Some(record.epoch) == newest,
            "made": moment(record.made),
            "by": record.by,
            "from": record.from,
            "objects": record.objects,
            "bytes": record.content.bytes,
        })
    });
    Ok(rows.collect())
}

/// Milliseconds since 1970 as text: seconds are enough for people. None of a time that no calendar has.
#[must_use]
pub fn moment(milliseconds: u64) -> Option<String> {
    let seconds = i64::try_from(milliseconds / 1000).ok()?;
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    moment.format(&Rfc3339).ok()
}
