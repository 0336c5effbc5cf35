//! A directory of keys, `ssh-keygen` in it, and our own check of what it signs.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sshfix_policy::request::allowed_signers::AllowedSigners;
use sshfix_policy::request::authenticate::{AuthenticateError, AuthenticatedRequest, Context, authenticate};
use sshfix_policy::request::wire::{Challenge, SignedRequest};
use sshfix_policy::request::{Mode, Operation, PROTOCOL, Query, Request};
use sshfix_policy::ssh::sshsig::from_armor;
use tempfile::TempDir;

pub const HOST: &str = "SHA256:host";
/// Local time of the tests, as `TZ` and as jiff read it.
pub const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
pub const NOW: &str = "2026-06-01T12:00:00Z";

pub struct Bench {
    pub dir: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn keygen(&self, args: &[&str]) {
        let output = Command::new("ssh-keygen").arg("-q").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "ssh-keygen {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn key(&self, name: &str, kind: &[&str]) -> String {
        self.keygen(&[&["-N", "", "-C", name, "-f", name, "-t"], kind].concat());
        self.public(name)
    }

    /// Type and base64, without the comment.
    pub fn public(&self, name: &str) -> String {
        let line = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    pub fn sign(&self, key: &str, namespace: &str, payload: &[u8]) -> Vec<u8> {
        std::fs::write(self.path("message"), payload).unwrap();
        let _ = std::fs::remove_file(self.path("message.sig"));
        self.keygen(&["-Y", "sign", "-n", namespace, "-f", key, "message"]);
        from_armor(&std::fs::read_to_string(self.path("message.sig")).unwrap()).unwrap()
    }
}

/// What `ssh-keygen -Y verify` says.
pub fn verifies(allowed: &str, principal: &str, namespace: &str, time: &str, blob: &[u8], payload: &[u8]) -> bool {
    let bench = Bench::new();
    let base64 = STANDARD.encode(blob);
    let lines: Vec<&str> = base64.as_bytes().chunks(70).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
    let armor = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
    std::fs::write(bench.path("signature"), armor).unwrap();
    std::fs::write(bench.path("allowed"), allowed).unwrap();
    std::fs::write(bench.path("message"), payload).unwrap();
    Command::new("ssh-keygen")
        .args(["-Y", "verify", "-f", "allowed", "-I", principal, "-n", namespace, "-s", "signature"])
        .arg(format!("-Overify-time={time}"))
        .env("TZ", ZONE)
        .current_dir(bench.dir.path())
        .stdin(std::fs::File::open(bench.path("message")).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

pub fn zone() -> TimeZone {
    TimeZone::posix(ZONE).unwrap()
}

pub fn challenge() -> Challenge {
    Challenge::new([9; 32])
}

pub fn request(principal: Option<&str>) -> Request {
    Request {
        protocol: PROTOCOL,
        host: HOST.to_owned(),
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        challenge: challenge().to_string(),
        valid_for: 60,
        principal: principal.map(str::to_owned),
        operation: Operation::Query(Query::Status),
        mode: Mode::DryRun,
        reason: None,
        from: None,
        from_user: None,
    }
}

pub fn payload(principal: Option<&str>) -> Vec<u8> {
    serde_json::to_vec(&request(principal)).unwrap()
}

pub fn check_at(allowed: &str, payload: &[u8], blob: &[u8], now: &str) -> Result<AuthenticatedRequest, AuthenticateError> {
    let signers = AllowedSigners::parse(allowed, &zone());
    let challenge = challenge();
    let context =
        Context { host: HOST, challenge: &challenge, age: Duration::from_secs(1), now: now.parse::<Timestamp>().unwrap() };
    authenticate(&SignedRequest::new(payload.to_vec(), blob.to_vec()), &signers, &context)
}

pub fn check(allowed: &str, payload: &[u8], blob: &[u8]) -> Result<AuthenticatedRequest, AuthenticateError> {
    check_at(allowed, payload, blob, NOW)
}

pub const KINDS: [(&str, &[&str]); 6] = [
    ("ed25519", &["ed25519"]),
    ("p256", &["ecdsa", "-b", "256"]),
    ("p384", &["ecdsa", "-b", "384"]),
    ("p521", &["ecdsa", "-b", "521"]),
    ("rsa3072", &["rsa", "-b", "3072"]),
    ("rsa4096", &["rsa", "-b", "4096"]),
];
