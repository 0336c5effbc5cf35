//! Peers that misbehave, against the real socket and a service that needs no host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use super::*;
use sshfix_policy::ssh::blob::put_string;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::oneshot;

use crate::turns::Width;

/// Longer than a loaded machine takes for anything here, shorter than what must not be waited for.
const LONG: Duration = Duration::from_mins(1);

/// Replies with the body backwards; `panic` panics, `slow` takes until it is let go or nobody waits for it.
struct Mirror {
    admissions: Arc<Line>,
    line: Arc<Line>,
    let_go: AtomicBool,
    answered: AtomicUsize,
    given_up: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_string(&mut frame, body);
    frame
}

impl Answer for Mirror {
    type Request = Vec<u8>;

    fn admissions(&self) -> &Arc<Line> {
        &self.admissions
    }

    fn hello(&self, challenge: &Challenge) -> Vec<u8> {
        framed(challenge.text().as_bytes())
    }

    /// Who asks is the first byte.
    fn admit(&self, peer: &Peer, challenge: &Challenge, body: &[u8]) -> Admission<Vec<u8>> {
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert!(challenge.given >= peer.connected_at);
        if body == b"refuse" {
            return Admission::Reply(framed(b"refused"));
        }
        let asker = Asker::Principal(String::from_utf8_lossy(&body[..1]).into_owned());
        let place = Place {
            line: Arc::clone(&self.line),
            claim: Claim { asker, precedence: Precedence::Others },
            without_turn_after: (body == b"at once").then_some(Duration::from_millis(50)),
            time: LONG,
        };
        Admission::Admitted(body.to_vec(), place)
    }

    fn work(&self, body: Vec<u8>, turn: Option<Turn>, patience: &Patience) -> Vec<u8> {
        assert_eq!(turn.is_none(), body == b"at once");
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let begun = Instant::now();
        while body.ends_with(b"slow") && !patience.is_gone() && !self.let_go.load(Ordering::SeqCst) && begun.elapsed() < LONG {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        self.given_up.fetch_add(usize::from(patience.is_gone()), Ordering::SeqCst);
        assert_ne!(body, b"panic", "as asked");
        self.answered.fetch_add(1, Ordering::SeqCst);
        if body == b"big" {
            return framed(&vec![b'x'; 8 * 1024 * 1024]);
        }
        framed(&body.iter().rev().copied().collect::<Vec<_>>())
    }

    fn error(&self, _challenge: &Challenge, error: ErrorDocument) -> Vec<u8> {
        framed(format!("{:?}: {}", error.code, error.message.as_str()).as_bytes())
    }
}

struct Server {
    path: PathBuf,
    service: Arc<Mirror>,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// Few at once, and times that nobody waits for; who wants to makes them short.
fn limits() -> Limits {
    Limits {
        connections: 16,
        connections_per_user: 16,
        idle_seconds: 600,
        request_seconds: 600,
        reply_seconds: 600,
        ..Limits::default()
    }
}

fn start(limits: Limits) -> Server {
    start_with(limits, Width { at_once: 4, of_one: 4, waiting: 100 })
}

fn start_with(limits: Limits, width: Width) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let service = Arc::new(Mirror {
        admissions: Line::new(Width { at_once: 4, of_one: 2, waiting: usize::MAX }),
        line: Line::new(width),
        let_go: AtomicBool::default(),
        answered: AtomicUsize::default(),
        given_up: AtomicUsize::default(),
        at_once: AtomicUsize::default(),
        most_at_once: AtomicUsize::default(),
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Arc::clone(&service), limits, async {
        let _ = stopped.await;
    }));
    Server { path, service, stop: Some(stop), serving, _dir: dir }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

impl Server {
    /// Connects and takes the hello.
    async fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        assert_eq!(read_frame(&mut stream).await.unwrap().len(), 44, "32 bytes in base64");
        stream
    }

    async fn send(&self, body: &[u8]) -> UnixStream {
        let mut stream = self.connect().await;
        stream.write_all(&framed(body)).await.unwrap();
        stream
    }

    async fn ask(&self, body: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        stream.write_all(&framed(body)).await.unwrap();
        read_frame(&mut stream).await.unwrap()
    }

