//! Whether a configuration serves anybody at all, whoever comes: where it listens, host keys and algorithms that ordinary clients
//! have in common with it, and limits that drop every connection. Knows no user.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::access_proof::Method;
use crate::host::HostState;
use crate::subsystem::listener::{Listener, is_sshd};
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::way_in::risk::no_connections;
use crate::subsystem::sshd::{Effective, Manager};
use crate::verdict::{Stage, Verdict};

/// What OpenSSH's client offers by default (`ssh_config(5)`, `Ciphers`, `MACs`, `HostKeyAlgorithms`), without what it only offered once.
const CIPHERS: [&str; 6] = [
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
];
/// Those of them that need no MAC.
const AUTHENTICATED: usize = 3;
pub(crate) const MACS: [&str; 10] = [
    "umac-64-etm@openssh.com",
    "umac-128-etm@openssh.com",
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha1-etm@openssh.com",
    "umac-64@openssh.com",
    "umac-128@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "hmac-sha1",
];

/// The keyword, the verdict and why.
type Problem = (&'static str, Verdict, String);

fn refuse(keyword: &'static str, why: impl Into<String>) -> Problem {
    (keyword, Verdict::Refuse, why.into())
}

fn unknown(keyword: &'static str, why: impl Into<String>) -> Problem {
    (keyword, Verdict::Unknown, why.into())
}

/// What keeps everybody out.
pub fn objections(server: &Server) -> Vec<Objection> {
    let stage = Stage::SshdAdmission;
    if let Err(said) = &server.test {
        let why = format!("sshd, which does not take its files: {said}");
        return vec![Objection::refuse(stage, Reason::Files(said.clone()), why)];
    }
    let effective = match &server.effective {
        Ok(effective) => effective,
        Err(why) => {
            let text = format!("sshd, whose effective configuration is not known: {why}");
            return vec![Objection::unknown(stage, Reason::Unasked(why.clone()), text)];
        }
    };
    let algorithms = algorithms(effective, &server.host_keys);
    let algorithms =
        algorithms.map(|(keyword, verdict, why)| Objection { stage, reason: Reason::Algorithms(keyword), verdict, why });
    let no_room = no_connections(effective).map(|(keyword, why)| Objection::refuse(stage, Reason::NoRoom(keyword), why));
    algorithms.into_iter().chain(no_room).collect()
}

/// The methods of key exchange that sshfix can prove access by are among those every client has.
fn algorithms(effective: &Effective, host_keys: &[String]) -> Option<Problem> {
    let list = |keyword: &str| effective.one(keyword).map(|value| value.split(',').collect::<Vec<_>>());
    if let Some(kex) = list("kexalgorithms")
        && !Method::ALL.iter().any(|method| kex.contains(&method.name()))
    {
        let why = "KexAlgorithms, which has none of curve25519-sha256, ecdh-sha2-nistp256 and ecdh-sha2-nistp384";
        return Some(refuse("kexalgorithms", why));
    }
    let Some(ciphers) = list("ciphers") else { return Some(unknown("ciphers", "the ciphers, which sshd does not print")) };
    let common: Vec<&str> = CIPHERS.into_iter().filter(|cipher| ciphers.contains(cipher)).collect();
    if common.is_empty() {
        return Some(refuse("ciphers", "Ciphers, which has none that clients offer by default"));
    }
    let authenticated = CIPHERS.iter().take(AUTHENTICATED).any(|cipher| common.contains(cipher));
    if let Some(macs) = list("macs").filter(|_| !authenticated)
        && !MACS.iter().any(|mac| macs.contains(mac))
    {
        return Some(refuse("macs", "MACs, which has none that clients offer by default"));
    }
    let Some(accepted) = list("hostkeyalgorithms") else {
        return Some(unknown("hostkeyalgorithms", "the host key algorithms, which sshd does not print"));
    };
    if host_keys.is_empty() {
        return Some(unknown("hostkey", "the host keys, of which no public half can be read"));
    }
    if !offered(&accepted, host_keys).is_empty() {
        return None;
    }
    let why = format!("HostKey and HostKeyAlgorithms: no key is of an accepted type ({})", host_keys.join(", "));
    Some(refuse("hostkeyalgorithms", why))
}

/// The host keys that a client can be shown, by what `HostKeyAlgorithms` accepts.
fn offered(accepted: &[&str], host_keys: &[String]) -> BTreeSet<String> {
    let signs = |kind: &&String| match kind.as_str() {
        "ssh-rsa" => accepted.contains(&"rsa-sha2-512") || accepted.contains(&"rsa-sha2-256"),
        kind => accepted.contains(&kind),
    };
    host_keys.iter().filter(signs).cloned().collect()
}

/// Whether one of these types of host keys signs by this algorithm.
pub fn signs(host_keys: &[String], algorithm: &str) -> bool {
    let kind = if matches!(algorithm, "rsa-sha2-512" | "rsa-sha2-256") { "ssh-rsa" } else { algorithm };
    host_keys.iter().any(|key| key == kind)
}

/// By what clients may know this host: the types of its keys that they can be shown, and its certificates.
pub fn identities(server: &Server) -> BTreeSet<String> {
    let Ok(effective) = &server.effective else { return BTreeSet::new() };
    let accepted: Vec<&str> = effective.one("hostkeyalgorithms").unwrap_or_default().split(',').collect();
    // Of a key whose file sshd would not load now only the running one can show what it read before.
    let loads = |kind: &String| {
        let mut files = server.host_key_files.iter().filter(|key| key.algorithm.as_ref() == Some(kind)).peekable();
        files.peek().is_none() || files.any(|key| !key.is_lost())
    };
    let keys = offered(&accepted, &server.host_keys).into_iter().filter(loads).map(|kind| format!("the {kind} key"));
    let certificates = effective.all("hostcertificate").iter().map(|path| format!("the certificate {path}"));
    keys.chain(certificates).collect()
}

/// The same of the sshd that runs: of a key whose file changed since, it shows the one that it read.
pub fn identities_now(server: &Server) -> BTreeSet<String> {
    let mut found = identities(server);
    for key in server.host_key_files.iter().filter(|key| key.changed) {
        let kind = key.algorithm.as_deref().unwrap_or("host");
        found.remove(&format!("the {kind} key"));
        found.insert(format!("the {kind} key that sshd read before {} changed", key.path));
    }
    found
}

/// Why no key by which clients know the host would be left, because of files that changed since sshd read them.
pub fn no_key_stays(was: &BTreeSet<String>, is: &BTreeSet<String>) -> Option<String> {
    let changed = was.iter().any(|identity| identity.ends_with(" changed"));
    (changed && was.is_disjoint(is)).then(|| {
        let was: Vec<&str> = was.iter().map(String::as_str).collect();
        format!(
            "the host keys: clients know this host by {}, and sshd would show none of them any more; where that is meant, or the files hold \
             the same keys again, reload sshd by hand",
            was.join(" and ")
        )
    })
}

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
