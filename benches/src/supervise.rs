//! One process for each row, and one that waits for it, for its deadline and for signals. However a row ends, what it
//! started is ended and what it wrote is removed before the next one begins; its figures and its faults are its own.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper};
use sallyport_tests::Wan;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::sleep;

use crate::cli::Cli;
use crate::cost::Process;
use crate::lab::Effort;
use crate::machine::Machine;
use crate::peers;
use crate::progress::say;
use crate::report::Report;
use crate::rows::{Entry, ROWS, Row};
use crate::worker;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(unknown) = unknown_row(&cli) {
        say(&format!("there is no row {unknown}"));
        return ExitCode::from(2);
    }
    match std::env::var_os(worker::FOLDER) {
        Some(folder) => worker::measure(&cli, Path::new(&folder)),
        None => supervise(&cli),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn supervise(cli: &Cli) -> ExitCode {
    // What a measuring process leaves behind becomes a child of this one.
    set_child_subreaper(Some(getpid())).expect("the kernel gives orphans to us");
    let folder = TempDir::with_prefix("sallyport-bench-").expect("a temporary folder");
    let mut stop = Stop::new().expect("signals can be watched");
    let effort = Effort::of(cli);
    let mut report = empty(effort);
    for row in wanted(cli) {
        let begun = Instant::now();
        say(&format!("{}: {}", row.id, row.title));
        let Some(entry) = one(row, folder.path(), effort, &mut stop).await else {
            say("interrupted: nothing is written");
            return ExitCode::FAILURE;
        };
        let time = begun.elapsed().as_secs();
        match &entry.found {
            Ok(_) => say(&format!("{} took {time} s", row.id)),
            Err(why) => say(&format!("{} failed after {time} s: {why}", row.id)),
        }
        report.rows.push(entry);
    }
    publish(&report, cli)
}

/// The signals that end the benchmark.
struct Stop {
    interrupted: Stream,
    terminated: Stream,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}

/// Measures a row in a process of its own. None if a signal came first.
async fn one(row: &Row, parent: &Path, effort: Effort, stop: &mut Stop) -> Option<Entry> {
    let folder = parent.join(row.id);
    fs::create_dir(&folder).expect("the temporary folder is writable");
    let mut worker = start(&folder);
    let id = worker.id().expect("it was just started");
    let within = row.deadline(effort);
    let ended = tokio::select! {
        ended = worker.wait() => Some(Ok(ended)),
        () = sleep(within) => Some(Err(within)),
        () = stop.asked() => None,
    };
    if !matches!(ended, Some(Ok(_))) {
        worker.kill().await.expect("our own child");
    }
    end_orphans();
    Wan::remove_of(id);
    let entry = ended.map(|ended| worker::found(&folder).unwrap_or_else(|| row.failed(why(ended))));
    // A file that is still being written when its writer is ended may hold this up; the whole folder goes at the end.
    drop(fs::remove_dir_all(&folder));
    entry
}

fn start(folder: &Path) -> Child {
    let mut worker = Command::new("setpriv");
    worker.args(["--pdeathsig", "KILL", "--"]);
    worker.arg(std::env::current_exe().expect("this program has a path"));
    worker
        .args(std::env::args_os().skip(1))
        .env(worker::FOLDER, folder)
        // Ctrl-C on a terminal is for this process, which knows what to clear away.
        .process_group(0);
    worker.spawn().expect("setpriv is installed (util-linux)")
}

/// Why a row has no figures.
fn why(ended: Result<io::Result<ExitStatus>, Duration>) -> String {
    match ended {
        Ok(Ok(status)) => format!("its process ended: {status}"),
        Ok(Err(error)) => format!("its process was lost: {error}"),
        Err(within) => format!("ended after its deadline of {} s", within.as_secs()),
    }
}

/// Ends all children and waits until they are gone.
fn end_orphans() {
    let me = Process::new("bench", std::process::id());
    loop {
        for orphan in me.children() {
            if let Some(orphan) = i32::try_from(orphan).ok().and_then(Pid::from_raw) {
                let _gone = kill_process(orphan, Signal::KILL);
            }
        }
        if rustix::process::wait(WaitOptions::empty()).is_err() {
            return; // there is no child any more
        }
    }
}

/// A report without rows yet.
fn empty(effort: Effort) -> Report {
    let date = OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .expect("zero is a nanosecond");
    Report {
        date: date.format(&Rfc3339).expect("a date"),
        command: command(),
        rounds: effort.rounds,
        machine: Machine::look(),
        peers: peers::all(),
        rows: Vec::new(),
    }
}

fn publish(report: &Report, cli: &Cli) -> ExitCode {
    print(&report.text());
    if let Some(file) = &cli.json {
        let written = report.write_json(file);
        written.expect("the file of --json is writable");
    }
    if let Some(folder) = &cli.out {
        let written = report.write_to(folder);
        written.expect("the folder of --out is writable");
    }
    if report.rows.iter().all(|row| row.found.is_ok()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn wanted(cli: &Cli) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| {
        if cli.rows.is_empty() {
            return row.quick || !cli.quick;
        }
        cli.rows.iter().any(|wanted| row.is(wanted))
    })
}

fn unknown_row(cli: &Cli) -> Option<&String> {
    let known = |wanted: &str| ROWS.iter().any(|row| row.is(wanted));
    cli.rows.iter().find(|wanted| !known(wanted))
}

/// As it was typed, without the folder of the program.
fn command() -> String {
    let args = std::env::args().skip(1);
    ["sallyport-bench".to_owned()]
        .into_iter()
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

fn print(text: &str) {
    #[expect(clippy::print_stdout, reason = "this is what the program is for")]
    {
        println!("{text}");
    }
}
