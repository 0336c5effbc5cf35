//! Law 5: only the exact signed bytes authenticate.

use std::sync::LazyLock;

use proptest::prelude::*;
use sshfix_policy::request::REQUEST_NAMESPACE;
use sshfix_policy::request::allowed_signers::AllowedSigners;
use sshfix_policy::request::wire::{PREFIX, REQUEST_LIMIT, SignedRequest, body_length};

use crate::bench::{Bench, KINDS, check, payload, zone};

/// Decodes a frame as the agent does and authenticates it.
fn frame_authenticates(frame: &[u8], allowed: &str) -> bool {
    let Some((prefix, body)) = frame.split_first_chunk::<PREFIX>() else { return false };
    let Ok(length) = body_length(*prefix, REQUEST_LIMIT) else { return false };
    let Some(body) = body.get(..length) else { return false };
    let Ok(signed) = SignedRequest::decode(body) else { return false };
    check(allowed, signed.payload(), signed.signature()).is_ok()
}

#[test]
fn every_single_flipped_bit_of_an_ed25519_frame_is_refused() {
    let bench = Bench::new();
    let allowed = format!("alice {}\n", bench.key("id", &["ed25519"]));
    let payload = payload(None);
    let frame = SignedRequest::new(payload.clone(), bench.sign("id", REQUEST_NAMESPACE, &payload)).encode().unwrap();
    assert!(frame_authenticates(&frame, &allowed));
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!frame_authenticates(&flipped, &allowed), "bit {bit} of {}", frame.len() * 8);
    }
    for cut in 0..frame.len() {
        assert!(!frame_authenticates(&frame[..cut], &allowed), "cut at {cut}");
    }
}

/// A frame of every kind of key and of a certificate, with the lines that allow it.
static FRAMES: LazyLock<Vec<(Vec<u8>, String)>> = LazyLock::new(|| {
    let bench = Bench::new();
    let payload = payload(None);
    let mut frames = Vec::new();
    let mut add = |key: &str, allowed: String| {
        let blob = bench.sign(key, REQUEST_NAMESPACE, &payload);
        frames.push((SignedRequest::new(payload.clone(), blob).encode().unwrap(), allowed));
    };
    let authority = bench.key("ca", &["ecdsa", "-b", "256"]);
    for (name, kind) in KINDS {
        add(name, format!("alice {}\n", bench.key(name, kind)));
        bench.keygen(&["-s", "ca", "-I", name, "-n", "alice", "-V", "20260101Z:20270101Z", &format!("{name}.pub")]);
        add(&format!("{name}-cert.pub"), format!("alice cert-authority {authority}\n"));
    }
    frames
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_is_refused(which in 0..12usize, position in any::<prop::sample::Index>(), bit in 0..8u32) {
        let (frame, allowed) = &FRAMES[which];
        prop_assert!(frame_authenticates(frame, allowed));
        let mut flipped = frame.clone();
        let at = position.index(frame.len());
        flipped[at] ^= 1 << bit;
        prop_assert!(!frame_authenticates(&flipped, allowed), "bit {} of byte {}", bit, at);
    }

    #[test]
    fn no_bytes_at_all_make_the_decoder_panic(frame in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(!frame_authenticates(&frame, "alice ssh-ed25519 AAAA"));
        let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
        blob.extend_from_slice(&frame);
        let refused = check("", b"[]", &blob).is_err();
        prop_assert!(refused);
    }

    #[test]
    fn no_text_at_all_makes_the_parser_of_allowed_signers_panic(text in "(\\PC|[\\n\\t\", =!*\\\\])*") {
        let _ = AllowedSigners::parse(&text, &zone()).errors().iter().map(ToString::to_string).collect::<Vec<_>>();
    }
}
