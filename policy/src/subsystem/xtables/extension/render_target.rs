//! Prints targets as iptables-save (1.8) does: `-j REJECT --reject-with tcp-reset`. What is not decoded says so.

use crate::subsystem::ipset::SetNames;
use crate::subsystem::xtables::extension::matches::set_fields;
use crate::subsystem::xtables::extension::render::{Line, address, address_range, quoted, range, set_name};
use crate::subsystem::xtables::extension::targets::{self, HopLimit, Nat, StandardVerdict, Target};

/// A raw target as iptables-save prints it, `-j NAME` first.
pub fn render_target(v6: bool, name: &str, revision: u32, info: &[u8], sets: &SetNames) -> String {
    target_text(&targets::decode(v6, name, revision, info), v6, sets)
}

/// A decoded target as iptables-save prints it.
pub fn target_text(target: &Target, v6: bool, sets: &SetNames) -> String {
    match target {
        Target::Verdict(verdict) => Line::new("-j").word(match verdict {
            StandardVerdict::Accept => "ACCEPT",
            StandardVerdict::Drop => "DROP",
            StandardVerdict::Queue => "QUEUE",
            StandardVerdict::Return => "RETURN",
            StandardVerdict::Jump(_) => "[a jump]",
        }),
        Target::Error(_) => Line::new("-j ERROR"),
        Target::Reject(with) => Line::new("-j REJECT --reject-with").word(targets::reject_with(v6, *with)),
        Target::Log { level, flags, prefix } => {
            let mut line = Line::new("-j LOG");
            if !prefix.is_empty() {
                line = line.word("--log-prefix").word(quoted(prefix));
            }
            // 4 is warning, the default
            if *level != 4 {
                line = line.word("--log-level").word(level);
            }
            line.flag(flags & 1 != 0, "--log-tcp-sequence")
                .flag(flags & 2 != 0, "--log-tcp-options")
                .flag(flags & 4 != 0, "--log-ip-options")
                .flag(flags & 8 != 0, "--log-uid")
                .flag(flags & 0x20 != 0, "--log-macdecode")
        }
        Target::Nflog { len, group, threshold, flags, prefix } => {
            let mut line = Line::new("-j NFLOG");
            if !prefix.is_empty() {
                line = line.word("--nflog-prefix").word(quoted(prefix));
            }
            if *group != 0 {
                line = line.word("--nflog-group").word(group);
            }
            if flags & 1 != 0 {
                line = line.word("--nflog-size").word(len);
            } else if *len != 0 {
                line = line.word("--nflog-range").word(len);
            }
            if *threshold != 0 {
                line = line.word("--nflog-threshold").word(threshold);
            }
            line
        }
        Target::Mark { mask, value } => Line::new("-j MARK").word(format_args!("--set-xmark 0x{value:x}/0x{mask:x}")),
        Target::Connmark { mark, ct_mask, nf_mask, mode, shift } => {
            let mut line = Line::new("-j CONNMARK");
            line = match mode {
                0 => line.word(format_args!("--set-xmark 0x{mark:x}/0x{ct_mask:x}")),
                1 => line.word(format_args!("--save-mark --nfmask 0x{nf_mask:x} --ctmask 0x{ct_mask:x}")),
                _ => line.word(format_args!("--restore-mark --nfmask 0x{nf_mask:x} --ctmask 0x{ct_mask:x}")),
            };
            match shift {
                (_, 0) => line,
                (0, bits) => line.word("--left-shift-mark").word(bits),
                (_, bits) => line.word("--right-shift-mark").word(bits),
            }
        }
        // XT_CT_NOTRACK_ALIAS 2
        Target::Ct { flags, .. } if flags & 2 != 0 => Line::new("-j NOTRACK"),
        Target::Ct { flags, zone, events, expectation_events, helper, timeout } => {
            let mut line = Line::new("-j CT").flag(flags & 1 != 0, "--notrack");
            if !helper.is_empty() {
                line = line.word("--helper").word(quoted(helper));
            }
            if !timeout.is_empty() {
                line = line.word("--timeout").word(timeout);
            }
            if *events != 0 {
                line = line.word("--ctevents").word(event_names(*events));
            }
            if *expectation_events != 0 {
                line = line.word("--expevents new");
            }
            // XT_CT_ZONE_DIR_ORIG 4, DIR_REPL 8, ZONE_MARK 16
            let option = if flags & 4 != 0 {
                "--zone-orig"
            } else if flags & 8 != 0 {
                "--zone-reply"
            } else {
                "--zone"
            };
            if flags & 16 != 0 {
                line.word(option).word("mark")
            } else if *zone != 0 {
                line.word(option).word(zone)
            } else {
                line
            }
        }
        Target::Notrack => Line::new("-j NOTRACK"),
        Target::TcpMss(0xffff) => Line::new("-j TCPMSS --clamp-mss-to-pmtu"),
        Target::TcpMss(mss) => Line::new("-j TCPMSS --set-mss").word(mss),
        Target::Tos { value, mask } => Line::new("-j TOS --set-tos").word(format_args!("0x{value:02x}/0x{mask:02x}")),
        Target::Dscp(value) => Line::new("-j DSCP").word(format_args!("--set-dscp 0x{value:02x}")),
        Target::HopLimit { change, v6 } => {
            let name = if *v6 { "hl" } else { "ttl" };
            let (what, by) = match change {
                HopLimit::Set(to) => ("set", to),
                HopLimit::Increase(by) => ("inc", by),
                HopLimit::Decrease(by) => ("dec", by),
            };
            Line::new("-j").word(name.to_uppercase()).word(format_args!("--{name}-{what}")).word(by)
        }
        // IPT_ECN_OP_SET_IP 1; else the flags of the TCP header are cleared.
        Target::Ecn { operation, codepoint } if operation & 1 != 0 => Line::new("-j ECN --ecn-ip-ect").word(codepoint),
        Target::Ecn { .. } => Line::new("-j ECN --ecn-tcp-remove"),
        // XT_SYNPROXY_OPT_MSS 1, WSCALE 2, SACK_PERM 4, TIMESTAMP 8
        Target::Synproxy { options, scale, mss } => {
            let mut line = Line::new("-j SYNPROXY").flag(options & 4 != 0, "--sack-perm").flag(options & 8 != 0, "--timestamp");
            if options & 2 != 0 {
                line = line.word("--wscale").word(scale);
            }
            if options & 1 != 0 {
                line = line.word("--mss").word(mss);
            }
            line
        }
        Target::Classify(class) => {
            Line::new("-j CLASSIFY --set-class").word(format_args!("{:04x}:{:04x}", class >> 16, class & 0xffff))
        }
        Target::Audit(kind) => Line::new("-j AUDIT --type").word(match kind {
            0 => "accept",
            1 => "drop",
            _ => "reject",
        }),
        Target::Trace => Line::new("-j TRACE"),
        Target::Nat { kind, flags, addresses, ports, base_port } => nat_text(*kind, *flags, *addresses, *ports, *base_port, v6),
        Target::Tproxy { address: to, port, mark, mask } => {
            let mut line = Line::new("-j TPROXY --on-port").word(port).word("--on-ip").word(address(*to, v6));
            if *mark != 0 || *mask != 0 {
                line = line.word(format_args!("--tproxy-mark 0x{mark:x}/0x{mask:x}"));
            }
            line
        }
        Target::Nfqueue { queue, total, flags } => {
            let line = if *total > 1 {
                let last = u32::from(*queue) + u32::from(*total) - 1;
                Line::new("-j NFQUEUE --queue-balance").word(format_args!("{queue}:{last}"))
            } else {
                Line::new("-j NFQUEUE --queue-num").word(queue)
            };
            line.flag(flags & 1 != 0, "--queue-bypass").flag(flags & 2 != 0, "--queue-cpu-fanout")
        }
        Target::Set { add, del, map, flags, timeout } => {
            let mut line = Line::new("-j SET");
            for (option, set) in [("--add-set", add), ("--del-set", del)] {
                if set.index != u16::MAX {
                    line = line.word(option).word(set_name(*set, sets)).word(set_fields(*set));
                }
            }
            if add.index != u16::MAX {
                line = line.flag(flags & 1 != 0, "--exist");
                if *timeout != u32::MAX {
                    line = line.word("--timeout").word(timeout);
                }
            }
            if map.index != u16::MAX {
                line = line.word("--map-set").word(set_name(*map, sets)).word(set_fields(*map));
                line = line
                    .flag(flags & 0x100 != 0, "--map-mark")
                    .flag(flags & 0x200 != 0, "--map-prio")
                    .flag(flags & 0x400 != 0, "--map-queue");
            }
            line
        }
        Target::Hmark => Line::new("-j HMARK [not decoded]"),
        Target::Passing { name, .. } | Target::Undecoded { name, .. } => Line::new("-j").word(name).word("[not decoded]"),
    }
    .0
}

