//! Peers that may connect to the socket and mean harm or know no better: malformed and oversized frames, slow writers, two
//! hundred idle connections. The agent answers with a clear error or closes, stays small, and goes on serving.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use sshfix_policy::request::wire::{REPLY_LIMIT, REQUEST_LIMIT};
use sshfix_tests::lab::{Release, Server, root_or_skip};

/// What the agent may grow by under any of this, in KiB.
const GROWTH: u64 = 32 * 1024;
/// What it may hold at all, in KiB.
const TOTAL: u64 = 96 * 1024;

/// What an honest request may take on a loaded machine: less than the ten seconds that a peer has to send one, so that whoever waits
/// for a peer takes longer.
const SOON: Duration = Duration::from_secs(8);

/// Connections of one user that are not closed for new ones of the same user, with room for the honest ones.
const SLOW: usize = 60;

struct Agent {
    server: Server,
    before: u64,
    files_before: usize,
}

impl Agent {
    fn start() -> Self {
        let server = Server::boot(Release::Trixie);
        server.install_sshfix();
        let mut agent = Agent { server, before: 0, files_before: 0 };
        // Warm: what the first request loads is not the peers' doing.
        agent.goes_on();
        (agent.before, agent.files_before) = (agent.resident(), agent.files());
        agent
    }

    fn pid(&self) -> String {
        self.server.run(&["systemctl", "show", "-P", "MainPID", "sshfix-agent"]).expect_ok()
    }

    /// `VmRSS` of `proc_pid_status(5)`, in KiB.
    fn resident(&self) -> u64 {
        let status = self.server.read(&format!("/proc/{}/status", self.pid()));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn files(&self) -> usize {
        self.server.sh(&format!("ls /proc/{}/fd | wc -l", self.pid())).expect_ok().parse().unwrap()
    }

    #[track_caller]
    fn stayed_small(&self) {
        let now = self.resident();
        assert!(now < TOTAL && now < self.before + GROWTH, "VmRSS went from {} to {now} KiB", self.before);
    }

    /// An honest request is answered, and not after the others.
    #[track_caller]
    fn goes_on(&self) {
        let status = self.server.ctl(&["status", "--json"]).expect_status(0);
        assert!(status.time < SOON, "an honest request waited {:?}", status.time);
    }

    /// Everything given back, and never restarted.
    #[track_caller]
    fn is_as_before(&self) {
        self.goes_on();
        self.stayed_small();
        self.server.wait_until("the agent's files are closed", Duration::from_mins(2), || self.files() <= self.files_before + 2);
        let restarts = self.server.run(&["systemctl", "show", "-P", "NRestarts", "sshfix-agent"]).expect_ok();
        assert_eq!(restarts, "0", "the agent was restarted");
    }

    fn socket(&self) -> PathBuf {
        self.server.path("/run/sshfix/agent.sock")
    }

    /// A connection that has read the hello.
    fn connect(&self) -> UnixStream {
        let mut stream = self.connect_only();
        let hello: Value = serde_json::from_slice(&read_frame(&mut stream).expect("the agent says hello")).unwrap();
        assert_eq!(hello["protocol"], 1, "{hello}");
        stream
    }

    fn connect_only(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("the socket takes connections");
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.set_write_timeout(Some(Duration::from_mins(1))).unwrap();
        stream
    }

    /// Sends these bytes and nothing more; the document of the error that comes back, or nothing where it just closed.
    #[track_caller]
    fn send(&self, bytes: &[u8]) -> Option<Value> {
        let mut stream = self.connect();
        // The agent may have closed already: that is its right.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let body = read_frame(&mut stream)?;
        let length = usize::try_from(u32::from_be_bytes(body[..4].try_into().unwrap())).unwrap();
        let reply: Value = serde_json::from_slice(&body[4..4 + length]).expect("a reply is JSON");
        Some(reply["body"].clone())
    }
}

fn read_frame(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).ok()?;
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap();
    assert!(length <= REPLY_LIMIT, "the agent announces {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// A whole frame of payload and signature.
fn frame(payload: &[u8], signature: &[u8]) -> Vec<u8> {
    with_length(&[with_length(payload), with_length(signature)].concat())
}

#[test]
fn malformed_frames_get_a_clear_error_or_a_close_and_the_agent_goes_on() {
    if !root_or_skip() {
        return;
    }
    let agent = Agent::start();
    let nested = "[".repeat(REQUEST_LIMIT - 100);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("one byte", vec![0]),
        ("half a prefix", vec![0, 0]),
        ("an empty body", with_length(b"")),
        ("less than announced", [&100_u32.to_be_bytes()[..], b"short"].concat()),
        ("lengths inside that do not add up", with_length(&[&50_u32.to_be_bytes()[..], b"short"].concat())),
        ("an inner length of 4 GiB", with_length(&[&u32::MAX.to_be_bytes()[..], b"short"].concat())),
        ("bytes after the signature", with_length(&[with_length(b"{}"), with_length(b"x"), b"more".to_vec()].concat())),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n".to_vec()),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec()),
        ("no JSON, no signature", frame(b"\xff\xfe\x00", b"")),
        ("no JSON, a signature that is none", frame(b"not json", b"SSHSIG\0\0\0\x01")),
        ("JSON nested as deep as fits", frame(nested.as_bytes(), b"SSHSIG")),
        ("a signature that announces 4 GiB", frame(b"{}", b"SSHSIG\0\0\0\x01\xff\xff\xff\xff")),
        ("a pickle", frame(b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.", b"\x80\x04.")),
        ("zeros", vec![0; 4096]),
    ];
    for (what, bytes) in cases {
        let started = Instant::now();
        let answer = agent.send(&bytes);
        assert!(started.elapsed() < SOON, "{what}: answered after {:?}", started.elapsed());
        if let Some(document) = answer {
            assert_eq!(document["schema"], "sshfix.error/1", "{what}: {document}");
            let code = document["code"].as_str().unwrap();
            assert!(["usage", "refused"].contains(&code), "{what}: {document}");
            assert!(!document["message"].as_str().unwrap().is_empty(), "{what}: {document}");
        }
        agent.goes_on();
    }
    agent.is_as_before();
}

#[test]
fn an_oversized_frame_is_refused_by_its_length_and_never_read() {
    if !root_or_skip() {
        return;
    }
    let agent = Agent::start();
    for length in [u32::try_from(REQUEST_LIMIT).unwrap() + 1, 1 << 24, u32::MAX] {
        let mut stream = agent.connect();
        stream.write_all(&length.to_be_bytes()).unwrap();
        // The write side stays open: the answer must not wait for the bytes.
        let body = read_frame(&mut stream).expect("an answer to the length alone");
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.contains("sshfix.error/1") && text.contains(&length.to_string()), "{text}");
    }
    // Peers that send on regardless, as fast as they can, are cut off soon, and nothing of it is kept.
    let streams: Vec<_> = (0..8).map(|_| agent.connect()).collect();
    std::thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || {
                let started = Instant::now();
                let block = vec![0xff; 1 << 20];
                while stream.write_all(&block).is_ok() {
                    assert!(started.elapsed() < Duration::from_mins(1), "the agent still reads after a length it refuses");
                }
            });
        }
        agent.goes_on();
        agent.stayed_small();
    });
    agent.is_as_before();
}

