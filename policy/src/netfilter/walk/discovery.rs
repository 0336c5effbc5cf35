//! Neighbour discovery (RFC 4861): whether the next hop towards an IPv6 client, the client itself or a gateway, can learn this host's
//! link address, and this host that of the next hop. Asks for the kernel's neighbour entry only where a message is certainly lost.

use std::net::{IpAddr, Ipv6Addr};

use super::{Hook, Met, Walk, Walker};
use crate::address::Source;
use crate::host::{HostState, Need, Needs};
use crate::netfilter::arrival::{Arrival, arrivals};
use crate::netfilter::outcome::{Culprit, Message, Pass, Refusal};
use crate::netfilter::prepared::Prepared;
use crate::packet::{Doubt, Effort, Packet};
use crate::subsystem::nf_tables::State;
use crate::subsystem::route::Neighbour;
use crate::verdict::{Connection, Evidence};

const IN: [Hook; 3] = [Hook::Ingress, Hook::Prerouting, Hook::Input];
const OUT: [Hook; 3] = [Hook::Output, Hook::Postrouting, Hook::Egress];

/// To whom this host hands its answers to a client, on a link on which link addresses are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The name of the interface.
    pub link: String,
    /// The client, or a gateway.
    pub address: IpAddr,
    /// Whether it is a gateway.
    pub gateway: bool,
}

impl Hop {
    fn of(arrival: &Arrival, connection: &Connection) -> Option<Self> {
        let (link, address) = (arrival.link.as_ref().filter(|link| link.resolves)?, arrival.hop?);
        let gateway = connection.source.single() != Some(address);
        Some(Self { link: link.name.clone(), address, gateway })
    }

    /// Whether it is a gateway that asks from another address than the route names.
    fn is_foreign(&self) -> bool {
        self.gateway && !matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    /// Where its solicitations come from: a client's from the address it connects from; a gateway's from its link-local address
    /// (`ndisc_solicit`: that of the packet it forwards is none of its own), which is not known where the route names another.
    fn sources(&self) -> Vec<Source> {
        let range = "fe80::/10".parse().ok().filter(|_| self.is_foreign());
        range.into_iter().chain([self.address.into()]).collect()
    }

    /// The other end of a message, to name it in a rule.
    pub fn end(&self, message: Message) -> Source {
        match message {
            Message::SolicitationIn | Message::AdvertisementOut => {
                self.sources().first().copied().unwrap_or_else(|| self.address.into())
            }
            Message::SolicitationOut => match self.address {
                IpAddr::V6(address) => IpAddr::V6(solicited_node(address)).into(),
                IpAddr::V4(_) => self.address.into(),
            },
            Message::AdvertisementIn => self.address.into(),
        }
    }

    fn packets(&self, syn: &Packet, message: Message) -> Vec<Packet> {
        let ends = self.sources().into_iter();
        match message {
            Message::SolicitationIn => ends.map(|from| syn.solicitation(from)).collect(),
            Message::AdvertisementOut => ends.map(|to| syn.own_advertisement(to)).collect(),
            Message::SolicitationOut => vec![syn.own_solicitation(self.address, self.end(message))],
            Message::AdvertisementIn => vec![syn.advertisement(self.address)],
        }
    }

    /// `its neighbour solicitation`, `the neighbour solicitation of its gateway fe80::1`
    fn name(&self, message: Message) -> String {
        let noun = if message.kind() == 135 { "neighbour solicitation" } else { "neighbour advertisement" };
        let whom = if self.gateway { format!("its gateway {}", self.address) } else { "it".to_owned() };
        match message {
            _ if message.comes_in() && !self.gateway => format!("its {noun}"),
            Message::SolicitationIn | Message::AdvertisementIn => format!("the {noun} of {whom}"),
            Message::SolicitationOut => format!("the {noun} for {whom}"),
            Message::AdvertisementOut => format!("the {noun} to {whom}"),
        }
    }
}

/// `ff02::1:ffXX:XXXX` (RFC 4291, 2.7.1)
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const BASE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(BASE | address.to_bits() & 0x00ff_ffff)
}

/// What keeps a next hop and this host from learning each other's link address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undiscovered {
    /// Who it is.
    pub hop: Hop,
    /// The messages that are certainly lost, and by whom; never empty.
    pub lost: Vec<Refusal>,
    /// This host's entry for it; the text says why it could not be read.
    entry: Result<Neighbour, String>,
}

