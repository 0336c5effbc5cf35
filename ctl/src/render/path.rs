//! A diagnosis, drawn like a traceroute through the host: one line a stage, the blocking line quoted under it, then the command
//! that lifts it. Behind the first refusal the line is dotted: no connection gets there, but a fix could unmask what is found.

use owo_colors::OwoColorize;
use sshfix_policy::reply::Diagnosis;
use sshfix_policy::verdict::{Cause, Evidence, Finding, Stage, StageReport, Verdict};

use super::{Page, View, mark};
use crate::text;

/// Where a cause acts, so that its finding is drawn under that stage.
fn stage_of(cause: Cause) -> Stage {
    match cause {
        Cause::Fail2banBan
        | Cause::Fail2banBanStale
        | Cause::NftRule
        | Cause::IptablesRule
        | Cause::IptablesRatelimit
        | Cause::IpsetEntry
        | Cause::UfwDeny
        | Cause::FirewalldDeny
        | Cause::SshguardBlock
        | Cause::CrowdsecDecision => Stage::Netfilter,
        Cause::RouteBlackhole => Stage::Route,
        Cause::HostsDeny | Cause::HostsAllowRestrict => Stage::HostsAccess,
        Cause::SshdListen | Cause::SshdDown | Cause::PortNotSsh => Stage::Listener,
    }
}

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
    let drawn =
        |finding: &&Finding| finding.blocking && diagnosis.stages.iter().any(|stage| stage.stage == stage_of(finding.cause));
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
    out.line(&format!("  {} {} {}", mark(report.verdict), name.bold(), text::line(&report.detail)));

    let here: Vec<&Finding> =
        findings.iter().filter(|finding| finding.blocking && stage_of(finding.cause) == report.stage).collect();
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

fn draw_finding(out: &mut Page, bar: &str, finding: &Finding, view: &View) {
    let mut head = vec![finding.cause.to_string().red().to_string()];
    if !finding.owner.is_empty() {
        head.push(format!("owner {}", text::line(&finding.owner)));
    }
    head.extend(finding.since.map(|since| format!("since {}", view.time(since))));
    head.extend(finding.until.map(|until| format!("until {}", view.time(until))));
    out.line(&format!("{bar}{}", head.join(", ")));
    for evidence in &finding.evidence {
        quote(out, bar, evidence);
    }
}

fn quote(out: &mut Page, bar: &str, evidence: &Evidence) {
    out.line(&format!("{bar}  {}", text::line(&evidence.source).cyan()));
    for line in text::lines(&evidence.text) {
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
        match fixes.iter_mut().find(|(fix, _)| *fix == finding.fix) {
            Some((_, causes)) if causes.contains(&cause) => {}
            Some((_, causes)) => causes.push(cause),
            None => fixes.push((&finding.fix, vec![cause])),
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
