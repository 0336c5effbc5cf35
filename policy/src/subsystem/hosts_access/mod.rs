//! hosts.allow and hosts.deny: `hosts_access(5)` and `hosts_options(5)` as libwrap reads them, what they do to a connection, and
//! the edits that let a source in or keep it out. Every byte that an edit does not show stays. Must not touch a file.

mod considered;
mod document;
mod evaluate;
mod lift;
mod no_plan;
mod options;
mod pattern;
mod plan;
mod report;
mod step;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::host::{HostState, Needs, Part};
use crate::ranges::Classes;
use crate::text::quoted::{Quote, Text};
use crate::text::show;
use crate::verdict::{Connection, Evidence, Stage, StageReport, Verdict};

pub use considered::trace;
pub use document::{Document, Kind, Line, Rule};
pub use evaluate::{Facts, HostName, PatternFile, Place, Port, Request, Tables, Trace};
pub use lift::Refused;
pub use no_plan::NoPlan;
pub use options::Outcome;
pub use pattern::{Address, named_source};
pub use plan::{has_no_allow, plan_allow, plan_deny, plan_lease, plan_remove, plan_unlease};
pub use report::{bans, list};
pub use step::Step;

/// The process name that sshd gives libwrap. OpenSSH 9.8 and later check in sshd-session, under the same name.
pub const SSHD: &str = "sshd";

/// What was read of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// hosts.allow
    pub allow: File,
    /// hosts.deny
    pub deny: File,
    /// Whether the running sshd obeys them.
    pub libwrap: Libwrap,
    /// Fetched on demand.
    pub facts: Facts,
}

/// One of the two files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its path, as it is shown: `/etc/hosts.deny`.
    pub path: String,
    /// What it holds.
    pub content: Content,
    /// Why sshfix must not write it (a symbolic link, writable by others than root, ...), where it must not.
    pub read_only: Option<String>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// No such file; the same as an empty one.
    Missing,
    /// Its bytes.
    Bytes(Vec<u8>),
    /// There, but not read; the text says why.
    Unreadable(String),
}

impl Content {
    /// The bytes; `None` where there is no file.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Content::Bytes(bytes) => Some(bytes),
            Content::Missing | Content::Unreadable(_) => None,
        }
    }
}

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// hosts.allow, read first.
    Allow,
    /// hosts.deny
    Deny,
}

impl Which {
    /// What a rule without `allow` or `deny` option does.
    fn default_outcome(self) -> Outcome {
        match self {
            Which::Allow => Outcome::Grant,
            Which::Deny => Outcome::Deny,
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Which::Allow => "hosts.allow",
            Which::Deny => "hosts.deny",
        })
    }
}

/// Whether the running sshd is linked with libwrap. The text says how that is known, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Libwrap {
    /// The files count.
    Linked(String),
    /// The files are for other daemons only.
    NotLinked(String),
    /// Cannot be told.
    Unknown(String),
}

impl State {
    /// One of the two files.
    pub fn file(&self, which: Which) -> &File {
        match which {
            Which::Allow => &self.allow,
            Which::Deny => &self.deny,
        }
    }

    fn file_mut(&mut self, which: Which) -> &mut File {
        match which {
            Which::Allow => &mut self.allow,
            Which::Deny => &mut self.deny,
        }
    }

    /// Both, cut into lines.
    pub fn tables(&self) -> Tables {
        Tables::new(&self.allow.content, &self.deny.content)
    }

    /// What the files alone do to a request.
    pub fn trace(&self, request: &Request<'_>) -> Trace {
        self.tables().trace(request, &self.facts, &BTreeSet::new(), &BTreeSet::new())
    }

    /// `/etc/hosts.deny line 3` and what stands there.
    fn evidence(&self, tables: &Tables, place: Place) -> Option<Evidence> {
        let line = tables.line(place)?;
        let text = show(&line.raw);
        Some(Evidence::quote(
            format!("{} line {}", self.file(place.which).path, line.number),
            Quote::HostsLines,
            text.strip_suffix('\n').unwrap_or(&text),
        ))
    }
}

