//! ipsets on the real host, by netlink (`linux/netfilter/ipset/ip_set.h`): tells what a set is, asks it for single keys, adds and
//! deletes single elements. Lists a set whole only where that is asked for; runs no program, decides nothing.

mod elements;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::ipset::{Element, Entry, Properties, Query, Set, State, Step};
use thiserror::Error;

use self::elements::CountedBits;
pub(super) use self::elements::element as entry;
use super::nf_tables::message::{ACK, Attributes, Attrs, DUMP, Datagram, EXCLUSIVE, Kind, Messages};
use super::xtables;
use crate::sys::netlink;

/// `NFNL_SUBSYS_IPSET`
const SUBSYSTEM: u16 = 6;
/// `IPSET_CMD_*`
const LIST: u16 = 7;
const ADD: u16 = 9;
const DELETE: u16 = 10;
const TEST: u16 = 11;
const HEADER: u16 = 12;
/// `IPSET_PROTOCOL_MIN`, which every kernel of today takes.
const PROTOCOL: u8 = 6;
/// `IPSET_FLAG_LIST_HEADER`
const ONLY_HEADER: u32 = 1 << 2;
/// `NLA_F_NET_BYTEORDER`
const BIG_ENDIAN: u16 = 0x4000;
/// `IPSET_ERR_EXIST`: the element is not there (TEST, DEL), or is there already (ADD).
const EXIST: i32 = 4103;
/// `IPSET_ERR_BITMAP_RANGE`: a bitmap does not reach so far.
const RANGE: i32 = 4352;
/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// The kernel answers at once; this is for one that does not, and not for an agent that a busy host lets wait.
const LIMIT: Duration = Duration::from_secs(4);
/// For a whole set.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// Why a set gave no answer.
#[derive(Debug, Error)]
pub enum IpsetError {
    /// The socket failed.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel's error number: those from 4096 are ipset's own (`enum ipset_errno`).
    #[error("{}", explain(*.0))]
    Kernel(i32),
    /// What came is not what was asked.
    #[error("the kernel's answer could not be understood")]
    Malformed,
}

fn explain(code: i32) -> String {
    match code {
        libc::ENOENT => "there is no such ipset".to_owned(),
        4096.. => format!("the kernel answered with ipset error {code}"),
        _ => format!("the kernel answered: {}", io::Error::from_raw_os_error(code)),
    }
}

/// Fetches sets by their index, and what sets hold. What cannot be had is noted as such in the state.
pub fn lookup(state: &mut State, indices: &BTreeSet<u16>, queries: &BTreeSet<Query>) {
    let names = xtables::ipset_names(indices).map_err(IpsetError::Socket);
    let mut netlink = match names.and_then(|names| Ok((names, Netlink::open()?))) {
        Ok((names, netlink)) => {
            state.names.extend(names);
            netlink
        }
        Err(error) => {
            state.sets.extend(indices.iter().map(|index| (*index, Err(error.to_string()))));
            state.entries.extend(queries.iter().map(|query| (query.clone(), Entry::Unknown(error.to_string()))));
            return;
        }
    };
    for index in indices {
        let set = match state.names.get(index) {
            Some(name) => netlink.header(name).map_err(|error| format!("ipset {name}: {error}")),
            None => Err(format!("there is no ipset number {index}")),
        };
        state.sets.insert(*index, set);
    }
    for query in queries {
        let entry = netlink.entry(query).unwrap_or_else(|error| Entry::Unknown(error.to_string()));
        state.entries.insert(query.clone(), entry);
    }
}

/// Reads what sets keep with their elements, which takes the kernel as long as the set is large. What cannot be had is noted as such.
pub fn properties(state: &mut State, names: &BTreeSet<String>) {
    for name in names {
        let properties = Netlink::open().and_then(|mut netlink| netlink.properties(name));
        state.properties.insert(name.clone(), properties.map_err(|error| format!("ipset {name}: {error}")));
    }
}

/// Lists sets whole. What cannot be had is noted as such in the state.
pub fn list(state: &mut State, names: &BTreeSet<String>) {
    for name in names {
        let listed = Netlink::open().and_then(|mut netlink| netlink.elements(name));
        let listed = listed.map(Arc::new).map_err(|error| format!("ipset {name}: {error}"));
        state.listings.insert(name.clone(), listed);
    }
}

