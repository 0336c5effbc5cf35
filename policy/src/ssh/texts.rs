//! Which addresses of a range wildcard patterns tell apart by their text, as sshd prints them (`getnameinfo`, `inet_ntop`): for each set of
//! patterns that match together, one address. Exact: it walks all patterns at once over all texts of the range, character by character.
//! Knows no lists and no configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::Source;
use crate::ranges;

/// Patterns longer than this are not walked; where one stands in a pattern is a bit.
const MAX_PATTERN: usize = 127;
/// Of how much work the walk is given up: characters times patterns.
const MAX_WORK: usize = 2_000_000;

/// Where each pattern stands, as the bits of the places that it may be at.
type Places = Vec<u128>;
/// For all texts so far: one number of those that lead to these places.
type States = BTreeMap<Places, u128>;

/// One address for each set of patterns that match an address of the range together; `None` where that is too much work, or a pattern
/// goes by the interface that sshd prints behind a link-local address.
pub fn told_apart(range: Source, patterns: &[&str]) -> Option<Vec<IpAddr>> {
    let v6 = !range.is_ipv4();
    if patterns.iter().any(|pattern| pattern.len() > MAX_PATTERN) {
        return None;
    }
    let mut walk = Walk { patterns: patterns.iter().map(|pattern| pattern.as_bytes()).collect(), work: 0 };
    let states = if v6 { walk.v6(range)? } else { walk.v4(range)? };
    let link_local = matches!(range.net(), IpNet::V6(net) if net.addr().is_unicast_link_local());
    let mut found: BTreeMap<Vec<bool>, u128> = BTreeMap::new();
    for (places, number) in states {
        if link_local && !walk.know_the_end(&places) {
            return None;
        }
        found.entry(walk.matched(&places)).or_insert(number);
    }
    Some(found.into_values().map(|number| ranges::address(v6, number)).collect())
}

struct Walk<'a> {
    patterns: Vec<&'a [u8]>,
    work: usize,
}

/// A number inside a text, and between which it lies.
#[derive(Clone, Copy)]
struct Number {
    base: u32,
    most_digits: u32,
    from: u32,
    to: u32,
}

