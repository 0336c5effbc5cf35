//! Where an sshd listens now, where it would by its files, and whether it could: `sshd -t` opens no socket. Judges nobody's login.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::host::HostState;
use crate::subsystem::listener::{Listener, State, is_sshd};
use crate::subsystem::sshd::config::Setting;
use crate::subsystem::sshd::facts::state::{Absent, Server};
use crate::subsystem::sshd::judge::login::settings;
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::{Effective, Manager};
use crate::verdict::Stage;

/// sshd.c, `MAX_LISTEN_SOCKS`: with one more it ends.
const MAX_SOCKETS: usize = 16;
/// What is done about an address that this host has not.
pub const ADVICE: &str = "give sshd an address that this host has: `sshfix ctl sshd set ListenAddress ADDRESS`, or `sshfix ctl sshd unset \
                          ListenAddress` for all of them; or give the host that address back";

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
    let was = host.listener.present().and_then(|state| open(state, server_port)).or_else(|| named_sockets(before));
    let (Some(was), Some(is)) = (was, named_sockets(now)) else { return Vec::new() };
    let known = reached(host, from, locals);
    let lost = |address: &IpAddr| {
        let at = SocketAddr::new(*address, port);
        let (was, is) = (devices(&was, at), devices(&is, at));
        // By which interface a client comes is not known: every one by which it could come has to stay.
        if is.contains(&None) || was.iter().all(|device| is.contains(device)) {
            return None;
        }
        let bound: Vec<&str> = is.into_iter().flatten().collect();
        let why = match bound.as_slice() {
            [] => format!("the sockets: sshd would not listen on {at} any more"),
            some => format!("the sockets: sshd would listen on {at} only for what comes in by {}", some.join(" and ")),
        };
        Some(Objection::refuse(Stage::Listener, Reason::Socket(at), why))
    };
    known.iter().filter_map(lost).collect()
}

/// The interfaces by which packets to this address come to one of the sockets; `None` is any.
fn devices(sockets: &[Socket], at: SocketAddr) -> Vec<Option<&str>> {
    sockets.iter().filter(|socket| covers(socket.at, at)).map(|socket| socket.device.as_deref()).collect()
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
    listens(host.listener.present()?, port)
}

/// The same.
pub fn listens(state: &State, port: u16) -> Option<Vec<SocketAddr>> {
    open(state, port).map(|sockets| sockets.into_iter().map(|socket| socket.at).collect())
}

/// A socket that listens, or would.
struct Socket {
    at: SocketAddr,
    /// The interface or VRF whose packets alone come to it.
    device: Option<String>,
}

fn open(state: &State, port: u16) -> Option<Vec<Socket>> {
    let all = &state.listeners;
    let of_port = all.iter().filter(|socket| socket.local.port() == port).flat_map(|socket| &socket.holders);
    let pids: BTreeSet<u32> = of_port.filter(|holder| is_sshd(holder)).map(|holder| holder.pid).collect();
    let its_own = all.iter().filter(|socket| socket.holders.iter().any(|holder| pids.contains(&holder.pid)));
    let found: Vec<Socket> = its_own.map(|socket| Socket { at: socket.local, device: socket.device.clone() }).collect();
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
    let wanted = printed(after);
    let unread = if server.stale.is_empty() {
        String::new()
    } else {
        format!(" (changed since sshd read its files: {})", server.stale.join(", "))
    };
    if let Some(why) = ends(state, absent(server), &open, &wanted) {
        return Some(why + &unread);
    }
    let known = if server.stale.is_empty() { addresses(server).unwrap_or_default() } else { Vec::new() };
    let mut news = wanted.iter().filter(|at| !open.contains(at) && !known.contains(at));
    let (bad, why) = news.find_map(|at| Some((at, closed_to_it(state, absent(server), &open, at)?)))?;
    Some(format!("sshd would not listen on {bad} as its files say: {why}{unread}"))
}

