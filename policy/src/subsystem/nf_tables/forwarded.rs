//! Which chains see packets that are not for this host: those that it forwards to hosts behind it. An accept in such a chain has to say
//! that it is about this host, or it opens the others, too. Follows jumps; evaluates nothing.

use std::collections::BTreeSet;

use super::expression::{Expression, Verdict};
use super::{Chain, ElementData, Family, SetKey, State};

/// Whether forwarded packets come to a chain, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forwarded {
    /// They do not.
    No,
    /// They do, at hooks of the IP layer only.
    Routed,
    /// They do, also where a device or a bridge takes them in or sends them out: the routing table cannot be asked there.
    Below,
}

/// What the hook of a base chain says (`linux/netfilter.h`, `linux/netfilter_bridge.h`). A frame for this host's bridge may be routed.
fn at_hook(family: Family, hook: u32) -> Forwarded {
    match (family, hook) {
        // prerouting, forward, postrouting
        (Family::Ip | Family::Ip6 | Family::Inet, 0 | 2 | 4) => Forwarded::Routed,
        (Family::Ip | Family::Ip6 | Family::Inet, 1 | 3) | (Family::Arp, _) => Forwarded::No,
        (Family::Ip | Family::Ip6 | Family::Inet | Family::Netdev | Family::Bridge, _) => Forwarded::Below,
    }
}

/// Whether forwarded packets come to this chain. What a map leads to is taken for any chain of the table while it was not read.
pub fn forwarded(state: &State, chain: &Chain) -> Forwarded {
    let mut found = Forwarded::No;
    for level in [Forwarded::Routed, Forwarded::Below] {
        let first = |one: &Chain| one.base.as_ref().is_some_and(|base| at_hook(one.family, base.hook) == level);
        let in_table = |one: &Chain| (one.family, &one.table) == (chain.family, &chain.table);
        let mut todo: Vec<&Chain> =
            state.chains.iter().map(AsRef::as_ref).filter(|one: &&Chain| in_table(one) && first(one)).collect();
        let mut seen = BTreeSet::new();
        while let Some(one) = todo.pop() {
            if !seen.insert(&one.name) {
                continue;
            }
            if one.name == chain.name {
                found = level;
                break;
            }
            for to in targets(state, one) {
                let named = |other: &&Chain| match &to {
                    To::Chain(name) => other.name == *name,
                    To::Any => other.base.is_none(),
                };
                todo.extend(state.chains.iter().map(AsRef::as_ref).filter(|other: &&Chain| in_table(other) && named(other)));
            }
        }
    }
    found
}

enum To<'s> {
    Chain(&'s str),
    Any,
}

/// Where a chain's rules jump or go to.
fn targets<'s>(state: &'s State, chain: &'s Chain) -> Vec<To<'s>> {
    let name = |verdict: &'s Verdict| match verdict {
        Verdict::Jump(name) | Verdict::Goto(name) => Some(To::Chain(name)),
        _ => None,
    };
    let mut found = Vec::new();
    for expression in chain.rules.iter().flat_map(|rule| &rule.expressions) {
        match expression {
            Expression::Verdict(verdict) => found.extend(name(verdict)),
            Expression::Lookup { set, dreg: Some(0), .. } => {
                let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                match state.dumps.get(&key) {
                    None => found.push(To::Any),
                    Some(elements) => found.extend(elements.iter().filter_map(|element| match &element.data {
                        Some(ElementData::Verdict(verdict)) => name(verdict),
                        Some(ElementData::Value(_)) | None => None,
                    })),
                }
            }
            _ => {}
        }
    }
    found
}
