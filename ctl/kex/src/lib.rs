//! Proves that an SSH port answers: one fresh TCP connection, one real key exchange, a polite goodbye. Never tries to log in, so it
//! costs no more than a connection without authentication does. What the transcript proves is decided in `policy::access_proof`.

mod transport;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use ring::agreement::{self, Algorithm, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use ring::rand::SystemRandom;
use sshfix_policy::access_proof::{
    self, AccessProof, AccessProofError, Bounded, COOKIE, KexInit, KexInitError, Method, Negotiated, NoCommon,
};
use sshfix_policy::ssh::blob::{Reader, put_string};
use thiserror::Error;

use transport::Transport;

/// Our first line (RFC 4253 section 4.2).
const VERSION: &str = concat!("SSH-2.0-sshfix_", env!("CARGO_PKG_VERSION"));
/// How the host key may sign.
const HOST_KEYS: &str = "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256";
/// Every cipher OpenSSH ever had: the connection ends before the first encrypted byte of ours, so none of them is used.
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes192-ctr,\
                       aes256-ctr,aes128-cbc,aes192-cbc,aes256-cbc,3des-cbc";
/// The same of MACs.
const MACS: &str = "umac-64-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha2-256-etm@openssh.com,\
                    hmac-sha2-512-etm@openssh.com,hmac-sha1-etm@openssh.com,umac-64@openssh.com,umac-128@openssh.com,\
                    hmac-sha2-256,hmac-sha2-512,hmac-sha1";
const COMPRESSION: &str = "none,zlib@openssh.com,zlib";

/// RFC 4250 section 4.1.2.
const MSG_DISCONNECT: u8 = 1;
const MSG_KEX_ECDH_INIT: u8 = 30;
const MSG_KEX_ECDH_REPLY: u8 = 31;
/// RFC 4250 section 4.2.2: `SSH_DISCONNECT_BY_APPLICATION`.
const BY_APPLICATION: u32 = 11;

/// Why the SSH port proved nothing. Nothing was changed on either side.
#[derive(Debug, Error)]
pub enum KexError {
    /// A RST, or an ICMP error: nothing listens, or a rule rejects.
    #[error("{to} refuses the connection ({why}): nothing listens there, or a rule rejects it")]
    Refused {
        /// Where.
        to: SocketAddr,
        /// The kernel's words.
        why: io::Error,
    },
    /// No answer to the SYN.
    #[error("{to} does not answer within {seconds} s: the packets are dropped on the way or by a rule")]
    Silence {
        /// Where.
        to: SocketAddr,
        /// How long.
        seconds: u64,
    },
    /// Connected, and then nothing.
    #[error("{to} accepts the connection and then sends nothing for {seconds} s{}", after(.during))]
    Stalled {
        /// Where.
        to: SocketAddr,
        /// How long.
        seconds: u64,
        /// What was waited for.
        during: &'static str,
    },
    /// Closed before a banner: what people see as `kex_exchange_identification: Connection reset by peer`.
    #[error("{to} closes the connection before its banner, after {:.1} s{}", .after.as_secs_f32(), libwrap(.after))]
    NoBanner {
        /// Where.
        to: SocketAddr,
        /// How long it took.
        after: Duration,
    },
    /// sshd said why it does not talk: `Exceeded MaxStartups`, `Not allowed at this time`.
    #[error("{to} turns the connection away: \"{text}\"")]
    TurnedAway {
        /// Where.
        to: SocketAddr,
        /// Its words.
        text: String,
    },
    /// Something else than an SSH 2 server.
    #[error("{to} does not speak SSH 2; it says \"{text}\"")]
    NotSsh {
        /// Where.
        to: SocketAddr,
        /// The start of what it said.
        text: String,
    },
    /// Closed, or lost, in the middle of the exchange.
    #[error("{to} ends the connection during {during}: {why}")]
    Lost {
        /// Where.
        to: SocketAddr,
        /// What was going on.
        during: &'static str,
        /// The kernel's words, or the server's.
        why: String,
    },
    /// The server's side breaks the protocol.
    #[error("{to} breaks the SSH protocol: {why}")]
    Protocol {
        /// Where.
        to: SocketAddr,
        /// How.
        why: String,
    },
    /// Nothing both know.
    #[error("{to}: {why}")]
    NoCommon {
        /// Where.
        to: SocketAddr,
        /// Which list.
        why: NoCommon,
    },
    /// The signature of the server does not hold.
    #[error("{to} does not prove its host key: {why}")]
    NotProven {
        /// Where.
        to: SocketAddr,
        /// What is wrong.
        why: AccessProofError,
    },
    /// No random bytes, no socket.
    #[error("cannot make a key exchange: {0}")]
    Local(String),
}

impl KexError {
    /// Whether the same may work a moment later: sshd answered, and had no room (`MaxStartups`) or did not talk to this source
    /// (`PerSourcePenalties`, `PerSourceMaxStartups`).
    pub fn may_pass(&self) -> bool {
        match self {
            KexError::TurnedAway { .. } | KexError::Lost { .. } => true,
            // libwrap refuses after five seconds.
            KexError::NoBanner { after, .. } => *after < Duration::from_secs(1),
            KexError::Refused { .. }
            | KexError::Silence { .. }
            | KexError::Stalled { .. }
            | KexError::NotSsh { .. }
            | KexError::Protocol { .. }
            | KexError::NoCommon { .. }
            | KexError::NotProven { .. }
            | KexError::Local(_) => false,
        }
    }
}

/// A way to the SSH port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The address the connection is made from; as the kernel chooses when not given.
    pub from: Option<IpAddr>,
    /// The port.
    pub to: SocketAddr,
}

