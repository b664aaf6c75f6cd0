//! The control stream: messages of the tunnel's owner and pings, in one task.
//!
//! It also decides that a peer is dead: one that was not heard for long enough, whatever TCP still believes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use futures::FutureExt;
use sallyport_wire::message::{Ack, Control, ControlKind, Ping};
use sallyport_wire::{Code, MAX_CONTROL, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::account::Accounts;
use crate::life::{Closed, Life};
use crate::settings::Settings;

/// Messages that leave in one write.
const TOGETHER: usize = 64;

/// The owner's end of the control stream.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) out: mpsc::Sender<ControlKind>,
    pub(crate) inbox: tokio::sync::Mutex<mpsc::Receiver<ControlKind>>,
}

/// The loop's own end.
pub(crate) struct Loop {
    out: mpsc::Receiver<ControlKind>,
    inbox: mpsc::Sender<ControlKind>,
    life: Arc<Life>,
    settings: Arc<Settings>,
    /// Where both sides tell what they have taken.
    accounts: Option<Arc<Accounts>>,
    pong: Pong,
    pinged: Mutex<Option<(u64, Instant)>>,
}

/// The latest ping that waits for its echo. A flood of them costs one answer per write.
#[derive(Debug, Default)]
struct Pong {
    number: Mutex<Option<u64>>,
    asked: Notify,
}

/// A control loop and its desk.
pub(crate) fn begin(
    life: &Arc<Life>,
    settings: &Arc<Settings>,
    accounts: Option<Arc<Accounts>>,
) -> (Desk, Loop) {
    let (out, sending) = mpsc::channel(settings.control_queue);
    let (inbox, received) = mpsc::channel(settings.control_queue);
    let desk = Desk {
        out,
        inbox: tokio::sync::Mutex::new(received),
    };
    let control = Loop {
        out: sending,
        inbox,
        life: Arc::clone(life),
        settings: Arc::clone(settings),
        accounts,
        pong: Pong::default(),
        pinged: Mutex::new(None),
    };
    (desk, control)
}

