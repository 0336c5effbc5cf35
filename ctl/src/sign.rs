//! One identity: a key and the way to sign with it. Keys never leave this file; passphrases are asked on the terminal, never
//! taken from arguments or the environment.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use inquire::{InquireError, Password, PasswordDisplayMode};
use num_bigint::BigUint;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair, KeyPairComponents, PublicKeyComponents};
use ring::signature::RSA_PKCS1_SHA512;
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::{Mpint, PrivateKey};
use sshfix_policy::ssh::blob::put_string;
use sshfix_policy::ssh::public_key::fingerprint;
use sshfix_policy::ssh::sshsig::{self, Hash, SshSig, signed_data, wrap};
use thiserror::Error;

use crate::ssh_agent::{self, SshAgentError};

/// How often a passphrase may be mistyped.
const PASSPHRASE_TRIES: usize = 3;

/// Why an identity gave no signature. Nothing was sent.
#[derive(Debug, Error)]
pub enum SignError {
    /// ssh-agent.
    #[error(transparent)]
    SshAgent(#[from] SshAgentError),
    /// Encrypted, and nobody to ask.
    #[error("{0} is encrypted and there is no terminal to ask for its passphrase; add it to ssh-agent")]
    NoTerminal(String),
    /// Not after three tries.
    #[error("wrong passphrase for {0}")]
    Passphrase(String),
    /// Ctrl-C or Escape.
    #[error("no passphrase given for {0}")]
    Cancelled(String),
    /// The key itself.
    #[error("cannot sign with {name}: {why}")]
    Key {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// `ssh-keygen -Y sign`, for keys we do not sign with ourselves.
    #[error("ssh-keygen -Y sign with {path}: {why}")]
    SshKeygen {
        /// Of the key.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A key and the way to sign with it.
#[derive(Debug)]
pub struct Identity {
    /// For people: `ssh-agent: alice@laptop`, `/root/.ssh/id_ed25519`.
    pub name: String,
    /// Public key or certificate; not known for key files that only ssh-keygen can read.
    pub public: Option<Vec<u8>>,
    /// How it signs.
    pub method: Method,
}

/// How an identity signs.
#[derive(Clone, Debug)]
pub enum Method {
    /// Through the ssh-agent.
    SshAgent {
        /// Where it listens.
        socket: PathBuf,
        /// The key as ssh-agent holds it, which may be the plain key of a certificate.
        held: Vec<u8>,
    },
    /// With this key, decrypted first where need be.
    Key(Box<PrivateKey>),
    /// By `ssh-keygen -Y sign -f FILE`: security keys, and key files that ssh-key cannot read (the old PEM format).
    SshKeygen(PathBuf),
}

impl Identity {
    /// Name and fingerprint, for messages.
    pub fn describe(&self) -> String {
        match &self.public {
            Some(blob) => format!("{} ({})", self.name, fingerprint(blob)),
            None => self.name.clone(),
        }
    }

    /// Asks for the passphrase where one is needed. Done before the agent is spoken to, because its challenge grows old.
    pub fn unlock(&mut self) -> Result<(), SignError> {
        let Method::Key(key) = &mut self.method else { return Ok(()) };
        if key.is_encrypted() {
            **key = decrypt(key, &self.name)?;
        }
        Ok(())
    }

    /// An SSHSIG blob over `payload`.
    pub fn sign(&self, namespace: &str, payload: &[u8]) -> Result<Vec<u8>, SignError> {
        let data = signed_data(namespace, Hash::Sha512, payload);
        let public = || self.public.clone().unwrap_or_default();
        let wrong = |why: String| SignError::Key { name: self.name.clone(), why };
        match &self.method {
            Method::SshAgent { socket, held } => {
                let signature = ssh_agent::sign(socket, held, &data)?;
                Ok(wrap(&public(), namespace, Hash::Sha512, &signature))
            }
            Method::Key(key) => {
                if let KeypairData::Rsa(rsa) = key.key_data() {
                    let signature = sign_rsa(rsa, &data).map_err(wrong)?;
                    return Ok(wrap(&public(), namespace, Hash::Sha512, &signature));
                }
                let blob = sshsig::sign(key, namespace, payload).map_err(|error| wrong(error.to_string()))?;
                self.rewrap(&blob, namespace).map_err(wrong)
            }
            Method::SshKeygen(path) => {
                let wrong = |why: String| SignError::SshKeygen { path: path.clone(), why };
                let blob = ssh_keygen(path, namespace, payload).map_err(wrong)?;
                self.rewrap(&blob, namespace).map_err(wrong)
            }
        }
    }

    /// Puts the certificate in the plain key's place, where the identity is one. The signature is over neither.
    fn rewrap(&self, blob: &[u8], namespace: &str) -> Result<Vec<u8>, String> {
        let sshsig = SshSig::parse(blob).map_err(|error| error.to_string())?;
        let public = self.public.as_deref().unwrap_or(sshsig.key);
        Ok(wrap(public, namespace, sshsig.hash, sshsig.signature))
    }
}

fn decrypt(key: &PrivateKey, name: &str) -> Result<PrivateKey, SignError> {
    if File::open("/dev/tty").is_err() {
        return Err(SignError::NoTerminal(name.to_owned()));
    }
    let question = format!("Passphrase for {name}:");
    for _ in 0..PASSPHRASE_TRIES {
        let prompt = Password::new(&question).without_confirmation().with_display_mode(PasswordDisplayMode::Hidden);
        let passphrase = match prompt.prompt() {
            Ok(passphrase) => passphrase,
            Err(InquireError::NotTTY | InquireError::IO(_)) => return Err(SignError::NoTerminal(name.to_owned())),
            Err(_) => return Err(SignError::Cancelled(name.to_owned())),
        };
        match key.decrypt(passphrase) {
            Ok(open) => return Ok(open),
            Err(ssh_key::Error::Crypto | ssh_key::Error::Encoding(_)) => eprintln!("wrong passphrase"),
            Err(error) => return Err(SignError::Key { name: name.to_owned(), why: error.to_string() }),
        }
    }
    Err(SignError::Passphrase(name.to_owned()))
}

/// `ssh-key` 0.6.7 cannot sign with RSA keys (it confuses the primes), so ring does. A key file leaves out two of the numbers ring
/// wants; they follow from the others (RFC 8017 section 3.2).
fn sign_rsa(key: &RsaKeypair, data: &[u8]) -> Result<Vec<u8>, String> {
    fn bytes<'a>(number: &'a Mpint, name: &str) -> Result<&'a [u8], String> {
        number.as_positive_bytes().ok_or_else(|| format!("its {name} is not a positive number"))
    }
    let (d, p, q) = (bytes(&key.private.d, "d")?, bytes(&key.private.p, "p")?, bytes(&key.private.q, "q")?);
    let exponent = |prime: &[u8]| {
        let prime = BigUint::from_bytes_be(prime);
        let one = BigUint::from(1u8);
        // Of a prime that is none ring will complain; division by zero must not happen before.
        if prime <= one { Vec::new() } else { (BigUint::from_bytes_be(d) % (prime - one)).to_bytes_be() }
    };
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n: bytes(&key.public.n, "n")?, e: bytes(&key.public.e, "e")? },
        d,
        p,
        q,
        dP: &exponent(p),
        dQ: &exponent(q),
        qInv: bytes(&key.private.iqmp, "iqmp")?,
    };
    let pair = KeyPair::from_components(&components).map_err(|error| format!("{error}; add it to ssh-agent"))?;
    let mut raw = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), data, &mut raw).map_err(|_| "RSA signing failed".to_owned())?;
    let mut signature = Vec::new();
    put_string(&mut signature, b"rsa-sha2-512");
    put_string(&mut signature, &raw);
    Ok(signature)
}

/// Runs as the user, with the terminal, so that it can ask for a passphrase or a touch. The payload goes by a file: with a pipe
/// on stdin ssh-keygen would not ask.
fn ssh_keygen(path: &Path, namespace: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let message = directory.path().join("request");
    std::fs::write(&message, payload).map_err(|error| error.to_string())?;
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    let status = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", namespace, "-f"])
        .arg(path)
        .arg(&message)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{error} (it belongs to openssh-client)"))?;
    if !status.success() {
        return Err(status.to_string());
    }
    let armor = std::fs::read_to_string(message.with_extension("sig")).map_err(|error| error.to_string())?;
    sshsig::from_armor(&armor).map_err(|error| error.to_string())
}
