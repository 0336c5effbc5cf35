//! Frames on the socket, byte for byte: the agent's hello, one signed request, one signed reply, then the connection ends.
//! Parses nothing but lengths (and the hello, which nobody signs). Must not look into a payload: that is done after its
//! signature holds.
//!
//! ```text
//! frame = u32 length (big-endian), body
//! agent  -> client   body = JSON of Hello
//! client -> agent    body = u32 length, payload (JSON of Request), u32 length, SSHSIG blob
//! agent  -> client   body = u32 length, payload (JSON of Reply),   u32 length, SSHSIG blob
//! ```

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::request::PROTOCOL;
use crate::ssh::blob::{BlobError, Reader, put_string};

/// Bytes of the length before a body.
pub const PREFIX: usize = 4;
/// The longest body of a hello, in bytes.
pub const HELLO_LIMIT: usize = 4 * 1024;
/// The longest body of a request, in bytes.
pub const REQUEST_LIMIT: usize = 64 * 1024;
/// The longest body of a reply, in bytes.
pub const REPLY_LIMIT: usize = 32 * 1024 * 1024;

/// Why bytes are not a frame of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Longer than its kind may be.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// As announced.
        length: usize,
        /// As allowed.
        limit: usize,
    },
    /// The lengths inside do not add up.
    #[error("malformed frame: {0}")]
    Framing(#[from] BlobError),
    /// The hello is not the JSON it should be.
    #[error("malformed hello: {0}")]
    Hello(String),
    /// The other side speaks another version.
    #[error("the agent speaks protocol {0}, this client speaks {PROTOCOL}")]
    Protocol(u32),
}

/// How many bytes follow the prefix, if that many are allowed.
pub fn body_length(prefix: [u8; PREFIX], limit: usize) -> Result<usize, WireError> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > limit { Err(WireError::TooLong { length, limit }) } else { Ok(length) }
}

fn frame(body: &[u8], limit: usize) -> Result<Vec<u8>, WireError> {
    if body.len() > limit {
        return Err(WireError::TooLong { length: body.len(), limit });
    }
    let mut out = Vec::with_capacity(PREFIX + body.len());
    put_string(&mut out, body);
    Ok(out)
}

/// 32 random bytes the agent gives on each connection. The request that answers it must carry it, and counts only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge([u8; 32]);

impl Challenge {
    /// From random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether a request carries exactly this challenge; takes as long for a near miss as for a far one.
    pub fn is(&self, text: &str) -> bool {
        let own = self.to_string();
        own.len() == text.len() && own.bytes().zip(text.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

/// As base64, the way requests and replies carry it.
impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl Serialize for Challenge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Challenge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| serde::de::Error::custom("a challenge has 32 bytes"))?;
        Ok(Self(bytes))
    }
}

/// What the agent says first. Nobody signs it: the client compares the key with the one it knows, and the reply is signed.
/// Later versions may add fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The host identity: the `SHA256:...` fingerprint of `key`.
    pub host: String,
    /// The agent's public key, one line as in a `.pub` file.
    pub key: String,
    /// To be repeated in the request.
    pub challenge: Challenge,
    /// The SSH port the agent looks at: where a confirm has to be proven. Checked by the agent with the proof.
    #[serde(default = "usual_port")]
    pub ssh_port: u16,
}

fn usual_port() -> u16 {
    22
}

impl Hello {
    /// The whole frame.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let body = serde_json::to_vec(self).map_err(|error| WireError::Hello(error.to_string()))?;
        frame(&body, HELLO_LIMIT)
    }

    /// From the body of a frame.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        /// All versions have this much in common.
        #[derive(Deserialize)]
        struct Version {
            protocol: u32,
        }
        let version: Version = serde_json::from_slice(body).map_err(|error| WireError::Hello(error.to_string()))?;
        if version.protocol != PROTOCOL {
            return Err(WireError::Protocol(version.protocol));
        }
        serde_json::from_slice(body).map_err(|error| WireError::Hello(error.to_string()))
    }
}

fn encode_signed(payload: &[u8], signature: &[u8], limit: usize) -> Result<Vec<u8>, WireError> {
    let mut body = Vec::with_capacity(payload.len() + signature.len() + 2 * PREFIX);
    put_string(&mut body, payload);
    put_string(&mut body, signature);
    frame(&body, limit)
}

