//! Edits of sshd that would give more than was asked: a broken line that becomes a comment and opens what it closed, and a grant about one
//! address that changes what counts for everybody. Real logins on both releases are the judge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{self, CtlResult, HeldConnections, Release, Server};

const FROM: &str = "203.0.113.7";
const OTHER: &str = "203.0.113.8";
const FIRST: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const SECOND: &str = "/etc/ssh/sshd_config.d/60-y.conf";
const LIMIT: Duration = Duration::from_mins(2);

/// A server where root has a password, and alice a key of her own for `fix` from one address and nothing else.
fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server.install_sshfix();
    server
        .sh("useradd -m -s /bin/sh -G sshfix alice; echo root:right | chpasswd
             cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice/.ssh; chmod 700 /home/alice/.ssh
             runuser -u alice -- ssh-keygen -q -t ed25519 -N '' -f /home/alice/.ssh/id_ed25519
             printf 'alice %s\\n' \"$(cut -d ' ' -f 1,2 /home/alice/.ssh/id_ed25519.pub)\" >> /etc/sshfix/allowed_signers
             printf '\\n[[grant]]\\nprincipal = \"alice\"\\nactions = [\"fix\", \"allow\", \"diagnose\"]\\nnetworks = [\"203.0.113.7\"]\\n' \
                 >> /etc/sshfix/policy.toml
             printf '#!/bin/sh\\necho right\\n' > /root/askpass; chmod 755 /root/askpass; cp -r /etc/ssh /root/stock")
        .expect_ok();
    server
}

/// Lines of two drop-ins, and an sshd that runs with them; penalties only where they are asked for.
fn configure(server: &Server, first: &str, second: &str) {
    write(server, first, second);
    let quiet = if server.release() == Release::Trixie && !first.contains("Penalt") { "PerSourcePenalties no\n" } else { "" };
    server.write("/etc/ssh/sshd_config.d/10-quiet.conf", quiet);
    let restarted = || server.sh("mkdir -p /run/sshd; sshd -t && systemctl reset-failed ssh && systemctl restart ssh").ok();
    server.wait_until("sshd starts", LIMIT, restarted);
    // Some milliseconds after systemd calls it started: what is edited before that is not told from what it has read.
    let written = || server.sh("test \"$(cat /run/sshd.pid)\" = \"$(systemctl show -P MainPID ssh)\"").ok();
    server.wait_until("sshd has written its pid file", LIMIT, written);
}

fn write(server: &Server, first: &str, second: &str) {
    server.sh("rm -rf /etc/ssh; cp -a /root/stock /etc/ssh").expect_ok();
    server.write(FIRST, first);
    server.write(SECOND, second);
}

fn files(server: &Server) -> [String; 3] {
    [FIRST, SECOND, "/etc/ssh/sshd_config"].map(|path| server.read(path))
}

fn login(server: &Server, user: &str, from: &str, options: &[&str]) -> bool {
    let mut command = server.login_command(user, from, 22);
    let at = command.iter().position(|word| word == "-F").unwrap();
    command.splice(at..at, options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
    let ssh = command.iter().position(|word| word == "ssh").unwrap();
    let askpass = server.path("/root/askpass").display().to_string();
    let environment = ["env".to_owned(), format!("SSH_ASKPASS={askpass}"), "SSH_ASKPASS_REQUIRE=force".to_owned()];
    command.splice(ssh..ssh, environment);
    command.push("true".to_owned());
    lab::run(&command.iter().map(String::as_str).collect::<Vec<_>>()).ok()
}

fn by_key(server: &Server, user: &str, from: &str) -> bool {
    login(server, user, from, &[])
}

fn root_by_password(server: &Server) -> bool {
    login(server, "root", FROM, &["BatchMode=no", "PubkeyAuthentication=no", "NumberOfPasswordPrompts=1"])
}

fn alices(server: &Server, arguments: &[&str]) -> CtlResult {
    let program = ["runuser", "-u", "alice", "--", "env", "HOME=/home/alice", "/usr/local/bin/sshfix", "ctl", "--json"];
    server.run(&[&program[..], arguments].concat()).into()
}

/// Takes a change back that waits for its confirm.
#[track_caller]
fn taken_back(server: &Server, change: &Value) {
    assert_eq!(change["state"], "pending", "{change:#}");
    server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
}

#[test]
fn a_broken_line_becomes_a_comment_only_where_that_opens_nothing() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        match_line_goes_with_its_block(&server);
        what_restricts_is_reported(&server);
    }
}

