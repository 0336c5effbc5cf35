//! `RevokedKeys`: which keys a file takes back (auth.c `auth_key_is_revoked`, krl.c, authfile.c `sshkey_in_file`). A file that is missing
//! or that sshd cannot read takes back every key, and so does one line that is no public key; an empty file takes back none. What a KRL
//! holds is not read here.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ssh::public_key::fingerprint;
use crate::subsystem::sshd::facts::authorized_keys::{RSA_BITS_MIN, public_key};
use crate::subsystem::sshd::facts::key_options::NoKey;

/// krl.h, `KRL_MAGIC`.
const KRL: &[u8] = b"SSHKRL\n\0";

/// A file of revoked keys as sshd would take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevokedKeys {
    /// It is not there: sshd refuses every key. The text says why.
    Missing(String),
    /// A line of it is no public key: sshd refuses every key. The text says which line.
    Broken(String),
    /// It could not be read here, so that it is not known what sshd makes of it. The text says why.
    Unread(String),
    /// Public keys line by line: their fingerprints.
    Keys(BTreeSet<String>),
    /// A key revocation list: its fingerprint, so that another one is told from it.
    Krl(String),
}

/// What the bytes of the file mean.
pub fn revoked_keys(bytes: &[u8]) -> RevokedKeys {
    if bytes.starts_with(KRL) {
        return RevokedKeys::Krl(fingerprint(bytes));
    }
    let mut keys = BTreeSet::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = String::from_utf8_lossy(line);
        let line = line.split('\0').next().unwrap_or_default().trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match public_key(line) {
            // authfile.c: the only error that is passed over, SSH_ERR_KEY_LENGTH.
            Ok(key) if key.rsa_bits.is_some_and(|bits| bits < RSA_BITS_MIN) => {}
            Ok(key) => _ = keys.insert(key.fingerprint),
            Err(NoKey::Fault(_)) => return RevokedKeys::Broken(format!("line {number} is no public key")),
            Err(NoKey::NotKnown) => {
                return RevokedKeys::Unread(format!("line {number} is of a type of key that sshfix does not know"));
            }
        }
    }
    RevokedKeys::Keys(keys)
}

#[cfg(test)]
#[path = "revoked_keys_tests.rs"]
mod tests;
