//! What `payload`, `meta`, `ct` and `fib` load for a packet, three-valued. Follows `nft_payload.c`, `nft_meta.c`, `nft_ct.c` and
//! `nft_fib*.c` of Linux 6.x. Compares nothing.

use super::expression::PayloadBase;
use crate::packet::{Bits, Interface, Packet, Tracking, Tri};

/// What an expression loads.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The value.
    pub bits: Bits,
    /// The field as nft names it.
    pub label: &'static str,
    /// A value it is known not to have.
    pub excluded: Option<Vec<u8>>,
    /// Whether the load itself ends the rule.
    pub breaks: Tri,
}

impl Loaded {
    fn new(label: &'static str, bits: Bits) -> Self {
        Self { bits, label, excluded: None, breaks: Tri::No }
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
    let (header, label) = match base {
        PayloadBase::Network => (&packet.network, network_label(packet.v6, offset)),
        PayloadBase::Transport => (&packet.transport, transport_label(offset)),
        // Devices without link layer headers end the rule; a SYN carries no inner packet.
        PayloadBase::LinkLayer => return Loaded::unknown("the link layer header", len).breaking(Tri::Maybe),
        PayloadBase::Inner => return Loaded::unknown("the inner header", len).breaking(Tri::Maybe),
        PayloadBase::Tunnel => return Loaded::unknown("the tunnel header", len).breaking(Tri::Maybe),
    };
    let fits = offset.checked_add(len).is_some_and(|end| end <= header.len());
    Loaded::new(label, header.part(offset, len)).breaking(if fits { Tri::No } else { Tri::Maybe })
}

fn network_label(v6: bool, offset: usize) -> &'static str {
    match (v6, offset) {
        (false, 12..=15) => "ip saddr",
        (false, 16..=19) => "ip daddr",
        (false, _) => "a field of the IP header",
        (true, 8..=23) => "ip6 saddr",
        (true, 24..=39) => "ip6 daddr",
        (true, _) => "a field of the IPv6 header",
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

fn interface_name(label: &'static str, interface: Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::new(label, Bits::exactly(&[0; 16])),
        Interface::Loopback => Loaded::new(label, Bits::exactly(&name(b"lo"))),
        Interface::NotLoopback => Loaded { excluded: Some(name(b"lo")), ..Loaded::unknown(label, 16) },
    }
}

fn interface_index(label: &'static str, interface: Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::new(label, Bits::exactly(&[0; 4])),
        Interface::Loopback => Loaded::new(label, Bits::exactly(&1_u32.to_ne_bytes())),
        Interface::NotLoopback => Loaded { excluded: Some(1_u32.to_ne_bytes().to_vec()), ..Loaded::unknown(label, 4) },
    }
}

/// `ARPHRD_LOOPBACK` 772; without a device the rule ends.
fn interface_type(label: &'static str, interface: Interface) -> Loaded {
    match interface {
        Interface::None => Loaded::unknown(label, 2).breaking(Tri::Yes),
        Interface::Loopback => Loaded::new(label, Bits::exactly(&772_u16.to_ne_bytes())),
        Interface::NotLoopback => Loaded { excluded: Some(772_u16.to_ne_bytes().to_vec()), ..Loaded::unknown(label, 2) },
    }
}

fn of_device(label: &'static str, interface: Interface, len: usize) -> Loaded {
    Loaded::unknown(label, len).breaking(Tri::from(interface == Interface::None))
}

