//! Who may use a session. Pure: the answer follows from the session's configuration and the request alone.
//! Whatever is not public or let in by a rule is refused, also by mistake.

use std::net::IpAddr;

use sallyport_wire::Code;
use sallyport_wire::message::{Kind, Protocol};

use crate::config::{Access, SessionConfig};
use crate::head::Request;

/// How an admitted stream is to be carried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Bytes straight to the session.
    Straight,
    /// HTTP that the relay itself answers with a bridge to RFB.
    Bridge,
    /// The relay ends TLS first; a `client_ca` is enforced there.
    EndTls,
    /// A flow of datagrams.
    Datagrams,
}

/// Decides on a stream, whose client may have been `invited` to the session: such a one needs no login for HTTP.
///
/// # Errors
/// The refusal: [`Code::Forbidden`] and [`Code::LoginRequired`] by the session's rules,
/// [`Code::Misdirected`] if the stream is of a kind that the session is not offered for.
pub fn decide(session: &SessionConfig, request: &Request, invited: bool) -> Result<Passage, Code> {
    let passage = passage(session, request.kind)?;
    from_allowed_source(session, request.client.address())?;
    let admitted = match passage {
        Passage::EndTls => may_end_tls(session),
        Passage::Straight | Passage::Bridge | Passage::Datagrams => {
            public(session)
                || match request.kind {
                    Kind::Http => invited,
                    Kind::Tcp | Kind::Tls | Kind::Udp | Kind::Probe => by_source(session),
                }
        }
    };
    if admitted {
        Ok(passage)
    } else {
        Err(Code::LoginRequired)
    }
}

/// Whether HTTP can reach a session, and somebody without a login may. From where is asked for each stream.
#[must_use]
pub const fn is_open_to_http(session: &SessionConfig) -> bool {
    is_reached_by_http(session) && public(session)
}

/// Whether HTTP can reach a session.
#[must_use]
pub const fn is_reached_by_http(session: &SessionConfig) -> bool {
    passage(session, Kind::Http).is_ok()
}

/// Decides on an HTTP request on a stream whose TLS the relay has ended, client certificate included.
///
/// # Errors
/// [`Code::LoginRequired`] if neither a certificate, a source nor `access = "public"` lets it in.
pub fn decide_inside_tls(session: &SessionConfig) -> Result<(), Code> {
    let admitted = public(session) || by_source(session) || session.client_ca.is_some();
    if admitted {
        Ok(())
    } else {
        Err(Code::LoginRequired)
    }
}

/// The mode of a session is its relay's choice: a gateway can neither open what is to pass through unopened,
/// nor reach a program in a way that its configuration does not name.
const fn passage(session: &SessionConfig, kind: Kind) -> Result<Passage, Code> {
    let ends_tls = session.tls.is_some();
    match (session.protocol, kind) {
        (Protocol::Udp, Kind::Udp) => Ok(Passage::Datagrams),
        (Protocol::Http | Protocol::H2c, Kind::Http) if !ends_tls => Ok(Passage::Straight),
        (Protocol::Vnc, Kind::Http) if !ends_tls => Ok(Passage::Bridge),
        (Protocol::Udp, _) | (_, Kind::Http | Kind::Udp | Kind::Probe) => Err(Code::Misdirected),
        (_, Kind::Tcp | Kind::Tls) if ends_tls => Ok(Passage::EndTls),
        (Protocol::Tls, Kind::Tls) | (_, Kind::Tcp) => Ok(Passage::Straight),
        (Protocol::Http | Protocol::H2c | Protocol::Tcp | Protocol::Vnc, Kind::Tls) => {
            Err(Code::Misdirected)
        }
    }
}

/// Bytes behind TLS carry no identity and need a rule; a request behind TLS is decided on when it is there.
fn may_end_tls(session: &SessionConfig) -> bool {
    session.protocol != Protocol::Tcp || session.anonymous()
}

const fn public(session: &SessionConfig) -> bool {
    matches!(session.access, Access::Public)
}

/// Whether the session's sources let in what carries no identity. That the client is one of them was checked. For
/// what can carry one, sources narrow who may come and never widen it.
const fn by_source(session: &SessionConfig) -> bool {
    let bare = matches!(
        session.protocol,
        Protocol::Tcp | Protocol::Tls | Protocol::Udp
    );
    !session.sources.is_empty() && (bare || session.tls.is_some())
}

