//! What steps open and close: the exact difference between who gets in before and after them, on the model, restricted to whom the
//! steps touch. Single addresses are judged one by one and read no set; only a range, or a step that touches anybody, needs whole sets.

use crate::address::Source;
use crate::diagnose::{Filters, admission_by};
use crate::host::step::Step;
use crate::host::{HostState, Needs};
use crate::netfilter::{self, partition};
use crate::ranges::{self, Classes, Span};
use crate::subsystem::{fail2ban, hosts_access};
use crate::verdict::{Connection, Verdict};

/// More prefixes than this are not listed.
const MOST_LISTED: usize = 20_000;
/// See `MOST_VERDICTS` of the access partition.
const MOST_VERDICTS: usize = 2_000;

/// What the steps do to the sources they touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Get in afterwards and did not, or perhaps not, before.
    pub opens: Vec<Source>,
    /// Got in, or perhaps did, and do not afterwards.
    pub closes: Vec<Source>,
    /// Cannot be told before nor after.
    pub unshown: Vec<Source>,
    /// Whether a list was cut.
    pub cut: bool,
}

/// What becomes of an address by the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Becomes {
    Same,
    Opens,
    Closes,
    Unshown,
}

/// Which of the sources that the steps touch, and of `asked`, get in by them and which do not any more. `after` is the host as the
/// steps leave it. Facts that are missing are added to `needs`.
pub fn difference(
    host: &HostState,
    after: &HostState,
    steps: &[Step],
    asked: Option<Source>,
    port: u16,
    needs: &mut Needs,
) -> Difference {
    let mut found = Difference::default();
    // What steps on sshd do is told by the proof, path by path: routes, packet filters and hosts files stay as they are.
    if steps.iter().all(|step| matches!(step, Step::Sshd(_))) {
        return found;
    }
    for v6 in [false, true] {
        let region = region(steps, asked, v6);
        let (single, wide): (Vec<Span>, Vec<Span>) = region.into_iter().partition(|(from, to)| from == to);
        let mut judge = |source: Source| becomes(host, after, source, port, netfilter::evaluate, needs);
        let mut all: Vec<(Span, Becomes)> =
            single.into_iter().map(|(at, to)| ((at, to), judge(ranges::address(v6, at).into()))).collect();
        if !wide.is_empty() {
            let classes = classes(host, after, v6, needs);
            let mut asked = 0_usize;
            let judge = |source: Source| {
                asked += 1;
                let few = classes.complete() || asked <= MOST_VERDICTS;
                if few { becomes(host, after, source, port, netfilter::evaluate_rules, needs) } else { Becomes::Unshown }
            };
            all.extend(ranges::partition(&wide, &classes, |becomes| *becomes != Becomes::Unshown, judge));
        }
        for (list, wanted) in
            [(&mut found.opens, Becomes::Opens), (&mut found.closes, Becomes::Closes), (&mut found.unshown, Becomes::Unshown)]
        {
            let spans = all.iter().filter(|(_, becomes)| *becomes == wanted).map(|(span, _)| *span).collect();
            let listed: Vec<Source> = ranges::prefixes(v6, &ranges::merged(spans)).take(MOST_LISTED + 1).collect();
            found.cut |= listed.len() > MOST_LISTED;
            list.extend(listed.into_iter().take(MOST_LISTED));
        }
    }
    found
}

/// Whom the steps touch, of one family.
fn region(steps: &[Step], asked: Option<Source>, v6: bool) -> Vec<Span> {
    let mut touched: Vec<Source> = asked.into_iter().collect();
    for step in steps.iter().filter(|step| !matches!(step, Step::Sshd(_))) {
        match step.touches() {
            Some(sources) => touched.extend(sources),
            None => return vec![(0, ranges::highest(v6))],
        }
    }
    ranges::merged(touched.into_iter().filter(|source| source.is_ipv4() != v6).map(ranges::span).collect())
}