/// Does one step, and asks the set again.
pub fn apply(step: &Step) -> Result<Done, StepError> {
    let set = &step.query.set;
    let failed = |error: IpsetError| StepError::Failed(format!("ipset {set}: {error}; nothing was changed"));
    let mut netlink = Netlink::open().map_err(failed)?;
    let entry = match netlink.entry(&step.query) {
        Err(IpsetError::Kernel(libc::ENOENT)) => return Err(StepError::Drifted(format!("ipset {set} is gone"))),
        entry => entry.map_err(failed)?,
    };
    let now = step.look(&entry).map_err(|mismatch| StepError::Drifted(mismatch.0))?;
    if now == step.after {
        return Ok(Done::Already);
    }
    if now != step.before {
        return Err(StepError::Drifted(format!("{} in ipset {set}", step.query.key)));
    }
    // The set of this name may be another one by now.
    if step.before && netlink.properties(set).map_err(failed)?.masked {
        return Err(StepError::Drifted(format!("ipset {set}: its elements stand for networks now")));
    }
    let command = if step.after { ADD } else { DELETE };
    match netlink.ask(command, EXCLUSIVE, &about(&step.query, None), |_| {}) {
        // Somebody else was quicker.
        Ok(()) | Err(IpsetError::Kernel(EXIST)) => {}
        Err(error) => return Err(failed(error)),
    }
    let after = netlink.entry(&step.query).map(|entry| step.look(&entry));
    match after {
        Ok(Ok(there)) if there == step.after => Ok(Done::Changed),
        Ok(_) => Err(StepError::Failed(format!("could not {}: others change the set at the same time", step.summary()))),
        Err(error) => Err(StepError::Failed(format!("ipset {set}: {error}; it is unknown whether it was changed"))),
    }
}

/// Whether the set holds, or lacks, the element as the step left it. A set that is gone holds nothing.
pub fn stands(step: &Step) -> Result<bool, StepError> {
    let set = &step.query.set;
    let entry = Netlink::open().and_then(|mut netlink| netlink.entry(&step.query));
    match entry {
        Ok(Entry::Absent) | Err(IpsetError::Kernel(libc::ENOENT)) => Ok(!step.after),
        Ok(Entry::Exact | Entry::Wider(_)) => Ok(step.after),
        Ok(Entry::Unknown(why)) => Err(StepError::Failed(format!("ipset {set}: {why}"))),
        Err(error) => Err(StepError::Failed(format!("ipset {set}: {error}"))),
    }
}

/// `IPSET_ATTR_PROTOCOL`, `IPSET_ATTR_SETNAME`
fn set_named(name: &str) -> Attrs {
    Attrs::new().put(1, &[PROTOCOL]).text(2, name)
}

/// The set and one element, which is a network where a prefix length is given.
fn about(query: &Query, length: Option<u8>) -> Attrs {
    let mut data = Attrs::new();
    let length = length.or(query.key.prefix);
    if let Some(first) = query.key.address {
        // IPSET_ATTR_IP
        data = data.nest(1, &address(first));
    }
    if let Some(length) = length {
        // IPSET_ATTR_CIDR
        data = data.put(3, &[length]);
    }
    if let Some(port) = query.key.port {
        // IPSET_ATTR_PORT
        data = data.put(4 | BIG_ENDIAN, &port.to_be_bytes());
        if query.key.address.is_some() {
            // IPSET_ATTR_PROTO
            data = data.put(7, &[TCP]);
        }
    }
    if let Some(mark) = query.key.mark {
        // IPSET_ATTR_MARK
        data = data.put(0x0a | BIG_ENDIAN, &mark.to_be_bytes());
    }
    if let Some(second) = query.key.second {
        // IPSET_ATTR_IP2
        data = data.nest(20, &address(second));
    }
    if let Some(interface) = &query.key.interface {
        // IPSET_ATTR_IFACE
        data = data.text(23, interface);
    }
    // IPSET_ATTR_DATA
    set_named(&query.set).nest(7, &data)
}

/// `IPSET_ATTR_IPADDR_IPV4` or `_IPV6`
fn address(address: IpAddr) -> Attrs {
    match address {
        IpAddr::V4(v4) => Attrs::new().put(1 | BIG_ENDIAN, &v4.octets()),
        IpAddr::V6(v6) => Attrs::new().put(2 | BIG_ENDIAN, &v6.octets()),
    }
}

