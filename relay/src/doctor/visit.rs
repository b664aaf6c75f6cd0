//! The way to one gateway, in the order in which it is gone: name, TCP, proxy, TLS, clock, authentication, UDP. The
//! first step that fails ends the way, because whatever lies beyond it would only fail too; UDP is apart from clock
//! and authentication.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::select_ok;
use sallyport_link::dial::Step;
use sallyport_link::proxy::{Proxy, ProxyRules};
use sallyport_link::{Cause, Choice, DialError, Dialer};
use sallyport_wire::Code;
use sallyport_wire::message::Welcome;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{Finding, Verdict, finding_of};
use crate::advertise::NEEDS_VIA;
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

/// What was found so far, and whether the way goes on.
type Walked = Result<Vec<Finding>, Vec<Finding>>;

impl Visit<'_> {
    pub(super) async fn walk(&self) -> Vec<Finding> {
        let walked = match (self.config.transport, self.proxy()) {
            (Choice::Quic, Some(_)) => return vec![self.udp_past_proxy()],
            (Choice::Quic, None) => self.over_quic().await,
            (Choice::Auto | Choice::TlsFirst | Choice::Tls, _) => self.over_tls().await,
        };
        walked.unwrap_or_else(|walked| walked)
    }

    async fn over_tls(&self) -> Walked {
        let (mut walked, addresses) = self.dns().await?;
        match self.tcp(&addresses).await {
            Ok(tcp) => walked.push(tcp),
            Err(tcp) => return Err([walked, vec![tcp]].concat()),
        }
        let (good, found) = match self.hello(Choice::Tls).await {
            Ok(found) => (true, found),
            Err(found) => (false, found),
        };
        walked.extend(self.passed_proxy(&found));
        walked.extend(found);
        if !good {
            return Err(walked);
        }
        if self.config.transport == Choice::Auto {
            walked.push(self.udp().await);
        }
        Ok(walked)
    }

    /// Where only QUIC is allowed, TCP says nothing: it may well be closed.
    async fn over_quic(&self) -> Walked {
        let (mut walked, _) = self.dns().await?;
        match self.hello(Choice::Quic).await {
            Ok(found) => {
                walked.extend(found);
                walked.push(self.finding("udp", Verdict::Ok, &"QUIC works", ""));
                Ok(walked)
            }
            Err(found) => Err([walked, found].concat()),
        }
    }

    fn finding(
        &self,
        step: &'static str,
        verdict: Verdict,
        seen: &impl ToString,
        cure: &str,
    ) -> Finding {
        let gateway = self.wanted.address.url.audience();
        finding_of(&gateway, step, verdict, (seen, cure))
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

    /// Where TCP goes: to the proxy where there is one.
    fn first_hop(&self) -> (String, u16) {
        let port = self.wanted.address.url.port();
        self.proxy().map_or_else(
            || (self.bare_host(), port),
            |proxy| (proxy.host().to_owned(), proxy.port()),
        )
    }

    async fn dns(&self) -> Result<(Vec<Finding>, Vec<SocketAddr>), Vec<Finding>> {
        let (host, port) = self.first_hop();
        let found = timeout(STEP_WITHIN, lookup_host((host.as_str(), port))).await;
        let fail = |seen: &str, cure: &str| vec![self.finding("dns", Verdict::Fail, &seen, cure)];
        let addresses: Vec<_> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => return Err(fail(&error.to_string(), &unknown_name(&host))),
            Err(_elapsed) => {
                let seen = "no answer from the name server";
                return Err(fail(seen, "check /etc/resolv.conf"));
            }
        };
        if addresses.is_empty() {
            return Err(fail("the name has no address", &unknown_name(&host)));
        }
        let listed: Vec<_> = addresses.iter().map(|to| to.ip().to_string()).collect();
        let seen = format!("{host} is {}", listed.join(" "));
        Ok((vec![self.finding("dns", Verdict::Ok, &seen, "")], addresses))
    }

    /// To all addresses at once, for one is enough.
    async fn tcp(&self, addresses: &[SocketAddr]) -> Result<Finding, Finding> {
        let (started, port) = (Instant::now(), self.first_hop().1);
        let tries = addresses
            .iter()
            .map(|to| Box::pin(async move { TcpStream::connect(to).await.map(|_| to) }));
        let fail = |seen: &str, cure: &str| self.finding("tcp", Verdict::Fail, &seen, cure);
        match timeout(STEP_WITHIN, select_ok(tries)).await {
            Ok(Ok((to, _others))) => {
                let took = started.elapsed().as_secs_f64() * 1000.0;
                let seen = format!("{to} in {took:.1} ms");
                Ok(self.finding("tcp", Verdict::Ok, &seen, ""))
            }
            Ok(Err(error)) => {
                let cure = format!(
                    "see that the gateway (or the proxy) runs and listens on port {port}, and that no firewall refuses it"
                );
                Err(fail(&error.to_string(), &cure))
            }
            Err(_elapsed) => {
                let cure = format!(
                    "a firewall drops it: allow this node to connect out to tcp port {port}, or set `proxy` in relay.toml"
                );
                Err(fail("no answer", &cure))
            }
        }
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

    /// A hello tells of proxy, pin, clock and key at once. It asks only, so that nothing is bound to this node's
    /// name and a relay that runs here keeps its tunnels.
    async fn hello(&self, choice: Choice) -> Walked {
        let address = &self.wanted.address;
        let Some(person) = self.person else {
            let reached = self.dialer.reach(address, choice).await;
            return reached.map_or_else(
                |error| Err(vec![self.unreached(&error)]),
                |()| Ok(vec![self.good_tls(), self.without_key()]),
            );
        };
        let introducer = Introducer::new(person, self.wanted, 0);
        match self.dialer.dry_run(address, choice, &introducer).await {
            Ok(welcome) => Ok(self.admitted(&welcome, &introducer.into_kid())),
            Err(error) if error.step == Step::Hello => {
                Ok(self.not_admitted(&error, &introducer.into_kid()))
            }
            Err(error) => Err(vec![self.unreached(&error)]),
        }
    }

    fn good_tls(&self) -> Finding {
        let trust = if self.wanted.address.pins.is_empty() {
            "the certificate is trusted by the system"
        } else {
            "the key is the pinned one"
        };
        self.finding("tls", Verdict::Ok, &trust, "")
    }

    fn good_clock(&self) -> Finding {
        self.finding("clock", Verdict::Ok, &"within the leeway", "")
    }

    fn without_key(&self) -> Finding {
        let seen = "the node's own key cannot be used, see above";
        self.finding("auth", Verdict::Skip, &seen, "")
    }

    fn admitted(&self, welcome: &Welcome, kid: &str) -> Vec<Finding> {
        let seen = format!(
            "the gateway ({}) lets this node in by key {kid}",
            welcome.software
        );
        let auth = self.finding("auth", Verdict::Ok, &seen, "");
        let via = self.without_via(kid);
        let walked = [self.good_tls(), self.good_clock(), auth];
        walked.into_iter().chain(via).collect()
    }

    /// What is to be said of a node with others beside it whose key offers its own sessions alone.
    fn without_via(&self, kid: &str) -> Option<Finding> {
        let mut keys = self.wanted.file.keys.iter();
        let key = keys.find(|key| key.kid == kid)?;
        if key.scope.via || !super::is_among_others(self.config) {
            return None;
        }
        let seen = format!(
            "key {kid} offers this node's sessions alone: those of a node that is not connected to this gateway itself are not found there"
        );
        Some(self.finding("via", Verdict::Warn, &seen, NEEDS_VIA))
    }

    fn not_admitted(&self, error: &DialError, kid: &str) -> Vec<Finding> {
        let fail = |step, seen: &str, cure: &str| self.finding(step, Verdict::Fail, &seen, cure);
        let seen = error.cause.to_string();
        let Some((code, wait)) = error.refused() else {
            let cure = if matches!(error.cause, Cause::Introduce(_)) {
                "ask for a gateway.json with a key for this node: `sallyport-gateway key add`"
            } else {
                "see the gateway's log for this node"
            };
            return vec![self.good_tls(), fail("auth", &seen, cure)];
        };
        let (step, cure) = match wait {
            Some(wait) if code == Code::Unauthorised => (
                "auth",
                format!(
                    "the gateway hears nobody from this address for {} s, because of earlier failures: mend what fails \
                     there (an old gateway.json?), wait, and run doctor again",
                    wait.as_secs().saturating_add(1)
                ),
            ),
            _ => {
                let (step, cure) = refusal(code);
                (step, cure.to_owned())
            }
        };
        let seen = format!("{seen} (key {kid})");
        let clock = clock_was_right(code).then(|| self.good_clock());
        [self.good_tls()]
            .into_iter()
            .chain(clock)
            .chain([fail(step, &seen, &cure)])
            .collect()
    }

    fn unreached(&self, error: &DialError) -> Finding {
        if error.is_distrust() {
            return self.not_believed(error);
        }
        let port = self.wanted.address.url.port();
        let (step, cure) = match error.step {
            Step::Dns => ("dns", "make the gateway's name known to this node".to_owned()),
            Step::Tcp => (
                "tcp",
                "allow this node to connect out to the gateway's tcp port".to_owned(),
            ),
            Step::Proxy => (
                "proxy",
                "mend `proxy` in relay.toml (or HTTPS_PROXY), its password, or what the proxy lets through".to_owned(),
            ),
            Step::Quic if error.is_silence() => (
                "udp",
                format!(
                    "allow udp port {port} to the gateway, or write transport = \"auto\" in relay.toml: tunnels then run \
                     over TLS"
                ),
            ),
            Step::Tls | Step::Quic | Step::Hello => (
                "tls",
                "see that the URL in gateway.json leads to a Sallyport gateway and that nothing on the way opens TLS"
                    .to_owned(),
            ),
        };
        self.finding(step, Verdict::Fail, &error.cause, &cure)
    }

    fn not_believed(&self, error: &DialError) -> Finding {
        let seen = error
            .pin_mismatch()
            .map_or_else(|| error.cause.to_string(), ToString::to_string);
        let cure = if self.wanted.address.pins.is_empty() {
            WRONG_CERTIFICATE
        } else {
            WRONG_PIN
        };
        self.finding("tls", Verdict::Fail, &seen, cure)
    }

    async fn udp(&self) -> Finding {
        if self.proxy().is_some() {
            return self.udp_past_proxy();
        }
        let Err(error) = self.dialer.reach(&self.wanted.address, Choice::Quic).await else {
            return self.finding("udp", Verdict::Ok, &"QUIC works", "");
        };
        let port = self.wanted.address.url.port();
        let cure = if error.is_silence() {
            format!(
                "allow udp port {port} to the gateway for QUIC; without it tunnels run over TLS, and UDP sessions inside it"
            )
        } else {
            format!(
                "udp port {port} does not lead where tcp port {port} leads: see that both reach the gateway; until then \
                 tunnels run over TLS, and UDP sessions inside it"
            )
        };
        self.finding("udp", Verdict::Warn, &error.cause, &cure)
    }

    fn udp_past_proxy(&self) -> Finding {
        let seen = "QUIC cannot go through a proxy";
        if self.config.transport == Choice::Quic {
            let cure = "write transport = \"auto\" or \"tls\" in relay.toml, or let this gateway be reached without the \
                        proxy (`proxy = \"none\"`, or NO_PROXY)";
            return self.finding("udp", Verdict::Fail, &seen, cure);
        }
        let seen = format!("{seen}: tunnels run over TLS");
        self.finding("udp", Verdict::Skip, &seen, "")
    }
}

