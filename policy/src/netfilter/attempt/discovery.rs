//! Lifts what keeps the next hop towards an IPv6 client and this host from finding each other: accepts for the messages of neighbour
//! discovery that are lost, from and to the next hop alone, and nothing for those that are not.

use super::{Attempt, Gone, evidence, refusal_owner, side};
use crate::host::step::Step;
use crate::host::{HostState, Needs};
use crate::netfilter::outcome::{Culprit, Message, Pass, Refusal};
use crate::netfilter::walk::{Hop, lost};
use crate::subsystem::nf_tables::lift::{Onto, accept};
use crate::subsystem::xtables;
use crate::verdict::{Admits, Connection};

/// Accepts for one connection: 4 messages, for each of its ways in, past several chains that lose them.
const MOST: usize = 64;

/// All accepts that are needed, as one attempt; by hand where one of them is not ours to make.
pub(in crate::netfilter) fn attempts(
    host: &HostState,
    connection: &Connection,
    mark: Option<&str>,
    needs: &mut Needs,
) -> Vec<Attempt> {
    let mut model = host.clone();
    let mut steps = Vec::new();
    while steps.len() < MOST {
        let left = lost(&model, connection, needs);
        let Some((hop, refusal)) = left.first() else { break };
        let Pass::Discovery(message) = refusal.pass else { break };
        if let Some(by_hand) = by_hand(&model, connection, hop, message, refusal, needs) {
            return vec![Attempt { steps: Vec::new(), by_hand: Some(by_hand), gone: Gone::Rule }];
        }
        let helps = candidates(&model, hop, message, refusal, mark).into_iter().find_map(|step| {
            let mut after = model.clone();
            step.predict(&mut after).ok()?;
            let same = |(other, again): &(Hop, Refusal)| {
                other == hop && again.pass == refusal.pass && base(&again.culprit) == base(&refusal.culprit)
            };
            (!lost(&after, connection, needs).iter().any(same)).then_some((step, after))
        });
        let Some((step, after)) = helps else { return Vec::new() };
        steps.push(step);
        model = after;
    }
    if steps.is_empty() { Vec::new() } else { vec![Attempt { steps, by_hand: None, gone: Gone::Discovery }] }
}

/// Where it is lost: the base chain, or the legacy table and its chain.
fn base(culprit: &Culprit) -> (Option<usize>, Option<(&str, &str)>) {
    match culprit {
        Culprit::NfTables(event) => (event.frames.first().map(|frame| frame.chain), None),
        Culprit::Legacy(outcome) => (None, Some((&outcome.place.table, &outcome.place.chain))),
        Culprit::Unread(_) | Culprit::Full(_) => (None, None),
    }
}

/// An accept before the rule that decides, or at the end of the chain whose policy does; else at the head of the base chain.
fn candidates(host: &HostState, hop: &Hop, message: Message, refusal: &Refusal, mark: Option<&str>) -> Vec<Step> {
    let (end, admits) = (hop.end(message), Admits::Icmpv6(message.kind()));
    match &refusal.culprit {
        Culprit::NfTables(event) => {
            let Some(state) = host.nf_tables.present() else { return Vec::new() };
            let decider = event.frames.last().map(|frame| (frame.chain, frame.rule));
            let head = event.frames.first().map(|frame| (frame.chain, Some(0)));
            let step = |(chain, index): (usize, Option<usize>)| {
                accept(state, state.chains.get(chain)?, index, end, admits, (side(refusal.pass), Onto::All), mark)
            };
            decider.into_iter().chain(head).filter_map(step).map(Step::NfTables).collect()
        }
        Culprit::Legacy(outcome) => {
            let step = host.xtables.present().and_then(|state| xtables::Step::accept(state, &outcome.place, end, admits, mark));
            step.map(Step::Xtables).into_iter().collect()
        }
        Culprit::Unread(_) | Culprit::Full(_) => Vec::new(),
    }
}

/// What a person must do: in a manager's rules, in a legacy table that is not written, and for what leaves by a legacy table, of which
/// sshfix builds accepts for what comes in only.
fn by_hand(
    host: &HostState,
    connection: &Connection,
    hop: &Hop,
    message: Message,
    refusal: &Refusal,
    needs: &mut Needs,
) -> Option<String> {
    let owner = refusal_owner(host, connection, refusal);
    let (end, kind) = (hop.end(message).short(), message.kind());
    let way = if message.comes_in() { "from" } else { "to" };
    if owner.is_manager() {
        let quoted = evidence(host, connection, refusal, needs);
        let rule = quoted.first().map_or_else(String::new, |one| format!(", ahead of {}: {}", one.source, one.text.as_str()));
        return Some(format!("accept ICMPv6 type {kind} {way} {end} (neighbour discovery) through {owner}{rule}"));
    }
    let Culprit::Legacy(outcome) = &refusal.culprit else { return None };
    let place = &outcome.place;
    let table = host.xtables.present()?.table(place.v6, &place.table)?;
    if message.comes_in() && table.readonly.is_none() {
        return None;
    }
    let letter = if message.comes_in() { 's' } else { 'd' };
    let command = format!(
        "{} -t {} -I {} {} -{letter} {end} -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT",
        xtables::program(place.v6),
        place.table,
        place.chain,
        place.position
    );
    Some(table.readonly.as_ref().map_or_else(|| command.clone(), |why| format!("{command} (sshfix cannot: {why})")))
}
