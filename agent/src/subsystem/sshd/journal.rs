//! The last quarter of an hour of the journal, as far as it is about sshd, and how live sessions logged in. No penalty of a default
//! configuration lasts longer than ten minutes. Reads only; what the lines mean is in `policy`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sshfix_policy::subsystem::sshd::journal::{self as model, Entrance, Told};

use crate::sys::child;

const JOURNALCTL: &str = "/usr/bin/journalctl";
const LIMIT: Duration = Duration::from_secs(5);
const OUTPUT_MAX: usize = 8 << 20;
/// journalctl(1): `_UID=0` and `_TRANSPORT` are journald's own words, the others the writer's.
const OF_SSHD: [&str; 3] = ["SYSLOG_IDENTIFIER=sshd", "SYSLOG_IDENTIFIER=sshd-session", "SYSLOG_IDENTIFIER=sshd-auth"];
const OF_OTHERS: [&str; 10] = [
    "_UID=0",
    "_PID=1",
    "UNIT=ssh.service",
    "UNIT=sshd.service",
    "+",
    "_UID=0",
    "SYSLOG_IDENTIFIER=systemd-coredump",
    "+",
    "_TRANSPORT=kernel",
    "SYSLOG_IDENTIFIER=kernel",
];

/// What was said, oldest first; the text says why it is not known.
pub(super) fn read() -> Result<Vec<Told>, String> {
    let (of_sshd, of_others) = thread::scope(|scope| {
        let others = scope.spawn(|| ask(&OF_OTHERS, "2000"));
        let sshd = ask(&OF_SSHD, "5000");
        (sshd, others.join())
    });
    let mut told = model::read(&of_sshd?);
    // A kernel log that cannot be read tells of no crash, and hides nothing else.
    if let Ok(Ok(others)) = of_others {
        told.extend(model::read(&others));
    }
    told.sort_by_key(|told| told.at);
    Ok(told)
}

/// How these sessions logged in, by the processes that serve them and the ones that watch over those, which say it (sshd.c, `[priv]`).
/// What the journal does not tell, or no more, is left out.
pub(super) fn entrances(sessions: &[u32]) -> BTreeMap<SocketAddr, Entrance> {
    let monitors = sessions.iter().filter_map(|pid| monitor(*pid));
    let pids = sessions.iter().copied().chain(monitors).collect::<BTreeSet<u32>>();
    let matches: Vec<String> = pids.iter().map(|pid| format!("_PID={pid}")).collect();
    let said = if matches.is_empty() { Ok(String::new()) } else { run(&["-n", "5000"], &matches) };
    match said {
        Ok(said) => model::entrances(&said),
        Err(error) => {
            tracing::warn!("by which method live sessions logged in is not known: {error}");
            BTreeMap::new()
        }
    }
}

/// From where somebody logged in within the week before this moment. The text says why it is not known.
pub fn logged_in_before(moment: Timestamp) -> Result<BTreeSet<IpAddr>, String> {
    let from = moment.checked_sub(SignedDuration::from_hours(7 * 24)).unwrap_or(Timestamp::MIN);
    let bounds =
        [format!("--since=@{}", from.as_second()), format!("--until=@{}", moment.as_second()), "--grep=^Accepted ".to_owned()];
    let bounds: Vec<&str> = bounds.iter().map(String::as_str).chain(["-n", "5000"]).collect();
    Ok(model::entrances(&run(&bounds, &OF_SSHD)?).into_keys().map(|peer| peer.ip()).collect())
}

/// The parent, where that is the monitor of one session and not the listener.
fn monitor(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the state, then the parent, after the name in brackets.
    let parent: u32 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let title = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    String::from_utf8_lossy(&title).trim_end_matches(['\0', ' ']).ends_with("[priv]").then_some(parent)
}

fn ask(matches: &[&str], most: &str) -> Result<String, String> {
    run(&["--since=-15min", "-n", most], matches)
}

fn run(bounds: &[&str], matches: &[impl AsRef<str>]) -> Result<String, String> {
    let fields = format!("--output-fields={}", model::FIELDS);
    let options = ["-q", "--no-pager", "-a", "-o", "json", fields.as_str()];
    let words: Vec<&str> = options.into_iter().chain(bounds.iter().copied()).chain(matches.iter().map(AsRef::as_ref)).collect();
    let output = child::run(Path::new(JOURNALCTL), &words, None, LIMIT, OUTPUT_MAX);
    let output = output.map_err(|error| error.to_string())?;
    // With --grep it fails where it finds nothing, and says nothing.
    let searched = bounds.iter().any(|bound| bound.starts_with("--grep"));
    let found_nothing = searched && output.stdout.is_empty() && output.stderr.is_empty();
    if !output.success() && !found_nothing {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
