//! Connections of others that fill sshd's door, and a listener of others at an address that sshd left free; and what a narrow grant reads
//! of others in lists of patterns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use sshfix_tests::lab::{CtlResult, Server, on_both};

const SOON: Duration = Duration::from_mins(1);
const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const OWN: &str = "203.0.113.70";

/// Connects to sshd from everywhere in 127.0.0.0/8, says nothing, and comes again twice a second where it was turned away.
const STARTUPS: &str = r"
import socket, selectors, random, time
sel = selectors.DefaultSelector()
def one():
    s = socket.socket(); s.setsockopt(0, 24, 1)
    s.bind(('127.%d.%d.%d' % (random.randrange(1,250), random.randrange(250), random.randrange(1,250)), 0))
    s.settimeout(2)
    try: s.connect(('127.0.0.1', 22))
    except OSError: s.close(); return
    s.setblocking(False); sel.register(s, selectors.EVENT_READ)
while True:
    while len(sel.get_map()) < 40: one()
    time.sleep(0.5)
    for key, _ in sel.select(0.5):
        try: over = not key.fileobj.recv(65536)
        except OSError: over = True
        if over: sel.unregister(key.fileobj); key.fileobj.close()
";

#[test]
fn lists_and_listeners_of_others_are_not_roots() {
    on_both(|server| {
        server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
        server
            .sh("useradd -m -s /bin/sh -p '*' -G sshfix alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
                 echo 'PerSourcePenalties no' > /etc/ssh/sshd_config.d/10-quiet.conf
                 sshd -t || rm /etc/ssh/sshd_config.d/10-quiet.conf; systemctl restart ssh")
            .expect_ok();
        a_narrow_grant_reads_of_nobody_else(server);
        silent_connections_keep_nobody_from_confirming(server);
        a_listener_of_others_keeps_nobody_from_confirming(server);
    });
}

fn start(server: &Server, unit: &str, script: &str) {
    let unit = format!("--unit={unit}");
    server.run(&["systemd-run", "-q", &unit, "--uid=alice", "python3", script]).expect_ok();
}

fn pending(server: &Server) -> String {
    let change = server.ctl(&["hosts", "deny", OWN, "--confirm-within", "10m", "--json"]).expect_status(5).json();
    change["id"].as_str().unwrap().to_owned()
}

/// Rules and lists name her address beside those, the users and the homes of others.
fn a_narrow_grant_reads_of_nobody_else(server: &Server) {
    let (deny, policy) = (server.read("/etc/hosts.deny"), server.read("/etc/sshfix/policy.toml"));
    server
        .sh("runuser -u alice -- ssh-keygen -q -t ed25519 -N '' -f /home/alice/key
             echo \"alice $(cut -d ' ' -f 1,2 /home/alice/key.pub)\" >>/etc/sshfix/allowed_signers
             printf 'sshd: 198.51. 203.0.113.70\nsshd: bobs-home.example.org bob@198. 203.0.113.70\n' > /etc/hosts.deny")
        .expect_ok();
    let grant = "actions = [\"diagnose\", \"unban\", \"sshd-show\"]\nnetworks = [\"203.0.113.0/24\"]\nusers = [\"alice\"]\n";
    server.write("/etc/sshfix/policy.toml", format!("{policy}\n[[grant]]\nprincipal = \"alice\"\n{grant}"));
    let list = "AllowUsers root carol@198.51.100.77 bob@198.51.* alice\nMatch User dora\n  X11Forwarding no\n";
    server.write(DROP_IN, list);
    server.sh("sshd -t && systemctl reload ssh").expect_ok();
    for words in [
        &["diagnose", OWN, "--user", "alice", "--explain"][..],
        &["unban", OWN, "--dry-run"],
        &["sshd", "show", "--user", "alice", "--address", OWN],
    ] {
        let who = [
            "runuser",
            "-u",
            "alice",
            "--",
            "env",
            "HOME=/home/alice",
            "/usr/local/bin/sshfix",
            "ctl",
            "--identity",
            "/home/alice/key",
        ];
        let asked = server.run(&[&who, words, &["--json"]].concat());
        assert!(asked.stdout.contains("\"schema\"") && !asked.stdout.contains("\"refused\""), "{words:?}: {asked:#?}");
        for secret in ["198.", "bob", "carol", "dora"] {
            assert!(!asked.stdout.contains(secret), "{}: {words:?} shows {secret}: {}", server.release(), asked.stdout);
        }
        assert!(asked.stdout.contains(if words[0] == "sshd" { "alice" } else { OWN }), "{words:?}: {asked:#?}");
    }
    let whole = server.ctl(&["diagnose", OWN, "--user", "alice", "--explain", "--json"]).stdout;
    assert!(whole.contains("carol@198.51.100.77") && whole.contains("198.51. 203.0.113.70"), "root reads all: {whole}");
    server.write("/etc/hosts.deny", deny);
    server.write("/etc/sshfix/policy.toml", policy);
    server.sh(&format!("rm {DROP_IN}; systemctl reload ssh")).expect_ok();
}

/// Each place at the door is taken again as soon as `LoginGraceTime` gives it back.
fn silent_connections_keep_nobody_from_confirming(server: &Server) {
    server.write(DROP_IN, "MaxStartups 20\nLoginGraceTime 5\n");
    server.sh("sshd -t && systemctl restart ssh").expect_ok();
    server.write("/usr/local/lib/startups.py", STARTUPS);
    let id = pending(server);
    start(server, "startups", "/usr/local/lib/startups.py");
    let full = || server.sh("timeout 3 bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; head -c 8 <&3'").stdout;
    server.wait_until("the door is full", SOON, || !full().starts_with("SSH-2.0-"));
    let mut confirmed = Vec::new();
    while confirmed.len() < 3 && confirmed.last().is_none_or(|asked: &CtlResult| asked.status != 0) {
        confirmed.push(server.ctl(&["confirm", &id]));
    }
    server.run(&["systemctl", "stop", "startups"]).expect_ok();
    assert!(confirmed.iter().any(|asked| asked.status == 0), "{}: {confirmed:#?}", server.release());
    assert!(confirmed.iter().all(|asked| asked.time < Duration::from_secs(40)), "{confirmed:#?}");
    server.ctl(&["hosts", "remove", OWN]).expect_status(0);
}

/// sshd listens on one address of the host only; alice takes the port at the address where `confirm` asks first.
fn a_listener_of_others_keeps_nobody_from_confirming(server: &Server) {
    server.write(DROP_IN, "Port 22\nPort 2222\nListenAddress 203.0.113.1\n");
    server.sh("sshd -t && systemctl restart ssh").expect_ok();
    let config = server.read("/etc/sshfix/agent.toml");
    server.write("/etc/sshfix/agent.toml", format!("ssh_port = 2222\n{config}"));
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
    server.write(
        "/home/alice/tar.py",
        "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 2222)); s.listen(100)\ntime.sleep(100000)\n",
    );
    start(server, "tar", "/home/alice/tar.py");
    server.wait_until("alice listens", SOON, || server.sh("ss -Hltn src 127.0.0.1:2222 | grep -q .").ok());
    let id = pending(server);
    let confirmed = server.ctl(&["confirm", &id]).expect_status(0);
    for part in ["note: 127.0.0.1:2222 belongs to another user than root", "the proof was made to 203.0.113.1:2222"] {
        assert!(confirmed.stderr.contains(part), "`{part}` is not in: {}", confirmed.stderr);
    }
    // Where sshd is gone, each way says why.
    server.ctl(&["hosts", "remove", OWN]).expect_status(0);
    let id = pending(server);
    server.sh("systemctl stop ssh").expect_ok();
    let failed = server.ctl(&["confirm", &id, "--json"]);
    assert_eq!(failed.status, 3, "{failed:#?}");
    for part in [
        "127.0.0.1:2222 belongs to another user",
        "203.0.113.1:2222 refuses the connection",
        &format!("sshfix ctl rollback {id}"),
    ] {
        assert!(failed.stdout.contains(part), "`{part}` is not in: {}", failed.stdout);
    }
    server.run(&["systemctl", "stop", "tar"]).expect_ok();
}
