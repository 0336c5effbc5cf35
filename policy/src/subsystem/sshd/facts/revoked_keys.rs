//! `RevokedKeys`: which keys a file takes back (auth.c `auth_key_is_revoked`, krl.c, authfile.c `sshkey_in_file`). A file that is missing
//! or that sshd cannot read takes back every key; an empty one takes back none. What a KRL holds is not read here.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::ssh::public_key::fingerprint;

/// krl.h, `KRL_MAGIC`.
const KRL: &[u8] = b"SSHKRL\n\0";

/// A file of revoked keys as sshd would take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevokedKeys {
    /// It is not there: sshd refuses every key. The text says why.
    Missing(String),
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
    // A line that is no key is passed over.
    let words = |line: &str| line.split_ascii_whitespace().filter_map(|word| STANDARD.decode(word).ok()).collect::<Vec<_>>();
    let keys = String::from_utf8_lossy(bytes).lines().flat_map(words).map(|blob| fingerprint(&blob)).collect();
    RevokedKeys::Keys(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_takes_no_key_back_and_a_list_of_keys_takes_those() {
        assert_eq!(revoked_keys(b""), RevokedKeys::Keys(BTreeSet::new()));
        let RevokedKeys::Keys(keys) = revoked_keys(b"# old\nssh-ed25519 AAAA me\n\nfrom=\"x\" ssh-ed25519 BBBB\n") else {
            panic!("these are lines of keys");
        };
        assert!(keys.contains(&fingerprint(b"\0\0\0")) && keys.contains(&fingerprint(&[4, 16, 65])), "{keys:?}");
        assert!(matches!(revoked_keys(b"SSHKRL\n\0\0\0\0\x01"), RevokedKeys::Krl(_)));
    }
}
