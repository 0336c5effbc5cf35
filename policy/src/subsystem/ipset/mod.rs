//! ipset: which sets the rules use, and whether they hold the key of a packet. Holds the facts, asked one by one, and judges a
//! `-m set` match by them as the kernel does (`xt_set.c`, `ip_set_core.c`); `step` changes one element. A set is listed whole only for questions about
//! everybody.

mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::recent;
use super::xtables::SetNames;
use super::xtables::matches::SetCounters;
use super::xtables::targets::SetReference;
use super::xtables::view::{Span, Tri, View};
use crate::host::Need;
use crate::ranges::number;
pub use step::Step;

/// `IPSET_FLAG_RETURN_NOMATCH` (`linux/netfilter/ipset/ip_set.h`)
const RETURN_NOMATCH: u32 = 1 << 7;

/// What was asked of the host's ipsets so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Names by the kernel's index, those that are known.
    pub names: SetNames,
    /// Sets by the kernel's index; the text says why one cannot be known.
    pub sets: BTreeMap<u16, Result<Set, String>>,
    /// What sets hold.
    pub entries: BTreeMap<Query, Entry>,
    /// Sets listed whole, by name: only for questions about everybody. The text says why one could not be listed.
    pub listings: BTreeMap<String, Result<Arc<Vec<Element>>, String>>,
    /// Sets that a rule adds to while packets pass, by index.
    pub grow: BTreeSet<u16>,
    /// Sets that a rule deletes from while packets pass, by index.
    pub shrink: BTreeSet<u16>,
    /// The lists of `-m recent`, which rules ask in the same way.
    pub recent: recent::State,
}

/// A set, as `ipset list -terse` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Its type: `hash:ip`, `hash:net,port`, ...
    pub kind: String,
    /// Whether it is of IPv6; `None` for types without addresses.
    pub v6: Option<bool>,
    /// Whether its elements stand for whole networks (`netmask`, `bitmask`).
    pub masked: bool,
    /// Whether its elements have a timeout, a comment, counters or skbinfo, which adding an element again does not bring back.
    pub extras: bool,
}

/// The fields of a packet that a set is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Its address, where the set's type has one.
    pub address: Option<IpAddr>,
    /// Its TCP port, where the set's type has one.
    pub port: Option<u16>,
}

impl fmt::Display for Key {
    /// As `ipset` prints an element.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (Some(address), Some(port)) => write!(f, "{address},tcp:{port}"),
            (Some(address), None) => write!(f, "{address}"),
            (None, Some(port)) => write!(f, "{port}"),
            (None, None) => Ok(()),
        }
    }
}

/// One question to one set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Query {
    /// The set's name.
    pub set: String,
    /// Its type, which says how the key is put.
    pub kind: String,
    /// The key.
    pub key: Key,
}

/// The set's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It does not hold the key.
    Absent,
    /// It holds the key, by an element of exactly this key and by no wider one.
    Exact,
    /// It holds the key by networks of these prefix lengths, and perhaps by an element of its own besides.
    Wider(Vec<u8>),
    /// It could not be asked; why.
    Unknown(String),
}

/// An element as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// As `ipset save` prints it, without what moves by itself: `203.0.113.0/24`, `203.0.113.7,tcp:22`.
    pub text: String,
    /// The addresses it stands for in each of its address fields, in the order of the set's type: first and last.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// All of it that is no address, to tell kinds of elements apart: ports, protocol, `nomatch`.
    pub rest: String,
    /// Whether it excludes what a wider element holds.
    pub nomatch: bool,
    /// The set it names, in a set of sets.
    pub member: Option<String>,
    /// Seconds it still has, where it ends by itself.
    pub left: Option<u32>,
    /// Its `IPSET_ATTR_DATA` as the kernel listed it, to delete and to add this very element.
    pub raw: Vec<u8>,
}

/// What is known of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// This.
    Known(Tri),
    /// Nothing before this fact is fetched.
    Ask(Need),
}

/// What a set asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whether this is in it.
    Key(Key),
    /// Nothing: it cannot match at all.
    Nothing,
    /// Something that is not known.
    Unknown,
}

impl State {
    /// Nothing asked yet.
    pub const fn new() -> Self {
        Self {
            names: BTreeMap::new(),
            sets: BTreeMap::new(),
            entries: BTreeMap::new(),
            listings: BTreeMap::new(),
            grow: BTreeSet::new(),
            shrink: BTreeSet::new(),
            recent: recent::State { lists: BTreeMap::new(), changes: BTreeMap::new() },
        }
    }

    /// The sets that could not be read or asked, each with the reason.
    pub fn unreadable(&self) -> Vec<(String, String)> {
        let name = |index: &u16| self.names.get(index).map_or_else(|| format!("ipset {index}"), |name| format!("ipset {name}"));
        let sets = self.sets.iter().filter_map(|(index, set)| Some((name(index), set.as_ref().err()?.clone())));
        let entries = self.entries.iter().filter_map(|(query, entry)| match entry {
            Entry::Unknown(why) => Some((format!("{} in ipset {}", query.key, query.set), why.clone())),
            Entry::Absent | Entry::Exact | Entry::Wider(_) => None,
        });
        sets.chain(entries).collect()
    }

