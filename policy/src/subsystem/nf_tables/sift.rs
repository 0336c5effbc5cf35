//! Which rules of a chain can hold for a packet with these ends, told without a look at the others: for questions that walk one ruleset
//! for many addresses. Passes by only what [`super::early::fails_early`] passes by; judges no packet.

use std::collections::BTreeMap;

use super::Rule;
use super::expression::{BitwiseOp, CmpOp, Expression, PayloadBase};
use crate::packet::{Bits, Packet};

/// Fields of a packet by which rules are told apart.
const FIELDS: usize = 4;

/// The client's and the host's ends of a packet, those that are known: source, destination, source port, destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends([Option<u128>; FIELDS]);

impl Ends {
    /// Of this packet, as it is now.
    pub fn of(packet: &Packet) -> Self {
        let known = |header: &Bits, field| {
            let (at, len) = place(field, packet.v6);
            let part = at..at + len;
            let all = header.known().get(part.clone())?.iter().all(|known| *known == 0xff);
            header.value().get(part).filter(|_| all).map(number)
        };
        let [network, transport] = [&packet.network, &packet.transport];
        Self([known(network, 0), known(network, 1), known(transport, 2), known(transport, 3)])
    }
}

/// Where a field stands in its header, and its length.
fn place(field: usize, v6: bool) -> (usize, usize) {
    match (field, v6) {
        (0, false) => (12, 4),
        (1, false) => (16, 4),
        (0, true) => (8, 16),
        (1, true) => (24, 16),
        (2, _) => (0, 2),
        _ => (2, 2),
    }
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// For which packets of one family a rule does not certainly fail, by its first comparisons alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Nothing that is told here.
    Anything,
    /// It is about the other family.
    Never,
    /// The first bits of a field: how many, and these.
    Bits { field: usize, bits: u32, value: u128 },
}

/// The rules of a chain, for packets of one family.
#[derive(Debug, Default)]
pub struct Sift {
    always: Vec<usize>,
    fields: [Field; FIELDS],
}

/// Rules that ask for the first bits of one field.
#[derive(Debug, Default)]
struct Field {
    all: Vec<usize>,
    /// By how many bits, and by their value.
    by: BTreeMap<u32, BTreeMap<u128, Vec<usize>>>,
}

impl Sift {
    /// Of these rules, in their order.
    pub fn new<'r>(rules: impl Iterator<Item = &'r Rule>, v6: bool) -> Self {
        let mut sift = Self::default();
        for (index, rule) in rules.enumerate() {
            match asks(rule, v6) {
                Asks::Never => {}
                Asks::Anything => sift.always.push(index),
                Asks::Bits { field, bits, value } => match sift.fields.get_mut(field) {
                    None => sift.always.push(index),
                    Some(field) => {
                        field.all.push(index);
                        field.by.entry(bits).or_default().entry(value).or_default().push(index);
                    }
                },
            }
        }
        sift
    }

    /// The rules that may hold for a packet with these ends, in their order.
    pub fn candidates(&self, ends: Ends, v6: bool) -> Vec<usize> {
        let mut found = self.always.clone();
        for (index, (field, end)) in self.fields.iter().zip(ends.0).enumerate() {
            let Some(end) = end else {
                found.extend(&field.all);
                continue;
            };
            for (bits, rules) in &field.by {
                found.extend(rules.get(&first(end, *bits, place(index, v6).1)).into_iter().flatten());
            }
        }
        found.sort_unstable();
        found
    }
}

/// The first bits of a field of `len` bytes.
fn first(value: u128, bits: u32, len: usize) -> u128 {
    let width = u32::try_from(len * 8).unwrap_or(128);
    value.checked_shr(width.saturating_sub(bits)).unwrap_or(0)
}

/// What the register that was loaded last holds.
struct Loaded<'r> {
    register: u32,
    what: What,
    len: usize,
    mask: Option<&'r [u8]>,
}

#[derive(Clone, Copy)]
enum What {
    Field(usize),
    Family,
}

