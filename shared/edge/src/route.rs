//! Which session a host and a path mean.

use std::net::IpAddr;

use sallyport_wire::{ClusterName, SessionId};

use crate::host::{Host, HostError, HostName};
use crate::opener::Target;
use crate::path::{Path, PathError};

/// Where sessions are in path mode.
const SESSIONS: &str = "/s/";

/// Where the front's host has something of its own.
const OWN: &str = "/.sallyport/";

/// The names that this front answers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    sites: Vec<Site>,
    one: Option<SessionId>,
}

/// The names of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    cluster: ClusterName,
    own: Vec<HostName>,
    sessions_domain: Option<String>,
}

/// What a request is for, and what the session sees as its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/` of an own name.
    Root,
    /// What stands behind `/.sallyport/` of an own name.
    Own(String),
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
    /// which each session has a host name (`<id>.<domain>`). They lead to the default cluster.
    ///
    /// # Errors
    /// [`HostError`] if one of them is no host name.
    pub fn new(
        own: impl IntoIterator<Item = impl AsRef<str>>,
        sessions_domain: Option<&str>,
    ) -> Result<Self, HostError> {
        Self::default().with(ClusterName::DEFAULT, own, sessions_domain)
    }

    /// With names that lead to another cluster.
    ///
    /// # Errors
    /// As [`Sites::new`].
    pub fn with(
        mut self,
        cluster: ClusterName,
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
        self.sites.push(Site {
            cluster,
            own,
            sessions_domain,
        });
        Ok(self)
    }

    /// One session under every host name, for a front whose connection was already meant for it.
    #[must_use]
    pub const fn one(session: SessionId) -> Self {
        Self {
            sites: Vec::new(),
            one: Some(session),
        }
    }

    /// Routes a request that came to the address `local`, which counts as an own name of the default cluster, too. Says
    /// which cluster it is for.
    ///
    /// # Errors
    /// [`RouteError`]
    pub fn route(
        &self,
        host: &Host,
        path: &Path,
        local: IpAddr,
    ) -> Result<(ClusterName, Route), RouteError> {
        if let Some(session) = &self.one {
            return Ok((ClusterName::DEFAULT, host_mode(session.clone())));
        }
        let name = host.name();
        if let Some(site) = self.sites.iter().find(|site| site.own.contains(name)) {
            return Ok((site.cluster.clone(), own_site(path)?));
        }
        match name {
            HostName::Ip(address) if *address == local.to_canonical() => {
                Ok((ClusterName::DEFAULT, own_site(path)?))
            }
            HostName::Ip(_) => Err(RouteError::Host),
            HostName::Dns(name) => self.session(name),
        }
    }

    /// What a name below a sessions' domain means. A session id has no dot, so a name fits one domain at most.
    fn session(&self, name: &str) -> Result<(ClusterName, Route), RouteError> {
        let mut missed = RouteError::Host;
        for site in &self.sites {
            let Some(label) = site.label(name) else {
                continue;
            };
            match label.parse() {
                Ok(session) => return Ok((site.cluster.clone(), host_mode(session))),
                Err(_) => missed = RouteError::Unknown,
            }
        }
        Err(missed)
    }
}

impl Site {
    /// What stands in front of its sessions' domain.
    fn label<'n>(&self, name: &'n str) -> Option<&'n str> {
        let domain = self.sessions_domain.as_deref()?;
        name.strip_suffix(domain)?.strip_suffix('.')
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
    if let Some(rest) = path.path().strip_prefix(OWN) {
        return Ok(Route::Own(rest.to_owned()));
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
        let routed = sites().route(&host.parse().expect(host), &path, LOCAL);
        routed.map(|(_cluster, route)| route)
    }

    #[test]
    fn each_cluster_has_names_of_its_own() {
        let bio: ClusterName = "bio".parse().expect("a name");
        let geo: ClusterName = "geo".parse().expect("a name");
        let sites = sites()
            .with(bio.clone(), ["bio.example.org"], Some("bio.example.org"))
            .and_then(|sites| sites.with(geo.clone(), ["geo.bio.example.org"], None))
            .expect("names");
        let cluster = |host: &str, path: &str| {
            let path = Path::parse(path).expect(path);
            let routed = sites.route(&host.parse().expect(host), &path, LOCAL);
            routed.map(|(cluster, _route)| cluster)
        };

        for (host, path, expected) in [
            ("gw.example.org", "/s/web/", &ClusterName::DEFAULT),
            ("192.0.2.1", "/s/web/", &ClusterName::DEFAULT),
            ("web.sessions.example.org", "/", &ClusterName::DEFAULT),
            ("BIO.example.org.:8443", "/s/web/", &bio),
            ("bio.example.org", "/", &bio),
            ("web.bio.example.org", "/", &bio),
            ("geo.bio.example.org", "/s/web/", &geo),
        ] {
            assert_eq!(cluster(host, path).as_ref(), Ok(expected), "{host}");
        }
        for (host, error) in [
            ("geo.example.org", RouteError::Host),
            ("a.b.bio.example.org", RouteError::Unknown),
            ("xbio.example.org", RouteError::Host),
        ] {
            assert_eq!(cluster(host, "/"), Err(error), "{host}");
        }
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
                && let Ok((_, Route::Session { session, prefix: Some(prefix), .. })) =
                    sites().route(&"gw.example.org".parse().expect("a host"), &path, LOCAL)
            {
                prop_assert_eq!(&prefix, &format!("/s/{session}"));
                let seen = inside(&path, Some(&prefix)).expect("a path");
                prop_assert_eq!(format!("{prefix}{}", seen.target()), path.target());
            }
        }
    }
}
