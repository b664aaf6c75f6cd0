//! Probes of the data plane: a tunnel is up only while bytes come back through it.

use std::io;
use std::pin::pin;
use std::time::Duration;

use sallyport_link::{OpenError, Transport, Tunnel};
use sallyport_wire::Code;
use sallyport_wire::message::{Head, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::config::Tunnels;
use crate::hub::Hub;
use crate::registry::Member;

/// A tunnel that is relied on is probed so many times as often, until a probe is missed.
const OFTENER: u32 = 4;

/// Beside its usual delay a relay has so long to echo a probe on a tunnel in doubt.
const ECHO_WITHIN: Duration = Duration::from_millis(50);

/// What came of one probe.
enum Probe {
    Crossed,
    /// All streams of the tunnel are taken: nothing is known.
    NoRoom,
    Missed(String),
}

/// Probes a tunnel until it is closed, and closes it after too many misses.
pub async fn run(hub: &Hub, member: &Member<Tunnel>) {
    let limits = hub.config().tunnels.clone();
    let mut every = interval(limits.probe_every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        let relied_on = async {
            member.relied_on().await;
            tokio::select! {
                () = sleep_until(last + limits.probe_every / OFTENER) => {}
                () = member.in_doubt() => {}
            }
        };
        tokio::select! {
            _ = every.tick() => {}
            () = relied_on, if member.missed() == 0 => every.reset(),
            _ = member.tunnel.closed() => return,
        }
        last = Instant::now();
        match probe(hub, member, &limits).await {
            Probe::Crossed => {
                if member.probe_crossed() {
                    info!("tunnel up");
                    hub.announce(member);
                }
            }
            Probe::NoRoom => debug!("no room for a probe"),
            Probe::Missed(cause) => {
                let missed = member.probe_missed(limits.probe_misses);
                debug!(missed, cause, "probe missed");
                if missed >= limits.probe_misses {
                    warn!(missed, cause, "the data plane is dead");
                    return member.tunnel.close(Code::TunnelLost);
                }
            }
        }
    }
}

/// One probe, and a look at the tunnel while it is under way.
async fn probe(hub: &Hub, member: &Member<Tunnel>, limits: &Tunnels) -> Probe {
    let crossing = cross(&member.tunnel, hub.number());
    let mut crossing = pin!(timeout(limits.probe_every, crossing));
    let crossed = tokio::select! {
        biased;
        crossed = &mut crossing => crossed,
        () = silence(member, limits.silent_after) => {
            if member.fall_silent() {
                warn!("tunnel silent");
            }
            hub.announce(member); // who waits for it waits no longer
            crossing.await
        }
    };
    crossed.unwrap_or_else(|_late| Probe::Missed("nothing came back".to_owned()))
}

/// How long a tunnel may be silent under a probe. One in doubt has no more than what an echo takes.
fn patience(member: &Member<Tunnel>, silent_after: Duration) -> Duration {
    match member.tunnel.delay() {
        Some(delay) if member.is_doubted() => silent_after.min(delay * 2 + ECHO_WITHIN),
        _ => silent_after,
    }
}

/// Resolves once a tunnel under a probe was silent for too long, which is sooner if it comes into doubt meanwhile.
async fn silence(member: &Member<Tunnel>, silent_after: Duration) {
    let doubted = async {
        member.in_doubt().await;
        nothing_came(&member.tunnel, patience(member, silent_after)).await;
    };
    tokio::select! {
        () = nothing_came(&member.tunnel, patience(member, silent_after)) => {}
        () = doubted => {}
    }
}

/// Resolves once nothing at all has come for so long after a probe. Over QUIC whoever lives acknowledges it. Over TLS it
/// may wait behind bulk in the buffers of this side, and the kernel of a process that is gone says so by itself.
async fn nothing_came(tunnel: &Tunnel, time: Duration) {
    let heard = tunnel.figures().received;
    // In two steps, so that after a pause of this process there is time to read what came meanwhile.
    let last = time / 8;
    sleep(time.saturating_sub(last)).await;
    sleep(last).await;
    if tunnel.transport() == Transport::Tls || tunnel.figures().received != heard {
        std::future::pending().await
    }
}

async fn cross(tunnel: &Tunnel, number: u64) -> Probe {
    let head = Head {
        kind: Kind::Probe.into(),
        stream: number,
        ..Head::default()
    };
    let mut stream = match tunnel.open(head).await {
        Ok(stream) => stream,
        Err(OpenError::Full(_)) => return Probe::NoRoom,
        Err(error) => return Probe::Missed(error.to_string()),
    };
    let sent = number.to_be_bytes();
    let mut back = [0; 8];
    let echo = async {
        stream.write_all(&sent).await?;
        stream.flush().await?;
        stream.read_exact(&mut back).await?;
        stream.shutdown().await
    };
    match echo.await {
        Ok(()) if back == sent => Probe::Crossed,
        Ok(()) => Probe::Missed("other bytes came back".to_owned()),
        Err(error) => Probe::Missed(cause(&error)),
    }
}

fn cause(error: &io::Error) -> String {
    sallyport_wire::Refusal::in_chain(error)
        .map_or_else(|| error.to_string(), |refusal| refusal.to_string())
}
