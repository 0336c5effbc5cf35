//! What sshd, systemd and the kernel said of sshd lately, line by line, from `journalctl -o json`. Understands the words of OpenSSH 8.0 to
//! 10.x; judges nothing. Names in the lines are strangers' own: an address is only taken from where sshd itself puts it. Who wrote a line
//! is told by what journald saw of the writer (`_UID`, `_EXE`), never by what the writer says; and from when on no line is missing is
//! part of the answer: no line means nothing before that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::Deserialize;

use crate::address::canonical;
use crate::text::quoted::Quote;
use crate::verdict::Evidence;

/// A line of the journal about sshd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// About whom, where the line says.
    pub from: Option<IpAddr>,
    /// The client's port, where the line says.
    pub port: Option<u16>,
    /// What it says.
    pub what: Said,
    /// Who wrote it: `sshd[81]`, `systemd[1]`, `kernel`.
    pub by: String,
    /// The whole message.
    pub text: String,
    /// Whether root's sshd, systemd or the kernel wrote it. A line that any user can write or cause decides nothing.
    pub vouched: bool,
}

impl Told {
    /// The user who came in by what it says. Only root's sshd is believed.
    pub fn came_in(&self) -> Option<&str> {
        match &self.what {
            Said::Accepted(user) if self.vouched => Some(user),
            _ => None,
        }
    }

    /// As it is quoted.
    pub fn evidence(&self) -> Evidence {
        Evidence::quote(format!("journal of {}", self.by), Quote::Program, self.text.clone())
    }
}

/// The lines of lately, and how far they can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Oldest first.
    pub lines: Vec<Told>,
    /// From when on no line of sshd's is missing; the text says why some may be.
    pub whole: Result<Timestamp, String>,
}

impl Journal {
    /// Nothing was said, and nothing is missing: of an sshd that begins anew.
    pub fn silent() -> Self {
        Self { lines: Vec::new(), whole: Ok(Timestamp::MIN) }
    }

    /// Why a line of the last so many seconds may be missing. What sshd remembers begins with its start.
    pub fn gap(&self, now: Timestamp, seconds: i64) -> Option<String> {
        let began = self.lines.iter().any(|told| told.vouched && told.what == Said::Listening);
        match &self.whole {
            Err(why) => Some(why.clone()),
            Ok(_) if began => None,
            Ok(since) => (now.duration_since(*since).as_secs() < seconds)
                .then(|| format!("the lines before {since:.0} are not there or were not read")),
        }
    }
}

/// What journalctl answered to each question.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    /// From here on,
    pub since: Timestamp,
    /// and at most so many of the newest lines.
    pub most: usize,
    /// [`BY_ROOT`]; the text says why there is no answer.
    pub by_root: Result<&'a Lines, &'a str>,
    /// Whether the journal reaches back to `since`: there is any line of before.
    pub older: Result<bool, &'a str>,
    /// [`BY_KERNEL`] and [`BY_USERS`]: hints, which decide nothing and whose absence means nothing.
    pub hints: &'a Lines,
}

/// Seconds after which no line comes before another that was read.
const SETTLED: i64 = 3;

/// Lines of `journalctl -o json`, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    lines: Vec<Line>,
    /// One or more are not understood.
    strange: bool,
}

impl Lines {
    /// Takes what journalctl printed apart.
    pub fn parse(json: &str) -> Self {
        let mut found = Self::default();
        for text in json.lines() {
            match serde_json::from_str::<Entry>(text).ok().and_then(Line::of) {
                Some(line) => found.lines.push(line),
                None => found.strange = true,
            }
        }
        found
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether some are not understood.
    pub fn has_strange(&self) -> bool {
        self.strange
    }

    /// Where the journal names the first of them (`__CURSOR`, systemd.journal-fields(7)).
    pub fn begin(&self) -> Option<&str> {
        self.lines.first().map(|line| line.cursor.as_str())
    }

    /// The line to go on from: one of root's, which lies in the same file as all that counts, whatever becomes of a file of a user's lines; and
    /// some seconds before the end, since lines of two files may be seen in another order than they were written in. [`Kept::add`] takes
    /// no line twice.
    pub fn goes_on_at(&self) -> Option<String> {
        let of_root =
            || self.lines.iter().filter(|line| line.is_of_root() || line.is_of_agent()).filter(|line| !line.cursor.is_empty());
        let settled = |line: &&Line| self.lines.last().is_some_and(|last| last.at.duration_since(line.at).as_secs() >= SETTLED);
        of_root().rfind(settled).or_else(|| of_root().next()).map(|line| line.cursor.clone())
    }

    /// Drops what is older; whether there was any.
    pub fn forget_before(&mut self, since: Timestamp) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| line.at >= since);
        self.lines.len() < before
    }

    /// Only the newest so many are kept.
    pub fn keep_newest(&mut self, most: usize) {
        self.lines.drain(..self.lines.len().saturating_sub(most));
    }
}

/// What was read, and is added to by what was written since ([`since`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// [`BY_ROOT`]
    pub by_root: Lines,
    /// [`BY_KERNEL`] and [`BY_USERS`]
    pub hints: Lines,
}

impl Kept {
    /// Adds the lines that [`since`] asked for, each where its own question would have had it. One that is there already came while the
    /// others were read.
    pub fn add(&mut self, new: Lines) {
        let Some(from) = new.lines.iter().map(|line| line.at).min() else {
            self.by_root.strange |= new.strange;
            return;
        };
        let there = self.by_root.lines.iter().chain(&self.hints.lines).filter(|line| line.at >= from && !line.cursor.is_empty());
        let there: BTreeSet<String> = there.map(|line| line.cursor.clone()).collect();
        self.by_root.strange |= new.strange;
        for line in new.lines.into_iter().filter(|line| !there.contains(&line.cursor)) {
            if line.is_of_root() {
                self.by_root.lines.push(line.clone());
            }
            if line.is_hint() {
                self.hints.lines.push(line);
            }
        }
    }
}

