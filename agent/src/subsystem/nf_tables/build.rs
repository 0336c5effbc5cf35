//! From the model to the bytes of netlink: elements and rules as the kernel takes them. The reverse of `elements` and `decode`.

use sshfix_policy::subsystem::nf_tables::expression::{BitwiseOp, CmpOp, Expression, PayloadBase};
use sshfix_policy::subsystem::nf_tables::{Element, ElementData, Rule, Set};

use super::decode::verdict_code;
use super::elements::{self, split_ends, successor};
use super::message::Attrs;

/// `NFTA_RULE_*`.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const HANDLE: u16 = 3;
const EXPRESSIONS: u16 = 4;
const COMPAT: u16 = 5;
const POSITION: u16 = 6;
const USERDATA: u16 = 7;
/// `NFTA_RULE_COMPAT_PROTO`, `NFTA_RULE_COMPAT_FLAGS`.
const COMPAT_PROTOCOL: u16 = 1;
const COMPAT_FLAGS: u16 = 2;
/// `NFT_RULE_COMPAT_F_INV`.
const COMPAT_INVERTED: u32 = 2;
/// `NFT_META_L4PROTO`.
const META_L4PROTO: u32 = 16;
/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;

/// Names a rule by its handle, to delete it.
pub fn rule_handle(table: &str, chain: &str, handle: u64) -> Attrs {
    Attrs::new().text(TABLE, table).text(CHAIN, chain).be64(HANDLE, handle)
}

/// A rule, to put it before another or, without `next`, at the end. `None` when it holds an expression that is only known from
/// the kernel's own bytes, and they are not there.
pub fn rule(table: &str, chain: &str, rule: &Rule, next: Option<u64>) -> Option<Attrs> {
    let mut attrs = Attrs::new().text(TABLE, table).text(CHAIN, chain);
    attrs = if rule.raw_expressions.is_empty() {
        let mut list = Attrs::new();
        for expression in &rule.expressions {
            list = list.nest(LIST_ELEMENT, &expression_attrs(expression)?);
        }
        attrs.nest(EXPRESSIONS, &list)
    } else {
        attrs.nest(EXPRESSIONS, &Attrs::new().raw(&rule.raw_expressions))
    };
    if let Some((protocol, flags)) = rule.compat.or_else(|| compat(&rule.expressions)) {
        let compat = Attrs::new().be32(COMPAT_PROTOCOL, protocol).be32(COMPAT_FLAGS, flags);
        attrs = attrs.nest(COMPAT, &compat);
    }
    if let Some(next) = next {
        attrs = attrs.be64(POSITION, next);
    }
    if !rule.userdata.is_empty() {
        attrs = attrs.put(USERDATA, &rule.userdata);
    }
    Some(attrs)
}

/// What iptables-nft tells beside the expressions, which the kernel checks (`-m tcp` needs `-p tcp`) and forgets: the protocol
/// and whether it is inverted, as the rule's own expressions compare it.
fn compat(expressions: &[Expression]) -> Option<(u32, u32)> {
    if !expressions.iter().any(|expression| matches!(expression, Expression::Match { .. } | Expression::Target { .. })) {
        return None;
    }
    // `meta l4proto 6`, or `ip protocol 6` (`payload load 1b @ network header + 9`) of older versions.
    let protocol = expressions.windows(2).find_map(|pair| match pair {
        [
            Expression::Meta { key: META_L4PROTO, dreg }
            | Expression::Payload { dreg, base: PayloadBase::Network, offset: 9, len: 1 },
            Expression::Cmp { sreg, op, data },
        ] if dreg == sreg => match (op, data.as_slice()) {
            (CmpOp::Eq, [protocol]) => Some((u32::from(*protocol), 0)),
            (CmpOp::Neq, [protocol]) => Some((u32::from(*protocol), COMPAT_INVERTED)),
            _ => None,
        },
        _ => None,
    });
    Some(protocol.unwrap_or((0, 0)))
}

