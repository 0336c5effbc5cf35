//! sshd's configuration: each value with the line that sets it, in a form that sshd would read again; and what is wrong with it.

use owo_colors::OwoColorize;

use super::{Page, View};
use crate::text;
use sshfix_policy::reply::sshd::{Origin, Problem, RunningState, Severity, ShownLine, ShownSetting, SshdCheck, SshdShow};

/// Behind longer values the origin follows at once.
const COLUMN: usize = 48;

/// `sshd show`
pub fn show(found: &SshdShow, view: &View) -> String {
    let mut out = Page::default();
    let whom = found.login.as_ref().map_or_else(
        || "for everybody, Match blocks left out".to_owned(),
        |login| format!("for {} from {} to {}", login.user, login.address, login.local_address),
    );
    let what = if found.running {
        format!("sshd on port {}", found.port)
    } else {
        format!("No sshd listens on port {}; what its files say", found.port)
    };
    out.line(&text::line(&format!("{what}, {whom}: {}", found.command.as_str())).bold().to_string());
    out.gap();
    let shown: Vec<&ShownSetting> =
        found.settings.iter().filter(|setting| view.all || setting.origin != Origin::Default).collect();
    for setting in &shown {
        self::setting(&mut out, setting);
    }
    let hidden = found.settings.len() - shown.len();
    if shown.is_empty() {
        out.line("Every value is sshd's default.");
    }
    if hidden > 0 {
        out.gap();
        out.line(&format!("{hidden} more are sshd's defaults: `--all` shows them").dimmed().to_string());
    }
    out.said(&found.notes);
    out.text
}

/// One line a value, each with its own origin where there are as many lines as values.
fn setting(out: &mut Page, setting: &ShownSetting) {
    let origins: Vec<String> = match setting.origin {
        Origin::File | Origin::CommandLine => setting.lines.iter().map(place).collect(),
        Origin::Default => vec!["the default".to_owned()],
        Origin::Derived => vec!["follows from other keywords".to_owned()],
        Origin::Unknown => vec!["origin unknown".to_owned()],
    };
    if setting.values.is_empty() {
        // sshd -T does not print every keyword; of lists it prints what is in them.
        let quoted: Vec<&str> = setting.lines.iter().map(|line| line.text.as_str()).collect();
        let what = if quoted.is_empty() { format!("# {} is not set", setting.keyword) } else { quoted.join("; ") };
        line(out, &what, &format!("{}, sshd -T does not print it", origins.join("; ")));
        return;
    }
    for (at, value) in setting.values.iter().enumerate() {
        let origin = match origins.get(at) {
            Some(own) if origins.len() == setting.values.len() => own.clone(),
            _ => origins.join("; "),
        };
        line(out, &format!("{} {value}", setting.keyword), &origin);
    }
}

fn line(out: &mut Page, setting: &str, origin: &str) {
    out.line(&format!("{:COLUMN$} {}", text::line(setting), text::line(&format!("# {origin}")).dimmed()));
}

/// `/etc/ssh/x.conf line 3, in Match User bob at /etc/ssh/sshd_config line 40`
fn place(line: &ShownLine) -> String {
    let at = if line.line == 0 { format!("{}: {}", line.file, line.text) } else { format!("{} line {}", line.file, line.line) };
    let under = line.under.iter().map(|block| format!(", in {} at {} line {}", block.text, block.file, block.line));
    std::iter::once(at).chain(under).collect()
}

/// `sshd check`
pub fn check(found: &SshdCheck, view: &View) -> String {
    let mut out = Page::default();
    let good = |yes: bool| if yes { "✓".green().bold().to_string() } else { "✗".red().bold().to_string() };
    let file = text::line(&found.file);
    let valid = if found.valid { "sshd accepts them" } else { "sshd does not accept them" };
    out.line(&format!("  {} files    {file} and what it includes: {valid}", good(found.valid)));
    let mark = match found.running.state {
        RunningState::Current => good(true),
        RunningState::Down => good(false),
        RunningState::Changed | RunningState::Unknown => "?".yellow().bold().to_string(),
    };
    let since = match (found.running.state, found.running.since) {
        (RunningState::Current, Some(since)) => format!("; it read them at {}", view.time(since)),
        _ => String::new(),
    };
    out.line(&format!("  {mark} running  {}{since}", text::line(&found.running.detail)));
    let start = if found.would_start { "sshd would start again" } else { "sshd would not start again" };
    out.line(&format!("  {} restart  {start}", good(found.would_start)));
    for problem in &found.problems {
        out.gap();
        self::problem(&mut out, problem);
    }
    out.text
}

fn problem(out: &mut Page, problem: &Problem) {
    let severity = match problem.severity {
        Severity::Broken => "broken:".red().bold().to_string(),
        Severity::Warning => "warning:".yellow().bold().to_string(),
        Severity::Note => "note:".bold().to_string(),
    };
    out.line(&format!("{severity} {}", text::line(problem.text.as_str())));
    if let Some(at) = problem.at.as_ref().filter(|at| at.line > 0) {
        out.line(&format!("  {} line {}", text::line(&at.file), at.line));
        out.line(&format!("    {}", text::line(&at.text)));
    }
    if !problem.advice.is_empty() {
        out.line(&format!("  {} {}", "what to do:".bold(), text::line(&problem.advice)));
    }
}