/// Why an sshd that opens its sockets at these addresses ends for good: it can listen on none of them, or on more than it has room for.
/// `open` are those that it has now: what it closes itself is in nobody's way, and an address that is gone is gone all the same.
pub fn ends(state: &State, absent: Absent, open: &[SocketAddr], wanted: &[SocketAddr]) -> Option<String> {
    let first = wanted.iter().find_map(|at| Some((at, closed_to_it(state, absent, open, at)?)));
    let free = wanted.iter().filter(|at| closed_to_it(state, absent, open, at).is_none()).count();
    match first {
        Some((bad, why)) if free == 0 => {
            Some(format!("sshd would not listen on {bad} as its files say: {why}; it would end, because there is no other"))
        }
        _ => (free > MAX_SOCKETS).then(|| {
            format!("sshd would end: its files name {free} sockets (each Port for each ListenAddress), and it opens {MAX_SOCKETS} at most")
        }),
    }
}

/// Why an sshd that is down would not start: no address that its files name is this host's. With the line that names the first.
pub fn has_no_address(host: &HostState, server: &Server, after: Option<&Effective>) -> Option<(String, Option<Setting>)> {
    let state = host.listener.present().filter(|_| !is_held_by_systemd(server))?;
    let wanted = named(server, after);
    let gone = |(ip, _): &(IpAddr, _)| !is_own(state, absent(server), *ip);
    let (first, line) = wanted.first().filter(|_| wanted.iter().all(gone))?.clone();
    let others = if wanted.len() > 1 { ", nor is any other that its files name" } else { "" };
    Some((format!("sshd cannot start: {first} is no address of this host{others}"), line))
}

/// The addresses that its files name and this host has not, each with the line that names it; and whether it has any of the others.
pub fn not_of_this_host(host: &HostState, server: &Server) -> (Vec<(IpAddr, Option<Setting>)>, bool) {
    let Some(state) = host.listener.present().filter(|_| !is_held_by_systemd(server)) else { return (Vec::new(), true) };
    let wanted = named(server, server.effective.as_ref().ok());
    let (own, gone): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(ip, _)| is_own(state, absent(server), *ip));
    (gone, !own.is_empty())
}

/// The addresses that it would listen on, with the lines that name them. While sshd is down, systemd has taken its directory away, and it
/// prints nothing: then as they stand in its files. None where that is not known, as of names of hosts.
fn named(server: &Server, printed_so: Option<&Effective>) -> Vec<(IpAddr, Option<Setting>)> {
    let settings = settings(server, None);
    let lines = settings.get("listenaddress").map_or(&[][..], Vec::as_slice);
    let of_line = |line: &Setting| line.arguments.first().and_then(|word| ip_of(word));
    if let Some(effective) = printed_so {
        let line = |ip: IpAddr| lines.iter().find(|line| of_line(line) == Some(ip)).cloned();
        return printed(effective).into_iter().map(|at| (at.ip(), line(at.ip()))).collect();
    }
    let all: Option<Vec<_>> = lines.iter().map(|line| Some((of_line(line)?, Some(line.clone())))).collect();
    all.unwrap_or_default()
}

/// `192.0.2.1`, `192.0.2.1:22`, `2001:db8::1`, `[2001:db8::1]:22`, `fe80::1%eth0`; a name of a host is none.
fn ip_of(word: &str) -> Option<IpAddr> {
    let bare = word.trim_start_matches('[').split([']', '%']).next().unwrap_or_default();
    let without_port = bare.rsplit_once(':').map_or(bare, |(address, _)| address);
    bare.parse().or_else(|_| without_port.parse()).ok()
}

/// Where the files of an sshd that is looked after by this port would have it listen on other ports alone: no change of it could be
/// verified, or rolled back, there. Of one that never was on that port nothing is said.
pub fn leaves_port(port: u16, server: &Server, after: &Effective) -> Option<String> {
    let on = |all: &[SocketAddr]| all.iter().any(|at| at.port() == port);
    let (was, is) = (addresses(server).unwrap_or_default(), printed(after));
    if is_held_by_systemd(server) || is.is_empty() || on(&is) || !server.running && !on(&was) {
        return None;
    }
    let ports: BTreeSet<u16> = is.iter().map(SocketAddr::port).collect();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let (new, both) = (ports.join(" "), format!("{port} {}", ports.join(" ")));
    Some(format!(
        "sshd would leave port {port}, and the agent looks after the sshd on port {port} (`ssh_port` in agent.toml), so that it could not \
         verify the change. Do it in two steps: `sshfix ctl sshd set Port {both}`, log in by port {new} and confirm; then set \
         `ssh_port = {}` in agent.toml, `systemctl restart sshfix-agent`, and `sshfix ctl sshd set Port {new}`",
        ports.first().map_or("", String::as_str)
    ))
}