/// Everything that tells addresses apart, before or after.
fn classes(host: &HostState, after: &HostState, v6: bool, needs: &mut Needs) -> Classes {
    let mut classes = Classes::new(v6);
    for state in [host, after] {
        // A new part of the host does not compile before it is said what becomes of it here.
        let HostState {
            at: _,
            // Below: only new bans tell addresses apart that no rule tells apart yet.
            fail2ban: _,
            nf_tables: _,
            xtables: _,
            ipset: _,
            route: _,
            hosts_access: _,
            // Whose rule it is.
            ufw: _,
            // The same for all addresses as far as plans change them; edits of sshd are asked path by path.
            listener: _,
            sshd: _,
        } = state;
        partition::add_classes(state, &mut classes, needs);
        hosts_access::classes(state, &mut classes);
    }
    fail2ban::new_tickets(host, after).for_each(|ban| classes.add_source(ban.source));
    classes
}

fn becomes(host: &HostState, after: &HostState, source: Source, port: u16, filters: Filters, needs: &mut Needs) -> Becomes {
    let connection = Connection { source, port, user: None };
    let before = admission_by(filters, host, host, &connection, needs).0;
    let after = admission_by(filters, host, after, &connection, needs).0;
    match rank(after).cmp(&rank(before)) {
        std::cmp::Ordering::Greater => Becomes::Opens,
        std::cmp::Ordering::Less => Becomes::Closes,
        std::cmp::Ordering::Equal if after == Verdict::Unknown => Becomes::Unshown,
        std::cmp::Ordering::Equal => Becomes::Same,
    }
}

fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Refuse => 0,
        Verdict::Unknown => 1,
        Verdict::Accept => 2,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::collections::BTreeSet;

    use super::*;
    use crate::host::Part;
    use crate::netfilter::tests::{asked, host};
    use crate::plan::{self, Plan};
    use crate::ranges::{address, number};
    use crate::reply::{SourceRange, Who};
    use crate::request::Intent;
    use crate::subsystem::nf_tables::build::{self, Ruleset};
    use crate::subsystem::nf_tables::{Family, State};

    /// Plans as the agent does, and says which facts that took.
    fn planned(kernel: &State, operation: &Intent) -> (Plan, Needs) {
        let (plan, _, needs) = asked(kernel, |host, needs| plan::plan(operation, host, 22, needs));
        (plan.unwrap(), needs)
    }

    fn rank_by(who: &Who, v6: bool, at: u128) -> usize {
        let holds = |ranges: &[SourceRange]| {
            ranges.iter().any(|one| one.first.is_ipv6() == v6 && number(one.first) <= at && at <= number(one.last))
        };
        [holds(&who.blocked), who.unknown.iter().any(|one| holds(&one.sources)), holds(&who.reach)]
            .iter()
            .position(|yes| *yes)
            .unwrap()
    }

    /// Opens and closes are the difference between the partitions before and after: at every address where any of them changes.
    fn is_the_difference(kernel: &State, plan: &Plan) {
        let before = partition::who(&host(kernel.clone()), 22, &mut Needs::new());
        let after = plan::predict(&host(kernel.clone()), &plan.steps).unwrap();
        let after = partition::who(&after, 22, &mut Needs::new());
        for v6 in [false, true] {
            let mut edges: BTreeSet<u128> = [0].into();
            let unknown = [&before, &after].into_iter().flat_map(|who| &who.unknown).flat_map(|one| &one.sources);
            let listed = [&before.reach, &before.blocked, &after.reach, &after.blocked].into_iter().flatten().chain(unknown);
            let mut edge = |first, last| edges.extend([Some(number(first)), number(last).checked_add(1)].into_iter().flatten());
            listed.filter(|one| one.first.is_ipv6() == v6).for_each(|one| edge(one.first, one.last));
            let said = plan.opens.iter().chain(&plan.closes).filter(|one| one.is_ipv4() != v6);
            said.for_each(|one| edge(one.first(), one.last()));
            for at in edges.into_iter().filter(|at| *at <= ranges::highest(v6)) {
                let source = Source::from(address(v6, at));
                let holds = |list: &[Source]| list.iter().any(|one| one.contains(source));
                let (was, is) = (rank_by(&before, v6, at), rank_by(&after, v6, at));
                assert_eq!(holds(&plan.opens), is > was, "opens {source}: {plan:#?}");
                assert_eq!(holds(&plan.closes), is < was, "closes {source}: {plan:#?}");
            }
        }
    }

    fn unban(source: &str) -> Intent {
        serde_json::from_value(serde_json::json!({"unban": {"source": source}})).unwrap()
    }

    fn remove(reference: &str) -> Intent {
        Intent::FirewallRemove { reference: reference.to_owned() }
    }

    fn short(sources: &[Source]) -> Vec<String> {
        sources.iter().map(|source| source.short()).collect()
    }

    fn kernel() -> State {
        Ruleset::new()
            .input(Family::Inet, true)
            .set(
                "single",
                false,
                0,
                vec![build::element("203.0.113.7"), build::element("203.0.113.9"), build::element("198.51.100.7")],
            )
            .set("ranges", false, 0x4, vec![build::element("203.0.113.0/24"), build::element("192.0.2.0/28")])
            .set("six", true, 0x4, vec![build::element("2001:db8::/64")])
            .rule(&[build::nfproto(false), build::saddr("203.0.113.128/25"), build::dport(22), build::accept()])
            .rule(&[build::nfproto(false), build::saddr_set("ranges", false, false), build::drop()])
            .rule(&[build::nfproto(false), build::saddr_set("single", false, false), build::drop()])
            .rule(&[build::nfproto(false), build::saddr("198.18.0.0/15"), build::dport(22), build::reject()])
            .rule(&[build::nfproto(true), build::saddr_set("six", true, false), build::dport(22), build::drop()])
            .build()
    }

    #[test]
    fn what_a_plan_opens_and_closes_is_the_difference_between_the_partitions() {
        let refuses_all = Ruleset::new()
            .input(Family::Inet, true)
            .set("single", false, 0, vec![build::element("203.0.113.7"), build::element("203.0.113.9")])
            .rule(&[build::nfproto(false), build::saddr("10.0.0.0/8"), build::accept()])
            .rule(&[build::nfproto(false), build::saddr_set("single", false, false), build::drop()])
            .rule(&[build::dport(22), build::drop()])
            .build();
        let policy = Ruleset::new()
            .input(Family::Inet, false)
            .rule(&[build::nfproto(false), build::saddr("10.0.0.0/8"), build::dport(22), build::accept()])
            .build();
        let all = kernel();
        let accept = |source: &str| Intent::FirewallAccept { source: source.parse().unwrap() };
        let cases = [
            (&all, unban("203.0.113.7"), vec!["203.0.113.7"]),
            (&all, unban("198.51.100.7"), vec!["198.51.100.7"]),
            (&all, unban("198.18.3.4"), vec!["198.18.3.4"]),
            (&all, unban("2001:db8::7"), vec!["2001:db8::7"]),
            (&all, unban("192.0.2.0/28"), vec!["192.0.2.0/28"]),
            (&all, accept("203.0.112.0/22"), vec!["203.0.113.0/25"]),
            (&all, remove("nft/inet/filter/@ranges/192.0.2.0/28"), vec!["192.0.2.0/28"]),
            (
                &all,
                remove("nft/inet/filter/@ranges/203.0.113.0/24"),
                vec!["203.0.113.0/30", "203.0.113.4/31", "203.0.113.6", "203.0.113.8", "203.0.113.10/31", "203.0.113.12/30"],
            ),
            (&all, remove("nft/inet/filter/@single/198.51.100.7"), vec!["198.51.100.7"]),
            (&refuses_all, unban("203.0.113.7"), vec!["203.0.113.7"]),
            (&refuses_all, unban("203.0.113.8"), vec!["203.0.113.8"]),
            (&policy, unban("203.0.113.8"), vec!["203.0.113.8"]),
            (&policy, accept("2001:db8::/64"), vec!["2001:db8::/64"]),
        ];
        for (kernel, operation, opens) in cases {
            let (plan, _) = planned(kernel, &operation);
            let found = short(&plan.opens);
            assert_eq!(
                found.get(..opens.len()),
                Some(&opens.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{operation:?}: {found:?}"
            );
            assert!(plan.closes.is_empty(), "{plan:#?}");
            is_the_difference(kernel, &plan);
        }
    }

    #[test]
    fn an_address_in_a_range_is_taken_out_of_it_and_the_whole_range_only_on_request() {
        let range =
            |source: &str| serde_json::from_value(serde_json::json!({"unban": {"source": source, "range": true}})).unwrap();
        let all = Ruleset::new()
            .input(Family::Inet, true)
            .set("ranges", false, 0x4, vec![build::element("203.0.113.0/24"), build::element("192.0.2.0/28")])
            .set("six", true, 0x4, vec![build::element("2001:db8::/64")])
            .rule(&[build::nfproto(false), build::saddr_set("ranges", false, false), build::drop()])
            .rule(&[build::nfproto(true), build::saddr_set("six", true, false), build::dport(22), build::drop()])
            .rule(&[build::nfproto(false), build::saddr("198.18.0.0/15"), build::dport(22), build::reject()])
            .build();
        for (operation, summary, opens) in [
            (unban("203.0.113.7"), "take 203.0.113.7 out of 203.0.113.0/24 in set inet filter ranges", "203.0.113.7"),
            (unban("203.0.113.0"), "take 203.0.113.0 out of 203.0.113.0/24 in set inet filter ranges", "203.0.113.0"),
            (
                unban("203.0.113.252/30"),
                "take 203.0.113.252/30 out of 203.0.113.0/24 in set inet filter ranges",
                "203.0.113.252/30",
            ),
            (unban("2001:db8::7"), "take 2001:db8::7 out of 2001:db8::/64 in set inet filter six", "2001:db8::7"),
            (range("203.0.113.7"), "remove 203.0.113.0/24 from set inet filter ranges", "203.0.113.0/24"),
            (range("2001:db8::7"), "remove 2001:db8::/64 from set inet filter six", "2001:db8::/64"),
            (range("198.18.0.1"), "delete rule ", "198.18.0.0/15"),
        ] {
            let (plan, _) = planned(&all, &operation);
            assert!(plan.steps.first().unwrap().summary().starts_with(summary), "{plan:#?}");
            assert_eq!((plan.steps.len(), short(&plan.opens)), (1, vec![opens.to_owned()]), "{plan:#?}");
            is_the_difference(&all, &plan);
            assert!(plan.alternatives.iter().any(|one| one.why_not.contains("--range")), "{:#?}", plan.alternatives);
        }
        let (plan, needs) = planned(&all, &unban("203.0.113.7"));
        assert!(!needs.iter().any(|need| matches!(need, crate::host::Need::SetElements(_))), "{needs:#?}");
        let whole = plan.alternatives.first().unwrap();
        assert_eq!(
            (whole.why_not.as_str(), short(&whole.opens)),
            ("also lifts it for 255 others; needs --range", vec!["203.0.113.0/24".to_owned()])
        );
        // Taken back, the range is whole again.
        let before = host(all);
        let mut after = plan::predict(&before, &plan.steps).unwrap();
        for step in plan.steps.iter().rev() {
            step.holds(&after).unwrap();
            step.inverse().predict(&mut after).unwrap();
            step.inverse().holds(&after).unwrap();
        }
        let (Part::Present(before), Part::Present(mut after)) = (before.nf_tables, after.nf_tables) else { panic!() };
        after.dumps.values_mut().for_each(|elements| elements.sort_by(|a, b| b.key.cmp(&a.key)));
        assert_eq!(before, after);
    }

    #[test]
    fn a_rule_that_is_taken_away_opens_or_closes_whom_it_decided_about_and_nobody_else() {
        let all = kernel();
        let chain = all.chains.first().unwrap();
        for (index, rule) in chain.rules.iter().enumerate() {
            let (plan, _) = planned(&all, &remove(&format!("nft/inet/filter/input/handle/{}", rule.handle)));
            // 203.0.113.128/25 was let in by the first; the set of ranges behind it refuses.
            assert_eq!(short(&plan.closes), if index == 0 { vec!["203.0.113.128/25"] } else { vec![] }, "{plan:#?}");
            is_the_difference(&all, &plan);
        }
    }

    #[test]
    fn a_question_about_one_address_reads_no_set_whole() {
        for operation in [unban("203.0.113.7"), unban("198.18.3.4"), remove("nft/inet/filter/@single/198.51.100.7")] {
            let (_, needs) = planned(&kernel(), &operation);
            assert!(!needs.iter().any(|need| matches!(need, crate::host::Need::SetElements(_))), "{operation:?}: {needs:#?}");
        }
    }
}
