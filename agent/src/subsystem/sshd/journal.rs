//! The last quarter of an hour of the journal, as far as it is about sshd, and how live sessions logged in. No penalty of a default
//! configuration lasts longer than ten minutes. Reads only; what the lines mean is in `policy`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sshfix_policy::subsystem::sshd::facts::journal::{self as model, Answers, Entrance, Journal, Kept, Lines};

use crate::sys::child;

const JOURNALCTL: &str = "/usr/bin/journalctl";
const LIMIT: Duration = Duration::from_secs(5);
const OUTPUT_MAX: usize = 24 << 20;
/// Seconds that are looked back.
const WINDOW: i64 = 900;
/// Lines of sshd that are read: some 20 a second. What does not fit is not known.
const MOST: usize = 20_000;
/// Lines that are only hints, of each kind.
const MOST_HINTS: &str = "1000";
/// Of both kinds.
const MOST_HINTS_KEPT: usize = 2000;

/// Older than this, what was read is read anew: few are the lines that are added to it, and what nobody asks about is not kept.
const KEPT_FOR: Duration = Duration::from_mins(2);

/// Milliseconds by which two clocks may differ that nobody sets.
const CLOCK_SET: u128 = 500;

/// Lines among which one of root's is looked for, to go on from.
const NEWEST: &str = "100";

/// What one reading kept for the next, so that it reads only what was written since.
struct Memory {
    /// When it was read, by both clocks.
    read: (Instant, Timestamp),
    kept: Kept,
    /// From here on nothing is missing in it that the journal had.
    since: Timestamp,
    /// Where the journal ended.
    cursor: String,
    /// Whether it reached back to the first line that was kept.
    older: bool,
}

static MEMORY: Mutex<Option<Memory>> = Mutex::new(None);

impl Memory {
    fn journal(&self) -> Journal {
        let Kept { by_root, hints } = &self.kept;
        model::journal(&Answers { since: self.since, most: MOST, by_root: Ok(by_root), older: Ok(self.older), hints })
    }
}

/// What was said lately, and from when on nothing is missing. Every line that is in the journal when this is called is looked at, those of
/// the last reading by memory: they are the same as long as the line at which it ended is where it was.
pub(super) fn read() -> Journal {
    let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Timestamp::now();
    let since = Timestamp::from_second(now.as_second().saturating_sub(WINDOW)).unwrap_or(Timestamp::MIN);
    let recent = memory.take().filter(|memory| {
        let (begun, at) = memory.read;
        let by_wall = now.duration_since(at).as_millis();
        let by_kernel = i128::try_from(begun.elapsed().as_millis()).unwrap_or(i128::MAX);
        // Lines are old or new by the clock on the wall: where that was set, nothing is taken from before.
        begun.elapsed() < KEPT_FOR && by_kernel.abs_diff(by_wall) < CLOCK_SET
    });
    if let Some(grown) = recent.and_then(|memory| grown(memory, since)) {
        let journal = grown.journal();
        // Where lines are missing another reading may find them.
        *memory = journal.whole.is_ok().then_some(grown);
        return journal;
    }
    let (journal, read) = read_all(since);
    *memory = read.filter(|_| journal.whole.is_ok());
    journal
}

/// Adds what was written since; `None` where it cannot be told to be all.
fn grown(memory: Memory, since: Timestamp) -> Option<Memory> {
    let Memory { mut kept, cursor, mut older, since: begins, read: _ } = memory;
    let since = since.max(begins);
    let read = (Instant::now(), Timestamp::now());
    let from = format!("--cursor={cursor}");
    let new = run(&[&from], &model::since()).ok().map(|said| Lines::parse(&said))?;
    // Where that line is gone, journalctl goes on at whatever comes next. What a user writes may be as strange as he likes: the other
    // reading asks for root's lines alone.
    if new.begin() != Some(cursor.as_str()) || new.has_strange() || new.len() > MOST {
        return None;
    }
    let cursor = new.goes_on_at()?;
    kept.add(new);
    older |= kept.by_root.forget_before(since);
    kept.hints.forget_before(since);
    kept.by_root.keep_newest(MOST);
    kept.hints.keep_newest(MOST_HINTS_KEPT);
    Some(Memory { read, kept, since, cursor, older })
}

/// Reads the whole window.
fn read_all(since: Timestamp) -> (Journal, Option<Memory>) {
    let begun = (Instant::now(), Timestamp::now());
    let from = format!("--since=@{}", since.as_second());
    let before = format!("--until=@{}", since.as_second());
    let most = MOST.to_string();
    // First: what is written while the others are read is read again, and not left out.
    let end = run(&["-n", NEWEST], &model::since()).map(|said| Lines::parse(&said));
    let cursor = end.ok().and_then(|end| end.goes_on_at());
    let (by_root, older, hints) = thread::scope(|scope| {
        let older = scope.spawn(|| run(&[&before, "-n", "1"], &["_UID=0"]));
        let kernel = scope.spawn(|| run(&[&from, "--grep=sshd", "-n", MOST_HINTS], &model::BY_KERNEL));
        let users = scope.spawn(|| run(&[&from, "-n", MOST_HINTS], &model::BY_USERS));
        let by_root = run(&[&from, "-n", &most], &model::BY_ROOT);
        let hint = |said: thread::Result<Result<String, String>>| said.ok().and_then(Result::ok).unwrap_or_default();
        (by_root, older.join(), hint(kernel.join()) + &hint(users.join()))
    });
    let older = older.unwrap_or_else(|_| Err("reading it failed inside sshfix".to_owned()));
    let older = older.map(|said| !said.trim().is_empty());
    let by_root = by_root.map(|said| Lines::parse(&said));
    let hints = Lines::parse(&hints);
    let journal = model::journal(&Answers {
        since,
        most: MOST,
        by_root: by_root.as_ref().map_err(String::as_str),
        older: older.as_ref().map(|older| *older).map_err(String::as_str),
        hints: &hints,
    });
    let memory = match (by_root, older, cursor) {
        (Ok(by_root), Ok(older), Some(cursor)) => {
            Some(Memory { read: begun, kept: Kept { by_root, hints }, since, cursor, older })
        }
        _ => None,
    };
    (journal, memory)
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
        Ok(said) => model::entrances(&Lines::parse(&said)),
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
