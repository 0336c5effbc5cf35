//! rtnetlink(7): one request and its answer, within a deadline, in this thread's network namespace. Takes no message apart.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink;

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
    let socket = netlink::open(NETLINK_ROUTE)?;
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
    netlink::send(socket, flags, Raw { kind, bytes: bytes.to_vec() })?;
    let many = flags & NLM_F_DUMP == NLM_F_DUMP;
    let deadline = Instant::now() + LIMIT;
    let mut interrupted = false;
    loop {
        let datagram = netlink::receive(socket, deadline, "no answer in time")?;
        for message in netlink::messages::<Raw>(&datagram) {
            let message = message?;
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
        }
    }
}
