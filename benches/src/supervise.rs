//! Two processes: one measures, the other waits for it and for signals. Whatever ends the measuring, Ctrl-C or a
//! fault, the waiting one ends what was started and removes what was written.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{
    Pid, Resource, Signal, WaitOptions, getpid, getrlimit, kill_process, set_child_subreaper,
    setrlimit,
};
use sallyport_tests::Wan;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::cost::Process;
use crate::lab::{Effort, Lab};
use crate::machine::Machine;
use crate::peers;
use crate::progress::say;
use crate::report::Report;
use crate::rows::{ROWS, Row};

/// Tells the measuring process its folder.
const FOLDER: &str = "SALLYPORT_BENCH_FOLDER";

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(unknown) = unknown_row(&cli) {
        say(&format!("there is no row {unknown}"));
        return ExitCode::from(2);
    }
    match std::env::var_os(FOLDER) {
        Some(folder) => measure(&cli, Path::new(&folder)),
        None => supervise(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn supervise() -> ExitCode {
    // What the measuring process leaves behind becomes a child of this one.
    set_child_subreaper(Some(getpid())).expect("the kernel gives orphans to us");
    let folder = TempDir::with_prefix("sallyport-bench-").expect("a temporary folder");
    let mut interrupted = signal(SignalKind::interrupt()).expect("signals can be watched");
    let mut terminated = signal(SignalKind::terminate()).expect("signals can be watched");
    let mut worker = Command::new("setpriv");
    worker.args(["--pdeathsig", "KILL", "--"]);
    worker.arg(std::env::current_exe().expect("this program has a path"));
    worker
        .args(std::env::args_os().skip(1))
        .env(FOLDER, folder.path());
    let mut worker = worker.spawn().expect("setpriv is installed (util-linux)");
    let id = worker.id().expect("it was just started");
    let ended = tokio::select! {
        ended = worker.wait() => Some(ended),
        _ = interrupted.recv() => None,
        _ = terminated.recv() => None,
    };
    if ended.is_none() {
        say("interrupted");
        worker.kill().await.expect("our own child");
    }
    end_orphans();
    Wan::remove_of(id);
    match ended {
        Some(Ok(status)) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
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

fn measure(cli: &Cli, folder: &Path) -> ExitCode {
    take_all_descriptors();
    let lab = Lab::new(Effort::of(cli), folder);
    let date = OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .expect("zero is a nanosecond");
    let mut report = Report {
        date: date.format(&Rfc3339).expect("a date"),
        command: command(),
        rounds: lab.effort.rounds,
        machine: Machine::look(),
        peers: peers::all(),
        rows: Vec::new(),
    };
    report.rows = wanted(cli).map(|row| row.measure(&lab)).collect();
    print(&report.text());
    if let Some(file) = &cli.json {
        report
            .write_json(file)
            .expect("the file of --json is writable");
    }
    if let Some(folder) = &cli.out {
        report
            .write_to(folder)
            .expect("the folder of --out is writable");
    }
    let whole = report.rows.iter().all(|row| row.found.is_ok());
    if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Thousands of clients are in this process.
fn take_all_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit anyone may go");
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
