//! `Match` lines and the patterns of access lists, as OpenSSH matches them (servconf.c `match_cfg_line`, match.c, addrmatch.c).
//! Three-valued: what is not known of a connection, or is read differently by different versions, is unknown.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::line::Directive;
use crate::address::UNKNOWN;
use crate::ssh::pattern::wildcard;

/// Who logs in, from where, to where: what `sshd -T -C` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The login name.
    pub user: String,
    /// The names of the user's groups; `None` where there is no such user.
    pub groups: Option<Vec<String>>,
    /// The host name, which is the address itself with `UseDNS no`.
    pub host: String,
    /// From where, canonical.
    pub address: IpAddr,
    /// To which address of the host, where known.
    pub local_address: Option<IpAddr>,
    /// To which port.
    pub local_port: u16,
    /// Whether the account's uid is 0: to sshd that is root, whatever its name (auth.c, `auth_root_allowed`).
    pub is_root: bool,
    /// The interface of both addresses, where they are link-local and it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl Client {
    /// From where, as sshd says it.
    pub fn from(&self) -> String {
        text_of(self.address, self.interface.as_deref())
    }

    /// Whether sshd knows it by an interface, too, and that is not known here.
    pub fn is_of_unknown_interface(&self) -> bool {
        is_scoped(self.address) && self.interface.is_none()
    }
}

/// An address as sshd says it (canohost.c, `get_socket_address`): a link-local one with its interface, where that is known.
pub fn text_of(address: IpAddr, interface: Option<&str>) -> String {
    match interface {
        _ if address.is_unspecified() => UNKNOWN.to_owned(),
        Some(interface) if is_scoped(address) => format!("{address}%{interface}"),
        Some(_) | None => address.to_string(),
    }
}

/// Whether one of a list of hosts is no address, range or `*`.
pub fn is_name(item: &str) -> bool {
    !item.contains(':') && item.contains(char::is_alphabetic)
}

/// Whether something matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matching {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It is said why that is not known.
    Unknown(String),
}

impl From<bool> for Matching {
    fn from(yes: bool) -> Self {
        if yes { Matching::Yes } else { Matching::No }
    }
}

/// The words of a `Match` line. `Match user=alice` is the same as `Match user alice`.
pub(super) fn words(directive: &Directive) -> Vec<&str> {
    directive
        .arguments
        .iter()
        .flat_map(|word| match word.split_once('=') {
            Some((criterion, rest)) => [Some(criterion), Some(rest).filter(|rest| !rest.is_empty())],
            None => [Some(word.as_str()), None],
        })
        .flatten()
        .filter(|word| !word.is_empty())
        .collect()
}

/// The criteria that a `Match` line names, in lower case.
pub(crate) fn criteria(directive: &Directive) -> Vec<String> {
    let mut found = Vec::new();
    let mut words = words(directive).into_iter().map(str::to_ascii_lowercase);
    while let Some(criterion) = words.next() {
        if !matches!(criterion.as_str(), "all" | "invalid-user") {
            words.next();
        }
        found.push(criterion);
    }
    found
}

/// Whether a `Match` line's conditions hold; with no client, as in the pass that reads the global section, only `Match all` does.
pub fn match_line(directive: &Directive, client: Option<&Client>) -> Matching {
    let unknown = |why: &str| Matching::Unknown(why.to_owned());
    if directive.quoted {
        return unknown("quotes on a Match line are read differently by different versions of sshd");
    }
    let words = words(directive);
    if let [one] = words.as_slice()
        && one.eq_ignore_ascii_case("all")
    {
        return Matching::Yes;
    }
    let mut all = Matching::Yes;
    let mut words = words.into_iter();
    while let Some(criterion) = words.next() {
        let criterion = criterion.to_ascii_lowercase();
        let matching = if criterion == "invalid-user" {
            client.map_or(Matching::No, |client| client.groups.is_none().into())
        } else {
            let Some(pattern) = words.next() else { return unknown("a criterion without pattern") };
            match client {
                Some(client) => criterion_holds(&criterion, pattern, client),
                None => Matching::No,
            }
        };
        all = match (all, matching) {
            (Matching::No, _) | (_, Matching::No) => Matching::No,
            (Matching::Unknown(why), _) | (_, Matching::Unknown(why)) => Matching::Unknown(why),
            (Matching::Yes, Matching::Yes) => Matching::Yes,
        };
    }
    all
}

