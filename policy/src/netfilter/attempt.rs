//! The ways to lift one refusal, most exact first: an element or rule of just this client, the client taken out of a range, an accept
//! before what decides. Each is tried on the model by who asks; none is taken here.

mod discovery;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::outcome::{Culprit, Pass, Refusal};
use super::walk::Walk;
use super::{deciding, evidence, ipset, managed, recent};
use crate::address::Source;
use crate::host::step::Step;
use crate::host::{HostState, Needs};
use crate::subsystem::nf_tables::evaluate::Event;
use crate::subsystem::nf_tables::expression::{Expression, Verdict};
use crate::subsystem::nf_tables::forwarded::{Forwarded, forwarded};
use crate::subsystem::nf_tables::lift::{
    Onto, Side, accept, address_in_key, delete_element, delete_rule, found_sources, rule_source,
};
use crate::subsystem::nf_tables::owner;
use crate::subsystem::nf_tables::split::split;
use crate::subsystem::nf_tables::{self, Chain, Found, State};
use crate::subsystem::xtables::{self, Action};
use crate::verdict::owner::Owner;
use crate::verdict::{Admits, Connection};

pub(super) use discovery::attempts as through_discovery;

/// Own addresses that accepts are written for, one each, where the routing table cannot be asked.
const MOST_ADDRESSES: usize = 16;

/// The client's side of a packet of this pass.
pub(super) fn side(pass: Pass) -> Side {
    match pass {
        Pass::Discovery(message) if !message.comes_in() => Side::Destination,
        Pass::Syn | Pass::Ack | Pass::Discovery(_) => Side::Source,
        Pass::Answer => Side::Destination,
    }
}

/// A way to lift a refusal, to be tried on the model.
pub(super) struct Attempt {
    /// What is done.
    pub(super) steps: Vec<Step>,
    /// Said instead of doing the steps, where a manager owns the place.
    pub(super) by_hand: Option<String>,
    /// What must not refuse any more for the attempt to have worked.
    gone: Gone,
}

enum Gone {
    /// This very rule, policy or element.
    Decider,
    /// Anything in the same base chain: the attempt is on a rule that led to the one that decided.
    BaseChain,
    /// This very rule, in its place: an element of a set it uses is gone.
    Element,
    /// Nothing: the rule itself is gone, and the next one may look the same.
    Rule,
    /// Every message of neighbour discovery that is lost.
    Discovery,
}

impl Attempt {
    /// Whether the model after it no longer has the refusal.
    pub(super) fn works(&self, (model, before): (&HostState, &Refusal), (predicted, after): (&HostState, &Walk)) -> bool {
        // What is uncertain before may stay so for other reasons; what is certain must not be so any more.
        let mut left = after.refusals.iter().filter(|refusal| refusal.certain || !before.certain);
        match (&before.culprit, &self.gone) {
            (_, Gone::Discovery) => !left.any(|refusal| matches!(refusal.pass, Pass::Discovery(_))),
            (_, Gone::Rule) | (Culprit::Unread(_) | Culprit::Full(_), _) => true,
            (Culprit::NfTables(old), Gone::BaseChain) => {
                let base = |event: &Event| event.frames.first().map(|frame| frame.chain);
                !left.any(|refusal| matches!(&refusal.culprit, Culprit::NfTables(new) if base(new) == base(old)))
            }
            (Culprit::NfTables(old), Gone::Decider | Gone::Element) => !left.any(|refusal| {
                refusal.pass == before.pass
                    && matches!(&refusal.culprit, Culprit::NfTables(new) if decider(predicted, new) == decider(model, old))
            }),
            (Culprit::Legacy(old), Gone::Element) => !left.any(|refusal| {
                matches!(&refusal.culprit, Culprit::Legacy(new) if new.place == old.place && refusal.pass == before.pass)
            }),
            (Culprit::Legacy(old), Gone::Decider | Gone::BaseChain) => !left.any(|refusal| {
                // An accept was put in its place, so it stands one further.
                let place = xtables::Place { position: old.place.position + 1, ..old.place.clone() };
                matches!(&refusal.culprit, Culprit::Legacy(new) if new.place == place && refusal.pass == before.pass)
            }),
        }
    }
}

/// What tells one decision from another: the base chain, the chain, the rule's handle, and the elements found.
type Decider<'a> = (Option<usize>, Option<usize>, Option<u64>, &'a [Found]);

fn decider<'a>(host: &HostState, event: &'a Event) -> Decider<'a> {
    let last = event.frames.last();
    let handle = last.and_then(|frame| {
        let chain = host.nf_tables.present()?.chains.get(frame.chain)?;
        Some(chain.rules.get(frame.rule?)?.handle)
    });
    let found = last.map_or(&[][..], |frame| frame.found.as_slice());
    (event.frames.first().map(|frame| frame.chain), last.map(|frame| frame.chain), handle, found)
}

