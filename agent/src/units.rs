//! What the small services of sshfix have in common: whom they answer, and how long they wait for what is said.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::subsystem::listener;

/// The units whose processes are answered.
const ASKERS: [&str; 2] = ["sshfix-agent.service", "sshfix-recover.service"];

/// Whether this peer may ask anything at all: root, in one of these units. A process of root's in another unit, with less than all rights,
/// gets no more of them here.
pub fn check(stream: &UnixStream) -> Result<(), String> {
    let peer =
        getsockopt(stream, PeerCredentials).map_err(|errno| format!("who asks could not be seen: {errno}; nothing was done"))?;
    let unseen = |why: String| format!("which unit asks could not be seen: {why}; nothing was done");
    let pid = u32::try_from(peer.pid()).map_err(|error| unseen(error.to_string()))?;
    let unit = listener::unit_of(pid).map_err(|error| unseen(error.to_string()))?;
    if peer.uid() == 0 && unit.as_deref().is_some_and(|unit| ASKERS.contains(&unit)) {
        return Ok(());
    }
    let why = format!(
        "process {} of user {} in {} is not {}; nothing was read or done for it",
        peer.pid(),
        peer.uid(),
        unit.as_deref().unwrap_or("no unit"),
        ASKERS.join(" or ")
    );
    tracing::warn!("{why}");
    Err(why)
}

/// Reads until a time, however slowly the other end sends.
pub struct Hurried<'a> {
    stream: &'a UnixStream,
    limit: Duration,
    until: Instant,
}

impl<'a> Hurried<'a> {
    /// From now on.
    pub fn new(stream: &'a UnixStream, limit: Duration) -> Self {
        Self { stream, limit, until: Instant::now() + limit }
    }

    /// All that the other end says, of at most so many bytes.
    pub fn whole(self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Hurried<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        // Zero would be no limit.
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not come within {} s", self.limit.as_secs())));
        }
        let mut stream = self.stream;
        stream.read(buffer)
    }
}
