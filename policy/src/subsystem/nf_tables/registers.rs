//! The registers of a rule under evaluation, three-valued. Knows the kernel's numbering; knows no expression.

use crate::packet::{Bits, Tri};

/// 16 registers of 4 bytes, which are also 4 registers of 16 bytes.
const SIZE: usize = 64;

/// What a rule has loaded so far.
#[derive(Clone, Debug)]
pub struct Registers {
    bits: Bits,
    /// Values that a part is known not to have: where the part begins, and the value.
    excluded: Vec<(usize, Vec<u8>)>,
}

impl Default for Registers {
    fn default() -> Self {
        Self { bits: Bits::unknown(SIZE), excluded: Vec::new() }
    }
}

/// Where a register begins: `NFT_REG_1` to `4` are 1-4 with 16 bytes each, `NFT_REG32_00` to `15` are 8-23 with 4 bytes each
/// (`linux/netfilter/nf_tables.h`). Others do not exist; `None`.
pub(super) fn offset(register: u32) -> Option<usize> {
    let register = usize::try_from(register).ok()?;
    match register {
        1..=4 => Some((register - 1) * 16),
        8..=23 => Some((register - 8) * 4),
        _ => None,
    }
}

impl Registers {
    /// Loads a value and clears the rest of its last word, as the kernel does.
    pub fn store(&mut self, register: u32, bits: &Bits) {
        let Some(offset) = offset(register) else { return };
        let words = bits.len().next_multiple_of(4);
        self.excluded.retain(|(at, value)| at + value.len() <= offset || *at >= offset + words);
        self.bits.set_part(offset, &Bits::exactly(&vec![0; words]));
        self.bits.set_part(offset, bits);
    }

    /// Loads something unknown, of any length that can follow from here.
    pub fn store_unknown(&mut self, register: u32, len: usize) {
        self.store(register, &Bits::unknown(len.next_multiple_of(4)));
    }

    /// Says that what was loaded is not this value.
    pub fn exclude(&mut self, register: u32, value: &[u8]) {
        if let Some(offset) = offset(register) {
            self.excluded.push((offset, value.to_vec()));
        }
    }

    /// The first bytes of a register.
    pub fn load(&self, register: u32, len: usize) -> Bits {
        offset(register).map_or_else(|| Bits::unknown(len), |offset| self.bits.part(offset, len))
    }

    /// Whether the register holds this value.
    pub fn equals(&self, register: u32, data: &[u8]) -> Tri {
        let Some(offset) = offset(register) else { return Tri::Maybe };
        let ruled_out = self.excluded.iter().any(|(at, value)| {
            let Some(part) = at.checked_sub(offset).and_then(|skip| data.get(skip..)) else { return false };
            // iptables-nft compares interface names only up to their NUL.
            let short = value.len() == 16 && part.len() < 16 && part.last() == Some(&0);
            part.starts_with(value) || short && value.starts_with(part)
        });
        if ruled_out { Tri::No } else { self.bits.part(offset, data.len()).equals(data) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_narrow_registers_share_their_bytes() {
        let mut registers = Registers::default();
        registers.store(2, &Bits::exactly(&[1, 2, 3, 4, 5, 6]));
        assert_eq!(registers.equals(12, &[1, 2, 3, 4]), Tri::Yes);
        assert_eq!(registers.equals(13, &[5, 6, 0, 0]), Tri::Yes);
        assert_eq!(registers.equals(14, &[0, 0, 0, 0]), Tri::Maybe);
    }

    #[test]
    fn an_excluded_value_is_forgotten_when_the_register_is_loaded_again() {
        let mut registers = Registers::default();
        registers.store_unknown(1, 16);
        registers.exclude(1, b"lo\0");
        assert_eq!(registers.equals(1, b"lo\0\0\0\0"), Tri::No);
        assert_eq!(registers.equals(1, b"lo0\0"), Tri::Maybe);
        registers.exclude(1, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(registers.equals(1, b"lo\0"), Tri::No, "an exact name");
        assert_eq!(registers.equals(1, b"lo"), Tri::Maybe, "a prefix of names");
        registers.store_unknown(1, 4);
        assert_eq!(registers.equals(1, b"lo\0\0\0\0"), Tri::Maybe);
    }
}
