//! Sets of addresses of one family as sorted ranges of numbers, and the cutting of the address space into pieces that a list of
//! such sets tells apart. Pure arithmetic: knows no packet filter and judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::address::Source;

/// A range of addresses as numbers, both ends included. IPv4 addresses are the low 32 bits.
pub type Span = (u128, u128);

/// `::ffff:0:0/96`: these are IPv4 addresses (RFC 4291 section 2.5.5.2), and no IPv6 packet comes from them.
const MAPPED: Span = (0xffff_0000_0000, 0xffff_ffff_ffff);
/// A mask that leaves two to the power of more than this ranges is not spelt out.
const MOST_MASKED: u32 = 12;
/// Where the classes are not complete, prefixes of at most two to the power of this addresses are tried address by address.
const TRIED_BITS: u8 = 8;

/// The highest address of a family.
pub fn highest(v6: bool) -> u128 {
    if v6 { u128::MAX } else { u32::MAX.into() }
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number.
pub fn address(v6: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if !v6 => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// The range of a source.
pub fn span(source: Source) -> Span {
    (number(source.first()), number(source.last()))
}

/// Sorted and disjoint; ranges that touch are one.
pub fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut all: Vec<Span> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match all.last_mut() {
            Some((_, last)) if from <= last.saturating_add(1) => *last = (*last).max(to),
            _ => all.push((from, to)),
        }
    }
    all
}

/// The fewest prefixes that make up these ranges, which are merged. A prefix of v4-mapped addresses stands for nobody and is left out.
pub fn prefixes(v6: bool, spans: &[Span]) -> impl Iterator<Item = Source> + '_ {
    spans.iter().flat_map(move |(from, to)| {
        let nets: Box<dyn Iterator<Item = IpNet>> = match (address(v6, *from), address(v6, *to)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Box::new(Ipv4Subnets::new(from, to, 0).map(IpNet::V4)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Box::new(Ipv6Subnets::new(from, to, 0).map(IpNet::V6)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Box::new(std::iter::empty()),
        };
        nets.map(Source::new).filter(move |source| source.is_ipv4() != v6)
    })
}

/// The addresses of which `address & mask == value`; `None` where these are too many ranges to be spelt out.
pub fn masked(v6: bool, value: u128, mask: u128) -> Option<Vec<Span>> {
    let mask = mask & highest(v6);
    if value & !mask != 0 {
        return Some(Vec::new());
    }
    // The lowest bits that are free make the length of each range; the free bits above them tell the ranges apart.
    let low = mask.trailing_zeros().min(if v6 { 128 } else { 32 });
    let length = 1_u128.checked_shl(low).map_or(u128::MAX, |length| length - 1);
    let free = highest(v6) & !mask & !length;
    if free.count_ones() > MOST_MASKED {
        return None;
    }
    let mut spans = Vec::new();
    let mut bits = 0_u128;
    loop {
        spans.push((value | bits, value | bits | length));
        // The next number that has only free bits.
        bits = bits.wrapping_sub(free) & free;
        if bits == 0 {
            return Some(merged(spans));
        }
    }
}

/// Sets of addresses of one family that something tells apart.
#[derive(Clone, Debug)]
pub struct Classes {
    v6: bool,
    sets: BTreeSet<Vec<Span>>,
    opaque: bool,
    /// What was added as a whole, by a name of the caller's.
    added: BTreeSet<String>,
}

impl Classes {
    /// Nothing is told apart.
    pub fn new(v6: bool) -> Self {
        Self { v6, sets: BTreeSet::new(), opaque: false, added: BTreeSet::new() }
    }

    /// Of which family.
    pub fn v6(&self) -> bool {
        self.v6
    }

    /// Whether what the caller calls this is not added yet. What is asked for again and again is added once.
    pub fn is_new(&mut self, name: String) -> bool {
        self.added.insert(name)
    }

    /// These are told from all others.
    pub fn add(&mut self, spans: Vec<Span>) {
        let spans = merged(spans);
        if !spans.is_empty() && spans != [(0, highest(self.v6))] {
            self.sets.insert(spans);
        }
    }

    /// This source is told from all others. One of the other family tells nobody apart.
    pub fn add_source(&mut self, source: Source) {
        if source.is_ipv4() != self.v6 {
            self.add(vec![span(source)]);
        }
    }

    /// Those of which `address & mask == value` are told from all others.
    pub fn add_masked(&mut self, value: u128, mask: u128) {
        match masked(self.v6, value, mask) {
            Some(spans) => self.add(spans),
            None => self.opaque = true,
        }
    }

    /// Addresses are told apart in a way that is not followed.
    pub fn add_unknown(&mut self) {
        self.opaque = true;
    }

    /// Whether the sets are all: else what holds for one address of a piece need not hold for the others.
    pub fn complete(&self) -> bool {
        !self.opaque
    }
}

/// A piece of the address space in which no set of the [`Classes`] begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From where to where.
    pub span: Span,
    /// Pieces that lie in the same sets have the same number.
    pub kind: usize,
}

