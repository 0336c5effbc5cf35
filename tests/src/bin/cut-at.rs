//! `cut-at PID N`: follows every thread of a process by ptrace(2) and kills it with SIGKILL as it enters its N-th system call from
//! now; with 0 it never does. Says `ready` when it follows all, `write I` for each I-th call that renames a file or connects to the writer's
//! socket to have it done, and every so often `count I`. Children are not followed. Ends when the process does.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Write, stdout};
use std::os::unix::fs::FileExt;

use anyhow::Context;
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How often the count is said.
const EVERY: u64 = 100;
/// ptrace(2), `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || -> anyhow::Result<u64> { Ok(arguments.next().context("usage: cut-at PID N")?.parse()?) };
    let (pid, at) = (Pid::from_raw(i32::try_from(number()?)?), number()?);
    follow(pid)?;
    say("ready");
    let mut count = 0;
    loop {
        let stop = match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL)) {
            Ok(stop) => stop,
            Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (thread, signal) = match stop {
            WaitStatus::PtraceSyscall(thread) => {
                if ptrace::syscall_info(thread).is_ok_and(|info| info.op == ENTRY) {
                    count += 1;
                    if count == at {
                        kill(pid, Signal::SIGKILL)?;
                        say(&format!("killed {count}"));
                        continue;
                    }
                    if writes(pid, thread) {
                        say(&format!("write {count}"));
                    }
                    if count % EVERY == 0 {
                        say(&format!("count {count}"));
                    }
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, _) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::Exited(gone, _) | WaitStatus::Signaled(gone, _, _) if gone == pid => return Ok(()),
            _ => continue,
        };
        match ptrace::syscall(thread, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// All threads there are, and those they will start.
fn follow(pid: Pid) -> anyhow::Result<()> {
    let mut known = HashSet::new();
    loop {
        let mut fresh = false;
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread: i32 = entry?.file_name().to_string_lossy().parse()?;
            if !known.insert(thread) {
                continue;
            }
            fresh = true;
            let thread = Pid::from_raw(thread);
            match ptrace::seize(thread, Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACESYSGOOD) {
                // It is one that an already followed thread started, or it is gone.
                Err(Errno::EPERM | Errno::ESRCH) => continue,
                other => other.with_context(|| format!("thread {thread}"))?,
            }
            ptrace::interrupt(thread)?;
        }
        if !fresh {
            return Ok(());
        }
    }
}

/// Whether a thread that has stopped is about to rename a file, or to connect to the writer's socket.
fn writes(pid: Pid, thread: Pid) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).unwrap_or_default();
    let mut words = line.split(' ');
    let number = words.next().and_then(|word| word.parse::<libc::c_long>().ok());
    #[cfg(target_arch = "x86_64")]
    if number == Some(libc::SYS_rename) {
        return true;
    }
    if number == Some(libc::SYS_connect) {
        let address = words.nth(1).and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        return address.is_some_and(|address| is_the_writers(pid, address));
    }
    number.is_some_and(|number| [libc::SYS_renameat, libc::SYS_renameat2].contains(&number))
}

/// Whether this is the address of the writer's socket (`unix(7)`, `sockaddr_un`).
fn is_the_writers(pid: Pid, address: u64) -> bool {
    const PATH: &[u8] = b"/run/sshfix/write.sock";
    let mut path = [0; PATH.len()];
    let read = File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_exact_at(&mut path, address + 2));
    read.is_ok() && path == PATH
}

fn say(line: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
