//! What an xtables match may ask of a packet: a TCP packet to or from the SSH port whose fields are known, unknown, or lie in
//! a range. Plain data; both evaluators (`nf_tables` for iptables-nft rules, this room's for iptables-legacy) fill it in.

use crate::packet::{Bits, Interface, Packet, Tracked, Tracking, Zone};

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

/// Yes, no, or it cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tri {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// It cannot be told.
    Maybe,
}

impl Tri {
    /// Both hold.
    #[must_use]
    pub fn and(self, other: Tri) -> Tri {
        match (self, other) {
            (Tri::No, _) | (_, Tri::No) => Tri::No,
            (Tri::Yes, Tri::Yes) => Tri::Yes,
            (Tri::Maybe, _) | (_, Tri::Maybe) => Tri::Maybe,
        }
    }

    /// At least one holds.
    #[must_use]
    pub fn or(self, other: Tri) -> Tri {
        match (self, other) {
            (Tri::Yes, _) | (_, Tri::Yes) => Tri::Yes,
            (Tri::No, Tri::No) => Tri::No,
            (Tri::Maybe, _) | (_, Tri::Maybe) => Tri::Maybe,
        }
    }

    /// It does not hold, where `invert` is set.
    #[must_use]
    pub fn invert(self, invert: bool) -> Tri {
        match (self, invert) {
            (Tri::Yes, true) => Tri::No,
            (Tri::No, true) => Tri::Yes,
            (same, _) => same,
        }
    }
}

impl Tri {
    /// The answer, where there is one.
    pub fn known(self) -> Option<bool> {
        match self {
            Tri::Yes => Some(true),
            Tri::No => Some(false),
            Tri::Maybe => None,
        }
    }
}

impl From<bool> for Tri {
    fn from(holds: bool) -> Self {
        if holds { Tri::Yes } else { Tri::No }
    }
}

/// A TCP packet of the connection asked about, at one hook. IPv4 addresses are the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// Whether it is IPv6.
    pub v6: bool,
    /// Source address.
    pub source: Span,
    /// Destination address.
    pub destination: Span,
    /// Whether the destination is an address of this host; `None` where that is not known.
    pub destination_local: Option<bool>,
    /// Source port.
    pub source_port: Span,
    /// Destination port.
    pub destination_port: Span,
    /// TCP flags as in byte 13 of the header: 0x02 for a SYN, 0x12 for its answer.
    pub tcp_flags: u8,
    /// Interface it came in by.
    pub input: &'a Interface,
    /// Interface it leaves by.
    pub output: &'a Interface,
    /// Its connection tracking state.
    pub tracking: Tracking,
    /// The zone it is tracked in.
    pub zone: Zone,
    /// Whether it travels in the reply direction of its connection.
    pub reply: bool,
    /// Packet mark, where known.
    pub mark: Option<u32>,
    /// Connection mark, where known.
    pub connmark: Option<u32>,
    /// Whether its destination was translated; `None` where that is not known.
    pub dnat: Option<bool>,
    /// Bytes of the IP packet.
    pub length: Span,
    /// Type of service or traffic class.
    pub tos: Octet,
    /// Time to live or hop limit.
    pub hop_limit: Octet,
    /// The packet as it came to the table.
    pub packet: &'a Packet,
}

impl View<'_> {
    /// What connection tracking knows of it.
    pub fn tracked(&self) -> Tracked {
        Tracked { state: self.tracking, zone: self.zone, seen: self.packet.seen }
    }

    /// Takes over what a rule told connection tracking.
    pub fn track(&mut self, tracked: Tracked) {
        (self.tracking, self.zone) = (tracked.state, tracked.zone);
    }

    /// An address of the packet's family, from its number.
    pub fn address(&self, number: u128) -> Bits {
        let bytes = number.to_be_bytes();
        Bits::exactly(if self.v6 { &bytes } else { bytes.get(12..).unwrap_or_default() })
    }
}
