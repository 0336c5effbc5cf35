//! The unencrypted start of an SSH connection: the version line, then binary packets (RFC 4253 sections 4.2 and 6). Bounded in
//! bytes and in time, however slowly the other side drips.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sshfix_policy::access_proof::VERSION_MAX;
use sshfix_policy::ssh::blob::Reader;

use super::{KexError, MSG_DISCONNECT};

/// The most bytes before the version line; OpenSSH's client takes 1,024 lines of 8,192 bytes.
const PREAMBLE_MAX: usize = 16 * 1024;
/// RFC 4253 section 6.1.
const PACKET_MAX: usize = 35_000;
/// RFC 4253 section 6: without a cipher, packets come in multiples of 8 bytes, with at least 4 of padding.
const BLOCK: usize = 8;
const PADDING_MIN: usize = 4;
/// RFC 4253 sections 11.2 to 11.4, which may come at any time: `IGNORE`, `UNIMPLEMENTED`, `DEBUG`.
const PASSED_OVER: [u8; 3] = [2, 3, 4];
/// How many of those are passed over.
const PASSED_OVER_MAX: usize = 16;
/// How long the other side's end of the connection is waited for, so that our close does not reset it.
const GOODBYE: Duration = Duration::from_secs(1);

/// One connection.
pub(super) struct Transport {
    stream: TcpStream,
    to: SocketAddr,
    timeout: Duration,
    deadline: Instant,
    /// Read from the socket and not used yet.
    buffer: Vec<u8>,
}

impl Transport {
    pub(super) fn new(stream: TcpStream, to: SocketAddr, timeout: Duration, deadline: Instant) -> Self {
        Self { stream, to, timeout, deadline, buffer: Vec::new() }
    }

