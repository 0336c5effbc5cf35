//! Which addresses a configuration tells apart: of clients by `AllowUsers`, `DenyUsers`, `Match` lines and the keys of a user, of the host by
//! `Match LocalAddress`. One of each part is asked about for all of it. Exact, or not known: no part is left out in silence.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::address::Source;
use crate::host::HostState;
use crate::ranges;
use crate::ssh::pattern::wildcard;
use crate::ssh::texts;
use crate::subsystem::sshd::config::{Document, Listed, address_list, keyword, net, pattern_list};
use crate::subsystem::sshd::facts::key_file::Reading;
use crate::subsystem::sshd::facts::state::Server;

/// Of more parts than this nothing is known.
const MAX_PARTS: usize = 64;
/// Loopback, which comes to other addresses of the host, and IPv4 addresses written as IPv6, which no client has (RFC 4291).
const V4_LOOPBACK: ranges::Span = (0x7f00_0000, 0x7fff_ffff);
const V6_LOOPBACK: ranges::Span = (1, 1);
const MAPPED: ranges::Span = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// The lists of addresses and hosts that decide about some users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Of clients, as they stand in the lines.
    clients: BTreeSet<String>,
    /// Those that may be about addresses of the host.
    locals: BTreeSet<String>,
    /// Whether lines may be missing.
    unknown: bool,
}

/// What the lists say of one address.
type Said = Vec<(Option<Listed>, Listed)>;

impl Parts {
    /// By the files of a server, for these users.
    pub fn of(server: &Server, users: &BTreeSet<String>) -> Self {
        let mut found = Self::default();
        let Ok(tree) = &server.tree else { return Self { unknown: true, ..found } };
        for (_, line) in tree.files.values().flat_map(Document::lines) {
            match line.directive() {
                Ok(None) => {}
                Ok(Some(directive)) => match keyword::canonical(&directive.keyword).as_str() {
                    "match" => found.add_match(&directive.arguments),
                    "allowusers" | "denyusers" => {
                        directive.arguments.iter().for_each(|pattern| found.add_pattern(pattern, users));
                    }
                    _ => {}
                },
                // Whatever it means to another sshd.
                Err(_) => found.add_text(&line.to_string()),
            }
        }
        // `-o "Match ..."`, `-oDenyUsers=...`
        server.invocation.options.iter().for_each(|option| found.add_text(option));
        found
    }

    /// With what the options of these users' keys tell apart.
    #[must_use]
    pub fn with_keys(mut self, host: &HostState, users: &BTreeSet<String>) -> Self {
        for (_, file) in host.sshd.key_files.iter().filter(|((user, _), _)| users.contains(user)) {
            if let Reading::Keys(keys) = file.read(false) {
                // A key whose list does not name the client may still be somebody's way in, and is judged as such.
                self.clients.extend(keys.iter().filter_map(|key| key.option("from")).filter(|from| from.contains('!')));
            }
        }
        self
    }

