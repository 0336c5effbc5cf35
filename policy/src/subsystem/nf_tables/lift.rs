//! The steps that open exactly what was asked: delete one element, delete one rule, or insert an accept before a rule. Builds
//! steps; whether they lift anything is found by evaluating again.

use std::net::IpAddr;

use ipnet::{Ipv4Subnets, Ipv6Subnets};

use super::condition::{self, Field, Item, Test, items};
use super::expression::{BitwiseOp, CmpOp, Expression, PayloadBase, Verdict};
use super::render::{self, compat, mask_len};
use super::same::others;
use super::{Chain, Element, Family, Rule, Set, SetKey, State, Step};
use crate::address::Source;
use crate::subsystem::ipset::SetNames;
use crate::verdict::Admits;

/// Which address of the packet is the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source: packets that come in.
    Source,
    /// The destination: the answer.
    Destination,
}

impl Side {
    /// This host's.
    fn other(self) -> Side {
        match self {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        }
    }
}

/// Which packets an accept is about, besides their source and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Any that come to the chain.
    All,
    /// Those whose other end is this host: `fib daddr type local`.
    Local,
    /// Those whose other end is this address.
    Address(IpAddr),
}

/// Where the client's address stands in the header: offset and length.
fn address_field(v6: bool, side: Side) -> (u32, u32) {
    match (v6, side) {
        (false, Side::Source) => (12, 4),
        (false, Side::Destination) => (16, 4),
        (true, Side::Source) => (8, 16),
        (true, Side::Destination) => (24, 16),
    }
}

/// Whether a field is the client's address, perhaps only its first bytes.
fn is_address(field: &Field, family: Family, v6: bool, side: Side) -> bool {
    let (at, full) = address_field(v6, side);
    let of_family = match family {
        Family::Ip => !v6,
        Family::Ip6 => v6,
        Family::Inet | Family::Netdev | Family::Bridge | Family::Arp => true,
    };
    of_family && matches!(field, Field::Payload { base: PayloadBase::Network, offset, len } if *offset == at && *len <= full)
}

/// The range of addresses from a value and how many of its bits count.
fn prefix(bytes: &[u8], len: u32, v6: bool) -> Option<Source> {
    let address = if v6 {
        let mut full = [0; 16];
        full.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        IpAddr::from(full)
    } else {
        let mut full = [0; 4];
        full.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        IpAddr::from(full)
    };
    Some(Source::new(ipnet::IpNet::new(address, u8::try_from(len).ok()?).ok()?))
}

/// The client addresses that a rule names by itself, where that is one range; rules that use a set or exclude do not.
pub fn rule_source(state: &State, chain: &Chain, rule: &Rule, v6: bool, side: Side) -> Option<Source> {
    let mut named = None;
    let items = items(state, chain, rule);
    let family = condition::family(chain, &items);
    for item in items {
        let Item::Condition(field, test) = item else { continue };
        if !is_address(&field, family, v6, side) {
            if matches!(&field, Field::Concatenation(fields) if fields.iter().any(|one| is_address(one, family, v6, side))) {
                return None;
            }
            continue;
        }
        let source = match test {
            Test::Compare(CmpOp::Eq, value) => prefix(&value, u32::try_from(value.len() * 8).ok()?, v6)?,
            Test::Masked { mask, xor, op: CmpOp::Eq, value } if xor.iter().all(|byte| *byte == 0) => {
                prefix(&value, mask_len(&mask)?, v6)?
            }
            Test::Range { negated: false, from, to } => match ranges(&from, &to).as_slice() {
                [one] => *one,
                _ => return None,
            },
            Test::Compare(..) | Test::Masked { .. } | Test::Range { .. } | Test::Set { .. } => return None,
        };
        if named.is_some_and(|before| before != source) {
            return None;
        }
        named = Some(source);
    }
    named
}

/// Whether a rule uses a set that belongs to it alone and would go with it.
pub fn has_anonymous_set(rule: &Rule) -> bool {
    rule.expressions.iter().any(|one| matches!(one, Expression::Lookup { set, .. } if set.starts_with("__")))
}

/// The prefixes that make up a range of addresses; empty when the bytes are no addresses.
pub fn ranges(from: &[u8], to: &[u8]) -> Vec<Source> {
    if let (Ok(from), Ok(to)) = (<[u8; 4]>::try_from(from), <[u8; 4]>::try_from(to)) {
        return Ipv4Subnets::new(from.into(), to.into(), 0).map(|net| Source::new(net.into())).collect();
    }
    if let (Ok(from), Ok(to)) = (<[u8; 16]>::try_from(from), <[u8; 16]>::try_from(to)) {
        return Ipv6Subnets::new(from.into(), to.into(), 0).map(|net| Source::new(net.into())).collect();
    }
    Vec::new()
}

