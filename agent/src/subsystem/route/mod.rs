//! Routes on the real host, by rtnetlink(7): one lookup for each of the host's own addresses that an answer may come from, and the
//! routes behind a refusal. Deletes or makes one route and reads it back. Lists no table while nothing refuses.

mod perhaps;
mod policy_rule;
pub(crate) mod rp_filter;
mod xfrm;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NlasIterator};
use netlink_sys::Socket;
use nix::libc;
use sshfix_policy::address::{Source, canonical};
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::route::{Answer, Fact, Kind, Neighbour, Route, State, Step, Tables, Way};

use self::policy_rule::{Asks, policy_rules};
use crate::subsystem::link;
use crate::sys::rtnetlink::{ask, open};

/// A table that changes while it is listed is listed again so many times.
const ATTEMPTS: usize = 5;
/// More routes than this are not listed: a router with the whole Internet's.
const MOST_ROUTES: usize = 300_000;
/// The length of `struct rtmsg`.
pub(super) const HEADER: usize = 12;
/// `RTA_CACHEINFO`: ages and use counts, which move by themselves.
const CACHE_INFO: u16 = 12;
/// `RTA_PREF`
const PREFERENCE: u16 = 20;
/// The types that refuse, and `throw`; 0 asks for all.
const REFUSING: [u8; 4] = [libc::RTN_BLACKHOLE, libc::RTN_UNREACHABLE, libc::RTN_PROHIBIT, libc::RTN_THROW];

/// Asks the kernel about these sources.
pub fn lookup(state: &mut State, sources: &BTreeSet<Source>) -> io::Result<()> {
    let links = link::observe()?;
    let own: BTreeSet<IpAddr> = links.addresses().map(|(_, net)| canonical(net.addr())).collect();
    state.links = Some(Arc::new(links));
    for v6 in [false, true] {
        if let Some(forwards) = link::forwards(v6) {
            state.forwards.insert(v6, forwards);
        }
    }
    let socket = open(false)?;
    let mut answers = BTreeMap::new();
    for source in sources {
        answers.insert(*source, answer(&socket, source.first(), &own, state.port)?);
    }
    let refused = |source: &Source, answer: &Answer| match answer {
        Answer::Refused(_) | Answer::NoRoute => Some(vec![0]),
        // Something else in a range may be refused.
        Answer::Goes(_) | Answer::Unknown(_) => source.single().is_none().then(|| REFUSING.to_vec()),
    };
    let mut lists: BTreeMap<(bool, Vec<u8>), Result<Vec<Route>, String>> = BTreeMap::new();
    for (source, (answer, ways)) in answers {
        let mut fact = Fact { answer, routes: Vec::new(), ways };
        if let Some(kinds) = refused(&source, &fact.answer) {
            let concerned = |route: &Route| sources.iter().any(|one| one.overlaps(route.destination));
            let list = lists
                .entry((source.is_ipv4(), kinds.clone()))
                .or_insert_with(|| list(source.is_ipv4(), &kinds, concerned).map_err(|error| error.to_string()));
            match list {
                Ok(routes) => fact.routes = routes.iter().filter(|route| route.destination.overlaps(source)).cloned().collect(),
                Err(error) => fact.answer = Answer::Unknown(format!("the kernel did not list its routes: {error}")),
            }
        }
        if let (Answer::Goes(_), Some(links)) = (&fact.answer, &state.links) {
            let reverse = rp_filter::lookup(&socket, source, &fact.ways, links).map_err(|error| error.to_string());
            state.reverse.insert(source, reverse);
        }
        state.facts.insert(source, fact);
    }
    state.ipsec = Some(xfrm::policies().map_err(|error| error.to_string()));
    by_hand(&socket, state, sources);
    perhaps::look_up(&socket, state, sources, &own)
}

/// The neighbour entries of those that answers are handed to.
fn by_hand(socket: &Socket, state: &mut State, sources: &BTreeSet<Source>) {
    for source in sources {
        let (Some(single), Some(fact)) = (source.single(), state.facts.get(source)) else { continue };
        let hops: BTreeSet<(u32, IpAddr)> = fact.ways.iter().map(|way| (way.device, way.via.unwrap_or(single))).collect();
        for (device, hop) in hops {
            let entry = neighbour(socket, device, hop).map_err(|error| error.to_string());
            state.neighbours.entry(device).or_default().insert(hop, entry);
        }
    }
}

