//! What is written outside of the agent's own folders, by a small process of its own (`sshfix-agent write`): typed orders, how they cross the
//! socket, and the asking side. The agent's unit sees `/etc` and `/run` read-only; what lies there and must change is changed by this process,
//! which has no network and knows what it may write. Decides nothing about the change: it was planned and proven before.

mod perform;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::sshd::Mend;
use thiserror::Error;

use crate::config::Config;
use crate::logging;

/// Where systemd listens for it (`sshfix-write.socket`), for root alone.
pub const SOCKET: &str = "/run/sshfix/write.sock";
/// The longest content: that of hosts.allow and hosts.deny.
const LONGEST: u64 = 16 << 20;
/// The longest first line: one with a tally in it.
const LONGEST_ORDER: u64 = 1 << 20;
/// The longest answer.
const LONGEST_ANSWER: u64 = 64 << 10;
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
    },
    /// A file of sshd's configuration that is there.
    Sshd {
        /// The file.
        path: String,
        /// SHA-256 of what it holds.
        before: String,
        /// The length of what it will hold.
        after: u64,
    },
    /// What a crash left behind of a new version of such a file.
    SshdClear {
        /// The file.
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
            Self::SshdClear { .. } | Self::Repair(_) | Self::XtablesLock => 0,
        }
    }

    fn patience(&self) -> Duration {
        match self {
            Self::Repair(Mend::Key { .. }) => KEY_PATIENCE,
            Self::Hosts { .. } | Self::Sshd { .. } | Self::SshdClear { .. } | Self::Repair(_) | Self::XtablesLock => PATIENCE,
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
    /// The socket.
    #[error("no order came: {0}; nothing was written")]
    Socket(#[from] io::Error),
    /// What came is no order.
    #[error("what came is no order: {0}; nothing was written")]
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

/// Has the writer do this. A time-out leaves open whether it was done: look at the file.
pub fn ask(order: &Order, content: &[u8]) -> Result<Done, StepError> {
    let unreached = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            StepError::TimedOut(format!("sshfix-write.socket did not answer within {} s", order.patience().as_secs()))
        }
        _ => StepError::Failed(format!(
            "cannot reach {SOCKET}, which writes what the agent's own unit may not: {error}; nothing was changed; \
             `systemctl start sshfix-write.socket`"
        )),
    };
    match exchange(Path::new(SOCKET), order, content).map_err(unreached)? {
        Answer::Changed => Ok(Done::Changed),
        Answer::Already => Ok(Done::Already),
        Answer::Drifted(what) => Err(StepError::Drifted(what)),
        Answer::Failed(what) => Err(StepError::Failed(what)),
    }
}

fn exchange(socket: &Path, order: &Order, content: &[u8]) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(order.patience()))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    // One that has answered and gone before it read all of it has a reason to tell.
    let sent = stream.write_all(&line).and_then(|()| stream.write_all(content)).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    if answer.is_empty() {
        sent?;
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer"));
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Serves one order on this connection, with the agent's own configuration; where that cannot be read, with the defaults, as recovery does.
pub fn serve(agent_toml: &Path, mut stream: UnixStream) -> Result<(), WriteError> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let config = Config::load(agent_toml).unwrap_or_default();
    let _ = logging::start("info");
    let answer = match read(&mut stream) {
        Ok((order, content)) => {
            let answer = perform::perform(&config, &order, &content);
            tracing::info!("{order:.300?}: {answer:?}");
            answer
        }
        Err(error) => Answer::Failed(error.to_string()),
    };
    stream.write_all(&serde_json::to_vec(&answer).map_err(io::Error::from)?)?;
    Ok(())
}

/// The one order of a connection and its content, whole: what is longer or shorter than it says is none.
pub fn read(stream: &mut impl Read) -> Result<(Order, Vec<u8>), WriteError> {
    let malformed = |why: &str| WriteError::Malformed(why.to_owned());
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut reader).take(LONGEST_ORDER).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(malformed("its first line has no end"));
    }
    let order: Order = serde_json::from_slice(&line).map_err(|error| WriteError::Malformed(error.to_string()))?;
    let follows = order.follows();
    if follows > LONGEST {
        return Err(malformed("its content is too long"));
    }
    let mut content = Vec::new();
    reader.take(follows.saturating_add(1)).read_to_end(&mut content)?;
    if length(&content) != follows {
        return Err(malformed("its content is not as long as it says"));
    }
    Ok((order, content))
}
