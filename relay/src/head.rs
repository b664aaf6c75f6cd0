//! The head of a stream, checked: what is asked for, for whom. What comes from a gateway is untrusted.

use std::net::{IpAddr, SocketAddr};

use sallyport_wire::message::{Client, Head, Kind};
use sallyport_wire::{Code, SessionId};

/// Longest credential and other texts of a head are bounded by the frame; an id in a log line is shorter.
const MAX_REQUEST_ID: usize = 64;

/// What a stream asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// How the stream is to be treated.
    pub kind: Kind,
    /// The session, `None` for a probe.
    pub session: Option<SessionId>,
    /// The client as the gateway sees it.
    pub client: Origin,
    /// The same in every log line about this request; only printable ASCII.
    pub request_id: String,
    /// Raw gateway port that the client came to, else 0.
    pub port: u16,
}

/// Where a client is, as the gateway says.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Its address, where known.
    pub peer: Option<SocketAddr>,
    /// The gateway's address that it came to, where known.
    pub local: Option<SocketAddr>,
}

impl Origin {
    /// The client's address without the port; IPv4 in its own form.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical())
    }
}

impl Request {
    /// Checks a head.
    ///
    /// # Errors
    /// [`Code::Protocol`] if it is malformed, [`Code::UnknownSession`] if its target can be no session.
    pub fn read(head: &Head) -> Result<Self, Code> {
        let kind = Kind::try_from(head.kind).map_err(|_unknown| Code::Protocol)?;
        let session = match kind {
            Kind::Probe => None,
            Kind::Http | Kind::Tcp | Kind::Tls | Kind::Udp => Some(session(&head.target)?),
        };
        Ok(Self {
            kind,
            session,
            client: origin(head.client.as_ref())?,
            request_id: request_id(&head.request_id)?,
            port: u16::try_from(head.port).map_err(|_large| Code::Protocol)?,
        })
    }
}

fn session(target: &str) -> Result<SessionId, Code> {
    target.parse().map_err(|_invalid| Code::UnknownSession)
}

fn origin(client: Option<&Client>) -> Result<Origin, Code> {
    let Some(client) = client else {
        return Ok(Origin::default());
    };
    Ok(Origin {
        peer: address(&client.address)?,
        local: address(&client.local)?,
    })
}

fn address(text: &str) -> Result<Option<SocketAddr>, Code> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_invalid| Code::Protocol),
    }
}

fn request_id(text: &str) -> Result<String, Code> {
    let plain = text.len() <= MAX_REQUEST_ID && text.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| text.to_owned()).ok_or(Code::Protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            kind: Kind::Tcp.into(),
            target: "ssh".to_owned(),
            client: Some(Client {
                address: "[::ffff:10.1.2.3]:5".to_owned(),
                ..Client::default()
            }),
            request_id: "r1".to_owned(),
            port: 2222,
            ..Head::default()
        }
    }

    #[test]
    fn a_head_becomes_a_request() {
        let request = Request::read(&head()).expect("well formed");

        assert_eq!(request.kind, Kind::Tcp);
        assert_eq!(request.session.expect("a session").as_str(), "ssh");
        assert_eq!(request.client.address(), Some([10, 1, 2, 3].into()));
        assert_eq!(request.port, 2222);
    }

    #[test]
    fn malformed_heads_are_refused_by_code() {
        type Break = fn(&mut Head);
        let cases: [(Break, Code); 6] = [
            (|h| h.kind = 99, Code::Protocol),
            (|h| h.target = "../x".to_owned(), Code::UnknownSession),
            (|h| h.target.clear(), Code::UnknownSession),
            (|h| h.port = 70_000, Code::Protocol),
            (|h| h.request_id = "a\nb".to_owned(), Code::Protocol),
            (
                |h| {
                    h.client = Some(Client {
                        address: "x".to_owned(),
                        ..Client::default()
                    })
                },
                Code::Protocol,
            ),
        ];
        for (place, (change, code)) in cases.into_iter().enumerate() {
            let mut head = head();
            change(&mut head);
            assert_eq!(
                Request::read(&head).expect_err("refused"),
                code,
                "case {place}"
            );
        }
    }

    #[test]
    fn a_probe_needs_no_target() {
        let probe = Head {
            kind: Kind::Probe.into(),
            ..Head::default()
        };
        assert!(
            Request::read(&probe)
                .expect("well formed")
                .session
                .is_none()
        );
    }
}