impl Loop {
    /// Runs until the tunnel ends; its connection then says farewell. No stream means that there was none in time.
    pub(crate) async fn run<R, W>(mut self, stream: Option<(R, W)>)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let _farewell = self.life.farewell().clone().drop_guard();
        let Some((reader, mut writer)) = stream else {
            return self.life.end(Code::Protocol, "no control stream");
        };
        let mut out = std::mem::replace(&mut self.out, mpsc::channel(1).1);
        let ending = self.life.ending().clone();
        let closed = tokio::select! {
            biased;
            () = ending.cancelled() => None,
            closed = self.read(reader) => Some(closed),
            closed = self.write(&mut writer, &mut out) => Some(closed),
            () = self.watch() => None,
        };
        if let Some(closed) = closed {
            self.end(closed).await;
        }
    }

    /// Ends the tunnel, unless its connection says better why in a moment.
    async fn end(&self, closed: Closed) {
        if closed.code != Code::TunnelLost {
            return self.life.end(closed.code, closed.cause);
        }
        let ended = self.life.ending().cancelled();
        drop(timeout(self.settings.close_within, ended).await);
        self.life.end(closed.code, closed.cause);
    }

    /// Hears the other side until it breaks off or breaks the protocol.
    async fn read(&self, mut reader: impl AsyncRead + Unpin) -> Closed {
        let mut buffer = BytesMut::with_capacity(4 * 1024);
        loop {
            loop {
                match frame::decode::<Control>(&mut buffer, MAX_CONTROL) {
                    Ok(Some(message)) => {
                        if let Some(closed) = message.kind.and_then(|kind| self.hear(kind)) {
                            return closed;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return protocol(format!("control stream: {error}")),
                }
            }
            match reader.read_buf(&mut buffer).await {
                Ok(0) => return lost("the other side closed the control stream"),
                Ok(_) => self.life.hear(),
                Err(error) => return lost(format!("control stream: {error}")),
            }
        }
    }

    /// Deals with one message, or says why the tunnel must end.
    fn hear(&self, kind: ControlKind) -> Option<Closed> {
        match kind {
            ControlKind::Ping(ping) => self.pong.ask(ping.number),
            ControlKind::Pong(ping) => self.echoed(ping.number),
            ControlKind::Ack(ack) => {
                if let Some(accounts) = &self.accounts {
                    accounts.hear(&ack);
                }
            }
            kind @ (ControlKind::Advertise(_)
            | ControlKind::Advertised(_)
            | ControlKind::Drain(_)
            | ControlKind::Rotate(_)
            | ControlKind::Rotated(_)
            | ControlKind::Data(_)
            | ControlKind::Store(_)) => {
                if self.inbox.try_send(kind).is_err() {
                    return Some(Closed {
                        code: Code::Limit,
                        cause: "more control messages than anyone takes".to_owned(),
                    });
                }
            }
        }
        None
    }

    fn echoed(&self, number: u64) {
        let pinged = self.pinged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sent, at)) = *pinged
            && sent == number
        {
            self.life.measured(at.elapsed());
        }
    }

    /// Sends whatever there is to say, and a ping at every tick.
    async fn write(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        out: &mut mpsc::Receiver<ControlKind>,
    ) -> Closed {
        let mut ticks = interval(self.settings.ping_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = BytesMut::new();
        let mut pings = 0;
        loop {
            let message = tokio::select! {
                biased;
                number = self.pong.next() => ControlKind::Pong(Ping { number }),
                _ = ticks.tick() => {
                    pings += 1;
                    self.ping(pings)
                }
                Some(message) = out.recv() => message,
                ack = self.acks_due() => ControlKind::Ack(ack),
            };
            add(&mut batch, message);
            for _ in 1..TOGETHER {
                let Some(message) = out.recv().now_or_never().flatten() else {
                    break;
                };
                add(&mut batch, message);
            }
            let sending = send(writer, &mut batch);
            match timeout(self.settings.control_write_within, sending).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return lost(format!("control stream: {error}")),
                Err(_elapsed) => {
                    let blocked = lost("the control stream is blocked");
                    self.life.end(blocked.code, blocked.cause.clone());
                    return blocked;
                }
            }
        }
    }

    async fn acks_due(&self) -> Ack {
        match &self.accounts {
            Some(accounts) => accounts.due().await,
            None => std::future::pending().await,
        }
    }

    fn ping(&self, number: u64) -> ControlKind {
        let mut pinged = self.pinged.lock().unwrap_or_else(PoisonError::into_inner);
        *pinged = Some((number, Instant::now()));
        ControlKind::Ping(Ping { number })
    }

    /// Ends the tunnel once the peer was silent for too long.
    async fn watch(&self) {
        let patience = self.settings.dead_after;
        loop {
            let dead_at = self.life.heard() + patience;
            if Instant::now() >= dead_at {
                let cause = format!("silent for {patience:?}");
                return self.life.end(Code::TunnelLost, cause);
            }
            sleep_until(dead_at).await;
        }
    }
}

impl Pong {
    fn ask(&self, number: u64) {
        *self.lock() = Some(number);
        self.asked.notify_one();
    }

