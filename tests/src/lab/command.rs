//! Runs a command with a deadline and hands back what it said. Knows nothing of servers.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest run of one command; it is killed then and `status` is 124, as `timeout(1)` says it.
const SECONDS: &str = "180";

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit status; 128 + N for a signal, 124 when it ran out of time.
    pub status: i32,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Output {
    /// Whether it exited with 0.
    pub fn ok(&self) -> bool {
        self.status == 0
    }

    /// Standard output without trailing white space.
    ///
    /// # Panics
    /// When the command failed; the message shows everything it said.
    #[track_caller]
    pub fn expect_ok(self) -> String {
        assert!(
            self.ok(),
            "`{}` exited with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout.trim_end().to_owned()
    }
}

/// Runs a command on this machine, with a clean environment.
#[track_caller]
pub fn run(command: &[&str]) -> Output {
    run_with_input(command, b"")
}

/// The same with bytes on its standard input.
#[track_caller]
pub fn run_with_input(command: &[&str], input: &[u8]) -> Output {
    let started = Instant::now();
    let mut child = Command::new("timeout")
        .args(["--kill-after=5", SECONDS])
        .args(command)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run timeout(1) for {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a piped stdin");
    let input = input.to_owned();
    // A thread, so that a command that writes before it has read everything does not stall both sides.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("a child of ours can be waited for");
    // A command that does not read its input is no fault of the test.
    let _ = writer.join();
    Output {
        command: command.join(" "),
        status: status(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        elapsed: started.elapsed(),
    }
}

/// What a program that is given this text prints. It runs in the caller's namespaces, and must succeed.
#[track_caller]
pub fn feed(program: &str, arguments: &[&str], input: &str) -> String {
    let output = run_with_input(&[&[program], arguments].concat(), input.as_bytes());
    assert!(output.ok(), "{program} {arguments:?}: {:.2000}\n{input:.4000}", output.stderr);
    output.stdout
}

fn status(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The directory of the workspace.
pub(super) fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}
