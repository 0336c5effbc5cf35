//! Which sets of client addresses a rule tells apart: follows the bytes of the client's address from the packet through the registers
//! to comparisons and sets. Says too much rather than too little; judges no packet.

use std::collections::BTreeMap;

use super::condition::{ct_len, meta_len};
use super::expression::{BitwiseOp, CmpOp, Expression, PayloadBase};
use super::index::Index;
use super::lift::Side;
use super::registers::offset;
use super::{Chain, Element, ElementData, Family, Rule, Set, SetKey, State};
use crate::host::{Need, Needs};
use crate::ranges::{Classes, Span, highest, masked};
use crate::subsystem::ipset;
use crate::subsystem::xtables;

/// `NFT_META_PROTOCOL`, `NFT_META_NFPROTO`
const META_PROTOCOL: u32 = 1;
const META_NFPROTO: u32 = 15;
/// `NFT_META_MARK` and `NFT_CT_MARK`
const MARK: u32 = 3;

/// What a byte of a register has to do with the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    /// Nothing.
    Plain,
    /// It is `(byte & mask) ^ xor` of the byte at this index of it.
    Address { side: Side, index: usize, mask: u8, xor: u8 },
    /// It was made of it in some other way.
    Made,
}

/// Bytes of the registers that are one after the other.
type Bytes = Vec<Byte>;

struct Registers([Byte; 64]);

impl Registers {
    fn load(&self, register: u32, len: usize) -> Bytes {
        let from = offset(register).unwrap_or(64);
        self.0.iter().skip(from).take(len).copied().collect()
    }

    /// Writes and, as the kernel does, clears the rest of the last word.
    fn store(&mut self, register: u32, bytes: &[Byte]) {
        let Some(from) = offset(register) else { return };
        let padded = bytes.iter().copied().chain(std::iter::repeat(Byte::Plain)).take(bytes.len().next_multiple_of(4));
        self.0.iter_mut().skip(from).zip(padded).for_each(|(to, byte)| *to = byte);
    }
}

