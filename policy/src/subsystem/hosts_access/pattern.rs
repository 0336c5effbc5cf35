//! Does a pattern of `hosts_access(5)` match a peer? Three-valued, exactly as `host_match` and `string_match` of tcp wrappers
//! 7.6.q answer (`hosts_access.c` with Debian's patches). A peer may be a range: then the answer holds for all of it, or is Maybe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::document::split_at;
use crate::address::Source;
use crate::packet::Tri;

/// What libwrap calls an unknown name, address or user (`STRING_UNKNOWN`, tcpd.h).
pub const UNKNOWN: &str = "unknown";
/// What libwrap calls a name that does not lead back to its address (`STRING_PARANOID`, tcpd.h).
pub const PARANOID: &str = "paranoid";

/// The address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Somewhere in here.
    In(Source),
    /// An IP address that nobody told us: the server's own.
    Any,
    /// No address at all; libwrap calls it `unknown`.
    None,
}

/// `string_match` against a text that is known whole: a daemon, a user, a host name.
pub fn text_matches(token: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    // A v4-mapped address is matched as the IPv4 address it is.
    let text = match text.split_at_checked(7) {
        Some((head, tail)) if head.eq_ignore_ascii_case(b"::ffff:") && dot_quad(tail).is_some() => tail,
        _ => text,
    };
    if is_wildcard(token) {
        return wildcard_matches(text, token);
    }
    match token {
        [] => false,
        [b'.', ..] => {
            text.len() > token.len() && text.get(text.len() - token.len()..).is_some_and(|end| token.eq_ignore_ascii_case(end))
        }
        _ if token.eq_ignore_ascii_case(b"ALL") => true,
        _ if token.eq_ignore_ascii_case(b"KNOWN") => !text.eq_ignore_ascii_case(UNKNOWN.as_bytes()),
        [.., b'.'] => text.get(..token.len()).is_some_and(|start| token.eq_ignore_ascii_case(start)),
        [b'[', inner @ .., b']'] => numeric_v6(inner).is_some_and(|address| numeric_v6(text) == Some(address)),
        _ => token.eq_ignore_ascii_case(text),
    }
}

/// `string_match` against a peer's address.
pub fn address_matches(token: &[u8], address: Address) -> Tri {
    match address {
        Address::None => Tri::from(text_matches(token, UNKNOWN)),
        Address::In(source) => match source.single() {
            Some(single) if !has_zone(source) => Tri::from(text_matches(token, &address_text(single))),
            _ => range_matches(token, source),
        },
        Address::Any => {
            let every = token.eq_ignore_ascii_case(b"ALL") || is_wildcard(token) && token.iter().all(|byte| *byte == b'*');
            if every {
                Tri::Yes
            } else if address_of(token).is_none() && !could_be_in_an_address(token) {
                Tri::No
            } else {
                Tri::Maybe
            }
        }
    }
}

/// Link-local addresses are written with their interface, `fe80::1%eth0`, which a source does not tell.
fn has_zone(source: Source) -> bool {
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)) <= source.last() && source.first() <= last_link_local()
}

fn last_link_local() -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfebf, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff))
}

/// `string_match` against the text of every address in a range.
fn range_matches(token: &[u8], source: Source) -> Tri {
    let zone = has_zone(source);
    let possible = |possible: bool| if possible { Tri::Maybe } else { Tri::No };
    if is_wildcard(token) {
        return if token.iter().all(|byte| *byte == b'*') { Tri::Yes } else { possible(zone || could_be_in_an_address(token)) };
    }
    match token {
        [] => Tri::No,
        [b'.', ..] => possible(zone || could_be_in_an_address(token)),
        _ if token.eq_ignore_ascii_case(b"ALL") => Tri::Yes,
        _ if token.eq_ignore_ascii_case(b"KNOWN") => Tri::Yes,
        [.., b'.'] => match octets(token) {
            Some(net) => relation(net, source),
            // Addresses of ::/96 are written with an IPv4 tail.
            None => possible(!source.is_ipv4() && source.first() < IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 1, 0, 0))),
        },
        [b'[', inner @ .., b']'] => match numeric_v6(inner) {
            _ if inner.contains(&b'%') => possible(!source.is_ipv4()),
            Some(address) if !source.is_ipv4() => relation_v6(u128::from(address), u128::MAX, source),
            _ => Tri::No,
        },
        _ if token.contains(&b'%') => possible(zone),
        _ => match address_of(token) {
            // As text: another way to write the same address does not match.
            Some(address) if !has_zone(address.into()) && address_text(address).as_bytes().eq_ignore_ascii_case(token) => {
                relation(address.into(), source)
            }
            _ => Tri::No,
        },
    }
}

