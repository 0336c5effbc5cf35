//! `sshfix-agent drill`: proves on a copy of this host that a change undoes itself. In network and mount namespaces of its own it makes a
//! harmless pending change, kills the worker before and after every write of the journal, lets recovery run, and compares to the byte.
//! Must never touch the host: nothing is applied before both namespaces are known to differ from those of PID 1.

mod copy;
mod worker;

use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use thiserror::Error;

use crate::change;
use crate::config::{Config, ConfigError};
use crate::host::live::LiveHost;
use crate::store::{Drill, Store, StoreError};
use crate::sys::clock::Moment;
use crate::sys::{namespace, view};

pub use worker::work;

/// Milliseconds that the worker may take from one write of its journal to the next.
const PATIENCE_MS: u16 = 30_000;
/// More points than any drill has: the worker writes its journal about fifteen times.
const MOST_POINTS: usize = 500;
/// A change that waits is over so much later; the worker gives it an hour.
const LATER: Duration = Duration::from_hours(2);

/// Why there was no drill. The host is unchanged.
#[derive(Debug, Error)]
pub enum DrillError {
    /// agent.toml.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A state.db: the drill's own, or the agent's that keeps the result.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The namespaces, the copies or the worker.
    #[error("the drill could not {doing}: {why}; the host was not touched")]
    Setup {
        /// What was tried.
        doing: &'static str,
        /// Why it did not work.
        why: String,
    },
}

fn setup(doing: &'static str) -> impl Fn(&dyn std::fmt::Display) -> DrillError {
    move |why| DrillError::Setup { doing, why: why.to_string() }
}

/// Reads the host's rules into a file, for a drill that systemd starts in namespaces of its own.
pub fn copy(to: &Path) -> Result<(), DrillError> {
    copy::read().keep(to).map_err(|why| setup("keep the rules")(&why))
}

