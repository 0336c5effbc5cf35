//! The command line: what can be typed, and the operation it means. Asks nobody and prints nothing.

// Doc comments are the help texts here, and backticks would be printed.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use sshfix_policy::address::Source;
use sshfix_policy::request::{Decision, Intent, Mode, Operation, Query, Records};

mod audit;
mod command_line;
mod dashes;
mod parse;
#[cfg(test)]
mod tests;

pub use audit::{AuditVerb, FilterArgs};
pub use command_line::command_line;
use parse::{parse_address, parse_digest, parse_duration, parse_reason};

const EXIT_STATUS: &str = "\
Exit status:
  0   done, nothing to do, or the path is open
  1   failed, host unchanged; audit verify: a record was tampered with
  2   usage
  3   refused (signature, freshness or grant)
  4   would lock somebody out
  5   applied, waiting for confirm
  6   rolled back
  7   stuck
  8   blocked (diagnose, unban, fix)
  9   unknown (diagnose, fix)
  10  cannot reach the agent";

const ALLOW: &str = "\
Adds only what the address needs now:
  - accept rules before the rules that refuse it
  - a line of hosts.allow where hosts.deny refuses it
  - ignoreip in every fail2ban jail, so that no new ban comes
  - an entry of PerSourcePenaltyExemptList where sshd refuses the address for a
    penalty (OpenSSH 9.8 and later). This reloads sshd: the change waits for
    `sshfix ctl confirm`, and sshd forgets the penalties of all addresses.
Existing bans are bypassed, not lifted: they may block the address again when
the lease ends.

The end removes exactly what was added. Rules and lines carry the mark
`sshfix lease ID` and are found wherever they are by then; fail2ban and sshd
have no place for a mark. Anything edited since then is left in place and
reported. The end of an sshd entry waits until sshd has read what others edited.
In the first five minutes after a reboot, missing parts are added again.";

const CHECK: &str = "\
Exit status: 0 if sshd accepts its files and would start again, with or without warnings; 1 if not.";

/// Find the layer that blocks an SSH client, and repair it without locking anybody out.
#[derive(Debug, Parser)]
#[command(name = "sshfix", version, max_term_width = 100)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub program: Program,
}

impl Cli {
    /// Reads a command line.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or the help that it asks for.
    pub fn read(args: &[OsString]) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(dashes::put_values_last(args))?;
        dashes::check(&cli)?;
        Ok(cli)
    }
}

/// The programs in this binary.
#[derive(Debug, Subcommand)]
pub enum Program {
    /// Ask the agent on this host: diagnose, unban, ban, list
    #[command(after_help = EXIT_STATUS)]
    Ctl(Ctl),
}

