//! alice, who has no rights, against the evidence of the proof: she opens more sockets than anybody lists, starts more processes than anybody
//! looks at, and asks systemd more than it answers. The live sessions are known all the same; where they cannot be, that is said, and nothing
//! that could close a way in is changed. Under the packaged units, one server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use sshfix_tests::lab::{self, ADMIN_V4, BUSY_SYSTEMD, CtlResult, MANY_SOCKETS, Release, Server, Session, run};

/// Another client of root's, who comes in on another port.
const OTHER_V4: &str = "198.51.100.7";
/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(3);
/// What a question may take under attack on a loaded machine; the figures are printed.
const SOON: Duration = Duration::from_secs(6);

/// 5,000 processes that do nothing, every other of which looks like root's to who looks at /proc only.
const PROCESSES: &str = r"
import ctypes, os, time
for number in range(5000):
    if os.fork() == 0:
        if number % 2: ctypes.CDLL(None).prctl(4, 0)
        time.sleep(100000)
open('/tmp/processes', 'w').close()
time.sleep(100000)
";

fn start(server: &Server, unit: &str, script: &str) {
    server.write(&format!("/usr/local/lib/{unit}.py"), script);
    let command = format!(
        "systemd-run -q --unit={unit} --uid=alice -p TasksMax=30000 -p LimitNOFILE=524288 python3 /usr/local/lib/{unit}.py"
    );
    server.sh(&command).expect_ok();
}

fn end(server: &Server, unit: &str) {
    server.sh(&format!("systemctl kill -s KILL {unit}; systemctl stop {unit}; true")).expect_ok();
    server.wait_until("alice has nothing", LONG, || !server.sh("pgrep -u alice").ok());
}

fn deny(server: &Server, address: &str) -> CtlResult {
    let asked = server.ctl(&["hosts", "deny", address, "--json", "--confirm-within", "10m"]);
    println!("deny {address}: {} in {:?}", asked.status, asked.time);
    asked
}

/// The session of root's from this address is known, and no change may cut it off.
#[track_caller]
fn protected(server: &Server, when: &str, address: &str) {
    let status = server.ctl(&["status"]);
    println!("{when}: status in {:?}", status.time);
    assert!(status.stdout.contains(&format!("root from {address}")), "{when}: {status:?}");
    deny(server, address).expect_error(4, "lockout", &["would lock out", address, "a live session", "nothing was changed"]);
}

fn sockets_of_others_hide_no_session(server: &Server) {
    // Another sshd, on a port that nobody asked about and that no unit names.
    server.sh("systemd-run -q --unit=second /usr/sbin/sshd -D -p 2222 -o 'PidFile none'").expect_ok();
    server.wait_until("it listens", LONG, || server.sh("ss -Hltn sport = :2222 | grep -q .").ok());
    let other = Session::open_as(server, "root", OTHER_V4, 2222);
    protected(server, "quiet", OTHER_V4);
    start(server, "many", MANY_SOCKETS);
    server.wait_until("she has them", LONG, || server.tcp_sockets() > 112_000);
    protected(server, "112,000 sockets", ADMIN_V4);
    protected(server, "112,000 sockets", OTHER_V4);
    let status = server.ctl(&["status"]);
    assert!(status.time < SOON, "{:?}", status.time);
    // A change beside all that is made and confirmed.
    server.ctl_confirmed(&["hosts", "deny", "203.0.113.70"]);
    server.ctl(&["hosts", "remove", "203.0.113.70"]).expect_status(0);
    drop(other);
    server.sh("systemctl stop second").expect_ok();
    // Without an sshd elsewhere the kernel leaves hers out.
    protected(server, "112,000 sockets, one sshd", ADMIN_V4);
    end(server, "many");
}

