//! What could not be read is no fact: a pending change is rolled back by an agent without descriptors and without its database, and no
//! line that a user can write to the journal decides anything. On real servers, under the packaged units.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{self, Release, Server, root_or_skip};

const FROM: &str = "203.0.113.7";
const LIMIT: Duration = Duration::from_mins(2);
/// How long a change waits: enough for an attack on a loaded machine.
const WITHIN: &str = "8s";
const RULE: &str = "ip saddr 198.51.100.7 tcp dport 22 accept";

fn prepared(release: Release) -> Server {
    let server = Server::prepare(release);
    let mut server = server;
    // A small disk of its own for the state, so that it can be full.
    server.write(
        "/etc/systemd/system/var-lib-sshfix.mount",
        "[Mount]\nWhat=tmpfs\nWhere=/var/lib/sshfix\nType=tmpfs\nOptions=mode=0700,size=8m\n",
    );
    server.start();
    server.sh("mkdir -p /var/lib/sshfix && systemctl start var-lib-sshfix.mount").expect_ok();
    server.sh("useradd -m -s /bin/sh alice").expect_ok();
    server.install_sshfix();
    let config = server.read("/etc/sshfix/agent.toml");
    server.write("/etc/sshfix/agent.toml", format!("{config}\n[confirm]\nmin_seconds = 3\n"));
    server.run(&["systemctl", "restart", "sshfix-agent"]).expect_ok();
    server
        .sh(&format!(
            "nft -f - <<NFT\ntable inet hand {{\n chain input {{\n  type filter hook input priority 0;\n  {RULE}\n  counter\n }}\n}}\nNFT"
        ))
        .expect_ok();
    server
}

fn rule_is_there(server: &Server) -> bool {
    server.sh("nft list table inet hand").stdout.contains(RULE)
}

/// Takes the rule away, to be confirmed; the id of the change.
fn pending(server: &Server) -> String {
    let list = server.ctl(&["firewall", "list", "--json"]).expect_status(0).json().to_string();
    let at = list.find("nft/inet/hand/input/").expect("the rule is listed");
    let reference: String = list[at..].chars().take_while(|c| *c != '"').collect();
    let change = server.ctl(&["firewall", "remove", &reference, "--confirm-within", WITHIN, "--json"]).expect_status(5).json();
    assert!(!rule_is_there(server), "the kernel has the change: {change:#}");
    change["id"].as_str().unwrap().to_owned()
}

fn state(server: &Server, id: &str) -> Value {
    server.ctl(&["changes", id, "--json"]).expect_status(0).json()["changes"][0].clone()
}

fn agent_pid(server: &Server) -> String {
    server.run(&["systemctl", "show", "-P", "MainPID", "sshfix-agent"]).expect_ok()
}

/// Lines of the agent's log with these words.
fn said(server: &Server, words: &str) -> usize {
    let log = server.sh("journalctl --no-pager -o cat -t sshfix-agent").stdout;
    log.lines().filter(|line| line.contains(words) && !line.starts_with("audit ")).count()
}

fn no_descriptor_is_no_reboot(server: &Server) {
    let id = pending(server);
    let pid = agent_pid(server);
    // As many as it has, so that no other can be opened.
    server.sh(&format!("prlimit --pid {pid} --nofile=$(ls /proc/{pid}/fd | wc -l):4096")).expect_ok();
    server.wait_until("the rule is back in the kernel", LIMIT, || rule_is_there(server));
    server.sh(&format!("prlimit --pid {pid} --nofile=4096:4096")).expect_ok();
    server.wait_until("it is recorded", LIMIT, || state(server, &id)["state"] == "rolled-back");
    let change = state(server, &id);
    assert!(!change.to_string().contains("reboot"), "{change:#}");
    assert_eq!(agent_pid(server), pid, "the agent was restarted");
}

