//! Whether an sshd would end once it opened its sockets as its files say, asked before it is told to: `sshd -t` opens none. And where one
//! listened that a rollback told, until it is seen to listen again. Tells no sshd anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};

use sshfix_policy::subsystem::listener::State;
use sshfix_policy::subsystem::sshd::{Absent, Invocation, ends};

use super::serves;
use crate::subsystem::listener;

/// By port: the sshd that was told last, and is not seen to listen yet.
static TOLD: Mutex<BTreeMap<u16, Vec<SocketAddr>>> = Mutex::new(BTreeMap::new());

/// An sshd that listens there is about to be told.
pub(super) fn begin(port: u16, listened: Vec<SocketAddr>) {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(port, listened);
}

/// It listens.
pub(super) fn done(port: u16) {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
}

/// Where the sshd listened that was told, and is not seen to listen since.
pub(super) fn left(port: u16) -> Option<Vec<SocketAddr>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned()
}

/// Why it would end. None also where that is not known: a rollback is not put off for it.
pub(super) fn why(invocation: &Invocation) -> Option<String> {
    let known = serves::addresses(invocation).and_then(|wanted| {
        let own = listener::addresses().map_err(|error| format!("the addresses of this host: {error}"))?;
        Ok((wanted, own))
    });
    match known {
        Ok((wanted, mut addresses)) => {
            // Whatever the list of interfaces says, the kernel decides (ip(7), `ip_nonlocal_bind`; local routes).
            let others: Vec<IpAddr> = wanted.iter().map(SocketAddr::ip).filter(|ip| !addresses.contains(ip)).collect();
            addresses.extend(others.into_iter().filter(|ip| UdpSocket::bind((*ip, 0)).is_ok()));
            ends(&State { addresses, ..State::default() }, Absent::default(), &[], &wanted)
        }
        Err(why) => {
            tracing::warn!("whether sshd can listen as its files say is not known: {why}");
            None
        }
    }
}
