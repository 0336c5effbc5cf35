//! FIDO keys, emulated in software: a signature counts only when somebody touched the key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use sshfix_policy::request::REQUEST_NAMESPACE;
use sshfix_policy::request::authenticate::AuthenticateError;
use sshfix_policy::ssh::blob::put_string;
use sshfix_policy::ssh::public_key::VerifyError;
use sshfix_policy::ssh::sshsig::{Hash, signed_data, wrap};

use crate::bench::{Bench, check, payload, verifies};

/// A security key in software: what the hardware would sign (PROTOCOL.u2f).
enum SecurityKey {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl SecurityKey {
    fn new(p256: bool) -> Self {
        let random = SystemRandom::new();
        if p256 {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self::P256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap())
        } else {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            Self::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "sk-ssh-ed25519@openssh.com",
            Self::P256(_) => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    fn blob(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, self.kind().as_bytes());
        match self {
            Self::Ed25519(pair) => put_string(&mut out, pair.public_key().as_ref()),
            Self::P256(pair) => {
                put_string(&mut out, b"nistp256");
                put_string(&mut out, pair.public_key().as_ref());
            }
        }
        put_string(&mut out, b"ssh:");
        out
    }

    fn line(&self) -> String {
        format!("{} {}", self.kind(), STANDARD.encode(self.blob()))
    }

    fn sign(&self, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut signed = Sha256::digest(b"ssh:").to_vec();
        signed.push(flags);
        signed.extend_from_slice(&42u32.to_be_bytes());
        signed.extend_from_slice(&Sha256::digest(data));
        let raw = match self {
            Self::Ed25519(pair) => pair.sign(&signed).as_ref().to_vec(),
            Self::P256(pair) => {
                let both = pair.sign(&SystemRandom::new(), &signed).unwrap();
                let mut out = Vec::new();
                for half in both.as_ref().chunks(32) {
                    let half: Vec<u8> = half.iter().copied().skip_while(|byte| *byte == 0).collect();
                    let sign = if half[0] & 0x80 == 0 { vec![] } else { vec![0] };
                    put_string(&mut out, &[sign, half].concat());
                }
                out
            }
        };
        let mut out = Vec::new();
        put_string(&mut out, self.kind().as_bytes());
        put_string(&mut out, &raw);
        out.push(flags);
        out.extend_from_slice(&42u32.to_be_bytes());
        out
    }
}

#[test]
fn security_keys_must_have_been_touched() {
    let bench = Bench::new();
    let authority = bench.key("ca", &["ed25519"]);
    for p256 in [false, true] {
        let key = SecurityKey::new(p256);
        let payload = payload(None);
        let data = signed_data(REQUEST_NAMESPACE, Hash::Sha512, &payload);
        let allowed = format!("alice {}\n", key.line());
        let signed = |public: &[u8], flags| wrap(public, REQUEST_NAMESPACE, Hash::Sha512, &key.sign(flags, &data));

        let touched = signed(&key.blob(), 0x01);
        // ssh-keygen agrees that this is how such a key signs.
        assert!(verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &touched, &payload), "{}", key.kind());
        assert_eq!(check(&allowed, &payload, &touched).unwrap().principal(), "alice");
        for flags in [0x00, 0x04] {
            let got = check(&allowed, &payload, &signed(&key.blob(), flags));
            assert!(matches!(got, Err(AuthenticateError::Signature { why: VerifyError::NotTouched, .. })), "{got:?}");
        }
        // Flags are covered by the signature: saying "touched" afterwards does not help.
        let mut forged = signed(&key.blob(), 0x00);
        let flags = forged.len() - 5;
        forged[flags] = 0x01;
        let got = check(&allowed, &payload, &forged);
        assert!(matches!(got, Err(AuthenticateError::Signature { why: VerifyError::Mismatch, .. })), "{got:?}");

        // A certificate may ask for the PIN besides.
        std::fs::write(bench.path("sk.pub"), key.line()).unwrap();
        let year = "20260101Z:20270101Z";
        bench.keygen(&["-s", "ca", "-I", "sk", "-n", "alice", "-V", year, "-O", "verify-required", "sk.pub"]);
        let line = std::fs::read_to_string(bench.path("sk-cert.pub")).unwrap();
        let certificate = STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap();
        let allowed = format!("alice cert-authority {authority}");
        assert!(check(&allowed, &payload, &signed(&certificate, 0x05)).is_ok());
        assert!(matches!(check(&allowed, &payload, &signed(&certificate, 0x01)), Err(AuthenticateError::NotAllowed { .. })));
    }
}
