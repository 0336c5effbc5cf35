//! From libnftnl's expressions to the model's. What is not understood stays unknown with its name; nothing is guessed.

use nftnl::nftnl_sys as sys;
use sshfix_policy::subsystem::nf_tables::expression::{
    BitwiseOp, CmpOp, Expression, ExtensionKind, NatKind, PayloadBase, Verdict,
};

use super::libnftnl::{Attributes, Expr, Rule};
use super::message::{self, Attrs, Kind, Messages, nft};

/// `NFTA_RULE_EXPRESSIONS`.
const RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;
/// `NFTA_EXPR_NAME`.
const EXPRESSION_NAME: u16 = 1;
/// `NFT_JUMP`, `NFT_GOTO`, ...: the negative verdict codes, as the kernel's u32.
const CODES: [(i32, Verdict); 6] = [
    (0, Verdict::Drop),
    (1, Verdict::Accept),
    (3, Verdict::Queue),
    (-1, Verdict::Continue),
    (-2, Verdict::Break),
    (-5, Verdict::Return),
];
/// `NFT_JUMP`.
const JUMP: i32 = -3;
/// `NFT_GOTO`.
const GOTO: i32 = -4;

/// The verdict of a code and the chain it names.
pub fn verdict(code: u32, chain: Option<String>) -> Option<Verdict> {
    let code = code.cast_signed();
    match (code, chain) {
        (JUMP, Some(chain)) => Some(Verdict::Jump(chain)),
        (GOTO, Some(chain)) => Some(Verdict::Goto(chain)),
        // NF_VERDICT_MASK: the queue number is in the upper half.
        (queue, _) if queue > 0 && queue & 0xff == 3 => Some(Verdict::Queue),
        _ => CODES.into_iter().find(|(known, _)| *known == code).map(|(_, verdict)| verdict),
    }
}

/// The code of a verdict and the chain it names.
pub fn verdict_code(verdict: &Verdict) -> (u32, Option<&str>) {
    let (code, chain) = match verdict {
        Verdict::Jump(chain) => (JUMP, Some(chain.as_str())),
        Verdict::Goto(chain) => (GOTO, Some(chain.as_str())),
        other => (CODES.iter().find(|(_, known)| known == other).map_or(0, |(code, _)| *code), None),
    };
    (code.cast_unsigned(), chain)
}

/// The expressions of a rule that libnftnl could parse as a whole; `None` where it does not list them.
pub fn rule(rule: &Rule) -> Option<Vec<Expression>> {
    Some(rule.expressions()?.iter().map(expression).collect())
}

/// The expressions of a rule that libnftnl refuses because it does not know one of them: each is parsed alone.
pub fn one_by_one(raw_expressions: &[u8]) -> Vec<Expression> {
    let elements = message::Attributes(raw_expressions).filter(|(kind, _)| *kind == LIST_ELEMENT);
    let decode = |element: &[u8]| {
        let list = Attrs::new().put(LIST_ELEMENT, element);
        let attrs = Attrs::new().nest(RULE_EXPRESSIONS, &list);
        let alone = Messages::new().add(Kind::Nft(nft::NEW_RULE), 1, 0, 0, &attrs).finish();
        let parsed = alone.and_then(|message| Rule::parse(&message));
        parsed.and_then(|parsed| rule(&parsed)?.pop()).unwrap_or_else(|| {
            let name = message::Attributes(element).text(EXPRESSION_NAME).unwrap_or_default();
            Expression::Unknown { text: format!("{name} (not known to this libnftnl)"), name }
        })
    };
    elements.map(|(_, element)| decode(element)).collect()
}

fn expression(expr: &Expr<'_>) -> Expression {
    let name = expr.text(sys::NFTNL_EXPR_NAME).unwrap_or_default();
    known(&name, expr).unwrap_or_else(|| Expression::Unknown { text: format!("{name} {}", expr.print()), name })
}