    async fn next(&self) -> u64 {
        loop {
            let asked = self.asked.notified();
            let number = self.lock().take();
            if let Some(number) = number {
                return number;
            }
            asked.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a message to a batch. [`crate::Tunnel::send`] has refused those that are too long.
fn add(batch: &mut BytesMut, kind: ControlKind) {
    let message = Control { kind: Some(kind) };
    match frame::encode(&message, MAX_CONTROL) {
        Ok(bytes) => batch.extend_from_slice(&bytes),
        Err(error) => tracing::error!(%error, "a control message was dropped"),
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), batch: &mut BytesMut) -> io::Result<()> {
    writer.write_all(batch).await?;
    batch.clear();
    writer.flush().await
}

fn lost(cause: impl Into<String>) -> Closed {
    Closed {
        code: Code::TunnelLost,
        cause: cause.into(),
    }
}

fn protocol(cause: impl Into<String>) -> Closed {
    Closed {
        code: Code::Protocol,
        cause: cause.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{DuplexStream, duplex, split};

    use super::*;

    struct Running {
        life: Arc<Life>,
        desk: Desk,
        /// The other side's end of the control stream.
        peer: DuplexStream,
    }

    /// Runs a loop over a pipe that holds `room` bytes until the tunnel ends or `test` does.
    async fn with_loop<T>(room: usize, test: impl AsyncFnOnce(&mut Running) -> T) -> T {
        let life = Arc::new(Life::new());
        let settings = Arc::new(Settings::relay());
        let (desk, control) = begin(&life, &settings, None);
        let (ours, peer) = duplex(room);
        let mut running = Running { life, desk, peer };
        let (tested, ()) = tokio::join!(
            async {
                let tested = test(&mut running).await;
                running.life.end(Code::Closed, "tested");
                tested
            },
            control.run(Some(split(ours)))
        );
        tested
    }

    async fn say(peer: &mut DuplexStream, kind: ControlKind) {
        let mut batch = BytesMut::new();
        add(&mut batch, kind);
        peer.write_all(&batch).await.expect("a pipe");
    }

    async fn next(peer: &mut DuplexStream) -> ControlKind {
        let message = crate::framed::read::<Control>(peer, MAX_CONTROL).await;
        message.expect("a message").kind.expect("a kind")
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_dead_after_three_pings() {
        let begun = Instant::now();
        let closed = with_loop(4_096, async |running| running.life.closed().await).await;
        assert_eq!(closed.code, Code::TunnelLost);
        assert_eq!(begun.elapsed(), Settings::relay().dead_after);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_cut_although_it_talks() {
        let begun = Instant::now();
        let closed = with_loop(8, async |running| {
            let talking = async {
                loop {
                    say(&mut running.peer, ControlKind::Pong(Ping { number: 0 })).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let rotate = ControlKind::Rotate(sallyport_wire::message::Rotate::default());
            running.desk.out.send(rotate).await.expect("a loop");
            // The end comes first: after it there is no pipe to talk into.
            tokio::select! {
                biased;
                closed = running.life.closed() => Some(closed),
                () = talking => None,
            }
        })
        .await;
        assert_eq!(
            closed.expect("an end").cause,
            "the control stream is blocked"
        );
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_pings_costs_one_answer() {
        with_loop(64 * 1_024, async |running| {
            let mut flood = BytesMut::new();
            for number in 1..=1_000 {
                add(&mut flood, ControlKind::Ping(Ping { number }));
            }
            running.peer.write_all(&flood).await.expect("a pipe");
            let mut answers = Vec::new();
            while answers.last() != Some(&1_000) {
                if let ControlKind::Pong(ping) = next(&mut running.peer).await {
                    answers.push(ping.number);
                }
            }
            assert!(answers.len() < 50, "{} answers", answers.len());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_round_trip_is_measured() {
        with_loop(4_096, async |running| {
            let ControlKind::Ping(ping) = next(&mut running.peer).await else {
                panic!("a ping comes first");
            };
            tokio::time::sleep(Duration::from_millis(40)).await;
            say(&mut running.peer, ControlKind::Pong(ping)).await;
            next(&mut running.peer).await;
            assert_eq!(running.life.rtt(), Some(Duration::from_millis(40)));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn messages_from_a_newer_version_are_skipped() {
        with_loop(4_096, async |running| {
            // Field 99, of length 1.
            running
                .peer
                .write_all(&[0, 4, 0x9a, 0x06, 1, 7])
                .await
                .expect("a pipe");
            say(&mut running.peer, ControlKind::Ping(Ping { number: 5 })).await;
            while next(&mut running.peer).await != ControlKind::Pong(Ping { number: 5 }) {}
            assert!(running.life.over().is_none());
        })
        .await;
    }
}
