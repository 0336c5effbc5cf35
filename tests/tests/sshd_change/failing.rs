//! A service that does not follow: whatever fails, the old bytes and a running sshd are there again, and sessions live on.

use sshfix_tests::lab::{ADMIN_V4, ADMIN_V6};

use super::{LONG, Session, files, on_both, state};

const OVERRIDE: &str = "/etc/systemd/system/ssh.service.d/x.conf";

#[test]
fn a_unit_that_does_not_come_back_leaves_a_running_sshd_and_says_so() {
    on_both(|server| {
        let session = Session::open(server, "alice", ADMIN_V6);
        let old = files(server);
        let unit = |text: &str| {
            server.write(OVERRIDE, text);
            server.run(&["systemctl", "daemon-reload"]).expect_ok();
        };
        // It cannot start any more, for a reason that is not sshd's.
        unit("[Service]\nExecStartPre=/bin/false\n");
        let answer = server.ctl(&["sshd", "restart", "--json"]).expect_status(6).json();
        let said = answer.to_string();
        assert!(said.contains("sshfix-sshd.service") && said.contains("journalctl -u ssh.service"), "{answer:#}");
        let (v4, v6) = (server.ssh(ADMIN_V4), server.ssh(ADMIN_V6));
        assert!(v4.ok && v6.ok, "{v4:?} {v6:?}");
        session.lives(server);
        // The stand-in is as good as the unit: it can be changed, and taken back.
        let change = super::pending(server, "5s", &["sshd", "set", "MaxSessions", "9"]);
        let id = change["id"].as_str().unwrap();
        server.wait_until("it is taken back", LONG, || state(server, id) == "rolled-back");
        assert_eq!(files(server), old);
        // Put right as it said.
        unit("");
        server.sh("systemctl stop sshfix-sshd.service; systemctl start ssh.service").expect_ok();
        assert!(server.ssh(ADMIN_V4).ok);
        session.lives(server);

        // A reload that fails: nothing was reloaded, and the bytes come back. So does sshd, by a signal.
        unit("[Service]\nExecReload=\nExecReload=/bin/false\n");
        server.ctl(&["sshd", "set", "MaxSessions", "9", "--json"]).expect_status(6);
        assert_eq!(files(server), old);
        // A reload that leaves no sshd.
        unit("[Service]\nExecReload=\nExecReload=/bin/kill -9 $MAINPID\nRestart=no\n");
        server.ctl(&["sshd", "set", "MaxSessions", "9", "--json"]).expect_status(6);
        assert_eq!(files(server), old);
        assert!(server.ssh(ADMIN_V4).ok);
        session.lives(server);
        // The same where hosts.deny refuses this host itself: no key exchange from here shows that the unit serves again.
        let active = |unit: &str| server.run(&["systemctl", "is-active", unit]).ok();
        assert!(active("ssh.service") && !active("sshfix-sshd.service"));
        server.write("/etc/hosts.deny", "sshd: 127.0.0.1 [::1]\n");
        server.ctl(&["sshd", "set", "MaxSessions", "9", "--json"]).expect_status(6);
        assert_eq!(files(server), old);
        assert!(
            active("ssh.service") && !active("sshfix-sshd.service"),
            "{}",
            server.sh("journalctl -n 60 -u ssh -u sshfix-agent").stdout
        );
        assert!(server.ssh(ADMIN_V4).ok);
        session.lives(server);
        server.write("/etc/hosts.deny", "");
        unit("");

        // An sshd that moved away serves, and is told of the rollback where it is: its unit is not stopped for a stand-in.
        server.write("/run/sshfix/without-proof", "");
        let answer = server.ctl(&["sshd", "set", "Port", "2222", "--json"]);
        server.sh("rm -f /run/sshfix/without-proof").expect_ok();
        if answer.status == 5 {
            server.ctl(&["rollback", answer.json()["id"].as_str().unwrap()]).expect_status(0);
        } else {
            assert_eq!(answer.status, 6, "{answer:#?}");
        }
        assert_eq!(files(server), old);
        assert!(active("ssh.service") && !active("sshfix-sshd.service"), "{answer:#?}");
        assert!(server.ssh(ADMIN_V4).ok);
        session.lives(server);

        // A port that another program holds.
        server
            .sh("systemd-run -q --unit=other perl -MIO::Socket::INET -e \
                   'my $s = IO::Socket::INET->new(LocalAddr=>\"0.0.0.0\", LocalPort=>2222, Listen=>1) or die; sleep 1000'")
            .expect_ok();
        server.wait_until("the other listens", LONG, || server.sh("ss -ltn | grep -q :2222").ok());
        server.write("/etc/ssh/sshd_config.d/60-port.conf", "Port 22\n");
        server.ctl_confirmed(&["sshd", "reload"]);
        let old = files(server);
        let answer = server.ctl(&["sshd", "set", "ListenAddress", "0.0.0.0:22", "0.0.0.0:2222", "[::]:22", "--json"]);
        assert!(answer.status == 6 || answer.status == 1, "{answer:#?}");
        assert_eq!(files(server), old);
        assert!(server.ssh(ADMIN_V4).ok);
        session.lives(server);
    });
}