/// The ways to lift a refusal, most exact first.
pub(super) fn attempts(host: &HostState, connection: &Connection, refusal: &Refusal, needs: &mut Needs) -> Vec<Attempt> {
    if matches!(refusal.pass, Pass::Discovery(_)) {
        return discovery::attempts(host, connection, None, needs);
    }
    match &refusal.culprit {
        Culprit::NfTables(event) => nft_attempts(host, connection, refusal, event, needs),
        Culprit::Legacy(outcome) => legacy_attempts(host, connection, refusal, &outcome.place, needs),
        Culprit::Unread(_) | Culprit::Full(_) => Vec::new(),
    }
}

fn nft_attempts(host: &HostState, connection: &Connection, refusal: &Refusal, event: &Event, needs: &mut Needs) -> Vec<Attempt> {
    let Some(state) = host.nf_tables.present() else { return Vec::new() };
    let ipsets = host.set_names();
    let pass = refusal.pass;
    let (v6, side) = (!connection.source.is_ipv4(), side(pass));
    let owner = refusal_owner(host, connection, refusal);
    let mut attempts = Vec::new();
    for (depth, frame) in event.frames.iter().rev().enumerate() {
        let Some(chain) = state.chains.get(frame.chain) else { continue };
        let Some((index, rule)) = frame.rule.and_then(|index| Some((index, chain.rules.get(index)?))) else { continue };
        let gone = || if depth == 0 { Gone::Decider } else { Gone::BaseChain };
        // Elements that stand for no address outside of what was asked.
        let mut steps = Vec::new();
        for found in &frame.found {
            let sources = found_sources(state, chain, rule, &found.set, &found.element, v6, side);
            if !sources.is_empty() && sources.iter().all(|source| connection.source.contains(*source)) {
                let step = delete_element(state, &found.set, &found.element, Some(sources));
                steps.extend(step.into_iter().map(|step| {
                    needs.extend(missing(state, &step));
                    Step::NfTables(step)
                }));
            }
        }
        let asked = deciding::in_frame(host, frame, v6);
        steps.extend(ipset::held(host, connection, pass, &asked).iter().filter_map(|held| held.delete(connection, needs)));
        steps.extend(recent::listed(host, connection, pass, &asked).iter().filter_map(clear));
        let steps_are_none = steps.is_empty();
        if !steps_are_none {
            let by_hand = managed::take_back(host, connection, refusal, &owner, depth, needs);
            attempts.push(Attempt { steps, by_hand, gone: gone() });
        }
        // Ranges of a set that nobody's program keeps: the source is taken out, the rest stays.
        if steps_are_none && owner == Owner::Nobody {
            let taken_out = |found: &Found| {
                let (place, _) = address_in_key(state, chain, rule, &found.set, v6, side)?;
                split(state, &found.set, &found.element, place, connection.source)
            };
            let steps: Vec<nf_tables::Step> = frame.found.iter().filter(|found| found.certain).filter_map(taken_out).collect();
            if !steps.is_empty() {
                needs.extend(steps.iter().flat_map(|step| missing(state, step)));
                let steps = steps.into_iter().map(Step::NfTables).collect();
                attempts.push(Attempt { steps, by_hand: None, gone: gone() });
            }
        }
        // A rule that names no address outside of what was asked, and no set.
        if frame.found.is_empty()
            && let Some(named) = rule_source(state, chain, rule, v6, side)
            && connection.source.contains(named)
            && let Some(step) = delete_rule(state, chain, index, Some(vec![named]), &ipsets)
        {
            let gone = if depth == 0 { Gone::Rule } else { Gone::BaseChain };
            let by_hand = managed::take_back(host, connection, refusal, &owner, depth, needs);
            attempts.push(Attempt { steps: vec![Step::NfTables(step)], by_hand, gone });
        }
    }
    attempts.extend(nft_accept(host, connection, refusal, event, None));
    attempts
}

/// Takes the address off the list, where that is about nobody else.
fn clear(listed: &recent::Listed<'_>) -> Option<Step> {
    listed.alone.then(|| Step::Recent(crate::subsystem::recent::Step::clear(&listed.name, listed.entry)))
}

/// The lookups that a step's prediction needs, where they were not made yet (an element found by reading the whole set).
pub(super) fn missing(state: &State, step: &nf_tables::Step) -> Needs {
    let known = |need: &crate::host::Need| match need {
        crate::host::Need::Element(key) => state.elements.contains_key(key) || state.dumps.contains_key(&key.set),
        _ => true,
    };
    step.needs().into_iter().filter(|need| !known(need)).collect()
}

