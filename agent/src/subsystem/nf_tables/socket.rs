//! One long-lived netlink socket to nf_tables: requests, dumps and batches, each with a deadline. Decides nothing.
//! The socket is kept because closing it after a commit costs 4-20 ms.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use mnl::Bus;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;

use super::libnftnl::Buffer;
use super::message::{ACK, Attrs, DUMP, DUMP_INTERRUPTED, Datagram, Kind, Messages, Received, nft};

/// The longest wait for the kernel to say anything.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest a whole answer may take, so that a huge dump ends too.
const WHOLE: Duration = Duration::from_secs(10);
/// Asked for with `SO_RCVBUFFORCE`: acks and echoes of a batch arrive before the first one is read.
const RECEIVE_BUFFER: usize = 4 << 20;
/// `NFNL_BATCH_GENID`.
const BATCH_GENERATION: u16 = 1;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;

/// Why the kernel gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetlinkError {
    /// The kernel refused one message.
    #[error("the kernel answered {errno} to {what}")]
    Kernel {
        /// Why.
        errno: Errno,
        /// What was asked.
        what: &'static str,
    },
    /// The socket failed.
    #[error("netlink socket: {0} ({1})")]
    Socket(Errno, &'static str),
    /// No answer in time.
    #[error("the kernel did not answer {0} in time")]
    TimedOut(&'static str),
    /// The dumped list changed while it was read, or messages were lost: ask again.
    #[error("the ruleset changed while it was read")]
    Interrupted,
    /// Not asked for at all.
    #[error("{0}")]
    Refused(String),
    /// The kernel sent what we cannot take apart.
    #[error("cannot understand the kernel's answer: {0}")]
    Malformed(String),
}

/// The socket. It belongs to the network namespace of the thread that opened it.
pub struct Netlink {
    socket: mnl::Socket,
    buffer: Buffer,
    sequence: u32,
    /// Messages and bytes received so far, for tests that prove what was not dumped.
    received: (u64, u64),
}

// SAFETY: `mnl::Socket` is a pointer to a heap struct (fd and address) that nobody else holds; libmnl keeps no thread-local or
// global state, and every use goes through `&mut self`.
unsafe impl Send for Netlink {}

/// One message of a batch.
#[derive(Clone, Debug)]
pub struct Change {
    /// `NFT_MSG_*`.
    pub message: u8,
    /// The family's number.
    pub family: u8,
    /// `NLM_F_*` besides request and ack.
    pub flags: u16,
    /// Its attributes.
    pub attrs: Attrs,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// All of it was done.
    Done,
    /// `ERESTART`: the ruleset is no longer the one of this generation. Nothing was done.
    Moved,
}

impl Netlink {
    /// Opens the socket in this thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |what| move |error: std::io::Error| NetlinkError::Socket(errno(&error), what);
        let socket = mnl::Socket::new(Bus::Netfilter).map_err(failed("open"))?;
        let mut netlink = Self { socket, buffer: Buffer::new(), sequence: 0, received: (0, 0) };
        let fd = netlink.fd();
        // Child processes must not inherit it; libmnl 1.0.4 opens it without the flag.
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|errno| NetlinkError::Socket(errno, "close-on-exec"))?;
        // Force needs CAP_NET_ADMIN in the first user namespace; without it the kernel's limit must do.
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(|errno| NetlinkError::Socket(errno, "SO_RCVBUF"))?;
        }
        netlink.sequence = 1;
        Ok(netlink)
    }

    fn fd(&self) -> BorrowedFd<'static> {
        let raw = self.socket.as_raw_fd();
        // SAFETY: the descriptor is open as long as `self.socket`; no caller keeps it longer than a call on `self`.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }

    /// Messages and bytes received since the socket was opened.
    pub fn received(&self) -> (u64, u64) {
        self.received
    }

    /// The kernel's generation id: it changes with every commit by anybody.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        let mut generation = None;
        self.request(nft::GET_GENERATION, 0, &Attrs::new(), "the generation id", |message| {
            if message.kind == Kind::Nft(nft::NEW_GENERATION) {
                generation = message.attributes().be32(GENERATION_ID);
            }
            Ok(())
        })?;
        generation.ok_or_else(|| NetlinkError::Malformed("a generation without its id".to_owned()))
    }

    /// Asks for one thing.
    pub fn request(
        &mut self,
        message: u8,
        family: u8,
        attrs: &Attrs,
        what: &'static str,
        on_message: impl FnMut(Received<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.ask(message, family, ACK, attrs, what, on_message)
    }

    /// Asks for a list. [`NetlinkError::Interrupted`] when it changed meanwhile.
    pub fn dump(
        &mut self,
        message: u8,
        family: u8,
        attrs: &Attrs,
        what: &'static str,
        on_message: impl FnMut(Received<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.ask(message, family, DUMP, attrs, what, on_message)
    }

    fn ask(
        &mut self,
        message: u8,
        family: u8,
        flags: u16,
        attrs: &Attrs,
        what: &'static str,
        mut on_message: impl FnMut(Received<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let sequence = self.next_sequence();
        self.send(Messages::new().add(Kind::Nft(message), family, flags, sequence, attrs))?;
        let deadline = Instant::now() + WHOLE;
        let mut interrupted = false;
        // What a handler refused; the rest of the answer is still read, so that the next request starts clean.
        let mut refused = None;
        loop {
            let end = self.receive(deadline, what, |answer| {
                if answer.sequence != sequence {
                    return None; // the rest of an answer that was given up
                }
                interrupted |= answer.flags & DUMP_INTERRUPTED != 0;
                match answer.kind {
                    Kind::Error | Kind::Done => Some(answer.errno()),
                    _ => {
                        if refused.is_none() {
                            refused = on_message(answer).err();
                        }
                        None
                    }
                }
            })?;
            match end {
                None => {}
                Some(0) if interrupted => return Err(NetlinkError::Interrupted),
                Some(0) => return refused.map_or(Ok(()), Err),
                Some(code) => return Err(NetlinkError::Kernel { errno: Errno::from_raw(code), what }),
            }
        }
    }

    /// Does all changes or none, if the ruleset is still at this generation.
    pub fn commit(&mut self, generation: u32, changes: &[Change], what: &'static str) -> Result<Commit, NetlinkError> {
        let (first, batch) = self.batch(generation, changes);
        let last = self.next_sequence();
        self.send(batch.add(Kind::BatchEnd, 0, 0, last, &Attrs::new()))?;
        self.acks(first, changes.len(), what)
    }

    /// What the kernel says to the changes, without doing them: a batch without its end is validated and thrown away.
    pub fn check(&mut self, generation: u32, changes: &[Change], what: &'static str) -> Result<Commit, NetlinkError> {
        let (first, batch) = self.batch(generation, changes);
        self.send(batch)?;
        self.acks(first, changes.len(), what)
    }

    /// Batch begin, guarded by the generation, and the changes. The first change has the sequence number after the returned one.
    fn batch(&mut self, generation: u32, changes: &[Change]) -> (u32, Messages) {
        if self.sequence > u32::MAX / 2 {
            self.sequence = 0; // never in the middle of a batch, whose numbers are compared
        }
        let first = self.next_sequence();
        let guard = Attrs::new().be32(BATCH_GENERATION, generation);
        let mut batch = Messages::new().add(Kind::BatchBegin, 0, 0, first, &guard);
        for change in changes {
            let sequence = self.next_sequence();
            batch = batch.add(Kind::Nft(change.message), change.family, change.flags | ACK, sequence, &change.attrs);
        }
        (first, batch)
    }

    /// Reads one ack per change. A batch that is refused as a whole answers its begin only, so the first error ends the reading.
    fn acks(&mut self, first: u32, expected: usize, what: &'static str) -> Result<Commit, NetlinkError> {
        let deadline = Instant::now() + WHOLE;
        let mut acked = 0_usize;
        while acked < expected {
            let refused = self.receive(deadline, what, |answer| {
                if answer.sequence < first {
                    return None; // the rest of an answer that was given up
                }
                match answer.kind {
                    Kind::Error if answer.errno() != 0 => Some(answer.errno()),
                    Kind::Error if answer.sequence > first => {
                        acked += 1;
                        None
                    }
                    _ => None,
                }
            })?;
            match refused.map(Errno::from_raw) {
                None => {}
                Some(Errno::ERESTART) => return Ok(Commit::Moved),
                Some(errno) => return Err(NetlinkError::Kernel { errno, what }),
            }
        }
        Ok(Commit::Done)
    }

    /// Sequence numbers grow, so that late answers are told from wanted ones.
    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, messages: Messages) -> Result<(), NetlinkError> {
        let Some(bytes) = messages.finish() else {
            return Err(NetlinkError::Malformed("a message of more than 64 KiB".to_owned()));
        };
        loop {
            match self.socket.send(&bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::Socket(errno(&error), "send")),
            }
        }
    }

    /// Whether something can be read within this time.
    fn readable(&self, wait: Duration) -> Result<bool, NetlinkError> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.fd(), PollFlags::POLLIN)], timeout) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NetlinkError::Socket(errno, "poll")),
            }
        }
    }

    /// Reads one datagram and hands its messages to `each`; gives the first thing `each` returns.
    fn receive<T>(
        &mut self,
        deadline: Instant,
        what: &'static str,
        mut each: impl FnMut(Received<'_>) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let left = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
        if left.is_zero() || !self.readable(left)? {
            return Err(NetlinkError::TimedOut(what));
        }
        let length = loop {
            match self.socket.recv_raw(self.buffer.bytes_mut()) {
                Ok(length) => break length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Messages were lost: what was asked must be asked again.
                Err(error) if errno(&error) == Errno::ENOBUFS => return Err(NetlinkError::Interrupted),
                Err(error) => return Err(NetlinkError::Socket(errno(&error), "receive")),
            }
        };
        let datagram = self.buffer.bytes().get(..length).unwrap_or_default();
        self.received.1 += u64::try_from(length).unwrap_or(u64::MAX);
        let mut first = None;
        for message in Datagram(datagram) {
            self.received.0 += 1;
            let found = each(message);
            if first.is_none() {
                first = found;
            }
        }
        Ok(first)
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
