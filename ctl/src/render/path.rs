//! A diagnosis, drawn like a traceroute through the host: one line a stage, the blocking line quoted under it, then the command
//! that lifts it. Behind the first refusal the line is dotted: no connection gets there, but a fix could unmask what is found.

use owo_colors::OwoColorize;
use sshfix_policy::reply::Diagnosis;
use sshfix_policy::verdict::cause::Finding;
use sshfix_policy::verdict::trace::{Handshake, Point, TraceLine};
use sshfix_policy::verdict::{Evidence, StageReport, Verdict};

use super::{Page, View, mark};
use crate::text;

/// The whole drawing.
pub fn diagnosis(diagnosis: &Diagnosis, view: &View) -> String {
    let mut out = Page::default();
    let subject = &diagnosis.subject;
    let user = subject.user.as_ref().map(|user| format!(" as {}", text::line(user))).unwrap_or_default();
    out.line(&format!("{} {}{user} to port {}", "SSH from".bold(), subject.address.bold(), subject.port));
    out.gap();

    let mut dotted = false;
    for stage in &diagnosis.stages {
        dotted |= stage.verdict == Verdict::Refuse;
        draw_stage(&mut out, stage, &diagnosis.findings, dotted, view);
    }
    let drawn = |finding: &&Finding| finding.blocking && diagnosis.stages.iter().any(|stage| stage.stage == finding.stage);
    let rest: Vec<&Finding> = diagnosis.findings.iter().filter(|finding| !drawn(finding)).collect();

    out.gap();
    let refusing: Vec<String> =
        diagnosis.stages.iter().filter(|stage| stage.verdict == Verdict::Refuse).map(|stage| stage.stage.to_string()).collect();
    out.line(&match diagnosis.verdict {
        Verdict::Accept => format!("{} every stage lets it through", "OPEN".green().bold()),
        Verdict::Refuse if refusing.is_empty() => "BLOCKED".red().bold().to_string(),
        Verdict::Refuse => format!("{} by {}", "BLOCKED".red().bold(), refusing.join(" and ")),
        Verdict::Unknown => format!("{} no stage refuses it, but not every stage could be judged", "UNKNOWN".yellow().bold()),
    });

    if !rest.is_empty() {
        out.gap();
        out.line(&"Found besides:".bold().to_string());
        for finding in rest {
            draw_finding(&mut out, "  ", finding, view);
        }
    }
    fixes(&mut out, &diagnosis.findings);
    out.notes(&diagnosis.notes);
    out.text
}

fn draw_stage(out: &mut Page, report: &StageReport, findings: &[Finding], dotted: bool, view: &View) {
    let bar = if dotted { "┊" } else { "│" };
    let bar = format!("  {}   ", bar.dimmed());
    // Padded before it is coloured: escape sequences have no width.
    let name = format!("{:<15}", report.stage.to_string());
    out.line(&format!("  {} {} {}", mark(report.verdict), name.bold(), text::line(report.detail.as_str())));

    draw_trace(out, &bar, &report.trace);
    let here: Vec<&Finding> = findings.iter().filter(|finding| finding.blocking && finding.stage == report.stage).collect();
    for finding in &here {
        draw_finding(out, &bar, finding, view);
    }
    if report.verdict != Verdict::Accept || view.verbose {
        let shown = |evidence: &&Evidence| !here.iter().any(|finding| finding.evidence.contains(evidence));
        for evidence in report.evidence.iter().filter(shown) {
            quote(out, &bar, evidence);
        }
    }
}

