//! `allowed_signers` is read exactly as `ssh-keygen -Y verify` reads it.

use std::process::Command;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use sshfix_policy::request::REQUEST_NAMESPACE;
use sshfix_policy::request::allowed_signers::{AllowedSigners, Credential};
use sshfix_policy::ssh::certificate::Certificate;
use sshfix_policy::ssh::public_key::PublicKey;
use sshfix_policy::ssh::sshsig::SshSig;

use crate::bench::{Bench, NOW, verifies, zone};

/// One key, one certificate and one signature with each, for many lines of `allowed_signers`. Holds no directory: a static is
/// never dropped, so it would stay behind.
struct Signed {
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
    Signed { plain, authority, other, blobs }
});

/// What our parser says about the same line, time and principal: the part of `authenticate` that reads `allowed_signers`.
fn allows(line: &str, principal: &str, now: Timestamp, blob: &[u8]) -> bool {
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
    jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).unwrap().to_zoned_datetime(TimeZone::UTC).unwrap().timestamp()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

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
        let theirs = verifies(&line, principal, REQUEST_NAMESPACE, time, blob, b"payload");
        let ours = allows(&line, principal, timestamp(time), blob);
        prop_assert_eq!(ours, theirs, "{} for {} at {} (certificate: {})", line, principal, time, with == 1);
    }
}

#[test]
fn the_same_file_finds_the_same_principals_as_ssh_keygen() {
    let signed = &*SIGNED;
    let line = format!("alice,carol {}\n", signed.plain);
    let bench = Bench::new();
    std::fs::write(bench.path("find.allowed"), &line).unwrap();
    let base64 = STANDARD.encode(&signed.blobs[0]);
    std::fs::write(bench.path("find.sig"), format!("-----BEGIN SSH SIGNATURE-----\n{base64}\n-----END SSH SIGNATURE-----\n"))
        .unwrap();
    let output = Command::new("ssh-keygen")
        .args(["-Y", "find-principals", "-f", "find.allowed", "-s", "find.sig"])
        .current_dir(bench.dir.path())
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
