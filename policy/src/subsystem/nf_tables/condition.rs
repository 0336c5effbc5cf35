//! A rule as conditions on fields, instead of loads and compares on registers: what printing and planning look at.
//! Decides nothing about a packet: that is `run`'s work, which runs the expressions themselves.

use super::expression::{BitwiseOp, CmpOp, Expression, PayloadBase};
use super::{Chain, Family, Rule, SetKey, State};

/// A field of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Bytes of a header.
    Payload {
        /// Which header.
        base: PayloadBase,
        /// Bytes into it.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// `NFT_META_*`
    Meta(u32),
    /// `NFT_CT_*`, with its direction.
    Ct(u32, Option<u8>),
    /// `fib`: result and flags.
    Fib(u32, u32),
    /// Several, as the key of a set.
    Concatenation(Vec<Field>),
    /// One that cannot be named.
    Unknown,
}

/// What is asked of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// A comparison, of all bits.
    Compare(CmpOp, Vec<u8>),
    /// A comparison of `(field & mask) ^ xor`.
    Masked {
        /// Ones are compared.
        mask: Vec<u8>,
        /// Flipped before.
        xor: Vec<u8>,
        /// How.
        op: CmpOp,
        /// With what.
        value: Vec<u8>,
    },
    /// `from..=to`
    Range {
        /// Whether outside.
        negated: bool,
        /// Lowest.
        from: Vec<u8>,
        /// Highest.
        to: Vec<u8>,
    },
    /// A set, or a verdict map.
    Set {
        /// Which.
        set: SetKey,
        /// Whether outside.
        invert: bool,
        /// Whether the element's verdict is taken.
        verdict: bool,
    },
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'r> {
    /// Ends the rule unless it holds.
    Condition(Field, Test),
    /// Any other expression, in its place.
    Statement(&'r Expression),
}

/// A register's content: which field, and through which mask.
#[derive(Clone, Debug)]
struct Load {
    at: u32,
    len: u32,
    field: Field,
    mask: Option<(Vec<u8>, Vec<u8>)>,
}

/// Bytes into the register file; registers 1-4 have 16 bytes, 8-23 have 4.
fn place(register: u32) -> u32 {
    match register {
        1..=4 => (register - 1) * 16,
        8..=23 => (register - 8) * 4,
        other => other.saturating_mul(1000),
    }
}

/// The rule's parts, in order. Loads that a condition uses do not stand for themselves.
pub fn items<'r>(state: &State, chain: &Chain, rule: &'r Rule) -> Vec<Item<'r>> {
    let mut items = Vec::new();
    let mut loads: Vec<Load> = Vec::new();
    for expression in &rule.expressions {
        match expression {
            Expression::Payload { dreg, base, offset, len } => {
                load(&mut loads, *dreg, *len, Field::Payload { base: *base, offset: *offset, len: *len });
            }
            Expression::Meta { key, dreg } => load(&mut loads, *dreg, meta_len(*key), Field::Meta(*key)),
            Expression::Ct { key, dreg, direction } => load(&mut loads, *dreg, ct_len(*key), Field::Ct(*key, *direction)),
            Expression::Fib { dreg, result, flags } => load(&mut loads, *dreg, 4, Field::Fib(*result, *flags)),
            Expression::Bitwise { sreg, dreg, len, op: BitwiseOp::MaskXor { mask, xor } } => {
                let (field, plain) = of(&loads, *sreg);
                let field = if plain { field } else { Field::Unknown };
                load(&mut loads, *dreg, *len, field);
                if let Some(last) = loads.last_mut() {
                    last.mask = Some((mask.clone(), xor.clone()));
                }
            }
            Expression::Byteorder { sreg, dreg, len, .. } => {
                // Only the order of a range's ends differs, and those are written in the packet's order.
                let (field, plain) = of(&loads, *sreg);
                let field = if plain { field } else { Field::Unknown };
                load(&mut loads, *dreg, *len, field);
            }
            Expression::Bitwise { dreg, len, .. } => load(&mut loads, *dreg, *len, Field::Unknown),
            Expression::Cmp { sreg, op, data } => {
                let test = match masked(&loads, *sreg) {
                    Some((mask, xor)) => Test::Masked { mask, xor, op: *op, value: data.clone() },
                    None => Test::Compare(*op, data.clone()),
                };
                items.push(Item::Condition(of(&loads, *sreg).0, test));
            }
            Expression::Range { sreg, negated, from, to } => {
                let (field, plain) = of(&loads, *sreg);
                let test = Test::Range { negated: *negated, from: from.clone(), to: to.clone() };
                items.push(Item::Condition(if plain { field } else { Field::Unknown }, test));
            }
            Expression::Lookup { set, sreg, dreg: dreg @ (None | Some(0)), invert } => {
                let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                let len = state.sets.iter().find(|set| set.key == key).map_or(4, |set| set.key_len);
                let field = fields(&loads, *sreg, len);
                items.push(Item::Condition(field, Test::Set { set: key, invert: *invert, verdict: dreg.is_some() }));
            }
            Expression::Opaque { dreg, .. } => {
                if let Some(dreg) = dreg {
                    load(&mut loads, *dreg, 16, Field::Unknown);
                }
                items.push(Item::Statement(expression));
            }
            Expression::ExtensionHeader { dreg, .. }
            | Expression::Lookup { dreg: Some(dreg), .. }
            | Expression::Immediate { dreg, .. } => {
                load(&mut loads, *dreg, 16, Field::Unknown);
                items.push(Item::Statement(expression));
            }
            other => items.push(Item::Statement(other)),
        }
    }
    ranges(items)
}

