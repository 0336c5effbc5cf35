//! xtables matches: the kernel's structs decoded. Shared by iptables-legacy and iptables-nft. Judges nothing; `holds` does.

use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::targets::SetReference;

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
    /// `state`, with the bits of [`super::view::Tracking`].
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

/// Counters an ipset element must have (`ip_set_counter_match`): operation (0 none, 1 =, 2 !=, 3 <, 4 >) and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCounters {
    /// Packets.
    pub packets: (u8, u64),
    /// Bytes.
    pub bytes: (u8, u64),
    /// `IPSET_FLAG_*`
    pub flags: u32,
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

/// Decodes a match. Never fails: what is not understood is [`Match::Undecoded`].
pub fn decode(v6: bool, name: &str, revision: u32, info: &[u8]) -> Match {
    known(v6, name, revision, Bytes(info)).unwrap_or_else(|| Match::Undecoded { name: name.to_owned(), revision })
}

fn known(v6: bool, name: &str, revision: u32, info: Bytes<'_>) -> Option<Match> {
    Some(match (name, revision) {
        ("tcp", 0) => Match::Tcp {
            sources: (info.u16(0)?, info.u16(2)?),
            destinations: (info.u16(4)?, info.u16(6)?),
            option: info.u8(8)?,
            flags: (info.u8(9)?, info.u8(10)?),
            invert: info.u8(11)?,
        },
        ("udp", 0) => {
            Match::Udp { sources: (info.u16(0)?, info.u16(2)?), destinations: (info.u16(4)?, info.u16(6)?), invert: info.u8(8)? }
        }
        ("icmp" | "icmp6", 0) => Match::Icmp {
            kind: info.u8(0)?,
            codes: (info.u8(1)?, info.u8(2)?),
            invert: info.u8(3)? & 1 != 0,
            v6: name == "icmp6",
        },
        ("multiport", 0 | 1) => multiport(revision, info)?,
        ("conntrack", 1..=3) => Match::Conntrack(Box::new(conntrack(v6, revision, info)?)),
        // XT_STATE_UNTRACKED is 1 << 6 here
        ("state", 0) => Match::State(states(info.u32(0)?, 6)?),
        ("set", 0) => set_revision_0(info)?,
        ("set", 1..=4) => Match::Set {
            set: SetReference { index: info.u16(0)?, dimensions: info.u8(2)?, flags: info.u8(3)? },
            counters: match revision {
                1 | 2 => None,
                3 => Some(SetCounters {
                    packets: (info.u8(8)?, info.u64(16)?),
                    bytes: (info.u8(24)?, info.u64(32)?),
                    flags: info.u32(40)?,
                }),
                _ => Some(SetCounters {
                    packets: (info.u8(16)?, info.u64(8)?),
                    bytes: (info.u8(32)?, info.u64(24)?),
                    flags: info.u32(40)?,
                }),
            },
        },
        ("recent", 0 | 1) => Match::Recent {
            seconds: info.u32(0)?,
            hits: info.u32(4)?,
            operation: info.u8(8)?,
            invert: info.u8(9)? != 0,
            name: info.text(10, 200)?,
            destination: info.u8(210)? != 0,
            mask: if revision == 1 { Some(info.address(212, v6)?) } else { None },
        },
        ("limit", 0) => Match::Limit { average: info.u32(0)?, burst: info.u32(4)? },
        ("hashlimit", 1..=3) => Match::Hashlimit(Box::new(hashlimit(revision, info)?)),
        ("connlimit", 0 | 1) => {
            Match::Connlimit { mask: info.address(0, v6)?, limit: info.u32(16)?, flags: info.u32(20)?, revision }
        }
        ("addrtype", 0) => Match::Addrtype {
            source: info.u16(0)?,
            destination: info.u16(2)?,
            flags: u32::from(info.u32(4)? != 0) | (u32::from(info.u32(8)? != 0) << 1),
        },
        ("addrtype", 1) => Match::Addrtype { source: info.u16(0)?, destination: info.u16(2)?, flags: info.u32(4)? },
        ("mac", 0) => Match::Mac { address: info.slice(0, 6)?.try_into().ok()?, invert: info.u32(8)? != 0 },
        ("mark", 1) => Match::Mark(masked(info)?),
        ("connmark", 1) => Match::Connmark(masked(info)?),
        ("comment", 0) => Match::Comment(info.text(0, 256)?),
        ("owner", 1) => Match::Owner {
            uids: (info.u32(0)?, info.u32(4)?),
            gids: (info.u32(8)?, info.u32(12)?),
            flags: info.u8(16)?,
            invert: info.u8(17)?,
        },
        ("time", 0) => Match::Time(Time {
            date: (info.u32(0)?, info.u32(4)?),
            daytime: (info.u32(8)?, info.u32(12)?),
            monthdays: info.u32(16)?,
            weekdays: info.u8(20)?,
            flags: info.u8(21)?,
        }),
        ("iprange", 1) => Match::Iprange {
            source: (info.address(0, v6)?, info.address(16, v6)?),
            destination: (info.address(32, v6)?, info.address(48, v6)?),
            flags: info.u8(64)?,
        },
        ("tcpmss", 0) => Match::TcpMss { range: (info.u16(0)?, info.u16(2)?), invert: info.u8(4)? != 0 },
        ("length", 0) => Match::Length { range: (info.u16(0)?, info.u16(2)?), invert: info.u8(4)? != 0 },
        ("pkttype", 0) => Match::PacketType { kind: info.u32(0)?, invert: info.u32(4)? != 0 },
        ("physdev", 0) => Match::Physdev {
            input: InterfaceName::decode(info.slice(0, 16)?, info.slice(16, 16)?)?,
            output: InterfaceName::decode(info.slice(32, 16)?, info.slice(48, 16)?)?,
            invert: info.u8(64)?,
            flags: info.u8(65)?,
        },
        ("socket", 0) => Match::Socket { flags: 0 },
        ("socket", 1..=3) => Match::Socket { flags: info.u8(0)? },
        ("statistic", 0) => {
            Match::Statistic { mode: info.u16(0)?, invert: info.u16(2)? & 1 != 0, values: (info.u32(4)?, info.u32(8)?) }
        }
        ("quota", 0) => Match::Quota { invert: info.u32(0)? & 1 != 0, bytes: info.u64(8)? },
        ("cgroup", 0) => Match::Cgroup { path: None, class: Some(info.u32(0)?), invert: (false, info.u32(4)? != 0) },
        ("cgroup", 1 | 2) => {
            let has_path = info.u8(0)? != 0;
            let (length, class_at) = if revision == 1 { (4096, 4100) } else { (512, 4) };
            Match::Cgroup {
                path: if has_path { Some(info.text(4, length)?) } else { None },
                class: if info.u8(1)? != 0 { Some(info.u32(class_at)?) } else { None },
                invert: (info.u8(2)? != 0, info.u8(3)? != 0),
            }
        }
        ("rpfilter", 0) => Match::Rpfilter(info.u8(0)?),
        ("dscp", 0) => Match::Dscp { value: info.u8(0)?, invert: info.u8(1)? != 0 },
        ("tos", 1) => Match::Tos { mask: info.u8(0)?, value: info.u8(1)?, invert: info.u8(2)? != 0 },
        ("ttl" | "hl", 0) => Match::HopLimit { mode: info.u8(0)?, value: info.u8(1)?, v6: name == "hl" },
        ("helper", 0) => Match::Helper { invert: info.u32(0)? != 0, name: info.text(4, 30)? },
        _ => return None,
    })
}

