//! The socket at which systemd speaks D-Bus with root and without a bus, as a socket for zbus. It passes on what it reads, but for the name of
//! the sender: systemd writes its well-known name there (src/core/dbus.c, `bus_on_connection`), where zbus takes unique ones alone.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// Only root can connect there: systemd answers nobody else (src/core/dbus.c, `bus_on_connection`).
const PATH: &str = "/run/systemd/private";
/// The part of a message that says how long the rest is (D-Bus specification, "Message Format"): byte order, type, flags and version, the
/// length of the body, the serial number, and the length of the header's fields.
const START: usize = 16;
/// No line of the handshake comes near it.
const LONGEST_LINE: usize = 4096;
/// The field SENDER (7), a string (`s`) of 24 bytes, in either byte order.
const SENDER: [&[u8]; 2] =
    [b"\x07\x01s\0\x18\0\0\0org.freedesktop.systemd1\0", b"\x07\x01s\0\0\0\0\x18org.freedesktop.systemd1\0"];
/// As long as systemd's name, and a unique one.
const UNIQUE: &[u8] = b":org.freedesktop.systemd\0";
/// The longest message that is taken: properties of units are far from it.
const MOST: usize = 4 << 20;

/// A connection to systemd, not authenticated yet.
#[derive(Debug)]
pub(super) struct SystemdSocket(UnixStream);

impl SystemdSocket {
    /// Connects. Must be called on a runtime: it lives there.
    pub(super) async fn connect() -> io::Result<Self> {
        UnixStream::connect(PATH).await.map(Self)
    }

    /// Whether there is none.
    pub(super) fn is_missing() -> bool {
        std::fs::symlink_metadata(PATH).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

impl Socket for SystemdSocket {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.0.into_split();
        Split::new(Reader { socket: read, read: Vec::new() }, Writer(write))
    }
}

/// What zbus reads from.
#[derive(Debug)]
pub(super) struct Reader {
    socket: OwnedReadHalf,
    /// What was read and not passed on yet.
    read: Vec<u8>,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        if self.read.is_empty() {
            self.read = message(&mut self.socket).await?;
        }
        let length = buffer.len().min(self.read.len());
        for (to, from) in buffer.iter_mut().zip(self.read.drain(..length)) {
            *to = from;
        }
        Ok((length, Vec::new()))
    }
}

/// A whole message with a sender that zbus takes; or a line of the handshake, none of which begins with `l` or `B`; nothing at the end.
/// Never more than the line: zbus says all of its part at once, so that a signal may follow the answers right away.
async fn message(socket: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0];
    if socket.read(&mut bytes).await? == 0 {
        return Ok(Vec::new());
    }
    if !matches!(bytes.first(), Some(b'l' | b'B')) {
        while bytes.last() != Some(&b'\n') && bytes.len() < LONGEST_LINE {
            bytes.push(socket.read_u8().await?);
        }
        return Ok(bytes);
    }
    bytes.resize(START, 0);
    socket.read_exact(bytes.get_mut(1..).unwrap_or_default()).await?;
    let (fields, length) =
        lengths(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "too long a message of systemd"))?;
    let mut rest = vec![0; length.saturating_sub(START)];
    socket.read_exact(&mut rest).await?;
    if let Some(fields) = rest.get_mut(..fields) {
        name_uniquely(fields);
    }
    bytes.append(&mut rest);
    Ok(bytes)
}

/// How long the fields are, and the whole message.
fn lengths(start: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| {
        let bytes: [u8; 4] = start.get(at..at + 4)?.try_into().ok()?;
        let number = if start.first() == Some(&b'l') { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
        usize::try_from(number).ok()
    };
    let (body, fields) = (number(4)?, number(12)?);
    let whole = START.checked_add(fields)?.checked_next_multiple_of(8)?.checked_add(body)?;
    (whole <= MOST).then_some((fields, whole))
}

/// Each field begins at a multiple of eight, and so do the fields.
fn name_uniquely(fields: &mut [u8]) {
    let starts = (0..fields.len()).step_by(8);
    let found = starts.into_iter().find(|at| {
        let rest = fields.get(*at..).unwrap_or_default();
        SENDER.iter().any(|sender| rest.starts_with(sender))
    });
    if let Some(name) = found.and_then(|at| fields.get_mut(at + 8..at + 8 + UNIQUE.len())) {
        name.copy_from_slice(UNIQUE);
    }
}

/// What zbus writes to.
#[derive(Debug)]
pub(super) struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

#[cfg(test)]
#[path = "systemd_socket_tests.rs"]
mod tests;
