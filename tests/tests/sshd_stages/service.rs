//! What is wrong with the service as a whole: crashes, single host keys, a host that goes down; and passwords that `pam_faillock` refuses.

use sshfix_tests::lab::{self, Release, Server};

use super::{DROP_IN, Diagnosis, FROM, LIMIT, can_log_in, configure, open, prepared, refused};

/// A drop-in of the unit, loaded.
fn unit(server: &Server, text: &str) {
    server.write("/etc/systemd/system/ssh.service.d/x.conf", format!("[Service]\n{text}\n"));
    server.sh("systemctl daemon-reload; systemctl reset-failed ssh").expect_ok();
}

#[test]
fn an_sshd_that_crashes_is_named_with_its_signal() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "");
        open(&server, "root", FROM);
        // Killed at each start, until systemd gives up.
        unit(&server, "SystemCallFilter=~listen");
        assert!(!server.sh("systemctl restart ssh").ok() || !can_log_in(&server, "root", FROM));
        server.wait_until("systemd gives up", LIMIT, || server.run(&["systemctl", "is-failed", "ssh"]).ok());
        assert!(!can_log_in(&server, "root", FROM));
        let diagnosis = Diagnosis::of(&server, FROM, None);
        assert_eq!(diagnosis.stage("sshd_admission").0, "refuse", "{release}: {:#}", diagnosis.0);
        let finding = diagnosis.finding("sshd-crash");
        assert_eq!(finding["blocking"], true);
        let shown = finding.to_string();
        for part in ["systemd ssh.service", "Main process exited", "status=31/SYS", "systemctl restart ssh", "OpenSSH"] {
            assert!(shown.contains(part), "{release}: {part}: {finding:#}");
        }

        // Up again, and its part for one connection crashes each time: the directory changes as Debian 13 notes it.
        unit(&server, if release == Release::Trixie { "SystemCallFilter=~chroot" } else { "" });
        server.sh("mkdir -p /run/sshd; systemctl restart ssh").expect_ok();
        if release == Release::Trixie {
            assert!(!can_log_in(&server, "root", FROM));
            let told = || Diagnosis::of(&server, FROM, None).finding("sshd-crash").to_string().contains("unpriv child crash");
            server.wait_until("sshd notes it", LIMIT, told);
            let diagnosis = Diagnosis::of(&server, FROM, None);
            assert_eq!(diagnosis.stage("sshd_admission").0, "unknown", "{:#}", diagnosis.0);
            unit(&server, "");
            server.run(&["systemctl", "restart", "ssh"]).expect_ok();
        }
        // A login shows that it is over; what happened is still told.
        server.wait_until("a login works", LIMIT, || can_log_in(&server, "root", FROM));
        let over = || Diagnosis::of(&server, FROM, None).0["verdict"] == "accept";
        server.wait_until("the login is seen", LIMIT, over);
        assert_eq!(Diagnosis::of(&server, FROM, None).finding("sshd-crash")["blocking"], false);
    }
}

#[test]
fn one_bad_host_key_among_good_ones_is_found() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "");
        open(&server, "root", FROM);
        assert!(!Diagnosis::of(&server, FROM, None).0.to_string().contains("sshd-hostkeys"));
        for (make, path, text, fix) in [
            (
                "chmod 640 /etc/ssh/ssh_host_rsa_key",
                "/etc/ssh/ssh_host_rsa_key",
                "mode 0640",
                "chmod 600 /etc/ssh/ssh_host_rsa_key",
            ),
            (
                "echo nonsense > /etc/ssh/ssh_host_ecdsa_key",
                "/etc/ssh/ssh_host_ecdsa_key",
                "no key that could be loaded",
                "from a backup",
            ),
        ] {
            server.sh(&format!("rm -rf /root/keys; cp -a /etc/ssh /root/keys; {make}; systemctl restart ssh")).expect_ok();
            assert!(can_log_in(&server, "root", FROM), "{release}: the others serve");
            let diagnosis = Diagnosis::of(&server, FROM, None);
            let finding = diagnosis.finding("sshd-hostkeys");
            assert_eq!((&finding["blocking"], diagnosis.stage("sshd_admission").0), (&false.into(), "accept"), "{release}");
            let evidence = finding["evidence"][0].to_string();
            assert!(evidence.contains(path) && evidence.contains(text), "{release}: {evidence}");
            assert!(finding["fix"].as_str().unwrap().contains(fix), "{finding:#}");
            server.sh("cp -a /root/keys/. /etc/ssh/").expect_ok();
        }
        // A file that a line names, and that is not there.
        configure(&server, "HostKey /etc/ssh/gone_rsa_key\nHostKey /etc/ssh/ssh_host_ed25519_key\n");
        let finding = Diagnosis::of(&server, FROM, None).finding("sshd-hostkeys").to_string();
        assert!(finding.contains("/etc/ssh/gone_rsa_key") && finding.contains("not there"), "{DROP_IN} {finding}");
    }
}

