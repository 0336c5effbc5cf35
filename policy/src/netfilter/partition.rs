//! The access partition: which source addresses reach the port, which do not, and of which it cannot be told, for all addresses at once.
//! Cuts the address space wherever a rule, set, ipset or route tells addresses apart, and asks the verdict once for each kind of piece.
//! By packet filters and routes alone: not by hosts files, sshd or bans that no rule enforces.

use std::collections::BTreeMap;

use super::prepared::Prepared;
use super::walk;
use crate::address::Source;
use crate::host::{HostState, Needs};
use crate::ranges::{Classes, Span, highest, partition, prefixes};
use crate::reply::{Decided, SourceRange, Unsettled, Who, WhoSchema};
use crate::subsystem::{nf_tables, route, xtables};
use crate::verdict::{Connection, StageReport, Verdict};

/// More prefixes than this are given as ranges, so that a set of scattered addresses does not make a document of gigabytes.
const MOST_PREFIXES: usize = 200_000;
/// Verdicts asked for where the rules tell addresses apart in a way that is not followed; the rest of the addresses is unknown.
const MOST_VERDICTS: usize = 5_000;

/// Blocks that the kernel treats in its own way as sources, so none stands for ordinary addresses: this network, loopback, link-local,
/// multicast, reserved, broadcast (`ip_route_input_slow`, `ip6_rcv_core`); and the private ones, which may come to more of the host's
/// addresses than others (`arrival::private`).
const SPECIAL: [&str; 16] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
    "fec0::/10",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];

/// The sets of addresses of one family that packet filters and routes tell apart. Sets, ipsets and routing tables are read whole: what
/// is missing is added to `needs`.
pub fn classes(host: &HostState, v6: bool, needs: &mut Needs) -> Classes {
    let mut classes = Classes::new(v6);
    add_classes(host, &mut classes, needs);
    classes
}

/// The same, added to others.
pub fn add_classes(host: &HostState, classes: &mut Classes, needs: &mut Needs) {
    let v6 = classes.v6();
    for special in SPECIAL.iter().filter_map(|text| text.parse::<Source>().ok()) {
        classes.add_source(special);
    }
    let Prepared { ipsets, index, .. } = &Prepared::new(host);
    if let Some(state) = host.nf_tables.present() {
        for (at, chain) in state.chains.iter().enumerate() {
            let concerned = chain.base.is_none() || walk::on_the_way(state, at, v6);
            if concerned && nf_tables::depends::of_family(chain, v6) {
                for rule in &chain.rules {
                    nf_tables::depends::classes((state, index), chain, rule, ipsets, classes, needs);
                }
            }
        }
    }
    for rule in host
        .xtables
        .present()
        .iter()
        .flat_map(|state| state.tables(v6))
        .flat_map(|table| &table.chains)
        .flat_map(|chain| &chain.rules)
    {
        xtables::extension::depends::of_rule(rule, ipsets, classes, needs);
    }
    route::classes(host, classes, needs);
}

/// What becomes of a connection, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Reaches,
    /// Where the rule stands, and its text.
    Blocked(String, String),
    /// Why.
    Unknown(String),
}

fn fate(prepared: &Prepared<'_>, source: Source, port: u16, needs: &mut Needs) -> Fate {
    let host = prepared.host;
    let connection = Connection { source, port, user: None };
    let stages = [route::evaluate(host, &connection, needs), super::evaluate_prepared(prepared, &connection, needs)];
    let all = stages.iter().fold(Verdict::Accept, |all, stage| all.and(stage.verdict));
    let Some(StageReport { evidence, detail, stage, .. }) = stages.into_iter().find(|stage| stage.verdict == all) else {
        return Fate::Reaches;
    };
    match all {
        Verdict::Accept => Fate::Reaches,
        Verdict::Refuse => match evidence.into_iter().next() {
            Some(first) => Fate::Blocked(first.source, first.text.as_str().to_owned()),
            None => Fate::Blocked(stage.to_string(), detail.as_str().to_owned()),
        },
        Verdict::Unknown => match evidence.into_iter().next() {
            Some(first) => Fate::Unknown(format!("{} ({}: {})", detail.as_str(), first.source, first.text.as_str())),
            None => Fate::Unknown(detail.as_str().to_owned()),
        },
    }
}

