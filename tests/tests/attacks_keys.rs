//! Attacks by what decides about keys: a file that comes first and holds the same key with a forced command, a broken list of revoked keys,
//! a token that ends sshd, patterns of files, methods that nobody answers to, lines that sshd passes over. Real logins are the judge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use sshfix_tests::lab::{self, ADMIN_V4, CtlResult, Release, Server, Session};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const FROM: &str = "198.51.100.7";

fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("useradd -m -s /bin/bash -p '*' alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
             mkdir -p /etc/ssh/keys /etc/ssh/forced.d; cd /etc/ssh/keys
             (printf 'command=\"/bin/false\" '; cat /root/.ssh/authorized_keys) > alice; cp alice root; cp alice wide; cp alice ../forced.d/x
             chmod 755 . ../forced.d; chmod 644 * ../forced.d/x; chmod 664 wide
             ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/other; cp /etc/ssh/other.pub /etc/ssh/revoked-good
             (cat /etc/ssh/other.pub; echo 'SHA256:abc') > /etc/ssh/revoked-bad
             printf 'from=\"x\" ' | cat - /etc/ssh/other.pub > /etc/ssh/revoked-options; printf '\\r\\n' > /etc/ssh/revoked-return")
        .expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    configured(&server, "X11Forwarding yes\n");
    server
}

/// A configuration, and an sshd that has read it.
fn configured(server: &Server, text: &str) {
    server.sshd_follows(DROP_IN, text);
}

fn alice_gets_in(server: &Server) -> bool {
    server.gets_in("alice", FROM, 22)
}

fn set(server: &Server, line: &str) -> CtlResult {
    let words: Vec<&str> = line.split(' ').collect();
    server.ctl(&[&["sshd", "set", "--json", "--confirm-within", "10m"][..], &words].concat())
}

