//! Audit records as a person reads them: newest first, two lines each; what following the chain found.

use owo_colors::OwoColorize;
use sshfix_policy::reply::audit::{Audit, Record, Verification};
use sshfix_policy::request::audit::Outcome;
use sshfix_policy::request::{Mode, Operation};

use super::{Page, View};
use crate::cli::command_line;
use crate::text;

/// `audit show`
pub fn records(audit: &Audit, view: &View) -> String {
    let mut out = Page::default();
    if audit.records.is_empty() {
        out.line("No such record.");
    }
    for record in &audit.records {
        draw(&mut out, record, view);
    }
    super::table::others(&mut out, audit.others);
    if audit.more {
        out.gap();
        out.line("Older records fit too: --limit shows more, --until goes back in time.");
    }
    out.notes(&audit.notes);
    out.text
}

fn draw(out: &mut Page, record: &Record, view: &View) {
    let outcome = match record.outcome {
        None => "still open".yellow().to_string(),
        Some(outcome @ (Outcome::Answered | Outcome::Unchanged | Outcome::Confirmed)) => outcome.name().green().to_string(),
        Some(outcome @ (Outcome::Pending | Outcome::NotApplied | Outcome::Interrupted | Outcome::Abandoned)) => {
            outcome.name().yellow().to_string()
        }
        Some(outcome @ (Outcome::Refused | Outcome::Failed | Outcome::RolledBack | Outcome::Stuck)) => {
            outcome.name().red().to_string()
        }
    };
    let who = match (&record.principal, record.peer_uid) {
        (Some(principal), _) => text::line(principal),
        (None, Some(uid)) => format!("nobody known (uid {uid})"),
        (None, None) => "the agent".to_owned(),
    };
    let from = record.from.map(|from| format!(" (claims to come from {from})")).unwrap_or_default();
    let time = view.clock(record.opened_at);
    out.line(&format!("{:>6}  {time}  {}{from}  {outcome}", record.record, who.bold()));
    let asked = match (&record.operation, &record.automatic) {
        (Some(operation), _) => {
            let dry = matches!(operation, Operation::Intent(_)) && record.mode == Some(Mode::DryRun);
            format!("{}{}", command_line(operation), if dry { " --dry-run" } else { "" })
        }
        (None, Some(what)) => what.clone(),
        (None, None) => "a request that could not be authenticated".to_owned(),
    };
    let change = record.change.as_ref().map(|change| format!("  change {change}")).unwrap_or_default();
    out.line(&format!("        {}", text::line(&(asked + &change))));
    for (name, value) in [("reason", record.reason.as_deref()), ("detail", Some(record.detail.as_str()))] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.line(&format!("        {} {}", format!("{name}:").dimmed(), text::line(value)));
        }
    }
    if view.verbose {
        let fields = [
            ("key", record.key.clone()),
            ("plan", record.plan.clone()),
            ("request", record.request.clone()),
            ("process", record.peer_pid.map(|pid| format!("{pid} of uid {}", record.peer_uid.unwrap_or_default()))),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                out.line(&format!("        {} {}", format!("{name}:").dimmed(), text::line(&value)));
            }
        }
    }
}

/// `audit verify`
pub fn verification(found: &Verification, view: &View) -> String {
    let mut out = Page::default();
    let span = match (found.first_at, found.last_at) {
        (Some(first), Some(last)) => format!(" from {} to {}", view.clock(first), view.clock(last)),
        _ => String::new(),
    };
    if found.intact {
        out.line(&format!("{} the chain of {} records{span} is whole", "OK".green().bold(), found.records));
    } else {
        out.line(&format!("{} the chain of {} records{span} is not as it was written:", "BROKEN".red().bold(), found.records));
        for problem in &found.problems {
            out.line(&format!("  {} {}", "✗".red().bold(), text::line(&problem.problem)));
        }
    }
    out.line(&format!("{} of the checkpoints stored on this host hold", found.checkpoints));
    out.line(&format!("head {}", text::line(&found.head).dimmed()));
    out.notes(&found.notes);
    out.text
}
