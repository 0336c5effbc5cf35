//! Whether one of the first comparisons of a rule certainly fails, as those of most rules in a large ruleset do: told from the bytes of
//! rule and packet as they lie there, without running the rule. Where that is not plain, `run` decides.

use super::Rule;
use super::expression::{BitwiseOp, CmpOp, Expression, PayloadBase};
use crate::packet::Packet;

/// What the last load left in its register.
struct Loaded<'a> {
    register: u32,
    value: &'a [u8],
    known: &'a [u8],
    /// And then (`bitwise`): ones are kept, and these are flipped.
    masked: Option<(&'a [u8], &'a [u8])>,
}

impl Loaded<'_> {
    /// Whether the register certainly does not hold this.
    fn differs(&self, data: &[u8]) -> bool {
        let bytes = self.value.iter().zip(self.known).zip(data);
        match self.masked {
            None => bytes.into_iter().any(|((value, known), data)| (value ^ data) & known != 0),
            Some((mask, xor)) => bytes.zip(mask.iter().zip(xor)).any(|(((value, known), data), (mask, xor))| {
                let (value, known) = ((value & mask) ^ xor, known | !mask);
                (value ^ data) & known != 0
            }),
        }
    }
}

/// Whether the rule certainly does not hold. Looks no further than the first expression that does more than load and compare.
pub fn fails_early(rule: &Rule, packet: &Packet) -> bool {
    let mut last: Option<Loaded<'_>> = None;
    for expression in &rule.expressions {
        match expression {
            Expression::Payload { dreg, base: base @ (PayloadBase::Network | PayloadBase::Transport), offset, len } => {
                let header = if *base == PayloadBase::Network { &packet.network } else { &packet.transport };
                last = bytes(header.value(), header.known(), *offset, *len).map(|(value, known)| Loaded {
                    register: *dreg,
                    value,
                    known,
                    masked: None,
                });
            }
            // NFT_META_NFPROTO, NFT_META_L4PROTO
            Expression::Meta { key: 15, dreg } => last = Some(number(*dreg, if packet.v6 { &[10] } else { &[2] })),
            Expression::Meta { key: 16, dreg } => last = Some(number(*dreg, std::slice::from_ref(&packet.protocol))),
            Expression::Bitwise { sreg, dreg, len, op: BitwiseOp::MaskXor { mask, xor } } => {
                let whole = usize::try_from(*len).is_ok_and(|len| mask.len() == len && xor.len() == len);
                last = last
                    .filter(|last| last.register == *sreg && last.masked.is_none() && whole && last.value.len() == mask.len());
                if let Some(last) = &mut last {
                    (last.register, last.masked) = (*dreg, Some((mask.as_slice(), xor.as_slice())));
                }
            }
            Expression::Cmp { sreg, op: CmpOp::Eq, data } => {
                let same = last.as_ref().filter(|last| last.register == *sreg && data.len() <= last.value.len());
                if same.is_some_and(|last| last.differs(data)) {
                    return true;
                }
            }
            Expression::Cmp { .. } | Expression::Range { .. } | Expression::Counter { .. } => {}
            // They change no more than a register.
            Expression::Payload { .. }
            | Expression::Meta { .. }
            | Expression::Ct { .. }
            | Expression::Fib { .. }
            | Expression::Bitwise { .. }
            | Expression::Byteorder { .. }
            | Expression::Immediate { .. } => last = None,
            _ => return false,
        }
    }
    false
}

fn number(register: u32, value: &[u8]) -> Loaded<'_> {
    Loaded { register, value, known: &[0xff], masked: None }
}

/// A part of a header that lies wholly in it.
fn bytes<'a>(value: &'a [u8], known: &'a [u8], offset: u32, len: u32) -> Option<(&'a [u8], &'a [u8])> {
    let from = usize::try_from(offset).ok()?;
    let to = from.checked_add(usize::try_from(len).ok()?)?;
    value.get(from..to).zip(known.get(from..to))
}
