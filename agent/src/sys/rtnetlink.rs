//! rtnetlink(7): one request and its answer, within a deadline, in this thread's network namespace. Takes no message apart.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest a whole answer may take.
const LIMIT: Duration = Duration::from_secs(3);

/// One message of `NETLINK_ROUTE`, not taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Raw {
    kind: u16,
    bytes: Vec<u8>,
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: header.message_type, bytes: payload.to_vec() })
    }
}

/// A socket in this thread's network namespace. Only a strict one lets the kernel filter lists; it also takes fewer lookups.
pub fn open(strict: bool) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    if strict {
        socket.set_netlink_get_strict_chk(true)?;
    }
    Ok(socket)
}

/// Sends one request and hands each object of the answer to `on_object`, header and attributes. The kernel's refusal is the error;
/// `Interrupted` when what was listed changed meanwhile.
pub fn ask(
    socket: &Socket,
    kind: u16,
    flags: u16,
    bytes: &[u8],
    mut on_object: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Raw { kind, bytes: bytes.to_vec() }));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let many = flags & NLM_F_DUMP == NLM_F_DUMP;
    let deadline = Instant::now() + LIMIT;
    let mut interrupted = false;
    loop {
        wait(socket, deadline)?;
        let (datagram, _) = match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            other => other?,
        };
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<Raw>::deserialize(rest).map_err(io::Error::other)?;
            interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                // RTM_GETx is RTM_NEWx + 2 (rtnetlink(7)), and what is got is told as new.
                NetlinkPayload::InnerMessage(raw) if raw.kind + 2 == kind => {
                    on_object(&raw.bytes)?;
                    if !many {
                        return Ok(());
                    }
                }
                NetlinkPayload::Done(_) if interrupted => {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "what the kernel listed changed meanwhile"));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = usize::try_from(message.header.length).unwrap_or(0).max(1).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn wait(socket: &Socket, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    if left.is_zero() {
        return Err(timed_out());
    }
    let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(millis)) {
        Ok(0) => Err(timed_out()),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
