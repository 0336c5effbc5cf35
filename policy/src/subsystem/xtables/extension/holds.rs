//! Whether a decoded match holds for a packet: yes, no, or maybe with the reason. What depends on history (limits, recent
//! lists) is maybe and named; ipsets are asked. Changes nothing.

use std::net::IpAddr;

use crate::host::Need;
use crate::link::Link;
use crate::packet::{Doubt, Interface, On, Rewritten, Span, Tracking, Tri, View, span};
use crate::subsystem::ipset::{self, Judged};
use crate::subsystem::recent;
use crate::subsystem::xtables::extension::decode::decode;
use crate::subsystem::xtables::extension::matches::{Conntrack, InterfaceName, Match, PortSide};
use crate::subsystem::xtables::extension::render;

/// Whether a match holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// It cannot be told.
    Maybe(Doubt),
    /// It cannot be told before this fact is fetched.
    Ask(Need, Doubt),
}

/// Whether the raw match holds for the packet: decoding and judging in one.
pub fn matches(name: &str, revision: u32, info: &[u8], view: &View<'_>, sets: &ipset::State) -> Matched {
    holds(&decode(view.v6, name, revision, info), view, sets)
}

/// Whether a decoded match holds for the packet.
pub fn holds(rule_match: &Match, view: &View<'_>, sets: &ipset::State) -> Matched {
    let doubt = || Doubt::about(depends_on(rule_match), render::match_text(rule_match, view.v6, &sets.names));
    let held = match rule_match {
        Match::Set { set, counters } => match sets.judge(*set, counters.as_ref(), view) {
            Judged::Known(held) => held,
            Judged::Ask(need) => return Matched::Ask(need, doubt()),
        },
        Match::Recent { .. } => match rule_match.recent().map(|asked| sets.recent.judge(&asked, view)) {
            Some(recent::Judged::Known(held)) => held,
            Some(recent::Judged::Ask(need)) => return Matched::Ask(need, doubt()),
            None => Tri::Maybe,
        },
        other => judge(other, view),
    };
    match held {
        Tri::Yes => Matched::Yes,
        Tri::No => Matched::No,
        Tri::Maybe => Matched::Maybe(doubt()),
    }
}

/// Whether a match counts packets, bytes or connections, or draws lots; what the others depend on has no kind of its own.
fn depends_on(rule_match: &Match) -> On {
    const COUNT: [&str; 7] = ["limit", "hashlimit", "connlimit", "recent", "quota", "rateest", "statistic"];
    match rule_match {
        Match::Limit { .. }
        | Match::Hashlimit(_)
        | Match::Connlimit { .. }
        | Match::Recent { .. }
        | Match::Quota { .. }
        | Match::Statistic { .. } => On::Rate,
        Match::Undecoded { name, .. } if COUNT.contains(&name.as_str()) => On::Rate,
        _ => On::Other,
    }
}

