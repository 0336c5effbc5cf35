//! A packet of the connection asked about, as far as it is known: the SYN, its answer, or the ACK that completes the handshake.
//! Header bytes carry a mask of the bits that are known, so that one packet can stand for every address of a range.
//!
//! What is taken for granted: an ordinary SYN, unfragmented, without IP options, extension headers or ECN bits, from another
//! host (a loopback source comes in by `lo`), from a port of 32768 or above, of a connection that conntrack does not know yet, with packet and connection
//! mark 0 (only tc and XDP programs could set one before netfilter does). Everything else about it is unknown; where it comes in
//! and to which of the host's addresses is for the caller to try (`Packet::arriving`).

mod bits;
mod discovery;
mod doubt;
mod effort;
mod span;
mod tracking;
mod tri;
mod view;

use std::net::IpAddr;
use std::sync::Arc;

use crate::address::Source;
use crate::link::{Link, Links};
use crate::verdict::Connection;

pub use bits::Bits;
pub use doubt::{Doubt, On};
pub use effort::{Effort, MAX_RULES};
pub use span::{Octet, Span};
pub use tracking::{Rewritten, Tracked, Tracking, Zone};
pub use tri::Tri;
pub use view::View;
pub(crate) use view::span;

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// There is none at this hook; xtables compares with an empty name (`ip_tables.c`, `nulldevname`).
    None,
    /// This one.
    Known(Arc<Link>),
    /// Some interface that is not `lo`.
    NotLoopback,
}

impl Interface {
    /// Whether it is `lo`.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Interface::Known(link) if link.is_loopback())
    }
}

/// One packet of the connection at one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Whether it is IPv6.
    pub v6: bool,
    /// `IPPROTO_TCP` 6, or 58 for neighbour discovery.
    pub protocol: u8,
    /// Whether it is the answer (SYN, ACK), on its way out.
    pub reply: bool,
    /// The IPv4 or IPv6 header.
    pub network: Bits,
    /// The TCP header, 20 bytes.
    pub transport: Bits,
    /// Where it came in.
    pub input: Interface,
    /// Where it leaves.
    pub output: Interface,
    /// Whether its ends were written over by hand, its own or those of the packet it answers.
    pub rewritten: Rewritten,
    /// To whom the link layer said it goes (`skb->pkt_type`), 1 byte: `PACKET_HOST` 0 unless a rule says otherwise.
    pub kind: Bits,
    /// The packet mark, 4 bytes in the machine's order.
    pub mark: Bits,
    /// The connection mark, 4 bytes in the machine's order.
    pub ct_mark: Bits,
    /// Its connection tracking state.
    pub tracking: Tracking,
    /// The zone it is tracked in.
    pub zone: Zone,
    /// Whether connection tracking has looked at it.
    pub seen: bool,
    /// Whether its destination is an address of this host.
    pub local: Tri,
    /// Whether its destination was translated, to another one than it had.
    pub dnat: Tri,
    /// Whether a nat chain has decided where it goes, be it where it went anyway.
    pub destined: Tri,
    /// Whether its source was translated.
    pub snat: Tri,
    /// The address and port the client connects to, as conntrack keeps them.
    pub original: (Bits, Bits),
    /// The address and port that answers come from, where this packet does not show them: those of the SYN as it was delivered.
    pub answers_from: Option<(Bits, Bits)>,
    /// The host's interfaces and own addresses, where they were read.
    pub links: Option<Arc<Links>>,
}

/// Where the fields of the IPv4 and IPv6 header stand: offset and length.
const V4_SOURCE: (usize, usize) = (12, 4);
const V4_DESTINATION: (usize, usize) = (16, 4);
const V6_SOURCE: (usize, usize) = (8, 16);
const V6_DESTINATION: (usize, usize) = (24, 16);