fn criterion_holds(criterion: &str, pattern: &str, client: &Client) -> Matching {
    match criterion {
        "user" => pattern_list(&client.user, pattern).is_match().into(),
        "group" => match &client.groups {
            // auth.c, groupaccess.c `ga_match_pattern_list`: one group that a negated pattern names ends it.
            Some(groups) => {
                let found = groups.iter().map(|group| pattern_list(group, pattern)).fold(Listed::No, Listed::with);
                found.is_match().into()
            }
            None => Matching::No,
        },
        "host" if client.is_of_unknown_interface() => address_matches(client.address, None, pattern),
        "host" => pattern_list(&client.host.to_ascii_lowercase(), &pattern.to_ascii_lowercase()).is_match().into(),
        "address" => address_matches(client.address, client.interface.as_deref(), pattern),
        "localaddress" => match client.local_address {
            Some(address) => address_matches(address, client.interface.as_deref(), pattern),
            None => Matching::Unknown("it is not known which of the host's addresses the client uses".to_owned()),
        },
        "localport" => (pattern.parse() == Ok(client.local_port)).into(),
        other => Matching::Unknown(format!("the criterion `{other}` is not understood")),
    }
}

fn address_matches(address: IpAddr, interface: Option<&str>, list: &str) -> Matching {
    match address_list_at(address, interface, list) {
        Some(listed) => listed.is_match().into(),
        None if is_scoped(address) && interface.is_none() => {
            Matching::Unknown(format!("by which interface {address} comes is not known here"))
        }
        None => Matching::Unknown(format!("`{list}` is no list of addresses")),
    }
}

/// Whether sshd knows a client at this address by the interface, too: `fe80::1%eth0` is its text, and it is in no network without one.
pub fn is_scoped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// `fe80::1%eth0`, `fe80::%eth0/64`, without the interface.
fn scoped_net(item: &str) -> Option<ipnet::IpNet> {
    let (address, interface) = item.split_once('%')?;
    let length = interface.split_once('/').map_or(Some(128), |(_, length)| length.parse().ok())?;
    ipnet::IpNet::new(address.parse().ok()?, length).ok()
}

/// The same of an address whose interface is not known: what any interface decides is not.
fn scoped_list(address: IpAddr, list: &str) -> Option<Listed> {
    let text = format!("{address}%");
    let mut found = Listed::No;
    for item in list.split(',') {
        let (negated, item) = item.strip_prefix('!').map_or((false, item), |item| (true, item));
        let hit = match cidr(item) {
            Cidr::Net(net, length) if in_net(address, net, length) => return None,
            Cidr::Net(..) => false,
            Cidr::Wrong => return None,
            Cidr::Not if !item.is_empty() && item.chars().all(|c| c == '*') => true,
            Cidr::Not if scoped_net(item).is_some_and(|net| !net.contains(&address)) => false,
            Cidr::Not => {
                // All before the first wildcard is as it stands there.
                let plain = item.split(['*', '?']).next().unwrap_or_default().to_ascii_lowercase();
                let whole = plain.len() == item.len();
                let may_be = plain.starts_with(&text) || !whole && text.starts_with(&plain) || scoped_net(item).is_some();
                if may_be || item.is_empty() {
                    return None;
                }
                false
            }
        };
        match (hit, negated) {
            (true, true) => return Some(Listed::Excluded),
            (true, false) => found = Listed::Yes,
            (false, _) => {}
        }
    }
    Some(found)
}

/// The same of an address whose interface is known. addrmatch.c, `addr_match_list`, addr.c, `addr_netmatch`: a network without an interface
/// holds no such address. `None` is also where it is not known which interface an item means: another name, or a number, of the same one.
fn list_at(address: IpAddr, interface: &str, list: &str) -> Option<Listed> {
    let text = text_of(address, Some(interface));
    let mut found = Listed::No;
    for item in list.split(',') {
        let (negated, item) = item.strip_prefix('!').map_or((false, item), |item| (true, item));
        if item.is_empty() {
            return None;
        }
        let hit = match (cidr(item), scoped_net(item)) {
            (Cidr::Net(..), _) => false,
            (Cidr::Wrong, _) => return None,
            (Cidr::Not, Some(net)) if !item.contains(['*', '?']) => {
                let named = item.split_once('%').map(|(_, rest)| rest.split('/').next().unwrap_or_default());
                if net.network() != net.addr() || net.contains(&address) && named != Some(interface) {
                    return None;
                }
                net.contains(&address)
            }
            (Cidr::Not, _) => wildcard(item, &text),
        };
        match (hit, negated) {
            (true, true) => return Some(Listed::Excluded),
            (true, false) => found = Listed::Yes,
            (false, _) => {}
        }
    }
    Some(found)
}

