//! What is said to a proxy: HTTP CONNECT (RFC 9110 §9.3.6) and SOCKS5 (RFC 1928, RFC 1929).

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::proxy::{Kind, Login, Proxy};

/// Why a proxy did not let us through.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It answered with something else than 2xx.
    #[error("the proxy answered {0}")]
    Status(u16),
    /// It wants a login, or another one.
    #[error("the proxy wants other credentials")]
    Login,
    /// It speaks something else.
    #[error("that is no {0} proxy")]
    Gibberish(&'static str),
    /// Its answer does not end.
    #[error("the proxy's answer is longer than {0} bytes")]
    TooLong(usize),
    /// It cannot reach the gateway: a SOCKS5 reply code (RFC 1928 §6).
    #[error("the proxy cannot reach the gateway (SOCKS5 reply {0})")]
    Unreachable(u8),
    /// The connection to it failed.
    #[error("the connection to the proxy failed: {0}")]
    Io(#[from] io::Error),
}

impl Proxy {
    /// Asks for a way to `host` (without brackets) on a connection to the proxy. Whoever calls holds the deadline.
    ///
    /// # Errors
    /// [`ProxyError`]. The connection is of no use then.
    pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut S,
        (host, port): (&str, u16),
        max_answer: usize,
    ) -> Result<(), ProxyError> {
        match self.kind {
            Kind::Connect => self.connect(io, (host, port), max_answer).await,
            Kind::Socks5 => self.socks5(io, (host, port)).await,
        }
    }

    async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut S,
        (host, port): (&str, u16),
        max_answer: usize,
    ) -> Result<(), ProxyError> {
        let authority = match host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{port}"),
            Err(_name) => format!("{host}:{port}"),
        };
        let mut request = Zeroizing::new(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
        ));
        if let Some(login) = &self.login {
            let plain = Zeroizing::new(format!("{}:{}", login.user, login.password.as_str()));
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&Zeroizing::new(STANDARD.encode(plain.as_bytes())));
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        io.write_all(request.as_bytes()).await?;
        io.flush().await?;
        match read_status(io, max_answer).await? {
            200..=299 => Ok(()),
            407 => Err(ProxyError::Login),
            other => Err(ProxyError::Status(other)),
        }
    }

    async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut S,
        (host, port): (&str, u16),
    ) -> Result<(), ProxyError> {
        let method = if self.login.is_some() { LOGIN } else { OPEN };
        io.write_all(&[SOCKS5, 1, method]).await?;
        io.flush().await?;
        match read::<2, _>(io).await? {
            [SOCKS5, chosen] if chosen == method => {}
            [SOCKS5, _] => return Err(ProxyError::Login),
            _ => return Err(ProxyError::Gibberish("SOCKS5")),
        }
        if let Some(login) = &self.login {
            log_in(io, login).await?;
        }
        let mut request = vec![SOCKS5, 1, 0];
        request.extend(socks_host(host)?);
        request.extend(port.to_be_bytes());
        io.write_all(&request).await?;
        io.flush().await?;
        socks_reply(io).await
    }
}

const SOCKS5: u8 = 5;
const OPEN: u8 = 0;
const LOGIN: u8 = 2;

/// User name and password (RFC 1929 §2).
async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    login: &Login,
) -> Result<(), ProxyError> {
    let mut message = Zeroizing::new(vec![1]);
    for part in [&login.user, &*login.password] {
        message.push(u8::try_from(part.len()).map_err(|_long| ProxyError::Login)?);
        message.extend_from_slice(part.as_bytes());
    }
    io.write_all(&message).await?;
    io.flush().await?;
    match read::<2, _>(io).await? {
        [1, 0] => Ok(()),
        _ => Err(ProxyError::Login),
    }
}

/// An address or a name, with its type in front (RFC 1928 §5).
fn socks_host(host: &str) -> Result<Vec<u8>, ProxyError> {
    let mut bytes = Vec::new();
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            bytes.push(1);
            bytes.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        Err(_name) => {
            let len = u8::try_from(host.len()).map_err(|_long| ProxyError::TooLong(255))?;
            bytes.extend([3, len]);
            bytes.extend(host.as_bytes());
        }
    }
    Ok(bytes)
}

/// The reply, up to the last byte of its bound address, which nobody needs (RFC 1928 §6).
async fn socks_reply<S: AsyncRead + Unpin>(io: &mut S) -> Result<(), ProxyError> {
    let [version, reply, _reserved, kind] = read::<4, _>(io).await?;
    if version != SOCKS5 {
        return Err(ProxyError::Gibberish("SOCKS5"));
    }
    if reply != 0 {
        return Err(ProxyError::Unreachable(reply));
    }
    let address = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(io.read_u8().await?),
        _ => return Err(ProxyError::Gibberish("SOCKS5")),
    };
    let mut bound = vec![0; address + 2];
    io.read_exact(&mut bound).await?;
    Ok(())
}

