//! Whether a configuration serves anybody at all, whoever comes: where it listens, host keys and algorithms that ordinary clients
//! have in common with it, and limits that leave room to log in. Knows no user.

use std::net::{IpAddr, SocketAddr};

use super::admission::drop_percent;
use super::state::Server;
use super::{Effective, Manager};
use crate::access_proof::Method;
use crate::host::HostState;
use crate::verdict::Verdict;

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
const MACS: [&str; 10] = [
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

/// Somebody is kept out, or nobody knows: the verdict and why. `None` is that it serves.
pub type Problem = Option<(Verdict, String)>;

fn refuse(why: impl Into<String>) -> (Verdict, String) {
    (Verdict::Refuse, why.into())
}

fn unknown(why: impl Into<String>) -> (Verdict, String) {
    (Verdict::Unknown, why.into())
}

/// What keeps everybody out.
pub fn problem(server: &Server) -> Problem {
    if let Err(said) = &server.test {
        return Some(refuse(format!("sshd, which does not take its files: {said}")));
    }
    let effective = match &server.effective {
        Ok(effective) => effective,
        Err(why) => return Some(unknown(format!("sshd, whose effective configuration is not known: {why}"))),
    };
    algorithms(effective, &server.host_keys).or_else(|| limits(effective))
}

/// The methods of key exchange that sshfix can prove access by are among those every client has.
fn algorithms(effective: &Effective, host_keys: &[String]) -> Problem {
    let list = |keyword: &str| effective.one(keyword).map(|value| value.split(',').collect::<Vec<_>>());
    if let Some(kex) = list("kexalgorithms")
        && !Method::ALL.iter().any(|method| kex.contains(&method.name()))
    {
        return Some(refuse("KexAlgorithms, which has none of curve25519-sha256, ecdh-sha2-nistp256 and ecdh-sha2-nistp384"));
    }
    let Some(ciphers) = list("ciphers") else { return Some(unknown("the ciphers, which sshd does not print")) };
    let common: Vec<&str> = CIPHERS.into_iter().filter(|cipher| ciphers.contains(cipher)).collect();
    if common.is_empty() {
        return Some(refuse("Ciphers, which has none that clients offer by default"));
    }
    let authenticated = CIPHERS.iter().take(AUTHENTICATED).any(|cipher| common.contains(cipher));
    if let Some(macs) = list("macs").filter(|_| !authenticated)
        && !MACS.iter().any(|mac| macs.contains(mac))
    {
        return Some(refuse("MACs, which has none that clients offer by default"));
    }
    let Some(accepted) = list("hostkeyalgorithms") else {
        return Some(unknown("the host key algorithms, which sshd does not print"));
    };
    if host_keys.is_empty() {
        return Some(unknown("the host keys, of which no public half can be read"));
    }
    let signs = |kind: &String| match kind.as_str() {
        "ssh-rsa" => accepted.contains(&"rsa-sha2-512") || accepted.contains(&"rsa-sha2-256"),
        kind => accepted.contains(&kind),
    };
    if host_keys.iter().any(signs) {
        return None;
    }
    Some(refuse(format!("HostKey and HostKeyAlgorithms: no key is of an accepted type ({})", host_keys.join(", "))))
}

/// Limits below which nobody can log in, or nobody can tell.
fn limits(effective: &Effective) -> Problem {
    let number = |keyword: &str| effective.one(keyword).and_then(|value| value.parse::<u32>().ok());
    let startups: Vec<u32> =
        effective.one("maxstartups").unwrap_or_default().split(':').filter_map(|part| part.parse().ok()).collect();
    if let [begin, rate, full] = startups[..] {
        match drop_percent(0, begin, full, Some(rate)) {
            Some(100) => return Some(refuse("MaxStartups, which drops every connection")),
            Some(0) | None => {}
            Some(percent) => return Some(unknown(format!("MaxStartups, which drops {percent} of 100 connections"))),
        }
    }
    if number("persourcemaxstartups") == Some(0) {
        return Some(refuse("PerSourceMaxStartups 0, which drops every connection"));
    }
    // 0 is no limit; a person types a passphrase, and libwrap alone may take five seconds.
    if let Some(seconds @ 1..10) = number("logingracetime") {
        return Some(refuse(format!("LoginGraceTime, which leaves {seconds} s to log in")));
    }
    if number("maxsessions") == Some(0) {
        return Some(refuse("MaxSessions 0, which gives nobody a session"));
    }
    match number("maxauthtries") {
        Some(0) => Some(refuse("MaxAuthTries 0, which lets nobody try")),
        Some(1) => Some(unknown("MaxAuthTries 1, which is over after the first key that does not fit")),
        _ => None,
    }
}

/// Whether somebody from this address reaches it: at these addresses of the host where they are known, else at every address of
/// the host of the same family that is reached now.
pub fn listens(host: &HostState, before: &Server, now: &Server, port: u16, from: IpAddr, locals: &[IpAddr]) -> Problem {
    // systemd listens, whatever the files say.
    if matches!(&now.manager, Manager::Connections(_) | Manager::Service { socket: Some(_), .. }) {
        return None;
    }
    let (Some(was), Some(is)) = (addresses(before), addresses(now)) else { return None };
    let own = host.listener.present().map_or(&[][..], |state| &state.addresses);
    let same = |address: &&IpAddr| address.is_ipv4() == from.is_ipv4() && !address.is_loopback();
    let known = if locals.is_empty() { own.iter().filter(same).copied().collect() } else { locals.to_vec() };
    let lost: Vec<String> = known
        .iter()
        .filter(|address| covers(&was, **address, port) && !covers(&is, **address, port))
        .map(|address| SocketAddr::new(*address, port).to_string())
        .collect();
    if lost.is_empty() {
        return None;
    }
    Some(refuse(format!("the sockets: sshd would not listen on {} any more", lost.join(" and "))))
}

/// What `sshd -T` prints of `ListenAddress`.
pub fn addresses(server: &Server) -> Option<Vec<SocketAddr>> {
    let effective = server.effective.as_ref().ok()?;
    Some(effective.all("listenaddress").iter().filter_map(|address| address.parse().ok()).collect())
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