/// The client addresses that an element stands for: `place` is where the address begins in the key.
pub fn element_sources(element: &Element, place: usize, len: usize) -> Vec<Source> {
    let end = element.key_end.as_ref().unwrap_or(&element.key);
    match (element.key.get(place..place + len), end.get(place..place + len)) {
        (Some(from), Some(to)) if !element.catchall => ranges(from, to),
        _ => Vec::new(),
    }
}

/// Where the client's address stands in the keys of a set that a rule looks up: bytes into the key, and its length.
pub fn address_in_key(state: &State, chain: &Chain, rule: &Rule, set: &SetKey, v6: bool, side: Side) -> Option<(usize, usize)> {
    let full = if v6 { 16 } else { 4 };
    let items = items(state, chain, rule);
    let family = condition::family(chain, &items);
    items.into_iter().find_map(|item| {
        let Item::Condition(field, Test::Set { set: used, invert: false, .. }) = item else { return None };
        if used != *set {
            return None;
        }
        let fields = match field {
            Field::Concatenation(fields) => fields,
            one => vec![one],
        };
        let mut place = 0;
        for field in fields {
            let Field::Payload { len, .. } = field else { return None };
            let len = usize::try_from(len).ok()?;
            if is_address(&field, family, v6, side) && len == full {
                return Some((place, full));
            }
            place += len.next_multiple_of(4);
        }
        None
    })
}

/// The client addresses of an element that a rule looks up; empty when it is not about the client's address.
pub fn found_sources(
    state: &State,
    chain: &Chain,
    rule: &Rule,
    set: &SetKey,
    element: &Element,
    v6: bool,
    side: Side,
) -> Vec<Source> {
    address_in_key(state, chain, rule, set, v6, side).map_or_else(Vec::new, |(at, len)| element_sources(element, at, len))
}

/// Deletes an element of a set that can be changed. `None` for constant and anonymous sets.
pub fn delete_element(state: &State, set: &SetKey, element: &Element, touches: Option<Vec<Source>>) -> Option<Step> {
    let known: &Set = state.sets.iter().find(|one| one.key == *set)?;
    if known.anonymous() || known.constant() {
        return None;
    }
    let text = render::element(state, set, element);
    Some(Step::Element { set: set.clone(), before: Some(element.clone()), after: None, touches, text })
}

/// Deletes a rule. `None` for rules with sets of their own, which could not be put back.
pub fn delete_rule(state: &State, chain: &Chain, index: usize, touches: Option<Vec<Source>>, ipsets: &SetNames) -> Option<Step> {
    let rule = chain.rules.get(index)?;
    if has_anonymous_set(rule) {
        return None;
    }
    Some(Step::Rule {
        family: chain.family,
        table: chain.table.clone(),
        chain: chain.name.clone(),
        next: chain.rules.get(index + 1).map(|rule| rule.handle),
        others: others(&chain.rules, rule),
        before: Some(Rule::clone(rule)),
        after: None,
        touches,
        text: render::rule(state, chain, rule, ipsets),
    })
}

/// Inserts an accept for the source before the rule with this index, or at the end of the chain. `None` when the chain does not
/// see packets of this family. The mark is the rule's comment.
pub fn accept(
    state: &State,
    chain: &Chain,
    index: Option<usize>,
    source: Source,
    admits: Admits,
    (side, onto): (Side, Onto),
    mark: Option<&str>,
) -> Option<Step> {
    let v6 = !source.is_ipv4();
    if matches!((chain.family, v6), (Family::Ip, true) | (Family::Ip6, false) | (Family::Arp, _)) {
        return None;
    }
    let rule = accept_rule(chain.family, source, admits, (side, onto), compat(state, chain), mark);
    let next = match index {
        Some(index) => Some(chain.rules.get(index)?.handle),
        None => None,
    };
    let text = render::rule(state, chain, &rule, &SetNames::new());
    Some(Step::Rule {
        family: chain.family,
        table: chain.table.clone(),
        chain: chain.name.clone(),
        next,
        others: others(&chain.rules, &rule),
        before: None,
        after: Some(rule),
        touches: Some(admits.touches(source)),
        text,
    })
}

/// `NFT_META_PROTOCOL`, `NFT_META_NFPROTO`, `NFT_META_L4PROTO`
const META_PROTOCOL: u32 = 1;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// The comment on rules of our own.
const COMMENT: &str = "sshfix accept";