/// Everything that was met, in order: one line for what it is and what it does, then where it stands and whose it is. Jumps are
/// indented as deep as the kernel follows them.
fn draw_trace(out: &mut Page, bar: &str, trace: &[TraceLine]) {
    let mut before = None;
    for line in trace {
        if line.at != before {
            before.clone_from(&line.at);
            out.line(&format!("{bar}{}", line.at.as_ref().map_or_else(String::new, point)));
        }
        let indent = "  ".repeat(line.depth.min(16) + usize::from(line.at.is_some()));
        let may = if line.depends.is_empty() { "" } else { "perhaps " };
        let effect = format!("{} {may}{}", "→".dimmed(), text::line(line.effect.as_str()));
        let effect = if line.decides { effect.bold().to_string() } else { effect };
        let mut lines = text::lines(line.text.as_str());
        out.line(&format!("{bar}{indent}{}  {effect}", lines.next().unwrap_or_default()));
        for rest in lines {
            out.line(&format!("{bar}{indent}{rest}"));
        }
        let mut about = vec![text::line(line.source.as_str()).cyan().to_string()];
        about.extend(line.counter.map(|counter| format!("{} packets {} bytes", counter.packets, counter.bytes)));
        about.extend(line.owner.iter().map(|owner| format!("owner {}", text::line(&owner.to_string()))));
        out.line(&format!("{bar}{indent}  {}", about.join(", ")));
        for element in &line.elements {
            out.line(&format!("{bar}{indent}  {}: {}", text::line(&element.source).cyan(), text::line(element.text.as_str())));
        }
        for depends in &line.depends {
            out.line(&format!("{bar}{indent}  {} {}", "it depends on".yellow(), text::line(depends.as_str())));
        }
    }
}

/// `SYN at input, priority 0`
fn point(at: &Point) -> String {
    let packet = match at.packet {
        Handshake::Syn => "SYN",
        Handshake::Answer => "answer",
        Handshake::Ack => "ACK",
        Handshake::Solicitation => "neighbour solicitation",
        Handshake::Advertisement => "neighbour advertisement",
    };
    let arrival = at.arrival.as_ref().map_or_else(String::new, |arrival| format!(" {}", text::line(arrival)));
    format!("{packet}{arrival} at {}, priority {}", text::line(&at.hook), at.priority).dimmed().to_string()
}

fn draw_finding(out: &mut Page, bar: &str, finding: &Finding, view: &View) {
    let mut head = vec![finding.cause.to_string().red().to_string()];
    head.push(format!("owner {}", text::line(&finding.owner.to_string())));
    head.extend(finding.since.map(|since| format!("since {}", view.time(since))));
    head.extend(finding.until.map(|until| format!("until {}", view.time(until))));
    out.line(&format!("{bar}{}", head.join(", ")));
    for evidence in &finding.evidence {
        quote(out, bar, evidence);
    }
}

fn quote(out: &mut Page, bar: &str, evidence: &Evidence) {
    out.line(&format!("{bar}  {}", text::line(&evidence.source).cyan()));
    for line in text::lines(evidence.text.as_str()) {
        out.line(&format!("{bar}    {line}"));
    }
}

/// Each fix once, with the causes it lifts.
fn fixes(out: &mut Page, findings: &[Finding]) {
    let mut fixes: Vec<(&str, Vec<String>)> = Vec::new();
    // What blocks now comes first.
    let (blocking, besides): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.blocking);
    for finding in blocking.into_iter().chain(besides).filter(|finding| !finding.fix.is_empty()) {
        let cause = finding.cause.to_string();
        match fixes.iter_mut().find(|(fix, _)| *fix == finding.fix.as_str()) {
            Some((_, causes)) if causes.contains(&cause) => {}
            Some((_, causes)) => causes.push(cause),
            None => fixes.push((finding.fix.as_str(), vec![cause])),
        }
    }
    if fixes.is_empty() {
        return;
    }
    out.gap();
    out.line(&"To lift it:".bold().to_string());
    for (fix, causes) in &fixes {
        let causes = if fixes.len() > 1 { format!("   {} {}", "#".dimmed(), causes.join(", ").dimmed()) } else { String::new() };
        out.line(&format!("  {}{causes}", text::line(fix).green().bold()));
    }
}
