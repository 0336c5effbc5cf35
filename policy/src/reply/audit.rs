//! Audit records as they are shown and searched, and checkpoints: signed heads of their chain, to be kept elsewhere. Decides
//! whether a record fits a filter and whether a checkpoint is genuine; reads and writes no record.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address::{Source, canonical};
use crate::reply::{is_zero, schema};
use crate::request::audit::{Filter, Outcome};
use crate::request::{Action, Mode, Operation};
use crate::ssh::public_key::{PublicKey, fingerprint, printable};
use crate::ssh::sshsig::{self, SshSig};

/// The SSHSIG namespace of checkpoints.
pub const CHECKPOINT_NAMESPACE: &str = "sshfix-audit@v1";
/// The first line of a checkpoint.
const TITLE: &str = "sshfix audit checkpoint v1";

impl Filter {
    /// Whether a record fits, the limit aside.
    pub fn fits(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let about = |wanted: Source| {
            let asked = record.operation.as_ref().and_then(Operation::source);
            let from = record.from.map(|from| Source::from(canonical(from)));
            asked.is_some_and(|asked| asked.overlaps(wanted)) || from.is_some_and(|from| wanted.contains(from))
        };
        self.since.is_none_or(|since| record.opened_at >= since)
            && self.until.is_none_or(|until| record.opened_at <= until)
            && same(&self.principal, &record.principal)
            && self.action.is_none_or(|action| record.operation.as_ref().map(Operation::action) == Some(action))
            && same(&self.change, &record.change)
            && self.outcome.is_none_or(|outcome| record.outcome == Some(outcome))
            && self.address.is_none_or(about)
    }
}

schema!(AuditSchema, "sshfix.audit/1");
schema!(VerificationSchema, "sshfix.audit-verification/1");
schema!(CheckpointSchema, "sshfix.audit-checkpoint/1");

/// The records of `audit show`, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// `sshfix.audit/1`
    pub schema: AuditSchema,
    /// Those that fit, newest first.
    pub records: Vec<Record>,
    /// How many more of these there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
    /// Whether there are older ones that fit too.
    pub more: bool,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// One request, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number in the chain.
    pub record: i64,
    /// When it came in.
    pub opened_at: Timestamp,
    /// When it was over; `None` while it runs.
    pub closed_at: Option<Timestamp>,
    /// Who signed; `None` when nobody we know did.
    pub principal: Option<String>,
    /// The `SHA256:...` fingerprint of the key that signed.
    pub key: Option<String>,
    /// The process at the other end of the socket (`SO_PEERCRED`): its user,
    pub peer_uid: Option<u32>,
    /// and its id.
    pub peer_pid: Option<i32>,
    /// The address the person came in from, as the signed request says.
    pub from: Option<IpAddr>,
    /// The same, under the name that says what it is: the signer's claim, which nobody has checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_from: Option<IpAddr>,
    /// The request id.
    pub request: Option<String>,
    /// What was asked, in the word a grant names.
    pub action: Option<Action>,
    /// What was asked.
    pub operation: Option<Operation>,
    /// Whether it was to be shown or made.
    pub mode: Option<Mode>,
    /// What the person gave as the reason.
    pub reason: Option<String>,
    /// What the agent did where nobody asked: the end of a lease, requests that were counted together.
    #[serde(alias = "of_itself")]
    pub automatic: Option<String>,
    /// What became of it; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// The full reason, which a refused peer is not told.
    pub detail: String,
    /// `sha256:...` of the plan that was made, if one was.
    pub plan: Option<String>,
    /// The change id, if a change was begun.
    pub change: Option<String>,
}

/// What following the whole chain came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// `sshfix.audit-verification/1`
    pub schema: VerificationSchema,
    /// Whether no problem was found.
    pub intact: bool,
    /// How many records were read: opened and closed count one each.
    pub records: i64,
    /// When the first of them was written.
    pub first_at: Option<Timestamp>,
    /// When the last of them was written.
    pub last_at: Option<Timestamp>,
    /// The SHA-256 of the last record, which vouches for all before it.
    pub head: String,
    /// How many of this host's stored checkpoints hold.
    pub checkpoints: usize,
    /// Everything that is wrong, in the order of the records; at most 100.
    pub problems: Vec<Problem>,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// One record that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its number.
    pub record: i64,
    /// What is wrong with it.
    pub problem: String,
}

/// `audit checkpoint`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointDocument {
    /// `sshfix.audit-checkpoint/1`
    pub schema: CheckpointSchema,
    /// The host identity that signed.
    pub host: String,
    /// When.
    pub at: Timestamp,
    /// The last record it vouches for.
    pub record: i64,
    /// That record's SHA-256.
    pub hash: String,
    /// All of it with the signature, as `audit verify --checkpoint` takes it.
    pub text: String,
}

