//! Plans and what became of them: a diff for each step, what opens and closes, the ways in that stay.

use owo_colors::OwoColorize;
use sshfix_policy::address::Source;
use sshfix_policy::reply::{Change, ChangeState, Confirm, Failure, PathDocument, PlanDocument, StepDocument};
use sshfix_policy::text::quoted::Text;
use sshfix_policy::verdict::{PathOrigin, Verdict};

use super::{Page, View, verdict};
use crate::cli::command_line;
use crate::text;

/// A plan that was asked for by `--dry-run`.
pub fn dry_run(document: &PlanDocument) -> String {
    let mut out = Page::default();
    if document.steps.is_empty() {
        nothing(&mut out, &command_line(&document.operation), document.verdict);
        out.said(&document.notes);
        return out.text;
    }
    plan(&mut out, document);
    out.gap();
    out.line("Dry run: nothing was changed. To make exactly this change:");
    let command = format!("{} --plan {}", command_line(&document.operation), text::line(&document.digest));
    out.line(&format!("  {}", command.green().bold()));
    out.text
}

/// That there is nothing to do is never said as if the way were open where it is not.
fn nothing(out: &mut Page, asked: &str, verdict: Option<Verdict>) {
    out.line(&match verdict {
        None | Some(Verdict::Accept) => format!("{} {asked}", "Nothing to do:".green().bold()),
        Some(Verdict::Refuse) => format!("{}, and this command has nothing to lift: {asked}", "BLOCKED".red().bold()),
        Some(Verdict::Unknown) => {
            format!("{} whether the address is blocked, and this command has nothing to lift: {asked}", "UNKNOWN".yellow().bold())
        }
    });
}

/// The plan itself.
pub(super) fn plan(out: &mut Page, plan: &PlanDocument) {
    let count = plan.steps.len();
    let steps = if count == 1 { "1 step".to_owned() } else { format!("{count} steps") };
    out.line(&format!("{} {}: {steps}", "Plan for".bold(), command_line(&plan.operation).bold()));
    out.gap();
    for (index, step) in plan.steps.iter().enumerate() {
        draw_step(out, index + 1, step);
    }
    sources(out, "opens", &plan.opens);
    sources(out, "closes", &plan.closes);
    for other in &plan.alternatives {
        let opens: Vec<String> = other.opens.iter().map(|source| source.short()).collect();
        let opens = if opens.is_empty() { String::new() } else { format!(" (opens {})", opens.join(", ")) };
        let what = format!("{}{opens}: {}", text::line(&other.summary), text::line(&other.why_not));
        out.line(&format!("{} {}", label("instead"), what.dimmed()));
    }
    for (index, path) in plan.paths.iter().enumerate() {
        let same = |other: &PathDocument| other.source == path.source && other.user == path.user;
        // Who asks is most often a live session, too; that is no mere claim then.
        let claimed = path.origin == Some(PathOrigin::Requester);
        let other = |other: &PathDocument| same(other) && other.origin != Some(PathOrigin::Requester);
        if plan.paths.iter().take(index).any(same) && !claimed || claimed && plan.paths.iter().any(other) {
            continue;
        }
        let user = path.user.as_ref().map(|user| format!(" as {}", text::line(user))).unwrap_or_default();
        let claim = if claimed { " (as you claim)" } else { "" };
        let who = format!("{}{user}{claim}", text::line(&path.source));
        out.line(&format!("{} {who}: {} now, {} afterwards", label("way in"), verdict(path.before), verdict(path.after)));
        path.sshd.iter().for_each(|line| out.line(&format!("          {}", text::line(line.as_str()))));
        path.risks.iter().for_each(|line| out.line(&format!("          risk: {}", text::line(line.as_str()))));
    }
    if plan.other_paths > 0 {
        out.line(&format!("{} {} more, outside your grants", label("way in"), plan.other_paths));
    }
    if plan.other_sources > 0 {
        out.line(&format!("{} {} sources, outside your grants", label("others"), plan.other_sources));
    }
    if plan.confirm == Confirm::Required {
        out.line(&format!(
            "{} needed: rolled back automatically unless somebody who can still log in confirms it",
            label("confirm")
        ));
    }
    out.line(&format!("{} {}", label("digest"), text::line(&plan.digest).dimmed()));
    out.said(&plan.notes);
}

fn label(name: &str) -> String {
    format!("{name:<7}").bold().to_string()
}

fn sources(out: &mut Page, name: &str, sources: &[Source]) {
    if !sources.is_empty() {
        let list: Vec<String> = sources.iter().map(|source| source.short()).collect();
        out.line(&format!("{} {}", label(name), list.join(", ")));
    }
}