/// Follows the same expressions as `fails_early`, as far as it does.
fn asks(rule: &Rule, v6: bool) -> Asks {
    let mut last: Option<Loaded<'_>> = None;
    let mut port = Asks::Anything;
    for expression in &rule.expressions {
        match expression {
            Expression::Payload { dreg, base: base @ (PayloadBase::Network | PayloadBase::Transport), offset, len } => {
                let fields = if *base == PayloadBase::Network { [0, 1] } else { [2, 3] };
                let (offset, len) = (usize::try_from(*offset).unwrap_or(usize::MAX), usize::try_from(*len).unwrap_or(usize::MAX));
                let field = fields.into_iter().find(|field| {
                    let (at, full) = place(*field, v6);
                    at == offset && len <= full
                });
                last = field.map(|field| Loaded { register: *dreg, what: What::Field(field), len, mask: None });
            }
            // NFT_META_NFPROTO
            Expression::Meta { key: 15, dreg } => {
                last = Some(Loaded { register: *dreg, what: What::Family, len: 1, mask: None });
            }
            Expression::Bitwise { sreg, dreg, len, op: BitwiseOp::MaskXor { mask, xor } } => {
                let whole = usize::try_from(*len).is_ok_and(|len| mask.len() == len && xor.len() == len);
                let plain = whole && xor.iter().all(|byte| *byte == 0);
                last = last.filter(|last| {
                    last.register == *sreg
                        && last.mask.is_none()
                        && plain
                        && last.len == mask.len()
                        && matches!(last.what, What::Field(_))
                });
                if let Some(last) = &mut last {
                    (last.register, last.mask) = (*dreg, Some(mask.as_slice()));
                }
            }
            Expression::Cmp { sreg, op: CmpOp::Eq, data } => {
                let Some(same) = last.as_ref().filter(|last| last.register == *sreg && data.len() <= last.len) else { continue };
                match same.what {
                    What::Family if data.first().is_some_and(|family| *family != if v6 { 10 } else { 2 }) => return Asks::Never,
                    What::Family => {}
                    What::Field(field) => match bits(field, v6, data, same.mask) {
                        asked @ Asks::Bits { field: 0 | 1, .. } => return asked,
                        asked @ Asks::Bits { .. } if port == Asks::Anything => port = asked,
                        Asks::Bits { .. } | Asks::Anything | Asks::Never => {}
                    },
                }
            }
            Expression::Cmp { .. } | Expression::Range { .. } | Expression::Counter { .. } => {}
            Expression::Payload { .. }
            | Expression::Meta { .. }
            | Expression::Ct { .. }
            | Expression::Fib { .. }
            | Expression::Bitwise { .. }
            | Expression::Byteorder { .. }
            | Expression::Immediate { .. } => last = None,
            _ => break,
        }
    }
    port
}

