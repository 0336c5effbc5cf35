//! Who made what blocks: the types that decisions read, and the words that people and JSON read. How an owner is recognised is
//! for the subsystems to say.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words;

/// Who made a rule, an element, a line or a setting, and must be asked to change it. In JSON it is its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Owner {
    /// No program that is known: a person, or nftables.conf.
    Nobody,
    /// fail2ban, and the jail where it is known.
    Fail2ban(Option<String>),
    /// firewalld, and the part of it where it is known.
    Firewalld(Option<FirewalldPart>),
    /// ufw, and the part of it where it is known.
    Ufw(Option<UfwPart>),
    /// Docker
    Docker,
    /// The bouncer of `CrowdSec`.
    Crowdsec,
    /// sshguard
    Sshguard,
    /// libvirt
    Libvirt,
    /// `DenyHosts`
    DenyHosts,
    /// systemd
    Systemd,
    /// sshd
    Sshd,
    /// A unit or a program, by its own name; or any other words of an answer that was read.
    Named(String),
}

/// What of firewalld a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirewalldPart {
    /// `firewall-cmd --panic-on`: a table of its own that drops all.
    Panic,
    /// A zone.
    Zone(String),
    /// A policy.
    Policy(String),
}

/// What of ufw a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UfwPart {
    /// A rule, as `ufw` takes it: `deny from 203.0.113.7`.
    Rule(String),
    /// What happens to what no rule decides.
    DefaultPolicy,
}

impl Owner {
    /// A jail of fail2ban's.
    pub fn jail(name: &str) -> Self {
        Owner::Fail2ban(Some(name.to_owned()))
    }

    /// The words of JSON and of plans, which stay as they are.
    fn words(&self) -> String {
        let plain = match self {
            Owner::Nobody => "nobody",
            Owner::Fail2ban(None) => "fail2ban",
            Owner::Fail2ban(Some(jail)) => return format!("fail2ban jail {jail}"),
            Owner::Firewalld(None) => "firewalld",
            Owner::Firewalld(Some(FirewalldPart::Panic)) => "firewalld panic mode",
            Owner::Firewalld(Some(FirewalldPart::Zone(name))) => return format!("firewalld zone {name}"),
            Owner::Firewalld(Some(FirewalldPart::Policy(name))) => return format!("firewalld policy {name}"),
            Owner::Ufw(None) => "ufw",
            Owner::Ufw(Some(UfwPart::Rule(rule))) => return format!("ufw rule: {rule}"),
            Owner::Ufw(Some(UfwPart::DefaultPolicy)) => "ufw default policy",
            Owner::Docker => "Docker",
            Owner::Crowdsec => "CrowdSec",
            Owner::Sshguard => "sshguard",
            Owner::Libvirt => "libvirt",
            Owner::DenyHosts => "DenyHosts",
            Owner::Systemd => "systemd",
            Owner::Sshd => "sshd",
            Owner::Named(name) => name,
        };
        plain.to_owned()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(&self.words()))
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.words()
    }
}

/// As an answer of the agent's is read.
impl From<String> for Owner {
    fn from(words: String) -> Self {
        let plain = match words.as_str() {
            "nobody" => Some(Owner::Nobody),
            "fail2ban" => Some(Owner::Fail2ban(None)),
            "firewalld" => Some(Owner::Firewalld(None)),
            "firewalld panic mode" => Some(Owner::Firewalld(Some(FirewalldPart::Panic))),
            "ufw" => Some(Owner::Ufw(None)),
            "ufw default policy" => Some(Owner::Ufw(Some(UfwPart::DefaultPolicy))),
            "Docker" => Some(Owner::Docker),
            "CrowdSec" => Some(Owner::Crowdsec),
            "sshguard" => Some(Owner::Sshguard),
            "libvirt" => Some(Owner::Libvirt),
            "DenyHosts" => Some(Owner::DenyHosts),
            "systemd" => Some(Owner::Systemd),
            "sshd" => Some(Owner::Sshd),
            _ => None,
        };
        let rest = |start: &str| words.strip_prefix(start).map(str::to_owned);
        plain
            .or_else(|| rest("fail2ban jail ").map(|jail| Owner::Fail2ban(Some(jail))))
            .or_else(|| rest("firewalld zone ").map(|zone| Owner::Firewalld(Some(FirewalldPart::Zone(zone)))))
            .or_else(|| rest("firewalld policy ").map(|policy| Owner::Firewalld(Some(FirewalldPart::Policy(policy)))))
            .or_else(|| rest("ufw rule: ").map(|rule| Owner::Ufw(Some(UfwPart::Rule(rule)))))
            .unwrap_or(Owner::Named(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_keeps_its_words_in_json_and_reads_back() {
        let owners = [
            (Owner::Nobody, "nobody"),
            (Owner::Fail2ban(None), "fail2ban"),
            (Owner::jail("sshd"), "fail2ban jail sshd"),
            (Owner::Firewalld(None), "firewalld"),
            (Owner::Firewalld(Some(FirewalldPart::Panic)), "firewalld panic mode"),
            (Owner::Firewalld(Some(FirewalldPart::Zone("drop".to_owned()))), "firewalld zone drop"),
            (Owner::Firewalld(Some(FirewalldPart::Policy("allow-host-ipv6".to_owned()))), "firewalld policy allow-host-ipv6"),
            (Owner::Ufw(None), "ufw"),
            (Owner::Ufw(Some(UfwPart::Rule("deny from 203.0.113.7".to_owned()))), "ufw rule: deny from 203.0.113.7"),
            (Owner::Ufw(Some(UfwPart::DefaultPolicy)), "ufw default policy"),
            (Owner::Docker, "Docker"),
            (Owner::Crowdsec, "CrowdSec"),
            (Owner::Sshguard, "sshguard"),
            (Owner::Libvirt, "libvirt"),
            (Owner::DenyHosts, "DenyHosts"),
            (Owner::Systemd, "systemd"),
            (Owner::Sshd, "sshd"),
            (Owner::Named("ssh.service".to_owned()), "ssh.service"),
        ];
        for (owner, words) in owners {
            let json = serde_json::to_string(&owner).unwrap_or_else(|e| panic!("{owner:?}: {e}"));
            assert_eq!(json, format!("\"{words}\""));
            assert_eq!(owner.to_string(), words);
            let read: Owner = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json}: {e}"));
            assert_eq!(read, owner);
        }
    }
}
