//! Puts the workspace's own agent and client into a server of the lab, as packaging/quickstart would.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use super::command::{Output, workspace};
use super::server::Server;
use super::{Release, SERVER_V4, root_or_skip};

/// What `sshfix ctl` said.
#[derive(Clone, Debug)]
pub struct CtlResult {
    /// Its exit status (interface.md).
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub time: Duration,
}

impl From<Output> for CtlResult {
    fn from(Output { status, stdout, stderr, elapsed, .. }: Output) -> Self {
        Self { status, stdout, stderr, time: elapsed }
    }
}

impl CtlResult {
    /// The document on standard output.
    ///
    /// # Panics
    /// When it is not one JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:#?}"))
    }

    /// Itself, when it exited with this status.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use)]
    pub fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    /// It exited with this status, and its document is an error of this code whose message has all these words, with an advice.
    #[track_caller]
    pub fn expect_error(&self, status: i32, code: &str, words: &[&str]) {
        assert_eq!(self.status, status, "{self:#?}");
        let error = self.json();
        assert_eq!(error["schema"], "sshfix.error/1");
        assert_eq!(error["code"], code, "{error:#}");
        let message = error["message"].as_str().expect("a message");
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
        assert!(!error["advice"].as_str().expect("an advice").is_empty(), "{error:#}");
        if code == "lockout" {
            // What was refused is shown, as a dry run would show it.
            let plan = &error["plan"];
            assert_eq!(plan["schema"], "sshfix.plan/1", "{error:#}");
            let steps = plan["steps"].as_array().expect("its steps");
            assert!(!steps.is_empty() && steps.iter().all(|step| step["summary"].is_string()), "{error:#}");
            assert_eq!(plan["paths"], serde_json::json!([]), "{error:#}");
        }
    }
}

/// A server of each release with sshfix installed and its agent running, one after the other; nothing where the lab cannot run.
#[track_caller]
pub fn on_both(test: impl Fn(&mut Server)) {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        on_one(release, &test);
    }
}

