//! `firewall who`: who reaches the port, who does not and by which rule, of whom it cannot be told. Long lists are cut.

use owo_colors::OwoColorize;
use sshfix_policy::ranges::number;
use sshfix_policy::reply::{SourceRange, Who};
use sshfix_policy::verdict::Verdict;

use super::{Page, View, mark};
use crate::text;

/// Sources shown of one list, and rules shown, unless all are asked for.
const SHOWN: usize = 8;

/// `firewall who`
pub fn who(who: &Who, view: &View) -> String {
    let mut out = Page::default();
    out.line(&format!("Who reaches port {}:", who.port).bold().to_string());
    if who.reach.is_empty() {
        out.line(&format!("{} nobody", mark(Verdict::Refuse)));
    } else {
        group(&mut out, Verdict::Accept, "these", "", &who.reach, view);
    }
    let mut deciders: Vec<_> = who.deciders.iter().collect();
    deciders.sort_by_key(|decider| std::cmp::Reverse(count(&decider.sources)));
    let shown = if view.all { deciders.len() } else { SHOWN };
    for decider in deciders.iter().take(shown) {
        group(&mut out, Verdict::Refuse, &decider.by, &decider.text, &decider.sources, view);
    }
    if let Some(more) = deciders.len().checked_sub(shown).filter(|more| *more > 0) {
        out.line(&format!("  and {more} more rules that block; `--all` shows them"));
    }
    for unknown in &who.unknown {
        group(&mut out, Verdict::Unknown, &unknown.why, "", &unknown.sources, view);
    }
    super::table::others(&mut out, who.others);
    out.notes(&who.notes);
    out.text
}

/// A line for what decides, and the widest of its sources first.
fn group(out: &mut Page, verdict: Verdict, by: &str, text: &str, sources: &[SourceRange], view: &View) {
    let head = if verdict == Verdict::Accept { "let in".to_owned() } else { text::line(by) };
    let quoted = if text.is_empty() { String::new() } else { format!(": {}", text::line(text)) };
    out.line(&format!("{} {}{quoted}", mark(verdict), head.bold()));
    let mut widest: Vec<&SourceRange> = sources.iter().collect();
    // Of the same width in their own order; IPv4 first.
    widest.sort_by_key(|range| (range.first.is_ipv6(), std::cmp::Reverse(width(range)), range.first));
    let shown = if view.all { widest.len() } else { SHOWN };
    for family in [false, true] {
        let of_family: Vec<&SourceRange> = widest.iter().copied().filter(|range| range.first.is_ipv6() == family).collect();
        let listed: Vec<String> = of_family.iter().take(shown).map(|range| short(range)).collect();
        let more = of_family.len().saturating_sub(shown);
        if !listed.is_empty() {
            let more = if more == 0 { String::new() } else { format!(" and {more} more ranges") };
            out.line(&format!("    {}{more}", listed.join(", ")));
        }
    }
}

/// A single address without its prefix length.
fn short(range: &SourceRange) -> String {
    range.prefix().map_or_else(|| range.to_string(), sshfix_policy::address::Source::short)
}

fn width(range: &SourceRange) -> u128 {
    number(range.last) - number(range.first)
}

/// Roughly how many addresses, to begin with the rule that blocks most.
fn count(sources: &[SourceRange]) -> u128 {
    sources.iter().fold(0, |sum, range| sum.saturating_add(width(range)).saturating_add(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use sshfix_policy::reply::{Decided, Unsettled};

    use super::*;

    fn ranges(texts: &[&str]) -> Vec<SourceRange> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn long_lists_are_cut_widest_first_and_shown_whole_on_request() {
        let many: Vec<String> =
            (0..20).map(|last| format!("198.51.100.{}/32", 2 * last)).chain(["203.0.113.0/24".to_owned()]).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let found = Who {
            port: 22,
            reach: ranges(&["::/0"]),
            deciders: vec![Decided {
                by: "nft inet filter input handle 9".to_owned(),
                text: "ip saddr @bad drop".to_owned(),
                sources: ranges(&many),
            }],
            unknown: vec![Unsettled { sources: ranges(&["10.0.0.7-10.0.0.9"]), why: "limit rate 1/second".to_owned() }],
            ..Who::default()
        };
        let view = |all| View { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC, verbose: false, all };
        let cut = anstream::adapter::strip_str(&who(&found, &view(false))).to_string();
        assert!(cut.contains("203.0.113.0/24, 198.51.100.0, ") && cut.contains("and 13 more ranges"), "{cut}");
        assert!(cut.contains("handle 9: ip saddr @bad drop") && cut.contains("10.0.0.7-10.0.0.9"), "{cut}");
        let all = anstream::adapter::strip_str(&who(&found, &view(true))).to_string();
        assert!(all.contains("198.51.100.38") && !all.contains("more ranges"), "{all}");
    }
}