/// An accept before the rule that decides, or at the end of the chain whose policy does; else, where an earlier rule leads past
/// that end, at the head of the base chain.
pub(super) fn nft_accept(
    host: &HostState,
    connection: &Connection,
    refusal: &Refusal,
    event: &Event,
    mark: Option<&str>,
) -> Vec<Attempt> {
    let Some(state) = host.nf_tables.present() else { return Vec::new() };
    let decider = event.frames.last().map(|frame| (frame.chain, frame.rule));
    let head = event.frames.first().map(|frame| (frame.chain, Some(0)));
    let owner = refusal_owner(host, connection, refusal);
    // An accept in a table of fail2ban or sshguard would go with the table.
    let by_hand = match owner {
        Owner::Fail2ban(_) | Owner::Sshguard | Owner::Nobody => None,
        owner => managed::let_in(host, connection, refusal, &owner),
    };
    let (source, admits, side) = (connection.source, Admits::Tcp(connection.port), side(refusal.pass));
    let steps = |(chain, index): (usize, Option<usize>)| {
        let chain = state.chains.get(chain)?;
        let onto = onto(host, state, chain, source).into_iter();
        let steps = onto.map(|onto| Some(Step::NfTables(accept(state, chain, index, source, admits, (side, onto), mark)?)));
        steps.collect::<Option<Vec<_>>>().filter(|steps| !steps.is_empty())
    };
    let attempts = decider.into_iter().chain(head).filter_map(steps);
    attempts.map(|steps| Attempt { steps, by_hand: by_hand.clone(), gone: Gone::Decider }).collect()
}

/// What accepts in this chain have to name so that they open this host and none behind it: one accept for each. None where that
/// cannot be said.
fn onto(host: &HostState, state: &State, chain: &Chain, source: Source) -> Vec<Onto> {
    match forwarded(state, chain) {
        Forwarded::No => vec![Onto::All],
        Forwarded::Routed => vec![Onto::Local],
        Forwarded::Below => {
            let links = host.route.present().and_then(|state| state.links.as_ref());
            let own = links.iter().flat_map(|links| links.addresses()).filter(|(link, _)| !link.is_loopback());
            let own: BTreeSet<IpAddr> = own.map(|(_, net)| net.addr()).filter(|own| own.is_ipv4() == source.is_ipv4()).collect();
            if own.len() > MOST_ADDRESSES { Vec::new() } else { own.into_iter().map(Onto::Address).collect() }
        }
    }
}

/// The accepts that would lift a refusal, each as its steps; those that a person must make are left out.
pub(super) fn accepts(host: &HostState, connection: &Connection, refusal: &Refusal) -> Vec<Vec<Step>> {
    let attempts = match &refusal.culprit {
        Culprit::NfTables(event) => nft_accept(host, connection, refusal, event, None),
        Culprit::Legacy(outcome) => legacy_accept(host, connection, refusal, &outcome.place, None).into_iter().collect(),
        Culprit::Unread(_) | Culprit::Full(_) => Vec::new(),
    };
    attempts.into_iter().filter(|attempt| attempt.by_hand.is_none()).map(|attempt| attempt.steps).collect()
}

/// Who made what refuses: whose ipset it is, else whose rule.
pub(super) fn refusal_owner(host: &HostState, connection: &Connection, refusal: &Refusal) -> Owner {
    for held in ipset::decides(host, connection, refusal) {
        let owner = owner::of("", "", Some(held.owner_name()), std::iter::empty());
        if owner != Owner::Nobody {
            return owner;
        }
    }
    match &refusal.culprit {
        Culprit::NfTables(event) => host.nf_tables.present().map_or(Owner::Nobody, |state| nft_owner(state, event)),
        Culprit::Legacy(outcome) => legacy_owner(host, &outcome.place),
        Culprit::Unread(_) | Culprit::Full(_) => Owner::Nobody,
    }
}

/// Who made the rule or element that decides.
fn nft_owner(state: &State, event: &Event) -> Owner {
    for frame in event.frames.iter().rev() {
        let Some(chain) = state.chains.get(frame.chain) else { continue };
        let sets = frame.found.iter().map(|found| Some(found.set.set.as_str())).chain([None]);
        for set in sets {
            let owner = owner::of(&chain.table, &chain.name, set, jumps(chain));
            let decides = frame.rule.is_none() || frame == event.frames.last().unwrap_or(frame);
            if owner != Owner::Nobody && (decides || !matches!(owner, Owner::Ufw(_) | Owner::Firewalld(_))) {
                return owner;
            }
        }
    }
    Owner::Nobody
}

fn jumps(chain: &Chain) -> impl Iterator<Item = &str> {
    chain.rules.iter().flat_map(|rule| &rule.expressions).filter_map(|expression| match expression {
        Expression::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(to.as_str()),
        _ => None,
    })
}

