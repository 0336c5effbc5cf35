//! One question to the agent: a fresh connection, the agent's identity checked, a signed request, a signed reply. Believes
//! nothing of a reply before its signature holds. Chooses no identity and prints nothing.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Deserialize;
use serde_json::value::RawValue;
use sshfix_policy::reply::{Body, ErrorCode, ErrorDocument};
use sshfix_policy::request::wire::{HELLO_LIMIT, Hello, PREFIX, REPLY_LIMIT, SignedReply, SignedRequest, WireError, body_length};
use sshfix_policy::request::{PROTOCOL, REPLY_NAMESPACE, REQUEST_NAMESPACE, Request};
use sshfix_policy::ssh::public_key::PublicKey;
use sshfix_policy::ssh::sshsig::SshSig;
use thiserror::Error;

use crate::cli::Ask;
use crate::kex::NoWay;
use crate::origin::Origin;
use crate::sign::{Identity, SignError};

/// Where the agent listens, unless `SSHFIX_SOCKET` says otherwise.
pub const SOCKET: &str = "/run/sshfix/agent.sock";
/// The agent's public key, unless `SSHFIX_AGENT_KEY` names another file.
pub const AGENT_KEY: &str = "/etc/sshfix/agent_ed25519.pub";
/// Seconds a request holds after its challenge: time for a passphrase or a touch, and the most the agent allows.
const VALID_FOR: u32 = 60;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The agent's public key is not there, so an impostor could not be told from it.
    #[error("cannot read the agent's public key {path}: {why}")]
    NoAgentKey {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nobody answers at the socket.
    #[error("cannot reach the agent at {path}: {why}")]
    Unreachable {
        /// Of the socket.
        path: PathBuf,
        /// What is wrong.
        why: std::io::Error,
    },
    /// It stopped or was too slow.
    #[error("no answer from the agent: {why}")]
    NoAnswer {
        /// What is wrong.
        why: std::io::Error,
        /// Whether the request was on its way, so that a change may have been made.
        sent: bool,
    },
    /// It does not speak the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// It is not the agent whose key is known.
    #[error("the agent at {path} has another key ({given}) than {known}")]
    OtherKey {
        /// Of the socket.
        path: PathBuf,
        /// Fingerprint it showed.
        given: String,
        /// The file with the key it should have.
        known: PathBuf,
    },
    /// The reply's signature does not hold, or it answers something else.
    #[error("the reply is not from the agent, or not to this request: {0}")]
    Forged(String),
    /// A newer agent.
    #[error("the reply is not understood: {0}")]
    Reply(String),
    /// The request could not be put into words.
    #[error("the request could not be written as JSON: {0}")]
    Request(String),
    /// The operating system has no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
    /// No signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The SSH port proved nothing, so there is nothing to confirm with.
    #[error("the SSH port did not prove that it answers: {why}")]
    Access {
        /// The change that was to be confirmed.
        id: String,
        /// What each way came to.
        why: NoWay,
    },
}

impl ClientError {
    /// As it is shown. Whatever may have happened to the host is said.
    pub fn document(&self) -> ErrorDocument {
        let message = self.to_string();
        let unchanged = |code, advice: &str| ErrorDocument::new(code, format!("{message}. Nothing was changed."), advice);
        match self {
            ClientError::NoAgentKey { .. } => unchanged(
                ErrorCode::Unreachable,
                "`sudo sshfix-agent init` makes the key; SSHFIX_AGENT_KEY names another file. Without it an impostor could answer.",
            ),
            ClientError::Unreachable { why, .. } if why.kind() == ErrorKind::PermissionDenied => unchanged(
                ErrorCode::Unreachable,
                "Use sudo, or join the group that owns the socket (sshfix by default) and log in again.",
            ),
            ClientError::Unreachable { .. } => unchanged(
                ErrorCode::Unreachable,
                "Is it running? `systemctl status sshfix-agent`; without systemd: `sudo sshfix-agent run`.",
            ),
            ClientError::NoAnswer { sent: false, .. } => {
                unchanged(ErrorCode::Unreachable, "See the agent's log: `journalctl -u sshfix-agent`.")
            }
            ClientError::NoAnswer { sent: true, .. } => ErrorDocument::new(
                ErrorCode::Unreachable,
                format!("{message}. The request was sent, so a change may have been made or still be under way."),
                "`sshfix ctl status` shows it; --timeout waits longer.",
            ),
            ClientError::Wire(_) => unchanged(ErrorCode::Unreachable, "Client and agent should be of the same version."),
            ClientError::OtherKey { .. } => unchanged(
                ErrorCode::Refused,
                "If the agent got a new key, copy its new agent_ed25519.pub; otherwise another program answers there.",
            ),
            ClientError::Forged(_) => ErrorDocument::new(
                ErrorCode::Refused,
                format!("{message}. It is unknown whether the request was carried out."),
                "Find out which program listens at the socket before you go on: `sudo ss -xlp | grep sshfix`.",
            ),
            ClientError::Reply(_) => ErrorDocument::new(
                ErrorCode::Failed,
                format!("{message}. A change may have been made."),
                "The agent may be newer than this client: update it, then `sshfix ctl status`.",
            ),
            ClientError::Request(_) => unchanged(ErrorCode::Failed, "This is a bug in sshfix."),
            ClientError::Random(_) => unchanged(ErrorCode::Failed, "Retry when the system is up."),
            ClientError::Access { id, .. } => ErrorDocument::new(
                ErrorCode::NotConfirmed,
                format!("{message}. The change was not confirmed; it is rolled back at its deadline."),
                format!(
                    "`sshfix ctl rollback {id}` rolls it back now; or check whether sshd runs (`systemctl status ssh`), then `sshfix ctl confirm {id}`."
                ),
            ),
            ClientError::Sign(_) => {
                unchanged(ErrorCode::Failed, "Name another key with --identity FILE, or add one to ssh-agent.")
            }
        }
    }
}