/// Adds the sets of client addresses that a rule tells apart. Sets that it looks the address up in are read whole: what is missing is
/// added to `needs`.
pub fn classes(
    (state, index): (&State, &Index<'_>),
    chain: &Chain,
    rule: &Rule,
    ipsets: &ipset::State,
    classes: &mut Classes,
    needs: &mut Needs,
) {
    let v6 = classes.v6();
    let mut registers = Registers([Byte::Plain; 64]);
    // Where the packet's family was loaded to, and how the client's would be written there.
    let mut family: Option<(u32, Vec<u8>)> = None;
    let mut masks = Masks::new(v6);
    for expression in &rule.expressions {
        match expression {
            Expression::Payload { dreg, base, offset, len } => {
                family = family.filter(|(register, _)| register != dreg);
                registers.store(*dreg, &payload(v6, *base, *offset, *len));
            }
            Expression::Meta { key, dreg } => {
                family = match *key {
                    META_NFPROTO => Some((*dreg, vec![if v6 { 10 } else { 2 }])),
                    META_PROTOCOL => Some((*dreg, if v6 { vec![0x86, 0xdd] } else { vec![0x08, 0x00] })),
                    _ => family.filter(|(register, _)| register != dreg),
                };
                registers.store(*dreg, &plain(meta_len(*key)));
            }
            Expression::Ct { key, dreg, direction } => {
                family = family.filter(|(register, _)| register != dreg);
                registers.store(*dreg, &conntrack(v6, *key, *direction));
            }
            Expression::Fib { dreg, .. } | Expression::ExtensionHeader { dreg, .. } => registers.store(*dreg, &plain(4)),
            Expression::Immediate { dreg, data } => registers.store(*dreg, &vec![Byte::Plain; data.len()]),
            Expression::Bitwise { sreg, dreg, len, op } => {
                let bytes = registers.load(*sreg, size(*len));
                registers.store(*dreg, &bitwise(&bytes, op));
            }
            Expression::Byteorder { sreg, dreg, len, size: unit, .. } => {
                let bytes = registers.load(*sreg, size(*len));
                registers.store(*dreg, &swap(&bytes, size(*unit)));
            }
            Expression::Cmp { sreg, op, data } => {
                if let Some((register, wanted)) = &family
                    && register == sreg
                    && *op == CmpOp::Eq
                    && data != wanted
                {
                    // The rest of the rule is about the other family.
                    return;
                }
                compare(&registers.load(*sreg, data.len()), *op, data, classes, &mut masks);
            }
            Expression::Range { sreg, from, to, .. } => {
                within(&registers.load(*sreg, from.len()), from, to, classes);
            }
            Expression::Lookup { set, sreg, dreg, .. } => {
                let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                let Some(set) = index.sets.get(&key).copied() else { continue };
                let bytes = registers.load(*sreg, size(set.key_len));
                if bytes.iter().any(|byte| *byte != Byte::Plain) {
                    match state.dumps.get(&key) {
                        Some(elements) => lookup(set, elements, &bytes, classes),
                        None => _ = needs.insert(Need::SetElements(key)),
                    }
                }
                // Which element was found is told apart already, so what it gives is nothing of its own.
                if let Some(dreg @ 1..) = dreg {
                    registers.store(*dreg, &plain(set.data_len.unwrap_or(4)));
                }
            }
            Expression::ObjectMap { set, sreg } => {
                let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                let Some(set) = index.sets.get(&key).copied() else { continue };
                match state.dumps.get(&key) {
                    Some(elements) => lookup(set, elements, &registers.load(*sreg, size(set.key_len)), classes),
                    None => _ = needs.insert(Need::SetElements(key)),
                }
            }
            Expression::Opaque { dreg, .. } => {
                if let Some(dreg) = dreg {
                    registers.store(*dreg, &plain(4));
                }
            }
            Expression::MetaSet { key: MARK, sreg } | Expression::CtSet { key: MARK, sreg, .. } => {
                carried(&registers.load(*sreg, 4), classes);
            }
            Expression::PayloadSet { sreg, len, .. } => carried(&registers.load(*sreg, size(*len)), classes),
            Expression::Nat { address_register, port_register, .. } => {
                let address = address_register.map(|register| registers.load(register, if v6 { 16 } else { 4 }));
                let port = port_register.map(|register| registers.load(register, 2));
                for bytes in address.into_iter().chain(port) {
                    carried(&bytes, classes);
                }
            }
            Expression::Match { name, revision, info } => {
                let decoded = xtables::extension::decode::decode(v6, name, *revision, info);
                xtables::extension::depends::classes(&decoded, ipsets, classes, needs);
            }
            // These change nothing that a later rule could ask for, or make everything unknown.
            Expression::MetaSet { .. }
            | Expression::CtSet { .. }
            | Expression::Verdict(_)
            | Expression::Counter { .. }
            | Expression::Log { .. }
            | Expression::Dup
            | Expression::Limit { .. }
            | Expression::Quota { .. }
            | Expression::Connlimit { .. }
            | Expression::Dynset { .. }
            | Expression::Objref { .. }
            | Expression::Notrack
            | Expression::Reject { .. }
            | Expression::Queue
            | Expression::Synproxy
            | Expression::Fwd
            | Expression::Target { .. }
            | Expression::Unknown { .. } => {}
        }
    }
    masks.add_to(classes);
}

/// What a rule asks of single bits of the address, to be spelt out where the rest of the rule holds at all.
struct Masks {
    v6: bool,
    /// Side, value and mask of those that are too many ranges by themselves.
    wide: Vec<(Side, u128, u128)>,
    /// Which addresses the other conditions on each side leave.
    left: Vec<(Side, Span)>,
}

/// More addresses are not tried one by one for a mask.
const MOST_TRIED: u128 = 1 << 16;

impl Masks {
    fn new(v6: bool) -> Self {
        let left = [Side::Source, Side::Destination].map(|side| (side, (0, highest(v6)))).to_vec();
        Self { v6, wide: Vec::new(), left }
    }

    /// Notes one equality; `holds` says whether the rule goes on where it does.
    fn note(&mut self, side: Side, value: u128, mask: u128, holds: bool, classes: &mut Classes) {
        let Some(spans) = masked(self.v6, value, mask) else {
            self.wide.push((side, value, mask));
            return;
        };
        if let ([(from, to)], true) = (spans.as_slice(), holds) {
            for (_, left) in self.left.iter_mut().filter(|(other, _)| *other == side) {
                *left = (left.0.max(*from), left.1.min(*to));
            }
        }
        classes.add(spans);
    }

    fn add_to(self, classes: &mut Classes) {
        for (side, value, mask) in &self.wide {
            let Some((_, (from, to))) = self.left.iter().find(|(other, _)| other == side) else { continue };
            match to.checked_sub(*from) {
                // The rule holds for nobody.
                None => {}
                Some(more) if more < MOST_TRIED => {
                    classes.add((*from..=*to).filter(|at| at & mask == *value).map(|at| (at, at)).collect());
                }
                Some(_) => classes.add_unknown(),
            }
        }
    }
}

fn size(len: u32) -> usize {
    usize::try_from(len).unwrap_or(64).min(64)
}

fn plain(len: u32) -> Bytes {
    vec![Byte::Plain; size(len)]
}

fn address(side: Side, index: usize) -> Byte {
    Byte::Address { side, index, mask: 0xff, xor: 0 }
}

/// The client is the source of what comes in and the destination of what goes out; which it is, is not asked here.
fn payload(v6: bool, base: PayloadBase, offset: u32, len: u32) -> Bytes {
    let (source, destination, full) = if v6 { (8, 24, 16) } else { (12, 16, 4) };
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let at = |at: usize| match base {
        PayloadBase::Network if (source..source + full).contains(&at) => address(Side::Source, at - source),
        PayloadBase::Network if (destination..destination + full).contains(&at) => address(Side::Destination, at - destination),
        _ => Byte::Plain,
    };
    (0..size(len)).map(|index| at(from.saturating_add(index))).collect()
}

/// `NFT_CT_SRC` 8, `DST` 9 and their kin with a length, 19-22.
fn conntrack(v6: bool, key: u32, direction: Option<u8>) -> Bytes {
    let full = if v6 { 16 } else { 4 };
    let len = match key {
        8 | 9 => full,
        19 | 20 => 4,
        21 | 22 => 16,
        other => return plain(ct_len(other)),
    };
    if len != full {
        return vec![Byte::Plain; len];
    }
    let source = matches!(key, 8 | 19 | 21) == (direction.unwrap_or(0) == 0);
    (0..len).map(|index| address(if source { Side::Source } else { Side::Destination }, index)).collect()
}

fn bitwise(bytes: &[Byte], op: &BitwiseOp) -> Bytes {
    match op {
        BitwiseOp::MaskXor { mask, xor } => {
            let operands = mask.iter().zip(xor.iter().chain(std::iter::repeat(&0)));
            let one = |(byte, (and, flip)): (&Byte, (&u8, &u8))| match byte {
                Byte::Address { .. } if *and == 0 => Byte::Plain,
                Byte::Address { side, index, mask, xor } => {
                    Byte::Address { side: *side, index: *index, mask: mask & and, xor: (xor & and) ^ flip }
                }
                other => *other,
            };
            bytes.iter().zip(operands).map(one).collect()
        }
        BitwiseOp::LeftShift(_) | BitwiseOp::RightShift(_) if bytes.iter().all(|byte| *byte == Byte::Plain) => bytes.to_vec(),
        BitwiseOp::LeftShift(_) | BitwiseOp::RightShift(_) => vec![Byte::Made; bytes.len()],
    }
}

fn swap(bytes: &[Byte], unit: usize) -> Bytes {
    if cfg!(target_endian = "big") {
        return bytes.to_vec();
    }
    bytes.chunks(unit.max(1)).flat_map(|unit| unit.iter().rev().copied()).collect()
}

/// A value that goes on with the packet, to where it is not followed.
fn carried(bytes: &[Byte], classes: &mut Classes) {
    if bytes.iter().any(|byte| *byte != Byte::Plain) {
        classes.add_unknown();
    }
}

/// The bits of the client's address that these bytes fix: value and mask, for each side that occurs. Says whether some byte was made
/// of the address in another way.
fn fixed(v6: bool, bytes: &[Byte], data: &[u8]) -> (Vec<(Side, u128, u128)>, bool) {
    let length = if v6 { 16 } else { 4 };
    let mut found = Vec::new();
    for wanted in [Side::Source, Side::Destination] {
        let (mut value, mut known, mut any, mut never) = (0_u128, 0_u128, false, false);
        for (byte, data) in bytes.iter().zip(data) {
            if let Byte::Address { side, index, mask, xor } = byte
                && *side == wanted
            {
                let shift = u32::try_from((length - 1 - index.min(&(length - 1))) * 8).unwrap_or(0);
                any = true;
                never |= (data ^ xor) & !mask != 0;
                value |= u128::from((data ^ xor) & mask) << shift;
                known |= u128::from(*mask) << shift;
            }
        }
        if any && !never {
            found.push((wanted, value, known));
        }
    }
    (found, bytes.contains(&Byte::Made))
}

/// Where the bytes are the first ones of the address as they stand in the packet: how many.
fn leading(bytes: &[Byte]) -> Option<usize> {
    let first = match bytes.first() {
        Some(Byte::Address { side, index: 0, mask: 0xff, xor: 0 }) => *side,
        _ => return None,
    };
    let whole = bytes.iter().enumerate().all(|(index, byte)| *byte == address(first, index));
    whole.then_some(bytes.len())
}

/// The addresses whose first bytes are in `from..=to`.
fn starting(v6: bool, from: &[u8], to: &[u8]) -> Span {
    let length = if v6 { 16 } else { 4 };
    let number = |bytes: &[u8], fill: u8| {
        let bytes = bytes.iter().copied().chain(std::iter::repeat(fill)).take(length);
        bytes.fold(0_u128, |number, byte| number << 8 | u128::from(byte))
    };
    (number(from, 0), number(to, 0xff))
}

fn compare(bytes: &[Byte], op: CmpOp, data: &[u8], classes: &mut Classes, masks: &mut Masks) {
    match op {
        CmpOp::Eq | CmpOp::Neq => {
            let (found, made) = fixed(classes.v6(), bytes, data);
            for (side, value, mask) in found {
                masks.note(side, value, mask, op == CmpOp::Eq, classes);
            }
            if made {
                classes.add_unknown();
            }
        }
        CmpOp::Lte | CmpOp::Gt => within(bytes, &vec![0; data.len()], data, classes),
        CmpOp::Gte | CmpOp::Lt => within(bytes, data, &vec![0xff; data.len()], classes),
    }
}

fn within(bytes: &[Byte], from: &[u8], to: &[u8], classes: &mut Classes) {
    if bytes.iter().all(|byte| *byte == Byte::Plain) {
        return;
    }
    match leading(bytes) {
        Some(_) if from <= to => classes.add(vec![starting(classes.v6(), from, to)]),
        Some(_) => {}
        None => classes.add_unknown(),
    }
}

/// Elements of one set that differ only in the client's address.
type Group<'e> = (Vec<u8>, Vec<u8>, Option<&'e ElementData>);

