//! Where an sshd listens now, where it would by its files, and whether it could: `sshd -t` opens no socket. Judges nobody's login.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::host::HostState;
use crate::subsystem::listener::{Listener, is_sshd};
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::{Effective, Manager};
use crate::verdict::Stage;

/// Whether somebody from this address reaches it: at these addresses of the host where they are known, else at every address of
/// the host of the same family that is reached now.
pub fn lost_sockets(
    host: &HostState,
    (server_port, before): (u16, &Server),
    now: &Server,
    port: u16,
    from: IpAddr,
    locals: &[IpAddr],
) -> Vec<Objection> {
    if is_held_by_systemd(now) {
        return Vec::new();
    }
    // Files that it has not read say nothing of where it listens.
    let was = listens_now(host, server_port).or_else(|| addresses(before));
    let (Some(was), Some(is)) = (was, addresses(now)) else { return Vec::new() };
    let known = reached(host, from, locals);
    let lost = known.iter().filter(|address| covers(&was, **address, port) && !covers(&is, **address, port));
    let lost = lost.map(|address| {
        let at = SocketAddr::new(*address, port);
        let why = format!("the sockets: sshd would not listen on {at} any more");
        Objection::refuse(Stage::Listener, Reason::Socket(at), why)
    });
    lost.collect()
}

/// These addresses of the host; where none is known, each of the client's family.
pub fn reached(host: &HostState, from: IpAddr, locals: &[IpAddr]) -> Vec<IpAddr> {
    let own = host.listener.present().map_or(&[][..], |state| &state.addresses);
    let same = |address: &&IpAddr| address.is_ipv4() == from.is_ipv4() && !address.is_loopback();
    if locals.is_empty() { own.iter().filter(same).copied().collect() } else { locals.to_vec() }
}

/// systemd listens, whatever the files say.
fn is_held_by_systemd(server: &Server) -> bool {
    matches!(&server.manager, Manager::Connections(_) | Manager::Service { socket: Some(_), .. })
}

/// Where the sshd that has this port listens now, whatever its files say. `None` where no process of it is seen to.
pub fn listens_now(host: &HostState, port: u16) -> Option<Vec<SocketAddr>> {
    let all = &host.listener.present()?.listeners;
    let of_port = all.iter().filter(|socket| socket.local.port() == port).flat_map(|socket| &socket.holders);
    let pids: BTreeSet<u32> = of_port.filter(|holder| is_sshd(holder)).map(|holder| holder.pid).collect();
    let its_own = all.iter().filter(|socket| socket.holders.iter().any(|holder| pids.contains(&holder.pid)));
    let found: Vec<SocketAddr> = its_own.map(|socket| socket.local).collect();
    (!found.is_empty()).then_some(found)
}

/// Whether the sshd by the first port is reached on the other one: by its files, or because it listens there.
pub fn is_on(host: &HostState, (server_port, server): (u16, &Server), port: u16) -> bool {
    let on = |all: Option<Vec<SocketAddr>>| all.is_some_and(|all| all.iter().any(|at| at.port() == port));
    on(addresses(server)) || on(listens_now(host, server_port))
}

/// Why an sshd that runs would end, or miss an address, once it opens its sockets as these values say: `sshd -t` does not try. Of an
/// address at which nobody listens though it read that line, as where an interface is missing, nothing is said: it does without.
pub fn not_bound(host: &HostState, port: u16, server: &Server, after: &Effective) -> Option<String> {
    let open = listens_now(host, port).filter(|_| server.running && !is_held_by_systemd(server))?;
    let state = host.listener.present()?;
    let own = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || state.addresses.contains(&ip);
    let taken = |at: &SocketAddr| state.listeners.iter().any(|other| !open.contains(&other.local) && is_in_the_way(at, other));
    let wanted = printed(after);
    let missing: Vec<SocketAddr> =
        wanted.iter().filter(|at| !open.contains(at) && (!own(at.ip()) || taken(at))).copied().collect();
    let known = if server.stale.is_empty() { addresses(server).unwrap_or_default() } else { Vec::new() };
    let bad = missing.iter().find(|at| missing.len() == wanted.len() || !known.contains(at))?;
    let why = if own(bad.ip()) { "something else has that address and port" } else { "that is no address of this host" };
    let end = if missing.len() == wanted.len() { "; it would end, because there is no other" } else { "" };
    let unread = if server.stale.is_empty() {
        String::new()
    } else {
        format!(" (changed since sshd read its files: {})", server.stale.join(", "))
    };
    Some(format!("sshd would not listen on {bad} as its files say: {why}{end}{unread}"))
}

fn is_in_the_way(at: &SocketAddr, other: &Listener) -> bool {
    let (wanted, there) = (at.ip(), other.local.ip());
    let both = !other.v6_only && there.is_ipv6() && there.is_unspecified() && wanted.is_ipv4();
    let same_family = wanted.is_ipv4() == there.is_ipv4();
    at.port() == other.local.port()
        && (both || same_family && (wanted == there || wanted.is_unspecified() || there.is_unspecified()))
}

/// What `sshd -T` prints of `ListenAddress`.
pub fn addresses(server: &Server) -> Option<Vec<SocketAddr>> {
    server.effective.as_ref().ok().map(printed)
}

/// `192.0.2.1:22`, `[fe80::1%eth0]:22`, `[2001:db8::1]:22 rdomain blue` (servconf.c, `dump_config`); sockets are listed without the interface.
fn printed(effective: &Effective) -> Vec<SocketAddr> {
    let address = |line: &String| {
        let address = line.split_ascii_whitespace().next()?;
        match (address.split_once('%'), address.rsplit_once(']')) {
            (Some((ip, _)), Some((_, port))) => format!("{ip}]{port}").parse().ok(),
            _ => address.parse().ok(),
        }
    };
    effective.all("listenaddress").iter().filter_map(address).collect()
}

/// sshd makes its IPv6 sockets take IPv6 alone (sshd.c, `listen_on_addrs`).
fn covers(listening: &[SocketAddr], address: IpAddr, port: u16) -> bool {
    let there = |socket: &SocketAddr| match (socket.ip(), address) {
        (IpAddr::V4(at), IpAddr::V4(_)) if at.is_unspecified() => true,
        (IpAddr::V6(at), IpAddr::V6(_)) if at.is_unspecified() => true,
        (at, address) => at == address,
    };
    listening.iter().any(|socket| socket.port() == port && there(socket))
}
