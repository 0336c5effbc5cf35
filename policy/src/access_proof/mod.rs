//! The proof of access: the transcript of one real SSH key exchange (RFC 4253 section 8, RFC 5656 section 4, RFC 8731), made by
//! whoever confirms a change, after the challenge of that very confirm. It shows that the SSH port answered somebody and that the
//! host's own key stands behind it; not from which address it was asked. Opens no connection and reads no file.
//!
//! How the two sides use it:
//! ```text
//! client   let cookie = access_proof::cookie(change_id, hello.challenge.bytes());
//!          let proof = kex::prove(&kex::targets(22), &cookie, timeout)?;        // ctl::kex; goes with the confirm
//! agent    let cookie = access_proof::cookie(change_id, challenge.bytes());       // of the connection the confirm came on
//!          let keys = subsystem::sshd::host_keys(port)?;                        // agent; the sshd that listens there
//!          let proven = access_proof::verify(&proof, &cookie, &keys)?;          // its Display goes to the audit record
//! ```

mod bounded;
mod kexinit;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha384};
use thiserror::Error;

use crate::ssh::blob::{put_mpint, put_string};
use crate::ssh::public_key::{KeyError, PublicKey, VerifyError, printable};

pub use bounded::Bounded;
pub use kexinit::{COOKIE, KexInit, KexInitError, Negotiated, NoCommon};

/// What the cookie is a hash of, before the change id and the challenge.
const NAMESPACE: &[u8] = b"sshfix-access-proof@v1";
/// Bytes of the agent's challenge.
pub const CHALLENGE: usize = 32;
/// RFC 4253 section 4.2: 255 bytes with CR and LF.
pub const VERSION_MAX: usize = 253;
/// The longest KEXINIT that is taken, in bytes; OpenSSH's has about 1,100.
pub const KEXINIT_MAX: usize = 16 * 1024;
/// The longest host key that is taken: RSA of 8,192 bits has 1,050 bytes.
pub const HOST_KEY_MAX: usize = 2048;
/// The longest ephemeral public key: an uncompressed point of P-384 has 97 bytes.
pub const EPHEMERAL_MAX: usize = 97;
/// The longest shared secret: a coordinate of P-384.
pub const SECRET_MAX: usize = 48;
/// The longest signature blob: RSA of 8,192 bits has 1,044 bytes.
pub const SIGNATURE_MAX: usize = 2048;

/// The cookie a client must put into its KEXINIT: the first 16 bytes of SHA-256 over a fixed name, the id of the change and the
/// challenge the agent gave on the connection of the confirm. So the host signed after that challenge, and for that change.
pub fn cookie(change_id: &str, challenge: &[u8; CHALLENGE]) -> [u8; COOKIE] {
    // Unambiguous without lengths: the name and the challenge have fixed ones.
    let digest = Sha256::new_with_prefix(NAMESPACE).chain_update(change_id).chain_update(challenge).finalize();
    let mut cookie = [0; COOKIE];
    cookie.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    cookie
}

/// The methods of key exchange that can be proven, best first; all end with a signature of the host key over the whole exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// RFC 8731.
    Curve25519,
    /// The same under the name it had before the RFC.
    Curve25519Libssh,
    /// RFC 5656.
    NistP256,
    /// RFC 5656.
    NistP384,
}

impl Method {
    /// All, in the order a client prefers them.
    pub const ALL: [Method; 4] = [Method::Curve25519, Method::Curve25519Libssh, Method::NistP256, Method::NistP384];