impl Walk<'_> {
    fn start(&self) -> States {
        let places = self.patterns.iter().map(|pattern| with_stars(pattern, 1)).collect();
        States::from([(places, 0)])
    }

    fn v4(&mut self, range: Source) -> Option<States> {
        let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) else { return None };
        let mut states = self.start();
        for (index, (from, to)) in first.octets().into_iter().zip(last.octets()).enumerate() {
            if index > 0 {
                states = self.text(states, ".")?;
            }
            let octet = Number { base: 10, most_digits: 3, from: from.into(), to: to.into() };
            states = self.number(&shifted(states, 8), octet)?;
        }
        Some(states)
    }

    /// RFC 5952: the first of the longest runs of two or more zeros is `::`. Which groups are zero decides how the others are written.
    fn v6(&mut self, range: Source) -> Option<States> {
        let (IpAddr::V6(first), IpAddr::V6(last)) = (range.first(), range.last()) else { return None };
        let groups: Vec<(u16, u16)> = first.segments().into_iter().zip(last.segments()).collect();
        let mut found = States::new();
        for zeros in 0_u8..=255 {
            let is_zero = |index: usize| zeros >> index & 1 == 1;
            let can = |(index, (from, to)): (usize, &(u16, u16))| if is_zero(index) { *from == 0 } else { *to > 0 };
            if !groups.iter().enumerate().all(can) {
                continue;
            }
            let run = longest_run(is_zero);
            let mut states = self.start();
            for (index, (from, to)) in groups.iter().enumerate() {
                states = shifted(states, 16);
                let in_run = run.is_some_and(|(start, length)| (start..start + length).contains(&index));
                if in_run {
                    let starts = run.is_some_and(|(start, _)| start == index);
                    states = if starts { self.text(states, "::")? } else { states };
                    continue;
                }
                let behind_run = run.is_some_and(|(start, length)| start + length == index);
                if index > 0 && !behind_run {
                    states = self.text(states, ":")?;
                }
                let from = if is_zero(index) { 0 } else { u32::from(*from).max(1) };
                let to = if is_zero(index) { 0 } else { u32::from(*to) };
                states = self.number(&states, Number { base: 16, most_digits: 4, from, to })?;
            }
            for (places, number) in states {
                found.entry(places).or_insert(number);
            }
        }
        Some(found)
    }

    fn text(&mut self, mut states: States, text: &str) -> Option<States> {
        for byte in text.bytes() {
            let mut next = States::new();
            for (places, number) in &states {
                next.entry(self.after(places, byte)?).or_insert(*number);
            }
            states = next;
        }
        Some(states)
    }

    /// All texts of a number, without leading zeros.
    fn number(&mut self, states: &States, number: Number) -> Option<States> {
        let Number { base, most_digits, from, to } = number;
        let mut found = States::new();
        for digits in 1..=most_digits {
            let (least, most) = (if digits == 1 { 0 } else { base.pow(digits - 1) }, base.pow(digits) - 1);
            let (from, to) = (from.max(least), to.min(most));
            if from > to {
                continue;
            }
            // Whether the digits so far are those of the lowest and of the highest number, where that matters.
            let mut walked: BTreeMap<(Places, bool, bool), (u128, u32)> =
                states.iter().map(|(places, before)| ((places.clone(), from != least, to != most), (*before, 0))).collect();
            for digit in (0..digits).rev() {
                let of = |number: u32| number / base.pow(digit) % base;
                let mut next = BTreeMap::new();
                for ((places, lowest, highest), (before, value)) in &walked {
                    let leading = u32::from(digits > 1 && digit == digits - 1);
                    let (low, high) = (if *lowest { of(from) } else { leading }, if *highest { of(to) } else { base - 1 });
                    for one in low..=high {
                        let character = char::from_digit(one, base).and_then(|c| u8::try_from(c).ok())?;
                        let key = (self.after(places, character)?, *lowest && one == low, *highest && one == high);
                        next.entry(key).or_insert((*before, value * base + one));
                    }
                }
                walked = next;
            }
            for ((places, _, _), (before, value)) in walked {
                found.entry(places).or_insert(before + u128::from(value));
            }
        }
        Some(found)
    }

    /// Where the patterns stand after one character more.
    fn after(&mut self, places: &Places, byte: u8) -> Option<Places> {
        self.work += 1 + self.patterns.len();
        let step = |(pattern, places): (&&[u8], &u128)| {
            let mut next = 0_u128;
            for (at, wanted) in pattern.iter().enumerate().filter(|(at, _)| places >> at & 1 == 1) {
                match wanted {
                    b'*' => next |= 1 << at,
                    b'?' => next |= 1 << (at + 1),
                    wanted if *wanted == byte => next |= 1 << (at + 1),
                    _ => {}
                }
            }
            with_stars(pattern, next)
        };
        (self.work <= MAX_WORK).then(|| self.patterns.iter().zip(places).map(step).collect())
    }

    fn matched(&self, places: &Places) -> Vec<bool> {
        self.patterns.iter().zip(places).map(|(pattern, places)| places >> pattern.len() & 1 == 1).collect()
    }

    /// Whether more text behind changes nothing: a pattern matches whatever follows, or nothing any more.
    fn know_the_end(&self, places: &Places) -> bool {
        let known = |(pattern, places): (&&[u8], &u128)| {
            let any_end = pattern.last() == Some(&b'*') && places >> (pattern.len() - 1) & 1 == 1;
            any_end || *places == 0
        };
        self.patterns.iter().zip(places).all(known)
    }
}

/// A `*` may be nothing.
fn with_stars(pattern: &[u8], mut places: u128) -> u128 {
    for (at, _) in pattern.iter().enumerate().filter(|(_, byte)| **byte == b'*') {
        places |= (places >> at & 1) << (at + 1);
    }
    places
}

fn shifted(states: States, bits: u32) -> States {
    states.into_iter().map(|(places, number)| (places, number << bits)).collect()
}

