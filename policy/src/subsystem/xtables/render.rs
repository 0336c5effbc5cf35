//! Prints matches and targets as iptables-save (1.8) does: `-m multiport --dports 22,2222`, `-j REJECT --reject-with tcp-reset`.
//! What is not decoded says so; such text must never be fed back to iptables.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::SetNames;
use super::holds::set_fields;
use super::matches::{Conntrack, Hashlimit, InterfaceName, Masked, Match, PortSide, Time, decode};
use super::targets::{self, Nat, SetReference, StandardVerdict, Target};

/// A raw match as iptables-save prints it, `-m NAME` first.
pub fn render_match(v6: bool, name: &str, revision: u32, info: &[u8], sets: &SetNames) -> String {
    match_text(&decode(v6, name, revision, info), v6, sets)
}

/// A raw target as iptables-save prints it, `-j NAME` first.
pub fn render_target(v6: bool, name: &str, revision: u32, info: &[u8], sets: &SetNames) -> String {
    target_text(&targets::decode(v6, name, revision, info), v6, sets)
}

/// Words with a blank before each.
struct Line(String);

impl Line {
    fn new(first: &str) -> Self {
        Self(first.to_owned())
    }

    fn word(mut self, word: impl std::fmt::Display) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.0, " {word}");
        self
    }

    fn not(self, invert: bool) -> Self {
        if invert { self.word("!") } else { self }
    }

    fn flag(self, set: bool, word: &str) -> Self {
        if set { self.word(word) } else { self }
    }
}

