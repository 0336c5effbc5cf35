//! Lists as plain tables: who is blocked, rules, jails, the agent itself.

use jiff::Timestamp;
use owo_colors::OwoColorize;
use sshfix_policy::reply::{Ban, Bans, Firewall, Hosts, Jails, Leases, Status};

use super::table::{others, table};
use super::{Page, View, changes};
use crate::text;

fn when(time: Option<Timestamp>, view: &View, absent: &str) -> String {
    time.map_or_else(|| absent.to_owned(), |time| view.time(time))
}

fn ban_rows(bans: &[Ban], view: &View) -> Vec<[String; 4]> {
    bans.iter().map(|ban| [ban.source.short(), ban.by.clone(), when(ban.since, view, "-"), when(ban.until, view, "-")]).collect()
}

/// `banned`
pub fn bans(bans: &Bans, view: &View) -> String {
    let mut out = Page::default();
    if bans.bans.is_empty() {
        out.line("No ban or rule names such an address.");
        out.line("Rules that refuse everybody are not listed: `sshfix ctl diagnose ADDRESS` judges one address.");
    } else {
        table(&mut out, ["SOURCE", "BY", "SINCE", "UNTIL"], ban_rows(&bans.bans, view));
    }
    others(&mut out, bans.others);
    out.notes(&bans.notes);
    out.text
}

/// `hosts list`
pub fn hosts(hosts: &Hosts) -> String {
    let mut out = Page::default();
    out.line(&format!("does sshd obey these files? {}", text::line(&hosts.enforced)));
    out.gap();
    if hosts.rules.is_empty() {
        out.line("No rules in hosts.allow and hosts.deny.");
    } else {
        let rows = hosts.rules.iter().map(|rule| {
            let sshd = if rule.concerns_sshd { "sshd" } else { "" };
            [rule.file.clone(), rule.line.to_string(), sshd.to_owned(), rule.text.clone()]
        });
        table(&mut out, ["FILE", "LINE", "FOR", "RULE"], rows);
    }
    others(&mut out, hosts.others);
    out.notes(&hosts.notes);
    out.text
}

/// `firewall list`
pub fn firewall(firewall: &Firewall) -> String {
    let mut out = Page::default();
    if firewall.entries.is_empty() {
        out.line("No rule or set concerns the SSH port.");
    } else {
        let rows = firewall.entries.iter().map(|entry| [entry.reference.clone(), entry.owner.to_string(), entry.text.clone()]);
        table(&mut out, ["REFERENCE", "OWNER", "RULE"], rows);
        if let Some(set) = firewall.entries.iter().find(|entry| entry.set) {
            out.gap();
            out.line(&format!("One element of a set is {}/ADDRESS.", text::line(&set.reference)));
        }
    }
    others(&mut out, firewall.others);
    out.notes(&firewall.notes);
    out.text
}

/// `fail2ban jails`
pub fn jails(jails: &Jails, view: &View) -> String {
    let mut out = Page::default();
    if let Some(version) = &jails.version {
        out.line(&format!("fail2ban {}", text::line(version)));
    }
    if jails.jails.is_empty() {
        out.line("No jails.");
    }
    for jail in &jails.jails {
        out.gap();
        out.line(&format!("{} {}: {} banned", "jail".bold(), text::line(&jail.name).bold(), jail.banned.len()));
        if !jail.ignore.is_empty() {
            out.line(&format!("ignores {}", text::line(&jail.ignore.join(", "))));
        }
        if !jail.banned.is_empty() {
            let rows = ban_rows(&jail.banned, view).into_iter().map(|[source, _, since, until]| [source, since, until]);
            table(&mut out, ["SOURCE", "SINCE", "UNTIL"], rows);
        }
        others(&mut out, jail.others);
    }
    out.notes(&jails.notes);
    out.text
}

/// `leases`
pub fn leases(leases: &Leases, view: &View) -> String {
    let mut out = Page::default();
    if leases.leases.is_empty() {
        out.line("No lease runs.");
    } else {
        let rows = leases.leases.iter().map(|lease| {
            [lease.id.clone(), lease.summary.clone(), lease.principal.clone(), view.time(lease.ends), lease.change.clone()]
        });
        table(&mut out, ["ID", "LEASE", "BY", "ENDS", "CHANGE"], rows);
        for lease in leases.leases.iter().filter(|lease| lease.ungranted) {
            let (id, by) = (text::line(&lease.id), text::line(&lease.principal));
            out.line(&format!(
                "No grant permits {by} to ask for lease {id} any more. The lease goes on; to end it: `sshfix ctl revoke {id}`"
            ));
        }
        for lease in leases.leases.iter().filter(|_| view.verbose) {
            out.gap();
            out.line(&format!("What the end of lease {} removes:", text::line(&lease.id)));
            for part in &lease.parts {
                out.line(&format!("  {}", text::line(part)));
            }
        }
    }
    others(&mut out, leases.others);
    out.notes(&leases.notes);
    out.text
}

/// `status`
pub fn status(status: &Status, view: &View) -> String {
    let mut out = Page::default();
    out.line(&format!("{} {}", "agent".bold(), text::line(&status.version)));
    out.line(&format!("{}  {} {}", "host".bold(), text::line(&status.hostname), text::line(&status.host).dimmed()));
    out.line(&format!("{}  {}", "port".bold(), status.port));
    out.gap();
    let rows = status.subsystems.iter().map(|subsystem| {
        let version = subsystem.version.clone().unwrap_or_default();
        [subsystem.name.clone(), subsystem.state.clone(), version, subsystem.detail.clone()]
    });
    table(&mut out, ["SUBSYSTEM", "STATE", "VERSION", "DETAIL"], rows);
    out.gap();
    if let Some(why) = &status.sessions_unknown {
        let refused = "until then, no change that could close anything is made";
        out.line(&format!("{}: {}; {refused}", "The live SSH sessions are not known".bold(), text::line(why)));
    } else if status.paths.is_empty() {
        out.line("No live SSH session.");
    } else {
        out.line(&"Live SSH sessions (no change may cut their way in):".bold().to_string());
        for path in &status.paths {
            out.line(&format!("  {}", text::line(path)));
        }
    }
    others(&mut out, status.others);
    for lease in &status.leases {
        out.line(&format!("lease {}: {}, ends {}", text::line(&lease.id), text::line(&lease.summary), view.time(lease.ends)));
    }
    for change in &status.waiting {
        out.line(&changes::waiting(change));
    }
    if status.waiting.is_empty() {
        out.line("No change is pending.");
    }
    let how = status.drill.as_ref().map_or_else(String::new, |drill| {
        let result = if drill.passed { "passed".green().to_string() } else { "FAILED".red().bold().to_string() };
        let detail = if drill.detail.is_empty() { String::new() } else { format!(" ({})", text::line(&drill.detail)) };
        format!(": {result}, killed at {} points{detail}", drill.points)
    });
    out.line(&format!("Rollback last drilled: {}{how}", when(status.last_drill, view, "never")));
    out.notes(&status.notes);
    out.text
}