fn from_allowed_source(session: &SessionConfig, client: Option<IpAddr>) -> Result<(), Code> {
    if session.sources.is_empty() {
        return Ok(());
    }
    let inside = |address| session.sources.iter().any(|net| net.contains(&address));
    if client.is_some_and(inside) {
        Ok(())
    } else {
        Err(Code::Forbidden)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::head::Origin;

    const TLS: &str = "tls = { cert = \"c\", key = \"k\" }\n";

    fn session(protocol: &str, extra: &str) -> SessionConfig {
        let text = format!(
            "node = \"n\"\n[[session]]\nid = \"a\"\nprotocol = \"{protocol}\"\ntarget = \"127.0.0.1:1\"\n{extra}"
        );
        let config = Config::parse(&text, Path::new("relay.toml")).expect("loads");
        config.sessions.into_iter().next().expect("one session")
    }

    fn ask(session: &SessionConfig, kind: Kind, from: &str) -> Result<Passage, Code> {
        let peer = from.parse().ok();
        let client = Origin { peer, local: None };
        let id = Some(session.id.clone());
        decide(
            session,
            &Request {
                kind,
                session: id,
                client,
                request_id: String::new(),
                port: 0,
            },
            false,
        )
    }

    #[test]
    fn only_public_opens_http_without_a_login() {
        for access in [
            "",
            "access = \"login\"\n",
            "access = { groups = [\"staff\"] }\n",
        ] {
            for sources in ["", "sources = [\"10.0.0.0/8\"]\n"] {
                let closed = session("http", &format!("{access}{sources}"));
                assert_eq!(
                    ask(&closed, Kind::Http, "10.0.0.1:1"),
                    Err(Code::LoginRequired)
                );
            }
        }
        let open = session("http", "access = \"public\"\n");
        assert_eq!(ask(&open, Kind::Http, "9.9.9.9:1"), Ok(Passage::Straight));
        let vnc = session("vnc", "access = \"public\"\n");
        assert_eq!(ask(&vnc, Kind::Http, ""), Ok(Passage::Bridge));
        assert_eq!(ask(&vnc, Kind::Tcp, ""), Ok(Passage::Straight));
    }

    #[test]
    fn sources_let_in_what_has_no_identity_and_shut_out_the_rest() {
        let ssh = session("tcp", "sources = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n");

        assert_eq!(ask(&ssh, Kind::Tcp, "10.1.1.1:1"), Ok(Passage::Straight));
        assert_eq!(
            ask(&ssh, Kind::Tcp, "[2001:db8::1]:1"),
            Ok(Passage::Straight)
        );
        assert_eq!(
            ask(&ssh, Kind::Tcp, "[::ffff:10.1.1.1]:1"),
            Ok(Passage::Straight)
        );
        assert_eq!(ask(&ssh, Kind::Tcp, "11.1.1.1:1"), Err(Code::Forbidden));
        assert_eq!(ask(&ssh, Kind::Tcp, ""), Err(Code::Forbidden));
        let public = session("http", "access = \"public\"\nsources = [\"10.0.0.0/8\"]\n");
        assert_eq!(ask(&public, Kind::Http, "11.1.1.1:1"), Err(Code::Forbidden));
    }

    #[test]
    fn a_session_with_a_login_is_closed_to_raw_streams() {
        for extra in [
            "",
            "sources = [\"10.0.0.0/8\"]\n",
            "access = { users = [\"ann\"] }\nsources = [\"10.0.0.0/8\"]\n",
        ] {
            for protocol in ["http", "h2c", "vnc"] {
                let closed = session(protocol, extra);
                let raw = ask(&closed, Kind::Tcp, "10.1.1.1:1");
                assert_eq!(raw, Err(Code::LoginRequired), "{protocol} {extra}");
            }
        }
    }

    #[test]
    fn a_gateway_cannot_open_what_passes_through_unopened() {
        for protocol in ["http", "vnc", "h2c"] {
            let blind = session(protocol, &format!("access = \"public\"\n{TLS}"));
            assert_eq!(ask(&blind, Kind::Http, ""), Err(Code::Misdirected));
            assert_eq!(ask(&blind, Kind::Tls, ""), Ok(Passage::EndTls));
            assert_eq!(ask(&blind, Kind::Tcp, ""), Ok(Passage::EndTls));
        }
        let service = session("tls", "access = \"public\"\n");
        assert_eq!(ask(&service, Kind::Http, ""), Err(Code::Misdirected));
        assert_eq!(ask(&service, Kind::Tls, ""), Ok(Passage::Straight));
        let plain = session("http", "access = \"public\"\n");
        assert_eq!(ask(&plain, Kind::Tls, ""), Err(Code::Misdirected));
    }

    #[test]
    fn datagrams_go_to_udp_sessions_only() {
        let dns = session("udp", "access = \"public\"\n");
        assert_eq!(ask(&dns, Kind::Udp, ""), Ok(Passage::Datagrams));
        assert_eq!(ask(&dns, Kind::Tcp, ""), Err(Code::Misdirected));
        let tcp = session("tcp", "access = \"public\"\n");
        assert_eq!(ask(&tcp, Kind::Udp, ""), Err(Code::Misdirected));
    }

    #[test]
    fn inside_tls_a_request_needs_a_certificate_a_source_or_public() {
        let login = session("http", TLS);
        assert_eq!(ask(&login, Kind::Tls, ""), Ok(Passage::EndTls));
        assert_eq!(decide_inside_tls(&login), Err(Code::LoginRequired));
        let checked = session("http", &format!("client_ca = \"ca\"\n{TLS}"));
        assert_eq!(decide_inside_tls(&checked), Ok(()));
        let bytes = session("tcp", &format!("client_ca = \"ca\"\n{TLS}"));
        assert_eq!(ask(&bytes, Kind::Tls, ""), Ok(Passage::EndTls));
    }
}
