//! What a request over loopback TCP must not be: a web page's, sent there by a name that points to this machine.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, StatusCode, Uri};

use super::AdminError;

/// Only reading, exactly one loopback `Host`, and no `Origin` but a loopback one.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), AdminError> {
    let forbidden = |text| Err(AdminError::new(StatusCode::FORBIDDEN, text));
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return forbidden("changes are made over the unix socket only");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    if !matches!(
        (hosts.next().map(is_loopback_host), hosts.next()),
        (Some(true), None)
    ) {
        return forbidden("the host of the request is not loopback");
    }
    if !request
        .headers()
        .get_all(ORIGIN)
        .iter()
        .all(is_loopback_origin)
    {
        return forbidden("the request comes from another site's page");
    }
    Ok(())
}

/// For what is told over the unix socket alone.
pub(super) fn unix_only() -> AdminError {
    AdminError::new(
        StatusCode::FORBIDDEN,
        "this is told over the unix socket only",
    )
}

fn is_loopback_host(host: &HeaderValue) -> bool {
    let authority = host
        .to_str()
        .ok()
        .and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| is_loopback(&authority))
}

fn is_loopback_origin(origin: &HeaderValue) -> bool {
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.parse::<Uri>().ok());
    origin.is_some_and(|origin| origin.authority().is_some_and(is_loopback))
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    // a user name before the host is left out of `host`, and has no business here
    let has_user = authority.as_str().contains('@');
    let by_address = bare
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback());
    !has_user && (by_address || host.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/metrics");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn loopback_hosts_are_served() {
        for host in [
            "localhost",
            "LOCALHOST:9100",
            "127.0.0.1:9100",
            "127.8.8.8",
            "[::1]:9100",
        ] {
            assert!(is_allowed("GET", &[("host", host)]), "{host}");
        }
        assert!(is_allowed(
            "HEAD",
            &[("host", "localhost"), ("origin", "http://127.0.0.1:1")]
        ));
    }

    #[test]
    fn a_name_that_only_points_here_is_refused() {
        for host in [
            "evil.example",
            "evil.example:9100",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil@localhost",
            "10.0.0.1",
            "[2001:db8::1]",
            "",
        ] {
            assert!(!is_allowed("GET", &[("host", host)]), "{host}");
        }
        assert!(!is_allowed("GET", &[]));
        assert!(!is_allowed(
            "GET",
            &[("host", "localhost"), ("host", "localhost")]
        ));
    }

    #[test]
    fn other_sites_pages_and_changes_are_refused() {
        for origin in [
            "https://evil.example",
            "null",
            "http://localhost.evil.example",
        ] {
            assert!(
                !is_allowed("GET", &[("host", "localhost"), ("origin", origin)]),
                "{origin}"
            );
        }
        for method in ["POST", "DELETE", "PUT"] {
            assert!(!is_allowed(method, &[("host", "localhost")]));
        }
    }
}