/// The state is attacked while a change waits: the kernel is as before at the deadline, `status` says what is wrong, the log does once.
fn a_damaged_database_keeps_no_change(server: &Server) {
    let attacks = [
        ("deleted", "rm /var/lib/sshfix/state.db*"),
        ("replaced", "cp /var/lib/sshfix/state.db /root/old.db; mv /root/old.db /var/lib/sshfix/state.db"),
        ("overwritten", "dd if=/dev/urandom of=/var/lib/sshfix/state.db bs=4096 count=30 conv=notrunc status=none"),
        ("truncated", "truncate -s 0 /var/lib/sshfix/state.db"),
        ("full", "dd if=/dev/zero of=/var/lib/sshfix/fill bs=4096 2>/dev/null || true"),
    ];
    for (what, attack) in attacks {
        let id = pending(server);
        let before = said(server, "rolled back at its deadline all the same");
        server.sh(attack).expect_ok();
        // What SQLite still has room for in its log is no trouble: until that is used up.
        if what == "full" {
            for _ in 0..3 {
                server.ctl(&["banned", "--json"]);
            }
        }
        server.wait_until(&format!("{what}: the rule is back in the kernel"), LIMIT, || rule_is_there(server));
        let notes = || server.ctl(&["status", "--json"]).expect_status(0).json()["notes"].to_string();
        if what != "overwritten" && what != "truncated" {
            server.wait_until(&format!("{what}: status says so"), LIMIT, || notes().contains("state.db"));
        } else {
            notes();
        }
        std::thread::sleep(Duration::from_secs(3));
        let after = said(server, "rolled back at its deadline all the same");
        assert!(after - before <= 4, "{what}: said {} times", after - before);
        if what == "full" {
            // It is written down once there is room again.
            server.sh("rm /var/lib/sshfix/fill").expect_ok();
            server.wait_until("it is recorded", LIMIT, || {
                state(server, &id)["state"] == "rolled-back" && !notes().contains("state.db")
            });
        } else {
            server.sh("systemctl stop sshfix-agent; rm -f /var/lib/sshfix/*; systemctl start sshfix-agent").expect_ok();
        }
    }
}

fn diagnosis(server: &Server) -> Value {
    server.ctl(&["diagnose", FROM, "--json"]).json()
}

fn admission(server: &Server) -> (String, String) {
    let diagnosis = diagnosis(server);
    let stages = diagnosis["stages"].as_array().unwrap();
    let stage = stages.iter().find(|stage| stage["stage"] == "sshd_admission").unwrap_or_else(|| panic!("{diagnosis:#}"));
    (stage["verdict"].as_str().unwrap().to_owned(), stage["detail"].as_str().unwrap().to_owned())
}

/// As alice, with logger(1), systemd-cat(1), a program of her own of sshd's name, and a user unit.
fn alice_writes(server: &Server, line: &str) {
    server
        .sh(&format!(
            "cp /usr/bin/logger /home/alice/sshd; for tag in sshd sshd-session sshd-auth; do \
             runuser -u alice -- logger -t $tag '{line}'; runuser -u alice -- logger -p auth.info --id=1 -t $tag '{line}'; \
             echo '{line}' | runuser -u alice -- systemd-cat -t $tag; done; runuser -u alice -- /home/alice/sshd -t sshd '{line}'"
        ))
        .expect_ok();
}

fn no_line_of_a_user_decides(server: &Server) {
    server.sh("systemctl restart ssh").expect_ok();
    server.wait_until("sshd is back", LIMIT, || server.ssh(lab::ADMIN_V4).ok);
    let fresh = admission(server);
    assert_eq!(fresh.0, "accept", "a server that was started just now: {fresh:?}");
    let entrance = "Accepted publickey for root from 203.0.113.7 port 4711 ssh2: ED25519 SHA256:x";
    for line in [
        "drop connection #0 from [203.0.113.7]:1 on [203.0.113.1]:22 penalty: failed authentication",
        "srclimit_penalise: ipv4: new 203.0.113.7/32 active penalty of 300 seconds for penalty: x",
        "Timeout, client not responding from user alice 203.0.113.7 port 4711",
        "Unable to negotiate with 203.0.113.7 port 4711: no matching cipher found. Their offer: aes128-cbc",
        "maximum authentication attempts exceeded for root from 203.0.113.7 port 4711 ssh2",
        "error: session process 77 for connection from 203.0.113.7 to 203.0.113.1 killed by signal 11",
        "ssh.service: Main process exited, code=killed, status=11/SEGV",
        entrance,
    ] {
        alice_writes(server, line);
    }
    // A program of sshd's name that crashes, which the kernel and systemd-coredump name by that.
    server.sh("cp /bin/sleep /home/alice/sshd; runuser -u alice -- /home/alice/sshd 30 & sleep 0.3; pkill -SEGV -u alice -x sshd; true").expect_ok();
    let after = diagnosis(server);
    assert_eq!(admission(server).0, "accept", "{after:#}");
    let fix = server.ctl(&["fix", FROM, "--dry-run", "--json"]).stdout;
    for keyword in ["ClientAlive", "MaxAuthTries", "Ciphers", "PerSourcePenalt"] {
        let plan: Value = serde_json::from_str(&fix).unwrap_or(Value::Null);
        assert!(!plan["steps"].to_string().contains(keyword), "a forged line made a step about {keyword}: {fix}");
    }
}

