//! Which addresses of a port another user than root listens on, as the kernel lists its sockets (`proc(5)`, /proc/net/tcp): any user may
//! bind a port above 1023 where sshd has not. Opens no connection.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use sshfix_policy::address::canonical;

/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";
/// Other users can make the list as long as they have sockets.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// The sockets that listen on one port.
#[derive(Debug, Default)]
pub struct Listening(BTreeMap<IpAddr, bool>);

impl Listening {
    /// Those of this port. What cannot be read in time is left out: nothing is known of it.
    pub fn on(port: u16) -> Self {
        let mut found = Self::default();
        let until = Instant::now() + READ_WITHIN;
        for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            if let Ok(file) = File::open(file) {
                found.add(BufReader::new(file), port, until);
            }
        }
        found
    }

    fn add(&mut self, lines: impl BufRead, port: u16, until: Instant) {
        for line in lines.lines().map_while(Result::ok) {
            if Instant::now() > until {
                return;
            }
            if let Some((address, uid)) = listener(&line, port) {
                *self.0.entry(address).or_default() |= uid == 0;
            }
        }
    }

    /// Whether a connection to this address comes to a socket of another user than root: the closest address wins (`inet_hashtables.c`,
    /// `compute_score`).
    pub fn is_somebody_elses(&self, address: IpAddr) -> bool {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let of_both = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        [address, any, of_both].iter().find_map(|address| self.0.get(address)).is_some_and(|roots| !roots)
    }
}

/// The local address and the user of a socket that listens on this port.
fn listener(line: &str, port: u16) -> Option<(IpAddr, u32)> {
    let mut fields = line.split_ascii_whitespace();
    let (address, at) = fields.nth(1)?.split_once(':')?;
    if u16::from_str_radix(at, 16).ok()? != port || fields.nth(1)? != LISTEN {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    // Words of 32 bits in the order of the host (tcp_ipv4.c, `get_openreq4`).
    let word = |at: usize| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (at, to) in bytes.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            canonical(IpAddr::from(bytes))
        }
        _ => return None,
    };
    Some((address, uid))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use super::*;

    fn of(lines: &str) -> Listening {
        let mut found = Listening::default();
        found.add(lines.as_bytes(), 2222, Instant::now() + READ_WITHIN);
        found
    }

    #[test]
    fn the_closest_socket_says_whose_an_address_is() {
        let line = |address: &str, state: &str, uid: u32| {
            format!("   0: {address}:08AE 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 1 1\n")
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        let (loopback, zero) = (format!("{loopback:08X}"), "0".repeat(32));
        let found = of(&[line(&loopback, "0A", 1000), line("00000000", "0A", 0)].concat());
        assert!(found.is_somebody_elses(address("127.0.0.1")));
        assert!(!found.is_somebody_elses(address("203.0.113.1")) && !found.is_somebody_elses(address("::1")));
        let found = of(&[line(&zero, "0A", 0), line(&loopback, "01", 1000)].concat());
        assert!(!found.is_somebody_elses(address("127.0.0.1")), "that is a connection");
        assert!(of(&line(&zero, "0A", 1000)).is_somebody_elses(address("127.0.0.1")));
        assert!(!of("  sl  local_address\n 0: x\n").is_somebody_elses(address("127.0.0.1")));
    }

    #[test]
    fn the_kernel_lists_this_socket() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Listening::on(socket.local_addr().unwrap().port());
        let own = nix::unistd::Uid::effective().is_root();
        assert_eq!(found.0.get(&IpAddr::V4(Ipv4Addr::LOCALHOST)), Some(&own));
    }
}
