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
    self, Ask, Call, FrameError, FromWorker, MAX_ORDER, Order, Outcome, Report, Returned, Setup,
    ToWorker,
};
use crate::script::{Fault, Server};
use crate::settings::Settings;

/// A worker has this long to come up, to take in a call, and to be reaped once it was killed.
const PATIENCE: Duration = Duration::from_secs(2);

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
}

/// Where a call stands.
struct Progress {
    until: Instant,
    begun: Instant,
    ended: Vec<Ended>,
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
                    Broken::Silent | Broken::TooLarge | Broken::OutOfTurn => worker.kill().await,
                };
                Err(io::Error::other(format!("{broken}; {how}")))
            }
        }
    }

    /// What its box lacks on this kernel.
    pub(crate) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.running.is_alive()
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
        let now = Instant::now();
        let mut progress = Progress {
            until: now + PATIENCE,
            begun: now,
            ended: Vec::new(),
        };
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
        let mut asks = 0;
        loop {
            match within(progress.until, self.report()).await? {
                Report::Begun(_) => {
                    progress.begun = Instant::now();
                    progress.until = progress.begun + self.kill;
                }
                Report::Returned(returned) => {
                    progress.ended.push(self.ended(returned));
                    progress.until = Instant::now() + self.kill;
                }
                Report::Ask(ask) => {
                    let asked = Instant::now();
                    asks += 1;
                    self.answer(ask, host, asks).await?;
                    progress.until += asked.elapsed();
                }
                Report::Finished(finished) => return Ok(finished.spent),
                Report::Ready(_) => return Err(Broken::OutOfTurn),
            }
        }
    }

    async fn answer(&mut self, ask: Ask, host: Option<&Host>, asks: usize) -> Result<(), Broken> {
        let (Some(wish), Some(host)) = (ask.wish, host) else {
            return Err(Broken::OutOfTurn);
        };
        let answer = host.answer(wish, asks).await;
        within(Instant::now() + PATIENCE, self.send(Order::Answer(answer))).await
    }

    async fn send(&mut self, order: Order) -> Result<(), Broken> {
        let message = ToWorker { order: Some(order) };
        let frame = protocol::encode(&message, MAX_ORDER).map_err(|_long| Broken::TooLarge)?;
        let written = self.to.write_all(&frame).await;
        Ok(written.map_err(FrameError::from)?)
    }

    async fn report(&mut self) -> Result<Report, Broken> {
        let output = usize::try_from(self.setup.output).unwrap_or(usize::MAX);
        let max = protocol::max_report(output);
        let message: FromWorker = protocol::receive(&mut self.from, max).await?;
        message.report.ok_or(Broken::OutOfTurn)
    }

    fn ended(&self, returned: Returned) -> Ended {
        let outcome = match returned.outcome {
            Some(Outcome::Fault(wrong)) => Err(wrong.fault(&self.setup)),
            Some(outcome) => Ok(outcome),
            None => Err(Fault::Died("it reported nothing".to_owned())),
        };
        Ended {
            outcome,
            log: returned.log,
            took: Duration::from_nanos(returned.took),
        }
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
            Broken::Pipe(_) => Fault::Died(self.end().await),
            Broken::OutOfTurn => Fault::Died(format!("{broken}; {}", self.kill().await)),
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