/// A `Match` line alone would give its block's lines to everybody.
fn match_line_goes_with_its_block(server: &Server) {
    let release = server.release();
    let block = "# lan\nMatch Adress 10.0.0.0/8\n\tPermitRootLogin yes # lan only\n\n  PasswordAuthentication yes\n";
    for down in [false, true] {
        configure(server, "", "");
        assert!(by_key(server, "root", FROM) && !root_by_password(server), "{release}");
        write(server, &format!("X11Forwarding no\n{block}"), "Banner\n");
        if down {
            assert!(!server.sh("systemctl restart ssh").ok());
            assert!(!by_key(server, "root", FROM), "{release}");
        }
        let change = server.ctl(&["--json", "fix", FROM]).expect_status(5).json();
        server.ctl(&["confirm", change["id"].as_str().unwrap()]).expect_status(0);
        server.sh("sshd -t").expect_ok();
        assert!(by_key(server, "root", FROM), "{release}");
        assert!(!root_by_password(server), "{release}: the block's PermitRootLogin yes counts for everybody: {change:#}");
        let commented = "# lan\n# sshd does not take this line: Match Adress 10.0.0.0/8\n\
                         \t# of the block above: PermitRootLogin yes # lan only\n\n  # of the block above: PasswordAuthentication yes\n";
        let [first, second, _] = files(server);
        assert_eq!(first, format!("X11Forwarding no\n{commented}"), "{release}");
        assert_eq!(second, "# sshd does not take this line: Banner\n", "{release}");
        // What it comes to, beside the defaults and the running sshd.
        let diff = change["plan"]["steps"][0]["diff"].as_str().unwrap();
        let running = if down { "no sshd runs" } else { "what the running sshd goes by is not known" };
        let values = if down { "usepam becomes yes (/etc/ssh/sshd_config line" } else { "usepam becomes yes; the default is no" };
        for part in [values, running, "50-x.conf line 3 is the one that `sshd -t` names; its block ends with line 6"] {
            assert!(diff.contains(part), "{release}: {part}: {diff}");
        }
    }
    // In the main file, behind a block that stays; and up to the next Match line.
    let main = server.read("/root/stock/sshd_config");
    let broken =
        "Match User bob\n  X11Forwarding no\nMtach Address 10.0.0.0/8\n  PermitRootLogin yes\nMatch User eve\n  PermitTTY no\n";
    write(server, "", "");
    server.write("/etc/ssh/sshd_config", format!("{main}{broken}"));
    let change = server.ctl(&["--json", "fix", FROM]).expect_status(5).json();
    let commented = broken
        .replace("Mtach", "# sshd does not take this line: Mtach")
        .replace("PermitRootLogin", "# of the block above: PermitRootLogin");
    assert_eq!(files(server)[2], format!("{main}{commented}"), "{release}");
    server.ctl(&["confirm", change["id"].as_str().unwrap()]).expect_status(0);
    assert!(by_key(server, "root", FROM) && !root_by_password(server), "{release}");
}

