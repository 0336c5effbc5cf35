//! Whether sshd serves where its files say: sockets that were opened after it was told, a banner, and one whole key exchange. What
//! it did not do before either is not asked of it. Makes few connections, from this host, and never tries to log in.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use sshfix_kex::KexError;
use sshfix_policy::subsystem::sshd::{Invocation, Manager, listen_address};

use super::effective;
use crate::subsystem::listener;
use crate::sys::{dbus, peers};

/// Until its sockets are there: sshd lets connections that are being accepted finish first.
const SOCKETS: Duration = Duration::from_secs(10);
/// For one key exchange. libwrap takes five seconds to refuse.
const EXCHANGE: Duration = Duration::from_secs(7);
/// Until a place is free: `MaxStartups` drops connections by chance while many are not logged in.
const PLACES: Duration = Duration::from_secs(10);
/// Key exchanges that are tried before a step, and the time between two.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);
/// What takes longer was no place that was taken.
const SLOW: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(20);

/// What was so before the step.
pub(super) struct Before {
    /// The listening sockets: sshd closes them when it is told, and opens others.
    old: BTreeSet<u32>,
    /// Addresses of the files at which nobody listened, as where an interface is missing.
    missing: BTreeSet<SocketAddr>,
    /// Families in which this host got no key exchange.
    silent: BTreeSet<bool>,
    /// systemd keeps the sockets open all the time.
    held_by_systemd: bool,
    /// The service that it is.
    unit: Option<String>,
    /// It was down, so that it cannot be told which of its addresses and families never worked: one socket is enough.
    down: bool,
}

impl Before {
    /// As it is now. Without the sockets of now nothing shows later that sshd has opened others.
    pub(super) fn look(invocation: &Invocation, manager: Option<&Manager>) -> Result<Self, String> {
        let listening = listening()?;
        // Of files that sshd does not take yet: every address of the later ones must be served.
        let wanted = addresses(invocation).unwrap_or_default();
        let open: BTreeSet<SocketAddr> = listening.iter().map(|(address, _)| *address).collect();
        let silent = silent(&firsts(&wanted));
        Ok(Self {
            old: listening.iter().map(|(_, inode)| *inode).collect(),
            missing: wanted.into_iter().filter(|address| !open.contains(address)).collect(),
            silent,
            held_by_systemd: manager.is_some_and(holds),
            unit: manager.and_then(service),
            down: false,
        })
    }

    /// Of a service that was down a moment ago.
    pub(super) fn down(manager: &Manager) -> Result<Self, String> {
        let old = listening()?.iter().map(|(_, inode)| *inode).collect();
        Ok(Self { old, held_by_systemd: holds(manager), unit: service(manager), down: true, ..Self::nothing() })
    }

    /// Of a service that the step has ended: any open socket is its own. No key exchange is asked of it: where hosts.deny or a packet
    /// filter refuses this host's own addresses, none was ever possible, and a service that runs would be taken for one that does not.
    pub(super) fn ended() -> Self {
        Self { down: true, ..Self::nothing() }
    }

    fn nothing() -> Self {
        let (old, missing, silent) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self { old, missing, silent, held_by_systemd: false, unit: None, down: false }
    }

    /// Whether the sockets stay open all the time, whatever sshd does.
    pub(super) fn is_held_by_systemd(&self) -> bool {
        self.held_by_systemd
    }

    /// Whether a service that was down came up by itself (`Restart=`) before it was started: with what its files said then. Where that
    /// cannot be read, it may have.
    pub(super) fn came_up_by_itself(&self, invocation: &Invocation) -> bool {
        if !self.down || self.held_by_systemd {
            return false;
        }
        let (Ok(wanted), Ok(listening)) = (addresses(invocation), listening()) else { return true };
        listening.iter().any(|(at, inode)| wanted.contains(at) && self.old.contains(inode))
    }

    /// Waits until sshd serves as its files say now; else what it does not do.
    pub(super) fn serves_again(&self, invocation: &Invocation) -> Result<(), String> {
        if self.down && self.held_by_systemd {
            // Its job is done once the socket is open; sshd, and its directory, come with the first connection.
            return Ok(());
        }
        let wanted = addresses(invocation)?;
        let must: Vec<SocketAddr> = wanted.iter().filter(|address| !self.missing.contains(address)).copied().collect();
        let until = Instant::now() + SOCKETS;
        loop {
            let listening = listening()?;
            let new = |address: &SocketAddr| {
                listening.iter().any(|(at, inode)| at == address && (self.down || !self.old.contains(inode)))
            };
            let closed: Vec<String> = must.iter().filter(|address| !new(address)).map(ToString::to_string).collect();
            let open = if self.down { closed.len() < must.len() } else { closed.is_empty() };
            if open || self.held_by_systemd {
                break;
            }
            if Instant::now() > until || self.is_dead() {
                return Err(format!("sshd does not listen on {} as its files say", closed.join(" and ")));
            }
            std::thread::sleep(TICK);
        }
        if self.down {
            return Ok(());
        }
        for to in firsts(&must).into_iter().filter(|to| !self.silent.contains(&to.is_ipv4())) {
            exchange(to).map_err(|error| format!("no key exchange with sshd: {error}"))?;
        }
        Ok(())
    }
}