fn masked(info: Bytes<'_>) -> Option<Masked> {
    Some(Masked { value: info.u32(0)?, mask: info.u32(4)?, invert: info.u8(8)? != 0 })
}

fn multiport(revision: u32, info: Bytes<'_>) -> Option<Match> {
    let side = match info.u8(0)? {
        0 => PortSide::Source,
        1 => PortSide::Destination,
        2 => PortSide::Either,
        _ => return None,
    };
    let count = usize::from(info.u8(1)?);
    if count > 15 {
        return None;
    }
    let mut ports = Vec::with_capacity(count);
    let mut index = 0;
    while index < count {
        let port = info.u16(2 + 2 * index)?;
        // Revision 1: a flag at port n says that port n + 1 ends its range.
        let range = revision == 1 && info.u8(32 + index)? != 0;
        if range {
            if index + 1 >= count {
                return None;
            }
            index += 1;
        }
        ports.push((port, info.u16(2 + 2 * index)?, range));
        index += 1;
    }
    Some(Match::Multiport { side, ports, invert: revision == 1 && info.u8(47)? != 0 })
}

/// The bits of [`super::view::Tracking`] for a kernel state mask with its own bit for untracked packets.
fn states(mask: u32, untracked_bit: u32) -> Option<u8> {
    let low = u8::try_from(mask & 0xf).ok()?;
    Some(low | if mask >> untracked_bit & 1 != 0 { 16 } else { 0 })
}

