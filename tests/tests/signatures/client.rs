//! What the client signs, with key files and through ssh-agent, is good for us and for ssh-keygen.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sshfix::identities::{self, Places};
use sshfix_policy::request::REQUEST_NAMESPACE;

use crate::bench::{Bench, KINDS, check, payload, verifies};

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
        assert!(verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, &payload), "{name}");
        assert!(!verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, b"other"), "{name}");
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

pub fn places(ssh_agent: Option<PathBuf>) -> Places {
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
        assert!(verifies(&allowed, "alice", REQUEST_NAMESPACE, "20260601", &blob, &payload), "{}", identity.name);
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
