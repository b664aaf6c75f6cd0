//! The way to one gateway.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sallyport_link::dial::{Introduce, Step};
use sallyport_link::proxy::{Proxy, ProxyRules};
use sallyport_link::{Choice, DialError, Dialer};
use sallyport_wire::message::Hello;
use sallyport_wire::{BINDING_LEN, Code};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{Finding, Verdict, finding_of};
use crate::config::Config;
use crate::keeper::Introducer;
use crate::outfit::Person;
use crate::wanted::Wanted;

/// Every single step ends within this time.
const STEP_WITHIN: Duration = Duration::from_secs(10);

/// One gateway, and with what to try it.
pub(super) struct Visit<'v> {
    pub(super) config: &'v Config,
    pub(super) wanted: &'v Wanted,
    pub(super) proxies: &'v ProxyRules,
    pub(super) dialer: &'v Dialer,
    pub(super) person: Option<&'v Person>,
}

impl Visit<'_> {
    pub(super) async fn walk(&self) -> Vec<Finding> {
        let mut findings = self.dns_and_tcp().await;
        if findings
            .iter()
            .any(|finding| finding.verdict == Verdict::Fail)
        {
            return findings;
        }
        if self.config.transport != Choice::Quic {
            findings.extend(self.tls().await);
        }
        // Whoever answers is no gateway of ours, or nobody does: QUIC would only tell the same again.
        let unreached = |finding: &Finding| {
            finding.verdict == Verdict::Fail && !matches!(finding.step, "clock" | "auth")
        };
        if findings.iter().any(unreached) {
            return findings;
        }
        if self.config.transport != Choice::Tls {
            findings.push(self.udp().await);
        }
        findings
    }

    fn finding(
        &self,
        step: &'static str,
        verdict: Verdict,
        seen: &impl ToString,
        cure: &str,
    ) -> Finding {
        finding_of(
            &self.wanted.address.url.audience(),
            step,
            verdict,
            (seen, cure),
        )
    }

    /// The gateway's host, an IPv6 address without brackets.
    fn bare_host(&self) -> String {
        let url = &self.wanted.address.url;
        url.address().map_or_else(
            || url.host().to_string(),
            |address| address.ip().to_string(),
        )
    }

    fn proxy(&self) -> Option<&Proxy> {
        self.proxies.proxy_for(&self.bare_host())
    }

    /// Looks the name up and connects, to the proxy where there is one.
    async fn dns_and_tcp(&self) -> Vec<Finding> {
        let url = &self.wanted.address.url;
        let (host, port) = self.proxy().map_or_else(
            || (self.bare_host(), url.port()),
            |proxy| (proxy.host().to_owned(), proxy.port()),
        );
        let found = timeout(STEP_WITHIN, lookup_host((host.as_str(), port))).await;
        let addresses: Vec<_> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                let cure = format!(
                    "make `{host}` known to this node: /etc/resolv.conf, /etc/hosts, or the name in gateway.json or `proxy`"
                );
                return vec![self.finding("dns", Verdict::Fail, &error, &cure)];
            }
            Err(_elapsed) => {
                return vec![self.finding(
                    "dns",
                    Verdict::Fail,
                    &"no answer from the name server",
                    "check /etc/resolv.conf",
                )];
            }
        };
        let listed = addresses
            .iter()
            .map(|address| address.ip().to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let mut findings =
            vec![self.finding("dns", Verdict::Ok, &format!("{host} is {listed}"), "")];
        findings.push(self.tcp(&addresses, port).await);
        findings
    }

    async fn tcp(&self, addresses: &[SocketAddr], port: u16) -> Finding {
        let started = Instant::now();
        match timeout(STEP_WITHIN, TcpStream::connect(addresses)).await {
            Ok(Ok(stream)) => {
                let peer = stream
                    .peer_addr()
                    .map(|peer| peer.to_string())
                    .unwrap_or_default();
                self.finding(
                    "tcp",
                    Verdict::Ok,
                    &format!(
                        "{peer} in {:.1} ms",
                        started.elapsed().as_secs_f64() * 1000.0
                    ),
                    "",
                )
            }
            Ok(Err(error)) => {
                let cure = format!(
                    "see that the gateway (or the proxy) runs and listens on port {port}, and that no firewall refuses it"
                );
                self.finding("tcp", Verdict::Fail, &error, &cure)
            }
            Err(_elapsed) => {
                let cure = format!(
                    "a firewall drops it: allow this node to connect out to tcp port {port}, or set `proxy` in relay.toml"
                );
                self.finding("tcp", Verdict::Fail, &"no answer", &cure)
            }
        }
    }

    /// A whole dial over TLS tells of proxy, pin, clock and key at once.
    async fn tls(&self) -> Vec<Finding> {
        let found = match self.dial(Choice::Tls).await {
            Ok(()) => self.good(None),
            Err(error) => self.bad(&error),
        };
        self.passed_proxy(&found).into_iter().chain(found).collect()
    }

    /// The proxy let the tunnel through if what came of it is about a later step.
    fn passed_proxy(&self, found: &[Finding]) -> Option<Finding> {
        let proxy = self.proxy()?;
        let later = found
            .iter()
            .all(|finding| !matches!(finding.step, "dns" | "tcp" | "proxy"));
        let seen = format!("{}:{} leads to the gateway", proxy.host(), proxy.port());
        later.then(|| self.finding("proxy", Verdict::Ok, &seen, ""))
    }

    async fn dial(&self, choice: Choice) -> Result<(), DialError> {
        let introducer: Box<dyn Introduce + '_> = match self.person {
            Some(person) => Box::new(Introducer::new(person, self.wanted, 0)),
            None => Box::new(Nobody),
        };
        let dialled = self
            .dialer
            .dial(&self.wanted.address, choice, &*introducer)
            .await?;
        dialled.tunnel.close(Code::Closed);
        Ok(())
    }

    /// Everything up to authentication worked; `but` is why that itself was not shown.
    fn good(&self, but: Option<&str>) -> Vec<Finding> {
        let pins = self.wanted.address.pins.len();
        let trust = if pins > 0 {
            "the key is the pinned one"
        } else {
            "the certificate is trusted by the system"
        };
        let tls = self.finding("tls", Verdict::Ok, &trust, "");
        match but {
            Some(but) => vec![tls, self.finding("auth", Verdict::Skip, &but, "")],
            None => vec![
                tls,
                self.finding("clock", Verdict::Ok, &"within the leeway", ""),
                self.finding("auth", Verdict::Ok, &"the gateway admits this node", ""),
            ],
        }
    }

    fn bad(&self, error: &DialError) -> Vec<Finding> {
        if error.step != Step::Hello {
            return vec![self.unreached(error)];
        }
        match error.refused().map(|(code, _)| code) {
            None if self.person.is_none() => self.good(Some("this node has no key yet")),
            None => vec![self.finding(
                "auth",
                Verdict::Fail,
                &error,
                "see the gateway's log for this node",
            )],
            // Authentication is over before a gateway says so.
            Some(Code::Superseded | Code::Limit) => self.good(None),
            Some(code) => {
                let mut findings = self.good(None);
                findings.truncate(1);
                let (step, cure) = refusal(code);
                findings.push(self.finding(step, Verdict::Fail, &error, cure));
                findings
            }
        }
    }

    fn unreached(&self, error: &DialError) -> Finding {
        if let Some(mismatch) = error.pin_mismatch() {
            let cure = "the gateway's key changed, or someone stands in between: compare the pin with `sallyport-gateway check` \
                        on the gateway, then copy its gateway.json here anew";
            return self.finding("tls", Verdict::Fail, mismatch, cure);
        }
        let (step, cure) = match error.step {
            Step::Dns => ("dns", "make the gateway's name known to this node"),
            Step::Tcp => (
                "tcp",
                "allow this node to connect out to the gateway's tcp port",
            ),
            Step::Proxy => (
                "proxy",
                "mend `proxy` in relay.toml (or HTTPS_PROXY), its password, or what the proxy lets through",
            ),
            Step::Tls | Step::Quic | Step::Hello => (
                "tls",
                "see that the URL in gateway.json leads to a Sallyport gateway and that nothing on the way opens TLS",
            ),
        };
        self.finding(step, Verdict::Fail, error, cure)
    }

    async fn udp(&self) -> Finding {
        let required = self.config.transport == Choice::Quic;
        if self.proxy().is_some() {
            return self.udp_past_proxy(required);
        }
        match self.dial(Choice::Quic).await {
            Ok(()) => self.finding("udp", Verdict::Ok, &"QUIC works", ""),
            Err(error) if error.step == Step::Hello => {
                self.finding("udp", Verdict::Ok, &"QUIC works", "")
            }
            Err(error) => {
                let verdict = if required {
                    Verdict::Fail
                } else {
                    Verdict::Warn
                };
                let cure = format!(
                    "allow udp port {} to the gateway for QUIC; without it tunnels run over TLS, and UDP sessions inside it",
                    self.wanted.address.url.port()
                );
                self.finding("udp", verdict, &error, &cure)
            }
        }
    }

    fn udp_past_proxy(&self, required: bool) -> Finding {
        let seen = "QUIC cannot go through a proxy";
        if required {
            let cure = "write transport = \"auto\" or \"tls\" in relay.toml, or let this gateway be reached without the \
                        proxy (`proxy = \"none\"`, or NO_PROXY)";
            return self.finding("udp", Verdict::Fail, &seen, cure);
        }
        let seen = format!("{seen}: tunnels run over TLS");
        self.finding("udp", Verdict::Skip, &seen, "")
    }
}

