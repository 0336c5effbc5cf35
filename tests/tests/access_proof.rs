//! The proof of access by real sshds of both releases: every host key type and every method of key exchange that is offered, other
//! hosts, sshds that cannot be proven, and what a proof costs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use sshfix::kex::{KexError, prove};
use sshfix_policy::access_proof::{AccessProof, AccessProofError, cookie, verify};
use sshfix_policy::ssh::public_key::PublicKey;
use sshfix_tests::lab::{self, Release, SERVER_V4, SERVER_V6, Server};

/// For one proof. Where nothing answers it is waited for.
const LIMIT: Duration = Duration::from_secs(20);

/// Not a test: what the agent reads inside a server.
#[test]
fn inside() {
    lab::answer_inside(|question| match sshfix_agent::subsystem::sshd::host_keys(question[0].parse().unwrap()) {
        Ok(keys) => keys.iter().map(|key| format!("{} {}", key.kind(), key.fingerprint())).collect::<Vec<_>>().join("\n"),
        Err(error) => format!("error: {error}"),
    });
}

/// The host keys as the agent reads them, `TYPE FINGERPRINT` a line.
#[track_caller]
fn host_keys(server: &Server, port: u16) -> String {
    lab::ask_inside(server, &[&port.to_string()])
}

/// A proof made from the clients' network.
fn proof(server: &Server, to: &str, cookie: &[u8; 16]) -> Result<AccessProof, KexError> {
    let netns = File::open(format!("/run/netns/{}", server.clients_netns())).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let cookie = *cookie;
    let prover = std::thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        prove(&[to], &cookie, LIMIT)
    });
    prover.join().unwrap()
}

fn restart_with(server: &Server, options: &str) {
    server.write("/etc/ssh/sshd_config.d/00-test.conf", options);
    server.sh("sshd -t && systemctl reset-failed ssh && systemctl restart ssh").expect_ok();
}

fn key(server: &Server, kind: &str) -> PublicKey {
    PublicKey::from_host_line(&server.read(&format!("/etc/ssh/ssh_host_{kind}_key.pub"))).unwrap()
}

#[test]
fn every_key_type_and_every_method_is_proven_and_another_host_is_not() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
        server
            .sh("for b in 384 521; do ssh-keygen -qt ecdsa -b $b -N '' -f /etc/ssh/ssh_host_ecdsa${b}_key; done; \
                 ssh-keygen -qt rsa -b 2048 -N '' -f /etc/ssh/ssh_host_rsa2048_key; ssh-keygen -A")
            .expect_ok();
        let cookie = cookie("4f2a", &[1; 32]);
        let quiet = if release == Release::Trixie { "PerSourcePenalties no\n" } else { "" };
        for (file, algorithms, kind) in [
            ("ed25519", &["ssh-ed25519"][..], "ssh-ed25519"),
            ("ecdsa", &["ecdsa-sha2-nistp256"], "ecdsa-sha2-nistp256"),
            ("ecdsa384", &["ecdsa-sha2-nistp384"], "ecdsa-sha2-nistp384"),
            ("ecdsa521", &["ecdsa-sha2-nistp521"], "ecdsa-sha2-nistp521"),
            ("rsa", &["rsa-sha2-512", "rsa-sha2-256"], "ssh-rsa"),
            ("rsa2048", &["rsa-sha2-512", "rsa-sha2-256"], "ssh-rsa"),
        ] {
            let own = key(&server, file);
            let other = if file == "ed25519" { key(&server, "rsa") } else { key(&server, "ed25519") };
            for algorithm in algorithms {
                for method in ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"] {
                    restart_with(
                        &server,
                        &format!(
                            "HostKey /etc/ssh/ssh_host_{file}_key\nHostKeyAlgorithms {algorithm}\nKexAlgorithms {method}\n{quiet}"
                        ),
                    );
                    let proof = proof(&server, &format!("{SERVER_V4}:22"), &cookie).unwrap_or_else(|error| panic!("{error}"));
                    let proven = verify(&proof, &cookie, std::slice::from_ref(&own)).unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!(proven.exchange().method.name(), method);
                    assert!(matches!(
                        verify(&proof, &cookie, std::slice::from_ref(&other)),
                        Err(AccessProofError::OtherHost { .. })
                    ));
                    let later = sshfix_policy::access_proof::cookie("4f2a", &[2; 32]);
                    assert_eq!(verify(&proof, &later, std::slice::from_ref(&own)), Err(AccessProofError::Stale));
                }
            }
            assert_eq!(host_keys(&server, 22), format!("{kind} {}", own.fingerprint()));
        }
        let journal = server.sh("journalctl -u ssh --no-pager").expect_ok();
        assert!(journal.contains("no login was intended"), "{journal}");
        assert!(
            !journal.contains("onnection reset by") && !journal.contains("rror:"),
            "sshd had something to complain about: {journal}"
        );
    }
}

