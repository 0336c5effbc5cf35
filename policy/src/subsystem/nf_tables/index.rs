//! What is looked for in one ruleset again and again: chains and sets by name, and, for questions about many addresses, the rules that can
//! hold for one and the element that holds a key. Says what a plain search says; made once for a question.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::lookup::Hit;
use super::sift::{Ends, Sift};
use super::{Chain, Element, Family, Set, SetKey, State};
use crate::packet::Packet;

/// A chain with fewer rules is walked rule by rule.
const FEW: usize = if cfg!(test) { 1 } else { 16 };

/// The index of one ruleset.
#[derive(Debug, Default)]
pub struct Index<'a> {
    /// The chains, by where they stand in [`State::chains`].
    pub chains: BTreeMap<(Family, &'a str, &'a str), usize>,
    /// The sets.
    pub sets: BTreeMap<&'a SetKey, &'a Set>,
    /// Only for many addresses: of each chain, for IPv4 and IPv6.
    sifts: Vec<[OnceLock<Sift>; 2]>,
    dumps: BTreeMap<&'a SetKey, OnceLock<Option<Sorted>>>,
}

impl<'a> Index<'a> {
    /// For a question about one address or range.
    pub fn new(state: &'a State) -> Self {
        Self {
            chains: state.chain_names(),
            sets: state.sets.iter().map(|set| (&set.key, set.as_ref())).collect(),
            sifts: Vec::new(),
            dumps: BTreeMap::new(),
        }
    }

    /// For a question about many addresses.
    pub fn of_many(state: &'a State) -> Self {
        let sifts = state.chains.iter().map(|_| Default::default()).collect();
        let dumps = state.dumps.keys().map(|key| (key, OnceLock::new())).collect();
        Self { sifts, dumps, ..Self::new(state) }
    }

    /// The rules of this chain that a packet has to be shown.
    pub(super) fn passes(&self, index: usize, chain: &Chain, packet: &Packet) -> Passes<'_> {
        let side = self.sifts.get(index).filter(|_| chain.rules.len() >= FEW);
        let sift = side.map(|[v4, v6]| {
            let one = if packet.v6 { v6 } else { v4 };
            one.get_or_init(|| Sift::new(chain.rules.iter().map(AsRef::as_ref), packet.v6))
        });
        Passes { rules: chain.rules.len(), sifted: sift.map(|sift| Sifted::new(sift, packet)) }
    }

    /// What a set that was read whole holds for a key that is known whole. `None` where that has to be searched.
    pub(super) fn exact(&self, state: &'a State, set: &SetKey, key: &[u8], ruled_out: impl Fn(&[u8]) -> bool) -> Option<Hit> {
        let elements = state.dumps.get(set)?;
        let sorted = self.dumps.get(set)?.get_or_init(|| Sorted::new(self.sets.get(set)?, elements)).as_ref()?;
        if !sorted.has_keys_like(elements, key) {
            return None;
        }
        let found = match sorted.holding(elements, key) {
            Some(element) if element.key_end.is_none() && ruled_out(&element.key) => return None,
            Some(element) => Some(element),
            None => sorted.catchall.and_then(|index| elements.get(index)),
        };
        Some(found.map_or(Hit::Miss, |element| Hit::Found(vec![element.clone()])))
    }
}

/// Elements by their keys: where they stand in the set as it was read.
#[derive(Debug)]
struct Sorted {
    order: Vec<usize>,
    catchall: Option<usize>,
}

fn last(element: &Element) -> &[u8] {
    element.key_end.as_ref().unwrap_or(&element.key)
}

impl Sorted {
    /// `None` where one key may be held by several, as it may be in ranges of concatenations.
    fn new(set: &Set, elements: &[Element]) -> Option<Self> {
        let mut sorted: Vec<(usize, &Element)> = elements.iter().enumerate().filter(|(_, element)| !element.catchall).collect();
        if set.concat() && sorted.iter().any(|(_, element)| element.key_end.is_some()) {
            return None;
        }
        sorted.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
        let len = sorted.first().map_or(0, |(_, element)| element.key.len());
        let same_len = sorted.iter().all(|(_, element)| element.key.len() == len && last(element).len() == len);
        let apart = sorted.windows(2).all(|pair| matches!(pair, [(_, one), (_, next)] if last(one) < next.key.as_slice()));
        let catchall = elements.iter().position(|element| element.catchall);
        (same_len && apart).then(|| Self { order: sorted.into_iter().map(|(index, _)| index).collect(), catchall })
    }

    /// Whether a key is as long as this set's are.
    fn has_keys_like(&self, elements: &[Element], key: &[u8]) -> bool {
        self.order.first().and_then(|index| elements.get(*index)).is_none_or(|element| element.key.len() == key.len())
    }

    /// The element that holds the key.
    fn holding<'e>(&self, elements: &'e [Element], key: &[u8]) -> Option<&'e Element> {
        let at = |index: &usize| elements.get(*index);
        let after = self.order.partition_point(|index| at(index).is_some_and(|element| element.key.as_slice() <= key));
        let before = after.checked_sub(1).and_then(|before| self.order.get(before)).and_then(at);
        before.filter(|element| key <= last(element))
    }
}

/// Goes through the rules that a packet has to be shown, which may change on its way.
pub(super) struct Passes<'i> {
    rules: usize,
    sifted: Option<Sifted<'i>>,
}

struct Sifted<'i> {
    sift: &'i Sift,
    ends: Ends,
    candidates: Vec<usize>,
}

impl<'i> Sifted<'i> {
    fn new(sift: &'i Sift, packet: &Packet) -> Self {
        let ends = Ends::of(packet);
        Self { sift, ends, candidates: sift.candidates(ends, packet.v6) }
    }
}

impl Passes<'_> {
    /// The first of them from this one on.
    pub(super) fn next(&mut self, from: usize, packet: &Packet) -> Option<usize> {
        let Some(sifted) = &mut self.sifted else { return (from < self.rules).then_some(from) };
        let ends = Ends::of(packet);
        if sifted.ends != ends {
            *sifted = Sifted::new(sifted.sift, packet);
        }
        let at = sifted.candidates.partition_point(|rule| *rule < from);
        sifted.candidates.get(at).copied()
    }
}