#[test]
fn a_planned_shutdown_is_told_and_the_nologin_it_makes_is_its_own() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "");
        server.run(&["shutdown", "-r", "+30"]).expect_ok();
        let diagnosis = Diagnosis::of(&server, FROM, Some("alice"));
        let finding = diagnosis.finding("host-shutdown");
        assert_eq!((&finding["blocking"], &diagnosis.0["verdict"]), (&false.into(), &"accept".into()), "{release}: {finding:#}");
        let evidence = finding["evidence"][0].to_string();
        assert!(evidence.contains("/run/systemd/shutdown/scheduled") && evidence.contains("MODE=reboot"), "{evidence}");
        assert!(can_log_in(&server, "alice", FROM));
        // From five minutes before it pam_nologin keeps users out.
        server.run(&["shutdown", "-r", "+4"]).expect_ok();
        let nologin = server.path("/run/nologin");
        server.wait_until("logind makes nologin", LIMIT, || nologin.exists());
        refused(&server, "alice", "account", "host-shutdown", "/var/run/nologin", "System is going down");
        open(&server, "root", FROM);
        server.run(&["shutdown", "-c"]).expect_ok();
        server.wait_until("logind takes it away", LIMIT, || !nologin.exists());
        open(&server, "alice", FROM);

        // On its way down: something takes long to stop, and the agent stays as long as it can.
        server.write(
            "/etc/systemd/system/slow.service",
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/sleep 300\nTimeoutStopSec=300\n",
        );
        for unit in ["sshfix-agent.service", "sshfix-agent.socket"] {
            server.write(&format!("/etc/systemd/system/{unit}.d/x.conf"), "[Unit]\nDefaultDependencies=no\n");
        }
        server.sh("systemctl daemon-reload; systemctl start slow; systemctl poweroff --no-block").expect_ok();
        server.wait_until("sshd is gone", LIMIT, || !can_log_in(&server, "root", FROM));
        let finding = || Diagnosis::of(&server, FROM, None).0["findings"].to_string();
        server.wait_until("the host says so", LIMIT, || finding().contains("SystemState stopping"));
        let diagnosis = Diagnosis::of(&server, FROM, None);
        assert_eq!(diagnosis.0["verdict"], "refuse");
        assert_eq!(diagnosis.finding("host-shutdown")["blocking"], true, "{release}: {:#}", diagnosis.0);
        assert_eq!(diagnosis.finding("sshd-down")["blocking"], false, "it is not sshd's fault");
        super::fix::told(&server, None, &["host-shutdown", "wait until it is up again"]);
    }
}

/// A real login with a password.
pub fn with_password(server: &Server, password: &str) -> bool {
    logs_in_by_password(server, "alice", password)
}

/// The same of any user.
pub fn logs_in_by_password(server: &Server, user: &str, password: &str) -> bool {
    server.write("/root/askpass", format!("#!/bin/sh\necho {password}\n"));
    server.run(&["chmod", "755", "/root/askpass"]).expect_ok();
    let askpass = server.path("/root/askpass").display().to_string();
    let mut command = server.ssh_command(FROM);
    let destination = command.pop().unwrap().replace("root@", &format!("{user}@"));
    let at = command.iter().position(|word| word == "-F").unwrap();
    let own = ["-o", "BatchMode=no", "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"];
    command.splice(at..at, own.map(str::to_owned));
    let ssh = command.iter().position(|word| word == "ssh").unwrap();
    let environment = ["env".to_owned(), format!("SSH_ASKPASS={askpass}"), "SSH_ASKPASS_REQUIRE=force".to_owned()];
    command.splice(ssh..ssh, environment);
    command.extend([destination, "true".to_owned()]);
    lab::run(&command.iter().map(String::as_str).collect::<Vec<_>>()).ok()
}

#[test]
fn passwords_that_faillock_refuses_are_found_and_keys_are_not_touched_by_it() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(
            &server,
            "PasswordAuthentication yes\nKbdInteractiveAuthentication no\nMatch User alice\n  PubkeyAuthentication no\n",
        );
        server.sh("echo alice:right | chpasswd").expect_ok();
        server.write(
            "/etc/pam.d/common-auth",
            "auth required pam_faillock.so preauth silent\nauth [success=2 default=ignore] pam_unix.so nullok\n\
             auth [default=die] pam_faillock.so authfail\nauth requisite pam_deny.so\nauth required pam_permit.so\n",
        );
        server.write("/etc/security/faillock.conf", "# two\ndeny = 2\nunlock_time = 300\n");
        assert!(with_password(&server, "right"), "{release}");
        open_by_password(&server);
        let mut tries = 0;
        while with_password(&server, "right") {
            with_password(&server, "wrong");
            with_password(&server, "wrong");
            tries += 1;
            assert!(tries < 5, "{release}: {}", server.sh("faillock --user alice").stdout);
        }
        refused(&server, "alice", "account", "account-locked", "/var/run/faillock/alice", "2 failed logins");
        let finding = Diagnosis::of(&server, FROM, Some("alice"));
        let finding = finding.finding("account-locked");
        assert!(finding.to_string().contains("/etc/pam.d/common-auth line 1") && !finding["until"].is_null(), "{finding:#}");
        super::repair::faillock_is_reset(&server);
        assert!(with_password(&server, "right"), "{release}");
        open_by_password(&server);
        (0..3).for_each(|_| _ = with_password(&server, "wrong"));
        // A key never asks it.
        configure(&server, "PasswordAuthentication yes\n");
        assert!(can_log_in(&server, "alice", FROM));
        let diagnosis = Diagnosis::of(&server, FROM, Some("alice"));
        assert_eq!(
            (diagnosis.stage("account").0, &diagnosis.finding("account-locked")["blocking"]),
            ("accept", &false.into()),
            "{release}"
        );
        server.run(&["faillock", "--user", "alice", "--reset"]).expect_ok();
        assert!(with_password(&server, "right"));
        open(&server, "alice", FROM);
    }
}

#[track_caller]
fn open_by_password(server: &Server) {
    let diagnosis = Diagnosis::of(server, FROM, Some("alice"));
    assert_eq!(diagnosis.0["verdict"], "accept", "{:#}", diagnosis.0);
}