#[test]
fn the_agent_reads_the_keys_of_the_sshd_that_listens_there() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        let mut all: Vec<String> = ["rsa", "ecdsa", "ed25519"]
            .map(|file| key(&server, file))
            .iter()
            .map(|k| format!("{} {}", k.kind(), k.fingerprint()))
            .collect();
        let read = host_keys(&server, 22);
        let mut lines: Vec<&str> = read.lines().collect();
        lines.sort_unstable();
        all.sort_unstable();
        assert_eq!(lines, all);

        // Another sshd, with options of its own on another port.
        server
            .sh("ssh-keygen -qt ed25519 -N '' -f /etc/ssh/second; \
                 systemd-run -q --unit second /usr/sbin/sshd -D -p 2222 -h /etc/ssh/second -o 'PidFile none' -o 'AllowUsers root alice'")
            .expect_ok();
        server.wait_until("the second sshd", Duration::from_mins(2), || server.sh("ss -Hltn sport = :2222 | grep -q .").ok());
        let second = PublicKey::from_host_line(&server.read("/etc/ssh/second.pub")).unwrap();
        assert_eq!(host_keys(&server, 2222), format!("ssh-ed25519 {}", second.fingerprint()));
        let cookie = cookie("1", &[1; 32]);
        let proof = proof(&server, &format!("[{SERVER_V6}]:2222"), &cookie).unwrap();
        assert!(verify(&proof, &cookie, &[second]).is_ok());
        assert!(matches!(verify(&proof, &cookie, &[key(&server, "ed25519")]), Err(AccessProofError::OtherHost { .. })));

        // Files that others can write, or that are not there, are named; of one that is another user's sshd is not even asked.
        server.sh("cd /etc/ssh; rm ssh_host_rsa_key.pub ssh_host_ed25519_key.pub; chmod 666 ssh_host_ecdsa_key.pub").expect_ok();
        let error = host_keys(&server, 22);
        for part in ["ssh-keygen -y -f /etc/ssh/ssh_host_rsa_key >", "others than root can write it"] {
            assert!(error.starts_with("error: ") && error.contains(part), "{error}");
        }
        server.sh("chown nobody /etc/ssh/ssh_host_ecdsa_key.pub").expect_ok();
        let error = host_keys(&server, 22);
        assert!(error.starts_with("error: ") && error.contains("not by root"), "{error}");
        assert_eq!(host_keys(&server, 2), "error: no OpenSSH server listens on port 2");
    }
}

#[test]
fn a_server_that_cannot_be_proven_is_described() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        let cookie = cookie("1", &[1; 32]);
        let to = format!("{SERVER_V4}:22");
        let error = || proof(&server, &to, &cookie).unwrap_err();
        restart_with(&server, "KexAlgorithms sntrup761x25519-sha512@openssh.com\n");
        let said = error();
        assert!(matches!(said, KexError::NoCommon { .. }), "{said}");

        restart_with(&server, "");
        server.write("/etc/hosts.deny", "sshd: ALL\n");
        let said = error();
        assert!(said.to_string().contains("hosts.deny refuses after five seconds"), "{said}");
        server.write("/etc/hosts.deny", "");

        server.sh("nft add table inet t; nft add chain inet t c '{ type filter hook input priority -5; }'; nft add rule inet t c tcp dport 22 drop").expect_ok();
        let said = error();
        assert!(matches!(said, KexError::Silence { .. }), "{said}");
        server.sh("nft flush chain inet t c; nft add rule inet t c tcp dport 22 reject").expect_ok();
        let said = error();
        assert!(matches!(said, KexError::Refused { .. }), "{said}");
        server.sh("nft delete table inet t").expect_ok();
        server.run(&["systemctl", "stop", "ssh"]).expect_ok();
        let said = error();
        assert!(matches!(said, KexError::Refused { .. }), "{said}");
    }
}

#[test]
fn ten_proofs_in_a_row_get_nobody_banned() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        for number in 0..10 {
            let cookie = cookie(&number.to_string(), &[1; 32]);
            proof(&server, &format!("{SERVER_V4}:22"), &cookie).unwrap();
        }
        // The address the proofs came from is the first of the clients' in the server's network.
        let banned = server.sh("fail2ban-client status sshd").expect_ok();
        assert!(banned.contains("Currently banned:\t0"), "{banned}");
        assert!(server.ssh("203.0.113.7").ok);
    }
}