/// Cuts the region, which is merged, into pieces, in order.
pub fn pieces(region: &[Span], classes: &Classes) -> Vec<Piece> {
    let mut edges: Vec<(u128, usize, bool)> = Vec::new();
    for (id, spans) in std::iter::once(region).chain(classes.sets.iter().map(Vec::as_slice)).enumerate() {
        for (from, to) in spans {
            edges.push((*from, id, true));
            edges.extend(to.checked_add(1).map(|after| (after, id, false)));
        }
    }
    edges.sort_unstable();
    let mut inside: BTreeSet<usize> = BTreeSet::new();
    let mut kinds: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    let mut pieces = Vec::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((at, id, enters)) = edges.next() {
        if enters {
            inside.insert(id)
        } else {
            inside.remove(&id)
        };
        let next = edges.peek().map(|(next, ..)| *next);
        if next == Some(at) || !inside.contains(&0) {
            continue;
        }
        let last = next.map_or(highest(classes.v6), |next| next - 1);
        let new = kinds.len();
        let kind = *kinds.entry(inside.iter().copied().collect()).or_insert(new);
        pieces.push(Piece { span: (at, last), kind });
    }
    pieces
}

/// What `judge` says of every address of the region, as ranges in order; neighbours of the same answer are one. It is asked once for
/// each kind of piece, of its first address. Where the classes are not complete, it is asked for every prefix of every piece, and the
/// answer must then hold for all of the prefix; one that leaves it open (`settled` says no) is asked of each address, of few addresses.
///
/// v4-mapped addresses are never asked about: they go with the addresses below them.
pub fn partition<T: Clone + PartialEq>(
    region: &[Span],
    classes: &Classes,
    settled: impl Fn(&T) -> bool,
    mut judge: impl FnMut(Source) -> T,
) -> Vec<(Span, T)> {
    let mut known: BTreeMap<usize, T> = BTreeMap::new();
    let mut all: Vec<(Span, T)> = Vec::new();
    let mut push = |(from, to): Span, answer: T| match all.last_mut() {
        Some(((_, last), before)) if last.checked_add(1) == Some(from) && *before == answer => *last = to,
        _ => all.push(((from, to), answer)),
    };
    let mut before: Option<T> = None;
    for piece in pieces(region, classes).into_iter().flat_map(|piece| unmapped(piece, classes.v6)) {
        let (from, to) = piece.span;
        if classes.v6 && MAPPED.0 <= from && to <= MAPPED.1 {
            if let Some(before) = &before {
                push(piece.span, before.clone());
            }
            continue;
        }
        if classes.complete() {
            let answer = known.entry(piece.kind).or_insert_with(|| judge(address(classes.v6, from).into()));
            before = Some(answer.clone());
            push(piece.span, answer.clone());
        } else {
            for source in prefixes(classes.v6, &[piece.span]) {
                let answer = judge(source);
                let (from, to) = span(source);
                if settled(&answer) || from == to || source.net().max_prefix_len() - source.net().prefix_len() > TRIED_BITS {
                    before = Some(answer.clone());
                    push((from, to), answer);
                    continue;
                }
                for at in from..=to {
                    let answer = judge(address(classes.v6, at).into());
                    before = Some(answer.clone());
                    push((at, at), answer);
                }
            }
        }
    }
    all
}

