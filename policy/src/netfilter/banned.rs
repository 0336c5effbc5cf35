//! Who is blocked by sets and rules on the way to the SSH port: for `banned`. Of one address, each set is asked by its key; sets are read
//! whole where the question is about more, or where a key has more in it than a packet tells. Says nothing about policies.

mod address;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::list::{legacy_rules, owner_of, rules};
use crate::address::Source;
use crate::host::{HostState, Need, Needs};
use crate::ranges::{number, prefixes};
use crate::reply::Ban;
use crate::subsystem::ipset;
use crate::subsystem::ipset::SetReference;
use crate::subsystem::nf_tables::expression::{Expression, Verdict};
use crate::subsystem::nf_tables::lift::{Side, address_in_key, element_sources, rule_source};
use crate::subsystem::nf_tables::owner;
use crate::subsystem::nf_tables::{Chain, Element, ElementData, Family, Rule, SetKey, State};
use crate::subsystem::xtables::extension::targets::{StandardVerdict, Target, TargetEffect, target};
use crate::subsystem::xtables::{self, Action};
use crate::verdict::owner::Owner;

/// Who is blocked by sets and rules on the way to the SSH port; with a source, only what shares addresses with it.
pub fn bans(host: &HostState, source: Option<Source>, port: u16, needs: &mut Needs) -> Vec<Ban> {
    if let Some(address) = source.and_then(Source::single) {
        return address::bans(host, address, port, needs);
    }
    let ipsets = super::ipset::facts(host);
    let mut found = Found { at: host.at, within: source, bans: Vec::new(), looked: BTreeSet::new(), of_ipsets: BTreeMap::new() };
    if let Some(state) = host.nf_tables.present() {
        let refusing = refusing_chains(state);
        for (chain, _, rule) in rules(state, port, &ipsets, needs) {
            let refuses = refuses(&refusing, chain, rule);
            found.nf_tables(state, chain, rule, refuses, needs);
            if refuses {
                for reference in super::ipset::asked_by(rule, chain.family == Family::Ip6) {
                    found.ipset(&ipsets, reference, needs);
                }
            }
        }
    }
    if let Some(state) = host.xtables.present() {
        for (place, _, rule) in legacy_rules(state, port, &ipsets).into_iter().filter(|(_, _, rule)| legacy_refuses(rule)) {
            for reference in rule.matches.iter().filter_map(super::ipset::reference) {
                found.ipset(&ipsets, reference, needs);
            }
            found.bans.extend(legacy_ban(&place, rule).filter(|ban| source.is_none_or(|source| source.overlaps(ban.source))));
        }
    }
    found.bans
}

/// Who was listed, and for how long.
type Said = BTreeSet<(Source, Option<u32>)>;

/// What was found so far. Several rules can ask one set: it is gone through once.
struct Found {
    at: Timestamp,
    /// Whom the question is about; `None` is everybody.
    within: Option<Source>,
    bans: Vec<Ban>,
    /// As what the sets are, whether a map's verdicts count, and where the client's address stands in the key.
    looked: BTreeSet<(SetKey, String, bool, usize, usize)>,
    /// Who was listed of the ipsets whose elements tell more than one address.
    of_ipsets: BTreeMap<String, Option<Said>>,
}

impl Found {
    fn nf_tables(&mut self, state: &State, chain: &Chain, rule: &Rule, refuses: bool, needs: &mut Needs) {
        if refuses {
            let within = self.within;
            let wanted = |ban: &Ban| within.is_none_or(|within| within.overlaps(ban.source));
            self.bans.extend(rule_bans(state, chain, rule).into_iter().filter(wanted));
        }
        for Asked { set, of_map } in asked(chain, rule, refuses) {
            let place = |v6| address_in_key(state, chain, rule, &set, v6, Side::Source);
            let places: BTreeSet<(usize, usize)> = [false, true].into_iter().filter_map(place).collect();
            // A map leads to chains whatever it is asked for.
            if places.is_empty() && !of_map {
                continue;
            }
            let Some(elements) = state.dumps.get(&set) else {
                needs.insert(Need::SetElements(set));
                continue;
            };
            let by = by(&owner_of(chain, Some(&set)), &format!("nft set {set}"));
            for (place, len) in places {
                if !self.looked.insert((set.clone(), by.clone(), of_map, place, len)) {
                    continue;
                }
                for element in elements.iter().filter(|element| !of_map || drops(element)) {
                    let sources = element_sources(element, place, len);
                    for source in sources.into_iter().filter(|source| self.within.is_none_or(|of| of.overlaps(*source))) {
                        self.bans.push(Ban { source, by: by.clone(), since: None, until: ends(self.at, element) });
                    }
                }
            }
        }
    }

