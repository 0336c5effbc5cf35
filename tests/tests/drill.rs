//! The drill on real servers of both releases: it passes, touches nothing of the host, and fails when an undo does not undo.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use sshfix_tests::lab::{Release, Server, root_or_skip};

/// Everything of the host that a change could touch, with handles, and what a drill could leave.
fn snapshot(server: &Server) -> String {
    server
        .sh("nft -a -s list ruleset 2>/dev/null; iptables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'; \
             sha256sum /etc/hosts.allow /etc/hosts.deny; stat -c '%a %u %g %i %n' /etc/hosts.allow /etc/hosts.deny; \
             fail2ban-client get sshd banip; ls /run | grep drill || true; grep -c . /proc/mounts; ls /etc | wc -l")
        .expect_ok()
}

#[test]
fn a_drill_passes_touches_nothing_and_fails_where_an_undo_does_not_undo() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        server.install_sshfix();
        server
            .sh("fail2ban-client set sshd banip 203.0.113.7 203.0.113.8
                 nft add table inet hand
                 nft 'add chain inet hand input { type filter hook input priority 0; policy accept; }'
                 nft 'add set inet hand blocked { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }'
                 nft add rule inet hand input ip saddr @blocked counter drop
                 iptables-nft -A INPUT -s 203.0.113.8 -p tcp --dport 22 -m comment --comment x -j DROP
                 iptables-legacy -A INPUT -s 203.0.113.70 -p tcp --dport 22 -j REJECT")
            .expect_ok();
        server.write("/etc/hosts.deny", "sshd: 203.0.113.70\n");
        let before = snapshot(&server);
        let first = server.ctl(&["status", "--json"]).expect_status(0).json();
        assert!(first["last_drill"].is_null(), "{first:#}");

        let drilled = server.run(&["systemctl", "start", "sshfix-drill.service"]);
        let journal = server.run(&["journalctl", "--no-pager", "-o", "cat", "-u", "sshfix-drill"]).stdout;
        assert!(drilled.ok(), "{release}: {}\n{journal}", drilled.stderr);
        assert_eq!(snapshot(&server), before, "{journal}");
        let passed = journal.lines().find(|line| line.starts_with("PASSED killed at ")).expect("the outcome");
        assert!(passed.ends_with(" points"), "nothing dangles after it: {passed}");
        let status = server.ctl(&["status", "--json"]).expect_status(0).json();
        assert!(status["last_drill"].is_string(), "{status:#}");
        assert_eq!(status["drill"]["passed"], true, "{status:#}");
        // Three steps: before and after each of 20 writes, less the last look.
        assert!(status["drill"]["points"].as_u64().unwrap() >= 30, "{status:#}");
        assert_eq!(status["drill"]["detail"], "", "everything was copied: {journal}");
        assert!(server.ctl(&["status"]).expect_status(0).stdout.contains("passed, killed at"), "{journal}");

        server.write("/run/sshfix/forget-to-undo", "");
        let drilled = server.run(&["sshfix-agent", "drill"]);
        assert_eq!(drilled.status, 1, "{}", drilled.stdout);
        assert!(drilled.stdout.contains("FAILED") && drilled.stdout.contains("not as before"), "{}", drilled.stdout);
        server.sh("rm /run/sshfix/forget-to-undo").expect_ok();
        let status = server.ctl(&["status", "--json"]).expect_status(0).json();
        assert_eq!(status["drill"]["passed"], false, "{status:#}");
        assert_eq!(snapshot(&server), before);
        assert!(!server.run(&["systemctl", "is-enabled", "sshfix-drill.timer"]).ok(), "off by default");
    }
}

/// Where the drill could not be in namespaces of its own, it does nothing.
#[test]
fn a_worker_outside_of_private_namespaces_refuses() {
    if !root_or_skip() {
        return;
    }
    let server = Server::boot(Release::Trixie);
    server.install_sshfix();
    let before = snapshot(&server);
    server.sh("mkdir -m 700 /run/place").expect_ok();
    let worker =
        ["sshfix-agent", "drill-worker", "--config", "/etc/sshfix/agent.toml", "--directory", "/run/place", "--number", "1"];
    let asked = server.run(&worker);
    assert!(!asked.ok() && asked.stderr.contains("namespace of PID 1"), "{asked:?}");
    assert_eq!(snapshot(&server), before);
    assert_eq!(server.sh("ls /run/place | wc -l").expect_ok().trim(), "0");
}