/// `from 127.93.4.8 to 127.0.0.1:22`
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "from {from} to {}", self.to),
            None => write!(f, "to {}", self.to),
        }
    }
}

fn after(during: &str) -> String {
    format!(" while its {during} is awaited")
}

/// causes.md: libwrap sleeps five seconds before it closes.
fn libwrap(after: &Duration) -> &'static str {
    if (4.5..6.5).contains(&after.as_secs_f32()) { "; hosts.deny refuses after five seconds" } else { "" }
}

/// One key exchange with the first target that does not refuse, with this cookie (`access_proof::cookie`) in our KEXINIT.
/// `timeout` is for each target, from connect to the last byte. libwrap takes five seconds to refuse: less hides it.
pub fn prove(targets: &[SocketAddr], cookie: &[u8; COOKIE], timeout: Duration) -> Result<AccessProof, KexError> {
    let mut first = None;
    for to in targets {
        match prove_by(Way { from: None, to: *to }, cookie, timeout) {
            // Perhaps sshd listens on another address of this host.
            Err(error @ KexError::Refused { .. }) => first = first.or(Some(error)),
            answer => return answer,
        }
    }
    Err(first.unwrap_or_else(|| KexError::Local("there is no address to try".to_owned())))
}

/// One key exchange by this way.
pub fn prove_by(way: Way, cookie: &[u8; COOKIE], timeout: Duration) -> Result<AccessProof, KexError> {
    let deadline = Instant::now() + timeout;
    let to = way.to;
    let stream = connect(way, timeout).map_err(|why| match why.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => KexError::Silence { to, seconds: timeout.as_secs() },
        _ => KexError::Refused { to, why },
    })?;
    talk(Transport::new(stream, to, timeout, deadline), to, cookie)
}

/// The same over a connection to this target that is there already.
pub fn prove_over(stream: TcpStream, to: SocketAddr, cookie: &[u8; COOKIE], timeout: Duration) -> Result<AccessProof, KexError> {
    talk(Transport::new(stream, to, timeout, Instant::now() + timeout), to, cookie)
}