/// The agent's document, and the very bytes of it that were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Understood.
    pub body: Body,
    /// As the agent wrote it; may hold fields this client does not know.
    pub json: String,
}

/// The agent, and the key it must have.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    key: PublicKey,
    key_file: PathBuf,
    timeout: Duration,
}

impl Agent {
    /// As the environment says, or the usual places.
    pub fn from_env(timeout: Duration) -> Result<Self, ClientError> {
        let path = |name, usual: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map_or_else(|| PathBuf::from(usual), PathBuf::from)
        };
        Self::open(&path("SSHFIX_SOCKET", SOCKET), &path("SSHFIX_AGENT_KEY", AGENT_KEY), timeout)
    }

    /// Reads the agent's public key; connects to nobody yet.
    pub fn open(socket: &Path, key_file: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let wrong = |why: String| ClientError::NoAgentKey { path: key_file.to_owned(), why };
        let line = std::fs::read_to_string(key_file).map_err(|error| wrong(error.to_string()))?;
        let key = PublicKey::from_line(&line).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { socket: socket.to_owned(), key, key_file: key_file.to_owned(), timeout })
    }

    /// A signed question on a connection of its own, ready to be sent. Signing may wait for a person.
    /// `ask` gets the hello of the connection: a confirm is about its challenge.
    pub fn question(
        &self,
        ask: impl FnOnce(&Hello) -> Result<Ask, ClientError>,
        origin: &Origin,
        identity: &Identity,
    ) -> Result<Question<'_>, ClientError> {
        let mut stream = self.connect()?;
        let deadline = Instant::now() + self.timeout;
        let hello = Hello::decode(&read_frame(&mut stream, deadline, HELLO_LIMIT, false)?)?;
        self.check_hello(&hello)?;
        let ask = ask(&hello)?;

        let request = Request {
            protocol: PROTOCOL,
            host: hello.host.clone(),
            id: random_id()?,
            challenge: hello.challenge.to_string(),
            valid_for: VALID_FOR,
            principal: None,
            operation: ask.operation,
            mode: ask.mode,
            reason: ask.reason,
            from: origin.address,
            from_user: origin.user.clone(),
        };
        let payload = serde_json::to_vec(&request).map_err(|error| ClientError::Request(error.to_string()))?;
        let signature = identity.sign(REQUEST_NAMESPACE, &payload)?;
        let frame = SignedRequest::new(payload, signature).encode()?;
        Ok(Question { agent: self, stream, frame, request })
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let wrong = |why: std::io::Error| ClientError::Unreachable { path: self.socket.clone(), why };
        let address = UnixAddr::new(&self.socket).map_err(|errno| wrong(errno.into()))?;
        let fd =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(|errno| wrong(errno.into()))?;
        // The send timeout also bounds a connect to a full backlog (net/unix/af_unix.c, unix_stream_connect).
        let time = TimeVal::milliseconds(i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&fd, SendTimeout, &time).map_err(|errno| wrong(errno.into()))?;
        connect(fd.as_raw_fd(), &address).map_err(|errno| wrong(errno.into()))?;
        Ok(UnixStream::from(fd))
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), ClientError> {
        let given = PublicKey::from_line(&hello.key).map_err(|error| WireError::Hello(error.to_string()))?;
        if given != self.key || hello.host != self.key.fingerprint() {
            return Err(ClientError::OtherKey {
                path: self.socket.clone(),
                given: given.fingerprint(),
                known: self.key_file.clone(),
            });
        }
        Ok(())
    }

    fn check_reply(&self, signed: &SignedReply, request: &Request) -> Result<Answer, ClientError> {
        let forged = |why: &dyn std::fmt::Display| ClientError::Forged(why.to_string());
        let sshsig = SshSig::parse(signed.signature()).map_err(|error| forged(&error))?;
        if sshsig.key != self.key.blob() || sshsig.namespace != REPLY_NAMESPACE {
            return Err(forged(&"signed by another key or for something else"));
        }
        sshsig.verify(&self.key, signed.payload()).map_err(|error| forged(&error))?;

        // The signature holds: from here on the payload may be looked at.
        let reply: RawReply<'_> =
            serde_json::from_slice(signed.payload()).map_err(|error| ClientError::Reply(error.to_string()))?;
        if reply.challenge != request.challenge || reply.host != request.host {
            return Err(forged(&"it answers on another connection or for another host"));
        }
        let body: Body = serde_json::from_str(reply.body.get()).map_err(|_| ClientError::Reply(schema(reply.body.get())))?;
        // Only a refusal may lack the id: the agent does not read the id of a request it cannot authenticate.
        if reply.request != request.id && !(reply.request.is_empty() && matches!(body, Body::Error(_))) {
            return Err(forged(&"it answers another request"));
        }
        Ok(Answer { body, json: reply.body.get().to_owned() })
    }
}

