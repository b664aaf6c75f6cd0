//! BBR for QUIC: a tunnel sends by what gets through, not until packets are lost
//! (draft-cardwell-iccrg-bbr-congestion-control-02).
//!
//! quinn brings a BBR that takes the rate from the time between two acknowledgements of single packets. Where hosts are
//! busy or acknowledgements are held back it finds far too little or far too much, and stays there: four packets in
//! flight, or all that a send window holds. This one takes what a round trip delivered.

mod deliveries;
mod recent;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use deliveries::{Batch, Deliveries, Sample};
use recent::Recent;

/// Packets that a peer may leave unacknowledged (draft-ietf-quic-ack-frequency).
pub(crate) const ACK_EVERY: u32 = 10;

/// Packets in flight at first, and at least: of fewer than two batches that a peer acknowledges at once, each would wait
/// for its ack timer.
const FIRST: u64 = 32;
const LEAST: u64 = 2 * ACK_EVERY as u64;

/// Hosts take so long to wake a process up, on top of what the way takes.
const HOSTS: Duration = Duration::from_micros(300);

/// What is in flight, by what the way holds: while the rate is looked for, after that, and once it was found.
const STARTUP: f64 = 2.0;
const DRAIN: f64 = 0.5;
const PROBES: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const REST: f64 = 0.5;

/// Having more in flight shows what it does within so many round trips.
const PROBE_ROUNDS: u32 = 3;

/// The way is full once so many rounds brought no quarter more.
const FULL_AFTER: u32 = 3;
const GROWTH: f64 = 1.25;

/// A round that lost more of its bytes than one of so many, and this many packets, found the way too full.
const LOST_OF: u64 = 50;
const LOST_PACKETS: u64 = 8;

/// The shortest round trip is looked for again after this time, with little in flight for that long.
const DELAY_FOR: Duration = Duration::from_secs(10);
const REST_FOR: Duration = Duration::from_millis(200);

/// Acknowledgements held back for longer are no reason to have more in flight.
const HELD_BACK: Duration = Duration::from_millis(100);

/// Makes a [`Bbr`] for each path.
#[derive(Debug)]
pub(crate) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr::new(now, mtu))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Startup,
    Drain,
    Probe { phase: usize, since: Instant },
    Rest { until: Option<Instant> },
}

/// What one path carries, and how much may be in flight on it.
#[derive(Debug, Clone)]
struct Bbr {
    mtu: u64,
    mode: Mode,
    batch: Batch,
    deliveries: Deliveries,
    /// Bytes per second.
    rate: Recent,
    /// Bytes acknowledged at once beyond what the rate explains.
    held_back: Recent,
    burst: Burst,
    delay: Option<Delay>,
    round: Round,
    full: Full,
    window: u64,
}

/// Acknowledgements that came together.
#[derive(Debug, Clone, Copy)]
struct Burst {
    since: Instant,
    acked: u64,
}

/// The shortest round trip of late.
#[derive(Debug, Clone, Copy)]
struct Delay {
    least: Duration,
    at: Instant,
}

/// A round trip: until something sent after its begin is acknowledged.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    number: u64,
    /// It ends with a packet that was sent when so much had been delivered.
    until: u64,
    delivered: u64,
    lost: u64,
    /// Whether the last one lost too much.
    lossy: bool,
}

/// The look-out for the rate that does not grow any more.
#[derive(Debug, Clone, Copy, Default)]
struct Full {
    rate: u64,
    rounds: u32,
    reached: bool,
}

