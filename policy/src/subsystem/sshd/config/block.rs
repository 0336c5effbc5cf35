//! Match blocks as such: where each begins and ends, which have the same criteria, and a client that certain criteria match.
//! Evaluates nothing: `evaluate` does.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::criteria::{Client, Listed, Matching, address_list, match_line, pattern_list, words};
use super::line::{Directive, Line};
use super::tree::{ConfigError, DEPTH_MAX, Place, Tree};
use crate::address::Source;

/// As `sshd_config(5)`, `Match`, names them; `invalid-user` has no pattern.
pub const NAMES: [&str; 7] = ["User", "Group", "Host", "Address", "LocalAddress", "LocalPort", "Invalid-User"];

/// Criteria of a `Match` line that this version of sshfix can decide. Their order and the case of their names do not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criteria(Vec<(String, String)>);

impl Criteria {
    /// From the words behind `Match`; the text says what is wrong with them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{text}` cannot stand behind Match: {why}");
        if text.chars().any(char::is_control) {
            return Err(wrong("control characters"));
        }
        let directive = Line::new(format!("Match {text}")).directive().map_err(|why| wrong(&why.to_string()))?;
        let criteria = directive.as_ref().and_then(Self::of).ok_or_else(|| {
            wrong("say for example `User alice`, `Address 203.0.113.0/24` or `Group staff,!guests LocalPort 22`, without quotes")
        })?;
        match criteria.client(22) {
            Some(client) if directive.is_some_and(|it| match_line(&it, Some(&client)) == Matching::Yes) => Ok(criteria),
            _ => Err(wrong("no client is found that it would match")),
        }
    }

    /// Of a `Match` line; `None` where they are not understood.
    pub fn of(directive: &Directive) -> Option<Self> {
        if directive.quoted {
            return None;
        }
        let mut all = Vec::new();
        let mut words = words(directive).into_iter();
        while let Some(word) = words.next() {
            let word = word.to_ascii_lowercase();
            let known = NAMES.iter().any(|name| name.eq_ignore_ascii_case(&word));
            match word.as_str() {
                "all" if all.is_empty() => return words.next().is_none().then(|| Self(Vec::new())),
                "invalid-user" => all.push((word, String::new())),
                _ if known => all.push((word, words.next()?.to_owned())),
                _ => return None,
            }
        }
        all.sort();
        (!all.is_empty()).then_some(Self(all))
    }

    /// Whether they match clients of this source alone: every address of an `Address` list that counts lies in it.
    pub fn only_from(&self, source: Source) -> bool {
        let within = |item: &str| item.starts_with('!') || item.parse::<Source>().is_ok_and(|item| source.contains(item));
        self.0.iter().any(|(name, list)| name == "address" && list.split(',').all(within))
    }

    /// A client that they match, and that few other criteria do; `None` where none is found.
    pub fn client(&self, port: u16) -> Option<Client> {
        let of = |name: &str| -> Vec<&str> {
            self.0.iter().filter(|(known, _)| known == name).map(|(_, pattern)| pattern.as_str()).collect()
        };
        let named = |name: &str, usual: &str| {
            let good = |candidate: &String| of(name).iter().all(|list| pattern_list(candidate, list) == Listed::Yes);
            std::iter::once(usual.to_owned()).chain(of(name).into_iter().flat_map(names)).find(good)
        };
        let addressed = |name: &str, usual: IpAddr| {
            let good = |candidate: &IpAddr| of(name).iter().all(|list| address_list(*candidate, list) == Some(Listed::Yes));
            std::iter::once(usual).chain(of(name).into_iter().flat_map(addresses)).find(good)
        };
        let address = addressed("address", Ipv4Addr::new(192, 0, 2, 77).into())?;
        let groups = match named("group", "")? {
            group if group.is_empty() => Vec::new(),
            group => vec![group],
        };
        let invalid = !of("invalid-user").is_empty();
        if invalid && !groups.is_empty() {
            return None;
        }
        let local_port = of("localport").first().map_or(Some(port), |port| port.parse().ok())?;
        let user = named("user", "somebody-else")?;
        Some(Client {
            is_root: user == "root",
            user,
            groups: (!invalid).then_some(groups),
            host: named("host", &address.to_string())?.to_ascii_lowercase(),
            address,
            local_address: Some(addressed("localaddress", Ipv4Addr::new(192, 0, 2, 1).into())?),
            local_port,
            interface: None,
        })
    }
}

