//! Public keys that may sign: which types, how strong, and whether a signature by one holds. FIDO keys must have been touched.
//! Must not know who a key belongs to.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents};
use sha2::{Digest, Sha256};
use signature::Verifier;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, Signature};
use thiserror::Error;

use crate::ssh::blob::{BlobError, Reader};

/// RSA keys must have at least this many bits (NIST SP 800-57 part 1: 128 bits of strength).
pub const RSA_BITS_MIN: usize = 3072;
/// Host keys may be as short as many servers still have them (OpenSSH's own default until 7.9 was 2,048).
pub const HOST_RSA_BITS_MIN: usize = 2048;
/// What ring can verify.
pub const RSA_BITS_MAX: usize = 8192;

/// Flags of a FIDO signature (`WebAuthn` section 6.1): somebody touched the key.
const USER_PRESENT: u8 = 0x01;
/// Flags of a FIDO signature: somebody gave the PIN or a fingerprint.
const USER_VERIFIED: u8 = 0x04;

/// Why a blob is not a key we take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not an SSH public key.
    #[error("malformed public key: {0}")]
    Malformed(String),
    /// Of a type that is not taken.
    #[error("keys of type `{0}` are not accepted (ed25519, ecdsa, rsa, sk-ed25519 and sk-ecdsa are)")]
    Type(String),
    /// Too short or too long.
    #[error("an RSA key of {bits} bits is not accepted ({min} to {RSA_BITS_MAX} are)")]
    RsaBits {
        /// As it is.
        bits: usize,
        /// As it must be at least.
        min: usize,
    },
}

impl From<BlobError> for KeyError {
    fn from(error: BlobError) -> Self {
        KeyError::Malformed(error.to_string())
    }
}

/// Why a signature does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// Not a signature at all.
    #[error("malformed signature: {0}")]
    Malformed(String),
    /// Not of the key's own kind, or with SHA-1.
    #[error("a {key} key does not sign as `{signature}`")]
    Algorithm {
        /// The key's type.
        key: String,
        /// What the signature says to be.
        signature: String,
    },
    /// A FIDO key that signed without being touched.
    #[error("the security key was not touched")]
    NotTouched,
    /// It was made by another key or over other bytes.
    #[error("the signature does not match")]
    Mismatch,
}

/// What a valid signature tells besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The signer gave a PIN or a fingerprint to a FIDO key.
    pub user_verified: bool,
}

/// A public key of an accepted type and strength.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    blob: Vec<u8>,
    key: KeyData,
}

impl PublicKey {
    /// From the bytes that a `.pub` file holds as base64 (RFC 4253 section 6.6).
    pub fn from_blob(blob: &[u8]) -> Result<Self, KeyError> {
        Self::parse(blob, RSA_BITS_MIN)
    }

    /// The same for the key of an SSH server, which may be shorter.
    pub fn from_host_blob(blob: &[u8]) -> Result<Self, KeyError> {
        Self::parse(blob, HOST_RSA_BITS_MIN)
    }

    fn parse(blob: &[u8], min: usize) -> Result<Self, KeyError> {
        let kind = Reader::new(blob).text("the key type")?;
        let key = ssh_key::PublicKey::from_bytes(blob).map_err(|error| match error {
            ssh_key::Error::AlgorithmUnknown => KeyError::Type(printable(kind)),
            other => KeyError::Malformed(other.to_string()),
        })?;
        let key = KeyData::from(key);
        match &key {
            KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {}
            KeyData::Rsa(rsa) => {
                let modulus = rsa.n.as_positive_bytes().unwrap_or_default();
                let leading = modulus.first().map_or(0, |byte| byte.leading_zeros());
                let bits = (modulus.len() * 8).saturating_sub(usize::try_from(leading).unwrap_or(0));
                if !(min..=RSA_BITS_MAX).contains(&bits) {
                    return Err(KeyError::RsaBits { bits, min });
                }
            }
            _ => return Err(KeyError::Type(printable(kind))),
        }
        Ok(Self { blob: blob.to_vec(), key })
    }

    /// From its type and base64, as in a `.pub` file; both must agree.
    pub fn from_text(kind: &str, base64: &str) -> Result<Self, KeyError> {
        Self::from_blob(&decode(kind, base64)?)
    }

    /// From a line of a `.pub` file: type, base64, comment.
    pub fn from_line(line: &str) -> Result<Self, KeyError> {
        let (kind, base64) = words(line)?;
        Self::from_text(kind, base64)
    }