/// A decoded match as iptables-save prints it.
pub fn match_text(rule_match: &Match, v6: bool, sets: &SetNames) -> String {
    match rule_match {
        Match::Tcp { sources, destinations, option, flags, invert } => {
            let mut line = ports(Line::new("-m tcp"), *sources, *destinations, *invert);
            if *option != 0 || invert & 8 != 0 {
                line = line.not(invert & 8 != 0).word("--tcp-option").word(option);
            }
            if flags.0 != 0 || invert & 4 != 0 {
                line = line.not(invert & 4 != 0).word("--tcp-flags").word(tcp_flags(flags.0)).word(tcp_flags(flags.1));
            }
            line
        }
        Match::Udp { sources, destinations, invert } => ports(Line::new("-m udp"), *sources, *destinations, *invert),
        Match::Icmp { kind, codes, invert, v6 } => {
            let line = if *v6 { Line::new("-m icmp6") } else { Line::new("-m icmp") };
            let line = line.not(*invert).word(if *v6 { "--icmpv6-type" } else { "--icmp-type" });
            match (kind, codes) {
                (255, _) if !v6 => line.word("any"),
                (kind, (0, 255)) => line.word(kind),
                (kind, (code, _)) => line.word(format_args!("{kind}/{code}")),
            }
        }
        Match::Multiport { side, ports, invert } => {
            let list: Vec<String> =
                ports.iter().map(|(low, high, range)| if *range { format!("{low}:{high}") } else { low.to_string() }).collect();
            Line::new("-m multiport")
                .not(*invert)
                .word(match side {
                    PortSide::Source => "--sports",
                    PortSide::Destination => "--dports",
                    PortSide::Either => "--ports",
                })
                .word(list.join(","))
        }
        Match::Conntrack(conntrack) => conntrack_text(conntrack, v6),
        Match::State(states) => {
            let bits = u16::from(states & 0xf) | if states & 16 != 0 { 256 } else { 0 };
            Line::new("-m state").word("--state").word(state_names(bits))
        }
        Match::Set { set, counters } => {
            let mut line = Line::new("-m set")
                .not(set.flags & 1 != 0)
                .word("--match-set")
                .word(set_name(*set, sets))
                .word(set_fields(*set))
                // Revision 2 keeps --return-nomatch in bit 7 of the set's own flags.
                .flag(set.flags & 0x80 != 0, "--return-nomatch");
            if let Some(counters) = counters {
                line = line
                    .flag(counters.flags & 0x80 != 0, "--return-nomatch")
                    .flag(counters.flags & 0x8 != 0, "! --update-counters")
                    .flag(counters.flags & 0x10 != 0, "! --update-subcounters");
                for (name, (operation, value)) in [("packets", counters.packets), ("bytes", counters.bytes)] {
                    line = match operation {
                        1 => line.word(format_args!("--{name}-eq {value}")),
                        2 => line.word(format_args!("! --{name}-eq {value}")),
                        3 => line.word(format_args!("--{name}-lt {value}")),
                        4 => line.word(format_args!("--{name}-gt {value}")),
                        _ => line,
                    };
                }
            }
            line
        }
        Match::Recent { name, operation, seconds, hits, destination, invert, mask } => {
            let mut line = Line::new("-m recent").not(*invert);
            for (bit, word) in [(2, "--set"), (1, "--rcheck"), (4, "--update"), (8, "--remove")] {
                line = line.flag(operation & bit != 0, word);
            }
            if *seconds != 0 {
                line = line.word("--seconds").word(seconds);
            }
            line = line.flag(operation & 32 != 0, "--reap");
            if *hits != 0 {
                line = line.word("--hitcount").word(hits);
            }
            line = line.flag(operation & 16 != 0, "--rttl");
            if !name.is_empty() {
                line = line.word("--name").word(name);
            }
            if let Some(mask) = mask {
                line = line.word("--mask").word(address(*mask, v6));
            }
            line.word(if *destination { "--rdest" } else { "--rsource" })
        }
        Match::Limit { average, burst } => {
            let line = Line::new("-m limit").word("--limit").word(rate(u64::from(*average), 10_000).0);
            if *burst == 5 { line } else { line.word("--limit-burst").word(burst) }
        }
        Match::Hashlimit(hashlimit) => hashlimit_text(hashlimit, v6),
        Match::Connlimit { mask, limit, flags, revision } => {
            let line = Line::new("-m connlimit")
                .word(if flags & 1 != 0 { "--connlimit-upto" } else { "--connlimit-above" })
                .word(limit)
                .word("--connlimit-mask")
                .word(prefix_len(*mask, v6).map_or_else(|| address(*mask, v6), |len| len.to_string()));
            match revision {
                0 => line,
                _ if flags & 2 != 0 => line.word("--connlimit-daddr"),
                _ => line.word("--connlimit-saddr"),
            }
        }
        Match::Addrtype { source, destination, flags } => {
            let mut line = Line::new("-m addrtype");
            if *source != 0 {
                line = line.not(flags & 1 != 0).word("--src-type").word(route_types(*source));
            }
            if *destination != 0 {
                line = line.not(flags & 2 != 0).word("--dst-type").word(route_types(*destination));
            }
            line.flag(flags & 4 != 0, "--limit-iface-in").flag(flags & 8 != 0, "--limit-iface-out")
        }
        Match::Mac { address: bytes, invert } => {
            let text: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Line::new("-m mac").not(*invert).word("--mac-source").word(text.join(":"))
        }
        Match::Mark(masked) => masked_text(Line::new("-m mark"), *masked),
        Match::Connmark(masked) => masked_text(Line::new("-m connmark"), *masked),
        Match::Comment(comment) => Line::new("-m comment").word("--comment").word(quoted(comment)),
        Match::Owner { uids, gids, flags, invert } => {
            let mut line = Line::new("-m owner").not(invert & 4 != 0).flag(flags & 4 != 0, "--socket-exists");
            if flags & 1 != 0 {
                line = line.not(invert & 1 != 0).word("--uid-owner").word(range(*uids, '-'));
            }
            if flags & 2 != 0 {
                line = line.not(invert & 2 != 0).word("--gid-owner").word(range(*gids, '-'));
            }
            line.flag(flags & 8 != 0, "--suppl-groups")
        }
        Match::Time(time) => time_text(*time),
        Match::Iprange { source, destination, flags } => {
            let mut line = Line::new("-m iprange");
            if flags & 1 != 0 {
                line = line.not(flags & 16 != 0).word("--src-range").word(address_range(*source, v6));
            }
            if flags & 2 != 0 {
                line = line.not(flags & 32 != 0).word("--dst-range").word(address_range(*destination, v6));
            }
            line
        }
        Match::TcpMss { range: values, invert } => Line::new("-m tcpmss").not(*invert).word("--mss").word(range(*values, ':')),
        Match::Length { range: values, invert } => Line::new("-m length").not(*invert).word("--length").word(range(*values, ':')),
        Match::PacketType { kind, invert } => {
            let line = Line::new("-m pkttype").not(*invert).word("--pkt-type");
            match kind {
                0 => line.word("unicast"),
                1 => line.word("broadcast"),
                2 => line.word("multicast"),
                other => line.word(other),
            }
        }
        Match::Physdev { input, output, invert, flags } => {
            let mut line = Line::new("-m physdev");
            if flags & 8 != 0 {
                line = line.not(invert & 8 != 0).word("--physdev-is-in");
            }
            if flags & 1 != 0 {
                line = line.not(invert & 1 != 0).word("--physdev-in").word(interface(input));
            }
            if flags & 16 != 0 {
                line = line.not(invert & 16 != 0).word("--physdev-is-out");
            }
            if flags & 2 != 0 {
                line = line.not(invert & 2 != 0).word("--physdev-out").word(interface(output));
            }
            if flags & 4 != 0 {
                line = line.not(invert & 4 != 0).word("--physdev-is-bridged");
            }
            line
        }
        Match::Socket { flags } => Line::new("-m socket")
            .flag(flags & 1 != 0, "--transparent")
            .flag(flags & 2 != 0, "--nowildcard")
            .flag(flags & 4 != 0, "--restore-skmark"),
        Match::Statistic { mode: 0, invert, values } => {
            // xt_statistic.h: a fraction of 2^31
            let probability = f64::from(values.0) / f64::from(0x8000_0000_u32);
            Line::new("-m statistic --mode random").not(*invert).word(format_args!("--probability {probability:.11}"))
        }
        Match::Statistic { invert, values, .. } => Line::new("-m statistic --mode nth").not(*invert).word(format_args!(
            "--every {} --packet {}",
            u64::from(values.0) + 1,
            values.1
        )),
        Match::Quota { bytes, invert } => Line::new("-m quota").not(*invert).word("--quota").word(bytes),
        Match::Cgroup { path, class, invert } => {
            let mut line = Line::new("-m cgroup");
            if let Some(path) = path {
                line = line.not(invert.0).word("--path").word(quoted(path));
            }
            if let Some(class) = class {
                line = line.not(invert.1).word("--cgroup").word(class);
            }
            line
        }
        Match::Rpfilter(flags) => Line::new("-m rpfilter")
            .flag(flags & 1 != 0, "--loose")
            .flag(flags & 2 != 0, "--validmark")
            .flag(flags & 4 != 0, "--accept-local")
            .flag(flags & 8 != 0, "--invert"),
        Match::Dscp { value, invert } => Line::new("-m dscp").not(*invert).word(format_args!("--dscp 0x{value:02x}")),
        Match::Tos { mask, value, invert } => {
            Line::new("-m tos").not(*invert).word(format_args!("--tos 0x{value:02x}/0x{mask:02x}"))
        }
        Match::HopLimit { mode, value, v6 } => {
            let name = if *v6 { "hl" } else { "ttl" };
            let line = Line::new("-m").word(name).not(*mode == 1);
            let comparison = match mode {
                0 | 1 => "eq",
                2 => "lt",
                _ => "gt",
            };
            line.word(format_args!("--{name}-{comparison} {value}"))
        }
        Match::Helper { name, invert } => Line::new("-m helper").not(*invert).word("--helper").word(quoted(name)),
        Match::Undecoded { name, .. } => Line::new("-m").word(name).word("[not decoded]"),
    }
    .0
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
        Target::Passing { name, .. } | Target::Undecoded { name, .. } => Line::new("-j").word(name).word("[not decoded]"),
    }
    .0
}

