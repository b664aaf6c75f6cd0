//! One worker process as the relay sees it: started, called, and killed when it does not answer in time.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use sallyport_ops::program::Running;
use sallyport_ops::{Program, Programs};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::{Instant, timeout, timeout_at};

use crate::host::Host;
use crate::kept::Kept;
use crate::protocol::{
    self, Answer, Ask, Call, Finished, FrameError, FromWorker, MAX_ORDER, Order, Outcome, Report,
    Returned, Setup, ToWorker,
};
use crate::script::{Fault, Server};
use crate::settings::Settings;

/// A worker has this long to come up, to take in a call, and to be reaped once it was killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the answers to one call's questions may take together.
const ANSWERS: Duration = Duration::from_secs(30);

/// A call's reports may have so many times the bytes of the longest one together.
const REPORTS: usize = 4;

/// A running worker. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    running: Running,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    kept: Kept,
    setup: Setup,
    kill: Duration,
    calls_left: u32,
    missing: Vec<String>,
}

/// One function of a call and what came of it.
pub(crate) struct Ended {
    pub(crate) outcome: Result<Outcome, Fault>,
    pub(crate) log: Vec<String>,
    pub(crate) took: Duration,
}

/// Why a worker cannot be used any more.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no answer in time")]
    Silent,
    #[error("a call over the limit")]
    TooLarge,
    #[error(transparent)]
    Pipe(#[from] FrameError),
    #[error("a report out of turn")]
    OutOfTurn,
    #[error("reports over the limit")]
    TooMuch,
}

/// Where a call stands. What runs in the worker may have taken it over, so it is believed nothing that is not its turn
/// to say, and no answer of its own moves the end of the call.
struct Progress {
    /// The call is over by then.
    end: Instant,
    /// What is awaited now has come by then, or by the end of the call.
    until: Instant,
    begun: Instant,
    runs: bool,
    /// Functions that may still begin.
    left: usize,
    chooses: bool,
    /// What is left of [`ANSWERS`].
    answers: Duration,
    asked: usize,
    /// Bytes that reports may still have.
    reports: usize,
    ended: Vec<Ended>,
}

impl Progress {
    fn of(call: &Call, kill: Duration, report: usize) -> Self {
        let now = Instant::now();
        let left = call.scripts.len();
        let each = kill.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX));
        let answers = if call.asks { ANSWERS } else { Duration::ZERO };
        let whole = PATIENCE.saturating_add(each).saturating_add(answers);
        let end = now.checked_add(whole).unwrap_or(now);
        Self {
            end,
            until: end.min(now + PATIENCE),
            begun: now,
            runs: false,
            left,
            chooses: call.servers.is_some(),
            answers,
            asked: 0,
            reports: report.saturating_mul(REPORTS),
            ended: Vec::new(),
        }
    }

    /// What comes next has `time`.
    fn allow(&mut self, time: Duration) {
        let until = Instant::now().checked_add(time);
        self.until = until.map_or(self.end, |until| until.min(self.end));
    }

    fn begun(&mut self, kill: Duration) -> Result<(), Broken> {
        self.left = self.left.checked_sub(1).ok_or(Broken::OutOfTurn)?;
        if std::mem::replace(&mut self.runs, true) {
            return Err(Broken::OutOfTurn);
        }
        self.begun = Instant::now();
        self.allow(kill);
        Ok(())
    }

    fn returned(&mut self, ended: Ended, kill: Duration) -> Result<(), Broken> {
        if !std::mem::replace(&mut self.runs, false) || !self.fits(&ended) {
            return Err(Broken::OutOfTurn);
        }
        if !matches!(ended.outcome, Ok(Outcome::Pass(_) | Outcome::Servers(_))) {
            self.left = 0;
        }
        self.ended.push(ended);
        self.allow(kill);
        Ok(())
    }

    /// Whether this is what such a call can come to.
    fn fits(&self, ended: &Ended) -> bool {
        match &ended.outcome {
            Err(_fault) => true,
            Ok(Outcome::Value(_)) => !self.chooses,
            Ok(Outcome::Server(_) | Outcome::Servers(_) | Outcome::Pass(_)) => self.chooses,
            Ok(Outcome::Fault(_)) => false,
        }
    }

    fn finish(&self, finished: Finished) -> Result<bool, Broken> {
        if self.runs || self.left > 0 {
            return Err(Broken::OutOfTurn);
        }
        Ok(finished.spent)
    }
}

