//! A local user, alice, who wants root to run her program, to read root's files to her, or to edit files for her, by passing for the
//! sshd of the host; and what root's own unusual sshds are to sshfix. Under the packaged units, on both releases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{Server, on_both};

const LONG: Duration = Duration::from_mins(2);
const FROM: &str = "203.0.113.7";
const TITLE: &str = "sshd: /usr/sbin/sshd -f /home/alice/c [listener] 0 of 10-100 startups";

/// Listens where its argument says and holds so many files besides.
const LISTENER: &str = "import ctypes, socket, sys, time
ctypes.CDLL(None).prctl(15, b'sshd', 0, 0, 0)
files = [open('/dev/null') for _ in range(int(sys.argv[2]))]
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], 2222)) if sys.argv[1] != '-' else None
s.listen() if sys.argv[1] != '-' else None
time.sleep(600)
";

/// alice, and an agent whose SSH port is 2222.
fn prepare(server: &Server) {
    server
        .sh("useradd -m -s /bin/bash alice; chmod 755 /home/alice; printf '\\nssh_port = 2222\\n' > /tmp/port
             sed -i '/^#* *ssh_port/d' /etc/sshfix/agent.toml; cat /tmp/port /etc/sshfix/agent.toml > /tmp/toml
             cat /tmp/toml > /etc/sshfix/agent.toml; systemctl restart sshfix-agent")
        .expect_ok();
    server.write("/home/alice/l.py", LISTENER);
    server.sh("chown -R alice: /home/alice").expect_ok();
}

/// Starts a script as alice that goes on until [`end`].
fn as_alice(server: &Server, script: &str) {
    server.write("/home/alice/run.sh", script);
    server
        .sh("chown alice: /home/alice/run.sh; systemd-run -q --unit=attack -p User=alice -p KillMode=control-group bash /home/alice/run.sh")
        .expect_ok();
}

fn as_root(server: &Server, properties: &str, command: &str) {
    server.sh(&format!("systemd-run -q --unit=attack {properties} {command}")).expect_ok();
}

fn end(server: &Server) {
    server.sh("systemctl stop attack 2>/dev/null || true; systemctl reset-failed attack 2>/dev/null || true").expect_ok();
    server.wait_until("nobody listens", LONG, || !listens(server));
}

fn listens(server: &Server) -> bool {
    server.sh("ss -Hltn sport = :2222 | grep -q .").ok()
}

#[track_caller]
fn wait(server: &Server) {
    let journal = || server.sh("journalctl -u attack --no-pager -n 20").stdout;
    for _ in 0..600 {
        if listens(server) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("nobody listens: {}", journal());
}

fn diagnose(server: &Server, from: &str) -> Value {
    server.ctl(&["diagnose", from, "--json"]).json()
}

/// The stages' words.
fn details(diagnosis: &Value) -> String {
    let stages = diagnosis["stages"].as_array().unwrap();
    stages.iter().map(|stage| stage["detail"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn unknown(server: &Server, words: &[&str]) {
    let said = diagnose(server, FROM);
    assert_eq!(said["verdict"], "unknown", "{said:#}");
    for word in words {
        assert!(details(&said).contains(word), "`{word}` is not in {said:#}");
    }
}

#[track_caller]
fn open(server: &Server) {
    let said = diagnose(server, FROM);
    assert_eq!(said["verdict"], "accept", "{said:#}");
}

#[test]
fn nothing_that_a_user_listens_with_is_run_read_or_edited_for() {
    on_both(|server| {
        prepare(server);
        let owned = || server.path("/root/owned").exists() || server.path("/run/owned").exists();

        // A program of hers in namespaces of hers, where it lies beside no link to bash.
        server.write("/home/alice/c", "id > /run/owned; id > /root/owned\n");
        server.sh("ln -s /bin/bash /home/alice/sshd; chown -h alice: /home/alice/*").expect_ok();
        for address in ["127.0.0.2", "0.0.0.0"] {
            as_alice(
                server,
                &format!(
                    "exec unshare -Urm bash -c \"cp /home/alice/l.py /tmp/; mount -t tmpfs x /home/alice; touch /home/alice/sshd
                     mount --bind /usr/bin/python3 /home/alice/sshd; exec -a '{TITLE}' /home/alice/sshd /tmp/l.py {address} 0\""
                ),
            );
            wait(server);
            for from in [FROM, "127.0.0.1"] {
                let said = diagnose(server, from);
                assert_eq!(said["verdict"], "refuse", "{said:#}");
                if address == "0.0.0.0" || from == "127.0.0.1" {
                    let words = details(&said);
                    assert!(
                        words.contains("uid 1000") && words.contains("2222, which is no SSH server of this host"),
                        "{said:#}"
                    );
                }
            }
            server.ctl(&["sshd", "check", "--json"]);
            server.ctl(&["sshd", "show", "--json"]);
            server.ctl(&["fix", FROM, "--json"]);
            assert!(!owned(), "her script ran as root");
            end(server);
        }

        // The host's own sshd, run by her, with files that are root's secrets by now.
        let config = "Port 2222\nHostKey /home/alice/k\nUsePAM no\nPidFile none\n";
        server.write("/etc/hosts.deny", "# secret-of-root\nsshd: 192.0.2.1\n");
        let deny = server.read("/etc/hosts.deny");
        as_alice(
            server,
            &format!(
                "cd; rm -f k c; ssh-keygen -qt ed25519 -N '' -f k; printf '{config}Include /etc/hosts.deny\\n' > c2; printf '{config}' > c
                 exec /usr/sbin/sshd -D -e -f /home/alice/c"
            ),
        );
        wait(server);
        let secrets = ["$y$", "root:", "daemon:", "OPENSSH PRIVATE KEY", "secret-of-root"];
        server.sh("echo root:secret | chpasswd -c YESCRYPT || echo root:secret | chpasswd").expect_ok();
        for link in ["ln -sf /etc/shadow c", "ln -sf /etc/sshfix/ctl_ed25519 c", "ln -sf c2 c"] {
            server.sh(&format!("cd /home/alice; {link}; chown -h alice: c")).expect_ok();
            for arguments in [
                &["diagnose", FROM][..],
                &["diagnose", FROM, "--user", "root"],
                &["sshd", "check"],
                &["sshd", "show"],
                &["fix", FROM, "--port", "2222", "--user", "alice"],
                &["sshd", "set", "MaxSessions", "9"],
                &["status"],
            ] {
                let answer = server.ctl(&[arguments, &["--json"]].concat());
                let said = answer.stdout.clone() + &answer.stderr;
                for secret in secrets {
                    assert!(!said.contains(secret), "{link}: {arguments:?}: {said}");
                }
                assert!(arguments[0] == "status" || answer.status != 0, "{arguments:?}: {said}");
            }
            assert_eq!(server.read("/etc/hosts.deny"), deny);
        }
        // With a title as root's own has it, and as a unit of a manager of her own.
        let cgroup = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service";
        server
            .sh(&format!("mkdir -p {cgroup}; for p in $(pgrep -u alice -f listener); do echo $p > {cgroup}/cgroup.procs; done"))
            .expect_ok();
        let said = diagnose(server, FROM);
        assert!(said["verdict"] == "refuse" && !said.to_string().contains("ssh.service)"), "{said:#}");
        server.sh("pkill -u alice -f listener").expect_ok();
        end(server);
        assert!(!owned());

        // Two dozen of them with a heap of files cost the agent nothing.
        let cost = || {
            let before = server.agent_ticks();
            for _ in 0..3 {
                diagnose(server, FROM);
            }
            server.agent_ticks() - before
        };
        let alone = cost();
        as_alice(
            server,
            &format!(
                "ulimit -n 4096; for i in $(seq 20); do (exec -a '{TITLE}' python3 /home/alice/l.py - 2000) & done
                 exec -a '{TITLE}' python3 /home/alice/l.py 127.0.0.2 2000"
            ),
        );
        wait(server);
        server.wait_until("all of them run", LONG, || server.sh("pgrep -c -u alice -f listener").stdout.trim() == "21");
        let besides = cost();
        // Of 42,000 files; a tick is 10 ms.
        assert!(besides <= alone * 2 + 30, "{alone} ticks alone, {besides} beside them");
        end(server);
    });
}

#[test]
fn an_sshd_of_roots_is_judged_by_what_is_proven_and_no_file_of_others_is_quoted() {
    on_both(|server| {
        prepare(server);
        // Root's, but not an SSH server of this host: a copy of another program, another container's.
        as_root(
            server,
            "",
            &format!("bash -c \"cp /usr/bin/python3 /srv/sshd; exec -a '{TITLE}' /srv/sshd /home/alice/l.py 0.0.0.0 0\""),
        );
        wait(server);
        unknown(server, &["could not be proven"]);
        end(server);
        as_root(server, "", "unshare -m /usr/sbin/sshd -D -p 2222");
        wait(server);
        server.wait_until("it has other mounts", LONG, || server.sh("pgrep -f 'sshd: .*-p 2222'").ok());
        // It is the main process of a unit of the system manager: as good as a sandboxed one.
        open(server);
        end(server);
        as_root(server, "", "sh -c 'unshare -m --propagation private /usr/sbin/sshd -D -p 2222; exit 0'");
        wait(server);
        unknown(server, &["could not be proven"]);
        end(server);

        // A sandbox that the system manager made, and one in which a file is another one.
        as_root(server, "-p PrivateTmp=yes -p ProtectSystem=full -p ProtectHome=read-only", "/usr/sbin/sshd -D -p 2222");
        wait(server);
        open(server);
        end(server);
        server.write("/srv/config", "Port 2222\n");
        as_root(server, "-p BindReadOnlyPaths=/srv/config:/etc/ssh/sshd_config", "/usr/sbin/sshd -D -p 2222");
        wait(server);
        unknown(server, &["/etc/ssh/sshd_config is another file for that sshd"]);
        end(server);

        // By hand, in no unit: judged, never edited.
        server.sh("systemd-run -q --scope --unit=hand setsid /usr/sbin/sshd -p 2222 -o 'PidFile /run/hand.pid'").expect_ok();
        wait(server);
        open(server);
        let main = server.read("/etc/ssh/sshd_config");
        let set = server.ctl(&["sshd", "set", "MaxSessions", "9", "--json"]);
        assert!(set.status == 1 && set.stdout.contains("no unit of systemd runs this sshd"), "{set:#?}");
        assert_eq!(server.read("/etc/ssh/sshd_config"), main);
        server.sh("kill $(cat /run/hand.pid)").expect_ok();
        server.wait_until("it is gone", LONG, || !listens(server));

        // The service itself, with options that the unit has no more.
        server.sh("echo 'SSHD_OPTS=\"-p 2222 -p 22\"' > /etc/default/ssh; systemctl restart ssh").expect_ok();
        wait(server);
        open(server);
        server.sh("echo 'SSHD_OPTS=\"-p 2222 -p 22 -o UsePAM=yes\"' > /etc/default/ssh").expect_ok();
        unknown(server, &["other options than ssh.service has now", "systemctl restart ssh.service"]);
        server.sh("echo 'SSHD_OPTS=\"-p 2222 -p 22\"' > /etc/default/ssh").expect_ok();
        // Updated, and not restarted yet; its sessions count on.
        server.sh("cp /usr/sbin/sshd /usr/sbin/sshd.new; mv /usr/sbin/sshd.new /usr/sbin/sshd; readlink /proc/$(systemctl show -P MainPID ssh)/exe | grep deleted").expect_ok();
        open(server);

        // Files that are not root's all the way: named, and not one byte of them told.
        server.sh("mkdir /srv/alice; printf 'PermitRootLogin secret-word\\nBanner secret-word\\n' > /srv/alice/x.conf; chown -R alice: /srv/alice").expect_ok();
        let drop_in = "/etc/ssh/sshd_config.d/60-x.conf";
        for (line, named) in [
            ("Include /srv/alice/x.conf", "/srv/alice"),
            ("Include /srv/alice/*", "/srv/alice"),
            ("Include /srv/*/none.conf", "/srv/alice"),
            ("HostKey /srv/alice/x.conf", "/srv/alice"),
            ("Match User alice\nBanner /srv/alice/x.conf", "/srv/alice"),
            ("Include /tmp/none.conf", "another /tmp than the host"),
        ] {
            server.write(drop_in, format!("{line}\n"));
            unknown(server, &[named]);
            for arguments in [
                &["diagnose", FROM, "--user", "root"][..],
                &["sshd", "check"],
                &["sshd", "show"],
                &["sshd", "set", "MaxSessions", "9"],
                &["fix", FROM, "--user", "root"],
            ] {
                let answer = server.ctl(&[arguments, &["--json"]].concat());
                let said = answer.stdout.clone() + &answer.stderr;
                assert!(answer.status != 0 && !said.contains("secret-word"), "{line}: {arguments:?}: {said}");
            }
        }
        // Root's own, but of other things than sshd's.
        server.write("/etc/other.conf", "MaxSessions 8\n");
        server.write(drop_in, "Include /etc/other.conf\n");
        open(server);
        let set = server.ctl(&["sshd", "set", "MaxSessions", "9", "--json"]);
        assert!(set.status == 1 && set.stdout.contains("/etc/other.conf does not lie below the folder"), "{set:#?}");
        assert_eq!(server.read("/etc/other.conf"), "MaxSessions 8\n");
    });
}
