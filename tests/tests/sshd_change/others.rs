//! Others edit the same files while a change waits, and sshd is run by no unit at all.

use sshfix_tests::lab::{ADMIN_V4, ADMIN_V6};

use super::{DROP_IN, LONG, Session, banner, files, on_both, pending, state};

#[test]
fn lines_of_others_survive_a_rollback_and_what_they_broke_is_stuck_until_it_is_mended() {
    on_both(|server| {
        server.write("/etc/second", "this is the second banner\n");
        server.write(DROP_IN, "X11Forwarding yes\n");
        server.run(&["systemctl", "reload", "ssh.service"]).expect_ok();
        let change = pending(server, "10m", &["sshd", "set", "X11Forwarding", "no"]);
        server.write(DROP_IN, format!("# theirs\n{}PrintMotd no\n", server.read(DROP_IN)));
        let taken = server.ctl(&["rollback", change["id"].as_str().unwrap(), "--json"]).expect_status(0).json();
        assert_eq!(server.read(DROP_IN), "# theirs\nX11Forwarding yes\nPrintMotd no\n");
        assert!(taken.to_string().contains("their lines were kept"), "{taken:#}");
        assert!(server.ssh(ADMIN_V4).ok);

        let session = Session::open(server, "alice", ADMIN_V6);
        let change = pending(server, "10m", &["sshd", "set", "X11Forwarding", "no"]);
        let id = change["id"].as_str().unwrap();
        server.write(DROP_IN, format!("{}NoSuchKeyword x\n", server.read(DROP_IN)));
        let stuck = server.ctl(&["rollback", id, "--json"]).expect_status(7).json();
        assert!(stuck.to_string().contains("NoSuchKeyword"), "{stuck:#}");
        assert_eq!(server.read(DROP_IN), "# theirs\nX11Forwarding yes\nPrintMotd no\nNoSuchKeyword x\n");
        assert!(server.ssh(ADMIN_V4).ok, "sshd was not told to read what it would not take");
        server.ctl(&["sshd", "reload"]).expect_status(7);
        server.sh(&format!("sed -i /NoSuch/d {DROP_IN}")).expect_ok();
        server.wait_until("it is tried again", LONG, || state(server, id) == "rolled-back");
        session.lives(server);
        assert!(server.ssh(ADMIN_V4).ok);
    });
}

#[test]
fn an_sshd_that_no_unit_runs_is_never_edited() {
    on_both(|server| {
        server.write("/etc/second", "this is the second banner\n");
        server
            .sh("systemctl stop ssh.service; mkdir -p /run/sshd; systemd-run -q --scope --unit=hand setsid /usr/sbin/sshd -o 'PrintMotd no'")
            .expect_ok();
        server.wait_until("sshd listens", LONG, || server.ssh(ADMIN_V4).ok);
        assert_eq!(server.ctl(&["diagnose", ADMIN_V4, "--json"]).expect_status(0).json()["verdict"], "accept");
        let session = Session::open(server, "alice", ADMIN_V6);
        let old = files(server);
        let refused = server.ctl(&["sshd", "set", "Banner", "/etc/second", "--json"]).expect_status(1).json();
        assert!(refused["message"].as_str().unwrap().contains("no unit of systemd runs this sshd"), "{refused:#}");
        assert_eq!(files(server), old);
        // It reads its files again where it is told to.
        server.sh("printf 'Banner /etc/second\\n' > /etc/ssh/sshd_config.d/60-y.conf").expect_ok();
        let change = pending(server, "10m", &["sshd", "reload"]);
        assert!(change["plan"]["steps"][0]["summary"].as_str().unwrap().contains("SIGHUP"), "{change:#}");
        assert!(banner(server).contains("second"));
        session.lives(server);
    });
}

#[test]
fn an_sshd_that_is_reading_its_files_again_is_not_taken_for_one_that_is_down() {
    // Stops it between the end of its old sockets and its new ones.
    let between = "pid=$(systemctl show -P MainPID ssh)
        none() { ! grep -q ':0016 0*:0000 0A ' /proc/net/tcp /proc/net/tcp6; }
        for i in $(seq 200); do
            kill -HUP $pid
            for j in $(seq 100); do
                if none; then
                    kill -STOP $pid; sleep 0.1
                    if none; then (sleep 0.3; kill -CONT $pid) >/dev/null 2>&1 & exit 0; fi
                    kill -CONT $pid; break
                fi
            done
        done
        exit 1";
    on_both(|server| {
        let session = Session::open(server, "alice", ADMIN_V6);
        server.sh(between).expect_ok();
        assert_eq!(server.ctl(&["diagnose", ADMIN_V4, "--json"]).expect_status(0).json()["verdict"], "accept");
        server.sh(between).expect_ok();
        let change = pending(server, "10m", &["sshd", "set", "MaxSessions", "9"]);
        assert!(change["plan"]["steps"][0]["summary"].as_str().unwrap().contains("reload ssh.service"), "{change:#}");
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);

        // However often somebody else reloads it, changes are made and taken back.
        let all_the_time = "systemd-run --quiet --unit=reloads sh -c 'while systemctl reload ssh.service; do sleep 0.15; done'";
        server.sh(all_the_time).expect_ok();
        for sessions in ["7", "8", "9"] {
            let change = pending(server, "120s", &["sshd", "set", "MaxSessions", sessions]);
            server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
        }
        server.run(&["systemctl", "stop", "reloads.service"]).expect_ok();

        // Nor is one that somebody restarts.
        server.write("/etc/systemd/system/ssh.service.d/slow.conf", "[Service]\nExecStartPre=/bin/sleep 0.7\n");
        // A machine that is slow to ask may miss it, and restarts it again.
        let restarts = "systemctl daemon-reload
            for i in $(seq 50); do
                systemctl reset-failed ssh.service; systemctl restart --no-block ssh.service
                for j in $(seq 10); do
                    if test $(systemctl show -P ActiveState ssh.service) = activating; then exit 0; fi
                done
            done
            exit 1";
        server.sh(restarts).expect_ok();
        assert_eq!(server.ctl(&["diagnose", ADMIN_V4, "--json"]).expect_status(0).json()["verdict"], "accept");
        server.sh(restarts).expect_ok();
        let plan = server.ctl(&["sshd", "set", "MaxSessions", "9", "--dry-run", "--json"]).expect_status(0).json();
        assert!(plan["steps"][0]["summary"].as_str().unwrap().contains("reload ssh.service"), "{plan:#}");
        session.lives(server);
    });
}