/// Start and length of the first of the longest runs of zero groups.
fn longest_run(is_zero: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
    let mut longest: Option<(usize, usize)> = None;
    let mut length = 0;
    for index in 0..8 {
        length = if is_zero(index) { length + 1 } else { 0 };
        if length >= 2 && longest.is_none_or(|(_, best)| length > best) {
            longest = Some((index + 1 - length, length));
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::ssh::pattern::wildcard;

    fn matched(address: IpAddr, patterns: &[&str]) -> Vec<bool> {
        patterns.iter().map(|pattern| wildcard(pattern, &address.to_string())).collect()
    }

    /// Against every single address, by the matcher of patterns itself.
    fn compare(range: Source, patterns: &[&str]) {
        let v6 = !range.is_ipv4();
        let (first, last) = ranges::span(range);
        let all: BTreeSet<Vec<bool>> = (first..=last).map(|at| matched(ranges::address(v6, at), patterns)).collect();
        let found = told_apart(range, patterns).unwrap();
        assert!(found.iter().all(|address| range.contains((*address).into())), "{range} {patterns:?} {found:?}");
        let said: BTreeSet<Vec<bool>> = found.iter().map(|address| matched(*address, patterns)).collect();
        assert_eq!((said, found.len()), (all.clone(), all.len()), "{range} {patterns:?} {found:?}");
    }

    #[test]
    fn one_address_of_each_part_is_found() {
        for (range, patterns) in [
            ("198.51.100.0/24", &["198.51.*.7", "*.7", "19?.51.100.7", "*.1??", "*"][..]),
            ("198.51.0.0/16", &["*.7", "*.7.*", "198.51.?.?", "*1*1*1*1*"]),
            ("198.51.100.6/31", &["*"]),
            ("2001:db8::/112", &["*::7", "*:7", "2001:db8::?", "*0*", "*f"]),
            ("2001:db8:0:0:1::/112", &["*:1::*", "*:0:*", "2001:db8::1:0:0:7", "*:7"]),
            ("203.0.113.0/24", &[]),
        ] {
            compare(range.parse().unwrap(), patterns);
        }
    }

    #[test]
    fn large_ranges_cost_little_and_texts_that_are_not_known_are_unknown() {
        let of = |range: &str, patterns: &[&str]| told_apart(range.parse().unwrap(), patterns).map(|found| found.len());
        assert_eq!(of("0.0.0.0/0", &["*.7", "10.*", "1?.*.3*"]), Some(8));
        assert_eq!(of("2001:db8::/32", &["*:7", "2001:db8:1:*"]), Some(4));
        assert_eq!(of("2a00::/16", &["*::7"]), Some(2));
        assert_eq!(of("fe80::/10", &["10.*", "fe80:*", "*"]), Some(2));
        assert_eq!(of("fe80::/10", &["*:7"]), None);
        assert_eq!(of("10.0.0.0/8", &[&"*1".repeat(100)]), None);
        let hostile: Vec<String> = (0..100).map(|n| format!("*{n}*{}*{}", n % 7, n % 10)).collect();
        let hostile: Vec<&str> = hostile.iter().map(String::as_str).collect();
        assert_eq!(of("0.0.0.0/0", &hostile), None);
    }

    fn some_pattern() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            3 => Just("*".to_owned()),
            2 => Just("?".to_owned()),
            2 => prop::sample::select(vec!["198.51.100.", "198.51.", ".100.", "2001:db8:", "::", ":", ".", "0:"]).prop_map(str::to_owned),
            3 => (0_u16..256).prop_map(|n| n.to_string()),
            2 => (0_u16..256).prop_map(|n| format!("{n:x}")),
        ];
        prop::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn what_is_told_apart_is_what_is_said_of_every_single_address(
            patterns in prop::collection::vec(some_pattern(), 0..4),
            (base, v6) in prop::sample::select(vec![
                ("198.51.100.0", false), ("198.51.0.0", false), ("10.0.255.0", false),
                ("2001:db8::", true), ("2001:db8:0:1::", true), ("2001:db8:1:0:1:0:0:ff00", true), ("0:0:1::", true),
            ]),
            bits in 0_u8..10,
            offset in 0_u128..256,
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let base: IpAddr = base.parse().unwrap();
            let at = ranges::address(v6, ranges::number(base) + offset);
            let length = if v6 { 128 } else { 32 } - bits;
            compare(Source::new(IpNet::new(at, length).unwrap()), &patterns);
        }
    }
}
