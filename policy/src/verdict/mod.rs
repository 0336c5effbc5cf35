//! The words every stage answers in: verdicts, causes, evidence, findings, and the blocks a plan can lift.
//! Holds no logic of any subsystem.

pub mod owner;
pub mod trace;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::step::Step;
use crate::verdict::owner::Owner;
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
    pub text: String,
}

impl Evidence {
    /// Shorthand.
    pub fn new(source: impl Into<String>, text: impl Into<String>) -> Self {
        Self { source: words::said(source.into()), text: words::said(text.into()) }
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
    pub detail: String,
    /// What decided, quoted.
    pub evidence: Vec<Evidence>,
    /// Everything the connection met in this stage, in order; only where it was asked for (`--explain`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<TraceLine>,
}

impl StageReport {
    /// Without a trace.
    pub fn new(stage: Stage, verdict: Verdict, detail: impl Into<String>, evidence: Vec<Evidence>) -> Self {
        Self { stage, verdict, detail: words::said(detail.into()), evidence, trace: Vec::new() }
    }

    /// What decided, in one line: the first evidence, else the detail.
    pub fn why(&self) -> String {
        self.evidence.first().map_or(self.detail.clone(), |e| format!("{}: {}", e.source, e.text))
    }
}

/// The catalogue of causes (shared/causes.md). The ids are stable; those not found by this version are not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A jail banned the address or a range that holds it.
    Fail2banBan,
    /// fail2ban forgot the ban, its rule or element is still in the kernel.
    Fail2banBanStale,
    /// An nftables rule, set, map or policy.
    NftRule,
    /// An iptables rule or policy.
    IptablesRule,
    /// A `recent`, `limit`, `hashlimit` or `connlimit` rule.
    IptablesRatelimit,
    /// An ipset used by a rule.
    IpsetEntry,
    /// No rule lets packets of established connections through, or connection tracking is full.
    CtEstablished,
    /// ufw denies or does not allow the port.
    UfwDeny,
    /// A firewalld zone or rich rule.
    FirewalldDeny,
    /// A blackhole, unreachable or prohibit route to the client, or no route at all.
    RouteBlackhole,
    /// hosts.deny matches.
    HostsDeny,
    /// hosts.allow lets only others in and hosts.deny denies the rest.
    HostsAllowRestrict,
    /// sshguard's table, set or chain.
    SshguardBlock,
    /// A `CrowdSec` decision enforced by its bouncer.
    CrowdsecDecision,
    /// Nothing listens where the client connects.
    SshdListen,
    /// The unit failed, is masked or stopped.
    SshdDown,
    /// Something else owns the port.
    PortNotSsh,
    /// Too many unauthenticated connections, on the whole or from one source.
    SshdMaxstartups,
    /// `PerSourcePenalties`.
    SshdPenalty,
    /// `MaxAuthTries`, `LoginGraceTime`, `MaxSessions`.
    SshdLimits,
    /// A session that ended for want of a sign of life.
    SshdKeepalive,
    /// Client and server have no algorithm in common.
    SshdAlgorithms,
    /// sshd or a part of it was killed by a signal, or for want of memory.
    SshdCrash,
    /// The host is going down, is about to, or is still coming up.
    HostShutdown,
    /// Lists, Match blocks, `PermitRootLogin` or the methods that are left exclude this login.
    SshdAccessList,
    /// `sshd_config` or a drop-in does not parse.
    SshdConfigInvalid,
    /// No host key can be loaded.
    SshdHostkeys,
    /// `/run/sshd` is missing, or others can write it.
    SshdPrivsepDir,
    /// The account cannot log in: expired, locked, no shell, nologin(5), authorized keys that sshd passes over.
    AccountLocked,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(match self {
            Cause::Fail2banBan => "fail2ban-ban",
            Cause::Fail2banBanStale => "fail2ban-ban-stale",
            Cause::NftRule => "nft-rule",
            Cause::IptablesRule => "iptables-rule",
            Cause::IptablesRatelimit => "iptables-ratelimit",
            Cause::IpsetEntry => "ipset-entry",
            Cause::CtEstablished => "ct-established",
            Cause::UfwDeny => "ufw-deny",
            Cause::FirewalldDeny => "firewalld-deny",
            Cause::RouteBlackhole => "route-blackhole",
            Cause::HostsDeny => "hosts-deny",
            Cause::HostsAllowRestrict => "hosts-allow-restrict",
            Cause::SshguardBlock => "sshguard-block",
            Cause::CrowdsecDecision => "crowdsec-decision",
            Cause::SshdListen => "sshd-listen",
            Cause::SshdDown => "sshd-down",
            Cause::PortNotSsh => "port-not-ssh",
            Cause::SshdMaxstartups => "sshd-maxstartups",
            Cause::SshdPenalty => "sshd-penalty",
            Cause::SshdLimits => "sshd-limits",
            Cause::SshdKeepalive => "sshd-keepalive",
            Cause::SshdAlgorithms => "sshd-algorithms",
            Cause::SshdCrash => "sshd-crash",
            Cause::HostShutdown => "host-shutdown",
            Cause::SshdAccessList => "sshd-access-list",
            Cause::SshdConfigInvalid => "sshd-config-invalid",
            Cause::SshdHostkeys => "sshd-hostkeys",
            Cause::SshdPrivsepDir => "sshd-privsep-dir",
            Cause::AccountLocked => "account-locked",
        }))
    }
}