fn ports(mut line: Line, sources: (u16, u16), destinations: (u16, u16), invert: u8) -> Line {
    for (option, values, bit) in [("--sport", sources, 1), ("--dport", destinations, 2)] {
        if values != (0, 0xffff) || invert & bit != 0 {
            line = line.not(invert & bit != 0).word(option).word(range(values, ':'));
        }
    }
    line
}

/// One number, or two with a separator.
fn range<T: PartialEq + std::fmt::Display>(values: (T, T), separator: char) -> String {
    if values.0 == values.1 { values.0.to_string() } else { format!("{}{separator}{}", values.0, values.1) }
}

fn tcp_flags(flags: u8) -> String {
    let names: Vec<&str> = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"]
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 != 0)
        .map(|(_, name)| name)
        .collect();
    if names.is_empty() { "NONE".to_owned() } else { names.join(",") }
}

fn state_names(states: u16) -> String {
    [(1, "INVALID"), (8, "NEW"), (4, "RELATED"), (2, "ESTABLISHED"), (256, "UNTRACKED"), (64, "SNAT"), (128, "DNAT")]
        .into_iter()
        .filter(|(bit, _)| states & bit != 0)
        .map(|(_, name)| name)
        .collect::<Vec<_>>()
        .join(",")
}

fn conntrack_text(conntrack: &Conntrack, v6: bool) -> Line {
    let looked = |bit: u16| conntrack.flags & bit != 0;
    let inverted = |bit: u16| conntrack.invert & bit != 0;
    // XT_CONNTRACK_STATE_ALIAS
    let alias = looked(1 << 13);
    let mut line = Line::new(if alias { "-m state" } else { "-m conntrack" });
    if looked(1) {
        line = line.not(inverted(1)).word(if alias { "--state" } else { "--ctstate" }).word(state_names(conntrack.states));
    }
    if looked(2) {
        line = line.not(inverted(2)).word("--ctproto").word(conntrack.protocol);
    }
    for (index, (name, (value, mask))) in
        ["origsrc", "origdst", "replsrc", "repldst"].into_iter().zip(conntrack.addresses).enumerate()
    {
        let bit = 1_u16 << (2 + index);
        if looked(bit) {
            line = line.not(inverted(bit)).word(format_args!("--ct{name}")).word(network(value, mask, v6, false));
        }
    }
    for (index, (name, values)) in
        ["origsrcport", "origdstport", "replsrcport", "repldstport"].into_iter().zip(conntrack.ports).enumerate()
    {
        let bit = 1_u16 << (8 + index);
        if looked(bit) {
            line = line.not(inverted(bit)).word(format_args!("--ct{name}")).word(range(values, ':'));
        }
    }
    if looked(64) {
        let names: Vec<&str> = [(1, "EXPECTED"), (2, "SEEN_REPLY"), (4, "ASSURED"), (8, "CONFIRMED")]
            .into_iter()
            .filter(|(bit, _)| conntrack.status & bit != 0)
            .map(|(_, name)| name)
            .collect();
        let names = if names.is_empty() { "NONE".to_owned() } else { names.join(",") };
        line = line.not(inverted(64)).word("--ctstatus").word(names);
    }
    if looked(128) {
        line = line.not(inverted(128)).word("--ctexpire").word(range(conntrack.expires, ':'));
    }
    if looked(1 << 12) {
        // The direction is kept in the invert bit alone.
        line = line.word(if inverted(1 << 12) { "--ctdir REPLY" } else { "--ctdir ORIGINAL" });
    }
    line
}

