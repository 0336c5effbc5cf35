//! The netfilter stage: `nf_tables` and iptables-legacy together, base chains of both in the kernel's order.

mod alternative;
mod arp;
mod arrival;
#[cfg(test)]
mod arrival_tests;
mod attempt;
mod banned;
mod block;
mod conntrack;
mod deciding;
#[cfg(test)]
mod discovery_tests;
#[cfg(test)]
mod effort_tests;
mod forwarded;
mod ipset;
mod list;
mod managed;
mod marked;
mod no_plan;
mod outcome;
pub mod partition;
mod prepared;
mod recent;
mod reference;
#[cfg(test)]
mod rewrite_tests;
#[cfg(test)]
pub(crate) mod tests;
mod trace;
mod walk;

use crate::host::{HostState, Needs, Part};
use crate::packet::Doubt;
use crate::subsystem::nf_tables::evaluate::{Event, Exit};
use crate::subsystem::nf_tables::{State, render};
use crate::subsystem::xtables;
use crate::verdict::{Connection, Evidence, Stage, StageReport, Verdict};
pub use banned::bans;
pub use block::{blocks, plan_accept};
pub use forwarded::opens_others;
pub use ipset::asked as sets_asked;
pub use list::{firewall_list, plan_remove};
pub(crate) use marked::{marked, unmark};
pub use no_plan::NoPlan;
use outcome::{Culprit, Pass, Refusal};
use prepared::Prepared;
pub use reference::{Reference, ReferenceError};
pub use trace::trace;
pub use walk::Walk;
use walk::{Undiscovered, walk, walk_by_rules};

/// What the packet filters do to the handshake of this connection: the SYN, its answer, and the ACK.
pub fn evaluate(host: &HostState, connection: &Connection, needs: &mut Needs) -> StageReport {
    judge(host, connection, needs).0
}

/// What the rules alone do, without neighbour discovery, which hangs on what this host knows of each single address.
pub fn evaluate_rules(host: &HostState, connection: &Connection, needs: &mut Needs) -> StageReport {
    evaluate_prepared(&Prepared::new(host), connection, needs)
}

/// The same of a host that many connections are asked about.
fn evaluate_prepared(prepared: &Prepared<'_>, connection: &Connection, needs: &mut Needs) -> StageReport {
    report(prepared.host, connection, &walk_by_rules(prepared, connection, needs), needs)
}

/// Why a connection that is accepted now comes only while its next hop and this host remember each other's link address: neighbour
/// discovery is lost. `None` where it comes for good, or not at all.
pub fn only_remembered(host: &HostState, connection: &Connection, needs: &mut Needs) -> Option<String> {
    if connection.source.is_ipv4() {
        return None;
    }
    let walked = walk(host, connection, needs);
    walked.undiscovered.filter(|_| walked.refusals.is_empty()).map(|undiscovered| undiscovered.text(how))
}

/// As [`evaluate`], with the way it goes.
pub fn judge(host: &HostState, connection: &Connection, needs: &mut Needs) -> (StageReport, Walk) {
    let walked = walk(host, connection, needs);
    let judged = report(host, connection, &walked, needs);
    if judged.verdict == Verdict::Accept
        && let Some((detail, evidence)) = arp::may_lose(host, connection, needs)
    {
        return (StageReport::new(Stage::Netfilter, Verdict::Unknown, detail, evidence), walked);
    }
    (judged, walked)
}

fn report(host: &HostState, connection: &Connection, walked: &Walk, needs: &mut Needs) -> StageReport {
    let report = |verdict, detail: String, evidence| StageReport::new(Stage::Netfilter, verdict, detail, evidence);
    let discovery = |refusal: &Refusal| walked.undiscovered.as_ref().filter(|_| matches!(refusal.pass, Pass::Discovery(_)));
    if let Some((refusal, undiscovered)) = walked.decided().and_then(|refusal| Some((refusal, discovery(refusal)?))) {
        let mut quoted = evidence(host, connection, refusal, needs);
        quoted.push(undiscovered.evidence());
        return report(Verdict::Refuse, undiscovered.text(how), quoted);
    }
    if let Some(refusal) = walked.decided() {
        let detail = format!("{} {}{}", what(refusal.pass), how(refusal), taken(walked));
        return report(Verdict::Refuse, detail, evidence(host, connection, refusal, needs));
    }
    if let Some(first) = walked.refusals.first() {
        let detail = match &first.culprit {
            _ if discovery(first).is_some() => discovery(first).map_or_else(String::new, |one| one.text(how)),
            Culprit::Unread(why) => why.clone(),
            Culprit::Full(fill) => {
                format!("{}; a new connection gets in only if the kernel finds an entry to evict", fill.text())
            }
            Culprit::NfTables(_) | Culprit::Legacy(_) => {
                format!("{} may be {}; it depends on {}", what(first.pass), how(first).trim_start_matches("is "), doubts(first))
            }
        };
        let mut quoted: Vec<Evidence> = Vec::new();
        for refusal in &walked.refusals {
            let new: Vec<_> =
                evidence(host, connection, refusal, needs).into_iter().filter(|one| !quoted.contains(one)).collect();
            quoted.extend(new);
            quoted.extend(discovery(refusal).map(Undiscovered::evidence));
        }
        return report(Verdict::Unknown, detail, quoted);
    }
    let detail = match (&host.nf_tables, &host.xtables, walked.delivered_to) {
        (Part::Absent(_), Part::Absent(_), _) => "no packet filter on this host".to_owned(),
        (_, _, Some(port)) => format!("accepted, and delivered to port {port}{}", taken(walked)),
        (_, _, None) => format!("accepted{}", taken(walked)),
    };
    match &walked.undiscovered {
        None => report(Verdict::Accept, detail, Vec::new()),
        Some(undiscovered) => {
            let lost = undiscovered.lost.first();
            let mut quoted = lost.map_or_else(Vec::new, |lost| evidence(host, connection, lost, needs));
            quoted.push(undiscovered.evidence());
            report(Verdict::Accept, format!("{detail}; but {}", undiscovered.text(how)), quoted)
        }
    }
}