/// The head of the chain at one time: whoever keeps a signed one can prove later that nothing up to it was altered or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The host identity: the `SHA256:...` fingerprint of the key that signs it.
    pub host: String,
    /// When.
    pub at: Timestamp,
    /// The last record.
    pub record: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// Why a checkpoint is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Not what `audit checkpoint` prints.
    #[error("this is not a checkpoint as `audit checkpoint` prints it: {0}")]
    Malformed(String),
    /// By a key that is not this host's.
    #[error("the checkpoint was signed by {0}, which is not the key of this host")]
    OtherKey(String),
    /// The signature does not hold.
    #[error("the checkpoint was altered: {0}")]
    Signature(String),
}

impl Checkpoint {
    /// The bytes that are signed: five lines.
    pub fn payload(&self) -> String {
        format!("{TITLE}\nhost {}\nat {}\nrecord {}\nhash {}\n", self.host, self.at, self.record, hex(&self.hash))
    }

    /// Payload and armored signature, as `ssh-keygen -Y verify` takes them too.
    pub fn text(&self, signature: &[u8]) -> String {
        self.payload() + &sshsig::to_armor(signature)
    }

    /// As it is shown.
    pub fn document(&self, signature: &[u8]) -> CheckpointDocument {
        CheckpointDocument {
            schema: CheckpointSchema::V1,
            host: self.host.clone(),
            at: self.at,
            record: self.record,
            hash: hex(&self.hash),
            text: self.text(signature),
        }
    }

    /// Reads what [`Checkpoint::text`] wrote and believes it only if this key signed it.
    pub fn read(text: &str, key: &PublicKey) -> Result<Checkpoint, CheckpointError> {
        let malformed = |why: &str| CheckpointError::Malformed(why.to_owned());
        let text = text.replace("\r\n", "\n");
        let text = text.trim();
        let cut = text.find("-----BEGIN").ok_or_else(|| malformed("it has no signature"))?;
        let (payload, armor) = text.split_at_checked(cut).ok_or_else(|| malformed("it has no signature"))?;
        let checkpoint = Self::parse(payload)?;
        let blob = sshsig::from_armor(armor).map_err(|error| CheckpointError::Malformed(error.to_string()))?;
        checkpoint.check(&blob, key)?;
        Ok(checkpoint)
    }

    /// Whether this signature over it, as stored, is by this key.
    pub fn check(&self, signature: &[u8], key: &PublicKey) -> Result<(), CheckpointError> {
        let signature = SshSig::parse(signature).map_err(|error| CheckpointError::Malformed(error.to_string()))?;
        if signature.key != key.blob() {
            return Err(CheckpointError::OtherKey(fingerprint(signature.key)));
        }
        if signature.namespace != CHECKPOINT_NAMESPACE {
            return Err(CheckpointError::Signature(format!("it is a signature for {}", printable(signature.namespace))));
        }
        let held = signature.verify(key, self.payload().as_bytes());
        held.map(|_| ()).map_err(|error| CheckpointError::Signature(error.to_string()))
    }

    fn parse(payload: &str) -> Result<Checkpoint, CheckpointError> {
        let malformed = |why: &str| CheckpointError::Malformed(why.to_owned());
        let mut lines = payload.lines();
        if lines.next() != Some(TITLE) {
            return Err(malformed("its first line is another"));
        }
        let mut field = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)).and_then(|rest| rest.strip_prefix(' '));
            line.ok_or_else(|| CheckpointError::Malformed(format!("its line `{name}` is missing")))
        };
        let checkpoint = Checkpoint {
            host: field("host")?.to_owned(),
            at: field("at")?.parse().map_err(|_| malformed("its time is none"))?,
            record: field("record")?.parse().map_err(|_| malformed("its record is no number"))?,
            hash: unhex(field("hash")?).ok_or_else(|| malformed("its hash is none"))?,
        };
        // Anything else would be signed under another reading.
        if checkpoint.payload() == payload { Ok(checkpoint) } else { Err(malformed("its lines are not as they are written")) }
    }
}

/// Lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ssh_key::PrivateKey;
    use ssh_key::private::Ed25519Keypair;

    use super::*;
    use crate::request::Intent;

    fn key(seed: u8) -> (PrivateKey, PublicKey) {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        let public = PublicKey::from_blob(&key.public_key().to_bytes().unwrap()).unwrap();
        (key, public)
    }

    fn checkpoint(host: &PublicKey) -> Checkpoint {
        Checkpoint { host: host.fingerprint(), at: "2026-11-21T06:34:31.5Z".parse().unwrap(), record: 41, hash: [0xab; 32] }
    }

    #[test]
    fn a_checkpoint_reads_back_and_only_the_hosts_key_makes_one() {
        let (signer, public) = key(1);
        let checkpoint = checkpoint(&public);
        let signature = sshsig::sign(&signer, CHECKPOINT_NAMESPACE, checkpoint.payload().as_bytes()).unwrap();
        let text = checkpoint.text(&signature);
        assert_eq!(Checkpoint::read(&text, &public), Ok(checkpoint.clone()));
        // As mail and copying leave it.
        assert_eq!(Checkpoint::read(&format!("\n{}\n", text.replace('\n', "\r\n")), &public), Ok(checkpoint.clone()));
        assert!(matches!(Checkpoint::read(&text, &key(2).1), Err(CheckpointError::OtherKey(_))));
        let elsewhere = sshsig::sign(&signer, "sshfix-reply@v1", checkpoint.payload().as_bytes()).unwrap();
        assert!(matches!(Checkpoint::read(&checkpoint.text(&elsewhere), &public), Err(CheckpointError::Signature(_))));
    }

    #[test]
    fn every_altered_character_of_a_checkpoint_is_refused() {
        let (signer, public) = key(1);
        let checkpoint = checkpoint(&public);
        let signature = sshsig::sign(&signer, CHECKPOINT_NAMESPACE, checkpoint.payload().as_bytes()).unwrap();
        let text = checkpoint.text(&signature);
        for (at, byte) in text.bytes().enumerate() {
            if byte == b'\n' {
                continue;
            }
            let mut bytes = text.clone().into_bytes();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = if *byte == b'0' { b'1' } else { b'0' };
            }
            let altered = String::from_utf8(bytes).unwrap();
            assert!(Checkpoint::read(&altered, &public).is_err(), "{at}: {altered}");
        }
        for end in 0..text.trim_end().len() {
            assert!(Checkpoint::read(text.get(..end).unwrap(), &public).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_filter_compares_addresses_not_text() {
        let record = |from: &str, about: &str| Record {
            record: 1,
            opened_at: Timestamp::UNIX_EPOCH,
            closed_at: None,
            principal: Some("alice".to_owned()),
            key: None,
            peer_uid: None,
            peer_pid: None,
            from: Some(from.parse().unwrap()),
            claimed_from: Some(from.parse().unwrap()),
            request: None,
            action: Some(Action::Unban),
            operation: Some(Operation::Intent(Intent::Unban {
                source: about.parse().unwrap(),
                jail: None,
                ignore_for: None,
                range: false,
            })),
            mode: None,
            reason: None,
            automatic: None,
            outcome: Some(Outcome::Confirmed),
            detail: String::new(),
            plan: None,
            change: Some("6d05d3c4d0".to_owned()),
        };
        let about = |address: &str| Filter { address: Some(address.parse().unwrap()), ..Filter::default() };
        let one = record("::ffff:198.51.100.7", "10.0.0.1");
        for fits in ["10.0.0.1", "10.0.0.0/24", "198.51.100.7", "198.51.100.0/24"] {
            assert!(about(fits).fits(&one), "{fits}");
        }
        for other in ["10.0.0.10", "198.51.100.70", "2001:db8::7"] {
            assert!(!about(other).fits(&one), "{other}");
        }
        assert!(about("10.0.0.1").fits(&record("2001:db8::7", "10.0.0.0/8")), "a range that holds it");
        let all = Filter {
            principal: Some("alice".to_owned()),
            action: Some(Action::Unban),
            change: Some("6d05d3c4d0".to_owned()),
            outcome: Some(Outcome::Confirmed),
            since: Some(Timestamp::UNIX_EPOCH),
            until: Some(Timestamp::UNIX_EPOCH),
            ..about("10.0.0.1")
        };
        assert!(all.fits(&one));
        assert!(!Filter { principal: Some("alic".to_owned()), ..all.clone() }.fits(&one));
        assert!(!Filter { action: Some(Action::Ban), ..all.clone() }.fits(&one));
        assert!(!Filter { outcome: Some(Outcome::Pending), ..all.clone() }.fits(&one));
        assert!(!Filter { change: Some("6d05".to_owned()), ..all.clone() }.fits(&one));
        assert!(!Filter { since: Some(Timestamp::MAX), ..all.clone() }.fits(&one));
        assert!(!Filter { until: Some(Timestamp::MIN), ..all }.fits(&one));
    }
}
