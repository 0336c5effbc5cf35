//! Certificates hold for whom, when and for what their CA says, and for nothing else.

use sshfix::identities;
use sshfix_policy::request::REQUEST_NAMESPACE;
use sshfix_policy::request::allowed_signers::NotAllowed;
use sshfix_policy::request::authenticate::{AuthenticateError, AuthenticatedRequest};
use sshfix_policy::ssh::certificate::CertificateError;

use crate::bench::{Bench, KINDS, NOW, check, check_at, payload, verifies};
use crate::client::places;

#[test]
fn certificates_hold_for_whom_when_and_what_their_ca_says() {
    let bench = Bench::new();
    let authority = bench.key("ca", &["ed25519"]);
    bench.key("rsa-ca", &["rsa", "-b", "3072"]);
    bench.key("p384-ca", &["ecdsa", "-b", "384"]);
    let plain = bench.key("id", &["ed25519"]);
    let allowed = format!("alice,bob cert-authority {authority}\n");
    let make = |ca: &str, options: &[&str]| {
        bench.keygen(&[&["-s", ca, "-I", "alice@laptop", "-z", "7"], options, &["id.pub"]].concat());
    };
    let year = ["-V", "20260101Z:20270101Z"];
    let with = |allowed: &str, principal: Option<&str>, now: &str| {
        let payload = payload(principal);
        let blob = bench.sign("id-cert.pub", REQUEST_NAMESPACE, &payload);
        check_at(allowed, &payload, &blob, now)
    };
    let why = |result: Result<AuthenticatedRequest, AuthenticateError>| match result {
        Err(AuthenticateError::NotAllowed { why, .. }) => why.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    };
    let certificate = |why: CertificateError| NotAllowed::Certificate { line: 1, why };

    make("ca", &[&["-n", "alice"], &year[..]].concat());
    assert_eq!(with(&allowed, None, NOW).unwrap().principal(), "alice");
    assert_eq!(with(&allowed, Some("alice"), NOW).unwrap().principal(), "alice");
    assert_eq!(why(with(&allowed, Some("bob"), NOW)), certificate(CertificateError::Principal("bob".into())));
    assert_eq!(why(with(&allowed, None, "2027-01-01T00:00:00Z")), certificate(CertificateError::Time));
    assert!(with(&allowed, None, "2026-12-31T23:59:59Z").is_ok());
    assert_eq!(why(with(&allowed, None, "2025-12-31T23:59:59Z")), certificate(CertificateError::Time));
    // The line's own patterns, namespaces and times count as well.
    assert!(matches!(why(with(&format!("bob cert-authority {authority}"), None, NOW)), NotAllowed::Principal { .. }));
    let namespaced = format!("alice cert-authority,namespaces=\"git\" {authority}");
    assert!(matches!(why(with(&namespaced, None, NOW)), NotAllowed::Namespace { .. }));
    // Without cert-authority the CA's key is just a key; and the plain key's line is not the certificate's.
    assert!(matches!(with(&format!("alice {authority}"), None, NOW), Err(AuthenticateError::UnknownKey(_))));
    assert!(matches!(with(&format!("alice {plain}"), None, NOW), Err(AuthenticateError::UnknownKey(_))));

    make("ca", &[&["-n", "alice,bob"], &year[..]].concat());
    assert_eq!(why(with(&allowed, None, NOW)), NotAllowed::Unnamed { line: 1 });
    assert_eq!(with(&allowed, Some("bob"), NOW).unwrap().principal(), "bob");

    make("ca", &year);
    assert_eq!(why(with(&allowed, Some("alice"), NOW)), certificate(CertificateError::Principal("alice".into())));
    make("ca", &[&["-h", "-n", "alice"], &year[..]].concat());
    assert_eq!(why(with(&allowed, None, NOW)), certificate(CertificateError::NotUser));
    make("ca", &[&["-n", "alice", "-O", "force-command=true"], &year[..]].concat());
    assert_eq!(why(with(&allowed, None, NOW)), certificate(CertificateError::CriticalOption("force-command".into())));
    make("ca", &[&["-n", "alice", "-O", "source-address=203.0.113.0/24"], &year[..]].concat());
    assert_eq!(why(with(&allowed, None, NOW)), certificate(CertificateError::CriticalOption("source-address".into())));
    make("ca", &[&["-n", "alice", "-O", "verify-required"], &year[..]].concat());
    assert_eq!(why(with(&allowed, None, NOW)), certificate(CertificateError::NotVerified));

    for ca in ["rsa-ca", "p384-ca"] {
        make(ca, &[&["-n", "alice"], &year[..]].concat());
        let allowed = format!("alice cert-authority {}\n", bench.public(ca));
        assert_eq!(with(&allowed, None, NOW).unwrap().principal(), "alice", "{ca}");
    }
}

#[test]
fn every_kind_of_key_can_be_certified() {
    let bench = Bench::new();
    let authority = bench.key("ca", &["ed25519"]);
    for (name, kind) in KINDS {
        bench.key(name, kind);
        bench.keygen(&["-s", "ca", "-I", name, "-n", "alice", "-V", "20260101Z:20270101Z", &format!("{name}.pub")]);
        // The client takes the certificate beside the key first, as ssh does.
        let found = identities::named(&bench.path(name), &places(None)).unwrap();
        assert_eq!(found.len(), 2, "{name}");
        let payload = payload(None);
        let blob = found[0].sign(REQUEST_NAMESPACE, &payload).unwrap();
        let allowed = format!("alice cert-authority {authority}");
        check(&allowed, &payload, &blob).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, &payload), "{name}");
    }
}