fn address_range_nat(addresses: (u128, u128), v6: bool) -> String {
    if addresses.0 == addresses.1 { address(addresses.0, v6) } else { address_range(addresses, v6) }
}

fn nat_text(kind: Nat, flags: u32, addresses: (u128, u128), ports: (u16, u16), base_port: u16, v6: bool) -> Line {
    // NF_NAT_RANGE_*: MAP_IPS 1, PROTO_SPECIFIED 2, PROTO_RANDOM 4, PERSISTENT 8, PROTO_RANDOM_FULLY 16, PROTO_OFFSET 32
    let mut line = Line::new(match kind {
        Nat::Redirect => "-j REDIRECT",
        Nat::Dnat => "-j DNAT",
        Nat::Snat => "-j SNAT",
        Nat::Masquerade => "-j MASQUERADE",
    });
    match kind {
        Nat::Redirect | Nat::Masquerade => {
            if flags & 2 != 0 {
                line = line.word("--to-ports").word(range(ports, '-'));
            }
        }
        Nat::Dnat | Nat::Snat => {
            let mut to = String::new();
            if flags & 1 != 0 {
                let brackets = v6 && flags & 2 != 0;
                to = address_range_nat(addresses, v6);
                if brackets {
                    to = format!("[{to}]");
                }
            }
            if flags & 2 != 0 {
                to = format!("{to}:{}", range(ports, '-'));
                if flags & 32 != 0 {
                    to = format!("{to}/{base_port}");
                }
            }
            line = line.word(if kind == Nat::Dnat { "--to-destination" } else { "--to-source" }).word(to);
        }
    }
    line.flag(flags & 4 != 0, "--random").flag(flags & 16 != 0, "--random-fully").flag(flags & 8 != 0, "--persistent")
}

fn event_names(events: u32) -> String {
    [
        (1 << 0, "new"),
        (1 << 1, "related"),
        (1 << 2, "destroy"),
        (1 << 3, "reply"),
        (1 << 4, "assured"),
        (1 << 5, "protoinfo"),
        (1 << 6, "helper"),
        (1 << 7, "mark"),
        (1 << 8, "natseqinfo"),
        (1 << 9, "secmark"),
    ]
    .into_iter()
    .filter(|(bit, _)| events & bit != 0)
    .map(|(_, name)| name)
    .collect::<Vec<_>>()
    .join(",")
}