impl Packet {
    /// The SYN of a new connection as it comes in.
    pub fn syn(connection: &Connection) -> Self {
        let v6 = !connection.source.is_ipv4();
        let loopback = connection.source.first().is_loopback() && connection.source.last().is_loopback();
        let port = Bits::exactly(&connection.port.to_be_bytes());
        let mut packet = Self {
            v6,
            protocol: 6,
            reply: false,
            network: network(v6),
            transport: transport(0x02),
            input: if loopback { Interface::Known(Arc::new(Link::loopback())) } else { Interface::NotLoopback },
            output: Interface::None,
            rewritten: Rewritten::No,
            kind: Bits::exactly(&[0]),
            mark: Bits::exactly(&[0; 4]),
            ct_mark: Bits::exactly(&[0; 4]),
            tracking: Tracking::INVALID,
            zone: Zone::Default,
            seen: false,
            // It would not reach the SSH port otherwise.
            local: Tri::Yes,
            dnat: Tri::No,
            destined: Tri::No,
            snat: Tri::No,
            original: (Bits::unknown(if v6 { 16 } else { 4 }), port.clone()),
            answers_from: None,
            links: None,
        };
        packet.set_source(&Bits::of(connection.source));
        // The ports that every client's system picks from are 32768 and above.
        packet.transport.set_part(0, &Bits::masked(&[0x80, 0], &[0x80, 0]));
        packet.transport.set_part(2, &port);
        packet
    }

    /// The same packet, as it comes in by this interface to this address of the host.
    #[must_use]
    pub fn arriving(mut self, link: Option<&Arc<Link>>, to: Option<IpAddr>, links: Option<&Arc<Links>>) -> Self {
        if let Some(link) = link {
            self.input = Interface::Known(link.clone());
        }
        if let Some(to) = to {
            self.set_destination(&Bits::of(Source::from(to)));
            self.original.0 = self.destination();
        }
        self.links = links.cloned();
        self
    }

    /// The answer of this host to a SYN that arrived as this one did.
    #[must_use]
    pub fn answer(&self) -> Self {
        let mut answer = Self {
            network: network(self.v6),
            transport: transport(0x12),
            reply: true,
            local: Tri::from(self.input.is_loopback()),
            input: Interface::None,
            output: self.input.clone(),
            kind: Bits::exactly(&[0]),
            // The answer takes the mark of the SYN only if net.ipv4.tcp_fwmark_accept says so.
            mark: self.mark.join(&Bits::exactly(&[0; 4])),
            tracking: Tracking::INVALID,
            zone: Zone::Default,
            seen: false,
            answers_from: Some((self.destination(), self.destination_port())),
            ..self.clone()
        };
        answer.set_source(&self.destination());
        answer.set_destination(&self.source());
        answer.transport.set_part(0, &self.transport.part(2, 2));
        answer.transport.set_part(2, &self.transport.part(0, 2));
        answer
    }

    /// The ACK that completes the handshake, as it comes in like this SYN did; `handled` is the SYN as it was delivered, `answer` the
    /// answer as it left, which may have changed the connection's mark once more.
    #[must_use]
    pub fn follower(&self, handled: &Packet, answer: &Packet) -> Self {
        let mut follower = self.clone();
        follower.transport.set_part(13, &Bits::exactly(&[0x10]));
        follower.ct_mark = answer.ct_mark.clone();
        follower.rewritten = answer.rewritten;
        follower.answers_from = Some((handled.destination(), handled.destination_port()));
        follower
    }

    fn fields(&self) -> ((usize, usize), (usize, usize)) {
        if self.v6 { (V6_SOURCE, V6_DESTINATION) } else { (V4_SOURCE, V4_DESTINATION) }
    }

    /// The source address: 4 or 16 bytes.
    pub fn source(&self) -> Bits {
        let (offset, len) = self.fields().0;
        self.network.part(offset, len)
    }

    /// The destination address: 4 or 16 bytes.
    pub fn destination(&self) -> Bits {
        let (offset, len) = self.fields().1;
        self.network.part(offset, len)
    }

    /// Writes the source address.
    pub fn set_source(&mut self, address: &Bits) {
        let (offset, _) = self.fields().0;
        self.network.set_part(offset, address);
    }

