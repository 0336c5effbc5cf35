//! What the walk of a handshake says of a refusal: of which packet, by whom, how certainly. Types only; the walk is elsewhere.

use crate::packet::Doubt;
use crate::subsystem::conntrack::Fill;
use crate::subsystem::nf_tables::evaluate::{Event, Exit};
use crate::subsystem::xtables::evaluate as legacy;

/// Which packet of the handshake, or before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The SYN, coming in.
    Syn,
    /// The SYN and ACK, going out.
    Answer,
    /// The ACK, coming in.
    Ack,
    /// One of neighbour discovery, without which an IPv6 client and this host do not find each other.
    Discovery(Message),
}

/// Who refuses, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// A rule or policy of `nf_tables`.
    NfTables(Event),
    /// A rule or policy of iptables-legacy.
    Legacy(legacy::Outcome),
    /// Connection tracking, which has no room for a new connection.
    Full(Fill),
    /// Nobody's rule: a part that could not be read, or a packet that no longer belongs to the connection. The text says why.
    Unread(String),
}

impl Culprit {
    /// The rule that sends the connection to a port of this host where no SSH server answers.
    pub(super) fn misdirects(self, port: u16) -> Self {
        let how = format!("sent to port {port}, where no SSH server listens");
        match self {
            Culprit::NfTables(event) => {
                Culprit::NfTables(Event { exit: Exit::Refuse(how), doubts: Vec::new(), frames: event.frames })
            }
            Culprit::Legacy(outcome) => {
                Culprit::Legacy(legacy::Outcome { end: legacy::End::Misdirected(port), depends: None, place: outcome.place })
            }
            other @ (Culprit::Unread(_) | Culprit::Full(_)) => other,
        }
    }
}

/// A refusal on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of which packet.
    pub pass: Pass,
    /// By whom.
    pub culprit: Culprit,
    /// Whether it is certain that it refuses what comes so far.
    pub certain: bool,
    /// On what it depends otherwise.
    pub doubts: Vec<Doubt>,
}

/// A message of neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The next hop asks for this host's link address.
    SolicitationIn,
    /// This host tells it.
    AdvertisementOut,
    /// This host asks for that of the next hop.
    SolicitationOut,
    /// The next hop tells it.
    AdvertisementIn,
}

impl Message {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::SolicitationIn, Self::AdvertisementOut, Self::SolicitationOut, Self::AdvertisementIn];

    /// Whether the other end sends it.
    pub fn comes_in(self) -> bool {
        matches!(self, Self::SolicitationIn | Self::AdvertisementIn)
    }

    /// Its `ICMPv6` type.
    pub fn kind(self) -> u8 {
        match self {
            Self::SolicitationIn | Self::SolicitationOut => 135,
            Self::AdvertisementOut | Self::AdvertisementIn => 136,
        }
    }

    /// Whether it is for the next hop to learn this host's link address; the other two are for this host.
    pub fn tells_the_hop(self) -> bool {
        matches!(self, Self::SolicitationIn | Self::AdvertisementOut)
    }
}
