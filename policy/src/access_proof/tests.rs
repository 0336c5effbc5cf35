//! Transcripts with made-up secrets, signed by a real key; those of real servers are in `tests/tests/access_proof.rs` and in the
//! fuzz corpus.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use signature::Signer;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

use super::*;

const CIPHERS: &str = "aes128-ctr";

fn challenge() -> [u8; CHALLENGE] {
    [3; CHALLENGE]
}

fn signer(seed: u8) -> PrivateKey {
    Ed25519Keypair::from_seed(&[seed; 32]).into()
}

fn public(key: &PrivateKey) -> PublicKey {
    PublicKey::from_host_blob(&key.public_key().to_bytes().unwrap()).unwrap()
}

/// The transcript of an exchange by `method` that the host with key `host` signed.
fn proof(cookie: [u8; COOKIE], method: Method, host: &PrivateKey) -> AccessProof {
    let (ephemeral, secret) = method.lengths();
    let kexinit = |cookie: [u8; COOKIE], kex: &str, keys: &str| {
        KexInit::encode(&cookie, kex, keys, CIPHERS, "hmac-sha2-256", "none").try_into().unwrap()
    };
    let mut proof = AccessProof {
        client_version: b"SSH-2.0-test".to_vec().try_into().unwrap(),
        server_version: b"SSH-2.0-OpenSSH_10.0p2 Debian-7".to_vec().try_into().unwrap(),
        client_kexinit: kexinit(cookie, &format!("ext-info-c,{}", method.name()), "ssh-ed25519,rsa-sha2-512"),
        server_kexinit: kexinit([5; COOKIE], &format!("mlkem768x25519-sha256,{}", method.name()), "rsa-sha2-512,ssh-ed25519"),
        host_key: public(host).blob().to_vec().try_into().unwrap(),
        client_ephemeral: vec![1; ephemeral].try_into().unwrap(),
        server_ephemeral: vec![2; ephemeral].try_into().unwrap(),
        shared_secret: vec![0x83; secret].try_into().unwrap(),
        signature: Vec::new().try_into().unwrap(),
    };
    sign(&mut proof, method, host);
    proof
}

fn sign(proof: &mut AccessProof, method: Method, host: &PrivateKey) {
    let mut blob = Vec::new();
    let raw = host.try_sign(&method.hash(&exchange_data(proof))).unwrap();
    put_string(&mut blob, b"ssh-ed25519");
    put_string(&mut blob, raw.as_bytes());
    proof.signature = blob.try_into().unwrap();
}

fn good() -> (AccessProof, [u8; COOKIE], PrivateKey) {
    let (cookie, host) = (cookie("4f2a", &challenge()), signer(1));
    (proof(cookie, Method::Curve25519, &host), cookie, host)
}

#[test]
fn an_honest_exchange_is_proven_and_says_by_whom() {
    for method in [Method::Curve25519, Method::Curve25519Libssh, Method::NistP384] {
        let (cookie, host) = (cookie("4f2a", &challenge()), signer(1));
        let proof = proof(cookie, method, &host);
        let proven = verify(&proof, &cookie, &[public(&signer(2)), public(&host)]).unwrap();
        let said = proven.to_string();
        assert!(said.starts_with("SSH-2.0-OpenSSH_10.0p2 Debian-7 proved its ssh-ed25519 host key SHA256:"), "{said}");
        assert!(said.ends_with(method.name()), "{said}");
        let json = serde_json::to_string(&proof).unwrap();
        assert_eq!(serde_json::from_str::<AccessProof>(&json).unwrap(), proof);
    }
}

#[test]
fn another_change_another_challenge_and_a_replayed_proof_are_stale() {
    let (proof, cookie, host) = good();
    let keys = [public(&host)];
    assert!(verify(&proof, &cookie, &keys).is_ok());
    for other in [super::cookie("4f2b", &challenge()), super::cookie("4f2a", &[4; CHALLENGE]), [0; COOKIE]] {
        assert_eq!(verify(&proof, &other, &keys), Err(AccessProofError::Stale));
    }
    // Writing another cookie into an old transcript breaks the signature.
    let other = super::cookie("4f2b", &challenge());
    let mut forged = proof.clone();
    let mut kexinit = proof.client_kexinit.as_ref().to_vec();
    kexinit[1..=COOKIE].copy_from_slice(&other);
    forged.client_kexinit = kexinit.try_into().unwrap();
    assert_eq!(verify(&forged, &other, &keys), Err(AccessProofError::Signature(VerifyError::Mismatch)));
}

