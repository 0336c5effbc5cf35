//! What keeps a connection out and how each block is lifted: refusals are lifted one after the other on the model and the
//! connection is evaluated again, so that every simultaneous block is found. A lift that changes nothing is not offered.

mod discovery;

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::SignedDuration;

use super::alternative::alternatives;
use super::walk::{Culprit, Pass, Refusal, Walk, walk};
use super::{evidence, how, ipset, managed, recent, trace, what};
use crate::address::Source;
use crate::host::block::{Block, Lift};
use crate::host::step::Step;
use crate::host::{HostState, Needs, Part};
use crate::packet::{Doubt, On};
use crate::subsystem::nf_tables::evaluate::Event;
use crate::subsystem::nf_tables::expression::{Expression, Verdict};
use crate::subsystem::nf_tables::forwarded::{Forwarded, forwarded};
use crate::subsystem::nf_tables::lift::{
    Onto, Side, accept, address_in_key, delete_element, delete_rule, found_sources, rule_source,
};
use crate::subsystem::nf_tables::owner;
use crate::subsystem::nf_tables::split::split;
use crate::subsystem::nf_tables::{self, Chain, Found, State, render};
use crate::subsystem::xtables::{self, Action};
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::{Admits, Connection, Evidence, Stage};

/// Own addresses that accepts are written for, one each, where the routing table cannot be asked.
const MOST_ADDRESSES: usize = 16;
/// Blocks listed for one connection; more are found once these are lifted.
const MOST_BLOCKS: usize = 64;

/// Every rule, element and policy that keeps this connection out. What may refuse for its rate is listed too, as not blocking and
/// with nothing to do; what may refuse for other reasons is only part of the stage. `walked` is the way the connection goes now.
pub fn blocks(host: &HostState, connection: &Connection, walked: Walk, needs: &mut Needs) -> Vec<Block> {
    let mut model = filters_of(host);
    let mut blocks = Vec::new();
    let mut walked = walked;
    while blocks.len() < MOST_BLOCKS {
        let Some(refusal) = next(&model, connection, &walked) else { break };
        let attempts = attempts(&model, connection, &refusal, needs);
        let lifted = first_that_works(&model, connection, &refusal, attempts, needs);
        let cause = cause(&model, connection, &refusal);
        let Some((attempt, after, again)) = lifted else {
            let advice = match &refusal.culprit {
                Culprit::Full(fill) => fill.fix(),
                _ => format!("no single step of sshfix opens this for {}; change it by hand", connection.source.short()),
            };
            blocks.push(block(&model, connection, &refusal, cause, Lift::ByHand(advice), needs));
            break;
        };
        // Nothing to predict on: what else refuses is found once a person has done it.
        let last = attempt.steps.is_empty();
        let (lift, managed) = match attempt.by_hand {
            Some(advice) => (Lift::ByHand(advice), attempt.steps),
            None => (Lift::Steps(attempt.steps), Vec::new()),
        };
        let alternatives = match &lift {
            Lift::Steps(taken) => alternatives(&model, connection, &refusal, taken),
            Lift::ByHand(_) => Vec::new(),
        };
        let wanted = alternatives.iter().flat_map(|one| &one.steps).filter_map(|step| match (step, model.nf_tables.present()) {
            (Step::NfTables(step), Some(state)) => Some(missing(state, step)),
            (Step::Ipset(step), _) if !model.ipset.entries.contains_key(&step.query) => Some(step.needs()),
            _ => None,
        });
        needs.extend(wanted.flatten());
        blocks.push(Block { managed, alternatives, ..block(&model, connection, &refusal, cause, lift, needs) });
        (model, walked) = (after, again);
        if last {
            break;
        }
    }
    let rated: Vec<&Refusal> =
        walked.refusals.iter().filter(|refusal| refusal.doubts.iter().any(|doubt| doubt.on == On::Rate)).collect();
    let limits = if rated.is_empty() { Vec::new() } else { trace::limits(&model, connection, needs) };
    for refusal in rated {
        if let Culprit::Full(fill) = &refusal.culprit {
            let mut listed = block(&model, connection, refusal, Cause::CtEstablished, Lift::Steps(Vec::new()), needs);
            (listed.finding.blocking, listed.finding.fix) = (false, fill.fix().into());
            blocks.push(listed);
            continue;
        }
        let mut listed = block(&model, connection, refusal, Cause::IptablesRatelimit, Lift::Steps(Vec::new()), needs);
        listed.finding.blocking = false;
        for (limit, quoted) in &limits {
            if refusal.doubts.contains(limit) && !listed.finding.evidence.contains(quoted) {
                listed.finding.evidence.insert(0, quoted.clone());
            }
        }
        listed.finding.fix = format!(
            "sshfix ctl firewall accept {}   # past the limit; or wait: it depends on {}",
            connection.source.short(),
            super::doubts(refusal)
        )
        .into();
        if !blocks.iter().any(|block| block.finding.evidence == listed.finding.evidence) {
            blocks.push(listed);
        }
    }
    blocks
}

