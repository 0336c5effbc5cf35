//! Who signed this request, and is it for here and now. Nothing of the payload is parsed before its signature holds. Must not
//! decide what the signer may do (`authorize`), nor remember request ids (the agent's store does).

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use crate::request::allowed_signers::{AllowedSigners, Credential, NotAllowed};
use crate::request::wire::{Challenge, SignedRequest};
use crate::request::{Decision, Operation, PROTOCOL, REQUEST_NAMESPACE, Request};
use crate::ssh::certificate::{Certificate, CertificateError};
use crate::ssh::public_key::{KeyError, PublicKey, VerifyError, fingerprint, printable};
use crate::ssh::sshsig::{SshSig, SshSigError};

/// However long a request says to hold, its challenge is not taken after this.
pub const MAX_CHALLENGE_AGE: Duration = Duration::from_mins(1);

/// What the agent knows of the connection a request came on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// This host's identity: the `SHA256:...` fingerprint of the agent's key.
    pub host: &'a str,
    /// As given on this connection.
    pub challenge: &'a Challenge,
    /// How long ago, by the monotonic clock.
    pub age: Duration,
    /// The wall clock. Decides nothing but whether a signer's line or certificate has begun or ended.
    pub now: Timestamp,
}

/// Why a request is refused. For the audit record; the peer only ever hears "refused".
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthenticateError {
    /// Not an SSHSIG blob.
    #[error("{0}")]
    SshSig(#[from] SshSigError),
    /// The key is of no accepted type or strength.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The certificate does not hold in itself.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// Signed for something else.
    #[error("signed for namespace `{0}`, not {REQUEST_NAMESPACE}")]
    Namespace(String),
    /// No line of `allowed_signers` names the key or its CA.
    #[error("key {0} is not in allowed_signers")]
    UnknownKey(String),
    /// The signature does not hold.
    #[error("key {key}: {why}")]
    Signature {
        /// Its fingerprint.
        key: String,
        /// What is wrong.
        why: VerifyError,
    },
    /// A good signature over something that is no request.
    #[error("key {key} signed what is not a request: {why}")]
    Payload {
        /// Its fingerprint.
        key: String,
        /// What is wrong, with line and column.
        why: String,
    },
    /// Every line that names the key has a reason against it.
    #[error("key {key}: {}", .why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotAllowed {
        /// Its fingerprint.
        key: String,
        /// One reason for each line.
        why: Vec<NotAllowed>,
    },
    /// The key stands for several principals on several lines, and the request names none.
    #[error("key {key} stands for `{first}` and for `{second}`, and the request does not say which")]
    Ambiguous {
        /// Its fingerprint.
        key: String,
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// Another protocol version.
    #[error("{principal} (key {key}): protocol {given} instead of {PROTOCOL}")]
    Protocol {
        /// The signer.
        principal: String,
        /// The key's fingerprint.
        key: String,
        /// As signed.
        given: u32,
    },
    /// Meant for another host.
    #[error("{principal} (key {key}): meant for host `{given}`")]
    Host {
        /// The signer.
        principal: String,
        /// The key's fingerprint.
        key: String,
        /// As signed.
        given: String,
    },
    /// Not the challenge of this connection: replayed, or made for another one.
    #[error("{principal} (key {key}): not the challenge of this connection")]
    Challenge {
        /// The signer.
        principal: String,
        /// The key's fingerprint.
        key: String,
    },
    /// Too late.
    #[error("{principal} (key {key}): {age} s after its challenge, it held for {valid_for} s")]
    Expired {
        /// The signer.
        principal: String,
        /// The key's fingerprint.
        key: String,
        /// In seconds.
        age: u64,
        /// In seconds.
        valid_for: u64,
    },
    /// The id is not 32 lowercase hex digits.
    #[error("{principal} (key {key}): the request id is not 32 lowercase hex digits")]
    Id {
        /// The signer.
        principal: String,
        /// The key's fingerprint.
        key: String,
    },
}

impl AuthenticateError {
    /// Fingerprint of the key that the request was signed with, or said to be.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::SshSig(_) | Self::Key(_) | Self::Certificate(_) | Self::Namespace(_) => None,
            Self::UnknownKey(key)
            | Self::Signature { key, .. }
            | Self::Payload { key, .. }
            | Self::NotAllowed { key, .. }
            | Self::Ambiguous { key, .. }
            | Self::Protocol { key, .. }
            | Self::Host { key, .. }
            | Self::Challenge { key, .. }
            | Self::Expired { key, .. }
            | Self::Id { key, .. } => Some(key),
        }
    }

    /// Who signed, where the signature held and a line allows the key.
    pub fn principal(&self) -> Option<&str> {
        match self {
            Self::Protocol { principal, .. }
            | Self::Host { principal, .. }
            | Self::Challenge { principal, .. }
            | Self::Expired { principal, .. }
            | Self::Id { principal, .. } => Some(principal),
            Self::SshSig(_)
            | Self::Key(_)
            | Self::Certificate(_)
            | Self::Namespace(_)
            | Self::UnknownKey(_)
            | Self::Signature { .. }
            | Self::Payload { .. }
            | Self::NotAllowed { .. }
            | Self::Ambiguous { .. } => None,
        }
    }
}