/// Who reaches the port. Every address is in exactly one of the lists.
pub fn who(host: &HostState, port: u16, needs: &mut Needs) -> Who {
    let mut fates: BTreeMap<Fate, [Vec<Span>; 2]> = BTreeMap::new();
    let mut notes = Vec::new();
    let prepared = Prepared::for_many(host);
    for (index, v6) in [false, true].into_iter().enumerate() {
        let classes = classes(host, v6, needs);
        let mut asked = 0_usize;
        let judge = |source: Source| {
            asked += 1;
            if classes.complete() || asked <= MOST_VERDICTS {
                return fate(&prepared, source, port, needs);
            }
            Fate::Unknown("a rule tells addresses apart by bits in too many places, and not all were tried".to_owned())
        };
        let settled = |fate: &Fate| !matches!(fate, Fate::Unknown(_));
        for (span, fate) in partition(&[(0, highest(v6))], &classes, settled, judge) {
            if let Some(spans) = fates.entry(fate).or_default().get_mut(index) {
                spans.push(span);
            }
        }
    }
    let mut who = Who { schema: WhoSchema::V1, port, ..Who::default() };
    let mut short = true;
    let mut listed = |spans: &[Vec<Span>; 2]| {
        let (ranges, whole) = listed(spans);
        short &= whole;
        ranges
    };
    let mut blocked: [Vec<Span>; 2] = Default::default();
    for (fate, spans) in &fates {
        match fate {
            Fate::Reaches => who.reach = listed(spans),
            Fate::Blocked(by, text) => {
                who.deciders.push(Decided { by: by.clone(), text: text.clone(), sources: listed(spans) });
                blocked.iter_mut().zip(spans).for_each(|(all, spans)| all.extend(spans));
            }
            Fate::Unknown(why) => who.unknown.push(Unsettled { sources: listed(spans), why: why.clone() }),
        }
    }
    who.blocked = listed(&blocked.map(crate::ranges::merged));
    if !short {
        notes.push(format!("more than {MOST_PREFIXES} prefixes are given as ranges, FIRST-LAST"));
    }
    notes.push("by routes and packet filters alone: hosts files and sshd's own rules are not looked at here".to_owned());
    who.notes = notes;
    who
}

