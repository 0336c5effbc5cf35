//! Old audit records of questions, summed up: a run of them is replaced by how many they were and by the two ends of the chain that they held
//! together, signed by the host's key. Decides whether such a summary is genuine; reads and writes no record.

use serde::{Deserialize, Serialize};

use crate::reply::audit::{CHECKPOINT_NAMESPACE, CheckpointError, hex};
use crate::ssh::public_key::{PublicKey, fingerprint};
use crate::ssh::sshsig::SshSig;

/// The first line of what is signed; never that of a checkpoint.
const TITLE: &str = "sshfix audit summary v1";

/// A run of records that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The host identity that signs it.
    pub host: String,
    /// The first record of the run,
    pub first: i64,
    /// and the last.
    pub last: i64,
    /// The hash of the record before the run,
    pub before: [u8; 32],
    /// and of its last one.
    pub hash: [u8; 32],
    /// [`Counted`], as it is stored.
    pub body: String,
}

/// What is still said of the requests of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How many there were.
    pub requests: u64,
    /// How many of each signer; the rest under an empty name.
    pub signers: Vec<(String, u64)>,
    /// When the first came, in microseconds since 1970,
    pub from: i64,
    /// and the last.
    pub until: i64,
}

impl Summary {
    /// The bytes that are signed.
    pub fn payload(&self) -> String {
        let Self { host, first, last, before, hash, body } = self;
        format!("{TITLE}\nhost {host}\nrecords {first} {last}\nbefore {}\nhash {}\n{body}\n", hex(before), hex(hash))
    }

    /// Whether this signature over it is by this key.
    pub fn check(&self, signature: &[u8], key: &PublicKey) -> Result<(), CheckpointError> {
        let signature = SshSig::parse(signature).map_err(|error| CheckpointError::Malformed(error.to_string()))?;
        if signature.key != key.blob() {
            return Err(CheckpointError::OtherKey(fingerprint(signature.key)));
        }
        if signature.namespace != CHECKPOINT_NAMESPACE {
            return Err(CheckpointError::Signature("it is a signature for something else".to_owned()));
        }
        let held = signature.verify(key, self.payload().as_bytes());
        held.map(|_| ()).map_err(|error| CheckpointError::Signature(error.to_string()))
    }
}
