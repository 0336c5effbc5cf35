//! Where `confirm` finds the SSH port to make its key exchange with. The exchange itself is the crate `sshfix-kex`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sshfix_policy::access_proof::{AccessProof, COOKIE};
use sshfix_policy::address::canonical;
use thiserror::Error;

use crate::listening::Listening;
use crate::origin;

pub use sshfix_kex::{KexError, Way, prove, prove_by};

/// From so many addresses of 127.0.0.0/8, drawn at random, the port is tried where sshd turns the usual ones away. Nobody can have
/// earned a penalty for all of them.
const RANDOM_SOURCES: usize = 4;
/// All tries together.
const TOTAL: Duration = Duration::from_secs(20);
/// How long each address of the SSH port is tried. libwrap takes five seconds to refuse: less would hide that it does.
const EACH: Duration = Duration::from_secs(8);
/// Between tries while sshd has no room.
const PAUSE: Duration = Duration::from_millis(100);
/// The most reasons that are listed.
const SHOWN: usize = 6;

/// A proof of access.
#[derive(Debug)]
pub struct Proven {
    /// It.
    pub proof: AccessProof,
    /// By which way it was made,
    pub way: Way,
    /// and what the usual one came to, where it was another.
    pub usual: Option<String>,
}

/// Why there is none: what each way came to.
#[derive(Debug, Error)]
#[error("{}", .0.join("; "))]
pub struct NoWay(Vec<String>);

/// The proof of access by any way there is. Any local user can earn 127.0.0.1 a penalty of sshd, fill `MaxStartups`, or listen on an
/// address that sshd does not: none of that says that sshd does not answer. Ways that may work a moment later are tried until the time
/// is over.
pub fn prove_somehow(port: u16, cookie: &[u8; COOKIE]) -> Result<Proven, NoWay> {
    let until = Instant::now() + TOTAL;
    let mut failed: Vec<(Way, KexError)> = Vec::new();
    let mut left_out = Vec::new();
    let mut listening = BTreeMap::new();
    let usual = targets(port).into_iter().map(|to| Way { from: None, to });
    let mut tried: Vec<Way> = Vec::new();
    for way in usual.chain(other_ways(port)) {
        if tried.contains(&way) {
            continue;
        }
        tried.push(way);
        let of_port = listening.entry(way.to.port()).or_insert_with_key(|port| Listening::on(*port));
        if of_port.is_somebody_elses(way.to.ip()) {
            left_out.push(format!("{} belongs to another user than root and was not asked", way.to));
            continue;
        }
        let Some(time) = left(until) else { break };
        match prove_by(way, cookie, time) {
            Ok(proof) => return Ok(proven(proof, way, &left_out, &failed)),
            Err(error) => failed.push((way, error)),
        }
    }
    // The usual way comes last: what turned it away may be about its source alone.
    let again: Vec<Way> = failed.iter().rev().filter(|(_, error)| error.may_pass()).map(|(way, _)| *way).collect();
    for way in again.into_iter().cycle() {
        sleep(PAUSE);
        let Some(time) = left(until) else { break };
        if let Ok(proof) = prove_by(way, cookie, time) {
            return Ok(proven(proof, way, &left_out, &failed));
        }
    }
    let mut why = left_out;
    why.extend(failed.iter().map(|(way, error)| match way.from {
        Some(from) => format!("from {from}: {error}"),
        None => error.to_string(),
    }));
    why.dedup();
    if why.len() > SHOWN {
        let more = why.len() - SHOWN;
        why.truncate(SHOWN);
        why.push(format!("and {more} more attempts failed"));
    }
    if why.is_empty() {
        why.push("there is no address to try".to_owned());
    }
    Err(NoWay(why))
}

fn proven(proof: AccessProof, way: Way, left_out: &[String], failed: &[(Way, KexError)]) -> Proven {
    let usual = left_out.first().cloned().or_else(|| failed.first().map(|(_, error)| error.to_string()));
    Proven { proof, way, usual }
}

/// The time for the next try.
fn left(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(EACH))
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
