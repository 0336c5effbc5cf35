//! iptables-legacy on the real host: reads the tables that exist (never makes one exist by looking), changes one rule through
//! iptables-legacy-restore under the xtables lock, and reads it back. Never goes through iptables-nft.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use sshfix_policy::host::{Done, Part, StepError};
use sshfix_policy::subsystem::ipset::SetNames;
use sshfix_policy::subsystem::xtables::extension::matches::Match;
use sshfix_policy::subsystem::xtables::extension::targets::Target;
use sshfix_policy::subsystem::xtables::step::{Step, Todo};
use sshfix_policy::subsystem::xtables::{Action, Chain, Place, Rule, State, Table, blob, program, save};
use thiserror::Error;

use crate::sys::child::{self, Output};
use crate::sys::files;
use crate::sys::xt_sockets::XtSocket;
use crate::write::{self, Order};

/// Tables the kernel has. One of another name is read too, but not changed.
const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
/// A table that changes while it is read is read again so many times.
const ATTEMPTS: usize = 8;
/// How long another program may hold the xtables lock, and how long a child may run.
const PATIENCE: Duration = Duration::from_secs(5);
/// What iptables-legacy-save may print: 64 MiB is some 500,000 rules.
const MOST_OUTPUT: usize = 64 << 20;
/// The lock of all iptables-legacy programs (`XT_LOCK_NAME`).
const LOCK: &str = "/run/xtables.lock";

/// Why the tables could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The kernel's list of tables.
    #[error("cannot read {path}: {error}")]
    Names {
        /// Which file.
        path: &'static str,
        /// The kernel's words.
        error: io::Error,
    },
    /// The kernel would not give a table.
    #[error("cannot read the {program} table {table} from the kernel: {error}")]
    Kernel {
        /// `iptables-legacy` or `ip6tables-legacy`.
        program: &'static str,
        /// Which table.
        table: String,
        /// The kernel's words.
        error: io::Error,
    },
    /// Its bytes were not understood.
    #[error(transparent)]
    Malformed(#[from] blob::Malformed),
    /// Somebody rewrites it all the time.
    #[error("the {program} table {table} changed {ATTEMPTS} times while it was read")]
    Restless {
        /// `iptables-legacy` or `ip6tables-legacy`.
        program: &'static str,
        /// Which table.
        table: String,
    },
}

/// The text of rules that was read before, so that iptables-legacy-save runs only where something changed. Of one network namespace.
#[derive(Default)]
pub struct Texts(BTreeMap<(bool, String), Known>);

/// A table with its text, the bytes it was read from, and the names of ipsets at that time, which are not in them.
struct Known {
    bytes: Vec<u8>,
    names: SetNames,
    table: Table,
}

/// Reads every legacy table that exists. The names come from /proc: asking the kernel for any other table would create it.
pub fn observe() -> Part<State> {
    Texts::default().observe()
}

impl Texts {
    /// The same, with the text that is known.
    pub fn observe(&mut self) -> Part<State> {
        observe_with(self)
    }
}

fn observe_with(texts: &mut Texts) -> Part<State> {
    let mut state = State::default();
    for v6 in [false, true] {
        let names = match names(v6) {
            Ok(names) => names,
            Err(error) => return Part::Unreadable(error.to_string()),
        };
        for name in names {
            match read_table(v6, &name, &mut state.set_names, texts) {
                Ok(Some(table)) if v6 => state.v6.push(table),
                Ok(Some(table)) => state.v4.push(table),
                Ok(None) => {}
                Err(error) => return Part::Unreadable(error.to_string()),
            }
        }
    }
    if state.v4.is_empty() && state.v6.is_empty() {
        return Part::Absent("the kernel has no iptables-legacy table".to_owned());
    }
    Part::Present(state)
}

