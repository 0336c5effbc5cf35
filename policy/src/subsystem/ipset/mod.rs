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

use super::{conntrack, recent};
use crate::address::Source;
use crate::host::Need;
use crate::packet::Interface;
use crate::packet::{Span, Tri, View};
use crate::ranges::number;
pub use step::Step;

/// `IPSET_FLAG_RETURN_NOMATCH` (`linux/netfilter/ipset/ip_set.h`)
const RETURN_NOMATCH: u32 = 1 << 7;

/// The names of ipsets by the kernel's index, which is all that a rule holds. A rule whose set is not here shows the number.
pub type SetNames = BTreeMap<u16, String>;

/// An ipset as a rule names it: by the kernel's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReference {
    /// The kernel's index.
    pub index: u16,
    /// How many fields of the packet make the key.
    pub dimensions: u8,
    /// `enum ip_set_kopt`: bit 0 inverts, bit n says that field n is a source.
    pub flags: u8,
}

/// Counters an ipset element must have (`ip_set_counter_match`): operation (0 none, 1 =, 2 !=, 3 <, 4 >) and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCounters {
    /// Packets.
    pub packets: (u8, u64),
    /// Bytes.
    pub bytes: (u8, u64),
    /// `IPSET_FLAG_*`
    pub flags: u32,
}

/// What was asked of the host's ipsets so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Names by the kernel's index, those that are known.
    pub names: SetNames,
    /// Sets by the kernel's index; the text says why one cannot be known.
    pub sets: BTreeMap<u16, Result<Set, String>>,
    /// What sets keep with their elements, by name; the text says why one could not be asked.
    pub properties: BTreeMap<String, Result<Properties, String>>,
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
    /// How full connection tracking is, which every new connection meets where a rule asks for its state; the text says why that is
    /// not known.
    pub conntrack: Option<Result<conntrack::Fill, String>>,
}

/// A set, as the kernel tells it without looking at its elements (`ip_set_core.c`, `ip_set_header`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Its type: `hash:ip`, `hash:net,port`, ...
    pub kind: String,
    /// Whether it is of IPv6; `None` for types without addresses.
    pub v6: Option<bool>,
    /// The sets of a `list:set`, in their order.
    #[serde(default)]
    pub members: Vec<Set>,
}

/// What a set keeps with its elements, as `ipset list -terse` tells it. The kernel counts all elements for that
/// (`ip_set_hash_gen.h`, `mtype_head`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// Whether its elements stand for whole networks (`netmask`, `bitmask`).
    pub masked: bool,
    /// Whether its elements have a timeout, a comment, counters or skbinfo, which adding an element again does not bring back.
    pub extras: bool,
}

