//! What a process reads into its own memory, as the kernel sees it (strace). Nothing is timed meanwhile.

use std::fs;
use std::path::Path;
use std::process::Command;

use sallyport_tests::{Daemon, Site, eventually};

use crate::cost::Process;
use crate::peers;

/// Calls that copy from a socket or a pipe into memory.
const READS: &str = "trace=read,readv,recvfrom,recvmsg";

/// Bytes that all threads of a process read while `work` is done.
///
/// # Errors
/// If strace is absent, or this user may not look.
pub fn read_by(process: &Process, site: &Site, work: impl FnOnce()) -> Result<u64, String> {
    let strace = peers::find("strace")?;
    let (id, calls) = (process.id.to_string(), site.path().join("calls"));
    let mut allowed = Command::new(&strace);
    let probe = allowed.args(["-qq", "-e", "trace=none", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return Err("strace may not trace here".to_owned());
    }
    let path = calls.display().to_string();
    let args = ["-f", "-qq", "-s", "0", "-e", READS, "-o", &path, "-p", &id];
    let mut tracing = Daemon::start(&strace, &args, &site.path().join("strace.log"));
    eventually("strace is attached", || is_traced(process));
    work();
    let _signal = tracing.terminate();
    let calls = fs::read_to_string(calls).map_err(|error| error.to_string())?;
    Ok(calls.lines().filter_map(result).sum())
}

/// Whether every thread is traced.
fn is_traced(process: &Process) -> bool {
    let Ok(threads) = fs::read_dir(Path::new("/proc").join(process.id.to_string()).join("task"))
    else {
        return false;
    };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}

/// What a call returned, if it was not refused.
fn result(line: &str) -> Option<u64> {
    let (_call, result) = line.rsplit_once("= ")?;
    result.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_and_refusals_are_not() {
        let lines = [
            "71 recvfrom(12, \"\"..., 65536, 0, NULL, NULL) = 1448",
            "71 recvfrom(12, 0x7f, 65536, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)",
            "72 read(7,  <unfinished ...>",
            "72 <... read resumed>\"\"..., 8)      = 8",
        ];
        assert_eq!(lines.into_iter().filter_map(result).sum::<u64>(), 1_456);
    }
}
