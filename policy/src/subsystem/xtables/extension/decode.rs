//! Reads xtables matches out of the kernel's structs (`linux/netfilter/xt_*.h`); offsets are those of 64-bit kernels. Every
//! access is checked; what does not fit its struct is not decoded, never guessed.

use crate::packet::Tracking;
use crate::subsystem::ipset::{SetCounters, SetReference};
use crate::subsystem::xtables::extension::bytes::Bytes;
use crate::subsystem::xtables::extension::matches::{
    Conntrack, Hashlimit, InterfaceName, Masked, Match, PortSide, Routing, Time,
};

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
        ("devgroup", 0) => {
            Match::Devgroup { flags: info.u32(0)?, input: (info.u32(4)?, info.u32(8)?), output: (info.u32(12)?, info.u32(16)?) }
        }
        ("rpfilter", 0) => Match::Rpfilter(info.u8(0)?),
        ("dscp", 0) => Match::Dscp { value: info.u8(0)?, invert: info.u8(1)? != 0 },
        ("tos", 1) => Match::Tos { mask: info.u8(0)?, value: info.u8(1)?, invert: info.u8(2)? != 0 },
        ("ttl" | "hl", 0) => Match::HopLimit { mode: info.u8(0)?, value: info.u8(1)?, v6: name == "hl" },
        ("helper", 0) => Match::Helper { invert: info.u32(0)? != 0, name: info.text(4, 30)? },
        ("rt", 0) if v6 => {
            let flags = info.u8(16)?;
            let routing = Routing {
                kind: info.u32(0)?,
                segments: (info.u32(4)?, info.u32(8)?),
                length: info.u32(12)?,
                flags,
                invert: info.u8(17)?,
            };
            Match::Extension { name: name.to_owned(), routing: (flags & !7 == 0).then_some(routing) }
        }
        ("frag" | "hbh" | "dst" | "ah" | "esp", 0) if v6 => Match::Extension { name: name.to_owned(), routing: None },
        ("ipv6header", 0) if v6 => Match::Ipv6Header { flags: info.u8(0)?, invert: info.u8(1)?, soft: info.u8(2)? != 0 },
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

/// The bits of [`crate::packet::Tracking`] for a kernel state mask with its own bit for untracked packets.
fn states(mask: u32, untracked_bit: u32) -> Option<u8> {
    let low = u8::try_from(mask & 0xf).ok()?;
    Some(low | if mask >> untracked_bit & 1 != 0 { Tracking::UNTRACKED.0 } else { 0 })
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
    let shown =
        if revision == 1 { (u16::from(info.u8(150)?), u16::from(info.u8(151)?)) } else { (info.u16(150)?, info.u16(152)?) };
    Some(Conntrack {
        addresses: [address(0)?, address(1)?, address(2)?, address(3)?],
        ports: [port(0)?, port(1)?, port(2)?, port(3)?],
        expires: (info.u32(128)?, info.u32(132)?),
        protocol: info.u16(136)?,
        flags: info.u16(146)?,
        invert: info.u16(148)?,
        states: shown.0,
        status: shown.1,
    })
}

/// Revision 0 keeps a word of flags for each field: 1 source, 2 destination, and 4 in the first inverts.
fn set_revision_0(info: Bytes<'_>) -> Option<Match> {
    let mut dimensions = 0;
    let mut flags = u8::from(info.u32(4)? & 4 != 0);
    for field in 0..6_u8 {
        let word = info.u32(4 + 4 * usize::from(field))?;
        // 1 source, 2 destination
        if !matches!(word & 3, 1..=3) {
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
