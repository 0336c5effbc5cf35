//! Values as nft prints them by their type: addresses, ranges, ports, marks, times, interface names, verdicts.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::expression::Verdict;

/// As nft prints a time: `1d2h3m4s5ms` (`time_print` in `src/datatype.c`).
pub(super) fn duration(milliseconds: u64) -> String {
    let mut rest = milliseconds;
    let mut text = String::new();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            let _ = write!(text, "{count}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// nft's own type numbers (`include/datatype.h`).
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;
const MARK: u32 = 19;
const ICMPV6_TYPE: u32 = 29;
const IFNAME: u32 = 41;

/// The types of a concatenation, 6 bits each, the last one lowest.
pub(super) fn types(number: u32) -> Vec<u32> {
    let mut types: Vec<u32> = (0..5).map(|place| number >> (place * 6) & 0x3f).take_while(|kind| *kind != 0).collect();
    types.reverse();
    types
}

fn type_len(kind: u32) -> Option<usize> {
    match kind {
        IPV4_ADDR | MARK => Some(4),
        IPV6_ADDR | IFNAME => Some(16),
        INET_PROTO | ICMPV6_TYPE => Some(1),
        INET_SERVICE => Some(2),
        _ => None,
    }
}

pub(super) fn key(types: &[u32], from: &[u8], to: Option<&[u8]>) -> String {
    if let [kind] = types {
        return to.map_or_else(|| typed(*kind, from), |to| range(*kind, from, to));
    }
    let mut at = 0;
    let mut parts = Vec::new();
    for kind in types {
        let Some(len) = type_len(*kind) else { return hex(from) };
        let part = |bytes: &[u8]| bytes.get(at..at + len).map(<[u8]>::to_vec);
        let Some(low) = part(from) else { return hex(from) };
        parts.push(match to.and_then(part) {
            Some(high) if high != low => range(*kind, &low, &high),
            _ => typed(*kind, &low),
        });
        at += len.next_multiple_of(4);
    }
    if parts.is_empty() { hex(from) } else { parts.join(" . ") }
}

fn typed(kind: u32, bytes: &[u8]) -> String {
    match kind {
        IPV4_ADDR | IPV6_ADDR => address(bytes),
        INET_SERVICE => port(bytes),
        INET_PROTO => protocol(bytes),
        ICMPV6_TYPE => icmpv6_type(bytes),
        IFNAME => string(&name(bytes)),
        MARK => mark(bytes),
        _ => hex(bytes),
    }
}

/// As nft(8) names the types of `ICMPv6` (`icmp6_type_tbl`).
pub(super) fn icmpv6_type(bytes: &[u8]) -> String {
    let name = match bytes {
        [1] => "destination-unreachable",
        [2] => "packet-too-big",
        [3] => "time-exceeded",
        [4] => "parameter-problem",
        [128] => "echo-request",
        [129] => "echo-reply",
        [130] => "mld-listener-query",
        [131] => "mld-listener-report",
        [132] => "mld-listener-done",
        [133] => "nd-router-solicit",
        [134] => "nd-router-advert",
        [135] => "nd-neighbor-solicit",
        [136] => "nd-neighbor-advert",
        [137] => "nd-redirect",
        [138] => "router-renumbering",
        [141] => "ind-neighbor-solicit",
        [142] => "ind-neighbor-advert",
        [143] => "mld2-listener-report",
        [other] => return other.to_string(),
        _ => return hex(bytes),
    };
    name.to_owned()
}

/// A range: as a prefix where it is one.
fn range(kind: u32, from: &[u8], to: &[u8]) -> String {
    if matches!(kind, IPV4_ADDR | IPV6_ADDR)
        && let Some(len) = prefix_of(from, to)
    {
        return if usize::try_from(len) == Ok(from.len() * 8) { address(from) } else { format!("{}/{len}", address(from)) };
    }
    if from == to { typed(kind, from) } else { format!("{}-{}", typed(kind, from), typed(kind, to)) }
}

/// The prefix length when the range is exactly a prefix.
pub fn prefix_of(from: &[u8], to: &[u8]) -> Option<u32> {
    let differing: Vec<u8> = from.iter().zip(to).map(|(from, to)| from ^ to).collect();
    let mask: Vec<u8> = differing.iter().map(|byte| !byte).collect();
    let zero = from.iter().zip(&differing).all(|(from, differing)| from & differing == 0);
    (zero && from.len() == to.len()).then(|| mask_len(&mask)).flatten()
}

/// The length of a contiguous mask.
pub fn mask_len(mask: &[u8]) -> Option<u32> {
    let mut len = 0;
    let mut ended = false;
    for byte in mask {
        let ones = byte.leading_ones();
        if byte.count_ones() != ones || ended && *byte != 0 {
            return None;
        }
        len += ones;
        ended |= ones < 8;
    }
    Some(len)
}

pub(super) fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(v4).to_string();
    }
    <[u8; 16]>::try_from(bytes).map_or_else(|_| hex(bytes), |v6| Ipv6Addr::from(v6).to_string())
}

pub(super) fn port(bytes: &[u8]) -> String {
    <[u8; 2]>::try_from(bytes).map_or_else(|_| hex(bytes), |port| u16::from_be_bytes(port).to_string())
}

pub(super) fn mark(bytes: &[u8]) -> String {
    <[u8; 4]>::try_from(bytes).map_or_else(|_| hex(bytes), |mark| format!("0x{:08x}", u32::from_ne_bytes(mark)))
}

pub(super) fn protocol(bytes: &[u8]) -> String {
    match bytes.first() {
        Some(1) => "icmp".to_owned(),
        Some(2) => "igmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(47) => "gre".to_owned(),
        Some(50) => "esp".to_owned(),
        Some(51) => "ah".to_owned(),
        Some(58) => "ipv6-icmp".to_owned(),
        Some(132) => "sctp".to_owned(),
        Some(number) => number.to_string(),
        None => String::new(),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An interface name up to its NUL.
pub(super) fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

pub(super) fn string(text: &str) -> String {
    // Control characters would draw over the rest of the line, and nft knows no quote inside of quotes.
    format!("\"{}\"", text.chars().map(|c| if c.is_control() || c == '"' { '\u{fffd}' } else { c }).collect::<String>())
}

pub(super) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Queue => "queue".to_owned(),
        Verdict::Continue => "continue".to_owned(),
        Verdict::Break => "break".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
        Verdict::Return => "return".to_owned(),
    }
}
