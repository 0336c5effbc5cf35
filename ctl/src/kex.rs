//! Where `confirm` finds the SSH port to make its key exchange with. The exchange itself is the crate `sshfix-kex`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sshfix_policy::address::canonical;

use crate::origin;

pub use sshfix_kex::{KexError, prove};

/// Where the SSH port is tried, in this order.
///
/// Inside an SSH session that is the very address and port the person came in by; else every address of this host, the loopback
/// ones first. From the host itself the packets go over `lo`: the exchange then proves that sshd lives, takes connections and has
/// its keys, not that packets from outside come through; that part is proven by the model and read back from the kernel.
pub fn targets(port: u16) -> Vec<SocketAddr> {
    if let Some(server) = origin::ssh_server() {
        return vec![server];
    }
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        // Of link-local addresses it is not known here on which interface they are.
        let v6 = address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip).filter(|ip| !ip.is_unicast_link_local());
        if let Some(ip) = v4.or(v6.map(|ip| canonical(IpAddr::V6(ip))))
            && !addresses.contains(&ip)
        {
            addresses.push(ip);
        }
    }
    addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}
