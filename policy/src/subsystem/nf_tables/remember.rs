//! What a chain did to a packet, kept for the next jump of such a packet to it: chains that jump to each other several times would
//! cost a power of their number else. Decides nothing; what is kept is what the walk found.

use std::collections::BTreeMap;

use super::evaluate::{Event, Hit};
use crate::packet::{Doubt, Packet};

/// Packets kept for one chain at one depth.
const MAX_PACKETS: usize = 8;

/// What a chain does to a packet, told from the chain on: the rules and doubts that led to it come before each event's own.
#[derive(Clone, Debug, Default)]
pub(super) struct Passage {
    /// Every way to leave the base chain from within it.
    pub events: Vec<Event>,
    /// The packet as it leaves the base chain accepted.
    pub accepted: Option<Packet>,
    /// The packet as it comes back to the caller; `None` when none does.
    pub back: Option<Packet>,
    /// See [`super::evaluate::Outcome::doubts`].
    pub parted: Vec<Doubt>,
    /// Lines of the trace.
    pub hits: Vec<Hit>,
}

/// A packet, how many sets had been changed when it came, and what became of it.
type Known = (Packet, usize, Passage);

/// The passages of one base chain, by chain and depth.
#[derive(Debug, Default)]
pub(super) struct Memory {
    chains: BTreeMap<(usize, usize), (u32, Vec<Known>)>,
}

impl Memory {
    /// Whether this is not the first packet that comes to the chain at this depth: most chains are entered once, and nothing is
    /// kept for them.
    pub fn comes_again(&mut self, chain: usize, depth: usize) -> bool {
        let (times, _) = self.chains.entry((chain, depth)).or_default();
        *times = times.saturating_add(1);
        *times > 1
    }

    /// What became of such a packet before.
    pub fn recall(&self, chain: usize, depth: usize, packet: &Packet, changed_sets: usize) -> Option<Passage> {
        let (_, known) = self.chains.get(&(chain, depth))?;
        let same = known.iter().find(|(before, changed, _)| *changed == changed_sets && before == packet);
        same.map(|(_, _, passage)| passage.clone())
    }

    /// Keeps it, where there is room.
    pub fn keep(&mut self, chain: usize, depth: usize, packet: Packet, changed_sets: usize, passage: Passage) {
        let (_, known) = self.chains.entry((chain, depth)).or_default();
        if known.len() < MAX_PACKETS {
            known.push((packet, changed_sets, passage));
        }
    }
}
