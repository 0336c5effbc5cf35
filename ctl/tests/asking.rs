//! The `sshfix` binary against a small agent on a unix socket: exit statuses, JSON, identities, and agents that lie or hang.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use ssh_key::PrivateKey;
use sshfix_policy::request::allowed_signers::AllowedSigners;
use sshfix_policy::request::authenticate::{Context, authenticate};
use sshfix_policy::request::wire::{Challenge, Hello, PREFIX, REQUEST_LIMIT, SignedReply, SignedRequest, body_length};
use sshfix_policy::request::{Intent, Mode, Operation, PROTOCOL, REPLY_NAMESPACE, Request};
use sshfix_policy::ssh::public_key::PublicKey;
use sshfix_policy::ssh::sshsig;
use tempfile::TempDir;

/// How the agent of a test behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Honest,
    /// Shows another key in its hello.
    OtherKey,
    /// Shows the right key and signs with another.
    ForgedReply,
    /// Signs, then changes a byte of the payload.
    AlteredReply,
    /// Answers with the challenge of another connection.
    OldChallenge,
    /// Answers another request.
    OtherRequest,
    /// Signs a reply in the namespace of requests.
    OtherNamespace,
    /// Answers with something that is no frame.
    GarbageReply,
    /// Answers with a document of a later version.
    Newer,
    Garbage,
    HugeFrame,
    ClosesAtOnce,
    ClosesAfterRequest,
    HangsBeforeHello,
    HangsAfterRequest,
    /// One byte a time, for ever.
    Drips,
}

struct Agent {
    dir: TempDir,
    asked: Arc<Mutex<Vec<(String, Request)>>>,
}