impl Before {
    /// Whether systemd has given the service up: then there is nothing to wait for. Where it does not answer, one waits.
    fn is_dead(&self) -> bool {
        let Some(unit) = &self.unit else { return false };
        let units = dbus::units(&[unit]).unwrap_or_default();
        units.iter().any(|unit| matches!(unit.active.as_str(), "failed" | "inactive"))
    }
}

/// The addresses of its files at which nobody listens now.
pub(super) fn closed(invocation: &Invocation) -> Result<BTreeSet<SocketAddr>, String> {
    let open: BTreeSet<SocketAddr> = listening()?.into_iter().map(|(address, _)| address).collect();
    Ok(addresses(invocation)?.into_iter().filter(|address| !open.contains(address)).collect())
}

/// One key exchange that nobody waits for: where it fails, the log says so. Whoever fills all places at the door can make it fail.
pub(super) fn exchange_afterwards(invocation: &Invocation) {
    let invocation = invocation.clone();
    let work = move || match addresses(&invocation) {
        Ok(addresses) => {
            for to in firsts(&addresses) {
                if let Err(error) = exchange(to) {
                    tracing::warn!("after a rollback there was no key exchange with sshd at {to}: {error}");
                }
            }
        }
        Err(why) => tracing::warn!("after a rollback sshd did not say where it listens: {why}"),
    };
    if let Err(error) = std::thread::Builder::new().name("exchange".to_owned()).spawn(work) {
        tracing::warn!("after a rollback no key exchange was tried with sshd: {error}");
    }
}

/// Whether systemd keeps the sockets open.
fn holds(manager: &Manager) -> bool {
    matches!(manager, Manager::Service { socket: Some(_), .. } | Manager::Connections(_))
}

fn service(manager: &Manager) -> Option<String> {
    match manager {
        Manager::Service { name, .. } => Some(name.clone()),
        Manager::Connections(_) | Manager::Nobody => None,
    }
}

fn listening() -> Result<Vec<(SocketAddr, u32)>, String> {
    listener::listening().map_err(|error| format!("the listening sockets could not be read: {error}"))
}

/// What `sshd -T` prints of `ListenAddress`: every address and port, in order.
pub(super) fn addresses(invocation: &Invocation) -> Result<Vec<SocketAddr>, String> {
    let effective = effective(invocation).map_err(|error| error.to_string())?;
    effective.all("listenaddress").iter().map(|printed| address(printed)).collect()
}

fn address(printed: &str) -> Result<SocketAddr, String> {
    listen_address(printed).ok_or_else(|| format!("`ListenAddress {printed}` is not understood"))
}

/// One address of each family to make a key exchange with, as this host reaches it.
fn firsts(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let reached = |address: &SocketAddr| match address.ip() {
        ip if !ip.is_unspecified() => *address,
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
    };
    [true, false].into_iter().filter_map(|v4| addresses.iter().find(|address| address.is_ipv4() == v4).map(reached)).collect()
}

/// The families in which this host gets no key exchange. A try that takes long was refused by libwrap, which looks up names first;
/// `MaxStartups` turns away at once and by chance, so a few tries tell.
fn silent(firsts: &[SocketAddr]) -> BTreeSet<bool> {
    let gets_none = |to: SocketAddr| {
        for _ in 0..TRIES {
            let begun = Instant::now();
            match sshfix_kex::prove(&[to], &[0; 16], EXCHANGE) {
                Ok(_) => return false,
                Err(_) if begun.elapsed() > SLOW => return true,
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        true
    };
    std::thread::scope(|scope| {
        let tries: Vec<_> = firsts.iter().map(|to| (to.is_ipv4(), scope.spawn(move || gets_none(*to)))).collect();
        tries.into_iter().filter_map(|(v4, tried)| tried.join().unwrap_or(false).then_some(v4)).collect()
    })
}

/// One key exchange. Nobody else is to confirm anything with it, so its cookie is nothing special.
fn exchange(to: SocketAddr) -> Result<(), KexError> {
    peers::allow_own();
    let begun = Instant::now();
    let (until, reopened) = (begun + PLACES, begun + listener::REOPENS);
    loop {
        match sshfix_kex::prove(&[to], &[0; 16], EXCHANGE) {
            // Somebody else has it read its files, too.
            Err(KexError::Refused { .. }) if Instant::now() < reopened => std::thread::sleep(TICK),
            Err(KexError::TurnedAway { .. } | KexError::NoBanner { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(200));
            }
            answer => return answer.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_understood_is_an_error_never_left_out() {
        assert_eq!(address("192.0.2.1:22"), Ok(SocketAddr::from(([192, 0, 2, 1], 22))));
        assert_eq!(address("192.0.2.1:22 rdomain blue"), Ok(SocketAddr::from(([192, 0, 2, 1], 22))));
        assert!(address("[2001:db8::1]:2222").is_ok_and(|address| address.is_ipv6() && address.port() == 2222));
        assert_eq!(address("[fe80::1%eth0]:22"), address("[fe80::1]:22"));
        assert!(address("fe80::1%eth0").is_err_and(|why| why.contains("fe80::1%eth0")));
        assert!(address("").is_err());
    }
}