fn judge(rule_match: &Match, view: &View<'_>) -> Tri {
    match rule_match {
        // Neighbour discovery: a type that is known, and code 0.
        Match::Icmp { kind, codes, invert, v6: true } if view.packet.protocol == 58 => {
            view.packet.transport.part(0, 1).equals(&[*kind]).and(Tri::from(codes.0 == 0)).invert(*invert)
        }
        Match::Tcp { .. } if view.packet.protocol != 6 => Tri::No,
        Match::Multiport { .. } | Match::PacketType { .. } if view.packet.protocol != 6 => Tri::Maybe,
        Match::Tcp { sources, destinations, option, flags, invert } => {
            // xt_tcpudp.c: XT_TCP_INV_SRCPT 1, DSTPT 2, FLAGS 4, OPTION 8
            port(view.source_port, *sources)
                .invert(invert & 1 != 0)
                .and(port(view.destination_port, *destinations).invert(invert & 2 != 0))
                .and(Tri::from(view.tcp_flags & flags.0 == flags.1).invert(invert & 4 != 0))
                .and(if *option == 0 { Tri::Yes } else { Tri::Maybe })
        }
        // The packet is TCP, without IPv6 extension headers: `ipv6_find_hdr` finds none, and the match fails whatever is inverted.
        Match::Udp { .. } | Match::Icmp { .. } | Match::Extension { .. } => Tri::No,
        Match::Ipv6Header { flags, invert, soft } => {
            // ip6t_ipv6header.c: a packet without extension headers shows MASK_PROTO, 1.
            let seen = 1_u8;
            Tri::from(if *soft { (seen ^ flags ^ invert) & flags == 0 } else { (seen == *flags) != (*invert != 0) })
        }
        // xt_pkttype.c: PACKET_HOST 0, that it is addressed to this host, unless a rule said otherwise.
        Match::PacketType { kind, invert } => {
            u8::try_from(*kind).map_or(Tri::No, |kind| view.packet.kind.equals(&[kind])).invert(*invert)
        }
        Match::Multiport { side, ports, invert } => {
            let one = |span: Span| ports.iter().fold(Tri::No, |found, (low, high, _)| found.or(port(span, (*low, *high))));
            match side {
                PortSide::Source => one(view.source_port),
                PortSide::Destination => one(view.destination_port),
                PortSide::Either => one(view.source_port).or(one(view.destination_port)),
            }
            .invert(*invert)
        }
        Match::Conntrack(conntrack) => judge_conntrack(conntrack, view),
        Match::State(states) => view.tracked().shown().among(*states),
        Match::Addrtype { source, destination, flags } => {
            // XT_ADDRTYPE_INVERT_SOURCE 1, INVERT_DEST 2, LIMIT_IFACE_IN 4, LIMIT_IFACE_OUT 8
            let of = |span: Span, local: Option<bool>, types: u16, invert: bool| {
                if types == 0 { Tri::Yes } else { address_type(view, span, local, types, *flags).invert(invert) }
            };
            let from_here = if view.reply { Some(true) } else { None };
            of(view.source, from_here, *source, flags & 1 != 0).and(of(
                view.destination,
                view.destination_local,
                *destination,
                flags & 2 != 0,
            ))
        }
        Match::Mark(masked) => known_bits(view.mark, masked.value, masked.mask).invert(masked.invert),
        Match::Connmark(masked) => {
            // xt_connmark.c: without an entry it does not match, whatever `invert` says.
            view.tracking
                .entry()
                .or(view.tracked().template().and(Tri::Maybe))
                .and(known_bits(view.connmark, masked.value, masked.mask).invert(masked.invert))
        }
        Match::Comment(_) => Tri::Yes,
        Match::Iprange { source, destination, flags } => {
            // IPRANGE_SRC 1, DST 2, SRC_INV 16, DST_INV 32
            let source = if flags & 1 == 0 { Tri::Yes } else { view.source.within(source.0, source.1).invert(flags & 16 != 0) };
            let destination = if flags & 2 == 0 {
                Tri::Yes
            } else {
                view.destination.within(destination.0, destination.1).invert(flags & 32 != 0)
            };
            source.and(destination)
        }
        Match::Length { range, invert } => {
            // xt_length.c: IPv4 the total length, IPv6 the payload length and the header.
            view.length.within(range.0.into(), range.1.into()).invert(*invert)
        }
        // xt_helper.c: it is that of the connection which expected this one, and without one nothing matches.
        Match::Helper { invert, .. } if view.tracking.among(Tracking::RELATED.0) == Tri::No => Tri::from(*invert),
        // xt_owner.c: XT_OWNER_SOCKET 4. An answer has the socket of the listener, whose user is not known here.
        Match::Owner { .. } if matches!(view.output, Interface::None) => Tri::No,
        Match::Owner { flags: 4, invert, .. } if view.packet.protocol == 6 => Tri::from(invert & 4 == 0),
        // xt_devgroup.c
        Match::Devgroup { flags, input, output } => {
            let one = |looked: u32, invert: u32, (group, mask): (u32, u32), seen: &Interface| match seen {
                _ if flags & looked == 0 => Tri::Yes,
                Interface::Known(link) => known_bits(link.group, group & mask, mask).invert(flags & invert != 0),
                Interface::None | Interface::NotLoopback => Tri::Maybe,
            };
            one(1, 2, *input, view.input).and(one(4, 8, *output, view.output))
        }
        // xt_rpfilter.c: a packet that came in where answers to it leave passes. XT_RPFILTER_INVERT 8.
        Match::Rpfilter(flags) if !view.reply && matches!(view.input, Interface::Known(_)) => Tri::from(flags & 8 == 0),
        // xt_physdev.c: a packet that passed no bridge matches where everything asked for is inverted.
        Match::Physdev { invert, flags, .. } if bridged(view) == Tri::No => Tri::from(flags & !invert == 0),
        Match::Dscp { value, invert } => view.tos.masked(value << 2, 0xfc).invert(*invert),
        Match::Tos { mask, value, invert } => view.tos.masked(*value, *mask).invert(*invert),
        // IPT_TTL_EQ 0, NE 1, LT 2, GT 3
        Match::HopLimit { mode, value, .. } => {
            let (hops, value) = (view.hop_limit.span(), u128::from(*value));
            match mode {
                0 => view.hop_limit.masked(u8::try_from(value).unwrap_or(0), 0xff),
                1 => view.hop_limit.masked(u8::try_from(value).unwrap_or(0), 0xff).invert(true),
                2 => hops.within(value, 255).invert(true),
                3 => hops.within(0, value).invert(true),
                _ => Tri::Maybe,
            }
        }
        // xt_rateest, string, u32, bpf, geoip and whatever else exists
        Match::Set { .. }
        | Match::Recent { .. }
        | Match::Limit { .. }
        | Match::Hashlimit(_)
        | Match::Connlimit { .. }
        | Match::Mac { .. }
        | Match::Owner { .. }
        | Match::Time(_)
        | Match::TcpMss { .. }
        | Match::Physdev { .. }
        | Match::Socket { .. }
        | Match::Statistic { .. }
        | Match::Quota { .. }
        | Match::Cgroup { .. }
        | Match::Rpfilter(_)
        | Match::Helper { .. }
        | Match::Undecoded { .. } => Tri::Maybe,
    }
}