/// nft writes a range as two comparisons of the same field; here it is one.
fn ranges(items: Vec<Item<'_>>) -> Vec<Item<'_>> {
    let mut joined: Vec<Item<'_>> = Vec::with_capacity(items.len());
    for item in items {
        if let Item::Condition(field, Test::Compare(CmpOp::Lte, to)) = &item
            && let Some(Item::Condition(before, Test::Compare(CmpOp::Gte, from))) = joined.last()
            && before == field
        {
            let range = Test::Range { negated: false, from: from.clone(), to: to.clone() };
            joined.pop();
            joined.push(Item::Condition(field.clone(), range));
        } else {
            joined.push(item);
        }
    }
    joined
}

/// The family that a rule's packets have: the table's, or what the rule itself asks for first in tables of several families.
pub fn family(chain: &Chain, items: &[Item<'_>]) -> Family {
    if matches!(chain.family, Family::Ip | Family::Ip6) {
        return chain.family;
    }
    let asked = items.iter().find_map(|item| match item {
        Item::Condition(Field::Meta(15), Test::Compare(CmpOp::Eq, value)) if value.as_slice() == [2] => Some(Family::Ip),
        Item::Condition(Field::Meta(15), Test::Compare(CmpOp::Eq, value)) if value.as_slice() == [10] => Some(Family::Ip6),
        Item::Condition(Field::Meta(1), Test::Compare(CmpOp::Eq, value)) if value.as_slice() == [0x08, 0x00] => Some(Family::Ip),
        Item::Condition(Field::Meta(1), Test::Compare(CmpOp::Eq, value)) if value.as_slice() == [0x86, 0xdd] => Some(Family::Ip6),
        Item::Condition(..) | Item::Statement(_) => None,
    });
    asked.unwrap_or(chain.family)
}

/// The transport protocol that a rule asks for: `tcp`, `udp`, ..., or `th` for any.
pub fn transport(items: &[Item<'_>]) -> &'static str {
    let asked = items.iter().find_map(|item| match item {
        Item::Condition(
            Field::Meta(16) | Field::Payload { base: PayloadBase::Network, offset: 6 | 9, len: 1 },
            Test::Compare(CmpOp::Eq, value),
        ) => value.first().copied(),
        Item::Condition(..) | Item::Statement(_) => None,
    });
    match asked {
        Some(6) => "tcp",
        Some(17) => "udp",
        Some(58) => "icmpv6",
        Some(132) => "sctp",
        Some(_) | None => "th",
    }
}

fn load(loads: &mut Vec<Load>, register: u32, len: u32, field: Field) {
    let at = place(register);
    loads.retain(|load| load.at + load.len <= at || load.at >= at + len.next_multiple_of(4));
    loads.push(Load { at, len, field, mask: None });
}

/// The field in a register, and whether it is there unmasked.
fn of(loads: &[Load], register: u32) -> (Field, bool) {
    let found = loads.iter().find(|load| load.at == place(register));
    found.map_or((Field::Unknown, false), |load| (load.field.clone(), load.mask.is_none()))
}

fn masked(loads: &[Load], register: u32) -> Option<(Vec<u8>, Vec<u8>)> {
    loads.iter().find(|load| load.at == place(register)).and_then(|load| load.mask.clone())
}

/// The fields that make up a key of this length.
fn fields(loads: &[Load], register: u32, len: u32) -> Field {
    let mut fields = Vec::new();
    let (mut at, end) = (place(register), place(register) + len);
    while at < end {
        let Some(load) = loads.iter().find(|load| load.at == at && load.mask.is_none()) else { return Field::Unknown };
        fields.push(load.field.clone());
        at += load.len.next_multiple_of(4).max(4);
    }
    match fields.as_slice() {
        [one] => one.clone(),
        _ => Field::Concatenation(fields),
    }
}

/// Bytes that `meta` loads.
pub(super) fn meta_len(key: u32) -> u32 {
    match key {
        // protocol, iiftype, oiftype
        1 | 8 | 9 => 2,
        // iifname, oifname, kinds, sdifname
        6 | 7 | 17 | 18 | 26 | 27 | 34 => 16,
        // nfproto, l4proto, pkttype, secpath, day
        15 | 16 | 19 | 25 | 31 => 1,
        30 => 8,
        _ => 4,
    }
}

/// Bytes that `ct` loads.
pub(super) fn ct_len(key: u32) -> u32 {
    match key {
        1 | 7 | 10 => 1,
        11 | 12 => 2,
        13 | 21 | 22 => 16,
        14..=16 => 8,
        _ => 4,
    }
}