/// The accepts, and nothing else, that let a source reach the port; empty when it does already. With a mark they carry it as their
/// comment, so that they are found again.
pub fn plan_accept(
    host: &HostState,
    source: Source,
    port: u16,
    mark: Option<&str>,
    needs: &mut Needs,
) -> Result<Vec<Step>, String> {
    let connection = Connection { source, port, user: None };
    let mut model = filters_of(host);
    let mut steps = Vec::new();
    let mut walked = walk(&model, &connection, needs);
    while steps.len() < MOST_BLOCKS {
        let Some(refusal) = walked.decided().or(walked.refusals.first()).cloned() else { return Ok(steps) };
        let quoted = evidence(&model, &connection, &refusal, needs)
            .first()
            .map_or_else(String::new, |one| format!("{}: {}", one.source, one.text.as_str()));
        let attempts = match &refusal.culprit {
            _ if matches!(refusal.pass, Pass::Discovery(_)) => discovery::attempts(&model, &connection, mark, needs),
            Culprit::Unread(why) => return Err(format!("{why}; nothing was planned")),
            Culprit::Full(fill) => return Err(format!("{}; {}", fill.text(), fill.fix())),
            Culprit::NfTables(event) => nft_accept(&model, &connection, &refusal, event, mark),
            Culprit::Legacy(outcome) => legacy_accept(&model, &connection, &refusal, &outcome.place, mark).into_iter().collect(),
        };
        if let Some(advice) = attempts.iter().find_map(|attempt| attempt.by_hand.as_ref()) {
            return Err(format!("{quoted}: this is not changed behind the back of its owner; run: {advice}"));
        }
        let Some((attempt, after, again)) = first_that_works(&model, &connection, &refusal, attempts, needs) else {
            let shared = match &refusal.culprit {
                Culprit::NfTables(event) => model.nf_tables.present().is_some_and(|state| {
                    let chain = event.frames.last().and_then(|frame| state.chains.get(frame.chain));
                    chain.is_some_and(|chain| forwarded(state, chain) != Forwarded::No)
                }),
                Culprit::Legacy(_) | Culprit::Unread(_) | Culprit::Full(_) => false,
            };
            let why = if shared { "would not open this host without those behind it" } else { "would not open the path" };
            return Err(format!("an accept before {quoted} {why}; change it by hand"));
        };
        steps.extend(attempt.steps);
        (model, walked) = (after, again);
    }
    Err(format!("more than {MOST_BLOCKS} rules refuse {}; nothing was planned", source.short()))
}

/// The first attempt that lifts the refusal on the model, with the model and the walk after it.
fn first_that_works(
    model: &HostState,
    connection: &Connection,
    refusal: &Refusal,
    attempts: Vec<Attempt>,
    needs: &mut Needs,
) -> Option<(Attempt, HostState, Walk)> {
    attempts.into_iter().find_map(|attempt| {
        let mut after = model.clone();
        if !attempt.steps.iter().all(|step| step.predict(&mut after).is_ok()) {
            return None;
        }
        let again = walk(&after, connection, needs);
        attempt.works((model, refusal), (&after, &again)).then_some((attempt, after, again))
    })
}