async fn read<const N: usize, S: AsyncRead + Unpin>(io: &mut S) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The status of an answer, read byte by byte up to its empty line, so that nothing of the tunnel is swallowed.
async fn read_status<S: AsyncRead + Unpin>(io: &mut S, max: usize) -> Result<u16, ProxyError> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= max {
            return Err(ProxyError::TooLong(max));
        }
        answer.push(io.read_u8().await?);
    }
    let gibberish = ProxyError::Gibberish("HTTP");
    let text = String::from_utf8_lossy(&answer);
    let mut words = text.split(' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.0" | "HTTP/1.1"), Some(status)) => {
            let status = status.get(..3).unwrap_or(status);
            status.parse().map_err(|_no_number| gibberish)
        }
        _ => Err(gibberish),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Proxy {
        text.parse().expect("a proxy")
    }

    /// Runs `ask` against a script: what the proxy must read, then what it says.
    async fn scripted(proxy: &Proxy, script: &[(&[u8], &[u8])]) -> Result<(), ProxyError> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let play = async move {
            for (expected, says) in script {
                let mut got = vec![0; expected.len()];
                theirs.read_exact(&mut got).await.expect("a request");
                assert_eq!(got, *expected);
                theirs.write_all(says).await.expect("an open pipe");
            }
            theirs
        };
        let (asked, _theirs) = tokio::join!(proxy.ask(&mut ours, ("gw", 443), 64), play);
        asked
    }

    const CONNECT: &[u8] = b"CONNECT gw:443 HTTP/1.1\r\nHost: gw:443\r\n\r\n";

    #[tokio::test]
    async fn connect_gets_through_or_says_why_not() {
        let open = proxy("http://p:1");
        let ok: &[u8] = b"HTTP/1.1 200 Yes\r\nVia: x\r\n\r\n";
        assert!(scripted(&open, &[(CONNECT, ok)]).await.is_ok());

        let denied: &[u8] = b"HTTP/1.1 403 No\r\n\r\n";
        let error = scripted(&open, &[(CONNECT, denied)]).await;
        assert!(matches!(error, Err(ProxyError::Status(403))), "{error:?}");

        let endless = [b'x'; 64];
        let error = scripted(&open, &[(CONNECT, &endless)]).await;
        assert!(matches!(error, Err(ProxyError::TooLong(64))), "{error:?}");

        let error = scripted(&open, &[(CONNECT, b"SSH-2.0-x\r\n\r\n")]).await;
        assert!(
            matches!(error, Err(ProxyError::Gibberish("HTTP"))),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn connect_shows_its_login() {
        let request: &[u8] =
            b"CONNECT gw:443 HTTP/1.1\r\nHost: gw:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n";
        let wrong: &[u8] = b"HTTP/1.1 407 Login\r\n\r\n";
        let error = scripted(&proxy("http://u:p@p:1"), &[(request, wrong)]).await;
        assert!(matches!(error, Err(ProxyError::Login)), "{error:?}");
    }

    #[tokio::test]
    async fn socks5_gets_through_with_a_login() {
        let script: &[(&[u8], &[u8])] = &[
            (&[5, 1, 2], &[5, 2]),
            (&[1, 1, b'u', 1, b'p'], &[1, 0]),
            (
                &[5, 1, 0, 3, 2, b'g', b'w', 1, 187],
                &[5, 0, 0, 1, 127, 0, 0, 1, 0, 80],
            ),
        ];
        assert!(scripted(&proxy("socks5://u:p@p:1"), script).await.is_ok());
    }

    #[tokio::test]
    async fn socks5_says_why_not() {
        let open = proxy("socks5://p:1");
        let refused: &[(&[u8], &[u8])] = &[
            (&[5, 1, 0], &[5, 0]),
            (&[5, 1, 0, 3, 2, b'g', b'w', 1, 187], &[5, 5, 0, 1]),
        ];
        let error = scripted(&open, refused).await;
        assert!(
            matches!(error, Err(ProxyError::Unreachable(5))),
            "{error:?}"
        );

        let error = scripted(&open, &[(&[5, 1, 0], &[5, 255])]).await;
        assert!(matches!(error, Err(ProxyError::Login)), "{error:?}");

        let error = scripted(&open, &[(&[5, 1, 0], b"HT")]).await;
        assert!(
            matches!(error, Err(ProxyError::Gibberish("SOCKS5"))),
            "{error:?}"
        );
    }
}
