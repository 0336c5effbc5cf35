//! `nf_tables`: the ruleset as read by netlink (iptables-nft included), its verdict by running the rules' own expressions,
//! and the steps on elements and rules. Never reads a set to answer about one address.

#[cfg(any(test, feature = "fake"))]
pub mod build;
pub mod condition;
pub mod depends;
mod early;
pub mod evaluate;
pub mod expression;
pub mod forwarded;
pub mod index;
pub mod lift;
mod load;
mod lookup;
pub mod order;
pub mod owner;
mod registers;
mod remember;
pub mod render;
mod run;
pub mod same;
mod sift;
pub mod split;
mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use early::fails_early;
use expression::Expression;
pub use run::{End, Found, Run};
pub use step::Step;

/// An nftables family, with the kernel's numbers (`linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `NFPROTO_INET` 1
    Inet,
    /// `NFPROTO_IPV4` 2
    Ip,
    /// `NFPROTO_ARP` 3
    Arp,
    /// `NFPROTO_NETDEV` 5
    Netdev,
    /// `NFPROTO_BRIDGE` 7
    Bridge,
    /// `NFPROTO_IPV6` 10
    Ip6,
}

impl Family {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Arp => 3,
            Family::Netdev => 5,
            Family::Bridge => 7,
            Family::Ip6 => 10,
        }
    }

    /// From the kernel's number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Family::Inet, Family::Ip, Family::Arp, Family::Netdev, Family::Bridge, Family::Ip6]
            .into_iter()
            .find(|family| family.number() == number)
    }
}

/// As `nft` prints it.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Arp => "arp",
            Family::Netdev => "netdev",
            Family::Bridge => "bridge",
            Family::Ip6 => "ip6",
        })
    }
}

/// The ruleset at one generation, without the elements of its sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The kernel's generation id when it was read; a batch guarded by it is refused after any other change.
    pub generation: u32,
    /// Tables in the kernel's order.
    pub tables: Vec<Table>,
    /// Chains in the kernel's order, each with its rules in order. Shared, so that predictions are cheap copies.
    pub chains: Vec<Arc<Chain>>,
    /// Sets and maps, without elements.
    pub sets: Vec<Arc<Set>>,
    /// Lookups made so far: `None` means the set does not hold the key.
    pub elements: BTreeMap<ElementKey, Option<Element>>,
    /// Sets read whole so far.
    pub dumps: BTreeMap<SetKey, Vec<Element>>,
}

impl State {
    /// Where the chain of each name stands in [`State::chains`]: made once where many are looked for.
    pub fn chain_names(&self) -> BTreeMap<(Family, &str, &str), usize> {
        let mut names = BTreeMap::new();
        for (index, chain) in self.chains.iter().enumerate() {
            names.entry((chain.family, chain.table.as_str(), chain.name.as_str())).or_insert(index);
        }
        names
    }

    /// Whether a rule sets packets' marks, by which policy rules may send them elsewhere.
    pub fn sets_marks(&self) -> bool {
        // NFT_META_MARK
        let sets = |expression: &Expression| match expression {
            Expression::MetaSet { key: 3, .. } | Expression::Unknown { .. } => true,
            Expression::Target { name, .. } => matches!(name.as_str(), "MARK" | "CONNMARK"),
            _ => false,
        };
        self.chains.iter().flat_map(|chain| &chain.rules).any(|rule| rule.expressions.iter().any(sets))
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// `flags dormant`: its base chains are not registered, so it does nothing.
    pub dormant: bool,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The chain's name.
    pub name: String,
    /// The kernel's handle.
    pub handle: u64,
    /// Set for base chains.
    pub base: Option<BaseChain>,
    /// In order.
    pub rules: Vec<Arc<Rule>>,
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseChain {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The hook's number within its family (`NF_INET_PRE_ROUTING` 0, `LOCAL_IN` 1, `FORWARD` 2, `LOCAL_OUT` 3, `POST_ROUTING` 4;
    /// `NF_NETDEV_INGRESS` 0, `EGRESS` 1; inet ingress 5).
    pub hook: u32,
    /// Lower runs first.
    pub priority: i32,
    /// Whether the policy is accept (else drop).
    pub policy_accept: bool,
    /// Devices of netdev and ingress chains.
    pub devices: Vec<String>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The kernel's handle, unique in its table.
    pub handle: u64,
    /// Its expressions, in order.
    pub expressions: Vec<Expression>,
    /// The `comment "..."` of nft, if any.
    pub comment: Option<String>,
    /// The payload of `NFTA_RULE_EXPRESSIONS` as the kernel sent it, to put the very rule back.
    pub raw_expressions: Vec<u8>,
    /// The payload of `NFTA_RULE_USERDATA`.
    pub userdata: Vec<u8>,
    /// `NFTA_RULE_COMPAT` (protocol, flags) of iptables-nft rules.
    pub compat: Option<(u32, u32)>,
}

/// Names a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetKey {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The set's name; anonymous ones are called `__set0`, `__map0`, ...
    pub set: String,
}

impl fmt::Display for SetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.set)
    }
}

