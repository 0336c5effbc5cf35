//! Who is let in, and every way not to be.

use std::time::Duration;

use sshfix_policy::request::allowed_signers::{AllowedSigners, NotAllowed};
use sshfix_policy::request::authenticate::{AuthenticateError, Context, authenticate};
use sshfix_policy::request::wire::{Challenge, SignedRequest};
use sshfix_policy::request::{REPLY_NAMESPACE, REQUEST_NAMESPACE, Request};
use sshfix_policy::ssh::public_key::{KeyError, PublicKey, VerifyError};
use sshfix_policy::ssh::sshsig::{self, Hash, SshSig, wrap};

use crate::bench::{Bench, HOST, KINDS, NOW, challenge, check, payload, request, verifies, zone};

#[test]
fn what_ssh_keygen_signs_authenticates() {
    let bench = Bench::new();
    for (name, kind) in KINDS {
        let public = bench.key(name, kind);
        let payload = payload(None);
        let blob = bench.sign(name, REQUEST_NAMESPACE, &payload);
        let got = check(&format!("alice {public}\n"), &payload, &blob).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((got.principal(), got.line()), ("alice", 1));
        assert_eq!(got.fingerprint(), PublicKey::from_line(&public).unwrap().fingerprint());

        let other = bench.sign(name, "file", &payload);
        assert_eq!(check(&format!("alice {public}"), &payload, &other), Err(AuthenticateError::Namespace("file".to_owned())));
    }
}

/// The agent's own signatures, which `ssh-keygen` can check too.
#[test]
fn a_reply_signed_by_the_agent_is_good_for_ssh_keygen() {
    let bench = Bench::new();
    let public = bench.key("agent", &["ed25519"]);
    let key = ssh_key::PrivateKey::read_openssh_file(&bench.path("agent")).unwrap();
    let blob = sshsig::sign(&key, REPLY_NAMESPACE, b"reply").unwrap();
    assert!(verifies(&format!("host {public}\n"), "host", REPLY_NAMESPACE, "20260601", &blob, b"reply"));
    let sshsig = SshSig::parse(&blob).unwrap();
    assert!(sshsig.verify(&PublicKey::from_line(&public).unwrap(), b"reply").is_ok());
    assert!(sshsig.verify(&PublicKey::from_line(&public).unwrap(), b"Reply").is_err());
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let bench = Bench::new();
    let payload = payload(None);
    let weak = bench.key("weak", &["rsa", "-b", "2048"]);
    let blob = bench.sign("weak", REQUEST_NAMESPACE, &payload);
    assert_eq!(
        check(&format!("alice {weak}"), &payload, &blob),
        Err(AuthenticateError::Key(KeyError::RsaBits { bits: 2048, min: 3072 }))
    );
    let errors = AllowedSigners::parse(&format!("alice {weak}"), &zone()).errors().to_vec();
    assert!(errors[0].to_string().starts_with("line 1, column 7: an RSA key of 2048 bits"), "{}", errors[0]);

    bench.key("stranger", &["ed25519"]);
    let known = bench.key("known", &["ed25519"]);
    let blob = bench.sign("stranger", REQUEST_NAMESPACE, &payload);
    let got = check(&format!("alice {known}"), &payload, &blob);
    assert!(matches!(got, Err(AuthenticateError::UnknownKey(_))), "{got:?}");

    // The signature of a stranger under the name of a known key.
    let sshsig = SshSig::parse(&blob).unwrap();
    let posing = wrap(PublicKey::from_line(&known).unwrap().blob(), REQUEST_NAMESPACE, Hash::Sha512, sshsig.signature);
    let got = check(&format!("alice {known}"), &payload, &posing);
    assert!(matches!(got, Err(AuthenticateError::Signature { why: VerifyError::Mismatch, .. })), "{got:?}");
}