/// How the connection was taken to come in, where the verdict depends on it.
fn taken(walked: &Walk) -> String {
    walked.arrival.as_ref().map_or_else(String::new, |by| format!(" (coming in {by}, where answers to it leave)"))
}

fn what(pass: Pass) -> &'static str {
    match pass {
        Pass::Syn => "the SYN",
        Pass::Answer => "the answer to the SYN",
        Pass::Ack => "the ACK that completes the handshake",
        Pass::Discovery(message) if message.kind() == 135 => "a neighbour solicitation",
        Pass::Discovery(_) => "a neighbour advertisement",
    }
}

/// `is dropped`, `is rejected with ...`
fn how(refusal: &Refusal) -> String {
    use crate::subsystem::xtables::evaluate::End;
    match &refusal.culprit {
        Culprit::NfTables(event) => match &event.exit {
            Exit::Accept => "is accepted".to_owned(),
            Exit::Refuse(how) => format!("is {how}"),
        },
        Culprit::Legacy(outcome) => match &outcome.end {
            End::Accept => "is accepted".to_owned(),
            End::Drop => "is dropped".to_owned(),
            End::Reject(with) => format!("is rejected with {with}"),
            End::Misdirected(port) => format!("is sent to port {port}, where no SSH server listens"),
            End::Elsewhere(where_to) => format!("is {where_to}"),
            End::Unknown(_) => "is refused".to_owned(),
        },
        Culprit::Unread(why) => format!("is lost: {why}"),
        Culprit::Full(fill) => format!("is dropped: {}", fill.text()),
    }
}

fn doubts(refusal: &Refusal) -> String {
    let mut texts: Vec<String> = refusal.doubts.iter().map(Doubt::to_string).collect();
    texts.dedup();
    if texts.is_empty() { "rules before it".to_owned() } else { texts.join(", ") }
}

/// The rules and elements that decide, quoted.
fn evidence(host: &HostState, connection: &Connection, refusal: &Refusal, needs: &mut Needs) -> Vec<Evidence> {
    let mut evidence = match &refusal.culprit {
        Culprit::NfTables(event) => {
            host.nf_tables.present().map_or_else(Vec::new, |state| event_evidence(host, state, event, needs))
        }
        Culprit::Legacy(outcome) => {
            host.xtables.present().map_or_else(Vec::new, |state| legacy_evidence(host, state, &outcome.place))
        }
        Culprit::Unread(_) => Vec::new(),
        Culprit::Full(fill) => vec![fill.evidence()],
    };
    evidence.extend(ipset::decides(host, connection, refusal).iter().map(ipset::Held::evidence));
    evidence.extend(recent::decides(host, connection, refusal).iter().map(recent::Listed::evidence));
    evidence
}

fn event_evidence(host: &HostState, state: &State, event: &Event, needs: &mut Needs) -> Vec<Evidence> {
    let sets = host.set_names();
    let mut evidence = Vec::new();
    for frame in event.frames.iter().rev() {
        let Some(chain) = state.chains.get(frame.chain) else { continue };
        let place = format!("nft {} {} {}", chain.family, chain.table, chain.name);
        match frame.rule.and_then(|index| chain.rules.get(index)) {
            Some(rule) => {
                needs.extend(render::needs(state, chain, rule));
                evidence.push(Evidence::new(format!("{place} handle {}", rule.handle), render::rule(state, chain, rule, &sets)));
            }
            None => evidence.push(Evidence::new(format!("{place} policy"), render::policy(chain))),
        }
        for found in frame.found.iter().filter(|found| !found.set.set.starts_with("__")) {
            let text = render::element(state, &found.set, &found.element);
            evidence.push(Evidence::new(format!("nft set {}", found.set), text));
        }
    }
    evidence
}

fn legacy_evidence(host: &HostState, state: &xtables::State, place: &xtables::Place) -> Vec<Evidence> {
    let Some(chain) = state.table(place.v6, &place.table).and_then(|table| table.chain(&place.chain)) else { return Vec::new() };
    let rule = place.position.checked_sub(1).and_then(|index| chain.rules.get(index));
    let text = rule.map_or_else(
        || format!("-P {} {}", chain.name, if chain.policy_accept { "ACCEPT" } else { "DROP" }),
        |rule| rule.line(&chain.name, place.v6, &host.set_names()),
    );
    vec![Evidence::new(place.to_string(), text)]
}
