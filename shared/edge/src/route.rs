//! Which session a host and a path mean.

use std::net::IpAddr;

use sallyport_wire::SessionId;

use crate::host::{Host, HostError, HostName};
use crate::opener::Target;
use crate::path::{Path, PathError};

/// Where sessions are in path mode.
const SESSIONS: &str = "/s/";

/// The names that this front answers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    own: Vec<HostName>,
    sessions_domain: Option<String>,
    one: Option<SessionId>,
}

/// What a request is for, and what the session sees as its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/` of an own name.
    Root,
    /// A session's path without the slash at its end: the client is sent to this relative reference.
    Slash(String),
    /// A session.
    Session {
        /// Which one, and in which mode.
        target: Target,
        /// Its id.
        session: SessionId,
        /// `/s/<id>` in path mode.
        prefix: Option<String>,
    },
}

/// A host and a path that mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A host that this front does not answer to.
    #[error("the host is none of ours")]
    Host,
    /// Nothing is there.
    #[error("no session has that name or path")]
    Unknown,
    /// The part of the path that decides on the session could be read in two ways.
    #[error("the path names its session in an ambiguous way")]
    Ambiguous,
}

impl Sites {
    /// The front's own names and addresses, where `/` and path mode (`/s/<id>/…`) are served, and the domain below
    /// which each session has a host name (`<id>.<domain>`).
    ///
    /// # Errors
    /// [`HostError`] if one of them is no host name.
    pub fn new(
        own: impl IntoIterator<Item = impl AsRef<str>>,
        sessions_domain: Option<&str>,
    ) -> Result<Self, HostError> {
        let own = own
            .into_iter()
            .map(|name| name.as_ref().parse())
            .collect::<Result<_, _>>()?;
        let sessions_domain = match sessions_domain {
            Some(domain) => Some(domain.parse::<HostName>()?.to_string()),
            None => None,
        };
        Ok(Self {
            own,
            sessions_domain,
            one: None,
        })
    }

    /// One session under every host name, for a front whose connection was already meant for it.
    #[must_use]
    pub const fn one(session: SessionId) -> Self {
        Self {
            own: Vec::new(),
            sessions_domain: None,
            one: Some(session),
        }
    }

    /// Routes a request that came to the address `local`, which counts as an own name, too.
    ///
    /// # Errors
    /// [`RouteError`]
    pub fn route(&self, host: &Host, path: &Path, local: IpAddr) -> Result<Route, RouteError> {
        if let Some(session) = &self.one {
            return Ok(host_mode(session.clone()));
        }
        let name = host.name();
        if self.own.contains(name) || *name == HostName::Ip(local.to_canonical()) {
            return own_site(path);
        }
        let HostName::Dns(name) = name else {
            return Err(RouteError::Host);
        };
        let domain = self.sessions_domain.as_deref().ok_or(RouteError::Host)?;
        let label = name
            .strip_suffix(domain)
            .and_then(|rest| rest.strip_suffix('.'))
            .ok_or(RouteError::Host)?;
        let session: SessionId = label.parse().map_err(|_| RouteError::Unknown)?;
        Ok(host_mode(session))
    }
}

fn host_mode(session: SessionId) -> Route {
    let target = Target::Host {
        session: session.clone(),
    };
    Route::Session {
        target,
        session,
        prefix: None,
    }
}

fn own_site(path: &Path) -> Result<Route, RouteError> {
    if path.path() == "/" {
        return Ok(Route::Root);
    }
    let Some(rest) = path.path().strip_prefix(SESSIONS) else {
        let first = path.path().split('/').nth(1).unwrap_or_default();
        return Err(if first.contains(['%', ';']) {
            RouteError::Ambiguous
        } else {
            RouteError::Unknown
        });
    };
    let (id, inside) = match rest.split_once('/') {
        Some((id, inside)) => (id, Some(inside)),
        None => (rest, None),
    };
    if id.is_empty()
        || id.contains(['%', ';'])
        || inside.is_some_and(|inside| inside.starts_with('/'))
    {
        return Err(RouteError::Ambiguous);
    }
    let session: SessionId = id.parse().map_err(|_| RouteError::Unknown)?;
    if inside.is_none() {
        let query = path
            .query()
            .map_or(String::new(), |query| format!("?{query}"));
        return Ok(Route::Slash(format!("{SESSIONS}{session}/{query}")));
    }
    let prefix = Some(format!("{SESSIONS}{session}"));
    let target = Target::Path {
        session: session.clone(),
    };
    Ok(Route::Session {
        target,
        session,
        prefix,
    })
}

