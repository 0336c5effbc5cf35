//! Whom this process may talk to over IP. Its unit says `IPAddressDeny=any` and allows localhost; the host's own addresses, at which its sshd
//! may listen, and its name servers are known only here. systemd is told about them for as long as the host runs. Opens nothing to anybody else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::ifaddrs::getifaddrs;

use super::{dbus, files};

/// resolv.conf(5)
const RESOLVERS: &str = "/etc/resolv.conf";
/// The longest of it that is read.
const RESOLVERS_MAX: u64 = 64 * 1024;
/// More than a host has addresses that sshd listens at.
const MAX_ADDRESSES: usize = 1024;

/// What systemd was told last.
static TOLD: Mutex<BTreeSet<IpAddr>> = Mutex::new(BTreeSet::new());

/// Has systemd let this process talk to this host's own addresses and name servers, where they are others than before. Where that fails the
/// connection that is tried next says so.
pub fn allow_own() {
    // Only a unit of systemd's has such a filter.
    if std::env::var_os("INVOCATION_ID").is_none() {
        return;
    }
    let wanted = wanted();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if *told == wanted {
        return;
    }
    match dbus::allow_peers(&prefixes(&wanted)) {
        Ok(()) => *told = wanted,
        Err(error) => tracing::warn!("cannot give systemd this host's own addresses: {error}"),
    }
}

fn wanted() -> BTreeSet<IpAddr> {
    // It may be a link to anywhere, and what stands there a pipe.
    let text = files::read_followed(Path::new(RESOLVERS), RESOLVERS_MAX).map(|file| file.bytes).unwrap_or_default();
    let resolvers = name_servers(&String::from_utf8_lossy(&text));
    own().into_iter().chain(resolvers).take(MAX_ADDRESSES).collect()
}

fn own() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    servers.filter_map(|rest| rest.split_whitespace().next()?.split('%').next()?.parse().ok()).collect()
}

/// As systemd takes them: family, bytes, length. Localhost stands first, because the list takes the place of the unit's.
fn prefixes(addresses: &BTreeSet<IpAddr>) -> Vec<(i32, Vec<u8>, u32)> {
    let localhost = [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];
    let single = addresses.iter().filter(|one| !one.is_loopback()).map(|one| (*one, if one.is_ipv4() { 32 } else { 128 }));
    let of = |(address, length)| match address {
        IpAddr::V4(v4) => (nix::libc::AF_INET, v4.octets().to_vec(), length),
        IpAddr::V6(v6) => (nix::libc::AF_INET6, v6.octets().to_vec(), length),
    };
    localhost.into_iter().chain(single).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_resolver_reads_them() {
        let text =
            "# x\nsearch example.net\nnameserver 192.0.2.53\n nameserver fe80::1%eth0 # y\nnameserver\nnameserver nonsense\n";
        let want: Vec<IpAddr> = ["192.0.2.53", "fe80::1"].iter().filter_map(|text| text.parse().ok()).collect();
        assert_eq!(name_servers(text), want);
    }

    #[test]
    fn localhost_stays_and_each_other_address_is_one_address() {
        let addresses = ["127.0.0.2", "203.0.113.1", "2001:db8::1"].iter().filter_map(|text| text.parse().ok()).collect();
        let lengths: Vec<u32> = prefixes(&addresses).iter().map(|(_, _, length)| *length).collect();
        assert_eq!(lengths, [8, 128, 32, 128]);
    }
}