/// Does one step under the xtables lock, so that no iptables-legacy program can change the table between look and write.
pub fn apply(step: &Step) -> Result<Done, StepError> {
    let Place { v6, table, chain, .. } = &step.place;
    let unchanged = |error: String| StepError::Failed(format!("{error}; nothing was changed"));
    if !TABLES.contains(&table.as_str()) || !plain(chain) {
        return Err(unchanged(format!("{} is not a place that sshfix writes to", step.place)));
    }
    let tool = tool().ok_or_else(|| unchanged(missing_tool()))?;
    let _lock = lock()?;

    let mut sets = SetNames::new();
    let (held, before) = todo(step, &mut sets).map_err(|error| match error {
        Look::Drifted(what) => StepError::Drifted(what),
        Look::Failed(what) => unchanged(what),
    })?;
    let line = match (before, &step.after) {
        (Todo::Nothing, _) => return Ok(Done::Already),
        (Todo::Delete(position), _) => format!("-D {chain} {position}"),
        (Todo::Insert(position), Some(rule)) => {
            let text = rule.save.as_deref().filter(|text| !text.chars().any(char::is_control));
            let text = text.ok_or_else(|| unchanged("the rule's exact text is not known".to_owned()))?;
            format!("[{}:{}] -I {chain} {position} {text}", rule.counters.0, rule.counters.1)
        }
        (Todo::Insert(_), None) => return Err(unchanged("the step holds no rule".to_owned())),
    };
    let input = format!("*{table}\n{}{line}\nCOMMIT\n", policies(&held));
    let restore = if *v6 { "ip6tables-restore" } else { "iptables-restore" };
    // We hold the lock already; the child is given one of its own that nobody else can open: its /proc/self/environ.
    let args = ["XTABLES_LOCKFILE=/proc/self/environ", tool.as_str(), restore, "--noflush", "--counters", "-w", "5"];
    let output = child::run_reading(Path::new("/usr/bin/env"), &args, Some(input.as_bytes()), PATIENCE, 1 << 20);

    // Whatever the child said, the kernel knows.
    match (todo(step, &mut sets), output) {
        (Ok((_, Todo::Nothing)), Ok(output)) if output.success() => Ok(Done::Changed),
        // Committed, then lost: the change stands.
        (Ok((_, Todo::Nothing)), _) => Ok(Done::Changed),
        (Ok(_), Ok(output)) => Err(unchanged(format!("{restore} refused `{line}`: {}", complaint(&output)))),
        (Ok(_), Err(child::ChildError::TimedOut { .. })) => {
            Err(StepError::TimedOut(format!("{restore} did not end within {} s; nothing was changed", PATIENCE.as_secs())))
        }
        (Ok(_), Err(error)) => Err(unchanged(error.to_string())),
        (Err(Look::Drifted(what) | Look::Failed(what)), _) => {
            Err(StepError::Failed(format!("{restore} ran `{line}`, but its effect cannot be seen: {what}")))
        }
    }
}

enum Look {
    Drifted(String),
    Failed(String),
}

/// What is left of a step on the table as it is now.
fn todo(step: &Step, sets: &mut SetNames) -> Result<(Table, Todo), Look> {
    let Place { v6, table, chain, .. } = &step.place;
    if !names(*v6).map_err(|error| Look::Failed(error.to_string()))?.contains(table) {
        return Err(Look::Drifted(format!("{}: the table is gone", step.place)));
    }
    let table = read_table(*v6, table, sets, &mut Texts::default()).map_err(|error| Look::Failed(error.to_string()))?;
    let table = table.ok_or_else(|| Look::Drifted(format!("{}: the table is gone", step.place)))?;
    if let Some(why) = &table.readonly {
        return Err(Look::Failed(why.clone()));
    }
    let chain = table.chain(chain).ok_or_else(|| Look::Drifted(format!("{}: the chain is gone", step.place)))?;
    let todo = step.todo(chain).map_err(|mismatch| Look::Drifted(mismatch.0))?;
    Ok((table, todo))
}

/// The policies as they are, with their counters: iptables sets those to zero whenever it writes a table without being told.
fn policies(table: &Table) -> String {
    let line = |chain: &Arc<Chain>| {
        let policy = if chain.policy_accept { "ACCEPT" } else { "DROP" };
        format!(":{} {policy} [{}:{}]\n", chain.name, chain.counters.0, chain.counters.1)
    };
    table.chains.iter().filter(|chain| chain.hook.is_some()).map(line).collect()
}