/// journalctl(1), matches: what sshd says, systemd of its units, and journald of itself. `_UID` and `_PID` are what journald saw.
pub const BY_ROOT: [&str; 13] = [
    "_UID=0",
    "SYSLOG_IDENTIFIER=sshd",
    "SYSLOG_IDENTIFIER=sshd-session",
    "SYSLOG_IDENTIFIER=sshd-auth",
    "+",
    "_UID=0",
    "_PID=1",
    "UNIT=ssh.service",
    "UNIT=sshd.service",
    "+",
    "_UID=0",
    // `JOURNAL_START` and `JOURNAL_DROPPED`.
    "MESSAGE_ID=f77379a8490b408bbe5f6940505a777b",
    "MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e",
];
/// `SD_MESSAGE_JOURNAL_START`, `SD_MESSAGE_JOURNAL_DROPPED` (sd-messages.h).
const JOURNAL_START: &str = "f77379a8490b408bbe5f6940505a777b";
const JOURNAL_DROPPED: &str = "a596d6fe7bfa4994828e72309e95d61e";
/// Of programs by their name alone, which anybody can give to a program.
pub const BY_KERNEL: [&str; 5] =
    ["_TRANSPORT=kernel", "SYSLOG_IDENTIFIER=kernel", "+", "_UID=0", "SYSLOG_IDENTIFIER=systemd-coredump"];
/// Of sessions that run as their user.
pub const BY_USERS: [&str; 2] = ["SYSLOG_IDENTIFIER=sshd", "SYSLOG_IDENTIFIER=sshd-session"];
/// The agent's own lines.
const BY_AGENT: [&str; 1] = ["_SYSTEMD_UNIT=sshfix-agent.service"];

/// Everything that one of the three asks for, and the agent's own lines, so that there is a last one to go on from.
pub fn since() -> Vec<&'static str> {
    [&BY_ROOT[..], &BY_KERNEL, &BY_USERS, &BY_AGENT].join(&"+")
}

/// What is said of lately.
pub fn journal(answers: &Answers<'_>) -> Journal {
    let none = Lines::default();
    let mut lines = read(answers.by_root.unwrap_or(&none));
    let began = lines.iter().rposition(|told| told.what == Said::Listening).and_then(|at| lines.get(at)).map(|told| told.at);
    let mut hints = read(answers.hints);
    hints.retain(|told| !told.vouched && (matches!(told.what, Said::Crashed(_)) || began.is_none_or(|began| told.at >= began)));
    lines.extend(hints);
    lines.sort_by_key(|told| told.at);
    Journal { lines, whole: whole(answers) }
}

fn whole(answers: &Answers<'_>) -> Result<Timestamp, String> {
    let unread = |why: &str| format!("the journal could not be read: {why}");
    let by_root = answers.by_root.map_err(unread)?;
    let older = answers.older.map_err(unread)?;
    let lines = &by_root.lines;
    if by_root.strange || lines.iter().any(|line| line.of_sshd() && line.text.is_none()) {
        return Err("a line of the journal is not understood".to_owned());
    }
    let is = |line: &Line, id: &str| line.id.as_deref() == Some(id) && line.of_journald();
    let lost = |line: &&Line| is(line, JOURNAL_DROPPED) && line.text.as_ref().is_some_and(|text| text.contains("ssh"));
    if let Some(line) = lines.iter().rev().find(lost) {
        return Err(format!("journald left lines out at {:.0}: {}", line.at, line.text.as_deref().unwrap_or_default()));
    }
    let oldest = lines.first().map(|line| line.at);
    let begins = if older {
        answers.since
    } else {
        let start = lines.iter().find(|line| is(line, JOURNAL_START)).map(|line| line.at);
        start.ok_or_else(|| "the journal was rotated: its older lines are gone".to_owned())?
    };
    if lines.len() < answers.most { Ok(begins) } else { Ok(oldest.map_or(begins, |oldest| oldest.max(begins))) }
}

/// Why sshd turned a connection away before it listened to it (sshd.c, `drop_connection`; srclimit.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// `penalty: failed authentication`
    Penalty,
    /// `too many penalised addresses`, with `overflow:deny-all`.
    TooManyPenalties,
    /// `Maxstartups`, `past MaxStartups`
    MaxStartups,
    /// Any other reason.
    Other,
}

impl Dropped {
    fn of(reason: &str) -> Self {
        let reason = reason.to_ascii_lowercase();
        if reason.starts_with("penalty") {
            Dropped::Penalty
        } else if reason.starts_with(TOO_MANY_PENALTIES) {
            Dropped::TooManyPenalties
        } else if reason.contains("maxstartups") {
            Dropped::MaxStartups
        } else {
            Dropped::Other
        }
    }
}

