//! What the proof protects, with a real login as the judge: limits that end some logins, keep entries, homes that only their owner's group
//! can write, files of revoked keys, and live sessions of which a stage believes that they cannot be. One server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use sshfix_tests::lab::{self, ADMIN_V4, Release, Server, Session};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const ALICE_FROM: &str = "198.51.100.7";
/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(3);

/// Writes the drop-in by hand and has sshd follow.
fn configure(server: &Server, text: &str) {
    server.write(DROP_IN, text);
    let journal = "journalctl -u ssh --no-pager -o cat | grep -c 'Server listening on 0.0.0.0' || true";
    let before = server.sh(journal).stdout;
    server.sh("sshd -t && systemctl reload ssh.service").expect_ok();
    server.wait_until("sshd has read its files", LONG, || server.sh(journal).stdout != before);
}

/// Entries of agent.toml in the place of those that were there.
fn keep(server: &Server, entries: &[(&str, &str)]) {
    let config = server.read("/etc/sshfix/agent.toml.plain");
    let one = |(address, user): &(&str, &str)| format!("[[keep]]\naddress = \"{address}\"\nuser = \"{user}\"\n");
    let entries: String = entries.iter().map(one).collect();
    server.write("/etc/sshfix/agent.toml", format!("{entries}{config}"));
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
}

/// Refused as a lockout that names this.
#[track_caller]
fn locks_out(server: &Server, edit: &str, who: &str) {
    let words: Vec<&str> = ["--json", "sshd", "set"].into_iter().chain(edit.split(' ')).collect();
    let answer = server.ctl(&words);
    assert_eq!(answer.status, 4, "{}: {edit}: {answer:#?}", server.release());
    let error = answer.json();
    assert_eq!(error["code"], "lockout", "{edit}: {error:#}");
    assert!(error["message"].as_str().unwrap().contains(who), "{edit}: {error:#}");
}

/// A dry run that may be applied.
#[track_caller]
fn harmless(server: &Server, edit: &str) -> serde_json::Value {
    let words: Vec<&str> = ["--json", "sshd", "set"].into_iter().chain(edit.split(' ')).chain(["--dry-run"]).collect();
    let answer = server.ctl(&words);
    assert_eq!(answer.status, 0, "{}: {edit}: {answer:#?}", server.release());
    answer.json()
}

const FATAL: [&str; 6] = [
    "PermitRootLogin no",
    "DenyUsers root alice",
    "AllowUsers nobody-else",
    "PubkeyAuthentication no",
    "ListenAddress 127.0.0.1",
    "MaxSessions 0",
];

/// Every edit that keeps root or alice out is refused, and others are not.
#[track_caller]
fn protected(server: &Server) {
    for edit in FATAL {
        locks_out(server, edit, "would be");
    }
    harmless(server, "X11Forwarding no");
    assert!(server.gets_in("root", ADMIN_V4, 22) && server.gets_in("alice", ALICE_FROM, 22), "{}", server.release());
}

fn limits_are_no_part_of_the_verdict(server: &Server) {
    for limit in ["MaxAuthTries 1", "LoginGraceTime 5", "MaxStartups 1:30:100"] {
        configure(server, &format!("{limit}\nX11Forwarding yes\n"));
        let sessions = [Session::open_as(server, "root", ADMIN_V4, 22), Session::open_as(server, "alice", ALICE_FROM, 22)];
        protected(server);
        drop(sessions);
        keep(server, &[(ADMIN_V4, "root"), (ALICE_FROM, "alice")]);
        protected(server);
        keep(server, &[]);
    }
    configure(server, "X11Forwarding yes\n");
    let _session = Session::open_as(server, "root", ADMIN_V4, 22);
    let plan = harmless(server, "MaxAuthTries 1");
    assert!(plan["paths"][0]["risks"][0].as_str().unwrap().contains("MaxAuthTries 1"), "{plan:#}");
    assert_eq!(plan["paths"][0]["after"], "accept", "{plan:#}");
    locks_out(
        server,
        "MaxSessions 0 --match User=root",
        "root from 192.0.2.9 (a live session) would be refused by MaxSessions 0",
    );
}

