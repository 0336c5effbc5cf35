//! What a local user can make of the files that sshd and the agent read of that user: links, pipes, devices, endless files, and files that
//! are others a moment later. `diagnose` answers in time, quotes nothing of root's, leaves no process behind, stays small, and
//! still tells the truth about honest files. As alice, with and without membership in group sshfix.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use serde_json::Value;
use sshfix_tests::lab::{self, Release, Server};

const FROM: &str = "203.0.113.7";
const KEYS: &str = "/home/alice/.ssh/authorized_keys";
const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
/// What an answer may take: the deadline of a look, the rest of the question, and a loaded machine.
const SOON: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_mins(1);
/// What the agent may grow by, in KiB.
const GROWTH: u64 = 32 * 1024;

/// A server with sshfix, and alice and bob who may log in with the lab's key.
fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("for user in alice bob; do useradd -m -s /bin/sh $user; cp -r /root/.ssh /home/$user/; chmod 755 /home/$user; done")
        .expect_ok();
    configure(&server, "");
    server.install_sshfix();
    honest(&server);
    server
}

fn configure(server: &Server, lines: &str) {
    let quiet = if server.release() == Release::Trixie { "PerSourcePenalties no\n" } else { "" };
    server.write(DROP_IN, format!("PasswordAuthentication no\nKbdInteractiveAuthentication no\n{quiet}{lines}"));
    server.sh("sshd -t && systemctl reset-failed ssh && systemctl restart ssh").expect_ok();
}

/// Puts alice's and bob's files back as they should be.
fn honest(server: &Server) {
    server
        .sh("for user in alice bob; do cd /home/$user; chmod -R u+rwx .ssh; rm -rf .ssh; cp -r /root/.ssh .; chown -R $user: .; \
             chmod 755 .; chmod 700 .ssh; chmod 600 .ssh/authorized_keys; done")
        .expect_ok();
}

/// Runs a script as alice in her home.
#[track_caller]
fn alice(server: &Server, script: &str) {
    server.run(&["su", "alice", "-c", &format!("cd /home/alice && {script}")]).expect_ok();
}

fn can_log_in(server: &Server, user: &str) -> bool {
    let mut command = server.ssh_command(FROM);
    let destination = command.pop().unwrap().replace("root@", &format!("{user}@"));
    command.extend([destination, "true".to_owned()]);
    lab::run(&command.iter().map(String::as_str).collect::<Vec<_>>()).ok()
}

/// The stage `account` of a diagnosis, and the whole document as text.
#[track_caller]
fn account(server: &Server, user: &str) -> (String, String, String) {
    let asked = server.ctl(&["--json", "diagnose", FROM, "--user", user]);
    assert!(asked.time < SOON, "{}: answered after {:?}", server.release(), asked.time);
    let document: Value = asked.json();
    let stage = document["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "account");
    let stage = stage.unwrap_or_else(|| panic!("no stage account: {document:#}"));
    let text = |key: &str| stage[key].as_str().unwrap().to_owned();
    (text("verdict"), text("detail"), asked.stdout)
}

fn agent_pid(server: &Server) -> String {
    server.run(&["systemctl", "show", "-P", "MainPID", "sshfix-agent"]).expect_ok()
}

/// `VmRSS` of `proc_pid_status(5)`, in KiB.
fn resident(server: &Server) -> u64 {
    let status = server.read(&format!("/proc/{}/status", agent_pid(server)));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Children of the agent and of the service that looks for it, dead ones included.
fn leftovers(server: &Server) -> String {
    let look = server.run(&["systemctl", "show", "-P", "MainPID", "sshfix-look"]).expect_ok();
    let parents = format!("{},{}", agent_pid(server).trim(), look.trim());
    server.sh(&format!("ps -o pid,stat,user,args --no-headers --ppid {parents} || true")).expect_ok()
}

#[track_caller]
fn nothing_is_left(server: &Server) {
    server.wait_until("no look is left", LIMIT, || leftovers(server).is_empty());
}

/// What sshd does, and what the diagnosis says of it: `accept`, `refuse` or `unknown`, with these words.
#[track_caller]
fn agrees(server: &Server, what: &str, verdict: &str, words: &str) {
    let release = server.release();
    let (found, detail, all) = account(server, "alice");
    assert_eq!(found, verdict, "{release}: {what}: {detail}\n{all}");
    assert!(all.contains(words), "{release}: {what}: `{words}` is not in {all}");
    for secret in ["root:", "$y$", "$6$", "PRIVATE KEY", "b3BlbnNzaC1rZXk", "daemon:"] {
        assert!(!all.contains(secret), "{release}: {what}: the answer quotes {secret}: {all}");
    }
    assert!(!all.chars().any(|c| c.is_control() && c != '\n'), "{release}: {what}: {all:?}");
    assert!(all.len() < 60_000, "{release}: {what}: an answer of {} bytes", all.len());
    match verdict {
        "accept" => assert!(can_log_in(server, "alice"), "{release}: {what}: sshd refuses"),
        "refuse" => assert!(!can_log_in(server, "alice"), "{release}: {what}: sshd lets her in"),
        _ => {}
    }
}

#[test]
fn files_of_a_users_making_are_looked_at_as_that_user_in_time_and_quoted_nowhere() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        agrees(&server, "honest files", "accept", "sshd reads the authorized keys");
        let before = resident(&server);
        // Without and with membership in the group that may talk to the agent: what is hers is hers alone in both.
        for member in [false, true] {
            if member {
                server.sh("usermod -aG sshfix alice").expect_ok();
            }
            links_and_special_files(&server);
            honest(&server);
        }
        modes_and_groups(&server);
        honest(&server);
        names_and_tokens(&server);
        honest(&server);
        swapped_meanwhile(&server);
        honest(&server);
        stopped(&server);
        honest(&server);
        server.wait_until("alice is looked at again", LIMIT, || account(&server, "alice").0 == "accept");
        nothing_is_left(&server);
        let now = resident(&server);
        assert!(now < before + GROWTH, "{release}: VmRSS went from {before} to {now} KiB");
        let restarts = server.run(&["systemctl", "show", "-P", "NRestarts", "sshfix-agent"]).expect_ok();
        assert_eq!(restarts, "0", "{release}: the agent was restarted");
    }
}

