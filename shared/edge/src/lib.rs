//! The front that clients meet.
//!
//! The modules stand in the order of a client's way: `establish` turns an accepted socket into a
//! tunnel, a blind connection or a front connection under one deadline; `front` serves HTTP on the
//! last of these, behind a `gate` that holds every deadline and budget and refuses what two parsers
//! could read in two ways; the rest is what `front` does with one request.

#[cfg(test)]
mod sizes;
pub mod newcomers;
pub mod establish;
pub mod proxy_protocol;
pub mod clienthello;
pub mod front;
mod fault;
mod exchange;
mod blame;
mod upgrade;
mod download;
mod outgoing;
mod upstream;
mod lease;
mod upload;
mod client_body;
mod aborting;
mod executor;
mod stall;
mod answer;
mod spot;
mod reply;
pub mod access_log;
pub mod request;
pub mod route;
pub mod forwarded;
pub mod websocket;
mod fields;
pub mod opener;
pub mod affinity;
pub mod credential;
mod cookies;
pub mod gate;
mod request_id;
pub mod path;
pub mod host;
pub mod client;
pub mod limits;

#[cfg(test)]
mod testing;

pub use affinity::Affinity;
pub use client::ClientInfo;
pub use credential::Credential;
pub use establish::{EstablishError, Established, Rules, establish};
pub use front::Front;
pub use limits::Limits;
pub use opener::{Ask, Denial, Found, Opener, OwnAsk, Page, Target, Way};
pub use route::Sites;