/// As sshd writes it.
pub const TOO_MANY_PENALTIES: &str = "too many penalised addresses";

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// `drop connection #0 from [A]:P on [B]:22 penalty: failed authentication` (sshd.c, `drop_connection`).
    Dropped(Dropped),
    /// `new A/32 active penalty of N seconds`, `activating`: from now on sshd turns the source away for so long (srclimit.c). Written from
    /// OpenSSH 10.1 on, before that with `LogLevel VERBOSE`.
    Penalty {
        /// The source, as `PerSourceNetBlockSize` cuts it.
        net: ipnet::IpNet,
        /// Seconds.
        seconds: i64,
        /// Why.
        reason: String,
    },
    /// A connection that ended without a login.
    Ended(Ended),
    /// `Accepted publickey for alice from A port P`.
    Accepted(String),
    /// `no matching cipher found. Their offer: aes128-cbc`.
    NoMatch {
        /// `key exchange method`, `cipher`, `MAC`, `host key type`.
        kind: String,
        /// What the client offered.
        offer: Vec<String>,
    },
    /// A session whose client did not answer any more, with its user.
    NoAnswer(Option<String>),
    /// `no more sessions`: `MaxSessions`. Names no address.
    NoMoreSessions,
    /// sshd began to listen, or began anew after a reload.
    Listening,
    /// A process of sshd was killed.
    Crashed(Crash),
}

/// By what a process was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A signal.
    Signal,
    /// The kernel, for want of memory.
    NoMemory,
}

/// How a connection without a login ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After more failed attempts than `MaxAuthTries`.
    TooMany(String),
    /// After an attempt that failed: a password, or a signature.
    Failed,
    /// Before any; to ask whether a key would do is none (monitor.c, `MON_AUTHDECIDE`).
    Unasked,
    /// `LoginGraceTime` was over.
    Grace,
}

/// A line of `journalctl -o json`, as it is printed.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
    #[serde(rename = "__CURSOR", default)]
    cursor: String,
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    by: Option<String>,
    #[serde(rename = "SYSLOG_PID")]
    said_pid: Option<String>,
    #[serde(rename = "_PID")]
    pid: Option<String>,
    #[serde(rename = "_UID")]
    uid: Option<String>,
    #[serde(rename = "_TRANSPORT")]
    transport: Option<String>,
    #[serde(rename = "_EXE")]
    exe: Option<String>,
    #[serde(rename = "UNIT")]
    unit: Option<String>,
    #[serde(rename = "MESSAGE_ID")]
    id: Option<String>,
    #[serde(rename = "MESSAGE")]
    message: Option<serde_json::Value>,
}

/// A line of the journal, as far as it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    at: Timestamp,
    cursor: String,
    by: Option<String>,
    /// As the writer says it, else as journald saw it.
    pid: Option<String>,
    /// Process 1 wrote it of sshd's unit.
    of_systemd_about_sshd: bool,
    uid: Option<String>,
    kernel: bool,
    exe: Option<String>,
    id: Option<String>,
    /// None where it is no text.
    text: Option<String>,
}

impl Line {
    fn of(entry: Entry) -> Option<Self> {
        let Entry { at, cursor, by, said_pid, pid, uid, transport, exe, unit, id, message } = entry;
        let at = at.parse().ok().and_then(|micros| Timestamp::from_microsecond(micros).ok())?;
        let of_systemd_about_sshd =
            pid.as_deref() == Some("1") && matches!(unit.as_deref(), Some("ssh.service" | "sshd.service"));
        let text = match message {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        };
        let kernel = transport.as_deref() == Some("kernel");
        Some(Self { at, cursor, by, pid: said_pid.or(pid), of_systemd_about_sshd, uid, kernel, exe, id, text })
    }

    /// Whether root wrote it, by a program of this name. journald names the program where it was still there to be looked at; one that
    /// writes and ends at once is not.
    fn of_root(&self, programs: &[&str]) -> bool {
        let is_one = |exe: &String| exe.rsplit('/').next().is_some_and(|name| programs.contains(&name));
        self.uid.as_deref() == Some("0") && self.exe.as_ref().is_none_or(is_one)
    }

    fn of_sshd(&self) -> bool {
        matches!(self.by.as_deref(), Some("sshd" | "sshd-session" | "sshd-auth"))
            && self.of_root(&["sshd", "sshd-session", "sshd-auth"])
    }

    fn of_journald(&self) -> bool {
        self.of_root(&["systemd-journald"])
    }

    /// Whether [`BY_ROOT`] asks for it.
    fn is_of_root(&self) -> bool {
        let named = matches!(self.by.as_deref(), Some("sshd" | "sshd-session" | "sshd-auth"));
        let told = matches!(self.id.as_deref(), Some(JOURNAL_START | JOURNAL_DROPPED));
        self.uid.as_deref() == Some("0") && (named || told || self.of_systemd_about_sshd)
    }

    /// Whether the agent itself wrote it.
    fn is_of_agent(&self) -> bool {
        self.by.as_deref() == Some("sshfix-agent") && self.of_root(&["sshfix-agent"])
    }

    /// Whether [`BY_KERNEL`], where it names sshd, or [`BY_USERS`] asks for it.
    fn is_hint(&self) -> bool {
        let names_sshd = || self.text.as_ref().is_some_and(|text| text.to_ascii_lowercase().contains("sshd"));
        match self.by.as_deref() {
            Some("sshd" | "sshd-session") => true,
            Some("kernel") if self.kernel => names_sshd(),
            Some("systemd-coredump") if self.uid.as_deref() == Some("0") => names_sshd(),
            _ => false,
        }
    }
}

/// The fields that are looked at, for `--output-fields=`.
pub const FIELDS: &str = "SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_UID,_TRANSPORT,_EXE,UNIT,MESSAGE_ID,MESSAGE";

/// How somebody logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// As whom.
    pub user: String,
    /// The method, the last one where several were asked for: `publickey`, `password`, `keyboard-interactive`, ...
    pub method: String,
    /// The fingerprint of the key, where the line names one: `SHA256:...`
    pub key: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// The logins that these lines tell of, by the client's end of the connection; of two from the same port, the later one.
pub fn entrances(lines: &Lines) -> BTreeMap<SocketAddr, Entrance> {
    let of_sshd = lines.lines.iter().filter(|line| line.of_sshd());
    of_sshd.filter_map(|line| entrance(line.text.as_ref()?, line.at)).collect()
}