fn what_a_stage_believes_of_an_account_hides_nothing(server: &Server) {
    configure(server, "X11Forwarding yes\n");
    server.sh("chmod 775 /home/alice; chmod g+w /home/alice/.ssh /home/alice/.ssh/authorized_keys").expect_ok();
    if server.gets_in("alice", ALICE_FROM, 22) {
        let session = Session::open_as(server, "alice", ALICE_FROM, 22);
        for edit in ["DenyUsers alice", "PubkeyAuthentication no --match User=alice", "AuthorizedKeysFile /etc/ssh/none/%u"] {
            locks_out(server, edit, "alice from 198.51.100.7 (a live session)");
        }
        harmless(server, "X11Forwarding no");
        drop(session);
        keep(server, &[(ALICE_FROM, "alice")]);
        for edit in ["DenyUsers alice", "PubkeyAuthentication no --match User=alice"] {
            locks_out(server, edit, "alice from 198.51.100.7 (a `keep` entry");
        }
        harmless(server, "X11Forwarding no");
        keep(server, &[]);
    }
    server.sh("chmod 755 /home/alice; chmod go-w /home/alice/.ssh /home/alice/.ssh/authorized_keys").expect_ok();

    // She is in, and a stage says that she cannot be.
    let session = Session::open_as(server, "alice", ALICE_FROM, 22);
    server.write("/run/nologin", "soon\n");
    locks_out(server, "DenyUsers alice", "alice from 198.51.100.7 (a live session) would be refused by sshd: DenyUsers alice");
    harmless(server, "X11Forwarding no");
    let log = server.run(&["journalctl", "--no-pager", "-o", "cat", "-u", "sshfix-agent"]).stdout;
    assert!(log.contains("alice from 198.51.100.7 is logged in, but the stage account says: sshd: /"), "{log}");
    drop(session);
    keep(server, &[(ALICE_FROM, "alice")]);
    locks_out(server, "DenyUsers alice", "alice from 198.51.100.7 (a `keep` entry");
    harmless(server, "X11Forwarding no");
    keep(server, &[]);
    server.sh("rm /run/nologin").expect_ok();
}

fn revoked_keys_are_read(server: &Server) {
    server
        .sh("touch /etc/ssh/revoked; cp /root/.ssh/authorized_keys /etc/ssh/all; ssh-keygen -q -k -f /etc/ssh/krl /etc/ssh/all")
        .expect_ok();
    configure(server, "RevokedKeys /etc/ssh/revoked\nX11Forwarding yes\n");
    let _sessions = [Session::open_as(server, "root", ADMIN_V4, 22), Session::open_as(server, "alice", ALICE_FROM, 22)];
    protected(server);
    for file in ["/etc/ssh/none", "/etc/ssh/all", "/etc/ssh/krl"] {
        // Some versions take no file that is not there.
        if file == "/etc/ssh/none" && server.ctl(&["sshd", "set", "RevokedKeys", file, "--dry-run"]).status == 1 {
            continue;
        }
        locks_out(server, &format!("RevokedKeys {file}"), "(a live session)");
        configure(server, &format!("RevokedKeys {file}\n"));
        assert!(!server.gets_in("root", ADMIN_V4, 22), "{file} takes every key back");
        configure(server, "RevokedKeys /etc/ssh/revoked\nX11Forwarding yes\n");
    }
    harmless(server, "RevokedKeys none");
}

fn other_names_and_ports(server: &Server) {
    server.sh("useradd -o -u 0 -g 0 -M -d /root -s /bin/sh toor; cp /root/.ssh/authorized_keys /etc/ssh/all").expect_ok();
    configure(server, "Port 22\nPort 2222\nX11Forwarding yes\n");
    let session = Session::open_as(server, "toor", ADMIN_V4, 2222);
    // The title of its session may say root, as of everybody with this number.
    locks_out(
        server,
        "PermitRootLogin no",
        "from 192.0.2.9 (a live session) would be refused by sshd: PermitRootLogin no refuses",
    );
    locks_out(server, "Port 22", "(a live session) would be refused by the sockets");
    harmless(server, "X11Forwarding no");
    drop(session);
    server.sh("userdel -f toor 2>/dev/null || sed -i /^toor:/d /etc/passwd /etc/shadow").ok();
    configure(server, "X11Forwarding yes\n");
}

