//! Probes of the data plane: a tunnel is up only while bytes come back through it.

use std::io;

use sallyport_link::{OpenError, Tunnel};
use sallyport_wire::Code;
use sallyport_wire::message::{Head, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use crate::hub::Hub;
use crate::registry::Member;

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
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = member.tunnel.closed() => return,
        }
        let probe = timeout(limits.probe_every, cross(&member.tunnel, hub.number()));
        match probe
            .await
            .unwrap_or_else(|_late| Probe::Missed("nothing came back".to_owned()))
        {
            Probe::Crossed => {
                if member.probe_crossed() {
                    info!("tunnel up");
                    hub.announce(member.id);
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
