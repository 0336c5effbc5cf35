//! Every way in which sshd itself and the account keep somebody out, made for real on both releases, seen by a real ssh client, and
//! found by `diagnose` with its cause and its line; and that what `diagnose` calls open is open.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod fix;
mod journal;
mod repair;
mod service;

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{self, HeldConnections, Release, Server};

const FROM: &str = "203.0.113.7";
const OTHER: &str = "203.0.113.8";
const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const LIMIT: Duration = Duration::from_mins(2);

/// A server with sshfix, alice who may log in with the lab's key, and nothing that bans.
fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("groupadd wheel; useradd -m -s /bin/sh -G wheel alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice/.ssh; \
             chmod 755 /home/alice; chmod 700 /home/alice/.ssh; chmod 600 /home/alice/.ssh/authorized_keys")
        .expect_ok();
    server.install_sshfix();
    server
}

/// Puts lines into a drop-in, and sshd through a restart: penalties and counters begin anew.
fn configure(server: &Server, lines: &str) {
    // A source that was refused often must not earn a penalty for the next question.
    let quiet = if server.release() == Release::Trixie && !lines.contains("Penalt") { "PerSourcePenalties no\n" } else { "" };
    server.write("/etc/ssh/sshd_config.d/10-quiet.conf", quiet);
    server.write(DROP_IN, lines);
    server.sh("sshd -t && systemctl reset-failed ssh && systemctl restart ssh").expect_ok();
}

/// A restart that systemd may refuse for a while, where it has just tried too often itself.
fn restart(server: &Server) {
    let restarted = || server.sh("systemctl reset-failed ssh; systemctl restart ssh").ok();
    server.wait_until("sshd starts again", LIMIT, restarted);
}

fn can_log_in(server: &Server, user: &str, from: &str) -> bool {
    let mut command = server.ssh_command(from);
    let destination = command.pop().unwrap().replace("root@", &format!("{user}@"));
    command.extend([destination, "true".to_owned()]);
    lab::run(&command.iter().map(String::as_str).collect::<Vec<_>>()).ok()
}

/// What `sshfix ctl diagnose` says.
struct Diagnosis(Value);

impl Diagnosis {
    #[track_caller]
    fn of(server: &Server, from: &str, user: Option<&str>) -> Self {
        let mut arguments = vec!["--json", "diagnose", from];
        arguments.extend(user.iter().flat_map(|user| ["--user", user]));
        Diagnosis(server.ctl(&arguments).json())
    }

