//! Connections on the unix socket: hello, one request frame, one reply frame, close. Bounds how many, how long and how much, and
//! keeps a place in line for each request; nothing a peer sends is looked at here but the length. What a request means is the
//! pipeline's business.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sshfix_policy::reply::{ErrorCode, ErrorDocument};
use sshfix_policy::request::wire::{self, PREFIX, REQUEST_LIMIT, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::Limits;
use crate::patience::{self, Patience};
use crate::random::{self, NoRandomness};
use crate::request::room::{Entry, ROOT, Room, Stage};
use crate::sys::clock::Moment;
use crate::turns::{Asker, Claim, Line, Precedence, Turn};

/// How long a stop waits for the requests that are being worked on. What is cut off then is recovered at the next start.
const STOP_TIME: Duration = Duration::from_mins(1);
/// How long what a peer still sends after its reply is thrown away, so that the reply reaches it before the close.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// How often it is looked whether a client that waits is still there.
const LOOK: Duration = Duration::from_millis(100);
/// A request that waits for its turn is answered `busy` after so long.
const MAX_WAIT: Duration = Duration::from_mins(2);

/// Who is at the other end, by `SO_PEERCRED`: as the kernel knew them when they connected (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Their user.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Their process; 0 where it is not known.
    pub pid: i32,
    /// When, by the monotonic clock.
    pub connected_at: Instant,
}

impl Peer {
    /// Whether it is root on this host.
    pub fn is_root(&self) -> bool {
        self.uid == ROOT
    }
}

/// What the agent gave on this connection, and when: the request must carry it, and it ages by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Challenge {
    /// The random bytes.
    pub value: wire::Challenge,
    /// When they were given.
    pub given: Instant,
    /// When, by `CLOCK_BOOTTIME`, as changes on disk are timed.
    pub since_boot: Duration,
}

impl Challenge {
    /// A fresh one.
    pub fn new() -> Result<Self, NoRandomness> {
        let value = wire::Challenge::new(random::bytes()?);
        Ok(Self { value, given: Instant::now(), since_boot: Moment::now().since_boot })
    }

    /// As requests and replies carry it.
    pub fn text(&self) -> String {
        self.value.to_string()
    }
}

/// Where a request waits for its turn, and what it may have then.
#[derive(Debug)]
pub struct Place {
    /// The line it waits in,
    pub line: Arc<Line>,
    /// as whom.
    pub claim: Claim,
    /// It is answered without a turn, with less, where there is none so soon.
    pub without_turn_after: Option<Duration>,
    /// How long its answer may take, from its turn on.
    pub time: Duration,
}

/// What becomes of the body of a request frame.
#[derive(Debug)]
pub enum Admission<R> {
    /// It is over with this frame.
    Reply(Vec<u8>),
    /// It waits for its turn.
    Admitted(R, Place),
}

/// What is behind the socket: the pipeline, or a test. Frames are whole; an empty one closes the connection.
pub trait Answer: Send + Sync + 'static {
    /// A request that was admitted.
    type Request: Send + 'static;

    /// Where requests wait to be looked at, before anything but the user is known of who asks.
    fn admissions(&self) -> &Arc<Line>;

    /// The hello that gives this challenge.
    fn hello(&self, challenge: &Challenge) -> Vec<u8>;

    /// Looks who asks for what. On a thread of its own, in a turn of the user's; never waits.
    fn admit(&self, peer: &Peer, challenge: &Challenge, body: &[u8]) -> Admission<Self::Request>;

    /// The reply to an admitted request. May block, may panic; is called on a thread of its own with the request's patience.
    fn work(&self, request: Self::Request, turn: Option<Turn>, patience: &Patience) -> Vec<u8>;

    /// The reply to what never became a request. On a thread of its own.
    fn error(&self, challenge: &Challenge, error: ErrorDocument) -> Vec<u8>;
}

