//! `broker.json` as it is written, and what its words mean.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use sallyport_certs::{NotAPin, Pin};
use sallyport_ops::places;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{Host, Login, MAX_HOSTS, NATS_PORT, REDIS_PORT, Tls, Transporter};

/// The file as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    #[serde(default)]
    pub(super) transporter_type: Transporter,
    pub(super) host: Option<String>,
    pub(super) hosts: Option<Vec<String>>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    #[serde(default, deserialize_with = "wiped")]
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) creds: Option<PathBuf>,
    pub(super) tls: Option<RawTls>,
    pub(super) reject_unauthorized: Option<bool>,
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawTls {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    pin: Option<String>,
}

fn wiped<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    let text = Option::<String>::deserialize(value)?;
    Ok(text.map(Zeroizing::new))
}

pub(super) fn hosts(raw: &Raw, faults: &mut Vec<String>) -> Vec<Host> {
    let port = raw.port.unwrap_or(match raw.transporter_type {
        Transporter::Redis => REDIS_PORT,
        Transporter::Nats | Transporter::Embedded => NATS_PORT,
    });
    let named = match (&raw.host, &raw.hosts) {
        (Some(_), Some(_)) => {
            faults.push("give `host` or `hosts`, not both".to_owned());
            return Vec::new();
        }
        (Some(host), None) => std::slice::from_ref(host),
        (None, Some(hosts)) => hosts.as_slice(),
        (None, None) => &[],
    };
    let embedded = raw.transporter_type == Transporter::Embedded;
    if embedded && !named.is_empty() {
        faults.push(
            "an embedded store has no hosts: remove them, or set `transporterType` to \"nats\""
                .to_owned(),
        );
    }
    if !embedded && named.is_empty() {
        faults.push("`host` or `hosts` is missing: where the broker's servers are".to_owned());
    }
    if named.len() > MAX_HOSTS {
        faults.push(format!("at most {MAX_HOSTS} `hosts` fit"));
        return Vec::new();
    }
    let parsed = named.iter().map(|text| parse_host(text, port));
    let mut hosts = Vec::new();
    for host in parsed {
        match host {
            Ok(host) => hosts.push(host),
            Err(fault) => faults.push(fault),
        }
    }
    hosts
}

/// `NAME`, `NAME:PORT`, `ADDRESS`, `[ADDRESS]:PORT`.
pub(crate) fn parse_host(text: &str, port: u16) -> Result<Host, String> {
    let shown = text.escape_debug();
    let wrong =
        || format!("`{shown}` is no host: write a name or address, with :PORT where it is another");
    if let Ok(address) = text.parse::<IpAddr>() {
        let name = address.to_string();
        return Ok(Host { name, port });
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        let (name, port) = (address.ip().to_string(), address.port());
        return Ok(Host { name, port });
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_no_port| wrong())?),
        None => (text, port),
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if (1..=253).contains(&name.len()) && name.bytes().all(fits) && port > 0 {
        let name = name.to_owned();
        return Ok(Host { name, port });
    }
    Err(wrong())
}

pub(super) fn login(raw: &Raw, faults: &mut Vec<String>) -> Option<Login> {
    if raw.creds.is_some() && raw.transporter_type == Transporter::Redis {
        faults.push("`creds` are of NATS: give `user` and `password`".to_owned());
        return None;
    }
    match (&raw.user, &raw.password, &raw.creds) {
        (Some(user), Some(password), None) => Some(Login::Password {
            user: user.clone(),
            password: password.clone(),
        }),
        (None, None, _) => None,
        (_, _, Some(_)) => {
            faults.push("give `user` and `password`, or `creds`, not both".to_owned());
            None
        }
        (None, Some(_), None) if raw.transporter_type == Transporter::Redis => {
            raw.password.clone().map(|password| Login::Password {
                user: "default".to_owned(),
                password,
            })
        }
        _ => {
            faults.push("`user` and `password` belong together".to_owned());
            None
        }
    }
}

pub(super) fn tls(raw: &Raw, path: &Path, faults: &mut Vec<String>) -> Option<Tls> {
    let Some(tls) = &raw.tls else {
        if raw.reject_unauthorized.is_some() {
            faults.push("`rejectUnauthorized` says nothing without `tls`".to_owned());
        }
        return None;
    };
    let beside = |file: &PathBuf| places::relative_to(path, file);
    let own = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Some((beside(cert), beside(key))),
        (None, None) => None,
        _ => {
            faults.push("`tls`: `cert` and `key` belong together".to_owned());
            None
        }
    };
    let pin = tls.pin.as_deref().map(str::parse::<Pin>);
    let pin = pin.transpose().unwrap_or_else(|error: NotAPin| {
        faults.push(format!("`tls`: `pin`: {error}"));
        None
    });
    if raw.reject_unauthorized == Some(false) && tls.pin.is_none() {
        faults.push(
            "with `rejectUnauthorized` false anybody could pose as the broker and learn the password: give `tls` the `pin` \
             of the broker's key"
                .to_owned(),
        );
    }
    Some(Tls {
        ca: tls.ca.as_ref().map(beside),
        own,
        pin,
    })
}

pub(crate) fn is_namespace(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=32).contains(&text.len()) && text.bytes().all(fits)
}
