//! What of the packet filters concerns the SSH port: for `firewall list`, `firewall remove` and `banned`. Reads no set whole: `banned`
//! does, where it must.

use std::collections::BTreeSet;

use super::no_plan::NoPlan;
use super::reference::Reference;
use super::walk;
use crate::address::Source;
use crate::host::step::Step;
use crate::host::{HostState, Need, Needs, Part};
use crate::packet::{Packet, Tracking};
use crate::reply::{Firewall, FirewallEntry, FirewallSchema};
use crate::subsystem::ipset;
use crate::subsystem::nf_tables::evaluate::Evaluator;
use crate::subsystem::nf_tables::expression::{Expression, Verdict};
use crate::subsystem::nf_tables::lift::{Side, delete_element, delete_rule, has_anonymous_set, rule_source};
use crate::subsystem::nf_tables::owner;
use crate::subsystem::nf_tables::{Chain, Element, ElementData, ElementKey, Rule, SetKey, State, render};
use crate::subsystem::xtables::evaluate::matches_rule;
use crate::subsystem::xtables::extension::holds::Matched;
use crate::subsystem::xtables::{self, Action};
use crate::verdict::Connection;
use crate::verdict::owner::Owner;

/// Everybody of one family, at the SSH port.
fn everybody(v6: bool, port: u16) -> Option<Packet> {
    let source: Source = if v6 { "::/0" } else { "0.0.0.0/0" }.parse().ok()?;
    let mut packet = Packet::syn(&Connection { source, port, user: None });
    packet.tracking = Tracking::NEW;
    Some(packet)
}

/// The chains that a SYN to the port can come through: base chains on the way in and what they lead to, as indexes.
pub(super) fn chains_on_path(state: &State) -> Vec<usize> {
    let names = state.chain_names();
    let mut found: BTreeSet<usize> = BTreeSet::new();
    let mut todo: Vec<usize> = (0..state.chains.len()).filter(|index| walk::on_the_way_in(state, *index)).collect();
    while let Some(index) = todo.pop() {
        let Some(chain) = state.chains.get(index).filter(|_| found.insert(index)) else { continue };
        for name in chain.rules.iter().flat_map(|rule| leads_to(state, chain, rule)) {
            todo.extend(names.get(&(chain.family, chain.table.as_str(), name.as_str())));
        }
    }
    found.into_iter().collect()
}

/// The chains that a rule jumps or goes to, through a map that was read too.
pub(super) fn leads_to(state: &State, chain: &Chain, rule: &Rule) -> Vec<String> {
    let name = |verdict: &Verdict| match verdict {
        Verdict::Jump(name) | Verdict::Goto(name) => Some(name.clone()),
        _ => None,
    };
    let mut names = Vec::new();
    for expression in &rule.expressions {
        match expression {
            Expression::Verdict(verdict) => names.extend(name(verdict)),
            Expression::Lookup { set, dreg: Some(0), .. } => {
                let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                for element in state.dumps.get(&key).into_iter().flatten() {
                    if let Some(ElementData::Verdict(verdict)) = &element.data {
                        names.extend(name(verdict));
                    }
                }
            }
            _ => {}
        }
    }
    names
}

/// Rules that a SYN of somebody to the port may match and that do something with it.
pub(super) fn rules<'s>(
    state: &'s State,
    port: u16,
    ipsets: &'s ipset::State,
    wanted: &mut Needs,
) -> Vec<(&'s Chain, usize, &'s Rule)> {
    let chains = chains_on_path(state);
    let mut concerned: BTreeSet<(usize, usize)> = BTreeSet::new();
    for packet in [false, true].into_iter().filter_map(|v6| everybody(v6, port)) {
        // What is not known only makes more rules concern the port.
        let mut needs = Needs::new();
        let mut evaluator = Evaluator::new(state, false, &mut needs);
        evaluator.ipsets = ipsets;
        for index in &chains {
            let Some(chain) = state.chains.get(*index) else { continue };
            let rules = chain.rules.iter().enumerate();
            concerned
                .extend(rules.filter(|(_, rule)| evaluator.may_decide(chain, rule, &packet)).map(|(rule, _)| (*index, rule)));
        }
        // Their names are shown.
        wanted.extend(needs.into_iter().filter(|need| matches!(need, Need::Ipset(_))));
    }
    let rule = |(chain, index): (usize, usize)| {
        let chain = state.chains.get(chain)?;
        Some((chain.as_ref(), index, chain.rules.get(index)?.as_ref()))
    };
    concerned.into_iter().filter_map(rule).collect()
}