    /// Writes the destination address.
    pub fn set_destination(&mut self, address: &Bits) {
        let (offset, _) = self.fields().1;
        self.network.set_part(offset, address);
    }

    /// What connection tracking knows of it.
    pub fn tracked(&self) -> Tracked {
        Tracked { state: self.tracking, zone: self.zone, seen: self.seen }
    }

    /// Takes over what a rule told connection tracking.
    pub fn track(&mut self, tracked: Tracked) {
        (self.tracking, self.zone) = (tracked.state, tracked.zone);
    }

    /// Marks the connection, where the packet has one: without an entry this does nothing (`nft_ct_set_eval`, `connmark_tg_shift`).
    pub fn mark_connection(&mut self, mark: &Bits) {
        self.ct_mark = match self.tracking.entry() {
            Tri::Yes => mark.clone(),
            Tri::No => return,
            Tri::Maybe => self.ct_mark.join(mark),
        };
    }

    /// Says that a nat chain sent it here, from where it was going before. The same place is no translation (`nf_nat_setup_info`).
    pub fn destine(&mut self, before: &(Bits, Bits)) {
        let same = |old: &Bits, new: &Bits| match (old.exact(), new.exact()) {
            (Some(old), Some(new)) => Tri::from(old == new),
            _ => old.within(&new.ends().0, &new.ends().1).and(Tri::Maybe),
        };
        self.destined = Tri::Yes;
        self.dnat = same(&before.0, &self.destination()).and(same(&before.1, &self.destination_port())).invert(true);
    }

    /// Whether the destination is one of this host's own addresses that a packet which comes in like this one reaches.
    pub fn own_destination(&self) -> Tri {
        self.reaches(&self.destination())
    }

    /// The same of another address. Packets from outside are not sent on to `::1`, nor to 127.0.0.0/8 unless the interface allows it
    /// (`ip_route_input_slow`, `ip6_rcv_core`).
    pub fn reaches(&self, address: &Bits) -> Tri {
        let loopback: &[u8] = &std::net::Ipv6Addr::LOCALHOST.octets();
        let loopback = if self.v6 { address.equals(loopback) } else { address.part(0, 1).equals(&[127]) };
        match (loopback, &self.links, address.address()) {
            (Tri::Yes, ..) if self.input.is_loopback() => Tri::Yes,
            (Tri::Yes, ..) if self.v6 => Tri::No,
            (Tri::Yes, ..) => match &self.input {
                Interface::Known(link) => Tri::from(link.route_localnet),
                Interface::None | Interface::NotLoopback => Tri::Maybe,
            },
            (_, Some(links), Some(address)) => Tri::from(links.own(address)),
            _ => Tri::Maybe,
        }
    }

