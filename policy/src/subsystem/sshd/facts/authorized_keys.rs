//! The keys in a file of authorized keys (sshd(8), `AUTHORIZED_KEYS` FILE FORMAT): which type, how strong, and which key, so that a
//! change can be told by which of them count no more. Whose they are, and whether sshd would read the file, is not known here.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::ssh::blob::Reader;
use crate::ssh::public_key::fingerprint;
use crate::subsystem::sshd::Effective;

const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];
/// `SSH_RSA_MINIMUM_MODULUS_SIZE` (sshkey.h), which is what counts where `RequiredRSASize` is not known yet (before 9.1).
const RSA_BITS_MIN: u32 = 1024;

/// One key that may log in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AuthorizedKey {
    /// Its type: `ssh-ed25519`, ...
    pub kind: String,
    /// `SHA256:...`
    pub fingerprint: String,
    /// The length of an RSA key.
    pub rsa_bits: Option<u32>,
    /// What stands before it, to the letter: `from="10.0.0.0/8",no-pty`; empty for most.
    #[serde(default)]
    pub options: String,
}

/// The `kind` of a line that is no comment and gives no key that sshfix knows: an authority, of which it is not known which keys it signed,
/// a type of key that is new or old, or what is no key at all. Its fingerprint is that of the line.
const UNKNOWN: &str = "unknown";

/// Each key of a file once, and each other line that is no comment.
pub fn authorized_keys(text: &str) -> Vec<AuthorizedKey> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let unknown = |line: &str| AuthorizedKey {
        kind: UNKNOWN.to_owned(),
        fingerprint: fingerprint(line.as_bytes()),
        rsa_bits: None,
        options: String::new(),
    };
    let mut keys: Vec<AuthorizedKey> = lines.map(|line| key(line).unwrap_or_else(|| unknown(line))).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn key(line: &str) -> Option<AuthorizedKey> {
    let (mut quoted, mut escaped) = (false, false);
    // Options may hold blanks inside quotes.
    let words = line.split(|c: char| {
        let blank = !quoted && matches!(c, ' ' | '\t');
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        blank
    });
    // Options, kind and key; what stands behind them is a comment.
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).take(3).collect();
    let (options, kind, base64) = match words[..] {
        [kind, base64, ..] if KINDS.contains(&kind) => ("", kind, base64),
        [options, kind, base64] if KINDS.contains(&kind) => (options, kind, base64),
        _ => return None,
    };
    if options.split(',').any(|option| option.eq_ignore_ascii_case("cert-authority")) {
        return None;
    }
    let blob = STANDARD.decode(base64).ok()?;
    let rsa_bits = if kind == "ssh-rsa" { Some(rsa_bits(&blob)?) } else { None };
    Some(AuthorizedKey { kind: kind.to_owned(), fingerprint: fingerprint(&blob), rsa_bits, options: options.to_owned() })
}

/// RFC 4253 section 6.6: the type, the exponent and the modulus.
fn rsa_bits(blob: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(blob);
    reader.string("the type").ok()?;
    reader.string("the exponent").ok()?;
    let modulus = reader.string("the modulus").ok()?;
    let zeros: u32 = modulus.iter().take_while(|byte| **byte == 0).map(|_| 8).sum();
    let first = modulus.iter().find(|byte| **byte != 0)?;
    u32::try_from(modulus.len()).ok()?.checked_mul(8)?.checked_sub(zeros + first.leading_zeros())
}

impl AuthorizedKey {
    /// The value of an option (sshd(8)): `10.0.0.0/8` of `from="10.0.0.0/8"`; empty for one that has none.
    pub fn option(&self, name: &str) -> Option<String> {
        let (mut quoted, mut escaped) = (false, false);
        let options = self.options.split(|c: char| {
            let ends = !quoted && c == ',';
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let mut pairs = options.map(|option| option.split_once('=').unwrap_or((option, "")));
        let (_, value) = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value).replace("\\\"", "\""))
    }

