//! xtables targets: the kernel's structs decoded, and what each does to a packet. Shared by iptables-legacy and iptables-nft.
//! Must not follow a jump: that is the evaluator's work.

use serde::{Deserialize, Serialize};

use crate::packet::{Bits, Octet, Zone};
use crate::subsystem::ipset::SetReference;
use crate::subsystem::xtables::extension::bytes::Bytes;

/// A decoded target (`linux/netfilter/xt_*.h`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// `xt_standard_target`, and the targets of the same names.
    Verdict(StandardVerdict),
    /// The error target: ends the table, or names a user chain.
    Error(String),
    /// `REJECT`; the number is `enum ipt_reject_with` or `ip6t_reject_with`.
    Reject(u32),
    /// `LOG`
    Log {
        /// Syslog level.
        level: u8,
        /// `XT_LOG_*`
        flags: u8,
        /// Put before the line.
        prefix: String,
    },
    /// `NFLOG`
    Nflog {
        /// Bytes copied, where `flags` has `XT_NFLOG_F_COPY_LEN`.
        len: u32,
        /// Netlink group.
        group: u16,
        /// Packets queued.
        threshold: u16,
        /// `XT_NFLOG_F_*`
        flags: u16,
        /// Put before the line.
        prefix: String,
    },
    /// `MARK` revision 2: `mark = (mark & !mask) ^ value`.
    Mark {
        /// Bits cleared first.
        mask: u32,
        /// Bits flipped then.
        value: u32,
    },
    /// `CONNMARK`
    Connmark {
        /// `ctmark`
        mark: u32,
        /// `ctmask`
        ct_mask: u32,
        /// `nfmask`
        nf_mask: u32,
        /// 0 set, 1 save, 2 restore.
        mode: u8,
        /// Revision 2: direction and bits.
        shift: (u8, u8),
    },
    /// `CT`
    Ct {
        /// `XT_CT_*`
        flags: u16,
        /// Zone.
        zone: u16,
        /// Event mask.
        events: u32,
        /// Expectation event mask.
        expectation_events: u32,
        /// Helper, or empty.
        helper: String,
        /// Timeout policy, or empty.
        timeout: String,
    },
    /// `NOTRACK`
    Notrack,
    /// `TCPMSS`; 0xffff clamps to the path MTU.
    TcpMss(u16),
    /// `TOS`
    Tos {
        /// Value.
        value: u8,
        /// Mask.
        mask: u8,
    },
    /// `DSCP`
    Dscp(u8),
    /// `TTL`, `HL`
    HopLimit {
        /// What it does.
        change: HopLimit,
        /// Whether it is `HL`.
        v6: bool,
    },
    /// `HMARK`: the mark becomes a hash of the connection's ends.
    Hmark,
    /// `ECN`
    Ecn {
        /// `IPT_ECN_OP_*`
        operation: u8,
        /// The codepoint it sets.
        codepoint: u8,
    },
    /// `SYNPROXY`
    Synproxy {
        /// `XT_SYNPROXY_OPT_*`
        options: u8,
        /// Window scale.
        scale: u8,
        /// Maximum segment size.
        mss: u16,
    },
    /// `CLASSIFY`
    Classify(u32),
    /// `AUDIT`
    Audit(u8),
    /// `TRACE`
    Trace,
    /// `REDIRECT`, `DNAT`, `SNAT`, `MASQUERADE`
    Nat {
        /// Which.
        kind: Nat,
        /// `NF_NAT_RANGE_*`
        flags: u32,
        /// Lowest and highest address.
        addresses: (u128, u128),
        /// Lowest and highest port.
        ports: (u16, u16),
        /// The first port of the range that is shifted (`NF_NAT_RANGE_PROTO_OFFSET`).
        base_port: u16,
    },
    /// `TPROXY`
    Tproxy {
        /// Address; 0 is the interface's.
        address: u128,
        /// Port; 0 is the packet's.
        port: u16,
        /// Mark.
        mark: u32,
        /// Its mask.
        mask: u32,
    },
    /// `NFQUEUE`
    Nfqueue {
        /// First queue.
        queue: u16,
        /// How many.
        total: u16,
        /// 1 bypass, 2 CPU fanout.
        flags: u16,
    },
    /// `SET`
    Set {
        /// Set added to: index, dimensions and direction flags; index 65535 is none.
        add: SetReference,
        /// Set deleted from.
        del: SetReference,
        /// Set mapped from (revision 3).
        map: SetReference,
        /// `IPSET_FLAG_*`
        flags: u32,
        /// Seconds; 0xffffffff is none.
        timeout: u32,
    },
    /// One that never ends the rule set but whose struct is not decoded.
    Passing {
        /// Name.
        name: String,
        /// Revision.
        revision: u32,
    },
    /// One whose struct is not decoded.
    Undecoded {
        /// Name.
        name: String,
        /// Revision.
        revision: u32,
    },
}