/// Lists all routes of IPv4 (`false`) and IPv6 (`true`), and what policy rules say about destinations.
pub fn list_tables(state: &mut State, families: &BTreeSet<bool>) {
    for v6 in families {
        let listed = list(!v6, &[0], |_| true)
            .and_then(|routes| Ok(Tables { routes, rules: policy_rules(!v6)?.into_iter().filter_map(|rule| rule.to).collect() }));
        let listed = listed.map(Arc::new).map_err(|error| format!("the kernel did not list its routes: {error}"));
        state.tables.insert(*v6, listed);
    }
}

/// Lists the policy rules of IPv4 (`false`) and IPv6 (`true`).
pub fn list_rules(state: &mut State, families: &BTreeSet<bool>) {
    for v6 in families {
        let listed = policy_rules(!v6).map_err(|error| format!("the kernel did not list its policy rules: {error}"));
        state.rules.insert(*v6, listed);
    }
}

/// Asks for the neighbour entries of these addresses, each on the interface with this number, one by one (`neigh_get`).
pub fn look_up_neighbours(state: &mut State, wanted: &BTreeSet<(u32, IpAddr)>) {
    for (device, address) in wanted {
        let entry = open(false).and_then(|socket| neighbour(&socket, *device, *address)).map_err(|error| error.to_string());
        state.neighbours.entry(*device).or_default().insert(*address, entry);
    }
}

