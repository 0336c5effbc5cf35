//! Which sets of client addresses an xtables match or rule tells apart. Says too much rather than too little; judges no packet.

use std::collections::BTreeMap;

use crate::host::{Need, Needs};
use crate::ranges::{Classes, Span, number};
use crate::subsystem::ipset;
use crate::subsystem::ipset::SetReference;
use crate::subsystem::xtables::Rule;
use crate::subsystem::xtables::extension::matches::Match;

/// `XT_CONNTRACK_ORIGSRC` and the three after it
const CONNTRACK_ADDRESSES: u16 = 1 << 2;
/// `IPRANGE_SRC`, `IPRANGE_DST`
const IPRANGE_SOURCE: u8 = 1;
const IPRANGE_DESTINATION: u8 = 2;
/// Sets of sets hold no sets (`ip_set_list_set.c`); this is for a kernel that would let them.
const DEEPEST: usize = 4;

/// Adds the sets of client addresses that a legacy rule tells apart. The client is the source of what comes in and the destination of
/// what goes out; which it is, is not asked here.
pub fn of_rule(rule: &Rule, ipsets: &ipset::State, found: &mut Classes, needs: &mut Needs) {
    for (value, mask) in [rule.entry.source, rule.entry.destination] {
        found.add_masked(value, mask);
    }
    for one in &rule.matches {
        classes(one, ipsets, found, needs);
    }
}

/// The same of one match. ipsets are listed whole: what is missing is added to `needs`.
pub fn classes(one: &Match, ipsets: &ipset::State, found: &mut Classes, needs: &mut Needs) {
    match one {
        Match::Iprange { source, destination, flags } => {
            if flags & IPRANGE_SOURCE != 0 && source.0 <= source.1 {
                found.add(vec![*source]);
            }
            if flags & IPRANGE_DESTINATION != 0 && destination.0 <= destination.1 {
                found.add(vec![*destination]);
            }
        }
        Match::Conntrack(conntrack) => {
            for (index, (value, mask)) in conntrack.addresses.into_iter().enumerate() {
                if conntrack.flags & CONNTRACK_ADDRESSES << index != 0 {
                    found.add_masked(value, mask);
                }
            }
        }
        Match::Set { set, .. } => of_set(*set, ipsets, found, needs),
        // These look at no address, or can never be told.
        _ => {}
    }
}

fn of_set(reference: SetReference, ipsets: &ipset::State, found: &mut Classes, needs: &mut Needs) {
    match ipsets.sets.get(&reference.index) {
        None => _ = needs.insert(Need::Ipset(reference.index)),
        // Nothing is known of it, whoever it is asked about.
        Some(Err(_)) => {}
        Some(Ok(set)) => of_listing(&set.name, ipsets, found, needs, 0),
    }
}

/// What a set holds, element by element; those that differ only in one address are of one kind.
fn of_listing(name: &str, ipsets: &ipset::State, found: &mut Classes, needs: &mut Needs, depth: usize) {
    let elements = match ipsets.listings.get(name) {
        None => {
            needs.insert(Need::IpsetElements(name.to_owned()));
            return;
        }
        Some(Err(_)) => return found.add_unknown(),
        Some(Ok(_)) if depth > DEEPEST => return found.add_unknown(),
        Some(Ok(_)) if !found.is_new(format!("ipset {name} at {depth}")) => return,
        Some(Ok(elements)) => elements,
    };
    let mut groups = BTreeMap::<(usize, u128, &str), Vec<Span>>::new();
    for element in elements.iter() {
        if let Some(member) = &element.member {
            of_listing(member, ipsets, found, needs, depth + 1);
        }
        let of_family = element.addresses.iter().enumerate().filter(|(_, (from, _))| from.is_ipv6() == found.v6());
        for (place, (from, to)) in of_family {
            let span = (number(*from), number(*to));
            // Longer prefixes are asked before shorter ones, so each length is a kind of its own.
            groups.entry((place, span.1.saturating_sub(span.0), element.rest.as_str())).or_default().push(span);
        }
    }
    for spans in groups.into_values() {
        found.add(spans);
    }
}
