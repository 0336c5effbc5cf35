//! What statements and targets make of the packet: bytes written into it, marks, zones, translated addresses and ports. Does not say
//! whether a rule holds.

use super::super::expression::{NatKind, PayloadBase};
use super::{End, Running};
use crate::packet::Octet;
use crate::packet::{Bits, Packet, Rewritten, Tri};
use crate::subsystem::xtables::extension::targets::{TargetEffect, target};

/// `payload ... set`
pub(super) fn write(packet: &mut Packet, base: PayloadBase, offset: u32, data: &Bits) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    match base {
        PayloadBase::Network => packet.write(false, offset, data),
        PayloadBase::Transport => packet.write(true, offset, data),
        // To whom it goes on its link. What came in, came in.
        PayloadBase::LinkLayer if packet.reply => packet.rewritten = Rewritten::Unknown,
        // The SSH protocol itself: the handshake carries none of it.
        PayloadBase::LinkLayer | PayloadBase::Inner | PayloadBase::Tunnel => {}
    }
}

/// `nft_notrack.c`: a packet that has an entry already keeps it.
pub(super) fn untrack(packet: &mut Packet) {
    packet.track(packet.tracked().exempt());
}

/// Where address translation leads.
pub(super) fn translate(
    at: &Running<'_>,
    kind: NatKind,
    address_register: Option<u32>,
    port_register: Option<u32>,
    ranges: (bool, bool),
) -> End {
    // Which of several it takes is by chance (`nf_nat_l4proto_unique_tuple`), or by a hash (`find_best_ips_proto`).
    let load = |register: u32, len: usize, range: bool| if range { Bits::unknown(len) } else { at.registers.load(register, len) };
    let mut packet = at.packet.clone();
    match kind {
        NatKind::Tproxy => return End::Anything("the program that tproxy hands it to".to_owned()),
        NatKind::Snat | NatKind::Masquerade => translate_source(&mut packet),
        NatKind::Dnat | NatKind::Redirect => {
            let address = match (kind, address_register) {
                (NatKind::Dnat, Some(register)) => Some(load(register, if packet.v6 { 16 } else { 4 }, ranges.0)),
                (NatKind::Redirect, _) => Some(packet.redirected()),
                _ => None,
            };
            let port = port_register.map(|register| load(register, 2, ranges.1));
            translate_destination(&mut packet, address.as_ref(), port.as_ref());
            if kind == NatKind::Redirect {
                packet.local = Tri::Yes;
            }
        }
    }
    End::Accept(Some(Box::new(packet)))
}

fn translate_source(packet: &mut Packet) {
    packet.snat = Tri::Yes;
    let len = packet.source().len();
    packet.set_source(&Bits::unknown(len));
    packet.transport.set_part(0, &Bits::unknown(2));
}

/// A new destination; what is not given stays.
fn translate_destination(packet: &mut Packet, address: Option<&Bits>, port: Option<&Bits>) {
    let before = (packet.destination(), packet.destination_port());
    if let Some(address) = address {
        packet.set_destination(address);
        packet.local = packet.own_destination();
    }
    if let Some(port) = port {
        packet.set_destination_port(port);
    }
    packet.destine(&before);
}

/// What an xtables target does; `None` goes on in the rule.
pub(super) fn target_end(at: &mut Running<'_>, v6: bool, name: &str, revision: u32, info: &[u8]) -> Option<End> {
    let number = |bytes: &Bits| bytes.exact().and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let marked = |old: &Bits, mask: u32, value: u32| {
        number(old).map_or_else(|| Bits::unknown(4), |old| Bits::exactly(&((old & !mask) ^ value).to_ne_bytes()))
    };
    match target(v6, name, revision, info) {
        TargetEffect::Accept => return Some(End::Accept(None)),
        TargetEffect::Drop => return Some(End::Refuse("dropped".to_owned())),
        TargetEffect::Reject(with) => return Some(End::Refuse(format!("rejected with {with}"))),
        TargetEffect::Return => return Some(End::Return),
        TargetEffect::Continue => {}
        TargetEffect::Mark { mask, value } => at.change(|packet| packet.mark = marked(&packet.mark, mask, value)),
        TargetEffect::MarkUnknown => at.change(|packet| packet.mark = Bits::unknown(4)),
        TargetEffect::Connmark { mask, value } => {
            at.change(|packet| packet.mark_connection(&marked(&packet.ct_mark, mask, value)));
        }
        TargetEffect::ConnmarkUnknown => at.change(|packet| packet.mark_connection(&Bits::unknown(4))),
        TargetEffect::Tos { mask, value } => {
            at.change(|packet| packet.set_tos(&Octet::of(&packet.tos()).changed(mask, value).bits()));
        }
        TargetEffect::HopLimit(change) => {
            at.change(|packet| packet.set_hop_limit(&change.of(Octet::of(&packet.hop_limit())).bits()));
        }
        TargetEffect::Notrack => at.change(untrack),
        TargetEffect::Zone(zone) => at.change(|packet| packet.track(packet.tracked().zoned(zone, false))),
        TargetEffect::Destination { address, port, local } => {
            let mut packet = at.packet.clone();
            let redirected = local.then(|| packet.redirected());
            let address = address.map(|(low, high)| address_bits(packet.v6, low, high)).or(redirected);
            let port = port.map(|(low, high)| if low == high { Bits::exactly(&low.to_be_bytes()) } else { Bits::unknown(2) });
            translate_destination(&mut packet, address.as_ref(), port.as_ref());
            if local {
                packet.local = Tri::Yes;
            }
            return Some(End::Accept(Some(Box::new(packet))));
        }
        TargetEffect::SourceNat => {
            let mut packet = at.packet.clone();
            translate_source(&mut packet);
            return Some(End::Accept(Some(Box::new(packet))));
        }
        TargetEffect::Unknown(text) => return Some(End::Anything(text)),
    }
    None
}

fn address_bits(v6: bool, low: u128, high: u128) -> Bits {
    if low != high {
        return Bits::unknown(if v6 { 16 } else { 4 });
    }
    let bytes = low.to_be_bytes();
    Bits::exactly(if v6 { &bytes } else { bytes.get(12..).unwrap_or(&[0; 4]) })
}
