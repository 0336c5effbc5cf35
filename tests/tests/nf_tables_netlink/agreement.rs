//! A second, independent decoder (netlink-packet-netfilter, pure Rust) reads the ruleset of this thread's network namespace and must
//! agree with what ours read of it.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta,
    NfTablesMessage, Operator, Payload, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, nftables::ChainMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use sshfix_policy::subsystem::nf_tables::State;
use sshfix_policy::subsystem::nf_tables::expression::{BitwiseOp, CmpOp, Expression, PayloadBase};

/// Everything of one kind, with its family.
fn dump_with(ask: NfTablesMessage) -> Vec<(u8, NfTablesMessage)> {
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let mut request = NetlinkMessage::from(NetfilterMessage::new(header, ask));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).unwrap();
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().unwrap();
        let mut rest = datagram.as_slice();
        while rest.len() >= 16 {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).unwrap();
            let length = usize::try_from(message.header.length).unwrap();
            match message.payload {
                NetlinkPayload::Done(_) => return found,
                NetlinkPayload::InnerMessage(message) => {
                    let NetfilterMessageInner::NfTables(inner) = message.inner else { panic!("{message:?}") };
                    found.push((message.header.family.into(), inner));
                }
                other => panic!("{other:?}"),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// The expressions that the other decoder types, in our words; `None` for those it leaves as attributes.
fn in_our_words(expression: &Expressions) -> Option<Expression> {
    let bytes = |data: &DataAttribute| match data {
        DataAttribute::Value(value) => value.clone(),
        other => panic!("{other:?}"),
    };
    macro_rules! pick {
        ($list:expr, $pattern:pat => $value:expr) => {
            $list.iter().find_map(|attribute| match attribute {
                $pattern => Some($value),
                _ => None,
            })
        };
    }
    Some(match expression {
        Expressions::Cmp(list) => Expression::Cmp {
            sreg: pick!(list, Cmp::SourceRegister(register) => u32::from(*register))?,
            op: match pick!(list, Cmp::Op(op) => *op)? {
                Operator::Equal => CmpOp::Eq,
                Operator::NotEqual => CmpOp::Neq,
                Operator::LessThan => CmpOp::Lt,
                Operator::LessThanEqual => CmpOp::Lte,
                Operator::GreaterThan => CmpOp::Gt,
                Operator::GreatherThanEqual => CmpOp::Gte,
                other => panic!("{other:?}"),
            },
            data: pick!(list, Cmp::Data(data) => bytes(data))?,
        },
        Expressions::Payload(list) => {
            let base = match pick!(list, Payload::Base(base) => *base)? {
                0 => PayloadBase::LinkLayer,
                1 => PayloadBase::Network,
                2 => PayloadBase::Transport,
                3 => PayloadBase::Inner,
                other => panic!("{other}"),
            };
            let offset = pick!(list, Payload::Offset(offset) => *offset)?;
            let len = pick!(list, Payload::Len(len) => *len)?;
            if let Some(sreg) = pick!(list, Payload::SourceRegister(register) => u32::from(*register)) {
                Expression::PayloadSet { sreg, base, offset, len }
            } else {
                let dreg = pick!(list, Payload::DestinationRegister(register) => u32::from(*register))?;
                Expression::Payload { dreg, base, offset, len }
            }
        }
        Expressions::Meta(list) => {
            let key = pick!(list, Meta::Key(key) => u32::from(*key))?;
            match pick!(list, Meta::SourceRegister(register) => u32::from(*register)) {
                Some(sreg) => Expression::MetaSet { key, sreg },
                None => Expression::Meta { key, dreg: pick!(list, Meta::DestinationRegister(register) => u32::from(*register))? },
            }
        }
        Expressions::Lookup(list) => Expression::Lookup {
            set: pick!(list, Lookup::Set(name) => name.clone())?,
            sreg: pick!(list, Lookup::SourceRegister(register) => u32::from(*register))?,
            dreg: pick!(list, Lookup::DestinationRegister(register) => u32::from(*register)),
            invert: pick!(list, Lookup::Flags(flags) => *flags).unwrap_or(0) == 1,
        },
        Expressions::Immediate(list) => match pick!(list, Immediate::Data(data) => data)? {
            DataAttribute::Value(value) => Expression::Immediate {
                dreg: pick!(list, Immediate::DestinationRegister(register) => u32::from(*register))?,
                data: value.clone(),
            },
            // Compared by its code alone, in the test.
            DataAttribute::Verdict(_) => return None,
            other => panic!("{other:?}"),
        },
        Expressions::Bitwise(list) => {
            let op = match pick!(list, Bitwise::Op(op) => *op)? {
                0 => BitwiseOp::MaskXor {
                    mask: pick!(list, Bitwise::Mask(mask) => bytes(mask))?,
                    xor: pick!(list, Bitwise::Xor(xor) => bytes(xor))?,
                },
                shift => {
                    let bits = pick!(list, Bitwise::Data(data) => bytes(data))?;
                    let bits = u32::from_ne_bytes(bits[..4].try_into().unwrap());
                    if shift == 1 { BitwiseOp::LeftShift(bits) } else { BitwiseOp::RightShift(bits) }
                }
            };
            Expression::Bitwise {
                sreg: pick!(list, Bitwise::SourceRegister(register) => u32::from(*register))?,
                dreg: pick!(list, Bitwise::DestinationRegister(register) => u32::from(*register))?,
                len: pick!(list, Bitwise::Length(len) => *len)?,
                op,
            }
        }
        _ => return None,
    })
}

/// Compares tables, chains, rules and every expression that the other decoder types. How many of these there were.
///
/// # Panics
/// Where they differ.
pub fn agreement(state: &State) -> usize {
    let tables = dump_with(NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }));
    let tables: Vec<(u8, String)> = tables
        .iter()
        .map(|(family, message)| {
            let NfTablesMessage::NewTable(table) = message else { panic!("{message:?}") };
            let name = table.attributes.iter().find_map(|attribute| match attribute {
                TableAttribute::Name(name) => Some(name.clone()),
                _ => None,
            });
            (*family, name.unwrap())
        })
        .collect();
    assert_eq!(tables, state.tables.iter().map(|table| (table.family.number(), table.name.clone())).collect::<Vec<_>>());

    let chains = dump_with(NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }));
    assert_eq!(chains.len(), state.chains.len());
    for ((family, message), ours) in chains.iter().zip(&state.chains) {
        let NfTablesMessage::NewChain(chain) = message else { panic!("{message:?}") };
        assert_eq!(*family, ours.family.number());
        assert!(chain.attributes.contains(&ChainAttribute::Name(ours.name.clone())), "{chain:?}");
        assert!(chain.attributes.contains(&ChainAttribute::Handle(ours.handle)), "{chain:?}");
    }

    let rules = dump_with(NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() }));
    let ours: Vec<_> = state.chains.iter().flat_map(|chain| chain.rules.iter().map(move |rule| (chain, rule))).collect();
    assert_eq!(rules.len(), ours.len());
    let (mut typed, mut verdicts) = (0, 0);
    for (family, message) in &rules {
        let NfTablesMessage::NewRule(rule) = message else { panic!("{message:?}") };
        let same = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
        let (_, decoded) = ours
            .iter()
            .find(|(chain, decoded)| {
                chain.family.number() == *family
                    && same(&RuleAttribute::Table(chain.table.clone()))
                    && same(&RuleAttribute::Chain(chain.name.clone()))
                    && same(&RuleAttribute::Handle(decoded.handle))
            })
            .expect("every rule");
        if !decoded.userdata.is_empty() {
            assert!(same(&RuleAttribute::UserData(decoded.userdata.clone())));
        }
        let expressions = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Expressions(list) => Some(list),
            _ => None,
        });
        let expressions = expressions.map_or([].as_slice(), Vec::as_slice);
        assert_eq!(expressions.len(), decoded.expressions.len());
        for (theirs, ours) in expressions.iter().zip(&decoded.expressions) {
            let ListAttribute::Element(parts) = theirs else { panic!("{theirs:?}") };
            let theirs = parts.iter().find_map(|part| match part {
                ExpressionAttribute::Data(data) => Some(data),
                _ => None,
            });
            let Some(theirs) = theirs else { continue };
            if let Some(theirs) = in_our_words(theirs) {
                assert_eq!(theirs, *ours);
                typed += 1;
            } else if let Expressions::Immediate(_) = theirs {
                assert!(matches!(ours, Expression::Verdict(_)), "{ours:?}");
                verdicts += 1;
            }
        }
    }
    typed + verdicts
}
