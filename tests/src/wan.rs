//! Two hosts of our own that are far apart: network namespaces joined by a link with delay, rate, queue and loss.
//!
//! The link is made of two TUN devices and threads of this process that carry packets between them, because not every
//! kernel has netem. It is as exact as the scheduler is, so it is a tool for figures and for slow or broken networks,
//! not for what must happen at a certain millisecond.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::client::{run, run_ok};

/// Bytes of a packet on the link.
const MTU: u16 = 1_500;

/// What both ends are in.
const NETWORK: &str = "10.231.8.0/24";

/// Packets that the kernel keeps for our threads; what the link itself queues is counted by [`Link::queue`].
const BACKLOG: u32 = 20_000;

/// What happens to packets, in each direction alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// From one end to the other.
    pub delay: Duration,
    /// Bits a second.
    pub rate: f64,
    /// Bytes that wait for their turn; what comes when it is full is dropped.
    pub queue: f64,
    /// Share of packets that are lost on the way.
    pub loss: f64,
}

/// Two namespaces with one link between them; gone when dropped.
#[derive(Debug)]
pub struct Wan {
    names: [String; 2],
    ways: [Arc<OneWay>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Wan {
    /// Address of the first end.
    pub const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 8, 1));
    /// Address of the second end.
    pub const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 8, 2));

    /// Lays it; `None` where this process may not make namespaces and devices.
    ///
    /// # Panics
    /// If it is only half laid.
    #[must_use]
    pub fn lay(link: Link) -> Option<Self> {
        let mut wan = Self {
            names: Self::names(std::process::id()),
            ways: [1, 2].map(|seed| Arc::new(OneWay::new(link, seed))),
            threads: Vec::new(),
        };
        let add = |name: &String| run(Command::new("ip").args(["netns", "add", name]));
        if !wan.names.iter().all(|name| add(name).status.success()) {
            return None;
        }
        // A TUN device made here moves into its namespace and is still read and written by its descriptor here.
        let devices = wan.names.each_ref().map(|name| device(name).ok());
        let [Some(first), Some(second)] = devices.map(|device| device.map(Arc::new)) else {
            return None;
        };
        for (name, address) in wan.names.iter().zip([Self::FIRST, Self::SECOND]) {
            set_up(name, address);
        }
        let [there, back] = &wan.ways;
        let threads = [carry(&first, &second, there), carry(&second, &first, back)];
        wan.threads.extend(threads.into_iter().flatten());
        Some(wan)
    }

    /// Names of the namespaces of a process, for whoever has to remove them in its place.
    #[must_use]
    pub fn names(process: u32) -> [String; 2] {
        ["a", "b"].map(|end| format!("spw{process}{end}"))
    }

    /// Removes what a process that ended without doing so has left.
    pub fn remove_of(process: u32) {
        for name in Self::names(process) {
            if Path::new("/run/netns").join(&name).exists() {
                remove(&name);
            }
        }
    }

    /// Name of the first namespace.
    #[must_use]
    pub fn first(&self) -> &str {
        &self.names[0]
    }

    /// Name of the second namespace.
    #[must_use]
    pub fn second(&self) -> &str {
        &self.names[1]
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for name in &self.names {
            remove(name);
        }
        for way in &self.ways {
            way.close();
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Moves this thread into a network namespace, for good.
///
/// # Panics
/// If there is none of this name.
pub fn enter(network: &str) {
    let namespace = File::open(format!("/run/netns/{network}")).expect("the namespace is there");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("whoever made the namespace may enter it");
}

fn device(name: &str) -> io::Result<SyncDevice> {
    DeviceBuilder::new()
        .name(name)
        .mtu(MTU)
        .tx_queue_len(BACKLOG)
        .enable(false)
        .build_sync()
}

/// Puts the device of this name into a namespace of this name.
fn set_up(name: &str, address: IpAddr) {
    ip(&["link", "set", name, "netns", name]);
    ip(&[
        "-n",
        name,
        "address",
        "add",
        &format!("{address}/24"),
        "dev",
        name,
    ]);
    ip(&["-n", name, "link", "set", name, "up"]);
    ip(&["-n", name, "link", "set", "lo", "up"]);
    // TCP is to behave alike on every machine: not as this one is set up, but as Linux comes.
    ip(&[
        "-n", name, "route", "change", NETWORK, "dev", name, "congctl", "cubic",
    ]);
    // The link is to be the limit, not a socket.
    let settings = [
        "net.ipv4.tcp_rmem=4096 131072 67108864",
        "net.ipv4.tcp_wmem=4096 131072 67108864",
    ];
    let mut sysctl = Command::new("ip");
    run_ok(
        sysctl
            .args(["netns", "exec", name, "sysctl", "-qw"])
            .args(settings),
    );
}

/// The device goes first: a namespace lives on while a socket is in it.
fn remove(name: &str) {
    drop(run(
        Command::new("ip").args(["-n", name, "link", "delete", name])
    ));
    drop(run(Command::new("ip").args(["netns", "delete", name])));
}

fn ip(args: &[&str]) {
    run_ok(Command::new("ip").args(args));
}

/// Starts the threads of one direction. They end when its devices are gone.
fn carry(from: &Arc<SyncDevice>, to: &Arc<SyncDevice>, way: &Arc<OneWay>) -> [JoinHandle<()>; 2] {
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let (taking, giving) = (Arc::clone(way), Arc::clone(way));
    [
        thread::spawn(move || {
            let mut packet = [0; MTU as usize];
            while let Ok(len) = from.recv(&mut packet) {
                taking.take(packet.get(..len).unwrap_or_default());
            }
        }),
        thread::spawn(move || {
            while let Some(packet) = giving.next() {
                // A device that is not up yet takes nothing, as a real one would.
                drop(to.send(&packet));
            }
        }),
    ]
}

/// One direction of the link.
#[derive(Debug)]
struct OneWay {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    link: Link,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    /// When all that waits for its turn will have left.
    busy_until: Instant,
    random: u64,
    closed: bool,
}

impl OneWay {
    fn new(link: Link, seed: u64) -> Self {
        let state = State {
            link,
            under_way: VecDeque::new(),
            busy_until: Instant::now(),
            random: seed,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, packet: &[u8]) {
        let mut state = self.lock();
        if let Some(due) = state.admit(packet.len(), Instant::now()) {
            state.under_way.push_back((due, packet.to_vec()));
            self.changed.notify_one();
        }
    }

    /// The next packet, when it is due; `None` once the link is closed.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let wait = state
                .under_way
                .front()
                .map(|(due, _)| due.saturating_duration_since(Instant::now()));
            state = match wait {
                Some(Duration::ZERO) => {
                    return state.under_way.pop_front().map(|(_, packet)| packet);
                }
                Some(wait) => {
                    let waited = self.changed.wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    /// When a packet arrives at the other end; `None` if it never does.
    fn admit(&mut self, len: usize, now: Instant) -> Option<Instant> {
        let begins = self.busy_until.max(now);
        let waiting = (begins - now).as_secs_f64() * self.link.rate / 8.0;
        if waiting > self.link.queue || self.chance() < self.link.loss {
            return None;
        }
        let bits = f64::from(u32::try_from(len).unwrap_or(u32::MAX)) * 8.0;
        self.busy_until = begins + Duration::from_secs_f64(bits / self.link.rate);
        Some(self.busy_until + self.link.delay)
    }

    /// A number from 0 to 1, from the same series in every run (splitmix64).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, ..] = (mixed ^ (mixed >> 31)).to_le_bytes();
        f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        delay: Duration::from_millis(50),
        rate: 8e6,
        queue: 3_000.0,
        loss: 0.0,
    };

    fn state(link: Link, now: Instant) -> State {
        let mut state = OneWay::new(link, 1)
            .state
            .into_inner()
            .expect("not poisoned");
        state.busy_until = now;
        state
    }

    #[test]
    fn packets_take_turns_and_then_their_time() {
        let now = Instant::now();
        let mut state = state(LINK, now);
        let arrivals = [0, 1].map(|_| state.admit(1_000, now));
        assert_eq!(
            arrivals,
            [51, 52].map(|ms| Some(now + Duration::from_millis(ms)))
        );
        let later = now + Duration::from_millis(10);
        let arrives = state.admit(1_000, later);
        assert_eq!(arrives, Some(later + Duration::from_millis(51)));
    }

    #[test]
    fn a_full_queue_drops() {
        let now = Instant::now();
        let mut state = state(LINK, now);
        let admitted = (0..10).filter(|_| state.admit(1_000, now).is_some());
        assert_eq!(admitted.count(), 4, "one that leaves and three that wait");
    }

    #[test]
    fn about_as_many_are_lost_as_asked() {
        let now = Instant::now();
        let link = Link {
            loss: 0.1,
            queue: f64::MAX,
            ..LINK
        };
        let mut state = state(link, now);
        let lost = (0..10_000)
            .filter(|_| state.admit(1, now).is_none())
            .count();
        assert!((900..1_100).contains(&lost), "{lost}");
    }
}
