//! Who of one address is blocked: every rule on the way is asked for a packet of it, and every set for the key of that packet, as the kernel
//! does. A set whose key has more in it than is known of the packet is read whole.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{
    Asked, asked, by, drops, ends, ipset_name, left_until, legacy_ban, legacy_refuses, refuses, refusing_chains, rule_bans,
};
use crate::address::Source;
use crate::host::{HostState, Need, Needs};
use crate::netfilter::ipset as ipsets;
use crate::netfilter::list::{chains_on_path, legacy_rules_for, owner_of};
use crate::packet::{Packet, Tracking, View};
use crate::ranges::{number, prefixes};
use crate::reply::Ban;
use crate::subsystem::ipset::{self, Entry, SetReference};
use crate::subsystem::nf_tables::evaluate::Evaluator;
use crate::subsystem::nf_tables::lift::{Side, address_in_key, element_sources};
use crate::subsystem::nf_tables::{End, Family, SetKey, State, fails_early};
use crate::subsystem::xtables::evaluate::matches_rule;
use crate::subsystem::xtables::extension::holds::Matched;
use crate::verdict::Connection;

/// What blocks this address.
pub(super) fn bans(host: &HostState, address: IpAddr, port: u16, needs: &mut Needs) -> Vec<Ban> {
    let source: Source = address.into();
    let facts = ipsets::facts(host);
    let mut packet = Packet::syn(&Connection { source, port, user: None });
    packet.tracking = Tracking::NEW;
    let mut found = Vec::new();
    if let Some(state) = host.nf_tables.present() {
        of_nf_tables(host, state, &facts, &packet, source, needs, &mut found);
    }
    if let Some(state) = host.xtables.present() {
        let view = packet.view();
        for (place, _, rule) in legacy_rules_for(state, &packet, &facts) {
            if !legacy_refuses(rule) {
                continue;
            }
            if let Matched::Ask(need, _) = matches_rule(rule, &view, place.v6, &facts) {
                needs.insert(need);
            }
            for reference in rule.matches.iter().filter_map(ipsets::reference) {
                of_ipset(host, &facts, reference, &view, source, needs, &mut found);
            }
            found.extend(legacy_ban(&place, rule));
        }
    }
    // Several rules can ask one set.
    let mut said = BTreeSet::new();
    found.retain(|ban: &Ban| ban.source.overlaps(source) && said.insert((ban.source, ban.by.clone(), ban.until)));
    found
}

fn of_nf_tables(
    host: &HostState,
    state: &State,
    facts: &ipset::State,
    packet: &Packet,
    source: Source,
    needs: &mut Needs,
    bans: &mut Vec<Ban>,
) {
    let refusing = refusing_chains(state);
    let names = state.chain_names();
    let mut todo: Vec<usize> = chains_on_path(state).into_iter().rev().collect();
    let mut seen = BTreeSet::new();
    let mut facts_needed = Needs::new();
    let mut evaluator = Evaluator::new(state, false, &mut facts_needed);
    evaluator.ipsets = facts;
    // Chains that a map leads to are met on the way.
    while let Some(index) = todo.pop() {
        let Some(chain) = state.chains.get(index).filter(|_| seen.insert(index)) else { continue };
        for rule in &chain.rules {
            if fails_early(rule, packet) {
                continue;
            }
            let refuses = refuses(&refusing, chain, rule);
            let sets = asked(chain, rule, refuses);
            if !refuses && sets.is_empty() {
                continue;
            }
            let place = |set: &SetKey| address_in_key(state, chain, rule, set, packet.v6, Side::Source);
            let whole_sets = sets.iter().any(|asked| place(&asked.set).is_some());
            let Some(run) = evaluator.alone(chain, rule, packet, whole_sets) else { continue };
            for end in &run.ends {
                if let End::Jump(name) | End::Goto(name) = end {
                    todo.extend(names.get(&(chain.family, chain.table.as_str(), name.as_str())));
                }
            }
            if refuses {
                bans.extend(rule_bans(state, chain, rule));
                for reference in ipsets::asked_by(rule, chain.family == Family::Ip6) {
                    of_ipset(host, facts, reference, &packet.view(), source, needs, bans);
                }
            }
            for Asked { set, of_map } in sets {
                let Some((at, len)) = place(&set) else { continue };
                let by = by(&owner_of(chain, Some(&set)), &format!("nft set {set}"));
                let elements = run.found.iter().filter(|found| found.set == set && (!of_map || drops(&found.element)));
                for element in elements.map(|found| &found.element) {
                    let sources = element_sources(element, at, len).into_iter();
                    bans.extend(sources.map(|source| Ban { source, by: by.clone(), since: None, until: ends(host.at, element) }));
                }
            }
        }
    }
    needs.extend(facts_needed);
}

/// The elements of an ipset that hold the address, as a rule that refuses asks for them.
pub(super) fn of_ipset(
    host: &HostState,
    facts: &ipset::State,
    reference: SetReference,
    view: &View<'_>,
    source: Source,
    needs: &mut Needs,
    bans: &mut Vec<Ban>,
) {
    for set in ipsets::members(facts, reference, needs) {
        let Some(field) = ipsets::client_field(set, reference) else { continue };
        let mut add = |source, left| {
            bans.push(Ban { source, by: ipset_name(&set.name), since: None, until: left_until(host.at, left) });
        };
        match set.asks(reference, view) {
            ipset::Asked::Nothing => {}
            ipset::Asked::Key(key) => {
                let query = set.query(key);
                match facts.entries.get(&query) {
                    None => _ = needs.insert(Need::IpsetEntry(query)),
                    Some(Entry::Absent | Entry::Unknown(_)) => {}
                    Some(Entry::Wider(lengths)) if !lengths.is_empty() => {
                        let network = |length: &u8| ipnet::IpNet::new(source.first(), *length).ok().map(Source::new);
                        lengths.iter().filter_map(network).for_each(|network| add(network, None));
                    }
                    Some(Entry::Exact | Entry::Wider(_)) => add(source, None),
                }
            }
            ipset::Asked::Unknown => {
                for (from, to, left) in ipsets::listed(facts, set, field, needs) {
                    let span = [(number(from), number(to))];
                    let held = prefixes(from.is_ipv6(), &span);
                    held.filter(|held| held.overlaps(source)).for_each(|held| add(held, left));
                }
            }
        }
    }
}