/// What a list of patterns says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A pattern matches.
    Yes,
    /// None does.
    No,
    /// A `!` pattern matches, which counts more than all others.
    Excluded,
}

impl Listed {
    fn is_match(self) -> bool {
        self == Listed::Yes
    }

    fn with(self, other: Self) -> Self {
        match (self, other) {
            (Listed::Excluded, _) | (_, Listed::Excluded) => Listed::Excluded,
            (Listed::Yes, _) | (_, Listed::Yes) => Listed::Yes,
            (Listed::No, Listed::No) => Listed::No,
        }
    }
}

/// match.c, `match_pattern_list`.
pub fn pattern_list(name: &str, list: &str) -> Listed {
    let one = |pattern: &str| match pattern.strip_prefix('!') {
        Some(pattern) if wildcard(pattern, name) => Listed::Excluded,
        None if wildcard(pattern, name) => Listed::Yes,
        _ => Listed::No,
    };
    list.split(',').map(one).fold(Listed::No, Listed::with)
}

/// addrmatch.c, `addr_match_list`: CIDR where it is one, else a pattern of the address's text. `None`: not a list to sshd either.
pub fn address_list(address: IpAddr, list: &str) -> Option<Listed> {
    address_list_at(address, None, list)
}

/// The same of a link-local address whose interface may be known.
pub fn address_list_at(address: IpAddr, interface: Option<&str>, list: &str) -> Option<Listed> {
    // What is no address is in no list, not even in that of all: sshd asks for nothing else then.
    if address.is_unspecified() {
        return Some(Listed::No);
    }
    if is_scoped(address) {
        return match interface {
            Some(interface) => list_at(address, interface, list),
            None => scoped_list(address, list),
        };
    }
    let mut found = Listed::No;
    for item in list.split(',') {
        let (negated, item) = item.strip_prefix('!').map_or((false, item), |item| (true, item));
        if item.is_empty() {
            return None;
        }
        let hit = match cidr(item) {
            Cidr::Net(net, length) => in_net(address, net, length),
            Cidr::Wrong => return None,
            Cidr::Not => wildcard(item, &address.to_string()),
        };
        match (hit, negated) {
            // It ends there, whatever follows.
            (true, true) => return Some(Listed::Excluded),
            (true, false) => found = Listed::Yes,
            (false, _) => {}
        }
    }
    Some(found)
}

enum Cidr {
    Net(IpAddr, u8),
    /// An address with a length that does not fit it.
    Wrong,
    Not,
}

/// addr.c, `addr_pton_cidr`.
fn cidr(text: &str) -> Cidr {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let Some(length) = length.map_or(Some(None), |length| length.parse::<u8>().ok().map(Some)) else { return Cidr::Not };
    let Some(address) = address.parse::<IpAddr>().ok().or_else(|| inet_aton(address)) else { return Cidr::Not };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(most);
    match ipnet::IpNet::new(address, length) {
        Ok(net) if net.network() == address => Cidr::Net(address, length),
        _ => Cidr::Wrong,
    }
}

/// The network that an item of a list of addresses is to sshd; none for patterns.
pub(crate) fn net(item: &str) -> Option<ipnet::IpNet> {
    match cidr(item) {
        Cidr::Net(address, length) => ipnet::IpNet::new(address, length).ok(),
        Cidr::Wrong | Cidr::Not => None,
    }
}

/// `inet_aton(3)`, which `getaddrinfo(3)` takes for numbers, too: `10.1` is 10.0.0.1, and 3325256711 is 198.51.100.7.
pub fn inet_aton(text: &str) -> Option<IpAddr> {
    let number = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        _ if !part.starts_with(|c: char| c.is_ascii_digit()) => None,
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let mut parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let last = parts.pop()?;
    let room = 32_u32.checked_sub(u32::try_from(parts.len()).ok()?.checked_mul(8)?)?;
    if room == 0 || parts.iter().any(|part| *part > 255) || room < 32 && last >> room != 0 {
        return None;
    }
    let high = parts.iter().rev().zip(0..).fold(0, |all, (part, place)| all | part << (room + 8 * place));
    Some(std::net::Ipv4Addr::from_bits(high | last).into())
}

fn in_net(address: IpAddr, net: IpAddr, length: u8) -> bool {
    ipnet::IpNet::new(net, length).is_ok_and(|net| net.contains(&address))
}