/// What becomes of a new connection.
///
/// Measured on Linux 6.18 with client, host and gateway on one link, before this was written:
/// - nobody knows the other: where the solicitation in or the advertisement out is lost, it does not come; where only the advertisement in
///   or the solicitation out is, it comes, since the host learns the address from the solicitation that it gets;
/// - only the client knows the host (its entry stays REACHABLE for half a minute): it comes where the host's own solicitation is answered, and
///   not in 14 s where that is lost either way;
/// - both know the other, REACHABLE or STALE: it comes, whatever is dropped; where the client has forgotten, it does not;
/// - a host that loses its advertisement out has an entry all the same (DELAY) once the client has asked in vain;
/// - a gateway that the route names by a global address asks from its link-local one, and so the host learns nothing of the other: where it
///   loses the advertisement in, its answer does not leave, whatever the gateway asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// They know each other, and cannot find each other again.
    Remembered,
    /// It comes only if the next hop still knows this host's link address.
    IfKnown,
    /// It is answered only if the next hop has to ask for this host's link address first.
    IfAsked,
    /// It does not come, or is not answered.
    Never,
}

impl Undiscovered {
    /// `None` where they find each other.
    fn outcome(&self) -> Option<Outcome> {
        let loses = |message| self.lost.iter().any(|one| one.pass == Pass::Discovery(message));
        let asked = !loses(Message::SolicitationIn) && !loses(Message::AdvertisementOut);
        let asks = !loses(Message::SolicitationOut) && !loses(Message::AdvertisementIn);
        let entry = self.entry.clone().unwrap_or(Neighbour::NONE);
        // Who got no advertisement may have left an entry all the same; one that is confirmed was answered.
        let mutual = if loses(Message::SolicitationIn) { entry.known() } else { entry.confirmed() };
        match (asked, asks || entry.known()) {
            (true, true) => None,
            (true, false) if self.hop.is_foreign() => Some(Outcome::Never),
            (true, false) => Some(Outcome::IfAsked),
            (false, true) if mutual => Some(Outcome::Remembered),
            (false, true) => Some(Outcome::IfKnown),
            (false, false) => Some(Outcome::Never),
        }
    }

    /// `its neighbour solicitation on eth0 is dropped`
    fn loss(&self, how: impl Fn(&Refusal) -> String) -> String {
        let text = |refusal: &Refusal| match refusal.pass {
            Pass::Discovery(message) => format!("{} on {} {}", self.hop.name(message), self.hop.link, how(refusal)),
            Pass::Syn | Pass::Answer | Pass::Ack => String::new(),
        };
        self.lost.first().map_or_else(String::new, text)
    }

    /// What that means for a new connection.
    pub fn text(&self, how: impl Fn(&Refusal) -> String) -> String {
        let loss = self.loss(how);
        let who = if self.hop.gateway { "the gateway" } else { "it" };
        let entry = self.entry_text(who);
        match self.outcome() {
            None => String::new(),
            Some(Outcome::Remembered) => format!(
                "{loss}: it gets in only while {who} knows this host's link address (accept ICMPv6 types 135 and 136 from {}, too)",
                self.hop.end(Message::SolicitationIn).short()
            ),
            Some(Outcome::Never)
                if self
                    .lost
                    .first()
                    .is_some_and(|one| matches!(one.pass, Pass::Discovery(message) if message.tells_the_hop())) =>
            {
                format!("the SYN does not arrive: {loss}, and {entry}")
            }
            Some(Outcome::Never) => format!("the answer to the SYN does not leave: {loss}, and {entry}"),
            Some(Outcome::IfKnown) => format!("the SYN arrives only if {who} still knows this host's link address: {loss}"),
            Some(Outcome::IfAsked) => {
                format!("{loss}, and {entry}: it is answered only if {who} has just asked for this host's")
            }
        }
    }

    fn entry_text(&self, who: &str) -> String {
        match &self.entry {
            Ok(Neighbour::NONE) => format!("this host has no neighbour entry for {who}"),
            Ok(entry) => format!("this host's neighbour entry for {who} is {entry}"),
            Err(why) => format!("this host's neighbour entry for {who} could not be read: {why}"),
        }
    }

    /// The kernel's entry, as `ip` shows it.
    pub fn evidence(&self) -> Evidence {
        let text = self.entry.as_ref().map_or_else(Clone::clone, ToString::to_string);
        Evidence::new(format!("ip -6 neigh show {} dev {}", self.hop.address, self.hop.link), text)
    }