/// Only the packet filters of a host: what is predicted on here.
fn filters_of(host: &HostState) -> HostState {
    let absent = || "not part of this question".to_owned();
    HostState {
        at: host.at,
        fail2ban: Part::Absent(absent()),
        hosts_access: Part::Absent(absent()),
        nf_tables: host.nf_tables.clone(),
        xtables: host.xtables.clone(),
        ipset: host.ipset.clone(),
        // Where a connection comes in, and to which address.
        listener: host.listener.clone(),
        route: host.route.clone(),
        // Who made a rule, by ufw's own words.
        ufw: host.ufw.clone(),
        sshd: crate::subsystem::sshd::State::default(),
    }
}

/// The refusal to lift next: the one that decides; for a range also one that refuses a part of it.
fn next(host: &HostState, connection: &Connection, walked: &Walk) -> Option<Refusal> {
    if let Some(decided) = walked.decided() {
        return Some(decided.clone());
    }
    // Certain to those whose next hop and this host do not know each other.
    if let Some(lost) = walked.refusals.iter().find(|refusal| matches!(refusal.pass, Pass::Discovery(_))) {
        return Some(lost.clone());
    }
    // Certain to those who come in one way: the others are lifted too.
    let by_arrival = |refusal: &&Refusal| matches!(refusal.doubts.as_slice(), [Doubt { on: On::Arrival, .. }]);
    if let Some(refused) = walked.refusals.iter().find(by_arrival) {
        return Some(refused.clone());
    }
    if connection.source.single().is_some() {
        return None;
    }
    walked.refusals.iter().find(|refusal| refuses_part(host, connection, refusal)).cloned()
}

/// Whether what it depends on is only which address of the range it is.
fn refuses_part(host: &HostState, connection: &Connection, refusal: &Refusal) -> bool {
    let v6 = !connection.source.is_ipv4();
    match &refusal.culprit {
        Culprit::NfTables(_) => {
            let client = match side(refusal.pass) {
                Side::Source => On::Source,
                Side::Destination => On::Destination,
            };
            !refusal.doubts.is_empty() && refusal.doubts.iter().all(|doubt| doubt.on == client)
        }
        Culprit::Legacy(outcome) => legacy_rule(host, &outcome.place).and_then(|rule| rule.source(v6)).is_some_and(|named| {
            named.overlaps(connection.source) && outcome.depends.as_ref().is_none_or(|doubt| doubt.on == On::Source)
        }),
        Culprit::Unread(_) | Culprit::Full(_) => false,
    }
}

/// The client's side of a packet of this pass.
pub(super) fn side(pass: Pass) -> Side {
    match pass {
        Pass::Discovery(message) if !message.comes_in() => Side::Destination,
        Pass::Syn | Pass::Ack | Pass::Discovery(_) => Side::Source,
        Pass::Answer => Side::Destination,
    }
}

