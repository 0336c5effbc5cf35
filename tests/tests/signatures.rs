//! Signatures against the real `ssh-keygen -Y`, both ways, for every key type; `allowed_signers` against the real parser; and
//! the law that only the exact signed bytes authenticate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use sshfix::identities::{self, Places};
use sshfix_policy::allowed_signers::{AllowedSigners, NotAllowed};
use sshfix_policy::authenticate::{AuthenticateError, AuthenticatedRequest, Context, authenticate};
use sshfix_policy::blob::put_string;
use sshfix_policy::certificate::CertificateError;
use sshfix_policy::public_key::{KeyError, PublicKey, VerifyError};
use sshfix_policy::request::{Mode, Operation, PROTOCOL, REPLY_NAMESPACE, REQUEST_NAMESPACE, Request};
use sshfix_policy::sshsig::{self, Hash, SshSig, from_armor, signed_data, wrap};
use sshfix_policy::wire::{Challenge, PREFIX, REQUEST_LIMIT, SignedRequest, body_length};
use tempfile::TempDir;

const HOST: &str = "SHA256:host";
/// Local time of the tests, as `TZ` and as jiff read it.
const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
const NOW: &str = "2026-06-01T12:00:00Z";

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn keygen(&self, args: &[&str]) {
        let output = Command::new("ssh-keygen").arg("-q").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "ssh-keygen {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn key(&self, name: &str, kind: &[&str]) -> String {
        self.keygen(&[&["-N", "", "-C", name, "-f", name, "-t"], kind].concat());
        self.public(name)
    }

    /// Type and base64, without the comment.
    fn public(&self, name: &str) -> String {
        let line = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    fn sign(&self, key: &str, namespace: &str, payload: &[u8]) -> Vec<u8> {
        std::fs::write(self.path("message"), payload).unwrap();
        let _ = std::fs::remove_file(self.path("message.sig"));
        self.keygen(&["-Y", "sign", "-n", namespace, "-f", key, "message"]);
        from_armor(&std::fs::read_to_string(self.path("message.sig")).unwrap()).unwrap()
    }

    /// What `ssh-keygen -Y verify` says.
    fn verifies(&self, allowed: &str, principal: &str, namespace: &str, time: &str, blob: &[u8], payload: &[u8]) -> bool {
        let base64 = STANDARD.encode(blob);
        let lines: Vec<&str> = base64.as_bytes().chunks(70).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
        let armor = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
        std::fs::write(self.path("verify.sig"), armor).unwrap();
        std::fs::write(self.path("verify.allowed"), allowed).unwrap();
        std::fs::write(self.path("verify.message"), payload).unwrap();
        Command::new("ssh-keygen")
            .args(["-Y", "verify", "-f", "verify.allowed", "-I", principal, "-n", namespace, "-s", "verify.sig"])
            .arg(format!("-Overify-time={time}"))
            .env("TZ", ZONE)
            .current_dir(self.dir.path())
            .stdin(std::fs::File::open(self.path("verify.message")).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

fn zone() -> TimeZone {
    TimeZone::posix(ZONE).unwrap()
}

fn challenge() -> Challenge {
    Challenge::new([9; 32])
}

fn request(principal: Option<&str>) -> Request {
    Request {
        protocol: PROTOCOL,
        host: HOST.to_owned(),
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        challenge: challenge().to_string(),
        valid_for: 60,
        principal: principal.map(str::to_owned),
        operation: Operation::Status,
        mode: Mode::DryRun,
        reason: None,
        from: None,
        from_user: None,
    }
}

fn payload(principal: Option<&str>) -> Vec<u8> {
    serde_json::to_vec(&request(principal)).unwrap()
}

fn check_at(allowed: &str, payload: &[u8], blob: &[u8], now: &str) -> Result<AuthenticatedRequest, AuthenticateError> {
    let signers = AllowedSigners::parse(allowed, &zone());
    let challenge = challenge();
    let context =
        Context { host: HOST, challenge: &challenge, age: Duration::from_secs(1), now: now.parse::<Timestamp>().unwrap() };
    authenticate(&SignedRequest::new(payload.to_vec(), blob.to_vec()), &signers, &context)
}

fn check(allowed: &str, payload: &[u8], blob: &[u8]) -> Result<AuthenticatedRequest, AuthenticateError> {
    check_at(allowed, payload, blob, NOW)
}

const KINDS: [(&str, &[&str]); 6] = [
    ("ed25519", &["ed25519"]),
    ("p256", &["ecdsa", "-b", "256"]),
    ("p384", &["ecdsa", "-b", "384"]),
    ("p521", &["ecdsa", "-b", "521"]),
    ("rsa3072", &["rsa", "-b", "3072"]),
    ("rsa4096", &["rsa", "-b", "4096"]),
];

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

#[test]
fn what_the_client_signs_with_key_files_is_good_for_ssh_keygen_and_for_us() {
    let bench = Bench::new();
    let places = places(None);
    for (name, kind) in KINDS {
        let public = bench.key(name, kind);
        let found = identities::named(&bench.path(name), &places).unwrap();
        assert_eq!(found.len(), 1, "{name}");
        let payload = payload(None);
        let blob = found[0].sign(REQUEST_NAMESPACE, &payload).unwrap_or_else(|error| panic!("{name}: {error}"));
        let allowed = format!("alice {public}\n");
        check(&allowed, &payload, &blob).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(bench.verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, &payload), "{name}");
        assert!(!bench.verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, b"other"), "{name}");
    }
}

/// A key in the old PEM format is signed with by `ssh-keygen -Y sign`.
#[test]
fn a_key_file_in_pem_format_signs_through_ssh_keygen() {
    let bench = Bench::new();
    let public = bench.key("pem", &["rsa", "-b", "3072", "-m", "PEM"]);
    let found = identities::named(&bench.path("pem"), &places(None)).unwrap();
    let payload = payload(None);
    let blob = found[0].sign(REQUEST_NAMESPACE, &payload).unwrap();
    check(&format!("alice {public}"), &payload, &blob).unwrap();
}

fn places(ssh_agent: Option<PathBuf>) -> Places {
    let nowhere = PathBuf::from("/nonexistent");
    Places { ssh_agent, home: None, root_key: nowhere.clone(), allowed_signers: nowhere }
}

/// An ssh-agent that ends with the test.
struct SshAgent {
    child: std::process::Child,
    socket: PathBuf,
}

impl SshAgent {
    fn start(bench: &Bench) -> Self {
        let socket = bench.path("agent.sock");
        let child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut tries = 0;
        while !socket.exists() {
            tries += 1;
            assert!(tries < 500, "ssh-agent does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, socket }
    }

    fn add(&self, key: &Path) {
        let status = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_and_certificates_in_ssh_agent_sign() {
    let bench = Bench::new();
    let agent = SshAgent::start(&bench);
    for (name, kind) in KINDS {
        bench.key(name, kind);
        agent.add(&bench.path(name));
    }
    let authority = bench.key("ca", &["ed25519"]);
    bench.key("certified", &["ed25519"]);
    bench.keygen(&["-s", "ca", "-I", "id", "-n", "alice", "-V", "20260101:20270101", "certified.pub"]);
    agent.add(&bench.path("certified"));

    let mut notes = Vec::new();
    let found = identities::all(&places(Some(agent.socket.clone())), &mut notes);
    assert_eq!((found.len(), notes.len()), (KINDS.len() + 2, 0));
    let names = KINDS.iter().map(|(name, _)| *name).chain(["certified"]);
    let lines: Vec<String> = names.map(|name| format!("alice {}\n", bench.public(name))).collect();
    let allowed = format!("alice cert-authority {authority}\n{}", lines.concat());
    for identity in &found {
        let payload = payload(None);
        let blob = identity.sign(REQUEST_NAMESPACE, &payload).unwrap_or_else(|error| panic!("{}: {error}", identity.name));
        let got = check(&allowed, &payload, &blob).unwrap_or_else(|error| panic!("{}: {error}", identity.name));
        assert_eq!(got.principal(), "alice");
        assert!(bench.verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, &payload), "{}", identity.name);
    }
    // A .pub file names a key in ssh-agent; a certificate file works with the plain key there.
    for file in ["ed25519.pub", "certified-cert.pub"] {
        let found = identities::named(&bench.path(file), &places(Some(agent.socket.clone()))).unwrap();
        let payload = payload(None);
        let blob = found[0].sign(REQUEST_NAMESPACE, &payload).unwrap();
        check(&allowed, &payload, &blob).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn keys_named_by_allowed_signers_are_tried_first() {
    let bench = Bench::new();
    let agent = SshAgent::start(&bench);
    for name in ["one", "two", "three"] {
        bench.key(name, &["ed25519"]);
        agent.add(&bench.path(name));
    }
    std::fs::write(bench.path("allowed"), format!("alice {}\n", bench.public("three"))).unwrap();
    let places = Places { allowed_signers: bench.path("allowed"), ..places(Some(agent.socket.clone())) };
    let names: Vec<String> = identities::all(&places, &mut Vec::new()).into_iter().map(|identity| identity.name).collect();
    assert_eq!(names, ["ssh-agent: three", "ssh-agent: one", "ssh-agent: two"]);
}

/// The agent's own signatures, which `ssh-keygen` can check too.
#[test]
fn a_reply_signed_by_the_agent_is_good_for_ssh_keygen() {
    let bench = Bench::new();
    let public = bench.key("agent", &["ed25519"]);
    let key = ssh_key::PrivateKey::read_openssh_file(&bench.path("agent")).unwrap();
    let blob = sshsig::sign(&key, REPLY_NAMESPACE, b"reply").unwrap();
    assert!(bench.verifies(&format!("host {public}\n"), "host", REPLY_NAMESPACE, "20260601", &blob, b"reply"));
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
    assert_eq!(check(&format!("alice {weak}"), &payload, &blob), Err(AuthenticateError::Key(KeyError::RsaBits(2048))));
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
        assert!(bench.verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, &payload), "{name}");
    }
}

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
        assert!(bench.verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &touched, &payload), "{}", key.kind());
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

/// One key, one certificate and one signature with each, for many lines of `allowed_signers`.
struct Signed {
    bench: Bench,
    plain: String,
    authority: String,
    other: String,
    blobs: [Vec<u8>; 2],
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    let bench = Bench::new();
    let plain = bench.key("id", &["ed25519"]);
    let authority = bench.key("ca", &["ed25519"]);
    let other = bench.key("other", &["ed25519"]);
    bench.keygen(&["-s", "ca", "-I", "id", "-n", "alice,carol d", "-V", "20260301Z:20261001Z", "id.pub"]);
    let payload = b"payload";
    let blobs = [bench.sign("id", REQUEST_NAMESPACE, payload), bench.sign("id-cert.pub", REQUEST_NAMESPACE, payload)];
    Signed { bench, plain, authority, other, blobs }
});

/// What our parser says about the same line, time and principal: the part of `authenticate` that reads `allowed_signers`.
fn allows(line: &str, principal: &str, now: Timestamp, blob: &[u8]) -> bool {
    use sshfix_policy::allowed_signers::Credential;
    use sshfix_policy::certificate::Certificate;
    let sshsig = SshSig::parse(blob).unwrap();
    let credential = if Certificate::is_certificate(sshsig.key) {
        Credential::Certificate(Box::new(Certificate::from_blob(sshsig.key).unwrap()))
    } else {
        Credential::Key(PublicKey::from_blob(sshsig.key).unwrap())
    };
    let proof = sshsig.verify(credential.key(), b"payload").unwrap();
    let signers = AllowedSigners::parse(line, &zone());
    signers.lines_of(&credential).any(|signer| signer.allows(&credential, proof, Some(principal), REQUEST_NAMESPACE, now).is_ok())
}

const PRINCIPALS: &[&str] = &[
    "alice",
    "bob",
    "alice,bob",
    "*",
    "al?ce",
    "!alice,*",
    "*,!bob",
    "a*,*d",
    "\"alice\"",
    "\"alice,carol d\"",
    "Alice",
    "ali\"ce\"",
    "\"alice",
    "carol*",
    "!bob",
    ",alice",
    "",
];
const OPTIONS: &[&str] = &[
    "cert-authority",
    "cert-authority",
    "cert-authority",
    "CERT-Authority",
    "cert-authority=\"yes\"",
    "namespaces=\"sshfix-request@v1\"",
    "namespaces=\"git,sshfix-request@v1\"",
    "namespaces=\"git,file\"",
    "namespaces=\"*\"",
    "NAMESPACES=\"!sshfix*,*\"",
    "namespaces=\"a\\\"b,sshfix*\"",
    "namespaces=sshfix-request@v1",
    "namespaces=\"sshfix-request@v1",
    "namespaces",
    "namespaces=\"a b,*\"",
    "valid-after=\"20260101\"",
    "valid-after=\"20260601120000Z\"",
    "valid-after=\"20260601140000\"",
    "valid-after=\"202606011400\"",
    "valid-before=\"20270101\"",
    "valid-before=\"20260601120000Z\"",
    "valid-before=\"20260601140000\"",
    "valid-before=\"202606011400Z\"",
    "valid-before=\"2026\"",
    "valid-before=\"20261301\"",
    "valid-before=\"\"",
    "nonsense",
    "nonsense=\"1\"",
    "",
];
const JOINS: &[&str] = &[",", ",", ",", ",", ", ", ";", ",,"];
const SPACES: &[&str] = &[" ", " ", "\t", "  \t"];
const TIMES: &[&str] = &[
    "20251231230000Z",
    "20260601115959Z",
    "20260601120000Z",
    "20260601120001Z",
    "20260601140000Z",
    "20260930235959Z",
    "20261001000000Z",
    "20261231225959Z",
    "20270101000000Z",
];

fn timestamp(text: &str) -> Timestamp {
    jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).unwrap().to_zoned(TimeZone::UTC).unwrap().timestamp()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the line says, we allow exactly whom ssh-keygen allows.
    #[test]
    fn allowed_signers_is_read_as_ssh_keygen_reads_it(
        principals in prop::sample::select(PRINCIPALS),
        options in prop::collection::vec((prop::sample::select(OPTIONS), prop::sample::select(JOINS)), 0..4),
        space in prop::sample::select(SPACES),
        key in 0..4usize,
        tail in prop::sample::select(&["", " comment", "\t# x", " a \"b"][..]),
        principal in prop::sample::select(&["alice", "bob", "carol d", "Alice"][..]),
        time in prop::sample::select(TIMES),
        with in 0..2usize,
    ) {
        let signed = &*SIGNED;
        let mut line = format!("{principals}{space}");
        for (index, (option, join)) in options.iter().enumerate() {
            if index > 0 {
                line.push_str(join);
            }
            line.push_str(option);
        }
        if !options.is_empty() {
            line.push_str(space);
        }
        line.push_str([&signed.plain, &signed.authority, &signed.other, if with == 0 { &signed.plain } else { &signed.authority }][key]);
        line.push_str(tail);
        line.push('\n');
        let blob = &signed.blobs[with];
        let theirs = signed.bench.verifies(&line, principal, REQUEST_NAMESPACE, time, blob, b"payload");
        let ours = allows(&line, principal, timestamp(time), blob);
        prop_assert_eq!(ours, theirs, "{} for {} at {} (certificate: {})", line, principal, time, with == 1);
    }
}

#[test]
fn the_same_file_finds_the_same_principals_as_ssh_keygen() {
    let signed = &*SIGNED;
    let line = format!("alice,carol {}\n", signed.plain);
    std::fs::write(signed.bench.path("find.allowed"), &line).unwrap();
    let base64 = STANDARD.encode(&signed.blobs[0]);
    std::fs::write(
        signed.bench.path("find.sig"),
        format!("-----BEGIN SSH SIGNATURE-----\n{base64}\n-----END SSH SIGNATURE-----\n"),
    )
    .unwrap();
    let output = Command::new("ssh-keygen")
        .args(["-Y", "find-principals", "-f", "find.allowed", "-s", "find.sig"])
        .current_dir(signed.bench.dir.path())
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // A line each, or one line in older versions.
    let found: Vec<&str> = found.split(['\n', ',']).collect();
    assert_eq!(found, ["alice", "carol"]);
    for principal in found {
        assert!(allows(&line, principal, NOW.parse().unwrap(), &signed.blobs[0]), "{principal}");
    }
}