/// The legacy rule at a place.
pub(super) fn legacy_rule<'h>(host: &'h HostState, place: &xtables::Place) -> Option<&'h xtables::Rule> {
    let chain = host.xtables.present()?.table(place.v6, &place.table)?.chain(&place.chain)?;
    chain.rules.get(place.position.checked_sub(1)?).map(AsRef::as_ref)
}

fn legacy_owner(host: &HostState, place: &xtables::Place) -> Owner {
    let chain =
        host.xtables.present().and_then(|state| state.table(place.v6, &place.table)).and_then(|table| table.chain(&place.chain));
    let jumps = chain.iter().flat_map(|chain| &chain.rules).filter_map(|rule| match &rule.action {
        Action::Jump(to) | Action::Goto(to) => Some(to.as_str()),
        Action::Count | Action::Target(_) => None,
    });
    owner::of(&place.table, &place.chain, None, jumps)
}

fn legacy_attempts(
    host: &HostState,
    connection: &Connection,
    refusal: &Refusal,
    place: &xtables::Place,
    needs: &mut Needs,
) -> Vec<Attempt> {
    let Some(state) = host.xtables.present() else { return Vec::new() };
    let mut attempts = Vec::new();
    let pass = refusal.pass;
    let owner = refusal_owner(host, connection, refusal);
    let by_hand = managed::take_back(host, connection, refusal, &owner, 0, needs)
        .or_else(|| legacy_by_hand(host, connection, refusal, place));
    let asked = deciding::in_place(host, place);
    let elements = ipset::held(host, connection, pass, &asked);
    let mut steps: Vec<Step> = elements.iter().filter_map(|held| held.delete(connection, needs)).collect();
    steps.extend(recent::listed(host, connection, pass, &asked).iter().filter_map(clear));
    if !steps.is_empty() {
        let by_hand = managed::take_back(host, connection, refusal, &owner, 0, needs);
        attempts.push(Attempt { steps, by_hand, gone: Gone::Element });
    }
    if let Some(rule) = legacy_rule(host, place)
        && pass != Pass::Answer
        && let Some(named) = rule.source(place.v6)
        && connection.source.contains(named)
        && let Some(step) = xtables::Step::delete(state, place, Some(vec![named]))
    {
        attempts.push(Attempt { steps: vec![Step::Xtables(step)], by_hand, gone: Gone::Rule });
    }
    attempts.extend(legacy_accept(host, connection, refusal, place, None));
    attempts
}

fn legacy_by_hand(host: &HostState, connection: &Connection, refusal: &Refusal, place: &xtables::Place) -> Option<String> {
    let readonly =
        host.xtables.present().and_then(|state| state.table(place.v6, &place.table)).and_then(|table| table.readonly.clone());
    refusal_owner(host, connection, refusal).by_hand(connection.source, connection.port).or_else(|| {
        let command = format!(
            "{} -I {} -s {} -p tcp --dport {}{} -j ACCEPT",
            xtables::program(place.v6),
            place.chain,
            connection.source,
            connection.port,
            of_this_host(host, place, "dst")
        );
        readonly.map(|why| format!("{command} (sshfix cannot: {why})"))
    })
}

/// What an accept in a chain that forwarded packets come to asks besides: that one end is this host.
fn of_this_host(host: &HostState, place: &xtables::Place, end: &str) -> String {
    let table = host.xtables.present().and_then(|state| state.table(place.v6, &place.table));
    let shared = table.is_some_and(|table| table.forwarded(&place.chain));
    if shared { format!(" -m addrtype --{end}-type LOCAL") } else { String::new() }
}

pub(super) fn legacy_accept(
    host: &HostState,
    connection: &Connection,
    refusal: &Refusal,
    place: &xtables::Place,
    mark: Option<&str>,
) -> Option<Attempt> {
    let state = host.xtables.present()?;
    if refusal.pass == Pass::Answer {
        // What goes out is opened by a person: sshfix builds accepts for what comes in only.
        let command = format!(
            "{} -I {} {} -d {} -p tcp --sport {}{} -j ACCEPT",
            xtables::program(place.v6),
            place.chain,
            place.position,
            connection.source,
            connection.port,
            of_this_host(host, place, "src")
        );
        return Some(Attempt { steps: Vec::new(), by_hand: Some(command), gone: Gone::Rule });
    }
    let step = xtables::Step::accept(state, place, connection.source, Admits::Tcp(connection.port), mark)?;
    let by_hand = legacy_by_hand(host, connection, refusal, place);
    Some(Attempt { steps: vec![Step::Xtables(step)], by_hand, gone: Gone::Decider })
}
