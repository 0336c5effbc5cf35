//! Keys of the agent: its own, whose fingerprint is the host identity and which signs every reply, and how keys are made.
//! Private keys never leave this file but as signatures, and to the file they are kept in.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use sshfix_policy::reply::Reply;
use sshfix_policy::reply::audit::{CHECKPOINT_NAMESPACE, Checkpoint};
use sshfix_policy::reply::summary::Summary;
use sshfix_policy::request::wire::{Challenge, Hello, SignedReply, WireError};
use sshfix_policy::request::{PROTOCOL, REPLY_NAMESPACE};
use sshfix_policy::ssh::public_key::PublicKey;
use sshfix_policy::ssh::sshsig::{self, SshSigError};
use thiserror::Error;

use crate::random::{self, NoRandomness};
use crate::sys::files::{self, FileError, Old};

/// An ed25519 key file is about 400 bytes.
const KEY_LIMIT: u64 = 64 * 1024;

/// Why a key cannot be used or made.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read, or others could have written it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Others can read it.
    #[error(
        "{path} can be read by others (mode {mode:04o}): anyone who has read it can answer as this host; `chmod 600 {path}`, or make a new one"
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// As it is.
        mode: u32,
    },
    /// Not a key we can sign with.
    #[error("{path} is not an unencrypted private key in OpenSSH's format: {why}")]
    NotAKey {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Of a type or length that nothing verifies.
    #[error("the host key cannot be verified with: {0}")]
    Unfit(String),
    /// No random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// A new key could not be written down.
    #[error("the new key could not be encoded: {0}")]
    Encode(ssh_key::Error),
    /// The reply could not be signed.
    #[error(transparent)]
    Sign(#[from] SshSigError),
    /// The reply does not fit a frame.
    #[error("{0}")]
    Frame(#[from] WireError),
    /// The reply could not be written as JSON.
    #[error("the reply could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The agent's own key.
#[derive(Debug)]
pub struct Identity {
    key: PrivateKey,
    fingerprint: String,
    public: String,
}

impl Identity {
    /// Reads the key; its file must be root's, and nobody else's to read or write.
    pub fn load(path: &Path) -> Result<Identity, IdentityError> {
        Self::of(load(path)?)
    }

    fn of(key: PrivateKey) -> Result<Identity, IdentityError> {
        let public = key.public_key().to_openssh().map_err(IdentityError::Encode)?;
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        Ok(Identity { key, fingerprint, public })
    }

    /// The host identity: `SHA256:...`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The public key, one line as in a `.pub` file.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The whole frame of the hello that gives this challenge, and tells where the agent looks for sshd.
    pub fn hello(&self, challenge: Challenge, ssh_port: u16) -> Result<Vec<u8>, IdentityError> {
        let (host, key) = (self.fingerprint.clone(), self.public.clone());
        Ok(Hello { protocol: PROTOCOL, host, key, challenge, ssh_port }.encode()?)
    }

    /// The whole frame of a reply, signed.
    pub fn sign_reply(&self, reply: &Reply) -> Result<Vec<u8>, IdentityError> {
        let payload = serde_json::to_vec(reply)?;
        let signature = sshsig::sign(&self.key, REPLY_NAMESPACE, &payload)?;
        Ok(SignedReply::new(payload, signature).encode()?)
    }

    /// The public key, to verify with.
    pub fn public_key(&self) -> Result<PublicKey, IdentityError> {
        let blob = self.key.public_key().to_bytes().map_err(IdentityError::Encode)?;
        PublicKey::from_blob(&blob).map_err(|error| IdentityError::Unfit(error.to_string()))
    }

    /// Signs what is left of audit records that were summed up.
    pub fn sign_summary(&self, summary: &Summary) -> Result<Vec<u8>, IdentityError> {
        Ok(sshsig::sign(&self.key, CHECKPOINT_NAMESPACE, summary.payload().as_bytes())?)
    }

    /// Signs a head of the audit records.
    pub fn sign_checkpoint(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, IdentityError> {
        Ok(sshsig::sign(&self.key, CHECKPOINT_NAMESPACE, checkpoint.payload().as_bytes())?)
    }
}

/// Reads a private key that nobody but root can read or write.
pub fn load(path: &Path) -> Result<PrivateKey, IdentityError> {
    let not_a_key = |why: String| IdentityError::NotAKey { path: path.to_owned(), why };
    let bytes = files::read_checked(path, KEY_LIMIT)?.bytes;
    // Only root can have put another file here since, so asking by name is no race.
    let mode = fs::symlink_metadata(path).map_err(|e| not_a_key(e.to_string()))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    let key = PrivateKey::from_openssh(bytes).map_err(|e| not_a_key(e.to_string()))?;
    if key.is_encrypted() {
        return Err(not_a_key("it has a passphrase".to_owned()));
    }
    Ok(key)
}

/// The file beside a key that holds its public half: the same name with `.pub`.
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".pub");
    name.into()
}

/// Whether that file holds the public half of this key.
pub fn is_public_half(path: &Path, key: &PrivateKey) -> Result<bool, IdentityError> {
    let bytes = files::read_checked(path, KEY_LIMIT)?.bytes;
    let found = std::str::from_utf8(&bytes).ok().and_then(|text| ssh_key::PublicKey::from_openssh(text.trim()).ok());
    Ok(found.is_some_and(|found| found.key_data() == key.public_key().key_data()))
}

/// A new ed25519 key, from the kernel's random bytes.
pub fn generate(comment: &str) -> Result<PrivateKey, IdentityError> {
    let pair = Ed25519Keypair::from_seed(&random::bytes::<32>()?);
    PrivateKey::new(KeypairData::Ed25519(pair), comment).map_err(IdentityError::Encode)
}

/// Writes a private key in OpenSSH's format, 0600. There must be no such file yet.
pub fn save_private(path: &Path, key: &PrivateKey) -> Result<(), IdentityError> {
    let text = key.to_openssh(LineEnding::LF).map_err(IdentityError::Encode)?;
    Ok(files::replace(path, None, text.as_bytes(), 0o600, Old::Gone)?)
}

/// Writes the public half, 0644. There must be no such file yet.
pub fn save_public(path: &Path, key: &PrivateKey) -> Result<(), IdentityError> {
    let line = key.public_key().to_openssh().map_err(IdentityError::Encode)?;
    Ok(files::replace(path, None, format!("{line}\n").as_bytes(), 0o644, Old::Gone)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;
    use sshfix_policy::reply::{Body, ErrorCode, ErrorDocument};
    use sshfix_policy::request::wire::PREFIX;
    use sshfix_policy::ssh::sshsig::SshSig;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_reads_back_and_its_replies_verify() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_ed25519");
        let key = generate("sshfix agent").unwrap();
        save_private(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let identity = Identity::load(&path).unwrap();
        assert_eq!(identity.fingerprint(), key.fingerprint(HashAlg::Sha256).to_string());

        let reply = Reply {
            request: "r".to_owned(),
            challenge: "c".to_owned(),
            host: identity.fingerprint().to_owned(),
            body: Body::Error(ErrorDocument::new(ErrorCode::Usage, "no", "none")),
        };
        let frame = identity.sign_reply(&reply).unwrap();
        let signed = SignedReply::decode(&frame[PREFIX..]).unwrap();
        let signature = SshSig::parse(signed.signature()).unwrap();
        assert_eq!(signature.namespace, REPLY_NAMESPACE);
        let public = PublicKey::from_blob(&key.public_key().to_bytes().unwrap()).unwrap();
        signature.verify(&public, signed.payload()).unwrap();
        assert!(signature.verify(&public, b"something else").is_err());
        assert_eq!(serde_json::from_slice::<Reply>(signed.payload()).unwrap(), reply);
    }

    #[test]
    fn two_keys_are_never_the_same() {
        let fingerprints = [generate("").unwrap(), generate("").unwrap()].map(|key| key.fingerprint(HashAlg::Sha256));
        assert_ne!(fingerprints[0], fingerprints[1]);
    }

    #[test]
    fn a_key_is_never_written_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        save_private(&path, &generate("first").unwrap()).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(save_private(&path, &generate("second").unwrap()).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn exposed_encrypted_and_broken_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        save_private(&path, &generate("").unwrap()).unwrap();
        for mode in [0o640, 0o604, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(Identity::load(&path), Err(IdentityError::Exposed { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        assert!(matches!(Identity::load(&path), Err(IdentityError::File(_))), "others can write it");
        let broken = dir.path().join("broken");
        fs::write(&broken, "ssh-ed25519 AAAA").unwrap();
        fs::set_permissions(&broken, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Identity::load(&broken), Err(IdentityError::NotAKey { .. })));
        assert!(matches!(Identity::load(&dir.path().join("none")), Err(IdentityError::File(FileError::Missing(_)))));
    }
}