/// The fields of a packet that a set is asked for: those that the set's type has.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Its address.
    pub address: Option<IpAddr>,
    /// Where it is a network and no packet's address: its prefix length, shorter than that of a single address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// Its TCP port.
    pub port: Option<u16>,
    /// Its other address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<IpAddr>,
    /// Its mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The name of its interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl fmt::Display for Key {
    /// As `ipset` prints an element.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port.map(|port| if self.address.is_some() { format!("tcp:{port}") } else { port.to_string() });
        let fields = [
            self.address.map(|address| self.prefix.map_or_else(|| address.to_string(), |prefix| format!("{address}/{prefix}"))),
            port,
            self.second.map(|address| address.to_string()),
            self.mark.map(|mark| format!("0x{mark:08x}")),
            self.interface.clone(),
        ];
        f.write_str(&fields.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

impl Key {
    /// The addresses it stands for.
    pub fn source(&self) -> Option<Source> {
        let address = self.address?;
        match self.prefix {
            None => Some(address.into()),
            Some(prefix) => ipnet::IpNet::new(address, prefix).ok().map(Source::new),
        }
    }

    /// The networks around it of these prefix lengths.
    pub fn networks(&self, lengths: &[u8]) -> impl Iterator<Item = Key> {
        let network = |prefix| {
            let address = ipnet::IpNet::new(self.address?, prefix).ok()?.network();
            Some(Key { address: Some(address), prefix: Some(prefix), ..self.clone() })
        };
        lengths.iter().copied().filter_map(network)
    }

    /// The key of an element as `ipset save` prints it, in a set of this type. `None` where it has other fields than addresses, networks
    /// and TCP ports.
    pub fn parse(kind: &str, element: &str) -> Option<Self> {
        let fields = kind.split_once(':')?.1.split(',');
        let mut key = Key::default();
        let mut words = element.split(',');
        for field in fields {
            let word = words.next()?;
            match field {
                "ip" | "net" if key.address.is_none() => {
                    let source: Source = word.parse().ok()?;
                    key.address = Some(source.first());
                    key.prefix = source.single().is_none().then(|| source.net().prefix_len());
                }
                "port" => key.port = Some(word.strip_prefix("tcp:")?.parse().ok()?),
                _ => return None,
            }
        }
        words.next().is_none().then_some(key)
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
    /// It holds the key by networks of these prefix lengths, and perhaps by an element of its own besides. None listed: by an
    /// element that was not told apart.
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
            properties: BTreeMap::new(),
            entries: BTreeMap::new(),
            listings: BTreeMap::new(),
            grow: BTreeSet::new(),
            shrink: BTreeSet::new(),
            recent: recent::State { lists: BTreeMap::new(), changes: BTreeMap::new() },
            conntrack: None,
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
        let listings =
            self.listings.iter().filter_map(|(name, all)| Some((format!("ipset {name}"), all.as_ref().err()?.clone())));
        sets.chain(entries).chain(listings).collect()
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
        if counters.is_some_and(|counters| counters.flags & RETURN_NOMATCH != 0) {
            // It is asked for all the same, so that what is held can be shown.
            return match self.test(set, reference, counters, view).0 {
                ask @ Judged::Ask(_) => ask,
                Judged::Known(_) => Judged::Known(Tri::Maybe),
            };
        }
        let counted = counters.is_some_and(|counters| counters.packets.0 != 0 || counters.bytes.0 != 0);
        match self.test(set, reference, counters, view).0 {
            Judged::Known(Tri::Yes) if counted => Judged::Known(Tri::Maybe),
            Judged::Known(held) => known(held),
            ask @ Judged::Ask(_) => ask,
        }
    }

    /// What a set says of a packet, before a match inverts it, and its answer. A `list:set` holds what one of its members holds
    /// (`ip_set_list_set.c`, `list_set_ktest`).
    fn test<'a>(
        &'a self,
        set: &'a Set,
        reference: SetReference,
        counters: Option<&SetCounters>,
        view: &View<'_>,
    ) -> (Judged, Option<(&'a Set, Key, &'a Entry)>) {
        if set.kind == "list:set" {
            let mut held = Tri::No;
            for member in &set.members {
                match self.test(member, reference, counters, view) {
                    (Judged::Known(one), found) => {
                        held = held.or(one);
                        if one == Tri::Yes {
                            return (Judged::Known(held), found);
                        }
                    }
                    (ask @ Judged::Ask(_), _) => return (ask, None),
                }
            }
            return (Judged::Known(held), None);
        }
        let key = match set.asks(reference, view) {
            Asked::Key(key) => key,
            Asked::Nothing => return (Judged::Known(Tri::No), None),
            Asked::Unknown => return (Judged::Known(self.listed(set, reference, counters, view)), None),
        };
        let query = set.query(key.clone());
        let Some(entry) = self.entries.get(&query) else { return (Judged::Ask(Need::IpsetEntry(query)), None) };
        // A member of a list is not told by the index of the match; one whose name is not known may be any.
        let changed = |by: &BTreeSet<u16>| {
            by.iter().any(|index| *index == reference.index || self.names.get(index).is_none_or(|name| *name == set.name))
        };
        let held = match entry {
            Entry::Absent if changed(&self.grow) => Tri::Maybe,
            Entry::Absent => Tri::No,
            Entry::Exact | Entry::Wider(_) if changed(&self.shrink) => Tri::Maybe,
            // The address is in it, perhaps with a MAC address, and that of a packet to come is not known.
            Entry::Exact | Entry::Wider(_) if set.kind == "bitmap:ip,mac" => Tri::Maybe,
            Entry::Exact | Entry::Wider(_) => Tri::Yes,
            Entry::Unknown(_) => Tri::Maybe,
        };
        let found = matches!(entry, Entry::Exact | Entry::Wider(_)).then_some((set, key, entry));
        (Judged::Known(held), found)
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

    /// The set a match refers to, or the member of a list, the key it is asked for, and its answer, where it holds the key and
    /// the match wants that.
    pub fn held(&self, reference: SetReference, view: &View<'_>) -> Option<(&Set, Key, &Entry)> {
        let set = self.sets.get(&reference.index)?.as_ref().ok()?;
        if reference.flags & 1 != 0 {
            return None;
        }
        self.test(set, reference, None, view).1
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
        let mut key = Key::default();
        for (field, index) in fields.into_iter().zip(1_u32..) {
            // IPSET_DIM_ONE_SRC 2, TWO_SRC 4, THREE_SRC 8
            let source = reference.flags.checked_shr(index).unwrap_or(0) & 1 != 0;
            let known = match field {
                "ip" | "net" => {
                    let found = address(if source { view.source } else { view.destination }, view.v6);
                    *(if key.address.is_none() { &mut key.address } else { &mut key.second }) = found;
                    found.is_some()
                }
                "port" => {
                    key.port = one(if source { view.source_port } else { view.destination_port });
                    key.port.is_some()
                }
                "mark" => {
                    key.mark = view.mark;
                    key.mark.is_some()
                }
                "iface" => match if source { view.input } else { view.output } {
                    Interface::Known(link) => {
                        key.interface = Some(link.name.clone());
                        true
                    }
                    // ip_set_hash_netiface.c: without a device it does not match.
                    Interface::None => return Asked::Nothing,
                    Interface::NotLoopback => false,
                },
                // Without one, such a set tells whether the address is in it at all.
                "mac" => self.kind == "bitmap:ip,mac",
                _ => false,
            };
            if !known {
                return Asked::Unknown;
            }
        }
        Asked::Key(key)
    }
}

impl Entry {
    /// As evidence: the key, and the networks that hold it.
    pub fn text(&self, set: &Set, key: &Key) -> String {
        let held = match (self, key.address) {
            (Entry::Wider(lengths), Some(address)) if !lengths.is_empty() => {
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
