//! xtables: iptables-legacy as read from the kernel's own tables, and the matches and targets it shares with iptables-nft.
//! Holds the model; `blob` reads it, `evaluate` runs it, `step` changes it.

pub mod blob;
pub mod evaluate;
pub mod extension;
pub mod save;
pub mod step;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::subsystem::ipset::SetNames;
use crate::subsystem::xtables::extension::matches::{InterfaceName, Match};
use crate::subsystem::xtables::extension::targets::{StandardVerdict, Target};
use crate::subsystem::xtables::extension::{render, render_target};
use crate::verdict::Admits;
pub use step::Step;

/// iptables-legacy: the tables that exist. A table that is not listed does not filter anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Of iptables.
    pub v4: Vec<Table>,
    /// Of ip6tables.
    pub v6: Vec<Table>,
    /// Names of the ipsets that rules use.
    pub set_names: SetNames,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Whether it is of ip6tables.
    pub v6: bool,
    /// `filter`, `nat`, `mangle`, `raw`, `security`.
    pub name: String,
    /// Built-in chains first, in the kernel's order. Shared, so that predictions are cheap copies.
    pub chains: Vec<Arc<Chain>>,
    /// Why its rules cannot be changed by sshfix, where that is so.
    pub readonly: Option<String>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// The hook of a built-in chain.
    pub hook: Option<Hook>,
    /// What a built-in chain does at its end: accept, else drop.
    pub policy_accept: bool,
    /// Packets and bytes that came to its end so far.
    pub counters: (u64, u64),
    /// In order.
    pub rules: Vec<Arc<Rule>>,
}

/// `enum nf_inet_hooks` (`linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING` 0
    Prerouting,
    /// `NF_INET_LOCAL_IN` 1
    Input,
    /// `NF_INET_FORWARD` 2
    Forward,
    /// `NF_INET_LOCAL_OUT` 3
    Output,
    /// `NF_INET_POST_ROUTING` 4
    Postrouting,
}

impl Hook {
    /// In the kernel's order.
    pub const ALL: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    /// The built-in chain's name.
    pub fn chain(self) -> &'static str {
        match self {
            Hook::Prerouting => "PREROUTING",
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
            Hook::Postrouting => "POSTROUTING",
        }
    }
}

/// Where a legacy table runs at a hook (`net/ipv4/netfilter/iptable_*.c`, `enum nf_ip_hook_priorities`); lower runs first.
/// nat runs only for the first packet of a connection. `None` is a table that the kernel does not have.
pub fn priority(table: &str, hook: Hook) -> Option<i32> {
    match (table, hook) {
        ("raw", _) => Some(-300),
        ("mangle", _) => Some(-150),
        // NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC
        ("nat", Hook::Prerouting | Hook::Output) => Some(-100),
        ("nat", Hook::Input | Hook::Postrouting) => Some(100),
        ("filter", _) => Some(0),
        ("security", _) => Some(50),
        _ => None,
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it asks of the IP header and the interfaces.
    pub entry: Entry,
    /// What it asks besides.
    pub matches: Vec<Match>,
    /// What it does.
    pub action: Action,
    /// Packets and bytes so far. They move by themselves and are no part of what the rule is.
    pub counters: (u64, u64),
    /// The rule as iptables-legacy-save prints it, `-A CHAIN` left out; the only form in which it may be given back to iptables.
    pub save: Option<String>,
}

/// The fixed part of a rule (`struct ipt_ip`, `struct ip6t_ip6`). IPv4 addresses are in the low 32 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Source: value and mask.
    pub source: (u128, u128),
    /// Destination: value and mask.
    pub destination: (u128, u128),
    /// Interface it came in by.
    pub input: InterfaceName,
    /// Interface it leaves by.
    pub output: InterfaceName,
    /// Protocol; 0 is any.
    pub protocol: u16,
    /// `-f`: second and further fragments only.
    pub fragment: bool,
    /// `IPT_INV_*`: 1 input, 2 output, 8 source, 16 destination, 32 fragment, 64 protocol.
    pub invert: u8,
}

/// What a rule does when it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing but count.
    Count,
    /// Runs a user chain and comes back.
    Jump(String),
    /// Runs a user chain and does not come back here.
    Goto(String),
    /// A target.
    Target(Target),
}

