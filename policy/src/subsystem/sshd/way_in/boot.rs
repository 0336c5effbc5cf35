//! Where sshd does not listen after a boot, though it does now: it is started before an address that it is to listen on is there. A wildcard
//! needs no address. Reads nothing.

use std::net::{IpAddr, SocketAddr};

use crate::subsystem::sshd::Manager;
use crate::subsystem::sshd::facts::state::{Boot, Server};
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::judge::sockets::addresses;
use crate::subsystem::sshd::way_in::risk::{self, Risk};
use crate::verdict::Stage;

/// What may keep sshd from an address at a boot.
pub struct Missing {
    /// Where it would not listen.
    at: SocketAddr,
    /// For good, or until it is started again.
    for_good: bool,
    /// For people.
    pub text: String,
    /// What to do about it.
    pub advice: String,
}

impl Missing {
    /// Nobody gets in there after a boot until somebody comes to the machine.
    pub fn objection(&self) -> Option<Objection> {
        let why = format!("the sockets: {}; {}", self.text, self.advice);
        self.for_good.then(|| Objection::unknown(Stage::Listener, Reason::Boot(self.at), why))
    }

    /// It takes longer.
    pub fn risk(&self) -> Option<Risk> {
        (!self.for_good).then(|| risk::at_boot(self.text.clone()))
    }
}

/// Of these addresses of the host, those that a wildcard of the first served and only their own name in the second does.
pub fn newly_absent(before: &Server, now: &Server, port: u16, known: &[IpAddr]) -> Vec<Missing> {
    let (Some(was), Some(is)) = (addresses(before), addresses(now)) else { return Vec::new() };
    let by_wildcard =
        |all: &[SocketAddr], address: &IpAddr| all.iter().any(|at| at.port() == port && is_wildcard_for(*at, *address));
    let newly = known.iter().filter(|address| by_wildcard(&was, address) && !by_wildcard(&is, address));
    newly.filter_map(|address| absent(now, &is, SocketAddr::new(*address, port))).collect()
}

/// All of them.
pub fn all_absent(server: &Server) -> Vec<Missing> {
    let Some(is) = addresses(server) else { return Vec::new() };
    let named = is.iter().filter(|at| !is.iter().any(|other| other.port() == at.port() && is_wildcard_for(*other, at.ip())));
    named.filter_map(|at| absent(server, &is, *at)).collect()
}

fn absent(server: &Server, listening: &[SocketAddr], at: SocketAddr) -> Option<Missing> {
    let Manager::Service { name, socket: None, boot, .. } = &server.manager else { return None };
    let Boot { waits, tries_again, absent } = *boot;
    let named = listening.contains(&at) && !at.ip().is_loopback();
    let needs_none = if at.is_ipv4() { absent.v4 } else { absent.v6 };
    if !named || waits || needs_none {
        return None;
    }
    // It goes on where it can listen anywhere, and never tries the others again (sshd.c, `listen_on_addrs`).
    let elsewhere = listening.iter().any(|other| other.ip().is_unspecified() || other.ip().is_loopback());
    let address = at.ip();
    let then = match (elsewhere, tries_again) {
        (true, _) => "it goes on without".to_owned(),
        (false, false) => format!("{name} does not start it again"),
        (false, true) => format!("{name} starts it again until the address is there"),
    };
    let family = if at.is_ipv4() { "ipv4" } else { "ipv6" };
    Some(Missing {
        at,
        for_good: elsewhere || !tries_again,
        text: format!("after a boot sshd may be started before {address} is there; it cannot listen on {at} then, and {then}"),
        advice: format!(
            "have it wait with `Wants=network-online.target` and `After=network-online.target` in [Unit] by `systemctl edit {name}`, or set \
             net.{family}.ip_nonlocal_bind=1"
        ),
    })
}

/// sshd makes its IPv6 sockets take IPv6 alone.
fn is_wildcard_for(listening: SocketAddr, address: IpAddr) -> bool {
    listening.ip().is_unspecified() && listening.is_ipv4() == address.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subsystem::sshd::{Absent, Effective, Invocation, Runs};

    fn server(listens: &[&str], boot: Boot) -> Server {
        let lines: Vec<String> = listens.iter().map(|at| format!("listenaddress {at}")).collect();
        let manager = Manager::Service {
            name: "ssh.service".to_owned(),
            can_reload: true,
            kill_mode: "process".to_owned(),
            socket: None,
            boot,
            runs: Runs::default(),
        };
        let plain = Server::with_files(Invocation::plain("/usr/sbin/sshd"), &[("/etc/ssh/sshd_config", "")]);
        Server { effective: Ok(Effective::parse(&lines.join("\n"))), manager, ..plain }
    }

    #[test]
    fn an_address_alone_is_not_there_at_a_boot_unless_sshd_waits_or_tries_again() {
        const NONE: Boot = Boot { waits: false, tries_again: false, absent: Absent { v4: false, v6: false } };
        let known = [IpAddr::from([203, 0, 113, 1])];
        let found = |before: &[&str], after: &[&str], boot: Boot| -> Vec<bool> {
            let (before, after) = (server(before, boot), server(after, boot));
            newly_absent(&before, &after, 22, &known).iter().map(|absent| absent.objection().is_some()).collect()
        };
        let (wild, alone) = (&["0.0.0.0:22", "[::]:22"][..], &["203.0.113.1:22"][..]);
        assert_eq!(found(wild, alone, NONE), [true]);
        assert_eq!(found(wild, alone, Boot { tries_again: true, ..NONE }), [false], "a risk");
        assert_eq!(found(wild, &["203.0.113.1:22", "127.0.0.1:22"], Boot { tries_again: true, ..NONE }), [true]);
        assert_eq!(found(wild, &["203.0.113.1:22", "[::]:22"], Boot { tries_again: true, ..NONE }), [true]);
        assert_eq!(found(wild, alone, Boot { waits: true, ..NONE }), [false; 0]);
        assert_eq!(found(wild, alone, Boot { absent: Absent { v4: true, v6: false }, ..NONE }), [false; 0]);
        assert_eq!(found(wild, alone, Boot { absent: Absent { v4: false, v6: true }, ..NONE }), [true]);
        assert_eq!(found(alone, alone, NONE), [false; 0], "as it was before");
        assert_eq!(found(wild, &["0.0.0.0:22"], NONE), [false; 0]);
        assert_eq!(all_absent(&server(alone, NONE)).len(), 1);
        assert_eq!(all_absent(&server(&["0.0.0.0:22", "203.0.113.1:22", "[::1]:22"], NONE)).len(), 0);
    }
}