/// `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA` of the expressions that sshfix builds itself.
fn expression_attrs(expression: &Expression) -> Option<Attrs> {
    let value = elements::value;
    let none = Attrs::new;
    let (name, data) = match expression {
        // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
        Expression::Payload { dreg, base, offset, len } => {
            let base = match base {
                PayloadBase::LinkLayer => 0,
                PayloadBase::Network => 1,
                PayloadBase::Transport => 2,
                PayloadBase::Inner => 3,
                PayloadBase::Tunnel => 4,
            };
            ("payload", none().be32(1, *dreg).be32(2, base).be32(3, *offset).be32(4, *len))
        }
        // NFTA_MATCH_NAME, _REV, _INFO
        Expression::Match { name, revision, info } => ("match", none().text(1, name).be32(2, *revision).put(3, info)),
        // NFTA_META_DREG, _KEY
        Expression::Meta { key, dreg } => ("meta", none().be32(1, *dreg).be32(2, *key)),
        // NFTA_CT_DREG, _KEY, _DIRECTION
        Expression::Ct { key, dreg, direction } => {
            let data = none().be32(1, *dreg).be32(2, *key);
            ("ct", direction.map_or_else(|| data.clone(), |direction| data.clone().put(3, &[direction])))
        }
        // NFTA_FIB_DREG, _RESULT, _FLAGS
        Expression::Fib { dreg, result, flags } => ("fib", none().be32(1, *dreg).be32(2, *result).be32(3, *flags)),
        // NFTA_CMP_SREG, _OP, _DATA
        Expression::Cmp { sreg, op, data } => {
            let op = match op {
                CmpOp::Eq => 0,
                CmpOp::Neq => 1,
                CmpOp::Lt => 2,
                CmpOp::Lte => 3,
                CmpOp::Gt => 4,
                CmpOp::Gte => 5,
            };
            ("cmp", none().be32(1, *sreg).be32(2, op).nest(3, &value(data)))
        }
        // NFTA_RANGE_SREG, _OP, _FROM_DATA, _TO_DATA
        Expression::Range { sreg, negated, from, to } => {
            ("range", none().be32(1, *sreg).be32(2, u32::from(*negated)).nest(3, &value(from)).nest(4, &value(to)))
        }
        // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR; _OP 0 is left out for kernels before 5.6
        Expression::Bitwise { sreg, dreg, len, op: BitwiseOp::MaskXor { mask, xor } } => {
            let registers = none().be32(1, *sreg).be32(2, *dreg).be32(3, *len);
            ("bitwise", registers.nest(4, &value(mask)).nest(5, &value(xor)))
        }
        // NFTA_LOOKUP_SET, _SREG, _DREG, _FLAGS
        Expression::Lookup { set, sreg, dreg, invert } => {
            let mut data = none().text(1, set).be32(2, *sreg);
            if let Some(dreg) = dreg {
                data = data.be32(3, *dreg);
            }
            if *invert {
                data = data.be32(5, 1);
            }
            ("lookup", data)
        }
        // NFTA_IMMEDIATE_DREG, _DATA
        Expression::Immediate { dreg, data } => ("immediate", none().be32(1, *dreg).nest(2, &value(data))),
        Expression::Verdict(verdict) => ("immediate", none().be32(1, 0).nest(2, &elements::verdict_attrs(verdict_code(verdict)))),
        // NFTA_COUNTER_BYTES, _PACKETS
        Expression::Counter { packets, bytes } => ("counter", none().be64(1, *bytes).be64(2, *packets)),
        // NFTA_REJECT_TYPE, _ICMP_CODE
        Expression::Reject { kind, code } => ("reject", none().be32(1, *kind).put(2, &[*code])),
        _ => return None,
    };
    Some(Attrs::new().text(NAME, name).nest(DATA, &data))
}

/// An element, to add it; both ends of a range.
pub fn new_element(set: &Set, element: &Element) -> Attrs {
    let mut attrs = element_key(set, element);
    attrs = match &element.data {
        None => attrs,
        Some(ElementData::Value(value)) => attrs.nest(elements::DATA, &elements::value(value)),
        Some(ElementData::Verdict(verdict)) => attrs.nest(elements::DATA, &elements::verdict_attrs(verdict_code(verdict))),
    };
    if let Some(timeout) = element.timeout_ms {
        attrs = attrs.be64(elements::TIMEOUT, timeout);
    }
    if let Some(left) = element.expires_ms {
        attrs = attrs.be64(elements::EXPIRATION, left);
    }
    if !element.userdata.is_empty() {
        attrs = attrs.put(elements::USERDATA, &element.userdata);
    }
    if let Some(object) = &element.object {
        attrs = attrs.text(elements::OBJECT, object);
    }
    with_end(set, element, &attrs.raw(&element.raw_expressions))
}

/// The end of a range that stands at this key, to see whether there is one.
pub fn old_end(set: &Set, key: &[u8]) -> Attrs {
    elements::list(&set.key).nest(elements::LIST_ELEMENTS, &Attrs::new().nest(LIST_ELEMENT, &end(key)))
}

fn end(key: &[u8]) -> Attrs {
    Attrs::new().nest(elements::KEY, &elements::value(key)).be32(elements::FLAGS, elements::INTERVAL_END)
}

/// An element, to delete it; both ends of a range.
pub fn old_element(set: &Set, element: &Element) -> Attrs {
    with_end(set, element, &element_key(set, element))
}

fn element_key(set: &Set, element: &Element) -> Attrs {
    if element.catchall {
        return Attrs::new().be32(elements::FLAGS, elements::CATCHALL);
    }
    let key = Attrs::new().nest(elements::KEY, &elements::value(&element.key));
    if set.interval() && set.concat() {
        let last = element.key_end.as_ref().unwrap_or(&element.key);
        return key.nest(elements::KEY_END, &elements::value(last));
    }
    key
}

/// The list of this element and, where the set keeps ends apart and the range does not go on to the highest key, of its end.
fn with_end(set: &Set, element: &Element, attrs: &Attrs) -> Attrs {
    let mut list = Attrs::new().nest(LIST_ELEMENT, attrs);
    if split_ends(set)
        && !element.catchall
        && let Some(after) = successor(element.key_end.as_ref().unwrap_or(&element.key))
    {
        list = list.nest(LIST_ELEMENT, &end(&after));
    }
    elements::list(&set.key).nest(elements::LIST_ELEMENTS, &list)
}
