//! Two hundred edits that break sshd's configuration or lock people out, a hundred a release: after each one the admin gets in as
//! before, a session that was open still is, and every file is what it was, byte for byte. `SSHFIX_INPUTS=n` makes n a release,
//! `SSHFIX_SEED` others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

mod cut;
mod kinds;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use kinds::{COUNT, Edit, USED_PORT, edit};
use sshfix_tests::lab::{self, Release, Server};

const ADMIN: &str = "203.0.113.7";

/// Every file below /etc/ssh, with what is in it.
fn files(server: &Server) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).expect("a folder of the server") {
            let path = entry.expect("an entry").path();
            if let Ok(target) = fs::read_link(&path) {
                // Of the server, not of this machine.
                found.insert(path.display().to_string(), target.into_os_string().into_encoded_bytes());
            } else if path.is_dir() {
                walk(&path, found);
            } else {
                found.insert(path.display().to_string(), fs::read(&path).expect("a file of the server"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&server.path("/etc/ssh"), &mut found);
    found
}

/// A session that is open all the time, and answers as long as it is.
struct Session {
    ssh: Child,
    answers: BufReader<ChildStdout>,
}

impl Session {
    fn open(server: &Server) -> Self {
        let command = server.ssh_command(ADMIN);
        let mut ssh = Command::new(&command[0]);
        let mut ssh =
            ssh.args(&command[1..]).arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh can be run");
        let answers = BufReader::new(ssh.stdout.take().unwrap());
        Self { ssh, answers }
    }

    fn answers(&mut self) -> bool {
        let sent = self.ssh.stdin.as_mut().unwrap().write_all(b"there?\n");
        let mut line = String::new();
        sent.is_ok() && self.answers.read_line(&mut line).is_ok() && line == "there?\n"
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server.sh("useradd -m -s /bin/sh alice").expect_ok();
    // A block as many servers have one, at the end, where a careless edit is swallowed by it.
    server
        .sh("printf 'Match Address 198.51.100.0/24\\n\\tPasswordAuthentication no # lan\\n' >> /etc/ssh/sshd_config; systemctl restart ssh")
        .expect_ok();
    server.sh(&format!("systemd-run -q python3 -m http.server {USED_PORT}")).expect_ok();
    server.install_sshfix();
    server
}

/// What became of one edit, in one word.
fn outcome(server: &Server, edit: &Edit, shown: &str) -> (&'static str, String) {
    let mut words: Vec<&str> = edit.words.iter().map(String::as_str).collect();
    words.push("--json");
    let answer = server.ctl_from(ADMIN, &words);
    let said = serde_json::from_str::<serde_json::Value>(&answer.stdout).unwrap_or_default();
    let message = [&said["message"], &said["failure"]["message"]].into_iter().find_map(serde_json::Value::as_str);
    let message = message.map_or_else(|| answer.stderr.trim().to_owned(), str::to_owned);
    let what = match answer.status {
        // An argument that the client does not take, or nothing to do.
        2 => "usage",
        1 => "refused",
        4 => "lockout",
        6 => "rolled back",
        0 => "nothing to do",
        // Nobody confirms it, so it ends as it would at its deadline.
        5 => {
            let id = answer.json()["id"].as_str().expect("a change id").to_owned();
            server.ctl_from(ADMIN, &["rollback", &id]).expect_status(0);
            "pending, not confirmed"
        }
        _ => panic!("{shown}\n{answer:#?}"),
    };
    (what, message)
}

/// As the environment says.
fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn two_hundred_broken_edits_leave_the_admin_in_and_every_byte_as_it_was() {
    if !lab::root_or_skip() {
        return;
    }
    let (many, seed) = (number("SSHFIX_INPUTS", 4 * COUNT), number("SSHFIX_SEED", 5) as u64);
    for release in Release::ALL {
        let server = prepared(release);
        let mut session = Session::open(&server);
        assert!(session.answers(), "{release}: the session does not open");
        let mut report: BTreeMap<(&str, &str), (usize, String)> = BTreeMap::new();
        for number in 0..many {
            let edit = edit(seed + release as u64, number);
            let shown = format!("{release} edit {number}: {edit:#?}");
            let clean = files(&server);
            if !edit.before.is_empty() {
                server.sh(&edit.before).expect_ok();
            }
            let before = files(&server);
            let (what, message) = outcome(&server, &edit, &shown);
            let entry = report.entry((edit.kind, what)).or_insert_with(|| (0, message));
            entry.0 += 1;

            let after = files(&server);
            let changed: Vec<_> =
                before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
            assert!(changed.is_empty(), "{changed:?} changed ({what}): {shown}");
            if !edit.after.is_empty() {
                server.sh(&edit.after).expect_ok();
            }
            assert!(files(&server) == clean, "the test itself left something behind: {shown}");
            let login = server.ssh(ADMIN);
            let journal = || server.sh("journalctl -q --no-pager -n 40 -u ssh -u sshfix-agent -u sshfix-sshd").stdout;
            assert!(login.ok, "{} ({what}): {shown}\n{}", login.stderr, journal());
            assert!(session.answers(), "a session was cut ({what}): {shown}\n{}", journal());
            if edit.unit {
                // The unit is put right by hand, as the answer says.
                let right = "rm -r /etc/systemd/system/ssh.service.d; systemctl daemon-reload; systemctl reset-failed ssh || true; \
                             systemctl stop sshfix-sshd.service || true; systemctl start ssh.service";
                server.sh(right).expect_ok();
                server.wait_until("the admin gets in", Duration::from_mins(3), || server.ssh(ADMIN).ok);
                assert!(session.answers(), "a session was cut when the unit was put right: {shown}\n{}", journal());
            }
        }
        // What failed on the way left nothing pending, nothing stuck, and sshd can start again by its own unit.
        let status = server.ctl(&["status", "--json"]).expect_status(0).json();
        assert!(status["pending"].is_null() && status.get("waiting").is_none(), "{status:#}");
        server.sh("sshd -t && systemctl restart ssh").expect_ok();
        server.wait_until("the admin gets in", Duration::from_mins(3), || server.ssh(ADMIN).ok);
        assert!(session.answers(), "{release}: the session was cut at the end");

        println!("{release}: {many} edits, seed {seed}");
        let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
        for ((kind, what), (count, message)) in &report {
            println!("  {count:3} {what:22} {kind}: {message}");
            *totals.entry(what).or_default() += count;
        }
        println!("  in all: {totals:?}");
        // Each is what it says: most are refused before anything is touched.
        let refused =
            totals.get("refused").unwrap_or(&0) + totals.get("lockout").unwrap_or(&0) + totals.get("usage").unwrap_or(&0);
        assert!(refused * 10 >= many * 7, "{release}: only {refused} of {many} were refused: {report:#?}");
    }
}
