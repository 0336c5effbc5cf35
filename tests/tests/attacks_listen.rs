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
    server.sh("systemctl restart ssh; systemctl restart sshfix-agent").expect_ok();
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
    server.sh("systemctl start ssh; touch /tmp/go").expect_ok();
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
    server.sh("sed -i '/^ssh_port/d' /etc/sshfix/agent.toml; systemctl restart ssh; systemctl restart sshfix-agent").expect_ok();
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
    let begun = std::time::Instant::now();
    nobody_takes_the_port(&server);
    println!("{release}: the port {:?}", begun.elapsed());
}

#[test]
fn who_listens_and_who_is_in_is_known_on_bookworm() {
    attacks(Release::Bookworm);
}

#[test]
fn who_listens_and_who_is_in_is_known_on_trixie() {
    attacks(Release::Trixie);
}