impl Cause {
    /// Where it acts, unless its finding says better: what fail2ban and sshguard do, they do by the packet filters, a route or a
    /// hosts file.
    pub fn stage(self) -> Stage {
        match self {
            Cause::Fail2banBan
            | Cause::Fail2banBanStale
            | Cause::NftRule
            | Cause::IptablesRule
            | Cause::IptablesRatelimit
            | Cause::IpsetEntry
            | Cause::CtEstablished
            | Cause::UfwDeny
            | Cause::FirewalldDeny
            | Cause::SshguardBlock
            | Cause::CrowdsecDecision => Stage::Netfilter,
            Cause::RouteBlackhole => Stage::Route,
            Cause::HostsDeny | Cause::HostsAllowRestrict => Stage::HostsAccess,
            Cause::SshdListen | Cause::SshdDown | Cause::PortNotSsh => Stage::Listener,
            Cause::SshdMaxstartups
            | Cause::SshdPenalty
            | Cause::SshdConfigInvalid
            | Cause::SshdHostkeys
            | Cause::SshdPrivsepDir
            | Cause::SshdCrash
            | Cause::HostShutdown => Stage::SshdAdmission,
            Cause::SshdAccessList | Cause::SshdLimits | Cause::SshdKeepalive | Cause::SshdAlgorithms => Stage::SshdAccess,
            Cause::AccountLocked => Stage::Account,
        }
    }
}

/// One cause found on this host for the connection asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FindingRead")]
pub struct Finding {
    /// The catalogue id.
    pub cause: Cause,
    /// Whether this alone keeps the connection out now.
    pub blocking: bool,
    /// The stage in which it acts.
    pub stage: Stage,
    /// Who made it and must be asked to change it: `fail2ban jail sshd`, `nobody`, ...
    pub owner: Owner,
    /// When it began, where that is recorded.
    pub since: Option<Timestamp>,
    /// When it ends by itself, where that is recorded.
    pub until: Option<Timestamp>,
    /// The exact rules, elements, lines and tickets.
    pub evidence: Vec<Evidence>,
    /// The command that lifts it, or what a person must do.
    pub fix: String,
}

/// A finding as it is read: an older agent does not name its stage.
#[derive(Deserialize)]
struct FindingRead {
    cause: Cause,
    blocking: bool,
    stage: Option<Stage>,
    owner: Owner,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    evidence: Vec<Evidence>,
    fix: String,
}

impl From<FindingRead> for Finding {
    fn from(read: FindingRead) -> Self {
        let FindingRead { cause, blocking, stage, owner, since, until, evidence, fix } = read;
        Self { cause, blocking, stage: stage.unwrap_or(cause.stage()), owner, since, until, evidence, fix }
    }
}

/// A finding together with the way to lift it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What is shown.
    pub finding: Finding,
    /// How it is lifted.
    pub lift: Lift,
    /// What the command of the manager that made it does to the packet filters. To predict by; never done by sshfix.
    pub managed: Vec<Step>,
    /// What else would lift it, and is not done unless it is asked for.
    pub alternatives: Vec<Alternative>,
}

impl Block {
    /// A finding that sshfix does not lift: its `fix` says what a person must do.
    pub fn told(finding: Finding) -> Self {
        let lift = Lift::ByHand(finding.fix.clone());
        Self { finding, lift, managed: Vec::new(), alternatives: Vec::new() }
    }
}

/// A way to lift a block that is not taken by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// By these steps, in this order.
    pub steps: Vec<Step>,
    /// At most these get in by it.
    pub opens: Vec<Source>,
    /// Why it is not taken.
    pub why_not: String,
    /// Whether it is what `--range` asks for: the whole range that an element, rule, ticket or route names.
    pub range: bool,
}

impl Alternative {
    /// Lifting the whole range that holds what was asked for.
    pub fn range(asked: Source, steps: Vec<Step>, opens: Vec<Source>) -> Self {
        let bits = |source: &Source| source.net().max_prefix_len() - source.net().prefix_len();
        let many = |sources: &[Source]| {
            sources.iter().try_fold(0_u64, |sum, source| sum.checked_add(1_u64.checked_shl(bits(source).into())?))
        };
        let others = match (many(&opens), many(&[asked])) {
            (Some(all), Some(own)) => format!("{} others", all.saturating_sub(own)),
            _ => "more others than can be counted".to_owned(),
        };
        Self { steps, opens, why_not: format!("also lifts it for {others}; needs --range"), range: true }
    }
}

/// How a block is lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lift {
    /// By these steps, in this order.
    Steps(Vec<Step>),
    /// Not by sshfix: what a person must do instead.
    ByHand(String),
}
