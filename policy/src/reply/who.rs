//! Who reaches the port, as it is answered, and ranges of addresses as text.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{WhoSchema, is_zero};
use crate::address::{AddressError, Source};
use crate::ranges;

/// Who reaches the port and who does not, by routes and packet filters. Every address is in exactly one of `reach`, `blocked` and
/// `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// `sshfix.who/1`
    pub schema: WhoSchema,
    /// Which port.
    pub port: u16,
    /// Those who reach it.
    pub reach: Vec<SourceRange>,
    /// Those who do not.
    pub blocked: Vec<SourceRange>,
    /// Those of whom it cannot be told.
    pub unknown: Vec<Unsettled>,
    /// The blocked ones once more, by what decides.
    pub deciders: Vec<Decided>,
    /// How many more ranges there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// Sources of which it cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// Who.
    pub sources: Vec<SourceRange>,
    /// On what it depends.
    pub why: String,
}

/// What decides that sources are blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Where it stands: `nft inet filter input handle 9`.
    pub by: String,
    /// As its own tool prints it.
    pub text: String,
    /// Whom it blocks.
    pub sources: Vec<SourceRange>,
}

/// A range of addresses as text: a prefix such as `203.0.113.0/24` where it is one, else `203.0.113.8-203.0.113.255`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRange {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address.
    pub last: IpAddr,
}

impl SourceRange {
    /// A range of numbers of a family.
    pub fn of(v6: bool, (first, last): ranges::Span) -> Self {
        Self { first: ranges::address(v6, first), last: ranges::address(v6, last) }
    }

    /// The prefix, if it is one.
    pub fn prefix(self) -> Option<Source> {
        let (first, last) = (ranges::number(self.first), ranges::number(self.last));
        let (bits, differ) =
            (if self.first.is_ipv4() { 32 } else { 128 }, (first ^ last).checked_ilog2().map_or(0, |bit| bit + 1));
        let net = ipnet::IpNet::new(self.first, u8::try_from(bits - differ).ok()?).ok()?;
        (net.network() == self.first && net.broadcast() == self.last).then(|| Source::new(net))
    }
}

impl From<Source> for SourceRange {
    fn from(source: Source) -> Self {
        Self { first: source.first(), last: source.last() }
    }
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(source) => source.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for SourceRange {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ends = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match ends {
            Some((first, last)) => Ok(Self { first, last }),
            None => text.parse::<Source>().map(Self::from),
        }
    }
}

impl Serialize for SourceRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SourceRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
