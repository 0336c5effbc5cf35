//! xtables matches: the kernel's structs decoded. Shared by iptables-legacy and iptables-nft. Judges nothing; `holds` does.

use serde::{Deserialize, Serialize};

use crate::subsystem::ipset::SetCounters;
use crate::subsystem::ipset::SetReference;
use crate::subsystem::recent::Asked;

/// A decoded match (`linux/netfilter/xt_*.h`). Only what concerns a verdict or a rule's text is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Match {
    /// `tcp`
    Tcp {
        /// Source ports.
        sources: (u16, u16),
        /// Destination ports.
        destinations: (u16, u16),
        /// A TCP option that must be there; 0 is none.
        option: u8,
        /// Flags looked at, and which of them must be set.
        flags: (u8, u8),
        /// `XT_TCP_INV_*`
        invert: u8,
    },
    /// `udp`
    Udp {
        /// Source ports.
        sources: (u16, u16),
        /// Destination ports.
        destinations: (u16, u16),
        /// `XT_UDP_INV_*`
        invert: u8,
    },
    /// `icmp`, `icmp6`
    Icmp {
        /// Type.
        kind: u8,
        /// Lowest and highest code.
        codes: (u8, u8),
        /// Inverted.
        invert: bool,
        /// `icmp6`
        v6: bool,
    },
    /// `multiport`
    Multiport {
        /// Which ports.
        side: PortSide,
        /// Ranges, both ends included; `false` marks a single port.
        ports: Vec<(u16, u16, bool)>,
        /// Inverted.
        invert: bool,
    },
    /// `conntrack`
    Conntrack(Box<Conntrack>),
    /// `state`, with the bits of [`crate::packet::Tracking`].
    State(u8),
    /// `set`
    Set {
        /// Which ipset, and the fields of the packet.
        set: SetReference,
        /// `IPSET_FLAG_*` and counters that must compare, where there are any (revisions 3 and 4).
        counters: Option<SetCounters>,
    },
    /// `recent`
    Recent {
        /// List name.
        name: String,
        /// `XT_RECENT_*`
        operation: u8,
        /// Within so many seconds; 0 is ever.
        seconds: u32,
        /// So many hits.
        hits: u32,
        /// By destination instead of source.
        destination: bool,
        /// Inverted.
        invert: bool,
        /// Address mask (revision 1), IPv4 in the low 32 bits.
        mask: Option<u128>,
    },
    /// `limit`: at most one packet every `average` ten-thousandths of a second.
    Limit {
        /// Average.
        average: u32,
        /// Burst.
        burst: u32,
    },
    /// `hashlimit`
    Hashlimit(Box<Hashlimit>),
    /// `connlimit`
    Connlimit {
        /// Mask on the address, IPv4 in the low 32 bits.
        mask: u128,
        /// Number of connections.
        limit: u32,
        /// `XT_CONNLIMIT_*`: 1 matches up to the limit instead of above it, 2 counts by destination.
        flags: u32,
        /// Revision.
        revision: u32,
    },
    /// `addrtype`
    Addrtype {
        /// Wanted source types, bits of `1 << RTN_*`; 0 is any.
        source: u16,
        /// Wanted destination types.
        destination: u16,
        /// `XT_ADDRTYPE_*`
        flags: u32,
    },
    /// `mac`
    Mac {
        /// Source.
        address: [u8; 6],
        /// Inverted.
        invert: bool,
    },
    /// `mark`
    Mark(Masked),
    /// `connmark`
    Connmark(Masked),
    /// `comment`
    Comment(String),
    /// `owner`
    Owner {
        /// Lowest and highest user id.
        uids: (u32, u32),
        /// Lowest and highest group id.
        gids: (u32, u32),
        /// `XT_OWNER_*` looked at.
        flags: u8,
        /// `XT_OWNER_*` inverted.
        invert: u8,
    },
    /// `time`
    Time(Time),
    /// `iprange`
    Iprange {
        /// Source range.
        source: (u128, u128),
        /// Destination range.
        destination: (u128, u128),
        /// `IPRANGE_*`
        flags: u8,
    },
    /// `tcpmss`
    TcpMss {
        /// Lowest and highest.
        range: (u16, u16),
        /// Inverted.
        invert: bool,
    },
    /// `length`
    Length {
        /// Lowest and highest.
        range: (u16, u16),
        /// Inverted.
        invert: bool,
    },
    /// `pkttype`
    PacketType {
        /// 0 unicast to this host, 1 broadcast, 2 multicast.
        kind: u32,
        /// Inverted.
        invert: bool,
    },
    /// `physdev`
    Physdev {
        /// Bridge port it came in by.
        input: InterfaceName,
        /// Bridge port it leaves by.
        output: InterfaceName,
        /// `XT_PHYSDEV_OP_*` inverted.
        invert: u8,
        /// `XT_PHYSDEV_OP_*` looked at.
        flags: u8,
    },
    /// `socket`
    Socket {
        /// `XT_SOCKET_*`
        flags: u8,
    },
    /// `statistic`
    Statistic {
        /// 0 random, 1 every nth.
        mode: u16,
        /// Inverted.
        invert: bool,
        /// Probability (of 2^31), or `every`, and `packet`.
        values: (u32, u32),
    },
    /// `quota`
    Quota {
        /// Bytes.
        bytes: u64,
        /// Inverted.
        invert: bool,
    },
    /// `cgroup`
    Cgroup {
        /// Path, where given.
        path: Option<String>,
        /// Class id, where given.
        class: Option<u32>,
        /// Path, class inverted.
        invert: (bool, bool),
    },
    /// `devgroup`
    Devgroup {
        /// `XT_DEVGROUP_*`: 1 looks at the interface it came in by, 2 inverts that, 4 at the one it leaves by, 8 inverts that.
        flags: u32,
        /// Group and mask of the interface it came in by.
        input: (u32, u32),
        /// Group and mask of the interface it leaves by.
        output: (u32, u32),
    },
    /// `rpfilter`
    Rpfilter(u8),
    /// `dscp`
    Dscp {
        /// Value.
        value: u8,
        /// Inverted.
        invert: bool,
    },
    /// `tos`
    Tos {
        /// Mask.
        mask: u8,
        /// Value.
        value: u8,
        /// Inverted.
        invert: bool,
    },
    /// `ttl`, `hl`
    HopLimit {
        /// 0 equal, 1 not equal, 2 less, 3 greater.
        mode: u8,
        /// Value.
        value: u8,
        /// Whether it is `hl`.
        v6: bool,
    },
    /// `helper`
    Helper {
        /// Name; empty is any.
        name: String,
        /// Inverted.
        invert: bool,
    },
    /// `rt`, `frag`, `hbh`, `dst`, `ah`, `esp`: one IPv6 extension header.
    Extension {
        /// Which.
        name: String,
        /// What `rt` asks of it, where that is all it asks: type, segments left, length.
        routing: Option<Routing>,
    },
    /// `ipv6header`: the extension headers there are.
    Ipv6Header {
        /// `MASK_*` wanted.
        flags: u8,
        /// `MASK_*` inverted.
        invert: u8,
        /// `--soft`
        soft: bool,
    },
    /// One whose struct is not decoded.
    Undecoded {
        /// Name.
        name: String,
        /// Revision.
        revision: u32,
    },
}