/// Signed, not sent yet.
#[derive(Debug)]
pub struct Question<'a> {
    agent: &'a Agent,
    stream: UnixStream,
    frame: Vec<u8>,
    request: Request,
}

impl Question<'_> {
    /// Sends it and waits for the answer, which is checked before it is looked at.
    pub fn send(mut self) -> Result<Answer, ClientError> {
        let lost = |why: std::io::Error| ClientError::NoAnswer { why, sent: false };
        let deadline = Instant::now() + self.agent.timeout;
        self.stream.set_write_timeout(Some(self.agent.timeout)).map_err(lost)?;
        match self.stream.write_all(&self.frame) {
            // It hung up while we spoke: it may have said why.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(lost(error)),
            _ => {}
        }
        // Now that the request is out, nonsense in return must not be taken for "nothing happened".
        let nonsense = |error: WireError| ClientError::Forged(error.to_string());
        let body = read_frame(&mut self.stream, deadline, REPLY_LIMIT, true).map_err(|error| match error {
            ClientError::Wire(error) => nonsense(error),
            other => other,
        })?;
        let reply = SignedReply::decode(&body).map_err(nonsense)?;
        self.agent.check_reply(&reply, &self.request)
    }
}

/// `reply::Reply` with the body's bytes as they were signed.
#[derive(Deserialize)]
struct RawReply<'a> {
    request: String,
    challenge: String,
    host: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

fn schema(json: &str) -> String {
    #[derive(Deserialize)]
    struct Schema {
        schema: String,
    }
    match serde_json::from_str::<Schema>(json) {
        Ok(Schema { schema }) => format!("a document of schema `{}`", schema.escape_default()),
        Err(_) => "a document without schema".to_owned(),
    }
}

fn random_id() -> Result<String, ClientError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::Random(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn read_frame(stream: &mut UnixStream, deadline: Instant, limit: usize, sent: bool) -> Result<Vec<u8>, ClientError> {
    let mut prefix = [0; PREFIX];
    read_exact(stream, &mut prefix, deadline, sent)?;
    let mut body = vec![0; body_length(prefix, limit)?];
    read_exact(stream, &mut body, deadline, sent)?;
    Ok(body)
}

/// Until the buffer is full or the deadline has come, however slowly the bytes drip.
fn read_exact(stream: &mut UnixStream, mut buffer: &mut [u8], deadline: Instant, sent: bool) -> Result<(), ClientError> {
    let lost = |why: std::io::Error| ClientError::NoAnswer { why, sent };
    let late = || lost(std::io::Error::new(ErrorKind::TimedOut, "it took too long"));
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        stream.set_read_timeout(Some(left)).map_err(lost)?;
        match stream.read(buffer) {
            Ok(0) => return Err(lost(std::io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection"))),
            Ok(count) => buffer = buffer.split_at_mut_checked(count).map(|(_, rest)| rest).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(late()),
            Err(error) => return Err(lost(error)),
        }
    }
    Ok(())
}