fn a_penalty_stays_known(server: &Server) {
    server.write("/etc/ssh/sshd_config.d/50-x.conf", "PerSourcePenalties crash:300s authfail:300s noauth:300s min:1s max:300s\n");
    server.sh("systemctl restart ssh").expect_ok();
    let script = "import socket; s = socket.create_connection(('203.0.113.1', 22), source_address=('203.0.113.7', 0)); \
                  s.recv(100); s.sendall(b'SSH-2.0-x\\r\\nnonsense' + b'x' * 99); s.recv(100)";
    server.wait_until("a penalty is earned", LIMIT, || {
        lab::run(&["ip", "netns", "exec", server.clients_netns(), "python3", "-c", script]);
        !server.ssh(FROM).ok
    });
    server.wait_until("it is found", LIMIT, || admission(server).1.contains("penalty"));
    server
        .sh("yes 'Connection closed by 203.0.113.9 port 1 [preauth]' | head -n 5200 | runuser -u alice -- logger -t sshd")
        .expect_ok();
    let hidden = admission(server);
    assert!(hidden.0 != "accept" && hidden.1.contains("penalty"), "5,200 lines of alice hide the penalty: {hidden:?}");
    let listening = "runuser -u alice -- logger -t sshd 'Server listening on 0.0.0.0 port 22.'";
    server.sh(listening).expect_ok();
    assert!(admission(server).0 != "accept", "alice says that sshd was restarted");
    // Without the lines nothing is known; a reload clears the table, and its line says so.
    server.sh("journalctl --flush; journalctl --rotate; journalctl --vacuum-time=1s; journalctl --vacuum-size=1").expect_ok();
    let (verdict, detail) = admission(server);
    assert_eq!(verdict, "unknown", "{detail}");
    assert!(detail.contains("the journal could not be read whole"), "{detail}");
    server.sh("systemctl restart ssh").expect_ok();
    let open = || admission(server).0 == "accept";
    server.wait_until("a journal that begins before sshd is enough", LIMIT, || {
        server.sh("systemctl restart systemd-journald; systemctl restart ssh").expect_ok();
        open()
    });
}

/// Nobody on the network can talk to it.
fn the_agent_listens_on_no_network(server: &Server) {
    server.ctl(&["diagnose", FROM, "--json"]);
    let inodes = server.sh(&format!("ls -l /proc/{}/fd | grep -o 'socket:.*' || true", agent_pid(server))).stdout;
    // /proc/net: the tenth field is the inode, the fourth the state; 0A is LISTEN, and a bound socket of UDP has 07.
    let open = server.sh("cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6").expect_ok();
    let held: Vec<&str> = open
        .lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            matches!(fields.get(3), Some(&"0A" | &"07"))
                && fields.get(9).is_some_and(|inode| inodes.contains(&format!("[{inode}]")))
        })
        .collect();
    assert!(inodes.contains("socket:[") && held.is_empty(), "{held:#?}");
}

/// Descriptors that the agent may still open: from too few to ask anything up to enough for all.
const SPARE: [u32; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30];

/// Asks while the agent can open only so many descriptors more; what could not be asked in time is no answer.
fn with_spare(server: &Server, spare: u32, words: &str) -> (i32, Value) {
    let pid = agent_pid(server);
    let script = format!(
        "prlimit --pid {pid} --nofile=$(($(ls /proc/{pid}/fd | wc -l) + {spare})):4096; timeout 8 sshfix ctl {words} --json; \
         status=$?; prlimit --pid {pid} --nofile=4096:4096; exit $status"
    );
    let output = server.sh(&script);
    (output.status, serde_json::from_str(&output.stdout).unwrap_or(Value::Null))
}