/// `User alice Address 203.0.113.0/24`
impl fmt::Display for Criteria {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("all");
        }
        // In the order of the manual.
        let mut separator = "";
        for name in NAMES {
            for (_, pattern) in self.0.iter().filter(|(known, _)| name.eq_ignore_ascii_case(known)) {
                let space = if pattern.is_empty() { "" } else { " " };
                write!(f, "{separator}{name}{space}{pattern}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

/// Names that the patterns of a list may match.
fn names(list: &str) -> Vec<String> {
    let wanted = list.split(',').filter(|pattern| !pattern.starts_with('!'));
    let fill = |pattern: &str, with: &str, one: &str| pattern.replace('*', with).replace('?', one);
    wanted
        .flat_map(|pattern| [("", "x"), ("x", "x"), ("1", "1"), ("zq", "z")].map(|(many, one)| fill(pattern, many, one)))
        .filter(|name| !name.is_empty())
        .collect()
}

/// Addresses that the items of a list may match: the first ones of each net, or the pattern with numbers in it. They are only tried: where
/// the whole list takes none of them, a client in the block is not known, and nothing is edited by it.
fn addresses(list: &str) -> Vec<IpAddr> {
    let wanted = list.split(',').filter(|item| !item.starts_with('!'));
    let of = |item: &str| -> Vec<IpAddr> {
        if let Ok(net) = item.parse::<ipnet::IpNet>() {
            return net.hosts().take(256).chain([net.broadcast()]).collect();
        }
        let fills = ["77", "7", "", "1.1", "1.1.1", "192.0.2.77"];
        let texts = fills.iter().map(|fill| item.replace('*', fill).replace('?', "7"));
        texts.filter_map(|text| text.parse().ok()).collect()
    };
    wanted.flat_map(of).collect()
}

/// A Match block in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Of its `Match` line.
    pub at: Place,
    /// That line.
    pub text: String,
    /// What it goes by, where that is understood.
    pub criteria: Option<Criteria>,
    /// The directives in it, by line and by keyword in lower case. What an `Include` among them names is not listed here.
    pub directives: Vec<(usize, String)>,
    /// The block inside which its file is included, by its place among all.
    pub outer: Option<usize>,
}

/// All Match blocks in the order in which sshd meets them.
pub fn blocks(tree: &Tree) -> Result<Vec<Block>, ConfigError> {
    let mut found = Vec::new();
    collect(tree, &tree.main, None, 0, &mut found)?;
    Ok(found)
}

fn collect(tree: &Tree, path: &str, outer: Option<usize>, depth: usize, found: &mut Vec<Block>) -> Result<(), ConfigError> {
    let mut open: Option<usize> = None;
    for (number, line) in tree.file(path)?.lines() {
        let at = Place { file: path.to_owned(), line: number };
        let directive = line.directive().map_err(|why| ConfigError::Line { at: at.clone(), why })?;
        let Some(directive) = directive else { continue };
        if directive.keyword == "match" {
            open = Some(found.len());
            let criteria = Criteria::of(&directive);
            found.push(Block { at, text: line.to_string(), criteria, directives: Vec::new(), outer });
            continue;
        }
        if let Some(block) = open.and_then(|open| found.get_mut(open)) {
            block.directives.push((number, super::keyword::canonical(&directive.keyword)));
        }
        if directive.keyword == "include" {
            if depth + 1 >= DEPTH_MAX {
                return Err(ConfigError::TooDeep(at));
            }
            for file in directive.arguments.iter().map(|pattern| tree.included(pattern)).collect::<Result<Vec<_>, _>>()? {
                for file in file {
                    collect(tree, file, open.or(outer), depth + 1, found)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn criteria_are_the_same_whatever_their_order_and_case() {
        let a = Criteria::parse("address 203.0.113.0/24 USER=alice").unwrap();
        assert_eq!(a, Criteria::parse("User alice Address 203.0.113.0/24").unwrap());
        assert_eq!(a.to_string(), "User alice Address 203.0.113.0/24");
        assert_ne!(a, Criteria::parse("User alice").unwrap());
        assert_eq!(Criteria::parse("ALL").unwrap().to_string(), "all");
        assert_eq!(Criteria::parse("invalid-user Address 10.0.0.0/8").unwrap().to_string(), "Address 10.0.0.0/8 Invalid-User");
    }

    #[test]
    fn every_criterion_has_a_client_that_it_matches_or_is_refused() {
        for text in [
            "all",
            "User alice",
            "User *,!bob",
            "User a?ice,!axice",
            "Group wheel,!staff User root",
            "Address 203.0.113.0/24,!203.0.113.1",
            "Address 203.0.113.*",
            "Address *",
            "Address 2001:db8::/32",
            "Host *.example.net",
            "LocalAddress 10.0.0.1 LocalPort 2222",
        ] {
            let criteria = Criteria::parse(text).unwrap();
            let line = Line::new(format!("Match {criteria}")).directive().unwrap().unwrap();
            assert_eq!(match_line(&line, criteria.client(22).as_ref()), Matching::Yes, "{text}");
        }
        for text in [
            "",
            "User",
            "Weather fine",
            "User \"a b\"",
            "User !bob",
            "Address 10.0.0.1/8",
            "LocalPort ssh",
            "all User a",
            "User a\nX",
        ] {
            assert!(Criteria::parse(text).is_err(), "{text}");
        }
    }
}
