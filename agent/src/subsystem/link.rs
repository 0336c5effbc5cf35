//! The interfaces and own addresses of the real host, by rtnetlink(7). Read only.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use nix::libc;
use sshfix_policy::link::{Link, Links};

use crate::sys::rtnetlink::{ask, open};

/// An interface or address that changes while it is listed is listed again so many times.
const ATTEMPTS: usize = 5;
/// `IFLA_INFO_KIND`, within `IFLA_LINKINFO`
const INFO_KIND: u16 = 1;
/// `IFLA_LINK_NETNSID`: the interface below is in another network namespace.
const LINK_NETNSID: u16 = 37;

/// Reads all interfaces and addresses of this thread's network namespace.
pub fn observe() -> io::Result<Links> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match list() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempts < ATTEMPTS => {}
            other => return other,
        }
    }
}

fn list() -> io::Result<Links> {
    let socket = open(false)?;
    let mut links = Vec::new();
    // struct ifinfomsg: family, type, index, flags, change
    ask(&socket, libc::RTM_GETLINK, NLM_F_DUMP, &[0; 16], |bytes| {
        links.push(link(bytes)?);
        Ok(())
    })?;
    // struct ifaddrmsg: family, prefix length, flags, scope, index
    ask(&socket, libc::RTM_GETADDR, NLM_F_DUMP, &[0; 8], |bytes| {
        let (index, address) = address(bytes)?;
        if let Some(link) = links.iter_mut().find(|link| link.index == index) {
            link.addresses.extend(address);
        }
        Ok(())
    })?;
    let all = localnet("all");
    for link in &mut links {
        link.route_localnet = all || localnet(&link.name);
    }
    Ok(Links { all: links.into_iter().map(Arc::new).collect() })
}

/// `net.ipv4.conf.NAME.route_localnet` of this thread's network namespace; off where it cannot be read.
fn localnet(name: &str) -> bool {
    // A device's name holds no slash (`dev_valid_name`).
    let path = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
    std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
}

fn short() -> io::Error {
    io::Error::other("a message about an interface that is cut short")
}

fn attributes(bytes: &[u8]) -> io::Result<BTreeMap<u16, Vec<u8>>> {
    let all = NlasIterator::new(bytes).map(|one| one.map(|one| (one.kind(), one.value().to_vec())));
    all.collect::<Result<_, _>>().map_err(io::Error::other)
}

fn link(bytes: &[u8]) -> io::Result<Link> {
    let (header, rest) = bytes.split_first_chunk::<16>().ok_or_else(short)?;
    let [_, _, kind_1, kind_2, index @ ..] = *header;
    let (index, flags) = index.split_first_chunk::<4>().ok_or_else(short)?;
    let flags = flags.first_chunk::<4>().map(|flags| u32::from_ne_bytes(*flags)).ok_or_else(short)?;
    let values = attributes(rest)?;
    let number = |kind: u16| values.get(&kind).and_then(|value| value.as_slice().try_into().ok()).map(u32::from_ne_bytes);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let info = values.get(&libc::IFLA_LINKINFO).map(|info| attributes(info)).transpose()?;
    let driver = info.and_then(|info| info.get(&INFO_KIND).map(|kind| text(kind))).unwrap_or_default();
    let lies_on = matches!(driver.as_str(), "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap");
    Ok(Link {
        index: u32::from_ne_bytes(*index),
        name: values.get(&libc::IFLA_IFNAME).map(|name| text(name)).ok_or_else(short)?,
        kind: u16::from_ne_bytes([kind_1, kind_2]),
        group: number(libc::IFLA_GROUP),
        master: number(libc::IFLA_MASTER),
        parent: number(libc::IFLA_LINK).filter(|_| lies_on && !values.contains_key(&LINK_NETNSID)),
        driver,
        // IFF_UP
        up: flags & 1 != 0,
        // IFF_LOOPBACK 8, POINTOPOINT 16, NOARP 128
        resolves: flags & (8 | 16 | 128) == 0,
        route_localnet: false,
        addresses: Vec::new(),
    })
}

/// The interface's number and its address; none while the kernel does not answer for it.
fn address(bytes: &[u8]) -> io::Result<(u32, Option<IpNet>)> {
    let (header, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let [_, length, flags, _, index @ ..] = *header;
    let values = attributes(rest)?;
    // The other end of a point-to-point link is IFA_ADDRESS, and then IFA_LOCAL is this one.
    let own = values.get(&libc::IFA_LOCAL).or_else(|| values.get(&libc::IFA_ADDRESS)).ok_or_else(short)?;
    let v4 = <[u8; 4]>::try_from(own.as_slice()).map(IpAddr::from);
    let own = v4.or_else(|_| <[u8; 16]>::try_from(own.as_slice()).map(IpAddr::from)).map_err(|_| short())?;
    // IFA_F_OPTIMISTIC 4, DADFAILED 8, TENTATIVE 64
    let unusable = flags & 8 != 0 || flags & (64 | 4) == 64;
    let net = IpNet::new(own, length).map_err(io::Error::other)?;
    Ok((u32::from_ne_bytes(index), Some(net).filter(|_| !unusable)))
}