/// A piece that is cut where v4-mapped addresses begin and end.
fn unmapped(piece: Piece, v6: bool) -> impl Iterator<Item = Piece> {
    let (from, to) = piece.span;
    let cuts = if v6 {
        [Some((0, MAPPED.0 - 1)), Some(MAPPED), Some((MAPPED.1 + 1, u128::MAX))]
    } else {
        [Some(piece.span), None, None]
    };
    cuts.into_iter().flatten().filter_map(move |(low, high)| {
        let span = (from.max(low), to.min(high));
        (span.0 <= span.1).then_some(Piece { span, ..piece })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn sources(v6: bool, spans: &[Span]) -> Vec<String> {
        prefixes(v6, spans).map(|source| source.to_string()).collect()
    }

    #[test]
    fn ranges_become_the_fewest_prefixes() {
        assert_eq!(sources(false, &[(0, u32::MAX.into())]), ["0.0.0.0/0"]);
        assert_eq!(sources(true, &[(0, u128::MAX)]), ["::/0"]);
        let seven = number("203.0.113.7".parse().unwrap());
        assert_eq!(sources(false, &[(seven, seven + 2)]), ["203.0.113.7/32", "203.0.113.8/31"]);
        assert_eq!(sources(true, &[(MAPPED.0, MAPPED.1 + 1)]), ["::1:0:0:0/128"], "v4-mapped addresses are no IPv6 clients");
    }

    #[test]
    fn a_mask_that_is_no_prefix_is_spelt_out_or_given_up() {
        // Every address that ends in .7: 2^24 ranges.
        assert_eq!(masked(false, 7, 0xff), None);
        let spans = masked(false, 0x0a00_0007, 0xffff_f0ff).unwrap();
        assert_eq!(spans.len(), 16);
        assert_eq!(spans.first(), Some(&(0x0a00_0007, 0x0a00_0007)));
        assert_eq!(spans.last(), Some(&(0x0a00_0f07, 0x0a00_0f07)));
        assert_eq!(masked(false, 0x0a00_0000, 0xff00_0000), Some(vec![(0x0a00_0000, 0x0aff_ffff)]));
        assert_eq!(masked(false, 1, 0), Some(Vec::new()));
        assert_eq!(masked(true, 0, 0), Some(vec![(0, u128::MAX)]));
        assert_eq!(masked(false, 0, u128::MAX << 32), Some(vec![(0, u32::MAX.into())]));
    }

    #[test]
    fn v4_mapped_addresses_are_never_asked_about() {
        let mut classes = Classes::new(true);
        classes.add(vec![(MAPPED.0 + 7, MAPPED.1 + 7)]);
        let all = partition(
            &[(0, u128::MAX)],
            &classes,
            |_| true,
            |source| {
                assert!(!source.is_ipv4(), "{source}");
                number(source.first()) > MAPPED.1 && number(source.first()) <= MAPPED.1 + 7
            },
        );
        assert_eq!(all, [((0, MAPPED.1), false), ((MAPPED.1 + 1, MAPPED.1 + 7), true), ((MAPPED.1 + 8, u128::MAX), false)]);
    }

    proptest! {
        #[test]
        fn a_partition_is_what_is_said_of_every_single_address(
            sets in prop::collection::vec(prop::collection::vec((0_u128..64, 0_u128..16), 0..4), 0..5),
            region in (0_u128..64, 0_u128..64),
        ) {
            let sets: Vec<Vec<Span>> =
                sets.into_iter().map(|set| merged(set.into_iter().map(|(from, length)| (from, from + length)).collect())).collect();
            let mut classes = Classes::new(false);
            for set in &sets {
                classes.add(set.clone());
            }
            let region = (region.0, region.0 + region.1);
            let truth = |at: u128| sets.iter().map(|set| set.iter().any(|(from, to)| *from <= at && at <= *to)).collect::<Vec<_>>();
            let all = partition(&[region], &classes, |_| true, |source| truth(number(source.first())));
            let mut next = region.0;
            for ((from, to), said) in &all {
                prop_assert_eq!(*from, next);
                for at in *from..=*to {
                    prop_assert_eq!(said, &truth(at));
                }
                next = to + 1;
            }
            prop_assert_eq!(next, region.1 + 1);
        }

        #[test]
        fn a_mask_holds_for_exactly_the_addresses_in_its_ranges(value: u32, mask: u32, address: u32) {
            if let Some(spans) = masked(false, u128::from(value & mask), mask.into()) {
                let inside = |at: u32| spans.iter().any(|(from, to)| *from <= at.into() && u128::from(at) <= *to);
                prop_assert_eq!(inside(address), address & mask == value & mask);
                prop_assert!(inside(value));
            }
        }
    }
}
