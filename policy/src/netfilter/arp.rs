//! Chains of the family arp: where one may drop ARP, an IPv4 client and this host may not find each other. Whether it drops this very
//! packet is not judged: the verdict is unknown, unless the next hop has just answered.

use super::arrival::arrivals;
use crate::host::{HostState, Needs};
use crate::subsystem::nf_tables::expression::{Expression, Verdict};
use crate::subsystem::nf_tables::{Chain, Family, State, render};
use crate::verdict::{Connection, Evidence};

/// What may keep an IPv4 client and this host from finding each other, in words; `None` where nothing does.
pub fn may_lose(host: &HostState, connection: &Connection, needs: &mut Needs) -> Option<(String, Vec<Evidence>)> {
    if !connection.source.is_ipv4() || connection.source.first().is_loopback() {
        return None;
    }
    let state = host.nf_tables.present()?;
    let (chain, rule) = state.chains.iter().find_map(|chain| Some((chain, drops(state, chain)?)))?;
    let routes = host.route.present();
    let arrivals = arrivals(host, connection, needs);
    let found = |link: u32, hop| {
        let entries = routes.and_then(|routes| routes.neighbours.get(&link));
        entries.and_then(|entries| entries.get(&hop)).is_some_and(|entry| entry.as_ref().is_ok_and(|entry| entry.confirmed()))
    };
    let known = arrivals.iter().all(|arrival| {
        let link = arrival.link.as_ref();
        link.is_some_and(|link| !link.resolves || arrival.hop.is_some_and(|hop| found(link.index, hop)))
    });
    if known && !arrivals.is_empty() {
        return None;
    }
    let place = format!("nft {} {} {}", chain.family, chain.table, chain.name);
    let detail = format!("{place} may drop ARP, without which it and this host do not find each other");
    Some((detail, vec![Evidence::new(place, rule)]))
}

/// What a base chain that sees ARP of this host (`NF_ARP_IN` 0, `NF_ARP_OUT` 1) may drop by: the rule or the policy.
fn drops(state: &State, chain: &Chain) -> Option<String> {
    let base = chain.base.as_ref().filter(|base| chain.family == Family::Arp && matches!(base.hook, 0 | 1))?;
    let dormant = |table: &crate::subsystem::nf_tables::Table| table.family == Family::Arp && table.name == chain.table;
    if state.tables.iter().any(|table| table.dormant && dormant(table)) {
        return None;
    }
    if !base.policy_accept {
        return Some(render::policy(chain));
    }
    let may_drop = |expression: &Expression| {
        matches!(
            expression,
            Expression::Verdict(Verdict::Drop | Verdict::Queue)
                | Expression::Reject { .. }
                | Expression::Queue
                | Expression::Fwd
                | Expression::Lookup { dreg: Some(0), .. }
                | Expression::Target { .. }
                | Expression::Unknown { .. }
        )
    };
    // What it jumps to is of the same table; a chain that nothing jumps to only makes more unknown.
    let of_table = state.chains.iter().filter(|one| (one.family, &one.table) == (chain.family, &chain.table));
    let own = of_table.filter(|one| one.base.is_none() || one.name == chain.name);
    own.flat_map(|one| one.rules.iter().map(move |rule| (one, rule)))
        .find(|(_, rule)| rule.expressions.iter().any(may_drop))
        .map(|(one, rule)| render::rule(state, one, rule, &crate::subsystem::ipset::SetNames::new()))
}