    /// An honest request is answered, and soon.
    async fn goes_on(&self) {
        let reply = timeout(LONG, self.ask(b"abc")).await.expect("the agent goes on serving");
        assert_eq!(reply, b"cba");
    }
}

async fn read_frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut body = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Until the agent closes; whatever it still sends is given back.
async fn until_closed(mut stream: UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("it is closed in the end");
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_one_reply_then_the_connection_ends() {
    let server = start(limits());
    let mut stream = server.connect().await;
    stream.write_all(&framed(b"hello")).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.unwrap(), b"olleh");
    assert!(until_closed(stream).await.is_empty());
    assert_eq!(server.service.answered.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_has_its_own_challenge() {
    let server = start(limits());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let mut stream = UnixStream::connect(&server.path).await.unwrap();
        assert!(seen.insert(read_frame(&mut stream).await.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_idle_connections_do_not_keep_a_new_one_out() {
    let server = start(limits());
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(server.connect().await);
    }
    server.goes_on().await;
    // The oldest made room; the newest are still there.
    let newest = idle.pop().unwrap();
    assert!(until_closed(idle.remove(0)).await.is_empty());
    let mut newest = newest;
    newest.write_all(&framed(b"still here")).await.unwrap();
    assert_eq!(read_frame(&mut newest).await.unwrap(), b"ereh llits");
    let open = server.service.answered.load(Ordering::SeqCst);
    assert_eq!(open, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_closed_when_its_time_is_over() {
    let server = start(Limits { idle_seconds: 2, ..limits() });
    let since = Instant::now();
    let stream = server.connect().await;
    assert!(until_closed(stream).await.is_empty());
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(server.service.answered.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_writer_is_cut_off_however_busy_it_looks() {
    let server = start(Limits { request_seconds: 1, ..limits() });
    let stream = server.connect().await;
    let (mut reader, mut writer) = stream.into_split();
    // All of it takes twenty seconds, and more on a slow machine.
    let writing = tokio::spawn(async move {
        let frame = framed(&[b'a'; 1000]);
        for byte in frame {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut reply = Vec::new();
    let _ = reader.read_to_end(&mut reply).await;
    assert!(String::from_utf8_lossy(&reply).contains("did not arrive complete in time"), "{}", String::from_utf8_lossy(&reply));
    writing.abort();
    assert_eq!(server.service.answered.load(Ordering::SeqCst), 0);
    server.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_is_refused_by_its_length_alone() {
    let server = start(limits());
    for length in [u32::try_from(REQUEST_LIMIT).unwrap() + 1, u32::MAX] {
        let mut stream = server.connect().await;
        stream.write_all(&length.to_be_bytes()).await.unwrap();
        let reply = read_frame(&mut stream).await.unwrap();
        assert!(String::from_utf8_lossy(&reply).contains("over the limit"), "{}", String::from_utf8_lossy(&reply));
    }
    assert_eq!(server.service.answered.load(Ordering::SeqCst), 0);
    // Also to a peer that sends all of it before it reads.
    let mut stream = server.connect().await;
    stream.write_all(&framed(&vec![b'a'; 1024 * 1024])).await.unwrap();
    let reply = read_frame(&mut stream).await.unwrap();
    assert!(reply.starts_with(b"Usage"));
    server.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_request_is_taken() {
    let server = start(limits());
    let body = vec![b'a'; REQUEST_LIMIT];
    assert_eq!(server.ask(&body).await, body);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_with_a_clear_error() {
    let server = start(limits());
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n", &[0xff; 64]] {
        let mut stream = server.connect().await;
        stream.write_all(garbage).await.unwrap();
        let reply = read_frame(&mut stream).await.unwrap();
        assert!(String::from_utf8_lossy(&reply).contains("not a request of sshfix"));
    }
    server.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_is_answered_with_a_clear_error() {
    let server = start(limits());
    let frame = framed(b"a request that is cut");
    for cut in [1, 3, 4, 10, frame.len() - 1] {
        let mut stream = server.connect().await;
        stream.write_all(&frame[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        let reply = read_frame(&mut stream).await.unwrap();
        assert!(String::from_utf8_lossy(&reply).contains("ended before its announced length"), "{cut}");
    }
    // Gone without a word.
    let mut stream = server.connect().await;
    stream.write_all(&frame[..10]).await.unwrap();
    drop(stream);
    assert_eq!(server.service.answered.load(Ordering::SeqCst), 0);
    server.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_its_own_request_only() {
    let server = start(limits());
    for _ in 0..20 {
        let reply = server.ask(b"panic").await;
        assert!(String::from_utf8_lossy(&reply).contains("failed inside the agent"));
    }
    server.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_take_its_reply_is_cut_off() {
    let server = start(Limits { reply_seconds: 1, ..limits() });
    let mut lazy = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect().await;
        stream.write_all(&framed(b"big")).await.unwrap();
        lazy.push(stream);
    }
    server.goes_on().await;
    while server.service.answered.load(Ordering::SeqCst) < 9 {
        sleep(Duration::from_millis(20)).await;
    }
    for stream in lazy {
        // EPIPE once the other end is closed (unix(7)).
        let closed = async {
            while !matches!(stream.try_write(b"x"), Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, closed).await.expect("it is cut off");
        let rest = until_closed(stream).await;
        assert!(rest.len() < 8 * 1024 * 1024, "the reply was not buffered whole for it: {}", rest.len());
    }
    server.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_requests_are_worked_on_at_once_and_the_rest_wait_or_are_told() {
    let server = start_with(limits(), Width { at_once: 4, of_one: 4, waiting: 3 });
    let mut asking = JoinSet::new();
    for _ in 0..12 {
        let mut stream = server.connect().await;
        stream.write_all(&framed(b"slow")).await.unwrap();
        asking.spawn(async move { read_frame(&mut stream).await.unwrap() });
    }
    let (mut done, mut busy) = (0, 0);
    while let Some(reply) = timeout(LONG, asking.join_next()).await.expect("each is answered") {
        let reply = reply.unwrap();
        if reply == b"wols" {
            done += 1;
        } else {
            assert!(reply.starts_with(b"Busy"), "{}", String::from_utf8_lossy(&reply));
            busy += 1;
        }
        // The others are told so while the first ones are worked on.
        server.service.let_go.store(busy == 5, Ordering::SeqCst);
    }
    assert_eq!((done, busy), (7, 5));
    assert_eq!(server.service.most_at_once.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_behind_a_greedy_principal_is_next_and_who_needs_no_turn_does_not_wait() {
    let server = start_with(limits(), Width { at_once: 1, of_one: 1, waiting: 100 });
    let mut greedy = vec![server.send(b"slow").await];
    until("the first one is worked on", || server.service.at_once.load(Ordering::SeqCst) == 1).await;
    for _ in 0..5 {
        greedy.push(server.send(b"slow").await);
    }
    until("the others wait", || server.service.line.waiting() == 5).await;
    assert_eq!(timeout(LONG, server.ask(b"at once")).await.unwrap(), b"ecno ta");
    let mut honest = server.send(b"honest").await;
    until("the honest one waits", || server.service.line.waiting() == 6).await;
    // One of the greedy ones leaves while it is worked on, which ends it; then it is the honest one's turn, and the others wait.
    drop(greedy.remove(0));
    assert_eq!(timeout(LONG, read_frame(&mut honest)).await.unwrap().unwrap(), b"tsenoh");
    assert_eq!(server.service.given_up.load(Ordering::SeqCst), 1);
    // Those that leave while they wait are never begun.
    let begun = server.service.answered.load(Ordering::SeqCst);
    let mut last = greedy.remove(0);
    drop(greedy);
    until("the others have left", || server.service.line.waiting() <= 1).await;
    server.service.let_go.store(true, Ordering::SeqCst);
    assert_eq!(timeout(LONG, read_frame(&mut last)).await.unwrap().unwrap(), b"wols");
    // The one that was worked on may have been one of those.
    let more = server.service.answered.load(Ordering::SeqCst) - begun;
    assert!((1..=2).contains(&more), "{more}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_counts_until_it_is_closed_also_one_that_has_its_reply() {
    let server = start(Limits { connections: 8, connections_per_user: 4, ..limits() });
    // They have their replies and do not close.
    let mut answered = Vec::new();
    for _ in 0..30 {
        let mut stream = server.connect().await;
        stream.write_all(&framed(b"refuse")).await.unwrap();
        assert_eq!(read_frame(&mut stream).await.unwrap(), b"refused");
        answered.push(stream);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 500, "{open}");
    }
    server.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_was_begun_and_nothing_else() {
    let mut server = start_with(limits(), Width { at_once: 1, of_one: 1, waiting: 100 });
    let idle = server.connect().await;
    let mut working = server.connect().await;
    working.write_all(&framed(b"slow")).await.unwrap();
    while server.service.at_once.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let mut waiting = server.connect().await;
    waiting.write_all(&framed(b"never begun")).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    server.stop.take().unwrap().send(()).unwrap();
    assert!(until_closed(idle).await.is_empty());
    server.service.let_go.store(true, Ordering::SeqCst);
    assert_eq!(read_frame(&mut working).await.unwrap(), b"wols");
    assert!(read_frame(&mut waiting).await.is_err());
    drop(working);
    timeout(LONG, server.serving).await.unwrap().unwrap();
    assert_eq!(server.service.answered.load(Ordering::SeqCst), 1);
    assert!(UnixStream::connect(&server.path).await.is_err(), "nobody listens any more");
}