#[test]
fn requests_for_elsewhere_or_of_another_time_are_refused() {
    let bench = Bench::new();
    let public = bench.key("id", &["ed25519"]);
    let key = ssh_key::PrivateKey::read_openssh_file(&bench.path("id")).unwrap();
    let signers = AllowedSigners::parse(&format!("alice {public}"), &zone());
    let ask = |request: &Request, age: u64| {
        let payload = serde_json::to_vec(request).unwrap();
        let blob = sshsig::sign(&key, REQUEST_NAMESPACE, &payload).unwrap();
        let challenge = challenge();
        let now = NOW.parse().unwrap();
        let context = Context { host: HOST, challenge: &challenge, age: Duration::from_secs(age), now };
        authenticate(&SignedRequest::new(payload, blob), &signers, &context)
    };
    let good = request(None);
    assert!(ask(&good, 60).is_ok());
    assert!(matches!(ask(&good, 61), Err(AuthenticateError::Expired { .. })));
    assert!(matches!(ask(&Request { valid_for: 5, ..good.clone() }, 6), Err(AuthenticateError::Expired { .. })));
    assert!(matches!(ask(&Request { valid_for: u32::MAX, ..good.clone() }, 61), Err(AuthenticateError::Expired { .. })));
    assert!(matches!(ask(&Request { host: "SHA256:x".into(), ..good.clone() }, 1), Err(AuthenticateError::Host { .. })));
    let foreign = Challenge::new([8; 32]).to_string();
    assert!(matches!(ask(&Request { challenge: foreign, ..good.clone() }, 1), Err(AuthenticateError::Challenge { .. })));
    assert!(matches!(ask(&Request { protocol: 2, ..good.clone() }, 1), Err(AuthenticateError::Protocol { given: 2, .. })));
    for id in ["", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef0123456789abcde"] {
        assert!(matches!(ask(&Request { id: id.into(), ..good.clone() }, 1), Err(AuthenticateError::Id { .. })), "{id}");
    }
    let claims_another = Request { principal: Some("bob".into()), ..good };
    assert!(matches!(ask(&claims_another, 1), Err(AuthenticateError::NotAllowed { .. })));
}

#[test]
fn a_good_signature_over_something_else_than_a_request_is_refused() {
    let bench = Bench::new();
    let public = bench.key("id", &["ed25519"]);
    let key = ssh_key::PrivateKey::read_openssh_file(&bench.path("id")).unwrap();
    let mut with_more: serde_json::Value = serde_json::to_value(request(None)).unwrap();
    with_more["unknown"] = serde_json::Value::Bool(true);
    for payload in [b"".to_vec(), b"{}".to_vec(), b"[1,2".to_vec(), serde_json::to_vec(&with_more).unwrap()] {
        let blob = sshsig::sign(&key, REQUEST_NAMESPACE, &payload).unwrap();
        let got = check(&format!("alice {public}"), &payload, &blob);
        assert!(matches!(got, Err(AuthenticateError::Payload { .. })), "{got:?}");
    }
}

#[test]
fn an_unnamed_principal_is_found_only_where_there_is_one() {
    let bench = Bench::new();
    let public = bench.key("id", &["ed25519"]);
    let claimed = |allowed: &str, principal: Option<&str>| {
        let payload = payload(principal);
        check(allowed, &payload, &bench.sign("id", REQUEST_NAMESPACE, &payload))
    };
    let two = format!("alice {public}\nbob {public}\n");
    assert!(matches!(claimed(&two, None), Err(AuthenticateError::Ambiguous { .. })));
    assert_eq!(claimed(&two, Some("bob")).map(|got| (got.principal().to_owned(), got.line())), Ok(("bob".to_owned(), 2)));
    let pattern = format!("*@example.com {public}");
    let unnamed = claimed(&pattern, None);
    assert!(
        matches!(&unnamed, Err(AuthenticateError::NotAllowed { why, .. }) if *why == [NotAllowed::Unnamed { line: 1 }]),
        "{unnamed:?}"
    );
    assert_eq!(claimed(&pattern, Some("a@example.com")).unwrap().principal(), "a@example.com");
    // A bad line allows nobody and takes nothing from the others.
    let broken = format!("alice nonsense=1 {public}\n# comment\n\nalice {public}\n");
    assert_eq!(claimed(&broken, None).unwrap().line(), 4);
}
