//! The keys in a file of authorized keys (sshd(8), `AUTHORIZED_KEYS` FILE FORMAT): which type, how strong, and which key, so that a
//! change can be told by which of them count no more; and which lines sshd passes over, and why. Whose they are, and whether sshd would read
//! the file, is not known here.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::ssh::blob::{BlobError, Reader};
use crate::ssh::public_key::fingerprint;
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::facts::key_options::{self, LineFault, NoKey};

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
pub(super) const RSA_BITS_MIN: u32 = 1024;

/// One line of a file of authorized keys.
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
    /// Which line of the file it is.
    #[serde(default)]
    pub line: u32,
    /// Why sshd passes over the line, where it does for certain.
    #[serde(default)]
    pub fault: Option<LineFault>,
}

/// The `kind` of a line that is no comment and gives no key that sshfix knows: an authority, of which it is not known which keys it signed,
/// a type of key that is new or old, or what is no key at all (`fault`). Its fingerprint is that of the line.
const UNKNOWN: &str = "unknown";
/// Of a file these many lines that sshd passes over are named: they decide nothing.
const MAX_FAULTS: usize = 20;

/// The lines of a file that are no comments, in their order, which counts: each once, since its first decides.
pub fn authorized_keys(text: &str) -> Vec<AuthorizedKey> {
    let (mut found, mut seen, mut faults) = (Vec::new(), BTreeSet::new(), 0);
    for (number, text) in (1..).zip(text.lines()) {
        let Some(text) = content(text) else { continue };
        let unknown = |fault| AuthorizedKey {
            kind: UNKNOWN.to_owned(),
            fingerprint: fingerprint(text.as_bytes()),
            rsa_bits: None,
            options: String::new(),
            line: number,
            fault,
        };
        let line = match key(text) {
            Ok(key) => AuthorizedKey { line: number, ..key },
            Err(NoKey::NotKnown) => unknown(None),
            Err(NoKey::Fault(fault)) => unknown(Some(fault)),
        };
        faults += usize::from(line.fault.is_some());
        if line.fault.is_some() && faults > MAX_FAULTS {
            continue;
        }
        if seen.insert((line.kind.clone(), line.fingerprint.clone(), line.options.clone())) {
            found.push(line);
        }
    }
    found
}

/// What sshd reads of a line; nothing of comments and empty ones. It ends a text at its first NUL.
fn content(line: &str) -> Option<&str> {
    let line = line.split('\0').next().unwrap_or_default().trim_start_matches(BLANKS);
    (!line.trim_end().is_empty() && !line.starts_with('#')).then_some(line)
}

/// What parts words for sshd.
const BLANKS: [char; 2] = [' ', '\t'];

/// A public key at the front of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicKey {
    pub(super) kind: &'static str,
    pub(super) fingerprint: String,
    pub(super) rsa_bits: Option<u32>,
}

/// sshkey.c, `sshkey_read`: `TYPE BASE64`, whatever follows.
pub(super) fn public_key(text: &str) -> Result<PublicKey, NoKey> {
    let mut words = text.split(BLANKS).filter(|word| !word.is_empty());
    let word = words.next().unwrap_or_default();
    let Some(kind) = KINDS.into_iter().find(|kind| *kind == word) else {
        let may_be_one = ["ssh-", "sk-", "ecdsa-", "rsa-", "webauthn-"].iter().any(|start| word.starts_with(start));
        return Err(if may_be_one { NoKey::NotKnown } else { NoKey::Fault(LineFault::NoType) });
    };
    let base64: String = words.next().unwrap_or_default().split(|c: char| c.is_ascii_whitespace() || c == '\x0b').collect();
    let blob = STANDARD.decode(base64).map_err(|_| NoKey::Fault(LineFault::NotWhole))?;
    let rsa_bits = whole(kind, &blob).map_err(NoKey::Fault)?;
    Ok(PublicKey { kind, fingerprint: fingerprint(&blob), rsa_bits })
}

/// sshkey.c, `sshkey_from_blob`: the type of the blob is the line's, and its parts fill it. Of RSA keys the length.
fn whole(kind: &str, blob: &[u8]) -> Result<Option<u32>, LineFault> {
    let mut reader = Reader::new(blob);
    let own = reader.string("the type").map_err(|_| LineFault::NotWhole)?;
    if own != kind.as_bytes() {
        return Err(if KINDS.iter().any(|kind| kind.as_bytes() == own) { LineFault::OtherType } else { LineFault::NotWhole });
    }
    if kind == "ssh-rsa" {
        return rsa_bits(reader).map(Some).ok_or(LineFault::NotWhole);
    }
    let mut parts = || -> Result<bool, BlobError> {
        let good = match kind.strip_prefix("ecdsa-sha2-").or(kind.strip_prefix("sk-ecdsa-sha2-")) {
            Some(curve) => {
                let curve = curve.trim_end_matches("@openssh.com");
                let length = match curve {
                    "nistp256" => 65,
                    "nistp384" => 97,
                    _ => 133,
                };
                let named = reader.string("the curve")? == curve.as_bytes();
                let point = reader.string("the point")?;
                named && point.len() == length && point.first() == Some(&4)
            }
            None => reader.string("the key")?.len() == 32,
        };
        if kind.starts_with("sk-") {
            reader.string("the application")?;
        }
        Ok(good && reader.rest().is_empty())
    };
    if parts().unwrap_or(false) { Ok(None) } else { Err(LineFault::NotWhole) }
}

/// auth2-pubkeyfile.c, `auth_check_authkey_line`: a key, or options and a key.
fn key(line: &str) -> Result<AuthorizedKey, NoKey> {
    let without = public_key(line);
    let (options, found) = match without {
        Ok(found) => ("", found),
        Err(first) => {
            let (options, rest) = past_options(line).map_err(NoKey::Fault)?;
            let found = public_key(rest).map_err(|second| match (first, second) {
                (NoKey::NotKnown, _) | (_, NoKey::NotKnown) => NoKey::NotKnown,
                (first, NoKey::Fault(LineFault::NoType)) => first,
                (_, second) => second,
            })?;
            (options, found)
        }
    };
    let authority = key_options::judge(options)?;
    if authority {
        return Err(NoKey::NotKnown);
    }
    let PublicKey { kind, fingerprint, rsa_bits } = found;
    let options = options.to_owned();
    Ok(AuthorizedKey { kind: kind.to_owned(), fingerprint, rsa_bits, options, line: 0, fault: None })
}

/// authfile.c, `sshkey_advance_past_options`: they end at the first blank outside of quotes.
fn past_options(line: &str) -> Result<(&str, &str), LineFault> {
    let (mut quoted, mut skipped) = (false, false);
    for (at, letter) in line.char_indices() {
        let escapes = letter == '\\' && line.get(at + 1..).is_some_and(|rest| rest.starts_with('"'));
        match letter {
            _ if skipped => skipped = false,
            '\\' if escapes => skipped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                let (options, rest) = line.split_at(at);
                return Ok((options, rest.trim_start_matches(BLANKS)));
            }
            _ => {}
        }
    }
    if quoted { Err(LineFault::Quotes) } else { Ok((line, "")) }
}

/// RFC 4253 section 6.6: the exponent and the modulus, behind the type.
fn rsa_bits(mut reader: Reader<'_>) -> Option<u32> {
    reader.string("the exponent").ok()?;
    let modulus = reader.string("the modulus").ok()?;
    if !reader.rest().is_empty() || modulus.first()? & 0x80 != 0 {
        return None;
    }
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
#[path = "authorized_keys_tests.rs"]
mod tests;