/// `meta`, by `enum nft_meta_keys`.
pub fn meta(packet: &Packet, key: u32) -> Loaded {
    match key {
        0 => Loaded::unknown("meta length", 4),
        1 => {
            let ethertype: u16 = if packet.v6 { 0x86dd } else { 0x0800 };
            Loaded::new("meta protocol", Bits::exactly(&ethertype.to_be_bytes()))
        }
        2 => Loaded::unknown("meta priority", 4),
        3 => Loaded::new("meta mark", packet.mark.clone()),
        4 => interface_index("iif", packet.input),
        5 => interface_index("oif", packet.output),
        6 => interface_name("iifname", packet.input),
        7 => interface_name("oifname", packet.output),
        8 => interface_type("iiftype", packet.input),
        9 => interface_type("oiftype", packet.output),
        // A SYN has no socket yet; its answer has that of the listener.
        10 => Loaded::unknown("meta skuid", 4).breaking(if packet.reply { Tri::Maybe } else { Tri::Yes }),
        11 => Loaded::unknown("meta skgid", 4).breaking(if packet.reply { Tri::Maybe } else { Tri::Yes }),
        13 => Loaded::unknown("meta rtclassid", 4).breaking(Tri::Maybe),
        14 => Loaded::unknown("meta secmark", 4),
        15 => Loaded::new("meta nfproto", Bits::exactly(&[if packet.v6 { 10 } else { 2 }])),
        16 => Loaded::new("meta l4proto", Bits::exactly(&[6])),
        // PACKET_HOST: it is addressed to this host.
        19 if !packet.reply => Loaded::new("meta pkttype", Bits::exactly(&[0])),
        19 => Loaded::unknown("meta pkttype", 1),
        20 => Loaded::unknown("meta cpu", 4),
        21 => of_device("iifgroup", packet.input, 4),
        22 => of_device("oifgroup", packet.output, 4),
        23 => Loaded::unknown("meta cgroup", 4).breaking(Tri::Maybe),
        24 => Loaded::unknown("meta random", 4),
        25 => Loaded::unknown("meta ipsec", 1),
        26 => of_device("meta iifkind", packet.input, 16),
        27 => of_device("meta oifkind", packet.output, 16),
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
        let possible = packet.tracking.0;
        let value = u32::from(possible);
        let known = if possible.is_power_of_two() { u32::MAX } else { !value };
        return Loaded::new("ct state", Bits::masked(&value.to_ne_bytes(), &known.to_ne_bytes()));
    }
    let breaks = packet.tracking.entry().invert(true);
    let original = direction.unwrap_or(0) == 0;
    let address_len = if packet.v6 { 16 } else { 4 };
    let client = || if packet.reply { packet.destination() } else { packet.source() };
    let loaded = match key {
        1 => Loaded::new("ct direction", Bits::exactly(&[u8::from(packet.reply)])),
        2 => Loaded::new("ct status", status(packet)),
        3 => Loaded::new("ct mark", packet.ct_mark.clone()),
        // NFT_CT_SRC, SRC_IP, SRC_IP6
        8 | 19 | 20 | 21 | 22 => {
            let source = matches!(key, 8 | 19 | 21);
            let len = match key {
                19 | 20 => 4,
                21 | 22 => 16,
                _ => address_len,
            };
            let known = source && original && packet.snat == Tri::No && len == address_len;
            let label = if source { "ct original saddr" } else { "ct original daddr" };
            Loaded::new(label, if known { client() } else { Bits::unknown(len) })
        }
        7 => Loaded::new("ct l3proto", Bits::exactly(&[if packet.v6 { 10 } else { 2 }])),
        10 => Loaded::new("ct protocol", Bits::exactly(&[6])),
        12 if original => Loaded::new("ct original proto-dst", packet.original_port.clone()),
        11 | 12 => Loaded::unknown("ct proto", 2),
        _ => Loaded::unknown("a ct key", 16).breaking(Tri::Maybe),
    };
    // `ct helper` and others can be missing of an entry that exists.
    if loaded.breaks == Tri::No || breaks == Tri::Yes { loaded.breaking(breaks) } else { loaded }
}

/// `enum ip_conntrack_status`: seen-reply 2, snat 16 and dnat 32 follow from the packet.
fn status(packet: &Packet) -> Bits {
    let (mut value, mut known) = (0_u32, 0);
    for (bit, tri) in [(16, packet.snat), (32, packet.dnat), (1 << 13, Tri::No)] {
        if tri != Tri::Maybe {
            known |= bit;
        }
        if tri == Tri::Yes {
            value |= bit;
        }
    }
    if packet.tracking == Tracking::NEW {
        known |= 2;
    }
    Bits::masked(&value.to_ne_bytes(), &known.to_ne_bytes())
}

/// `fib`: results are 1 oif, 2 oifname, 3 address type; flags 1 saddr, 2 daddr. Only the type of this host's own address is
/// known: `RTN_LOCAL` 2. A lookup limited to one interface (flags 8, 16) can differ.
pub fn fib(packet: &Packet, result: u32, flags: u32) -> Loaded {
    let (label, len) = match result {
        1 => ("fib oif", 4),
        2 => ("fib oifname", 16),
        3 => ("fib type", 4),
        _ => ("fib", 16),
    };
    let local = match flags & !4 {
        2 => packet.local,
        1 if packet.reply => Tri::Yes,
        _ => Tri::Maybe,
    };
    let mut loaded = Loaded::unknown(label, len);
    if result == 3 {
        match local {
            Tri::Yes => loaded.bits = Bits::exactly(&2_u32.to_ne_bytes()),
            Tri::No => loaded.excluded = Some(2_u32.to_ne_bytes().to_vec()),
            Tri::Maybe => {}
        }
    }
    loaded
}
