//! A part of the host is missing, dead or hangs: the rest still works, the missing part is named, and nothing waits for it
//! longer than five seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{CtlResult, Release, Server, root_or_skip};

const BLOCKED: &str = "203.0.113.7";
const NEIGHBOUR: &str = "203.0.113.70";
const LONGEST: Duration = Duration::from_secs(5);

/// A change looks at the host several times.
const AT_MOST: u32 = 4;

fn server(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server
}

/// Asks the agent and checks that it did not wait for the missing part. Who waits for that does so each time; who waits for a busy
/// machine does not.
#[track_caller]
fn ctl(server: &Server, arguments: &[&str]) -> CtlResult {
    let mut result = server.ctl(arguments);
    for _ in 0..4 {
        if result.time >= LONGEST {
            result = server.ctl(arguments);
        }
    }
    assert!(result.time < LONGEST, "{}: {arguments:?} took {:?}\n{result:#?}", server.release(), result.time);
    result
}

fn block_with_nft(server: &Server) {
    server
        .sh("nft add table inet hand
             nft 'add set inet hand blocked { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.70 } }'
             nft 'add chain inet hand input { type filter hook input priority 0; }'
             nft add rule inet hand input ip saddr @blocked tcp dport 22 drop")
        .expect_ok();
}

fn block_with_hosts_deny(server: &Server) {
    server.write("/etc/hosts.deny", "# by hand\nsshd: 203.0.113.7\nsshd: 203.0.113.70\n");
}

fn causes(diagnosis: &Value) -> Vec<&str> {
    diagnosis["findings"].as_array().unwrap().iter().map(|finding| finding["cause"].as_str().unwrap()).collect()
}

/// The status line of a subsystem: its state, and all it says as one text.
#[track_caller]
fn subsystem(server: &Server, name: &str) -> (String, String) {
    let status = ctl(server, &["status", "--json"]).expect_status(0).json();
    let all = status["subsystems"].as_array().unwrap();
    let one = all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {status:#}"));
    (one["state"].as_str().unwrap().to_owned(), one.to_string())
}

/// Blocked by what still works: found, lifted, felt; the neighbour stays blocked.
#[track_caller]
fn is_found_and_lifted(server: &Server, expected: &[&str]) -> Value {
    let release = server.release();
    assert!(!server.ssh(BLOCKED).ok, "{release}: the client must be blocked");
    let diagnosis = ctl(server, &["diagnose", BLOCKED, "--json"]).expect_status(8).json();
    for cause in expected {
        assert!(causes(&diagnosis).contains(cause), "{release}: no {cause} in {diagnosis:#}");
    }
    ctl(server, &["unban", BLOCKED, "--dry-run", "--json"]).expect_status(0);
    let change = server.ctl(&["unban", BLOCKED, "--json"]).expect_status(0);
    assert!(change.time < LONGEST * AT_MOST, "{release}: {change:#?}");
    let change = change.json();
    assert_eq!(change["changed"], true, "{release}: {change:#}");
    let login = server.ssh(BLOCKED);
    assert!(login.ok, "{release}: {}\n{change:#}", login.stderr);
    assert!(!server.ssh(NEIGHBOUR).ok, "{release}: {NEIGHBOUR} must stay blocked");
    diagnosis
}

#[test]
fn without_fail2ban_the_rest_works() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        server.sh("systemctl stop fail2ban; dpkg --purge --force-depends fail2ban; rm -rf /run/fail2ban").expect_ok();
        block_with_nft(&server);
        block_with_hosts_deny(&server);
        is_found_and_lifted(&server, &["nft-rule", "hosts-deny"]);
        let (state, text) = subsystem(&server, "fail2ban");
        assert_eq!(state, "absent", "{text}");
        // Nothing refuses and nothing is unreadable: an absent fail2ban makes nothing unknown.
        ctl(&server, &["diagnose", BLOCKED]).expect_status(0);
    }
}