fn what_restricts_is_reported(server: &Server) {
    let release = server.release();
    configure(server, "", "");
    for (lines, words) in [
        (
            "AlowUsers bob\n",
            &["50-x.conf", "`AlowUsers` is no keyword", "probably means AllowUsers", "make line 1", "`AllowUsers bob`"][..],
        ),
        ("# x\nDenyUser alice\n", &["make line 2 of /etc/ssh/sshd_config.d/50-x.conf `DenyUsers alice`"]),
        ("PermitRootLogn no\n", &["`PermitRootLogin no`"]),
        ("PermitRootLogin nah\n", &["`nah` is no value of PermitRootLogin, which takes yes, no"]),
        ("PasswordAuthentication noo\n", &["takes yes, no", "correct line 1"]),
        ("MaxAuthTries abc\n", &["MaxAuthTries, which takes a whole number"]),
        ("ListenAdress 203.0.113.1\n", &["`ListenAddress 203.0.113.1`"]),
        ("Weather fine\n", &["none is like it"]),
        ("Banner\nAlowUsers bob\n", &["`AllowUsers bob`"]),
        ("Port 2222x\nPort 2200\n", &["would listen on port 2200"]),
        (
            "Match Adress 10.0.0.0/8\n  PermitRootLogin yes\n  AllowUsers root\n",
            &["`Match Address 10.0.0.0/8`", "AllowUsers root", "line 3"],
        ),
        ("Match User alice\n  ForceCommandd /bin/false\n", &["`ForceCommand /bin/false`"]),
        ("Match Usr alice\n  Include /etc/ssh/x\n", &["`Match User alice`", "Include /etc/ssh/x"]),
    ] {
        write(server, lines, "");
        let before = files(server);
        let answer = server.ctl(&["--json", "fix", FROM]).expect_status(1).json();
        let message = answer["message"].as_str().unwrap();
        for word in words.iter().chain(&["nothing was changed", "sshd-config-invalid"]) {
            assert!(message.contains(word), "{release}: {lines}: `{word}` is not in: {message}");
        }
        assert_eq!(files(server), before, "{release}: {lines}");
    }
    // The same advice without `fix`; what `diagnose` says can be followed.
    write(server, "AlowUsers root\n", "");
    let finding = server.ctl(&["--json", "diagnose", FROM]).json()["findings"][0].clone();
    let fix = finding["fix"].as_str().unwrap();
    assert!(fix.contains("`AllowUsers root`") && !fix.contains("comment"), "{release}: {finding:#}");
}

#[test]
fn a_grant_about_one_address_changes_nothing_for_others() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        what_counts_for_everybody_is_refused(&server);
        what_is_about_the_address_alone_is_done(&server);
        nothing_that_is_merely_proposed_is_a_step(&server);
    }
}

/// Refused as a plan and as a change; not one byte is written.
#[track_caller]
fn refused(server: &Server, arguments: &[&str], words: &[&str]) {
    let before = files(server);
    for more in [&["--dry-run"][..], &[]] {
        let answer = alices(server, &[arguments, more].concat());
        let words: Vec<&str> = words.iter().copied().chain(["needs a grant about everybody", "nothing was changed"]).collect();
        answer.expect_error(3, "refused", &words);
        assert!(answer.json().get("plan").is_none_or(Value::is_null), "{answer:#?}");
    }
    assert_eq!(files(server), before, "{}", server.release());
    assert!(server.ctl(&["status", "--json"]).json()["pending"].is_null());
}

fn what_counts_for_everybody_is_refused(server: &Server) {
    configure(server, "# few\nMaxStartups 2\n", "");
    let held = HeldConnections::open(server, OTHER, 2);
    refused(server, &["fix", FROM], &["MaxStartups at /etc/ssh/sshd_config.d/50-x.conf line 2", "Match block"]);
    drop(held);

    // A line that blocks nobody now: root's `fix` would make it a comment.
    configure(server, "", "");
    write(server, "", "Banner\n");
    refused(server, &["fix", FROM], &["Banner at /etc/ssh/sshd_config.d/60-y.conf line 1"]);
    configure(server, "", "");
    server.run(&["systemctl", "stop", "ssh"]).expect_ok();
    refused(server, &["fix", FROM], &["`start ssh.service`"]);
    configure(server, "", "");
    server.sh("rm -r /run/sshd").expect_ok();
    refused(server, &["fix", FROM], &["`make /run/sshd`"]);
    server.sh("mkdir /run/sshd; rm /etc/ssh/ssh_host_*").expect_ok();
    refused(server, &["fix", FROM], &["`make the host key /etc/ssh/ssh_host_"]);

    // What root has edited and not activated would come into effect with her own line.
    configure(server, "AllowUsers root\n", "");
    server.write(SECOND, "PermitTTY no\n");
    refused(server, &["fix", FROM, "--user", "alice"], &["60-y.conf", "for everybody"]);
    assert!(!by_key(server, "alice", FROM) && server.sh("sshd -T | grep -q 'permittty no'").ok());

    if server.release() == Release::Trixie {
        configure(server, "PerSourcePenalties authfail:300s noauth:1s min:15s max:400s\n", "");
        assert!(!login(server, "alice", FROM, &["BatchMode=no", "PubkeyAuthentication=no", "NumberOfPasswordPrompts=1"]));
        server.wait_until("the penalty counts", LIMIT, || !by_key(server, "root", FROM));
        refused(server, &["fix", FROM], &["PerSourcePenaltyExemptList at /etc/ssh/sshd_config line"]);
        refused(server, &["allow", FROM, "--for", "10m"], &["PerSourcePenaltyExemptList at /etc/ssh/sshd_config line"]);
    }
}