/// What its service may listen on though this host has it not (ip(7), `ip_nonlocal_bind`).
fn absent(server: &Server) -> Absent {
    match &server.manager {
        Manager::Service { boot, .. } => boot.absent,
        Manager::Connections(_) | Manager::Nobody => Absent::default(),
    }
}

fn is_own(state: &State, absent: Absent, ip: IpAddr) -> bool {
    let nonlocal = if ip.is_ipv4() { absent.v4 } else { absent.v6 };
    nonlocal || ip.is_unspecified() || ip.is_loopback() || state.addresses.contains(&ip)
}

/// Why it cannot listen there.
fn closed_to_it(state: &State, absent: Absent, open: &[SocketAddr], at: &SocketAddr) -> Option<&'static str> {
    if !is_own(state, absent, at.ip()) {
        return Some("that is no address of this host");
    }
    let others = || state.listeners.iter().filter(|other| !open.contains(&other.local));
    let taken = !open.contains(at) && others().any(|other| is_in_the_way(at, other));
    taken.then_some("something else has that address and port")
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

/// The same with the VRF of each.
fn named_sockets(server: &Server) -> Option<Vec<Socket>> {
    server
        .effective
        .as_ref()
        .ok()
        .map(|effective| effective.all("listenaddress").iter().filter_map(|line| printed_socket(line)).collect())
}

/// What `sshd -T` prints; without the VRF.
pub fn printed(effective: &Effective) -> Vec<SocketAddr> {
    effective.all("listenaddress").iter().filter_map(|line| listen_address(line)).collect()
}

/// The address and port of a line of `sshd -T` about `ListenAddress`.
pub fn listen_address(line: &str) -> Option<SocketAddr> {
    printed_socket(line).map(|socket| socket.at)
}

/// `192.0.2.1:22`, `[fe80::1%eth0]:22`, `[2001:db8::1]:22 rdomain blue` (servconf.c, `dump_config`); sockets are listed without the interface
/// of a link-local address.
fn printed_socket(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace();
    let address = words.next()?;
    let at = match (address.split_once('%'), address.rsplit_once(']')) {
        (Some((ip, _)), Some((_, port))) => format!("{ip}]{port}").parse().ok()?,
        _ => address.parse().ok()?,
    };
    let device = words.next().filter(|word| *word == "rdomain").and_then(|_| words.next());
    Some(Socket { at, device: device.map(str::to_owned) })
}

