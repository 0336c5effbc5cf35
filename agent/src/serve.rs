//! Connections on the unix socket: hello, one request frame, one reply frame, close. Bounds how many, how long and how much;
//! nothing a peer sends is looked at here but the length. What a request means is the pipeline's business.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sshfix_policy::reply::{ErrorCode, ErrorDocument};
use sshfix_policy::wire::{self, PREFIX, REQUEST_LIMIT, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::Limits;
use crate::random::{self, NoRandomness};
use crate::sys::clock::Moment;

/// How long a stop waits for the requests that are being worked on. What is cut off then is recovered at the next start.
const STOP_TIME: Duration = Duration::from_mins(1);
/// How long what a peer still sends after its reply is thrown away, so that the reply reaches it before the close.
const DRAIN_TIME: Duration = Duration::from_secs(1);

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

/// What is behind the socket: the pipeline, or a test. Each function returns a whole frame; an empty one closes the connection.
pub trait Answer: Send + Sync + 'static {
    /// The hello that gives this challenge.
    fn hello(&self, challenge: &Challenge) -> Vec<u8>;

    /// The reply to the body of a request frame. May block, may panic; is called on a thread of its own.
    fn answer(&self, peer: &Peer, challenge: &Challenge, body: &[u8]) -> Vec<u8>;

    /// The reply to what never became a request.
    fn error(&self, challenge: &Challenge, error: ErrorDocument) -> Vec<u8>;
}

/// Serves until `stop` is ready, then lets the requests that are being worked on come to their end.
pub async fn serve(listener: UnixListener, service: Arc<impl Answer>, limits: Limits, stop: impl Future<Output = ()>) {
    let room = Arc::new(Room {
        idle: Idle::new(limits.connections),
        taken: Semaphore::new(limits.connections),
        working: Semaphore::new(limits.requests),
        limits,
    });
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&service), Arc::clone(&room)));
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
    room.working.close();
    room.idle.clear();
    let ended = timeout(STOP_TIME, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::error!(
            "a request was still being worked on after {STOP_TIME:?}; an unfinished change is recovered at the next start"
        );
    }
}

/// What all connections share.
struct Room {
    idle: Idle,
    /// Requests that came whole and wait, are worked on or are being answered.
    taken: Semaphore,
    /// Requests that are worked on.
    working: Semaphore,
    limits: Limits,
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

async fn connection(mut stream: UnixStream, service: Arc<impl Answer>, room: Arc<Room>) {
    let peer = match peer_of(&stream) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!("a peer without credentials was turned away: {error}"),
    };
    let (id, mut evicted) = room.idle.enter(peer.uid);
    let challenge = match Challenge::new() {
        Ok(challenge) => challenge,
        Err(error) => return tracing::error!("no challenge could be made, so a connection was closed: {error}"),
    };
    let came = tokio::select! {
        biased;
        _ = &mut evicted => {
            return tracing::debug!(uid = peer.uid, pid = peer.pid, "an idle connection made room for a new one");
        }
        came = greet_and_read(&mut stream, &*service, &challenge, &room.limits) => came,
    };
    room.idle.leave(id);

    let reply = match came {
        Ok(body) => worked_on(body, peer, challenge, service, &room).await,
        Err(NoRequest::Silent) => Vec::new(),
        Err(why) => {
            let (message, advice) = match why {
                NoRequest::Silent | NoRequest::Late => {
                    ("the request did not come whole in time".to_owned(), "connect again and send it at once")
                }
                NoRequest::Short => ("the request ended before its announced length".to_owned(), "send the whole frame"),
                NoRequest::TooLong(error) => (format!("this is not a request of sshfix: {error}"), "use `sshfix ctl`"),
            };
            tracing::debug!(uid = peer.uid, pid = peer.pid, "no request: {message}");
            let message = format!("{message}; nothing was changed");
            service.error(&challenge, ErrorDocument::new(ErrorCode::Usage, message, advice))
        }
    };
    if reply.is_empty() {
        return;
    }
    let written = timeout(room.limits.reply_time(), async {
        stream.write_all(&reply).await?;
        stream.shutdown().await
    });
    match written.await {
        Ok(Ok(())) => drain(&mut stream).await,
        Ok(Err(error)) => tracing::debug!(uid = peer.uid, pid = peer.pid, "the peer left before its reply: {error}"),
        Err(_) => tracing::warn!(uid = peer.uid, pid = peer.pid, "the peer did not take its reply in time; it was cut off"),
    }
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

/// Hands a whole request to the service on a thread of its own. A panic there ends this request only.
async fn worked_on(body: Vec<u8>, peer: Peer, challenge: Challenge, service: Arc<impl Answer>, room: &Room) -> Vec<u8> {
    let Ok(_place) = room.taken.try_acquire() else {
        let error = ErrorDocument::new(
            ErrorCode::Busy,
            "the agent has more requests waiting than it takes; nothing was changed",
            "try again in a moment",
        );
        return service.error(&challenge, error);
    };
    // Closed means that the agent stops: what was not begun is not begun any more.
    let Ok(_turn) = room.working.acquire().await else { return Vec::new() };
    let working = Arc::clone(&service);
    match tokio::task::spawn_blocking(move || working.answer(&peer, &challenge, &body)).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::error!(uid = peer.uid, pid = peer.pid, "a request failed inside the agent: {error}");
            let error = ErrorDocument::new(
                ErrorCode::Failed,
                "the request failed inside the agent; a change that it had begun is rolled back before the next one",
                "this is a bug in sshfix: the agent's log says where; `sshfix ctl status` shows the host as it is",
            );
            service.error(&challenge, error)
        }
    }
}

/// Takes what the peer still sends, for a moment: a close with bytes unread would reach it as a reset.
async fn drain(stream: &mut UnixStream) {
    let mut scrap = [0; 4096];
    let _ = timeout(DRAIN_TIME, async { while matches!(stream.read(&mut scrap).await, Ok(1..)) {} }).await;
}

/// Connections that have not sent a request yet. Over the limit, the user with the most of them loses the oldest: many idle
/// connections never keep a new one out, and never push out another user's.
struct Idle {
    limit: usize,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    /// By age. Dropping the sender is the word to close.
    waiting: BTreeMap<u64, (u32, oneshot::Sender<()>)>,
}

impl Idle {
    fn new(limit: usize) -> Self {
        Self { limit, connections: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection of this user. The receiver ends when it must close.
    fn enter(&self, uid: u32) -> (u64, oneshot::Receiver<()>) {
        let mut connections = self.lock();
        while connections.waiting.len() >= self.limit {
            let mut held: BTreeMap<u32, usize> = BTreeMap::from([(uid, 1)]);
            for (owner, _) in connections.waiting.values() {
                *held.entry(*owner).or_default() += 1;
            }
            let most = held.values().copied().max();
            let oldest = connections.waiting.iter().find(|(_, (owner, _))| held.get(owner).copied() == most);
            // The new one's user may hold the most with only this one (a limit of 1): then the oldest of all goes.
            let Some(id) = oldest.or_else(|| connections.waiting.iter().next()).map(|(id, _)| *id) else { break };
            connections.waiting.remove(&id);
        }
        let (sender, receiver) = oneshot::channel();
        let id = connections.next;
        connections.next += 1;
        connections.waiting.insert(id, (uid, sender));
        (id, receiver)
    }

    /// Its request came, or it is gone.
    fn leave(&self, id: u64) {
        self.lock().waiting.remove(&id);
    }

    fn clear(&self) {
        self.lock().waiting.clear();
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
