//! Names a rule or an element in `firewall list` and `firewall remove`. The name stays the same while the thing exists
//! (rules of iptables-legacy have no handle, so theirs is a position).

use std::fmt;
use std::str::FromStr;

use crate::subsystem::nf_tables::{Family, SetKey};
use crate::subsystem::xtables;

/// A rule or an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `nft/inet/filter/input/handle/9`
    Rule {
        /// The table's family.
        family: Family,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// The kernel's handle.
        handle: u64,
    },
    /// `nft/inet/filter/@blocked`, or `nft/inet/filter/@blocked/203.0.113.7` for one element.
    Set {
        /// Which set.
        set: SetKey,
        /// The element as nft prints it.
        element: Option<String>,
    },
    /// `legacy/ip/filter/INPUT/3`
    Legacy(xtables::Place),
    /// `ipset/blocked`, or `ipset/blocked/203.0.113.0/24` for one element.
    Ipset {
        /// The set's name.
        set: String,
        /// The element as `ipset save` prints it.
        element: Option<String>,
    },
}

/// Text that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no reference; `firewall list` shows them, such as nft/inet/filter/input/handle/9")]
pub struct ReferenceError(String);

/// nft allows `/` in names.
fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f")
}

fn unescape(name: &str) -> String {
    name.replace("%2f", "/").replace("%25", "%")
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Rule { family, table, chain, handle } => {
                write!(f, "nft/{family}/{}/{}/handle/{handle}", escape(table), escape(chain))
            }
            Reference::Set { set, element } => {
                write!(f, "nft/{}/{}/@{}", set.family, escape(&set.table), escape(&set.set))?;
                element.as_ref().map_or(Ok(()), |element| write!(f, "/{element}"))
            }
            Reference::Legacy(place) => f.write_str(&xtables::Step::reference(place)),
            Reference::Ipset { set, element } => {
                write!(f, "ipset/{}", escape(set))?;
                element.as_ref().map_or(Ok(()), |element| write!(f, "/{element}"))
            }
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ReferenceError(text.chars().take(200).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let parsed = match parts.as_slice() {
            ["nft", family, table, chain, "handle", handle] => Reference::Rule {
                family: named(family).ok_or_else(wrong)?,
                table: unescape(table),
                chain: unescape(chain),
                handle: handle.parse().map_err(|_| wrong())?,
            },
            ["nft", family, table, set, element @ ..] => Reference::Set {
                set: SetKey {
                    family: named(family).ok_or_else(wrong)?,
                    table: unescape(table),
                    set: unescape(set.strip_prefix('@').ok_or_else(wrong)?),
                },
                element: (!element.is_empty()).then(|| element.join("/")),
            },
            ["legacy", family @ ("ip" | "ip6"), table, chain, position] => Reference::Legacy(xtables::Place {
                v6: *family == "ip6",
                table: (*table).to_owned(),
                chain: (*chain).to_owned(),
                position: position.parse().map_err(|_| wrong())?,
            }),
            ["ipset", set, element @ ..] if !set.is_empty() => {
                Reference::Ipset { set: unescape(set), element: (!element.is_empty()).then(|| element.join("/")) }
            }
            _ => return Err(wrong()),
        };
        // Numbers with a sign or zeros in front would be other names for the same thing.
        if parsed.to_string() == text { Ok(parsed) } else { Err(wrong()) }
    }
}

fn named(family: &str) -> Option<Family> {
    [Family::Inet, Family::Ip, Family::Arp, Family::Netdev, Family::Bridge, Family::Ip6]
        .into_iter()
        .find(|one| one.to_string() == family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_as_it_is_written() {
        for text in [
            "nft/inet/filter/input/handle/9",
            "nft/ip6/a%2fb/c%25d/handle/1",
            "nft/inet/filter/@blocked",
            "nft/inet/filter/@blocked/203.0.113.7",
            "nft/inet/filter/@blocked/203.0.113.0/24",
            "nft/inet/filter/@blocked/203.0.113.7 . 22",
            "legacy/ip/filter/INPUT/3",
            "legacy/ip6/filter/f2b-sshd/1",
            "ipset/blocked",
            "ipset/a%2fb/203.0.113.0/24",
            "ipset/blocked/2001:db8::7,tcp:22",
        ] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn other_text_is_refused_with_a_clear_error() {
        for text in [
            "",
            "nft",
            "nft/inet/filter/input/handle/",
            "nft/inet/filter/input/handle/09",
            "nft/inet/filter/input/handle/-1",
            "nft/what/filter/input/handle/1",
            "nft/inet/filter/blocked/203.0.113.7",
            "legacy/ip/filter/INPUT/x",
            "legacy/inet/filter/INPUT/1",
            "ipset",
            "ipset/",
            "../../etc/passwd",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