/// What hosts.allow and hosts.deny do to this connection. Facts that are missing go to `needs` and make it unknown meanwhile.
pub fn evaluate(host: &HostState, connection: &Connection, needs: &mut Needs) -> StageReport {
    let report = |verdict, detail: Text, evidence| StageReport::new(Stage::HostsAccess, verdict, detail, evidence);
    let state = match &host.hosts_access {
        Part::Present(state) => state,
        Part::Absent(why) => return report(Verdict::Accept, why.into(), Vec::new()),
        Part::Unreadable(why) => return report(Verdict::Unknown, why.into(), Vec::new()),
    };
    if let Libwrap::NotLinked(how) = &state.libwrap {
        return report(Verdict::Accept, format!("this sshd does not read hosts.allow and hosts.deny: {how}").into(), Vec::new());
    }
    let tables = state.tables();
    let request = Request::new(SSHD, Port::Is(connection.port), connection.source);
    let mut trace = tables.trace(&request, &state.facts, &BTreeSet::new(), &BTreeSet::new());
    let verdict = trace.verdict();
    let evidence: Vec<_> = match (verdict, trace.decider()) {
        (Verdict::Unknown, _) => trace.hits.iter().filter_map(|hit| state.evidence(&tables, hit.place?)).collect(),
        (_, Some(hit)) => hit.place.and_then(|place| state.evidence(&tables, place)).into_iter().collect(),
        (_, None) => Vec::new(),
    };
    let at = evidence.first().map_or_else(String::new, |evidence| evidence.source.clone());
    if verdict == Verdict::Unknown {
        needs.append(&mut trace.needs);
        return report(verdict, unknown_detail(state, &trace, &at), evidence);
    }
    if let (Verdict::Refuse, Libwrap::Unknown(why)) = (verdict, &state.libwrap) {
        let detail = format!("{at} refuses it, if this sshd is linked with libwrap, which cannot be told: {why}");
        return report(Verdict::Unknown, detail.into(), evidence);
    }
    let detail: Text = match (verdict, trace.decider()) {
        (Verdict::Accept, Some(_)) => format!("{at} lets it in").into(),
        (_, Some(hit)) => match (&hit.outcome, hit.place.and_then(|place| tables.line(place)).map(|line| &line.kind)) {
            (_, Some(Kind::Unterminated)) => {
                format!("{at} has no newline at its end: libwrap stops reading there and refuses everybody").into()
            }
            (_, Some(Kind::TooLong)) => {
                format!("{at} is longer than 2047 bytes: libwrap stops reading there and refuses everybody").into()
            }
            (Outcome::Mistake(mistake), _) => {
                Text::from(format!("{at} matches and has a mistake in its options, which refuses: ")) + quoted(mistake)
            }
            (Outcome::Twist, _) => format!("{at} runs another program instead of sshd").into(),
            _ => format!("{at} refuses it").into(),
        },
        (_, None) => "no rule of hosts.allow or hosts.deny matches".into(),
    };
    report(verdict, detail, evidence)
}

/// Why something is unclear or a mistake, which quotes words of the rule.
fn quoted(why: &str) -> Text {
    Text::quote(Quote::Program, why)
}

fn unknown_detail(state: &State, trace: &Trace, at: &str) -> Text {
    let mut reasons: Vec<Text> = Vec::new();
    for which in [Which::Allow, Which::Deny] {
        let file = state.file(which);
        if let Content::Unreadable(why) = &file.content {
            reasons.push(format!("{} could not be read: {why}", file.path).into());
        }
    }
    reasons.extend(trace.unclear.iter().map(|what| quoted(what)));
    for hit in &trace.hits {
        if let (Outcome::Untold(what), Some(_)) = (&hit.outcome, hit.place) {
            reasons.push(Text::from(format!("{at} depends on ")) + quoted(what));
        }
    }
    if reasons.is_empty() {
        // Single addresses of a range can differ.
        return "the rules treat the addresses in it differently, or a fact is still missing".into();
    }
    Text::joined(&reasons, "; ")
}

/// Adds the sets of addresses that both files tell apart; where this sshd does not obey them, none.
pub fn classes(host: &HostState, classes: &mut Classes) {
    if let Part::Present(state) = &host.hosts_access
        && !matches!(state.libwrap, Libwrap::NotLinked(_))
    {
        lift::classes(state, classes);
    }
}

/// Everything in the two files that keeps this connection out, and how to lift it. The first block carries the steps for all.
pub fn blocks(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Refused> {
    let Some(state) = host.hosts_access.present() else { return Vec::new() };
    if matches!(state.libwrap, Libwrap::NotLinked(_)) {
        return Vec::new();
    }
    lift::blocks(state, connection, needs)
}

#[cfg(test)]
mod tests;
