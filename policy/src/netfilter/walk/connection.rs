//! What connection tracking and translation make of each packet of the handshake, and whether who gets a packet takes it for one of
//! this connection. Runs no rule.

use super::{ACK, Culprit, Pass, SYN, Walker};
use crate::host::Need;
use crate::packet::Octet;
use crate::packet::{Bits, Doubt, Packet, Rewritten, Tracking, Tri, Zone};

/// Source and destination change places.
pub(super) fn reversed([source, port, destination, other]: [Bits; 4]) -> [Bits; 4] {
    [destination, other, source, port]
}

/// Whether both are the same ends. What is not known is the same where it is known alike: then no rule wrote it.
pub(super) fn same_ends(one: &[Bits; 4], two: &[Bits; 4]) -> Tri {
    let same = |(one, two): (&Bits, &Bits)| match (one.exact(), two.exact()) {
        _ if one == two => Tri::Yes,
        (_, Some(two)) => one.equals(two),
        (Some(one), None) => two.equals(one),
        (None, None) => Tri::Maybe,
    };
    one.iter().zip(two).map(same).fold(Tri::Yes, Tri::and)
}

impl Walker<'_, '_> {
    /// Whether a later packet of a connection whose destination was translated still belongs to it.
    pub(super) fn translated(&mut self, delivered: &Packet, packet: &Packet, why: &str) -> bool {
        let lost = delivered.dnat.and(packet.tracking.entry().invert(true));
        let why = if packet.rewritten == Rewritten::No { why } else { "a rule rewrites what connection tracking translates" };
        self.lose(lost, why)
    }

    /// Whether who gets a packet takes it for what it is: a rule may have changed its flags (`tcp flags set`), or said that it is not for
    /// this host (`meta pkttype set`; `tcp_v4_rcv` takes only `PACKET_HOST`). False when certainly not.
    pub(super) fn taken(&mut self, packet: &Packet, flags: u8) -> bool {
        // FIN 1, RST 4
        let changed = Octet::of(&packet.transport.part(13, 1)).masked(flags, SYN | ACK | 1 | 4).invert(true);
        // What becomes of a handshake of other flags than usual (a simultaneous open, say) is not followed.
        let changed = if self.pass == Pass::Syn { changed } else { changed.and(Tri::Maybe) };
        self.lose(packet.kind.equals(&[0]).invert(true), "a rule says that it is not for this host (meta pkttype)")
            && self.lose(changed, "a rule changes its TCP flags")
    }

    /// Whether a packet whose ends a rule may have written over by hand (`payload ... set`), its own or those of the one before, is of this
    /// connection for who gets it. False when certainly not.
    pub(super) fn known(&mut self, rewritten: Rewritten, same: Tri, by: &str) -> bool {
        let lost = match (rewritten, same) {
            (Rewritten::No, _) | (Rewritten::Known, Tri::Yes) => Tri::No,
            (_, Tri::No) => Tri::Yes,
            (Rewritten::Known, Tri::Maybe) | (Rewritten::Unknown, _) => Tri::Maybe,
        };
        self.lose(lost, &format!("a rule rewrites its addresses or ports, so it is not known to {by}"))
    }

    pub(super) fn lose(&mut self, lost: Tri, why: &str) -> bool {
        if lost != Tri::No {
            self.open = true;
            self.refuse(Culprit::Unread(why.to_owned()), lost == Tri::Yes, Vec::new());
        }
        lost != Tri::Yes
    }

    /// Connection tracking: the first packet makes a new entry; later ones belong to it, where there is one.
    pub(super) fn track(&self, mut packet: Packet) -> Packet {
        packet.seen = true;
        if packet.protocol == 58 {
            // Neighbour discovery is not tracked (`nf_conntrack_icmpv6_error`).
            packet.tracking = Tracking::UNTRACKED;
            return packet;
        }
        let same_zone = self.delivered.as_ref().map_or(Tri::Yes, |first| first.zone.equals(packet.zone));
        let found = match (self.pass, self.entry.and(same_zone).and(self.same_tuple(&packet)), self.answered) {
            (Pass::Syn, ..) => Tracking::NEW,
            (Pass::Answer, Tri::Yes, _) | (Pass::Ack, Tri::Yes, Tri::Yes) => Tracking::ESTABLISHED,
            // So is an ACK to a SYN whose answer was not seen (`tcp_conntracks`).
            (Pass::Answer, Tri::No, _) | (Pass::Ack, Tri::Yes, Tri::No) => Tracking::INVALID,
            (Pass::Ack, Tri::Yes, Tri::Maybe) => Tracking(Tracking::ESTABLISHED.0 | Tracking::INVALID.0),
            // Loose tracking takes it up in the middle of the connection.
            (Pass::Ack, Tri::No, _) => Tracking(Tracking::NEW.0 | Tracking::INVALID.0),
            // Neighbour discovery was told apart above.
            (Pass::Answer | Pass::Ack, Tri::Maybe, _) | (Pass::Discovery(_), ..) => {
                Tracking(Tracking::ESTABLISHED.0 | Tracking::NEW.0 | Tracking::INVALID.0)
            }
        };
        // Packets that were exempted before stay so.
        let exempt = packet.tracking.0 & Tracking::UNTRACKED.0;
        let tracked = if packet.tracking.among(Tracking::UNTRACKED.0) == Tri::Yes { 0 } else { found.0 };
        packet.tracking = Tracking(exempt | tracked);
        if self.pass != Pass::Syn && found.0 & Tracking::NEW.0 != 0 {
            // An entry of its own has no mark yet.
            packet.ct_mark = packet.ct_mark.join(&Bits::exactly(&[0; 4]));
        }
        if let (Pass::Ack, Some(delivered), Tri::Yes) = (self.pass, &self.delivered, packet.tracking.entry()) {
            packet.dnat = delivered.dnat;
        }
        packet
    }