/// Rules and sets on the way to the SSH port, each with its reference.
pub fn firewall_list(host: &HostState, port: u16, needs: &mut Needs) -> Firewall {
    let mut firewall = Firewall { schema: FirewallSchema::V1, entries: Vec::new(), others: 0, notes: Vec::new() };
    let mut asked = Vec::new();
    let ipsets = super::ipset::facts(host);
    match &host.nf_tables {
        Part::Unreadable(why) => firewall.notes.push(format!("nftables could not be read: {why}")),
        Part::Absent(_) => {}
        Part::Present(state) => {
            let mut sets = Vec::new();
            for chain in chains_on_path(state).into_iter().filter_map(|index| state.chains.get(index)) {
                if chain.base.as_ref().is_some_and(|base| !base.policy_accept) {
                    let place = format!("nft {} {} {}", chain.family, chain.table, chain.name);
                    firewall.notes.push(format!("{place} drops what none of its rules decides: {}", render::policy(chain)));
                }
            }
            for (chain, _, rule) in rules(state, port, &ipsets, needs) {
                let reference = Reference::Rule {
                    family: chain.family,
                    table: chain.table.clone(),
                    chain: chain.name.clone(),
                    handle: rule.handle,
                };
                let owner = owner_of_rule(state, chain, rule);
                needs.extend(render::needs(state, chain, rule));
                let text = render::rule(state, chain, rule, &ipsets.names);
                firewall.entries.push(FirewallEntry { reference: reference.to_string(), owner, text, set: false });
                asked.extend(super::ipset::asked_by(rule, false));
                for set in named_sets(chain, rule) {
                    if !sets.contains(&set) {
                        let owner = owner_of(chain, Some(&set));
                        let reference = Reference::Set { set: set.clone(), element: None }.to_string();
                        firewall.entries.push(FirewallEntry { reference, owner, text: format!("set {}", set.set), set: true });
                        sets.push(set);
                    }
                }
            }
        }
    }
    match &host.xtables {
        Part::Unreadable(why) => firewall.notes.push(format!("iptables-legacy could not be read: {why}")),
        Part::Absent(_) => {}
        Part::Present(state) => {
            for v6 in [false, true] {
                for table in state.tables(v6) {
                    let input = table.at(xtables::Hook::Input).filter(|chain| !chain.policy_accept);
                    firewall.notes.extend(input.map(|chain| {
                        let tool = if v6 { "ip6tables-legacy" } else { "iptables-legacy" };
                        format!("{tool} -t {} drops what none of its rules decides: -P {} DROP", table.name, chain.name)
                    }));
                }
            }
            for (place, chain, rule) in legacy_rules(state, port, &ipsets) {
                let owner = owner_of_legacy(&place, rule);
                let text = rule.line(&chain.name, place.v6, &ipsets.names);
                firewall.entries.push(FirewallEntry { reference: Reference::Legacy(place).to_string(), owner, text, set: false });
                asked.extend(rule.matches.iter().filter_map(super::ipset::reference));
            }
        }
    }
    let names = asked.into_iter().filter_map(|reference| ipsets.names.get(&reference.index)).collect::<BTreeSet<_>>();
    for name in names {
        let owner = owner::of("", "", Some(name), std::iter::empty());
        let reference = Reference::Ipset { set: name.clone(), element: None }.to_string();
        firewall.entries.push(FirewallEntry { reference, owner, text: format!("ipset {name}"), set: false });
    }
    firewall
}

pub(super) fn owner_of(chain: &Chain, set: Option<&SetKey>) -> Owner {
    owner::of(&chain.table, &chain.name, set.map(|set| set.set.as_str()), std::iter::empty())
}