/// `authorized_keys` is everything but a file of hers.
fn links_and_special_files(server: &Server) {
    for (what, make, verdict, words) in [
        (
            "a link to shadow",
            "ln -s /etc/shadow $K",
            "refuse",
            "/etc/shadow cannot be read by the user (owner 0, mode 0640, a file)",
        ),
        ("a link to root's key", "ln -s /etc/sshfix/ctl_ed25519 $K", "refuse", "(owner 0, mode 0"),
        (
            "a link to what is not there",
            "ln -s /root/.ssh/none $K",
            "refuse",
            "/root does not let the user in (owner 0, mode 0700, a folder)",
        ),
        ("a pipe", "mkfifo $K", "refuse", "not a regular file"),
        ("a device", "ln -s /dev/zero $K", "refuse", "not a regular file"),
        ("a folder", "mkdir $K", "refuse", "not a regular file"),
        (
            "a socket",
            "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"'$K'\")'",
            "refuse",
            "the user cannot open it",
        ),
        ("a link to itself", "ln -s authorized_keys $K", "refuse", "the user cannot open it"),
        ("no file", "true", "refuse", "not there"),
        ("a sparse file of 1 GB", "truncate -s 1G $K", "unknown", "longer than 4 MiB"),
        ("a link into /proc", "ln -s /proc/self/environ $K", "refuse", "the user"),
    ] {
        server.sh(&format!("rm -rf {KEYS}")).expect_ok();
        alice(server, &format!("K=.ssh/authorized_keys; {make}"));
        let begun = Instant::now();
        agrees(server, what, verdict, words);
        assert!(begun.elapsed() < SOON + SOON, "{what}");
    }
    // As many lines as nobody has, of one key: read, and told once.
    server.sh(&format!("rm -rf {KEYS}; sed -n 'p;q' /root/.ssh/authorized_keys >{KEYS}; yes '#' | head -n 100000 >>{KEYS}; chown alice: {KEYS}; chmod 600 {KEYS}")).expect_ok();
    agrees(server, "100,000 lines", "accept", "sshd reads the authorized keys");
    // The home itself leads to root's.
    server.sh("mv /home/alice /home/kept; ln -s /root /home/alice").expect_ok();
    let (verdict, _, all) = account(server, "alice");
    assert!(verdict == "refuse" && all.contains("does not let the user in (owner 0, mode 0700, a folder)"), "{all}");
    server.sh("rm /home/alice; mv /home/kept /home/alice").expect_ok();
}