#[test]
fn an_sshd_that_was_down_and_is_started_meanwhile_is_not_left_with_what_nobody_proved() {
    on_both(|server| {
        server.write("/etc/second", "this is the second banner\n");
        let set = ["sshd", "set", "Banner", "/etc/second", "--confirm-within", "10m", "--json"];
        let old = files(server);
        server.run(&["systemctl", "stop", "ssh.service"]).expect_ok();
        let drifted = server.ctl_meanwhile(0, "systemctl start ssh.service", &set).expect_status(1).json();
        assert!(drifted.to_string().contains("no sshd ran on port 22 when this was planned"), "{drifted:#}");
        assert_eq!(files(server), old);

        // Its undo is read, too.
        server.run(&["systemctl", "stop", "ssh.service"]).expect_ok();
        let change = server.ctl(&set).expect_status(5).json();
        server.run(&["systemctl", "start", "ssh.service"]).expect_ok();
        assert!(banner(server).contains("second"));
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
        assert_eq!(files(server), old);
        assert!(!banner(server).contains("second"));
    });
}

#[test]
fn where_systemd_listens_the_port_is_the_socket_units_and_sshd_is_restarted() {
    on_both(|server| {
        server.write("/etc/second", "this is the second banner\n");
        server.sh("systemctl disable --now ssh.service; systemctl enable --now ssh.socket").expect_ok();
        let refused = |keyword: &str, value: &str| {
            let answer = server.ctl(&["sshd", "set", keyword, value, "--json"]).expect_status(1).json();
            assert!(answer.to_string().contains("systemctl edit ssh.socket"), "{answer:#}");
        };
        refused("Port", "2222");
        // Before somebody comes, systemd has not made its directory, without which sshd says nothing of its files.
        let old = files(server);
        let early = server.ctl(&["sshd", "set", "MaxSessions", "9", "--json"]).expect_status(1).json();
        assert!(early.to_string().contains("`systemctl start ssh.service` starts it"), "{early:#}");
        let check = server.ctl(&["sshd", "check", "--json"]).expect_status(0).json();
        assert_eq!(check["would_start"], true, "{check:#}");
        assert!(!check["problems"].to_string().contains("privilege separation"), "systemd makes it: {check:#}");
        let idle = "starts ssh.service with the next connection";
        assert!(check["running"]["detail"].as_str().unwrap().contains(idle), "Accept=no: {check:#}");
        for verb in ["reload", "restart"] {
            let nothing = server.ctl(&["sshd", verb, "--json"]).expect_status(0).json();
            assert!(nothing["state"] == "unchanged" && nothing["notes"].to_string().contains(idle), "{nothing:#}");
        }
        // Where the directory is there, looking at sshd wakes it: the change is in effect all the same.
        server.run(&["mkdir", "-m", "0755", "/run/sshd"]).expect_ok();
        let change = pending(server, "60s", &["sshd", "set", "Banner", "/etc/second"]);
        assert!(banner(server).contains("second"), "{change:#}");
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
        assert!(files(server) == old && !banner(server).contains("second"));
        let session = Session::open(server, "alice", ADMIN_V6);
        refused("ListenAddress", "127.0.0.1");
        let change = pending(server, "20s", &["sshd", "set", "Banner", "/etc/second"]);
        assert!(change["plan"]["steps"][0]["summary"].as_str().unwrap().contains("restart ssh.service"), "{change:#}");
        assert!(banner(server).contains("second"));
        let id = change["id"].as_str().unwrap();
        server.wait_until("it is taken back", LONG, || state(server, id) == "rolled-back");
        assert_eq!(files(server), old);
        assert!(!banner(server).contains("second"));
        session.lives(server);
    });
}

/// systemd takes /run/sshd away with the service: what sshd cannot be asked at that moment is asked a moment later.
#[test]
fn amid_a_storm_of_restarts_a_dry_run_is_no_lockout() {
    on_both(|server| {
        server.write("/etc/systemd/system/ssh.service.d/storm.conf", "[Unit]\nStartLimitIntervalSec=0\n");
        server.run(&["systemctl", "daemon-reload"]).expect_ok();
        std::thread::scope(|scope| {
            let storm = "while [ ! -e /run/calm ]; do systemctl restart ssh.service; done; systemctl restart ssh.service";
            let storm = scope.spawn(|| server.sh(storm));
            let answers: Vec<_> =
                (0..12).map(|_| server.ctl_from(ADMIN_V4, &["sshd", "set", "MaxSessions", "9", "--dry-run"])).collect();
            server.write("/run/calm", "");
            storm.join().unwrap();
            for answer in answers {
                answer.expect_status(0);
            }
        });
    });
}
