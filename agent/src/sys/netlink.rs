//! netlink(7): opening a socket in this thread's network namespace, sending one request, receiving within a deadline. Knows the header
//! that all families share, and nothing of what a message says.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A socket that talks to the kernel by `protocol` (`NETLINK_*`) and never blocks.
pub fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Sends one request; `NLM_F_REQUEST` is among its flags.
pub fn send<T: NetlinkSerializable>(socket: &Socket, flags: u16, request: T) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(|_| ())
}

/// The next datagram, whole. After the deadline the error is `TimedOut` and says `late`.
pub fn receive(socket: &Socket, deadline: Instant, late: &str) -> io::Result<Vec<u8>> {
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, late);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out());
        }
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(millis)) {
            Ok(0) => return Err(timed_out()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map(|(datagram, _)| datagram),
        }
    }
}

/// The messages of a datagram; the first that cannot be decoded ends them.
pub fn messages<T: NetlinkDeserializable>(datagram: &[u8]) -> impl Iterator<Item = io::Result<NetlinkMessage<T>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other);
        rest = match &message {
            // NLMSG_ALIGN
            Ok(message) => usize::try_from(message.header.length)
                .ok()
                .and_then(|length| rest.get(length.max(1).checked_next_multiple_of(4)?..))
                .unwrap_or_default(),
            Err(_) => &[],
        };
        Some(message)
    })
}
