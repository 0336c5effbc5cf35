//! Which interfaces' reverse path filter drops a client's packets: the kernel is asked to route one as if it had come in there
//! (`ip route get OWN from CLIENT iif INTERFACE`), which runs the filter itself. Reads the settings; changes nothing.

use std::fs;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_sys::Socket;
use nix::libc;
use sshfix_policy::address::Source;
use sshfix_policy::link::{Link, Links};
use sshfix_policy::subsystem::route::rp_filter::{Filtered, Reverse};
use sshfix_policy::subsystem::route::{Kind, Route, Way};

use crate::subsystem::route::{HEADER, family, list, message, octets};
use crate::sys::rtnetlink::ask;

/// Interfaces that are asked about; a host of containers has hundreds, and those are ports of a bridge.
const MOST: usize = 64;
/// Own addresses of one interface that are asked about.
const MOST_ADDRESSES: usize = 4;
/// `RT_TABLE_LOCAL`
const LOCAL: u32 = 255;

/// What becomes of packets from a client that answers have a way to. Interfaces without a filter are not asked about.
pub fn lookup(socket: &Socket, source: Source, ways: &[Way], links: &Links) -> io::Result<Reverse> {
    let mut reverse = Reverse::default();
    let Some(IpAddr::V4(client)) = source.single() else { return Ok(reverse) };
    if links.own(client.into()) {
        return Ok(reverse);
    }
    let all = setting("all")?;
    for link in links.outside().take(MOST) {
        // IN_DEV_RPFILTER: the higher of both.
        let value = all.max(setting(&link.name)?);
        if value == 0 {
            continue;
        }
        let own = link.addresses.iter().map(ipnet::IpNet::addr).filter(IpAddr::is_ipv4).take(MOST_ADDRESSES);
        for to in own {
            if drops(socket, client.into(), to, link)? {
                let (device, index) = (link.name.clone(), link.index);
                reverse.filtered.push(Filtered { device, index, value, to, route: None });
                break;
            }
        }
    }
    if reverse.filtered.is_empty() {
        return Ok(reverse);
    }
    let routes = list(true, &[libc::RTN_UNICAST], |route| route.table != LOCAL && route.destination.contains(source))?;
    let length = |route: &Route| route.destination.net().prefix_len();
    let over = |index: u32| {
        let name = links.get(index).map(|link| link.name.as_str());
        let leads = move |route: &&Route| route.kind == Kind::Delivers && route.device.as_deref() == name;
        routes.iter().filter(leads).max_by_key(|route| length(route))
    };
    reverse.longest = ways.iter().filter_map(|way| over(way.device)).map(length).max().unwrap_or(0);
    for filtered in &mut reverse.filtered {
        filtered.route = over(filtered.index).cloned();
    }
    Ok(reverse)
}

/// `net.ipv4.conf.NAME.rp_filter` (ip-sysctl.rst). A name comes from the kernel, which allows no `/` in it (`dev_valid_name`).
fn setting(name: &str) -> io::Result<u8> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not the name of an interface"));
    }
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"))?;
    text.trim().parse().map_err(|_| io::Error::other(format!("rp_filter of {name} is `{:.20}`", text.trim())))
}

/// Whether a packet from the client to this own address is dropped where it comes in: `EXDEV` by the filter, `EINVAL` since Linux 6.15,
/// which tells no reason (`inet_rtm_getroute`).
fn drops(socket: &Socket, client: IpAddr, to: IpAddr, link: &Link) -> io::Result<bool> {
    let ((to, to_bits), (from, from_bits)) = (octets(to), octets(client));
    let attributes = [
        DefaultNla::new(libc::RTA_DST, to),
        DefaultNla::new(libc::RTA_SRC, from),
        DefaultNla::new(libc::RTA_IIF, link.index.to_ne_bytes().to_vec()),
    ];
    let mut header = [0; HEADER];
    let [first, second, third, ..] = &mut header;
    (*first, *second, *third) = (family(true), to_bits, from_bits);
    match ask(socket, libc::RTM_GETROUTE, 0, &message(header, &attributes), |_| Ok(())) {
        Ok(()) => Ok(false),
        Err(error) => match error.raw_os_error() {
            Some(libc::EXDEV | libc::EINVAL) => Ok(true),
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES | libc::ENODEV) => Ok(false),
            _ => Err(error),
        },
    }
}
