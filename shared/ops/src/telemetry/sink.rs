//! Writes lines on a thread of its own, so that a stuck reader of the log stops nobody's work.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use hyper::body::Bytes;

/// Lines that wait; further ones are lost and counted.
const WAITING: usize = 4096;
/// Bytes written at once while lines wait.
const BATCH: usize = 64 << 10;
/// Between two writes. Lines that come one by one would else each cost a call of the system and, for whoever logs, the
/// waking of the thread that writes.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a flush tries.
const FLUSH: Duration = Duration::from_secs(1);
const FLUSH_RETRY: Duration = Duration::from_millis(10);

/// Makes a line of the number of lines that were lost.
pub(super) type Note = fn(u64) -> Vec<u8>;

/// Where lines go.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    to: SyncSender<Work>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Work {
    Line(Bytes),
    Flush(SyncSender<()>),
}

impl Sink {
    /// Starts the thread that writes to `out`; `note` makes the line that tells how many were lost.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(out: impl Write + Send + 'static, note: Note) -> io::Result<Self> {
        let (to, work) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            work,
            lost: Arc::clone(&lost),
            note,
            out,
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self { to, lost })
    }

    /// Hands over a line, never waiting.
    pub(super) fn put(&self, line: Bytes) {
        if self.to.try_send(Work::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, at most a second, until the lines handed over so far are written.
    pub(super) fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        let deadline = Instant::now() + FLUSH;
        let mut work = Work::Flush(done);
        while let Err(TrySendError::Full(back)) = self.to.try_send(work) {
            if Instant::now() >= deadline {
                return;
            }
            work = back;
            thread::sleep(FLUSH_RETRY);
        }
        // at the deadline the lines are given up
        let _given_up = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[derive(Debug)]
struct Writer<W> {
    work: Receiver<Work>,
    lost: Arc<AtomicU64>,
    note: Note,
    out: W,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        while let Ok(first) = self.work.recv() {
            let mut batch = Vec::new();
            let mut flushed = Vec::new();
            let mut next = Some(first);
            while let Some(work) = next {
                match work {
                    Work::Line(line) => batch.extend_from_slice(&line),
                    Work::Flush(done) => flushed.push(done),
                }
                next = (batch.len() < BATCH)
                    .then(|| self.work.try_recv().ok())
                    .flatten();
            }
            self.note_losses(&mut batch);
            // there is nowhere left to report to
            drop(self.out.write_all(&batch).and_then(|()| self.out.flush()));
            let hurried = !flushed.is_empty();
            for done in flushed {
                let _given_up = done.send(());
            }
            if !hurried {
                thread::sleep(PAUSE);
            }
        }
    }

    fn note_losses(&self, batch: &mut Vec<u8>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            batch.extend_from_slice(&(self.note)(lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;
    use std::sync::mpsc::channel;

    use super::*;

    /// Says that it is asked to write, then waits to be let go on.
    struct Stuck {
        asked: Sender<()>,
        go_on: Receiver<()>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _nobody_waits = self.asked.send(());
            let _hung_up = self.go_on.recv();
            let mut written = self
                .written
                .lock()
                .map_err(|_poisoned| io::ErrorKind::Other)?;
            written.push_str(&String::from_utf8_lossy(bytes));
            drop(written);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn note(lost: u64) -> Vec<u8> {
        format!("{lost} lost\n").into_bytes()
    }

    #[test]
    fn a_stuck_reader_costs_lines_but_no_time_and_the_loss_is_told() {
        let (asked, is_asked) = channel();
        let (let_go, go_on) = channel();
        let written = Arc::new(Mutex::new(String::new()));
        let sink = Sink::start(
            Stuck {
                asked,
                go_on,
                written: Arc::clone(&written),
            },
            note,
        )
        .unwrap();

        sink.put("first\n".into());
        is_asked.recv().unwrap();
        for _ in 0..WAITING + 5 {
            sink.put("x\n".into());
        }
        drop(let_go);
        sink.flush();

        let text = written.lock().unwrap();
        assert!(text.starts_with("first\nx\n"));
        assert_eq!(text.matches("x\n").count(), WAITING);
        assert!(text.ends_with("5 lost\n"), "{text}");
    }

    #[test]
    fn a_flush_gives_up_on_a_writer_that_never_returns() {
        let (asked, _is_asked) = channel();
        let (_let_go, go_on) = channel();
        let sink = Sink::start(
            Stuck {
                asked,
                go_on,
                written: Arc::default(),
            },
            note,
        )
        .unwrap();
        sink.put("first\n".into());

        let start = Instant::now();
        sink.flush();

        assert!(start.elapsed() >= FLUSH);
    }
}
