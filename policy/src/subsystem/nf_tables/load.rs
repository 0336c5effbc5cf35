//! What `payload`, `meta`, `ct` and `fib` load for a packet, three-valued. Follows `nft_payload.c`, `nft_meta.c`, `nft_ct.c` and
//! `nft_fib*.c` of Linux 6.x. Compares nothing.

use std::net::IpAddr;

use super::expression::{ExtensionKind, PayloadBase};
use crate::packet::{Bits, Interface, On, Packet, Rewritten, Tracking, Tri};

/// What an expression loads.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The value.
    pub bits: Bits,
    /// The field as nft names it.
    pub label: &'static str,
    /// What of a packet the field is.
    pub on: On,
    /// A value it is known not to have.
    pub excluded: Option<Vec<u8>>,
    /// Whether the load itself ends the rule.
    pub breaks: Tri,
}

impl Loaded {
    fn new(label: &'static str, bits: Bits) -> Self {
        Self { bits, label, on: On::Other, excluded: None, breaks: Tri::No }
    }

    fn unknown(label: &'static str, len: usize) -> Self {
        Self::new(label, Bits::unknown(len))
    }

    fn breaking(self, breaks: Tri) -> Self {
        Self { breaks, ..self }
    }
}

/// `payload`
pub fn payload(packet: &Packet, base: PayloadBase, offset: u32, len: u32) -> Loaded {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(256);
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let (header, label, on) = match base {
        PayloadBase::Network => {
            let (label, on) = network_field(packet.v6, offset);
            (&packet.network, label, on)
        }
        PayloadBase::Transport => (&packet.transport, transport_label(offset), On::Other),
        PayloadBase::LinkLayer => return link_layer(packet, offset, len),
        // A SYN carries no inner packet.
        PayloadBase::Inner => return Loaded::unknown("the inner header", len).breaking(Tri::Maybe),
        PayloadBase::Tunnel => return Loaded::unknown("the tunnel header", len).breaking(Tri::Maybe),
    };
    let fits = offset.checked_add(len).is_some_and(|end| end <= header.len());
    Loaded { on, ..Loaded::new(label, header.part(offset, len)) }.breaking(if fits { Tri::No } else { Tri::Maybe })
}

/// An Ethernet header, where the device has one: its addresses are not known. Devices without end the rule; what this host sends has none
/// before it leaves.
fn link_layer(packet: &Packet, offset: usize, len: usize) -> Loaded {
    let loaded = Loaded::unknown("the link layer header", len);
    // ARPHRD_ETHER 1, ARPHRD_LOOPBACK 772
    let Interface::Known(link) = &packet.input else { return loaded.breaking(Tri::Maybe) };
    if !matches!(link.kind, 1 | 772) {
        return loaded.breaking(Tri::Maybe);
    }
    let [high, low] = ethertype(packet.v6).to_be_bytes();
    let mut header = Bits::unknown(14);
    header.set_part(12, &Bits::exactly(&[high, low]));
    let fits = offset.checked_add(len).is_some_and(|end| end <= header.len());
    Loaded::new("the link layer header", header.part(offset, len)).breaking(if fits { Tri::No } else { Tri::Maybe })
}

fn ethertype(v6: bool) -> u16 {
    if v6 { 0x86dd } else { 0x0800 }
}

fn network_field(v6: bool, offset: usize) -> (&'static str, On) {
    match (v6, offset) {
        (false, 12..=15) => ("ip saddr", On::Source),
        (false, 16..=19) => ("ip daddr", On::Destination),
        (false, _) => ("a field of the IP header", On::Other),
        (true, 8..=23) => ("ip6 saddr", On::Source),
        (true, 24..=39) => ("ip6 daddr", On::Destination),
        (true, _) => ("a field of the IPv6 header", On::Other),
    }
}

fn transport_label(offset: usize) -> &'static str {
    match offset {
        0 | 1 => "tcp sport",
        2 | 3 => "tcp dport",
        13 => "tcp flags",
        _ => "a field of the TCP header",
    }
}