/// The tables that exist in this thread's network namespace. No file means that the kernel has no such tables at all.
fn names(v6: bool) -> Result<BTreeSet<String>, ReadError> {
    let path = if v6 { "/proc/thread-self/net/ip6_tables_names" } else { "/proc/thread-self/net/ip_tables_names" };
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(1 << 16).read_to_string(&mut text)) {
        Ok(_) => Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(ReadError::Names { path, error }),
    }
}

/// Reads one table that exists, its rules' text included. `None` when it is gone by now.
fn read_table(v6: bool, name: &str, sets: &mut SetNames, texts: &mut Texts) -> Result<Option<Table>, ReadError> {
    let kernel = |error| ReadError::Kernel { program: program(v6), table: name.to_owned(), error };
    let socket = XtSocket::open(v6).map_err(kernel)?;
    for _ in 0..ATTEMPTS {
        let Some((mut table, bytes)) = read_blob(&socket, v6, name)? else { return Ok(None) };
        name_sets(&table, sets).map_err(kernel)?;
        let place = (v6, name.to_owned());
        if let Some(known) = texts.0.get(&place)
            && known.bytes == bytes
            && known.names == *sets
        {
            save::take(&mut table, &known.table);
            return Ok(Some(table));
        }
        if !TABLES.contains(&name) {
            table.readonly = Some(format!("sshfix does not change the {} table {name}", program(v6)));
            return Ok(Some(table));
        }
        let mut with_text = table.clone();
        match save_text(v6, name).and_then(|text| save::pair(&mut with_text, &text).map_err(|error| error.to_string())) {
            Ok(()) => {}
            // Perhaps it only changed between the two reads; else it stays without text, and is not changed.
            Err(why) => {
                let Some((_, again)) = read_blob(&socket, v6, name)? else { return Ok(None) };
                if bytes == again {
                    table.readonly = Some(format!("sshfix does not change the {} table {name}: {why}", program(v6)));
                    return Ok(Some(table));
                }
                continue;
            }
        }
        // The text belongs to these rules only if they are still the same after it was printed.
        let Some((_, again)) = read_blob(&socket, v6, name)? else { return Ok(None) };
        if bytes == again {
            texts.0.insert(place, Known { bytes, names: sets.clone(), table: with_text.clone() });
            return Ok(Some(with_text));
        }
    }
    Err(ReadError::Restless { program: program(v6), table: name.to_owned() })
}

/// Whether two observations show the same rules, counters aside.
pub fn same_rules(one: &State, two: &State) -> bool {
    let tables = |one: &[Table], two: &[Table]| {
        one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.name == two.name && same(one, two))
    };
    tables(&one.v4, &two.v4) && tables(&one.v6, &two.v6)
}

/// Whether two reads are the same table, counters aside.
fn same(one: &Table, two: &Table) -> bool {
    let chains = |one: &Chain, two: &Chain| {
        one.name == two.name
            && one.hook == two.hook
            && one.policy_accept == two.policy_accept
            && one.rules.len() == two.rules.len()
            && one.rules.iter().zip(&two.rules).all(|(one, two)| Rule::same(one, two))
    };
    one.chains.len() == two.chains.len() && one.chains.iter().zip(&two.chains).all(|(one, two)| chains(one, two))
}

/// A table, and its bytes without counters.
fn read_blob(socket: &XtSocket, v6: bool, name: &str) -> Result<Option<(Table, Vec<u8>)>, ReadError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let read = socket.info(name).map_err(Some).and_then(|bytes| {
            let info = blob::Info::parse(name, &bytes).map_err(|_| None)?;
            let entries = socket.entries(name, info.size).map_err(Some)?;
            Ok((info, entries))
        });
        match read {
            Ok((info, entries)) => {
                let table = blob::parse(v6, name, &info, &entries)?;
                return Ok(Some((table, blob::without_counters(v6, entries))));
            }
            // The table changed between the two questions.
            Err(Some(error)) if error.raw_os_error() == Some(libc::EAGAIN) => last = Some(error),
            Err(Some(error)) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => {
                let error = error.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its description is cut"));
                return Err(ReadError::Kernel { program: program(v6), table: name.to_owned(), error });
            }
        }
    }
    let error = last.unwrap_or_else(|| io::Error::from(io::ErrorKind::WouldBlock));
    Err(ReadError::Kernel { program: program(v6), table: name.to_owned(), error })
}