/// Serves until `stop` is ready, then lets the requests that are being worked on come to their end.
pub async fn serve(listener: UnixListener, service: Arc<impl Answer>, limits: Limits, stop: impl Future<Output = ()>) {
    let bounds = limits.bounds();
    let room = Room::new(bounds);
    // Of all that may ever be open: those that were told to close hold theirs until they have.
    let descriptors = Arc::new(Semaphore::new(bounds.most()));
    let limits = Arc::new(limits);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let next = async {
            let descriptor = Arc::clone(&descriptors).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?.0, descriptor))
        };
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = next => match accepted {
                Ok((stream, descriptor)) => {
                    let served = connection(stream, Arc::clone(&service), Arc::clone(&room), Arc::clone(&limits), descriptor);
                    connections.spawn(served);
                }
                Err(error) => {
                    // Out of descriptors or memory: both come back when a connection ends.
                    tracing::error!("a connection could not be accepted: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(listener);
    room.stop();
    let ended = timeout(STOP_TIME, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::error!(
            "a request was still in progress after {STOP_TIME:?}; an unfinished change is recovered at the next start"
        );
    }
}

/// One connection, until it is over or must make room. `_descriptor` is given back when it is closed.
async fn connection(
    stream: UnixStream,
    service: Arc<impl Answer>,
    room: Arc<Room>,
    limits: Arc<Limits>,
    _descriptor: OwnedSemaphorePermit,
) {
    let peer = match peer_of(&stream) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!("a peer without credentials was turned away: {error}"),
    };
    let Some((entry, evicted)) = room.enter(peer.uid) else {
        return tracing::debug!(uid = peer.uid, pid = peer.pid, "all connections of this user are in use; closed a new one");
    };
    tokio::select! {
        biased;
        _ = evicted => tracing::debug!(uid = peer.uid, pid = peer.pid, "closed a connection to make room for a new one"),
        () = converse(stream, peer, service, &entry, &limits) => {}
    }
}

/// Why there is no request.
enum NoRequest {
    /// Closed or silent for too long: nobody to tell.
    Silent,
    /// Some of it came, not all in time.
    Late,
    /// The peer stopped sending in the middle.
    Short,
    /// The announced length is not allowed.
    TooLong(WireError),
}

/// From the hello to the close.
async fn converse(mut stream: UnixStream, peer: Peer, service: Arc<impl Answer>, entry: &Entry, limits: &Limits) {
    let challenge = match Challenge::new() {
        Ok(challenge) => challenge,
        Err(error) => return tracing::error!("no challenge could be made, so a connection was closed: {error}"),
    };
    let came = greet_and_read(&mut stream, &*service, &challenge, limits).await;
    if !entry.goes_on(Stage::Waiting) {
        return;
    }
    let Some(reply) = answered(&stream, came, peer, challenge, service, entry).await else { return };
    if reply.is_empty() || !entry.goes_on(Stage::Replying) {
        return;
    }
    let written = timeout(limits.reply_time(), async {
        stream.write_all(&reply).await?;
        stream.shutdown().await
    });
    match written.await {
        Ok(Ok(())) => drain(&mut stream).await,
        Ok(Err(error)) => tracing::debug!(uid = peer.uid, pid = peer.pid, "the peer left before its reply: {error}"),
        Err(_) => tracing::warn!(uid = peer.uid, pid = peer.pid, "the peer did not take its reply in time; it was cut off"),
    }
}

/// Admits what came, waits for its turn and has it worked on. Nothing where nobody is there any more to be answered.
async fn answered(
    stream: &UnixStream,
    came: Result<Vec<u8>, NoRequest>,
    peer: Peer,
    challenge: Challenge,
    service: Arc<impl Answer>,
    entry: &Entry,
) -> Option<Vec<u8>> {
    let body = match came {
        Ok(body) => body,
        Err(NoRequest::Silent) => return None,
        Err(why) => return failed(stream, peer, challenge, service, no_request(&peer, &why)).await,
    };
    let admitting = Arc::clone(&service);
    let admission = in_turn(stream, peer, &service, move || admitting.admit(&peer, &challenge, &body)).await?;
    let (request, Place { line, claim, without_turn_after, time }) = match admission {
        Ok(Admission::Reply(reply)) => return Some(reply),
        Ok(Admission::Admitted(request, place)) => (request, place),
        Err(error) => return failed(stream, peer, challenge, service, error).await,
    };
    let at_most = without_turn_after.unwrap_or(MAX_WAIT);
    let turn = match unless_gone(stream, timeout(at_most, line.turn(claim))).await? {
        Ok(Ok(turn)) => Some(turn),
        Err(_) if without_turn_after.is_some() => None,
        Ok(Err(_)) | Err(_) => return failed(stream, peer, challenge, service, busy()).await,
    };
    if !entry.goes_on(Stage::Working) {
        return None;
    }
    let patience = Patience::new(time);
    // However this ends, also when its connection makes room: nobody waits then.
    let _waited_for = GivesUp(patience.clone());
    let working = Arc::clone(&service);
    let work =
        tokio::task::spawn_blocking(move || patience::with(Some(patience.clone()), || working.work(request, turn, &patience)));
    match unless_gone(stream, work).await? {
        Ok(reply) => Some(reply),
        Err(error) => failed(stream, peer, challenge, service, panicked(&peer, &error)).await,
    }
}

/// Ends the patience with which something is worked on.
struct GivesUp(Patience);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Does something that is soon done, on a thread of its own, in a turn of this peer's user.
async fn in_turn<T: Send + 'static>(
    stream: &UnixStream,
    peer: Peer,
    service: &Arc<impl Answer>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<Result<T, ErrorDocument>> {
    let precedence = if peer.is_root() { Precedence::Root } else { Precedence::Others };
    let claim = Claim { asker: Asker::User(peer.uid), precedence };
    // One that cannot even wait is a connection too many: it is closed.
    let turn = unless_gone(stream, service.admissions().turn(claim)).await?.ok()?;
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    Some(unless_gone(stream, work).await?.map_err(|error| panicked(&peer, &error)))
}

/// The reply that says why there is no other.
async fn failed(
    stream: &UnixStream,
    peer: Peer,
    challenge: Challenge,
    service: Arc<impl Answer>,
    error: ErrorDocument,
) -> Option<Vec<u8>> {
    let replying = Arc::clone(&service);
    in_turn(stream, peer, &service, move || replying.error(&challenge, error)).await?.ok()
}

fn no_request(peer: &Peer, why: &NoRequest) -> ErrorDocument {
    let (message, advice) = match why {
        NoRequest::Silent | NoRequest::Late => {
            ("the request did not arrive complete in time".to_owned(), "connect again and send it at once")
        }
        NoRequest::Short => ("the request ended before its announced length".to_owned(), "send the whole frame"),
        NoRequest::TooLong(error) => (format!("this is not a request of sshfix: {error}"), "use `sshfix ctl`"),
    };
    tracing::debug!(uid = peer.uid, pid = peer.pid, "no request: {message}");
    ErrorDocument::new(ErrorCode::Usage, format!("{message}; nothing was changed"), advice)
}

fn busy() -> ErrorDocument {
    ErrorDocument::new(
        ErrorCode::Busy,
        "too many of your requests are waiting; nothing was changed",
        "retry in a moment; `sshfix ctl status`, `confirm` and `rollback` do not wait for the others",
    )
}

fn panicked(peer: &Peer, error: &tokio::task::JoinError) -> ErrorDocument {
    tracing::error!(uid = peer.uid, pid = peer.pid, "a request failed inside the agent: {error}");
    ErrorDocument::new(
        ErrorCode::Failed,
        "the request failed inside the agent; a change that it had begun is rolled back before the next one",
        "this is a bug in sshfix: the agent's log says where; `sshfix ctl status` shows the host as it is",
    )
}

fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let found = stream.peer_cred()?;
    Ok(Peer { uid: found.uid(), gid: found.gid(), pid: found.pid().unwrap_or(0), connected_at: Instant::now() })
}