/// A request of which is known who signed it, for this host, on this connection, in time. Made by [`authenticate`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedRequest {
    principal: String,
    credential: Credential,
    line: usize,
    request: Request,
}

impl AuthenticatedRequest {
    /// Who asks.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The `SHA256:...` fingerprint of the key that signed.
    pub fn fingerprint(&self) -> String {
        self.credential.key().fingerprint()
    }

    /// With what it was signed.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The line of `allowed_signers` that let it in, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// What is asked.
    pub fn request(&self) -> &Request {
        &self.request
    }
}

/// The one way to an [`AuthenticatedRequest`].
pub fn authenticate(
    signed: &SignedRequest,
    signers: &AllowedSigners,
    context: &Context<'_>,
) -> Result<AuthenticatedRequest, AuthenticateError> {
    let sshsig = SshSig::parse(signed.signature())?;
    if sshsig.namespace != REQUEST_NAMESPACE {
        return Err(AuthenticateError::Namespace(printable(sshsig.namespace)));
    }
    let credential = if Certificate::is_certificate(sshsig.key) {
        Credential::Certificate(Box::new(Certificate::from_blob(sshsig.key)?))
    } else {
        Credential::Key(PublicKey::from_blob(sshsig.key)?)
    };
    let key = fingerprint(credential.key().blob());
    if signers.lines_of(&credential).next().is_none() {
        return Err(AuthenticateError::UnknownKey(key));
    }
    let proof = sshsig
        .verify(credential.key(), signed.payload())
        .map_err(|why| AuthenticateError::Signature { key: key.clone(), why })?;

    // The signature holds: from here on the payload may be looked at.
    let request: Request = serde_json::from_slice(signed.payload())
        .map_err(|error| AuthenticateError::Payload { key: key.clone(), why: error.to_string() })?;

    if matches!(&request.operation, Operation::Decision(Decision::Confirm { proof: Some(proof), .. }) if proof.is_withheld()) {
        return Err(AuthenticateError::Payload { key, why: "a confirm without a proof of access".to_owned() });
    }

    let mut allowed: Option<(String, usize)> = None;
    let mut why = Vec::new();
    for signer in signers.lines_of(&credential) {
        match signer.allows(&credential, proof, request.principal.as_deref(), REQUEST_NAMESPACE, context.now) {
            Ok(principal) => match &allowed {
                None => allowed = Some((principal, signer.line)),
                Some((first, _)) if *first != principal => {
                    return Err(AuthenticateError::Ambiguous { key, first: first.clone(), second: principal });
                }
                Some(_) => {}
            },
            Err(reason) => why.push(reason),
        }
    }
    let Some((principal, line)) = allowed else {
        return Err(AuthenticateError::NotAllowed { key, why });
    };

    if request.protocol != PROTOCOL {
        return Err(AuthenticateError::Protocol { principal, key, given: request.protocol });
    }
    if request.host != context.host {
        return Err(AuthenticateError::Host { principal, key, given: printable(&request.host) });
    }
    if !context.challenge.is(&request.challenge) {
        return Err(AuthenticateError::Challenge { principal, key });
    }
    let valid_for = Duration::from_secs(request.valid_for.into()).min(MAX_CHALLENGE_AGE);
    if context.age > valid_for {
        let (age, valid_for) = (context.age.as_secs(), valid_for.as_secs());
        return Err(AuthenticateError::Expired { principal, key, age, valid_for });
    }
    if request.id.len() != 32 || !request.id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(AuthenticateError::Id { principal, key });
    }
    Ok(AuthenticatedRequest { principal, credential, line, request })
}
