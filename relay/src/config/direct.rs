//! The `[direct]` table: the relay's own port, and whether clients may come in there.

use std::net::SocketAddr;

use ipnet::IpNet;
use sallyport_link::GatewayUrl;

use super::TlsFiles;
use super::faults::Faults;
use super::raw::RawDirect;

/// The relay's own port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectConfig {
    /// Its address.
    pub listen: SocketAddr,
    /// How clients come in there; none lets in other nodes alone.
    pub front: Option<FrontConfig>,
}

/// How clients come in at the relay's own port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontConfig {
    /// The URL that they open: its host is what the front answers to.
    pub url: GatewayUrl,
    /// The certificate that they are shown.
    pub tls: TlsFiles,
    /// Proxies whose `X-Forwarded-*` and PROXY headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether trusted proxies send a PROXY header.
    pub proxy_protocol: bool,
    /// Whether browsers are sent on to the node that has a session, where it has a URL of its own.
    pub redirect: bool,
}

/// Checks the table; none where the port stays shut.
pub(super) fn check(raw: RawDirect, faults: &mut Faults<'_>) -> Option<DirectConfig> {
    let of_front = raw.proxy_protocol || raw.redirect || !raw.trusted_proxies.is_empty();
    let front = match (raw.url, raw.cert, raw.key) {
        (None, None, None) => {
            if of_front {
                let text = "[direct] `trusted_proxies`, `proxy_protocol` and `redirect` are for clients, who need `url`, `cert` and `key` there";
                faults.whole(text.to_owned());
            }
            None
        }
        (Some(url), Some(cert), Some(key)) => {
            let parsed = url.get_ref().parse::<GatewayUrl>();
            if parsed.is_err() {
                let found = url.get_ref().escape_debug();
                let text = format!(
                    "`{found}` is no URL of a node, which looks like https://node-2.example.org:3300"
                );
                faults.at(&url.span(), text);
            }
            parsed.ok().map(|url| FrontConfig {
                url,
                tls: TlsFiles {
                    cert: faults.beside(&cert),
                    key: faults.beside(&key),
                },
                trusted_proxies: raw.trusted_proxies,
                proxy_protocol: raw.proxy_protocol,
                redirect: raw.redirect,
            })
        }
        _ => {
            let text = "[direct] clients need all of `url`, `cert` and `key`; without them only other nodes come in";
            faults.whole(text.to_owned());
            None
        }
    };
    if front.is_some() && raw.listen.is_none() {
        let text = "[direct] `url` needs `listen`, like \"[::]:3300\"";
        faults.whole(text.to_owned());
    }
    let listen = raw.listen?;
    Some(DirectConfig { listen, front })
}