    /// Whether the ACK is dropped because it begins an entry whose answers another one has already (`__nf_conntrack_confirm`): so it is
    /// where the SYN alone was given a zone of one direction, in which the ACK is not found, while both zones of the answers are one. An
    /// ACK begins no entry where `nf_conntrack_tcp_loose` is off.
    pub(super) fn collides(&self, delivered: &Packet, ack: &Packet) -> Tri {
        let exempt = ack.tracking.among(Tracking::UNTRACKED.0) == Tri::Yes;
        let one_way = [delivered.zone, ack.zone].contains(&Zone::Unknown);
        if one_way && !exempt { self.entry.and(Tri::Maybe) } else { Tri::No }
    }

    /// Whether the packet has the ends of the connection's entry, in its direction. Without a rule that writes over them, it has.
    fn same_tuple(&self, packet: &Packet) -> Tri {
        let (Some(tuple), Some(delivered)) = (&self.tuple, &self.delivered) else { return Tri::Yes };
        match (packet.rewritten, self.pass) {
            (Rewritten::No, _) | (_, Pass::Syn | Pass::Discovery(_)) => Tri::Yes,
            (Rewritten::Known, Pass::Ack) => same_ends(&packet.ends(), tuple),
            (Rewritten::Known, Pass::Answer) if (delivered.dnat, delivered.snat) == (Tri::No, Tri::No) => {
                same_ends(&packet.ends(), &reversed(tuple.clone()))
            }
            (Rewritten::Known, Pass::Answer) | (Rewritten::Unknown, _) => Tri::Maybe,
        }
    }

    /// Later packets of the connection go where its first one went, and answers seem to come from where it was sent to.
    pub(super) fn translate(&self, packet: Packet) -> Packet {
        let Some(delivered) = &self.delivered else { return packet };
        let mut translated = packet.clone();
        match self.pass {
            Pass::Syn | Pass::Discovery(_) => return packet,
            Pass::Answer => {
                translated.set_source(&packet.original.0);
                translated.transport.set_part(0, &packet.original.1);
            }
            Pass::Ack => {
                translated.set_destination(&delivered.destination());
                translated.set_destination_port(&delivered.destination_port());
                translated.local = delivered.local;
                translated.dnat = delivered.dnat;
            }
        }
        match delivered.dnat.and(packet.tracking.entry()) {
            Tri::Yes => translated,
            Tri::Maybe => packet.join(&translated),
            Tri::No => packet,
        }
    }

    /// A nat chain sees only the first packet of a tracked connection (`nf_nat_inet_fn`).
    pub(super) fn sees_nat(&self, packet: &Packet) -> Tri {
        if self.pass == Pass::Syn { packet.tracking.entry() } else { packet.tracking.among(Tracking::NEW.0) }
    }

    /// Whether connection tracking has room for the SYN; `None` when it certainly has not (`__nf_conntrack_alloc`).
    pub(super) fn room(&mut self, packet: &Packet) -> Option<()> {
        let exempt = packet.tracking.among(Tracking::UNTRACKED.0);
        let room = self.ipsets.conntrack.as_ref().is_some_and(|fill| fill.as_ref().is_ok_and(|fill| !fill.full()));
        if self.pass != Pass::Syn || exempt == Tri::Yes || room || !self.prepared.tracks(packet.v6) {
            return Some(());
        }
        let fill = match &self.ipsets.conntrack {
            None => {
                self.needs.insert(Need::Conntrack);
                return Some(());
            }
            Some(Err(why)) => {
                let why = format!("whether connection tracking has room could not be read: {why}");
                self.refuse(Culprit::Unread(why), false, Vec::new());
                return Some(());
            }
            Some(Ok(fill)) => fill.clone(),
        };
        let certain = exempt == Tri::No && fill.evictable == Some(false);
        let doubts = if certain { Vec::new() } else { vec![Doubt::rate("whether an entry can be evicted")] };
        self.refuse(Culprit::Full(fill), certain, doubts);
        (!certain).then_some(())
    }
}
