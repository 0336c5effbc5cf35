//! OpenSSH user certificates (PROTOCOL.certkeys): parsed, and checked against the CA that signed them. Must not decide whether
//! that CA is trusted.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use thiserror::Error;

use crate::ssh::blob::{BlobError, Reader, put_string};
use crate::ssh::public_key::{KeyError, Proof, PublicKey, VerifyError, printable};

/// Certificate type, type of the key inside, and of how many strings that key consists.
const TYPES: [(&str, &str, usize); 7] = [
    ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", 1),
    ("ssh-rsa-cert-v01@openssh.com", "ssh-rsa", 2),
    ("ecdsa-sha2-nistp256-cert-v01@openssh.com", "ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384-cert-v01@openssh.com", "ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521-cert-v01@openssh.com", "ecdsa-sha2-nistp521", 2),
    ("sk-ssh-ed25519-cert-v01@openssh.com", "sk-ssh-ed25519@openssh.com", 2),
    ("sk-ecdsa-sha2-nistp256-cert-v01@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com", 3),
];

/// `SSH_CERT_TYPE_USER`
const USER: u32 = 1;

/// Why a certificate is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not a certificate, or cut.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// The key inside, or the CA's, is not of an accepted type or strength.
    #[error("in the certificate: {0}")]
    Key(#[from] KeyError),
    /// The CA's signature does not hold.
    #[error("the certificate is not signed by its CA: {0}")]
    Signature(#[from] VerifyError),
    /// It stands for a host.
    #[error("it is not a user certificate")]
    NotUser,
    /// It does not name the person.
    #[error("it is not for `{0}`")]
    Principal(String),
    /// Before or after its time.
    #[error("it is not valid at this time")]
    Time,
    /// It is bound to something sshfix cannot hold it to.
    #[error("its critical option `{0}` cannot be honoured here")]
    CriticalOption(String),
    /// It wants the PIN or a fingerprint, and the signature was made without.
    #[error("it requires user verification (PIN or fingerprint) and the signature was made without")]
    NotVerified,
}

impl From<BlobError> for CertificateError {
    fn from(error: BlobError) -> Self {
        CertificateError::Malformed(error.to_string())
    }
}

/// A certificate whose CA signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    key: PublicKey,
    authority: PublicKey,
    user: bool,
    key_id: String,
    serial: u64,
    principals: Vec<String>,
    valid_after: u64,
    valid_before: u64,
    critical_options: Vec<String>,
}

impl Certificate {
    /// Whether a key blob is a certificate, by its type.
    pub fn is_certificate(blob: &[u8]) -> bool {
        Reader::new(blob).text("the key type").is_ok_and(|kind| kind.contains("-cert-v"))
    }

    /// From its bytes. The CA's signature is checked here, so that no other field is ever believed without it.
    pub fn from_blob(blob: &[u8]) -> Result<Self, CertificateError> {
        let mut reader = Reader::new(blob);
        let kind = reader.text("the certificate type")?;
        let Some((_, plain, strings)) = TYPES.into_iter().find(|(name, _, _)| *name == kind) else {
            return Err(KeyError::Type(printable(kind)).into());
        };
        reader.string("the nonce")?;
        let mut key = Vec::new();
        put_string(&mut key, plain.as_bytes());
        for _ in 0..strings {
            put_string(&mut key, reader.string("the key")?);
        }
        let serial = reader.u64("the serial")?;
        let user = reader.u32("the type")? == USER;
        let key_id = reader.text("the key id")?.to_owned();
        let principals = texts(reader.string("the principals")?)?;
        let valid_after = reader.u64("valid after")?;
        let valid_before = reader.u64("valid before")?;
        let critical_options = option_names(reader.string("the critical options")?)?;
        reader.string("the extensions")?;
        reader.string("the reserved field")?;
        let authority = PublicKey::from_blob(reader.string("the CA key")?)?;
        let signed = blob.len() - reader.rest().len();
        let signature = reader.string("the CA signature")?;
        reader.end()?;
        authority.verify(blob.get(..signed).unwrap_or_default(), signature)?;
        let key = PublicKey::from_blob(&key)?;
        Ok(Self { key, authority, user, key_id, serial, principals, valid_after, valid_before, critical_options })
    }

    /// From a line of a `-cert.pub` file.
    pub fn from_line(line: &str) -> Result<Self, CertificateError> {
        let base64 = line.split_ascii_whitespace().nth(1).unwrap_or_default();
        let blob = STANDARD.decode(base64).map_err(|error| CertificateError::Malformed(format!("base64: {error}")))?;
        Self::from_blob(&blob)
    }

    /// The key it certifies.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The CA that signed it.
    pub fn authority(&self) -> &PublicKey {
        &self.authority
    }

    /// The CA's name for it, and its serial number.
    pub fn name(&self) -> String {
        format!("{} (serial {})", printable(&self.key_id), self.serial)
    }

    /// The one principal it stands for, where there is just one.
    pub fn single_principal(&self) -> Option<&str> {
        match self.principals.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Whether it holds for this principal at this time, for a signature with this proof. A certificate without principals
    /// holds for nobody, as in `sshkey_cert_check_authority` with `require_principal`.
    pub fn check(&self, principal: &str, now: Timestamp, proof: Proof) -> Result<(), CertificateError> {
        if !self.user {
            return Err(CertificateError::NotUser);
        }
        if !self.principals.iter().any(|name| name == principal) {
            return Err(CertificateError::Principal(printable(principal)));
        }
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        if now < self.valid_after || now >= self.valid_before {
            return Err(CertificateError::Time);
        }
        for option in &self.critical_options {
            match option.as_str() {
                "verify-required" if proof.user_verified => {}
                "verify-required" => return Err(CertificateError::NotVerified),
                other => return Err(CertificateError::CriticalOption(printable(other))),
            }
        }
        Ok(())
    }
}

fn texts(bytes: &[u8]) -> Result<Vec<String>, BlobError> {
    let mut reader = Reader::new(bytes);
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        out.push(reader.text("a principal")?.to_owned());
    }
    Ok(out)
}

fn option_names(bytes: &[u8]) -> Result<Vec<String>, BlobError> {
    let mut reader = Reader::new(bytes);
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        out.push(reader.text("a critical option")?.to_owned());
        reader.string("a critical option's value")?;
    }
    Ok(out)
}
