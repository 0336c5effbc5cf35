//! The lists of `-m recent`: who is on one and since when (`net/netfilter/xt_recent.c`). Judges a match by them as the kernel does, and
//! takes one address off a list. A list is read whole, for it is short (`ip_list_tot`, 100) and the kernel answers for no single address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::step::{Mismatch, Reach};
use crate::host::{HostState, Need, Needs};
use crate::packet::{Span, Tri, View};

/// `XT_RECENT_*` (`linux/netfilter/xt_recent.h`)
const SET: u8 = 2;
const UPDATE: u8 = 4;
const REMOVE: u8 = 8;
const TTL: u8 = 16;
/// How exactly the age of a stamp is known, in milliseconds: the kernel's clock of them starts within a second of boot.
const INEXACT: u64 = 2000;
/// The TCP flags of a SYN.
const SYN: u8 = 2;

/// What was read so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// By name; the text says why one cannot be known.
    pub lists: BTreeMap<String, Result<Vec<Entry>, String>>,
    /// How many rules that a packet may match add to a list, and how many take from it, before another one is asked.
    pub changes: BTreeMap<String, Changes>,
}

/// What rules may do to a list while one packet passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `--set`
    pub sets: usize,
    /// `--update`
    pub updates: usize,
    /// `--remove`
    pub removes: usize,
}

/// One address on a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which; masked as the rule masks it.
    pub address: IpAddr,
    /// The TTL of its last packet, where the rule keeps it; else 0.
    pub ttl: u8,
    /// How many packets are remembered.
    pub hits: usize,
    /// Milliseconds since each, where that can be told.
    pub ages: Option<Vec<u64>>,
}

/// What a rule asks.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'m> {
    /// The list.
    pub name: &'m str,
    /// `XT_RECENT_*`
    pub operation: u8,
    /// Within so many seconds; 0 is ever.
    pub seconds: u32,
    /// So many hits; 0 is any.
    pub hits: u32,
    /// By destination instead of source.
    pub destination: bool,
    /// Inverted.
    pub invert: bool,
    /// Address mask, IPv4 in the low 32 bits.
    pub mask: Option<u128>,
}

/// What is known of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// This.
    Known(Tri),
    /// Nothing before this fact is fetched.
    Ask(Need),
}

impl Asked<'_> {
    /// Whether it asks if an address is on the list, and does not put it there or take it off.
    pub fn looks(&self) -> bool {
        self.operation & (SET | REMOVE) == 0
    }

    /// Whether addresses are looked up whole, not by their network.
    pub fn whole(&self, v6: bool) -> bool {
        let all = if v6 { u128::MAX } else { u32::MAX.into() };
        self.mask.is_none_or(|mask| mask & all == all)
    }

    /// Counts what it does to its list.
    pub fn count(&self, changes: &mut BTreeMap<String, Changes>) {
        let counted = changes.entry(self.name.to_owned()).or_default();
        counted.sets += usize::from(self.operation & SET != 0);
        counted.updates += usize::from(self.operation & UPDATE != 0);
        counted.removes += usize::from(self.operation & REMOVE != 0);
    }

    /// The address it looks up, where exactly one is possible.
    fn key(&self, view: &View<'_>) -> Option<IpAddr> {
        let Span { low, high } = if self.destination { view.destination } else { view.source };
        let bits = if low == high { low & self.mask.unwrap_or(u128::MAX) } else { return None };
        Some(if view.v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4(u32::try_from(bits).ok()?.into()) })
    }
}

impl State {
    /// Whether a match holds for a packet (`recent_mt`).
    pub fn judge(&self, asked: &Asked<'_>, view: &View<'_>) -> Judged {
        let known = |held: Tri| Judged::Known(held.invert(asked.invert));
        if asked.operation & SET != 0 {
            // It always matches, and puts the address on the list.
            return known(Tri::Yes);
        }
        let Some(key) = asked.key(view) else { return Judged::Known(Tri::Maybe) };
        let entry = match self.lists.get(asked.name) {
            None => return Judged::Ask(Need::Recent(asked.name.to_owned())),
            Some(Err(_)) => return Judged::Known(Tri::Maybe),
            Some(Ok(entries)) => entries.iter().find(|entry| entry.address == key),
        };
        let changes = self.changes.get(asked.name).copied().unwrap_or_default();
        // `--update` counts its own packet only after it looked.
        let own = usize::from(asked.operation & UPDATE != 0);
        let packets = if view.tcp_flags == SYN { 1 } else { 3 };
        let added = (changes.sets + changes.updates.saturating_sub(own)) * packets;
        let (low, high) = entry.map_or((0, 0), |entry| entry.within(asked.seconds));
        let low = if changes.removes > 0 { 0 } else { low };
        let needed = if asked.operation & REMOVE != 0 { 1 } else { usize::try_from(asked.hits).unwrap_or(usize::MAX).max(1) };
        if asked.operation & TTL != 0 && high + added > 0 {
            return Judged::Known(Tri::Maybe);
        }
        known(if low >= needed {
            Tri::Yes
        } else if high + added < needed {
            Tri::No
        } else {
            Tri::Maybe
        })
    }