impl Worker {
    /// Has `programs` start one and waits until it is ready.
    ///
    /// # Errors
    /// When the program cannot be run, or is not one that answers.
    pub(crate) async fn start(settings: &Settings, programs: &Programs) -> io::Result<Self> {
        let program = Program {
            environment: Vec::new(),
            ..Program::new(&settings.program, &settings.arguments)
        };
        let started = timeout(PATIENCE, programs.start(&program)).await;
        let mut running = started?.map_err(io::Error::other)?;
        let (Some(to), Some(from)) = (running.stdin.take(), running.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let limits = &settings.limits;
        let mut worker = Self {
            running,
            to,
            from: BufReader::new(from),
            kept: Kept::default(),
            setup: limits.setup(),
            kill: limits.kill,
            calls_left: limits.calls,
            missing: Vec::new(),
        };
        let greeted = timeout(PATIENCE, worker.greet()).await;
        match greeted.unwrap_or(Err(Broken::Silent)) {
            Ok(()) => Ok(worker),
            Err(broken) => {
                let how = match broken {
                    Broken::Pipe(_) => worker.end().await,
                    Broken::Silent | Broken::TooLarge | Broken::OutOfTurn | Broken::TooMuch => {
                        worker.kill().await
                    }
                };
                Err(io::Error::other(format!("{broken}; {how}")))
            }
        }
    }

    /// What its box lacks on this kernel.
    pub(crate) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Whether it runs, and says nothing unasked: that would be taken for an answer to the next call.
    pub(crate) fn is_fit(&self) -> bool {
        let unread = rustix::io::ioctl_fionread(self.from.get_ref());
        self.running.is_alive() && self.from.buffer().is_empty() && unread == Ok(0)
    }

    /// Runs `call`, on `servers` when it is to choose one.
    ///
    /// Returns what came of each function that began, and the worker if it is fit for another call. A worker that is
    /// not has ended by then.
    pub(crate) async fn run(
        mut self,
        mut call: Call,
        servers: Option<&[Arc<Server>]>,
        host: Option<&Host>,
    ) -> (Vec<Ended>, Option<Self>) {
        call.servers = servers.map(|list| self.kept.take(list));
        call.asks = host.is_some();
        let mut progress = Progress::of(&call, self.kill, self.max_report());
        let talked = self.talk(call, host, &mut progress).await;
        self.calls_left = self.calls_left.saturating_sub(1);
        let broken = match talked {
            Ok(spent) => {
                let fit = !spent && self.calls_left > 0;
                return (progress.ended, fit.then_some(self));
            }
            Err(broken) => broken,
        };
        let fault = self.fault(broken).await;
        progress.ended.push(Ended {
            outcome: Err(fault),
            log: Vec::new(),
            took: progress.begun.elapsed(),
        });
        (progress.ended, None)
    }

    async fn greet(&mut self) -> Result<(), Broken> {
        self.send(Order::Setup(self.setup.clone())).await?;
        match self.report().await? {
            Report::Ready(ready) => {
                self.missing = ready.missing;
                Ok(())
            }
            Report::Begun(_) | Report::Returned(_) | Report::Ask(_) | Report::Finished(_) => {
                Err(Broken::OutOfTurn)
            }
        }
    }

    async fn talk(
        &mut self,
        call: Call,
        host: Option<&Host>,
        progress: &mut Progress,
    ) -> Result<bool, Broken> {
        within(progress.until, self.send(Order::Call(call))).await?;
        loop {
            let report = within(progress.until, self.report()).await?;
            let rest = progress.reports.checked_sub(report.encoded_len());
            progress.reports = rest.ok_or(Broken::TooMuch)?;
            match report {
                Report::Begun(_) => progress.begun(self.kill)?,
                Report::Returned(returned) => {
                    let ended = self.ended(returned, progress.begun)?;
                    progress.returned(ended, self.kill)?;
                }
                // boxed, because few calls ask
                Report::Ask(ask) => Box::pin(self.answer(ask, host, progress)).await?,
                Report::Finished(finished) => return progress.finish(finished),
                Report::Ready(_) => return Err(Broken::OutOfTurn),
            }
        }
    }

    /// Answers a question; what that takes is no time of the function's.
    async fn answer(
        &mut self,
        ask: Ask,
        host: Option<&Host>,
        progress: &mut Progress,
    ) -> Result<(), Broken> {
        let (Some(wish), Some(host), true) = (ask.wish, host, progress.runs) else {
            return Err(Broken::OutOfTurn);
        };
        let asked = Instant::now();
        let left = progress.until.saturating_duration_since(asked);
        progress.asked = progress.asked.saturating_add(1);
        let answer = timeout(progress.answers, host.answer(wish, progress.asked)).await;
        let answer = answer.unwrap_or_else(|_late| Answer {
            text: format!(
                "what a call waits for may take {} s together",
                ANSWERS.as_secs()
            ),
            failed: true,
        });
        progress.answers = progress.answers.saturating_sub(asked.elapsed());
        progress.allow(PATIENCE);
        within(progress.until, self.send(Order::Answer(answer))).await?;
        progress.allow(left);
        Ok(())
    }

    async fn send(&mut self, order: Order) -> Result<(), Broken> {
        let message = ToWorker { order: Some(order) };
        let frame = protocol::encode(&message, MAX_ORDER).map_err(|_long| Broken::TooLarge)?;
        let written = self.to.write_all(&frame).await;
        Ok(written.map_err(FrameError::from)?)
    }

    async fn report(&mut self) -> Result<Report, Broken> {
        let max = self.max_report();
        let message: FromWorker = protocol::receive(&mut self.from, max).await?;
        message.report.ok_or(Broken::OutOfTurn)
    }

    fn max_report(&self) -> usize {
        protocol::max_report(usize::try_from(self.setup.output).unwrap_or(usize::MAX))
    }

    fn ended(&self, returned: Returned, begun: Instant) -> Result<Ended, Broken> {
        let outcome = match returned.outcome {
            Some(Outcome::Fault(wrong)) => Err(wrong.fault(&self.setup)),
            Some(outcome) => Ok(outcome),
            None => return Err(Broken::OutOfTurn),
        };
        Ok(Ended {
            outcome,
            log: returned.log,
            took: Duration::from_nanos(returned.took).min(begun.elapsed()),
        })
    }

    async fn fault(mut self, broken: Broken) -> Fault {
        match broken {
            Broken::Silent => {
                self.kill().await;
                Fault::Killed(self.kill)
            }
            Broken::TooLarge => {
                self.kill().await;
                Fault::TooLarge {
                    what: "the input",
                    limit: MAX_ORDER as u64,
                }
            }
            Broken::Pipe(FrameError::Closed | FrameError::Io(_)) => Fault::Died(self.end().await),
            Broken::Pipe(FrameError::TooLong { .. } | FrameError::Malformed(_))
            | Broken::OutOfTurn
            | Broken::TooMuch => {
                self.kill().await;
                Fault::Died(format!("{broken}, for which it was killed"))
            }
        }
    }

    /// How it ended, which it is about to do by itself: its pipe is closed.
    async fn end(&mut self) -> String {
        match timeout(PATIENCE, self.running.ended()).await {
            Ok(ended) => in_words(ended),
            Err(_late) => self.kill().await,
        }
    }

    /// Kills it and says how it ended.
    async fn kill(&mut self) -> String {
        self.running.kill();
        match timeout(PATIENCE, self.running.ended()).await {
            Ok(ended) => in_words(ended),
            Err(_late) => "it cannot be killed".to_owned(),
        }
    }
}

async fn within<T>(
    until: Instant,
    work: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
    timeout_at(until, work).await.unwrap_or(Err(Broken::Silent))
}

fn in_words(ended: io::Result<ExitStatus>) -> String {
    let status = match ended {
        Ok(status) => status,
        Err(error) => return error.to_string(),
    };
    let Some(signal) = status.signal() else {
        return format!("it ended with {status}");
    };
    let why = match signal {
        libc::SIGSYS => "it made a system call that scripts may not make",
        libc::SIGXCPU => "it used up its CPU time",
        libc::SIGABRT => "it aborted, most likely out of memory",
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL => "the engine crashed",
        libc::SIGKILL => "it was killed, perhaps by the system for want of memory",
        _ => "it was killed",
    };
    format!("{why} (signal {signal})")
}