/// `sshfix ctl`
#[derive(Debug, Args)]
pub struct Ctl {
    /// Flags of every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to ask.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Key to sign with: a private key, or a .pub file whose key is in ssh-agent [default: ssh-agent, then ~/.ssh, then
    /// /etc/sshfix/ctl_ed25519]
    #[arg(long, global = true, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Print one JSON document, also for errors
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours; NO_COLOR is respected
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// How long to wait for the agent's answer (30s, 2m)
    #[arg(long, global = true, value_parser = parse_duration, default_value = "60s", value_name = "DURATION")]
    pub timeout: Duration,
    /// Show more: the identity used, evidence of stages that do not block
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Flags of every verb that changes the host.
#[derive(Debug, Default, Args)]
pub struct ChangeArgs {
    /// Print the plan, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Apply only if the plan is still the one with this digest
    #[arg(long, value_name = "DIGEST", conflicts_with = "dry_run", value_parser = parse_digest)]
    pub plan: Option<String>,
    /// Time to confirm the change before it is rolled back (30s, 5m) [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub confirm_within: Option<Duration>,
    /// Why you do this; kept in the audit record
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub reason: Option<String>,
}

/// What to ask.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show the path of a new connection stage by stage, what blocks it, and the command that lifts it
    Diagnose {
        /// Address of the client
        #[arg(value_parser = parse_address)]
        address: IpAddr,
        /// Also judge the login of this user: sshd's files and the account
        #[arg(long)]
        user: Option<String>,
        /// Port that the client connects to [default: the SSH port]
        #[arg(long, value_parser = value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Show the whole path: each matching rule with its counter and owner, each line of hosts.allow, hosts.deny and sshd_config considered
        #[arg(long)]
        explain: bool,
    },
    /// Lift every block of an address or range, in every subsystem
    Unban {
        /// An address, or a range such as 203.0.113.0/24
        #[arg(value_name = "ADDRESS-or-CIDR")]
        source: Source,
        /// Lift only the ban in this jail of fail2ban, nothing else
        #[arg(long)]
        jail: Option<String>,
        /// Afterwards the jails ignore the address for this long (10m, 2h, 1d)
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ignore_for: Option<Duration>,
        /// Lift the whole range that an element, rule, ban or route names, not only this part of it
        #[arg(long, conflicts_with = "jail")]
        range: bool,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Repair everything that `diagnose` reports for an address, as one plan
    Fix {
        /// Address of the client
        #[arg(value_parser = parse_address)]
        address: IpAddr,
        /// Also repair what sshd and the account refuse to this user's login
        #[arg(long)]
        user: Option<String>,
        /// Port that the client connects to [default: the SSH port]
        #[arg(long, value_parser = value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Ban an address through fail2ban
    Ban {
        /// An address or range
        #[arg(value_name = "ADDRESS")]
        source: Source,
        /// The jail that bans it
        #[arg(long)]
        jail: String,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List who is blocked, by whom, since and until when
    Banned {
        /// List only what concerns this address or range
        #[arg(value_name = "ADDRESS")]
        source: Option<Source>,
    },
    /// Show and change the rules of hosts.allow and hosts.deny
    #[command(subcommand)]
    Hosts(HostsVerb),
    /// Show and change rules and sets that concern the SSH port
    #[command(subcommand)]
    Firewall(FirewallVerb),
    /// Show the jails of fail2ban; change the addresses that they ignore
    #[command(subcommand, name = "fail2ban")]
    Fail2ban(Fail2banVerb),
    /// Show, check and change sshd_config; reload or restart sshd
    #[command(subcommand)]
    Sshd(SshdVerb),
    /// Open the SSH port to an address for a limited time, past packet filters, hosts.deny and bans; survives reboots
    #[command(after_help = ALLOW)]
    Allow {
        /// An address or range
        #[arg(value_name = "ADDRESS")]
        source: Source,
        /// For how long (30m, 2h, 1d)
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        time: Duration,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List the leases that `allow` made: for which address, by whom, until when
    Leases,
    /// End a lease now; refused if that would block you or a live session
    Revoke {
        /// The id of the lease, as `leases` shows it
        id: String,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Show audit records (who asked what, with which result); verify that none was altered
    #[command(subcommand)]
    Audit(AuditVerb),
    /// List changes and their state, newest first; with ID: its steps and journal
    Changes {
        /// Show only the change with this id
        id: Option<String>,
    },
    /// Keep a pending change; makes a new connection to prove that the SSH port answers
    Confirm {
        /// The change, as shown when it was applied
        id: String,
        /// Why you do this; kept in the audit record
        #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
        reason: Option<String>,
    },
    /// Roll back a pending or stuck change now
    Rollback {
        /// The change, as shown when it was applied
        id: String,
        /// Leave a stuck change as it is; other changes become possible again
        #[arg(long)]
        abandon: bool,
        /// Why you do this; kept in the audit record
        #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
        reason: Option<String>,
    },
    /// Show the agent's version, the host, subsystems found, live sessions, the pending change
    Status,
}

/// Whom a line of hosts.allow or hosts.deny is about.
#[derive(Debug, Args)]
pub struct HostsArgs {
    /// An address or range
    #[arg(value_name = "ADDRESS-or-CIDR")]
    pub source: Source,
    /// The daemon that the line names [default: sshd]
    #[arg(long)]
    pub daemon: Option<String>,
    /// Flags of a change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `hosts ...`
#[derive(Debug, Subcommand)]
pub enum HostsVerb {
    /// Show the rules of both files
    List,
    /// Accept an address in hosts.allow
    Allow(HostsArgs),
    /// Refuse an address in hosts.deny
    Deny(HostsArgs),
    /// Remove the lines that name exactly this address from both files
    Remove(HostsArgs),
}

/// `firewall ...`
#[derive(Debug, Subcommand)]
pub enum FirewallVerb {
    /// Show rules and sets that concern the SSH port, each with its reference
    List,
    /// Show which addresses reach the port and which do not, for all addresses at once
    Who {
        /// Which port [default: the SSH port]
        #[arg(long, value_parser = value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Show all ranges and rules, however many
        #[arg(long)]
        all: bool,
    },
    /// Accept an address on the SSH port, before the rules that refuse it
    Accept {
        /// An address or range
        #[arg(value_name = "ADDRESS-or-CIDR")]
        source: Source,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Remove one rule or element by its reference
    Remove {
        /// The reference of the rule or element, as `firewall list` shows it
        reference: String,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// `fail2ban ...`
#[derive(Debug, Subcommand)]
pub enum Fail2banVerb {
    /// Show jails, their bans and what they ignore
    Jails,
    /// Never ban this address
    Ignore {
        /// An address or range
        #[arg(value_name = "ADDRESS-or-CIDR")]
        source: Source,
        /// Only in this jail [default: all]
        #[arg(long)]
        jail: Option<String>,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Stop ignoring this address: it can be banned again
    Unignore {
        /// An address or range
        #[arg(value_name = "ADDRESS-or-CIDR")]
        source: Source,
        /// Only in this jail [default: all]
        #[arg(long)]
        jail: Option<String>,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// `sshd ...`
#[derive(Debug, Subcommand)]
pub enum SshdVerb {
    /// Show the effective configuration, with the file and line that sets each value
    Show {
        /// Show only these keywords [default: those that differ from sshd's default]
        #[arg(value_name = "KEYWORD")]
        keywords: Vec<String>,
        /// For this user, Match blocks included [default with --address: you]
        #[arg(long)]
        user: Option<String>,
        /// For a login from this address, Match blocks included [default with --user: where you come from]
        #[arg(long, value_parser = parse_address)]
        address: Option<IpAddr>,
        /// Show the sshd on this port [default: the SSH port]
        #[arg(long, value_parser = value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Show every keyword that sshd prints, also those at their default
        #[arg(long)]
        all: bool,
    },
    /// Check sshd's files: are they valid, does sshd run them, would it start again
    #[command(after_help = CHECK)]
    Check,
    /// Set a keyword in the place where it takes effect and reload sshd; waits for `confirm`
    // `-hmac*` is a value and no cry for help.
    #[command(disable_help_flag = true)]
    Set {
        /// Print help
        #[arg(long, action = clap::ArgAction::Help)]
        help: Option<bool>,
        /// A keyword of sshd_config(5)
        keyword: String,
        /// The value, or all values of a keyword that takes several
        #[arg(required = true)]
        values: Vec<String>,
        /// Inside the Match block with these criteria, such as "Address 10.0.0.0/8" [default: for everybody]
        #[arg(long = "match", value_name = "CRITERIA")]
        criteria: Option<String>,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Remove a keyword, so that its default applies, and reload sshd; waits for `confirm`
    Unset {
        /// A keyword of sshd_config(5)
        keyword: String,
        /// Inside the Match block with these criteria [default: for everybody]
        #[arg(long = "match", value_name = "CRITERIA")]
        criteria: Option<String>,
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Reload sshd's configuration; sessions stay
    Reload {
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Restart sshd, or start it if it is down; sessions stay
    Restart {
        /// Flags of a change.
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The operation.
    pub operation: Operation,
    /// Whether a change is shown or made.
    pub mode: Mode,
    /// For the audit record.
    pub reason: Option<String>,
}

/// What a command line wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// One question to the agent.
    Ask(Ask),
    /// A confirm, whose proof is made once the agent's challenge is known.
    Confirm {
        /// The change id.
        id: String,
        /// For the audit record.
        reason: Option<String>,
    },
}

impl Verb {
    /// Whether long lists are to be shown to their end.
    pub fn shows_all(&self) -> bool {
        match self {
            Verb::Firewall(FirewallVerb::Who { all, .. }) => *all,
            Verb::Sshd(SshdVerb::Show { all, keywords, .. }) => *all || !keywords.is_empty(),
            _ => false,
        }
    }

    /// What it asks the agent.
    pub fn wish(self) -> Wish {
        let plain = |operation, reason| Wish::Ask(Ask { operation, mode: Mode::DryRun, reason });
        let (operation, change) = match self {
            Verb::Diagnose { address, user, port, explain } => {
                (Operation::Query(Query::Diagnose { address, user, port, explain }), None)
            }
            Verb::Confirm { id, reason } => return Wish::Confirm { id, reason },
            Verb::Rollback { id, abandon, reason } => {
                return plain(Operation::Decision(Decision::Rollback { id, abandon }), reason);
            }
            Verb::Changes { id } => (Operation::Records(Records::Changes { id }), None),
            Verb::Unban { source, jail, ignore_for, range, change } => (
                Operation::Intent(Intent::Unban { source, jail, ignore_for: ignore_for.map(|time| time.as_secs()), range }),
                Some(change),
            ),
            Verb::Fix { address, user, port, change } => (Operation::Intent(Intent::Fix { address, user, port }), Some(change)),
            Verb::Ban { source, jail, change } => (Operation::Intent(Intent::Ban { source, jail }), Some(change)),
            Verb::Banned { source } => (Operation::Query(Query::Banned { source }), None),
            Verb::Hosts(HostsVerb::List) => (Operation::Query(Query::HostsList), None),
            Verb::Hosts(HostsVerb::Allow(HostsArgs { source, daemon, change })) => {
                (Operation::Intent(Intent::HostsAllow { source, daemon }), Some(change))
            }
            Verb::Hosts(HostsVerb::Deny(HostsArgs { source, daemon, change })) => {
                (Operation::Intent(Intent::HostsDeny { source, daemon }), Some(change))
            }
            Verb::Hosts(HostsVerb::Remove(HostsArgs { source, daemon, change })) => {
                (Operation::Intent(Intent::HostsRemove { source, daemon }), Some(change))
            }
            Verb::Firewall(FirewallVerb::List) => (Operation::Query(Query::FirewallList), None),
            Verb::Firewall(FirewallVerb::Who { port, all: _ }) => (Operation::Query(Query::FirewallWho { port }), None),
            Verb::Firewall(FirewallVerb::Accept { source, change }) => {
                (Operation::Intent(Intent::FirewallAccept { source }), Some(change))
            }
            Verb::Firewall(FirewallVerb::Remove { reference, change }) => {
                (Operation::Intent(Intent::FirewallRemove { reference }), Some(change))
            }
            Verb::Fail2ban(Fail2banVerb::Jails) => (Operation::Query(Query::Fail2banJails), None),
            Verb::Fail2ban(Fail2banVerb::Ignore { source, jail, change }) => {
                (Operation::Intent(Intent::Fail2banIgnore { source, jail }), Some(change))
            }
            Verb::Fail2ban(Fail2banVerb::Unignore { source, jail, change }) => {
                (Operation::Intent(Intent::Fail2banUnignore { source, jail }), Some(change))
            }
            Verb::Sshd(SshdVerb::Show { keywords, user, address, port, all: _ }) => {
                (Operation::Query(Query::SshdShow { keywords, user, address, port }), None)
            }
            Verb::Sshd(SshdVerb::Check) => (Operation::Query(Query::SshdCheck), None),
            Verb::Sshd(SshdVerb::Set { help: _, keyword, values, criteria, change }) => {
                (Operation::Intent(Intent::SshdSet { keyword, values, criteria }), Some(change))
            }
            Verb::Sshd(SshdVerb::Unset { keyword, criteria, change }) => {
                (Operation::Intent(Intent::SshdUnset { keyword, criteria }), Some(change))
            }
            Verb::Sshd(SshdVerb::Reload { change }) => (Operation::Intent(Intent::SshdReload), Some(change)),
            Verb::Sshd(SshdVerb::Restart { change }) => (Operation::Intent(Intent::SshdRestart), Some(change)),
            Verb::Allow { source, time, change } => {
                (Operation::Intent(Intent::Allow { source, seconds: time.as_secs() }), Some(change))
            }
            Verb::Leases => (Operation::Records(Records::Leases), None),
            Verb::Revoke { id, change } => (Operation::Intent(Intent::Revoke { id }), Some(change)),
            Verb::Audit(verb) => (verb.operation(), None),
            Verb::Status => (Operation::Query(Query::Status), None),
        };
        let Some(ChangeArgs { dry_run, plan, confirm_within, reason }) = change else { return plain(operation, None) };
        let confirm_within = confirm_within.map(|time| time.as_secs());
        let mode = if dry_run { Mode::DryRun } else { Mode::Apply { plan, confirm_within } };
        Wish::Ask(Ask { operation, mode, reason })
    }
}