/// `libxt_limit.c`: the rate in the largest unit that does not lose precision, and the seconds of that unit.
fn rate(period: u64, scale: u64) -> (String, u64) {
    let mut best = ("day", 24 * 60 * 60);
    if period == 0 {
        return ("0/day".to_owned(), best.1);
    }
    for unit in [("hour", 60 * 60), ("min", 60), ("sec", 1)] {
        let whole = unit.1 * scale;
        if period > whole || whole / period < whole % period {
            break;
        }
        best = unit;
    }
    (format!("{}/{}", best.1 * scale / period, best.0), best.1)
}

fn hashlimit_text(hashlimit: &Hashlimit, v6: bool) -> Line {
    let mut line = Line::new("-m hashlimit");
    // XT_HASHLIMIT_INVERT 16, BYTES 32, RATE_MATCH 64
    let option = if hashlimit.mode & 16 != 0 { "--hashlimit-above" } else { "--hashlimit-upto" };
    line = line.word(option);
    let scale = if hashlimit.revision == 1 { 10_000 } else { 1_000_000 };
    let mut expire_default = 0;
    if hashlimit.mode & 32 != 0 {
        line = line.word("[bytes, not decoded]");
    } else if hashlimit.mode & 64 != 0 {
        line = line.word("[rate match, not decoded]");
    } else {
        let (text, unit) = rate(hashlimit.average, scale);
        expire_default = u32::try_from(unit * 1000).unwrap_or(0);
        line = line.word(text).word("--hashlimit-burst").word(hashlimit.burst);
    }
    let modes: Vec<&str> = [(4, "srcip"), (8, "srcport"), (1, "dstip"), (2, "dstport")]
        .into_iter()
        .filter(|(bit, _)| hashlimit.mode & bit != 0)
        .map(|(_, name)| name)
        .collect();
    if !modes.is_empty() {
        line = line.word("--hashlimit-mode").word(modes.join(","));
    }
    line = line.word("--hashlimit-name").word(&hashlimit.name);
    let (size, max, collect, expire) = hashlimit.table;
    for (option, value, default) in [
        ("--hashlimit-htable-size", size, 0),
        ("--hashlimit-htable-max", max, 0),
        ("--hashlimit-htable-gcinterval", collect, 1000),
        ("--hashlimit-htable-expire", expire, expire_default),
    ] {
        if value != default {
            line = line.word(option).word(value);
        }
    }
    let all = if v6 { 128 } else { 32 };
    for (option, mask) in [("--hashlimit-srcmask", hashlimit.masks.0), ("--hashlimit-dstmask", hashlimit.masks.1)] {
        if mask != all {
            line = line.word(option).word(mask);
        }
    }
    line
}

