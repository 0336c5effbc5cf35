//! A local user, alice, who keeps a rollback from being made: more sockets than are read, a systemd that is asked more than it can
//! answer, connections that say nothing, and a file system of /etc and of state.db without any room. Real sshds under the packaged units, one server of each release for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use sshfix_tests::lab::{ADMIN_V4, BUSY_SYSTEMD, MANY_SOCKETS, Release, Server, on_both_at_once};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(2);
/// What needs nothing that anybody can disturb takes less.
const SOON: Duration = Duration::from_secs(2);

/// Connections that say nothing, as many as it can.
const SILENCE: &str = r"
import os, socket, random, selectors, time
for child in range(6):
    if os.fork() == 0:
        sel = selectors.DefaultSelector()
        while True:
            s = socket.socket(); s.setsockopt(0, 24, 1)
            try:
                s.bind(('127.%d.%d.%d' % (random.randrange(1,250), random.randrange(250), random.randrange(1,250)), 0))
                s.settimeout(1); s.connect(('127.0.0.1', 22)); s.setblocking(False); sel.register(s, selectors.EVENT_READ)
            except OSError: s.close(); time.sleep(0.005)
            for key, _ in sel.select(0):
                try: over = not key.fileobj.recv(65536)
                except OSError: over = True
                if over: sel.unregister(key.fileobj); key.fileobj.close()
            time.sleep(0.002)
time.sleep(100000)
";

/// Takes all room of a file system, and what others give up of theirs.
const FILL: &str = r"
import os, time
f = open('/srv/small/alice/x', 'ab', 0)
while True:
    try:
        while True: f.write(b'x' * 4096)
    except OSError: time.sleep(0.001)
";
/// /etc and the folder of state.db on a small file system that alice can write to, too.
const SMALL: &str = "set -e
    systemctl stop sshfix-agent.service
    mkdir -p /srv/small; mount -t tmpfs -o size=24m small /srv/small
    cp -a /etc /srv/small/etc; cp -a /var/lib/sshfix /srv/small/state; install -d -o alice /srv/small/alice
    mount --bind /srv/small/etc /etc; mount --bind /srv/small/state /var/lib/sshfix
    rm -f /etc/systemd/system/ssh.service.d/hard.conf; systemctl daemon-reload; systemctl restart ssh.service
    systemctl start sshfix-agent.service";
/// The files that are changed, their owners, modes and inodes, and all names beside them.
const FILES: &str =
    "cd /etc; ls -A1 . ssh ssh/sshd_config.d; for file in hosts.allow hosts.deny ssh/sshd_config ssh/sshd_config.d/*; do
    stat -c '%n %i %a %u %g %h' $file; cat $file; done";

/// What alice runs, until it is dropped.
struct Attack<'a>(&'a Server);

impl<'a> Attack<'a> {
    fn begin(server: &'a Server, script: &str) -> Self {
        server.write("/usr/local/lib/attack.py", script);
        let more = ["-p", "TasksMax=30000", "-p", "LimitNOFILE=524288"];
        let command =
            [&["systemd-run", "-q", "--unit=attack", "--uid=alice"], &more[..], &["python3", "/usr/local/lib/attack.py"]];
        server.run(&command.concat()).expect_ok();
        Self(server)
    }
}

impl Drop for Attack<'_> {
    fn drop(&mut self) {
        // systemd itself may not hear it.
        let end = "kill -KILL $(cat /sys/fs/cgroup/system.slice/attack.service/cgroup.procs) 2>/dev/null || true
            for i in $(seq 100); do systemctl is-active -q attack || break; sleep 0.3; done; systemctl reset-failed attack 2>/dev/null || true";
        let _ = self.0.sh(end);
    }
}

fn prepare(server: &Server) {
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("useradd -m -s /bin/sh -p '*' alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice")
        .expect_ok();
    let quiet = if server.release() == Release::Trixie { "PerSourcePenalties no\n" } else { "" };
    server.write(DROP_IN, format!("X11Forwarding yes\n{quiet}"));
    server.sh("sshd -t && systemctl reload ssh.service").expect_ok();
    server.wait_until("sshd serves", LONG, || server.ssh(ADMIN_V4).ok);
}

/// What `sshd set` makes pending.
fn pending(server: &Server, within: &str, words: &[&str]) -> String {
    let asked = server.ctl(&[&["sshd", "set"], words, &["--confirm-within", within, "--json"]].concat());
    asked.expect_status(5).json()["id"].as_str().unwrap().to_owned()
}

fn state(server: &Server, id: &str) -> String {
    let answer = server.ctl(&["changes", id, "--json"]);
    if answer.status == 0 { answer.json()["changes"][0]["state"].as_str().unwrap().to_owned() } else { answer.stderr }
}

/// Until the change is taken back, and alice is in again by that.
#[track_caller]
fn is_taken_back(server: &Server, id: &str) {
    let begun = Instant::now();
    server.wait_until("it is taken back at its deadline", LONG, || state(server, id) == "rolled-back");
    server.wait_until("alice gets in", Duration::from_secs(5), || server.gets_in("alice", ADMIN_V4, 22));
    println!("{}: taken back after {:?}", server.release(), begun.elapsed());
}

/// A rollback that is asked for is answered soon.
#[track_caller]
fn is_rolled_back_soon(server: &Server, id: &str) {
    let back = server.ctl(&["rollback", id, "--json"]).expect_status(0);
    println!("{}: rolled back in {:?}", server.release(), back.time);
    assert!(back.time < SOON, "{}: {back:#?}", server.release());
    assert_eq!(back.json()["state"], "rolled-back", "{back:?}");
}