fn decode_signed(body: &[u8], limit: usize) -> Result<(Vec<u8>, Vec<u8>), WireError> {
    if body.len() > limit {
        return Err(WireError::TooLong { length: body.len(), limit });
    }
    let mut reader = Reader::new(body);
    let payload = reader.string("the payload")?;
    let signature = reader.string("the signature")?;
    reader.end()?;
    Ok((payload.to_vec(), signature.to_vec()))
}

macro_rules! signed {
    ($(#[$doc:meta])* $name:ident, $limit:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            payload: Vec<u8>,
            signature: Vec<u8>,
        }

        impl $name {
            /// Of a payload and the SSHSIG blob over it.
            pub fn new(payload: Vec<u8>, signature: Vec<u8>) -> Self {
                Self { payload, signature }
            }

            /// From the body of a frame.
            pub fn decode(body: &[u8]) -> Result<Self, WireError> {
                decode_signed(body, $limit).map(|(payload, signature)| Self { payload, signature })
            }

            /// The whole frame.
            pub fn encode(&self) -> Result<Vec<u8>, WireError> {
                encode_signed(&self.payload, &self.signature, $limit)
            }

            /// The bytes the signature is over.
            pub fn payload(&self) -> &[u8] {
                &self.payload
            }

            /// The SSHSIG blob, as inside the armor.
            pub fn signature(&self) -> &[u8] {
                &self.signature
            }
        }
    };
}

signed! {
    /// A request as it came: bytes and a signature nobody checked yet. `authenticate` consumes it.
    SignedRequest, REQUEST_LIMIT
}
signed! {
    /// A reply as it came: bytes and a signature nobody checked yet.
    SignedReply, REPLY_LIMIT
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn a_signed_request_comes_back_from_its_frame() {
        let request = SignedRequest::new(b"{}".to_vec(), b"SSHSIG".to_vec());
        let bytes = request.encode().unwrap();
        let length = body_length(bytes[..PREFIX].try_into().unwrap(), REQUEST_LIMIT).unwrap();
        assert_eq!(length, bytes.len() - PREFIX);
        assert_eq!(SignedRequest::decode(&bytes[PREFIX..]), Ok(request));
    }

    #[test]
    fn a_cut_or_lengthened_body_is_refused() {
        let bytes = SignedRequest::new(b"payload".to_vec(), b"signature".to_vec()).encode().unwrap();
        let body = &bytes[PREFIX..];
        for cut in 0..body.len() {
            assert!(SignedRequest::decode(&body[..cut]).is_err(), "{cut}");
        }
        assert_eq!(SignedRequest::decode(&[body, b"x"].concat()), Err(WireError::Framing(BlobError::Trailing(1))));
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let limit = REQUEST_LIMIT;
        assert_eq!(body_length([0, 1, 0, 0], limit), Ok(limit));
        assert_eq!(body_length([0, 1, 0, 1], limit), Err(WireError::TooLong { length: limit + 1, limit }));
        assert!(body_length([0xff; 4], REPLY_LIMIT).is_err());
        assert!(SignedRequest::new(vec![0; limit], Vec::new()).encode().is_err());
    }

    #[test]
    fn a_hello_comes_back_and_another_protocol_is_named() {
        let hello = Hello {
            protocol: PROTOCOL,
            host: "SHA256:x".to_owned(),
            key: "ssh-ed25519 AAAA".to_owned(),
            challenge: Challenge::new([7; 32]),
            ssh_port: 2222,
        };
        let bytes = hello.encode().unwrap();
        assert_eq!(Hello::decode(&bytes[PREFIX..]), Ok(hello));
        assert_eq!(Hello::decode(br#"{"protocol":2}"#), Err(WireError::Protocol(2)));
        assert!(matches!(Hello::decode(br#"{"protocol":1,"challenge":"AAAA"}"#), Err(WireError::Hello(_))));
        assert!(matches!(Hello::decode(b"SSH-2.0-OpenSSH_9.2"), Err(WireError::Hello(_))));
    }

    #[test]
    fn only_the_challenge_itself_is_the_challenge() {
        let challenge = Challenge::new([1; 32]);
        let text = challenge.to_string();
        assert!(challenge.is(&text));
        assert!(!challenge.is(""));
        assert!(!challenge.is(&text[..text.len() - 1]));
        assert!(!challenge.is(&Challenge::new([2; 32]).to_string()));
    }
}
