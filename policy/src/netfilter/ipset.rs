//! Which ipset elements decide about a connection: the `-m set` matches of a deciding rule together with what the sets hold,
//! whose sets they are, and which element a lift may delete. Works for iptables-nft and iptables-legacy rules alike.

use super::arrival::arrivals;
use super::walk::{Culprit, Pass, Refusal};
use crate::host::{HostState, Needs};
use crate::packet::Packet;
use crate::step::Step;
use crate::subsystem::ipset::{self, Entry, Key, Set, State};
use crate::subsystem::nf_tables::Rule;
use crate::subsystem::nf_tables::evaluate::Frame;
use crate::subsystem::nf_tables::expression::Expression;
use crate::subsystem::xtables::matches::{Match, decode};
use crate::subsystem::xtables::targets::{SetReference, Target, decode as decode_target};
use crate::subsystem::xtables::{self, Action};
use crate::verdict::{Connection, Evidence};

/// A set that holds the connection's address, as a rule asks it.
pub struct Held<'h> {
    /// The set.
    pub set: &'h Set,
    /// What it was asked for.
    pub key: Key,
    /// What it said.
    pub entry: &'h Entry,
}

impl Held<'_> {
    /// The element as evidence.
    pub fn evidence(&self) -> Evidence {
        Evidence::new(format!("ipset {}", self.set.name), self.entry.text(self.set, &self.key))
    }

    /// Deletes the element, where it stands for nobody outside of what was asked.
    pub fn delete(&self, connection: &Connection) -> Option<Step> {
        let step = ipset::Step::delete(self.set, self.key.clone(), self.entry)?;
        let only = step.touches()?.iter().all(|source| connection.source.contains(*source));
        only.then_some(Step::Ipset(step))
    }

    /// The set's name without what fail2ban appends to those of IPv6.
    pub fn owner_name(&self) -> &str {
        let name = self.set.name.as_str();
        match name.strip_suffix('6') {
            Some(plain) if self.set.v6 == Some(true) && name.starts_with("f2b-") => plain,
            _ => name,
        }
    }
}

/// What is known of ipsets, with the names that legacy rules brought and with the sets that rules change while packets pass.
pub fn facts(host: &HostState) -> State {
    let mut facts = host.ipset.clone();
    facts.names = host.set_names();
    if facts.sets.is_empty() {
        return facts;
    }
    for rule in host.nf_tables.present().iter().flat_map(|state| &state.chains).flat_map(|chain| &chain.rules) {
        for expression in &rule.expressions {
            if let Expression::Target { name, revision, info } = expression
                && name == "SET"
            {
                changes(&decode_target(false, name, *revision, info), &mut facts);
            }
        }
    }
    let legacy = host.xtables.present().into_iter().flat_map(|state| state.v4.iter().chain(&state.v6));
    for rule in legacy.flat_map(|table| &table.chains).flat_map(|chain| &chain.rules) {
        if let Action::Target(target) = &rule.action {
            changes(target, &mut facts);
        }
    }
    facts
}

fn changes(target: &Target, facts: &mut State) {
    if let Target::Set { add, del, .. } = target {
        facts.grow.insert(add.index);
        facts.shrink.insert(del.index);
    }
}

/// Every set that holds the connection's address in the rule that decides.
pub fn decides<'h>(host: &'h HostState, connection: &Connection, refusal: &Refusal) -> Vec<Held<'h>> {
    match &refusal.culprit {
        Culprit::NfTables(event) => {
            event.frames.iter().rev().flat_map(|frame| in_frame(host, connection, refusal.pass, frame)).collect()
        }
        Culprit::Legacy(outcome) => in_place(host, connection, refusal.pass, &outcome.place),
        Culprit::Unread(_) | Culprit::Full(_) => Vec::new(),
    }
}

/// Those of an `nf_tables` rule.
pub fn in_frame<'h>(host: &'h HostState, connection: &Connection, pass: Pass, frame: &Frame) -> Vec<Held<'h>> {
    let chain = host.nf_tables.present().and_then(|state| state.chains.get(frame.chain));
    let rule = chain.and_then(|chain| chain.rules.get(frame.rule?));
    let references = |rule: &Rule| {
        let of = |expression: &Expression| match expression {
            Expression::Match { name, revision, info } if name == "set" => {
                reference(&decode(!connection.source.is_ipv4(), name, *revision, info))
            }
            _ => None,
        };
        rule.expressions.iter().filter_map(of).collect::<Vec<_>>()
    };
    held(host, connection, pass, rule.map_or_else(Vec::new, |rule| references(rule)))
}

/// Those of a legacy rule.
pub fn in_place<'h>(host: &'h HostState, connection: &Connection, pass: Pass, place: &xtables::Place) -> Vec<Held<'h>> {
    let table = host.xtables.present().and_then(|state| state.table(place.v6, &place.table));
    let chain = table.and_then(|table| table.chain(&place.chain));
    let rule = chain.and_then(|chain| chain.rules.get(place.position.checked_sub(1)?));
    held(host, connection, pass, rule.iter().flat_map(|rule| &rule.matches).filter_map(reference).collect())
}

fn reference(one: &Match) -> Option<SetReference> {
    if let Match::Set { set, .. } = one { Some(*set) } else { None }
}

fn held<'h>(host: &'h HostState, connection: &Connection, pass: Pass, references: Vec<SetReference>) -> Vec<Held<'h>> {
    if references.is_empty() {
        return Vec::new();
    }
    // Facts that are missing were asked for when the connection was evaluated.
    let arriving = arrivals(host, connection, &mut Needs::new()).into_iter().map(|arrival| arrival.syn(connection));
    let packets: Vec<Packet> = [Packet::syn(connection)]
        .into_iter()
        .chain(arriving)
        .map(|syn| match pass {
            Pass::Syn | Pass::Ack => syn,
            Pass::Answer => syn.answer(),
        })
        .collect();
    let one = |reference| packets.iter().find_map(|packet| host.ipset.held(reference, &packet.view()));
    references.into_iter().filter_map(one).map(|(set, key, entry)| Held { set, key, entry }).collect()
}