/// A verdict of the standard target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StandardVerdict {
    /// `NF_ACCEPT`
    Accept,
    /// `NF_DROP`
    Drop,
    /// `NF_QUEUE`
    Queue,
    /// `XT_RETURN`
    Return,
    /// Byte offset of the entry to go on at; the next entry means no target at all.
    Jump(u32),
}

/// What `TTL` and `HL` do, 255 at most and 0 at least (`xt_HL.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HopLimit {
    /// To this.
    Set(u8),
    /// More by this.
    Increase(u8),
    /// Less by this.
    Decrease(u8),
}

impl HopLimit {
    /// The hop limit it makes of one.
    pub fn of(self, hops: Octet) -> Octet {
        let exact = |of: &dyn Fn(u8) -> u8| match hops.bits().exact() {
            Some(&[hops]) => Octet::of(&Bits::exactly(&[of(hops)])),
            _ => Octet::of(&Bits::unknown(1)),
        };
        match self {
            HopLimit::Set(to) => Octet::of(&Bits::exactly(&[to])),
            HopLimit::Increase(by) => exact(&|hops| hops.saturating_add(by)),
            HopLimit::Decrease(by) => exact(&|hops| hops.saturating_sub(by)),
        }
    }
}

/// Kinds of address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nat {
    /// To one of this host's own addresses.
    Redirect,
    /// Destination.
    Dnat,
    /// Source.
    Snat,
    /// Source, to the interface's address.
    Masquerade,
}

/// What a target does to the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetEffect {
    /// Ends this base chain; the packet goes on.
    Accept,
    /// The packet ends here, silently.
    Drop,
    /// The packet ends here with this answer, as `--reject-with` names it.
    Reject(String),
    /// Back to the calling chain, or to the policy.
    Return,
    /// The next rule; the target has no effect on this question.
    Continue,
    /// The next rule, with `mark = (mark & !mask) ^ value`.
    Mark {
        /// Bits cleared first.
        mask: u32,
        /// Bits flipped then.
        value: u32,
    },
    /// The next rule; the packet mark is not known any more.
    MarkUnknown,
    /// The next rule, with `connmark = (connmark & !mask) ^ value`.
    Connmark {
        /// Bits cleared first.
        mask: u32,
        /// Bits flipped then.
        value: u32,
    },
    /// The next rule; the connection mark is not known any more.
    ConnmarkUnknown,
    /// The next rule, with `tos = (tos & !mask) ^ value`.
    Tos {
        /// Bits cleared first.
        mask: u8,
        /// Bits flipped then.
        value: u8,
    },
    /// The next rule, with another hop limit.
    HopLimit(HopLimit),
    /// The next rule; the packet is not tracked (`CT --notrack`, `NOTRACK`).
    Notrack,
    /// The next rule; the packet is tracked in this zone, with what else `CT` gives its entry.
    Zone(Zone),
    /// The destination becomes this; ends the nat chain as accept. `None` keeps that part (for `address`: one of this host's
    /// own where `local`).
    Destination {
        /// Lowest and highest address.
        address: Option<(u128, u128)>,
        /// Lowest and highest port.
        port: Option<(u16, u16)>,
        /// `REDIRECT`: to this host.
        local: bool,
    },
    /// The source is translated; ends the nat chain as accept.
    SourceNat,
    /// Anything may happen; the text says why.
    Unknown(String),
}

/// Decodes a target. Never fails: what is not understood is [`Target::Undecoded`].
pub fn decode(v6: bool, name: &str, revision: u32, info: &[u8]) -> Target {
    known(v6, name, revision, Bytes(info)).unwrap_or_else(|| Target::Undecoded { name: name.to_owned(), revision })
}

