use seccompiler::sock_filter;

use super::*;

const OWN: u32 = 4711;

/// What the kernel hands to a filter: number and architecture of the call, where it came from, six arguments.
fn handed(call: i64, arguments: [u64; 3]) -> Vec<u32> {
    let architecture = if cfg!(target_arch = "x86_64") {
        0xc000_003e
    } else {
        0xc000_00b7
    };
    let mut words = vec![u32::try_from(call).unwrap(), architecture, 0, 0];
    for argument in arguments.into_iter().chain([0; 3]) {
        words.push(u32::try_from(argument & 0xffff_ffff).unwrap());
        words.push(u32::try_from(argument >> 32).unwrap());
    }
    words
}

/// Runs a filter as the kernel does (seccomp(2), and the classic BPF instructions that the compiler makes).
fn verdict(filter: &[sock_filter], data: &[u32]) -> u32 {
    let (mut at, mut a) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = filter[at].clone();
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => a = data[usize::try_from(k).unwrap() / 4],
            0x54 => a &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn only_harmless_calls_are_allowed() {
    let filter = filter(OWN).unwrap();
    let allowed = |call, arguments| verdict(&filter, &handed(call, arguments)) == 0x7fff_0000;
    let own = u64::from(OWN);
    let [read, write, execute] = [libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC]
        .map(|protection| u64::from(protection.unsigned_abs()));

    assert!(allowed(libc::SYS_read, [0; 3]) && allowed(libc::SYS_exit_group, [0; 3]));
    assert!(allowed(libc::SYS_mmap, [0, 4096, read | write]));
    assert!(!allowed(libc::SYS_mmap, [0, 4096, read | execute]));
    assert!(!allowed(libc::SYS_mprotect, [0, 4096, execute]));
    // a signal to oneself, and to nobody else: not to the group, to all, or to the relay
    assert!(allowed(libc::SYS_tgkill, [own, own, 6]));
    for other in [0, 1, own + 1, u64::MAX] {
        assert!(!allowed(libc::SYS_tgkill, [other, other, 9]), "{other}");
    }
    for call in [
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_pidfd_send_signal,
        libc::SYS_execve,
        libc::SYS_openat,
        libc::SYS_socket,
        libc::SYS_clone,
        libc::SYS_ptrace,
    ] {
        assert!(!allowed(call, [own, 0, 0]), "{call}");
    }
}