/// A rule in nobody's chain that leads to a manager's chain is that manager's: `-A INPUT ... -j f2b-sshd`.
pub(super) fn owner_of_rule(state: &State, chain: &Chain, rule: &Rule) -> Owner {
    let mut owners = leads_to(state, chain, rule).into_iter().map(|name| owner::of("", &name, None, std::iter::empty()));
    match owner_of(chain, None) {
        Owner::Nobody => owners.find(|owner| *owner != Owner::Nobody).unwrap_or(Owner::Nobody),
        owner => owner,
    }
}

/// The same of iptables-legacy.
pub(super) fn owner_of_legacy(place: &xtables::Place, rule: &xtables::Rule) -> Owner {
    match (owner::of(&place.table, &place.chain, None, std::iter::empty()), &rule.action) {
        (Owner::Nobody, Action::Jump(name) | Action::Goto(name)) => owner::of("", name, None, std::iter::empty()),
        (owner, _) => owner,
    }
}

fn named_sets(chain: &Chain, rule: &Rule) -> Vec<SetKey> {
    let sets = rule.expressions.iter().filter_map(|expression| match expression {
        Expression::Lookup { set, .. } if !set.starts_with("__") => Some(set.clone()),
        _ => None,
    });
    sets.map(|set| SetKey { family: chain.family, table: chain.table.clone(), set }).collect()
}

/// A legacy rule, where it stands.
pub(super) type Placed<'s> = (xtables::Place, &'s xtables::Chain, &'s xtables::Rule);

/// Legacy rules that a SYN to the port may match, in the built-in chains on the way in and the chains they lead to.
pub(super) fn legacy_rules<'s>(state: &'s xtables::State, port: u16, ipsets: &ipset::State) -> Vec<Placed<'s>> {
    let packets = [false, true].into_iter().filter_map(|v6| everybody(v6, port));
    packets.flat_map(|packet| legacy_rules_for(state, &packet, ipsets)).collect()
}

/// Those that this packet may match.
pub(super) fn legacy_rules_for<'s>(state: &'s xtables::State, packet: &Packet, ipsets: &ipset::State) -> Vec<Placed<'s>> {
    let (v6, view) = (packet.v6, packet.view());
    let mut found = Vec::new();
    for table in state.tables(v6) {
        let mut todo: Vec<&xtables::Chain> = [xtables::Hook::Prerouting, xtables::Hook::Input]
            .into_iter()
            .filter_map(|hook| table.at(hook).map(AsRef::as_ref))
            .collect();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        while let Some(chain) = todo.pop() {
            if !seen.insert(&chain.name) {
                continue;
            }
            for (index, rule) in chain.rules.iter().enumerate() {
                if matches_rule(rule, &view, v6, ipsets) == Matched::No {
                    continue;
                }
                if let Action::Jump(name) | Action::Goto(name) = &rule.action {
                    todo.extend(table.chain(name).map(AsRef::as_ref));
                }
                let place = xtables::Place { v6, table: table.name.clone(), chain: chain.name.clone(), position: index + 1 };
                found.push((place, chain, rule.as_ref()));
            }
        }
    }
    found
}