#[test]
fn slow_writers_are_cut_off_and_hold_nobody_up() {
    if !root_or_skip() {
        return;
    }
    let agent = Agent::start();
    // As many as one user may have. Each announces the most there may be, sends nearly all of it, then a byte now and then, for ever.
    let announced = u32::try_from(REQUEST_LIMIT).unwrap();
    let mut slow: Vec<_> = (0..SLOW).map(|_| agent.connect()).collect();
    for stream in &mut slow {
        stream.write_all(&announced.to_be_bytes()).unwrap();
        stream.write_all(&vec![0x7b; REQUEST_LIMIT - 1000]).unwrap();
    }
    let started = Instant::now();
    let mut cut_off = 0;
    while cut_off < SLOW {
        agent.goes_on();
        agent.stayed_small();
        assert!(started.elapsed() < Duration::from_mins(2), "{} slow writers are still connected", SLOW - cut_off);
        slow.retain_mut(|stream| {
            let open = stream.write_all(b"{").is_ok();
            cut_off += usize::from(!open);
            open
        });
        std::thread::sleep(Duration::from_millis(200));
    }
    agent.is_as_before();
}

#[test]
fn two_hundred_idle_connections_keep_nobody_out() {
    if !root_or_skip() {
        return;
    }
    let agent = Agent::start();
    let idle: Vec<_> = (0..200).map(|_| agent.connect()).collect();
    for _ in 0..5 {
        agent.goes_on();
        agent.stayed_small();
    }
    // Peers that do not even read the hello.
    let deaf: Vec<_> = (0..200).map(|_| agent.connect_only()).collect();
    agent.goes_on();
    agent.stayed_small();
    let diagnosis = agent.server.ctl(&["diagnose", "203.0.113.7", "--json"]).expect_status(0);
    assert!(diagnosis.time < SOON, "{:?}", diagnosis.time);
    drop((idle, deaf));
    agent.is_as_before();
}

#[test]
fn two_thousand_bad_requests_leave_nothing_behind() {
    if !root_or_skip() {
        return;
    }
    let agent = Agent::start();
    let state = || agent.server.sh("du -sk /var/lib/sshfix | cut -f 1").expect_ok().parse::<u64>().unwrap();
    let before = state();
    for number in 0..2000 {
        agent.send(&frame(format!("{{\"not\":\"a request {number}\"}}").as_bytes(), b"no signature"));
    }
    agent.is_as_before();
    let grown = state().saturating_sub(before);
    assert!(grown < 16 * 1024, "2,000 bad requests made the state grow by {grown} KiB");
}