    /// The address of a packet on the list that a match looks at, where being there is what it wants.
    pub fn listed(&self, asked: &Asked<'_>, view: &View<'_>) -> Option<&Entry> {
        let key = asked.key(view).filter(|_| asked.looks() && !asked.invert)?;
        self.lists.get(asked.name)?.as_ref().ok()?.iter().find(|entry| entry.address == key)
    }

    /// The lists that could not be read, each with the reason.
    pub fn unreadable(&self) -> Vec<(String, String)> {
        self.lists
            .iter()
            .filter_map(|(name, list)| Some((format!("the recent list {name}"), list.as_ref().err()?.clone())))
            .collect()
    }
}

impl Entry {
    /// How many of its packets came within so many seconds, at least and at most.
    fn within(&self, seconds: u32) -> (usize, usize) {
        let limit = u64::from(seconds) * 1000;
        match &self.ages {
            _ if seconds == 0 => (self.hits, self.hits),
            None => (0, self.hits),
            Some(ages) => {
                let count = |limit: u64| ages.iter().filter(|age| **age <= limit).count();
                (if limit > INEXACT { count(limit - INEXACT) } else { 0 }, count(limit + INEXACT))
            }
        }
    }

    /// `203.0.113.7, 5 hits, the last 3 s ago`
    pub fn text(&self) -> String {
        let last = self.ages.iter().flatten().min().map_or_else(String::new, |age| format!(", the last {} s ago", age / 1000));
        let hits = if self.hits == 1 { "1 hit".to_owned() } else { format!("{} hits", self.hits) };
        format!("{}, {hits}{last}", self.address)
    }
}

/// One address that is on a list before and not after, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The list.
    pub list: String,
    /// The address.
    pub address: IpAddr,
    /// Its hits now, where it is there.
    pub before: Option<usize>,
    /// Its hits afterwards, where it will be there.
    pub after: Option<usize>,
}

impl Step {
    /// Takes an address off a list. Right only where the rules look addresses up whole: else it stands for its network.
    pub fn clear(list: &str, entry: &Entry) -> Self {
        Self { list: list.to_owned(), address: entry.address, before: Some(entry.hits), after: None }
    }

    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { before: self.after, after: self.before, ..self.clone() }
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        let verb = if self.after.is_some() { "put" } else { "take" };
        let way = if self.after.is_some() { "on" } else { "off" };
        format!("{verb} {} {way} the recent list {}", self.address, self.list)
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> String {
        let line = |there: Option<usize>, sign: char| there.map_or_else(String::new, |_| format!("{sign} {}\n", self.address));
        format!("# /proc/net/xt_recent/{}\n{}{}", self.list, line(self.before, '-'), line(self.after, '+'))
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        let undo = self.inverse().summary();
        if self.before.is_some() { format!("{undo}, with as many hits, all of them as of then") } else { undo }
    }

    /// See [`crate::host::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        Some(vec![self.address.into()])
    }

    /// See [`crate::host::step::Step::reach`]. A list can also be one of those who may come in.
    pub fn reach(&self) -> Reach {
        Reach::Touched
    }

    /// See [`crate::host::step::Step::needs`].
    pub fn needs(&self) -> Needs {
        Needs::from([Need::Recent(self.list.clone())])
    }

    fn list<'s>(&self, state: &'s State) -> Result<&'s Vec<Entry>, Mismatch> {
        match state.lists.get(&self.list) {
            Some(Ok(list)) => Ok(list),
            Some(Err(why)) => Err(Mismatch(format!("the recent list {}: {why}", self.list))),
            None => Err(Mismatch(format!("the recent list {} was not read", self.list))),
        }
    }

    /// See [`crate::host::step::Step::predict`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        self.list(&state.ipset.recent)?;
        if let Some(Ok(list)) = state.ipset.recent.lists.get_mut(&self.list) {
            list.retain(|entry| entry.address != self.address);
            if let Some(hits) = self.after {
                list.push(Entry { address: self.address, ttl: 0, hits, ages: Some(vec![0; hits]) });
            }
        }
        Ok(())
    }

    /// See [`crate::host::step::Step::holds`]. Hits are not compared: they come and go with packets.
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        let there = self.list(&state.ipset.recent)?.iter().any(|entry| entry.address == self.address);
        match (there, self.after) {
            (true, Some(_)) | (false, None) => Ok(()),
            (true, None) => Err(Mismatch(format!("{} is still on the recent list {}", self.address, self.list))),
            (false, Some(_)) => Err(Mismatch(format!("{} is not on the recent list {}", self.address, self.list))),
        }
    }
}

#[cfg(test)]
mod tests;
