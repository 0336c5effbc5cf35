//! What expressions compute on registers of which only some bits are known: comparisons, masks, shifts, byte order.

use super::super::expression::{BitwiseOp, CmpOp};
use super::super::registers::Registers;
use crate::packet::{Bits, Tri};

pub(super) fn compare(registers: &Registers, sreg: u32, op: CmpOp, data: &[u8]) -> Tri {
    let bits = registers.load(sreg, data.len());
    let lowest = vec![0; data.len()];
    match op {
        CmpOp::Eq => registers.equals(sreg, data),
        CmpOp::Neq => registers.equals(sreg, data).invert(true),
        CmpOp::Lte => bits.within(&lowest, data),
        CmpOp::Gt => bits.within(&lowest, data).invert(true),
        CmpOp::Gte => bits.within(data, &vec![0xff; data.len()]),
        CmpOp::Lt => bits.within(data, &vec![0xff; data.len()]).invert(true),
    }
}

/// `nft_bitwise.c`. Shifts work on words of 4 bytes in the machine's order and carry from the last word to the first (left)
/// or from the first to the last (right); bits shifted in are zero, so they are known.
pub(super) fn bitwise(bits: &Bits, op: &BitwiseOp) -> Bits {
    match op {
        BitwiseOp::MaskXor { mask, xor } => {
            let mut value = Vec::with_capacity(bits.len());
            let mut known = Vec::with_capacity(bits.len());
            let operands = mask.iter().zip(xor.iter().chain(std::iter::repeat(&0)));
            for ((v, k), (mask, xor)) in bits.value().iter().zip(bits.known()).zip(operands) {
                value.push((v & mask) ^ xor);
                known.push(k | !mask);
            }
            Bits::masked(&value, &known)
        }
        BitwiseOp::LeftShift(by) => Bits::masked(&shift(bits.value(), *by, true, false), &shift(bits.known(), *by, true, true)),
        BitwiseOp::RightShift(by) => {
            Bits::masked(&shift(bits.value(), *by, false, false), &shift(bits.known(), *by, false, true))
        }
    }
}

fn shift(bytes: &[u8], by: u32, left: bool, fill: bool) -> Vec<u8> {
    let mut words: Vec<u32> = bytes
        .chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            u32::from_ne_bytes(word)
        })
        .collect();
    let by = by.min(31);
    if by == 0 {
        return bytes.to_vec();
    }
    let filled = if fill { u32::MAX } else { 0 };
    let mut carry = if left { filled >> (32 - by) } else { filled << (32 - by) };
    let mut step = |word: &mut u32| {
        let old = *word;
        if left {
            *word = old << by | carry;
            carry = old >> (32 - by);
        } else {
            *word = old >> by | carry;
            carry = old << (32 - by);
        }
    };
    if left {
        words.iter_mut().rev().for_each(&mut step);
    } else {
        words.iter_mut().for_each(&mut step);
    }
    words.into_iter().flat_map(u32::to_ne_bytes).take(bytes.len()).collect()
}

/// `nft_byteorder.c`: both directions swap on a little-endian machine and do nothing on a big-endian one.
pub(super) fn swap(bits: &Bits, size: u32) -> Bits {
    let size = usize::try_from(size).unwrap_or(1).max(1);
    let reverse = |bytes: &[u8]| -> Vec<u8> {
        if cfg!(target_endian = "big") {
            return bytes.to_vec();
        }
        bytes.chunks(size).flat_map(|unit| unit.iter().rev().copied()).collect()
    };
    Bits::masked(&reverse(bits.value()), &reverse(bits.known()))
}
