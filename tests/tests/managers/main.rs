//! Rulesets as real programs make them, made by the real programs: `diagnose` agrees with real connections, says who refuses in that
//! program's words, and its fix, run as it stands there, lets the client in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod fail2ban;
mod firewalld;
mod others;
mod ufw;

use serde_json::Value;
use sshfix_tests::lab::{Release, SERVER_V4, SERVER_V6, Server, root_or_skip, run};

/// A server with the managers installed, each still off, and with sshfix.
fn boot(release: Release) -> Server {
    let server = Server::boot_with_managers(release);
    server.install_sshfix();
    server
}

/// Runs a test on both releases.
fn on_both(test: impl Fn(&Server)) {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        test(&boot(release));
    }
}

/// Whether a client gets sshd's banner within two seconds.
fn greeted(server: &Server, from: &str) -> bool {
    let to = if from.contains(':') { SERVER_V6 } else { SERVER_V4 };
    let script = "import socket, sys
s = socket.create_connection((sys.argv[2], 22), 2, (sys.argv[1], 0))
sys.exit(not s.recv(4).startswith(b'SSH'))";
    let command = server.ssh_command(from);
    let nsenter: Vec<&str> = command.iter().take(3).map(String::as_str).collect();
    run(&[&nsenter[..], &["python3", "-c", script, from, to]].concat()).ok()
}

/// The diagnosis of an address whose verdict is known and is what a real connection meets.
#[track_caller]
fn agrees(server: &Server, address: &str) -> Value {
    let release = server.release();
    let diagnosis = server.ctl(&["diagnose", address, "--json"]).json();
    match diagnosis["verdict"].as_str() {
        Some("accept") => {
            let login = server.ssh(address);
            assert!(login.ok, "{release}: sshfix says that {address} gets in: {}\n{diagnosis:#}", login.stderr);
        }
        Some("refuse") => assert!(!greeted(server, address), "{release}: sshfix says that {address} is refused\n{diagnosis:#}"),
        _ => panic!("{release}: {address} is not judged: {diagnosis:#}"),
    }
    diagnosis
}

/// Open for sshfix and for a real client.
#[track_caller]
fn open(server: &Server, address: &str) {
    let diagnosis = agrees(server, address);
    assert_eq!(diagnosis["verdict"], "accept", "{}: {address}: {diagnosis:#}", server.release());
}

/// Refused for sshfix and for a real client; gives the finding with this cause and owner.
#[track_caller]
fn refused(server: &Server, address: &str, cause: &str, owner: &str) -> Value {
    let diagnosis = agrees(server, address);
    assert_eq!(diagnosis["verdict"], "refuse", "{}: {address}: {diagnosis:#}", server.release());
    let findings = diagnosis["findings"].as_array().unwrap();
    let found = findings.iter().find(|one| one["cause"] == cause && one["owner"] == owner && one["blocking"] == true);
    found.unwrap_or_else(|| panic!("{}: {address}: no {cause} of {owner} in {diagnosis:#}", server.release())).clone()
}

/// Refused by this and nothing else; its fix is the command expected, and run as it stands there it lets the client in.
#[track_caller]
fn refused_and_fixed(server: &Server, address: &str, cause: &str, owner: &str, fix: &str) {
    let found = refused(server, address, cause, owner);
    assert_eq!(found["fix"], fix, "{}: {found:#}", server.release());
    server.sh(fix).expect_ok();
    open(server, address);
}