/// `struct ndmsg` is family, 3 bytes of nothing, interface, state, flags, type.
fn neighbour(socket: &Socket, device: u32, address: IpAddr) -> io::Result<Neighbour> {
    /// `NDA_DST`
    const DESTINATION: u16 = 1;
    let attribute = DefaultNla::new(DESTINATION, octets(address).0);
    let mut request = message([family(address.is_ipv4()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[attribute]);
    for (byte, part) in request.iter_mut().skip(4).zip(device.to_ne_bytes()) {
        *byte = part;
    }
    let mut found = Neighbour::NONE;
    let asked = ask(socket, libc::RTM_GETNEIGH, 0, &request, |bytes| {
        let state = bytes.get(8..10).and_then(|state| state.try_into().ok()).map(u16::from_ne_bytes);
        found = Neighbour(state.ok_or_else(|| io::Error::other("a neighbour message that is cut short"))?);
        Ok(())
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Neighbour::NONE),
        other => other.map(|()| found),
    }
}

/// Deletes or makes one route, and reads it back.
pub fn apply(step: &Step) -> Result<Done, StepError> {
    let (route, wanted) = match (&step.before, &step.after) {
        (Some(route), None) => (route, false),
        (None, Some(route)) => (route, true),
        _ => return Err(StepError::Failed("a step on routes deletes one or adds one; nothing was changed".to_owned())),
    };
    let unread = |error: io::Error| StepError::Failed(format!("the kernel did not list its routes: {error}"));
    let find = || {
        let same = |one: &Route| {
            (one.destination, one.table, one.metric, one.tos) == (route.destination, route.table, route.metric, route.tos)
        };
        list(route.destination.is_ipv4(), &REFUSING, same)
    };
    let there = find().map_err(unread)?;
    if there.contains(route) == wanted && (wanted || there.is_empty()) {
        return Ok(Done::Already);
    }
    if let Some(other) = there.iter().find(|one| *one != route) {
        return Err(StepError::Drifted(format!("there is another route: {other}; nothing was changed")));
    }
    let (kind, flags) =
        if wanted { (libc::RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) } else { (libc::RTM_DELROUTE, NLM_F_ACK) };
    let done = open(false).and_then(|socket| ask(&socket, kind, flags, &route.message, |_| Ok(())));
    let there = find().map_err(unread)?;
    match done {
        _ if there.contains(route) == wanted => Ok(Done::Changed),
        Ok(()) => Err(StepError::Failed(format!("the kernel reported success, but did not {}", step.summary()))),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            Err(StepError::Drifted(format!("there is another route to {}; nothing was changed", route.destination.short())))
        }
        Err(error) => Err(StepError::Failed(format!("could not {}: {error}; nothing was changed", step.summary()))),
    }
}

/// The own addresses that an answer to this one may come from; one that is not known where there is none.
fn own_ends(to: IpAddr, own: &BTreeSet<IpAddr>) -> Vec<Option<IpAddr>> {
    let usable = |from: &&IpAddr| match from {
        IpAddr::V4(from) => to.is_ipv4() && !from.is_loopback() && !from.is_link_local(),
        IpAddr::V6(from) => to.is_ipv6() && !from.is_loopback() && !from.is_unicast_link_local(),
    };
    let mut from: Vec<Option<IpAddr>> = own.iter().filter(usable).map(|from| Some(*from)).collect();
    if from.is_empty() {
        from.push(None);
    }
    from
}

/// What becomes of an answer to this address from sshd's port. Policy rules may tell by the source, so every own address is tried; those
/// by what a lookup does not say are `perhaps`.
fn answer(socket: &Socket, to: IpAddr, own: &BTreeSet<IpAddr>, port: Option<u16>) -> io::Result<(Answer, Vec<Way>)> {
    let from = own_ends(to, own);
    let mut first: Option<(Option<IpAddr>, Answer)> = None;
    let mut ways = Vec::new();
    for from in from {
        let (next, way) = lookup_one(socket, to, from, &Asks::default(), port)?;
        ways.extend(way);
        match &first {
            None => first = Some((from, next)),
            Some((_, Answer::Goes(_))) if matches!(next, Answer::Goes(_)) => {}
            Some((_, old)) if *old == next => {}
            Some((other, _)) => {
                let name = |from: Option<IpAddr>| from.map_or_else(String::new, |from| from.to_string());
                let answer = Answer::Unknown(format!(
                    "policy rules send answers from {} and from {} different ways, and not all arrive",
                    name(*other),
                    name(from)
                ));
                // Those who come to an address without a way back are not served at all.
                return Ok((answer, Vec::new()));
            }
        }
    }
    Ok((first.map_or_else(|| Answer::Unknown("no route lookup was made".to_owned()), |(_, answer)| answer), ways))
}

/// `RTA_IP_PROTO`, `RTA_SPORT`, `RTA_DPORT` (Linux 4.17)
const IP_PROTOCOL: u16 = 27;
const SOURCE_PORT: u16 = 28;
const DESTINATION_PORT: u16 = 29;

fn lookup_one(
    socket: &Socket,
    to: IpAddr,
    from: Option<IpAddr>,
    asks: &Asks,
    port: Option<u16>,
) -> io::Result<(Answer, Option<Way>)> {
    let (to_bytes, bits) = octets(to);
    let mut attributes = vec![DefaultNla::new(libc::RTA_DST, to_bytes)];
    let mut from_bits = 0;
    if let Some(from) = from {
        let (bytes, bits) = octets(from);
        attributes.push(DefaultNla::new(libc::RTA_SRC, bytes));
        from_bits = bits;
    }
    attributes.push(DefaultNla::new(IP_PROTOCOL, vec![6]));
    attributes.extend(port.map(|port| DefaultNla::new(SOURCE_PORT, port.to_be_bytes().to_vec())));
    attributes.extend(asks.port.map(|port| DefaultNla::new(DESTINATION_PORT, port.to_be_bytes().to_vec())));
    attributes.extend(asks.mark.map(|mark| DefaultNla::new(libc::RTA_MARK, mark.to_ne_bytes().to_vec())));
    let request = message([family(to.is_ipv4()), bits, from_bits, asks.tos, 0, 0, 0, 0, 0, 0, 0, 0], &attributes);
    let (mut text, mut way) = (None, None);
    let asked = ask(socket, libc::RTM_GETROUTE, 0, &request, |bytes| {
        let (route, device) = parse(bytes)?;
        text = Some(as_get_prints(to, &route));
        way = device.map(|device| Way { from, device, via: route.via });
        Ok(())
    });
    let answer = match asked {
        Ok(()) => text.map_or_else(|| Answer::Unknown("the kernel's answer names no route".to_owned()), Answer::Goes),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL) => Answer::Refused(Kind::Blackhole),
            Some(libc::EHOSTUNREACH) => Answer::Refused(Kind::Unreachable),
            Some(libc::EACCES) => Answer::Refused(Kind::Prohibit),
            Some(libc::ENETUNREACH) => Answer::NoRoute,
            _ => return Err(error),
        },
    };
    Ok((answer, way))
}

/// `203.0.113.7 via 192.0.2.1 dev eth0`
fn as_get_prints(to: IpAddr, route: &Route) -> String {
    let via = route.via.map_or_else(String::new, |via| format!(" via {via}"));
    let device = route.device.as_ref().map_or_else(String::new, |device| format!(" dev {device}"));
    format!("{to}{via}{device}")
}

/// The routes of one family and these types (0: all) that `wanted` picks. The kernel filters by type (Linux 4.20).
pub(super) fn list(v4: bool, kinds: &[u8], wanted: impl Fn(&Route) -> bool) -> io::Result<Vec<Route>> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match list_once(v4, kinds, &wanted) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempts < ATTEMPTS => {}
            other => return other,
        }
    }
}

