//! Where `confirm` finds the SSH port to make its key exchange with. The exchange itself is the crate `sshfix-kex`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sshfix_policy::access_proof::{AccessProof, COOKIE};
use sshfix_policy::address::canonical;

use crate::origin;

pub use sshfix_kex::{KexError, Way, prove, prove_by};

/// From so many addresses of 127.0.0.0/8, drawn at random, the port is tried where sshd turns the usual ones away. Nobody can have
/// earned a penalty for all of them.
const RANDOM_SOURCES: usize = 4;

/// The proof of access, and by which way it was made where the usual one was turned away: any local user can earn 127.0.0.1 a penalty of
/// sshd, and one for every other address of the host, with some empty connections.
pub fn prove_somehow(
    port: u16,
    cookie: &[u8; COOKIE],
    timeout: Duration,
) -> Result<(AccessProof, Option<(Way, KexError)>), KexError> {
    let usual = targets(port);
    let turned_away = match prove(&usual, cookie, timeout) {
        Ok(proof) => return Ok((proof, None)),
        Err(error) if error.is_about_the_source() => error,
        Err(error) => return Err(error),
    };
    match prove_by(&other_ways(port), cookie, timeout, KexError::is_about_the_source) {
        Ok((proof, way)) => Ok((proof, Some((way, turned_away)))),
        // What came first says more.
        Err(error) if error.is_about_the_source() || matches!(error, KexError::Refused { .. }) => Err(turned_away),
        Err(error) => Err(error),
    }
}

/// Every address of this host, then from other addresses of the loopback network.
fn other_ways(port: u16) -> Vec<Way> {
    let addresses = addresses();
    let v4 = addresses.iter().copied().filter(IpAddr::is_ipv4).map(|ip| SocketAddr::new(ip, port));
    let sources = (0..RANDOM_SOURCES).filter_map(|_| random_loopback());
    let from_random = sources.flat_map(|from| v4.clone().take(2).map(move |to| Way { from: Some(from), to })).collect::<Vec<_>>();
    let plain = addresses.iter().map(|ip| Way { from: None, to: SocketAddr::new(*ip, port) });
    plain.chain(from_random).collect()
}

/// Any address of 127.0.0.0/8 is the host's own (RFC 1122, 3.2.1.3); not 127.0.0.1 and its neighbours, which others use.
fn random_loopback() -> Option<IpAddr> {
    let mut bytes = [0_u8; 3];
    getrandom::fill(&mut bytes).ok()?;
    let [second, third, fourth] = bytes;
    Some(Ipv4Addr::new(127, second | 1, third, fourth.clamp(2, 254)).into())
}

/// Where the SSH port is tried, in this order.
///
/// Inside an SSH session that is the very address and port the person came in by; else every address of this host, the loopback
/// ones first. From the host itself the packets go over `lo`: the exchange then proves that sshd lives, takes connections and has
/// its keys, not that packets from outside come through; that part is proven by the model and read back from the kernel.
pub fn targets(port: u16) -> Vec<SocketAddr> {
    if let Some(server) = origin::ssh_server() {
        return vec![server];
    }
    addresses().into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

/// The host's own addresses, the loopback ones first.
fn addresses() -> Vec<IpAddr> {
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
    addresses
}