fn talk(mut transport: Transport, to: SocketAddr, cookie: &[u8; COOKIE]) -> Result<AccessProof, KexError> {
    // Read first: who turns us away says so instead of a banner, and the RST that answers early bytes would swallow it.
    let server_version = transport.read_version()?;
    transport.write(format!("{VERSION}\r\n").as_bytes())?;
    let kex = Method::ALL.map(Method::name).join(",");
    let client_kexinit = KexInit::encode(cookie, &kex, HOST_KEYS, CIPHERS, MACS, COMPRESSION);
    transport.write_packet(&client_kexinit)?;
    let server_kexinit = transport.read_packet("key exchange message")?;

    let protocol = |why: String| KexError::Protocol { to, why };
    let malformed = |why: KexInitError| protocol(format!("its KEXINIT: {why}"));
    let client = KexInit::parse(&client_kexinit).map_err(malformed)?;
    let server = KexInit::parse(&server_kexinit).map_err(malformed)?;
    let Negotiated { kex, .. } = KexInit::negotiate(&client, &server).map_err(|why| KexError::NoCommon { to, why })?;
    let method = Method::from_name(kex).ok_or_else(|| protocol(format!("method {kex}")))?;

    let local = |_| KexError::Local("no random bytes".to_owned());
    let private = EphemeralPrivateKey::generate(algorithm(method), &SystemRandom::new()).map_err(local)?;
    let public = private.compute_public_key().map_err(local)?;
    let mut init = vec![MSG_KEX_ECDH_INIT];
    put_string(&mut init, public.as_ref());
    transport.write_packet(&init)?;
    let reply = transport.read_packet("answer to the key exchange")?;
    let [host_key, ephemeral, signature] =
        read_reply(&reply).map_err(|why| protocol(format!("its answer to the key exchange: {why}")))?;
    let secret = agreement::agree_ephemeral(private, &UnparsedPublicKey::new(algorithm(method), ephemeral), <[u8]>::to_vec)
        .map_err(|_| protocol("its ephemeral key is no valid point".to_owned()))?;
    transport.say_goodbye(&goodbye());

    let proof = AccessProof {
        client_version: bounded(to, VERSION.as_bytes())?,
        server_version: bounded(to, &server_version)?,
        client_kexinit: bounded(to, &client_kexinit)?,
        server_kexinit: bounded(to, &server_kexinit)?,
        host_key: bounded(to, host_key)?,
        client_ephemeral: bounded(to, public.as_ref())?,
        server_ephemeral: bounded(to, ephemeral)?,
        shared_secret: bounded(to, &secret)?,
        signature: bounded(to, signature)?,
    };
    access_proof::check(&proof, cookie).map_err(|why| KexError::NotProven { to, why })?;
    Ok(proof)
}

fn connect(Way { from, to }: Way, timeout: Duration) -> io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect_timeout(&to, timeout) };
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    // socket(7): it bounds connect(2), too, which fails with EINPROGRESS then.
    let time = TimeVal::milliseconds(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&socket, SendTimeout, &time)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(TcpStream::from(socket)),
        Err(Errno::EINPROGRESS) => Err(ErrorKind::TimedOut.into()),
        Err(errno) => Err(errno.into()),
    }
}

fn algorithm(method: Method) -> &'static Algorithm {
    match method {
        Method::Curve25519 | Method::Curve25519Libssh => &X25519,
        Method::NistP256 => &ECDH_P256,
        Method::NistP384 => &ECDH_P384,
    }
}

/// RFC 5656 section 4: `byte SSH_MSG_KEX_ECDH_REPLY, string K_S, string Q_S, string signature`.
fn read_reply(payload: &[u8]) -> Result<[&[u8]; 3], String> {
    let text = |error: sshfix_policy::ssh::blob::BlobError| error.to_string();
    let mut reader = Reader::new(payload);
    match reader.u8("the message number").map_err(text)? {
        MSG_KEX_ECDH_REPLY => {}
        other => return Err(format!("it is message {other}, not {MSG_KEX_ECDH_REPLY}")),
    }
    let host_key = reader.string("the host key").map_err(text)?;
    let ephemeral = reader.string("the ephemeral key").map_err(text)?;
    let signature = reader.string("the signature").map_err(text)?;
    reader.end().map_err(text)?;
    Ok([host_key, ephemeral, signature])
}

fn bounded<const MAX: usize>(to: SocketAddr, bytes: &[u8]) -> Result<Bounded<MAX>, KexError> {
    let too_long = |given| KexError::Protocol { to, why: format!("a value of {given} bytes, where at most {MAX} are taken") };
    Bounded::try_from(bytes.to_vec()).map_err(too_long)
}

/// RFC 4253 section 11.1. Before our `SSH_MSG_NEWKEYS` everything we send is still in the clear.
fn goodbye() -> Vec<u8> {
    let mut payload = vec![MSG_DISCONNECT];
    payload.extend_from_slice(&BY_APPLICATION.to_be_bytes());
    put_string(&mut payload, b"sshfix: the SSH port answers, no login was intended");
    put_string(&mut payload, b"");
    payload
}