fn what_is_about_the_address_alone_is_done(server: &Server) {
    let release = server.release();
    let main = server.read("/root/stock/sshd_config");
    let block = |user: &str, line: &str| format!("{main}Match User {user} Address 203.0.113.7\n    {line}\n");
    for (lines, user, first, rest) in [
        ("PermitRootLogin no\n", "root", "PermitRootLogin no\n", block("root", "PermitRootLogin prohibit-password")),
        ("AllowGroups root\n", "alice", "AllowGroups root\n", block("alice", "AllowGroups alice")),
        ("AllowUsers root\n", "alice", "AllowUsers root alice@203.0.113.7\n", main.clone()),
        ("DenyUsers alice\n", "alice", "DenyUsers alice@!203.0.113.7,*\n", main.clone()),
        ("MaxAuthTries 2\n", "alice", "MaxAuthTries 2\n", block("alice", "MaxAuthTries 6")),
    ] {
        configure(server, lines, "");
        let wrong = ["k1", "k2"].map(|key| format!("IdentityFile={}", server.path(format!("/root/{key}")).display()));
        let opens = || login(server, user, FROM, &[&wrong[0], &wrong[1]]);
        if lines.starts_with("MaxAuthTries") {
            server.sh("for k in k1 k2; do ssh-keygen -q -t ed25519 -N '' -f /root/$k; done").expect_ok();
            assert!(!opens());
            let blocked = || alices(server, &["diagnose", FROM, "--user", user]).json()["verdict"] == "unknown";
            server.wait_until("the journal has it", LIMIT, blocked);
        }
        assert!(!opens(), "{release}: {lines}");
        let answer = alices(server, &["fix", FROM, "--user", user]);
        let change = answer.json();
        assert_eq!(files(server), [first.to_owned(), String::new(), rest], "{release}: {lines}: {change:#}");
        assert!(opens(), "{release}: {lines}: {change:#}");
        if !lines.starts_with("MaxAuthTries") {
            assert!(!by_key(server, user, OTHER), "{release}: {lines} must keep {OTHER} out");
        }
        taken_back(server, &change);
        assert_eq!(files(server), [lines.to_owned(), String::new(), main.clone()], "{release}");
    }
}

/// By the narrow grant and by root's.
fn nothing_that_is_merely_proposed_is_a_step(server: &Server) {
    configure(server, "MaxAuthTries 2\n", "LoginGraceTime 15\n");
    let before = files(server);
    for answer in [alices(server, &["fix", FROM, "--user", "alice"]), server.ctl(&["--json", "fix", FROM, "--user", "alice"])] {
        let change = answer.expect_status(0).json();
        assert_eq!((&change["state"], &change["verdict"]), (&"unchanged".into(), &"accept".into()), "{change:#}");
        let notes = change["notes"].to_string();
        for part in ["advice only", "MaxAuthTries 6", "LoginGraceTime 120"] {
            assert!(notes.contains(part), "{part}: {change:#}");
        }
    }
    assert_eq!(files(server), before);
}
