//! Typed addresses: the only way an address enters sshfix. Folds v4-mapped IPv6 into IPv4, so that both name one peer.
//! Compares numbers, never text. Must not resolve names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// An address as the kernel sees the peer: `::ffff:203.0.113.7` is 203.0.113.7 (RFC 4291 section 2.5.5.2).
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
    }
}

/// A single address or a CIDR range of source addresses, canonical: host bits are zero and v4-mapped ranges are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpNet);

/// Why a text is not an address or range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither an address nor a range.
    #[error("`{0}` is not an IPv4 or IPv6 address or a CIDR range such as 203.0.113.0/24")]
    NotAnAddress(String),
    /// A range such as 203.0.113.7/24, which could mean the host or the network.
    #[error("`{given}` has host bits set: say {host} for the one address or {network} for the range")]
    HostBits {
        /// The text as given.
        given: String,
        /// The single address.
        host: IpAddr,
        /// The network.
        network: IpNet,
    },
}

/// An address that no client can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no connection comes from {address}: it is {what}")]
pub struct NoClient {
    /// The address.
    pub address: IpAddr,
    /// What it is instead.
    pub what: &'static str,
}

/// Whether a client can have the address. The kernel drops packets from any other as martians (`ip_route_input_slow` in
/// `net/ipv4/route.c`, `ip6_rcv_core` in `net/ipv6/ip6_input.c`), whatever the rules say.
///
/// # Errors
/// Where it is none, and what it is.
pub fn of_a_client(address: IpAddr) -> Result<(), NoClient> {
    let address = canonical(address);
    let what = match address {
        _ if address.is_unspecified() => "no address at all",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(()),
    };
    Err(NoClient { address, what })
}

/// What sshd calls the address of who comes over no TCP connection (packet.c, `ssh_remote_ipaddr`).
pub const UNKNOWN: &str = "UNKNOWN";

impl Source {
    /// In the place of an address where there is none: no client has this one ([`of_a_client`]).
    pub const NONE: Source = Source(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)));

    /// The canonical form of a range; host bits are cleared.
    pub fn new(net: IpNet) -> Self {
        let net = net.trunc();
        if let IpNet::V6(v6) = net
            && v6.prefix_len() >= 96
            && let Some(v4) = v6.addr().to_ipv4_mapped()
            && let Ok(mapped) = Ipv4Net::new(v4, v6.prefix_len() - 96)
        {
            return Self(IpNet::V4(mapped));
        }
        Self(net)
    }

    /// The range as a network.
    pub fn net(self) -> IpNet {
        self.0
    }

    /// The one address of a /32 or /128, else `None`.
    pub fn single(self) -> Option<IpAddr> {
        (self.0.prefix_len() == self.0.max_prefix_len()).then(|| self.0.addr())
    }

    /// The lowest address of the range.
    pub fn first(self) -> IpAddr {
        self.0.network()
    }

    /// The highest address of the range.
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    /// Whether every address of `other` lies in this range.
    pub fn contains(self, other: Source) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(self, other: Source) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// Whether this is an IPv4 range.
    pub fn is_ipv4(self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// As people write it: a single address without its prefix length.
    pub fn short(self) -> String {
        self.single().map_or_else(|| self.0.to_string(), |address| address.to_string())
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match canonical(address) {
            IpAddr::V4(v4) => IpNet::V4(Ipv4Net::from(v4)),
            IpAddr::V6(v6) => IpNet::V6(Ipv6Net::from(v6)),
        })
    }
}

impl FromStr for Source {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let net: IpNet = text.parse().map_err(|_| AddressError::NotAnAddress(text.chars().take(100).collect()))?;
        if net.addr() != net.network() {
            return Err(AddressError::HostBits { given: text.to_owned(), host: net.addr(), network: net.trunc() });
        }
        Ok(Self::new(net))
    }
}

/// Always with the prefix length, as in the JSON documents: `203.0.113.7/32`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_client_can_have_are_told_from_those_of_clients() {
        for none in ["0.0.0.0", "::", "224.0.0.1", "239.255.255.255", "ff02::1", "255.255.255.255", "::ffff:224.0.0.1"] {
            assert!(none.parse().is_ok_and(|none| of_a_client(none).is_err()), "{none}");
        }
        for client in ["203.0.113.7", "127.0.0.1", "::1", "240.0.0.1", "0.0.0.1", "fe80::1", "2001:db8::7", "::ffff:203.0.113.7"]
        {
            assert!(client.parse().is_ok_and(|client| of_a_client(client).is_ok()), "{client}");
        }
    }

    #[test]
    fn v4_mapped_addresses_and_ranges_are_ipv4() {
        for (text, want) in [
            ("::ffff:203.0.113.7", "203.0.113.7/32"),
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
            ("203.0.113.7/32", "203.0.113.7/32"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Source>().map(|s| s.to_string()), Ok(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn ambiguous_or_foreign_text_is_refused_with_a_clear_error() {
        for text in ["", "203.0.113.7/24", "203.0.113", "fe80::1%eth0", "203.0.113.7 ", "example.org", "1.2.3.4/33"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    #[test]
    fn removing_10_0_0_1_is_not_about_10_0_0_10() {
        let one: Source = "10.0.0.1".parse().unwrap_or_else(|e| panic!("{e}"));
        let ten: Source = "10.0.0.10".parse().unwrap_or_else(|e| panic!("{e}"));
        assert!(!one.overlaps(ten));
    }
}
