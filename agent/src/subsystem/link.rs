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
    let all = localnet("all")?;
    for link in &mut links {
        link.route_localnet = all
            || match localnet(&link.name) {
                Ok(value) => value,
                Err(error) if error.kind() == io::ErrorKind::NotFound => without_settings(link)?,
                Err(error) => return Err(error),
            };
    }
    Ok(Links { all: links.into_iter().map(Arc::new).collect() })
}

/// `net.ipv4.conf.NAME.route_localnet` of this thread's network namespace.
fn localnet(name: &str) -> io::Result<bool> {
    // A device's name holds no slash (`dev_valid_name`).
    let value = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"))?;
    switch(&value).ok_or_else(|| io::Error::other(format!("route_localnet of {name} is `{:.20}`", value.trim())))
}

/// Whether any interface of this thread's network namespace forwards packets of a family (`net.ipv4.conf.*.forwarding`); `None` where a
/// setting cannot be read. A host without IPv6 forwards none of it.
pub fn forwards(v6: bool) -> Option<bool> {
    let folder = if v6 { "/proc/sys/net/ipv6/conf" } else { "/proc/sys/net/ipv4/conf" };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    let mut found = false;
    for entry in entries {
        match std::fs::read_to_string(entry.ok()?.path().join("forwarding")) {
            Ok(value) => found |= switch(&value)?,
            // It was taken away since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// Any number but 0 is on (`IN_DEV_ORCONF`).
fn switch(value: &str) -> Option<bool> {
    value.trim().parse::<i64>().ok().map(|value| value != 0)
}

/// Off for a device that has no settings of IPv4, and takes none of it (devinet.c, `inetdev_event`: an MTU below 68). One that was renamed
/// or taken away since it was listed is listed again.
fn without_settings(link: &Link) -> io::Result<bool> {
    match nix::net::if_::if_nametoindex(link.name.as_str()) {
        Ok(index) if index == link.index => Ok(false),
        Ok(_) | Err(_) => Err(io::ErrorKind::Interrupted.into()),
    }
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
    let number = |kind: u16| {
        let four = |value: &Vec<u8>| value.as_slice().try_into().map(u32::from_ne_bytes).map_err(|_| short());
        values.get(&kind).map(four).transpose()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let info = values.get(&libc::IFLA_LINKINFO).map(|info| attributes(info)).transpose()?;
    let driver = info.and_then(|info| info.get(&INFO_KIND).map(|kind| text(kind))).unwrap_or_default();
    let lies_on = matches!(driver.as_str(), "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap");
    Ok(Link {
        index: u32::from_ne_bytes(*index),
        name: values.get(&libc::IFLA_IFNAME).map(|name| text(name)).ok_or_else(short)?,
        kind: u16::from_ne_bytes([kind_1, kind_2]),
        group: number(libc::IFLA_GROUP)?,
        master: number(libc::IFLA_MASTER)?,
        parent: number(libc::IFLA_LINK)?.filter(|_| lies_on && !values.contains_key(&LINK_NETNSID)),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_setting_that_is_no_number_is_neither_on_nor_off() {
        for (value, want) in [("1\n", Some(true)), ("0\n", Some(false)), ("2\n", Some(true)), ("", None), ("on\n", None)] {
            assert_eq!(switch(value), want, "{value:?}");
        }
        assert_eq!(localnet("no-such-device").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_device_that_is_another_by_now_is_listed_again() {
        let links = observe().unwrap();
        let lo = links.all.iter().find(|link| link.is_loopback()).unwrap();
        assert!(!without_settings(lo).unwrap());
        let renamed = Link { name: "no-such-device".to_owned(), ..Link::clone(lo) };
        assert_eq!(without_settings(&renamed).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_number_of_another_length_is_an_error_and_no_missing_bridge() {
        let header = [0; 16];
        let name = [8, 0, 3, 0, b'e', b't', b'h', 0];
        let master = |length: u8| [4 + length, 0, 10, 0, 7, 0, 0, 0];
        let message = |length| [&header[..], &name, &master(length)].concat();
        assert_eq!(link(&message(4)).unwrap().master, Some(7));
        assert!(link(&message(2)).is_err());
    }
}