    /// The refusal that follows; none where they know each other.
    fn refusal(&self) -> Option<Refusal> {
        let doubt = match self.outcome()? {
            Outcome::Remembered => return None,
            Outcome::Never if self.entry.is_ok() => return self.lost.first().cloned(),
            Outcome::Never => "whether this host knows its link address",
            Outcome::IfKnown => "whether it still knows this host's link address",
            Outcome::IfAsked => "whether it asks for this host's link address first",
        };
        self.lost.first().map(|lost| Refusal { certain: false, doubts: vec![Doubt::on(doubt)], ..lost.clone() })
    }
}

impl Walk {
    /// Adds what neighbour discovery makes of a connection that the rules may let in: one of IPv6 from a single address. Nothing on links
    /// that have no link addresses or are not known.
    pub(super) fn discovered(mut self, prepared: &Prepared<'_>, connection: &Connection, noted: bool, needs: &mut Needs) -> Self {
        if connection.source.is_ipv4() || connection.source.single().is_none() || self.decided().is_some() {
            return self;
        }
        let (arrivals, mut effort) = (arrivals(prepared.host, connection, needs), Effort::default());
        let ways: Vec<Option<(Undiscovered, Vec<Met>)>> =
            arrivals.iter().map(|arrival| on_one_way(prepared, connection, arrival, noted, &mut effort, needs)).collect();
        if effort.is_spent() {
            let culprit = Culprit::Unread(Effort::exceeded());
            let pass = Pass::Discovery(Message::SolicitationIn);
            self.refusals.push(Refusal { pass, culprit, certain: false, doubts: Vec::new() });
        }
        let everywhere = ways.iter().all(Option::is_some);
        for (undiscovered, met) in ways.into_iter().flatten() {
            if let Some(mut refusal) = undiscovered.refusal() {
                if !everywhere && refusal.certain {
                    refusal.certain = false;
                    refusal.doubts.push(Doubt::on("which address of this host it comes to"));
                }
                if !self.refusals.iter().any(|one| one.pass == refusal.pass) {
                    self.refusals.push(refusal);
                }
            }
            if self.undiscovered.is_none() {
                self.met.splice(0..0, met);
                self.undiscovered = Some(undiscovered);
            }
        }
        self
    }
}

/// The messages that are lost, of all ways in: what a plan must open.
pub fn lost(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<(Hop, Refusal)> {
    let (mut all, mut effort, prepared) = (Vec::new(), Effort::default(), Prepared::new(host));
    for arrival in arrivals(host, connection, needs) {
        let found = on_one_way(&prepared, connection, &arrival, false, &mut effort, needs);
        if let Some((Undiscovered { hop, lost, .. }, _)) = found {
            all.extend(lost.into_iter().map(|refusal| (hop.clone(), refusal)));
        }
    }
    all
}

fn on_one_way(
    prepared: &Prepared<'_>,
    connection: &Connection,
    arrival: &Arrival,
    noted: bool,
    effort: &mut Effort,
    needs: &mut Needs,
) -> Option<(Undiscovered, Vec<Met>)> {
    let (hop, device) = (Hop::of(arrival, connection)?, arrival.link.as_ref()?.index);
    arrival.to?;
    let syn = arrival.syn(connection);
    let (mut lost, mut met) = (Vec::new(), Vec::new());
    for message in Message::ALL {
        if let Some((refusal, noted)) = loses(prepared, connection, hop.packets(&syn, message), message, noted, effort, needs) {
            lost.push(refusal);
            met.extend(noted);
        }
    }
    if lost.is_empty() {
        return None;
    }
    let entries = prepared.host.route.present().and_then(|routes| routes.neighbours.get(&device));
    let Some(entry) = entries.and_then(|entries| entries.get(&hop.address)).cloned() else {
        needs.insert(Need::Neighbour(device, hop.address));
        return None;
    };
    let undiscovered = Undiscovered { hop, lost, entry };
    undiscovered.outcome().map(|_| (undiscovered, met))
}

/// Who certainly loses a message, whatever of these packets it is.
fn loses(
    prepared: &Prepared<'_>,
    connection: &Connection,
    packets: Vec<Packet>,
    message: Message,
    noted: bool,
    effort: &mut Effort,
    needs: &mut Needs,
) -> Option<(Refusal, Vec<Met>)> {
    let (empty, mut first) = (State::default(), None);
    for packet in packets {
        let mut walker = Walker::new(prepared, connection, &empty, &prepared.ipsets, effort, needs);
        (walker.pass, walker.met) = (Pass::Discovery(message), noted.then(Vec::new));
        walker.through(if message.comes_in() { &IN } else { &OUT }, packet);
        let refusal = walker.refusals.into_iter().find(|refusal| refusal.certain)?;
        first = first.or(Some((refusal, walker.met.unwrap_or_default())));
    }
    first
}
