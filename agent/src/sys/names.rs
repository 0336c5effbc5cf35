//! Host names by the system's resolver, judged as libwrap judges them (`sock_hostname`, socket.c of tcp wrappers 7.6.q):
//! the name of an address counts only if it leads back to the address. Bounded in time, whatever the resolver does.

use std::ffi::{CStr, CString};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use nix::libc;
use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrLike};
use thiserror::Error;

use super::peers;

/// libwrap keeps this many bytes of a name (`STRING_LENGTH` less its NUL, tcpd.h).
const NAME: usize = 127;
/// Lookups that may hang in the resolver at the same time; each holds a thread until the resolver gives up.
const HANGING: usize = 16;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// What libwrap would make of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// The name leads back to the address.
    Verified(String),
    /// There is a name, but it does not, or is itself an address: libwrap's `paranoid`.
    Unverified,
    /// There is no name: libwrap's `unknown`.
    None,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// The resolver is still waiting.
    #[error("the name servers did not answer in time")]
    TimedOut,
    /// Earlier lookups still hang.
    #[error("{HANGING} earlier lookups still wait for the name servers")]
    TooMany,
    /// No thread could be made.
    #[error("no thread could be started to ask")]
    NoThread,
}

/// Reverse, then forward lookup of an address. The resolver cannot be interrupted, so it runs in a thread of its own, which is
/// left behind at the deadline and ends by itself.
pub fn verified_name(address: IpAddr, deadline: Instant) -> Result<Name, NameError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(NameError::TimedOut);
    }
    if RUNNING.fetch_add(1, Ordering::SeqCst) >= HANGING {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        return Err(NameError::TooMany);
    }
    let (answer, answered) = channel();
    peers::allow_own();
    let started = thread::Builder::new().name("names".to_owned()).spawn(move || {
        let name = look_up(address);
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        // Nobody may be waiting any more.
        let _ = answer.send(name);
    });
    if started.is_err() {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        return Err(NameError::NoThread);
    }
    answered.recv_timeout(left).map_err(|error| match error {
        RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected => NameError::TimedOut,
    })
}

fn look_up(address: IpAddr) -> Name {
    let Some(name) = name_of(address) else { return Name::None };
    let Ok(text) = CString::new(name.as_bytes()) else { return Name::Unverified };
    // A "name" that is an address proves nothing.
    if addresses_of(&text, address, libc::AI_PASSIVE | libc::AI_CANONNAME | libc::AI_NUMERICHOST).is_some() {
        return Name::Unverified;
    }
    match addresses_of(&text, address, libc::AI_PASSIVE | libc::AI_CANONNAME) {
        Some((canonical, addresses))
            if (canonical.eq_ignore_ascii_case(&name) || name.eq_ignore_ascii_case("localhost"))
                && addresses.contains(&address) =>
        {
            Name::Verified(name)
        }
        _ => Name::Unverified,
    }
}

/// `getnameinfo` with `NI_NAMEREQD`, cut as libwrap cuts it.
fn name_of(address: IpAddr) -> Option<String> {
    let (v4, v6);
    let (at, length) = match address {
        IpAddr::V4(address) => {
            v4 = SockaddrIn::from(SocketAddrV4::new(address, 0));
            (v4.as_ptr(), v4.len())
        }
        IpAddr::V6(address) => {
            v6 = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0));
            (v6.as_ptr(), v6.len())
        }
    };
    let mut host: [libc::c_char; 1025] = [0; 1025];
    // SAFETY: the address and its length belong together; the resolver writes at most `host.len()` bytes, NUL included.
    let failed = unsafe { libc::getnameinfo(at, length, host.as_mut_ptr(), 1025, std::ptr::null_mut(), 0, libc::NI_NAMEREQD) };
    if failed != 0 {
        return None;
    }
    // SAFETY: on success the resolver has written a NUL-terminated string into `host`.
    let name = unsafe { CStr::from_ptr(host.as_ptr()) }.to_bytes();
    Some(String::from_utf8_lossy(name.get(..name.len().min(NAME)).unwrap_or_default()).into_owned())
}

/// `getaddrinfo` for addresses of the same family, with the canonical name.
fn addresses_of(name: &CStr, family_of: IpAddr, flags: libc::c_int) -> Option<(String, Vec<IpAddr>)> {
    // SAFETY: `addrinfo` is plain data, for which all zeros is what getaddrinfo(3) asks for in hints.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = if family_of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    hints.ai_socktype = libc::SOCK_STREAM;
    hints.ai_flags = flags;
    let mut list = std::ptr::null_mut();
    // SAFETY: `name` is NUL-terminated, `hints` and `list` outlive the call.
    if unsafe { libc::getaddrinfo(name.as_ptr(), std::ptr::null(), &raw const hints, &raw mut list) } != 0 {
        return None;
    }
    let mut canonical = String::new();
    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: the list is the resolver's, linked by `ai_next`, and is freed only below.
    while let Some(entry) = unsafe { next.as_ref() } {
        if !entry.ai_canonname.is_null() {
            // SAFETY: a canonical name that is there is NUL-terminated.
            canonical = unsafe { CStr::from_ptr(entry.ai_canonname) }.to_string_lossy().into_owned();
        }
        // SAFETY: `ai_addr` points to an address of `ai_addrlen` bytes, of the family it says itself.
        let (v4, v6) = unsafe {
            let length = Some(entry.ai_addrlen);
            (SockaddrIn::from_raw(entry.ai_addr, length), SockaddrIn6::from_raw(entry.ai_addr, length))
        };
        addresses.extend(v4.map(|v4| IpAddr::V4(v4.ip())));
        addresses.extend(v6.filter(|v6| v6.scope_id() == 0).map(|v6| IpAddr::V6(v6.ip())));
        next = entry.ai_next;
    }
    // SAFETY: `list` came from getaddrinfo and nothing borrowed from it is used any more.
    unsafe { libc::freeaddrinfo(list) };
    Some((canonical, addresses))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn localhost_leads_back_to_itself() {
        let name = verified_name("127.0.0.1".parse().unwrap(), Instant::now() + Duration::from_mins(1)).unwrap();
        assert_eq!(name, Name::Verified("localhost".to_owned()));
    }

    #[test]
    fn no_time_left_is_no_answer() {
        assert_eq!(verified_name("192.0.2.1".parse().unwrap(), Instant::now()), Err(NameError::TimedOut));
    }
}