fn draw_step(out: &mut Page, number: usize, step: &StepDocument) {
    out.line(&format!("{number}. {}: {}", step.subsystem.cyan(), text::line(&step.summary).bold()));
    for line in text::lines(step.diff.as_str()) {
        let line = match line.chars().next() {
            Some('+') => line.green().to_string(),
            Some('-') => line.red().to_string(),
            Some('@') => line.cyan().to_string(),
            _ => line,
        };
        out.line(&format!("     {line}"));
    }
    if !step.undo.is_empty() {
        out.line(&format!("   {}", format!("undo: {}", text::line(&step.undo)).dimmed()));
    }
    out.gap();
}

/// What became of a change.
pub fn change(change: &Change, view: &View) -> String {
    let mut out = Page::default();
    let asked = command_line(&change.plan.operation);
    match change.state {
        ChangeState::Unchanged => nothing(&mut out, &asked, change.verdict),
        ChangeState::Confirmed if !change.changed => nothing(&mut out, &asked, change.verdict),
        ChangeState::Confirmed if change.verdict.is_some_and(|verdict| verdict != Verdict::Accept) => {
            let refused = change.verdict == Some(Verdict::Refuse);
            let but =
                if refused { "something still blocks the address" } else { "it is unknown whether the address is still blocked" };
            out.line(&format!("{} {asked}, and {but}:", "Done:".yellow().bold()));
            done(&mut out, &change.plan);
        }
        ChangeState::Confirmed => {
            out.line(&format!("{} {asked}", "Done:".green().bold()));
            done(&mut out, &change.plan);
        }
        ChangeState::Pending => {
            out.line(&format!("{} {asked}", "Applied, waiting for confirm:".yellow().bold()));
            done(&mut out, &change.plan);
            if let Some(deadline) = change.deadline {
                out.line(&format!("Rolled back automatically at {} unless confirmed:", view.time(deadline)));
                let confirm = format!("sshfix ctl confirm {}", text::line(&change.id));
                out.line(&format!("  {}", confirm.green().bold()));
            }
        }
        ChangeState::RolledBack if change.failure.is_none() => {
            rolled_back(&mut out, &asked, change, &"Rolled back:".green().bold().to_string());
        }
        ChangeState::Abandoned => {
            out.line(&format!("{} {asked}. Repair the rest by hand.", "Abandoned:".yellow().bold()));
        }
        ChangeState::RolledBack => {
            rolled_back(&mut out, &asked, change, &"Rolled back:".red().bold().to_string());
        }
        ChangeState::Stuck => {
            out.line(&format!("{} {asked}. The host is neither as before nor as planned.", "STUCK:".red().bold()));
        }
    }
    if let Some(failure) = &change.failure {
        draw_failure(&mut out, failure, change.plan.steps.len());
    }
    if !change.id.is_empty() {
        out.line(&format!("{} {}", label("change"), text::line(&change.id).dimmed()));
    }
    out.said(&change.plan.notes);
    // A note of the plan is often repeated for the change.
    let own: Vec<Text> = change.notes.iter().filter(|note| !change.plan.notes.contains(note)).cloned().collect();
    out.said(&own);
    out.text
}

/// What a step's undo says that it leaves is said again.
fn rolled_back(out: &mut Page, asked: &str, change: &Change, what: &str) {
    let left: Vec<&StepDocument> = change.plan.steps.iter().filter(|step| step.kept).collect();
    if left.is_empty() && change.besides {
        out.line(&format!("{what} {asked}. Its steps are undone; what else is not as it was before is said below."));
        return;
    }
    if left.is_empty() {
        out.line(&format!("{what} {asked}. The host is as it was before."));
        return;
    }
    out.line(&format!("{what} {asked}, as far as possible:"));
    for step in left {
        let kept = step.undo.strip_prefix("nothing: ").unwrap_or(&step.undo);
        out.line(&format!("  {} {}", "!".yellow().bold(), text::line(kept)));
    }
}

fn done(out: &mut Page, plan: &PlanDocument) {
    for step in &plan.steps {
        out.line(&format!("  {} {}: {}", "✓".green().bold(), step.subsystem, text::line(&step.summary)));
    }
    sources(out, "opens", &plan.opens);
    sources(out, "closes", &plan.closes);
}

fn draw_failure(out: &mut Page, failure: &Failure, steps: usize) {
    let at = match failure.step {
        0 => "The check afterwards failed".to_owned(),
        step => format!("Step {step} of {steps} failed ({})", text::line(&failure.summary)),
    };
    out.line(&format!("  {} {at}: {}", "✗".red().bold(), text::line(failure.message.as_str())));
    for step in &failure.rolled_back {
        out.line(&format!("  {} rolled back: {}", "↩".green(), text::line(step.as_str())));
    }
    for step in &failure.stuck {
        out.line(&format!("  {} {} {}", "!".red().bold(), "not rolled back:".red().bold(), text::line(step.as_str())));
    }
}