/// A set that is asked for a key of these bytes.
fn lookup(set: &Set, elements: &[Element], bytes: &[Byte], classes: &mut Classes) {
    if !classes.is_new(format!("nft set {} by {bytes:?}", set.key)) {
        return;
    }
    let v6 = classes.v6();
    for wanted in [Side::Source, Side::Destination] {
        let of_side = |byte: &Byte| matches!(byte, Byte::Address { side, .. } if *side == wanted);
        let Some(from) = bytes.iter().position(of_side) else { continue };
        let len = bytes.iter().skip(from).take_while(|byte| of_side(byte)).count();
        let run = bytes.get(from..from + len).unwrap_or_default();
        // The address, or its first bytes, in a field of its own.
        let plain = leading(run).is_some() && !bytes.iter().skip(from + len).any(of_side) && is_field(set, from, len);
        let mut groups: BTreeMap<Group<'_>, Vec<Span>> = BTreeMap::new();
        for element in elements.iter().filter(|element| !element.catchall) {
            let end = element.key_end.as_ref().unwrap_or(&element.key);
            let rest = |key: &[u8]| {
                let other = |(at, byte): (usize, &u8)| (!(from..from + len).contains(&at)).then_some(*byte);
                key.iter().enumerate().filter_map(other).collect::<Vec<u8>>()
            };
            let spans = groups.entry((rest(&element.key), rest(end), element.data.as_ref())).or_default();
            match (element.key.get(from..from + len), end.get(from..from + len)) {
                (Some(low), Some(high)) if plain => spans.push(starting(v6, low, high)),
                _ if element.key_end.is_none() => {
                    let (found, made) = fixed(v6, bytes, &element.key);
                    if made {
                        return classes.add_unknown();
                    }
                    for (_, value, mask) in found {
                        match masked(v6, value, mask) {
                            Some(found) => spans.extend(found),
                            None => return classes.add_unknown(),
                        }
                    }
                }
                _ => return classes.add_unknown(),
            }
        }
        for spans in groups.into_values() {
            classes.add(spans);
        }
    }
    if bytes.contains(&Byte::Made) {
        classes.add_unknown();
    }
}

