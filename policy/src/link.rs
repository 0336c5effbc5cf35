//! The host's interfaces and own addresses (rtnetlink(7)), and what follows from them for a packet: which devices it passes, and
//! whether an address is one of this host's. Reads nothing; knows no packet filter and no route.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `ARPHRD_LOOPBACK` (`linux/if_arp.h`)
const LOOPBACK: u16 = 772;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `ARPHRD_*`: 1 is Ethernet, 772 loopback.
    pub kind: u16,
    /// Its group (`ip link set group`); `None` where it was not read.
    pub group: Option<u32>,
    /// The driver's kind of a virtual one (`IFLA_INFO_KIND`): `bridge`, `vlan`, `wireguard`, ...; empty for others.
    pub driver: String,
    /// The bridge, bond or VRF it is a part of.
    pub master: Option<u32>,
    /// The interface a VLAN, macvlan or ipvlan lies on.
    pub parent: Option<u32>,
    /// Whether it is up.
    pub up: bool,
    /// Whether link addresses are looked for on it: it is no loopback, `IFF_NOARP` or `IFF_POINTOPOINT` one (`ndisc_constructor`).
    pub resolves: bool,
    /// Whether packets that come in by it may be sent on to 127.0.0.0/8 (`net.ipv4.conf.*.route_localnet`, its own or that of all).
    pub route_localnet: bool,
    /// Its addresses, with the length of their networks.
    pub addresses: Vec<IpNet>,
}

impl Link {
    /// `lo`, which has index 1 in every network namespace, as far as it is known without reading it.
    pub fn loopback() -> Self {
        Self { index: 1, name: "lo".to_owned(), kind: LOOPBACK, up: true, ..Self::default() }
    }

    /// Whether it is the loopback device.
    pub fn is_loopback(&self) -> bool {
        self.kind == LOOPBACK
    }
}

/// All interfaces of the host's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// In the kernel's order.
    pub all: Vec<Arc<Link>>,
}

impl Links {
    /// By its number.
    pub fn get(&self, index: u32) -> Option<&Arc<Link>> {
        self.all.iter().find(|link| link.index == index)
    }

    /// The host's own addresses, each with its interface.
    pub fn addresses(&self) -> impl Iterator<Item = (&Arc<Link>, IpNet)> {
        self.all.iter().flat_map(|link| link.addresses.iter().map(move |net| (link, *net)))
    }

    /// Whether the host has this address, on any interface. The whole of 127.0.0.0/8 and every other network on `lo` is its own
    /// (`fib_add_ifaddr` makes a local route for them).
    pub fn own(&self, address: IpAddr) -> bool {
        self.addresses()
            .any(|(link, net)| net.addr() == address || link.is_loopback() && address.is_ipv4() && net.contains(&address))
    }

    /// Whether the address is one of this interface.
    pub fn own_on(&self, link: &Link, address: IpAddr) -> bool {
        link.addresses.iter().any(|net| net.addr() == address)
    }

    /// Whether it is an IPv4 broadcast address of one of the host's networks (`fib_add_addr`), or of all.
    pub fn broadcast(&self, address: Ipv4Addr) -> bool {
        let of = |net: IpNet| matches!(net, IpNet::V4(net) if net.prefix_len() < 31 && net.broadcast() == address);
        address.is_broadcast() || self.addresses().any(|(_, net)| of(net))
    }

    /// The kind of an IPv4 address by the local table, `RTN_*`: 2 local, 3 broadcast, 5 multicast, else 1 unicast (`inet_addr_type`);
    /// limited to one interface, its own addresses only are local (`inet_dev_addr_type`).
    pub fn kind(&self, address: Ipv4Addr, on: Option<&Link>) -> u8 {
        let own = |address| on.map_or_else(|| self.own(address), |link| self.own_on(link, address));
        if address.octets()[0] == 0 || self.broadcast(address) {
            3
        } else if address.is_multicast() {
            5
        } else if own(IpAddr::V4(address)) {
            2
        } else {
            1
        }
    }

    /// The devices that a packet which the IP layer sees on this interface passed before as the same packet: ports of a bridge or
    /// bond, and the interface a VLAN lies on.
    pub fn below(&self, link: &Link) -> Vec<&Arc<Link>> {
        let mut found: Vec<&Arc<Link>> = Vec::new();
        let mut from = vec![link.index];
        while let Some(index) = from.pop() {
            let parent = self.get(index).and_then(|link| link.parent);
            for below in self.all.iter().filter(|one| one.master == Some(index) || parent == Some(one.index)) {
                if below.index != link.index && !found.iter().any(|one| one.index == below.index) {
                    found.push(below);
                    from.push(below.index);
                }
            }
        }
        found
    }

    /// Those by which the IP layer may get packets from other hosts: up, not `lo`, and no port of a bridge or bond.
    pub fn outside(&self) -> impl Iterator<Item = &Arc<Link>> {
        let port = |link: &Link| {
            let master = link.master.and_then(|master| self.get(master));
            master.is_some_and(|master| master.driver != "vrf")
        };
        self.all.iter().filter(move |link| link.up && !link.is_loopback() && !port(link))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn link(index: u32, name: &str, driver: &str, master: Option<u32>, parent: Option<u32>) -> Arc<Link> {
        let (name, driver) = (name.to_owned(), driver.to_owned());
        Arc::new(Link { index, name, kind: 1, group: Some(0), driver, master, parent, up: true, ..Link::default() })
    }

    #[test]
    fn a_packet_on_a_vlan_over_a_bond_passed_the_bond_and_its_ports() {
        let all = vec![
            Arc::new(Link::loopback()),
            link(2, "eth0", "", Some(4), None),
            link(3, "eth1", "", Some(4), None),
            link(4, "bond0", "bond", None, None),
            link(5, "bond0.7", "vlan", None, Some(4)),
            link(6, "eth2", "", None, None),
        ];
        let links = Links { all };
        let mut names: Vec<&str> = links.below(links.get(5).unwrap()).iter().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["bond0", "eth0", "eth1"]);
        assert!(links.below(links.get(6).unwrap()).is_empty());
        let outside: Vec<&str> = links.outside().map(|link| link.name.as_str()).collect();
        assert_eq!(outside, ["bond0", "bond0.7", "eth2"]);
    }

    #[test]
    fn all_of_127_8_is_the_hosts_own_and_of_other_networks_only_its_address() {
        let lo = Link { addresses: vec!["127.0.0.1/8".parse().unwrap(), "::1/128".parse().unwrap()], ..Link::loopback() };
        let eth = Link { index: 2, addresses: vec!["192.0.2.1/24".parse().unwrap()], kind: 1, ..Link::default() };
        let links = Links { all: vec![Arc::new(lo), Arc::new(eth)] };
        for (address, own) in [("127.3.2.1", true), ("192.0.2.1", true), ("192.0.2.2", false), ("::1", true), ("::2", false)] {
            assert_eq!(links.own(address.parse().unwrap()), own, "{address}");
        }
        assert_eq!(links.kind("192.0.2.1".parse().unwrap(), None), 2);
        assert_eq!(links.kind("192.0.2.1".parse().unwrap(), links.get(1).map(AsRef::as_ref)), 1, "not an address of lo");
        assert!(links.broadcast("192.0.2.255".parse().unwrap()) && !links.broadcast("192.0.2.254".parse().unwrap()));
    }
}