/// Which port `multiport` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortSide {
    /// `--sports`
    Source,
    /// `--dports`
    Destination,
    /// `--ports`
    Either,
}

/// `struct ip6t_rt` without its addresses
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// Type.
    pub kind: u32,
    /// Segments left, lowest and highest.
    pub segments: (u32, u32),
    /// Length.
    pub length: u32,
    /// `IP6T_RT_*` looked at: 1 type, 2 segments left, 4 length.
    pub flags: u8,
    /// The same inverted.
    pub invert: u8,
}

/// `value & mask == want`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masked {
    /// Wanted.
    pub value: u32,
    /// Bits looked at.
    pub mask: u32,
    /// Inverted.
    pub invert: bool,
}

/// `xt_conntrack_mtinfo1` to `3`, ports in host order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Original source, original destination, reply source, reply destination: address and mask.
    pub addresses: [(u128, u128); 4],
    /// The same four: lowest and highest port.
    pub ports: [(u16, u16); 4],
    /// Seconds left, lowest and highest.
    pub expires: (u32, u32),
    /// Protocol.
    pub protocol: u16,
    /// `XT_CONNTRACK_*` looked at.
    pub flags: u16,
    /// `XT_CONNTRACK_*` inverted.
    pub invert: u16,
    /// `XT_CONNTRACK_STATE_*`
    pub states: u16,
    /// `IPS_*`
    pub status: u16,
}