/// Whether ranges of the set are compared by these bytes alone: they are the whole key, or a field of a concatenation.
fn is_field(set: &Set, from: usize, len: usize) -> bool {
    if !set.interval() {
        return true;
    }
    if !set.concat() {
        return from == 0 && Some(len) == usize::try_from(set.key_len).ok();
    }
    let mut at = 0;
    set.fields.iter().any(|field| {
        let field = size(*field);
        let this = at == from && field == len;
        at += field.next_multiple_of(4);
        this
    })
}

/// Whether packets of a family can come through a chain's table.
pub fn of_family(chain: &Chain, v6: bool) -> bool {
    match chain.family {
        Family::Ip => !v6,
        Family::Ip6 => v6,
        Family::Inet | Family::Netdev | Family::Bridge => true,
        Family::Arp => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::ranges::{merged, number};
    use crate::subsystem::nf_tables::build::{self, Ruleset, accept, dport, drop, element, nfproto, saddr, saddr_op};

    fn all(state: &State, v6: bool) -> (Vec<Span>, bool) {
        let mut found = Classes::new(v6);
        let mut needs = Needs::new();
        for chain in &state.chains {
            for rule in &chain.rules {
                classes((state, &Index::new(state)), chain, rule, &ipset::State::new(), &mut found, &mut needs);
            }
        }
        assert!(needs.is_empty(), "{needs:?}");
        let edges = crate::ranges::pieces(&[(0, highest(v6))], &found).into_iter().map(|piece| piece.span).collect();
        (edges, found.complete())
    }

    fn edge(address: &str) -> u128 {
        number(address.parse().unwrap())
    }

    #[test]
    fn addresses_prefixes_and_elements_are_told_apart_in_their_family_only() {
        let state = Ruleset::new()
            .input(Family::Inet, true)
            .rule(&[nfproto(false), saddr("203.0.113.0/24"), dport(22), drop()])
            .rule(&[nfproto(true), saddr("2001:db8::7"), drop()])
            .rule(&[dport(22), accept()])
            .set("bad", false, 0x4, vec![element("198.51.100.0/31"), element("198.51.100.2")])
            .rule(&[nfproto(false), build::saddr_set("bad", false, false), drop()])
            .build();
        let (pieces, complete) = all(&state, false);
        assert!(complete);
        let starts: Vec<u128> = pieces.iter().map(|piece| piece.0).collect();
        let wanted = ["0.0.0.0", "198.51.100.0", "198.51.100.3", "203.0.113.0", "203.0.114.0"];
        assert_eq!(starts, wanted.map(edge));
        let (pieces, complete) = all(&state, true);
        assert!(complete);
        assert_eq!(pieces.iter().map(|piece| piece.0).collect::<Vec<_>>(), ["::", "2001:db8::7", "2001:db8::8"].map(edge));
    }

    #[test]
    fn a_mask_in_the_middle_is_exact_while_it_is_small_and_never_dropped() {
        let rule = |mask: [u8; 4], value: [u8; 4]| {
            let op = BitwiseOp::MaskXor { mask: mask.to_vec(), xor: vec![0; 4] };
            let statement = vec![
                build::load_saddr(false),
                Expression::Bitwise { sreg: 1, dreg: 1, len: 4, op },
                Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: value.to_vec() },
            ];
            Ruleset::new().input(Family::Ip, true).rule(&[statement, drop()]).build()
        };
        let (pieces, complete) = all(&rule([255, 255, 240, 255], [10, 0, 0, 7]), false);
        assert!(complete);
        let held = masked(false, edge("10.0.0.7"), edge("255.255.240.255")).unwrap();
        assert!(held.iter().all(|span| pieces.contains(span)), "{pieces:?}");
        assert!(!all(&rule([0, 0, 0, 255], [0, 0, 0, 7]), false).1, "2^24 ranges");
        let mut state = rule([0, 0, 0, 3], [0, 0, 0, 2]);
        let mut narrow = Rule::clone(&state.chains[0].rules[0]);
        narrow.expressions.extend(saddr("10.5.2.0/28"));
        std::sync::Arc::make_mut(&mut state.chains[0]).rules = vec![std::sync::Arc::new(narrow)];
        let (pieces, complete) = all(&state, false);
        assert!(complete && pieces.contains(&(edge("10.5.2.14"), edge("10.5.2.14"))), "{pieces:?}");
    }

    #[test]
    fn orders_are_ranges_and_what_is_made_of_the_address_is_unknown() {
        let state = Ruleset::new().input(Family::Ip, true).rule(&[saddr_op("203.0.113.7", CmpOp::Gt), drop()]).build();
        assert_eq!(all(&state, false).0, [(0, edge("203.0.113.7")), (edge("203.0.113.8"), edge("255.255.255.255"))]);
        let shifted = vec![
            build::load_saddr(false),
            Expression::Bitwise { sreg: 1, dreg: 1, len: 4, op: BitwiseOp::RightShift(8) },
            Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![0; 4] },
        ];
        let state = Ruleset::new().input(Family::Ip, true).rule(&[shifted, drop()]).build();
        assert!(!all(&state, false).1);
        let marked = vec![build::load_saddr(false), Expression::MetaSet { key: MARK, sreg: 1 }];
        assert!(!all(&Ruleset::new().input(Family::Ip, true).rule(&[marked]).build(), false).1);
    }

    #[test]
    fn a_source_and_a_destination_in_one_comparison_are_told_apart_each_for_itself() {
        // nft loads `ip saddr 203.0.113.7 ip daddr 192.0.2.1` as 8 bytes.
        let both = vec![
            Expression::Payload { dreg: 1, base: PayloadBase::Network, offset: 12, len: 8 },
            Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![203, 0, 113, 7, 192, 0, 2, 1] },
        ];
        let (pieces, complete) = all(&Ruleset::new().input(Family::Ip, true).rule(&[both, drop()]).build(), false);
        assert!(complete);
        for one in ["203.0.113.7", "192.0.2.1"] {
            assert!(pieces.contains(&(edge(one), edge(one))), "{pieces:?}");
        }
        assert_eq!(merged(pieces), [(0, highest(false))]);
    }
}