/// The step that a refusal belongs to, and the cure.
pub(super) fn refusal(code: Code) -> (&'static str, &'static str) {
    let known = [
        (
            Code::ClockSkew,
            "clock",
            "set this node's clock, or the gateway's: both need NTP (chrony or systemd-timesyncd)",
        ),
        (
            Code::NameTaken,
            "auth",
            "another node key holds this node's name: if the node was installed anew, run `sallyport-gateway relays \
             forget NODE` on the gateway; else choose another `node` in relay.toml",
        ),
        (
            Code::OutOfScope,
            "auth",
            "the key is for other nodes: ask for a gateway.json whose scope has this node's name",
        ),
        (
            Code::Incompatible,
            "auth",
            "gateway and relay have no protocol version in common: upgrade the older one",
        ),
        (
            Code::Draining,
            "auth",
            "the gateway is shutting down or upgrading; try again in a minute",
        ),
    ];
    let found = known.into_iter().find(|(of, ..)| *of == code);
    found.map_or(
        (
            "auth",
            "the gateway does not accept the key: copy its gateway.json here anew (the key may be revoked or expired); \
             the gateway's log names the cause",
        ),
        |(_, step, cure)| (step, cure),
    )
}

/// Stands in for a node without a key: the way ends before the hello.
struct Nobody;

impl Introduce for Nobody {
    fn hello(&self, _audience: &str, _binding: &[u8; BINDING_LEN]) -> Result<Hello, String> {
        Err("this node has no key yet".to_owned())
    }
}