    fn ipset(&mut self, ipsets: &ipset::State, reference: SetReference, needs: &mut Needs) {
        for set in super::ipset::members(ipsets, reference, needs) {
            let Some(field) = super::ipset::client_field(set, reference) else { continue };
            // One whose elements are addresses holds each once.
            let several = set.kind.contains(',');
            if !several && self.of_ipsets.contains_key(&set.name) {
                continue;
            }
            let said = self.of_ipsets.entry(set.name.clone()).or_insert_with(|| several.then(Said::new));
            let by = ipset_name(&set.name);
            for (from, to, left) in super::ipset::listed(ipsets, set, field, needs) {
                for source in prefixes(from.is_ipv6(), &[(number(from), number(to))]) {
                    if self.within.is_none_or(|within| within.overlaps(source))
                        && said.as_mut().is_none_or(|said| said.insert((source, left)))
                    {
                        self.bans.push(Ban { source, by: by.clone(), since: None, until: left_until(self.at, left) });
                    }
                }
            }
        }
    }
}

/// A set that a rule asks, and that refuses whom it holds.
struct Asked {
    set: SetKey,
    /// Whether it is the elements of a verdict map, those that drop.
    of_map: bool,
}

fn asked(chain: &Chain, rule: &Rule, refuses: bool) -> Vec<Asked> {
    let one = |expression: &Expression| {
        let Expression::Lookup { set, dreg: dreg @ (None | Some(0)), invert: false, .. } = expression else { return None };
        let set = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
        (dreg.is_some() || refuses).then_some(Asked { set, of_map: dreg.is_some() })
    };
    rule.expressions.iter().filter_map(one).collect()
}

fn drops(element: &Element) -> bool {
    element.data == Some(ElementData::Verdict(Verdict::Drop))
}

/// The addresses that a rule which refuses names itself.
fn rule_bans(state: &State, chain: &Chain, rule: &Rule) -> Vec<Ban> {
    let named = |v6| rule_source(state, chain, rule, v6, Side::Source).filter(|source| source.is_ipv4() != v6);
    let ban = |source| {
        let place = format!("nft {} {} {} handle {}", chain.family, chain.table, chain.name, rule.handle);
        Ban { source, by: by(&owner_of(chain, None), &place), since: None, until: None }
    };
    [false, true].into_iter().filter_map(named).map(ban).collect()
}

fn legacy_ban(place: &xtables::Place, rule: &xtables::Rule) -> Option<Ban> {
    let source = rule.source(place.v6)?;
    let owner = owner::of(&place.table, &place.chain, None, std::iter::empty());
    Some(Ban { source, by: by(&owner, &place.to_string()), since: None, until: None })
}

fn by(owner: &Owner, place: &str) -> String {
    if *owner == Owner::Nobody { place.to_owned() } else { format!("{owner} ({place})") }
}

fn ipset_name(set: &str) -> String {
    by(&owner::of("", "", Some(set), std::iter::empty()), &format!("ipset {set}"))
}

/// The chains that do nothing but refuse.
fn refusing_chains(state: &State) -> BTreeSet<(Family, &str, &str)> {
    let always = |one: &Expression| {
        matches!(
            one,
            Expression::Verdict(Verdict::Drop) | Expression::Reject { .. } | Expression::Counter { .. } | Expression::Log { .. }
        )
    };
    let refuses = |chain: &&std::sync::Arc<Chain>| {
        !chain.rules.is_empty() && chain.rules.iter().all(|rule| rule.expressions.iter().all(always))
    };
    state.chains.iter().filter(refuses).map(|chain| (chain.family, chain.table.as_str(), chain.name.as_str())).collect()
}

/// Whether a rule ends in a drop or reject, itself or in a chain that does nothing else.
fn refuses(refusing: &BTreeSet<(Family, &str, &str)>, chain: &Chain, rule: &Rule) -> bool {
    rule.expressions.iter().any(|expression| match expression {
        Expression::Verdict(Verdict::Drop) | Expression::Reject { .. } => true,
        Expression::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) => {
            refusing.contains(&(chain.family, chain.table.as_str(), name.as_str()))
        }
        Expression::Target { name, revision, info } => {
            let v6 = chain.family == Family::Ip6;
            matches!(target(v6, name, *revision, info), TargetEffect::Drop | TargetEffect::Reject(_))
        }
        _ => false,
    })
}

fn legacy_refuses(rule: &xtables::Rule) -> bool {
    match &rule.action {
        Action::Target(Target::Verdict(StandardVerdict::Drop) | Target::Reject(_)) => true,
        Action::Target(_) | Action::Count | Action::Jump(_) | Action::Goto(_) => false,
    }
}

fn ends(at: Timestamp, element: &Element) -> Option<Timestamp> {
    let left = i64::try_from(element.expires_ms?).ok()?;
    at.checked_add(SignedDuration::from_millis(left)).ok()
}

fn left_until(at: Timestamp, left: Option<u32>) -> Option<Timestamp> {
    left.and_then(|left| at.checked_add(SignedDuration::from_secs(left.into())).ok())
}