    /// Whether `-m set` matches a packet (`set_match_v4`, `ip_set_test`).
    pub fn judge(&self, reference: SetReference, counters: Option<&SetCounters>, view: &View<'_>) -> Judged {
        // IPSET_INV_MATCH
        let known = |held: Tri| Judged::Known(held.invert(reference.flags & 1 != 0));
        let set = match self.sets.get(&reference.index) {
            None => return Judged::Ask(Need::Ipset(reference.index)),
            Some(Err(_)) => return Judged::Known(Tri::Maybe),
            Some(Ok(set)) => set,
        };
        let key = match set.asks(reference, view) {
            Asked::Key(key) => key,
            Asked::Nothing => return known(Tri::No),
            Asked::Unknown => return Judged::Known(self.listed(set, reference, counters, view).invert(reference.flags & 1 != 0)),
        };
        let query = set.query(key);
        let Some(entry) = self.entries.get(&query) else { return Judged::Ask(Need::IpsetEntry(query)) };
        if counters.is_some_and(|counters| counters.flags & RETURN_NOMATCH != 0) {
            return Judged::Known(Tri::Maybe);
        }
        let counted = counters.is_some_and(|counters| counters.packets.0 != 0 || counters.bytes.0 != 0);
        known(match entry {
            Entry::Absent if self.grow.contains(&reference.index) => Tri::Maybe,
            Entry::Absent => Tri::No,
            Entry::Exact | Entry::Wider(_) if counted || self.shrink.contains(&reference.index) => Tri::Maybe,
            Entry::Exact | Entry::Wider(_) => Tri::Yes,
            Entry::Unknown(_) => Tri::Maybe,
        })
    }

    /// The same of a range of addresses, by the set's listing where there is one: whether it holds all of them or none.
    fn listed(&self, set: &Set, reference: SetReference, counters: Option<&SetCounters>, view: &View<'_>) -> Tri {
        let Some(Ok(elements)) = self.listings.get(&set.name) else { return Tri::Maybe };
        let moves = self.grow.contains(&reference.index) || self.shrink.contains(&reference.index) || counters.is_some();
        if moves || !matches!(set.kind.as_str(), "hash:ip" | "hash:net" | "bitmap:ip") {
            return Tri::Maybe;
        }
        let asked = if reference.flags & 2 != 0 { view.source } else { view.destination };
        let spans = elements.iter().flat_map(|element| element.addresses.iter().map(move |ends| (element, ends)));
        let mut touching = spans
            .map(|(element, (from, to))| (element, asked.within(number(*from), number(*to))))
            .filter(|(_, held)| *held != Tri::No);
        match (touching.next(), touching.next()) {
            (None, _) => Tri::No,
            (Some((element, Tri::Yes)), None) if !element.nomatch => Tri::Yes,
            _ => Tri::Maybe,
        }
    }

    /// The set a match refers to, the key it is asked for, and its answer, where it holds the key and the match wants that.
    pub fn held(&self, reference: SetReference, view: &View<'_>) -> Option<(&Set, Key, &Entry)> {
        let set = self.sets.get(&reference.index)?.as_ref().ok()?;
        let Asked::Key(key) = set.asks(reference, view) else { return None };
        let entry = self.entries.get(&set.query(key.clone()))?;
        let holds = matches!(entry, Entry::Exact | Entry::Wider(_)) && reference.flags & 1 == 0;
        holds.then_some((set, key, entry))
    }
}

impl Set {
    /// The question whether it holds this key.
    pub fn query(&self, key: Key) -> Query {
        Query { set: self.name.clone(), kind: self.kind.clone(), key }
    }

    /// What it asks of a packet.
    pub fn asks(&self, reference: SetReference, view: &View<'_>) -> Asked {
        let fields: Vec<&str> = self.kind.split_once(':').map_or("", |(_, fields)| fields).split(',').collect();
        // ip_set_test: `opt->dim < set->type->dimension`, or a set of the other family.
        if usize::from(reference.dimensions) < fields.len() || self.v6.is_some_and(|v6| v6 != view.v6) {
            return Asked::Nothing;
        }
        let mut key = Key { address: None, port: None };
        for (field, index) in fields.into_iter().zip(1_u32..) {
            // IPSET_DIM_ONE_SRC 2, TWO_SRC 4, THREE_SRC 8
            let source = reference.flags.checked_shr(index).unwrap_or(0) & 1 != 0;
            match field {
                "ip" | "net" if key.address.is_none() => {
                    key.address = address(if source { view.source } else { view.destination }, view.v6);
                    if key.address.is_none() {
                        return Asked::Unknown;
                    }
                }
                "port" => {
                    key.port = one(if source { view.source_port } else { view.destination_port });
                    if key.port.is_none() {
                        return Asked::Unknown;
                    }
                }
                // A second address, a MAC address, a mark, an interface, a set of sets.
                _ => return Asked::Unknown,
            }
        }
        Asked::Key(key)
    }
}

impl Entry {
    /// As evidence: the key, and the networks that hold it.
    pub fn text(&self, set: &Set, key: &Key) -> String {
        let held = match (self, key.address) {
            (Entry::Wider(lengths), Some(address)) => {
                let nets = lengths.iter().filter_map(|length| ipnet::IpNet::new(address, *length).ok());
                let nets: Vec<String> = nets.map(|net| net.trunc().to_string()).collect();
                format!("{key} (in {})", nets.join(", "))
            }
            _ => key.to_string(),
        };
        format!("{held} ({})", set.kind)
    }
}

fn one<T: TryFrom<u128>>(span: Span) -> Option<T> {
    (span.low == span.high).then(|| T::try_from(span.low).ok()).flatten()
}

fn address(span: Span, v6: bool) -> Option<IpAddr> {
    if v6 {
        one::<u128>(span).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
    } else {
        one::<u32>(span).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
    }
}