/// As prefixes, or as ranges where that would be too many; and whether they are prefixes.
fn listed(spans: &[Vec<Span>; 2]) -> (Vec<SourceRange>, bool) {
    let families = || [false, true].into_iter().zip(spans);
    let mut all: Vec<SourceRange> =
        families().flat_map(|(v6, spans)| prefixes(v6, spans)).take(MOST_PREFIXES + 1).map(SourceRange::from).collect();
    let whole = all.len() <= MOST_PREFIXES;
    if !whole {
        all = families().flat_map(|(v6, spans)| spans.iter().map(move |span| SourceRange::of(v6, *span))).collect();
    }
    (all, whole)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

    use proptest::prelude::*;

    use super::super::tests::{asked, host};
    use super::*;
    use crate::ranges::{address, number};
    use crate::subsystem::nf_tables::build::{self, Ruleset, Statement};
    use crate::subsystem::nf_tables::expression::{CmpOp, Verdict as V};
    use crate::subsystem::nf_tables::{Family, State};

    fn whole(kernel: &State) -> Who {
        asked(kernel, |host, needs| who(host, 22, needs)).0
    }

    fn texts(ranges: &[SourceRange]) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everybody_is_in_one_list_and_the_rule_that_blocks_is_named() {
        let state = Ruleset::new()
            .input(Family::Inet, true)
            .set("bad", false, 0x4, vec![build::element("198.51.100.0/24"), build::element("203.0.113.7")])
            .rule(&[build::nfproto(false), build::saddr("198.51.100.9"), build::accept()])
            .rule(&[build::nfproto(false), build::saddr_set("bad", false, false), build::dport(22), build::drop()])
            .rule(&[build::nfproto(true), build::saddr("2001:db8::/32"), build::limit(1), build::drop()])
            .build();
        let who = whole(&state);
        let blocked = [
            "198.51.100.0/29",
            "198.51.100.8/32",
            "198.51.100.10/31",
            "198.51.100.12/30",
            "198.51.100.16/28",
            "198.51.100.32/27",
            "198.51.100.64/26",
            "198.51.100.128/25",
            "203.0.113.7/32",
        ];
        assert_eq!(texts(&who.blocked), blocked);
        assert_eq!(who.deciders.len(), 1);
        assert!(who.deciders[0].by.starts_with("nft inet filter input handle "), "{:?}", who.deciders);
        assert!(who.deciders[0].text.contains("@bad"));
        assert_eq!(texts(&who.unknown[0].sources), ["2001:db8::/32"]);
        assert!(who.unknown[0].why.contains("limit"), "{:?}", who.unknown);
    }

    #[test]
    fn a_hundred_thousand_elements_take_no_more_verdicts_than_one() {
        let elements =
            (0..100_000_u32).map(|n| build::element(&address(false, u128::from(n * 40_000 + 7)).to_string())).collect();
        let state = Ruleset::new()
            .input(Family::Inet, true)
            .set("bad", false, 0, elements)
            .rule(&[build::nfproto(false), build::saddr_set("bad", false, false), build::drop()])
            .build();
        let found = host(state);
        let classes = classes(&found, false, &mut Needs::new());
        let mut verdicts = 0;
        let mut blocked = 0;
        for (_, verdict) in partition(
            &[(0, highest(false))],
            &classes,
            |_| true,
            |source| {
                verdicts += 1;
                super::super::evaluate(&found, &Connection { source, port: 22, user: None }, &mut Needs::new()).verdict
            },
        ) {
            blocked += usize::from(verdict == Verdict::Refuse);
        }
        assert_eq!(blocked, 100_000);
        assert!(verdicts < 25, "{verdicts}");
    }

    /// An address of a pool that is small enough for rules to meet.
    fn source(v6: bool) -> impl Strategy<Value = Source> {
        (0..64_u128, 0..6_u8).prop_map(move |(low, bits)| {
            let base = number(if v6 { "2001:db8::" } else { "203.0.113.0" }.parse().unwrap());
            let full = if v6 { 128 } else { 32 };
            Source::new(ipnet::IpNet::new(address(v6, base | low), full - bits).unwrap())
        })
    }

    fn statement(v6: bool) -> impl Strategy<Value = Vec<Statement>> {
        let about = prop_oneof![
            source(v6).prop_map(|source| build::saddr(&source.to_string())),
            source(v6).prop_map(|source| build::saddr_op(&source.first().to_string(), CmpOp::Gt)),
            source(v6).prop_map(|source| build::saddr_op(&source.to_string(), CmpOp::Neq)),
            Just(build::saddr_set("hash", v6, false)),
            Just(build::saddr_set("ranges", v6, false)),
            Just(build::dport(22)),
        ];
        let end = prop_oneof![
            Just(build::accept()),
            Just(build::drop()),
            Just(build::verdict(V::Return)),
            Just([build::limit(1), build::drop()].concat()),
            Just(build::saddr_set("map", v6, true)),
        ];
        (about, end).prop_map(move |(about, end)| vec![build::nfproto(v6), about, end])
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// The partition says of every address what is said of it alone.
        #[test]
        fn the_partition_says_of_every_address_what_is_said_of_it_alone(
            v6: bool,
            rules in prop::collection::vec(any::<bool>().prop_flat_map(statement), 0..6),
            hash in prop::collection::vec(0..64_u128, 0..4),
            ranges in prop::collection::vec((0..30_u128, 0..3_u128), 0..4),
            map in prop::collection::vec((0..64_u128, any::<bool>()), 0..4),
        ) {
            let base = number(if v6 { "2001:db8::" } else { "203.0.113.0" }.parse().unwrap());
            let single = |low: u128| build::element(&address(v6, base | low).to_string());
            // Disjoint, as a kernel's are.
            let mut at = 0;
            let ranges: Vec<_> = ranges
                .into_iter()
                .map(|(skip, length)| {
                    let mut element = single(at + skip);
                    let mut last = single(at + skip + length);
                    at += skip + length + 2;
                    element.key_end = (length > 0).then(|| std::mem::take(&mut last.key));
                    element
                })
                .collect();
            let mut seen = std::collections::BTreeSet::new();
            let map = map
                .into_iter()
                .filter(|(low, _)| seen.insert(*low))
                .map(|(low, drop)| build::maps(&address(v6, base | low).to_string(), if drop { V::Drop } else { V::Accept }))
                .chain([build::maps(&address(v6, base | 0x63).to_string(), V::Continue)])
                .collect();
            let mut ruleset = Ruleset::new()
                .input(Family::Inet, true)
                .set("hash", v6, 0, hash.into_iter().map(single).collect())
                .set("ranges", v6, 0x4, ranges)
                .set("map", v6, 0, map);
            for rule in rules {
                // Rules of the other family need other sets.
                if rule.first() == Some(&build::nfproto(v6)) {
                    ruleset = ruleset.rule(&rule);
                }
            }
            let state = ruleset.build();
            let found = whole(&state);
            let all = host(state);
            let holds = |ranges: &[SourceRange], at: u128| {
                ranges.iter().filter(|range| range.first.is_ipv6() == v6)
                    .filter(|range| number(range.first) <= at && at <= number(range.last)).count()
            };
            for low in 0..130 {
                let at = base + low;
                let connection = Connection { source: address(v6, at).into(), port: 22, user: None };
                let verdict = super::super::evaluate(&all, &connection, &mut Needs::new()).verdict;
                let unknown: Vec<SourceRange> = found.unknown.iter().flat_map(|one| one.sources.clone()).collect();
                let counts = [holds(&found.reach, at), holds(&found.blocked, at), holds(&unknown, at)];
                let wanted = match verdict {
                    Verdict::Accept => [1, 0, 0],
                    Verdict::Refuse => [0, 1, 0],
                    Verdict::Unknown => [0, 0, 1],
                };
                prop_assert_eq!(counts, wanted, "{} {:?}", connection.source, found);
            }
        }
    }
}