const WRONG_CERTIFICATE: &str = "gateway.json has no pin, so the system's roots must vouch for the gateway's certificate: mend the \
                                 certificate or the roots (ca-certificates), or copy a gateway.json with pins here";

const WRONG_PIN: &str = "the gateway's key changed, or someone stands in between: compare the pin with what \
                         `sallyport-gateway check` says on the gateway, then copy its gateway.json here anew";

fn unknown_name(host: &str) -> String {
    format!(
        "make `{host}` known to this node: /etc/resolv.conf, /etc/hosts, or the name in gateway.json or `proxy`"
    )
}

/// Whether a gateway has looked at the clock before it refuses with this.
const fn clock_was_right(code: Code) -> bool {
    matches!(
        code,
        Code::NameTaken | Code::OutOfScope | Code::Incompatible | Code::Limit
    )
}

/// The step that a refusal belongs to, and the cure.
pub(super) const fn refusal(code: Code) -> (&'static str, &'static str) {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what remains is never said to a relay that asks to be let in"
    )]
    match code {
        Code::ClockSkew => (
            "clock",
            "set this node's clock, or the gateway's: both need NTP (chrony or systemd-timesyncd); the gateway's log says by \
             how much they differ",
        ),
        Code::NameTaken => (
            "auth",
            "another node key holds this node's name: if the node was installed anew, run `sallyport-gateway relays \
             forget NODE` on the gateway; else choose another `node` in relay.toml",
        ),
        Code::OutOfScope => (
            "auth",
            "the key is for other nodes: ask for a gateway.json whose scope has this node's name",
        ),
        Code::Incompatible => (
            "auth",
            "gateway and relay have no protocol version in common: upgrade the older one",
        ),
        Code::Draining => (
            "auth",
            "the gateway is shutting down or upgrading; try again in a minute",
        ),
        Code::Limit => (
            "auth",
            "the gateway has no room for another node: raise tunnels.most, tunnels.per_key, tunnels.names or \
             tunnels.names_per_key in its gateway.toml; its log says which",
        ),
        _ => (
            "auth",
            "the gateway does not accept the key: copy its gateway.json here anew (the key may be revoked or expired); \
             the gateway's log names the cause",
        ),
    }
}
