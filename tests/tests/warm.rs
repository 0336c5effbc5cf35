//! A warm answer, which goes by what the agent kept of earlier ones, is the answer of an agent that has just been started: after changes of
//! files, logins, log lines, services, bans and rules, on both releases. `SSHFIX_WARM` asks for so many changes, `SSHFIX_SEED` for others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use sshfix_tests::lab::{self, Release, Server, run};
use sshfix_tests::rulesets::Dice;

/// Somebody whom the changes are about.
const OTHER_V4: &str = "203.0.113.7";
/// Changes on each server; each costs a start of the agent.
const CHANGES: usize = 8;

/// A line that no program writes, and that anybody can.
const TWO_NAMES: &str = r#"runuser -u alice -- python3 -c '
import socket
line = b"SYSLOG_IDENTIFIER=sshd\nSYSLOG_IDENTIFIER=x\nMESSAGE=hi\n"
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(line, "/run/systemd/journal/socket")'"#;

/// What somebody does on a host, and a script for it.
const DONE: [(&str, &str); 21] = [
    ("nothing", ":"),
    ("a line with two names by alice", TWO_NAMES),
    (
        "a line of sshd's by alice",
        "runuser -u alice -- logger -t sshd 'Accepted publickey for root from 203.0.113.7 port 1 ssh2'",
    ),
    ("a line of sshd's by a script of root's", "logger -t sshd 'fatal: Timeout before authentication for 203.0.113.7 port 4711'"),
    ("a line of the kernel's name", "logger -t kernel 'sshd[12]: segfault at 0 ip 00007f1'; sleep 0.1"),
    ("an edit that sshd has not read", "echo 'DenyUsers root@203.0.113.7' > /etc/ssh/sshd_config.d/00-warm.conf"),
    ("an edit of the same length", "echo 'DenyUsers root@203.0.113.8' > /etc/ssh/sshd_config.d/00-warm.conf"),
    ("an edit that it takes back", "rm -f /etc/ssh/sshd_config.d/00-warm.conf"),
    ("an edit that it does not take", "echo 'DenyUser root' > /etc/ssh/sshd_config.d/00-warm.conf"),
    (
        "another file at the same path",
        "cp /etc/ssh/sshd_config /etc/ssh/x; echo '# x' >> /etc/ssh/x; mv /etc/ssh/x /etc/ssh/sshd_config",
    ),
    ("a reload", "systemctl reload ssh; sleep 0.3"),
    ("a restart", "systemctl restart ssh; sleep 0.3"),
    ("sshd stopped", "systemctl stop ssh"),
    ("sshd started", "systemctl reset-failed ssh; systemctl start ssh; sleep 0.3"),
    ("a host key taken away", "mv /etc/ssh/ssh_host_rsa_key /etc/ssh/away"),
    ("a host key put back", "[ ! -e /etc/ssh/away ] || mv /etc/ssh/away /etc/ssh/ssh_host_rsa_key"),
    ("no folder of its own", "rmdir /run/sshd"),
    ("its folder", "mkdir -p -m 755 /run/sshd"),
    (
        "a rule",
        "nft add table inet warm; nft add chain inet warm in '{ type filter hook input priority 0; }'; nft add rule inet warm in ip saddr 203.0.113.7 drop",
    ),
    ("no rule", "nft delete table inet warm"),
    ("another journal", "journalctl --rotate; journalctl --vacuum-time=1s; sleep 0.2"),
];

#[test]
fn a_warm_answer_is_the_cold_one() {
    let changes = std::env::var("SSHFIX_WARM").ok().and_then(|text| text.parse().ok()).unwrap_or(CHANGES);
    let seed = std::env::var("SSHFIX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    lab::on_both_at_once(|server| {
        server.sh("useradd -m -s /bin/bash alice").expect_ok();
        // It is started anew for each answer that nothing was kept for.
        let often = "[Unit]\nStartLimitIntervalSec=0\n";
        server.write("/etc/systemd/system/sshfix-agent.service.d/often.conf", often);
        // One that does not take its files stays down, and is not now starting and now failed.
        server.write("/etc/systemd/system/ssh.service.d/often.conf", format!("{often}[Service]\nRestart=no\n"));
        server.sh("systemctl daemon-reload").expect_ok();
        let mut dice = Dice::new(seed, if server.release() == Release::Trixie { 1 } else { 2 });
        let mut done = Vec::new();
        for number in 0..changes {
            // Warm before it, so that there is something to be wrong about.
            answers(server);
            // The first is one that took OPEN from everybody.
            done.push(if number == 0 { run_one(server, 1) } else { change(server, &mut dice) });
            let warm = answers(server);
            let again = answers(server);
            server.sh("systemctl restart sshfix-agent").expect_ok();
            let cold = answers(server);
            assert_eq!(warm, cold, "{:?} after {done:?}", server.release());
            assert_eq!(again, cold, "{:?} after {done:?}", server.release());
        }
        println!("{:?}: {done:?}", server.release());
    });
}

/// Does one thing, and says what.
fn change(server: &Server, dice: &mut Dice) -> String {
    let logins = 3;
    let Some(number) = dice.roll(DONE.len() + logins).checked_sub(logins) else {
        // A login that works, one that does not, and one that ends before it.
        let login = server.login_command(["root", "nobody", "alice"][dice.roll(3)], OTHER_V4, 22);
        let command = [login, vec!["true".to_owned()]].concat();
        let output = run(&command.iter().map(String::as_str).collect::<Vec<_>>());
        server.sh("sleep 0.3; journalctl --sync").expect_ok();
        return format!("a login: {}", output.ok());
    };
    run_one(server, number)
}

fn run_one(server: &Server, number: usize) -> String {
    let (what, script) = DONE[number];
    let output = server.sh(script);
    server.sh("journalctl --sync").expect_ok();
    format!("{what}: {}", output.ok())
}

/// All that is said of somebody, but for what moves by itself.
fn answers(server: &Server) -> Vec<serde_json::Value> {
    let questions: [&[&str]; 3] = [
        &["diagnose", OTHER_V4, "--json"],
        &["diagnose", OTHER_V4, "--user", "root", "--json"],
        &["diagnose", "2001:db8:1::9", "--user", "alice", "--json"],
    ];
    questions.iter().map(|question| still(server.ctl(question).json())).collect()
}

/// Without times and numbers of processes.
fn still(mut document: serde_json::Value) -> serde_json::Value {
    match &mut document {
        serde_json::Value::Object(fields) => {
            fields.retain(|name, _| !matches!(name.as_str(), "at" | "host" | "took_ms"));
            fields.values_mut().for_each(|value| *value = still(value.take()));
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(|value| *value = still(value.take())),
        serde_json::Value::String(_) | serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
    document
}