/// `None` where an attribute that the model needs is missing or has a value it does not know.
fn known(name: &str, expr: &Expr<'_>) -> Option<Expression> {
    Some(match name {
        "payload" => payload(expr)?,
        "meta" => {
            let key = expr.u32(sys::NFTNL_EXPR_META_KEY)?;
            match expr.u32(sys::NFTNL_EXPR_META_SREG) {
                Some(sreg) => Expression::MetaSet { key, sreg },
                None => Expression::Meta { key, dreg: expr.u32(sys::NFTNL_EXPR_META_DREG)? },
            }
        }
        "ct" => {
            let key = expr.u32(sys::NFTNL_EXPR_CT_KEY)?;
            let direction = byte(expr, sys::NFTNL_EXPR_CT_DIR)?;
            match expr.u32(sys::NFTNL_EXPR_CT_SREG) {
                Some(sreg) => Expression::CtSet { key, sreg, direction },
                None => Expression::Ct { key, dreg: expr.u32(sys::NFTNL_EXPR_CT_DREG)?, direction },
            }
        }
        "cmp" => Expression::Cmp {
            sreg: expr.u32(sys::NFTNL_EXPR_CMP_SREG)?,
            op: match expr.u32(sys::NFTNL_EXPR_CMP_OP)? {
                0 => CmpOp::Eq,
                1 => CmpOp::Neq,
                2 => CmpOp::Lt,
                3 => CmpOp::Lte,
                4 => CmpOp::Gt,
                5 => CmpOp::Gte,
                _ => return None,
            },
            data: expr.bytes(sys::NFTNL_EXPR_CMP_DATA)?,
        },
        "range" => Expression::Range {
            sreg: expr.u32(sys::NFTNL_EXPR_RANGE_SREG)?,
            // NFT_RANGE_EQ 0, NFT_RANGE_NEQ 1
            negated: match expr.u32(sys::NFTNL_EXPR_RANGE_OP)? {
                0 => false,
                1 => true,
                _ => return None,
            },
            from: expr.bytes(sys::NFTNL_EXPR_RANGE_FROM_DATA)?,
            to: expr.bytes(sys::NFTNL_EXPR_RANGE_TO_DATA)?,
        },
        "bitwise" => bitwise(expr)?,
        "byteorder" => Expression::Byteorder {
            sreg: expr.u32(sys::NFTNL_EXPR_BYTEORDER_SREG)?,
            dreg: expr.u32(sys::NFTNL_EXPR_BYTEORDER_DREG)?,
            op: expr.u32(sys::NFTNL_EXPR_BYTEORDER_OP)?,
            len: expr.u32(sys::NFTNL_EXPR_BYTEORDER_LEN)?,
            size: expr.u32(sys::NFTNL_EXPR_BYTEORDER_SIZE)?,
        },
        "lookup" => Expression::Lookup {
            set: expr.text(sys::NFTNL_EXPR_LOOKUP_SET)?,
            sreg: expr.u32(sys::NFTNL_EXPR_LOOKUP_SREG)?,
            dreg: expr.optional_u32(sys::NFTNL_EXPR_LOOKUP_DREG)?,
            // NFT_LOOKUP_F_INV
            invert: flag(expr, sys::NFTNL_EXPR_LOOKUP_FLAGS, 1)?,
        },
        "immediate" => match expr.u32(sys::NFTNL_EXPR_IMM_VERDICT) {
            Some(code) => Expression::Verdict(verdict(code, expr.text(sys::NFTNL_EXPR_IMM_CHAIN))?),
            None => {
                Expression::Immediate { dreg: expr.u32(sys::NFTNL_EXPR_IMM_DREG)?, data: expr.bytes(sys::NFTNL_EXPR_IMM_DATA)? }
            }
        },
        "counter" => {
            Expression::Counter { packets: expr.u64(sys::NFTNL_EXPR_CTR_PACKETS)?, bytes: expr.u64(sys::NFTNL_EXPR_CTR_BYTES)? }
        }
        "limit" => Expression::Limit {
            rate: expr.u64(sys::NFTNL_EXPR_LIMIT_RATE)?,
            unit: expr.u64(sys::NFTNL_EXPR_LIMIT_UNIT)?,
            // Left out by kernels that know no burst and no bytes.
            burst: expr.optional_u32(sys::NFTNL_EXPR_LIMIT_BURST)?.unwrap_or(0),
            kind: expr.optional_u32(sys::NFTNL_EXPR_LIMIT_TYPE)?.unwrap_or(0),
            // NFT_LIMIT_F_INV
            over: flag(expr, sys::NFTNL_EXPR_LIMIT_FLAGS, 1)?,
        },
        "log" => Expression::Log { prefix: expr.text(sys::NFTNL_EXPR_LOG_PREFIX) },
        // Remembers when it was last passed; goes on and writes no register.
        "last" => Expression::Opaque { name: name.to_owned(), dreg: None },
        "reject" => Expression::Reject {
            kind: expr.u32(sys::NFTNL_EXPR_REJECT_TYPE)?,
            // A TCP reset has none.
            code: byte(expr, sys::NFTNL_EXPR_REJECT_CODE)?.unwrap_or(0),
        },
        "quota" => Expression::Quota {
            bytes: expr.u64(sys::NFTNL_EXPR_QUOTA_BYTES)?,
            // NFT_QUOTA_F_INV 1, DEPLETED 2
            over: flag(expr, sys::NFTNL_EXPR_QUOTA_FLAGS, 3)?,
        },
        "connlimit" => Expression::Connlimit {
            count: expr.u32(sys::NFTNL_EXPR_CONNLIMIT_COUNT)?,
            // NFT_CONNLIMIT_F_INV
            over: flag(expr, sys::NFTNL_EXPR_CONNLIMIT_FLAGS, 1)?,
        },
        "dynset" => Expression::Dynset {
            set: expr.text(sys::NFTNL_EXPR_DYNSET_SET_NAME)?,
            sreg_key: expr.u32(sys::NFTNL_EXPR_DYNSET_SREG_KEY)?,
            op: expr.u32(sys::NFTNL_EXPR_DYNSET_OP)?,
            // NFT_DYNSET_F_INV 1, EXPR 2
            invert: flag(expr, sys::NFTNL_EXPR_DYNSET_FLAGS, 3)?,
            // Not read: `nftnl_expr_get` of this one is a pointer with no length; being set is all that is asked.
            has_expressions: expr.is_set(sys::NFTNL_EXPR_DYNSET_EXPR) || expr.is_set(sys::NFTNL_EXPR_DYNSET_EXPRESSIONS),
        },
        "objref" => match expr.u32(sys::NFTNL_EXPR_OBJREF_IMM_TYPE) {
            Some(kind) => Expression::Objref { kind, name: expr.text(sys::NFTNL_EXPR_OBJREF_IMM_NAME) },
            None => Expression::ObjectMap {
                set: expr.text(sys::NFTNL_EXPR_OBJREF_SET_NAME)?,
                sreg: expr.u32(sys::NFTNL_EXPR_OBJREF_SET_SREG)?,
            },
        },
        "fib" => Expression::Fib {
            dreg: expr.u32(sys::NFTNL_EXPR_FIB_DREG)?,
            result: expr.u32(sys::NFTNL_EXPR_FIB_RESULT)?,
            flags: expr.u32(sys::NFTNL_EXPR_FIB_FLAGS)?,
        },
        "nat" => Expression::Nat {
            // NFT_NAT_SNAT 0, NFT_NAT_DNAT 1
            kind: match expr.u32(sys::NFTNL_EXPR_NAT_TYPE)? {
                0 => NatKind::Snat,
                1 => NatKind::Dnat,
                _ => return None,
            },
            address_register: expr.optional_u32(sys::NFTNL_EXPR_NAT_REG_ADDR_MIN)?,
            port_register: expr.optional_u32(sys::NFTNL_EXPR_NAT_REG_PROTO_MIN)?,
            family: byte(expr, sys::NFTNL_EXPR_NAT_FAMILY)?,
            ranges: (
                // NF_NAT_RANGE_NETMAP 1 << 6
                several(expr, sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, sys::NFTNL_EXPR_NAT_REG_ADDR_MAX)?
                    || expr.optional_u32(sys::NFTNL_EXPR_NAT_FLAGS)?.unwrap_or(0) & 0x40 != 0,
                several(expr, sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, sys::NFTNL_EXPR_NAT_REG_PROTO_MAX)?,
            ),
        },
        "masq" => Expression::Nat {
            kind: NatKind::Masquerade,
            address_register: None,
            port_register: expr.optional_u32(sys::NFTNL_EXPR_MASQ_REG_PROTO_MIN)?,
            family: None,
            ranges: (false, several(expr, sys::NFTNL_EXPR_MASQ_REG_PROTO_MIN, sys::NFTNL_EXPR_MASQ_REG_PROTO_MAX)?),
        },
        "redir" => Expression::Nat {
            kind: NatKind::Redirect,
            address_register: None,
            port_register: expr.optional_u32(sys::NFTNL_EXPR_REDIR_REG_PROTO_MIN)?,
            family: None,
            ranges: (false, several(expr, sys::NFTNL_EXPR_REDIR_REG_PROTO_MIN, sys::NFTNL_EXPR_REDIR_REG_PROTO_MAX)?),
        },
        "tproxy" => Expression::Nat {
            kind: NatKind::Tproxy,
            address_register: expr.optional_u32(sys::NFTNL_EXPR_TPROXY_REG_ADDR)?,
            port_register: expr.optional_u32(sys::NFTNL_EXPR_TPROXY_REG_PORT)?,
            family: byte(expr, sys::NFTNL_EXPR_TPROXY_FAMILY)?,
            ranges: (false, false),
        },
        "queue" => Expression::Queue,
        "notrack" => Expression::Notrack,
        "synproxy" => Expression::Synproxy,
        "dup" => Expression::Dup,
        "fwd" => Expression::Fwd,
        "match" => Expression::Match {
            name: expr.text(sys::NFTNL_EXPR_MT_NAME)?,
            revision: expr.u32(sys::NFTNL_EXPR_MT_REV)?,
            info: expr.bytes(sys::NFTNL_EXPR_MT_INFO).unwrap_or_default(),
        },
        "target" => Expression::Target {
            name: expr.text(sys::NFTNL_EXPR_TG_NAME)?,
            revision: expr.u32(sys::NFTNL_EXPR_TG_REV)?,
            info: expr.bytes(sys::NFTNL_EXPR_TG_INFO).unwrap_or_default(),
        },
        "rt" => opaque(name, expr, sys::NFTNL_EXPR_RT_DREG)?,
        "socket" => opaque(name, expr, sys::NFTNL_EXPR_SOCKET_DREG)?,
        "numgen" => opaque(name, expr, sys::NFTNL_EXPR_NG_DREG)?,
        "hash" => opaque(name, expr, sys::NFTNL_EXPR_HASH_DREG)?,
        "osf" => opaque(name, expr, sys::NFTNL_EXPR_OSF_DREG)?,
        "tunnel" => opaque(name, expr, sys::NFTNL_EXPR_TUNNEL_DREG)?,
        "xfrm" => opaque(name, expr, sys::NFTNL_EXPR_XFRM_DREG)?,
        "exthdr" => match expr.optional_u32(sys::NFTNL_EXPR_EXTHDR_DREG)? {
            Some(dreg) => Expression::ExtensionHeader {
                dreg,
                // NFT_EXTHDR_OP_IPV6 0, TCPOPT 1, IPV4 2, SCTP 3, DCCP 4
                kind: match expr.optional_u32(sys::NFTNL_EXPR_EXTHDR_OP)?.unwrap_or(0) {
                    0 => ExtensionKind::Ipv6,
                    1 => ExtensionKind::TcpOption,
                    2 => ExtensionKind::Ipv4Option,
                    3 | 4 => ExtensionKind::OtherTransport,
                    _ => return None,
                },
                // NFT_EXTHDR_F_PRESENT
                present: flag(expr, sys::NFTNL_EXPR_EXTHDR_FLAGS, 1)?,
            },
            // Without a destination it changes the packet (`tcp option maxseg size set`) and goes on.
            None => Expression::Opaque { name: name.to_owned(), dreg: None },
        },
        _ => return None,
    })
}