/// The path that a session sees: without `prefix`, if there is one to be taken off.
///
/// # Errors
/// [`PathError`] if what is left could be read in two ways.
pub(crate) fn inside(path: &Path, prefix: Option<&str>) -> Result<Path, PathError> {
    match prefix.and_then(|prefix| path.path().strip_prefix(prefix)) {
        Some(rest) => path.with_path(rest),
        None => Ok(path.clone()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn sites() -> Sites {
        Sites::new(
            ["gw.example.org", "2001:db8::1"],
            Some("sessions.example.org"),
        )
        .expect("names")
    }

    #[expect(
        clippy::unwrap_in_result,
        reason = "what the tests give are hosts and paths"
    )]
    fn route(host: &str, path: &str) -> Result<Route, RouteError> {
        let path = Path::parse(path).expect(path);
        sites().route(&host.parse().expect(host), &path, LOCAL)
    }

    fn session(found: &Result<Route, RouteError>) -> Option<(&str, Option<&str>)> {
        match found {
            Ok(Route::Session {
                session, prefix, ..
            }) => Some((session.as_str(), prefix.as_deref())),
            _ => None,
        }
    }

    #[test]
    fn own_names_serve_paths_and_others_sessions() {
        assert_eq!(route("gw.example.org", "/"), Ok(Route::Root));
        assert_eq!(route("GW.example.org.:8443", "/?x"), Ok(Route::Root));
        assert_eq!(route("[2001:db8::1]", "/"), Ok(Route::Root));
        assert_eq!(route("192.0.2.1", "/"), Ok(Route::Root));
        assert_eq!(
            session(&route("gw.example.org", "/s/web/a/b")),
            Some(("web", Some("/s/web")))
        );
        assert_eq!(
            session(&route("gw.example.org", "/s/web/")),
            Some(("web", Some("/s/web")))
        );
        assert_eq!(
            session(&route("Web.Sessions.Example.org", "/s/x/")),
            Some(("web", None))
        );
        assert_eq!(
            route("gw.example.org", "/s/web?a=b"),
            Ok(Route::Slash("/s/web/?a=b".to_owned()))
        );
    }

    #[test]
    fn the_rest_is_unknown_or_elsewhere() {
        for path in [
            "/s", "/S/web/", "/x", "/s/WEB/", "/s/a.b/", "/s/-/", "/sx/web/",
        ] {
            assert_eq!(
                route("gw.example.org", path),
                Err(RouteError::Unknown),
                "{path}"
            );
        }
        for path in [
            "/s//web/",
            "/s/web//x",
            "/s/we%62/",
            "/%73/web/",
            "/s/web;a/",
            "/s;/web/",
            "/s%2fweb/",
            "/s/web%2fx",
        ] {
            assert_eq!(
                route("gw.example.org", path),
                Err(RouteError::Ambiguous),
                "{path}"
            );
        }
        for host in [
            "example.org",
            "sessions.example.org",
            "xsessions.example.org",
            "192.0.2.2",
            "gw.example.org.evil",
        ] {
            assert_eq!(route(host, "/"), Err(RouteError::Host), "{host}");
        }
        assert_eq!(
            route("a.b.sessions.example.org", "/"),
            Err(RouteError::Unknown)
        );
    }

    #[test]
    fn a_session_sees_its_own_paths() {
        let path = Path::parse("/s/web/a%2Fb?q").expect("a path");
        assert_eq!(
            inside(&path, Some("/s/web")).expect("a path").target(),
            "/a%2Fb?q"
        );
        assert_eq!(inside(&path, None).expect("a path"), path);
    }

    proptest! {
        #[test]
        fn a_route_is_where_its_bytes_say(path in "/(s|S|%73|x)?[/a-c%25;.]{0,12}") {
            if let Ok(path) = Path::parse(&path)
                && let Ok(Route::Session { session, prefix: Some(prefix), .. }) =
                    sites().route(&"gw.example.org".parse().expect("a host"), &path, LOCAL)
            {
                prop_assert_eq!(&prefix, &format!("/s/{session}"));
                let seen = inside(&path, Some(&prefix)).expect("a path");
                prop_assert_eq!(format!("{prefix}{}", seen.target()), path.target());
            }
        }
    }
}