/// A socket in this thread's network namespace.
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self, IpsetError> {
        Ok(Self { socket: netlink::open(NETLINK_NETFILTER)?, sequence: 0 })
    }

    /// What a set is, without a look at its elements: `LIST`, even of the header alone, counts them (`mtype_head`).
    fn header(&mut self, name: &str) -> Result<Set, IpsetError> {
        let mut found = None;
        self.ask(HEADER, 0, &set_named(name), |attributes| found = set(&attributes).or(found.take()))?;
        let mut found = found.filter(|set| set.name == name).ok_or(IpsetError::Malformed)?;
        if found.kind == "list:set" {
            // Elements are names of sets, of which none is a list itself (`IPSET_ERR_LOOP`).
            for member in self.elements(name)?.into_iter().filter_map(|element| element.member) {
                found.members.push(self.header(&member)?);
            }
        }
        Ok(found)
    }

    /// What a set keeps with its elements.
    fn properties(&mut self, name: &str) -> Result<Properties, IpsetError> {
        let mut found = None;
        // IPSET_ATTR_FLAGS
        let attrs = set_named(name).put(6 | BIG_ENDIAN, &ONLY_HEADER.to_be_bytes());
        self.ask(LIST, DUMP, &attrs, |attributes| found = properties_in(&attributes).or(found.take()))?;
        found.ok_or(IpsetError::Malformed)
    }

    /// All elements of a set.
    fn elements(&mut self, name: &str) -> Result<Vec<Element>, IpsetError> {
        let (mut found, mut counted, mut strange) = (Vec::new(), CountedBits::All, false);
        self.ask_within(LIST_LIMIT, LIST, DUMP, &set_named(name), |attributes| {
            // IPSET_ATTR_DATA of the set comes with the first message only; IPSET_ATTR_ADT holds the elements.
            if let Some(data) = attributes.nested(7) {
                counted = elements::counted_bits(&data);
            }
            for (kind, data) in attributes.nested(8).into_iter().flatten() {
                let prefix = match counted {
                    CountedBits::All => None,
                    CountedBits::Prefix(bits) => Some(bits),
                    CountedBits::Other => {
                        strange |= kind == 7;
                        continue;
                    }
                };
                if kind == 7 {
                    match elements::element(data, prefix) {
                        Some(element) => found.push(element),
                        None => strange = true,
                    }
                }
            }
        })?;
        if strange { Err(IpsetError::Malformed) } else { Ok(found) }
    }

    /// Whether a set holds a key, and by what.
    ///
    /// Asked for an address, a set of networks answers for every network around it; asked for a network, for that very network
    /// (`ip_set_hash_gen.h`, `mtype_test`). So the address itself is an element, and nothing else is, when no network is.
    fn entry(&mut self, query: &Query) -> Result<Entry, IpsetError> {
        if !self.test(query, None)? {
            return Ok(Entry::Absent);
        }
        if query.key.prefix.is_some() {
            return Ok(Entry::Exact);
        }
        let fields: Vec<&str> = query.kind.split_once(':').map_or("", |(_, fields)| fields).split(',').collect();
        let networks = fields.contains(&"net");
        // Of two addresses either may be that of a wider network, and a MAC address was not asked for.
        if fields.contains(&"mac") || query.key.second.is_some() && networks {
            return Ok(Entry::Wider(Vec::new()));
        }
        let longest = match query.key.address {
            Some(IpAddr::V4(_)) if networks => 31,
            Some(IpAddr::V6(_)) if networks => 127,
            _ => 0,
        };
        let mut wider = Vec::new();
        for length in 1..=longest {
            if self.test(query, Some(length))? {
                wider.push(length);
            }
        }
        Ok(if wider.is_empty() { Entry::Exact } else { Entry::Wider(wider) })
    }

    fn test(&mut self, query: &Query, length: Option<u8>) -> Result<bool, IpsetError> {
        match self.ask(TEST, EXCLUSIVE, &about(query, length), |_| {}) {
            Ok(()) => Ok(true),
            Err(IpsetError::Kernel(EXIST)) => Ok(false),
            Err(IpsetError::Kernel(RANGE)) if query.kind.starts_with("bitmap:") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends one request and reads its answer to the end.
    fn ask(&mut self, command: u16, flags: u16, attrs: &Attrs, each: impl FnMut(Attributes<'_>)) -> Result<(), IpsetError> {
        self.ask_within(LIMIT, command, flags, attrs, each)
    }

    fn ask_within(
        &mut self,
        limit: Duration,
        command: u16,
        flags: u16,
        attrs: &Attrs,
        mut each: impl FnMut(Attributes<'_>),
    ) -> Result<(), IpsetError> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = Messages::new().add(Kind::Other(SUBSYSTEM << 8 | command), 0, flags | ACK, self.sequence, attrs);
        self.socket.send(&message.finish().ok_or(IpsetError::Malformed)?, 0)?;
        let deadline = Instant::now() + limit;
        loop {
            let datagram = netlink::receive(&self.socket, deadline, "the kernel did not answer in time")?;
            for message in Datagram(&datagram).filter(|message| message.sequence == self.sequence) {
                match (message.kind, message.errno()) {
                    (Kind::Error | Kind::Done, 0) => return Ok(()),
                    (Kind::Error | Kind::Done, code) => return Err(IpsetError::Kernel(code)),
                    _ => each(message.attributes()),
                }
            }
        }
    }
}

/// A set's description: `IPSET_ATTR_SETNAME` 2, `TYPENAME` 3, `FAMILY` 5.
fn set(attributes: &Attributes<'_>) -> Option<Set> {
    let v6 = match attributes.get(5)?.first()? {
        2 => Some(false),
        10 => Some(true),
        _ => None,
    };
    Some(Set { name: attributes.text(2)?, kind: attributes.text(3)?, v6, members: Vec::new() })
}

/// `IPSET_ATTR_DATA` 7 of a listed set.
fn properties_in(attributes: &Attributes<'_>) -> Option<Properties> {
    let data = attributes.nested(7)?;
    // IPSET_ATTR_NETMASK 20, BITMASK 12; TIMEOUT 6; CADT_FLAGS 8 with COUNTERS 8, COMMENT 16, SKBINFO 64
    let flags = data.be32(8).unwrap_or(0);
    Some(Properties {
        masked: data.get(20).or(data.get(12)).is_some(),
        extras: data.get(6).is_some() || flags & (8 | 16 | 64) != 0,
    })
}