/// Removes one rule or element by its reference. Refuses what a manager owns, what could not be put back, and what is not there.
pub fn plan_remove(host: &HostState, reference: &str, needs: &mut Needs) -> Result<Vec<Step>, NoPlan> {
    let parsed: Reference = reference.parse()?;
    let gone = || NoPlan::Gone(reference.to_owned());
    match &parsed {
        Reference::Legacy(place) => {
            let state = read(&host.xtables, "iptables-legacy")?;
            let table = state.table(place.v6, &place.table).ok_or_else(gone)?;
            if let Some(why) = &table.readonly {
                return Err(NoPlan::ReadOnlyTable(why.clone()));
            }
            let rule =
                table.chain(&place.chain).and_then(|chain| chain.rules.get(place.position.checked_sub(1)?)).ok_or_else(gone)?;
            managed(&owner_of_legacy(place, rule), reference)?;
            let source = rule.source(place.v6);
            let step = xtables::Step::delete(state, place, source.map(|source| vec![source])).ok_or_else(gone)?;
            Ok(vec![Step::Xtables(step)])
        }
        Reference::Rule { family, table, chain, handle } => {
            let state = read(&host.nf_tables, "nftables")?;
            let same = |one: &&std::sync::Arc<Chain>| one.family == *family && one.table == *table && one.name == *chain;
            let chain = state.chains.iter().find(same).ok_or_else(gone)?;
            let index = chain.rules.iter().position(|rule| rule.handle == *handle).ok_or_else(gone)?;
            let rule = chain.rules.get(index).ok_or_else(gone)?;
            managed(&owner_of_rule(state, chain, rule), reference)?;
            if has_anonymous_set(rule) {
                return Err(NoPlan::OwnList {
                    reference: reference.to_owned(),
                    family: *family,
                    table: table.clone(),
                    chain: chain.name.clone(),
                    handle: *handle,
                });
            }
            let side = Side::Source;
            let touches = [false, true]
                .into_iter()
                .filter_map(|v6| rule_source(state, chain, rule, v6, side).filter(|source| source.is_ipv4() != v6));
            let touches: Vec<Source> = touches.collect();
            let touches = (!touches.is_empty()).then_some(touches);
            let step = delete_rule(state, chain, index, touches, &host.set_names()).ok_or_else(gone)?;
            Ok(vec![Step::NfTables(step)])
        }
        Reference::Set { set, element: None } => Err(NoPlan::WholeSet { reference: reference.to_owned(), set: set.clone() }),
        Reference::Ipset { element: None, .. } => Err(NoPlan::WholeIpset(reference.to_owned())),
        Reference::Ipset { set, element: Some(element) } => {
            managed(&owner::of("", "", Some(set.trim_end_matches('6')), std::iter::empty()), reference)?;
            Ok(super::ipset::remove(host, set, element, needs)?.into_iter().collect())
        }
        Reference::Set { set, element: Some(text) } => remove_element(host, set, text, reference, needs),
    }
}

fn remove_element(host: &HostState, set: &SetKey, text: &str, reference: &str, needs: &mut Needs) -> Result<Vec<Step>, NoPlan> {
    let state = read(&host.nf_tables, "nftables")?;
    let gone = || NoPlan::Gone(reference.to_owned());
    let known = state.sets.iter().find(|one| one.key == *set).ok_or_else(gone)?;
    managed(&owner::of(&set.table, "", Some(&set.set), std::iter::empty()), reference)?;
    let source: Option<Source> = text.parse().ok();
    let key = source.map(|source| match source.first() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    let fits = |element: &&Element| render::element(state, set, element) == *text;
    let found = match (state.dumps.get(set), key) {
        (Some(elements), _) => elements.iter().find(fits).cloned(),
        // A plain set of addresses is asked for the one element.
        (None, Some(key)) if u32::try_from(key.len()) == Ok(known.key_len) => {
            let wanted = ElementKey { set: set.clone(), key };
            if let Some(found) = state.elements.get(&wanted) {
                found.as_ref().filter(fits).cloned()
            } else {
                needs.insert(Need::Element(wanted));
                return Ok(Vec::new());
            }
        }
        (None, _) => {
            needs.insert(Need::SetElements(set.clone()));
            return Ok(Vec::new());
        }
    };
    let element = found.ok_or_else(gone)?;
    let step = delete_element(state, set, &element, source.map(|source| vec![source]));
    let step = step.ok_or_else(|| NoPlan::FixedElements(reference.to_owned()))?;
    Ok(vec![Step::NfTables(step)])
}

fn read<'h, T>(read: &'h Part<T>, part: &'static str) -> Result<&'h T, NoPlan> {
    match read {
        Part::Present(state) => Ok(state),
        Part::Absent(why) => Err(NoPlan::Absent { part, why: why.clone() }),
        Part::Unreadable(why) => Err(NoPlan::Unread { part: part.to_owned(), why: why.clone() }),
    }
}

/// What a manager owns is not removed behind its back.
fn managed(owner: &Owner, reference: &str) -> Result<(), NoPlan> {
    match owner {
        Owner::Nobody | Owner::Sshguard | Owner::DenyHosts | Owner::Systemd | Owner::Sshd | Owner::Named(_) => Ok(()),
        Owner::Fail2ban(_) | Owner::Firewalld(_) | Owner::Ufw(_) | Owner::Docker | Owner::Crowdsec | Owner::Libvirt => {
            Err(NoPlan::Managed { reference: reference.to_owned(), owner: owner.clone() })
        }
    }
}
