//! The two messages of the ssh-agent protocol that sshfix needs (draft-ietf-sshm-ssh-agent): list keys, sign. Keys and
//! signatures stay blobs, so that one key of a strange type does not spoil the list. Own code, because the crate at hand turns
//! on the `rsa` crate (RUSTSEC-2023-0071) and knows no time limit.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use sshfix_policy::ssh::blob::{BlobError, Reader, put_string};
use thiserror::Error;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Flag of a sign request for RSA keys: SHA-512 instead of SHA-1 (section 3.6.1 of the draft).
const RSA_SHA2_512: u32 = 4;
/// As in OpenSSH (authfd.c, `MAX_AGENT_IDENTITIES`, and the 256 KiB limit of a reply).
const IDENTITIES_MAX: u32 = 2048;
const REPLY_MAX: u32 = 256 * 1024;
/// Listing needs nobody; signing may wait for a finger or a click.
const LIST_TIME: Duration = Duration::from_secs(5);
const SIGN_TIME: Duration = Duration::from_mins(1);

/// Why ssh-agent gave no keys or no signature.
#[derive(Debug, Error)]
pub enum SshAgentError {
    /// Not there, or not in time.
    #[error("ssh-agent: {0}")]
    Io(#[from] std::io::Error),
    /// Not the protocol.
    #[error("ssh-agent sent an invalid answer: {0}")]
    Malformed(#[from] BlobError),
    /// A message that does not belong here.
    #[error("ssh-agent answered with message {0}")]
    Unexpected(u8),
    /// Too long or too many.
    #[error("ssh-agent's answer is too long")]
    TooLong,
    /// It has not got the key, or its user said no.
    #[error("ssh-agent refused to sign")]
    Refused,
}

/// A key that ssh-agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// Public key or certificate.
    pub blob: Vec<u8>,
    /// Often a file name.
    pub comment: String,
}

/// All keys that ssh-agent holds, in its order.
pub fn list(socket: &Path) -> Result<Vec<HeldKey>, SshAgentError> {
    keys_of(&exchange(socket, &[REQUEST_IDENTITIES], LIST_TIME)?)
}

/// The keys in ssh-agent's answer.
pub fn keys_of(answer: &[u8]) -> Result<Vec<HeldKey>, SshAgentError> {
    let mut reader = Reader::new(answer);
    match reader.u8("the message type")? {
        IDENTITIES_ANSWER => {}
        other => return Err(SshAgentError::Unexpected(other)),
    }
    let count = reader.u32("the number of keys")?;
    if count > IDENTITIES_MAX {
        return Err(SshAgentError::TooLong);
    }
    let mut keys = Vec::new();
    for _ in 0..count {
        let blob = reader.string("a key")?.to_vec();
        let comment = String::from_utf8_lossy(reader.string("a comment")?).into_owned();
        keys.push(HeldKey { blob, comment });
    }
    Ok(keys)
}

/// A signature blob by the key or certificate `blob` over `data`.
pub fn sign(socket: &Path, blob: &[u8], data: &[u8]) -> Result<Vec<u8>, SshAgentError> {
    let rsa = Reader::new(blob).text("the key type").is_ok_and(|kind| kind.starts_with("ssh-rsa"));
    let mut message = vec![SIGN_REQUEST];
    put_string(&mut message, blob);
    put_string(&mut message, data);
    message.extend_from_slice(&(if rsa { RSA_SHA2_512 } else { 0 }).to_be_bytes());
    signature_of(&exchange(socket, &message, SIGN_TIME)?)
}

/// The signature in ssh-agent's answer.
pub fn signature_of(answer: &[u8]) -> Result<Vec<u8>, SshAgentError> {
    let mut reader = Reader::new(answer);
    match reader.u8("the message type")? {
        SIGN_RESPONSE => Ok(reader.string("the signature")?.to_vec()),
        5 => Err(SshAgentError::Refused),
        other => Err(SshAgentError::Unexpected(other)),
    }
}

fn exchange(socket: &Path, message: &[u8], time: Duration) -> Result<Vec<u8>, SshAgentError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))?;
    let mut frame = Vec::new();
    put_string(&mut frame, message);
    stream.write_all(&frame)?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let length = u32::from_be_bytes(prefix);
    if length > REPLY_MAX {
        return Err(SshAgentError::TooLong);
    }
    let mut answer = Vec::new();
    stream.take(length.into()).read_to_end(&mut answer)?;
    if u32::try_from(answer.len()).ok() != Some(length) {
        return Err(BlobError::Short("the answer").into());
    }
    Ok(answer)
}