impl State {
    /// The tables of one address family.
    pub fn tables(&self, v6: bool) -> &[Table] {
        if v6 { &self.v6 } else { &self.v4 }
    }

    /// One table.
    pub fn table(&self, v6: bool, name: &str) -> Option<&Table> {
        self.tables(v6).iter().find(|table| table.name == name)
    }

    /// One table, to predict on.
    pub fn table_mut(&mut self, v6: bool, name: &str) -> Option<&mut Table> {
        let tables = if v6 { &mut self.v6 } else { &mut self.v4 };
        tables.iter_mut().find(|table| table.name == name)
    }

    /// Whether a rule sets packets' marks, by which policy rules may send them elsewhere.
    pub fn sets_marks(&self) -> bool {
        let sets = |rule: &Rule| match &rule.action {
            Action::Target(Target::Undecoded { .. }) => true,
            Action::Target(_) => rule.save.as_ref().is_none_or(|text| text.contains("-j MARK") || text.contains("-j CONNMARK")),
            Action::Count | Action::Jump(_) | Action::Goto(_) => false,
        };
        self.v4.iter().chain(&self.v6).flat_map(|table| &table.chains).flat_map(|chain| &chain.rules).any(|rule| sets(rule))
    }
}

impl Table {
    /// One chain.
    pub fn chain(&self, name: &str) -> Option<&Arc<Chain>> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The chain of a hook.
    pub fn at(&self, hook: Hook) -> Option<&Arc<Chain>> {
        self.chains.iter().find(|chain| chain.hook == Some(hook))
    }

    /// Whether packets that this host forwards to others come to a chain.
    pub fn forwarded(&self, name: &str) -> bool {
        let hooks = [Hook::Prerouting, Hook::Forward, Hook::Postrouting];
        let mut todo: Vec<&Chain> = hooks.into_iter().filter_map(|hook| self.at(hook).map(AsRef::as_ref)).collect();
        let mut seen = BTreeSet::new();
        while let Some(chain) = todo.pop() {
            if chain.name == name {
                return true;
            }
            if seen.insert(&chain.name) {
                let targets = chain.rules.iter().filter_map(|rule| match &rule.action {
                    Action::Jump(to) | Action::Goto(to) => self.chain(to).map(AsRef::as_ref),
                    Action::Count | Action::Target(_) => None,
                });
                todo.extend(targets);
            }
        }
        false
    }

    /// `ip` or `ip6`, as references and places name the family.
    pub fn family(&self) -> &'static str {
        family(self.v6)
    }
}

/// `ip` or `ip6`.
pub fn family(v6: bool) -> &'static str {
    if v6 { "ip6" } else { "ip" }
}

/// The program people know: `iptables-legacy` or `ip6tables-legacy`.
pub fn program(v6: bool) -> &'static str {
    if v6 { "ip6tables-legacy" } else { "iptables-legacy" }
}

impl Rule {
    /// The rule as iptables-save prints it, without `-A CHAIN`: as it was read, or else drawn from the decoded rule.
    pub fn text(&self, v6: bool, sets: &SetNames) -> String {
        self.save.clone().unwrap_or_else(|| self.draw(v6, sets))
    }

    /// The whole line: `-A INPUT -s 203.0.113.7/32 -j DROP`.
    pub fn line(&self, chain: &str, v6: bool, sets: &SetNames) -> String {
        let text = self.text(v6, sets);
        if text.is_empty() { format!("-A {chain}") } else { format!("-A {chain} {text}") }
    }

    /// The rule drawn from what was decoded, whether or not it was read as text.
    pub fn draw(&self, v6: bool, sets: &SetNames) -> String {
        let mut words = self.entry.words(v6);
        words.extend(self.matches.iter().map(|one| render::match_text(one, v6, sets)));
        match &self.action {
            Action::Count => {}
            Action::Jump(chain) => words.push(format!("-j {chain}")),
            Action::Goto(chain) => words.push(format!("-g {chain}")),
            Action::Target(target) => words.push(render_target::target_text(target, v6, sets)),
        }
        words.join(" ")
    }

    /// Whether both are the same rule, counters aside.
    pub fn same(&self, other: &Rule) -> bool {
        match (&self.save, &other.save) {
            (Some(one), Some(two)) => one == two,
            _ => self.entry == other.entry && self.matches == other.matches && self.action == other.action,
        }
    }