    /// By the lists of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.clients.extend(other.clients);
        self.locals.extend(other.locals);
        self.unknown |= other.unknown;
        self
    }

    fn add_match(&mut self, arguments: &[String]) {
        let words: Vec<&str> = arguments.iter().flat_map(|word| word.split(['=', ' '])).collect();
        if words.iter().any(|word| word.eq_ignore_ascii_case("localaddress")) {
            self.locals.extend(words.iter().map(|word| (*word).to_owned()));
        }
        self.clients.extend(words.into_iter().map(str::to_owned));
    }

    /// match.c, `match_user`; which `@` counts where there are several is another question.
    fn add_pattern(&mut self, pattern: &str, users: &BTreeSet<String>) {
        let Some((user, hosts)) = pattern.split_once('@') else { return };
        if !hosts.contains('@') && !users.iter().any(|name| wildcard(user, name)) {
            return;
        }
        let ends = hosts.char_indices().filter(|(_, c)| *c == '@').filter_map(|(at, _)| hosts.get(at + 1..));
        self.clients.extend([hosts].into_iter().chain(ends).map(str::to_owned));
    }

    fn add_text(&mut self, text: &str) {
        let words = text.split(['=', ' ', '\t', '"', '\'', '@']).filter(|word| !word.is_empty());
        for word in words.map(str::to_owned) {
            self.locals.insert(word.clone());
            self.clients.insert(word);
        }
    }

    fn said(lists: &BTreeSet<String>, address: IpAddr) -> Said {
        let text = address.to_string();
        lists.iter().map(|list| (address_list(address, list), pattern_list(&text, &list.to_ascii_lowercase()))).collect()
    }

    /// Whether nothing tells these two ways apart, from where and to where.
    pub fn alike(&self, one: (IpAddr, Option<IpAddr>), other: (IpAddr, Option<IpAddr>)) -> bool {
        let to = match (one.1, other.1) {
            (Some(one), Some(other)) => Self::same(&self.locals, one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        to && !self.unknown && self.alike_clients(one.0, other.0)
    }

    /// The same, wherever they lead.
    pub fn alike_clients(&self, one: IpAddr, other: IpAddr) -> bool {
        one == other || !self.unknown && Self::same(&self.clients, one, other)
    }

    fn same(lists: &BTreeSet<String>, one: IpAddr, other: IpAddr) -> bool {
        let kind = |at: IpAddr| (at.is_ipv4(), at.is_loopback());
        one == other || kind(one) == kind(other) && Self::said(lists, one) == Self::said(lists, other)
    }

    /// An address of each part of a range of clients; `None` where these are too many, or not known.
    pub fn clients(&self, source: Source) -> Option<Vec<IpAddr>> {
        if let Some(single) = source.single() {
            return Some(vec![single]);
        }
        if self.unknown {
            return None;
        }
        let v6 = !source.is_ipv4();
        let items: BTreeSet<&str> =
            self.clients.iter().flat_map(|list| list.split(',')).map(|item| item.strip_prefix('!').unwrap_or(item)).collect();
        let patterns = wildcards(&items);
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let mut found: Vec<(Said, bool, IpAddr)> = Vec::new();
        for (from, to) in intervals(source, &items) {
            if v6 && from >= MAPPED.0 && to <= MAPPED.1 {
                continue;
            }
            let first = ranges::address(v6, from);
            let some = if patterns.is_empty() { vec![first] } else { told_apart(v6, (from, to), &patterns)? };
            for address in some {
                let (said, loopback) = (Self::said(&self.clients, address), address.is_loopback());
                if !found.iter().any(|known| known.0 == said && known.1 == loopback) {
                    found.push((said, loopback, address));
                }
            }
            if found.len() > MAX_PARTS {
                return None;
            }
        }
        Some(found.into_iter().map(|(_, _, address)| address).collect())
    }

    /// One of each part of the host's own addresses; all of them where the lists are not known.
    pub fn locals<'a>(&self, own: impl Iterator<Item = &'a IpAddr>) -> Vec<IpAddr> {
        let mut found: Vec<(Said, IpAddr)> = Vec::new();
        for address in own {
            let said = Self::said(&self.locals, *address);
            if self.unknown || !found.iter().any(|known| known.0 == said) {
                found.push((said, *address));
            }
        }
        found.into_iter().map(|(_, address)| address).collect()
    }
}

/// The patterns among the items that not every text matches, and the same in lower case, as names of hosts are compared.
fn wildcards(items: &BTreeSet<&str>) -> BTreeSet<String> {
    let patterns = items.iter().filter(|item| item.contains(['*', '?']) && net(item).is_none());
    let patterns = patterns.filter(|item| !item.chars().all(|c| c == '*'));
    patterns.flat_map(|item| [(*item).to_owned(), item.to_ascii_lowercase()]).collect()
}

/// The range, cut where a network of the items begins or ends, and where addresses of another kind do.
fn intervals(source: Source, items: &BTreeSet<&str>) -> Vec<ranges::Span> {
    let v6 = !source.is_ipv4();
    let (first, last) = ranges::span(source);
    let span = |net: IpNet| (ranges::number(net.network()), ranges::number(net.broadcast()));
    let nets = items.iter().filter_map(|item| net(item)).filter(|net| matches!(net, IpNet::V6(_)) == v6).map(span);
    let link_local = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), Ipv6Addr::new(0xfebf, !0, !0, !0, !0, !0, !0, !0));
    let kinds = if v6 { vec![V6_LOOPBACK, MAPPED, (link_local.0.to_bits(), link_local.1.to_bits())] } else { vec![V4_LOOPBACK] };
    let cuts = nets.chain(kinds).flat_map(|(from, to)| [Some(from), to.checked_add(1)]).flatten();
    let starts: BTreeSet<u128> = cuts.filter(|at| first < *at && *at <= last).chain([first]).collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([last]);
    starts.iter().copied().zip(ends).collect()
}