    /// As in a KEXINIT.
    pub fn name(self) -> &'static str {
        match self {
            Method::Curve25519 => "curve25519-sha256",
            Method::Curve25519Libssh => "curve25519-sha256@libssh.org",
            Method::NistP256 => "ecdh-sha2-nistp256",
            Method::NistP384 => "ecdh-sha2-nistp384",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// Bytes of an ephemeral public key (RFC 8731 section 3; SEC 1 section 2.3.3, uncompressed) and of a shared secret.
    fn lengths(self) -> (usize, usize) {
        match self {
            Method::Curve25519 | Method::Curve25519Libssh => (32, 32),
            Method::NistP256 => (65, 32),
            Method::NistP384 => (97, 48),
        }
    }

    /// RFC 8731 section 3 and RFC 5656 section 6.2.1: SHA-256 up to 256 bits, SHA-384 up to 384.
    fn hash(self, data: &[u8]) -> Vec<u8> {
        match self {
            Method::Curve25519 | Method::Curve25519Libssh | Method::NistP256 => Sha256::digest(data).to_vec(),
            Method::NistP384 => Sha384::digest(data).to_vec(),
        }
    }
}

/// The transcript, as the client sends it. Every field is base64 in JSON. Nothing in it is believed until [`verify`] says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessProof {
    /// `V_C`, without CR and LF.
    pub client_version: Bounded<VERSION_MAX>,
    /// `V_S`, without CR and LF.
    pub server_version: Bounded<VERSION_MAX>,
    /// `I_C`: the payload of the client's `SSH_MSG_KEXINIT`, message number included.
    pub client_kexinit: Bounded<KEXINIT_MAX>,
    /// `I_S`.
    pub server_kexinit: Bounded<KEXINIT_MAX>,
    /// `K_S`: the blob of the host key.
    pub host_key: Bounded<HOST_KEY_MAX>,
    /// `Q_C`.
    pub client_ephemeral: Bounded<EPHEMERAL_MAX>,
    /// `Q_S`.
    pub server_ephemeral: Bounded<EPHEMERAL_MAX>,
    /// K, big-endian, of the curve's full length. The connection it was made for is over, so it protects nothing.
    pub shared_secret: Bounded<SECRET_MAX>,
    /// The host key's signature blob (RFC 4253 section 6.6) over the exchange hash.
    pub signature: Bounded<SIGNATURE_MAX>,
}

impl AccessProof {
    /// In the place of one: a record holds none.
    pub fn withheld() -> Self {
        Self::default()
    }

    /// Whether there is none.
    pub fn is_withheld(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a transcript proves nothing. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AccessProofError {
    /// Not the first line of an SSH 2 peer.
    #[error("the {side} version line is not that of SSH 2: `{line}`")]
    Version {
        /// `client` or `server`.
        side: &'static str,
        /// What stands there.
        line: String,
    },
    /// A KEXINIT that is none.
    #[error("the {side} KEXINIT: {why}")]
    KexInit {
        /// `client` or `server`.
        side: &'static str,
        /// What is wrong.
        why: KexInitError,
    },
    /// Made for another change, for another confirm, or before it.
    #[error("the key exchange was not made for this confirm of this change")]
    Stale,
    /// The two sides cannot have agreed.
    #[error(transparent)]
    NoCommon(#[from] NoCommon),
    /// They agreed on something that proves nothing here.
    #[error("the exchange by `{0}` cannot be checked")]
    Method(String),
    /// A value of the wrong length for the method.
    #[error("{what} has {given} bytes, {method} has {want}")]
    Length {
        /// Which.
        what: &'static str,
        /// As sent.
        given: usize,
        /// As negotiated.
        method: &'static str,
        /// As it must be.
        want: usize,
    },
    /// No host key, or one too weak.
    #[error("the host key: {0}")]
    Key(#[from] KeyError),
    /// Of another type than was negotiated.
    #[error("the host key is of type `{key}`, but `{negotiated}` was negotiated")]
    KeyType {
        /// As sent.
        key: String,
        /// As negotiated.
        negotiated: String,
    },
    /// The signature is not of the negotiated kind, or does not hold over this transcript.
    #[error("the host key's signature over the key exchange: {0}")]
    Signature(VerifyError),
    /// A good transcript, of another server.
    #[error("the server that answered has the host key {given}, which is none of this host's ({})", .own.join(", "))]
    OtherHost {
        /// The fingerprint of the key that signed.
        given: String,
        /// Those of this host.
        own: Vec<String>,
    },
}

/// What a good proof shows: this host's sshd completed a key exchange for this confirm. Made by [`verify`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    exchange: Exchange,
}

impl Proven {
    /// The exchange.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }
}

/// As the audit record keeps it: `SSH-2.0-OpenSSH_10.0 proved its ssh-ed25519 host key SHA256:... by curve25519-sha256`.
impl fmt::Display for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exchange { server_version, host_key, method } = &self.exchange;
        let (kind, fingerprint, method) = (host_key.kind(), host_key.fingerprint(), method.name());
        write!(f, "{server_version} proved its {kind} host key {fingerprint} by {method}")
    }
}

/// A transcript that holds in itself: somebody's host key signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The server's first line, printable.
    pub server_version: String,
    /// The key that signed.
    pub host_key: PublicKey,
    /// How the secret was agreed on.
    pub method: Method,
}