/// An interface name as `meta` loads it: `IFNAMSIZ` bytes, zero-padded.
fn name(name: &[u8]) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.resize(16, 0);
    bytes
}

fn interface_name(label: &'static str, interface: &Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::new(label, Bits::exactly(&[0; 16])),
        Interface::Known(link) => Loaded::new(label, Bits::exactly(&name(link.name.as_bytes()))),
        Interface::NotLoopback => Loaded { excluded: Some(name(b"lo")), ..Loaded::unknown(label, 16) },
    }
}

fn interface_index(label: &'static str, interface: &Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::new(label, Bits::exactly(&[0; 4])),
        Interface::Known(link) => Loaded::new(label, Bits::exactly(&link.index.to_ne_bytes())),
        Interface::NotLoopback => Loaded { excluded: Some(1_u32.to_ne_bytes().to_vec()), ..Loaded::unknown(label, 4) },
    }
}

/// `ARPHRD_LOOPBACK` 772; without a device the rule ends.
fn interface_type(label: &'static str, interface: &Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::unknown(label, 2).breaking(Tri::Yes),
        Interface::Known(link) => Loaded::new(label, Bits::exactly(&link.kind.to_ne_bytes())),
        Interface::NotLoopback => Loaded { excluded: Some(772_u16.to_ne_bytes().to_vec()), ..Loaded::unknown(label, 2) },
    }
}

fn interface_group(label: &'static str, interface: &Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::unknown(label, 4).breaking(Tri::Yes),
        Interface::Known(link) => {
            Loaded::new(label, link.group.map_or_else(|| Bits::unknown(4), |group| Bits::exactly(&group.to_ne_bytes())))
        }
        Interface::NotLoopback => Loaded::unknown(label, 4),
    }
}

/// The driver's kind; empty for a device without one.
fn interface_kind(label: &'static str, interface: &Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::unknown(label, 16).breaking(Tri::Yes),
        Interface::Known(link) => Loaded::new(label, Bits::exactly(&name(link.driver.as_bytes()))),
        Interface::NotLoopback => Loaded::unknown(label, 16),
    }
}

/// `meta`, by `enum nft_meta_keys`.
pub fn meta(packet: &Packet, key: u32) -> Loaded {
    match key {
        0 => Loaded::unknown("meta length", 4),
        1 => Loaded::new("meta protocol", Bits::exactly(&ethertype(packet.v6).to_be_bytes())),
        2 => Loaded::unknown("meta priority", 4),
        3 => Loaded::new("meta mark", packet.mark.clone()),
        4 => interface_index("iif", &packet.input),
        5 => interface_index("oif", &packet.output),
        6 => interface_name("iifname", &packet.input),
        7 => interface_name("oifname", &packet.output),
        8 => interface_type("iiftype", &packet.input),
        9 => interface_type("oiftype", &packet.output),
        // A SYN has no socket yet; its answer has that of the listener.
        10 => Loaded::unknown("meta skuid", 4).breaking(if packet.reply { Tri::Maybe } else { Tri::Yes }),
        11 => Loaded::unknown("meta skgid", 4).breaking(if packet.reply { Tri::Maybe } else { Tri::Yes }),
        13 => Loaded::unknown("meta rtclassid", 4).breaking(Tri::Maybe),
        14 => Loaded::unknown("meta secmark", 4),
        15 => Loaded::new("meta nfproto", Bits::exactly(&[if packet.v6 { 10 } else { 2 }])),
        16 => Loaded::new("meta l4proto", Bits::exactly(&[packet.protocol])),
        // What this host sends has the same until it leaves it.
        19 if packet.protocol == 6 => Loaded::new("meta pkttype", packet.kind.clone()),
        19 => Loaded::unknown("meta pkttype", 1),
        20 => Loaded::unknown("meta cpu", 4),
        21 => interface_group("iifgroup", &packet.input),
        22 => interface_group("oifgroup", &packet.output),
        23 => Loaded::unknown("meta cgroup", 4).breaking(Tri::Maybe),
        24 => Loaded::unknown("meta random", 4),
        25 => Loaded::unknown("meta ipsec", 1),
        26 => interface_kind("meta iifkind", &packet.input),
        27 => interface_kind("meta oifkind", &packet.output),
        30 => Loaded::unknown("meta time", 8),
        31 => Loaded::unknown("meta day", 1),
        32 => Loaded::unknown("meta hour", 4),
        33 => Loaded::unknown("meta sdif", 4),
        34 => Loaded::unknown("meta sdifname", 16),
        _ => Loaded::unknown("a meta key", 16).breaking(Tri::Maybe),
    }
}