/// Learns the names of the ipsets that a table's rules use. One that is not there is shown by its number.
fn name_sets(table: &Table, sets: &mut SetNames) -> io::Result<()> {
    let mut used = BTreeSet::new();
    for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
        for one in &rule.matches {
            if let Match::Set { set, .. } = one {
                used.insert(set.index);
            }
        }
        if let Action::Target(Target::Set { add, del, map, .. }) = &rule.action {
            used.extend([add.index, del.index, map.index].into_iter().filter(|index| *index != u16::MAX));
        }
    }
    used.retain(|index| !sets.contains_key(index));
    sets.extend(ipset_names(&used)?);
    Ok(())
}

/// The names of ipsets by the kernel's index, those that exist.
pub fn ipset_names(indices: &BTreeSet<u16>) -> io::Result<SetNames> {
    let mut names = SetNames::new();
    if indices.is_empty() {
        return Ok(names);
    }
    let unread =
        |index: u16, error: &io::Error| io::Error::new(error.kind(), format!("the name of ipset number {index}: {error}"));
    let socket = XtSocket::open(false)?;
    for index in indices {
        let name = socket.ipset_name(*index).map_err(|error| unread(*index, &error))?;
        names.extend(name.map(|name| (*index, name)));
    }
    Ok(names)
}

/// The one program behind all iptables-legacy names.
fn tool() -> Option<String> {
    ["/usr/sbin", "/sbin", "/usr/bin"]
        .into_iter()
        .map(|folder| PathBuf::from(folder).join("xtables-legacy-multi"))
        .find(|path| path.is_file())
        .map(|path| path.to_string_lossy().into_owned())
}

fn missing_tool() -> String {
    "xtables-legacy-multi is not installed (package iptables), and rules are changed only through it".to_owned()
}

fn save_text(v6: bool, table: &str) -> Result<String, String> {
    let tool = tool().ok_or_else(missing_tool)?;
    let name = if v6 { "ip6tables-save" } else { "iptables-save" };
    let output = child::run_reading(Path::new(&tool), &[name, "-t", table], None, PATIENCE, MOST_OUTPUT)
        .map_err(|error| error.to_string())?;
    if !output.success() {
        return Err(format!("{name} failed: {}", complaint(&output)));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{name} printed text that is not UTF-8"))
}

/// The first line a child complained with.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    line.chars().filter(|character| !character.is_control()).take(300).collect()
}

/// A chain's name that iptables reads back as one word.
fn plain(chain: &str) -> bool {
    !chain.is_empty()
        && chain.len() < 30
        && !chain.starts_with(['-', '!'])
        && chain.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\'))
}

/// For `flock(2)` reading is enough, and it works where the folder is read-only.
fn lock_file() -> OpenOptions {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}

/// Makes the lock file, as iptables would; one that is there is left alone.
pub fn make_lock() -> Result<(), StepError> {
    let made = lock_file().write(true).create(true).truncate(false).mode(0o600).open(LOCK);
    made.map(drop).map_err(|error| StepError::Failed(format!("cannot make {LOCK}: {error}; nothing was changed")))
}

/// Takes the xtables lock as iptables does (`xshared.c`, `xtables_lock`); it is let go when dropped.
fn lock() -> Result<Flock<File>, StepError> {
    let failed = |error: io::Error| StepError::Failed(format!("cannot open {LOCK}: {error}; nothing was changed"));
    let mut file = match lock_file().open(LOCK) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if files::read_only_here(Path::new(LOCK)) {
                write::ask(&Order::XtablesLock, &[])?;
            } else {
                make_lock()?;
            }
            lock_file().open(LOCK)
        }
        opened => opened,
    }
    .map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => {
                file = back;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                return Err(StepError::TimedOut(format!(
                    "another program held {LOCK} for {} s; nothing was changed",
                    PATIENCE.as_secs()
                )));
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
}