/// A way to lift a refusal, to be tried on the model.
struct Attempt {
    steps: Vec<Step>,
    /// Said instead of doing the steps, where a manager owns the place.
    by_hand: Option<String>,
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
    fn works(&self, (model, before): (&HostState, &Refusal), (predicted, after): (&HostState, &Walk)) -> bool {
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
fn attempts(host: &HostState, connection: &Connection, refusal: &Refusal, needs: &mut Needs) -> Vec<Attempt> {
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
        steps.extend(ipset::in_frame(host, connection, pass, frame).iter().filter_map(|held| held.delete(connection, needs)));
        steps.extend(recent::in_frame(host, connection, pass, frame).iter().filter_map(clear));
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
fn missing(state: &State, step: &nf_tables::Step) -> Needs {
    let known = |need: &crate::host::Need| match need {
        crate::host::Need::Element(key) => state.elements.contains_key(key) || state.dumps.contains_key(&key.set),
        _ => true,
    };
    step.needs().into_iter().filter(|need| !known(need)).collect()
}

/// An accept before the rule that decides, or at the end of the chain whose policy does; else, where an earlier rule leads past
/// that end, at the head of the base chain.
fn nft_accept(host: &HostState, connection: &Connection, refusal: &Refusal, event: &Event, mark: Option<&str>) -> Vec<Attempt> {
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
    let elements = ipset::in_place(host, connection, pass, place);
    let mut steps: Vec<Step> = elements.iter().filter_map(|held| held.delete(connection, needs)).collect();
    steps.extend(recent::in_place(host, connection, pass, place).iter().filter_map(clear));
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

fn legacy_accept(
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

/// The catalogue id of what refuses.
fn cause(host: &HostState, connection: &Connection, refusal: &Refusal) -> Cause {
    let owner = refusal_owner(host, connection, refusal);
    if !ipset::decides(host, connection, refusal).is_empty() {
        return owner.cause(Cause::IpsetEntry);
    }
    if !recent::decides(host, connection, refusal).is_empty() {
        return owner.cause(Cause::IptablesRatelimit);
    }
    if owner == Owner::Nobody && matches!(refusal.pass, Pass::Answer | Pass::Ack) && names_nobody(host, connection, refusal) {
        return Cause::CtEstablished;
    }
    match &refusal.culprit {
        Culprit::NfTables(event) => {
            let Some(state) = host.nf_tables.present() else { return Cause::NftRule };
            let chain = event.frames.last().and_then(|frame| state.chains.get(frame.chain));
            let compat = chain.is_some_and(|chain| render::compat(state, chain));
            owner.cause(if compat { Cause::IptablesRule } else { Cause::NftRule })
        }
        Culprit::Legacy(_) => owner.cause(Cause::IptablesRule),
        Culprit::Unread(_) => Cause::NftRule,
        Culprit::Full(_) => Cause::CtEstablished,
    }
}

/// Whether what refuses is a policy or a rule for everybody: then the accept for established connections is missing.
fn names_nobody(host: &HostState, connection: &Connection, refusal: &Refusal) -> bool {
    let v6 = !connection.source.is_ipv4();
    match &refusal.culprit {
        Culprit::NfTables(event) => event.frames.iter().all(|frame| {
            let chain = host.nf_tables.present().and_then(|state| Some((state, state.chains.get(frame.chain)?)));
            let named =
                chain.and_then(|(state, chain)| rule_source(state, chain, chain.rules.get(frame.rule?)?, v6, side(refusal.pass)));
            frame.found.is_empty() && named.is_none()
        }),
        Culprit::Legacy(outcome) => legacy_rule(host, &outcome.place).is_none_or(|rule| {
            let (_, mask) = if refusal.pass == Pass::Answer { rule.entry.destination } else { rule.entry.source };
            mask == 0
        }),
        Culprit::Unread(_) | Culprit::Full(_) => false,
    }
}

fn block(host: &HostState, connection: &Connection, refusal: &Refusal, cause: Cause, lift: Lift, needs: &mut Needs) -> Block {
    let owner = refusal_owner(host, connection, refusal);
    let until = match &refusal.culprit {
        Culprit::NfTables(event) => event.frames.iter().flat_map(|frame| &frame.found).find_map(|found| {
            let remaining = i64::try_from(found.element.expires_ms?).ok()?;
            host.at.checked_add(SignedDuration::from_millis(remaining)).ok()
        }),
        Culprit::Legacy(_) | Culprit::Unread(_) | Culprit::Full(_) => None,
    };
    let fix = match &lift {
        Lift::Steps(_) => format!("sshfix ctl unban {}", connection.source.short()).into(),
        Lift::ByHand(advice) => advice.into(),
    };
    let mut evidence = evidence(host, connection, refusal, needs);
    if evidence.is_empty() {
        evidence.push(Evidence::new("netfilter", format!("{} {}", what(refusal.pass), how(refusal))));
    }
    let owner = managed::maker(host, connection, refusal, owner, needs);
    let finding = Finding { cause, blocking: true, stage: Stage::Netfilter, owner, since: None, until, evidence, fix };
    Block { finding, lift, managed: Vec::new(), alternatives: Vec::new() }
}