/// Debian's sshd lets a private group write (user-group-modes.patch), and nobody else.
fn modes_and_groups(server: &Server) {
    agrees(server, "honest", "accept", "");
    for folder in ["/home/alice", "/home/alice/.ssh", KEYS] {
        server.sh(&format!("chmod g+w {folder}")).expect_ok();
        agrees(server, folder, "accept", "sshd reads the authorized keys");
    }
    server.sh("gpasswd -a bob alice").expect_ok();
    agrees(server, "a group of two", "refuse", "can be written by others");
    server.sh("gpasswd -d bob alice; usermod -g alice bob").expect_ok();
    agrees(server, "another's primary group", "refuse", "can be written by others");
    server.sh("usermod -g bob bob; chgrp users /home/alice").expect_ok();
    agrees(server, "a group of nobody's", "refuse", "/home/alice can be written by others");
    server.sh("chgrp alice /home/alice; chmod 757 /home/alice").expect_ok();
    agrees(server, "the world", "refuse", "/home/alice can be written by others");
    server.sh("chmod 755 /home/alice; chown bob /home/alice/.ssh; chmod 755 /home/alice/.ssh").expect_ok();
    agrees(server, "another owner", "refuse", "belongs to another user");
    // sshd reads no pipe with StrictModes no either, and everything else.
    configure(server, "StrictModes no\n");
    agrees(server, "StrictModes no", "accept", "sshd reads the authorized keys");
    server.sh(&format!("rm {KEYS}; mkfifo {KEYS}; chown alice {KEYS}")).expect_ok();
    agrees(server, "a pipe with StrictModes no", "refuse", "not a regular file");
    configure(server, "");
}

/// Names that would write to a terminal, the longest path there is, and the tokens of `AuthorizedKeysFile`.
fn names_and_tokens(server: &Server) {
    let deep = "d=$(printf 'x%.0s' $(seq 200)); mkdir /tmp/deep; cd /tmp/deep; for i in $(seq 19); do mkdir $d; cd $d; done; mkdir \"$(printf 'n\\033[2Jl\\nroot: evil')\"; \
                cd n*; cp /home/alice/.ssh/authorized_keys .; chmod 666 authorized_keys; ln -sf \"$PWD/authorized_keys\" /home/alice/.ssh/authorized_keys";
    server.sh("mkdir -p /srv/deep; chown alice /srv/deep").expect_ok();
    let deep = deep.replace("mkdir /tmp/deep; cd /tmp/deep", "cd /srv/deep");
    alice(server, &deep);
    agrees(server, "a long path of strange names", "refuse", "can be written by others");
    server.sh("rm -rf /srv/deep").expect_ok();
    honest(server);
    // What the agent's service has another view of is unknown, not missing.
    server
        .sh("mkdir /tmp/keys; cp /root/.ssh/authorized_keys /tmp/keys/alice; chown -R alice: /tmp/keys; chmod 700 /tmp/keys")
        .expect_ok();
    configure(server, "AuthorizedKeysFile /tmp/keys/%u\n");
    agrees(server, "/tmp", "unknown", "sees another /tmp than the host");
    server.sh("install -d -o root /etc/ssh/keys; cp /root/.ssh/authorized_keys /etc/ssh/keys/$(id -u alice)-alice; chmod 644 /etc/ssh/keys/*").expect_ok();
    configure(server, "AuthorizedKeysFile %h/.ssh/none /etc/ssh/keys/%U-%u\n");
    agrees(server, "tokens", "accept", "sshd reads the authorized keys");
    configure(server, "AuthorizedKeysFile %h/.ssh/authorized_keys\n");
    agrees(server, "tokens", "accept", "sshd reads the authorized keys");
    configure(server, "");
}

/// She puts another file there all the time: each answer is one that one of them gives, and quotes neither.
fn swapped_meanwhile(server: &Server) {
    alice(server, "cd .ssh && cp authorized_keys good && ln -s /etc/shadow evil && mkfifo pipe");
    let script = "cd /home/alice/.ssh; while [ -e go ]; do for f in good evil pipe; do ln -f $f new 2>/dev/null || cp -P $f new; mv -f new authorized_keys; done; done";
    alice(server, &format!("touch .ssh/go; (setsid sh -c '{script}' </dev/null >/dev/null 2>&1 &)"));
    for _ in 0..8 {
        let (verdict, detail, all) = account(server, "alice");
        assert!(["accept", "refuse", "unknown"].contains(&verdict.as_str()) && !all.contains("root:"), "{detail}: {all}");
    }
    alice(server, "rm .ssh/go");
    server.wait_until("her loop has ended", LIMIT, || !server.run(&["pgrep", "-u", "alice"]).ok());
}

/// She tries to stop the look itself, which has her ids.
fn stopped(server: &Server) {
    alice(
        server,
        "(setsid sh -c 'for i in $(seq 2000); do pkill -STOP -u alice -f look && break; done' </dev/null >/dev/null 2>&1 &)",
    );
    // Whether she was in time or not, the answer comes in time.
    account(server, "alice");
    server.sh("pkill -KILL -u alice || true").expect_ok();
    nothing_is_left(server);
    server.wait_until("alice is looked at again", LIMIT, || account(server, "alice").0 == "accept");
}