fn known(v6: bool, name: &str, revision: u32, info: Bytes<'_>) -> Option<Target> {
    Some(match (name, revision) {
        ("" | "standard", 0) => Target::Verdict(standard(info.i32(0)?)?),
        ("ACCEPT", 0) => Target::Verdict(StandardVerdict::Accept),
        ("DROP", 0) => Target::Verdict(StandardVerdict::Drop),
        ("RETURN", 0) => Target::Verdict(StandardVerdict::Return),
        ("ERROR", 0) => Target::Error(info.text(0, 30)?),
        ("REJECT", 0) => Target::Reject(info.u32(0)?),
        ("LOG", 0) => Target::Log { level: info.u8(0)?, flags: info.u8(1)?, prefix: info.text(2, 30)? },
        ("NFLOG", 0) => Target::Nflog {
            len: info.u32(0)?,
            group: info.u16(4)?,
            threshold: info.u16(6)?,
            flags: info.u16(8)?,
            prefix: info.text(12, 64)?,
        },
        ("MARK", 2) => Target::Mark { value: info.u32(0)?, mask: info.u32(4)? },
        ("CONNMARK", 1) => Target::Connmark {
            mark: info.u32(0)?,
            ct_mask: info.u32(4)?,
            nf_mask: info.u32(8)?,
            mode: info.u8(12)?,
            shift: (0, 0),
        },
        ("CONNMARK", 2) => Target::Connmark {
            mark: info.u32(0)?,
            ct_mask: info.u32(4)?,
            nf_mask: info.u32(8)?,
            mode: info.u8(14)?,
            shift: (info.u8(12)?, info.u8(13)?),
        },
        ("CT", 0..=2) => Target::Ct {
            flags: info.u16(0)?,
            zone: info.u16(2)?,
            events: info.u32(4)?,
            expectation_events: info.u32(8)?,
            helper: info.text(12, 16)?,
            timeout: if revision == 0 { String::new() } else { info.text(28, 32)? },
        },
        ("NOTRACK", 0) => Target::Notrack,
        ("TCPMSS", 0) => Target::TcpMss(info.u16(0)?),
        ("TOS", 1) => Target::Tos { value: info.u8(0)?, mask: info.u8(1)? },
        ("DSCP", 0) => Target::Dscp(info.u8(0)?),
        ("TTL" | "HL", 0) => Target::HopLimit {
            change: match info.u8(0)? {
                0 => HopLimit::Set(info.u8(1)?),
                1 => HopLimit::Increase(info.u8(1)?),
                2 => HopLimit::Decrease(info.u8(1)?),
                _ => return None,
            },
            v6: name == "HL",
        },
        ("HMARK", 0) => Target::Hmark,
        ("ECN", 0) => Target::Ecn { operation: info.u8(0)?, codepoint: info.u8(1)? },
        ("SYNPROXY", 0) => Target::Synproxy { options: info.u8(0)?, scale: info.u8(1)?, mss: info.u16(2)? },
        ("CLASSIFY", 0) => Target::Classify(info.u32(0)?),
        ("AUDIT", 0 | 1) => Target::Audit(info.u8(0)?),
        ("TRACE", 0) => Target::Trace,
        ("REDIRECT", 0) => nat(Nat::Redirect, v6, revision, info)?,
        ("DNAT", 0..=2) => nat(Nat::Dnat, v6, revision, info)?,
        ("SNAT", 0..=2) => nat(Nat::Snat, v6, revision, info)?,
        ("MASQUERADE", 0) => nat(Nat::Masquerade, v6, revision, info)?,
        ("TPROXY", 0) if !v6 => {
            Target::Tproxy { mask: info.u32(0)?, mark: info.u32(4)?, address: info.be32(8)?.into(), port: info.be16(12)? }
        }
        ("TPROXY", 1) => {
            Target::Tproxy { mask: info.u32(0)?, mark: info.u32(4)?, address: info.address(8, v6)?, port: info.be16(24)? }
        }
        ("NFQUEUE", 0) => Target::Nfqueue { queue: info.u16(0)?, total: 1, flags: 0 },
        ("NFQUEUE", 1) => Target::Nfqueue { queue: info.u16(0)?, total: info.u16(2)?, flags: 0 },
        ("NFQUEUE", 2 | 3) => Target::Nfqueue { queue: info.u16(0)?, total: info.u16(2)?, flags: info.u16(4)? },
        ("SET", 1..=3) => set(revision, info)?,
        // These change or copy the packet, or count it, and return XT_CONTINUE (net/netfilter/xt_*.c).
        ("ULOG" | "CHECKSUM" | "TCPOPTSTRIP" | "SECMARK" | "CONNSECMARK" | "IDLETIMER" | "LED" | "RATEEST" | "TEE", _) => {
            Target::Passing { name: name.to_owned(), revision }
        }
        _ => return None,
    })
}

