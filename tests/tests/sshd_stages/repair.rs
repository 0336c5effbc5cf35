//! What `fix` does about the service and the account: it mends what keeps sshd from serving, starts it, and says what a person must do.

use sshfix_tests::lab::{self, Release, Server};

use super::fix::{fixed, told};
use super::{DROP_IN, Diagnosis, FROM, LIMIT, can_log_in, configure, open, prepared, restart};

#[test]
fn an_sshd_that_cannot_serve_is_mended_and_started() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        let old = release == Release::Bookworm;
        configure(&server, "");

        // The directory: nothing is edited, so nothing waits for a confirm.
        server.sh("rm -rf /run/sshd").expect_ok();
        assert!(!can_log_in(&server, "root", FROM));
        let change = fixed(&server, None, &["make /run/sshd"]);
        assert_eq!(change["state"], "confirmed");
        server.sh("chmod 777 /run/sshd").expect_ok();
        fixed(&server, None, &["set the mode of /run/sshd to 0755"]);

        // Lines that sshd does not take, in two files: while it runs, and when it is down because of them.
        for down in [false, true] {
            configure(&server, "");
            server.write(DROP_IN, "# x\nPrintMotd maybe\n\tPort many\n");
            server.write("/etc/ssh/sshd_config.d/60-y.conf", "Banner\n");
            if down {
                assert!(!server.sh("systemctl restart ssh").ok());
                assert!(!can_log_in(&server, "root", FROM));
            }
            fixed(&server, None, &["# sshd does not take this line: PrintMotd maybe"]);
            assert_eq!(
                server.read(DROP_IN),
                "# x\n# sshd does not take this line: PrintMotd maybe\n\t# sshd does not take this line: Port many\n"
            );
            assert_eq!(server.read("/etc/ssh/sshd_config.d/60-y.conf"), "# sshd does not take this line: Banner\n");
            server.sh("sshd -t && rm /etc/ssh/sshd_config.d/60-y.conf").expect_ok();
            restart(&server);
        }
        configure(&server, "");

        // Host keys that are gone, or that others can read: made anew, and never overwritten.
        for (make, word) in [
            (
                "rm -rf /root/k; mkdir /root/k; mv /etc/ssh/ssh_host_* /root/k",
                "make the host key /etc/ssh/ssh_host_ed25519_key (ed25519)",
            ),
            ("chmod 644 /etc/ssh/ssh_host_*_key", "set the mode of /etc/ssh/ssh_host_ed25519_key to 0600"),
        ] {
            for down in [true, false] {
                let before = server.sh("cat /etc/ssh/ssh_host_*_key.pub").expect_ok();
                server.sh(make).expect_ok();
                if down {
                    assert!(!server.sh("systemctl restart ssh").ok());
                }
                assert_eq!(can_log_in(&server, "root", FROM), !down && !old, "{release}");
                fixed(&server, None, &[word]);
                server.sh("sshd -t").expect_ok();
                restart(&server);
                open(&server, "root", FROM);
                let after = server.sh("cat /etc/ssh/ssh_host_*_key.pub").expect_ok();
                assert_eq!(before == after, make.starts_with("chmod"), "{release}: {make}");
            }
        }
        // One that is corrupt may be in a backup: that is a person's.
        server
            .sh("cp -a /etc/ssh/ssh_host_rsa_key /root/rsa; echo nonsense > /etc/ssh/ssh_host_rsa_key; systemctl restart ssh")
            .expect_ok();
        let change = server.ctl(&["--json", "fix", FROM]).expect_status(0).json();
        assert_eq!((&change["state"], &change["verdict"]), (&"unchanged".into(), &"accept".into()), "{change:#}");
        server.sh("cp -a /root/rsa /etc/ssh/ssh_host_rsa_key").expect_ok();
        configure(&server, "HostKey /etc/ssh/gone_rsa_key\nHostKey /etc/ssh/ssh_host_ed25519_key\n");
        // Taken back: a key that sshfix made goes again, and the others stay.
        let key = server.path("/etc/ssh/gone_rsa_key");
        let change = server.ctl(&["--json", "fix", FROM]).expect_status(5).json();
        assert!(key.exists() && server.sh("sshd -T | grep -q gone_rsa_key").ok());
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
        assert!(!key.exists() && server.path("/etc/ssh/ssh_host_ed25519_key").exists(), "{release}");
        fixed(&server, None, &["make the host key /etc/ssh/gone_rsa_key (rsa)"]);
        assert!(key.exists());
    }
}

/// What systemd started by itself after the first repair, it still lacks what the next ones made.
#[test]
fn an_sshd_that_comes_up_by_itself_amid_its_repairs_serves_with_all_of_them() {
    lab::on_both(|server| {
        server.sh("rm /etc/ssh/ssh_host_*; systemctl restart ssh; systemctl stop ssh").ok();
        let change = server.ctl_meanwhile(2, "systemctl reset-failed ssh; systemctl start ssh", &["--json", "fix", FROM]);
        let change = change.expect_status(0).json();
        assert_eq!((&change["state"], &change["verdict"]), (&"confirmed".into(), &"accept".into()), "{change:#}");
        for kind in ["rsa", "ecdsa", "ed25519"] {
            let shown = server.sh(&format!("ssh-keyscan -t {kind} 127.0.0.1 2>/dev/null")).expect_ok();
            assert!(shown.contains("127.0.0.1"), "{}: no {kind} key: {shown}", server.release());
        }
        open(server, "root", FROM);
    });
}