/// `hashlimit_cfg1` to `3`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashlimit {
    /// Table name.
    pub name: String,
    /// `XT_HASHLIMIT_*`
    pub mode: u32,
    /// Average, in units of the revision.
    pub average: u64,
    /// Burst.
    pub burst: u64,
    /// Buckets, entries, garbage collection and expiry in milliseconds.
    pub table: (u32, u32, u32, u32),
    /// Interval of `--hashlimit-rate-match`, seconds.
    pub interval: u32,
    /// Prefix lengths of the grouping.
    pub masks: (u8, u8),
    /// Revision.
    pub revision: u32,
}

/// `xt_time_info`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// First and last second since 1970.
    pub date: (u32, u32),
    /// First and last second of the day.
    pub daytime: (u32, u32),
    /// Bits 1 to 31.
    pub monthdays: u32,
    /// Bits 1 to 7.
    pub weekdays: u8,
    /// `XT_TIME_*`
    pub flags: u8,
}

/// An interface name as a rule has it: a whole name, or the beginning of one (`eth+`), or any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceName {
    /// The name, or its beginning; empty is any.
    pub name: String,
    /// Whether longer names match too.
    pub prefix: bool,
}

impl InterfaceName {
    /// No condition.
    pub const ANY: InterfaceName = InterfaceName { name: String::new(), prefix: true };

    /// From the 16 bytes of the name and the 16 of its mask (`ifname_compare_aligned`): a mask that covers the final NUL wants
    /// the whole name. iptables makes no other masks; one with holes is `None`.
    pub fn decode(name: &[u8], mask: &[u8]) -> Option<Self> {
        let len = mask.iter().position(|byte| *byte != 0xff).unwrap_or(mask.len());
        if mask.get(len..)?.iter().any(|byte| *byte != 0) {
            return None;
        }
        let covered = name.get(..len)?;
        match covered.iter().position(|byte| *byte == 0) {
            Some(end) => Some(Self { name: text(covered.get(..end)?)?, prefix: false }),
            None => Some(Self { name: text(covered)?, prefix: len < mask.len() }),
        }
    }

    /// Whether any interface will do.
    pub fn any(&self) -> bool {
        self.name.is_empty() && self.prefix
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

impl Match {
    /// What it asks of a list, where it is a `recent` match.
    pub fn recent(&self) -> Option<Asked<'_>> {
        match self {
            Match::Recent { name, operation, seconds, hits, destination, invert, mask } => Some(Asked {
                name,
                operation: *operation,
                seconds: *seconds,
                hits: *hits,
                destination: *destination,
                invert: *invert,
                mask: *mask,
            }),
            _ => None,
        }
    }
}

/// The fields of a set reference, as iptables writes them: `src,dst`.
pub fn set_fields(set: SetReference) -> String {
    (1..=set.dimensions)
        .map(|field| if set.flags.checked_shr(u32::from(field)).unwrap_or(0) & 1 != 0 { "src" } else { "dst" })
        .collect::<Vec<_>>()
        .join(",")
}