/// Drills once and keeps the result in state.db, where `status` shows it. Each line for people goes to `say`. With `copied` the rules are
/// those of this file, and this process is in private namespaces already.
pub fn drill(agent_toml: &Path, copied: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<Drill, DrillError> {
    let config = Config::load(agent_toml)?;
    let (rules, place) = match copied {
        Some(file) => {
            let rules = copy::Rules::kept(file).map_err(|why| setup("read the copied rules")(&why))?;
            (rules, Place::beside(&config, file)?)
        }
        None => (copy::read(), Place::enter(&config)?),
    };
    let missing = rules.load();
    for part in &missing {
        say(&format!("not copied: {part}"));
    }
    let before = copy::snapshot(&place.dir);
    say(&format!("a copy of the rules and files: {} bytes in all", before.len()));

    let mut failures = Vec::new();
    let mut points = 0;
    for point in 1..=MOST_POINTS {
        let killed = place.kill_at(agent_toml, point)?;
        if let Err(why) = place.recovered(&before) {
            failures.push(if killed { format!("killed at point {point}: {why}") } else { format!("not killed: {why}") });
            // What is not as before would fail every later comparison too.
            break;
        }
        if !killed {
            break;
        }
        points = point;
    }
    let mut detail = failures;
    if points == 0 && detail.is_empty() {
        detail.push("the worker never wrote its journal".to_owned());
    }
    let passed = detail.is_empty();
    detail.extend(missing.into_iter().map(|part| format!("not copied: {part}")));
    let result = Drill { at: Timestamp::now(), passed, points, detail: detail.join("; ") };
    Store::beside(&config.state)?.keep_drill(&result)?;
    Ok(result)
}

/// The private namespaces with the copies in them. They end with this process.
struct Place {
    dir: PathBuf,
    config: Arc<Config>,
    /// Whether a file system of ours is mounted there.
    mounted: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(&self.dir);
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Place {
    /// Moves this process, which has no other threads, into namespaces of its own and copies the files there.
    fn enter(config: &Config) -> Result<Place, DrillError> {
        let failed = setup("make namespaces of its own");
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(|e| failed(&e))?;
        ensure_private()?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).map_err(|e| failed(&e))?;
        let dir = PathBuf::from(format!("/run/sshfix-drill.{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| failed(&e))?;
        let place = Place { config: Arc::new(inside(config, &dir)), dir, mounted: true };
        mount(Some("sshfix-drill"), &place.dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
            .map_err(|e| failed(&e))?;
        place.fill(config)
    }

    /// A folder beside the copied rules, in the namespaces that systemd made for this process.
    fn beside(config: &Config, copied: &Path) -> Result<Place, DrillError> {
        let failed = setup("make a folder of its own");
        ensure_private()?;
        let parent = copied.parent().ok_or_else(|| failed(&"the copied rules lie nowhere"))?;
        let dir = parent.join(format!("place.{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&dir).map_err(|e| failed(&e))?;
        Place { config: Arc::new(inside(config, &dir)), dir, mounted: false }.fill(config)
    }

    /// With copies of both files.
    fn fill(self, config: &Config) -> Result<Place, DrillError> {
        let place = self;
        for (from, to) in [(&config.paths.hosts_allow, "hosts.allow"), (&config.paths.hosts_deny, "hosts.deny")] {
            match fs::copy(from, place.dir.join(to)) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(setup("copy the hosts files")(&error)),
            }
        }
        Ok(place)
    }

    /// Runs the worker and kills it at this point; false when it is over before.
    fn kill_at(&self, agent_toml: &Path, point: usize) -> Result<bool, DrillError> {
        let failed = setup("run its worker");
        let mut worker = Command::new("/proc/self/exe")
            .args(["drill-worker", "--config"])
            .arg(agent_toml)
            .arg("--directory")
            .arg(&self.dir)
            .arg("--number")
            .arg(point.to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(&e))?;
        let met = meet(&mut worker, point);
        let killed = matches!(met, Ok(true));
        if !matches!(met, Ok(false)) {
            // SIGKILL, as the kernel's OOM killer does it.
            let _ = worker.kill();
        }
        let status = worker.wait().map_err(|e| failed(&e))?;
        met.map_err(|e| failed(&e))?;
        if !killed && !status.success() {
            return Err(failed(&format!("it exited with {status}")));
        }
        Ok(killed)
    }

    /// Recovers as a starting agent does, past the deadline of what waits, and compares.
    fn recovered(&self, before: &str) -> Result<(), String> {
        let store = Store::open(&self.config.state).map_err(|e| e.to_string())?;
        let mut host = LiveHost::new(Arc::clone(&self.config));
        let now = Moment::now();
        let late = Moment { since_boot: now.since_boot.saturating_add(LATER), ..now };
        let recovered = change::recover(&mut host, &store, &late).map_err(|e| e.to_string())?;
        let stuck: Vec<String> = recovered.iter().flat_map(|one| one.taken.stuck.clone()).collect();
        if !stuck.is_empty() {
            return Err(format!("recovery is stuck: {}", stuck.join("; ")));
        }
        if let Some(change) = store.unfinished_changes().map_err(|e| e.to_string())?.first() {
            return Err(format!("recovery left change {} {}", change.id, change.stage));
        }
        let after = copy::snapshot(&self.dir);
        if after == before { Ok(()) } else { Err(format!("not as before: {}", copy::difference(before, &after))) }
    }
}

/// Lets the worker go from point to point, and stops at this one; false when it ended before.
fn meet(worker: &mut Child, point: usize) -> std::io::Result<bool> {
    let (Some(mut say), Some(mut hear)) = (worker.stdin.take(), worker.stdout.take()) else { return Ok(false) };
    for met in 1.. {
        if poll(&mut [PollFd::new(hear.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MS))? == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not answer"));
        }
        if hear.read(&mut [0])? == 0 {
            return Ok(false);
        }
        if met == point {
            return Ok(true);
        }
        say.write_all(&[0])?;
    }
    Ok(false)
}

/// The agent's configuration with every path that is written to, or that leads to another program, moved into the copy.
fn inside(config: &Config, dir: &Path) -> Config {
    let mut config = config.clone();
    config.state = dir.join("state/state.db");
    config.paths.hosts_allow = dir.join("hosts.allow");
    config.paths.hosts_deny = dir.join("hosts.deny");
    config.paths.fail2ban_socket = dir.join("no-fail2ban-here");
    config
}

/// The network and mount namespaces are not those of PID 1, which are the host's: what is judged from here on is what is seen here.
fn ensure_private() -> Result<(), DrillError> {
    let failed = setup("make sure that it is not in the host's own namespaces");
    for kind in ["net", "mnt"] {
        if namespace::is_the_hosts(kind).map_err(|e| failed(&e))? {
            return Err(failed(&format!("this is the {kind} namespace of PID 1")));
        }
    }
    view::judge_own();
    Ok(())
}