fn processes_of_others_cost_little(server: &Server) {
    let cost = || {
        let before = server.agent_ticks();
        let times: Vec<Duration> = (0..3).map(|_| server.ctl(&["status"]).time).collect();
        println!("status in {times:?}");
        server.agent_ticks() - before
    };
    let alone = cost();
    start(server, "processes", PROCESSES);
    server.wait_until("she has them", LONG, || server.path("/tmp/processes").exists());
    let besides = cost();
    println!("{alone} ticks alone, {besides} beside 5,000 processes");
    protected(server, "5,000 processes", ADMIN_V4);
    // Three answers, each of which looks at all processes a few times; a tick is 10 ms.
    assert!(besides <= alone * 2 + 60, "{alone} ticks alone, {besides} beside 5,000 processes");
    end(server, "processes");
}

fn a_systemd_that_does_not_answer_hides_no_session(server: &Server) {
    // Mounts of its own, and a session whose sshd was restarted since.
    server.write("/etc/systemd/system/ssh.service.d/hard.conf", "[Service]\nPrivateTmp=yes\n");
    let own = "[Service]\nPrivateTmp=yes\nExecStart=/opt/own/sshd -D -p 2223 -o PidFile=none\n";
    server.write("/etc/systemd/system/own.service", own);
    server.sh("systemctl daemon-reload; systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
    let other = Session::open_as(server, "root", OTHER_V4, 22);
    server.sh("systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
    let admin = Session::open_as(server, "root", ADMIN_V4, 22);
    protected(server, "its own mounts", ADMIN_V4);
    protected(server, "its own mounts, restarted", OTHER_V4);
    start(server, "questions", BUSY_SYSTEMD);
    server.wait_until("systemd does not answer", LONG, || !server.sh("timeout 2 busctl --timeout=1 call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.DBus.Peer Ping").ok());
    protected(server, "a busy systemd", ADMIN_V4);
    protected(server, "a busy systemd, restarted", OTHER_V4);

    // Only systemd can say what this one is. The agent asks it where alice cannot.
    let own = "mkdir -p /opt/own; cp /usr/sbin/sshd /opt/own/sshd; systemctl start own";
    server.sh(own).expect_ok();
    server.wait_until("it listens", LONG, || server.sh("ss -Hltn sport = :2223 | grep -q .").ok());
    protected(server, "a busy systemd, an sshd that it alone knows", ADMIN_V4);
    end(server, "questions");

    // One that hangs says nothing to anybody: the sessions are not known, which is no reason to close anything.
    let systemd = server.leader().to_string();
    run(&["kill", "-STOP", &systemd]).expect_ok();
    let status = server.ctl(&["status"]);
    assert!(status.stdout.contains("The live SSH sessions are not known"), "{status:?}");
    assert!(!status.stdout.contains("No live SSH session."), "{status:?}");
    let deny = || server.read("/etc/hosts.deny");
    let before = deny();
    let words = ["who is logged in is not known", "D-Bus", "nothing was changed"];
    self::deny(server, ADMIN_V4).expect_error(4, "lockout", &words);
    assert_eq!(deny(), before);
    run(&["kill", "-CONT", &systemd]).expect_ok();
    drop((other, admin));
    server.sh("systemctl stop own").expect_ok();
    server.wait_until("the sessions are known again", LONG, || server.ctl(&["status"]).stdout.contains("No live SSH session."));
}

/// What root's own way to lay out files leaves behind on disk before sshd has read it, none of which is a newer file.
const SWITCHES: [(&str, &str, &str, &str); 6] = [
    (
        "a link to a folder",
        "mkdir /etc/ssh/v1 /etc/ssh/v2; echo 'X11Forwarding yes' > /etc/ssh/v1/a.conf; echo 'DenyUsers alice root' > /etc/ssh/v2/a.conf
         ln -s v1 /etc/ssh/current; sed -i '1i Include /etc/ssh/current/*.conf' /etc/ssh/sshd_config",
        "ln -sfn v2 /etc/ssh/current",
        "DenyUsers root",
    ),
    (
        "a link to a file",
        "mkdir /etc/ssh/v1; echo 'X11Forwarding yes' > /etc/ssh/v1/a.conf; echo 'PubkeyAuthentication no' > /etc/ssh/v1/b.conf
         ln -s v1/a.conf /etc/ssh/extra.conf; sed -i '1i Include /etc/ssh/extra.conf' /etc/ssh/sshd_config",
        "ln -sfn v1/b.conf /etc/ssh/extra.conf",
        "is in by publickey",
    ),
    (
        "a file that an Include names",
        "echo 'AllowUsers root alice' > /etc/ssh/extra.conf; echo 'AllowUsers nobody' >> /etc/ssh/sshd_config
         sed -i '1i Include /etc/ssh/extra.conf' /etc/ssh/sshd_config",
        "rm /etc/ssh/extra.conf",
        "AllowUsers does not name root",
    ),
    (
        "a file in one of several folders",
        "mkdir -p /etc/ssh/d/a; echo 'AllowUsers root alice' > /etc/ssh/d/a/x.conf; echo 'AllowUsers nobody' >> /etc/ssh/sshd_config
         sed -i '1i Include /etc/ssh/d/*/x.conf' /etc/ssh/sshd_config",
        "rm /etc/ssh/d/a/x.conf",
        "AllowUsers does not name root",
    ),
    (
        "the whole folder",
        "cp -a /etc/ssh /etc/ssh.new; echo 'AuthorizedKeysFile /etc/none/%u' > /etc/ssh.new/sshd_config.d/07-x.conf",
        "mv /etc/ssh /etc/ssh.old; mv /etc/ssh.new /etc/ssh; touch /etc/ssh/beside",
        "is in by publickey",
    ),
    (
        "an older folder in its place",
        "mkdir /etc/ssh/v2; echo 'PermitRootLogin no' > /etc/ssh/v2/a.conf; echo 'DenyUsers alice' >> /etc/ssh/v2/a.conf",
        "mount --bind /etc/ssh/v2 /etc/ssh/sshd_config.d",
        "PermitRootLogin no refuses root",
    ),
];

/// The files as they were, and an sshd that has read them with these lines to lay them out.
fn lay_out(server: &Server, script: &str) {
    let plain = "umount -q /etc/ssh/sshd_config.d || true; rm -rf /etc/ssh /etc/ssh.old /etc/ssh.new; cp -a /root/plain /etc/ssh";
    let read = "test \"$(cat /run/sshd.pid)\" = \"$(systemctl show -P MainPID ssh)\"";
    server
        .sh(&format!("{plain}; {script}\nsleep 0.1; sshd -t && systemctl reset-failed ssh && systemctl restart ssh"))
        .expect_ok();
    server.wait_until("sshd has written its pid file", LONG, || server.sh(read).ok());
    server.sh("sleep 0.1").expect_ok();
}

/// An edit, or a reload, that would make sshd read what it has not read: refused, and the ways in are what they were.
#[track_caller]
fn refused(server: &Server, what: &str, words: &[&str]) {
    for edit in [&["sshd", "set", "Compression", "no"][..], &["sshd", "reload"]] {
        let asked = server.ctl(&[edit, &["--json"]].concat());
        assert_eq!(asked.status, 4, "{}: {what}: {edit:?}: {asked:#?}", server.release());
        asked.expect_error(4, "lockout", &[words, &["nothing was changed"]].concat());
    }
    let (root, alice) = (server.gets_in("root", ADMIN_V4, 22), server.gets_in("alice", OTHER_V4, 22));
    assert!(root && alice, "{}: {what}: root {root}, alice {alice}", server.release());
}

/// Files on disk that are not those that run: by what stands on the way to them, and by who is in.
fn files_that_sshd_has_not_read_lock_nobody_out(server: &Server) {
    server
        .sh("rm -rf /etc/systemd/system/ssh.service.d; systemctl daemon-reload; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice
             chmod 755 /home/alice; cp -a /etc/ssh /root/plain; cp /etc/sshfix/agent.toml /root/agent.toml")
        .expect_ok();
    let keep = |entries: &str| {
        let toml = server.read("/root/agent.toml");
        server.write("/etc/sshfix/agent.toml", format!("{entries}{toml}"));
        server.sh("systemctl restart sshfix-agent").expect_ok();
    };
    let alice = format!("[[keep]]\naddress = \"{OTHER_V4}\"\nuser = \"alice\"\n");
    for (what, laid, switch, word) in SWITCHES {
        lay_out(server, laid);
        let session = Session::open_as(server, "root", ADMIN_V4, 22);
        server.ctl(&["sshd", "set", "Compression", "no", "--dry-run"]).expect_status(0);
        server.sh(switch).expect_ok();
        refused(server, what, &["root from 192.0.2.9 (a live session)", word, "mend them first"]);
        drop(session);
    }
    // Nobody is in, and somebody is to be kept.
    keep(&alice);
    let (_, laid, switch, _) = SWITCHES[1];
    lay_out(server, laid);
    server.sh(switch).expect_ok();
    refused(server, "a keep entry", &["(a `keep` entry of agent.toml)", "mend them first"]);
    let check = server.ctl(&["sshd", "check"]).stdout;
    assert!(check.contains("may have read others than these"), "{check}");

    // No time tells, as after a clock that was set back: who is in, or came in, does.
    lay_out(server, "");
    server.sh("echo 'DenyUsers alice root' > /etc/ssh/sshd_config.d/07-x.conf; sleep 0.1; touch /run/sshd.pid").expect_ok();
    let words = ["alice from 198.51.100.7 (a `keep` entry", "DenyUsers alice", "who came in since sshd read its files"];
    assert!(server.gets_in("alice", OTHER_V4, 22));
    refused(server, "a keep entry that was used", &words);
    keep("");
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    let words = [
        "root from 192.0.2.9 (a live session)",
        "DenyUsers root",
        "the files on disk refuse root, who is in: sshd has not read them",
    ];
    refused(server, "no newer time", &words);
    server.ctl(&["sshd", "set", "DenyUsers", "nobody", "--dry-run"]).expect_status(0);
    server.sh("echo 'PubkeyAuthentication no' > /etc/ssh/sshd_config.d/07-x.conf; sleep 0.1; touch /run/sshd.pid").expect_ok();
    drop(session);
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    refused(server, "no newer time and no method", &["root is in by publickey", "sshd has not read them"]);
    server.ctl(&["sshd", "set", "PubkeyAuthentication", "yes", "--dry-run"]).expect_status(0);
    drop(session);

    // Who came in before root forbade it and had sshd read that proves nothing; nor does what comes and goes beside the files.
    lay_out(server, "");
    let session = Session::open_as(server, "alice", OTHER_V4, 22);
    server
        .sh("echo 'DenyUsers alice' > /etc/ssh/sshd_config.d/07-x.conf; systemctl reload ssh; sleep 1; touch /etc/ssh/beside")
        .expect_ok();
    assert!(!server.gets_in("alice", OTHER_V4, 22));
    let plan = server.ctl(&["sshd", "set", "Compression", "no", "--dry-run", "--json"]).expect_status(0).json();
    assert!(!plan.to_string().contains("comes into effect too"), "{plan:#}");
    assert!(server.ctl(&["sshd", "check"]).stdout.contains("runs what is in its files"));
    drop(session);
    lay_out(server, "");
}

/// Lines by hand that sshd has not read.
fn by_hand(server: &Server, lines: &str) {
    server.write("/etc/ssh/sshd_config.d/60-hand.conf", lines);
    server.sh("sshd -t").expect_ok();
}

/// An edit of something else is refused, and changed nothing.
#[track_caller]
fn beside_it(server: &Server, by: &str, lines: &str, (status, code): (i32, &str), words: &[&str]) {
    by_hand(server, lines);
    let edit = server.ctl(&["sshd", "set", "Compression", "no", "--json"]);
    assert_eq!(edit.status, status, "{}: {by}: {lines}: {edit:#?}", server.release());
    edit.expect_error(status, code, &[words, &["nothing was changed"]].concat());
}

const BY_HAND: [&str; 4] = [
    "PubkeyAuthentication no",
    "AuthenticationMethods publickey,password",
    "Match User alice,root\nAuthorizedKeysFile none",
    "Match User alice,root\nForceCommand /bin/false",
];

/// Lines that take methods away and that sshd has not read: the edit of anything would make them count.
fn methods_taken_away_by_hand_lock_nobody_out(server: &Server) {
    let toml = server.read("/etc/sshfix/agent.toml");
    server.write("/etc/sshfix/agent.toml", format!("[[keep]]\naddress = \"{OTHER_V4}\"\nuser = \"alice\"\n{toml}"));
    server.sh("usermod -p \"$(openssl passwd right)\" alice; systemctl restart sshfix-agent").expect_ok();
    lay_out(server, "");
    let words = ["alice from 198.51.100.7 (a `keep` entry", "sshd may not have read them", "mend them first"];
    for lines in BY_HAND {
        beside_it(server, "a keep entry", lines, (4, "lockout"), &words);
    }
    server.ctl(&["sshd", "unset", "ForceCommand", "--match", "User alice,root", "--dry-run"]).expect_status(0);
    by_hand(server, "PasswordAuthentication no\nX11Forwarding no");
    server.ctl(&["sshd", "set", "Compression", "no", "--dry-run"]).expect_status(0);

    // Nothing says how root came in, nor when sshd read its files.
    server.write("/etc/sshfix/agent.toml", toml);
    server.sh("rm /etc/ssh/sshd_config.d/60-hand.conf; systemctl restart sshfix-agent").expect_ok();
    server.write("/etc/ssh/sshd_config.d/05-quiet.conf", "PidFile none\nLogLevel QUIET\n");
    server.sh("usermod -p \"$(openssl passwd right)\" root; systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
    server.wait_until("sshd serves", LONG, || server.gets_in("root", ADMIN_V4, 22));
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    server.ctl(&["sshd", "set", "Compression", "no", "--dry-run"]).expect_status(0);
    for lines in [BY_HAND[0], BY_HAND[1], BY_HAND[2], "DenyUsers root", "MaxSessions 0"] {
        beside_it(server, "no journal", lines, (4, "lockout"), &["root from 192.0.2.9 (a live session)", "mend them first"]);
    }
    by_hand(server, "X11Forwarding no");
    server.ctl(&["sshd", "set", "Compression", "no", "--dry-run"]).expect_status(0);
    assert!(server.gets_in("root", ADMIN_V4, 22) && server.gets_in("alice", OTHER_V4, 22));
    drop(session);
}

/// Lines about sockets that sshd has not read and could not follow: `sshd -t` takes them, and a reload is its end.
fn sockets_changed_by_hand_end_no_sshd(server: &Server) {
    lay_out(server, "");
    let nowhere = ["sshd would not listen on 10.1.1.1:22", "no address of this host", "60-hand.conf"];
    beside_it(server, "nobody is in", "ListenAddress 10.1.1.1", (1, "failed"), &nowhere);
    server.ctl(&["sshd", "reload", "--json"]).expect_error(1, "failed", &nowhere);
    server.ctl(&["sshd", "restart", "--json"]).expect_error(1, "failed", &nowhere);
    server.ctl(&["sshd", "unset", "ListenAddress", "--dry-run"]).expect_status(0);
    let session = Session::open_as(server, "root", ADMIN_V4, 22);
    beside_it(server, "root is in", "ListenAddress 10.1.1.1", (1, "failed"), &nowhere);
    for lines in ["Port 2222", "AddressFamily inet6", "ListenAddress 127.0.0.1"] {
        let words = ["root from 192.0.2.9 (a live session)", "sshd would not listen on", "mend them first"];
        beside_it(server, "root is in", lines, (4, "lockout"), &words);
    }
    by_hand(server, "ListenAddress 0.0.0.0:22\nListenAddress [::]:22\nListenAddress 10.1.1.1:22");
    server.ctl(&["sshd", "reload", "--json"]).expect_error(1, "failed", &["10.1.1.1:22"]);
    assert!(server.gets_in("root", ADMIN_V4, 22));

    drop(session);
    server.wait_until("nobody is in", LONG, || server.ctl(&["status"]).stdout.contains("No live SSH session."));

    // What was right when it was made is taken back beside such lines, which would end sshd: it is not told of them, and runs on.
    server.sh("rm /etc/ssh/sshd_config.d/60-hand.conf; sleep 0.1; systemctl reload ssh; sleep 1").expect_ok();
    let change = server.ctl(&["sshd", "set", "Compression", "no", "--json"]).expect_status(5).json();
    let id = change["id"].as_str().unwrap();
    by_hand(server, "ListenAddress 10.1.1.1");
    let back = server.ctl(&["rollback", id, "--json"]);
    assert!(back.status != 0 && back.stdout.contains("10.1.1.1:22"), "{back:#?}");
    assert!(back.stdout.contains("sshd was not told so and runs on"), "{back:#?}");
    server.sh("systemctl is-active ssh.service && ! systemctl is-active sshfix-sshd.service").expect_ok();
    assert!(server.gets_in("root", ADMIN_V4, 22));
    server.sh("rm /etc/ssh/sshd_config.d/60-hand.conf").expect_ok();
    let tried = || server.ctl(&["changes", id, "--json"]).json()["changes"][0]["state"] == "rolled-back";
    server.wait_until("it is tried again", LONG, tried);
    server.sh("systemctl is-active ssh.service").expect_ok();
    lay_out(server, "");
}

/// Between the client and a socket of the file system.
const BRIDGE: &str = r"
import os, socket, sys, threading
way = socket.socket(socket.AF_UNIX)
way.connect(sys.argv[1])
def back():
    while data := way.recv(65536): os.write(1, data)
    os._exit(0)
threading.Thread(target=back).start()
while data := os.read(0, 65536): way.sendall(data)
way.shutdown(socket.SHUT_WR)
";

/// Who comes over systemd's own socket of sshd, or any other that is no TCP socket, is in like everybody else.
fn a_session_without_an_address_is_one(server: &Server) {
    let mut socket = "/run/ssh-unix-local/socket";
    if !server.sh("test -S /run/ssh-unix-local/socket").ok() {
        socket = "/run/own-way";
        server.write("/etc/systemd/system/way.socket", "[Socket]\nListenStream=/run/own-way\nAccept=yes\n");
        server.write("/etc/systemd/system/way@.service", "[Service]\nExecStart=-/usr/sbin/sshd -i\nStandardInput=socket\n");
        server.sh("systemctl daemon-reload; systemctl start way.socket").expect_ok();
    }
    println!("{}: {socket}", server.release());
    server.write("/usr/local/lib/bridge.py", BRIDGE);
    server.sh("rm -f /root/k; ssh-keygen -q -t ed25519 -N '' -f /root/k; tee -a /root/.ssh/authorized_keys /home/alice/.ssh/authorized_keys < /root/k.pub").expect_ok();
    let ssh = |user: &str| {
        format!(
            "ssh -F /dev/null -i /root/k -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
             -o 'ProxyCommand=python3 /usr/local/lib/bridge.py {socket}' {user}@x"
        )
    };
    let gets_in = |user: &str| server.sh(&format!("timeout 9 {} true", ssh(user))).ok();
    let in_so = |user: &str| {
        server.write("/usr/local/lib/in.sh", format!("#!/bin/sh\nexec {} 'sleep 3000'\n", ssh(user)));
        server.sh(&format!("systemd-run -q --unit=in-{user} sh /usr/local/lib/in.sh")).expect_ok();
        let told = || server.ctl(&["status"]).stdout.contains(&format!("{user} from UNKNOWN"));
        server.wait_until("the session is known", LONG, told);
    };
    in_so("root");
    for edit in
        ["PermitRootLogin no", "AllowUsers alice", "DenyUsers root", "AllowUsers root@10.0.0.0/8", "PubkeyAuthentication no"]
    {
        let words: Vec<&str> = ["sshd", "set"].into_iter().chain(edit.split(' ')).chain(["--json"]).collect();
        server.ctl(&words).expect_error(4, "lockout", &["root from UNKNOWN (a live session)"]);
    }
    assert!(gets_in("root"));
    let harmless = |words: &[&str]| server.ctl(&[words, &["--dry-run", "--json"]].concat()).expect_status(0).json();
    for edit in [
        &["sshd", "set", "PermitRootLogin", "no", "--match", "Address 10.0.0.0/8"][..],
        &["sshd", "set", "PermitRootLogin", "no", "--match", "Address *"],
        &["sshd", "set", "PermitRootLogin", "no", "--match", "LocalAddress 0.0.0.0/0"],
        &["sshd", "set", "AllowUsers", "root@*"],
        &["sshd", "set", "DenyUsers", "root@192.0.2.0/24,0.0.0.0/0,::/0"],
        &["hosts", "deny", "0.0.0.0/0"],
        &["hosts", "deny", "::/0"],
    ] {
        let plan = harmless(edit);
        assert!(plan["paths"].as_array().unwrap().iter().any(|path| path["source"] == "UNKNOWN"), "{plan:#}");
    }
    // sshd itself is the judge of what it makes of an address that is none.
    server.sh("printf 'AllowUsers root@*\nDenyUsers root@0.0.0.0/0,::/0\nMatch Address *\nPermitRootLogin no\n' > /etc/ssh/sshd_config.d/09-y.conf").expect_ok();
    assert!(gets_in("root") && !gets_in("alice"));
    server.sh("rm /etc/ssh/sshd_config.d/09-y.conf").expect_ok();
    in_so("alice");
    let deny = server.ctl(&["sshd", "set", "DenyUsers", "alice", "--json"]);
    deny.expect_error(4, "lockout", &["alice from UNKNOWN (a live session)", "DenyUsers alice refuses alice from UNKNOWN"]);
    server.sh("systemctl stop in-root in-alice").expect_ok();
    server.wait_until("nobody is in", LONG, || server.ctl(&["status"]).stdout.contains("No live SSH session."));
}

fn evidence(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server.sh("useradd -m -s /bin/sh -p '*' alice").expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
        // A reload comes back before sshd listens again.
        server.sh("systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
    }
    let admin = Session::open_as(&server, "root", ADMIN_V4, 22);
    protected(&server, "quiet", ADMIN_V4);
    sockets_of_others_hide_no_session(&server);
    processes_of_others_cost_little(&server);
    drop(admin);
    a_systemd_that_does_not_answer_hides_no_session(&server);
    files_that_sshd_has_not_read_lock_nobody_out(&server);
    methods_taken_away_by_hand_lock_nobody_out(&server);
    sockets_changed_by_hand_end_no_sshd(&server);
    a_session_without_an_address_is_one(&server);
}

#[test]
fn alice_hides_no_live_session_on_bookworm() {
    evidence(Release::Bookworm);
}

#[test]
fn alice_hides_no_live_session_on_trixie() {
    evidence(Release::Trixie);
}