    /// Where a packet goes whose destination was translated to one that it does not reach here.
    pub fn elsewhere(&self) -> &'static str {
        match self.destination().address() {
            Some(address) if address.is_loopback() => "sent to a loopback address, which packets from outside do not reach",
            Some(_) | None => "sent to another host",
        }
    }

    /// Source address and port, destination address and port.
    pub fn ends(&self) -> [Bits; 4] {
        [self.source(), self.source_port(), self.destination(), self.destination_port()]
    }

    /// Writes bytes of the network header, or of the transport header, as `payload ... set` does.
    pub fn write(&mut self, transport: bool, offset: usize, data: &Bits) {
        let before = self.clone();
        let header = if transport { &mut self.transport } else { &mut self.network };
        header.set_part(offset, data);
        let is_end = |at: usize| match (transport, self.v6) {
            (true, _) => at < 4,
            (false, true) => at >= 8,
            (false, false) => at >= 12,
        };
        // What the receiver and connection tracking look at besides: version, lengths, fragments, protocol, sequence, flags, checksums.
        // Not: traffic class, flow label, identification, hop limit, window, urgent pointer.
        let identity = |at: usize| match (transport, self.v6, at) {
            (true, _, 4..=13 | 16..=17) | (false, false, 2..=3 | 7 | 9..=11) | (false, true, 4..=6) => 0xff,
            (false, _, 0) => 0xf0,
            (false, false, 6) => 0xbf,
            (..) => 0,
        };
        let (old, new) = if transport { (&before.transport, &self.transport) } else { (&before.network, &self.network) };
        let mut rewritten = Rewritten::No;
        for at in offset..offset.saturating_add(data.len()).min(new.len()) {
            let (mask, end) = (identity(at), is_end(at));
            let byte = |bits: &Bits| (bits.value().get(at).copied().unwrap_or(0), bits.known().get(at).copied().unwrap_or(0));
            let ((old, old_known), (new, new_known)) = (byte(old), byte(new));
            let differs = |mask: u8| old_known & new_known & mask != mask || (old ^ new) & mask != 0;
            // Flags are written together with the header's length beside them, which stays.
            let beside = transport && at == 12 && (old, old_known) == (new, new_known);
            if end && differs(0xff) {
                rewritten = rewritten.then(if new_known == 0xff { Rewritten::Known } else { Rewritten::Unknown });
            } else if !end && !beside && differs(mask) {
                rewritten = Rewritten::Unknown;
            }
        }
        self.rewritten = self.rewritten.then(rewritten);
        if self.destination() != before.destination() {
            self.local = self.own_destination();
            self.original.0 = Bits::unknown(self.original.0.len());
        }
        if self.destination_port() != before.destination_port() {
            self.original.1 = Bits::unknown(2);
        }
    }

    /// The type of service or traffic class: DSCP and ECN.
    pub fn tos(&self) -> Bits {
        if !self.v6 {
            return self.network.part(1, 1);
        }
        let (value, known) = (self.network.value(), self.network.known());
        let class = |bytes: &[u8]| match bytes {
            [first, second, ..] => first << 4 | second >> 4,
            _ => 0,
        };
        Bits::masked(&[class(value)], &[class(known)])
    }

    /// Writes the type of service or traffic class.
    pub fn set_tos(&mut self, tos: &Bits) {
        if !self.v6 {
            return self.network.set_part(1, tos);
        }
        let mut first = self.network.part(0, 2);
        let spread = |old: &[u8], tos: &[u8]| match (old, tos) {
            ([first, second], [tos]) => vec![first & 0xf0 | tos >> 4, second & 0x0f | tos << 4],
            (old, _) => old.to_vec(),
        };
        first = Bits::masked(&spread(first.value(), tos.value()), &spread(first.known(), tos.known()));
        self.network.set_part(0, &first);
    }

    /// The time to live or hop limit.
    pub fn hop_limit(&self) -> Bits {
        self.network.part(if self.v6 { 7 } else { 8 }, 1)
    }

    /// Writes the time to live or hop limit.
    pub fn set_hop_limit(&mut self, hops: &Bits) {
        self.network.set_part(if self.v6 { 7 } else { 8 }, hops);
    }

    /// What answers come from: address and port.
    pub fn answered_by(&self) -> (Bits, Bits) {
        if self.rewritten != Rewritten::No {
            return (Bits::unknown(if self.v6 { 16 } else { 4 }), Bits::unknown(2));
        }
        self.answers_from.clone().unwrap_or_else(|| (self.destination(), self.destination_port()))
    }

    /// The connection's `enum ip_conntrack_status`, as far as it follows from the packet: expected 1, seen-reply 2, assured 4,
    /// confirmed 8, snat 16, dnat 32, dying 512, template 2048. Only after the last rule the first packet confirms its
    /// entry, and only the ACK assures it (`tcp_packet`).
    pub fn status(&self) -> Bits {
        let (mut value, mut known) = (0_u32, 512 | 2048);
        let mut set = |bits: u32, tri: Tri| {
            if tri != Tri::Maybe {
                known |= bits;
            }
            if tri == Tri::Yes {
                value |= bits;
            }
        };
        set(16, self.snat);
        set(32, self.dnat);
        if self.tracking == Tracking::NEW {
            set(1 | 2 | 4 | 8, Tri::No);
        } else if self.tracking == Tracking::ESTABLISHED {
            set(1, Tri::No);
            set(2 | 8, Tri::Yes);
            set(4, Tri::from(!self.reply));
        }
        Bits::masked(&value.to_ne_bytes(), &known.to_ne_bytes())
    }

    /// Where `redirect` sends a packet that comes in: to the first address of its interface (`nf_nat_redirect_ipv4`), of IPv6 to one of
    /// the same scope (`nf_nat_redirect_ipv6`). Unknown where it is not certain which one that is.
    pub fn redirected(&self) -> Bits {
        let unknown = || Bits::unknown(if self.v6 { 16 } else { 4 });
        let of_family = |link: &Link| -> Vec<IpAddr> {
            let near = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            let own = link.addresses.iter().map(ipnet::IpNet::addr);
            own.filter(|own| own.is_ipv6() == self.v6 && !near(own)).collect()
        };
        match (&self.input, self.v6) {
            (Interface::Known(link), v6) => match of_family(link).as_slice() {
                [one] => Bits::of(Source::from(*one)),
                [first, ..] if !v6 => Bits::of(Source::from(*first)),
                _ => unknown(),
            },
            (Interface::None | Interface::NotLoopback, _) => unknown(),
        }
    }

    /// The source port: 2 bytes.
    pub fn source_port(&self) -> Bits {
        self.transport.part(0, 2)
    }

    /// The destination port: 2 bytes.
    pub fn destination_port(&self) -> Bits {
        self.transport.part(2, 2)
    }

    /// Writes the destination port.
    pub fn set_destination_port(&mut self, port: &Bits) {
        self.transport.set_part(2, port);
    }

    /// What is known when the packet is one or the other.
    #[must_use]
    pub fn join(&self, other: &Packet) -> Self {
        let either = |a: Tri, b: Tri| if a == b { a } else { Tri::Maybe };
        Self {
            v6: self.v6,
            protocol: self.protocol,
            reply: self.reply,
            network: self.network.join(&other.network),
            transport: self.transport.join(&other.transport),
            input: self.input.clone(),
            output: self.output.clone(),
            rewritten: match (self.rewritten, other.rewritten) {
                (Rewritten::No, Rewritten::No) => Rewritten::No,
                (Rewritten::Known, Rewritten::Known) if self.ends() == other.ends() => Rewritten::Known,
                _ => Rewritten::Unknown,
            },
            kind: self.kind.join(&other.kind),
            mark: self.mark.join(&other.mark),
            ct_mark: self.ct_mark.join(&other.ct_mark),
            tracking: self.tracking.join(other.tracking),
            zone: self.zone.join(other.zone),
            seen: self.seen,
            local: either(self.local, other.local),
            dnat: either(self.dnat, other.dnat),
            destined: either(self.destined, other.destined),
            snat: either(self.snat, other.snat),
            original: (self.original.0.join(&other.original.0), self.original.1.join(&other.original.1)),
            answers_from: self.answers_from.clone(),
            links: self.links.clone(),
        }
    }

    /// Forgets everything a rule could have changed.
    pub fn forget(&mut self) {
        self.rewritten = Rewritten::Unknown;
        self.kind = Bits::unknown(1);
        self.mark = Bits::unknown(4);
        self.ct_mark = Bits::unknown(4);
        self.tracking = Tracking::ANY;
        self.zone = Zone::Unknown;
        self.local = Tri::Maybe;
        self.dnat = Tri::Maybe;
        self.destined = Tri::Maybe;
        self.snat = Tri::Maybe;
        self.network = Bits::unknown(self.network.len());
        self.transport = Bits::unknown(self.transport.len());
    }
}