/// `ct`, by `enum nft_ct_keys`. Without an entry every key but the state ends the rule.
pub fn ct(packet: &Packet, key: u32, direction: Option<u8>) -> Loaded {
    if key == 0 {
        let possible = packet.tracked().shown().0;
        let value = u32::from(possible);
        let known = if possible.is_power_of_two() { u32::MAX } else { !value };
        return Loaded::new("ct state", Bits::masked(&value.to_ne_bytes(), &known.to_ne_bytes()));
    }
    let template = packet.tracked().template();
    let breaks = packet.tracking.entry().invert(true);
    let original = direction.unwrap_or(0) == 0;
    let address_len = if packet.v6 { 16 } else { 4 };
    let client = || if packet.reply { packet.destination() } else { packet.source() };
    let source_changed = packet.snat != Tri::No || packet.rewritten != Rewritten::No;
    let loaded = match key {
        1 => Loaded::new("ct direction", Bits::exactly(&[u8::from(packet.reply)])),
        2 => Loaded::new("ct status", packet.status()),
        // It is that of the connection which expected this one (`nft_ct_get_eval`).
        6 => Loaded::unknown("ct helper", 16).breaking(packet.tracking.among(Tracking::RELATED.0).invert(true)),
        3 => Loaded::new("ct mark", packet.ct_mark.clone()),
        // NFT_CT_SRC, SRC_IP, SRC_IP6
        8 | 19 | 20 | 21 | 22 => {
            let source = matches!(key, 8 | 19 | 21);
            let len = match key {
                19 | 20 => 4,
                21 | 22 => 16,
                _ => address_len,
            };
            let (label, address) = match (source, original) {
                (true, true) => ("ct original saddr", client()),
                (false, true) => ("ct original daddr", packet.original.0.clone()),
                (true, false) => ("ct reply saddr", packet.answered_by().0),
                (false, false) => ("ct reply daddr", client()),
            };
            let translated = source == original && source_changed;
            Loaded::new(label, if translated || len != address_len { Bits::unknown(len) } else { address })
        }
        17 => Loaded::new("ct zone", packet.zone.bits(direction)),
        7 => Loaded::new("ct l3proto", Bits::exactly(&[if packet.v6 { 10 } else { 2 }])),
        10 => Loaded::new("ct protocol", Bits::exactly(&[packet.protocol])),
        12 if original => Loaded::new("ct original proto-dst", packet.original.1.clone()),
        11 if !original => Loaded::new("ct reply proto-src", packet.answered_by().1),
        11 | 12 if !source_changed => {
            Loaded::new("the client's port", if packet.reply { packet.destination_port() } else { packet.source_port() })
        }
        11 | 12 => Loaded::unknown("ct proto", 2),
        _ => Loaded::unknown("a ct key", 16).breaking(Tri::Maybe),
    };
    // Of a template not every kernel loads anything but the state.
    if template != Tri::No {
        return Loaded { bits: Bits::unknown(loaded.bits.len()), ..loaded }.breaking(Tri::Maybe);
    }
    // `ct helper` and others can be missing of an entry that exists.
    if loaded.breaks == Tri::No || breaks == Tri::Yes { loaded.breaking(breaks) } else { loaded }
}

/// `exthdr` (`nft_exthdr.c`): the packet is TCP without extension headers and IP options, as almost every packet is; what options of TCP
/// a SYN has, its sender decides. What is missing ends the rule, unless it is asked whether it is there.
pub fn extension_header(kind: ExtensionKind, present: bool) -> Loaded {
    match kind {
        ExtensionKind::TcpOption => {
            Loaded::unknown("a TCP option", if present { 1 } else { 16 }).breaking(if present { Tri::No } else { Tri::Maybe })
        }
        ExtensionKind::Ipv6 | ExtensionKind::Ipv4Option | ExtensionKind::OtherTransport => {
            Loaded::new("an extension header", Bits::exactly(&[0])).breaking(Tri::from(!present))
        }
    }
}