/// `ip_tables.c`: a verdict below zero is `-verdict - 1`, else it is an offset.
fn standard(verdict: i32) -> Option<StandardVerdict> {
    Some(match verdict {
        -1 => StandardVerdict::Drop,
        -2 => StandardVerdict::Accept,
        // NF_QUEUE 3
        -4 => StandardVerdict::Queue,
        // XT_RETURN is -NF_REPEAT - 1, NF_REPEAT 4
        -5 => StandardVerdict::Return,
        offset => StandardVerdict::Jump(u32::try_from(offset).ok()?),
    })
}

/// `nf_nat_ipv4_multi_range_compat` (IPv4 REDIRECT, MASQUERADE, and revision 0), `nf_nat_range` (IPv6, revision 1), `nf_nat_range2`.
fn nat(kind: Nat, v6: bool, revision: u32, info: Bytes<'_>) -> Option<Target> {
    let compat = match kind {
        Nat::Redirect | Nat::Masquerade => !v6,
        Nat::Dnat | Nat::Snat => revision == 0,
    };
    if compat {
        return Some(Target::Nat {
            kind,
            flags: info.u32(4)?,
            addresses: (info.be32(8)?.into(), info.be32(12)?.into()),
            ports: (info.be16(16)?, info.be16(18)?),
            base_port: 0,
        });
    }
    Some(Target::Nat {
        kind,
        flags: info.u32(0)?,
        addresses: (info.address(4, v6)?, info.address(20, v6)?),
        ports: (info.be16(36)?, info.be16(38)?),
        base_port: if revision == 2 { info.be16(40)? } else { 0 },
    })
}

fn set(revision: u32, info: Bytes<'_>) -> Option<Target> {
    let reference =
        |offset| Some(SetReference { index: info.u16(offset)?, dimensions: info.u8(offset + 2)?, flags: info.u8(offset + 3)? });
    let none = SetReference { index: u16::MAX, dimensions: 0, flags: 0 };
    Some(match revision {
        1 => Target::Set { add: reference(0)?, del: reference(4)?, map: none, flags: 0, timeout: u32::MAX },
        2 => Target::Set { add: reference(0)?, del: reference(4)?, map: none, flags: info.u32(8)?, timeout: info.u32(12)? },
        _ => Target::Set {
            add: reference(0)?,
            del: reference(4)?,
            map: reference(8)?,
            flags: info.u32(12)?,
            timeout: info.u32(16)?,
        },
    })
}

/// What the raw target does to a packet: [`decode`] and [`effect`] in one.
pub fn target(v6: bool, name: &str, revision: u32, info: &[u8]) -> TargetEffect {
    effect(v6, &decode(v6, name, revision, info))
}

