//! Child processes: an absolute path, an almost empty environment, a deadline, bounded output, no inherited descriptors.
//! Must not be given a shell, nor anything a peer sent that was not parsed into a type first.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thiserror::Error;

use crate::patience;
use crate::sys::confine;

/// How often a child that keeps silent is asked whether it has ended.
const TICK: Duration = Duration::from_millis(20);
/// The same of one that has closed its output, as each does that ends.
const ENDING: Duration = Duration::from_millis(1);
/// How long a child that was killed is waited for. One that hangs in the kernel, at a dead file server or a FUSE mount that does not
/// answer, ends later or never.
const ENDS: Duration = Duration::from_millis(300);

/// What a child said and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Why a child gave no result.
#[derive(Debug, Error)]
pub enum ChildError {
    /// It could not be started; nothing ran.
    #[error("cannot run {}: {error}", program.display())]
    NotStarted {
        /// Which.
        program: PathBuf,
        /// The kernel's words.
        error: io::Error,
    },
    /// It was killed at its deadline, or that of the question it was run for; what it did until then stays done.
    #[error("{} did not end within {:.1} s and was killed", program.display(), after.as_secs_f32())]
    TimedOut {
        /// Which.
        program: PathBuf,
        /// The time it was given.
        after: Duration,
    },
    /// It was killed because it said too much; what it did until then stays done.
    #[error("{} wrote more than {limit} bytes and was killed", program.display())]
    TooMuchOutput {
        /// Which.
        program: PathBuf,
        /// The bound on both streams together.
        limit: usize,
    },
    /// Talking to it failed; it was killed.
    #[error("lost {}: {error}; it was killed", program.display())]
    Lost {
        /// Which.
        program: PathBuf,
        /// The kernel's words.
        error: io::Error,
    },
}

/// Runs a program to its end. `program` must be absolute; there is no shell and no PATH. The child gets `LC_ALL=C` and nothing
/// else, `/` as its folder, its own process group (killed whole at the deadline) and no descriptor but 0, 1 and 2.
/// `max_output` bounds both streams together. A status other than 0 is no error here.
pub fn run(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    stdin: Option<&[u8]>,
    timeout: Duration,
    max_output: usize,
) -> Result<Output, ChildError> {
    answer_of(run_or_leave(program, args, stdin, timeout, max_output))
}

/// As [`run`], for a program that only reads: it cannot write a file or use TCP (`confine::only_read_files`).
pub fn run_reading(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    stdin: Option<&[u8]>,
    timeout: Duration,
    max_output: usize,
) -> Result<Output, ChildError> {
    answer_of(absolute(program, args, |command| finish(command, program, stdin, timeout, max_output, true)))
}

/// The answer; a child that hangs is waited for elsewhere.
fn answer_of((answer, left): (Result<Output, ChildError>, Option<Child>)) -> Result<Output, ChildError> {
    if let Some(child) = left {
        reap(child, || ());
    }
    answer
}

/// Waits for a child that was killed and hangs in the kernel, in a thread of its own, and does something then.
pub fn reap(mut child: Child, then: impl FnOnce() + Send + 'static) {
    let wait = move || {
        let _ = child.wait();
        then();
    };
    if let Err(error) = thread::Builder::new().name("reaper".to_owned()).spawn(wait) {
        tracing::warn!("no thread could be started to wait for a child that hangs: {error}");
    }
}

/// As [`run`]; besides, the child itself where it was killed and has not ended: for [`reap`].
pub fn run_or_leave(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    stdin: Option<&[u8]>,
    timeout: Duration,
    max_output: usize,
) -> (Result<Output, ChildError>, Option<Child>) {
    absolute(program, args, |command| finish(command, program, stdin, timeout, max_output, false))
}

fn absolute(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    finish: impl FnOnce(Command) -> (Result<Output, ChildError>, Option<Child>),
) -> (Result<Output, ChildError>, Option<Child>) {
    if !program.is_absolute() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path");
        return (Err(ChildError::NotStarted { program: program.into(), error }), None);
    }
    let mut command = Command::new(program);
    command.args(args);
    finish(command)
}

/// The same for a program that is open already (`O_PATH` is enough), so that the file that was looked at is the file that runs. `name` is
/// its real path, which it gets as its own name: sshd executes itself by it. A script cannot be run so. It only reads, as in [`run_reading`].
pub fn run_open(
    file: BorrowedFd<'_>,
    name: &Path,
    args: &[impl AsRef<OsStr>],
    timeout: Duration,
    max_output: usize,
) -> Result<Output, ChildError> {
    // Of the child, which has a copy of the table of descriptors until it executes this (proc_pid_fd(5)).
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command.arg0(name).args(args);
    answer_of(finish(command, name, None, timeout, max_output, true))
}