/// `fib`: results are 1 oif, 2 oifname, 3 address type; flags `NFTA_FIB_F_*`: 1 saddr, 2 daddr, 4 mark, 8 iif, 16 oif, 32 present.
pub fn fib(packet: &Packet, result: u32, flags: u32) -> Loaded {
    let (label, len) = match result {
        1 => ("fib oif", if flags & 32 == 0 { 4 } else { 1 }),
        2 => ("fib oifname", if flags & 32 == 0 { 16 } else { 1 }),
        3 => ("fib type", 4),
        _ => ("fib", 16),
    };
    match result {
        1 | 2 => fib_device(packet, label, len, result, flags),
        3 => fib_type(packet, label, flags),
        _ => Loaded::unknown(label, len),
    }
}

/// The interface a packet to this packet's source would leave by (`nft_fib4_eval`, `nft_fib6_eval`): that is how this one came in, by
/// what is taken for granted, and so `fib saddr . iif oif` finds it too.
fn fib_device(packet: &Packet, label: &'static str, len: usize, result: u32, flags: u32) -> Loaded {
    let Interface::Known(link) = &packet.input else { return Loaded::unknown(label, len) };
    // With the mark, another routing table may be asked than the one that said where it came in.
    let marked = flags & 4 != 0 && packet.mark.equals(&[0; 4]) != Tri::Yes;
    if flags & 3 != 1 || packet.reply || flags & 16 != 0 || marked {
        return Loaded::unknown(label, len);
    }
    let present = flags & 32 != 0;
    Loaded::new(
        label,
        match result {
            _ if present => Bits::exactly(&[1]),
            1 => Bits::exactly(&link.index.to_ne_bytes()),
            _ => Bits::exactly(&name(link.name.as_bytes())),
        },
    )
}

/// `RTN_LOCAL` 2 for this host's own addresses, limited to one interface (flags 8, 16) only for its own; what else an address may be
/// is known for IPv4 only, where the local table alone is asked (`nft_fib4_eval_type`, `nft_fib6_eval_type`).
fn fib_type(packet: &Packet, label: &'static str, flags: u32) -> Loaded {
    const LOCAL: [u8; 4] = 2_u32.to_ne_bytes();
    let unknown = || Loaded::unknown(label, 4);
    let (address, local) = match flags & 3 {
        1 => (packet.source(), if packet.reply { Tri::Yes } else { Tri::Maybe }),
        2 => (packet.destination(), packet.local),
        _ => return unknown(),
    };
    let address = address.address();
    let links = packet.links.as_ref();
    let device = match (flags & 8 != 0, flags & 16 != 0) {
        (false, false) => None,
        (true, _) => Some(&packet.input),
        (false, true) => Some(&packet.output),
    };
    let on = match device {
        Some(Interface::Known(link)) => Some(link.as_ref()),
        Some(Interface::None | Interface::NotLoopback) => return unknown(),
        None => None,
    };
    match (address, links) {
        (Some(IpAddr::V4(address)), Some(links)) => {
            Loaded::new(label, Bits::exactly(&u32::from(links.kind(address, on)).to_ne_bytes()))
        }
        (Some(address), Some(links)) => match Tri::from(on.map_or_else(|| links.own(address), |on| links.own_on(on, address))) {
            Tri::Yes => Loaded::new(label, Bits::exactly(&LOCAL)),
            Tri::No | Tri::Maybe => Loaded { excluded: Some(LOCAL.to_vec()), ..unknown() },
        },
        _ if on.is_some() => unknown(),
        _ => match local {
            Tri::Yes => Loaded::new(label, Bits::exactly(&LOCAL)),
            Tri::No => Loaded { excluded: Some(LOCAL.to_vec()), ..unknown() },
            Tri::Maybe => unknown(),
        },
    }
}