/// What a decoded target does to a packet. Jumps of the standard target are unknown here; the blob's reader resolves them.
pub fn effect(v6: bool, target: &Target) -> TargetEffect {
    match target {
        Target::Verdict(StandardVerdict::Accept) => TargetEffect::Accept,
        Target::Verdict(StandardVerdict::Drop) | Target::Error(_) => TargetEffect::Drop,
        Target::Verdict(StandardVerdict::Return) => TargetEffect::Return,
        Target::Verdict(StandardVerdict::Queue) => TargetEffect::Unknown("target QUEUE: a program decides".to_owned()),
        Target::Verdict(StandardVerdict::Jump(_)) => TargetEffect::Unknown("a jump outside its table".to_owned()),
        Target::Reject(with) => TargetEffect::Reject(reject_with(v6, *with)),
        // IPSET_FLAG_MAP_SKBMARK 1 << 8
        Target::Set { flags, map, .. } if map.index != u16::MAX && flags & 0x100 != 0 => TargetEffect::MarkUnknown,
        // XT_CT_NOTRACK 1, ZONE_DIR_ORIG 4, ZONE_DIR_REPL 8, ZONE_MARK 16
        Target::Ct { flags, .. } if flags & 1 != 0 => TargetEffect::Notrack,
        Target::Ct { flags, .. } if flags & 0x1c != 0 => TargetEffect::Zone(Zone::Unknown),
        Target::Ct { zone, .. } => TargetEffect::Zone(Zone::Is(*zone)),
        Target::Log { .. }
        | Target::Set { .. }
        | Target::Nflog { .. }
        | Target::TcpMss(_)
        | Target::Classify(_)
        | Target::Audit(_)
        | Target::Trace
        | Target::Passing { .. } => TargetEffect::Continue,
        // IPT_ECN_OP_SET_IP 1
        Target::Ecn { operation, .. } if operation & 1 == 0 => TargetEffect::Continue,
        Target::Ecn { codepoint, .. } => TargetEffect::Tos { mask: 3, value: codepoint & 3 },
        Target::Tos { mask, value } => TargetEffect::Tos { mask: *mask, value: *value },
        // xt_DSCP.c: ECN keeps its two bits.
        Target::Dscp(value) => TargetEffect::Tos { mask: 0xfc, value: value << 2 },
        Target::HopLimit { change, .. } => TargetEffect::HopLimit(*change),
        Target::Synproxy { .. } => TargetEffect::Unknown("synproxy, which answers in this host's place".to_owned()),
        Target::Mark { mask, value } => TargetEffect::Mark { mask: *mask, value: *value },
        Target::Connmark { mark, ct_mask, mode: 0, shift: (_, 0), .. } => TargetEffect::Connmark { mask: *ct_mask, value: *mark },
        Target::Connmark { mode: 0 | 1, .. } => TargetEffect::ConnmarkUnknown,
        Target::Connmark { .. } | Target::Hmark => TargetEffect::MarkUnknown,
        Target::Notrack => TargetEffect::Notrack,
        Target::Nat { kind, flags, addresses, ports, .. } => match kind {
            Nat::Snat | Nat::Masquerade => TargetEffect::SourceNat,
            Nat::Redirect | Nat::Dnat => TargetEffect::Destination {
                // NF_NAT_RANGE_MAP_IPS 1, NF_NAT_RANGE_PROTO_SPECIFIED 2
                address: (*kind == Nat::Dnat && flags & 1 != 0).then_some(*addresses),
                port: (flags & 2 != 0).then_some(*ports),
                local: *kind == Nat::Redirect,
            },
        },
        Target::Tproxy { port, .. } => {
            TargetEffect::Unknown(format!("target TPROXY: a program that listens on port {port} decides"))
        }
        Target::Nfqueue { queue, .. } => TargetEffect::Unknown(format!("target NFQUEUE: a program on queue {queue} decides")),
        Target::Undecoded { name, revision } => {
            TargetEffect::Unknown(format!("target {name} revision {revision} is not understood"))
        }
    }
}

/// `--reject-with`, as iptables names it (`libipt_REJECT.c`, `libip6t_REJECT.c`).
pub fn reject_with(v6: bool, with: u32) -> String {
    let name = if v6 {
        match with {
            0 => "icmp6-no-route",
            1 => "icmp6-adm-prohibited",
            3 => "icmp6-addr-unreachable",
            4 => "icmp6-port-unreachable",
            6 => "tcp-reset",
            7 => "icmp6-policy-fail",
            8 => "icmp6-reject-route",
            _ => "",
        }
    } else {
        match with {
            0 => "icmp-net-unreachable",
            1 => "icmp-host-unreachable",
            2 => "icmp-proto-unreachable",
            3 => "icmp-port-unreachable",
            5 => "icmp-net-prohibited",
            6 => "icmp-host-prohibited",
            7 => "tcp-reset",
            8 => "icmp-admin-prohibited",
            _ => "",
        }
    };
    if name.is_empty() { format!("type-{with}") } else { name.to_owned() }
}