    #[track_caller]
    fn stage(&self, name: &str) -> (&str, &str) {
        let stage = self.0["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == name);
        let stage = stage.unwrap_or_else(|| panic!("no stage {name}: {:#}", self.0));
        (stage["verdict"].as_str().unwrap(), stage["detail"].as_str().unwrap())
    }

    #[track_caller]
    fn finding(&self, cause: &str) -> &Value {
        let finding = self.0["findings"].as_array().unwrap().iter().find(|finding| finding["cause"] == cause);
        finding.unwrap_or_else(|| panic!("no finding {cause}: {:#}", self.0))
    }
}

/// Refused for a real client, and the diagnosis names stage, cause, place and what stands there.
#[track_caller]
fn refused(server: &Server, user: &str, stage: &str, cause: &str, place: &str, text: &str) {
    assert!(!can_log_in(server, user, FROM), "{} {user} gets in, though {cause} should keep them out", server.release());
    let diagnosis = Diagnosis::of(server, FROM, Some(user));
    assert_eq!(diagnosis.stage(stage).0, "refuse", "{:#}", diagnosis.0);
    assert_eq!(diagnosis.0["verdict"], "refuse");
    let finding = diagnosis.finding(cause);
    assert_eq!(finding["blocking"], true, "{finding:#}");
    let quoted = finding["evidence"].as_array().unwrap().iter();
    let found = quoted.clone().any(|it| it["source"].as_str().unwrap() == place && it["text"].as_str().unwrap().contains(text));
    assert!(found, "{place}: {text}\n{finding:#}");
    assert!(!finding["fix"].as_str().unwrap().is_empty());
}

/// Open for a real client, and the diagnosis says so.
#[track_caller]
fn open(server: &Server, user: &str, from: &str) {
    let release = server.release();
    assert!(can_log_in(server, user, from), "{release}: {user} from {from} does not get in");
    let diagnosis = Diagnosis::of(server, from, Some(user));
    assert_eq!(diagnosis.0["verdict"], "accept", "{release}: {user} from {from}: {:#}", diagnosis.0);
}

#[test]
fn lists_match_blocks_and_methods_that_refuse_are_found_with_file_and_line() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "");
        open(&server, "root", FROM);
        open(&server, "alice", "2001:db8::7");
        let said = Diagnosis::of(&server, FROM, Some("alice"));
        let stages: Vec<&str> =
            said.0["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
        assert_eq!(
            stages,
            ["route", "netfilter", "listener", "hosts_access", "sshd_admission", "sshd_access", "account"],
            "{release}"
        );
        let stages = Diagnosis::of(&server, FROM, None).0["stages"].as_array().unwrap().len();
        assert_eq!(stages, 5, "without a user nothing is said about one");

        let access = |lines: &str, user: &str, line: usize, text: &str| {
            configure(&server, lines);
            refused(&server, user, "sshd_access", "sshd-access-list", &format!("{DROP_IN} line {line}"), text);
        };
        access("# only alice\nAllowUsers alice\n", "root", 2, "AllowUsers alice");
        open(&server, "alice", FROM);
        access("DenyUsers *@203.0.113.0/24\n", "alice", 1, "DenyUsers *@203.0.113.0/24");
        open(&server, "alice", "198.51.100.7");
        access("AllowUsers alice@198.51.100.0/24 root\n", "alice", 1, "AllowUsers alice@198.51.100.0/24 root");
        open(&server, "alice", "198.51.100.7");
        access("AllowGroups root staff\n", "alice", 1, "AllowGroups root staff");
        open(&server, "root", FROM);
        access("DenyGroups wh*\n", "alice", 1, "DenyGroups wh*");
        access("PermitRootLogin no\n", "root", 1, "PermitRootLogin no");
        open(&server, "alice", FROM);
        access(
            "PasswordAuthentication no\nMatch Address 203.0.113.0/24,!203.0.113.8\n  PubkeyAuthentication no\n",
            "alice",
            3,
            "Match Address 203.0.113.0/24,!203.0.113.8   # /etc/ssh/sshd_config.d/50-x.conf line 2\n    PubkeyAuthentication no",
        );
        open(&server, "alice", OTHER);
        access("Match User alice\n  DenyUsers alice\nMatch all\n", "alice", 2, "DenyUsers alice");
        // The first line wins, and the options of the unit win over every line.
        configure(&server, "PermitRootLogin yes\nPermitRootLogin no\n");
        open(&server, "root", FROM);
        configure(&server, "PermitRootLogin yes\n");
        server.write("/etc/default/ssh", "SSHD_OPTS=\"-o 'PermitRootLogin no'\"\n");
        configure(&server, "PermitRootLogin yes\n");
        refused(&server, "root", "sshd_access", "sshd-access-list", "the command line", "permitrootlogin no");
    }
}