/// sshd makes its IPv6 sockets take IPv6 alone (sshd.c, `listen_on_addrs`).
fn covers(socket: SocketAddr, to: SocketAddr) -> bool {
    let there = match (socket.ip(), to.ip()) {
        (IpAddr::V4(at), IpAddr::V4(_)) if at.is_unspecified() => true,
        (IpAddr::V6(at), IpAddr::V6(_)) if at.is_unspecified() => true,
        (at, address) => at == address,
    };
    socket.port() == to.port() && there
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::host::Part;
    use crate::subsystem::sshd::Invocation;

    fn sockets(all: &str) -> Vec<SocketAddr> {
        all.split_ascii_whitespace().map(|at| at.parse().unwrap()).collect()
    }

    fn state(listeners: &str) -> State {
        let listener = |local| Listener { local, v6_only: true, device: None, holders: Vec::new() };
        let listeners = sockets(listeners).into_iter().map(listener).collect();
        let addresses = ["203.0.113.1", "2001:db8::1"].map(|address| address.parse().unwrap()).to_vec();
        State { listeners, addresses, ..State::default() }
    }

    #[test]
    fn an_sshd_ends_where_it_can_listen_nowhere_or_on_too_much() {
        let many = |count: u16| (0..count).map(|n| format!("127.0.0.1:{}", 2200 + n)).collect::<Vec<_>>().join(" ");
        for (open, wanted, end) in [
            ("0.0.0.0:22", "0.0.0.0:22 [::]:22", None),
            ("0.0.0.0:22", "203.0.113.50:22", Some("no address of this host")),
            ("0.0.0.0:22", "203.0.113.50:22 203.0.113.1:22", None),
            // The socket is still there, and the address it was opened at is not.
            ("203.0.113.50:22", "203.0.113.50:22", Some("no address of this host")),
            ("0.0.0.0:22", "[2001:db8::9]:22", Some("no address of this host")),
            ("0.0.0.0:22", &many(16), None),
            ("0.0.0.0:22", &many(17), Some("16 at most")),
        ] {
            let found = ends(&state(open), Absent::default(), &sockets(open), &sockets(wanted));
            assert_eq!(found.is_some(), end.is_some(), "{open}, {wanted}: {found:?}");
            assert!(end.is_none_or(|end| found.unwrap().contains(end)), "{open}, {wanted}");
        }
        let nonlocal = Absent { v4: true, v6: false };
        assert_eq!(ends(&state(""), nonlocal, &[], &sockets("203.0.113.50:22")), None);
        let taken = ends(&state("0.0.0.0:22 0.0.0.0:2222"), Absent::default(), &sockets("0.0.0.0:22"), &sockets("0.0.0.0:2222"));
        assert!(taken.unwrap().contains("something else"));
    }

    fn server(files: &str, listens: &str) -> Server {
        let plain = Server::with_files(Invocation::plain("/usr/sbin/sshd"), &[("/etc/ssh/sshd_config", files)]);
        let lines: Vec<String> = sockets(listens).iter().map(|at| format!("listenaddress {at}")).collect();
        Server { effective: Ok(Effective::parse(&lines.join("\n"))), ..plain }
    }

    #[test]
    fn an_sshd_that_is_down_is_not_started_in_vain_and_the_line_is_named() {
        let host = HostState { listener: Part::Present(state("")), ..HostState::empty() };
        for (files, listens, line) in [
            ("ListenAddress 10.9.9.9\n", "10.9.9.9:22", Some(1)),
            ("Port 22\nListenAddress 10.9.9.9:22\n", "10.9.9.9:22", Some(2)),
            ("ListenAddress [2001:db8::9]:22\n", "[2001:db8::9]:22", Some(1)),
            ("ListenAddress 2001:db8::9\n", "[2001:db8::9]:22", Some(1)),
            ("ListenAddress a.example.org\n", "10.9.9.9:22", None),
        ] {
            let server = Server { running: false, ..server(files, listens) };
            for effective in [server.effective.as_ref().ok(), None] {
                let found = has_no_address(&host, &server, effective);
                let Some((why, at)) = found else {
                    assert!(effective.is_none() && line.is_none(), "{files}: what it means is not known");
                    continue;
                };
                assert!(why.contains("no address of this host"), "{files}: {why}");
                assert_eq!(at.map(|at| at.at.line), line, "{files}");
            }
            assert_eq!((not_of_this_host(&host, &server).0.len(), not_of_this_host(&host, &server).1), (1, false));
        }
        let one = server("ListenAddress 10.9.9.9\nListenAddress 127.0.0.1\n", "10.9.9.9:22 127.0.0.1:22");
        for effective in [one.effective.as_ref().ok(), None] {
            assert!(has_no_address(&host, &one, effective).is_none());
        }
        assert_eq!((not_of_this_host(&host, &one).0.len(), not_of_this_host(&host, &one).1), (1, true));
        assert!(has_no_address(&host, &server("Port 22\n", ""), None).is_none(), "everywhere");
    }

    #[test]
    fn an_sshd_does_not_leave_the_port_by_which_it_is_looked_after() {
        let left = |running, was: &str, is: &str| {
            let server = Server { running, ..server("", was) };
            leaves_port(22, &server, server_effective(is).as_ref().unwrap())
        };
        let why = left(true, "0.0.0.0:22", "0.0.0.0:2222").unwrap();
        for part in ["set Port 22 2222", "ssh_port = 2222", "set Port 2222`"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert_eq!(left(true, "0.0.0.0:22", "0.0.0.0:22 0.0.0.0:2222"), None);
        assert_eq!(left(false, "0.0.0.0:2222", "0.0.0.0:2222"), None, "it never was there");
        assert!(left(false, "0.0.0.0:22", "0.0.0.0:2222").is_some());
    }

    fn server_effective(listens: &str) -> Result<Effective, String> {
        server("", listens).effective
    }
}
