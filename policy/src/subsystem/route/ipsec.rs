//! `IPsec` policies (xfrm) that drop the plain packets of a login: those that block, and those that want a packet to have come through a
//! tunnel. Judges what the kernel listed; reads nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::verdict::Evidence;

/// One policy, for packets that come in or go out (`struct xfrm_userpolicy_info`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpsecPolicy {
    /// Whether it is about packets that come in.
    pub comes_in: bool,
    /// Their source.
    pub source: Source,
    /// Their destination.
    pub destination: Source,
    /// The protocol; 0 is any.
    pub protocol: u8,
    /// The port of the source and which of its bits count.
    pub source_port: (u16, u16),
    /// The same of the destination.
    pub destination_port: (u16, u16),
    /// Whether it asks for more: an interface, a user, a mark.
    pub asks_more: bool,
    /// Lower is looked at first.
    pub priority: u32,
    /// What it does.
    pub does: IpsecDoes,
}

/// What a policy does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpsecDoes {
    /// Lets it pass as it is.
    Allow,
    /// Wants it to be protected (`tmpl`).
    Protect,
    /// Drops it.
    Block,
}

/// Whether it is about a packet of the login: for certain, perhaps, or not.
enum About {
    Yes,
    Perhaps,
    No,
}

impl IpsecPolicy {
    fn about(&self, client: Source, own: &BTreeSet<IpAddr>, port: u16) -> About {
        let (theirs, ours) = if self.comes_in { (self.source, self.destination) } else { (self.destination, self.source) };
        let (their_port, our_port) =
            if self.comes_in { (self.source_port, self.destination_port) } else { (self.destination_port, self.source_port) };
        let mut own = own.iter().filter(|own| own.is_ipv4() == client.is_ipv4()).map(|own| ours.contains((*own).into()));
        let (any, all) = (own.clone().any(|one| one) || own.clone().next().is_none(), own.all(|one| one));
        let tcp = matches!(self.protocol, 0 | 6);
        let to_port = port & our_port.1 == our_port.0 & our_port.1;
        if !theirs.overlaps(client) || !any || !tcp || !to_port {
            return About::No;
        }
        let whole = theirs.contains(client) && all && their_port.1 == 0 && !self.asks_more;
        if whole { About::Yes } else { About::Perhaps }
    }

    /// As `ip xfrm policy` shows it.
    fn text(&self) -> String {
        let dir = if self.comes_in { "in" } else { "out" };
        let does = match self.does {
            IpsecDoes::Allow => "",
            IpsecDoes::Protect => " tmpl ...",
            IpsecDoes::Block => " action block",
        };
        format!("src {} dst {} dir {dir} priority {}{does}", self.source.net(), self.destination.net(), self.priority)
    }
}

/// The first policy, by priority, that may drop a packet of the login in one direction.
pub fn drops(policies: &[IpsecPolicy], client: Source, own: &BTreeSet<IpAddr>, port: u16) -> Option<(String, Evidence)> {
    [true, false].into_iter().find_map(|comes_in| {
        let mut sorted: Vec<&IpsecPolicy> = policies.iter().filter(|one| one.comes_in == comes_in).collect();
        sorted.sort_by_key(|one| one.priority);
        for policy in sorted {
            match (policy.about(client, own, port), policy.does) {
                (About::No, _) | (About::Perhaps, IpsecDoes::Allow) => {}
                (About::Yes, IpsecDoes::Allow) => return None,
                (_, does) => {
                    let packets = if comes_in { "its packets" } else { "answers" };
                    let what = if does == IpsecDoes::Block { "drops" } else { "may drop, or protect," };
                    let detail = format!("an IPsec policy {what} {packets}, unless others decide before it");
                    return Some((detail, Evidence::new("ip xfrm policy", policy.text())));
                }
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_first_policy_about_a_login_decides_in_each_direction() {
        let own = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let client: Source = "203.0.113.7".parse().unwrap();
        let policy = |comes_in, does, priority| IpsecPolicy {
            comes_in,
            source: if comes_in { client } else { "0.0.0.0/0".parse().unwrap() },
            destination: if comes_in { "192.0.2.1".parse().unwrap() } else { client },
            protocol: 0,
            source_port: (0, 0),
            destination_port: (0, 0),
            asks_more: false,
            priority,
            does,
        };
        let drops = |policies: &[IpsecPolicy]| drops(policies, client, &own, 22).is_some();
        assert!(!drops(&[]));
        for comes_in in [true, false] {
            assert!(drops(&[policy(comes_in, IpsecDoes::Block, 5)]) && drops(&[policy(comes_in, IpsecDoes::Protect, 5)]));
            assert!(!drops(&[policy(comes_in, IpsecDoes::Block, 5), policy(comes_in, IpsecDoes::Allow, 4)]));
            assert!(drops(&[policy(comes_in, IpsecDoes::Block, 5), policy(comes_in, IpsecDoes::Allow, 6)]));
            let part = IpsecPolicy { asks_more: true, ..policy(comes_in, IpsecDoes::Allow, 4) };
            assert!(drops(&[policy(comes_in, IpsecDoes::Block, 5), part]), "an accept that may be about another");
            let other = IpsecPolicy { protocol: 17, ..policy(comes_in, IpsecDoes::Block, 5) };
            assert!(!drops(&[other]), "UDP");
        }
        let web = IpsecPolicy { destination_port: (443, 0xffff), ..policy(true, IpsecDoes::Block, 5) };
        let ssh = IpsecPolicy { destination_port: (22, 0xffff), ..policy(true, IpsecDoes::Block, 5) };
        assert!(!drops(&[web]) && drops(&[ssh]));
        let others = IpsecPolicy { source: "203.0.113.8".parse().unwrap(), ..policy(true, IpsecDoes::Block, 5) };
        assert!(!drops(&[others]));
    }
}