/// The same on both at the same time, for a test binary that has only this one test.
#[track_caller]
pub fn on_both_at_once(test: impl Fn(&mut Server) + Sync) {
    if !root_or_skip() {
        return;
    }
    std::thread::scope(|scope| {
        let both = Release::ALL.map(|release| {
            scope.spawn({
                let test = &test;
                move || on_one(release, test)
            })
        });
        for one in both {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

fn on_one(release: Release, test: &impl Fn(&mut Server)) {
    let mut server = Server::boot(release);
    server.install_sshfix();
    test(&mut server);
}

impl Server {
    /// The processor time that the agent has used since it was started, in ticks of the clock (`proc_pid_stat(5)`: utime and stime).
    ///
    /// # Panics
    /// When it does not run.
    pub fn agent_ticks(&self) -> u64 {
        let pid = self.run(&["systemctl", "show", "-P", "MainPID", "sshfix-agent"]).expect_ok();
        let stat = self.read(&format!("/proc/{}/stat", pid.trim()));
        let fields: Vec<&str> = stat.rsplit_once(')').expect("the name ends").1.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        ticks(11) + ticks(12)
    }

    /// The TCP sockets in its network, of IPv4: the kernel counts them itself, however many they are (`/proc/net/sockstat`).
    ///
    /// # Panics
    /// When it does not say.
    pub fn tcp_sockets(&self) -> u32 {
        let counted = self.sh("grep '^TCP: inuse ' /proc/net/sockstat").expect_ok();
        counted.split(' ').nth(2).and_then(|count| count.parse().ok()).expect("a count")
    }

    /// Installs the agent and the client, makes the configuration and starts the unit. `ctl` works when this returns.
    #[track_caller]
    pub fn install_sshfix(&self) {
        self.copy_sshfix();
        self.run(&["systemd-sysusers"]).expect_ok();
        self.run(&["sshfix-agent", "init"]).expect_ok();
        let units = ["sshfix-write.socket", "sshfix-look.socket", "sshfix-agent.socket", "sshfix-agent.service"];
        // It has systemd read the units anew itself, once for all of them.
        self.run(&[&["systemctl", "enable", "sshfix-recover.service"], &units[..]].concat()).expect_ok();
        let started = self.run(&[&["systemctl", "start"], &units[..]].concat());
        if !started.ok() {
            let journal = self.run(&["journalctl", "--no-pager", "-n", "30", "-u", "sshfix-agent"]).stdout;
            panic!("sshfix-agent does not start: {}\n{journal}", started.stderr);
        }
    }

    /// Only the files: programs in /usr/local, units, users. Starts nothing.
    pub fn copy_sshfix(&self) {
        let binaries = binaries();
        for (program, to) in [("sshfix", "/usr/local/bin/sshfix"), ("sshfix-agent", "/usr/local/sbin/sshfix-agent")] {
            self.copy(&binaries.join(program), to, 0o755);
        }
        let packaging = workspace().join("packaging");
        for unit in packaged_units() {
            self.copy(&packaging.join("systemd").join(&unit), &format!("/etc/systemd/system/{unit}"), 0o644);
        }
        self.copy(&packaging.join("systemd/sshfix.sysusers"), "/usr/lib/sysusers.d/sshfix.conf", 0o644);
    }

    /// Only the programs, into one directory.
    pub fn copy_programs(&self, directory: &str) {
        for program in ["sshfix", "sshfix-agent"] {
            self.copy(&binaries().join(program), &format!("{directory}/{program}"), 0o755);
        }
    }

    /// `sshfix ctl ARGUMENTS` as root in the server.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> CtlResult {
        self.run(&[&["/usr/local/bin/sshfix", "ctl"], arguments].concat()).into()
    }

    /// The same of somebody who came in over ssh from this address.
    #[track_caller]
    pub fn ctl_from(&self, address: &str, arguments: &[&str]) -> CtlResult {
        let connection = format!("SSH_CONNECTION={address} 51234 {SERVER_V4} 22");
        self.run(&[&["env", &connection, "/usr/local/bin/sshfix", "ctl"], arguments].concat()).into()
    }

    /// A change that must be confirmed: made, confirmed over a new connection, and the document of the confirm.
    #[track_caller]
    pub fn ctl_confirmed(&self, arguments: &[&str]) -> serde_json::Value {
        let change = self.ctl(&[arguments, &["--json"]].concat()).expect_status(5).json();
        let id = change["id"].as_str().unwrap_or_default().to_owned();
        self.ctl(&["confirm", &id, "--json"]).expect_status(0).json()
    }

    /// Runs `ctl`, and a script in the server while the agent is paused before the step (0: before its last look at the host).
    #[track_caller]
    pub fn ctl_meanwhile(&self, step: usize, script: &str, arguments: &[&str]) -> CtlResult {
        self.write("/run/sshfix/pause-step", step.to_string());
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| self.ctl(arguments));
            self.wait_until("the agent is paused", Duration::from_mins(2), || self.path("/run/sshfix/paused").exists());
            self.sh(script).expect_ok();
            self.sh("rm /run/sshfix/paused").expect_ok();
            asked.join().unwrap()
        })
    }

    /// Copies a file of this machine into the server. By another process: a file that is open for writing here would be so in
    /// the children of other threads, too, and could not be executed meanwhile (execve(2), `ETXTBSY`).
    #[track_caller]
    pub fn copy(&self, from: &Path, to: &str, mode: u32) {
        let copied = Command::new("install").arg("-D").arg(format!("--mode={mode:o}")).arg(from).arg(self.path(to)).status();
        assert!(copied.as_ref().is_ok_and(ExitStatus::success), "{} to {to}: {copied:?}", from.display());
    }
}

/// The names of all packaged units.
pub fn packaged_units() -> Vec<String> {
    let folder = std::fs::read_dir(workspace().join("packaging/systemd")).expect("packaging/systemd");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let mut units: Vec<String> = names.filter(|name| !name.ends_with(".sysusers")).collect();
    units.sort();
    units
}

/// Where this workspace's programs are: `SSHFIX_LAB_BINARIES`, else built once per test process, so that they are never
/// older than the sources.
fn binaries() -> &'static Path {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        if let Some(directory) = std::env::var_os("SSHFIX_LAB_BINARIES") {
            return PathBuf::from(directory);
        }
        // target/PROFILE/deps/TEST
        let test = std::env::current_exe().expect("the test's own path");
        let directory = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned();
        let release: &[&str] = if directory.ends_with("release") { &["--release"] } else { &[] };
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--workspace", "--bins"])
            .args(release)
            .current_dir(workspace())
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the programs to put into the lab do not build");
        directory
    })
}