/// Whether a pattern could be part of a numeric address, wildcards aside.
fn could_be_in_an_address(token: &[u8]) -> bool {
    token.iter().all(|byte| byte.is_ascii_hexdigit() || b".:*?%[]/".contains(byte))
}

/// How a net lies to a range, as the answer to "is every address of the range in the net".
fn relation(net: Source, source: Source) -> Tri {
    if net.contains(source) {
        Tri::Yes
    } else if net.overlaps(source) {
        Tri::Maybe
    } else {
        Tri::No
    }
}

/// `net/mask`: `masked_match4` and `masked_match6` (`hosts_access.c`).
pub fn masked_matches(net: &[u8], mask: &[u8], address: Address) -> Tri {
    let v4 = dot_quad(net).zip(mask_v4(mask));
    let v6 = bracketed_v6(net).zip(mask_v6(mask));
    match address {
        Address::None => Tri::No,
        Address::Any if v4.is_none() && v6.is_none() => Tri::No,
        Address::Any => Tri::Maybe,
        Address::In(source) if source.is_ipv4() => v4.map_or(Tri::No, |(net, mask)| relation_v4(net, mask, source)),
        Address::In(source) => match v6 {
            Some((net, mask)) => relation_v6(u128::from(net) & mask, mask, source),
            None if net.contains(&b'%') => Tri::Maybe,
            None => Tri::No,
        },
    }
}

/// `(address & mask) == net` for every address of an IPv4 range. Bits of the net outside the mask never match.
fn relation_v4(net: u32, mask: u32, source: Source) -> Tri {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (source.first(), source.last()) else { return Tri::No };
    let (first, free) = (u32::from(first), u32::from(first) ^ u32::from(last));
    // 255.255.255.255 is an error value to `inet_addr`, so it never matches.
    if net & !mask != 0 || (first ^ net) & mask & !free != 0 || first == u32::MAX {
        Tri::No
    } else if mask & free != 0 {
        Tri::Maybe
    } else {
        Tri::Yes
    }
}

/// The same for IPv6, where bits of the net outside the mask do not count.
fn relation_v6(net: u128, mask: u128, source: Source) -> Tri {
    let (IpAddr::V6(first), IpAddr::V6(last)) = (source.first(), source.last()) else { return Tri::No };
    let (first, free) = (u128::from(first), u128::from(first) ^ u128::from(last));
    if (first ^ net) & mask & !free != 0 {
        Tri::No
    } else if mask & free != 0 {
        Tri::Maybe
    } else {
        Tri::Yes
    }
}