/// `ip saddr SOURCE tcp dport PORT accept comment "sshfix accept"`; for the answer `ip daddr SOURCE tcp sport PORT accept ...`.
/// `ip6 saddr SOURCE icmpv6 type nd-neighbor-solicit accept ...`; in tables of iptables-nft with `-m icmp6 --icmpv6-type 135`, since
/// iptables-nft reads no other form of it. Where forwarded packets come to the chain, it is about this host alone ([`Onto`]).
/// In tables of iptables-nft `-s SOURCE -p tcp -m tcp --dport PORT -j ACCEPT`, with a counter and without a comment that is not asked
/// for; one that is it prints as `-m comment --comment MARK` (nft.c, `get_comment`).
fn accept_rule(
    family: Family,
    source: Source,
    admits: Admits,
    (side, onto): (Side, Onto),
    compat: bool,
    marked: Option<&str>,
) -> Rule {
    let v6 = !source.is_ipv4();
    let equal = |data: Vec<u8>| Expression::Cmp { sreg: 1, op: CmpOp::Eq, data };
    let mut expressions = match family {
        Family::Inet => vec![Expression::Meta { key: META_NFPROTO, dreg: 1 }, equal(vec![if v6 { 10 } else { 2 }])],
        Family::Netdev | Family::Bridge => {
            let ethertype = if v6 { vec![0x86, 0xdd] } else { vec![0x08, 0x00] };
            vec![Expression::Meta { key: META_PROTOCOL, dreg: 1 }, equal(ethertype)]
        }
        Family::Ip | Family::Ip6 | Family::Arp => Vec::new(),
    };
    let net = source.net();
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (offset, len) = address_field(v6, side);
    if net.prefix_len() > 0 {
        expressions.push(Expression::Payload { dreg: 1, base: PayloadBase::Network, offset, len });
        if net.prefix_len() < net.max_prefix_len() {
            let (mask, xor) = (bytes(net.netmask()), vec![0; bytes(net.netmask()).len()]);
            expressions.push(Expression::Bitwise { sreg: 1, dreg: 1, len, op: BitwiseOp::MaskXor { mask, xor } });
        }
        expressions.push(equal(bytes(net.network())));
    }
    if let Onto::Address(own) = onto {
        let (offset, len) = address_field(v6, side.other());
        expressions.push(Expression::Payload { dreg: 1, base: PayloadBase::Network, offset, len });
        expressions.push(equal(bytes(own)));
    }
    let field = |offset, len| Expression::Payload { dreg: 1, base: PayloadBase::Transport, offset, len };
    expressions.push(Expression::Meta { key: META_L4PROTO, dreg: 1 });
    match admits {
        Admits::Tcp(port) => {
            let offset = if side == Side::Source { 2 } else { 0 };
            expressions.extend([equal(vec![6]), field(offset, 2), equal(port.to_be_bytes().to_vec())]);
        }
        Admits::Icmpv6(kind) if compat => {
            // struct ip6t_icmp: type, lowest and highest code, flags; the kernel asks for a multiple of 8 bytes.
            let info = vec![kind, 0, 255, 0, 0, 0, 0, 0];
            expressions.extend([equal(vec![58]), Expression::Match { name: "icmp6".to_owned(), revision: 0, info }]);
        }
        Admits::Icmpv6(kind) => expressions.extend([equal(vec![58]), field(0, 1), equal(vec![kind])]),
    }
    if onto == Onto::Local {
        expressions.extend(local(side.other(), compat));
    }
    if compat {
        expressions.push(Expression::Counter { packets: 0, bytes: 0 });
    }
    expressions.push(Expression::Verdict(Verdict::Accept));
    let comment = marked.or((!compat).then_some(COMMENT));
    let userdata = comment.map_or_else(Vec::new, comment_data);
    Rule { handle: 0, expressions, comment: comment.map(str::to_owned), raw_expressions: Vec::new(), userdata, compat: None }
}

/// `fib daddr type local`, or `fib saddr type local` of an answer; iptables-nft reads `-m addrtype --dst-type LOCAL` alone.
fn local(side: Side, compat: bool) -> Vec<Expression> {
    // RTN_LOCAL; NFT_FIB_RESULT_ADDRTYPE
    const LOCAL: u32 = 2;
    const ADDRESS_TYPE: u32 = 3;
    if compat {
        // struct xt_addrtype_info_v1: source, destination, flags
        let types: u16 = 1 << LOCAL;
        let (source, destination) = if side == Side::Source { (types, 0) } else { (0, types) };
        let info = [source.to_ne_bytes(), destination.to_ne_bytes(), [0; 2], [0; 2]].concat();
        return vec![Expression::Match { name: "addrtype".to_owned(), revision: 1, info }];
    }
    // NFTA_FIB_F_SADDR, NFTA_FIB_F_DADDR
    let flags = if side == Side::Source { 1 } else { 2 };
    let equal = Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: LOCAL.to_ne_bytes().to_vec() };
    vec![Expression::Fib { dreg: 1, result: ADDRESS_TYPE, flags }, equal]
}

/// A comment as nft keeps it: type 0, length with the NUL, bytes (`NFTNL_UDATA_RULE_COMMENT`).
fn comment_data(text: &str) -> Vec<u8> {
    let mut data = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    data.extend(text.as_bytes());
    data.push(0);
    data
}