fn route_types(types: u16) -> String {
    [
        "UNSPEC",
        "UNICAST",
        "LOCAL",
        "BROADCAST",
        "ANYCAST",
        "MULTICAST",
        "BLACKHOLE",
        "UNREACHABLE",
        "PROHIBIT",
        "THROW",
        "NAT",
        "XRESOLVE",
    ]
    .into_iter()
    .enumerate()
    .filter(|(bit, _)| types >> bit & 1 != 0)
    .map(|(_, name)| name)
    .collect::<Vec<_>>()
    .join(",")
}

fn masked_text(line: Line, masked: Masked) -> Line {
    let line = line.not(masked.invert).word("--mark");
    if masked.mask == u32::MAX {
        line.word(format_args!("0x{:x}", masked.value))
    } else {
        line.word(format_args!("0x{:x}/0x{:x}", masked.value, masked.mask))
    }
}

fn time_text(time: Time) -> Line {
    let clock = |seconds: u32| format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut line = Line::new("-m time");
    // xt_time.h: XT_TIME_MIN_DAYTIME 0, XT_TIME_MAX_DAYTIME 86399, ALL_MONTHDAYS 0xfffffffe, ALL_WEEKDAYS 0xfe
    if time.daytime != (0, 86_399) {
        line = line.word("--timestart").word(clock(time.daytime.0)).word("--timestop").word(clock(time.daytime.1));
    }
    if time.monthdays != 0xffff_fffe {
        let days: Vec<String> = (1..=31).filter(|day| time.monthdays >> day & 1 != 0).map(|day: u32| day.to_string()).collect();
        line = line.word("--monthdays").word(days.join(","));
    }
    if time.weekdays != 0xfe {
        let days: Vec<&str> = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
            .into_iter()
            .enumerate()
            .filter(|(index, _)| time.weekdays >> (index + 1) & 1 != 0)
            .map(|(_, name)| name)
            .collect();
        line = line.word("--weekdays").word(days.join(","));
    }
    for (option, seconds, default) in [("--datestart", time.date.0, 0), ("--datestop", time.date.1, u32::MAX)] {
        if seconds != default
            && let Ok(moment) = jiff::Timestamp::from_second(i64::from(seconds))
        {
            // jiff prints RFC 3339 with a final Z; iptables leaves it out
            line = line.word(option).word(moment.to_string().trim_end_matches('Z'));
        }
    }
    line.flag(time.flags & 1 != 0, "--kerneltz").flag(time.flags & 2 != 0, "--contiguous")
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

fn address_range_nat(addresses: (u128, u128), v6: bool) -> String {
    if addresses.0 == addresses.1 { address(addresses.0, v6) } else { address_range(addresses, v6) }
}

fn address_range(addresses: (u128, u128), v6: bool) -> String {
    format!("{}-{}", address(addresses.0, v6), address(addresses.1, v6))
}

/// An address of the low 32 or all 128 bits.
pub fn address(bits: u128, v6: bool) -> String {
    if v6 {
        return Ipv6Addr::from(bits).to_string();
    }
    u32::try_from(bits & 0xffff_ffff).map_or_else(|_| String::new(), |bits| Ipv4Addr::from(bits).to_string())
}

/// The length of a contiguous mask.
pub fn prefix_len(mask: u128, v6: bool) -> Option<u32> {
    let width = if v6 { 128 } else { 32 };
    let mask = if v6 { mask } else { mask << 96 };
    let ones = mask.leading_ones();
    (mask.count_ones() == ones && ones <= width).then_some(ones)
}

/// `10.0.0.0/8`; masks with holes in full. A mask of all ones is left out unless `always`.
pub fn network(value: u128, mask: u128, v6: bool, always: bool) -> String {
    let text = address(value, v6);
    match prefix_len(mask, v6) {
        Some(len) if !always && len == if v6 { 128 } else { 32 } => text,
        Some(len) => format!("{text}/{len}"),
        None => format!("{text}/{}", address(mask, v6)),
    }
}

/// An interface name with its `+`.
pub fn interface(name: &InterfaceName) -> String {
    if name.prefix { format!("{}+", name.name) } else { name.name.clone() }
}

fn set_name(set: SetReference, sets: &SetNames) -> String {
    sets.get(&set.index).cloned().unwrap_or_else(|| format!("[ipset number {}]", set.index))
}

/// `xtables_save_string`: quoted unless it is made of plain characters only.
pub fn quoted(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}