#[test]
fn accounts_that_cannot_log_in_are_found() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "");
        let account = |make: &str, place: &str, text: &str, undo: &str| {
            server.sh(make).expect_ok();
            refused(&server, "alice", "account", "account-locked", place, text);
            server.sh(undo).expect_ok();
            open(&server, "alice", FROM);
        };
        account("chage -E 2020-01-02 alice", "/etc/shadow", "alice: expired on 2020-01-02", "chage -E -1 alice");
        account("echo 'back at noon' > /etc/nologin", "/etc/nologin", "back at noon", "rm /etc/nologin");
        account("usermod -s /bin/gone alice", "getent passwd", "/bin/gone", "usermod -s /bin/sh alice");
        account("usermod -s /usr/sbin/nologin alice", "getent passwd", "/usr/sbin/nologin", "usermod -s /bin/sh alice");
        // Keys are judged where they are the only way in.
        configure(&server, "PasswordAuthentication no\nKbdInteractiveAuthentication no\n");
        let keys = "/home/alice/.ssh/authorized_keys";
        account(&format!("chmod 666 {keys}"), keys, "can be written by others (owner 100", &format!("chmod 600 {keys}"));
        account("chmod 777 /home/alice", keys, "/home/alice can be written by others", "chmod 755 /home/alice");
        account(
            &format!("chown nobody {keys}"),
            keys,
            "cannot be read by the user (owner 65534 nobody, mode 0600, a file)",
            &format!("chown alice {keys}"),
        );
        account(&format!("mv {keys} /root/k"), keys, "not there", &format!("mv /root/k {keys}"));
        // With a password left, keys that are passed over only explain.
        configure(&server, "PasswordAuthentication yes\n");
        server.sh("echo alice:right | chpasswd").expect_ok();
        server.sh(&format!("chmod 666 {keys}")).expect_ok();
        let diagnosis = Diagnosis::of(&server, FROM, Some("alice"));
        assert_eq!(
            (diagnosis.stage("account").0, &diagnosis.finding("account-locked")["blocking"]),
            ("accept", &Value::Bool(false))
        );
        server.sh(&format!("chmod 600 {keys}")).expect_ok();
        refused(&server, "ghost", "account", "account-locked", "getent passwd", "ghost: no such user");
        methods_that_are_on_and_cannot_work_are_no_way_in(&server);
        configure(&server, "UsePAM no\nPasswordAuthentication no\n");
        server.sh("usermod -L alice").expect_ok();
        refused(&server, "alice", "account", "account-locked", "/etc/shadow", "alice:!...");
        // Names that are no names are not asked about.
        let diagnosis = Diagnosis::of(&server, FROM, Some("alice,addr=10.0.0.1"));
        assert_eq!(diagnosis.stage("sshd_access").0, "unknown");
    }
}

/// mallory has no keys and no password (`useradd` leaves `!`), and both methods are on.
fn methods_that_are_on_and_cannot_work_are_no_way_in(server: &Server) {
    let release = server.release();
    let access = |user: &str| Diagnosis::of(server, FROM, Some(user)).stage("sshd_access").1.to_owned();
    assert!(!access("ghost").contains("may log in by"), "{release}: {}", access("ghost"));
    server.sh("useradd -m -s /bin/sh mallory").expect_ok();
    configure(server, "PasswordAuthentication yes\nKbdInteractiveAuthentication yes\n");
    let no_keys = "/home/mallory/.ssh/authorized_keys";
    for field in ["!", "*", "!*"] {
        server.sh(&format!("usermod -p '{field}' mallory")).expect_ok();
        assert!(!service::logs_in_by_password(server, "mallory", ""), "{release}");
        refused(server, "mallory", "account", "account-locked", no_keys, "not there");
        refused(server, "mallory", "account", "account-locked", "/etc/shadow", "(no password)");
        assert!(!access("mallory").contains("may log in by"), "{release}: {}", access("mallory"));
    }
    // A key that sshd does not take is none.
    server.sh("cp -r /root/.ssh /home/mallory; chown -R mallory: /home/mallory/.ssh").expect_ok();
    open(server, "mallory", FROM);
    assert!(access("mallory").ends_with("mallory may log in by publickey"), "{}", access("mallory"));
    configure(server, "PubkeyAcceptedAlgorithms ecdsa-sha2-nistp256\n");
    refused(server, "mallory", "account", "account-locked", "sshd -T", "publickey");
    // Another module of PAM may take a password that is not in shadow(5): here it takes any.
    configure(server, "PubkeyAuthentication no\n");
    let stack = server.read("/etc/pam.d/common-auth");
    server.write("/etc/pam.d/common-auth", format!("auth sufficient pam_permit.so\n{stack}"));
    assert!(service::logs_in_by_password(server, "mallory", "any"), "{release}");
    let diagnosis = Diagnosis::of(server, FROM, Some("mallory"));
    assert_eq!((diagnosis.stage("account").0, &diagnosis.0["verdict"]), ("unknown", &"unknown".into()), "{release}");
    server.write("/etc/pam.d/common-auth", stack);
    configure(server, "PubkeyAuthentication no\n");
    server.sh("echo mallory:right | chpasswd").expect_ok();
    assert!(service::logs_in_by_password(server, "mallory", "right"), "{release}");
    let diagnosis = Diagnosis::of(server, FROM, Some("mallory"));
    assert_eq!(diagnosis.0["verdict"], "accept", "{release}: {:#}", diagnosis.0);
    server.run(&["userdel", "-r", "mallory"]);
}

