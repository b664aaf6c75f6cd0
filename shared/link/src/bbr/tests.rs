//! One sender on a made way, in simulated time.

#![expect(clippy::cast_precision_loss, reason = "figures of a few seconds")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use super::Bbr;

const MTU: u64 = 1_452;

/// A peer acknowledges so many packets at once, or after its ack timer.
const ACK_EVERY: usize = super::ACK_EVERY as usize;
const ACK_WITHIN: Duration = Duration::from_millis(25);

/// A bottleneck, and hosts that look at their sockets only now and then.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Bytes per second.
    rate: u64,
    /// Of each direction.
    delay: Duration,
    /// What may wait before the bottleneck.
    queue: u64,
    /// Packets lost of a thousand.
    lost: u64,
    /// A host is asleep for so long at a time.
    pause: Duration,
}

impl Way {
    fn of(megabits: u64, round_trip: Duration) -> Self {
        let rate = megabits * 125_000;
        Self {
            rate,
            delay: round_trip / 2,
            queue: (super::bytes_in(rate, round_trip) * 2).max(256 * 1024),
            lost: 0,
            pause: Duration::ZERO,
        }
    }

    fn losing(self, of_thousand: u64) -> Self {
        Self {
            lost: of_thousand,
            ..self
        }
    }

    fn pausing(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Send,
    Arrival(u64),
    AckTimer(usize),
    Ack(Vec<u64>),
    Probe(u64),
}

struct Simulation {
    way: Way,
    begun: Instant,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    counter: u64,
    control: Bbr,
    /// When what is in flight was sent, by its number.
    in_flight: BTreeMap<u64, Duration>,
    next: u64,
    sending: bool,
    smoothed: Duration,
    busy_until: Duration,
    random: u64,
    arrived: Vec<u64>,
    acks: usize,
    delivered: u64,
    /// The time that packets waited before the bottleneck, added up.
    waited: Duration,
    passed: u32,
}

impl Simulation {
    fn new(way: Way) -> Self {
        let begun = Instant::now();
        Self {
            way,
            begun,
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            counter: 0,
            control: Bbr::new(begun, u16::try_from(MTU).expect("an MTU")),
            in_flight: BTreeMap::new(),
            next: 0,
            sending: false,
            smoothed: Duration::from_millis(100),
            busy_until: Duration::ZERO,
            random: 7,
            arrived: Vec::new(),
            acks: 0,
            delivered: 0,
            waited: Duration::ZERO,
            passed: 0,
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.counter += 1;
        self.events.push(Reverse((time, self.counter, event)));
    }

    fn bytes_in_flight(&self) -> u64 {
        u64::try_from(self.in_flight.len()).expect("few") * MTU
    }

    /// Goes on for so long; says the rate of what arrived meanwhile, and how long a packet waited.
    fn run(&mut self, time: Duration) -> (f64, Duration) {
        let (until, before) = (self.now + time, self.delivered);
        (self.waited, self.passed) = (Duration::ZERO, 0);
        self.wake();
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            self.happen(event);
            if at > until {
                break;
            }
        }
        let share = (self.delivered - before) as f64 / time.as_secs_f64() / self.way.rate as f64;
        (share, self.waited / self.passed.max(1))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Send => self.send(),
            Event::Arrival(packet) => self.arrive(packet),
            Event::AckTimer(number) if number == self.acks => self.acknowledge(),
            Event::AckTimer(_) => {}
            Event::Ack(packets) => self.take_ack(&packets),
            Event::Probe(next) => self.probe(next),
        }
    }

    fn wake(&mut self) {
        if !self.sending && self.bytes_in_flight() + MTU <= self.control.window {
            self.sending = true;
            self.at(self.now, Event::Send);
        }
    }

    /// As quinn paces: a quarter faster than a window in a round trip, in bursts of ten.
    fn send(&mut self) {
        self.sending = false;
        for _ in 0..10 {
            if self.bytes_in_flight() + MTU > self.control.window {
                return;
            }
            self.launch();
        }
        let round = self.smoothed.as_secs_f64() / 1.25;
        let pace = round * (10 * MTU) as f64 / self.control.window as f64;
        self.sending = true;
        self.at(self.now + Duration::from_secs_f64(pace), Event::Send);
    }

    fn launch(&mut self) {
        let packet = self.next;
        self.next += 1;
        self.in_flight.insert(packet, self.now);
        self.at(self.now + Duration::from_secs(1), Event::Probe(packet));
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let waits = self.busy_until.saturating_sub(self.now);
        let queued = super::bytes_in(self.way.rate, waits);
        if (self.random >> 33) % 1_000 < self.way.lost || queued > self.way.queue {
            return;
        }
        self.waited += waits;
        self.passed += 1;
        let takes = Duration::from_secs_f64(MTU as f64 / self.way.rate as f64);
        self.busy_until = self.busy_until.max(self.now) + takes;
        self.at(
            self.awake(self.busy_until + self.way.delay),
            Event::Arrival(packet),
        );
    }

    /// When a host that sleeps now and then sees what comes at this time.
    fn awake(&self, time: Duration) -> Duration {
        let pause = self.way.pause.as_nanos();
        if pause == 0 {
            return time;
        }
        let nanos = time.as_nanos().div_ceil(pause) * pause;
        Duration::from_nanos(u64::try_from(nanos).expect("a short run"))
    }

