//! What the relays of a cluster share: a [`Store`] for what is to last, a [`Bus`] for what is said once, and
//! [leases](lease) for what only one may have.
//!
//! Store and bus are traits with one meaning, whatever is behind them: a file of this machine, or servers that many
//! relays use. What a broker hands out is input from outside. Modules use only modules that stand below them.
#![forbid(unsafe_code)]

pub mod init;
pub mod cluster;
pub mod global;
pub mod election;
pub mod lease;
pub mod unchanged;
pub mod clock;
pub mod seal;
pub mod signed;
pub mod store_id;
pub mod embedded;
pub mod nats;
pub mod redis;
pub mod broker;
pub mod progress;
mod requests;
mod turns;
mod hub;
pub mod bus;
pub mod store;
pub mod limits;
pub mod error;
pub mod key;

pub use broker::{BROKER_FILE, Broker, BrokerError, Transporter};
pub use bus::{Bus, Delivery, Message, ReplyTo, Subscription};
pub use clock::Moment;
pub use cluster::{Cluster, ClusterStartError, broker_beside};
pub use election::{Election, Seat, Term};
pub use embedded::{Embedded, OpenError, STORE_FILE};
pub use error::{Answer, ClusterError};
pub use key::{Key, NotAKey, Prefix};
pub use lease::{Lease, LeaseError, Leases, Taken};
pub use limits::Limits;
pub use nats::Nats;
pub use progress::{Failing, Progress, Step};
pub use redis::{Examined, Redis};
pub use seal::{Opened, Seal};
pub use signed::{Claim, ClusterKey, Distrust, Signer, Verified, Verifier};
pub use store::{Change, Entry, Revision, Store, Watch};
pub use store_id::StoreId;
pub use unchanged::Unchanged;