/// Whether a register for the highest value is another one than that for the lowest.
fn several(expr: &Expr<'_>, lowest: u32, highest: u32) -> Option<bool> {
    let lowest = expr.optional_u32(lowest)?;
    Some(expr.optional_u32(highest)?.is_some_and(|register| lowest != Some(register)))
}

/// A number of one byte that the kernel may leave out; `None` where it is there and is none.
#[allow(clippy::option_option, reason = "what was left out is told from what is not understood")]
fn byte(expr: &impl Attributes, attribute: u32) -> Option<Option<u8>> {
    expr.optional_u32(attribute)?.map(|number| u8::try_from(number).ok()).map_or(Some(None), |number| number.map(Some))
}

/// The lowest of flags that the kernel may leave out, which are none then. A flag that is not known may change what the rule means.
fn flag(expr: &impl Attributes, attribute: u32, known: u32) -> Option<bool> {
    let flags = expr.optional_u32(attribute)?.unwrap_or(0);
    (flags & !known == 0).then_some(flags & 1 != 0)
}

fn opaque(name: &str, expr: &Expr<'_>, dreg: u32) -> Option<Expression> {
    Some(Expression::Opaque { name: name.to_owned(), dreg: Some(expr.u32(dreg)?) })
}

fn payload(expr: &Expr<'_>) -> Option<Expression> {
    let base = match expr.u32(sys::NFTNL_EXPR_PAYLOAD_BASE)? {
        0 => PayloadBase::LinkLayer,
        1 => PayloadBase::Network,
        2 => PayloadBase::Transport,
        3 => PayloadBase::Inner,
        4 => PayloadBase::Tunnel,
        _ => return None,
    };
    let offset = expr.u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET)?;
    let len = expr.u32(sys::NFTNL_EXPR_PAYLOAD_LEN)?;
    Some(match expr.u32(sys::NFTNL_EXPR_PAYLOAD_SREG) {
        Some(sreg) => Expression::PayloadSet { sreg, base, offset, len },
        None => Expression::Payload { dreg: expr.u32(sys::NFTNL_EXPR_PAYLOAD_DREG)?, base, offset, len },
    })
}