/// match.c, `match_user`: `USER` or `USER@HOST` of `AllowUsers` and `DenyUsers`.
pub fn user_pattern(client: &Client, pattern: &str) -> Matching {
    let Some((user, host)) = pattern.split_once('@') else { return wildcard(pattern, &client.user).into() };
    if host.contains('@') {
        return Matching::Unknown(format!("`{pattern}` has two @"));
    }
    if !wildcard(user, &client.user) {
        return Matching::No;
    }
    // match.c, `match_host_and_ip`.
    let Some(by_address) = address_list_at(client.address, client.interface.as_deref(), host) else {
        return Matching::Unknown(if client.is_of_unknown_interface() {
            format!("by which interface {} comes is not known here", client.address)
        } else {
            format!("`{host}` is no list of addresses or hosts")
        });
    };
    if client.is_of_unknown_interface() {
        return by_address.is_match().into();
    }
    let by_name = pattern_list(&client.host.to_ascii_lowercase(), &host.to_ascii_lowercase());
    by_address.with(by_name).is_match().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::line::Line;
    use super::*;

    fn client() -> Client {
        Client {
            user: "alice".to_owned(),
            groups: Some(vec!["alice".to_owned(), "wheel".to_owned()]),
            host: "203.0.113.7".to_owned(),
            address: "203.0.113.7".parse().unwrap(),
            local_address: None,
            local_port: 22,
            is_root: false,
            interface: None,
        }
    }

    #[test]
    fn what_is_no_address_is_in_no_list_and_has_a_name() {
        let none = Client { host: UNKNOWN.to_owned(), address: std::net::Ipv6Addr::UNSPECIFIED.into(), ..client() };
        for (pattern, want) in
            [("alice@*", Matching::Yes), ("alice@UNKNOWN", Matching::Yes), ("alice@::/0,0.0.0.0/0", Matching::No)]
        {
            assert_eq!(user_pattern(&none, pattern), want, "{pattern}");
        }
        assert_eq!(address_list(none.address, "*"), Some(Listed::No));
        assert_eq!(address_list(none.address, "::/0"), Some(Listed::No));
    }

    #[test]
    fn the_interface_of_a_link_local_client_is_part_of_its_address() {
        let local = Client { host: "fe80::1".to_owned(), address: "fe80::1".parse().unwrap(), ..client() };
        for (pattern, want) in [
            ("alice@*", Some(true)),
            ("alice", Some(true)),
            ("alice@fe80::/10", None),
            ("alice@fe80::1", None),
            ("alice@fe80::1%eth0", None),
            ("alice@*%eth0", None),
            ("alice@fe80::*", None),
            ("alice@FE80::1%*", None),
            ("alice@fe80::2%eth0", Some(false)),
            ("alice@fe80::%eth0/64", None),
            ("alice@fe80:1::%eth0/64", Some(false)),
            ("alice@203.0.113.*", Some(false)),
            ("alice@203.0.113.0/24,2001:db8::/32", Some(false)),
            ("bob@fe80::/10", Some(false)),
            ("alice@!fe80::1,*", None),
            ("alice@*,!203.0.113.1", Some(true)),
        ] {
            let of = |matching| match matching {
                Matching::Yes => Some(true),
                Matching::No => Some(false),
                Matching::Unknown(_) => None,
            };
            assert_eq!(of(user_pattern(&local, pattern)), want, "{pattern}");
            if let Some((_, hosts)) = pattern.split_once('@').filter(|(user, _)| *user == "alice") {
                for criterion in ["address", "host"] {
                    assert_eq!(of(criterion_holds(criterion, hosts, &local)), want, "{criterion} {hosts}");
                }
            }
        }
    }

    /// As sshd of both releases does, asked by `-T -C` and by real logins: Match Address, Match Host, `AllowUsers` with it.
    #[test]
    fn a_link_local_client_of_a_known_interface_is_judged_by_it() {
        let known = Client {
            host: "fe80::d:c45%host0".to_owned(),
            address: "fe80::d:c45".parse().unwrap(),
            interface: Some("host0".to_owned()),
            ..client()
        };
        let (yes, no) = (Some(true), Some(false));
        for (list, address, host, allowed) in [
            ("ME", no, no, no),
            ("ME%host0", yes, yes, yes),
            ("ME%host0/128", yes, no, yes),
            ("ME%host0*", yes, yes, yes),
            ("ME%eth9", None, no, None),
            ("ME%2", None, no, None),
            ("fe80::/10", no, no, no),
            ("fe80::%host0/10", yes, no, yes),
            ("fe80::%host0/64", yes, no, yes),
            ("fe80::%host0/10*", no, no, no),
            ("fe80::%2/64", None, no, None),
            ("fe80:1::%host0/64", no, no, no),
            ("fe80::1%host0/64", None, no, None),
            ("fe80::*", yes, yes, yes),
            ("fe80::*%host0", yes, yes, yes),
            ("FE80::*%host0", no, yes, yes),
            ("FE80::D:C45%host0", yes, yes, yes),
            ("*%host0", yes, yes, yes),
            ("*%HOST0", no, yes, yes),
            ("*%lo", no, no, no),
            ("*", yes, yes, yes),
            ("::/0", no, no, no),
            ("!ME%host0,*", no, no, no),
            ("!ME,*", yes, yes, yes),
            ("!*%host0,*", no, no, no),
            ("!fe80::/10,*", yes, yes, yes),
            ("!fe80::%host0/64,*", no, yes, no),
            ("!::/0,*", yes, yes, yes),
        ] {
            let list = list.replace("ME", "fe80::d:c45");
            let of = |matching| match matching {
                Matching::Yes => Some(true),
                Matching::No => Some(false),
                Matching::Unknown(_) => None,
            };
            assert_eq!(of(criterion_holds("address", &list, &known)), address, "Match Address {list}");
            assert_eq!(of(criterion_holds("host", &list, &known)), host, "Match Host {list}");
            assert_eq!(of(user_pattern(&known, &format!("alice@{list}"))), allowed, "AllowUsers alice@{list}");
        }
        assert_eq!((known.from().as_str(), client().from().as_str()), ("fe80::d:c45%host0", "203.0.113.7"));
    }

    #[test]
    fn match_lines_hold_as_the_manual_says() {
        for (line, want) in [
            ("all", Some(true)),
            ("user alice", Some(true)),
            ("user=alice", Some(true)),
            ("User bob,a*", Some(true)),
            ("User a*,!alice", Some(false)),
            ("user ALICE", Some(false)),
            ("group wheel", Some(true)),
            ("group *,!wheel", Some(false)),
            ("address 203.0.113.0/24", Some(true)),
            ("address 203.0.113.*", Some(true)),
            ("address !203.0.113.7,*", Some(false)),
            ("address *,!203.0.113.0/24", Some(false)),
            ("address 2001:db8::/32", Some(false)),
            ("address 203.0.113.7/24", None),
            ("localport 22", Some(true)),
            ("localport 23 localaddress 10.0.0.1", Some(false)),
            ("localaddress 10.0.0.1", None),
            ("user alice address 198.51.100.0/24", Some(false)),
            ("user alice group staff", Some(false)),
            ("invalid-user", Some(false)),
            ("weather fine", None),
            ("user \"alice\"", None),
        ] {
            let directive = Line::new(format!("Match {line}")).directive().unwrap().unwrap();
            let got = match match_line(&directive, Some(&client())) {
                Matching::Yes => Some(true),
                Matching::No => Some(false),
                Matching::Unknown(_) => None,
            };
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn short_forms_of_addresses_are_read_as_sshd_reads_them() {
        for (text, want) in [
            ("3405803783", Some("203.0.113.7")),
            ("203.0.28935", Some("203.0.113.7")),
            ("203.28935", Some("203.0.113.7")),
            ("0xcb.0.0161.7", Some("203.0.113.7")),
            ("203.0.113.256", None),
            ("203.0.113", Some("203.0.0.113")),
            ("203.0.113.7.1", None),
            ("4294967296", None),
            ("203.0.113.09", None),
            ("203.+1", None),
            ("203..7", None),
            ("bob", None),
            ("", None),
        ] {
            assert_eq!(inet_aton(text), want.map(|want| want.parse().unwrap()), "{text}");
        }
        assert_eq!(user_pattern(&client(), "alice@3405803783"), Matching::Yes);
    }

    #[test]
    fn user_patterns_match_user_and_host_both() {
        for (pattern, want) in [
            ("alice", true),
            ("a?ice", true),
            ("alice@203.0.113.7", true),
            ("alice@203.0.113.0/24", true),
            ("*@198.51.100.0/24", false),
            ("bob@203.0.113.7", false),
            ("alice@*,!203.0.113.7", false),
            ("alice@*.113.7", true),
        ] {
            assert_eq!(user_pattern(&client(), pattern), want.into(), "{pattern}");
        }
        assert!(matches!(user_pattern(&client(), "alice@203.0.113.7/8"), Matching::Unknown(_)));
    }
}