/// The sources that a client pattern names by address, and no other: `203.0.113.7`, `203.0.113.`, `203.0.113.0/24`,
/// `203.0.113.0/255.255.255.0`, `[2001:db8::7]`, `[2001:db8::]/32`. `None` for every other pattern.
pub fn named_source(token: &[u8]) -> Option<Source> {
    if is_wildcard(token) || token.first() == Some(&b'/') {
        return None;
    }
    if let Some(slash) = split_at(token, b'/') {
        let (net, mask) = (token.get(..slash)?, token.get(slash + 1..)?);
        if let (Some(net), Some(mask)) = (dot_quad(net), mask_v4(mask)) {
            let prefix = mask.leading_ones();
            let contiguous = mask.count_ones() == prefix && net & !mask == 0;
            return contiguous.then(|| source(Ipv4Addr::from(net).into(), prefix))?;
        }
        let (net, mask) = bracketed_v6(net).zip(mask_v6(mask))?;
        return source(Ipv6Addr::from(u128::from(net) & mask).into(), mask.leading_ones()).filter(|net| !net.is_ipv4());
    }
    match token {
        [b'[', inner @ .., b']'] => {
            numeric_v6(inner).map(|address| Source::from(IpAddr::V6(address))).filter(|net| !net.is_ipv4())
        }
        [.., b'.'] => octets(token),
        _ => address_of(token).filter(|address| address_text(*address).as_bytes().eq_ignore_ascii_case(token)).map(Source::from),
    }
}

fn source(address: IpAddr, prefix: u32) -> Option<Source> {
    ipnet::IpNet::new(address, u8::try_from(prefix).ok()?).ok().map(Source::new)
}

/// A source as a client pattern that every build of libwrap understands: masks for IPv4 nets, brackets for IPv6.
pub fn pattern_for(source: Source) -> String {
    match (source.single(), source.net()) {
        (Some(IpAddr::V4(address)), _) => address.to_string(),
        (Some(IpAddr::V6(address)), _) => format!("[{address}]"),
        (None, ipnet::IpNet::V4(net)) => format!("{}/{}", net.network(), net.netmask()),
        (None, ipnet::IpNet::V6(net)) => format!("[{}]/{}", net.network(), net.prefix_len()),
    }
}

/// Whether a token needs no name: digits, dots and slashes only (`NOT_INADDR`, tcpd.h).
pub fn is_only_address(token: &[u8]) -> bool {
    token.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.' || *byte == b'/')
}

fn is_wildcard(token: &[u8]) -> bool {
    token.contains(&b'*') || token.contains(&b'?')
}

/// `match_pattern_ylo` (Debian's patch `05_wildcard_matching`). A `*` before `?` or `*` wants at least one character, as there.
fn wildcard_matches(text: &[u8], pattern: &[u8]) -> bool {
    // Every set of (text left, pattern left) that can still match, so that no pattern takes exponential time.
    let mut failed = std::collections::BTreeSet::new();
    let mut open = vec![(text, pattern)];
    while let Some((text, pattern)) = open.pop() {
        if !failed.insert((text.len(), pattern.len())) {
            continue;
        }
        match (text, pattern) {
            ([], []) | (_, [b'*']) => return true,
            (_, []) | ([], _) => {}
            (_, [b'*', rest @ ..]) => {
                let literal = rest.first().filter(|next| !b"?*".contains(next));
                for (skipped, byte) in text.iter().enumerate() {
                    let left = text.get(skipped..).unwrap_or_default();
                    if literal.is_none_or(|literal| literal.eq_ignore_ascii_case(byte)) {
                        open.push((left, rest));
                    }
                }
            }
            ([byte, text @ ..], [wanted, pattern @ ..]) => {
                if *wanted == b'?' || wanted.eq_ignore_ascii_case(byte) {
                    open.push((text, pattern));
                }
            }
        }
    }
    false
}

/// `n.`, `n.n.` or `n.n.n.` as the net of every address that begins so.
fn octets(token: &[u8]) -> Option<Source> {
    let text = std::str::from_utf8(token).ok()?.strip_suffix('.')?;
    let mut address = [0u8; 4];
    let parts: Vec<_> = text.split('.').collect();
    if parts.len() > 3 {
        return None;
    }
    for (place, part) in address.iter_mut().zip(&parts) {
        let value: u8 = part.parse().ok()?;
        if value.to_string() != *part {
            return None;
        }
        *place = value;
    }
    source(Ipv4Addr::from(address).into(), u32::try_from(parts.len() * 8).ok()?)
}

