//! Whether two readings show the same element or rule, and where in its chain a rule of a step stands. Counters, time left and
//! handles move by themselves and never count. The model and the agent both ask here, so that they cannot disagree.

use std::borrow::Borrow;

use super::expression::{Expression, Verdict};
use super::{Element, Rule};

/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_QUOTA_CONSUMED`.
const QUOTA_CONSUMED: u16 = 4;

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// At this index of its chain.
    At(usize),
    /// Not in its chain.
    Nowhere,
    /// Several rules of the chain could be it.
    Unclear,
}

impl Element {
    /// Whether both are the same element with the same data, timeout and comment. Time left and counters do not count.
    pub fn same(&self, other: &Element) -> bool {
        let moved = |element: &Element| Element { expires_ms: None, raw_expressions: Vec::new(), ..element.clone() };
        moved(self) == moved(other)
    }
}

impl Rule {
    /// Whether both do the same and carry the same user data. Handles and counters do not count.
    pub fn same(&self, other: &Rule) -> bool {
        if self.userdata != other.userdata {
            return false;
        }
        if self.plainly_differs(other) {
            return false;
        }
        // A rule we built has no bytes of the kernel's until it was read back.
        if self.raw_expressions.is_empty() || other.raw_expressions.is_empty() {
            return self.expressions.iter().map(still).eq(other.expressions.iter().map(still));
        }
        still_bytes(&self.raw_expressions, &other.raw_expressions)
    }

    /// Whether they compare with different values or end differently, which tells most rules of a chain apart at a glance.
    fn plainly_differs(&self, other: &Rule) -> bool {
        self.expressions.iter().zip(&other.expressions).any(|pair| match pair {
            (Expression::Cmp { data, op, .. }, Expression::Cmp { data: other, op: other_op, .. }) => {
                (op, data) != (other_op, other)
            }
            (Expression::Verdict(verdict), Expression::Verdict(other)) => verdict != other,
            _ => false,
        })
    }

    /// Whether it refuses what it matches and does nothing besides that another rule could rely on.
    pub fn only_refuses(&self) -> bool {
        self.only(|expression| match expression {
            Expression::Verdict(Verdict::Drop) | Expression::Reject { .. } => true,
            Expression::Target { name, .. } => name == "DROP" || name == "REJECT",
            _ => false,
        })
    }

    /// Whether it accepts what it matches and does nothing besides.
    pub fn only_accepts(&self) -> bool {
        self.only(|expression| match expression {
            Expression::Verdict(Verdict::Accept) => true,
            Expression::Target { name, .. } => name == "ACCEPT",
            _ => false,
        })
    }

    /// Whether it ends as `end` says, and before that only compares and counts.
    fn only(&self, end: impl Fn(&Expression) -> bool) -> bool {
        let looks = |expression: &Expression| match expression {
            Expression::Payload { .. }
            | Expression::Meta { .. }
            | Expression::Ct { .. }
            | Expression::Cmp { .. }
            | Expression::Range { .. }
            | Expression::Bitwise { .. }
            | Expression::Byteorder { .. }
            | Expression::Lookup { dreg: None, .. }
            | Expression::Counter { .. }
            | Expression::Limit { .. }
            | Expression::Log { .. }
            | Expression::Quota { .. }
            | Expression::Connlimit { .. }
            | Expression::Fib { .. } => true,
            // `recent` keeps a list that other rules look in.
            Expression::Match { name, .. } => name != "recent",
            _ => false,
        };
        match self.expressions.split_last() {
            Some((last, before)) => end(last) && before.iter().all(looks),
            None => false,
        }
    }

    /// When it was made compared with other rules of its table: the kernel's handles only grow. A rule the kernel has not yet
    /// seen is the newest.
    fn age(&self) -> u64 {
        if self.handle == 0 { u64::MAX } else { self.handle }
    }
}

/// How many other rules of the chain do the same as this one: for the `others` of a step.
pub fn others<R: Borrow<Rule>>(rules: &[R], rule: &Rule) -> usize {
    let twins = rules.iter().map(Borrow::borrow).filter(|other| other.same(rule));
    twins.filter(|twin| twin.handle == 0 || twin.handle != rule.handle).count()
}

/// Whether another rule has the handle of this one: the kernel gives each handle of a table once, so that the table was made anew
/// since and no handle of then means anything in it.
pub fn is_of_another_table<R: Borrow<Rule>>(rules: &[R], rule: &Rule) -> bool {
    rule.handle != 0 && rules.iter().map(Borrow::borrow).any(|other| other.handle == rule.handle && !other.same(rule))
}

/// Where the rule of a step stands, or stands again: under its own handle, if it still is that rule; or, since a rule that was put back has a new handle, as
/// one more rule of the same content than the `others` the chain had at planning. Of several twins it is the one that was put where
/// the step says: rules that were in turn put between it and `next` are newer than it.
pub fn standing<R: Borrow<Rule>>(rules: &[R], next: Option<u64>, others: usize, wanted: &Rule) -> Standing {
    let rules: Vec<&Rule> = rules.iter().map(Borrow::borrow).collect();
    if wanted.handle != 0
        && let Some(index) = rules.iter().position(|rule| rule.handle == wanted.handle && rule.same(wanted))
    {
        return Standing::At(index);
    }
    let mut twins = rules.iter().enumerate().filter(|(_, rule)| rule.same(wanted)).map(|(index, _)| index);
    let (count, first) = (twins.clone().count(), twins.next());
    if count <= others {
        return Standing::Nowhere;
    }
    let mut newest = u64::MAX;
    for (index, rule) in rules.iter().enumerate().take(place(&rules, next).unwrap_or(0)).rev() {
        if rule.same(wanted) && rule.age() <= newest && rule.age() > wanted.handle {
            return Standing::At(index);
        }
        newest = newest.min(rule.age());
    }
    // It lost its place, or its place is gone.
    match first {
        Some(index) if count == 1 => Standing::At(index),
        Some(_) | None => Standing::Unclear,
    }
}

/// The index a rule before `next` is put at, or the end of the chain; `None` when `next` is gone.
pub fn place<R: Borrow<Rule>>(rules: &[R], next: Option<u64>) -> Option<usize> {
    match next {
        None => Some(rules.len()),
        Some(handle) => rules.iter().position(|rule| rule.borrow().handle == handle),
    }
}

/// Without what moves, and with the kernel's choice between the two names of a register.
fn still(expression: &Expression) -> Expression {
    let mut still = expression.clone();
    match &mut still {
        Expression::Counter { packets, bytes } => (*packets, *bytes) = (0, 0),
        Expression::Payload { dreg, .. }
        | Expression::Meta { dreg, .. }
        | Expression::Ct { dreg, .. }
        | Expression::Immediate { dreg, .. } => *dreg = register(*dreg),
        Expression::Cmp { sreg, .. } | Expression::Range { sreg, .. } => *sreg = register(*sreg),
        Expression::Bitwise { sreg, dreg, .. } => (*sreg, *dreg) = (register(*sreg), register(*dreg)),
        Expression::Lookup { sreg, dreg, .. } => (*sreg, *dreg) = (register(*sreg), dreg.map(register)),
        _ => {}
    }
    still
}

/// `NFT_REG32_00` (8), `04`, `08` and `12` are `NFT_REG_1` to `4` to the kernel (`nft_dump_register`).
fn register(number: u32) -> u32 {
    if (8..24).contains(&number) && number.is_multiple_of(4) { number / 4 - 1 } else { number }
}

/// Whether the expressions of two rules are the same, without counters, used quota and the time of last use. Allocates nothing: a
/// chain may have tens of thousands of rules to compare with.
fn still_bytes(one: &[u8], other: &[u8]) -> bool {
    let elements = |bytes| Attributes(bytes).filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, element)| element);
    let (mut ours, mut theirs) = (elements(one), elements(other));
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if still_element(one, other) => {}
            (Some(_) | None, _) => return false,
        }
    }
}

fn still_element(one: &[u8], other: &[u8]) -> bool {
    fn part(element: &[u8], wanted: u16) -> &[u8] {
        Attributes(element).find(|(kind, _)| *kind == wanted).map_or(&[], |(_, part)| part)
    }
    fn fixed(quota: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        Attributes(part(quota, DATA)).filter(|(kind, _)| *kind != QUOTA_CONSUMED)
    }
    let name = part(one, NAME);
    name == part(other, NAME)
        && match name {
            b"counter\0" | b"last\0" => true,
            b"quota\0" => fixed(one).eq(fixed(other)),
            _ => part(one, DATA) == part(other, DATA),
        }
}

/// Netlink attributes: the type without its flags, and the payload. Ends at the first one that does not fit.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([l0, l1, t0, t1], _) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([*t0, *t1]) & 0x3fff, payload))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::subsystem::nf_tables::expression::Verdict;

    fn rule(handle: u64, packets: u64, verdict: Verdict) -> Rule {
        Rule {
            handle,
            expressions: vec![Expression::Counter { packets, bytes: 0 }, Expression::Verdict(verdict)],
            comment: None,
            raw_expressions: Vec::new(),
            userdata: Vec::new(),
            compat: None,
        }
    }

    fn drop(handle: u64) -> Rule {
        rule(handle, handle, Verdict::Drop)
    }

    fn other(handle: u64) -> Rule {
        rule(handle, 0, Verdict::Accept)
    }

    #[test]
    fn counters_and_handles_do_not_make_a_rule_another() {
        assert!(drop(1).same(&drop(2)));
        assert!(!drop(1).same(&other(1)));
        assert!(!drop(1).same(&Rule { userdata: vec![0, 2, b'x', 0], ..drop(1) }));
        // counter { BYTES, PACKETS } and immediate, as the kernel sends them: lengths in this machine's byte order.
        let bytes = |count: u8| {
            let attribute = |kind: u16, payload: &[u8]| {
                let mut all = u16::try_from(payload.len() + 4).unwrap().to_ne_bytes().to_vec();
                all.extend(kind.to_ne_bytes());
                all.extend(payload);
                all.resize(all.len().next_multiple_of(4), 0);
                all
            };
            let expression =
                |name: &[u8], data: &[u8]| attribute(1 | 0x8000, &[attribute(1, name), attribute(2 | 0x8000, data)].concat());
            [expression(b"counter\0", &attribute(1, &[count; 8])), expression(b"cmp\0", &attribute(1, &[7]))].concat()
        };
        let raw = |count| Rule { raw_expressions: bytes(count), ..drop(1) };
        assert!(raw(1).same(&raw(9)));
        let mut differs = raw(1);
        let last = differs.raw_expressions.len() - 4;
        differs.raw_expressions[last] = 8;
        assert!(!raw(1).same(&differs));
    }

    #[test]
    fn another_rule_under_its_handle_is_not_it() {
        // The table was made anew, and its handles count from the start again.
        assert_eq!(standing(&[other(5), other(6)], None, 0, &drop(6)), Standing::Nowhere);
        assert_eq!(standing(&[other(6), drop(7)], None, 0, &drop(6)), Standing::At(1), "loaded again, with another handle");
        assert!(is_of_another_table(&[other(5), other(6)], &drop(6)));
        assert!(!is_of_another_table(&[other(5), drop(6)], &drop(6)) && !is_of_another_table(&[other(0)], &drop(0)));
    }

    #[test]
    fn a_deleted_rule_is_not_taken_for_its_twin() {
        assert_eq!(others(&[drop(5), drop(6), other(7)], &drop(6)), 1);
        assert_eq!(standing(&[drop(5), other(7)], Some(7), 1, &drop(6)), Standing::Nowhere);
        assert_eq!(standing(&[drop(5), other(7)], Some(7), 0, &drop(5)), Standing::At(0));
        // 5 was deleted and put back as 40 before the step that deletes 6 was planned.
        assert_eq!(standing(&[drop(40), other(7)], Some(7), 1, &drop(6)), Standing::Nowhere);
    }

    #[test]
    fn two_twins_are_put_back_one_after_the_other() {
        // 6 was deleted first (its twin 5 was there), then 5; put back in reverse.
        assert_eq!(standing(&[other(7)], Some(7), 0, &drop(5)), Standing::Nowhere);
        assert_eq!(standing(&[drop(40), other(7)], Some(7), 0, &drop(5)), Standing::At(0));
        assert_eq!(standing(&[drop(40), other(7)], Some(7), 1, &drop(6)), Standing::Nowhere);
        assert_eq!(standing(&[drop(40), drop(41), other(7)], Some(7), 1, &drop(6)), Standing::At(1));
    }

    #[test]
    fn a_rule_that_was_put_back_is_found_by_its_place() {
        assert_eq!(standing(&[other(1), drop(20), other(7)], Some(7), 0, &drop(5)), Standing::At(1));
        let followed = [drop(3), drop(20), other(21), other(7)];
        assert_eq!(standing(&followed, Some(7), 1, &drop(5)), Standing::At(1), "21 was put back after it");
        assert_eq!(standing(&[drop(2), drop(20)], None, 1, &drop(5)), Standing::At(1));
    }

    #[test]
    fn a_rule_that_lost_its_place_is_found_when_it_is_the_only_one() {
        assert_eq!(standing(&[drop(20), other(3), other(7)], Some(7), 0, &drop(0)), Standing::At(0));
        assert_eq!(standing(&[other(3), drop(20)], Some(99), 0, &drop(0)), Standing::At(1));
        assert_eq!(standing(&[drop(20), drop(21)], Some(99), 0, &drop(0)), Standing::Unclear);
        assert_eq!(standing(&[other(3)], Some(99), 0, &drop(0)), Standing::Nowhere);
    }
}