/// Whether the packet passes a bridge of this host.
fn bridged(view: &View<'_>) -> Tri {
    let interface = if view.reply { view.output } else { view.input };
    match (interface, &view.packet.links) {
        (Interface::Known(link), Some(links)) => {
            let bridge = |link: &Link| link.driver == "bridge";
            if bridge(link) || links.below(link).into_iter().any(|link| bridge(link)) { Tri::Maybe } else { Tri::No }
        }
        _ => Tri::Maybe,
    }
}

/// Whether an address is of one of these types, bits of `1 << RTN_*` (`xt_addrtype.c`, `match_type` and `match_type6`).
fn address_type(view: &View<'_>, span: Span, local: Option<bool>, types: u16, flags: u32) -> Tri {
    let limited = flags & 0xc != 0;
    let on = match if flags & 4 != 0 { view.input } else { view.output } {
        Interface::Known(link) if limited => Some(link.as_ref()),
        Interface::Known(_) | Interface::None | Interface::NotLoopback => None,
    };
    let address = (span.low == span.high).then(|| view.address(span.low)).and_then(|bits| bits.address());
    let (Some(address), Some(links), true) = (address, &view.packet.links, limited == on.is_some()) else {
        // RTN_LOCAL 2: an address of this host is nothing else, for IPv4 and as far as it is asked for IPv6.
        return match local {
            Some(true) if !limited && types == 4 => Tri::Yes,
            Some(true) if !limited && !view.v6 => Tri::from(types & 4 != 0),
            Some(false) if types == 4 => Tri::No,
            Some(_) | None => Tri::Maybe,
        };
    };
    match address {
        IpAddr::V4(address) => Tri::from(types >> links.kind(address, on) & 1 != 0),
        IpAddr::V6(address) => {
            let own = on.map_or_else(|| links.own(address.into()), |on| links.own_on(on, address.into()));
            // RTN_UNSPEC 0, UNICAST 1, MULTICAST 5 by the address alone; LOCAL 2, ANYCAST 4, UNREACHABLE 7 by a route lookup.
            let plain = [
                (0, address.is_unspecified()),
                (1, !address.is_multicast() && !address.is_unspecified()),
                (5, address.is_multicast()),
            ];
            let looked = types & (1 << 2 | 1 << 4 | 1 << 7);
            if plain.iter().any(|(bit, holds)| types >> bit & 1 != 0 && !holds) {
                Tri::No
            } else if looked == 0 || looked & 4 != 0 && own {
                Tri::Yes
            } else if looked == 4 {
                Tri::No
            } else {
                Tri::Maybe
            }
        }
    }
}

fn port(span: Span, range: (u16, u16)) -> Tri {
    span.within(range.0.into(), range.1.into())
}

fn known_bits(value: Option<u32>, want: u32, mask: u32) -> Tri {
    if mask == 0 {
        return Tri::from(want == 0);
    }
    value.map_or(Tri::Maybe, |value| Tri::from(value & mask == want))
}

