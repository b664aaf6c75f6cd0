//! The box around a worker process: after [`enter`] it can compute, allocate and talk over the two pipes that it has,
//! and nothing else.
//!
//! Each layer would do alone. Limits of the system hold even where a kernel offers neither seccomp nor landlock.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::RawFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetStatus, Scope,
};
use nix::sys::prctl;
use rustix::process::{
    Resource, Rlimit, Signal, set_parent_process_death_signal, setpriority_process, setrlimit,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// CPU seconds of a worker's whole life: what ends it when it spins and nobody is left to kill it. It is replaced after
/// so many calls that it never gets here in order.
const CPU_SECONDS: u64 = 60;

/// Bytes that a worker may have beside its JavaScript heap: a message, as it came and as it was read, and what the program
/// itself allocates.
const BESIDE_THE_HEAP: u64 = 16 << 20;

/// Why the box could not be closed. The worker must then end.
#[derive(Debug, thiserror::Error)]
#[error("cannot close the worker's box: {step}: {cause}")]
pub(crate) struct SandboxError {
    step: &'static str,
    cause: io::Error,
}

/// Closes the box for good; `heap` is the limit of the JavaScript heap in bytes, and other work goes before this one's by
/// `niceness`. Returns what this kernel lacks of it.
///
/// # Errors
/// When a part that every kernel has cannot be set.
pub(crate) fn enter(heap: u64, niceness: i32) -> Result<Vec<String>, SandboxError> {
    let failed = |step| move |cause| SandboxError { step, cause };
    // one whose relay went before this finds its pipe closed
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(io::Error::from)
        .map_err(failed("ending with the relay"))?;
    close_inherited().map_err(failed("closing inherited descriptors"))?;
    prctl::set_no_new_privs()
        .map_err(io::Error::from)
        .map_err(failed("giving up privileges"))?;
    prctl::set_dumpable(false)
        .map_err(io::Error::from)
        .map_err(failed("closing the memory"))?;
    let mut missing = Vec::new();
    // it takes a descriptor, which the limits leave none of
    missing.extend(shut_out_files().err());
    limit(heap).map_err(failed("setting resource limits"))?;
    // a sandbox around the relay may refuse; nothing depends on it
    let _refused = setpriority_process(None, niceness);
    missing.extend(allow_only_these_calls().err());
    Ok(missing)
}

/// The relay opens nothing that a child would inherit; who started the relay may have.
fn close_inherited() -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // the directory that was read is closed already
        let _closed = nix::unistd::close(fd);
    }
    Ok(())
}

fn limit(heap: u64) -> io::Result<()> {
    let limits = [
        (Resource::Data, heap.saturating_add(BESIDE_THE_HEAP)),
        (Resource::Cpu, CPU_SECONDS),
        (Resource::Nofile, 0),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ];
    for (resource, most) in limits {
        let both = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, both)?;
    }
    Ok(())
}

/// Landlock: no file, no TCP port, no signal to anyone.
fn shut_out_files() -> Result<(), String> {
    let abi = ABI::V6;
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self());
    match restricted {
        Ok(status) => match status.ruleset {
            RulesetStatus::FullyEnforced => Ok(()),
            RulesetStatus::PartiallyEnforced => Err("part of landlock".to_owned()),
            RulesetStatus::NotEnforced => Err("landlock".to_owned()),
        },
        Err(error) => Err(format!("landlock: {error}")),
    }
}

/// seccomp: every other system call kills the process.
fn allow_only_these_calls() -> Result<(), String> {
    let program = filter(std::process::id()).map_err(|error| format!("seccomp: {error}"))?;
    seccompiler::apply_filter(&program).map_err(|error| format!("seccomp: {error}"))
}

/// The filter for the process `own`.
fn filter(own: u32) -> Result<BpfProgram, seccompiler::BackendError> {
    let free = [
        // the pipes
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        // memory
        libc::SYS_brk,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_madvise,
        libc::SYS_getrandom,
        // time, where the kernel's page for it is not used
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_gettimeofday,
        // locks, signals, the end
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        free.into_iter().map(|call| (call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![never_executable()?]);
    }
    // aborting is a signal to oneself
    rules.insert(libc::SYS_tgkill, vec![only_to(own)?]);
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// The third argument of `mmap` and `mprotect` is the protection.
fn never_executable() -> Result<SeccompRule, seccompiler::BackendError> {
    let execute = u64::from(libc::PROT_EXEC.unsigned_abs());
    SeccompRule::new(vec![SeccompCondition::new(
        2,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(execute),
        0,
    )?])
}

/// The first argument of `tgkill` is the process.
fn only_to(own: u32) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(own),
    )?])
}

#[cfg(test)]
mod tests;
