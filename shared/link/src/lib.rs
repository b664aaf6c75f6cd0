//! One tunnel between a relay and a gateway, or between two relays: how it is dialled and accepted over QUIC or
//! TLS, how both sides prove who they are, and how streams, datagrams and control messages travel in it.
//!
//! Read from the outside in: `dial` and `gate` bring a tunnel up, `tunnel` is the handle that both ends hold,
//! `stream` and `flow` are what is opened in it, and below them stand the two transports. Modules use only
//! modules that stand below them.
#![forbid(unsafe_code)]

pub mod dial;
mod connect;
mod dial_error;
pub mod network;
mod proxy_talk;
pub mod proxy;
pub mod gate;
pub mod admission;
pub mod replay;
pub mod names;
pub mod peer;
pub mod identity;
pub mod token;
pub mod keyring;
pub mod gateway_file;
pub mod cluster_keys;
pub mod key_file;
pub mod expiry;
pub mod key;
pub mod gateway_url;
pub mod backoff;
pub mod tunnel;
pub mod promotable;
pub mod data;
pub mod flow;
pub mod stream;
mod control;
mod account;
mod raw;
mod over_tls;
mod quic;
mod bbr;
mod over_quic;
mod unread;
mod framed;
mod life;
mod round_trip;
pub mod settings;

pub use admission::{Admission, Admitted, NotAdmitted};
pub use backoff::{Backoff, BackoffSettings};
pub use cluster_keys::ClusterKeys;
pub use data::{DataConnection, Token};
pub use dial::{Cause, Choice, DialError, Dialer, Dialled, Introduce, Recognise, Step};
pub use expiry::{Expiry, Past};
pub use flow::Flow;
pub use gate::{AcceptError, EndpointError, Gatekeeper, quic_endpoint, quic_endpoint_on};
pub use gateway_file::{GatewayAddress, GatewayFile};
pub use gateway_url::{GatewayUrl, Host};
pub use identity::NodeIdentity;
pub use key::Key;
pub use key_file::KeyFileError;
pub use keyring::KeyRing;
pub use names::{Names, NamesError, NodeKey};
pub use network::Network;
pub use peer::PeerAddress;
pub use promotable::{Promotable, Supply};
pub use proxy::{Proxy, ProxyRules, ProxyUrlError};
pub use proxy_talk::ProxyError;
pub use settings::Settings;
pub use stream::{Incoming, TunnelStream};
pub use tunnel::{Closed, Figures, OpenError, Transport, Tunnel, TunnelClosed};