fn conntrack(v6: bool, revision: u32, info: Bytes<'_>) -> Option<Conntrack> {
    let address = |index: usize| Some((info.address(index * 32, v6)?, info.address(index * 32 + 16, v6)?));
    let port = |index: usize| {
        if revision == 3 {
            Some((info.u16(138 + 2 * index)?, info.u16(154 + 2 * index)?))
        } else {
            let port = info.be16(138 + 2 * index)?;
            Some((port, port))
        }
    };
    let (states, status) =
        if revision == 1 { (u16::from(info.u8(150)?), u16::from(info.u8(151)?)) } else { (info.u16(150)?, info.u16(152)?) };
    Some(Conntrack {
        addresses: [address(0)?, address(1)?, address(2)?, address(3)?],
        ports: [port(0)?, port(1)?, port(2)?, port(3)?],
        expires: (info.u32(128)?, info.u32(132)?),
        protocol: info.u16(136)?,
        flags: info.u16(146)?,
        invert: info.u16(148)?,
        states,
        status,
    })
}

/// Revision 0 keeps a word of flags for each field: 1 source, 2 destination, and 4 in the first inverts.
fn set_revision_0(info: Bytes<'_>) -> Option<Match> {
    let mut dimensions = 0;
    let mut flags = u8::from(info.u32(4)? & 4 != 0);
    for field in 0..6_u8 {
        let word = info.u32(4 + 4 * usize::from(field))?;
        if word & 3 == 0 {
            break;
        }
        dimensions += 1;
        if word & 1 != 0 {
            flags |= 1_u8.checked_shl(u32::from(field) + 1)?;
        }
    }
    Some(Match::Set { set: SetReference { index: info.u16(0)?, dimensions, flags }, counters: None })
}

fn hashlimit(revision: u32, info: Bytes<'_>) -> Option<Hashlimit> {
    if revision == 1 {
        return Some(Hashlimit {
            name: info.text(0, 16)?,
            mode: info.u32(16)?,
            average: info.u32(20)?.into(),
            burst: info.u32(24)?.into(),
            table: (info.u32(28)?, info.u32(32)?, info.u32(36)?, info.u32(40)?),
            interval: 0,
            masks: (info.u8(44)?, info.u8(45)?),
            revision,
        });
    }
    // NAME_MAX is 255; the 64-bit fields are aligned to 8.
    let masks_at = if revision == 2 { 292 } else { 296 };
    Some(Hashlimit {
        name: info.text(0, 255)?,
        average: info.u64(256)?,
        burst: info.u64(264)?,
        mode: info.u32(272)?,
        table: (info.u32(276)?, info.u32(280)?, info.u32(284)?, info.u32(288)?),
        interval: if revision == 3 { info.u32(292)? } else { 0 },
        masks: (info.u8(masks_at)?, info.u8(masks_at + 1)?),
        revision,
    })
}
