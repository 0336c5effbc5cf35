//! Policy rules as ip-rule(8) has them: which table is looked into for whom. For the trace, which lists those that an answer to the
//! client may meet; the verdict is the kernel's own answer to a lookup.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Kind, why};
use crate::address::Source;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Lower is looked at first.
    pub priority: u32,
    /// `not`: it is about everything that the rest of it is not about.
    pub inverted: bool,
    /// The packet's source; `None` is all.
    pub from: Option<Source>,
    /// Its destination; `None` is all.
    pub to: Option<Source>,
    /// The interface it came in by; `lo` is what this host sends itself.
    pub iif: Option<String>,
    /// The protocol, by its number; `None` is all.
    pub protocol: Option<u8>,
    /// What else it asks for, as `ip rule` prints it: `fwmark 0x1`, `oif eth0`, `uidrange 0-99`.
    pub others: Vec<String>,
    /// What it does.
    pub does: Does,
}

/// What a rule does (`FR_ACT_*`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Does {
    /// Looks into a table; the text is what `ip rule` prints behind it, such as ` suppress_prefixlength 0`.
    Look(u32, String),
    /// Goes on at the rule with this priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Refuses.
    Refuse(Kind),
    /// Something else, by its number.
    Other(u8),
}

/// As `ip rule` prints it.
impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |source: &Option<Source>| source.map_or_else(|| "all".to_owned(), Source::short);
        write!(f, "{}: {}from {}", self.priority, if self.inverted { "not " } else { "" }, address(&self.from))?;
        if self.to.is_some() {
            write!(f, " to {}", address(&self.to))?;
        }
        let (marks, others): (Vec<&String>, Vec<&String>) =
            self.others.iter().partition(|other| other.starts_with("tos ") || other.starts_with("fwmark "));
        let iif = self.iif.iter().map(|iif| format!("iif {iif}"));
        let protocol = self.protocol.map(|number| format!("ipproto {}", protocol_name(number)));
        for part in marks.into_iter().cloned().chain(iif).chain(others.into_iter().cloned()).chain(protocol) {
            write!(f, " {part}")?;
        }
        match &self.does {
            Does::Look(table, more) => write!(f, " lookup {}{more}", table_name(*table)),
            Does::Goto(priority) => write!(f, " goto {priority}"),
            Does::Nop => f.write_str(" nop"),
            Does::Refuse(kind) => write!(f, " {kind}"),
            Does::Other(number) => write!(f, " action {number}"),
        }
    }
}

/// As in `/etc/protocols`; others are shown by their number.
fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

/// As in `/etc/iproute2/rt_tables`; other tables have a number.
fn table_name(table: u32) -> String {
    match table {
        255 => "local".to_owned(),
        254 => "main".to_owned(),
        253 => "default".to_owned(),
        other => other.to_string(),
    }
}

impl PolicyRule {
    /// On what it depends that it is about an answer from one of the host's own addresses to the client: nothing where it is about all of
    /// them; `None` where it is about none.
    pub fn concerns(&self, client: Source, own: &BTreeSet<IpAddr>) -> Option<Vec<String>> {
        let mut depends = Vec::new();
        let mut never = false;
        if let Some(to) = self.to.filter(|to| !to.contains(client)) {
            never |= !to.overlaps(client);
            depends.push(format!("which address of {} it is", client.short()));
        }
        if let Some(from) = self.from {
            let mut own = own.iter().filter(|own| own.is_ipv4() == client.is_ipv4()).map(|own| from.contains((*own).into()));
            let (any, all) = (own.clone().any(|one| one), own.all(|one| one));
            never |= !any;
            if !all {
                depends.push("which own address it comes from".to_owned());
            }
        }
        // What this host sends itself is looked up as if it came in by lo (`fib_rules_lookup`, `LOOPBACK_IFINDEX`).
        never |= self.iif.as_ref().is_some_and(|iif| iif != "lo") || self.protocol.is_some_and(|protocol| protocol != 6);
        depends.extend(self.others.iter().cloned());
        match (self.inverted, never) {
            (true, true) => Some(Vec::new()),
            (true, false) if depends.is_empty() => None,
            (false, true) => None,
            (_, false) => Some(depends),
        }
    }

    /// What it does to a packet that it is about.
    pub fn effect(&self) -> String {
        match &self.does {
            Does::Look(table, _) => format!("looks into table {}", table_name(*table)),
            Does::Goto(priority) => format!("goes on at rule {priority}"),
            Does::Nop => "goes on".to_owned(),
            Does::Refuse(kind) => format!("takes it: {}", why(*kind).replace("route", "policy rule")),
            Does::Other(_) => "unknown".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rule() -> PolicyRule {
        PolicyRule {
            priority: 100,
            inverted: false,
            from: None,
            to: None,
            iif: None,
            protocol: None,
            others: Vec::new(),
            does: Does::Look(254, String::new()),
        }
    }

    fn net(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn a_policy_rule_reads_as_ip_rule_prints_it() {
        assert_eq!(rule().to_string(), "100: from all lookup main");
        let marked = PolicyRule {
            to: Some(net("203.0.113.0/24")),
            iif: Some("lo".to_owned()),
            protocol: Some(6),
            others: vec!["fwmark 0x1/0xff".to_owned()],
            does: Does::Look(7, " suppress_prefixlength 0".to_owned()),
            ..rule()
        };
        assert_eq!(
            marked.to_string(),
            "100: from all to 203.0.113.0/24 fwmark 0x1/0xff iif lo ipproto tcp lookup 7 suppress_prefixlength 0"
        );
        let refusing = PolicyRule { inverted: true, from: Some(net("192.0.2.1")), does: Does::Refuse(Kind::Prohibit), ..rule() };
        assert_eq!(refusing.to_string(), "100: not from 192.0.2.1 prohibit");
    }

    #[test]
    fn only_rules_that_an_answer_may_meet_are_of_interest() {
        let own = BTreeSet::from(["192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap()]);
        let client: Source = "203.0.113.7".parse().unwrap();
        let concerns = |rule: PolicyRule| rule.concerns(client, &own);
        assert_eq!(concerns(rule()), Some(Vec::new()));
        assert_eq!(concerns(PolicyRule { to: Some(net("203.0.113.0/24")), ..rule() }), Some(Vec::new()));
        assert_eq!(concerns(PolicyRule { to: Some(net("203.0.113.8")), ..rule() }), None);
        assert_eq!(concerns(PolicyRule { from: Some(net("10.0.0.0/8")), ..rule() }), None);
        assert_eq!(concerns(PolicyRule { from: Some(net("192.0.2.0/24")), ..rule() }).unwrap().len(), 1, "one of two");
        assert_eq!(concerns(PolicyRule { protocol: Some(17), ..rule() }), None);
        assert_eq!(concerns(PolicyRule { protocol: Some(6), ..rule() }), Some(Vec::new()));
        assert_eq!(concerns(PolicyRule { iif: Some("eth0".to_owned()), ..rule() }), None);
        assert_eq!(concerns(PolicyRule { others: vec!["fwmark 0x1".to_owned()], ..rule() }).unwrap(), ["fwmark 0x1"]);
        let inverted = |to: &str| PolicyRule { inverted: true, to: Some(net(to)), ..rule() };
        assert_eq!((concerns(inverted("203.0.113.7")), concerns(inverted("203.0.113.8"))), (None, Some(Vec::new())));
        let part = rule().concerns("203.0.113.0/24".parse().unwrap(), &own);
        assert_eq!(part, Some(Vec::new()));
    }
}
