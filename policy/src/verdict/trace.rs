//! The words of a trace: what a connection meets on its way through one stage, in order, with what each thing did to it.
//! Holds only what matched or may have; what did not match is never listed, so a trace stays short on a long ruleset.

use serde::{Deserialize, Serialize};

use crate::text::quoted::Text;
use crate::verdict::Evidence;
use crate::verdict::owner::Owner;

/// A packet of the TCP handshake, or one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handshake {
    /// The client's SYN, coming in.
    Syn,
    /// The host's SYN and ACK, going out.
    Answer,
    /// The client's ACK that completes it, coming in.
    Ack,
    /// A neighbour solicitation (RFC 4861) that is lost.
    Solicitation,
    /// A neighbour advertisement that is lost.
    Advertisement,
}

/// Where a packet is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Which packet it is.
    pub packet: Handshake,
    /// The hook as nft names it: `prerouting`, `input`, `output`, ...
    pub hook: String,
    /// The base chain's priority; lower runs first.
    pub priority: i32,
    /// The interface and own address it comes in by, where the verdict depends on that: `by eth0 to 192.0.2.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<String>,
}

/// Names a rule, a chain's end or a policy in the packet filters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulePlace {
    /// `nft`, `iptables-legacy` or `ip6tables-legacy`.
    pub tool: String,
    /// `ip`, `ip6`, `inet`, `netdev` or `bridge`.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The kernel's handle of an nftables rule; none for a policy or the end of a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The position from 1 of an iptables-legacy rule; none for a policy or the end of a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// As `sshfix ctl firewall remove` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// What a rule has counted so far, over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One line: a rule, route, line or socket that the connection met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
    /// Where in the kernel it is met; packet filters only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Point>,
    /// How many jumps deep; 0 is the base chain.
    pub depth: usize,
    /// As evidence names it: `nft inet filter input handle 4`, `/etc/hosts.deny line 3`, `ip route get`.
    pub source: Text,
    /// The parts of that name, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<RulePlace>,
    /// The rule, route or line as its own tool prints it.
    pub text: Text,
    /// What it does to the connection: `accept`, `dropped`, `jump f2b-sshd`, `goes on`, `does not match`.
    pub effect: Text,
    /// On what it depends whether it matches; empty when it certainly does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends: Vec<Text>,
    /// The set elements that made it match, with the time they have left and their comments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<Evidence>,
    /// What it counted, where it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<Counter>,
    /// Who made it: `fail2ban jail sshd`, `ufw`, `nobody`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether this decides the verdict of the stage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decides: bool,
}

impl TraceLine {
    /// A line that stands by itself, certain and without parts.
    pub fn new(source: impl Into<Text>, text: impl Into<Text>, effect: impl Into<Text>) -> Self {
        let [source, text, effect] = [source.into(), text.into(), effect.into()].map(Text::said);
        Self { source, text, effect, ..Self::default() }
    }
}
