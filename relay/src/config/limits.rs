//! The `[limits]` table: every bound of the relay that a site may move, with its range.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::Faults;

/// A time, written as `"10s"`, `"500ms"`, `"5m"`, `"1h"` or as whole seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(super) struct Time(
    #[serde(deserialize_with = "sallyport_ops::duration::duration")] pub(super) Duration,
);

macro_rules! limits {
    (
        counts { $($(#[$count_doc:meta])* $count:ident = $number:literal in $numbers:expr;)* }
        times { $($(#[$time_doc:meta])* $time:ident = $seconds:literal s in $range:expr;)* }
    ) => {
        /// The bounds of the relay.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Limits {
            $($(#[$count_doc])* pub $count: u32,)*
            $($(#[$time_doc])* pub $time: Duration,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self {
                    $($count: $number,)*
                    $($time: Duration::from_secs($seconds),)*
                }
            }
        }

        impl Limits {
            /// Every limit as the example file writes it.
            #[cfg(test)]
            pub(super) const LINES: &[&str] = &[
                $(concat!(stringify!($count), " = ", $number),)*
                $(concat!(stringify!($time), " = \"", $seconds, "s\""),)*
            ];
        }

        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct RawLimits {
            $($count: Option<Spanned<u32>>,)*
            $($time: Option<Spanned<Time>>,)*
        }

        impl RawLimits {
            pub(super) fn check(self, faults: &mut Faults<'_>) -> Limits {
                Limits {
                    $($count: faults.in_range(stringify!($count), self.$count, $number, $numbers),)*
                    $($time: {
                        let given = self.$time.map(|time| Spanned::new(time.span(), time.get_ref().0));
                        let (low, high) = $range.into_inner();
                        let range = Duration::from_secs(low)..=Duration::from_secs(high);
                        faults.in_range(stringify!($time), given, Duration::from_secs($seconds), range)
                    },)*
                }
            }
        }
    };
}

limits! {
    counts {
        /// Most streams open at once on one tunnel; more are refused with `limit`.
        streams_per_tunnel = 4096 in 1..=65_536;
        /// Most streams open at once on all tunnels together.
        streams = 16384 in 1..=1_000_000;
        /// Most UDP flows at once.
        udp_flows = 4096 in 1..=65_536;
        /// Most data connections at once; 0 leaves every stream in its tunnel.
        data_connections = 1024 in 0..=65_536;
        /// Most connections at once at the direct port that have not proven yet who they are.
        handshakes = 256 in 1..=65_536;
        /// Of these, connections of one address, or of one /64 of IPv6.
        handshakes_per_source = 64 in 1..=65_536;
        /// Most connections of clients at once at the direct port.
        connections = 2048 in 1..=1_000_000;
        /// Of these, connections of one address, or of one /64 of IPv6.
        connections_per_source = 256 in 1..=1_000_000;
        /// Most streams to sessions at once for clients of the direct port.
        client_streams = 8192 in 1..=1_000_000;
        /// Of these, streams for clients of one address, or of one /64 of IPv6.
        client_streams_per_source = 1024 in 1..=1_000_000;
        /// Most tickets that are remembered as used, and most clients that came in by one.
        tickets = 4096 in 1..=1_000_000;
        /// Most names of other nodes that are bound to a node key.
        peer_names = 4096 in 1..=65_536;
        /// Most peer tunnels that other nodes may hold to this one.
        peer_tunnels = 2048 in 1..=65_536;
        /// Most servers that are held at once for logins that have begun here.
        reservation_holds = 1024 in 1..=65_536;
        /// Failed health checks in a row until a session counts as down.
        health_failures = 2 in 1..=100;
    }
    times {
        /// For the head of a stream to arrive.
        head = 5 s in 1..=60;
        /// To connect to a session's target, look-up included.
        connect = 3 s in 1..=60;
        /// For the TLS handshake of a session whose TLS the relay ends.
        tls_handshake = 10 s in 1..=60;
        /// Without a byte either way on an open stream.
        idle = 3600 s in 1..=604_800;
        /// Without a byte either way on a stream that a data connection carries, until it returns to its tunnel.
        data_idle = 1 s in 1..=3600;
        /// A tunnel to another node that is not kept is let go after so long without a stream.
        peer_idle = 60 s in 1..=86_400;
        /// A server that is reserved is free again after so long without a sign of life of its user's logins.
        reservation_ttl = 60 s in 5..=3600;
        /// A login that has begun holds its server for so long.
        reservation_hold = 60 s in 1..=60;
        /// For the rest of a stream to be delivered once neither side has more to send.
        closing = 30 s in 1..=3600;
        /// Without a byte taken by a receiver that has bytes to read.
        write_stall = 60 s in 1..=3600;
        /// Without a datagram either way on a UDP flow.
        udp_idle = 60 s in 1..=3600;
        /// Between two health checks of a session.
        health_every = 5 s in 1..=3600;
        /// For a health check to answer.
        health_within = 3 s in 1..=60;
        /// Between two questions to `nvidia-smi`.
        gpu_every = 10 s in 1..=3600;
        /// For `nvidia-smi` to answer.
        gpu_query = 5 s in 1..=60;
        /// For streams to finish after SIGTERM, and on a tunnel that drains.
        drain = 120 s in 1..=86_400;
    }
}