/// `xt_conntrack.c`, `conntrack_mt`.
fn judge_conntrack(want: &Conntrack, view: &View<'_>) -> Tri {
    let looked = |bit: u16| want.flags & bit != 0;
    let inverted = |bit: u16| want.invert & bit != 0;
    let mut verdict = Tri::Yes;
    if looked(1) {
        // XT_CONNTRACK_STATE_SNAT 64, DNAT 128, UNTRACKED 256
        let mut states = u8::try_from(want.states & 0xf).unwrap_or(0);
        if want.states & 256 != 0 {
            states |= Tracking::UNTRACKED.0;
        }
        let mut state = view.tracked().shown().among(states);
        if want.states & 64 != 0 {
            state = state.or(view.packet.snat);
        }
        if want.states & 128 != 0 {
            state = state.or(view.dnat.map_or(Tri::Maybe, Tri::from));
        }
        verdict = verdict.and(state.invert(inverted(1)));
    }
    // Without an entry only the state counts, and a rule that asks for nothing of it does not match.
    let template = view.tracked().template();
    let entry = view.tracking.entry().or(template);
    if want.flags & !(1 | 1 << 13) == 0 {
        return if looked(1) { verdict } else { verdict.and(entry) };
    }
    // Of a template, the rest is not known.
    let mut rest = if template == Tri::No { Tri::Yes } else { Tri::Maybe };
    if looked(1 << 12) {
        rest = rest.and(Tri::from(!view.reply).invert(inverted(1 << 12)));
    }
    // Original source and destination, reply source and destination. A source that was translated is not known any more.
    let (client, client_port) =
        if view.reply { (view.destination, view.destination_port) } else { (view.source, view.source_port) };
    let untouched = view.packet.snat == Tri::No && view.packet.rewritten == Rewritten::No;
    let (address, port_of) = view.packet.answered_by();
    let (original, answered_by) = (&view.packet.original, (span(&address), span(&port_of)));
    let addresses = [untouched.then_some(client), Some(span(&original.0)), Some(answered_by.0), untouched.then_some(client)];
    for (index, (known, (address, mask))) in addresses.into_iter().zip(want.addresses).enumerate() {
        let bit = 1_u16 << (2 + index);
        if looked(bit) {
            let held = known.map_or(Tri::Maybe, |span| span.masked(address, mask, if view.v6 { 128 } else { 32 }));
            rest = rest.and(held.invert(inverted(bit)));
        }
    }
    if looked(2) {
        rest = rest.and(Tri::from(want.protocol == u16::from(view.packet.protocol)).invert(inverted(2)));
    }
    let ports =
        [untouched.then_some(client_port), Some(span(&original.1)), Some(answered_by.1), untouched.then_some(client_port)];
    for (index, (known, range)) in ports.into_iter().zip(want.ports).enumerate() {
        let bit = 1_u16 << (8 + index);
        if looked(bit) {
            let held = known.map_or(Tri::Maybe, |span| port(span, range));
            rest = rest.and(held.invert(inverted(bit)));
        }
    }
    if looked(64) {
        // Any of the bits.
        let bits = view.packet.status();
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
        let (value, known) = (number(bits.value()), number(bits.known()));
        let status = u32::from(want.status);
        let held = if value & status != 0 {
            Tri::Yes
        } else if known & status == status {
            Tri::No
        } else {
            Tri::Maybe
        };
        rest = rest.and(held.invert(inverted(64)));
    }
    if looked(128) {
        rest = rest.and(Tri::Maybe);
    }
    match entry {
        Tri::Yes => verdict.and(rest),
        // xt_conntrack.c: `if (ct == NULL) return info->match_flags & XT_CONNTRACK_STATE;`
        Tri::No => verdict.and(Tri::from(looked(1))),
        Tri::Maybe => verdict.and(if rest == Tri::Yes && looked(1) { Tri::Yes } else { Tri::Maybe }),
    }
}

/// Whether an interface has the name a rule wants (`ip_tables.c`, `ip_packet_match`).
pub fn interface(want: &InterfaceName, seen: &Interface) -> Tri {
    let fits = |name: &str| if want.prefix { name.starts_with(&want.name) } else { name == want.name };
    match seen {
        Interface::None => Tri::from(fits("")),
        Interface::Known(link) => Tri::from(fits(&link.name)),
        Interface::NotLoopback if want.any() => Tri::Yes,
        Interface::NotLoopback if !want.prefix && want.name == "lo" => Tri::No,
        Interface::NotLoopback => Tri::Maybe,
    }
}
