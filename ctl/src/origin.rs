//! From where the person came who asks: the client address of their SSH session. A hint for the proof, never an authority.

use std::net::IpAddr;

use nix::unistd::{Uid, User};
use sshfix_policy::address::canonical;

use crate::client::Origin;

/// How far up the parents are asked; a shell under sudo under sshd is five or six away.
const PARENTS_MAX: usize = 16;

/// As the environment says, or that of the processes that started this one: sudo drops `SSH_CONNECTION`.
pub fn origin() -> Origin {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let address = variable("SSH_CONNECTION").and_then(|value| client_address(&value)).or_else(address_of_a_parent);
    let real = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    Origin { address, user: variable("SUDO_USER").or_else(real) }
}

/// `SSH_CONNECTION` is "client address, client port, server address, server port" (ssh(1), ENVIRONMENT).
fn client_address(value: &str) -> Option<IpAddr> {
    let first = value.split(' ').next()?;
    // A link-local address carries its interface.
    let address = first.split('%').next()?;
    address.parse().ok().map(canonical)
}

fn address_of_a_parent() -> Option<IpAddr> {
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..PARENTS_MAX {
        if pid <= 1 {
            return None;
        }
        if let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ"))
            && let Some(address) = connection_in(&environment)
        {
            return Some(address);
        }
        pid = parent_of(pid)?;
    }
    None
}

fn connection_in(environment: &[u8]) -> Option<IpAddr> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="))?;
    client_address(std::str::from_utf8(value).ok()?)
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
    fn a_parents_environment_is_searched_by_whole_names() {
        let found = connection_in(b"A=1\0SSH_CONNECTION=203.0.113.7 1 192.0.2.1 22\0B=2\0");
        assert_eq!(found.map(|address| address.to_string()).as_deref(), Some("203.0.113.7"));
        assert_eq!(connection_in(b"MY_SSH_CONNECTION=203.0.113.7 1\0"), None);
        assert_eq!(connection_in(b""), None);
    }

    #[test]
    fn this_process_has_a_parent() {
        assert_eq!(parent_of(std::process::id()), Some(std::os::unix::process::parent_id()));
    }
}
