//! Which identities to try, in which order: the one named, else ssh-agent, then ~/.ssh, then root's own key. Signs nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;
use ssh_key::{Algorithm, PrivateKey};
use sshfix_policy::request::allowed_signers::{AllowedSigners, Credential};
use sshfix_policy::ssh::certificate::Certificate;
use sshfix_policy::ssh::public_key::PublicKey;
use thiserror::Error;

use crate::sign::{Identity, Method};
use crate::ssh_agent;

/// Root's own key, made by `sshfix-agent init`.
pub const ROOT_KEY: &str = "/etc/sshfix/ctl_ed25519";
/// Who may sign on this host; read only to try promising keys first.
const ALLOWED_SIGNERS: &str = "/etc/sshfix/allowed_signers";
/// The names ssh itself tries, security keys last because they want a touch.
const DEFAULT_NAMES: [&str; 5] = ["id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"];
/// A key file is far shorter.
const FILE_MAX: u64 = 64 * 1024;

/// Why the identity that was named cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// Of the key.
        path: PathBuf,
        /// What is wrong.
        why: std::io::Error,
    },
    /// Neither a private nor a public key.
    #[error("{0} is neither a private key nor a public key")]
    NotAKey(PathBuf),
    /// A public key without anything to sign with.
    #[error("{0} is a public key, and neither ssh-agent nor a file beside it has the private one")]
    NoPrivateKey(PathBuf),
}

/// Where to look.
#[derive(Debug)]
pub struct Places {
    /// `SSH_AUTH_SOCK`
    pub ssh_agent: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// [`ROOT_KEY`]
    pub root_key: PathBuf,
    /// `/etc/sshfix/allowed_signers`
    pub allowed_signers: PathBuf,
}

impl Places {
    /// As the environment says.
    pub fn from_env() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            ssh_agent: path("SSH_AUTH_SOCK"),
            home: path("HOME"),
            root_key: ROOT_KEY.into(),
            allowed_signers: ALLOWED_SIGNERS.into(),
        }
    }
}

/// The one identity that `--identity FILE` names; with a certificate beside it, that first.
pub fn named(file: &Path, places: &Places) -> Result<Vec<Identity>, IdentityError> {
    let text = read(file).map_err(|why| IdentityError::Unreadable { path: file.to_owned(), why })?;
    if text.trim_start().starts_with("-----BEGIN") {
        return Ok(from_private(file, &text));
    }
    let public = public_blob(&text).ok_or_else(|| IdentityError::NotAKey(file.to_owned()))?;
    if let Some(socket) = &places.ssh_agent {
        let keys = ssh_agent::list(socket).unwrap_or_default();
        if let Some(key) = keys.into_iter().find(|key| key.blob == public || same_key(&key.blob, &public)) {
            let name = format!("ssh-agent: {}", file.display());
            let method = Method::SshAgent { socket: socket.clone(), held: key.blob };
            return Ok(vec![Identity { name, public: Some(public), method }]);
        }
    }
    let shown = file.to_string_lossy();
    let beside = shown.strip_suffix("-cert.pub").or_else(|| shown.strip_suffix(".pub")).map(PathBuf::from);
    let private = beside.and_then(|path| read(&path).ok().map(|text| (path, text)));
    let Some((path, text)) = private else { return Err(IdentityError::NoPrivateKey(file.to_owned())) };
    let mut found = from_private(&path, &text);
    found.retain(|identity| identity.public.as_ref().is_none_or(|blob| *blob == public));
    if found.is_empty() { Err(IdentityError::NoPrivateKey(file.to_owned())) } else { Ok(found) }
}

/// All identities there are, best first. What could not be read is told in `notes`.
pub fn all(places: &Places, notes: &mut Vec<String>) -> Vec<Identity> {
    let mut found = Vec::new();
    if let Some(socket) = &places.ssh_agent {
        match ssh_agent::list(socket) {
            Ok(keys) => found.extend(keys.into_iter().map(|key| Identity {
                name: format!("ssh-agent: {}", key.comment),
                public: Some(key.blob.clone()),
                method: Method::SshAgent { socket: socket.clone(), held: key.blob },
            })),
            Err(error) => notes.push(error.to_string()),
        }
    }
    let homes = places.home.iter().flat_map(|home| DEFAULT_NAMES.iter().map(move |name| home.join(".ssh").join(name)));
    for path in homes.chain([places.root_key.clone()]) {
        match read(&path) {
            Ok(text) => found.extend(from_private(&path, &text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if path == places.root_key && error.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(error) => notes.push(format!("cannot read {}: {error}", path.display())),
        }
    }
    let mut distinct: Vec<Identity> = Vec::new();
    for identity in found {
        if identity.public.is_none() || distinct.iter().all(|other| other.public != identity.public) {
            distinct.push(identity);
        }
    }
    if let Ok(text) = read(&places.allowed_signers) {
        let signers = AllowedSigners::parse(&text, &TimeZone::system());
        // A stable sort: otherwise the order stays.
        distinct.sort_by_cached_key(|identity| !stands_in(&signers, identity));
    }
    distinct
}

/// Only a hint, so that no wrong key is offered and no security key touched in vain; the agent decides.
fn stands_in(signers: &AllowedSigners, identity: &Identity) -> bool {
    let Some(blob) = &identity.public else { return false };
    let credential = if Certificate::is_certificate(blob) {
        Certificate::from_blob(blob).ok().map(|certificate| Credential::Certificate(Box::new(certificate)))
    } else {
        PublicKey::from_blob(blob).ok().map(Credential::Key)
    };
    credential.is_some_and(|credential| signers.lines_of(&credential).next().is_some())
}

/// The identities of a private key file: with a certificate beside it, that first, as ssh does.
fn from_private(path: &Path, text: &str) -> Vec<Identity> {
    let name = path.display().to_string();
    let ssh_keygen = Method::SshKeygen(path.to_owned());
    let (plain, method) = if let Ok(key) = PrivateKey::from_openssh(text) {
        let security_key = matches!(key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256);
        let plain = key.public_key().to_bytes().ok();
        (plain, if security_key { ssh_keygen } else { Method::Key(Box::new(key)) })
    } else {
        // Other formats, and every fourth P-521 key: ssh-key 0.6.7 does not read a secret number that is shorter than the
        // curve, which a number with leading zeros is (RFC 4251 section 5, mpint). The public half may lie beside it.
        let public = read(&PathBuf::from(format!("{}.pub", path.display()))).ok();
        (public.and_then(|text| public_blob(&text)), ssh_keygen)
    };
    let mut found = Vec::new();
    let beside = PathBuf::from(format!("{}-cert.pub", path.display()));
    let certificate = read(&beside).ok().and_then(|text| public_blob(&text));
    if let Some(certificate) = certificate.filter(|blob| plain.as_ref().is_some_and(|plain| same_key(plain, blob))) {
        found.push(Identity { name: beside.display().to_string(), public: Some(certificate), method: method.clone() });
    }
    found.push(Identity { name, public: plain, method });
    found
}

/// Whether `certificate` is one for the plain key `blob`.
fn same_key(blob: &[u8], certificate: &[u8]) -> bool {
    Certificate::from_blob(certificate).is_ok_and(|certificate| certificate.key().blob() == blob)
}

fn public_blob(text: &str) -> Option<Vec<u8>> {
    let mut words = text.split_ascii_whitespace();
    let kind = words.next()?;
    let blob = STANDARD.decode(words.next()?).ok()?;
    let inside = sshfix_policy::ssh::blob::Reader::new(&blob).text("the key type").ok()?.to_owned();
    (inside == kind).then_some(blob)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}
