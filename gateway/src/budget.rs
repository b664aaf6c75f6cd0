//! How many connections the process can hold: computed from its limit of open files, refused where
//! the configuration wants more.

use crate::config::Config;

/// Descriptors for the admin socket, logs, files and whatever else is opened for a moment.
const RESERVED: u64 = 128;

/// Descriptors of a data connection: its socket and a pipe for each direction.
const DATA_CONNECTION: usize = 5;

/// Fewest connections of clients that are worth starting with.
const FEWEST_CLIENTS: usize = 16;

/// How many connections of each kind the process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tunnels over TLS: relays come in whatever the clients do.
    pub tunnels: usize,
    /// Connections that are not established yet.
    pub newcomers: usize,
    /// Data connections.
    pub data: usize,
    /// Clients of the front, of passthrough and of raw TCP ports.
    pub clients: usize,
}

/// The limit of open files does not hold what the configuration wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooFew {
    /// `limits.connections` is more than fits.
    #[error(
        "limits.connections = {wanted}, but {open_files} open files leave room for {room} clients: \
         raise the limit (LimitNOFILE= of the unit, `ulimit -n`) or lower the number"
    )]
    Clients {
        /// As configured.
        wanted: usize,
        /// What fits.
        room: usize,
        /// Limit of the process.
        open_files: u64,
    },
    /// Not even a small gateway fits.
    #[error(
        "{open_files} open files are too few for a gateway: raise the limit (LimitNOFILE= of the unit, `ulimit -n`)"
    )]
    Process {
        /// Limit of the process.
        open_files: u64,
    },
}

impl Budget {
    /// Divides `open_files`, the limit of the process, among what the configuration wants.
    ///
    /// # Errors
    /// [`TooFew`] if `limits.connections` does not fit, or nothing does.
    pub fn compute(config: &Config, open_files: u64) -> Result<Self, TooFew> {
        let listeners = config.listen.len() * 2 + config.tcp.len() + config.udp.len();
        let taken = RESERVED.saturating_add(listeners as u64);
        let usable = usize::try_from(open_files.saturating_sub(taken)).unwrap_or(usize::MAX);
        let tunnels = config.tunnels.most.min(usable / 4);
        // Those that were told to go may hold their sockets a moment longer: see `accept::Room`.
        let newcomers = config.limits.handshakes.min(usable / 16);
        let data = config.promotion.most.min(usable / 64);
        let room = usable
            .saturating_sub(data.saturating_mul(DATA_CONNECTION))
            .saturating_sub(tunnels)
            .saturating_sub(newcomers.saturating_mul(2));
        if room < FEWEST_CLIENTS || newcomers == 0 || tunnels == 0 {
            return Err(TooFew::Process { open_files });
        }
        match config.limits.connections {
            Some(wanted) if wanted > room => Err(TooFew::Clients {
                wanted,
                room,
                open_files,
            }),
            wanted => Ok(Self {
                tunnels,
                newcomers,
                data,
                clients: wanted.unwrap_or(room),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(more: &str) -> Config {
        let text = format!("url = \"https://gw.example.org\"\n{more}");
        Config::parse(&text, Path::new("gateway.toml")).expect("a fair file")
    }

    #[test]
    fn what_the_process_can_hold_is_divided() {
        let budget = Budget::compute(&config(""), 20_000).expect("plenty");

        assert_eq!(budget.newcomers, 1_000);
        assert!(budget.clients > 10_000, "{budget:?}");
        let all = budget.clients + budget.tunnels + 2 * budget.newcomers + 5 * budget.data;
        assert!(all <= 20_000 - 128, "{budget:?}");
    }

    #[test]
    fn a_small_process_serves_few() {
        let budget = Budget::compute(&config(""), 512).expect("enough");

        assert!(budget.clients >= 200 && budget.tunnels >= 64, "{budget:?}");
        assert_eq!(
            Budget::compute(&config(""), 130),
            Err(TooFew::Process { open_files: 130 })
        );
    }

    #[test]
    fn more_than_fits_is_refused_with_the_way_out() {
        let wanted = config("[limits]\nconnections = 100_000\n");
        let error = Budget::compute(&wanted, 20_000)
            .expect_err("too many")
            .to_string();
        assert!(
            error.contains("100000") && error.contains("LimitNOFILE"),
            "{error}"
        );

        let fits = config("[limits]\nconnections = 500\n");
        assert_eq!(
            Budget::compute(&fits, 20_000).map(|budget| budget.clients),
            Ok(500)
        );
    }
}
