//! Prints matches as iptables-save (1.8) does: `-m multiport --dports 22,2222`. What is not decoded says so; such text must never
//! be fed back to iptables.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::packet::Tracking;
use crate::subsystem::ipset::{SetNames, SetReference};
use crate::subsystem::xtables::extension::decode::decode;
use crate::subsystem::xtables::extension::matches::{
    Conntrack, Hashlimit, InterfaceName, Masked, Match, PortSide, Time, set_fields,
};

/// A raw match as iptables-save prints it, `-m NAME` first.
pub fn render_match(v6: bool, name: &str, revision: u32, info: &[u8], sets: &SetNames) -> String {
    match_text(&decode(v6, name, revision, info), v6, sets)
}

/// Words with a blank before each.
pub(super) struct Line(pub(super) String);

impl Line {
    pub(super) fn new(first: &str) -> Self {
        Self(first.to_owned())
    }

    pub(super) fn word(mut self, word: impl std::fmt::Display) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.0, " {word}");
        self
    }

    pub(super) fn not(self, invert: bool) -> Self {
        if invert { self.word("!") } else { self }
    }

    pub(super) fn flag(self, set: bool, word: &str) -> Self {
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
            let bits = u16::from(states & 0xf) | if states & Tracking::UNTRACKED.0 != 0 { 256 } else { 0 };
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
        Match::Devgroup { flags, input, output } => {
            let mut line = Line::new("-m devgroup");
            for (looked, invert, option, (group, mask)) in [(1, 2, "--src-group", input), (4, 8, "--dst-group", output)] {
                if flags & looked != 0 {
                    let mask = if *mask == u32::MAX { String::new() } else { format!("/0x{mask:x}") };
                    line = line.flag(flags & invert != 0, "!").word(option).word(format_args!("0x{group:x}{mask}"));
                }
            }
            line
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
        Match::Extension { routing: Some(routing), .. } => {
            let mut line = Line::new("-m rt");
            for (bit, option, value) in [
                (1, "type", (routing.kind, routing.kind)),
                (2, "segsleft", routing.segments),
                (4, "len", (routing.length, routing.length)),
            ] {
                if routing.flags & bit != 0 {
                    line = line.not(routing.invert & bit != 0).word(format_args!("--rt-{option}")).word(range(value, ':'));
                }
            }
            line
        }
        Match::Ipv6Header { flags, invert, soft } => {
            // libip6t_ipv6header.c: the names of protocols(5), in the order of the bits.
            let names: Vec<&str> = [
                (128, "hop-by-hop"),
                (64, "ipv6-opts"),
                (32, "ipv6-route"),
                (16, "ipv6-frag"),
                (8, "ah"),
                (4, "esp"),
                (2, "ipv6-nonxt"),
                (1, "protocol"),
            ]
            .into_iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, name)| name)
            .collect();
            Line::new("-m ipv6header").not(*invert != 0).word("--header").word(names.join(",")).flag(*soft, "--soft")
        }
        Match::Extension { name, routing: None } | Match::Undecoded { name, .. } => {
            Line::new("-m").word(name).word("[not decoded]")
        }
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
pub(super) fn range<T: PartialEq + Copy + std::fmt::Display>(values: (T, T), separator: char) -> String {
    if values.0 == values.1 { values.0.to_string() } else { format!("{}{separator}{}", values.0, values.1) }
}

/// `SYN,ACK`, as iptables prints them; `NONE` for none.
pub(crate) fn tcp_flags(flags: u8) -> String {
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

pub(super) fn address_range(addresses: (u128, u128), v6: bool) -> String {
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

pub(super) fn set_name(set: SetReference, sets: &SetNames) -> String {
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