fn list_once(v4: bool, kinds: &[u8], wanted: impl Fn(&Route) -> bool) -> io::Result<Vec<Route>> {
    let socket = open(true)?;
    let (mut routes, mut count) = (Vec::new(), 0_usize);
    for kind in kinds {
        let request = message([family(v4), 0, 0, 0, 0, 0, 0, *kind, 0, 0, 0, 0], &[]);
        let listed = ask(&socket, libc::RTM_GETROUTE, NLM_F_DUMP, &request, |bytes| {
            count += 1;
            if count > MOST_ROUTES {
                return Err(io::Error::other(format!("there are more than {MOST_ROUTES}")));
            }
            if of_a_table(bytes) {
                routes.extend(Some(parse(bytes)?.0).filter(&wanted));
            }
            Ok(())
        });
        match listed {
            // A type of which the kernel has no table at all.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(routes)
}

/// `struct rtmsg` and attributes.
pub(super) fn message(header: [u8; HEADER], attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER + attributes.buffer_len()];
    let (head, body) = bytes.split_at_mut(HEADER);
    head.copy_from_slice(&header);
    attributes.emit(body);
    bytes
}

/// Takes a route apart, and gives the number of its interface besides: `struct rtmsg` is family, `dst_len`, `src_len`, tos, table, protocol, scope, type, flags.
fn parse(bytes: &[u8]) -> io::Result<(Route, Option<u32>)> {
    let short = || io::Error::other("a route message that is cut short");
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or_else(short)?;
    let [family, length, source_length, tos, short_table, protocol, scope, kind, ..] = *header;
    let v4 = i32::from(family) == libc::AF_INET;
    let mut values = BTreeMap::new();
    for attribute in NlasIterator::new(rest) {
        let attribute = attribute.map_err(io::Error::other)?;
        if attribute.kind() != CACHE_INFO {
            values.insert(attribute.kind(), attribute.value().to_vec());
        }
    }
    let value = |kind: u16| values.get(&kind).map(Vec::as_slice);
    let number = |kind: u16| value(kind).map(|value| value.try_into().map(u32::from_ne_bytes).map_err(|_| short())).transpose();
    let destination = match value(libc::RTA_DST) {
        Some(bytes) => address(bytes).ok_or_else(short)?,
        None if v4 => IpAddr::from([0_u8; 4]),
        None => IpAddr::from([0_u8; 16]),
    };
    let destination = IpNet::new(destination, length).map_err(io::Error::other)?;
    let kind_of = match kind {
        libc::RTN_BLACKHOLE => Kind::Blackhole,
        libc::RTN_UNREACHABLE => Kind::Unreachable,
        libc::RTN_PROHIBIT => Kind::Prohibit,
        libc::RTN_THROW => Kind::Throw,
        _ => Kind::Delivers,
    };
    // The flags tell what the kernel made of it (offloaded, dead); a route that refuses has none of its own.
    let header = [family, length, source_length, tos, short_table, protocol, scope, kind, 0, 0, 0, 0];
    let attributes: Vec<_> = values.iter().map(|(kind, value)| DefaultNla::new(*kind, value.clone())).collect();
    let device = number(libc::RTA_OIF)?;
    let route = Route {
        destination: Source::new(destination),
        kind: kind_of,
        table: number(libc::RTA_TABLE)?.unwrap_or(u32::from(short_table)),
        metric: number(libc::RTA_PRIORITY)?.unwrap_or(0),
        tos,
        protocol,
        via: value(libc::RTA_GATEWAY).map(|bytes| address(bytes).ok_or_else(short)).transpose()?,
        device: device.and_then(|index| nix::net::if_::if_indextoname(index).ok()?.into_string().ok()),
        preference: value(PREFERENCE).and_then(|value| value.first().copied()),
        message: message(header, &attributes),
    };
    Ok((route, device))
}

/// Whether a listed route is one that somebody made for all sources, and no exception that the kernel learned.
fn of_a_table(bytes: &[u8]) -> bool {
    /// `RTM_F_CLONED`
    const CLONED: u32 = 0x200;
    bytes.first_chunk::<HEADER>().is_none_or(|[_, _, source_length, _, _, _, _, _, flags @ ..]| {
        u32::from_ne_bytes(*flags) & CLONED == 0 && *source_length == 0
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The bytes of an address, and their number of bits.
pub(super) fn octets(address: IpAddr) -> (Vec<u8>, u8) {
    match canonical(address) {
        IpAddr::V4(v4) => (v4.octets().to_vec(), 32),
        IpAddr::V6(v6) => (v6.octets().to_vec(), 128),
    }
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(v4: bool) -> u8 {
    u8::try_from(if v4 { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or_default()
}
