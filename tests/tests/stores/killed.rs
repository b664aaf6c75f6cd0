//! A process that writes the embedded store is killed again and again, while it opens the file and while it writes. What
//! it had acknowledged is there, and nothing but the one change that was under way.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use sallyport_cluster::{Embedded, Limits, Prefix, STORE_FILE, Store as _};
use sallyport_tests::program;
use sallyport_tests::written::{Step, Written};

const KILLS: u32 = 500;

/// So often it begins with no file, so that making one is interrupted too.
const AFRESH: u32 = 25;

/// A process is killed at some moment before this: it opens, and writes some dozens of changes.
const LIVES: Duration = Duration::from_millis(24);

#[tokio::test]
async fn five_hundred_kills_lose_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(STORE_FILE);
    let mut moments = Moments::new();
    let (mut known, mut last, mut acknowledged) = (Written::default(), 0_u64, 0_u64);
    for round in 0..KILLS {
        if round % AFRESH == 0 && path.exists() {
            fs::remove_file(&path).expect("the file");
            (known, last) = (Written::default(), 0);
        }

        let said = killed_after(&path, last + 1, moments.next());
        for number in last + 1..=said {
            known = known.with(Step::number(number));
        }
        acknowledged += said - last;
        last = said;

        let found = found(&path).await;
        let under_way = known.clone().with(Step::number(last + 1));
        if found == under_way {
            (known, last) = (under_way, last + 1);
        }
        let seed = moments.seed;
        assert!(
            found == known,
            "round {round}, seed {seed}: not the state after change {last}"
        );
    }
    assert!(
        acknowledged > u64::from(KILLS),
        "it was killed while it wrote: {acknowledged}"
    );
}

/// The number of the last change that the process acknowledged before it was killed.
fn killed_after(path: &Path, from: u64, life: Duration) -> u64 {
    let mut writer = Writer::start(path, from);
    thread::sleep(life);
    writer.kill();
    let said = writer.0.stdout.take().expect("piped");
    let numbers = BufReader::new(said).lines();
    let last = numbers.map_while(Result::ok).last();
    last.map_or(from - 1, |number| number.parse().expect("a number"))
}

async fn found(path: &Path) -> Written {
    let store = Embedded::open(path, Limits::default()).expect("it opens after any end");
    let entries = store.list(&Prefix::all()).await.expect("listed");
    let entries = entries.into_iter();
    entries
        .map(|entry| (entry.key.to_string(), entry.value))
        .collect()
}

struct Writer(Child);

impl Writer {
    fn start(path: &Path, from: u64) -> Self {
        let mut command = Command::new(program("store-writer"));
        command.arg(path).arg(from.to_string());
        let started = command.stdout(Stdio::piped()).spawn();
        Self(started.expect("it is built"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("it runs until it is killed");
        self.0.wait().expect("it ended");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Random moments of a life, the same for the same seed.
struct Moments {
    seed: u64,
    state: u64,
}

impl Moments {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = u64::from(since.expect("after 1970").subsec_nanos());
        Self { seed, state: seed }
    }

    /// Knuth's linear congruential generator.
    fn next(&mut self) -> Duration {
        let multiplied = self.state.wrapping_mul(6_364_136_223_846_793_005);
        self.state = multiplied.wrapping_add(1_442_695_040_888_963_407);
        let most = u64::try_from(LIVES.as_micros()).expect("short");
        Duration::from_micros((self.state >> 33) % most)
    }
}
