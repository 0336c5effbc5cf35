//! The packet as xtables looks at it, and what it takes over from there: numbers where `nf_tables` has bytes. Plain data; both evaluators
//! (`nf_tables` for iptables-nft rules, xtables' own for iptables-legacy) ask it.

use super::{Bits, Interface, Octet, Packet, Span, Tracked, Tracking, Tri, Zone};

/// A TCP packet of the connection asked about, at one hook. IPv4 addresses are the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// Whether it is IPv6.
    pub v6: bool,
    /// Source address.
    pub source: Span,
    /// Destination address.
    pub destination: Span,
    /// Whether the destination is an address of this host; `None` where that is not known.
    pub destination_local: Option<bool>,
    /// Source port.
    pub source_port: Span,
    /// Destination port.
    pub destination_port: Span,
    /// TCP flags as in byte 13 of the header: 0x02 for a SYN, 0x12 for its answer.
    pub tcp_flags: u8,
    /// Interface it came in by.
    pub input: &'a Interface,
    /// Interface it leaves by.
    pub output: &'a Interface,
    /// Its connection tracking state.
    pub tracking: Tracking,
    /// The zone it is tracked in.
    pub zone: Zone,
    /// Whether it travels in the reply direction of its connection.
    pub reply: bool,
    /// Packet mark, where known.
    pub mark: Option<u32>,
    /// Connection mark, where known.
    pub connmark: Option<u32>,
    /// Whether its destination was translated; `None` where that is not known.
    pub dnat: Option<bool>,
    /// Bytes of the IP packet.
    pub length: Span,
    /// Type of service or traffic class.
    pub tos: Octet,
    /// Time to live or hop limit.
    pub hop_limit: Octet,
    /// The packet as it came to the table.
    pub packet: &'a Packet,
}

impl View<'_> {
    /// What connection tracking knows of it.
    pub fn tracked(&self) -> Tracked {
        Tracked { state: self.tracking, zone: self.zone, seen: self.packet.seen }
    }

    /// Takes over what a rule told connection tracking.
    pub fn track(&mut self, tracked: Tracked) {
        (self.tracking, self.zone) = (tracked.state, tracked.zone);
    }

    /// An address of the packet's family, from its number.
    pub fn address(&self, number: u128) -> Bits {
        let bytes = number.to_be_bytes();
        Bits::exactly(if self.v6 { &bytes } else { bytes.get(12..).unwrap_or_default() })
    }
}

impl Packet {
    /// The packet as xtables matches and targets look at it.
    pub fn view(&self) -> View<'_> {
        let number = |bits: &Bits| bits.exact().and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        View {
            v6: self.v6,
            source: span(&self.source()),
            destination: span(&self.destination()),
            destination_local: self.local.known(),
            source_port: span(&self.source_port()),
            destination_port: span(&self.destination_port()),
            tcp_flags: self.transport.value().get(13).copied().unwrap_or(0),
            input: &self.input,
            output: &self.output,
            tracking: self.tracking,
            zone: self.zone,
            reply: self.reply,
            mark: number(&self.mark),
            connmark: number(&self.ct_mark),
            dnat: self.dnat.known(),
            length: Span { low: 40, high: 0xffff },
            tos: Octet::of(&self.tos()),
            hop_limit: Octet::of(&self.hop_limit()),
            packet: self,
        }
    }

    /// Takes over what an xtables table changed of the packet it looked at.
    pub fn take(&mut self, view: &View<'_>) {
        let original = self.clone();
        let before = original.view();
        let tri = |known: Option<bool>| known.map_or(Tri::Maybe, Tri::from);
        let mark = |known: Option<u32>| known.map_or_else(|| Bits::unknown(4), |mark| Bits::exactly(&mark.to_ne_bytes()));
        if view.mark != before.mark {
            self.mark = mark(view.mark);
        }
        if view.connmark != before.connmark {
            self.ct_mark = mark(view.connmark);
        }
        if view.tos != before.tos {
            self.set_tos(&view.tos.bits());
        }
        if view.hop_limit != before.hop_limit {
            self.set_hop_limit(&view.hop_limit.bits());
        }
        self.tracking = view.tracking;
        self.zone = view.zone;
        if view.dnat != before.dnat {
            self.destined = tri(view.dnat);
        }
        self.dnat = tri(view.dnat);
        self.local = tri(view.destination_local);
        // REDIRECT leaves the address open, DNAT to one of this host's own names it.
        let changed = view.destination != before.destination;
        let redirected = changed && view.destination_local == Some(true) && view.destination.low != view.destination.high;
        if view.source != before.source {
            self.snat = Tri::Maybe;
            self.set_source(&number(view.source, before.v6));
        }
        if changed {
            self.set_destination(&number(view.destination, before.v6));
        }
        if redirected {
            // By a rule that only may match, it may as well still go where it was going.
            let certain = view.dnat == Some(true) && before.dnat != Some(true);
            let to = original.redirected();
            self.set_destination(&if certain { to } else { to.join(&original.destination()) });
        } else if self.local == Tri::Maybe {
            self.local = self.own_destination();
        }
        let translated = self.dnat == Tri::Yes && before.dnat != Some(true);
        if view.source_port != before.source_port {
            self.transport.set_part(0, &port(view.source_port));
        }
        if view.destination_port != before.destination_port {
            self.set_destination_port(&port(view.destination_port));
        }
        if translated {
            self.destine(&(original.destination(), original.destination_port()));
        }
    }
}

/// The lowest and the highest possible number.
pub(crate) fn span(bits: &Bits) -> Span {
    let number = |bytes: Vec<u8>| bytes.into_iter().fold(0_u128, |number, byte| number << 8 | u128::from(byte));
    let (low, high) = bits.ends();
    Span { low: number(low), high: number(high) }
}

/// An address, where exactly one is possible.
fn number(span: Span, v6: bool) -> Bits {
    let bytes = span.low.to_be_bytes();
    let len = if v6 { 16 } else { 4 };
    if span.low == span.high { Bits::exactly(bytes.get(16 - len..).unwrap_or_default()) } else { Bits::unknown(len) }
}

/// A port, where exactly one is possible.
fn port(span: Span) -> Bits {
    match u16::try_from(span.low) {
        Ok(port) if span.low == span.high => Bits::exactly(&port.to_be_bytes()),
        _ => Bits::unknown(2),
    }
}
