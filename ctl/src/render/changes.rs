//! Changes and what became of them.

use owo_colors::OwoColorize;
use sshfix_policy::reply::{ChangeBrief, ChangeDocument, ChangeStage, Changes};

use super::table::table;
use super::{Page, View};
use crate::cli::command_line;
use crate::text;

/// `changes [ID]`
pub fn changes(found: &Changes, view: &View) -> String {
    let mut out = Page::default();
    match found.changes.as_slice() {
        [] => out.line("No change was made yet."),
        [one] if !one.events.is_empty() => one_change(&mut out, one, view),
        all => {
            let rows = all.iter().map(|change| {
                let state = state(change.state, change.seconds_left);
                [change.id.clone(), state, change.principal.clone(), view.time(change.started), asked(change)]
            });
            table(&mut out, ["CHANGE", "STATE", "BY", "BEGUN", "COMMAND"], rows);
        }
    }
    out.text
}

fn asked(change: &ChangeDocument) -> String {
    change.operation.as_ref().map_or_else(|| "(outside your grants)".to_owned(), command_line)
}

fn state(stage: ChangeStage, seconds_left: Option<u64>) -> String {
    seconds_left.map_or_else(|| stage.to_string(), |left| format!("{stage}, {left} s left"))
}

fn one_change(out: &mut Page, change: &ChangeDocument, view: &View) {
    let state = state(change.state, change.seconds_left);
    out.line(&format!("{} {}: {}", "change".bold(), text::line(&change.id).bold(), text::line(&state)));
    out.line(&format!("{} by {}", asked(change), text::line(&change.principal)));
    out.line(&format!("begun {}", view.time(change.started)));
    if let Some(deadline) = change.deadline {
        out.line(&format!("to be confirmed by {}", view.time(deadline)));
    }
    if let Some(finished) = change.finished {
        out.line(&format!("ended {}", view.time(finished)));
    }
    for line in text::lines(&change.detail) {
        out.line(&line);
    }
    out.gap();
    for (index, step) in change.steps.iter().enumerate() {
        out.line(&format!("{}. {}: {} ({})", index + 1, step.subsystem.cyan(), text::line(&step.summary), step.event));
        out.line(&format!("   {}", format!("undo: {}", text::line(&step.undo)).dimmed()));
    }
    out.gap();
    for event in &change.events {
        let detail = if event.detail.is_empty() { String::new() } else { format!(": {}", text::line(&event.detail)) };
        out.line(&format!("{}  step {} {}{detail}", view.clock(event.at), event.step, event.event));
    }
}

/// The line of `status` about a change that keeps others waiting.
pub fn waiting(change: &ChangeBrief) -> String {
    let state = state(change.state, change.seconds_left);
    let what = format!("{} {} of {}", text::line(&state), text::line(&change.id), text::line(&change.principal));
    if change.state == ChangeStage::Stuck {
        return format!("{} {what}: {}", "Change".red().bold(), text::line(change.detail.as_str()));
    }
    format!("{} {what}: `sshfix ctl confirm {}` keeps it", "Change".yellow().bold(), text::line(&change.id))
}