fn bitwise(expr: &Expr<'_>) -> Option<Expression> {
    // NFT_BITWISE_MASK_XOR 0 (and kernels before 5.6, which do not say), NFT_BITWISE_LSHIFT 1, NFT_BITWISE_RSHIFT 2.
    let shift = || expr.bytes(sys::NFTNL_EXPR_BITWISE_DATA)?.first_chunk().map(|bits| u32::from_ne_bytes(*bits));
    let op = match expr.optional_u32(sys::NFTNL_EXPR_BITWISE_OP)?.unwrap_or(0) {
        0 => {
            BitwiseOp::MaskXor { mask: expr.bytes(sys::NFTNL_EXPR_BITWISE_MASK)?, xor: expr.bytes(sys::NFTNL_EXPR_BITWISE_XOR)? }
        }
        1 => BitwiseOp::LeftShift(shift()?),
        2 => BitwiseOp::RightShift(shift()?),
        _ => return None,
    };
    Some(Expression::Bitwise {
        sreg: expr.u32(sys::NFTNL_EXPR_BITWISE_SREG)?,
        dreg: expr.u32(sys::NFTNL_EXPR_BITWISE_DREG)?,
        len: expr.u32(sys::NFTNL_EXPR_BITWISE_LEN)?,
        op,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Attributes as bytes, of no real expression.
    struct Sent(HashMap<u32, Vec<u8>>);

    impl Attributes for Sent {
        fn is_set(&self, attribute: u32) -> bool {
            self.0.contains_key(&attribute)
        }

        fn bytes(&self, attribute: u32) -> Option<Vec<u8>> {
            self.0.get(&attribute).cloned()
        }

        fn text(&self, attribute: u32) -> Option<String> {
            self.bytes(attribute).map(|bytes| message::text(&bytes))
        }
    }

    #[test]
    fn what_was_left_out_is_told_from_what_is_not_understood() {
        let sent = |bytes: &[u8]| Sent([(7, bytes.to_vec())].into());
        assert_eq!(flag(&Sent(HashMap::new()), 7, 1), Some(false));
        assert_eq!(flag(&sent(&1_u32.to_ne_bytes()), 7, 1), Some(true));
        assert_eq!(flag(&sent(&2_u32.to_ne_bytes()), 7, 1), None, "a flag of a later kernel");
        assert_eq!(flag(&sent(&[1, 0, 0]), 7, 1), None, "three bytes are no number");
        assert_eq!(byte(&Sent(HashMap::new()), 7), Some(None));
        assert_eq!(byte(&sent(&[3]), 7), Some(Some(3)));
        assert_eq!(byte(&sent(&300_u32.to_ne_bytes()), 7), None);
    }
}