    /// The source it names, when it names one that is a plain network (`-s 203.0.113.7/32`).
    pub fn source(&self, v6: bool) -> Option<Source> {
        let (value, mask) = self.entry.source;
        if mask == 0 || self.entry.invert & 8 != 0 {
            return None;
        }
        let len = u8::try_from(render::prefix_len(mask, v6)?).ok()?;
        let address: IpAddr = render::address(value, v6).parse().ok()?;
        Some(Source::new(IpNet::new(address, len).ok()?))
    }

    /// Whether the rule is about exactly this source and no other.
    pub fn names_exactly(&self, v6: bool, source: Source) -> bool {
        self.source(v6) == Some(source)
    }

    /// `-s SOURCE -p tcp -m tcp --dport PORT -j ACCEPT` or `-s SOURCE -p ipv6-icmp -m icmp6 --icmpv6-type TYPE -j ACCEPT`, with
    /// `-m comment --comment MARK` where one is given. From typed values only.
    pub fn accept(source: Source, admits: Admits, mark: Option<&str>) -> Rule {
        let net = source.net();
        let v6 = !source.is_ipv4();
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let (protocol, admitted) = match admits {
            Admits::Tcp(port) => {
                (6, Match::Tcp { sources: (0, 0xffff), destinations: (port, port), option: 0, flags: (0, 0), invert: 0 })
            }
            Admits::Icmpv6(kind) => (58, Match::Icmp { kind, codes: (0, 255), invert: false, v6: true }),
        };
        let mut rule = Rule {
            entry: Entry { source: (bits(net.network()), bits(net.netmask())), protocol, ..Entry::ANY },
            matches: vec![admitted],
            action: Action::Target(Target::Verdict(StandardVerdict::Accept)),
            counters: (0, 0),
            save: None,
        };
        rule.matches.extend(mark.map(|mark| Match::Comment(mark.to_owned())));
        rule.save = Some(rule.draw(v6, &SetNames::new()));
        rule
    }

    /// The same for packets to this host alone: `-m addrtype --dst-type LOCAL` behind what it asks of the port.
    #[must_use]
    pub fn to_this_host(mut self, v6: bool) -> Rule {
        let local = Match::Addrtype { source: 0, destination: 1 << RTN_LOCAL, flags: 0 };
        self.matches.insert(1.min(self.matches.len()), local);
        self.save = Some(self.draw(v6, &SetNames::new()));
        self
    }
}

/// The type of an address of this host (`linux/rtnetlink.h`).
const RTN_LOCAL: u16 = 2;

impl Entry {
    /// No condition.
    pub const ANY: Entry = Entry {
        source: (0, 0),
        destination: (0, 0),
        input: InterfaceName::ANY,
        output: InterfaceName::ANY,
        protocol: 0,
        fragment: false,
        invert: 0,
    };

    /// As iptables-save prints it: source, destination, interfaces, protocol, fragment.
    fn words(&self, v6: bool) -> Vec<String> {
        let mut words = Vec::new();
        let not = |bit: u8| if self.invert & bit != 0 { "! " } else { "" };
        for (option, (value, mask), bit) in [("-s", self.source, 8), ("-d", self.destination, 16)] {
            if mask != 0 || value != 0 || self.invert & bit != 0 {
                words.push(format!("{}{option} {}", not(bit), render::network(value, mask, v6, true)));
            }
        }
        for (option, name, bit) in [("-i", &self.input, 1), ("-o", &self.output, 2)] {
            if !name.any() || self.invert & bit != 0 {
                words.push(format!("{}{option} {}", not(bit), render::interface(name)));
            }
        }
        if self.protocol != 0 || self.invert & 64 != 0 {
            words.push(format!("{}-p {}", not(64), protocol(self.protocol)));
        }
        if self.fragment {
            words.push(format!("{}-f", not(32)));
        }
        words
    }
}

/// A protocol as iptables-save prints it (`xtables_chain_protos`).
fn protocol(number: u16) -> String {
    let name = match number {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "ipv6-icmp",
        132 => "sctp",
        135 => "mobility-header",
        136 => "udplite",
        0 => "all",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// Names a rule by its place. Positions count from 1, as iptables does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Whether it is of ip6tables.
    pub v6: bool,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's position; one past the last rule is the chain's policy.
    pub position: usize,
}

/// As evidence names it: `iptables-legacy filter INPUT 3`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", program(self.v6), self.table, self.chain, self.position)
    }
}
