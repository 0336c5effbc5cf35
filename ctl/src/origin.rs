//! From where the person came who asks: the client address of their SSH session. A hint for the proof, never an authority.

use std::net::{IpAddr, SocketAddr};

use nix::unistd::{Uid, User};
use sshfix_policy::address::canonical;

/// How far up the parents are asked; a shell under sudo under sshd is five or six away.
const PARENTS_MAX: usize = 16;

/// Who asks, from where: told to the agent so that the way in is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address the person came in from.
    pub address: Option<IpAddr>,
    /// The login name.
    pub user: Option<String>,
}

/// As the environment says, or that of the processes that started this one: sudo drops `SSH_CONNECTION`.
pub fn origin() -> Origin {
    let real = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    Origin { address: ssh_client(), user: variable("SUDO_USER").or_else(real) }
}

/// The address the person came from over SSH.
pub fn ssh_client() -> Option<IpAddr> {
    connection(client_address)
}

/// The address and port of the SSH server the person came in by.
pub fn ssh_server() -> Option<SocketAddr> {
    connection(server_address)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What `part` finds in `SSH_CONNECTION`, be it this process's or that of one which started it.
fn connection<T>(part: fn(&str) -> Option<T>) -> Option<T> {
    variable("SSH_CONNECTION").and_then(|value| part(&value)).or_else(|| of_a_parent(part))
}

/// `SSH_CONNECTION` is "client address, client port, server address, server port" (ssh(1), ENVIRONMENT).
fn client_address(value: &str) -> Option<IpAddr> {
    let first = value.split(' ').next()?;
    // A link-local address carries its interface.
    let address = first.split('%').next()?;
    address.parse().ok().map(canonical)
}

/// Its second half. A link-local address cannot be used without its interface.
fn server_address(value: &str) -> Option<SocketAddr> {
    let mut words = value.split(' ').skip(2);
    let address = words.next()?.parse().ok().map(canonical)?;
    Some(SocketAddr::new(address, words.next()?.parse().ok()?))
}

fn of_a_parent<T>(part: fn(&str) -> Option<T>) -> Option<T> {
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..PARENTS_MAX {
        if pid <= 1 {
            return None;
        }
        if let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ"))
            && let Some(found) = connection_in(&environment).and_then(part)
        {
            return Some(found);
        }
        pid = parent_of(pid)?;
    }
    None
}

fn connection_in(environment: &[u8]) -> Option<&str> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="))?;
    std::str::from_utf8(value).ok()
}

/// The line `PPid:` of `proc_pid_status(5)`.
fn parent_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_address_is_read_and_folded() {
        let address = |text: &str| client_address(text).map(|address| address.to_string());
        assert_eq!(address("203.0.113.7 51234 192.0.2.1 22").as_deref(), Some("203.0.113.7"));
        assert_eq!(address("::ffff:203.0.113.7 51234 192.0.2.1 22").as_deref(), Some("203.0.113.7"));
        assert_eq!(address("fe80::1%eth0 1 fe80::2 22").as_deref(), Some("fe80::1"));
        assert_eq!(address("UNKNOWN 0 UNKNOWN 0"), None);
        assert_eq!(address(""), None);
    }

    #[test]
    fn the_server_is_the_second_half() {
        let server = |text: &str| server_address(text).map(|server| server.to_string());
        assert_eq!(server("203.0.113.7 51234 192.0.2.1 2222").as_deref(), Some("192.0.2.1:2222"));
        assert_eq!(server("2001:db8::7 51234 2001:db8::1 22").as_deref(), Some("[2001:db8::1]:22"));
        assert_eq!(server("::ffff:203.0.113.7 1 ::ffff:192.0.2.1 22").as_deref(), Some("192.0.2.1:22"));
        assert_eq!(server("fe80::1%eth0 1 fe80::2%eth0 22"), None);
        assert_eq!(server("203.0.113.7 51234"), None);
        assert_eq!(server("UNKNOWN 65535 UNKNOWN 65535"), None);
    }

    #[test]
    fn a_parents_environment_is_searched_by_whole_names() {
        let found = connection_in(b"A=1\0SSH_CONNECTION=203.0.113.7 1 192.0.2.1 22\0B=2\0");
        assert_eq!(found, Some("203.0.113.7 1 192.0.2.1 22"));
        assert_eq!(connection_in(b"MY_SSH_CONNECTION=203.0.113.7 1\0"), None);
        assert_eq!(connection_in(b""), None);
    }

    #[test]
    fn this_process_has_a_parent() {
        assert_eq!(parent_of(std::process::id()), Some(std::os::unix::process::parent_id()));
    }
}