#[test]
fn nobody_keeps_a_change_of_sshd_from_being_taken_back() {
    on_both_at_once(|server| {
        prepare(server);
        more_sockets_than_are_read_do_not(server);
        connections_that_say_nothing_do_not(server);
        a_systemd_that_does_not_answer_does_not(server);
        a_full_file_system_does_not(server);
    });
}

fn more_sockets_than_are_read_do_not(server: &Server) {
    // A machine so slow that the time of the change is over before she has them all has another try, with more time.
    let in_time = ["15s", "45s", "90s"].into_iter().any(|within| {
        let id = pending(server, within, &["DenyUsers", "alice"]);
        assert!(!server.gets_in("alice", ADMIN_V4, 22), "denied, until somebody confirms it or its time is over");
        let attack = Attack::begin(server, MANY_SOCKETS);
        server.wait_until("she has them", LONG, || server.tcp_sockets() > 102_000);
        let in_time = state(server, &id) == "pending";
        is_taken_back(server, &id);
        drop(attack);
        in_time
    });
    assert!(in_time, "the machine is too slow to tell");
}

fn connections_that_say_nothing_do_not(server: &Server) {
    let id = pending(server, "10m", &["X11Forwarding", "no"]);
    let attack = Attack::begin(server, SILENCE);
    std::thread::sleep(Duration::from_secs(3));
    is_rolled_back_soon(server, &id);
    drop(attack);
}

/// With mounts of sshd's own, so that what it is cannot be proven anew without systemd; and by an agent that was started since.
fn a_systemd_that_does_not_answer_does_not(server: &Server) {
    server.write("/etc/systemd/system/ssh.service.d/hard.conf", "[Service]\nPrivateTmp=yes\n");
    server.sh("systemctl daemon-reload; systemctl restart ssh.service").expect_ok();
    server.wait_until("sshd serves", LONG, || server.ssh(ADMIN_V4).ok);
    let id = pending(server, "10m", &["X11Forwarding", "no"]);
    let attack = Attack::begin(server, BUSY_SYSTEMD);
    std::thread::sleep(Duration::from_secs(4));
    is_rolled_back_soon(server, &id);
    // What needs systemd is answered: the agent asks it where alice cannot.
    let status = server.ctl(&["status"]).expect_status(0);
    let asked = server.ctl(&["diagnose", ADMIN_V4]).expect_status(0);
    let planned = server.ctl(&["sshd", "set", "DenyUsers", "alice", "--dry-run"]).expect_status(0);
    println!("{}: status {:?}, diagnose {:?}, planned {:?}", server.release(), status.time, asked.time, planned.time);
    let begun = Instant::now();
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
    println!("{}: the agent was started anew in {:?}", server.release(), begun.elapsed());

    let id = pending(server, "10s", &["DenyUsers", "alice"]);
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
    is_taken_back(server, &id);
    drop(attack);
}

/// Nothing that a rollback needs has room: the old versions are kept while a change waits, and gone when it has ended.
fn a_full_file_system_does_not(server: &Server) {
    server.sh(SMALL).expect_ok();
    server.wait_until("sshd serves", LONG, || server.ssh(ADMIN_V4).ok);
    let files = || server.sh(FILES).expect_ok();
    let kept = || server.sh("ls -A1 /etc /etc/ssh /etc/ssh/sshd_config.d | grep -c sshfix-undo-").stdout.trim().to_owned();

    let id = pending(server, "10m", &["X11Forwarding", "no"]);
    assert_eq!(kept(), "1", "while it waits");
    server.ctl(&["confirm", &id]).expect_status(0);
    assert_eq!(kept(), "0", "when it is confirmed");
    let status = server.ctl(&["status"]).expect_status(0).stdout;
    assert!(!status.contains("some changed after it last read them"), "{status}");

    let before = files();
    let fill = || {
        let attack = Attack::begin(server, FILL);
        server.wait_until("there is no room", LONG, || !server.sh("head -c 5000 /dev/zero >/etc/probe").ok());
        server.sh("rm -f /etc/probe").expect_ok();
        attack
    };
    let empty = |attack| {
        drop(attack);
        server.sh("rm /srv/small/alice/x").expect_ok();
    };
    let id = pending(server, "10s", &["DenyUsers", "alice"]);
    let attack = fill();
    assert!(!server.gets_in("alice", ADMIN_V4, 22), "denied, until its time is over");
    is_taken_back(server, &id);
    assert_eq!(files(), before, "to the byte and the inode, and nothing beside them");
    empty(attack);

    let denied = server.ctl(&["hosts", "deny", "203.0.113.9", "--confirm-within", "10m", "--json"]).expect_status(5).json();
    let attack = fill();
    is_rolled_back_soon(server, denied["id"].as_str().unwrap());
    assert_eq!(files(), before);
    empty(attack);

    // An agent that was killed meanwhile, too; and whose next one alice was ahead of, when SQLite makes the index of its log anew.
    let id = pending(server, "10s", &["DenyUsers", "alice"]);
    let attack = fill();
    server.sh("systemctl kill -s KILL sshfix-agent.service sshfix-write.service; rm /var/lib/sshfix/state.db-shm").expect_ok();
    is_taken_back(server, &id);
    assert_eq!(files(), before);
    empty(attack);
    server.wait_until("it is written down", LONG, || server.ctl(&["audit", "verify"]).status == 0);
    server
        .sh("systemctl stop sshfix-agent.service; umount /etc /var/lib/sshfix && systemctl restart ssh.service sshfix-agent.service")
        .expect_ok();
}
