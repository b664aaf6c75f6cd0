//! Proxies on the way out: their URLs, and which one leads to which host.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use zeroize::Zeroizing;

/// A proxy on the way to a gateway. Its password never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) kind: Kind,
    host: String,
    port: u16,
    pub(crate) login: Option<Login>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    Socks5,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Zeroizing<String>,
}

/// Not a proxy's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a proxy, {0}: write http://[user:password@]host:port or socks5://[user:password@]host:port"
)]
pub struct ProxyUrlError(pub &'static str);

/// Which proxy to use for which host.
#[derive(Debug, Clone, Default)]
pub struct ProxyRules {
    proxy: Option<Proxy>,
    direct: Vec<String>,
}

impl ProxyRules {
    /// Always dial directly.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// This proxy for every host.
    #[must_use]
    pub const fn always(proxy: Proxy) -> Self {
        Self {
            proxy: Some(proxy),
            direct: Vec::new(),
        }
    }

    /// By the values of `HTTPS_PROXY` and `NO_PROXY`. The second lists hosts that are dialled directly, joined by
    /// commas: a name stands for itself and for what is below it, `*` for everything.
    ///
    /// # Errors
    /// [`ProxyUrlError`] if the proxy is none.
    pub fn from_environment(
        https_proxy: Option<&str>,
        no_proxy: Option<&str>,
    ) -> Result<Self, ProxyUrlError> {
        let proxy = https_proxy
            .map(str::trim)
            .filter(|proxy| !proxy.is_empty())
            .map(str::parse)
            .transpose()?;
        let direct = no_proxy.unwrap_or_default().split(',');
        Ok(Self {
            proxy,
            direct: direct
                .map(|host| host.trim().trim_start_matches('.').to_ascii_lowercase())
                .filter(|host| !host.is_empty())
                .collect(),
        })
    }

    /// The proxy for a host, given without brackets.
    #[must_use]
    pub fn proxy_for(&self, host: &str) -> Option<&Proxy> {
        let host = host.to_ascii_lowercase();
        let below = |name: &String| {
            let rest = host.strip_suffix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let direct = self.direct.iter().any(|name| name == "*" || below(name));
        self.proxy.as_ref().filter(|_| !direct)
    }
}

impl Proxy {
    /// Host of the proxy, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port of the proxy.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let (kind, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Kind::Connect, rest),
            Some(("socks5" | "socks5h", rest)) => (Kind::Socks5, rest),
            Some(_) => return Err(ProxyUrlError("its scheme is unknown")),
            None => (Kind::Connect, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(parse_login(login)?), address),
            None => (None, rest),
        };
        let (host, port) = address
            .rsplit_once(':')
            .ok_or(ProxyUrlError("its port is missing"))?;
        let bare = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(plain) || (bare.is_none() && host.contains(':')) {
            return Err(ProxyUrlError("its host is malformed"));
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        Ok(Self {
            kind,
            host: host.to_owned(),
            port: port.ok_or(ProxyUrlError("its port is not one"))?,
            login,
        })
    }
}

fn parse_login(login: &str) -> Result<Login, ProxyUrlError> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    Ok(Login {
        user: unescape(user)?,
        password: Zeroizing::new(unescape(password)?),
    })
}

/// Percent-decoding (RFC 3986 §2.1); control characters are refused.
fn unescape(text: &str) -> Result<String, ProxyUrlError> {
    let fault = || ProxyUrlError("its credentials are malformed");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next()), digit(rest.next()));
            let value = high.zip(low).map(|(high, low)| high * 16 + low);
            value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or_else(fault)?
        } else {
            byte
        };
        if byte.is_ascii_control() {
            return Err(fault());
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_not_text| fault())
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Connect => "http",
            Kind::Socks5 => "socks5",
        };
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => write!(f, "{scheme}://[{ip}]:{}", self.port),
            Err(_name) => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Proxy {
        text.parse().expect("a proxy")
    }

    #[test]
    fn urls_are_read_and_shown_without_the_password() {
        let with = proxy("http://me:p%40ss@proxy.example:3128/");
        let login = with.login.as_ref().expect("a login");
        assert_eq!(
            (login.user.as_str(), login.password.as_str()),
            ("me", "p@ss")
        );
        assert_eq!(format!("{with} {with:?}").matches("ss@").count(), 0);
        assert_eq!(with.to_string(), "http://proxy.example:3128");
        assert_eq!(proxy("proxy:8080"), proxy("http://proxy:8080"));
        assert_eq!(
            proxy("socks5://[::1]:1080").to_string(),
            "socks5://[::1]:1080"
        );
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        for bad in [
            "",
            "proxy",
            "http://proxy",
            "http://proxy:0",
            "http://proxy:99999",
            "ftp://proxy:1",
            "http://:1",
            "http://::1:80",
            "http://a b:80",
            "http://u:%0d%0aX@p:1",
            "http://u:%zz@p:1",
        ] {
            assert!(bad.parse::<Proxy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn some_hosts_go_direct() {
        let rules = ProxyRules::from_environment(
            Some("http://proxy:1"),
            Some("example.org, .internal,10.0.0.1"),
        )
        .expect("rules");
        for direct in [
            "example.org",
            "gw.example.org",
            "EXAMPLE.org",
            "a.internal",
            "10.0.0.1",
        ] {
            assert!(rules.proxy_for(direct).is_none(), "{direct}");
        }
        for proxied in ["badexample.org", "example.com", "10.0.0.11"] {
            assert!(rules.proxy_for(proxied).is_some(), "{proxied}");
        }
        let none = ProxyRules::from_environment(Some("http://p:1"), Some("*")).expect("rules");
        assert!(none.proxy_for("anything").is_none());
        let unset = ProxyRules::from_environment(Some(" "), None).expect("rules");
        assert!(unset.proxy_for("anything").is_none());
    }
}
