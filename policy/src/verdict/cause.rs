//! The catalogue of causes (docs/causes.md), and what is found of it on a host. Finds nothing itself.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::owner::Owner;
use super::{Evidence, Stage};
use crate::text::quoted::Text;
use crate::words;

/// The catalogue of causes (docs/causes.md). The ids are stable; those not found by this version are not listed.
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
    pub fix: Text,
}

impl Finding {
    /// What a person must do about it, in one line: `sshd-down (ssh.service): ...`
    pub fn told(&self) -> Text {
        Text::from(format!("{} ({}): ", self.cause, self.owner)) + self.fix.clone()
    }
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
    fix: Text,
}

impl From<FindingRead> for Finding {
    fn from(read: FindingRead) -> Self {
        let FindingRead { cause, blocking, stage, owner, since, until, evidence, fix } = read;
        Self { cause, blocking, stage: stage.unwrap_or(cause.stage()), owner, since, until, evidence, fix }
    }
}