/// `Accepted publickey for alice from A port P ssh2: ED25519 SHA256:...`, `Accepted keyboard-interactive/pam for alice from A port P ssh2`
/// (auth.c, `auth_log`). The name is one that the host knows, so it holds no blanks.
fn entrance(text: &str, at: Timestamp) -> Option<(SocketAddr, Entrance)> {
    let mut words = text.strip_prefix("Accepted ")?.split(' ');
    let method = words.next()?.split('/').next()?.to_owned();
    (words.next()? == "for").then_some(())?;
    let user = words.next()?.to_owned();
    (words.next()? == "from").then_some(())?;
    let from: IpAddr = words.next()?.parse().ok()?;
    (words.next()? == "port").then_some(())?;
    let port = words.next()?.parse().ok()?;
    let key = words.find(|word| word.starts_with("SHA256:")).map(str::to_owned);
    Some((SocketAddr::new(canonical(from), port), Entrance { user, method, key, at }))
}

/// The lines that say something, oldest first. A line that says that sshd began to listen forgets what sshd said before it: penalties
/// live in its memory, and its files may have been changed.
pub fn read(lines: &Lines) -> Vec<Told> {
    let mut found: Vec<Told> = Vec::new();
    for entry in &lines.lines {
        let Line { at, kernel, .. } = *entry;
        let Some(text) = &entry.text else { continue };
        let by = entry.by.clone().unwrap_or_default();
        let text = text.strip_suffix(" [preauth]").unwrap_or(text);
        let (said, vouched) = match by.as_str() {
            // They name a program by a name that anybody can give to one.
            "kernel" | "audit" if kernel => (of_kernel(text).map(|what| (None, None, what)), false),
            "systemd-coredump" if entry.uid.as_deref() == Some("0") => (of_coredump(text).map(|what| (None, None, what)), false),
            "systemd" if entry.of_root(&["systemd"]) => (of_systemd(text).map(|what| (None, None, what)), true),
            "sshd" | "sshd-session" | "sshd-auth" => {
                let vouched = entry.of_sshd();
                if vouched && text.starts_with("Server listening on ") {
                    found.retain(|told| matches!(told.what, Said::Crashed(_)));
                }
                // Of a session's own process, which runs as its user, only what every user may say of himself is taken.
                let said = of_sshd(text);
                (said.filter(|(_, _, what)| vouched || matches!(what, Said::NoAnswer(_) | Said::NoMoreSessions)), vouched)
            }
            _ => (None, false),
        };
        let Some((from, port, what)) = said else { continue };
        let mut by = entry.pid.as_ref().filter(|_| !kernel).map_or_else(|| by.clone(), |pid| format!("{by}[{pid}]"));
        if let Some(uid) = entry.uid.as_deref().filter(|uid| *uid != "0") {
            by = format!("{by} of uid {uid}");
        }
        found.push(Told { at, from: from.map(canonical), port, what, by, text: text.to_owned(), vouched });
    }
    found
}

type Words = (Option<IpAddr>, Option<u16>, Said);

