//! Limits of sshd that end it, or turn people away: addresses that are not this host's, more sockets than it opens, a port that it leaves,
//! penalties of others, and files that come while it reads its own. Real logins and the sshd that runs are the judge. One server a release.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use sshfix_tests::lab::{self, ADMIN_V4, CtlResult, Release, Server, Session};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const QUIET: &str = "/etc/ssh/sshd_config.d/10-quiet.conf";
const STRANGER: &str = "198.51.100.7";
const OTHER: &str = "203.0.113.8";
const LONG: Duration = Duration::from_mins(3);
/// Time enough to start sshd and to log in before it is over.
const WAITS: &str = "12s";

fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server
        .sh("systemctl stop fail2ban; mkdir -p /var/log/journal
             printf '[confirm]\\nmin_seconds = 3\\n' >> /etc/sshfix/agent.toml; systemctl restart sshfix-agent")
        .expect_ok();
    if release == Release::Trixie {
        server.write(QUIET, "PerSourcePenalties no\n");
    }
    server
}

/// An sshd that was started with these lines, and nobody is in.
fn configure(server: &Server, lines: &str) {
    server.write(DROP_IN, lines);
    server.sh("mkdir -p /run/sshd; sshd -t; systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
    let written = || server.sh("test \"$(cat /run/sshd.pid)\" = \"$(systemctl show -P MainPID ssh)\"").ok();
    server.wait_until("sshd has written its pid file", LONG, written);
    let nobody = || server.ctl(&["status"]).stdout.contains("No live SSH session.");
    server.wait_until("nobody is in", LONG, nobody);
}

fn edit(server: &Server, line: &str, more: &[&str]) -> CtlResult {
    let words: Vec<&str> = line.split(' ').collect();
    server.ctl(&[&["sshd"][..], &words[..1], &["--json"], more, &words[1..]].concat())
}

fn state(server: &Server, id: &str) -> (String, String) {
    let change = server.ctl(&["changes", id, "--json"]).json()["changes"][0].clone();
    (change["state"].as_str().unwrap_or_default().to_owned(), change.to_string())
}

/// How the rollback at the deadline ended.
#[track_caller]
fn ended(server: &Server, id: &str) -> (String, String) {
    let mut now = (String::new(), String::new());
    // What is stuck is soon tried again.
    let is_over = || {
        now = state(server, id);
        matches!(now.0.as_str(), "rolled-back" | "stuck")
    };
    server.wait_until("the deadline is over", LONG, is_over);
    now
}

fn sshd_runs(server: &Server) -> bool {
    server.sh("systemctl is-active ssh.service").ok()
}

/// A change of files that sshd never read, and one that ran the whole time: neither is ended by the rollback, and nobody is cut off.
fn a_rollback_ends_no_sshd(server: &Server) {
    let release = server.release();
    // Down, because the address of its files is gone.
    server.write(DROP_IN, "ListenAddress 10.9.9.9\n");
    assert!(!server.sh("systemctl restart ssh").ok());
    let check = server.ctl(&["sshd", "check"]).expect_status(1);
    for part in ["10.9.9.9 is no address of this host", "50-x.conf line 1", "sshfix ctl sshd unset ListenAddress"] {
        assert!(check.stdout.contains(part), "{part}: {}", check.stdout);
    }
    let found = server.ctl(&["--json", "diagnose", OTHER, "--user", "root"]).json();
    let found = found["findings"].to_string();
    assert!(found.contains("ListenAddress 10.9.9.9") && found.contains("50-x.conf line 1"), "{found}");
    let fix = server.ctl(&["fix", OTHER, "--user", "root"]);
    assert!(fix.status != 5 && fix.status != 6, "it is not started in vain: {fix:#?}");
    assert!((fix.stdout.clone() + &fix.stderr).contains("no address of this host"), "{fix:#?}");

    let change = edit(server, "unset ListenAddress", &["--confirm-within", WAITS]);
    assert_eq!(change.status, 5, "{change:#?}");
    assert!(change.stdout.contains("sshd is down, and this edit does not start it"), "{change:#?}");
    server.sh("systemctl reset-failed ssh; systemctl start ssh").expect_ok();
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    let (how, said) = ended(server, change.json()["id"].as_str().unwrap());
    assert_eq!(how, "stuck", "{release}: {said}");
    assert!(said.contains("sshd was not told so and runs on") && said.contains("never read the old files"), "{said}");
    assert!(server.gets_in("root", ADMIN_V4, 22), "{release}: {said}");
    drop(session);
    // Nobody is in, and it would end all the same.
    let id = change.json()["id"].as_str().unwrap().to_owned();
    server.wait_until("it is tried again", LONG, || state(server, &id).1.contains("10.9.9.9:22"));
    assert!(sshd_runs(server) && server.gets_in("root", ADMIN_V4, 22), "{release}: {:?}", state(server, &id));
    server.ctl(&["rollback", &id, "--abandon"]).expect_status(0);

    // Down for whatever reason: the old files refuse who came in meanwhile.
    configure(server, "PermitRootLogin no\n");
    server.sh("systemctl stop ssh").expect_ok();
    let change = edit(server, "set PermitRootLogin yes", &["--confirm-within", WAITS]);
    assert_eq!(change.status, 5, "{change:#?}");
    server.sh("systemctl start ssh").expect_ok();
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    let (how, said) = ended(server, change.json()["id"].as_str().unwrap());
    assert!(how == "stuck" && said.contains("never read the old files"), "{release}: {how} {said}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(server.gets_in("root", ADMIN_V4, 22), "{release}: {:?}", state(server, change.json()["id"].as_str().unwrap()));
    server.ctl(&["rollback", change.json()["id"].as_str().unwrap(), "--abandon"]).expect_status(0);
    drop(session);

    // It ran all the time, and the address that it left is gone: until that is back, it is left alone.
    server.sh("ip address add 203.0.113.50/24 dev host0").expect_ok();
    configure(server, "ListenAddress 203.0.113.50\n");
    let change = edit(server, "set ListenAddress 0.0.0.0", &["--confirm-within", WAITS]);
    assert_eq!(change.status, 5, "{change:#?}");
    server.sh("ip address del 203.0.113.50/24 dev host0").expect_ok();
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    let (how, said) = ended(server, change.json()["id"].as_str().unwrap());
    assert!(how == "stuck" && said.contains("203.0.113.50:22"), "{release}: {how} {said}");
    assert!(sshd_runs(server) && server.gets_in("root", ADMIN_V4, 22), "{release}");
    drop(session);
    server.sh("ip address add 203.0.113.50/24 dev host0").expect_ok();
    let tried = || state(server, change.json()["id"].as_str().unwrap()).0 == "rolled-back";
    server.wait_until("it is tried again", LONG, tried);
    assert!(sshd_runs(server), "{release}");
    server.sh("ss -Hltn | grep -q '203.0.113.50:22 '").expect_ok();
    // A socket outlives its address, and a reload does not.
    server.sh("ip address del 203.0.113.50/24 dev host0").expect_ok();
    edit(server, "set X11Forwarding no", &[]).expect_error(1, "failed", &["203.0.113.50:22", "no address of this host"]);
    assert!(sshd_runs(server));
}

/// What `sshd -t` takes, and ends sshd or takes it out of sight, is not tried.
fn what_ends_sshd_is_refused_at_the_plan(server: &Server) {
    configure(server, "X11Forwarding yes\n");
    let pid = server.read("/run/sshd.pid");
    for (line, words) in [
        ("set Port 22 2201 2202 2203 2204 2205 2206 2207 2208", &["18 sockets", "16 at most"][..]),
        ("set MaxStartups 2147483647", &["MaxStartups", "memory"]),
        ("set Port 2222", &["sshd set Port 22 2222", "ssh_port = 2222", "systemctl restart sshfix-agent"]),
        ("set ListenAddress 203.0.113.1:2222", &["ssh_port = 2222"]),
    ] {
        edit(server, line, &[]).expect_error(1, "failed", words);
        edit(server, line, &["--dry-run"]).expect_error(1, "failed", words);
    }
    assert_eq!(server.read("/run/sshd.pid"), pid);
    edit(server, "set Port 22 2201 2202 2203 2204 2205 2206 2207", &["--dry-run"]).expect_status(0);
    let change = edit(server, "set Port 22 2222", &[]).expect_status(5).json();
    server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
    assert!(server.gets_in("root", ADMIN_V4, 22));
}

/// A unit whose reload, or start, writes a file of sshd's: nobody has proven that one.
fn what_comes_while_sshd_follows_is_said(server: &Server) {
    const CAME: &str = "/etc/ssh/sshd_config.d/00-a.conf";
    // Another unit, which goes along with that of sshd.
    let writes = format!("/bin/sh -c \"echo PrintMotd no > {CAME}\"");
    for (with, lines, words) in [
        ("PropagatesReloadTo=beside.service", format!("ExecStart=/bin/true\nExecReload={writes}"), "set X11Forwarding no"),
        ("Wants=beside.service", format!("ExecStart={writes}"), "restart"),
    ] {
        configure(server, "X11Forwarding yes\n");
        server.write("/etc/systemd/system/ssh.service.d/o.conf", format!("[Unit]\n{with}\n"));
        let unit = "[Unit]\nBefore=ssh.service\nPartOf=ssh.service\n[Service]\nType=oneshot\nRemainAfterExit=yes";
        server.write("/etc/systemd/system/beside.service", format!("{unit}\n{lines}\n"));
        server.sh(&format!("systemctl daemon-reload; systemctl start beside.service; rm -f {CAME}")).expect_ok();
        configure(server, "X11Forwarding yes\n");
        server.sh(&format!("rm -f {CAME}")).expect_ok();
        let made = edit(server, words, &[]);
        let said = made.stdout.clone() + &made.stderr;
        assert_eq!(made.status, 6, "{words}: {said}");
        assert!(said.contains(&format!("{CAME} came besides")), "{words}: {said}");
        assert!(said.contains("not all of sshd's files are as before"), "{words}: {said}");
        server.sh(&format!("systemctl stop beside.service; rm -rf /etc/systemd/system/ssh.service.d /etc/systemd/system/beside.service {CAME}
             systemctl daemon-reload")).expect_ok();
    }
}

/// sshd's directory goes with its service; each connection reads the files that are back.
fn a_rollback_is_done_where_systemd_listens_by_then(server: &Server) {
    configure(server, "X11Forwarding yes\n");
    let change = edit(server, "set X11Forwarding no", &["--confirm-within", "6s"]).expect_status(5).json();
    server.sh("systemctl stop ssh.service; systemctl start ssh.socket").expect_ok();
    let (how, said) = ended(server, change["id"].as_str().unwrap());
    assert_eq!(how, "rolled-back", "{}: {said}", server.release());
    assert!(server.gets_in("root", ADMIN_V4, 22));
    server.sh("systemctl stop ssh.socket; systemctl stop 'ssh@*.service' ssh.service; systemctl start ssh.service").expect_ok();
}

fn fails(server: &Server, from: &str) {
    let words = [server.login_command("nobody1", from, 22), vec!["true".to_owned()]].concat();
    lab::run(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Whoever is turned away is not called open.
#[track_caller]
fn never_open_where_turned_away(server: &Server, from: &str, when: &str) {
    let in_before = server.ssh(from).ok;
    let said = server.ctl(&["--json", "diagnose", from, "--user", "root"]);
    let in_after = server.ssh(from).ok;
    assert!(in_before || in_after || said.status != 0, "{when}: {}", said.stdout);
}

/// OpenSSH from 9.8 on: penalties of others, and those that no line tells of.
fn penalties_reach_a_judgement(server: &Server) {
    server.sh(&format!("rm {QUIET}")).expect_ok();
    configure(server, "X11Forwarding yes\n");
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    for line in [
        "max-sources4:1 overflow:deny-all",
        "overflow:deny-all max-sources4:1000",
        "overflow:deny-all overflow6:permissive max-sources4:9",
    ] {
        edit(server, &format!("set PerSourcePenalties {line}"), &[]).expect_error(4, "lockout", &["overflow:deny-all"]);
    }
    for line in ["noauth:600 authfail:600 min:0", "min:1", "overflow6:deny-all max-sources6:1"] {
        let plan = edit(server, &format!("set PerSourcePenalties {line}"), &["--dry-run"]).expect_status(0).json();
        assert!(plan["paths"].to_string().contains("PerSourcePenalties"), "{line}: {:#}", plan["paths"]);
    }
    assert!(server.gets_in("root", ADMIN_V4, 22));
    drop(session);

    configure(server, "PerSourcePenalties max-sources4:1 overflow:deny-all noauth:60 authfail:60 min:1\n");
    for _ in 0..3 {
        fails(server, STRANGER);
    }
    for round in 0..2 {
        never_open_where_turned_away(server, OTHER, &format!("overflow, {round}"));
    }
    for level in ["QUIET", "FATAL"] {
        configure(server, &format!("LogLevel {level}\nPerSourcePenalties noauth:120 authfail:120 min:1\n"));
        for _ in 0..3 {
            fails(server, STRANGER);
        }
        never_open_where_turned_away(server, STRANGER, level);
    }
}

fn attacks(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = prepared(release);
    a_rollback_ends_no_sshd(&server);
    what_ends_sshd_is_refused_at_the_plan(&server);
    what_comes_while_sshd_follows_is_said(&server);
    a_rollback_is_done_where_systemd_listens_by_then(&server);
    if release == Release::Trixie {
        penalties_reach_a_judgement(&server);
    }
}

#[test]
fn limits_end_no_sshd_and_turn_nobody_away_unsaid_on_bookworm() {
    attacks(Release::Bookworm);
}

#[test]
fn limits_end_no_sshd_and_turn_nobody_away_unsaid_on_trixie() {
    attacks(Release::Trixie);
}