    /// The same for the key of an SSH server.
    pub fn from_host_line(line: &str) -> Result<Self, KeyError> {
        let (kind, base64) = words(line)?;
        Self::from_host_blob(&decode(kind, base64)?)
    }

    /// Its bytes.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Its type, such as `ssh-ed25519`.
    pub fn kind(&self) -> String {
        self.key.algorithm().to_string()
    }

    /// `SHA256:...`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.blob)
    }

    /// The same, and by exactly this algorithm, where one was negotiated: an RSA key signs by two.
    pub fn verify_as(&self, algorithm: &str, data: &[u8], signature: &[u8]) -> Result<Proof, VerifyError> {
        let given = Reader::new(signature).text("the signature type").map_err(|e| VerifyError::Malformed(e.to_string()))?;
        if given != algorithm {
            return Err(VerifyError::Algorithm { key: self.kind(), signature: printable(given) });
        }
        self.verify(data, signature)
    }

    /// Whether a signature blob (RFC 4253 section 6.6) by this key over `data` holds.
    pub fn verify(&self, data: &[u8], signature: &[u8]) -> Result<Proof, VerifyError> {
        let malformed = |error: BlobError| VerifyError::Malformed(error.to_string());
        let mut reader = Reader::new(signature);
        let algorithm = reader.text("the signature type").map_err(malformed)?;
        let bytes = reader.string("the signature").map_err(malformed)?;
        let trailer = reader.rest();
        let wrong =
            || Err(VerifyError::Algorithm { key: self.kind(), signature: algorithm.chars().take(64).collect::<String>() });

        match &self.key {
            KeyData::Rsa(rsa) => {
                reader.end().map_err(malformed)?;
                let parameters = match algorithm {
                    "rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
                    "rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                    _ => return wrong(),
                };
                let n = rsa.n.as_positive_bytes().unwrap_or_default();
                let e = rsa.e.as_positive_bytes().unwrap_or_default();
                // Some signers drop leading zeros; OpenSSH puts them back (ssh-rsa.c, ssh_rsa_verify).
                let mut padded = vec![0; n.len().saturating_sub(bytes.len())];
                padded.extend_from_slice(bytes);
                RsaPublicKeyComponents { n, e }.verify(parameters, data, &padded).map_err(|_| VerifyError::Mismatch)?;
                Ok(Proof { user_verified: false })
            }
            KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
                if algorithm != self.kind() {
                    return wrong();
                }
                // PROTOCOL.u2f: flags and counter follow the signature and are covered by it.
                let &[flags, _, _, _, _] = trailer else {
                    return Err(VerifyError::Malformed("no flags and counter of a security key".to_owned()));
                };
                self.check(data, [bytes, trailer].concat())?;
                if flags & USER_PRESENT == 0 {
                    return Err(VerifyError::NotTouched);
                }
                Ok(Proof { user_verified: flags & USER_VERIFIED != 0 })
            }
            _ => {
                reader.end().map_err(malformed)?;
                if algorithm != self.kind() {
                    return wrong();
                }
                self.check(data, bytes.to_vec())?;
                Ok(Proof { user_verified: false })
            }
        }
    }

    fn check(&self, data: &[u8], signature: Vec<u8>) -> Result<(), VerifyError> {
        let algorithm: Algorithm = self.key.algorithm();
        let signature = Signature::new(algorithm, signature).map_err(|error| VerifyError::Malformed(error.to_string()))?;
        self.key.verify(data, &signature).map_err(|_| VerifyError::Mismatch)
    }
}

/// Type and base64 of a line of a `.pub` file.
fn words(line: &str) -> Result<(&str, &str), KeyError> {
    let mut words = line.split_ascii_whitespace();
    let both = words.next().zip(words.next());
    both.ok_or_else(|| KeyError::Malformed("it should be `TYPE BASE64 [COMMENT]`".to_owned()))
}

/// The blob, if it is of this type.
fn decode(kind: &str, base64: &str) -> Result<Vec<u8>, KeyError> {
    let blob = STANDARD.decode(base64).map_err(|error| KeyError::Malformed(format!("base64: {error}")))?;
    let inside = Reader::new(&blob).text("the key type")?;
    if inside != kind {
        return Err(KeyError::Malformed(format!("it says `{}` but is `{}`", printable(kind), printable(inside))));
    }
    Ok(blob)
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.kind(), self.fingerprint())
    }
}

/// `SHA256:...` of any key blob, certificates included.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

/// A name from outside, fit for an error message.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}