#[test]
fn a_service_that_is_down_is_started_and_what_only_a_person_can_do_is_told() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "");
        server.run(&["systemctl", "stop", "ssh"]).expect_ok();
        assert!(!can_log_in(&server, "root", FROM));
        let change = fixed(&server, None, &["start ssh.service"]);
        assert_eq!(change["state"], "confirmed", "to start it keeps nobody out");

        // Crashed, and not started again by systemd.
        server.write("/etc/systemd/system/ssh.service.d/x.conf", "[Service]\nRestart=no\n");
        server.sh("systemctl daemon-reload; systemctl kill -s SEGV --kill-whom=main ssh").expect_ok();
        server.wait_until("it is down", LIMIT, || server.run(&["systemctl", "is-failed", "ssh"]).ok());
        assert_eq!(Diagnosis::of(&server, FROM, None).finding("sshd-crash")["blocking"], true);
        fixed(&server, None, &["start ssh.service"]);

        // systemd listens for it, and its socket is down.
        server
            .sh("rm -r /etc/systemd/system/ssh.service.d; systemctl daemon-reload; systemctl disable --now ssh.service")
            .expect_ok();
        server.sh("systemctl enable --now ssh.socket; systemctl stop ssh.socket ssh.service").expect_ok();
        assert!(!can_log_in(&server, "root", FROM));
        fixed(&server, None, &["start ssh.socket"]);
        server
            .sh("systemctl stop ssh.socket ssh.service; systemctl disable ssh.socket; systemctl enable ssh.service")
            .expect_ok();
        let start = || server.sh("systemctl reset-failed ssh; systemctl start ssh").ok() && can_log_in(&server, "root", FROM);
        server.wait_until("the service listens itself again", LIMIT, start);

        // Masked: somebody wants it so.
        server.sh("systemctl stop ssh; systemctl mask ssh").expect_ok();
        told(&server, None, &["sshd-down", "systemctl unmask ssh.service"]);
        server.sh("systemctl unmask ssh; mkdir -p /run/sshd").expect_ok();

        // Another program on the port, and a server on another one.
        server.sh("systemd-run -q --unit=other python3 -c 'import socket, time; s = socket.create_server((\"\", 22)); time.sleep(1000)'").expect_ok();
        server.wait_until("it listens", LIMIT, || server.sh("ss -ltn | grep -q :22").ok());
        told(&server, None, &["port-not-ssh", "systemctl stop other.service"]);
        server.sh("systemctl stop other").expect_ok();
        configure(&server, "Port 2222\n");
        told(&server, None, &["sshd-listen", "ssh -p 2222"]);
        configure(&server, "");

        // The account.
        server.sh("chage -E 2020-01-02 alice").expect_ok();
        told(&server, Some("alice"), &["account-locked", "chage -E -1 alice"]);
        server.sh("chage -E -1 alice; shutdown -r +4").expect_ok();
        let nologin = server.path("/run/nologin");
        server.wait_until("logind makes nologin", LIMIT, || nologin.exists());
        told(&server, Some("alice"), &["host-shutdown", "shutdown -c"]);
        server.run(&["shutdown", "-c"]).expect_ok();
        server.wait_until("logind takes it away", LIMIT, || !nologin.exists());
        open(&server, "alice", FROM);
    }
}

/// What `pam_faillock` held against alice is forgotten, and nothing waits for a confirm.
pub fn faillock_is_reset(server: &Server) {
    let tally = || std::fs::read(server.path("/run/faillock/alice")).unwrap();
    assert!(!tally().is_empty());
    // The file is hers, and whoever opens it to write waits for her lease: 45 s (proc_sys_fs(5), `lease-break-time`).
    let lease = "import fcntl, time; f = open('/run/faillock/alice'); fcntl.fcntl(f, 1024, 0); time.sleep(1000)";
    server.run(&["systemd-run", "-q", "--unit=lease", "--uid=alice", "python3", "-c", lease]).expect_ok();
    server.wait_until("alice holds a lease", LIMIT, || server.sh("grep -q 'LEASE  *ACTIVE' /proc/locks").ok());
    let held = server.ctl(&["--json", "fix", FROM, "--user", "alice"]).expect_status(6);
    assert!(held.stdout.contains("/faillock/alice"), "{held:#?}");
    assert!(!tally().is_empty());
    server.run(&["systemctl", "stop", "lease"]).expect_ok();
    let change = server.ctl(&["--json", "fix", FROM, "--user", "alice"]).expect_status(0).json();
    assert_eq!((&change["state"], &change["verdict"]), (&"confirmed".into(), &"accept".into()), "{change:#}");
    assert!(change["plan"]["steps"].to_string().contains("forget the failed logins of alice"));
    assert!(tally().is_empty());
}