/// An IP header of an unfragmented TCP packet without options: version, length, fragment and protocol fields are known.
fn network(v6: bool) -> Bits {
    if v6 {
        let (mut value, mut known) = (vec![0; 40], vec![0; 40]);
        for (at, byte, mask) in [(0, 0x60, 0xf0), (6, 6, 0xff)] {
            set(&mut value, at, byte);
            set(&mut known, at, mask);
        }
        return Bits::masked(&value, &known);
    }
    let (mut value, mut known) = (vec![0; 20], vec![0; 20]);
    for (at, byte, mask) in [(0, 0x45, 0xff), (6, 0, 0xbf), (7, 0, 0xff), (9, 6, 0xff)] {
        set(&mut value, at, byte);
        set(&mut known, at, mask);
    }
    Bits::masked(&value, &known)
}

/// A TCP header with these flags.
fn transport(flags: u8) -> Bits {
    let (mut value, mut known) = (vec![0; 20], vec![0; 20]);
    set(&mut value, 13, flags);
    set(&mut known, 13, 0xff);
    Bits::masked(&value, &known)
}

fn set(bytes: &mut [u8], at: usize, byte: u8) {
    if let Some(place) = bytes.get_mut(at) {
        *place = byte;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    fn syn(source: &str) -> Packet {
        Packet::syn(&Connection { source: source.parse().unwrap(), port: 22, user: None })
    }

    #[test]
    fn a_range_is_its_prefix() {
        let packet = syn("203.0.112.0/23");
        assert_eq!(packet.source().equals(&[203, 0, 113, 7]), Tri::Maybe);
        assert_eq!(packet.source().equals(&[203, 0, 114, 7]), Tri::No);
        assert_eq!(packet.source().within(&[203, 0, 0, 0], &[203, 0, 255, 255]), Tri::Yes);
        assert_eq!(packet.source().within(&[203, 0, 113, 0], &[203, 0, 255, 255]), Tri::Maybe);
        assert_eq!(packet.source().within(&[203, 0, 114, 0], &[203, 0, 255, 255]), Tri::No);
    }

    #[test]
    fn the_answer_goes_back_where_the_syn_came_from() {
        let answer = syn("2001:db8::7").answer();
        assert_eq!(answer.destination().exact().map(<[u8]>::len), Some(16));
        assert_eq!(answer.source_port().equals(&[0, 22]), Tri::Yes);
        assert_eq!(answer.destination_port().equals(&[0, 22]), Tri::No);
        assert_eq!(answer.destination_port().equals(&[0xc0, 22]), Tri::Maybe);
    }

    #[test]
    fn only_a_tracked_packet_marks_the_connection() {
        for (tracking, is_one) in [
            (Tracking::INVALID, Tri::No),
            (Tracking::UNTRACKED, Tri::No),
            (Tracking::NEW, Tri::Yes),
            (Tracking::ESTABLISHED, Tri::Yes),
            (Tracking::ANY, Tri::Maybe),
        ] {
            let mut packet = Packet { tracking, ..syn("203.0.113.7") };
            packet.mark_connection(&Bits::exactly(&1_u32.to_ne_bytes()));
            assert_eq!(packet.ct_mark.equals(&1_u32.to_ne_bytes()), is_one, "{tracking:?}");
        }
    }

    #[test]
    fn the_ack_meets_the_mark_that_the_answer_left() {
        let delivered = Packet { tracking: Tracking::NEW, ..syn("203.0.113.7") };
        let mut answer = Packet { tracking: Tracking::ESTABLISHED, ..delivered.answer() };
        answer.mark_connection(&Bits::exactly(&[1; 4]));
        assert_eq!(syn("203.0.113.7").follower(&delivered, &answer).ct_mark.exact(), Some(&[1; 4][..]));
    }

    #[test]
    fn joined_bits_are_known_only_where_both_agree() {
        let joined = Bits::exactly(&[0b1100]).join(&Bits::exactly(&[0b1010]));
        assert_eq!(joined.known(), [0b1111_1001]);
        assert_eq!(joined.equals(&[0b1110]), Tri::Maybe);
        assert_eq!(joined.equals(&[0b0110]), Tri::No);
    }
}