#[test]
fn an_sshd_that_cannot_serve_or_would_not_start_again_is_found() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "");
        let old = release == Release::Bookworm;
        let asks = |cause: &str, verdict: &str, blocking: bool| -> Value {
            let diagnosis = Diagnosis::of(&server, FROM, None);
            let got = (diagnosis.stage("sshd_admission").0, diagnosis.finding(cause)["blocking"].as_bool().unwrap());
            assert_eq!(got, (verdict, blocking), "{release}: {:#}", diagnosis.0);
            diagnosis.finding(cause).clone()
        };

        // A bad line waits for the next restart, and then nothing listens.
        server.write(DROP_IN, "# x\nPermitRootLogn no\n");
        assert!(can_log_in(&server, "root", FROM));
        let finding = asks("sshd-config-invalid", "accept", false);
        let line = (finding["evidence"][0]["source"].as_str().unwrap(), finding["evidence"][0]["text"].as_str().unwrap());
        assert_eq!(line, ("/etc/ssh/sshd_config.d/50-x.conf line 2", "PermitRootLogn no"));
        assert!(!server.sh("systemctl restart ssh").ok());
        assert!(!can_log_in(&server, "root", FROM));
        let finding = asks("sshd-config-invalid", "refuse", true);
        let meant = "make line 2 of /etc/ssh/sshd_config.d/50-x.conf `PermitRootLogin no`";
        assert!(finding["fix"].as_str().unwrap().contains(meant), "{finding:#}");
        server.sh("sed -i 's/^Permit/#&/' /etc/ssh/sshd_config.d/50-x.conf").expect_ok();
        server.wait_until("sshd takes its files", LIMIT, || server.sh("mkdir -p /run/sshd && sshd -t").ok());
        restart(&server);
        assert!(can_log_in(&server, "root", FROM));

        // Host keys that are gone, or that others can read.
        for (make, undo) in [
            ("mkdir /root/k; mv /etc/ssh/ssh_host_* /root/k", "mv /root/k/* /etc/ssh"),
            ("chmod 644 /etc/ssh/ssh_host_*_key", "chmod 600 /etc/ssh/ssh_host_*_key"),
        ] {
            server.sh(make).expect_ok();
            assert_eq!(can_log_in(&server, "root", FROM), !old, "{release}");
            asks("sshd-hostkeys", if old { "refuse" } else { "accept" }, old);
            server.sh("systemctl restart ssh || true").expect_ok();
            assert!(!can_log_in(&server, "root", FROM));
            asks("sshd-hostkeys", "refuse", true);
            server.sh(undo).expect_ok();
            // systemd may be trying, too, and takes its directory away when that fails.
            let taken = || server.sh("ssh-keygen -A; mkdir -p /run/sshd && sshd -t").ok();
            server.wait_until("sshd takes its files", LIMIT, taken);
            restart(&server);
            assert!(can_log_in(&server, "root", FROM));
        }

        // The directory of the unprivileged half.
        server.sh("rm -rf /run/sshd").expect_ok();
        assert!(!can_log_in(&server, "root", FROM));
        let finding = asks("sshd-privsep-dir", "refuse", true);
        let fix = finding["fix"].as_str().unwrap();
        assert!(
            fix.starts_with("`sshfix ctl fix 203.0.113.7`") && fix.contains("`install -d -m 0755 -o root -g root /run/sshd`"),
            "{fix}"
        );
        server.sh("install -d -m 0755 -o root -g root /run/sshd").expect_ok();
        assert!(can_log_in(&server, "root", FROM));
        server.sh("chmod 777 /run/sshd").expect_ok();
        assert_eq!(can_log_in(&server, "root", FROM), !old);
        asks("sshd-privsep-dir", if old { "refuse" } else { "accept" }, old);
        server.sh("chmod 755 /run/sshd").expect_ok();
        open(&server, "root", FROM);

        // systemd takes the directory away with the service; that is no mistake of anybody's.
        server.run(&["systemctl", "stop", "ssh"]).expect_ok();
        let diagnosis = Diagnosis::of(&server, FROM, None);
        assert_eq!(diagnosis.0["findings"].as_array().unwrap().len(), 1, "{release}: {:#}", diagnosis.0);
        let fix = diagnosis.finding("sshd-down")["fix"].as_str().unwrap().to_owned();
        let command = fix.split('`').nth(1).unwrap();
        server.sh(command).expect_ok();
        server.wait_until("sshd is up again", LIMIT, || can_log_in(&server, "root", FROM));
    }
}

