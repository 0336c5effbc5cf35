//! The packets of neighbour discovery (RFC 4861) that go before a packet of a connection, in the place it comes by. Judges nothing.

use std::net::IpAddr;

use super::{Bits, Packet, Tri, V6_DESTINATION};
use crate::address::Source;

impl Packet {
    /// The neighbour solicitation that the next hop towards the client sends before this packet (RFC 4861, 4.3): to the solicited-node
    /// address of the host's own one.
    #[must_use]
    pub fn solicitation(&self, from: Source) -> Self {
        let own = self.destination();
        let mut packet = self.clone().discovery(135, &own);
        packet.set_source(&Bits::of(from));
        packet.local = Tri::Maybe;
        packet.set_destination(&Bits::exactly(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0]));
        packet.network.set_part(V6_DESTINATION.0 + 13, &own.part(13, 3));
        packet
    }

    /// The next hop's answer to this host's own solicitation (RFC 4861, 4.4), from the address that was asked for.
    #[must_use]
    pub fn advertisement(&self, from: IpAddr) -> Self {
        let from = Bits::of(from.into());
        let mut packet = self.clone().discovery(136, &from);
        packet.set_source(&from);
        packet
    }

    /// This host's solicitation for the next hop, to the solicited-node address of it, before the answer to this packet.
    #[must_use]
    pub fn own_solicitation(&self, target: IpAddr, to: Source) -> Self {
        let mut packet = self.answer().discovery(135, &Bits::of(target.into()));
        packet.set_destination(&Bits::of(to));
        packet
    }

    /// This host's answer to the next hop's solicitation.
    #[must_use]
    pub fn own_advertisement(&self, to: Source) -> Self {
        let mut packet = self.answer().discovery(136, &self.destination());
        packet.set_destination(&Bits::of(to));
        packet
    }

    /// `ICMPv6` of this type with hop limit 255, from and to where this packet comes and goes. The target address is 8 bytes into it.
    fn discovery(mut self, kind: u8, target: &Bits) -> Self {
        self.protocol = 58;
        self.mark = Bits::exactly(&[0; 4]);
        self.network.set_part(6, &Bits::exactly(&[58, 255]));
        self.transport = Bits::unknown(32);
        self.transport.set_part(0, &Bits::exactly(&[kind, 0]));
        self.transport.set_part(8, target);
        self
    }
}
