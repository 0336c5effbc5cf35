//! The lab: whole Debian servers in under a second (systemd-nspawn over an overlay of a debootstrapped image) and clients
//! with several addresses in a network namespace of their own. The machine's own network and files stay as they are.
//!
//! ```no_run
//! use sshfix_tests::lab::{self, Release, Server};
//! if !lab::root_or_skip() { return; }
//! let server = Server::boot(Release::Trixie);
//! assert!(server.ssh("203.0.113.7").ok);
//! ```

mod clients;
mod command;
mod inside;
mod install;
mod netns;
mod place;
mod server;
mod wire;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

pub use clients::{BUSY_SYSTEMD, HeldConnections, MANY_SOCKETS, Session};
pub use command::{Output, feed, run, run_with_input};
pub use inside::{answer_inside, ask_inside};
pub use install::{CtlResult, on_both, on_both_at_once, packaged_units};
pub use netns::{Netns, in_namespace};
pub use server::{Server, SshResult};
pub use wire::{CLIENTS as WIRE_CLIENTS, Client, Fate, LISTENING, SERVERS as WIRE_SERVERS, Wire};

/// The server's own addresses.
pub const SERVER_V4: &str = "203.0.113.1";
/// See [`SERVER_V4`].
pub const SERVER_V6: &str = "2001:db8::1";
/// The harness's own way in, in a network that no test bans.
pub const ADMIN_V4: &str = "192.0.2.9";
/// See [`ADMIN_V4`].
pub const ADMIN_V6: &str = "2001:db8:9::9";
/// The addresses a client may use, each with the name the server knows it by.
pub const CLIENTS: [(&str, &str); 9] = [
    ("203.0.113.7", "seven.example.net"),
    ("203.0.113.8", "eight.example.net"),
    ("203.0.113.70", "seventy.example.net"),
    ("198.51.100.7", "seven.example.org"),
    ("2001:db8::7", "seven6.example.net"),
    ("2001:db8::8", "eight6.example.net"),
    ("2001:db8::70", "seventy6.example.net"),
    (ADMIN_V4, "admin.example.com"),
    (ADMIN_V6, "admin6.example.com"),
];

/// A Debian release the lab has an image of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Debian 12: OpenSSH 9.2, fail2ban 1.0.2 through iptables-nft, systemd 252.
    Bookworm,
    /// Debian 13: OpenSSH 10.0, fail2ban 1.1.0 through nftables, systemd 257.
    Trixie,
}

impl Release {
    /// Both.
    pub const ALL: [Release; 2] = [Release::Bookworm, Release::Trixie];

    /// The read-only base image, made by `tests/lab-images`.
    pub fn image(self) -> PathBuf {
        PathBuf::from("/var/cache/sshfix-lab").join(self.to_string())
    }

    /// The layer on it with the programs that manage firewalls, made by `tests/lab-images` and `tests/lab-managers`.
    pub fn managers(self) -> PathBuf {
        PathBuf::from("/var/cache/sshfix-lab").join(format!("{self}-managers"))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        })
    }
}

/// Whether this process is root, which the lab needs. Where it is not, says so past the test runner's capture and the test
/// is to return; with `CI=true` that is a failure instead.
pub fn root_or_skip() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(!in_ci(), "this test needs root, and CI=true allows no skipped test");
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    // Not `eprintln!`: the test runner would swallow it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: it needs root for namespaces. Run: sudo tests/run");
    false
}

/// Whether a skipped test counts as a failure.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