fn finish(
    mut command: Command,
    program: &Path,
    stdin: Option<&[u8]>,
    timeout: Duration,
    max_output: usize,
    reads: bool,
) -> (Result<Output, ChildError>, Option<Child>) {
    let not_started = |error| (Err(ChildError::NotStarted { program: program.into(), error }), None);
    let deadline = Instant::now() + timeout;
    command
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .process_group(0)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Close-on-exec for everything above 2, whoever opened it and forgot: nothing of the agent's is ever for a child. A kernel without it
    // (before 5.11) changes nothing. Done here and not in the child, so that it is started as by vfork(2): a fork would copy the page
    // tables of a ruleset first.
    // SAFETY: the call takes three numbers and no memory, and sets a flag of descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    let mut child = match if reads { spawn_reading(&mut command) } else { command.spawn() } {
        Ok(child) => child,
        Err(error) => return not_started(error),
    };
    let talk = talk(&mut child, stdin.unwrap_or_default(), deadline, max_output);
    let left = if matches!(talk, Ok(Talk::Ended(..))) { None } else { kill(child) };
    let answer = match talk {
        Ok(Talk::Ended(status, stdout, stderr)) => Ok(Output { code: status.code(), signal: status.signal(), stdout, stderr }),
        Ok(Talk::TimedOut) => Err(ChildError::TimedOut { program: program.into(), after: timeout }),
        Ok(Talk::TooMuchOutput) => Err(ChildError::TooMuchOutput { program: program.into(), limit: max_output }),
        Err(error) => Err(ChildError::Lost { program: program.into(), error }),
    };
    (answer, left)
}

/// Started by a thread of its own, which confines itself first: nothing is to be done between fork(2) and execve(2) then.
fn spawn_reading(command: &mut Command) -> io::Result<Child> {
    let start = || confine::only_read_files().and_then(|()| command.spawn());
    thread::scope(|scope| {
        let started = thread::Builder::new().name("start".to_owned()).spawn_scoped(scope, start)?;
        started.join().unwrap_or_else(|_| Err(io::Error::other("starting it failed inside sshfix")))
    })
}

enum Talk {
    Ended(ExitStatus, Vec<u8>, Vec<u8>),
    TimedOut,
    TooMuchOutput,
}