fn told_apart(v6: bool, span: ranges::Span, patterns: &[&str]) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    for prefix in ranges::prefixes(v6, &[span]) {
        found.extend(texts::told_apart(prefix, patterns)?);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::subsystem::sshd::Invocation;

    fn users() -> BTreeSet<String> {
        ["alice".to_owned()].into()
    }

    fn parts(text: &str) -> Parts {
        let server = Server::with_files(Invocation::plain("/usr/sbin/sshd"), &[("/etc/ssh/sshd_config", text)]);
        Parts::of(&server, &users())
    }

    #[test]
    fn what_lines_tell_apart_is_asked_about_and_nothing_else() {
        for (text, count) in [
            ("X11Forwarding yes\n", 1),
            ("DenyUsers bob@198.51.100.7 *@*\n", 1),
            ("DenyUsers alice@198.51.*.7\n", 2),
            ("DenyUsers a*@19?.51.100.7 alice@*.7\n", 2),
            ("Match Address 198.51.100.7,198.51.100.9,*.11\n", 2),
            ("Match Host=*.7\nMatch Address 198.51.100.0/28\n", 3),
            ("Match Address 198.51.100.0/28\nMatch Address !198.51.100.3,198.51.100.0/29\n", 4),
            ("DenyUsers alice@3325256711\n", 2),
            ("AllowUsers alice@198.51.100.1? alice@198.51.100.?\n", 3),
            ("DenyUsers \"alice@*.7\n", 2),
            ("DenyUsers alice@*.7@*.8\n", 2),
            ("AcceptEnv LC_* 198.51.100.*\n", 1),
        ] {
            assert_eq!(parts(text).clients("198.51.100.0/24".parse().unwrap()).unwrap().len(), count, "{text}");
        }
        let many: Vec<String> = (0..=MAX_PARTS).map(|n| format!("Match Address 198.51.100.{n}\n")).collect();
        assert_eq!(parts(&many.concat()).clients("198.51.100.0/24".parse().unwrap()), None);
        assert_eq!(parts("").clients("0.0.0.0/0".parse().unwrap()).unwrap().len(), 2, "and loopback");
        assert_eq!(parts("").clients("::/0".parse().unwrap()).unwrap().len(), 2);
    }

    #[test]
    fn the_hosts_own_addresses_are_told_apart_however_many_they_are() {
        let own: Vec<IpAddr> = (1..=200).map(|n| IpAddr::from([10, n, 0, 1])).chain([IpAddr::from([203, 0, 113, 1])]).collect();
        let of = |text: &str| parts(text).locals(own.iter());
        assert_eq!(of("Match Address 203.0.113.1\n").len(), 1);
        assert_eq!(of("Match LocalAddress 203.0.113.1\n").len(), 2);
        assert_eq!(of("Match LocalAddress=10.2?.0.1 User alice\n").len(), 2);
    }

    #[test]
    fn ways_that_nothing_tells_apart_are_alike() {
        let parts = parts("DenyUsers alice@198.51.100.0/25\nMatch LocalAddress 10.1.0.1\n");
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let alike = |one: &str, other: &str| parts.alike((at(one), None), (at(other), None));
        assert!(alike("198.51.100.1", "198.51.100.2") && alike("198.51.100.128", "198.51.100.200"));
        assert!(!alike("198.51.100.1", "198.51.100.200"));
        let to = |one: &str, other: &str| parts.alike((at("10.0.0.1"), Some(at(one))), (at("10.0.0.1"), Some(at(other))));
        assert!(to("10.2.0.1", "10.3.0.1") && !to("10.1.0.1", "10.3.0.1"));
    }

    fn some_list() -> impl Strategy<Value = String> {
        let item = prop_oneof![
            (0_u8..=255, 24_u8..=32)
                .prop_map(|(n, bits)| Source::new(IpNet::new([198, 51, 100, n].into(), bits).unwrap()).to_string()),
            (0_u8..=255).prop_map(|n| format!("198.51.100.{n}")),
            (0_u8..=25).prop_map(|n| format!("198.51.100.{n}?")),
            (0_u8..=9).prop_map(|n| format!("*{n}")),
            (0_u8..=25, 0_u8..=9).prop_map(|(n, m)| format!("1?8.*.{n}*{m}")),
            Just("*".to_owned()),
        ];
        let item = (item, any::<bool>()).prop_map(|(item, not)| if not { format!("!{item}") } else { item });
        prop::collection::vec(item, 1..4).prop_map(|items| items.join(","))
    }

    proptest! {
        #[test]
        fn each_answer_that_an_address_of_the_range_gets_is_that_of_one_of_its_parts(
            lists in prop::collection::vec(some_list(), 0..4),
            (n, bits) in (0_u8..=255, 24_u8..32),
        ) {
            let range = Source::new(IpNet::new([198, 51, 100, n].into(), bits).unwrap());
            let text = lists.iter().map(|list| format!("Match Address {list}\n")).collect::<Vec<_>>().concat();
            let parts = parts(&text);
            let found = parts.clients(range).unwrap();
            let (first, last) = ranges::span(range);
            for at in (first..=last).map(|at| ranges::address(false, at)) {
                let alike = found.iter().filter(|one| parts.alike((**one, None), (at, None))).count();
                prop_assert_eq!(alike, 1, "{} {} {:?}", text, at, found);
            }
            prop_assert!(found.iter().all(|one| range.contains((*one).into())));
        }
    }
}