#[test]
fn without_the_nft_program_the_rest_works() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        block_with_nft(&server);
        block_with_hosts_deny(&server);
        server.sh("rm /usr/sbin/nft").expect_ok();
        is_found_and_lifted(&server, &["nft-rule", "hosts-deny"]);
        assert_eq!(subsystem(&server, "nf_tables").0, "present");
    }
}

#[test]
fn without_any_iptables_program_the_rest_works() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        block_with_nft(&server);
        block_with_hosts_deny(&server);
        server.sh("rm -f /usr/sbin/iptables* /usr/sbin/ip6tables* /usr/sbin/xtables*").expect_ok();
        is_found_and_lifted(&server, &["nft-rule", "hosts-deny"]);
        ctl(&server, &["diagnose", BLOCKED]).expect_status(0);
    }
}

#[test]
fn without_hosts_files_the_rest_works() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        server.sh("rm -f /etc/hosts.allow /etc/hosts.deny").expect_ok();
        block_with_nft(&server);
        server.run(&["fail2ban-client", "set", "sshd", "banip", BLOCKED]).expect_ok();
        is_found_and_lifted(&server, &["nft-rule", "fail2ban-ban"]);
        let (_, text) = subsystem(&server, "hosts_access");
        assert!(text.contains("hosts.deny") || text.contains("hosts.allow"), "the missing files are named: {text}");
        assert!(!server.path("/etc/hosts.deny").exists() && !server.path("/etc/hosts.allow").exists(), "no file is made");
        ctl(&server, &["diagnose", BLOCKED]).expect_status(0);
    }
}

/// fail2ban's rules stay in the kernel and its socket stays in the file system, but nobody answers.
#[test]
fn with_a_dead_fail2ban_the_rest_works() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        server
            .sh("systemctl mask --runtime fail2ban; systemctl kill --signal=KILL fail2ban
                 while pgrep -f 'fail2ban-serve[r]' >/dev/null; do sleep 0.1; done; test -S /run/fail2ban/fail2ban.sock || \
                 python3 -c \"import os, socket; os.makedirs('/run/fail2ban', exist_ok=True); \
                 socket.socket(socket.AF_UNIX).bind('/run/fail2ban/fail2ban.sock')\"")
            .expect_ok();
        fail2ban_does_not_answer(&server, "absent");
    }
}

#[test]
fn with_a_fail2ban_that_hangs_the_rest_works() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        server.sh("kill -STOP $(systemctl show -P MainPID fail2ban)").expect_ok();
        fail2ban_does_not_answer(&server, "unreadable");
        server.sh("kill -CONT $(systemctl show -P MainPID fail2ban)").expect_ok();
        server.wait_for_fail2ban();
        assert_eq!(subsystem(&server, "fail2ban").0, "present", "{}: it is back", server.release());
    }
}

fn fail2ban_does_not_answer(server: &Server, expected: &str) {
    block_with_nft(server);
    block_with_hosts_deny(server);
    let diagnosis = is_found_and_lifted(server, &["nft-rule", "hosts-deny"]);
    let said = format!("{} {}", diagnosis["notes"], diagnosis["stages"]);
    assert!(said.contains("fail2ban"), "{}: the diagnosis names what it could not read: {diagnosis:#}", server.release());
    let (state, text) = subsystem(server, "fail2ban");
    assert_eq!(state, expected, "{text}");
    assert!(text.contains("not running") || text.contains("did not answer"), "it says what is wrong: {text}");
    // What asks for fail2ban itself says clearly that it does not answer, and that nothing was changed.
    let jails = ctl(server, &["fail2ban", "jails", "--json"]);
    assert!(jails.stdout.contains("fail2ban"), "{jails:#?}");
    let ban = ctl(server, &["ban", "203.0.113.8", "--jail", "sshd", "--json"]);
    assert_eq!(ban.status, 1, "{ban:#?}");
    assert_eq!(ban.json()["schema"], "sshfix.error/1", "{ban:#?}");
    assert!(ban.json()["message"].as_str().unwrap().contains("fail2ban"), "{ban:#?}");
    assert!(server.ssh("203.0.113.8").ok, "nothing was changed");
}