fn of_sshd(text: &str) -> Option<Words> {
    let bare = text.strip_prefix("error: ").or_else(|| text.strip_prefix("fatal: ")).unwrap_or(text);
    if let Some(drop) = bare.strip_prefix("drop connection #") {
        let (from, rest) = drop.split_once("from [")?.1.split_once("]:")?;
        let (port, rest) = rest.split_once(" on [")?;
        let reason = rest.split_once("]:")?.1.split_once(' ')?.1;
        return Some((from.parse().ok(), port.parse().ok(), Said::Dropped(Dropped::of(reason.trim()))));
    }
    if let Some(penalty) = bare.strip_prefix("srclimit_penalise: ") {
        return penalised(penalty).map(|what| (None, None, what));
    }
    if let Some(rest) = bare.strip_prefix("Unable to negotiate with ") {
        let (who, rest) = rest.split_once(": no matching ")?;
        let (kind, offer) = rest.split_once(" found. Their offer: ")?;
        let offer = offer.split(',').map(|one| one.trim().to_owned()).collect();
        let (from, port) = address(who)?;
        return Some((Some(from), Some(port), Said::NoMatch { kind: kind.to_owned(), offer }));
    }
    if let Some(rest) = bare.strip_prefix("maximum authentication attempts exceeded for ") {
        let (user, who) = rest.strip_suffix(" ssh2")?.rsplit_once(" from ")?;
        let (from, port) = address(who)?;
        let user = user.strip_prefix("invalid user ").unwrap_or(user).to_owned();
        return Some((Some(from), Some(port), Said::Ended(Ended::TooMany(user))));
    }
    // When it was stands beside the text.
    if let Some((peer, entrance)) = entrance(bare, Timestamp::UNIX_EPOCH) {
        return Some((Some(peer.ip()), Some(peer.port()), Said::Accepted(entrance.user)));
    }
    if let Some(rest) = bare.strip_prefix("Timeout before authentication for ") {
        // 9.8 and later name both ends, older ones the client's alone.
        if let Some(rest) = rest.strip_prefix("connection from ") {
            return Some((Some(rest.split_once(" to ")?.0.parse().ok()?), None, Said::Ended(Ended::Grace)));
        }
        let (from, port) = address(rest)?;
        return Some((Some(from), Some(port), Said::Ended(Ended::Grace)));
    }
    if let Some(rest) = bare.strip_prefix("Timeout, client not responding from ") {
        let (from, port) = address(rest)?;
        return Some((Some(from), Some(port), Said::NoAnswer(user_before(rest))));
    }
    if let Some(rest) = bare.strip_prefix("Read error from remote host ") {
        let (who, _) = rest.rsplit_once(": ")?;
        let (from, port) = address(who)?;
        return Some((Some(from), Some(port), Said::NoAnswer(None)));
    }
    if bare.starts_with("Server listening on ") {
        return Some((None, None, Said::Listening));
    }
    if bare == "no more sessions" {
        return Some((None, None, Said::NoMoreSessions));
    }
    if let Some(rest) = bare.to_ascii_lowercase().strip_prefix("session process ") {
        let crash = rest.contains("unpriv child crash") || rest.contains(" killed by signal ");
        let from = rest.split_once("connection from ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        return crash.then_some((from, None, Said::Crashed(Crash::Signal)));
    }
    if bare.contains("preauth child terminated by signal ") || bare.contains("preauth child terminated abnormally") {
        return Some((None, None, Said::Crashed(Crash::Signal)));
    }
    if let Some(rest) = bare.strip_prefix("Failed ") {
        let (_, who) = rest.strip_suffix(" ssh2")?.rsplit_once(" from ")?;
        let (from, port) = address(who)?;
        return Some((Some(from), Some(port), Said::Ended(Ended::Failed)));
    }
    // `ssh_dispatch_run_fatal: Connection from authenticating user root A port P: Connection reset by peer`, `banner exchange: ...`.
    if let Some((_, rest)) = bare.split_once(": Connection from ").filter(|(by, _)| !by.contains(' ') || *by == "banner exchange")
    {
        let (who, _) = rest.split_once(": ")?;
        let (from, port) = address(who)?;
        return Some((Some(from), Some(port), Said::Ended(Ended::Unasked)));
    }
    let ends = ["Connection closed by ", "Connection reset by ", "Disconnected from ", "Received disconnect from "];
    let rest = ends.iter().find_map(|start| bare.strip_prefix(start))?;
    let (from, port) = address(rest).or_else(|| address(rest.split(':').next()?))?;
    // `Disconnected from user alice A port P` ended a session.
    (!rest.starts_with("user ")).then_some((Some(from), Some(port), Said::Ended(Ended::Unasked)))
}

/// `ipv4: new A/32 active penalty of 300 seconds for REASON`, `A/32: activating ipv4 penalty of 16 seconds for REASON`.
fn penalised(text: &str) -> Option<Said> {
    let (who, rest) = text.split_once(" penalty of ")?;
    let active = who.contains(" active") || who.contains(": activating ");
    let net = who.split([' ', ':']).find_map(|word| word.parse().ok()).or_else(|| {
        // An address of IPv6 holds the sign that parts the words.
        who.split(' ').find_map(|word| word.trim_end_matches(':').parse().ok())
    })?;
    let (seconds, reason) = rest.split_once(" seconds for ")?;
    let seconds = seconds.split('.').next()?.parse().ok()?;
    active.then(|| Said::Penalty { net, seconds, reason: reason.trim().to_owned() })
}

/// The last words of it: `... 203.0.113.7 port 49053`.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let mut words = text.rsplit(' ');
    let port = words.next()?.parse().ok()?;
    (words.next()? == "port").then_some(())?;
    Some((words.next()?.parse().ok()?, port))
}

/// `user alice 203.0.113.7 port 49053`
fn user_before(text: &str) -> Option<String> {
    let mut words = text.split(' ');
    (words.next()? == "user").then(|| words.next().map(str::to_owned))?
}

/// arch/x86/mm/fault.c `show_signal_msg`, kernel/traps, `mm/oom_kill.c`, kernel/seccomp audit records: each names the program.
fn of_kernel(text: &str) -> Option<Said> {
    let found = ["sshd", "sshd-session", "sshd-auth"].iter().find_map(|name| {
        let (process, killed, comm) = (format!("{name}["), format!("({name})"), format!("comm=\"{name}\""));
        if text.contains("Killed process ") && text.contains(&killed) {
            return Some(Crash::NoMemory);
        }
        let signal = text.starts_with(&process) && text.contains(": segfault at ")
            || text.starts_with(&format!("traps: {process}"))
            || text.contains("type=1326") && text.contains(&comm);
        signal.then_some(Crash::Signal)
    });
    found.map(Said::Crashed)
}

/// systemd.exec(5): how the main process of a unit ended; core/unit.c, `unit_log_process_exit` and `manager_dispatch_oom`.
fn of_systemd(text: &str) -> Option<Said> {
    let of_unit = text.starts_with("ssh.service: ") || text.starts_with("sshd.service: ");
    let killed = ["code=killed, status=11/SEGV", "code=dumped", "status=31/SYS", "status=6/ABRT", "status=7/BUS", "status=4/ILL"];
    let died = of_unit && (text.contains("Main process exited") || text.contains("Control process exited"));
    let crash = if of_unit && text.contains("killed by the OOM killer") {
        Crash::NoMemory
    } else if died && killed.iter().any(|how| text.contains(how)) {
        Crash::Signal
    } else {
        return None;
    };
    Some(Said::Crashed(crash))
}