#[test]
fn too_many_strangers_at_the_door_are_counted_and_named() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "MaxStartups 3:40:9\n");
        let held = HeldConnections::open(&server, OTHER, 6);
        let diagnosis = Diagnosis::of(&server, FROM, None);
        // 100-40 = 60; 60 * (6-3) / (9-3) = 30; 30 + 40 = 70.
        let (verdict, detail) = diagnosis.stage("sshd_admission");
        assert_eq!(verdict, "unknown");
        assert!(detail.contains("6 connections are not logged in yet, so sshd drops 70 of 100 new ones"), "{release}: {detail}");
        let finding = diagnosis.finding("sshd-maxstartups");
        let shown = finding.to_string();
        for part in ["6 of 3-9 startups", "6 from 203.0.113.8", "50-x.conf line 1", "MaxStartups 3:40:9"] {
            assert!(shown.contains(part), "{release}: {part}: {finding:#}");
        }
        assert_eq!(finding["blocking"], false);
        // No ban, and not open either.
        let unban = server.ctl(&["unban", FROM]).expect_status(0).stdout;
        for part in [
            "UNKNOWN whether the address is blocked",
            "sshd_admission may refuse it",
            "sshd-maxstartups (sshd): wait: those connections end",
        ] {
            assert!(unban.contains(part), "{release}: {part}: {unban}");
        }
        drop(held);

        configure(&server, "MaxStartups 2\n");
        let held = HeldConnections::open(&server, OTHER, 2);
        assert!(!can_log_in(&server, "root", FROM));
        let diagnosis = Diagnosis::of(&server, FROM, None);
        assert_eq!(diagnosis.stage("sshd_admission").0, "refuse", "{release}: {:#}", diagnosis.0);
        assert_eq!(diagnosis.finding("sshd-maxstartups")["blocking"], true);
        drop(held);
        server.wait_until("the places are free", LIMIT, || can_log_in(&server, "root", FROM));
        open(&server, "root", FROM);

        configure(&server, "PerSourceMaxStartups 1\nPerSourceNetBlockSize 24:64\n");
        let held = HeldConnections::open(&server, OTHER, 1);
        assert!(!can_log_in(&server, "root", FROM));
        let diagnosis = Diagnosis::of(&server, FROM, None);
        let (verdict, detail) = diagnosis.stage("sshd_admission");
        assert_eq!((verdict, detail.contains("203.0.113.0/24")), ("refuse", true), "{release}: {detail}");
        open(&server, "root", "198.51.100.7");
        drop(held);
    }
}

