//! Numbers and bytes of which only a part is known, and what can be told of them. Knows no packet.

use super::{Bits, Tri};

/// A number of which is known that it lies in this range, both ends included. One value when both are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Lowest possible value.
    pub low: u128,
    /// Highest possible value.
    pub high: u128,
}

impl Span {
    /// Exactly this value.
    pub fn one(value: impl Into<u128>) -> Self {
        let value = value.into();
        Self { low: value, high: value }
    }

    /// Any 16-bit value.
    pub const ANY_16: Span = Span { low: 0, high: 0xffff };

    /// The smallest range that holds both.
    #[must_use]
    pub fn join(self, other: Span) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Whether the value lies in `low..=high`.
    pub fn within(self, low: u128, high: u128) -> Tri {
        if low <= self.low && self.high <= high {
            Tri::Yes
        } else if self.high < low || high < self.low {
            Tri::No
        } else {
            Tri::Maybe
        }
    }

    /// Whether `value & mask == want`, for values of `bits` bits.
    pub fn masked(self, want: u128, mask: u128, bits: u32) -> Tri {
        let all = if bits >= 128 { u128::MAX } else { (1 << bits) - 1 };
        let free = all & !mask;
        // `free + 1` is a power of two exactly when the mask is a prefix, and then the values that match are a range.
        if free & free.wrapping_add(1) == 0 {
            return if want & free != 0 { Tri::No } else { self.within(want, want | free) };
        }
        // The bits above the highest one in which the ends differ are the same in all values between.
        let differ = self.low ^ self.high;
        let shared = differ.checked_ilog2().map_or(u128::MAX, |bit| u128::MAX.checked_shl(bit + 1).unwrap_or(0));
        if (self.low ^ want) & mask & shared != 0 || want & !mask != 0 {
            Tri::No
        } else {
            Tri::from(mask & all & !shared == 0).or(Tri::Maybe)
        }
    }
}

/// A byte of which some bits are known. Those that are not are zero in `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octet {
    value: u8,
    known: u8,
}

impl Octet {
    /// The first byte.
    pub fn of(bits: &Bits) -> Self {
        let first = |bytes: &[u8]| bytes.first().copied().unwrap_or(0);
        Self { value: first(bits.value()) & first(bits.known()), known: first(bits.known()) }
    }

    /// As it stands in a header.
    pub fn bits(self) -> Bits {
        Bits::masked(&[self.value], &[self.known])
    }

    /// `(byte & !mask) ^ value`
    #[must_use]
    pub fn changed(self, mask: u8, value: u8) -> Self {
        let known = self.known | mask;
        Self { value: ((self.value & !mask) ^ value) & known, known }
    }

    /// Whether `byte & mask == want`.
    pub fn masked(self, want: u8, mask: u8) -> Tri {
        if want & !mask != 0 || (self.value ^ want) & mask & self.known != 0 {
            Tri::No
        } else {
            Tri::from(mask & !self.known == 0).or(Tri::Maybe)
        }
    }

    /// The lowest and highest possible value.
    pub fn span(self) -> Span {
        Span { low: self.value.into(), high: (self.value | !self.known).into() }
    }

    /// What both have in common.
    #[must_use]
    pub fn join(self, other: Octet) -> Self {
        let known = self.known & other.known & !(self.value ^ other.value);
        Self { value: self.value & known, known }
    }
}