/// What a comparison with these bytes asks of the field, where its mask leaves the first bits and no others.
fn bits(field: usize, v6: bool, data: &[u8], mask: Option<&[u8]>) -> Asks {
    let (_, full) = place(field, v6);
    let compared: Vec<u8> = (0..full).map(|at| mask.map_or(0xff, |mask| mask.get(at).copied().unwrap_or(0))).collect();
    let (mut number, mut known) = (0_u128, 0_u128);
    for (at, byte) in compared.iter().enumerate() {
        let data = data.get(at).copied();
        number = number << 8 | u128::from(data.unwrap_or(0));
        known = known << 8 | u128::from(data.map_or(0, |_| *byte));
    }
    let width = u32::try_from(full * 8).unwrap_or(128);
    let bits = known.count_ones();
    // All of them, and these are the first.
    let leading = (known << (128 - width)).leading_ones();
    if bits == 0 || leading != bits || number & !known != 0 {
        return Asks::Anything;
    }
    Asks::Bits { field, bits, value: number.checked_shr(width - bits).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::subsystem::nf_tables::build::{self, Statement};
    use crate::subsystem::nf_tables::early::fails_early;
    use crate::subsystem::nf_tables::expression::Verdict;
    use crate::verdict::Connection;

    /// Loads, masks and comparisons of few values, so that rules and packets meet: also such as no program writes.
    fn statement() -> impl Strategy<Value = Statement> {
        let base = prop_oneof![Just(PayloadBase::Network), Just(PayloadBase::Transport)];
        let offset = prop_oneof![Just(0_u32), Just(2), Just(8), Just(12), Just(16), Just(24), 0_u32..30];
        let len = prop_oneof![Just(2_u32), Just(4), Just(16), 1_u32..8];
        let byte = || prop_oneof![Just(0_u8), Just(1), Just(22), Just(113), Just(203), Just(255)];
        let mask = prop_oneof![Just(0_u8), Just(255), Just(240), Just(15)];
        let load = (base, offset, len).prop_map(|(base, offset, len)| vec![Expression::Payload { dreg: 1, base, offset, len }]);
        let op = prop_oneof![4 => Just(CmpOp::Eq), 1 => Just(CmpOp::Neq)];
        let compare = (1_u32..3, op, prop::collection::vec(byte(), 1..5))
            .prop_map(|(sreg, op, data)| vec![Expression::Cmp { sreg, op, data }]);
        let masks = (1_u32..3, prop::collection::vec(mask, 4), prop_oneof![4 => Just(0_u8), 1 => Just(1_u8)]).prop_map(
            |(dreg, mask, flip)| {
                let op = BitwiseOp::MaskXor { mask, xor: vec![flip; 4] };
                vec![Expression::Bitwise { sreg: 1, dreg, len: 4, op }]
            },
        );
        let source = (0_u8..4, 1_u8..33).prop_map(|(host, len)| {
            let bits = (0xcb00_7100 | u32::from(host)) & (u32::MAX << (32 - u32::from(len)));
            build::saddr(&format!("{}/{len}", std::net::Ipv4Addr::from_bits(bits)))
        });
        prop_oneof![
            3 => source,
            2 => load,
            2 => compare,
            2 => masks,
            1 => any::<bool>().prop_map(build::nfproto),
            1 => prop_oneof![Just(22_u16), Just(80)].prop_map(build::dport),
            1 => Just(vec![Expression::Meta { key: 16, dreg: 1 }]),
            1 => Just(build::limit(1)),
            1 => Just(vec![Expression::Verdict(Verdict::Drop)]),
        ]
    }

    fn rule(statements: &[Statement]) -> Rule {
        Rule {
            handle: 1,
            expressions: statements.concat(),
            comment: None,
            raw_expressions: Vec::new(),
            userdata: Vec::new(),
            compat: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is passed by fails early, so a sifted walk is the plain one.
        #[test]
        fn only_rules_that_fail_early_are_passed_by(
            rules in prop::collection::vec(prop::collection::vec(statement(), 0..5), 0..12),
            host in 0_u8..6,
            kind in 0_u8..4,
        ) {
            let rules: Vec<Rule> = rules.iter().map(|statements| rule(statements)).collect();
            let source = match kind {
                0 => format!("203.0.113.{host}"),
                1 => "203.0.113.0/24".to_owned(),
                2 => format!("2001:db8::{host}"),
                _ => format!("{host}.0.1.22"),
            };
            let source = source.parse().map_err(|_| TestCaseError::reject("no address"))?;
            let syn = Packet::syn(&Connection { source, port: 22, user: None });
            for packet in [syn.answer(), syn] {
                let candidates = Sift::new(rules.iter(), packet.v6).candidates(Ends::of(&packet), packet.v6);
                prop_assert!(candidates.is_sorted());
                for (index, rule) in rules.iter().enumerate() {
                    prop_assert!(
                        candidates.binary_search(&index).is_ok() || fails_early(rule, &packet),
                        "{:?} may hold for {:?}", rule, packet
                    );
                }
            }
        }
    }

    #[test]
    fn rules_about_other_sources_are_passed_by() {
        let mut rules: Vec<Rule> = (0..=255)
            .map(|host| rule(&[build::nfproto(false), build::saddr(&format!("203.0.113.{host}")), build::drop()]))
            .collect();
        rules.push(rule(&[build::saddr("203.0.0.0/16"), build::drop()]));
        rules.push(rule(&[build::dport(80), build::drop()]));
        rules.push(rule(&[build::dport(22), build::accept()]));
        rules.push(rule(&[build::limit(1)]));
        let of = |source: &str| {
            let packet =
                Packet::syn(&Connection { source: source.parse().unwrap_or_else(|_| unreachable!()), port: 22, user: None });
            Sift::new(rules.iter(), packet.v6).candidates(Ends::of(&packet), packet.v6)
        };
        assert_eq!(of("203.0.113.7"), [7, 256, 258, 259]);
        assert_eq!(of("198.51.100.1"), [258, 259]);
        // In a packet of IPv6 those bytes are no address.
        assert_eq!(of("2001:db8::1"), [256, 258, 259]);
        assert_eq!(of("203.0.113.0/24").len(), 259);
    }
}