/// Says hello, waits for the first byte, then reads the whole frame within its time. The buffer grows with what comes, not
/// with what is announced.
async fn greet_and_read(
    stream: &mut UnixStream,
    service: &impl Answer,
    challenge: &Challenge,
    limits: &Limits,
) -> Result<Vec<u8>, NoRequest> {
    let hello = service.hello(challenge);
    if hello.is_empty() || !matches!(timeout(limits.reply_time(), stream.write_all(&hello)).await, Ok(Ok(()))) {
        return Err(NoRequest::Silent);
    }
    let mut prefix = [0; PREFIX];
    match timeout(limits.idle_time(), stream.read(prefix.split_at_mut(1).0)).await {
        Ok(Ok(1)) => {}
        _ => return Err(NoRequest::Silent),
    }
    let whole = async {
        stream.read_exact(prefix.split_at_mut(1).1).await.map_err(|_| NoRequest::Short)?;
        let length = wire::body_length(prefix, REQUEST_LIMIT).map_err(NoRequest::TooLong)?;
        let mut body = Vec::new();
        let announced = u64::try_from(length).unwrap_or(u64::MAX);
        stream.take(announced).read_to_end(&mut body).await.map_err(|_| NoRequest::Short)?;
        if body.len() == length { Ok(body) } else { Err(NoRequest::Short) }
    };
    timeout(limits.request_time(), whole).await.unwrap_or(Err(NoRequest::Late))
}

/// What comes of it, as long as the peer is there.
async fn unless_gone<T>(stream: &UnixStream, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = work => Some(value),
        () = gone(stream) => None,
    }
}

/// Ends when the peer has closed its end. One that only sends no more still waits for its reply: that is no POLLHUP
/// (`net/unix/af_unix.c`, `unix_poll`).
async fn gone(stream: &UnixStream) {
    loop {
        sleep(LOOK).await;
        let mut asked = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        let found = poll(&mut asked, PollTimeout::ZERO);
        let events = asked.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        if found.is_ok() && events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
    }
}

/// Takes what the peer still sends, for a moment: a close with bytes unread would reach it as a reset.
async fn drain(stream: &mut UnixStream) {
    let mut scrap = [0; 4096];
    let _ = timeout(DRAIN_TIME, async { while matches!(stream.read(&mut scrap).await, Ok(1..)) {} }).await;
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