fn address_of(token: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// `[address]`, as `getaddrinfo` with `AF_INET6` and `AI_NUMERICHOST` takes it.
fn bracketed_v6(token: &[u8]) -> Option<Ipv6Addr> {
    match token {
        [b'[', inner @ .., b']'] => numeric_v6(inner),
        _ => None,
    }
}

fn numeric_v6(text: &[u8]) -> Option<Ipv6Addr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An address as `getnameinfo` with `NI_NUMERICHOST` writes it.
pub fn address_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        // glibc's inet_ntop writes ::a.b.c.d where exactly the first 96 bits are zero.
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
                let [.., a, b, c, d] = v6.octets();
                format!("::{a}.{b}.{c}.{d}")
            }
            _ => v6.to_string(),
        },
    }
}

/// `dot_quad_addr` (misc.c): exactly four numbers as `inet_addr` reads them (octal and hexadecimal too); all ones is an error.
fn dot_quad(text: &[u8]) -> Option<u32> {
    if text.split(|byte| *byte == b'.').filter(|run| !run.is_empty()).count() != 4 {
        return None;
    }
    let mut address = 0u32;
    let mut rest = text;
    for part in 0..4 {
        let (value, after) = number(rest)?;
        address = address << 8 | u32::try_from(value).ok().filter(|value| *value <= 0xff)?;
        rest = match (part, after) {
            (3, []) => after,
            (3, [byte, ..]) if byte.is_ascii_whitespace() || *byte == 0x0b => after,
            (0..3, [b'.', after @ ..]) => after,
            _ => return None,
        };
    }
    (address != u32::MAX).then_some(address)
}

/// `strtoul` with base 0 on text that begins with a digit.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (radix, digits) = match text {
        [b'0', b'x' | b'X', rest @ ..] if rest.first().is_some_and(u8::is_ascii_hexdigit) => (16, rest),
        [b'0', ..] => (8, text),
        [first, ..] if first.is_ascii_digit() => (10, text),
        _ => return None,
    };
    let mut value = 0u64;
    let mut used = 0;
    for byte in digits {
        let Some(digit) = char::from(*byte).to_digit(radix) else { break };
        value = value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?;
        used += 1;
    }
    Some((value, digits.get(used..).unwrap_or_default()))
}

/// The mask of an IPv4 net: dotted, or a prefix length of 1 to 32 (`cidr_mask_addr`, misc.c). 255.255.255.255 is none.
fn mask_v4(text: &[u8]) -> Option<u32> {
    if let Some(mask) = dot_quad(text) {
        return Some(mask);
    }
    match decimal_i32(text) {
        length @ 1..=32 => u32::MAX.checked_shl(u32::try_from(32 - length).ok()?),
        _ => None,
    }
}

/// The mask of an IPv6 net; what is no number counts as 0, which matches every IPv6 address (`strtol`, as there).
fn mask_v6(text: &[u8]) -> Option<u128> {
    match decimal_i32(text) {
        0 => Some(0),
        length @ 1..=128 => u128::MAX.checked_shl(u32::try_from(128 - length).ok()?),
        _ => None,
    }
}

/// `strtol(text, 0, 10)` cut to 32 bits, as C's `int` does; 0 where there is no number.
pub fn decimal_i32(text: &[u8]) -> i32 {
    scan_decimal(text).map_or(0, |(value, _)| truncate(value))
}

/// The low 32 bits, as C does when it keeps a `long` in an `int`.
pub fn truncate(value: i64) -> i32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// Optional white space and sign, then digits, saturating as `strtol` does; and what follows.
pub fn scan_decimal(text: &[u8]) -> Option<(i64, &[u8])> {
    let blank = text.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
    let text = text.get(blank..)?;
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut value = 0i64;
    for byte in digits.get(..length).filter(|digits| !digits.is_empty())? {
        let digit = i64::from(byte - b'0');
        value = value.saturating_mul(10);
        value = if negative { value.saturating_sub(digit) } else { value.saturating_add(digit) };
    }
    Some((value, digits.get(length..).unwrap_or_default()))
}