/// Feeds and reads the child until it has ended and its output is read. A grandchild that keeps the pipes open is not waited for.
fn talk(child: &mut Child, mut input: &[u8], deadline: Instant, max_output: usize) -> io::Result<Talk> {
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    for pipe in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)] {
        pipe.map_or(Ok(()), nonblocking)?;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        // Asked before reading: all that it wrote before it ended is in the pipes by then.
        let ended = child.try_wait()?;
        feed(&mut stdin, &mut input)?;
        for (pipe, into) in [(stdout.as_mut().map(reader), &mut out), (stderr.as_mut().map(reader), &mut err)] {
            if let Some(pipe) = pipe {
                drain(pipe, into, max_output)?;
            }
        }
        if out.len() + err.len() > max_output {
            return Ok(Talk::TooMuchOutput);
        }
        if let Some(status) = ended {
            return Ok(Talk::Ended(status, out, err));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || patience::is_over() {
            return Ok(Talk::TimedOut);
        }
        if let Some(pipe) = &stdout
            && at_end(pipe.as_fd())
        {
            stdout = None;
        }
        if let Some(pipe) = &stderr
            && at_end(pipe.as_fd())
        {
            stderr = None;
        }
        let mut pipes = Vec::new();
        pipes.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        pipes.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        pipes.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        let tick = if pipes.is_empty() { ENDING } else { TICK };
        match poll(&mut pipes, PollTimeout::try_from(left.min(tick)).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn reader<R: Read>(pipe: &mut R) -> &mut dyn Read {
    pipe
}

fn nonblocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Whether every writer is gone and nothing is left to read; polling such a pipe would spin.
fn at_end(pipe: BorrowedFd<'_>) -> bool {
    let mut pipes = [PollFd::new(pipe, PollFlags::POLLIN)];
    let polled = poll(&mut pipes, PollTimeout::ZERO).is_ok();
    let events = pipes.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
    polled && events.contains(PollFlags::POLLHUP) && !events.contains(PollFlags::POLLIN)
}

/// Writes as much as the child takes, then closes. A child that does not want its input is no error.
fn feed(stdin: &mut Option<ChildStdin>, input: &mut &[u8]) -> io::Result<()> {
    while let Some(pipe) = stdin {
        if input.is_empty() {
            *stdin = None;
            return Ok(());
        }
        match pipe.write(input) {
            Ok(written) => *input = input.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => *stdin = None,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what there is, up to a little over `max`.
fn drain(pipe: &mut dyn Read, into: &mut Vec<u8>, max: usize) -> io::Result<()> {
    let mut buffer = [0u8; 16384];
    while into.len() <= max {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => into.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Kills the whole process group. The child has not been waited for, so its id cannot have gone to another process. Gives it back where it
/// does not end.
fn kill(mut child: Child) -> Option<Child> {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill();
    let until = Instant::now() + ENDS;
    loop {
        match child.try_wait() {
            Ok(Some(_)) | Err(_) => return None,
            Ok(None) if Instant::now() > until => return Some(child),
            Ok(None) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    fn sh(script: &str, stdin: Option<&[u8]>, timeout: Duration, max: usize) -> Result<Output, ChildError> {
        run(Path::new("/bin/sh"), &["-c", script], stdin, timeout, max)
    }

    /// Longer than a loaded machine takes for anything here.
    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn the_child_gets_its_input_an_empty_environment_and_the_root_folder() {
        let output = sh("pwd; /usr/bin/env; /bin/cat; echo bad >&2; exit 3", Some(b"hello\n"), LONG, 1000).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "/\nLC_ALL=C\nPWD=/\nhello\n");
        assert_eq!((output.code, output.stderr.as_slice()), (Some(3), b"bad\n".as_slice()));
    }

    #[test]
    fn a_child_that_hangs_is_killed_at_the_deadline_with_its_own_children() {
        let begun = Instant::now();
        let error = sh("sleep 321.5 & sleep 321.5; true", None, Duration::from_millis(200), 1000).unwrap_err();
        assert!(matches!(error, ChildError::TimedOut { .. }), "{error}");
        // Killed is not yet gone.
        while run(Path::new("/usr/bin/pgrep"), &["-f", "^sleep 321[.]5$"], None, LONG, 1000).unwrap().code != Some(1) {
            assert!(begun.elapsed() < LONG, "a child of the child lives on");
            thread::sleep(Duration::from_millis(20));
        }
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_background_process_that_keeps_the_pipes_open_is_not_waited_for() {
        let begun = Instant::now();
        let output = sh("echo done; sleep 100 & exit 0", None, LONG, 1000).unwrap();
        assert_eq!(output.stdout, b"done\n");
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn endless_output_is_bounded() {
        assert!(matches!(sh("while :; do echo aaaaaaaaaaaaaaa; done", None, LONG, 5000), Err(ChildError::TooMuchOutput { .. })));
    }

    #[test]
    fn large_input_and_output_do_not_block_each_other() {
        let input = vec![b'x'; 3_000_000];
        let output = run(Path::new("/bin/cat"), &[] as &[&str], Some(&input), LONG, 4_000_000).unwrap();
        assert_eq!(output.stdout.len(), input.len());
        assert!(sh("exit 0", Some(&input), LONG, 10).unwrap().success());
    }

    #[test]
    fn open_descriptors_do_not_leak_into_the_child() {
        // Without close-on-exec, on purpose.
        let folder = nix::fcntl::open("/", OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap();
        let output = run(Path::new("/bin/ls"), &["/proc/self/fd"], None, LONG, 1000).unwrap();
        let fds = String::from_utf8(output.stdout).unwrap();
        assert_eq!(fds.split_whitespace().filter(|fd| fd.parse::<i32>().unwrap() > 2).count(), 1, "only ls's own: {fds}");
        drop(folder);
    }

    #[test]
    fn an_open_program_is_the_one_that_runs_whatever_its_path_names_by_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::copy("/bin/cat", &path).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let file = nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "#!/bin/sh\necho another one\n").unwrap();
        let output = run_open(file.as_fd(), &path, &["/proc/self/cmdline"], LONG, 1000).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\0/proc/self/cmdline\0", path.display()));
        let fds = run_open(file.as_fd(), &path, &["/proc/self/fd/3"], LONG, 1000).unwrap();
        assert!(!fds.success(), "its own descriptor is closed");
    }

    #[test]
    fn a_program_that_only_reads_cannot_write_also_where_root_can_and_this_process_still_can() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "old").unwrap();
        let at = folder.path().display();
        let script = format!(
            "cat {at}/file >/dev/null || exit 9; echo new >{at}/file; echo new >{at}/other; rm {at}/file; mkdir {at}/d; \
             ln {at}/file {at}/l; cat {at}/file"
        );
        let output = run_reading(Path::new("/bin/sh"), &["-c", &script], None, LONG, 10_000).unwrap();
        if !landlocked() {
            return;
        }
        assert_eq!((output.code, output.stdout.as_slice()), (Some(0), b"old".as_slice()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(sh(&format!("echo new >{at}/other"), None, LONG, 1000).unwrap().success(), "this process is not confined");
    }

    /// landlock(7): the version of its interface, or an error.
    fn landlocked() -> bool {
        // SAFETY: with this flag the call takes no memory.
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) > 0 }
    }

    #[test]
    fn programs_without_an_absolute_path_or_that_do_not_exist_are_clear_errors() {
        for program in ["true", "./true", "/nonexistent/true"] {
            let error = run(Path::new(program), &[] as &[&str], None, LONG, 10).unwrap_err();
            assert!(matches!(error, ChildError::NotStarted { .. }), "{error}");
        }
        assert_eq!(sh("kill -9 $$", None, LONG, 10).unwrap().signal, Some(9));
    }
}
