//! Peers who want everything: two hundred connections, rubbish as fast as it goes, expensive questions in a loop, an agent that is stuck, a
//! full disk. Whoever is honest is answered, and a pending change keeps its deadline. Under the packaged units, on both releases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use std::time::{Duration, Instant};

use sshfix_tests::lab::{Server, on_both};

/// What a confirm may take on a loaded machine. On a quiet one it is a fraction of a second; the figure is printed.
const SOON: Duration = Duration::from_secs(8);
/// Descriptors of an agent under attack: connections of two users and of root, and what it opens to read the host.
const MAX_FILES: usize = 450;

/// Alice: 200 connections that are opened again when the agent closes them, and 8-byte rubbish at up to 2,000 frames a second.
const GREEDY: &str = r"
import selectors, socket, threading, time
PATH, HELD, RATE = '/run/sshfix/agent.sock', 200, 2000
sent = [0] * 4
def connect():
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(PATH)
    return peer
def hold():
    selector = selectors.DefaultSelector()
    for _ in range(HELD):
        selector.register(connect(), selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            try:
                over = not key.fileobj.recv(65536)
            except OSError:
                over = True
            if over:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                time.sleep(0.01)
                selector.register(connect(), selectors.EVENT_READ)
def rubbish(index):
    begun = time.monotonic()
    while True:
        try:
            with connect() as peer:
                peer.send(b'\0\0\0\4rub!')
        except OSError:
            pass
        sent[index] += 1
        ahead = begun + sent[index] * len(sent) / RATE - time.monotonic()
        time.sleep(max(0, ahead))
threading.Thread(target=hold, daemon=True).start()
for index in range(len(sent)):
    threading.Thread(target=rubbish, args=(index,), daemon=True).start()
begun = time.monotonic()
while True:
    time.sleep(1)
    with open('/tmp/sent', 'w') as file:
        file.write(str(int(sum(sent) / (time.monotonic() - begun))))
";

/// A user of the group, with a key and a grant for one network.
fn make_member(server: &Server, user: &str) {
    server
        .sh(&format!("useradd -m -G sshfix {user}; runuser -u {user} -- ssh-keygen -q -t ed25519 -N '' -f /home/{user}/key"))
        .expect_ok();
    let key = server.read(&format!("/home/{user}/key.pub"));
    let signers = server.read("/etc/sshfix/allowed_signers");
    let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    server.write("/etc/sshfix/allowed_signers", format!("{signers}{user}@example.org {key}\n"));
    let grants = server.read("/etc/sshfix/policy.toml");
    let grant = format!(
        "\n[[grant]]\nprincipal = \"{user}@example.org\"\nactions = [\"diagnose\", \"unban\", \"status\"]\nnetworks = [\"203.0.113.0/24\"]\n"
    );
    server.write("/etc/sshfix/policy.toml", grants + &grant);
}

/// A command as this user, as a unit that runs until it is stopped.
fn start(server: &Server, unit: &str, user: &str, script: &str) {
    let (unit, uid) = (format!("--unit={unit}"), format!("--uid={user}"));
    server.run(&["systemd-run", "-q", &unit, &uid, "sh", "-c", script]).expect_ok();
}

fn files(server: &Server) -> usize {
    let pid = server.run(&["systemctl", "show", "-P", "MainPID", "sshfix-agent"]).expect_ok();
    server.sh(&format!("ls /proc/{pid}/fd | wc -l")).expect_ok().parse().unwrap()
}

fn restarts(server: &Server) -> u32 {
    server.run(&["systemctl", "show", "-P", "NRestarts", "sshfix-agent"]).expect_ok().parse().unwrap()
}

#[track_caller]
fn pending(server: &Server, address: &str, within: &str) -> String {
    let change = server.ctl(&["hosts", "deny", address, "--confirm-within", within, "--json"]).expect_status(5).json();
    change["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn state(server: &Server, id: &str) -> String {
    let found = server.ctl(&["changes", id, "--json"]).expect_status(0).json();
    found["changes"][0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn whoever_is_greedy_keeps_nobody_waiting() {
    on_both(|server| {
        make_member(server, "alice");
        make_member(server, "bob");
        greedy_peers_keep_no_confirm_waiting(server);
        an_agent_that_is_stuck_is_started_anew_and_the_deadline_is_kept(server);
        records_are_bounded_and_hold_no_values(server);
        a_full_disk_keeps_no_change_from_being_decided(server);
    });
}

fn greedy_peers_keep_no_confirm_waiting(server: &Server) {
    // What bob asks about costs the agent all that a walk may cost: every mark that one path sets is another packet in the chains after it.
    let last: Vec<String> = (0..200).map(|n| format!("    ip saddr 10.0.{n}.0/24 tcp dport 22 drop\n")).collect();
    let tower: Vec<String> = (1..15)
        .map(|n| {
            let (next, bit) = (n + 1, 1_u32 << n);
            let without = format!("meta mark set meta mark and {} jump c{next}", !bit);
            format!("  chain c{n} {{\n    {without}\n    meta mark set meta mark or {bit} jump c{next}\n  }}\n")
        })
        .rev()
        .collect();
    let (last, tower) = (last.concat(), tower.concat());
    let input = "  chain in {\n    type filter hook input priority 10;\n    ip saddr 203.0.113.9 jump c1\n  }\n";
    server.write("/root/many.nft", format!("table inet many {{\n  chain c15 {{\n{last}  }}\n{tower}{input}}}\n"));
    server.run(&["nft", "-f", "/root/many.nft"]).expect_ok();
    let much = server.ctl(&["diagnose", "203.0.113.9"]);
    assert!(much.stdout.contains("too much to follow: more than 2000000 rules"), "{much:#?}");
    // Warm: what the first question opens for good is not the peers' doing.
    server.ctl(&["diagnose", "203.0.113.8"]);
    server.ctl(&["status"]).expect_status(0);
    let id = pending(server, "203.0.113.70", "15m");
    let quiet = files(server);
    server.write("/usr/local/lib/greedy.py", GREEDY);
    start(server, "greedy", "alice", "exec python3 /usr/local/lib/greedy.py");
    for n in 0..3 {
        let ask =
            "while :; do /usr/local/bin/sshfix ctl --identity /home/bob/key diagnose 203.0.113.9 --explain; done >/dev/null 2>&1";
        start(server, &format!("expensive-{n}"), "bob", ask);
    }
    std::thread::sleep(Duration::from_secs(4));

    for _ in 0..2 {
        let status = server.ctl(&["status", "--json"]).expect_status(0);
        assert!(status.time < SOON, "a status took {:?}", status.time);
        assert_eq!(status.json()["pending"], id.as_str());
        let changes = server.ctl(&["changes", "--json"]).expect_status(0);
        assert!(changes.time < SOON, "the changes took {:?}", changes.time);
        let open = files(server);
        assert!(open < MAX_FILES, "the agent holds {open} descriptors, {quiet} before");
    }
    // Whoever has a grant, too, and whoever asks what costs something.
    let own =
        server.run(&["runuser", "-u", "bob", "--", "/usr/local/bin/sshfix", "ctl", "--identity", "/home/bob/key", "status"]);
    assert!(own.elapsed < SOON, "bob's status took {:?}: {}", own.elapsed, own.stderr);
    let question = server.ctl(&["diagnose", "203.0.113.8", "--json"]);
    assert!([0, 9].contains(&question.status), "{question:#?}");
    let begun = Instant::now();
    server.ctl(&["confirm", &id, "--json"]).expect_status(0);
    let took = begun.elapsed();
    let rate = server.read("/tmp/sent");
    println!(
        "{}: a confirm took {took:?}, a diagnose {:?}, under {rate} rubbish frames a second",
        server.release(),
        question.time
    );
    assert!(took < SOON, "an honest confirm took {took:?}");
    assert_eq!(state(server, &id), "confirmed");

    server.sh("systemctl stop greedy 'expensive-*'; nft delete table inet many").expect_ok();
    server.wait_until("the agent's descriptors are given back", Duration::from_mins(1), || files(server) <= quiet + 3);
    assert_eq!(restarts(server), 0, "the agent was restarted");
    server.ctl(&["hosts", "remove", "203.0.113.70"]);
}

fn an_agent_that_is_stuck_is_started_anew_and_the_deadline_is_kept(server: &Server) {
    server.write("/etc/systemd/system/sshfix-agent.service.d/watchdog.conf", "[Service]\nWatchdogSec=4\n");
    server.run(&["systemctl", "daemon-reload"]).expect_ok();
    server.run(&["systemctl", "restart", "sshfix-agent"]).expect_ok();
    let before = restarts(server);
    let id = pending(server, "203.0.113.71", "12s");
    let begun = Instant::now();
    // Somebody who has the turn to change the host and never gives it back.
    server.write("/run/sshfix/keep-turn", "1");
    server.wait_until("the agent is stuck", Duration::from_mins(1), || server.path("/run/sshfix/kept-turn").exists());
    server.wait_until("the stuck agent is started anew", Duration::from_mins(2), || restarts(server) > before);
    server.sh("rm /run/sshfix/keep-turn").expect_ok();
    server.wait_until("the change is taken back", Duration::from_mins(2), || state(server, &id) == "rolled-back");
    println!("{}: stuck, started anew and taken back {:?} after a change of 12 s", server.release(), begun.elapsed());
    assert!(!server.read("/etc/hosts.deny").contains("203.0.113.71"));
    server.sh("rm /etc/systemd/system/sshfix-agent.service.d/watchdog.conf; systemctl daemon-reload").expect_ok();
    server.run(&["systemctl", "restart", "sshfix-agent"]).expect_ok();
}

/// The records, as they are in state.db.
fn bodies(server: &Server) -> String {
    let program = "import sqlite3; print(sqlite3.connect('/var/lib/sshfix/state.db').execute('SELECT group_concat(body) FROM audit').fetchone()[0])";
    server.run(&["python3", "-c", program]).expect_ok()
}

fn records_are_bounded_and_hold_no_values(server: &Server) {
    let bob = |arguments: &str| {
        server.sh(&format!("runuser -u bob -- /usr/local/bin/sshfix ctl --identity /home/bob/key {arguments} --json || echo $?"))
    };
    let (long, jail) = ("never-recorded-".repeat(60), "never-recorded-".repeat(10));
    let refused = bob(&format!("unban 203.0.113.7 --jail {jail} --reason {long}")).stdout;
    assert!(refused.contains("at most 1024") && refused.contains("nothing was changed") && refused.ends_with("2\n"), "{refused}");
    let answer = server.ctl(&["sshd", "set", "Banner", "/etc/no-such-secret", "--dry-run", "--json"]);
    assert!([0, 1].contains(&answer.status), "{answer:#?}");
    server.ctl(&["hosts", "remove", "203.0.113.70"]);
    let id = pending(server, "203.0.113.72", "10m");
    server.ctl(&["confirm", &id]).expect_status(0);
    let records = bodies(server);
    for absent in ["never-recorded", "no-such-secret", "host_key", "shared_secret"] {
        assert!(!records.contains(absent), "`{absent}` is on record");
    }
    assert!(records.contains(&format!("{{\"confirm\":{{\"id\":\"{id}\"}}}}")), "the confirm itself is");
    server.ctl(&["hosts", "remove", "203.0.113.72"]);
}

fn a_full_disk_keeps_no_change_from_being_decided(server: &Server) {
    server.run(&["systemctl", "stop", "sshfix-agent.service"]).expect_ok();
    server.sh("mount -t tmpfs -o size=3m,mode=0700 full /var/lib/sshfix").expect_ok();
    server.run(&["systemctl", "start", "sshfix-agent.service"]).expect_ok();
    let fill = || {
        server.sh("dd if=/dev/zero of=/var/lib/sshfix/filler bs=4k oflag=append conv=notrunc 2>/dev/null || true").expect_ok();
        // What room is left in the write-ahead log is soon used up.
        let full = (0..200).any(|_| server.ctl(&["hosts", "list"]).status != 0);
        assert!(full, "the disk never was full");
    };
    for decision in ["confirm", "rollback"] {
        let id = pending(server, "203.0.113.73", "10m");
        fill();
        server.ctl(&["hosts", "list"]);
        server.ctl(&[decision, &id]).expect_status(0);
        let state = state(server, &id);
        assert_eq!(state, if decision == "confirm" { "confirmed" } else { "rolled-back" });
        // No change begins that could not be taken back.
        server.ctl(&["hosts", "deny", "203.0.113.74", "--json"]).expect_status(1);
        assert!(!server.read("/etc/hosts.deny").contains("203.0.113.74"));
        server.sh("rm /var/lib/sshfix/filler").expect_ok();
        server.ctl(&["hosts", "remove", "203.0.113.73"]).expect_status(0);
    }
    server.ctl(&["audit", "verify"]).expect_status(0);
    server.run(&["systemctl", "stop", "sshfix-agent.service"]).expect_ok();
    server.sh("umount /var/lib/sshfix").expect_ok();
    server.run(&["systemctl", "start", "sshfix-agent.service"]).expect_ok();
}
