//! A rule of iptables-nft as iptables-nft-save prints it: conditions as options in its order, matches and targets by their own text.

use std::fmt::Write as _;

use super::super::condition::{Field, Item, Test, items, transport};
use super::super::expression::{CmpOp, Expression, Verdict};
use super::super::{Chain, Family, Rule, State};
use super::value::{address, mask_len, name, port, protocol};
use super::{condition, field, statement, widen};
use crate::subsystem::ipset::SetNames;
use crate::subsystem::xtables::extension::render::{quoted, render_match, tcp_flags};
use crate::subsystem::xtables::extension::render_target::render_target;

/// A rule as iptables-nft-save prints it.
pub(super) fn iptables(state: &State, chain: &Chain, rule: &Rule, ipsets: &SetNames) -> String {
    let v6 = chain.family == Family::Ip6;
    // -s, -d, -i, -o, -p come in this order, whatever the order of the expressions.
    let mut head: [Option<String>; 5] = [None, None, None, None, None];
    let mut words: Vec<String> = Vec::new();
    let items = items(state, chain, rule);
    let transport = transport(&items);
    for item in items {
        match item {
            Item::Condition(tested, test) => match option(&tested, &test, v6, transport) {
                Some((Some(place), word)) => {
                    if let Some(slot) = head.get_mut(place) {
                        *slot = Some(word);
                    }
                }
                Some((None, word)) => join_or_push(&mut words, word, &format!("-m {transport} ")),
                None => words.push(format!("[{}]", condition(state, chain.family, transport, &tested, &test))),
            },
            Item::Statement(expression) => match expression {
                Expression::Match { name, revision, info } => words.push(render_match(v6, name, *revision, info, ipsets)),
                Expression::Target { name, revision, info } => words.push(render_target(v6, name, *revision, info, ipsets)),
                Expression::Verdict(Verdict::Accept) => words.push("-j ACCEPT".to_owned()),
                Expression::Verdict(Verdict::Drop) => words.push("-j DROP".to_owned()),
                Expression::Verdict(Verdict::Return) => words.push("-j RETURN".to_owned()),
                Expression::Verdict(Verdict::Jump(to)) => words.push(format!("-j {to}")),
                Expression::Verdict(Verdict::Goto(to)) => words.push(format!("-g {to}")),
                Expression::Counter { .. } => {}
                Expression::Limit { rate, unit, burst, kind: 0, over: false } if matches!(unit, 1 | 60 | 3600 | 86_400) => {
                    let unit = match unit {
                        1 => "sec",
                        60 => "min",
                        3600 => "hour",
                        _ => "day",
                    };
                    let burst = if *burst == 5 { String::new() } else { format!(" --limit-burst {burst}") };
                    words.push(format!("-m limit --limit {rate}/{unit}{burst}"));
                }
                other => words.extend(statement(chain, chain.family, other, ipsets).map(|text| format!("[{text}]"))),
            },
        }
    }
    if let Some(comment) = &rule.comment {
        words.push(format!("-m comment --comment {}", quoted(comment)));
    }
    let mut line = format!("-A {}", chain.name);
    for word in head.into_iter().flatten().chain(words) {
        let _ = write!(line, " {word}");
    }
    line
}

/// Options of one match that stand side by side share its name; the flags come last.
fn join_or_push(words: &mut Vec<String>, word: String, named: &str) {
    let before = words.last().and_then(|last| last.strip_prefix(named)).map(str::to_owned);
    match (before, word.strip_prefix(named)) {
        (Some(before), Some(more)) => {
            words.pop();
            let (one, two) = if before.contains("--tcp-flags") { (more, before.as_str()) } else { (before.as_str(), more) };
            words.push(format!("{named}{one} {two}"));
        }
        _ => words.push(word),
    }
}

/// A condition as an option: where it stands, and its text.
fn option(tested: &Field, test: &Test, v6: bool, transport: &str) -> Option<(Option<usize>, String)> {
    let not = |op: CmpOp| match op {
        CmpOp::Eq => Some(""),
        CmpOp::Neq => Some("! "),
        CmpOp::Lt | CmpOp::Lte | CmpOp::Gt | CmpOp::Gte => None,
    };
    let kind = field(tested, if v6 { Family::Ip6 } else { Family::Ip }, transport).0;
    match (kind.as_str(), test) {
        ("ip saddr" | "ip6 saddr" | "ip daddr" | "ip6 daddr", test) => {
            let (op, bytes, len) = match test {
                Test::Compare(op, bytes) => (*op, bytes, u32::try_from(bytes.len() * 8).ok()?),
                Test::Masked { mask, xor, op, value } if xor.iter().all(|byte| *byte == 0) => (*op, value, mask_len(mask)?),
                Test::Masked { .. } | Test::Range { .. } | Test::Set { .. } => return None,
            };
            let (place, letter) = if kind.ends_with("saddr") { (0, 's') } else { (1, 'd') };
            Some((Some(place), format!("{}-{letter} {}/{len}", not(op)?, address(&widen(bytes, v6)))))
        }
        ("iifname", Test::Compare(op, bytes)) => Some((Some(2), format!("{}-i {}", not(*op)?, interface(bytes)))),
        ("oifname", Test::Compare(op, bytes)) => Some((Some(3), format!("{}-o {}", not(*op)?, interface(bytes)))),
        ("meta l4proto" | "ip protocol" | "ip6 nexthdr", Test::Compare(op, bytes)) => {
            Some((Some(4), format!("{}-p {}", not(*op)?, protocol(bytes))))
        }
        ("tcp dport" | "udp dport", Test::Compare(op, bytes)) => {
            Some((None, format!("-m {transport} {}--dport {}", not(*op)?, port(bytes))))
        }
        ("tcp sport" | "udp sport", Test::Compare(op, bytes)) => {
            Some((None, format!("-m {transport} {}--sport {}", not(*op)?, port(bytes))))
        }
        ("tcp dport" | "udp dport", Test::Range { negated, from, to }) => {
            Some((None, ports("dport", transport, *negated, from, to)))
        }
        ("tcp sport" | "udp sport", Test::Range { negated, from, to }) => {
            Some((None, ports("sport", transport, *negated, from, to)))
        }
        ("tcp flags", Test::Masked { mask, xor, op, value }) if xor.iter().all(|byte| *byte == 0) => {
            let (mask, set) = (tcp_flags(*mask.first()?), tcp_flags(*value.first()?));
            Some((None, format!("-m tcp {}--tcp-flags {mask} {set}", not(*op)?)))
        }
        _ => None,
    }
}

fn ports(option: &str, transport: &str, negated: bool, from: &[u8], to: &[u8]) -> String {
    format!("-m {transport} {}--{option} {}:{}", if negated { "! " } else { "" }, port(from), port(to))
}

/// iptables-nft compares a name with its NUL, and a `name+` without.
fn interface(bytes: &[u8]) -> String {
    if bytes.contains(&0) { name(bytes) } else { format!("{}+", name(bytes)) }
}
