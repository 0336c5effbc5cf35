//! What is written outside of the agent's own folders, by a small service of its own (`sshfix-agent write`): typed orders, and how they
//! cross its socket. The agent's unit sees `/etc` and `/run` read-only; what lies there and must change is changed by this process, which
//! has no network and knows what it may write. Decides nothing about the change: it was planned and proven before.
//!
//! It is one process that stays, started before the agent: an agent that must roll back needs it also where the program on the disk has
//! been broken or replaced since.

mod ask;
mod perform;
mod serve;

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sshfix_policy::subsystem::sshd::{Mend, PRIVSEP};
use thiserror::Error;

use crate::sys::files::Old;

pub use ask::ask;
pub use serve::serve;

/// Where systemd listens for it (`sshfix-write.socket`), for root alone.
pub const SOCKET: &str = "/run/sshfix/write.sock";
/// The longest content: that of hosts.allow and hosts.deny.
const MAX_CONTENT: u64 = 16 << 20;
/// The longest first line: one with a tally in it.
const MAX_ORDER: u64 = 1 << 20;
/// The longest answer.
const MAX_ANSWER: u64 = 64 << 10;
/// For starting it, reading its order, and writing.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a host key besides.
const KEY_PATIENCE: Duration = Duration::from_secs(70);

/// What is to be written. New content follows the order, exactly as many bytes as it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// hosts.allow or hosts.deny of agent.toml.
    Hosts {
        /// One of the two.
        path: String,
        /// SHA-256 of what it holds; `None` where it is not there.
        before: Option<String>,
        /// The length of what it will hold; `None` where it goes away.
        after: Option<u64>,
        /// What becomes of what it holds.
        #[serde(default, skip_serializing_if = "Old::is_gone")]
        old: Old,
    },
    /// A file of sshd's configuration that is there.
    Sshd {
        /// The file.
        path: String,
        /// SHA-256 of what it holds.
        before: String,
        /// The length of what it will hold.
        after: u64,
        /// What becomes of what it holds.
        #[serde(default, skip_serializing_if = "Old::is_gone")]
        old: Old,
    },
    /// What a crash left behind of a new version of such a file.
    SshdClear {
        /// The file.
        path: String,
    },
    /// The old version of such a file or of a hosts file, which was kept until its change had ended.
    Forget {
        /// Of the kept version.
        path: String,
    },
    /// sshd's own directory, a host key, a tally of `pam_faillock`.
    Repair(Mend),
    /// The lock file of iptables-legacy, where it is missing.
    XtablesLock,
}

impl Order {
    /// How many bytes of content follow it.
    fn follows(&self) -> u64 {
        match self {
            Self::Hosts { after, .. } => after.unwrap_or(0),
            Self::Sshd { after, .. } => *after,
            Self::SshdClear { .. } | Self::Forget { .. } | Self::Repair(_) | Self::XtablesLock => 0,
        }
    }

    /// For people: no content.
    fn what(&self) -> String {
        match self {
            Self::Hosts { path, .. }
            | Self::Sshd { path, .. }
            | Self::Forget { path }
            | Self::Repair(Mend::KeyMode { path, .. } | Mend::Key { path, .. } | Mend::Tally { path, .. }) => path.clone(),
            Self::SshdClear { path } => format!("an unfinished version of {path}"),
            Self::Repair(Mend::Folder { .. }) => PRIVSEP.to_owned(),
            Self::XtablesLock => "the lock of iptables-legacy".to_owned(),
        }
    }

    fn patience(&self) -> Duration {
        match self {
            Self::Repair(Mend::Key { .. }) => KEY_PATIENCE,
            Self::Hosts { .. }
            | Self::Sshd { .. }
            | Self::SshdClear { .. }
            | Self::Forget { .. }
            | Self::Repair(_)
            | Self::XtablesLock => PATIENCE,
        }
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Changed,
    Already,
    Drifted(String),
    Failed(String),
}

/// Why an order was not even read. Nothing was changed.
#[derive(Debug, Error)]
pub enum WriteError {
    /// It was started by hand.
    #[error("systemd passed no socket: this is run by sshfix-write.socket; nothing was written")]
    NoSocket,
    /// The socket.
    #[error("received no order: {0}; nothing was written")]
    Socket(#[from] io::Error),
    /// What came is no order.
    #[error("the message received is not an order: {0}; nothing was written")]
    Malformed(String),
}

/// The SHA-256 of a content, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Length as orders have it.
pub fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The one order of a connection and its content, whole: what is longer or shorter than it says is none.
pub fn read(stream: &mut impl Read) -> Result<(Order, Vec<u8>), WriteError> {
    let malformed = |why: &str| WriteError::Malformed(why.to_owned());
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut reader).take(MAX_ORDER).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(malformed("its first line has no end"));
    }
    let order: Order = serde_json::from_slice(&line).map_err(|error| WriteError::Malformed(error.to_string()))?;
    let follows = order.follows();
    if follows > MAX_CONTENT {
        return Err(malformed("its content is too long"));
    }
    let mut content = Vec::new();
    reader.take(follows.saturating_add(1)).read_to_end(&mut content)?;
    if length(&content) != follows {
        return Err(malformed("its content is not as long as it says"));
    }
    Ok((order, content))
}