impl Agent {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self, name: &str) -> PrivateKey {
        make_key(&self.dir, name, &[]);
        PrivateKey::read_openssh_file(&self.path(name)).unwrap()
    }

    fn start(mood: Mood, body: Value) -> Self {
        Self::start_in_turn(mood, vec![body])
    }

    /// Listens for as long as the test runs; the thread ends with the process. Each request has the next body, the last one stays.
    fn start_in_turn(mood: Mood, bodies: Vec<Value>) -> Self {
        let agent = Self { dir: tempfile::tempdir().unwrap(), asked: Arc::default() };
        let (own, other) = (agent.key("agent"), agent.key("other"));
        std::fs::create_dir(agent.path("home")).unwrap();
        std::fs::create_dir(agent.path("home/.ssh")).unwrap();
        make_key(&agent.dir, "home/.ssh/id_ed25519", &[]);
        agent.allow("alice", "home/.ssh/id_ed25519");
        let listener = UnixListener::bind(agent.path("agent.sock")).unwrap();
        let (allowed, asked) = (agent.path("allowed"), Arc::clone(&agent.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let keys = (&own, &other);
                // A client that hangs up is the client's business.
                let turn = asked.lock().unwrap().len().min(bodies.len() - 1);
                let _ = serve(stream.unwrap(), mood, keys, &allowed, &bodies[turn], &asked);
            }
        });
        agent
    }

    fn allow(&self, principal: &str, key: &str) {
        let public = std::fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.path("allowed")).unwrap();
        write!(file, "{principal} {public}").unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        // Its own session, so that there is no terminal to ask on.
        let mut command = Command::new("setsid");
        command.arg("-w").arg(env!("CARGO_BIN_EXE_sshfix")).arg("ctl").args(args);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.path("home"))
            .env("SSHFIX_SOCKET", self.path("agent.sock"))
            .env("SSHFIX_AGENT_KEY", self.path("agent.pub"))
            .env("SSH_CONNECTION", "198.51.100.9 5000 192.0.2.1 22")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// `script` gives the client a terminal of its own.
    fn on_a_terminal(&self, args: &str) -> std::process::Child {
        Command::new("script")
            .args(["-qec", &format!("{} ctl {args}", env!("CARGO_BIN_EXE_sshfix")), "/dev/null"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm")
            .env("HOME", self.path("home"))
            .env("SSHFIX_SOCKET", self.path("agent.sock"))
            .env("SSHFIX_AGENT_KEY", self.path("agent.pub"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn asked(&self) -> Vec<(String, Request)> {
        self.asked.lock().unwrap().clone()
    }
}

fn make_key(dir: &TempDir, name: &str, more: &[&str]) {
    let passphrase = if more.is_empty() { "" } else { "open sesame" };
    let args = ["-q", "-t", "ed25519", "-C", "test", "-N", passphrase, "-f", name];
    let output = Command::new("ssh-keygen").args(args).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn serve(
    mut stream: UnixStream,
    mood: Mood,
    (own, other): (&PrivateKey, &PrivateKey),
    allowed: &std::path::Path,
    body: &Value,
    asked: &Mutex<Vec<(String, Request)>>,
) -> std::io::Result<()> {
    let wait_for_ever = || std::thread::sleep(Duration::from_mins(10));
    match mood {
        Mood::ClosesAtOnce => return Ok(()),
        Mood::HangsBeforeHello => wait_for_ever(),
        Mood::Garbage => return stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
        Mood::HugeFrame => return stream.write_all(&[0xff; 64]),
        _ => {}
    }
    let shown = if mood == Mood::OtherKey { other } else { own };
    let line = shown.public_key().to_openssh().unwrap();
    let host = PublicKey::from_line(&line).unwrap().fingerprint();
    let challenge = Challenge::new([5; 32]);
    stream.write_all(&Hello { protocol: PROTOCOL, host: host.clone(), key: line, challenge, ssh_port: 22 }.encode().unwrap())?;

    let mut prefix = [0; PREFIX];
    stream.read_exact(&mut prefix)?;
    let mut request = vec![0; body_length(prefix, REQUEST_LIMIT).unwrap()];
    stream.read_exact(&mut request)?;
    if mood == Mood::ClosesAfterRequest {
        return Ok(());
    }
    if mood == Mood::GarbageReply {
        return stream.write_all(&[0xff; 64]);
    }
    if mood == Mood::HangsAfterRequest {
        wait_for_ever();
    }
    let signed = SignedRequest::decode(&request).unwrap();
    let signers = AllowedSigners::parse(&std::fs::read_to_string(allowed).unwrap(), &TimeZone::UTC);
    let context = Context { host: &host, challenge: &challenge, age: Duration::ZERO, now: Timestamp::now() };
    let (id, body) = if let Ok(good) = authenticate(&signed, &signers, &context) {
        asked.lock().unwrap().push((good.principal().to_owned(), good.request().clone()));
        (good.request().id.clone(), body.clone())
    } else {
        let refused = json!({"schema": "sshfix.error/1", "code": "refused",
            "message": "The request was refused. Nothing was changed.", "advice": "Ask the admin of this host."});
        (String::new(), refused)
    };
    let challenge = if mood == Mood::OldChallenge { Challenge::new([6; 32]) } else { challenge };
    let id = if mood == Mood::OtherRequest { "f".repeat(32) } else { id };
    let mut body = body;
    if mood == Mood::Newer {
        body["schema"] = json!("sshfix.diagnosis/2");
    }
    let reply = json!({"request": id, "challenge": challenge.to_string(), "host": host, "body": "BODY"});
    let mut payload = reply.to_string().replace("\"BODY\"", &schema_first(&body)).into_bytes();
    let key = if mood == Mood::ForgedReply { other } else { own };
    let namespace = if mood == Mood::OtherNamespace { "sshfix-request@v1" } else { REPLY_NAMESPACE };
    let signature = sshsig::sign(key, namespace, &payload).unwrap();
    if mood == Mood::AlteredReply {
        let at = payload.windows(6).position(|bytes| bytes == b"accept").unwrap();
        payload[at..at + 6].copy_from_slice(b"refuse");
    }
    let frame = SignedReply::new(payload, signature).encode().unwrap();
    if mood == Mood::Drips {
        for byte in frame {
            stream.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(300));
        }
        return Ok(());
    }
    stream.write_all(&frame)
}

/// As the real agent writes it; the maps of `serde_json` sort their keys.
fn schema_first(body: &Value) -> String {
    let mut rest = body.as_object().unwrap().clone();
    let schema = rest.remove("schema").unwrap();
    format!("{{\"schema\":{schema},{}", &serde_json::to_string(&rest).unwrap()[1..])
}

fn diagnosis(verdict: &str) -> Value {
    json!({"schema": "sshfix.diagnosis/1", "subject": {"address": "203.0.113.7", "user": null, "port": 22}, "verdict": verdict,
        "stages": [], "findings": [], "notes": [], "of_a_later_version": {"kept": true}})
}

fn change(state: &str) -> Value {
    json!({"schema": "sshfix.change/1", "id": "c1", "state": state, "changed": true, "deadline": null, "notes": [], "plan": {
        "schema": "sshfix.plan/1", "digest": "sha256:00", "operation": {"unban": {"source": "203.0.113.7/32"}}, "steps": [],
        "opens": [], "closes": [], "paths": [], "confirm": "not-needed", "notes": []}})
}

fn failed(state: &str) -> Value {
    let mut change = change(state);
    change["failure"] = json!({"step": 1, "summary": "S", "message": "M", "rolled_back": [], "stuck": []});
    change
}

fn error(code: &str) -> Value {
    json!({"schema": "sshfix.error/1", "code": code, "message": "M", "advice": "A"})
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Exactly one document, `schema` first.
fn document(output: &Output) -> Value {
    let text = stdout(output);
    assert!(text.starts_with("{\"schema\":\"sshfix."), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn exit_statuses_are_those_of_the_interface() {
    for (body, want) in [
        (diagnosis("accept"), 0),
        (diagnosis("refuse"), 8),
        (diagnosis("unknown"), 9),
        (change("confirmed"), 0),
        (change("unchanged"), 0),
        (change("pending"), 5),
        // Asked for, not fallen back to.
        (change("rolled-back"), 0),
        (failed("rolled-back"), 6),
        (change("stuck"), 7),
        (error("failed"), 1),
        (error("busy"), 1),
        (error("plan-changed"), 1),
        (error("usage"), 2),
        (error("refused"), 3),
        (error("lockout"), 4),
        (error("stuck"), 7),
    ] {
        let agent = Agent::start(Mood::Honest, body.clone());
        let output = agent.run(&["unban", "203.0.113.7"]);
        assert_eq!(output.status.code(), Some(want), "{body}: {}", stderr(&output));
        let output = agent.run(&["--json", "unban", "203.0.113.7"]);
        assert_eq!(output.status.code(), Some(want), "{body}");
        assert_eq!(document(&output)["schema"], body["schema"]);
    }
}

#[test]
fn json_is_what_the_agent_signed_even_fields_of_a_later_version() {
    let agent = Agent::start(Mood::Honest, diagnosis("refuse"));
    let output = agent.run(&["diagnose", "203.0.113.7", "--json"]);
    assert_eq!(stdout(&output), format!("{}\n", schema_first(&diagnosis("refuse"))));
    assert_eq!(stderr(&output), "");
}

#[test]
fn the_request_says_what_was_typed_who_asks_and_from_where() {
    let agent = Agent::start(Mood::Honest, change("confirmed"));
    let digest = format!("sha256:{}", "a".repeat(64));
    for args in [
        &["unban", "203.0.113.7", "--jail", "sshd", "--ignore-for", "1h", "--reason", "because"][..],
        &["unban", "203.0.113.7", "--dry-run"],
        &["unban", "::ffff:203.0.113.7", "--plan", &digest],
    ] {
        assert_eq!(agent.run(args).status.code(), Some(0), "{args:?}");
    }
    let asked = agent.asked();
    let source = "203.0.113.7".parse().unwrap();
    assert!(asked.iter().all(|(principal, _)| principal == "alice"));
    let requests: Vec<&Request> = asked.iter().map(|(_, request)| request).collect();
    let jail = Some("sshd".to_owned());
    assert_eq!(requests[0].operation, Operation::Intent(Intent::Unban { source, jail, ignore_for: Some(3600), range: false }));
    assert_eq!(
        (requests[0].mode.clone(), requests[0].reason.as_deref()),
        (Mode::Apply { plan: None, confirm_within: None }, Some("because"))
    );
    assert_eq!(requests[0].from.map(|address| address.to_string()).as_deref(), Some("198.51.100.9"));
    assert!(requests[0].from_user.is_some());
    assert_eq!(requests[1].mode, Mode::DryRun);
    assert_eq!(requests[2].operation, Operation::Intent(Intent::Unban { source, jail: None, ignore_for: None, range: false }));
    assert_eq!(requests[2].mode, Mode::Apply { plan: Some(digest), confirm_within: None });
    assert!(requests[0].id != requests[1].id && requests[1].id != requests[2].id);
}

#[test]
fn a_lying_agent_is_refused_with_status_3_and_nothing_of_it_is_shown() {
    for (mood, want) in [
        (Mood::OtherKey, "has another key"),
        (Mood::ForgedReply, "not from the agent"),
        (Mood::AlteredReply, "not from the agent"),
        (Mood::OldChallenge, "not from the agent, or not to this request"),
        (Mood::OtherRequest, "not from the agent, or not to this request"),
        (Mood::OtherNamespace, "not from the agent"),
        (Mood::GarbageReply, "It is unknown whether the request was carried out"),
    ] {
        let agent = Agent::start(mood, diagnosis("accept"));
        let output = agent.run(&["diagnose", "203.0.113.7"]);
        assert_eq!(output.status.code(), Some(3), "{mood:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(want), "{mood:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{mood:?}");
        let output = agent.run(&["diagnose", "203.0.113.7", "--json"]);
        assert_eq!(document(&output)["code"], "refused", "{mood:?}");
    }
    let agent = Agent::start(Mood::OtherKey, diagnosis("accept"));
    agent.run(&["status"]);
    assert_eq!(agent.asked(), [], "nothing is sent to an agent with another key");
}

#[test]
fn an_agent_that_is_not_there_or_does_not_answer_is_status_10_in_time() {
    for mood in [
        Mood::Garbage,
        Mood::HugeFrame,
        Mood::ClosesAtOnce,
        Mood::ClosesAfterRequest,
        Mood::HangsBeforeHello,
        Mood::HangsAfterRequest,
        Mood::Drips,
    ] {
        let agent = Agent::start(mood, diagnosis("accept"));
        let start = Instant::now();
        let output = agent.run(&["unban", "203.0.113.7", "--timeout", "4s"]);
        assert_eq!(output.status.code(), Some(10), "{mood:?}: {}", stderr(&output));
        // The drips alone take longer.
        assert!(start.elapsed() < Duration::from_mins(1), "{mood:?}: {:?}", start.elapsed());
        let sent = matches!(mood, Mood::ClosesAfterRequest | Mood::HangsAfterRequest | Mood::Drips);
        let words = if sent { "may have been made" } else { "Nothing was changed" };
        assert!(stderr(&output).contains(words), "{mood:?}: {}", stderr(&output));
    }
    let agent = Agent::start(Mood::Honest, diagnosis("accept"));
    for (name, value) in [("SSHFIX_SOCKET", "/nonexistent/agent.sock"), ("SSHFIX_AGENT_KEY", "/nonexistent/key.pub")] {
        let output = agent.command(&["--json", "status"]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(10), "{name}");
        let document = document(&output);
        assert_eq!(document["code"], "unreachable");
        assert!(document["message"].as_str().unwrap().contains(value), "{document}");
    }
}

#[test]
fn a_document_of_a_later_version_is_named_not_guessed() {
    let agent = Agent::start(Mood::Newer, diagnosis("accept"));
    let output = agent.run(&["diagnose", "203.0.113.7"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("sshfix.diagnosis/2"), "{}", stderr(&output));
}

#[test]
fn usage_errors_are_status_2_and_a_document_where_json_is_asked_for() {
    let agent = Agent::start(Mood::Honest, diagnosis("accept"));
    for args in [&["unban"][..], &["unban", "203.0.113.7/24"], &["frobnicate"], &["status", "--color", "pink"]] {
        let output = agent.run(args);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{args:?}");
        let output = agent.run(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(document(&output)["code"], "usage", "{args:?}");
    }
    let output = agent.run(&["--identity", "/nonexistent", "status", "--json"]);
    assert_eq!((output.status.code(), document(&output)["code"].clone()), (Some(2), json!("usage")));
    assert_eq!(agent.run(&["--help"]).status.code(), Some(0));
    assert_eq!(agent.asked(), []);
}

#[test]
fn refused_identities_are_followed_by_the_next_and_all_are_named_in_the_end() {
    let agent = Agent::start(Mood::Honest, diagnosis("accept"));
    // id_ed25519 is tried before id_ecdsa; only the second is allowed.
    std::fs::remove_file(agent.path("allowed")).unwrap();
    make_key(&agent.dir, "home/.ssh/id_ecdsa", &[]);
    agent.allow("bob", "home/.ssh/id_ecdsa");
    let output = agent.run(&["status", "-v"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("/.ssh/id_ecdsa (SHA256:"), "{}", stderr(&output));
    assert_eq!(agent.asked()[0].0, "bob");

    let output = agent.run(&["status", "--identity", agent.path("home/.ssh/id_ed25519").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(!stderr(&output).contains("id_ecdsa"), "only the one that was named is tried: {}", stderr(&output));

    std::fs::write(agent.path("allowed"), "").unwrap();
    let output = agent.run(&["status"]);
    assert_eq!(output.status.code(), Some(3));
    for key in ["id_ed25519", "id_ecdsa"] {
        assert!(stderr(&output).contains(&format!("/.ssh/{key} (SHA256:")), "{}", stderr(&output));
    }
}

#[test]
fn without_any_key_nothing_is_asked_and_the_message_says_how_to_get_one() {
    let agent = Agent::start(Mood::Honest, diagnosis("accept"));
    let output = agent.command(&["status"]).env("HOME", "/nonexistent").output().unwrap();
    // On a machine with sshfix installed root has a key of its own, which this agent refuses.
    if !std::path::Path::new("/etc/sshfix/ctl_ed25519").exists() {
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("--identity"), "{}", stderr(&output));
    }
    assert_eq!(agent.asked(), []);
}

#[test]
fn an_encrypted_key_without_a_terminal_is_a_clear_error() {
    let agent = Agent::start(Mood::Honest, diagnosis("accept"));
    make_key(&agent.dir, "locked", &["encrypted"]);
    agent.allow("bob", "locked");
    let output = agent.run(&["status", "--identity", agent.path("locked").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is encrypted and there is no terminal"), "{}", stderr(&output));
    assert_eq!(agent.asked(), []);
}

#[test]
fn an_encrypted_key_is_opened_by_the_passphrase_typed_on_the_terminal() {
    let agent = Agent::start(Mood::Honest, diagnosis("accept"));
    make_key(&agent.dir, "locked", &["encrypted"]);
    agent.allow("bob", "locked");
    let args = format!("diagnose 203.0.113.7 --identity {}", agent.path("locked").display());
    let mut child = agent.on_a_terminal(&args);
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // Wrong once, then right. The loop ends when the client does.
    let mut answers = [("", "wrong\r"), ("wrong passphrase", "open sesame\r")].into_iter().peekable();
    while let Ok(count @ 1..) = screen.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((after, answer)) = answers.peek()
            && text.split_once(after).is_some_and(|(_, rest)| rest.contains("Passphrase for"))
        {
            keyboard.write_all(answer.as_bytes()).unwrap();
            keyboard.flush().unwrap();
            answers.next();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&seen));
    assert!(!String::from_utf8_lossy(&seen).contains("sesame"), "the passphrase is not shown");
    assert_eq!(agent.asked()[0].0, "bob");
}

#[test]
fn a_slow_agent_is_waited_for_with_a_sign_of_life_that_goes_away() {
    let agent = Agent::start(Mood::HangsAfterRequest, diagnosis("accept"));
    let mut child = agent.on_a_terminal("status --timeout 8s");
    let keyboard = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(keyboard);
    assert_eq!(output.status.code(), Some(10));
    let screen = stdout(&output);
    let (waiting, after) = screen.split_once("waiting for the agent, ").unwrap_or_else(|| panic!("{screen:?}"));
    assert_eq!(waiting, "\r");
    let (_, error) = after.rsplit_once("\r\u{1b}[K").unwrap_or_else(|| panic!("{screen:?}"));
    assert!(error.contains("no answer from the agent"), "{screen:?}");
}

#[test]
fn a_change_that_is_still_being_taken_back_after_its_deadline_is_waited_for() {
    let began = Timestamp::now();
    let mut pending = change("pending");
    pending["deadline"] = json!(began);
    let later = |state: &str| {
        json!({"schema": "sshfix.changes/1", "changes": [{"id": "c1", "state": state, "principal": "alice",
            "operation": pending["plan"]["operation"], "digest": "sha256:00", "started": began, "deadline": began,
            "seconds_left": null, "finished": null, "detail": "not confirmed in time", "steps": []}]})
    };
    let bodies = vec![pending.clone(), later("pending"), later("rolling-back"), later("rolled-back")];
    let agent = Agent::start_in_turn(Mood::Honest, bodies);
    let mut child = agent.on_a_terminal("unban 203.0.113.7");
    let keyboard = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(keyboard);
    assert_eq!((output.status.code(), agent.asked().len()), (Some(6), 4), "{}", stdout(&output));
}

#[test]
fn colours_are_for_terminals_unless_asked_for() {
    let agent = Agent::start(Mood::Honest, diagnosis("accept"));
    let escape = |output: &Output| stdout(output).contains('\u{1b}');
    assert!(!escape(&agent.run(&["diagnose", "203.0.113.7"])));
    assert!(escape(&agent.run(&["diagnose", "203.0.113.7", "--color", "always"])));
    assert!(!escape(&agent.run(&["diagnose", "203.0.113.7", "--color", "never"])));
}
