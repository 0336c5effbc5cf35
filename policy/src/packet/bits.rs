//! Bytes of which some bits are known: how they compare, join and overwrite each other. Knows nothing of headers.

use std::net::IpAddr;

use super::Tri;
use crate::address::Source;

/// Bytes of which some bits are known. Bits that are not known are zero in `value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    value: Vec<u8>,
    known: Vec<u8>,
}

impl Bits {
    /// Every bit known.
    pub fn exactly(value: &[u8]) -> Self {
        Self { value: value.to_vec(), known: vec![0xff; value.len()] }
    }

    /// No bit known.
    pub fn unknown(len: usize) -> Self {
        Self { value: vec![0; len], known: vec![0; len] }
    }

    /// The bits set in `known`; the shorter length counts.
    pub fn masked(value: &[u8], known: &[u8]) -> Self {
        let value = value.iter().zip(known).map(|(v, k)| v & k).collect::<Vec<_>>();
        Self { known: known.iter().take(value.len()).copied().collect(), value }
    }

    /// The prefix of a range of addresses.
    pub fn of(source: Source) -> Self {
        let net = source.net();
        match (net.network(), net.netmask()) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => Self::masked(&address.octets(), &mask.octets()),
            (IpAddr::V6(address), IpAddr::V6(mask)) => Self::masked(&address.octets(), &mask.octets()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Self::unknown(16),
        }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// The value bytes; unknown bits are zero.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Ones where the bit is known.
    pub fn known(&self) -> &[u8] {
        &self.known
    }

    /// A part of it; what lies outside is unknown.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Self {
        let mut part = Self::unknown(len);
        let bytes = self.value.iter().zip(&self.known).skip(offset);
        for ((to_value, to_known), (value, known)) in part.value.iter_mut().zip(&mut part.known).zip(bytes) {
            (*to_value, *to_known) = (*value, *known);
        }
        part
    }

    /// Writes a part of it; what lies outside is left out.
    pub fn set_part(&mut self, offset: usize, part: &Bits) {
        let bytes = self.value.iter_mut().zip(&mut self.known).skip(offset);
        for ((to_value, to_known), (value, known)) in bytes.zip(part.value.iter().zip(&part.known)) {
            (*to_value, *to_known) = (*value, *known);
        }
    }

    /// All of it, where all of it is known.
    pub fn exact(&self) -> Option<&[u8]> {
        self.known.iter().all(|known| *known == 0xff).then_some(self.value.as_slice())
    }

    /// The one address it is: 4 or 16 bytes.
    pub fn address(&self) -> Option<IpAddr> {
        let exact = self.exact()?;
        let v4 = <[u8; 4]>::try_from(exact).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(exact).map(IpAddr::from)).ok()
    }

    /// The lowest and the highest possible value.
    pub fn ends(&self) -> (Vec<u8>, Vec<u8>) {
        let high = self.value.iter().zip(&self.known).map(|(value, known)| value | !known).collect();
        (self.value.clone(), high)
    }

    /// What both have in common: bits that differ become unknown.
    #[must_use]
    pub fn join(&self, other: &Bits) -> Self {
        let both = self.value.iter().zip(&self.known).zip(other.value.iter().zip(&other.known));
        let (value, known) = both
            .map(|((a, a_known), (b, b_known))| {
                let known = a_known & b_known & !(a ^ b);
                (a & known, known)
            })
            .unzip();
        Self { value, known }
    }

    /// Whether it is this value.
    pub fn equals(&self, data: &[u8]) -> Tri {
        let differs = self.value.iter().zip(&self.known).zip(data).any(|((value, known), data)| (value ^ data) & known != 0);
        if differs || data.len() != self.value.len() {
            Tri::No
        } else if self.exact().is_some() {
            Tri::Yes
        } else {
            Tri::Maybe
        }
    }

    /// Whether it lies in `from..=to`, bytes compared as `memcmp` does.
    pub fn within(&self, from: &[u8], to: &[u8]) -> Tri {
        let (low, high) = self.ends();
        if low.as_slice() >= from && high.as_slice() <= to {
            Tri::Yes
        } else if high.as_slice() < from || low.as_slice() > to {
            Tri::No
        } else {
            Tri::Maybe
        }
    }
}