/// Every layer in turn refuses a client while the agent runs out of descriptors in the middle of its reads.
fn no_descriptor_makes_nothing_open(server: &Server) {
    let refusals = [
        ("hosts.deny", "echo 'sshd: 203.0.113.7' >> /etc/hosts.deny", "sed -i '$d' /etc/hosts.deny", ""),
        ("a route", "ip route add blackhole 203.0.113.7/32", "ip route del blackhole 203.0.113.7/32", ""),
        (
            "sshd",
            "echo 'DenyUsers alice' > /etc/ssh/sshd_config.d/50-x.conf; systemctl reload ssh",
            "rm /etc/ssh/sshd_config.d/50-x.conf; systemctl reload ssh",
            " --user alice",
        ),
        (
            "nftables",
            "nft add table inet shut '{ chain c { type filter hook input priority 0; ip saddr 203.0.113.7 drop; }; }'",
            "nft delete table inet shut",
            "",
        ),
    ];
    for (what, refuse, admit, user) in refusals {
        server.sh(refuse).expect_ok();
        let question = format!("diagnose {FROM}{user}");
        let mut answers = 0;
        for spare in SPARE {
            let (_, diagnosis) = with_spare(server, spare, &question);
            answers += i32::from(!diagnosis["verdict"].is_null());
            assert_ne!(diagnosis["verdict"], "accept", "{what}, {spare} descriptors: {diagnosis:#}");
        }
        assert!(answers > 3, "{what}: the agent answered {answers} times only");
        assert_eq!(server.ctl(&["diagnose", FROM, "--user", "alice", "--json"]).json()["verdict"], "refuse", "{what}");
        server.sh(admit).expect_ok();
    }
}

/// Root is logged in; the agent that cannot read who is must not take that way in away.
fn no_descriptor_hides_a_session(server: &Server) {
    let _session = lab::Session::open(server, lab::ADMIN_V4);
    let sessions = || server.ctl(&["status", "--json"]).expect_status(0).json()["paths"].to_string();
    server.wait_until("the session is seen", LIMIT, || sessions().contains(lab::ADMIN_V4));
    for spare in SPARE {
        let (status, reply) = with_spare(server, spare, "sshd set PermitRootLogin no");
        assert!(![0, 5].contains(&status), "with {spare} descriptors: {reply:#}");
    }
    // Now and then, so that any one read of many fails.
    let pid = agent_pid(server);
    let flap = "import os, random, resource, sys, time\npid = int(sys.argv[1])\nend = time.monotonic() + 100\n\
                while time.monotonic() < end and os.path.exists('/tmp/flap'):\n  \
                held = len(os.listdir(f'/proc/{pid}/fd'))\n  \
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(held, 3), 4096))\n  time.sleep(random.random() / 200)\n  \
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (4096, 4096))\n  time.sleep(random.random() / 20)\n";
    server.write("/tmp/flap", flap);
    server.sh(&format!("systemd-run -q --unit=flap python3 /tmp/flap {pid}")).expect_ok();
    let mut refused = 0;
    for _ in 0..40 {
        let answer = server.ctl(&["sshd", "set", "PermitRootLogin", "no", "--dry-run", "--json"]);
        assert_ne!(answer.status, 0, "the session is not protected: {}", answer.stdout);
        refused += i32::from(answer.status == 4);
    }
    server
        .sh("rm /tmp/flap; systemctl stop flap || true; prlimit --pid $(systemctl show -P MainPID sshfix-agent) --nofile=4096:4096")
        .expect_ok();
    assert!(refused > 3, "it was refused as a lockout {refused} times of 40");
    let file = server.sh("grep -rhi '^ *PermitRootLogin no' /etc/ssh || true").stdout;
    assert_eq!(file, "", "the file holds it");
    assert!(server.ssh(lab::ADMIN_V4).ok);
}

fn everything(release: Release) {
    if !root_or_skip() {
        return;
    }
    let server = prepared(release);
    no_line_of_a_user_decides(&server);
    if release == Release::Trixie {
        a_penalty_stays_known(&server);
    }
    the_agent_listens_on_no_network(&server);
    no_descriptor_makes_nothing_open(&server);
    no_descriptor_hides_a_session(&server);
    no_descriptor_is_no_reboot(&server);
    a_damaged_database_keeps_no_change(&server);
}

#[test]
fn what_cannot_be_read_is_no_fact_on_debian_12() {
    everything(Release::Bookworm);
}

#[test]
fn what_cannot_be_read_is_no_fact_on_debian_13() {
    everything(Release::Trixie);
}