    /// Whether it is what it says it is, as far as its text goes: a type that there is, and a SHA-256 in Base64 without padding.
    pub fn is_well_formed(&self) -> bool {
        let digest = self.fingerprint.strip_prefix("SHA256:").unwrap_or_default();
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
        (KINDS.contains(&self.kind.as_str()) || !self.is_key()) && digest.len() == 43 && digest.chars().all(letter)
    }

    /// Whether it is a key.
    pub fn is_key(&self) -> bool {
        self.kind != UNKNOWN
    }

    /// By what this sshd lets it sign, as long as it is (RFC 8332: the type `ssh-rsa` signs by two algorithms of this age, and one by SHA-1).
    pub fn signs_by(&self, effective: &Effective) -> BTreeSet<&'static str> {
        let accepted: Vec<&str> = effective.one("pubkeyacceptedalgorithms").unwrap_or_default().split(',').collect();
        let required = effective.one("requiredrsasize").and_then(|bits| bits.parse().ok()).unwrap_or(RSA_BITS_MIN);
        if self.rsa_bits.is_some_and(|bits| bits < required) {
            return BTreeSet::new();
        }
        let own = KINDS.into_iter().filter(|kind| *kind == self.kind);
        let besides: &[&str] = match self.kind.as_str() {
            "ssh-rsa" => &["rsa-sha2-256", "rsa-sha2-512"],
            "sk-ecdsa-sha2-nistp256@openssh.com" => &["webauthn-sk-ecdsa-sha2-nistp256@openssh.com"],
            _ => &[],
        };
        own.chain(besides.iter().copied()).filter(|algorithm| accepted.contains(algorithm)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn the_types_of_authorized_keys_are_read_behind_their_options() {
        let text = "# ssh-dss x\nssh-ed25519 AAAA a\n\n  command=\"echo \\\"ssh-rsa a\\\" b\",no-pty ecdsa-sha2-nistp256 AAAA\n\
                    cert-authority ssh-ed25519 BBBB ca\nssh-ed25519\nnonsense x y\nssh-ed25519 AAAA again\nssh-ed25519 ?\nssh-rsa AAAA\n";
        let keys = authorized_keys(text);
        assert_eq!(keys[0].option("Command").as_deref(), Some("echo \"ssh-rsa a\" b"));
        assert_eq!((keys[0].option("no-pty").as_deref(), keys[0].option("from")), (Some(""), None));
        let kinds: Vec<&str> = keys.iter().filter(|key| key.is_key()).map(|key| key.kind.as_str()).collect();
        assert_eq!(kinds, ["ecdsa-sha2-nistp256", "ssh-ed25519"]);
        // An authority, two without a key, one without a type and one whose key ends in its middle.
        assert_eq!(keys.iter().filter(|key| !key.is_key() && key.is_well_formed()).count(), 5);
        assert_eq!(authorized_keys(""), []);
    }

    #[test]
    fn an_rsa_key_is_taken_where_it_is_long_enough() {
        // Type, exponent 65537, and a modulus of 2,048 bits with the zero that keeps it positive.
        let mut blob = b"\0\0\0\x07ssh-rsa\0\0\0\x03\x01\0\x01\0\0\x01\x01\0\x80".to_vec();
        blob.extend([0; 255]);
        let text = format!("ssh-rsa {} me\n", STANDARD.encode(blob));
        let keys = authorized_keys(&text);
        let key = keys.first().unwrap();
        assert_eq!(key.rsa_bits, Some(2048));
        let signs = |size: &str, algorithms: &str| -> Vec<&str> {
            let effective = Effective::parse(&format!("requiredrsasize {size}\npubkeyacceptedalgorithms {algorithms}\n"));
            key.signs_by(&effective).into_iter().collect()
        };
        assert_eq!(signs("2048", "ssh-ed25519,rsa-sha2-256"), ["rsa-sha2-256"]);
        assert_eq!(signs("1024", "rsa-sha2-512,ssh-rsa"), ["rsa-sha2-512", "ssh-rsa"]);
        assert_eq!(signs("2049", "rsa-sha2-256"), [""; 0]);
        assert_eq!(signs("1024", "ssh-ed25519"), [""; 0]);
    }
}