    fn arrive(&mut self, packet: u64) {
        self.delivered += MTU;
        if self.arrived.is_empty() {
            self.at(self.now + ACK_WITHIN, Event::AckTimer(self.acks));
        }
        self.arrived.push(packet);
        if self.arrived.len() >= ACK_EVERY {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        self.acks += 1;
        let packets = std::mem::take(&mut self.arrived);
        let back = self.awake(self.now + self.way.delay);
        self.at(back, Event::Ack(packets));
    }

    fn take_ack(&mut self, packets: &[u64]) {
        let now = self.begun + self.now;
        for packet in packets {
            if let Some(sent) = self.in_flight.remove(packet) {
                self.control.batch.add(self.begun + sent, MTU);
                self.smoothed = (self.smoothed * 7 + (self.now - sent)) / 8;
            }
        }
        let newest = packets.iter().max().copied().unwrap_or(0);
        let gone: Vec<u64> = self
            .in_flight
            .range(..newest.saturating_sub(3))
            .map(|(packet, _)| *packet)
            .collect();
        for packet in &gone {
            self.in_flight.remove(packet);
        }
        if !gone.is_empty() {
            self.control
                .lost(u64::try_from(gone.len()).expect("few") * MTU, false);
        }
        self.control
            .acknowledged(now, self.bytes_in_flight(), false);
        self.wake();
    }

    /// Nothing came back for a second.
    fn probe(&mut self, packet: u64) {
        if self.in_flight.remove(&packet).is_some() {
            self.control.lost(MTU, false);
            self.wake();
        }
    }
}

fn milliseconds(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// What share of the way was used once it was known, and how long a packet waited.
fn settled(way: Way) -> (f64, Duration) {
    let mut simulation = Simulation::new(way);
    simulation.run(milliseconds(1_500));
    simulation.run(milliseconds(2_500))
}

#[test]
fn a_way_is_filled_and_its_queue_stays_short() {
    for megabits in [10, 100, 400] {
        for micros in [100, 2_000, 20_000, 50_000] {
            let round_trip = Duration::from_micros(micros);
            let way = Way::of(megabits, round_trip);
            let (share, waited) = settled(way);
            assert!(share > 0.95, "{share:.3} of {way:?}");
            // what two batches of acknowledgements take, at least
            let least =
                Duration::from_secs_f64((3 * ACK_EVERY as u64 * MTU) as f64 / way.rate as f64);
            let most = round_trip / 2 + milliseconds(2) + least;
            assert!(waited < most, "{waited:?} before {way:?}");
        }
    }
}

#[test]
fn what_is_lost_at_random_costs_no_more_than_itself() {
    for megabits in [10, 200] {
        for micros in [100, 20_000, 50_000] {
            let way = Way::of(megabits, Duration::from_micros(micros)).losing(10);
            let (share, _) = settled(way);
            assert!(share > 0.93, "{share:.3} of {way:?}");
        }
    }
}

#[test]
fn hosts_that_sleep_now_and_then_do_not_starve_a_near_way() {
    for (megabits, pause, least) in [
        (200, 10, 0.9),
        (200, 50, 0.5),
        (1_000, 2, 0.9),
        (1_000, 10, 0.6),
    ] {
        let way = Way::of(megabits, Duration::from_micros(100)).pausing(milliseconds(pause));
        let (share, _) = settled(way);
        assert!(share > least, "{share:.3} of {way:?}");
    }
}

#[test]
fn hosts_that_slept_leave_nothing_behind() {
    let mut simulation = Simulation::new(Way::of(400, Duration::from_micros(200)));
    simulation.way.pause = milliseconds(50);
    simulation.run(milliseconds(2_000));
    simulation.way.pause = Duration::ZERO;
    simulation.run(milliseconds(500));
    let (share, waited) = simulation.run(milliseconds(1_000));
    assert!(share > 0.95, "{share:.3}");
    assert!(waited < milliseconds(5), "{waited:?}");
}

#[test]
fn a_way_that_changes_is_followed() {
    let mut simulation = Simulation::new(Way::of(100, milliseconds(20)));
    simulation.run(milliseconds(1_500));
    simulation.way.rate /= 5;
    simulation.run(milliseconds(2_000));
    let (share, waited) = simulation.run(milliseconds(1_000));
    assert!(share > 0.95, "{share:.3} of what became less");
    assert!(waited < milliseconds(30), "{waited:?}");
    simulation.way.rate *= 5;
    simulation.run(milliseconds(2_000));
    let (share, _) = simulation.run(milliseconds(1_000));
    assert!(share > 0.9, "{share:.3} of what became more");
}

#[test]
fn after_a_silence_nothing_is_known() {
    let mut simulation = Simulation::new(Way::of(400, milliseconds(20)));
    simulation.run(milliseconds(1_500));
    assert!(simulation.control.window > 100 * MTU);
    simulation.control.lost(MTU, true);
    assert_eq!(simulation.control.window, super::LEAST * MTU);
    simulation.run(milliseconds(1_500));
    let (share, _) = simulation.run(milliseconds(1_000));
    assert!(share > 0.95, "{share:.3}");
}

#[test]
fn a_sender_with_little_to_send_does_not_unlearn_the_way() {
    let mut simulation = Simulation::new(Way::of(100, milliseconds(20)));
    simulation.run(milliseconds(1_500));
    let known = simulation.control.rate.most();
    let mut now = simulation.begun + simulation.now;
    for _ in 0..1_000 {
        let sent = now;
        now += milliseconds(20);
        simulation.control.batch.add(sent, MTU);
        simulation.control.acknowledged(now, 0, true);
    }
    assert!(simulation.control.rate.most() >= known / 2);
}

#[test]
fn a_window_is_never_below_two_batches_of_acknowledgements() {
    let mut simulation = Simulation::new(Way::of(1, milliseconds(1)).losing(300));
    for _ in 0..50 {
        simulation.run(milliseconds(100));
        assert!(simulation.control.window >= super::LEAST * MTU);
    }
}