/// What is wrong: edits that are not refused as a lockout with these words.
fn not_refused(server: &Server, edits: &[(&str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, words) in edits {
        let asked = set(server, line);
        let said = asked.json()["message"].as_str().unwrap_or_default().to_owned();
        if asked.status != 4 || !said.contains(words) {
            wrong.push(format!("{}: {line}: {} {said} {}", server.release(), asked.status, asked.stderr));
        }
        if let Some(id) = asked.json()["id"].as_str() {
            let still = alice_gets_in(server);
            wrong.push(format!("{}: {line}: applied, alice gets in: {still}", server.release()));
            server.ctl(&["rollback", id]);
        }
    }
    wrong
}

/// What is wrong: edits that are not applied, or by which alice does not get in.
fn not_applied(server: &Server, edits: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in edits {
        let asked = set(server, line);
        let still = alice_gets_in(server);
        if asked.status != 5 || !still {
            wrong.push(format!("{}: {line}: {} alice gets in: {still} {}", server.release(), asked.status, asked.stdout));
        }
        if let Some(id) = asked.json()["id"].as_str() {
            server.ctl(&["rollback", id]);
        }
    }
    wrong
}

/// What is wrong: a verdict that is not what a real login says, or findings without these words.
fn verdict(server: &Server, what: &str, gets_in: bool, verdict: &str, words: &[&str]) -> Vec<String> {
    let said = server.ctl(&["--json", "diagnose", FROM, "--user", "alice"]).json();
    let seen = (alice_gets_in(server), said["verdict"].as_str().unwrap_or_default().to_owned());
    let text = said.to_string();
    let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
    let good = seen == (gets_in, verdict.to_owned()) && missing.is_empty();
    let release = server.release();
    if good { Vec::new() } else { vec![format!("{release}: {what}: {seen:?}, not said: {missing:?}: {text}")] }
}

/// Somebody is in: nothing that takes the key away is applied, and what takes nothing away is.
fn edits(server: &Server) -> Vec<String> {
    let _alice = Session::open_as(server, "alice", FROM, 22);
    let _root = Session::open_as(server, "root", ADMIN_V4, 22);
    let mut wrong = not_refused(
        server,
        &[
            ("AuthorizedKeysFile /etc/ssh/keys/%u .ssh/authorized_keys", "would count no more"),
            (
                "AuthorizedKeysFile /etc/ssh/keys/alice .ssh/authorized_keys .ssh/authorized_keys2 --match User=alice",
                "would count no more",
            ),
            ("RevokedKeys /etc/passwd", "no authentication method is left that can work"),
            ("RevokedKeys /etc/ssh/revoked-bad", "no authentication method is left that can work"),
            ("RevokedKeys /etc/ssh/revoked-options", "no authentication method is left that can work"),
            ("RevokedKeys /etc/ssh/revoked-return --match User=alice", "no authentication method is left that can work"),
            ("AuthorizedKeysFile .ssh/%x .ssh/authorized_keys", "no authentication method is left that can work"),
            ("AuthorizedKeysFile .ssh/authorized_keys .ssh/%k", "% token that sshd does not know"),
            (
                "AuthorizedKeysFile .ssh/100% .ssh/authorized_keys --match User=alice",
                "no authentication method is left that can work",
            ),
            ("AuthenticationMethods publickey:x", "no authentication method is left that can work"),
            ("AuthenticationMethods publickey:x --match User=alice", "no authentication method is left that can work"),
        ],
    );
    wrong.extend(not_applied(
        server,
        &[
            "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u",
            "AuthorizedKeysFile /etc/ssh/none/%u .ssh/authorized_keys",
            "RevokedKeys /etc/ssh/revoked-good",
            "AuthenticationMethods publickey:x publickey",
        ],
    ));
    if server.release() == Release::Trixie {
        let forced = "AuthorizedKeysFile /etc/ssh/forced.d/* .ssh/authorized_keys";
        wrong.extend(not_refused(server, &[(forced, "would count no more")]));
        wrong.extend(not_applied(server, &["AuthorizedKeysFile .ssh/authorized_[!x]*"]));
    }
    wrong
}

/// A file that others can write begins to count without `StrictModes`.
fn a_file_that_begins_to_count(server: &Server) -> Vec<String> {
    configured(server, "AuthorizedKeysFile /etc/ssh/keys/wide .ssh/authorized_keys\n");
    let _alice = Session::open_as(server, "alice", FROM, 22);
    not_refused(server, &[("StrictModes no", "would count no more")])
}

/// OpenSSH 10.0: alice comes by a pattern, as a keep entry, and as somebody who is in.
fn patterns(server: &Server) -> Vec<String> {
    server
        .sh("cp /etc/sshfix/agent.toml /root/agent.toml; mkdir /home/alice/.ssh/keys.d
             mv /home/alice/.ssh/authorized_keys /home/alice/.ssh/keys.d/a; chown -R alice: /home/alice")
        .expect_ok();
    let by_pattern = "X11Forwarding yes\nMatch User alice\n    AuthorizedKeysFile .ssh/keys.d/*\n";
    configured(server, by_pattern);
    let mut wrong = verdict(server, "a pattern", true, "accept", &[]);
    let taken_away = [
        ("DenyUsers alice", "DenyUsers"),
        ("PubkeyAuthentication no --match User=alice", ""),
        ("AuthorizedKeysFile none --match User=alice", ""),
        ("AuthorizedKeysFile .ssh/authorized_keys --match User=alice", ""),
    ];
    let keep = format!("[[keep]]\naddress = \"{FROM}\"\nuser = \"alice\"\n{}", server.read("/root/agent.toml"));
    server.write("/etc/sshfix/agent.toml", keep);
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
    wrong.extend(not_refused(server, &taken_away));
    server.sh("cp /root/agent.toml /etc/sshfix/agent.toml; systemctl restart sshfix-agent.service").expect_ok();
    let session = Session::open_as(server, "alice", FROM, 22);
    configured(server, by_pattern);
    wrong.extend(not_refused(server, &taken_away));
    drop(session);
    server.sh("mv /home/alice/.ssh/keys.d/a /home/alice/.ssh/authorized_keys").expect_ok();
    configured(server, by_pattern);
    wrong.extend(verdict(server, "a pattern that matches nothing", false, "refuse", &["keys.d/*"]));
    wrong
}

/// Lines that sshd passes over, and keys that it does not take: no verdict but BLOCKED, with the line and why.
fn lines(server: &Server) -> Vec<String> {
    configured(server, "X11Forwarding yes\n");
    let mut wrong = Vec::new();
    let place = "/home/alice/.ssh/authorized_keys line 1";
    for (change, why) in [
        ("fold -w 40", "the key is cut, or broken into several lines"),
        ("cut -c 1-60", "the key is cut, or broken into several lines"),
        ("sed 's/^/no-ptty /'", "an option that sshd does not know"),
        ("sed 's/^/from=198.51.100.7 /'", "not in double quotes"),
        ("sed 's/^/principals=\"alice\" /'", "no cert-authority"),
        ("sed 's/^/permitopen=\"host\" /'", "has a value that sshd does not take"),
        ("sed 's/^ssh-ed25519/ecdsa-sha2-nistp256/'", "another type than the line says"),
        ("sed 's/^/command=\"a\",command=\"b\" /'", "there twice"),
        ("sed '1s/^/\\xef\\xbb\\xbf/'", "no type of key"),
        ("sed 's/^/from=\"!198.51.100.7,*\" /'", "its from= leaves this address out"),
    ] {
        server.sh(&format!("{change} /root/.ssh/authorized_keys > /home/alice/.ssh/authorized_keys")).expect_ok();
        wrong.extend(verdict(server, change, false, "refuse", &[place, why]));
    }
    for change in [
        "sed 's/$/\\r/'",
        "sed 's/^/restrict,NO-PTY,permitopen=\"[::1]:*\" /'",
        "(cat; echo junk; echo; echo '# x') <",
        "(echo 'from=\"!198.51.100.7,*\",command=\"false\" '$(cat /root/.ssh/authorized_keys); cat) <",
    ] {
        server.sh(&format!("{change} /root/.ssh/authorized_keys > /home/alice/.ssh/authorized_keys")).expect_ok();
        wrong.extend(verdict(server, change, true, "accept", &[]));
    }
    server.sh("cp /root/.ssh/authorized_keys /home/alice/.ssh/authorized_keys").expect_ok();
    wrong
}

/// The known reason per key, and the keyword that decides.
fn reasons(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    for (text, words) in [
        (
            "RevokedKeys /etc/ssh/none",
            &["/etc/ssh/none", "RevokedKeys refuses every key", "install -m 644 /dev/null /etc/ssh/none"][..],
        ),
        ("RevokedKeys /etc/ssh/revoked-bad", &["line 2 is no public key", "RevokedKeys refuses every key"]),
        ("RevokedKeys /root/.ssh/authorized_keys", &["/root/.ssh/authorized_keys (RevokedKeys) takes it back"]),
        ("PubkeyAcceptedAlgorithms rsa-sha2-512", &["50-x.conf line 1", "PubkeyAcceptedAlgorithms leaves out"]),
        (
            "AuthorizedKeysFile .ssh/%x .ssh/authorized_keys",
            &["has a % token that sshd does not know", "correct AuthorizedKeysFile"],
        ),
        ("AuthenticationMethods publickey:x", &["publickey:x"]),
    ] {
        configured(server, &format!("{text}\n"));
        wrong.extend(verdict(server, text, false, "refuse", words));
    }
    configured(server, "X11Forwarding yes\n");
    wrong
}

fn all(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = prepared(release);
    let mut wrong = edits(&server);
    wrong.extend(a_file_that_begins_to_count(&server));
    wrong.extend(lines(&server));
    wrong.extend(reasons(&server));
    if release == Release::Trixie {
        wrong.extend(patterns(&server));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_edit_takes_a_key_away_unseen_and_no_key_counts_that_sshd_does_not_take_bookworm() {
    all(Release::Bookworm);
}

#[test]
fn no_edit_takes_a_key_away_unseen_and_no_key_counts_that_sshd_does_not_take_trixie() {
    all(Release::Trixie);
}