    /// The server's version line without CR and LF. Lines before it are allowed; who says only such lines turns us away.
    pub(super) fn read_version(&mut self) -> Result<Vec<u8>, KexError> {
        let started = Instant::now();
        let to = self.to;
        let mut said: Vec<u8> = Vec::new();
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
                    line.pop();
                }
                if line.starts_with(b"SSH-") {
                    let known = line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-");
                    let whole = line.len() <= VERSION_MAX;
                    return if known && whole { Ok(line) } else { Err(KexError::NotSsh { to, text: brief(&line) }) };
                }
                said.extend_from_slice(&line);
                said.push(b'\n');
            }
            if said.len() + self.buffer.len() > PREAMBLE_MAX {
                return Err(KexError::NotSsh { to, text: brief(&said) });
            }
            let closed = match self.fill() {
                Ok(count) => count == 0,
                Err(Failure::Late) => return Err(self.late("banner")),
                Err(Failure::Io(_)) => true,
            };
            if closed {
                said.append(&mut self.buffer);
                if said.is_empty() {
                    return Err(KexError::NoBanner { to, after: started.elapsed() });
                }
                return Err(KexError::TurnedAway { to, text: brief(&said) });
            }
        }
    }

    /// The payload of the next packet that is not to be passed over.
    pub(super) fn read_packet(&mut self, during: &'static str) -> Result<Vec<u8>, KexError> {
        let to = self.to;
        let protocol = |why: String| KexError::Protocol { to, why };
        for _ in 0..PASSED_OVER_MAX {
            self.need(5, during)?;
            let mut head = Reader::new(&self.buffer);
            let short = |error: sshfix_policy::ssh::blob::BlobError| protocol(error.to_string());
            let length = usize::try_from(head.u32("the length").map_err(short)?).unwrap_or(usize::MAX);
            let padding = usize::from(head.u8("the padding").map_err(short)?);
            let payload = length.checked_sub(1 + padding).filter(|payload| *payload > 0);
            let Some(payload) = payload.filter(|_| length <= PACKET_MAX && padding >= PADDING_MIN) else {
                return Err(protocol(format!("a packet of {length} bytes with {padding} of padding")));
            };
            self.need(4 + length, during)?;
            let packet: Vec<u8> = self.buffer.drain(..4 + length).skip(5).take(payload).collect();
            match packet.first() {
                Some(&MSG_DISCONNECT) => {
                    return Err(KexError::Lost { to, during, why: format!("it says \"{}\"", disconnect_text(&packet)) });
                }
                Some(number) if PASSED_OVER.contains(number) => {}
                _ => return Ok(packet),
            }
        }
        Err(protocol("nothing but messages without meaning".to_owned()))
    }

    /// Sends a payload as one packet.
    pub(super) fn write_packet(&mut self, payload: &[u8]) -> Result<(), KexError> {
        self.write(&packet(payload).map_err(KexError::Local)?)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), KexError> {
        let (to, during) = (self.to, "sending");
        let left = self.left().ok_or_else(|| self.late("attention"))?;
        let sent = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|why| match why.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.late("attention"),
            _ => KexError::Lost { to, during, why: why.to_string() },
        })
    }

    /// Says goodbye and lets the other side close first. What fails here changes nothing any more.
    pub(super) fn say_goodbye(&mut self, payload: &[u8]) {
        let _ = self.write_packet(payload);
        let _ = self.stream.shutdown(Shutdown::Write);
        self.deadline = self.deadline.min(Instant::now() + GOODBYE);
        self.buffer.clear();
        while matches!(self.fill(), Ok(1..)) && self.buffer.len() < PACKET_MAX {}
    }

    /// Reads until so many bytes are in the buffer.
    fn need(&mut self, count: usize, during: &'static str) -> Result<(), KexError> {
        while self.buffer.len() < count {
            let to = self.to;
            let lost = |why: String| KexError::Lost { to, during, why };
            match self.fill() {
                Ok(0) => return Err(lost("it closed the connection".to_owned())),
                Ok(_) => {}
                Err(Failure::Late) => return Err(self.late(during)),
                Err(Failure::Io(why)) => return Err(lost(why.to_string())),
            }
        }
        Ok(())
    }

    /// One read of what there is; 0 at the end.
    fn fill(&mut self) -> Result<usize, Failure> {
        let mut chunk = [0; 4096];
        loop {
            let left = self.left().ok_or(Failure::Late)?;
            self.stream.set_read_timeout(Some(left)).map_err(Failure::Io)?;
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(Failure::Late),
                Err(error) => return Err(Failure::Io(error)),
            }
        }
    }

    fn left(&self) -> Option<Duration> {
        Some(self.deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn late(&self, during: &'static str) -> KexError {
        KexError::Stalled { to: self.to, seconds: self.timeout.as_secs(), during }
    }
}

enum Failure {
    Late,
    Io(io::Error),
}

/// RFC 4253 section 6: length, padding length, payload, padding. Without a cipher the padding need not be random.
fn packet(payload: &[u8]) -> Result<Vec<u8>, String> {
    let unpadded = 5 + payload.len() + PADDING_MIN;
    let padding = PADDING_MIN + (unpadded.next_multiple_of(BLOCK) - unpadded);
    let too_long = |_| "a packet that is too long".to_owned();
    let length = u32::try_from(1 + payload.len() + padding).map_err(too_long)?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).map_err(|error| error.to_string())?);
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    Ok(packet)
}

/// RFC 4253 section 11.1: `byte, uint32 reason, string description, string language`.
fn disconnect_text(packet: &[u8]) -> String {
    let mut reader = Reader::new(packet.get(5..).unwrap_or_default());
    brief(reader.string("the description").unwrap_or_default())
}

/// The first line of what a stranger says, printable.
fn brief(said: &[u8]) -> String {
    const MOST: usize = 120;
    let line = said.split(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
    line.trim_ascii_end().escape_ascii().to_string().chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_padded_to_blocks_of_eight_with_at_least_four() {
        for length in 1..64 {
            let bytes = packet(&vec![9; length]).unwrap_or_default();
            assert_eq!(bytes.len() % BLOCK, 0);
            let padding = usize::from(bytes.get(4).copied().unwrap_or_default());
            assert!((PADDING_MIN..PADDING_MIN + BLOCK).contains(&padding));
            assert_eq!(bytes.len(), 5 + length + padding);
        }
    }
}
