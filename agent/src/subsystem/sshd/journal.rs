//! The last quarter of an hour of the journal, as far as it is about sshd, and how live sessions logged in. No penalty of a default
//! configuration lasts longer than ten minutes. Reads only; what the lines mean is in `policy`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use sshfix_policy::subsystem::sshd::facts::journal::{self as model, Answers, Entrance, Journal};

use crate::sys::child;

const JOURNALCTL: &str = "/usr/bin/journalctl";
const LIMIT: Duration = Duration::from_secs(5);
const OUTPUT_MAX: usize = 24 << 20;
/// Seconds that are looked back.
const WINDOW: i64 = 900;
/// Lines of sshd that are read: some 20 a second. What does not fit is not known.
const MOST: usize = 20_000;
/// Lines that are only hints.
const MOST_HINTS: &str = "1000";

/// What was said lately, and from when on nothing is missing.
pub(super) fn read() -> Journal {
    let now = Timestamp::now();
    let since = Timestamp::from_second(now.as_second().saturating_sub(WINDOW)).unwrap_or(Timestamp::MIN);
    let from = format!("--since=@{}", since.as_second());
    let before = format!("--until=@{}", since.as_second());
    let most = MOST.to_string();
    let by_root = [&model::BY_ROOT[..], &model::BY_JOURNALD[..]].concat();
    let (by_root, older, hints) = thread::scope(|scope| {
        let older = scope.spawn(|| run(&[&before, "-n", "1"], &["_UID=0"]));
        let kernel = scope.spawn(|| run(&[&from, "--grep=sshd", "-n", MOST_HINTS], &model::BY_KERNEL));
        let users = scope.spawn(|| run(&[&from, "-n", MOST_HINTS], &model::BY_USERS));
        let by_root = run(&[&from, "-n", &most], &by_root);
        let hint = |said: thread::Result<Result<String, String>>| said.ok().and_then(Result::ok).unwrap_or_default();
        (by_root, older.join(), hint(kernel.join()) + &hint(users.join()))
    });
    let older = older.unwrap_or_else(|_| Err("reading it failed inside sshfix".to_owned()));
    model::journal(&Answers {
        since,
        most: MOST,
        by_root: by_root.as_deref().map_err(String::as_str),
        older: older.as_deref().map_err(String::as_str),
        hints: &hints,
    })
}

/// How these sessions logged in, by the processes that serve them and the ones that watch over those, which say it (sshd.c, `[priv]`).
/// What the journal does not tell, or no more, is left out.
pub(super) fn entrances(sessions: &[u32]) -> BTreeMap<SocketAddr, Entrance> {
    let monitors = sessions.iter().filter_map(|pid| monitor(*pid));
    let pids = sessions.iter().copied().chain(monitors).collect::<BTreeSet<u32>>();
    let of_root = (!pids.is_empty()).then(|| "_UID=0".to_owned());
    let matches: Vec<String> = of_root.into_iter().chain(pids.iter().map(|pid| format!("_PID={pid}"))).collect();
    let said = if matches.is_empty() { Ok(String::new()) } else { run(&["-n", "5000"], &matches) };
    match said {
        Ok(said) => model::entrances(&said),
        Err(error) => {
            tracing::warn!("by which method live sessions logged in is not known: {error}");
            BTreeMap::new()
        }
    }
}

/// The parent, where that is the monitor of one session and not the listener.
fn monitor(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the state, then the parent, after the name in brackets.
    let parent: u32 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let title = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    String::from_utf8_lossy(&title).trim_end_matches(['\0', ' ']).ends_with("[priv]").then_some(parent)
}

fn run(bounds: &[&str], matches: &[impl AsRef<str>]) -> Result<String, String> {
    let fields = format!("--output-fields={}", model::FIELDS);
    let options = ["-q", "--no-pager", "-a", "-o", "json", fields.as_str()];
    let words: Vec<&str> = options.into_iter().chain(bounds.iter().copied()).chain(matches.iter().map(AsRef::as_ref)).collect();
    let output = child::run_reading(Path::new(JOURNALCTL), &words, None, LIMIT, OUTPUT_MAX);
    let output = output.map_err(|error| error.to_string())?;
    if !output.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