/// Whether the sshd with one of these host keys completed a key exchange with this cookie. The agent's question.
pub fn verify(proof: &AccessProof, cookie: &[u8; COOKIE], host_keys: &[PublicKey]) -> Result<Proven, AccessProofError> {
    let exchange = check(proof, cookie)?;
    if !host_keys.contains(&exchange.host_key) {
        let own = host_keys.iter().map(PublicKey::fingerprint).collect();
        return Err(AccessProofError::OtherHost { given: exchange.host_key.fingerprint(), own });
    }
    Ok(Proven { exchange })
}

/// The same for any host key: what a client can check of its own transcript.
pub fn check(proof: &AccessProof, cookie: &[u8; COOKIE]) -> Result<Exchange, AccessProofError> {
    version("client", &proof.client_version)?;
    let server_version = version("server", &proof.server_version)?;
    let client = parse_kexinit("client", &proof.client_kexinit)?;
    let server = parse_kexinit("server", &proof.server_kexinit)?;
    if client.cookie() != cookie {
        return Err(AccessProofError::Stale);
    }
    let Negotiated { kex, host_key: algorithm } = KexInit::negotiate(&client, &server)?;
    let method = Method::from_name(kex).ok_or_else(|| AccessProofError::Method(printable(kex)))?;
    let (ephemeral, secret) = method.lengths();
    for (what, bytes, want) in [
        ("the client's ephemeral key", proof.client_ephemeral.as_ref(), ephemeral),
        ("the server's ephemeral key", proof.server_ephemeral.as_ref(), ephemeral),
        ("the shared secret", proof.shared_secret.as_ref(), secret),
    ] {
        if bytes.len() != want {
            return Err(AccessProofError::Length { what, given: bytes.len(), method: method.name(), want });
        }
    }
    let host_key = PublicKey::from_host_blob(proof.host_key.as_ref())?;
    // RFC 8332 section 3: the one key type `ssh-rsa` signs by two algorithms; for all others they have the same name.
    let kind = match algorithm {
        "rsa-sha2-256" | "rsa-sha2-512" => "ssh-rsa",
        other => other,
    };
    if host_key.kind() != kind {
        return Err(AccessProofError::KeyType { key: host_key.kind(), negotiated: printable(algorithm) });
    }
    let hash = method.hash(&exchange_data(proof));
    host_key.verify_as(algorithm, &hash, proof.signature.as_ref()).map_err(AccessProofError::Signature)?;
    Ok(Exchange { server_version, host_key, method })
}

/// What the exchange hash is over (RFC 5656 section 4):
/// `string V_C, string V_S, string I_C, string I_S, string K_S, string Q_C, string Q_S, mpint K`.
fn exchange_data(proof: &AccessProof) -> Vec<u8> {
    let mut data = Vec::new();
    for part in [
        proof.client_version.as_ref(),
        proof.server_version.as_ref(),
        proof.client_kexinit.as_ref(),
        proof.server_kexinit.as_ref(),
        proof.host_key.as_ref(),
        proof.client_ephemeral.as_ref(),
        proof.server_ephemeral.as_ref(),
    ] {
        put_string(&mut data, part);
    }
    put_mpint(&mut data, proof.shared_secret.as_ref());
    data
}

/// RFC 4253 sections 4.2 and 5.1: `SSH-2.0-` or, of servers that also know version 1, `SSH-1.99-`; printable ASCII.
fn version(side: &'static str, line: &Bounded<VERSION_MAX>) -> Result<String, AccessProofError> {
    let line = line.as_ref();
    let known = line.starts_with(b"SSH-2.0-") || (side == "server" && line.starts_with(b"SSH-1.99-"));
    let text = line.escape_ascii().to_string();
    if known && line.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        Ok(text)
    } else {
        Err(AccessProofError::Version { side, line: text.chars().take(64).collect() })
    }
}

fn parse_kexinit<'a>(side: &'static str, payload: &'a Bounded<KEXINIT_MAX>) -> Result<KexInit<'a>, AccessProofError> {
    KexInit::parse(payload.as_ref()).map_err(|why| AccessProofError::KexInit { side, why })
}

#[cfg(test)]
mod tests;
