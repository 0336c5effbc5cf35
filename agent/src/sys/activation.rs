//! The socket that systemd hands over (`sd_listen_fds(3)`), and nothing else.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

/// The one listening unix socket systemd passed, if it passed one. `LISTEN_PID` must be this process. Call it once, at start.
pub fn listener() -> io::Result<Option<UnixListener>> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("socket activation: {why}"));
    let mut passed = sd_notify::listen_fds()?;
    let Some(fd) = passed.next() else { return Ok(None) };
    if passed.next().is_some() {
        return Err(wrong("more than one socket was passed; the socket unit must have one ListenStream="));
    }
    // SAFETY: by `sd_listen_fds(3)` this descriptor is open and ours alone; nothing else in this process takes it, as this is
    // called once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let family = getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&fd)).ok().and_then(|address| address.family());
    let is_stream = getsockopt(&fd, sockopt::SockType) == Ok(SockType::Stream);
    let listens = getsockopt(&fd, sockopt::AcceptConn) == Ok(true);
    if family != Some(AddressFamily::Unix) || !is_stream || !listens {
        return Err(wrong("what was passed is not a listening unix stream socket"));
    }
    Ok(Some(UnixListener::from(fd)))
}