fn every_way_of_a_keep_entry_stays(server: &Server) {
    configure(server, "PasswordAuthentication yes\nX11Forwarding yes\n");
    server.sh("echo alice:right | chpasswd; cp /home/alice/.ssh/authorized_keys /etc/ssh/plain
        sed 's/^/command=\"false\" /' /etc/ssh/plain > /etc/ssh/forced; sed 's/^/from=\"10.0.0.0\\/8\" /' /etc/ssh/plain > /etc/ssh/elsewhere").expect_ok();
    keep(server, &[(ALICE_FROM, "alice")]);
    for (edit, why) in [
        ("PasswordAuthentication no", "may come in by password, which would count no more"),
        ("PubkeyAuthentication no", "may come in by publickey, which would count no more"),
        ("AuthenticationMethods publickey,password", "which would count no more"),
        ("AuthenticationMethods publickey,publickey", "no authentication method is left that can work"),
        ("AuthorizedKeysFile /etc/ssh/forced", "1 of the 1 keys of alice would count no more"),
        ("AuthorizedKeysFile /etc/ssh/elsewhere", "would count no more"),
    ] {
        locks_out(server, edit, why);
    }
    harmless(server, "AuthorizedKeysFile /etc/ssh/plain");
    // Once she is seen to come by key, no password is needed.
    let _session = Session::open_as(server, "alice", ALICE_FROM, 22);
    harmless(server, "PasswordAuthentication no");
    keep(server, &[]);
    // Somebody else may be behind the same address, who has nothing but a password.
    let by_password = Session::begin(&by_password(server));
    locks_out(server, "PasswordAuthentication no", "alice is in by password, which would count no more");
    locks_out(server, "PubkeyAuthentication no", "alice is in by publickey");
    locks_out(server, "AuthorizedKeysFile /etc/ssh/none/%u", "alice is in by publickey");
    harmless(server, "X11Forwarding no");
    drop(by_password);
    server.sh("passwd -d alice; usermod -p '*' alice").expect_ok();
}

/// A ban passes; what is closed meanwhile stays closed.
fn a_keep_entry_that_is_banned_for_now_is_protected(server: &Server) {
    let table = "table inet b { set b { type ipv4_addr; flags timeout; elements = { 198.51.100.7 timeout 1h } }
        chain c { type filter hook input priority 0; ip saddr @b drop; }; }";
    server.write("/root/b.nft", table);
    server.sh("nft -f /root/b.nft").expect_ok();
    keep(server, &[(ALICE_FROM, "alice")]);
    let asked = server.ctl(&["hosts", "deny", ALICE_FROM, "--json"]);
    asked.expect_error(4, "lockout", &["a `keep` entry", "hosts.deny"]);
    keep(server, &[]);
    server.sh("nft delete table inet b").expect_ok();
}

/// The command line of alice's login by her password alone.
fn by_password(server: &Server) -> Vec<String> {
    server.sh("printf '#!/bin/sh\\necho right\\n' > /root/askpass; chmod 755 /root/askpass").expect_ok();
    let askpass = format!("SSH_ASKPASS={}", server.path("/root/askpass").display());
    let mut command = server.login_command("alice", ALICE_FROM, 22);
    let ssh = command.iter().position(|word| word == "ssh").unwrap();
    let words = ["env", &askpass, "SSH_ASKPASS_REQUIRE=force", "ssh", "-o", "BatchMode=no", "-o", "PubkeyAuthentication=no"];
    command.splice(ssh..=ssh, words.map(str::to_owned));
    command
}

fn nobody_is_handed_over_to_pam_unseen(server: &Server) {
    configure(server, "UsePAM no\nX11Forwarding yes\n");
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    server.sh("cp /etc/pam.d/sshd /root/pam; sed -i '1i account required pam_deny.so' /etc/pam.d/sshd").expect_ok();
    locks_out(server, "UsePAM yes", "UsePAM yes: what PAM says of root is not known");
    harmless(server, "X11Forwarding no");
    configure(server, "UsePAM yes\n");
    assert!(!server.gets_in("root", ADMIN_V4, 22), "PAM lets nobody in");
    server.sh("cp /root/pam /etc/pam.d/sshd").expect_ok();
    drop(session);
    configure(server, "X11Forwarding yes\n");
}

fn proves(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("useradd -m -s /bin/sh -p '*' alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
            cp /etc/sshfix/agent.toml /etc/sshfix/agent.toml.plain")
        .expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    limits_are_no_part_of_the_verdict(&server);
    what_a_stage_believes_of_an_account_hides_nothing(&server);
    revoked_keys_are_read(&server);
    other_names_and_ports(&server);
    every_way_of_a_keep_entry_stays(&server);
    a_keep_entry_that_is_banned_for_now_is_protected(&server);
    nobody_is_handed_over_to_pam_unseen(&server);
}

#[test]
fn every_way_in_that_works_is_protected_on_bookworm() {
    proves(Release::Bookworm);
}

#[test]
fn every_way_in_that_works_is_protected_on_trixie() {
    proves(Release::Trixie);
}