impl Bbr {
    fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            mode: Mode::Startup,
            batch: Batch::default(),
            deliveries: Deliveries::default(),
            rate: Recent::new(now),
            held_back: Recent::new(now),
            burst: Burst {
                since: now,
                acked: 0,
            },
            delay: None,
            round: Round::default(),
            full: Full::default(),
            window: FIRST * mtu,
        }
    }

    /// Takes one acknowledgement in, after its packets.
    fn acknowledged(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let Some((sent, bytes)) = self.batch.take() else {
            return;
        };
        let sample = self.deliveries.add(now, sent, bytes);
        if app_limited {
            self.deliveries.limit(in_flight);
        }
        let began = self
            .round
            .advance(&sample, self.deliveries.total(), bytes, self.mtu);
        self.take_rate(now, &sample);
        self.take_burst(now, bytes);
        if began && !sample.limited {
            self.full.look(self.rate.most(), self.round.lossy);
        }
        let stale = self.take_delay(now, now.saturating_duration_since(sent));
        self.change_mode(now, in_flight, stale);
        self.window = match self.mode {
            Mode::Startup => self.window.max(self.target()),
            Mode::Drain | Mode::Probe { .. } | Mode::Rest { .. } => self.target(),
        };
    }

    fn take_rate(&mut self, now: Instant, sample: &Sample) {
        if !sample.limited || sample.rate > self.rate.most() {
            self.rate.note(sample.rate, now, self.round.number);
        }
    }

    /// Acknowledgements that hosts or the way held back come at once; what is in flight must outlast the pause.
    fn take_burst(&mut self, now: Instant, bytes: u64) {
        let rate = self.rate.most();
        let expected = bytes_in(rate, now.saturating_duration_since(self.burst.since));
        if self.burst.acked <= expected {
            self.burst = Burst {
                since: now,
                acked: 0,
            };
        }
        self.burst.acked += bytes;
        let expected = bytes_in(rate, now.saturating_duration_since(self.burst.since));
        let extra = self.burst.acked.saturating_sub(expected);
        let most = self.window.min(bytes_in(rate, HELD_BACK));
        self.held_back.note(extra.min(most), now, self.round.number);
    }

    /// Whether the shortest round trip is so old that it must be looked for.
    fn take_delay(&mut self, now: Instant, taken: Duration) -> bool {
        let known = self.delay;
        let stale = known.is_some_and(|delay| now > delay.at + DELAY_FOR);
        if stale || known.is_none_or(|delay| taken <= delay.least) {
            self.delay = Some(Delay {
                least: taken,
                at: now,
            });
        }
        stale
    }

    fn change_mode(&mut self, now: Instant, in_flight: u64, stale: bool) {
        if stale && !matches!(self.mode, Mode::Rest { .. }) {
            self.mode = Mode::Rest { until: None };
        }
        self.mode = match self.mode {
            Mode::Startup if self.full.reached => Mode::Drain,
            Mode::Drain if in_flight <= self.at_least(1.0) => probe_from(2, now),
            Mode::Probe { phase, since } if self.is_over(phase, since, now, in_flight) => {
                probe_from(phase + 1, now)
            }
            Mode::Rest { until: None } if in_flight <= self.target() => Mode::Rest {
                until: Some(now + REST_FOR),
            },
            Mode::Rest { until: Some(until) } if now >= until => self.rested(now),
            same @ (Mode::Startup | Mode::Drain | Mode::Probe { .. } | Mode::Rest { .. }) => same,
        };
    }

    fn rested(&mut self, now: Instant) -> Mode {
        if let Some(delay) = &mut self.delay {
            delay.at = now;
        }
        if self.full.reached {
            probe_from(2, now)
        } else {
            Mode::Startup
        }
    }

    /// Whether a phase of probing has shown what it could.
    fn is_over(&self, phase: usize, since: Instant, now: Instant, in_flight: u64) -> bool {
        let lasted = now.saturating_duration_since(since);
        let (round, rounds) = (self.takes(), self.takes() * PROBE_ROUNDS);
        match PROBES.get(phase) {
            Some(gain) if *gain > 1.0 => {
                let filled = self.round.lossy || in_flight >= self.holds(*gain);
                lasted > rounds || lasted > round && filled
            }
            Some(gain) if *gain < 1.0 => lasted > round || in_flight <= self.at_least(1.0),
            _ => lasted > round,
        }
    }

    /// Bytes that may be in flight now.
    fn target(&self) -> u64 {
        let gain = match self.mode {
            Mode::Startup => STARTUP,
            Mode::Drain => return self.at_least(DRAIN),
            Mode::Probe { phase, .. } => PROBES.get(phase).copied().unwrap_or(1.0),
            Mode::Rest { .. } => return self.at_least(REST),
        };
        self.at_least(gain)
            .max(self.holds(gain).saturating_add(self.held_back.most()))
    }

    /// What the way holds, times `gain`, or what is always allowed.
    fn at_least(&self, gain: f64) -> u64 {
        self.holds(gain).max(LEAST * self.mtu)
    }

    /// What the way holds at the rate that was found, times `gain`.
    fn holds(&self, gain: f64) -> u64 {
        let holds = bytes_in(self.rate.most(), self.takes());
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a window is far below 2^52 bytes, and a gain is positive"
        )]
        let times = (holds as f64 * gain) as u64;
        times
    }

    /// What a round trip takes while nothing waits on the way.
    fn takes(&self) -> Duration {
        self.delay.map_or(HOSTS, |delay| delay.least + HOSTS)
    }

    fn lost(&mut self, bytes: u64, persistent: bool) {
        self.round.lost += bytes;
        if persistent {
            // nothing that was known is true any more
            self.rate.forget();
            self.held_back.forget();
            self.delay = None;
            self.full = Full::default();
            self.mode = Mode::Startup;
            self.window = LEAST * self.mtu;
        }
    }
}

fn probe_from(phase: usize, since: Instant) -> Mode {
    Mode::Probe {
        phase: phase % PROBES.len(),
        since,
    }
}

/// Bytes that come in a time at a rate of bytes per second.
fn bytes_in(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Round {
    /// Whether a round begins with this acknowledgement.
    fn advance(&mut self, sample: &Sample, total: u64, bytes: u64, mtu: u64) -> bool {
        self.delivered += bytes;
        if sample.prior < self.until {
            return false;
        }
        self.lossy = self.lost >= LOST_PACKETS * mtu
            && self.lost.saturating_mul(LOST_OF) > self.lost + self.delivered;
        *self = Self {
            number: self.number + 1,
            until: total,
            delivered: 0,
            lost: 0,
            lossy: self.lossy,
        };
        true
    }
}

impl Full {
    fn look(&mut self, rate: u64, lossy: bool) {
        if self.reached {
            return;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate is far below 2^52 bytes per second"
        )]
        let grown = rate as f64 >= self.rate as f64 * GROWTH;
        if grown {
            (self.rate, self.rounds) = (rate, 0);
        } else {
            self.rounds += 1;
        }
        self.reached = self.rounds >= FULL_AFTER || lossy;
    }
}

impl Controller for Bbr {
    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.batch.add(sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest: Option<u64>,
    ) {
        self.acknowledged(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, persistent: bool, lost: u64) {
        self.lost(lost, persistent);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.window = self.window.max(LEAST * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.pacing_rate = Some(self.rate.most().saturating_mul(8));
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
