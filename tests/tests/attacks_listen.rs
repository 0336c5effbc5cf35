//! Attacks on who listens and who is in: a user takes the port that sshd closes for a moment, and root is in by an SSH server that sshfix does
//! not know or cannot prove. Under the packaged units, one server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sshfix_tests::lab::{self, ADMIN_V4, Release, Server};

/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(3);
const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Takes a port as soon as nobody has it: argument 1 is the port, 2 whether it is bound now and listens only later.
const GRAB: &str = r"
import os, socket, sys, time
port, bound = int(sys.argv[1]), len(sys.argv) > 2
six = os.fork() == 0
family, anywhere = (socket.AF_INET6, '::') if six else (socket.AF_INET, '0.0.0.0')
def new():
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if six: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return s
s = new()
if bound: s.bind((anywhere, port))
while True:
    try:
        if not bound: s.bind((anywhere, port))
        s.listen(); break
    except OSError:
        if not bound: s.close(); s = new()
open('/tmp/grabbed', 'w').close()
time.sleep(100000)
";

/// An open login of root's; killed when dropped.
struct Session(Child);

impl Session {
    fn open(server: &Server, port: u16) -> Self {
        let mark = "/srv/in";
        let _ = std::fs::remove_file(server.path(mark));
        let words = [login(server, port), vec![format!("echo in > {mark}; sleep 3000")]].concat();
        let mut run = Command::new(&words[0]);
        let session =
            Self(run.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        server.wait_until("the session is open", LONG, || server.path(mark).exists());
        session
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn login(server: &Server, port: u16) -> Vec<String> {
    let mut command = server.ssh_command(ADMIN_V4);
    let destination = command.pop().unwrap();
    command.extend(["-p".to_owned(), port.to_string(), destination]);
    command
}

fn gets_in(server: &Server, port: u16) -> bool {
    let words = [login(server, port), vec!["echo in".to_owned()]].concat();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    (0..3).any(|_| lab::run(&words).stdout.contains("in"))
}

fn grab(server: &Server, arguments: &str) {
    server.write("/usr/local/lib/grab.py", GRAB);
    server
        .sh(&format!("rm -f /tmp/grabbed; systemd-run -q --unit=grab --uid=alice python3 /usr/local/lib/grab.py {arguments}"))
        .expect_ok();
}

fn release(server: &Server) {
    server.sh("systemctl stop grab; systemctl reset-failed grab 2>/dev/null || true").expect_ok();
}

fn listens(server: &Server, port: u16) -> bool {
    server.sh(&format!("ss -Hltnp sport = :{port} | grep -q sshd")).ok()
}

/// alice takes the port of sshd, which every user may bind, while sshd opens its sockets anew.
fn nobody_takes_the_port(server: &Server) {
    server.sh("sed -i '/^#* *ssh_port/d' /etc/sshfix/agent.toml; sed -i '1i ssh_port = 2222' /etc/sshfix/agent.toml").expect_ok();
    server.write(DROP_IN, "X11Forwarding yes\nPort 2222\n");
    server.sh("systemctl reset-failed ssh; systemctl restart ssh; systemctl restart sshfix-agent").expect_ok();
    server.wait_until("sshd listens", LONG, || listens(server, 2222));
    let before = server.read(START);
    let session = Session::open(server, 2222);
    grab(server, "2222");
    for round in 0..3 {
        let edit = server.ctl(&["sshd", "set", "X11Forwarding", "no", "--json", "--confirm-within", "10m"]);
        assert_eq!(edit.status, 5, "{round}: {edit:#?}");
        assert!(gets_in(server, 2222), "{round}: after the edit");
        let id = edit.json()["id"].as_str().unwrap().to_owned();
        server.ctl(&["rollback", &id]).expect_status(0);
        assert!(listens(server, 2222), "{round}: after the rollback");
    }
    assert!(!server.path("/tmp/grabbed").exists(), "alice has the port");
    assert_eq!(server.read(START), before);

    // An agent that died meanwhile left the setting raised.
    server
        .sh(&format!(
            "echo '{} 2223' > /run/sshfix/port-start; echo 2223 > {START}; systemctl restart sshfix-agent",
            before.trim()
        ))
        .expect_ok();
    server.wait_until("it is put back", LONG, || server.read(START) == before);
    assert!(!server.path("/run/sshfix/port-start").exists());
    release(server);

    // She has bound it before sshd did, and listens as soon as sshd does not.
    server.sh("systemctl stop ssh").expect_ok();
    // sshd takes the port besides, while she does not listen.
    server.write(
        "/usr/local/lib/wait.py",
        GRAB.replace("s.listen(); break", "time.sleep(0.001); s.listen(); break").replace(
            "while True:",
            "open('/tmp/bound', 'w').close()\nwhile not os.path.exists('/tmp/go'): time.sleep(0.1)\nwhile True:",
        ),
    );
    server.sh("rm -f /tmp/grabbed; systemd-run -q --unit=grab --uid=alice python3 /usr/local/lib/wait.py 2222 bound").expect_ok();
    server.wait_until("she has it bound", LONG, || server.path("/tmp/bound").exists());
    server.sh("systemctl reset-failed ssh; systemctl start ssh; touch /tmp/go").expect_ok();
    server.wait_until("sshd listens", LONG, || listens(server, 2222));
    let main = server.read(DROP_IN);
    let edit = server.ctl(&["sshd", "set", "X11Forwarding", "no", "--json", "--confirm-within", "10m"]);
    assert!(edit.status != 5 && edit.status != 7, "{edit:#?}");
    for part in ["uid 10", "end that process", "nothing was changed"] {
        assert!(edit.stdout.contains(part), "{part}: {edit:#?}");
    }
    assert_eq!(server.read(DROP_IN), main);
    assert!(gets_in(server, 2222), "sshd runs on");
    release(server);
    drop(session);
    server.write(DROP_IN, "X11Forwarding yes\n");
    server.sh("sed -i '/^ssh_port/d' /etc/sshfix/agent.toml; systemctl reset-failed ssh; systemctl restart ssh; systemctl restart sshfix-agent").expect_ok();
}

/// Root's address is known to be in use, or that is said not to be known: nothing that closes it is applied.
#[track_caller]
fn not_closed(server: &Server, when: &str, says: &str) {
    let status = server.ctl(&["status"]);
    assert!(status.stdout.contains(says), "{when}: {status:#?}");
    assert!(!status.stdout.contains("No live SSH session."), "{when}: {status:#?}");
    let before = server.read("/etc/hosts.deny");
    let deny = server.ctl(&["hosts", "deny", ADMIN_V4, "--json", "--confirm-within", "10m"]);
    deny.expect_error(4, "lockout", &["nothing was changed"]);
    assert_eq!(server.read("/etc/hosts.deny"), before, "{when}");
}

/// Root is in by an sshd of the host that cannot be proven: a supervisor started it with mounts of its own, or a shell from another place.
fn an_sshd_that_cannot_be_proven_hides_no_session(server: &Server) {
    server.sh("mkdir -p /opt/ssh/sbin; cp -a /usr/sbin/sshd /opt/ssh/sbin/sshd").expect_ok();
    let unit = |lines: &str| format!("[Service]\nRuntimeDirectory=sshd\nRuntimeDirectoryPreserve=yes\n{lines}\n");
    let wrappers = [
        ("a supervisor", "PrivateTmp=yes\nExecStart=/bin/sh -c '/usr/sbin/sshd -D & wait'"),
        ("another place", "PrivateTmp=yes\nExecStart=/bin/sh -c 'exec /opt/ssh/sbin/sshd -D'"),
    ];
    for (name, lines) in wrappers {
        server.write("/etc/systemd/system/super.service", unit(lines));
        server.sh("systemctl stop ssh.service; systemctl daemon-reload; systemctl restart super").expect_ok();
        server.wait_until("it listens", LONG, || listens(server, 22));
        let session = Session::open(server, 22);
        not_closed(server, name, "The live SSH sessions are not known");
        drop(session);
        server.sh("systemctl stop super").expect_ok();
        server.wait_until("it is gone", LONG, || !listens(server, 22));
    }
    server.sh("rm /etc/systemd/system/super.service; systemctl daemon-reload; systemctl reset-failed ssh; systemctl start ssh.service").expect_ok();
    server.wait_until("sshd listens", LONG, || listens(server, 22));
}

/// Root is in by a server whose title says nothing of it.
fn a_session_of_another_server_is_one(server: &Server) {
    let code =
        "import socket, time\ns = socket.create_server(('', 22)); c = [s.accept()[0] for _ in range(1)]\ntime.sleep(100000)\n";
    server.write("/usr/local/lib/dropbear.py", code);
    server
        .sh("cp $(readlink -f /usr/bin/python3) /usr/sbin/dropbear; systemctl stop ssh.service; \
               systemd-run -q --unit=dropbear /usr/sbin/dropbear /usr/local/lib/dropbear.py")
        .expect_ok();
    server.wait_until("it listens", LONG, || server.sh("ss -Hltn sport = :22 | grep -q .").ok());
    let client = format!(
        "import socket, time; s = socket.create_connection(('203.0.113.1', 22), source_address=('{ADMIN_V4}', 0)); time.sleep(600)"
    );
    let words = ["netns", "exec", server.clients_netns(), "python3", "-c", &client];
    let client = Session(Command::new("ip").args(words).stdin(Stdio::null()).spawn().unwrap());
    server.wait_until("it is connected", LONG, || server.sh("ss -Htn state established sport = :22 | grep -q .").ok());
    not_closed(server, "dropbear", ADMIN_V4);
    drop(client);
    server
        .sh("systemctl stop dropbear; rm /usr/sbin/dropbear; systemctl reset-failed ssh; systemctl start ssh.service")
        .expect_ok();
    server.wait_until("sshd listens", LONG, || listens(server, 22));
}

/// hosts.deny is a link into a home, as scripts of users that keep a list make it, and alice makes of hers what she likes.
fn hosts_deny_leads_to_no_file_of_roots(server: &Server) {
    server.sh("cp -a /etc/hosts.deny /root/deny; rm /etc/hosts.deny; ln -s /home/alice/deny /etc/hosts.deny").expect_ok();
    for target in ["/etc/shadow", "/etc/sshfix/ctl_ed25519"] {
        server.sh(&format!("ln -sfn {target} /home/alice/deny; chown -h alice: /home/alice/deny")).expect_ok();
        for words in [&["hosts", "list"][..], &["diagnose", "203.0.113.8"], &["hosts", "deny", "203.0.113.77", "--dry-run"]] {
            let asked = server.ctl(words);
            let said = asked.stdout.clone() + &asked.stderr;
            assert!(!said.contains("root:") && !said.contains("PRIVATE KEY") && asked.status != 5, "{words:?}: {said}");
            assert!(said.contains("alice") || said.contains("user 10"), "{words:?}: {said}");
            assert!(!said.contains("OPEN"), "{words:?}: {said}");
        }
    }
    server.sh("rm /etc/hosts.deny; cp -a /root/deny /etc/hosts.deny").expect_ok();
}

/// Files of host keys that changed since sshd read them come into effect with any reload.
fn host_keys_that_changed_are_told(server: &Server) {
    server.write(DROP_IN, "X11Forwarding yes\n");
    server.sh("cp -a /etc/ssh/ssh_host_* /root/; systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
    server.wait_until("sshd listens", LONG, || listens(server, 22));
    let session = Session::open(server, 22);
    let plan = || server.ctl(&["sshd", "set", "X11Forwarding", "no", "--dry-run", "--json"]);
    assert!(!plan().stdout.contains("ed25519_key changed"), "{:#?}", plan());
    for change in [
        "chmod 644 /etc/ssh/ssh_host_ed25519_key",
        "cd /etc/ssh; rm ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key",
    ] {
        server.sh(change).expect_ok();
        let said = plan().stdout;
        let risk = "know this host only by the ssh-ed25519 key that sshd read before /etc/ssh/ssh_host_ed25519_key changed";
        assert!(said.contains(risk), "{change}: {said}");
        server.sh("cp -a /root/ssh_host_ed25519_key* /etc/ssh/").expect_ok();
    }
    // All of them: nobody would know the host.
    server.sh("cd /etc/ssh; for kind in rsa ecdsa ed25519; do rm ssh_host_${kind}_key*; ssh-keygen -q -t $kind -N '' -f ssh_host_${kind}_key; done").expect_ok();
    let edit = server.ctl(&["sshd", "set", "X11Forwarding", "no", "--json", "--confirm-within", "10m"]);
    edit.expect_error(4, "lockout", &["none of them any more"]);
    server.sh("cp -a /root/ssh_host_* /etc/ssh/; systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
    drop(session);
}

/// A script of root's publishes the public half of a host key below a folder of alice's, as a web server's, and she makes of it what she likes.
fn the_public_half_of_a_host_key_leads_to_no_file_of_roots(server: &Server) {
    const PUBLIC: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
    server.write(DROP_IN, "X11Forwarding yes\n");
    server
        .sh("systemctl reset-failed ssh; systemctl restart ssh; mkdir /root/keys; cp -a /etc/ssh/ssh_host_* /root/keys/; install -d -o alice -m 755 /run/alice")
        .expect_ok();
    let passwd = server.read("/etc/passwd");
    let back = || server.sh("rm -f /etc/ssh/ssh_host_*; cp -a /root/keys/. /etc/ssh/").expect_ok();
    for target in ["/etc/passwd", "/etc/nologin", "pipe"] {
        let make = if target == "pipe" { "mkfifo hk.pub".to_owned() } else { format!("ln -s {target} hk.pub") };
        server.sh(&format!("rm -f /run/alice/hk.pub; cd /run/alice; su alice -s /bin/sh -c '{make}'")).expect_ok();
        for missing in [true, false] {
            let key = if missing { "rm /etc/ssh/ssh_host_ed25519_key" } else { "true" };
            server.sh(&format!("{key}; ln -sf /run/alice/hk.pub {PUBLIC}")).expect_ok();
            for words in [&["fix", "203.0.113.7"][..], &["sshd", "set", "MaxSessions", "9"], &["diagnose", "203.0.113.7"]] {
                let asked = server.ctl(&[words, &["--json"]].concat());
                let said = asked.stdout.clone() + &asked.stderr;
                assert!(asked.status != 0 && asked.status != 5 && said.contains("/run/alice"), "{target}: {words:?}: {said}");
                assert!(!said.contains("root:x"), "{target}: {words:?}: {said}");
                assert!(asked.time < Duration::from_secs(8), "{target}: {words:?}: {:?}", asked.time);
            }
            assert_eq!(server.read("/etc/passwd"), passwd, "{target}");
            assert!(!server.path("/etc/nologin").exists());
            back();
        }
    }
    // A link of root's to where only root can make a file: nothing is written through it either.
    server.write(DROP_IN, "HostKey /etc/ssh/ssh_host_ed25519_key\n");
    server
        .sh(&format!("rm /etc/ssh/ssh_host_ed25519_key; ln -sf /etc/nologin {PUBLIC}; systemctl reset-failed ssh; systemctl restart ssh || true"))
        .expect_ok();
    let fix = server.ctl(&["fix", "203.0.113.7", "--json"]);
    assert!(fix.status != 0 && fix.stdout.contains("a symbolic link"), "{fix:#?}");
    assert!(!server.path("/etc/nologin").exists() && !server.path("/etc/ssh/ssh_host_ed25519_key").exists());
    assert_eq!(server.sh("ls /run/sshfix").expect_ok().matches("host-key-").count(), 0);
    back();
    server.write(DROP_IN, "X11Forwarding yes\n");
    server.sh("systemctl reset-failed ssh; systemctl restart ssh").expect_ok();
}

fn attacks(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = Server::boot(release);
    server.install_sshfix();
    server.sh("useradd -m -s /bin/bash alice; chmod 755 /home/alice; systemctl stop fail2ban").expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    nobody_takes_the_port(&server);
    an_sshd_that_cannot_be_proven_hides_no_session(&server);
    a_session_of_another_server_is_one(&server);
    hosts_deny_leads_to_no_file_of_roots(&server);
    the_public_half_of_a_host_key_leads_to_no_file_of_roots(&server);
    // Before 9.8 each connection reads them anew.
    if release == Release::Trixie {
        host_keys_that_changed_are_told(&server);
    }
}

#[test]
fn who_listens_and_who_is_in_is_known_on_bookworm() {
    attacks(Release::Bookworm);
}

#[test]
fn who_listens_and_who_is_in_is_known_on_trixie() {
    attacks(Release::Trixie);
}