/// systemd-coredump(8)
fn of_coredump(text: &str) -> Option<Said> {
    let ours = ["(sshd)", "(sshd-session)", "(sshd-auth)"].iter().any(|name| text.contains(name));
    (ours && text.contains("dumped core")).then_some(Said::Crashed(Crash::Signal))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn line(by: &str, uid: u32, message: &str) -> String {
        let transport = if by == "kernel" { "kernel" } else { "syslog" };
        let entry = serde_json::json!({
            "__REALTIME_TIMESTAMP": "1795251602500000", "SYSLOG_IDENTIFIER": by, "SYSLOG_PID": "81",
            "_UID": uid.to_string(), "_TRANSPORT": transport, "MESSAGE": message,
        });
        format!("{entry}\n")
    }

    fn told(json: &str) -> Vec<Told> {
        read(&Lines::parse(json))
    }

    fn said(by: &str, message: &str) -> Option<(Option<String>, Said)> {
        told(&line(by, 0, message)).pop().map(|told| (told.from.map(|ip| ip.to_string()), told.what))
    }

    #[test]
    fn how_somebody_came_in_is_told_by_root_alone() {
        let said = [
            ("sshd", 0, "Accepted publickey for root from 192.0.2.9 port 41905 ssh2: ED25519 SHA256:Bl0r72pO0Nw3meASuUDL"),
            ("sshd-session", 0, "Accepted keyboard-interactive/pam for alice from 2001:db8::7 port 7 ssh2"),
            ("sshd", 0, "Accepted password for bob from ::ffff:203.0.113.7 port 8 ssh2"),
            ("sshd", 1000, "Accepted password for root from 203.0.113.9 port 9 ssh2"),
            ("su", 0, "Accepted password for root from 203.0.113.9 port 9 ssh2"),
            ("sshd", 0, "Accepted password"),
            ("sshd", 0, "pam_unix(sshd:session): session opened for user root(uid=0) by (uid=0)"),
        ];
        let journal: String = said.iter().map(|(by, uid, message)| line(by, *uid, message)).collect();
        let found: Vec<_> = entrances(&Lines::parse(&journal))
            .into_iter()
            .map(|(peer, Entrance { user, method, key, .. })| format!("{peer} {user} {method} {}", key.unwrap_or_default()))
            .collect();
        assert_eq!(
            found,
            [
                "192.0.2.9:41905 root publickey SHA256:Bl0r72pO0Nw3meASuUDL",
                "203.0.113.7:8 bob password ",
                "[2001:db8::7]:7 alice keyboard-interactive ",
            ]
        );
    }

    #[test]
    fn the_words_of_both_releases_are_understood() {
        let seven = || Some("203.0.113.7".to_owned());
        let of = |message: &str| said("sshd-session", message).unwrap();
        let too_many = "error: maximum authentication attempts exceeded for invalid user gh from 1.2.3.4 port 5 ssh2 from 203.0.113.7 port \
                        33631 ssh2 [preauth]";
        let user = "gh from 1.2.3.4 port 5 ssh2".to_owned();
        assert_eq!(of(too_many), (seven(), Said::Ended(Ended::TooMany(user))));
        let offer = "Unable to negotiate with 203.0.113.7 port 36583: no matching host key type found. Their offer: ssh-rsa,ssh-dss [preauth]";
        let offered = vec!["ssh-rsa".to_owned(), "ssh-dss".to_owned()];
        assert_eq!(of(offer), (seven(), Said::NoMatch { kind: "host key type".to_owned(), offer: offered }));
        let accepted = "Accepted publickey for root from 203.0.113.7 port 45373 ssh2: ED25519 SHA256:x";
        assert_eq!(of(accepted), (seven(), Said::Accepted("root".to_owned())));
        for grace in [
            "Timeout before authentication for connection from 203.0.113.7 to 203.0.113.1, pid = 141",
            "fatal: Timeout before authentication for 203.0.113.7 port 4711",
        ] {
            assert_eq!(of(grace), (seven(), Said::Ended(Ended::Grace)));
        }
        let silent = "Timeout, client not responding from user alice 203.0.113.7 port 45373";
        assert_eq!(of(silent), (seven(), Said::NoAnswer(Some("alice".to_owned()))));
        let left = |message: &str| of(message).1;
        assert_eq!(
            left("Connection closed by authenticating user root 203.0.113.7 port 1 [preauth]"),
            Said::Ended(Ended::Unasked)
        );
        assert_eq!(left("Failed password for root from 203.0.113.7 port 1 ssh2"), Said::Ended(Ended::Failed));
        assert_eq!(left("Connection reset by 203.0.113.7 port 1 [preauth]"), Said::Ended(Ended::Unasked));
        let nonsense =
            "ssh_dispatch_run_fatal: Connection from 203.0.113.7 port 46031: message authentication code incorrect [preauth]";
        assert_eq!(of(nonsense), (seven(), Said::Ended(Ended::Unasked)));
        assert_eq!(said("sshd-session", "Disconnected from user root 203.0.113.7 port 1"), None);
        let crash = "Session process 213 unpriv child crash for connection from 203.0.113.7 to 203.0.113.1";
        assert_eq!(said("sshd", crash), Some((seven(), Said::Crashed(Crash::Signal))));
    }

    #[test]
    fn penalties_that_become_active_are_told_from_those_that_wait() {
        let of = |message: &str| said("sshd", message).map(|(_, what)| what);
        let penalty = |net: &str, seconds| {
            let reason = "penalty: failed authentication".to_owned();
            Some(Said::Penalty { net: net.parse().unwrap(), seconds, reason })
        };
        let end = "seconds for penalty: failed authentication";
        assert_eq!(
            of(&format!("srclimit_penalise: ipv4: new 203.0.113.7/32 active penalty of 300 {end}")),
            penalty("203.0.113.7/32", 300)
        );
        assert_eq!(
            of(&format!("srclimit_penalise: 203.0.113.0/24: activating ipv4 penalty of 16 {end}")),
            penalty("203.0.113.0/24", 16)
        );
        assert_eq!(
            of(&format!("srclimit_penalise: 2001:db8::/56: activating ipv6 penalty of 16.250 {end}")),
            penalty("2001:db8::/56", 16)
        );
        assert_eq!(of(&format!("srclimit_penalise: ipv4: new 203.0.113.7/32 deferred penalty of 5 {end}")), None);
    }

    #[test]
    fn crashes_are_found_in_the_words_of_the_kernel_and_of_systemd() {
        for (text, by) in [
            ("sshd[1234]: segfault at 0 ip 00007f1 sp 00007ffd error 4 in sshd[55d+a0]", Crash::Signal),
            ("traps: sshd-session[12] general protection fault ip:7f sp:7f error:0 in libc.so.6[7f+1]", Crash::Signal),
            ("Out of memory: Killed process 99 (sshd) total-vm:15000kB", Crash::NoMemory),
            (
                "audit: type=1326 audit(1.2:3): auid=1 uid=105 comm=\"sshd-auth\" exe=\"/usr/lib/openssh/sshd-auth\" sig=31",
                Crash::Signal,
            ),
        ] {
            assert_eq!(said("kernel", text), Some((None, Said::Crashed(by))), "{text}");
        }
        assert_eq!(said("kernel", "Out of memory: Killed process 99 (nginx)"), None);
        for (text, by) in [
            ("ssh.service: Main process exited, code=killed, status=11/SEGV", Crash::Signal),
            ("ssh.service: A process of this unit has been killed by the OOM killer.", Crash::NoMemory),
        ] {
            assert_eq!(said("systemd", text), Some((None, Said::Crashed(by))), "{text}");
        }
        assert_eq!(
            said("systemd-coredump", "Process 41 (sshd) of user 0 dumped core."),
            Some((None, Said::Crashed(Crash::Signal)))
        );
        assert_eq!(said("systemd", "ssh.service: Main process exited, code=exited, status=255/EXCEPTION"), None);
    }

    #[test]
    fn a_start_of_sshd_forgets_what_it_said_and_not_that_it_crashed() {
        let drop = "drop connection #0 from [203.0.113.7]:1 on [203.0.113.1]:22 penalty: failed authentication";
        let journal = [
            line("sshd", 0, drop),
            line("systemd", 0, "ssh.service: Main process exited, code=killed, status=11/SEGV"),
            line("sshd", 0, "Server listening on 0.0.0.0 port 22."),
            line("sshd", 0, "drop connection #0 from [::ffff:203.0.113.70]:9 on [203.0.113.1]:22 Maxstartups"),
            "nonsense\n".to_owned(),
        ];
        let found = told(&journal.concat());
        let kinds: Vec<bool> = found.iter().map(|told| matches!(told.what, Said::Crashed(_) | Said::Listening)).collect();
        assert_eq!(kinds, [true, true, false], "{found:?}");
        let last = found.last().unwrap();
        assert_eq!(
            (last.from.unwrap().to_string(), last.port, last.by.as_str()),
            ("203.0.113.70".to_owned(), Some(9), "sshd[81]")
        );
        assert_eq!(last.what, Said::Dropped(Dropped::MaxStartups));
        assert_eq!(last.at.as_millisecond(), 1_795_251_602_500);
    }

    #[test]
    fn what_users_write_in_the_name_of_sshd_is_not_believed() {
        let drop = "drop connection #0 from [203.0.113.7]:1 on [203.0.113.1]:22 penalty: failed authentication";
        assert!(told(&line("sshd", 1000, drop)).is_empty());
        let of_himself = told(&line("sshd-session", 1000, "error: no more sessions"));
        assert!(of_himself.iter().all(|told| !told.vouched && told.by == "sshd-session[81] of uid 1000"), "{of_himself:?}");
        assert_eq!(of_himself.len(), 1);
        let by_logger = line("sshd", 0, drop).replace("\"_UID\"", "\"_EXE\":\"/usr/bin/logger\",\"_UID\"");
        assert!(by_logger.contains("logger") && told(&by_logger).is_empty(), "a script of root's that quotes others");
        let by_sshd = by_logger.replace("/usr/bin/logger", "/usr/lib/openssh/sshd-session");
        assert!(told(&by_sshd).iter().all(|told| told.vouched) && told(&by_sshd).len() == 1);
        assert!(told(&line("systemd", 1000, "ssh.service: Main process exited, code=killed, status=11/SEGV")).is_empty());
    }

    static NONE: Lines = Lines { lines: Vec::new(), strange: false };

    /// What the journal lacks of the last ten minutes.
    fn gap_of(by_root: &str, older: bool) -> String {
        let lines = Lines::parse(by_root);
        gap(&Answers { by_root: Ok(&lines), older: Ok(older), ..unread() })
    }

    fn unread() -> Answers<'static> {
        let since = Timestamp::from_second(1_795_251_000).unwrap();
        Answers { since, most: 3, by_root: Err("no such file"), older: Ok(true), hints: &NONE }
    }

    fn gap(answers: &Answers<'_>) -> String {
        journal(answers).gap(Timestamp::from_second(1_795_251_900).unwrap(), 600).unwrap_or_default()
    }

    #[test]
    fn no_line_means_nothing_where_some_may_be_missing() {
        let now = Timestamp::from_second(1_795_251_900).unwrap();
        let drop = "drop connection #0 from [203.0.113.7]:1 on [203.0.113.1]:22 penalty: failed authentication";
        let one = line("sshd", 0, drop);
        assert_eq!(gap_of(&one, true), "", "it reaches back");
        assert!(gap_of(&one, false).contains("rotated"));
        assert!(gap(&unread()).contains("could not be read: no such file"));
        let read = Lines::parse(&one);
        assert!(gap(&Answers { by_root: Ok(&read), older: Err("too slow"), ..unread() }).contains("too slow"));
        let many = one.repeat(3);
        assert!(gap_of(&many, true).contains("not there or were not read"), "a full window");
        let many = Lines::parse(&many);
        let short = journal(&Answers { by_root: Ok(&many), ..unread() });
        assert_eq!(short.gap(now, 200), None, "and it reaches back far enough for a short penalty");
        assert!(gap_of(&format!("{one}nonsense\n"), true).contains("not understood"));
        // A host that was started just now: journald before sshd.
        let journald = |id: &str, text: &str, exe: &str| {
            line("systemd-journald", 0, text).replace("\"_UID\"", &format!("\"MESSAGE_ID\":\"{id}\",\"_EXE\":\"{exe}\",\"_UID\""))
        };
        let start = journald(JOURNAL_START, "Journal started", "/usr/lib/systemd/systemd-journald");
        let listening = line("sshd", 0, "Server listening on 0.0.0.0 port 22.");
        assert_eq!(gap_of(&format!("{start}{listening}"), false), "");
        assert!(gap_of(&start, false).contains("not there"), "sshd may be older than the journal");
        let forged = start.replace("systemd-journald\"", "logger\"");
        assert!(gap_of(&format!("{forged}{listening}"), false).contains("rotated"));
        let lost = "Suppressed 5200 messages from ssh.service";
        let lost = journald(JOURNAL_DROPPED, lost, "/usr/lib/systemd/systemd-journald");
        assert!(gap_of(&format!("{listening}{lost}"), true).contains("Suppressed 5200"));
        let others =
            journald(JOURNAL_DROPPED, "Suppressed 9 messages from user@1000.service", "/usr/lib/systemd/systemd-journald");
        assert_eq!(gap_of(&others, true), "");
    }

    #[test]
    fn lines_that_come_later_are_what_one_reading_of_all_would_have_had() {
        let about = |unit: &str, pid: &str| {
            line("systemd", 0, "ssh.service: Main process exited, code=killed, status=11/SEGV")
                .replace("\"_UID\"", &format!("\"UNIT\":\"{unit}\",\"_PID\":\"{pid}\",\"_UID\""))
        };
        let drop = "drop connection #0 from [203.0.113.7]:1 on [203.0.113.1]:22 penalty: failed authentication";
        let start = line("systemd-journald", 0, "Journal started")
            .replace("\"_UID\"", &format!("\"MESSAGE_ID\":\"{JOURNAL_START}\",\"_UID\""));
        let all = [
            (line("sshd", 0, drop), true, true),
            (line("sshd-auth", 0, drop), true, false),
            (line("sshd-session", 1000, "error: no more sessions"), false, true),
            (line("kernel", 0, "sshd[1234]: segfault at 0 ip 00007f1"), false, true),
            (line("kernel", 0, "eth0: link is up"), false, false),
            (line("systemd-coredump", 0, "Process 41 (sshd) of user 0 dumped core."), false, true),
            (line("systemd-coredump", 1000, "Process 41 (sshd) of user 0 dumped core."), false, false),
            (about("ssh.service", "1"), true, false),
            (about("ssh.service", "77"), false, false),
            (about("cron.service", "1"), false, false),
            (start, true, false),
            (line("sshfix-agent", 0, "audit 7: answered"), false, false),
        ];
        let mut kept = Kept::default();
        kept.add(Lines::parse(&all.iter().map(|(text, ..)| text.as_str()).collect::<String>()));
        let of = |wanted: fn(&(String, bool, bool)) -> bool| {
            Lines::parse(&all.iter().filter(|one| wanted(one)).map(|(text, ..)| text.as_str()).collect::<String>())
        };
        assert_eq!(kept, Kept { by_root: of(|one| one.1), hints: of(|one| one.2) });
        kept.add(Lines::parse("nonsense\n"));
        assert!(kept.by_root.strange);
        let now = Timestamp::from_second(1_795_251_900).unwrap();
        assert!(!kept.hints.forget_before(Timestamp::UNIX_EPOCH) && kept.hints.forget_before(now) && kept.hints.is_empty());
        kept.by_root.keep_newest(1);
        assert_eq!(kept.by_root.len(), 1);
    }

    #[test]
    fn a_reading_goes_on_at_a_line_of_roots_that_is_no_news() {
        let at = |by: &str, uid: u32, second: u32| {
            line(by, uid, "x")
                .replace("1795251602500000", &format!("17952516{second:02}000000"))
                .replace("\"_UID\"", &format!("\"__CURSOR\":\"{by}{second}\",\"_UID\""))
        };
        let goes_on = |lines: &[String]| Lines::parse(&lines.concat()).goes_on_at();
        let all = [at("sshd", 0, 1), at("sshfix-agent", 0, 5), at("sshd", 0, 8), at("sshd", 1000, 9)];
        assert_eq!(goes_on(&all).as_deref(), Some("sshfix-agent5"), "some seconds before the end");
        assert_eq!(goes_on(&all[2..]).as_deref(), Some("sshd8"), "the first where all are new");
        assert_eq!(goes_on(&all[3..]), None, "a user's lines lie in a file of their own, whatever becomes of root's");
        assert_eq!(goes_on(&[at("sshfix-agent", 1000, 5)]), None);
        // What is read twice is kept once, and a line of somebody's that nobody understands is told from root's.
        let mut kept = Kept { by_root: Lines::parse(&all[..3].concat()), hints: Lines::default() };
        kept.add(Lines::parse(&all[1..].concat()));
        assert_eq!((kept.by_root.len(), kept.hints.len()), (3, 1));
        assert!(Lines::parse("{\"SYSLOG_IDENTIFIER\":[\"sshd\",\"x\"],\"__REALTIME_TIMESTAMP\":\"1\"}\n").has_strange());
    }
}
