//! The words every stage answers in: verdicts, evidence and reports here, causes and findings in [`cause`]. Holds no logic of any subsystem.

pub mod cause;
pub mod owner;
pub mod subsystem;
pub mod trace;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::{Source, UNKNOWN};
use crate::text::quoted::{Quote, Text};
use crate::verdict::trace::TraceLine;
use crate::words;

/// What the host does to a new connection. Unknown is never "open".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The connection gets through.
    Accept,
    /// The connection is dropped, rejected or closed.
    Refuse,
    /// Cannot be told from what was read.
    Unknown,
}

impl Verdict {
    /// Both must accept; one refusal refuses; else unknown.
    #[must_use]
    pub fn and(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::Refuse, _) | (_, Verdict::Refuse) => Verdict::Refuse,
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
            (Verdict::Accept, Verdict::Accept) => Verdict::Accept,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(match self {
            Verdict::Accept => "accept",
            Verdict::Refuse => "refuse",
            Verdict::Unknown => "unknown",
        }))
    }
}

/// One new TCP connection to the SSH port, as the question every subsystem answers.
/// `source` may be a range; then the answer holds for every address in it, or is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Where it comes from.
    pub source: Source,
    /// The destination port.
    pub port: u16,
    /// The user who logs in, where the question names one.
    pub user: Option<String>,
}

/// A way in that must not be lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AccessPath {
    /// From where.
    pub source: Source,
    /// As whom, where known.
    pub user: Option<String>,
    /// To which port.
    pub port: u16,
    /// Why it is a way in.
    pub origin: PathOrigin,
}

impl AccessPath {
    /// Whether it comes over no TCP connection, so that no packet filter, no list of addresses and no socket of the listening sshd is on the
    /// way: only what sshd's files say decides.
    pub fn has_no_address(&self) -> bool {
        self.source == Source::NONE
    }

    /// From where, for people; without an address as sshd says it: `UNKNOWN`.
    pub fn from(&self) -> String {
        if self.has_no_address() { UNKNOWN.to_owned() } else { self.source.short() }
    }
}

/// Why an access path counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathOrigin {
    /// The person who asks came in this way, as the signer claims.
    #[serde(rename = "claimed")]
    Requester,
    /// A live SSH session.
    Session,
    /// A `keep` entry of agent.toml.
    Keep,
}

/// What an accept rule lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// TCP to this port of the host, or from it.
    Tcp(u16),
    /// `ICMPv6` of this type.
    Icmpv6(u8),
}

impl Admits {
    /// Whose connections such a rule for `source` is about: neighbour discovery is nobody's own, and lets in whom other rules let in.
    pub fn touches(self, source: Source) -> Vec<Source> {
        match self {
            Admits::Tcp(_) => vec![source],
            Admits::Icmpv6(_) => Vec::new(),
        }
    }
}

/// The stages of a login, in the order a connection meets them (interface.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Routes to the client.
    Route,
    /// nftables, iptables, ipset, conntrack.
    Netfilter,
    /// Who listens on the port.
    Listener,
    /// hosts.allow and hosts.deny.
    HostsAccess,
    /// `MaxStartups`, penalties.
    SshdAdmission,
    /// Match, Allow and Deny lists.
    SshdAccess,
    /// The account itself.
    Account,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(match self {
            Stage::Route => "route",
            Stage::Netfilter => "netfilter",
            Stage::Listener => "listener",
            Stage::HostsAccess => "hosts_access",
            Stage::SshdAdmission => "sshd_admission",
            Stage::SshdAccess => "sshd_access",
            Stage::Account => "account",
        }))
    }
}

/// Where a fact was read and what stands there, to the letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The place: `nft inet f2b-table f2b-chain handle 4`, `/etc/hosts.deny line 3`, `fail2ban jail sshd`.
    pub source: String,
    /// The rule, element, line or ticket as its own tool prints it.
    pub text: Text,
}

impl Evidence {
    /// Shorthand.
    pub fn new(source: impl Into<String>, text: impl Into<Text>) -> Self {
        Self { source: words::said(source.into()), text: text.into().said() }
    }

    /// All of the text is one quote.
    pub fn quote(source: impl Into<String>, what: Quote, text: impl Into<String>) -> Self {
        Self::new(source, Text::quote(what, text))
    }
}

/// What one stage does to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Which stage.
    pub stage: Stage,
    /// Its verdict alone.
    pub verdict: Verdict,
    /// One line for people: what decided, or why it is unknown.
    pub detail: Text,
    /// What decided, quoted.
    pub evidence: Vec<Evidence>,
    /// Everything the connection met in this stage, in order; only where it was asked for (`--explain`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<TraceLine>,
}

impl StageReport {
    /// Without a trace.
    pub fn new(stage: Stage, verdict: Verdict, detail: impl Into<Text>, evidence: Vec<Evidence>) -> Self {
        Self { stage, verdict, detail: detail.into().said(), evidence, trace: Vec::new() }
    }

    /// What decided, in one line: the first evidence, else the detail.
    pub fn why(&self) -> Text {
        self.evidence.first().map_or_else(|| self.detail.clone(), |e| Text::from(format!("{}: ", e.source)) + e.text.clone())
    }
}
