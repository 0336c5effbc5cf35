//! One conversation with fail2ban over its unix socket: a deadline for the whole of it, bounded replies. Sends typed commands
//! only; what a reply means is for `policy` to say.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::{SysconfVar, sysconf};
use sshfix_policy::subsystem::fail2ban::pickle::Value;
use sshfix_policy::subsystem::fail2ban::protocol::{self, Command, ReplyError};
use thiserror::Error;

use crate::sys::clock::Moment;

/// A reply of more bytes is not read to its end: about a million bans with their times.
const LARGEST_REPLY: usize = 64 << 20;

/// Why a conversation failed.
#[derive(Debug, Error)]
pub enum SocketError {
    /// There is no socket file.
    #[error("there is no socket {}", .0.display())]
    Missing(PathBuf),
    /// The socket file is there, but nobody listens.
    #[error("nobody listens on {}", .0.display())]
    Dead(PathBuf),
    /// No answer in time.
    #[error("fail2ban did not answer `{what}` within {:.1} s", after.as_secs_f32())]
    TimedOut {
        /// The command, or `a connection`.
        what: String,
        /// The time it was given.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection to fail2ban failed at `{what}`: {error}")]
    Lost {
        /// The command, or `a connection`.
        what: String,
        /// The kernel's words.
        error: io::Error,
    },
    /// More than [`LARGEST_REPLY`].
    #[error("fail2ban's answer to `{0}` is larger than 64 MiB")]
    TooLarge(String),
    /// An exception, or an answer that is not understood.
    #[error("{what}: {error}")]
    Reply {
        /// The command.
        what: String,
        /// What is wrong with it.
        error: ReplyError,
    },
}

/// An open conversation.
pub struct Conversation {
    stream: UnixStream,
    started: Instant,
    deadline: Instant,
}

impl Conversation {
    /// Connects. Every command must be answered within `limit` from now.
    pub fn open(path: &Path, limit: Duration) -> Result<Self, SocketError> {
        let started = Instant::now();
        let lost = |errno: Errno| SocketError::Lost { what: "a connection".to_owned(), error: errno.into() };
        let address = UnixAddr::new(path).map_err(lost)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(lost)?;
        // A server that hangs leaves its backlog full, and connect answers EAGAIN at once: asked again until the deadline.
        loop {
            match connect(fd.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(SocketError::Missing(path.to_owned())),
                Err(Errno::ECONNREFUSED) => return Err(SocketError::Dead(path.to_owned())),
                Err(Errno::EAGAIN) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
                Err(Errno::EAGAIN) => return Err(SocketError::TimedOut { what: "a connection".to_owned(), after: limit }),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(lost(errno)),
            }
        }
        Ok(Self { stream: UnixStream::from(fd), started, deadline: started + limit })
    }

    /// How long the server at the other end has been running: the process that listens (`SO_PEERCRED`, unix(7)), by its start time
    /// (`proc_pid_stat(5)`, field 22, in clock ticks since boot). `None` of one in another PID namespace, which cannot be told.
    pub fn server_age(&self) -> Result<Option<Duration>, SocketError> {
        let lost = |error: io::Error| SocketError::Lost { what: "the age of fail2ban's process".to_owned(), error };
        let pid = getsockopt(&self.stream, PeerCredentials).map_err(|errno| lost(errno.into()))?.pid();
        if pid == 0 {
            return Ok(None);
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(lost)?;
        let age = age(&stat, Moment::now().since_boot);
        age.map(Some).ok_or_else(|| lost(io::Error::other(format!("/proc/{pid}/stat is not understood"))))
    }

    /// Moves the deadline to `limit` after the start.
    pub fn extend(&mut self, limit: Duration) {
        self.deadline = self.deadline.max(self.started + limit);
    }

    /// Sends one command and reads the value it is answered with.
    pub fn ask<T>(&mut self, command: &Command, read: impl FnOnce(&Value) -> Result<T, ReplyError>) -> Result<T, SocketError> {
        let what = command.words().join(" ");
        let error = |error| SocketError::Reply { what: what.clone(), error };
        let reply = self.exchange(&command.message(), &what)?;
        let value = protocol::answer(&reply).map_err(error)?;
        read(&value).map_err(error)
    }

    fn exchange(&mut self, message: &[u8], what: &str) -> Result<Vec<u8>, SocketError> {
        let mut rest = message;
        while !rest.is_empty() {
            self.wait(PollFlags::POLLOUT, what)?;
            match self.stream.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if again(&error) => {}
                Err(error) => return Err(SocketError::Lost { what: what.to_owned(), error }),
            }
        }
        let mut reply = Vec::new();
        let mut chunk = vec![0; 1 << 16];
        loop {
            self.wait(PollFlags::POLLIN, what)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer was whole");
                    return Err(SocketError::Lost { what: what.to_owned(), error });
                }
                Ok(read) => reply.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(error) if again(&error) => {}
                Err(error) => return Err(SocketError::Lost { what: what.to_owned(), error }),
            }
            // The server sends nothing unasked, so the end marker is the end of what there is to read.
            if reply.ends_with(protocol::END) {
                reply.truncate(reply.len() - protocol::END.len());
                return Ok(reply);
            }
            if reply.len() > LARGEST_REPLY {
                return Err(SocketError::TooLarge(what.to_owned()));
            }
        }
    }

    fn wait(&self, event: PollFlags, what: &str) -> Result<(), SocketError> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let after = self.deadline.saturating_duration_since(self.started);
                return Err(SocketError::TimedOut { what: what.to_owned(), after });
            }
            let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
            match poll(&mut [PollFd::new(self.stream.as_fd(), event)], PollTimeout::from(millis)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(SocketError::Lost { what: what.to_owned(), error: errno.into() }),
            }
        }
    }
}

/// By a `/proc/PID/stat`, at this time since the boot.
fn age(stat: &str, now: Duration) -> Option<Duration> {
    // The command, in parentheses, may hold anything; the field after it is the third.
    let started: u64 = stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()?;
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    // The coarse ticks of the start may be ahead of now by one.
    Some(now.saturating_sub(Duration::from_millis(started.checked_mul(1000)?.checked_div(ticks)?)))
}

/// Tells the server that the conversation is over; it would notice the close, but log it.
impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.stream.write(protocol::CLOSE);
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_that_cannot_be_read_is_none_and_no_old_age() {
        let stat = format!("7 (fail2ban) server) S {}", vec!["500"; 40].join(" "));
        assert_eq!(age(&stat, Duration::from_secs(12)), Some(Duration::from_secs(7)));
        for cut in ["", "7 (fail2ban-server) S 1 2 3", "7 (x) S a b c d e f g h i j k l m n o p q r s t u"] {
            assert_eq!(age(cut, Duration::from_secs(12)), None, "{cut}");
        }
    }
}