#[test]
fn a_penalty_of_sshd_is_found_in_its_journal() {
    if !lab::root_or_skip() {
        return;
    }
    // Debian 12 has an sshd without penalties.
    let server = prepared(Release::Trixie);
    configure(&server, "PerSourcePenalties crash:300s authfail:300s noauth:300s min:1s max:300s\n");
    open(&server, "root", FROM);
    // Whoever breaks off before a login earns it; sshd notes that when it reaps the process, which may be later.
    let break_off = || {
        let script = "import socket; s = socket.create_connection(('203.0.113.1', 22), source_address=('203.0.113.7', 0)); \
                      s.recv(100); s.sendall(b'SSH-2.0-x\\r\\nnonsense' + b'x' * 99); s.recv(100)";
        lab::run(&["ip", "netns", "exec", server.clients_netns(), "python3", "-c", script]);
    };
    let (mut tries, started) = (0, std::time::Instant::now());
    while can_log_in(&server, "root", FROM) {
        tries += 1;
        break_off();
        let journal = || server.sh("journalctl --no-pager -t sshd -t sshd-session -n 40").stdout;
        assert!(started.elapsed() < LIMIT, "no penalty in {tries} tries: {}", journal());
    }
    let diagnosis = Diagnosis::of(&server, FROM, None);
    let (verdict, detail) = diagnosis.stage("sshd_admission");
    // OpenSSH 10.0 says when a penalty counts only with LogLevel VERBOSE.
    assert_eq!(verdict, "unknown", "{:#}", diagnosis.0);
    assert!(
        detail.starts_with("sshd turned 203.0.113.7/32 away for a penalty, which by what the journal has lasts for 2"),
        "{detail}"
    );
    let finding = diagnosis.finding("sshd-penalty");
    assert!(finding["evidence"][0]["text"].as_str().unwrap().contains("penalty: "), "{finding:#}");
    assert!(finding["fix"].as_str().unwrap().contains("PerSourcePenaltyExemptList 203.0.113.7"));
    open(&server, "root", OTHER);
    // A reload clears the table, and the diagnosis knows.
    configure(&server, "LogLevel VERBOSE\nPerSourcePenalties noauth:300s min:1s max:400s\nPerSourceNetBlockSize 24:64\n");
    break_off();
    let told = || Diagnosis::of(&server, FROM, None).stage("sshd_admission").0 == "refuse";
    server.wait_until("sshd says it itself", LIMIT, told);
    assert!(!can_log_in(&server, "root", FROM) && !can_log_in(&server, "root", OTHER));
    let diagnosis = Diagnosis::of(&server, OTHER, None);
    let (verdict, detail) = diagnosis.stage("sshd_admission");
    assert!(verdict == "refuse" && detail.starts_with("sshd turns 203.0.113.0/24 away for a penalty, for 2"), "{detail}");
    // Whom the list exempts is let in although the journal tells of a penalty, and earns no other.
    server.write(
        DROP_IN,
        format!("PerSourcePenaltyExemptList {FROM},2001:db8::/64\nPerSourcePenalties noauth:300s min:1s max:400s\n"),
    );
    server.sh("systemctl reload ssh").expect_ok();
    server.wait_until("sshd is back", LIMIT, || can_log_in(&server, "root", FROM));
    (0..3).for_each(|_| break_off());
    open(&server, "root", FROM);
    server.sh("systemctl reload ssh").expect_ok();
    server.wait_until("sshd is back", LIMIT, || can_log_in(&server, "root", FROM));
    open(&server, "root", FROM);
}
