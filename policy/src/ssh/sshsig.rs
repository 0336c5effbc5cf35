//! SSHSIG (PROTOCOL.sshsig): signatures over arbitrary bytes, bound to a namespace. Strict where OpenSSH is lenient: version 1
//! only, nothing in the reserved field, no trailing bytes. Must not decide whose signature counts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};
use ssh_key::{HashAlg, PrivateKey, SshSig as Signer};
use thiserror::Error;

use crate::ssh::blob::{BlobError, Reader, put_string};
use crate::ssh::public_key::{Proof, PublicKey, VerifyError, printable};

const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
const ARMOR_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const ARMOR_END: &str = "-----END SSH SIGNATURE-----";

/// Why bytes are not an SSHSIG blob, or could not become one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SshSigError {
    /// Cut, too long, or something else altogether.
    #[error("malformed SSHSIG: {0}")]
    Malformed(String),
    /// Not version 1.
    #[error("SSHSIG version {0} is not supported")]
    Version(u32),
    /// Neither sha256 nor sha512.
    #[error("SSHSIG hash `{0}` is not supported")]
    Hash(String),
    /// The key cannot sign.
    #[error("cannot sign with this key: {0}")]
    Sign(String),
}

impl From<BlobError> for SshSigError {
    fn from(error: BlobError) -> Self {
        SshSigError::Malformed(error.to_string())
    }
}

/// The hash that is signed in the payload's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// `sha256`
    Sha256,
    /// `sha512`, which `ssh-keygen` uses.
    Sha512,
}

impl Hash {
    fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "sha256",
            Hash::Sha512 => "sha512",
        }
    }

    fn digest(self, payload: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => Sha256::digest(payload).to_vec(),
            Hash::Sha512 => Sha512::digest(payload).to_vec(),
        }
    }
}

/// A signature, taken apart. Nothing in it is believed until [`SshSig::verify`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSig<'a> {
    /// The key blob, plain or certificate, that the signer says to have used.
    pub key: &'a [u8],
    /// What the signature is for.
    pub namespace: &'a str,
    /// How the payload was hashed.
    pub hash: Hash,
    /// The signature blob over [`signed_data`].
    pub signature: &'a [u8],
}

impl<'a> SshSig<'a> {
    /// From the bytes inside the armor.
    pub fn parse(blob: &'a [u8]) -> Result<Self, SshSigError> {
        let mut reader = Reader::new(blob);
        if reader.bytes(MAGIC.len(), "the preamble")? != MAGIC {
            return Err(SshSigError::Malformed("it does not begin with SSHSIG".to_owned()));
        }
        let version = reader.u32("the version")?;
        if version != VERSION {
            return Err(SshSigError::Version(version));
        }
        let key = reader.string("the key")?;
        let namespace = reader.text("the namespace")?;
        if !reader.string("the reserved field")?.is_empty() {
            return Err(SshSigError::Malformed("the reserved field is not empty".to_owned()));
        }
        let hash = match reader.text("the hash")? {
            "sha256" => Hash::Sha256,
            "sha512" => Hash::Sha512,
            other => return Err(SshSigError::Hash(printable(other))),
        };
        let signature = reader.string("the signature")?;
        reader.end()?;
        Ok(Self { key, namespace, hash, signature })
    }

    /// Whether `key` signed `payload` under this signature's namespace, which the caller has compared.
    pub fn verify(&self, key: &PublicKey, payload: &[u8]) -> Result<Proof, VerifyError> {
        key.verify(&signed_data(self.namespace, self.hash, payload), self.signature)
    }
}

/// The bytes the key really signs.
pub fn signed_data(namespace: &str, hash: Hash, payload: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_string(&mut out, namespace.as_bytes());
    put_string(&mut out, b"");
    put_string(&mut out, hash.name().as_bytes());
    put_string(&mut out, &hash.digest(payload));
    out
}

/// Wraps a signature over [`signed_data`]. `key` and `signature` are blobs as an ssh-agent speaks them.
pub fn wrap(key: &[u8], namespace: &str, hash: Hash, signature: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_be_bytes());
    put_string(&mut out, key);
    put_string(&mut out, namespace.as_bytes());
    put_string(&mut out, b"");
    put_string(&mut out, hash.name().as_bytes());
    put_string(&mut out, signature);
    out
}

/// Signs with an unlocked ed25519 or ecdsa key. The blob goes on the wire as it is.
pub fn sign(key: &PrivateKey, namespace: &str, payload: &[u8]) -> Result<Vec<u8>, SshSigError> {
    Signer::sign(key, namespace, HashAlg::Sha512, payload)
        .and_then(|signature| {
            let public = key.public_key().to_bytes()?;
            let signature: Vec<u8> = signature.signature().clone().try_into()?;
            Ok(wrap(&public, namespace, Hash::Sha512, &signature))
        })
        .map_err(|error| SshSigError::Sign(error.to_string()))
}

/// The armor that `ssh-keygen -Y verify` reads: base64 in lines of 70 characters (PROTOCOL.sshsig).
pub fn to_armor(blob: &[u8]) -> String {
    let mut text = format!("{ARMOR_BEGIN}\n");
    let base64 = STANDARD.encode(blob);
    let mut rest = base64.as_str();
    while let Some((line, after)) = rest.split_at_checked(70) {
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    if !rest.is_empty() {
        text.push_str(rest);
        text.push('\n');
    }
    text + ARMOR_END + "\n"
}

/// The blob inside the armor that `ssh-keygen -Y sign` writes.
pub fn from_armor(text: &str) -> Result<Vec<u8>, SshSigError> {
    let inside = text
        .trim()
        .strip_prefix(ARMOR_BEGIN)
        .and_then(|rest| rest.strip_suffix(ARMOR_END))
        .ok_or_else(|| SshSigError::Malformed("no SSH SIGNATURE armor".to_owned()))?;
    let base64: String = inside.split_ascii_whitespace().collect();
    STANDARD.decode(base64).map_err(|error| SshSigError::Malformed(format!("base64: {error}")))
}