#[test]
fn another_hosts_key_is_refused_and_named() {
    let (proof, cookie, host) = good();
    let own = public(&signer(2));
    let refused = verify(&proof, &cookie, std::slice::from_ref(&own)).unwrap_err();
    let given = public(&host).fingerprint();
    assert_eq!(refused, AccessProofError::OtherHost { given, own: vec![own.fingerprint()] });
    assert!(matches!(verify(&proof, &cookie, &[]), Err(AccessProofError::OtherHost { .. })));
    // Claiming the host's key without its signature.
    let mut forged = proof.clone();
    forged.host_key = own.blob().to_vec().try_into().unwrap();
    assert_eq!(verify(&forged, &cookie, &[own]), Err(AccessProofError::Signature(VerifyError::Mismatch)));
}

#[test]
fn lists_that_do_not_lead_to_this_exchange_are_refused() {
    let (proof, cookie, host) = good();
    let keys = [public(&host)];
    let changed = |kex: &str, host_keys: &str, cipher: &str| {
        let mut other = proof.clone();
        let kexinit = KexInit::encode(&[5; COOKIE], kex, host_keys, cipher, "hmac-sha2-256", "none");
        other.server_kexinit = kexinit.try_into().unwrap();
        sign(&mut other, Method::Curve25519, &host);
        verify(&other, &cookie, &keys).map(|_| ())
    };
    let (kex, key) = ("curve25519-sha256", "ssh-ed25519");
    assert_eq!(changed(kex, key, CIPHERS), Ok(()));
    let what = |result| match result {
        Err(AccessProofError::NoCommon(NoCommon { what, .. })) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(changed("diffie-hellman-group14-sha256", key, CIPHERS)), "key exchange method");
    assert_eq!(what(changed("ext-info-c", key, CIPHERS)), "key exchange method");
    assert_eq!(what(changed(kex, "ssh-rsa", CIPHERS)), "host key algorithm");
    assert_eq!(what(changed(kex, key, "")), "cipher");
    let negotiated = "rsa-sha2-512".to_owned();
    assert_eq!(changed(kex, &negotiated, CIPHERS), Err(AccessProofError::KeyType { key: "ssh-ed25519".into(), negotiated }));
}

#[test]
fn values_that_are_too_long_are_refused_before_they_are_decoded() {
    let (proof, ..) = good();
    let mut json = serde_json::to_value(&proof).unwrap();
    json["shared_secret"] = "A".repeat(10_000).into();
    assert!(serde_json::from_value::<AccessProof>(json.clone()).unwrap_err().to_string().contains("longer than 48 bytes"));
    json["shared_secret"] = "AAAA".repeat(17).into();
    assert!(serde_json::from_value::<AccessProof>(json).is_err());
    assert_eq!(Bounded::<2>::try_from(vec![0; 3]), Err(3));
}

#[test]
fn version_lines_of_other_protocols_are_refused() {
    for (line, good) in [
        (&b"SSH-2.0-x"[..], true),
        (b"SSH-1.99-x", true),
        (b"SSH-1.5-x", false),
        (b"HTTP/1.1 400", false),
        (b"SSH-2.0-x\r\n", false),
        (b"SSH-2.0-\0", false),
        (b"", false),
    ] {
        assert_eq!(version("server", &line.to_vec().try_into().unwrap()).is_ok(), good, "{}", line.escape_ascii());
    }
    assert!(version("client", &b"SSH-1.99-x".to_vec().try_into().unwrap()).is_err());
}

/// The transcript with one bit of one field turned, and which field that was.
fn flipped(proof: &AccessProof, field: usize, bit: usize) -> (String, Option<AccessProof>) {
    let mut json = serde_json::to_value(proof).unwrap();
    let (name, value) = json.as_object_mut().unwrap().iter_mut().nth(field).unwrap();
    let name = name.clone();
    let mut bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
    let bit = bit % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    *value = STANDARD.encode(bytes).into();
    (name, serde_json::from_value(json).ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_flipped_bit_is_refused(field in 0..9_usize, bit in any::<usize>()) {
        let (proof, cookie, host) = good();
        let (name, other) = flipped(&proof, field, bit);
        if let Some(other) = other {
            prop_assert!(verify(&other, &cookie, &[public(&host)]).is_err(), "{name} bit {bit}");
        }
    }

    #[test]
    fn any_bytes_as_a_kexinit_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(kexinit) = KexInit::parse(&bytes) {
            let _ = KexInit::negotiate(&kexinit, &kexinit);
        }
    }
}