/// A key to look up in a set: one value, each field of a concatenation padded to 4 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ElementKey {
    /// Where.
    pub set: SetKey,
    /// What, in network or host byte order as the expression loads it.
    pub key: Vec<u8>,
}

/// A set or map, without its elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Its name.
    pub key: SetKey,
    /// The kernel's handle.
    pub handle: u64,
    /// `NFT_SET_*` flags as the kernel gives them (`linux/netfilter/nf_tables.h`).
    pub flags: u32,
    /// `NFTA_SET_KEY_TYPE`: nft's own type number (7 `ipv4_addr`, 8 `ipv6_addr`, 13 `inet_service`, concatenations 6 bits each).
    pub key_type: u32,
    /// Bytes of a key.
    pub key_len: u32,
    /// Field lengths of a concatenation (`NFTA_SET_DESC_CONCAT`), empty for plain keys and old kernels.
    pub fields: Vec<u32>,
    /// `NFTA_SET_DATA_TYPE` of maps; 0xffffff00 is a verdict map.
    pub data_type: Option<u32>,
    /// Bytes of a map's data.
    pub data_len: Option<u32>,
    /// `NFTA_SET_OBJ_TYPE` of maps that give named objects (`NFT_OBJECT_*`).
    #[serde(default)]
    pub object: Option<u32>,
}

impl Set {
    /// `NFT_SET_ANONYMOUS` 0x1: belongs to one rule and goes with it.
    pub fn anonymous(&self) -> bool {
        self.flags & 0x1 != 0
    }

    /// `NFT_SET_CONSTANT` 0x2: elements cannot change.
    pub fn constant(&self) -> bool {
        self.flags & 0x2 != 0
    }

    /// `NFT_SET_INTERVAL` 0x4: elements are ranges.
    pub fn interval(&self) -> bool {
        self.flags & 0x4 != 0
    }

    /// `NFT_SET_MAP` 0x8: elements carry data.
    pub fn map(&self) -> bool {
        self.flags & 0x8 != 0
    }

    /// `NFT_SET_TIMEOUT` 0x10: elements can end by themselves.
    pub fn timeout(&self) -> bool {
        self.flags & 0x10 != 0
    }

    /// `NFT_SET_CONCAT` 0x80: interval set of concatenations (pipapo).
    pub fn concat(&self) -> bool {
        self.flags & 0x80 != 0
    }
}

/// An element of a set, with both ends where it is a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// The key, or the lower end (inclusive).
    pub key: Vec<u8>,
    /// The upper end, inclusive, of a range; `None` for a single value. What the kernel keeps as a separate
    /// `NFT_SET_ELEM_INTERVAL_END` element (exclusive end) is folded into this by the reader.
    pub key_end: Option<Vec<u8>>,
    /// `NFT_SET_ELEM_CATCHALL`: matches what no other element does.
    pub catchall: bool,
    /// The data of a map's element.
    pub data: Option<ElementData>,
    /// Milliseconds it was given, where it has a timeout.
    pub timeout_ms: Option<u64>,
    /// Milliseconds it still has.
    pub expires_ms: Option<u64>,
    /// The `comment` in its user data.
    pub comment: Option<String>,
    /// The payload of `NFTA_SET_ELEM_USERDATA`.
    pub userdata: Vec<u8>,
    /// The expressions of the element itself (counter, limit, ...) as attributes of the kernel's dump, to put the very
    /// element back. They hold counters: never part of a comparison.
    #[serde(default)]
    pub raw_expressions: Vec<u8>,
    /// `NFTA_SET_ELEM_OBJREF`: the object an object map names.
    #[serde(default)]
    pub object: Option<String>,
}

/// What a map gives for a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ElementData {
    /// A value.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(expression::Verdict),
}
