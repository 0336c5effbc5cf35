//! Answers as a person reads them. Colours are always written; `anstream` takes them out where they are not wanted. All text
//! from the host goes through `text::line`.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use owo_colors::OwoColorize;
use sshfix_policy::reply::{Body, ErrorCode, ErrorDocument};
use sshfix_policy::text::quoted::Text;
use sshfix_policy::verdict::Verdict;

use crate::text;

mod audit;
mod changes;
mod lists;
mod path;
mod plan;
mod sshd;
mod table;
mod who;

/// What drawing depends on besides the answer.
#[derive(Debug)]
pub struct View {
    /// To say how long ago, and how long still.
    pub now: Timestamp,
    /// Times are shown in the reader's zone.
    pub zone: TimeZone,
    /// Show evidence of what does not block, too.
    pub verbose: bool,
    /// Show lists to their end.
    pub all: bool,
}

/// Any answer.
pub fn body(body: &Body, view: &View) -> String {
    match body {
        Body::Diagnosis(diagnosis) => path::diagnosis(diagnosis, view),
        Body::Plan(plan) => plan::dry_run(plan),
        Body::Change(change) => plan::change(change, view),
        Body::Bans(bans) => lists::bans(bans, view),
        Body::Hosts(hosts) => lists::hosts(hosts),
        Body::Firewall(firewall) => lists::firewall(firewall),
        Body::Who(found) => who::who(found, view),
        Body::SshdShow(found) => sshd::show(found, view),
        Body::SshdCheck(found) => sshd::check(found, view),
        Body::Jails(jails) => lists::jails(jails, view),
        Body::Changes(found) => changes::changes(found, view),
        Body::Status(status) => lists::status(status, view),
        Body::Leases(leases) => lists::leases(leases, view),
        Body::Audit(found) => audit::records(found, view),
        Body::Verification(found) => audit::verification(found, view),
        // To be kept in a file as it is.
        Body::Checkpoint(checkpoint) => text::lines(&checkpoint.text).map(|line| line + "\n").collect(),
        Body::Error(document) => error(document),
    }
}

/// What happened, what was left unchanged, what to do; the plan where the error carries one.
pub fn error(error: &ErrorDocument) -> String {
    let mut out = Page::default();
    out.line(&format!("{} {}", "error:".red().bold(), text::line(error.message.as_str())));
    if !error.advice.is_empty() {
        out.line(&format!("{} {}", "what to do:".bold(), text::line(error.advice.as_str())));
    }
    if let Some(plan) = &error.plan {
        out.gap();
        let heading =
            if error.code == ErrorCode::Lockout { "The plan that was refused:" } else { "The plan as it would be now:" };
        out.line(&heading.bold().to_string());
        plan::plan(&mut out, plan);
    }
    out.text
}

/// Lines on their way out.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// One empty line, never two.
    fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    fn said(&mut self, notes: &[Text]) {
        let notes: Vec<String> = notes.iter().map(|note| note.as_str().to_owned()).collect();
        self.notes(&notes);
    }

    fn notes(&mut self, notes: &[String]) {
        if notes.is_empty() {
            return;
        }
        self.gap();
        for note in notes {
            let mut lines = text::lines(note);
            self.line(&format!("{} {}", "note:".yellow().bold(), lines.next().unwrap_or_default()));
            for line in lines {
                self.line(&format!("      {line}"));
            }
        }
    }
}

/// `✓`, `✗` or `?`.
fn mark(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept => "✓".green().bold().to_string(),
        Verdict::Refuse => "✗".red().bold().to_string(),
        Verdict::Unknown => "?".yellow().bold().to_string(),
    }
}

/// A verdict in its colour.
fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".green().to_string(),
        Verdict::Refuse => "refuse".red().to_string(),
        Verdict::Unknown => "unknown".yellow().to_string(),
    }
}

impl View {
    /// `2026-11-21 05:00:11 CET (43 min ago)`
    fn time(&self, time: Timestamp) -> String {
        format!("{} ({})", self.clock(time), self.distance(time))
    }

    fn clock(&self, time: Timestamp) -> String {
        time.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    fn distance(&self, time: Timestamp) -> String {
        let distance = time.duration_since(self.now);
        let length = length(distance.abs());
        if distance.is_negative() { format!("{length} ago") } else { format!("in {length}") }
    }
}

/// To one unit, as people say it.
fn length(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
