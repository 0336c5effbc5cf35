//! Who may ask for what, and files that nobody may be able to forge.

use std::time::{Duration, Instant};

use sshfix_tests::lab::{CtlResult, Server, on_both};

use super::{audit, expect_in, snapshot};

/// `sshfix ctl` as a user of the server.
fn ctl_as(server: &Server, user: &str, arguments: &[&str]) -> CtlResult {
    let home = format!("HOME=/home/{user}");
    server.run(&[&["runuser", "-u", user, "--", "env", &home, "/usr/local/bin/sshfix", "ctl"], arguments].concat()).into()
}

fn make_user(server: &Server, user: &str, groups: &str) -> String {
    server
        .sh(&format!(
            "useradd -m {groups} {user}; install -d -m 700 -o {user} -g {user} /home/{user}/.ssh
             runuser -u {user} -- ssh-keygen -q -t ed25519 -N '' -C {user} -f /home/{user}/.ssh/id_ed25519"
        ))
        .expect_ok();
    server.read(&format!("/home/{user}/.ssh/id_ed25519.pub")).trim().to_owned()
}

#[test]
fn a_user_may_do_what_the_grant_says_and_nothing_else() {
    on_both(|server| {
        let ops = make_user(server, "ops", "-G sshfix");
        make_user(server, "stranger", "-G sshfix");
        let old = make_user(server, "old", "-G sshfix");
        make_user(server, "outsider", "");
        let key = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let signers = server.read("/etc/sshfix/allowed_signers");
        server.write(
            "/etc/sshfix/allowed_signers",
            format!("{signers}ops@example.org {}\nold@example.org valid-before=\"20200101\" {}\n", key(&ops), key(&old)),
        );
        let grants = server.read("/etc/sshfix/policy.toml");
        let grant = "\n[[grant]]\nprincipal = [\"ops@example.org\", \"old@example.org\"]\nactions = [\"diagnose\", \"unban\"]\n\
                     networks = [\"203.0.113.0/24\"]\n";
        server.write("/etc/sshfix/policy.toml", format!("{grants}{grant}"));
        server.sh("fail2ban-client set sshd banip 203.0.113.7 198.51.100.7 2001:db8::7").expect_ok();

        ctl_as(server, "ops", &["diagnose", "203.0.113.7"]).expect_status(8);
        ctl_as(server, "ops", &["unban", "203.0.113.7", "--reason", "by ops"]).expect_status(0);
        expect_in(server, &["203.0.113.7"]);
        ctl_as(server, "ops", &["unban", "203.0.113.0/28"]).expect_status(0);

        let before = snapshot(server);
        let mut answers = Vec::new();
        for (user, arguments, reason) in [
            ("ops", &["unban", "198.51.100.7"][..], "lets `ops@example.org` do `unban` about 198.51.100.7"),
            ("ops", &["unban", "2001:db8::7"], "about 2001:db8::7"),
            ("ops", &["unban", "203.0.0.0/16"], "about 203.0.0.0/16"),
            ("ops", &["diagnose", "198.51.100.7"], "`diagnose` about 198.51.100.7"),
            ("ops", &["ban", "203.0.113.8", "--jail", "sshd"], "do `ban`"),
            ("ops", &["banned"], "do `banned`"),
            ("ops", &["status"], "do `status`"),
            ("ops", &["hosts", "list"], "do `hosts-list`"),
            ("ops", &["hosts", "deny", "203.0.113.8"], "do `hosts-deny`"),
            ("ops", &["firewall", "list"], "do `firewall-list`"),
            ("ops", &["firewall", "accept", "203.0.113.8"], "do `firewall-accept`"),
            ("ops", &["fail2ban", "jails"], "do `fail2ban-jails`"),
            ("ops", &["fail2ban", "ignore", "203.0.113.8"], "do `fail2ban-ignore`"),
            ("stranger", &["unban", "203.0.113.8"], "allowed_signers"),
            ("old", &["unban", "203.0.113.8"], "valid-before"),
        ] {
            let result = ctl_as(server, user, &[arguments, &["--json"]].concat()).expect_status(3);
            let error = result.json();
            assert_eq!(error["code"], "refused");
            // Which key was used is the client's own knowledge.
            let message = error["message"].as_str().unwrap().split("Identities tried").next().unwrap().to_owned();
            answers.push(format!("{message} {}", error["advice"]));
            let last = audit(server).pop().unwrap();
            assert!(last.contains("refused") && last.contains(reason), "{user} {arguments:?}: `{reason}` is not in {last}");
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "refusals differ: {answers:#?}");
        let journal = server.run(&["journalctl", "--no-pager", "-u", "sshfix-agent"]).stdout;
        assert!(journal.contains("do `ban`"), "{journal}");

        // The group opens the socket.
        let outside = ctl_as(server, "outsider", &["status", "--json"]);
        outside.expect_error(10, "unreachable", &["agent.sock", "ermission denied"]);
        assert!(outside.json()["advice"].as_str().unwrap().contains("sshfix"), "{:#}", outside.json());
        assert_eq!(before, snapshot(server));

        // An encrypted key: asked for on a terminal, never elsewhere.
        server.sh("runuser -u ops -- ssh-keygen -q -p -N secret -P '' -f /home/ops/.ssh/id_ed25519").expect_ok();
        let started = Instant::now();
        let locked = ctl_as(server, "ops", &["diagnose", "203.0.113.8"]);
        assert!([1, 3].contains(&locked.status) && started.elapsed() < Duration::from_mins(1), "{locked:#?}");
        assert!(locked.stderr.contains("id_ed25519") && locked.stderr.contains("terminal"), "{}", locked.stderr);
        let named = ctl_as(server, "ops", &["diagnose", "203.0.113.8", "--identity", "/home/ops/.ssh/id_ed25519"]);
        assert!(named.status == 1 && named.stderr.contains("terminal"), "{named:#?}");
        // From ssh-agent, found by itself and by its public key.
        let script = "printf '#!/bin/sh\\necho secret\\n' >/tmp/ask; chmod +x /tmp/ask
             cd; SSH_ASKPASS=/tmp/ask SSH_ASKPASS_REQUIRE=force ssh-add -q .ssh/id_ed25519 </dev/null
             sshfix ctl -v diagnose 203.0.113.8; sshfix ctl diagnose 203.0.113.8 --identity .ssh/id_ed25519.pub";
        let agent = server.run(&["runuser", "-u", "ops", "--", "env", "HOME=/home/ops", "ssh-agent", "sh", "-euc", script]);
        assert!(agent.ok() && agent.stderr.contains("ssh-agent"), "{agent:#?}");
    });
}

#[test]
fn files_that_others_can_write_or_nobody_can_read_refuse_everybody() {
    on_both(|server| {
        server.ctl(&["status"]).expect_status(0);
        let last_reason = || audit(server).pop().unwrap();
        let log = || server.run(&["journalctl", "--no-pager", "-u", "sshfix-agent", "-n", "10"]).stdout;
        for file in ["/etc/sshfix/policy.toml", "/etc/sshfix/allowed_signers"] {
            for change in ["chmod 666", "chmod 664", "chown nobody"] {
                server.sh(&format!("{change} {file}")).expect_ok();
                let refused = server.ctl(&["status", "--json"]);
                refused.expect_error(3, "refused", &["refused"]);
                assert!(last_reason().contains(file), "{}", last_reason());
                assert!(log().contains(file), "{}", log());
                let check = server.run(&["sshfix-agent", "check"]);
                let said = format!("{}{}", check.stdout, check.stderr);
                assert!(!check.ok() && said.contains(file), "{said}");
                server.sh(&format!("chmod 600 {file}; chown root:root {file}")).expect_ok();
            }
            // A link to somebody else's file.
            server
                .sh(&format!("mv {file} {file}.real; cp {file}.real /tmp/x; chmod 666 /tmp/x; ln -s /tmp/x {file}"))
                .expect_ok();
            server.ctl(&["status"]).expect_status(3);
            server.sh(&format!("mv {file}.real {file}")).expect_ok();
            server.ctl(&["status"]).expect_status(0);
        }
        let good = server.read("/etc/sshfix/policy.toml");
        for (broken, place) in [
            ("[[grant]]\nprincipal = \"root\"\nactions = [\"*\"\n", "3"),
            ("[[grant]]\nprincipal = \"root\"\nactions = [\"fly\"]\n", "3"),
            ("[[grant]]\nprincipal = \"root\"\nactions = [\"*\"]\nnetworks = [\"203.0.113.7/24\"]\n", "4"),
        ] {
            server.write("/etc/sshfix/policy.toml", broken);
            server.ctl(&["status"]).expect_status(3);
            assert!(last_reason().contains(&format!("line {place}, column ")), "{}", last_reason());
            let check = server.run(&["sshfix-agent", "check"]);
            let said = format!("{}{}", check.stdout, check.stderr);
            let named = said.contains(&format!("policy.toml:{place}:")) || said.contains(&format!("line {place}, column "));
            assert!(!check.ok() && named && said.contains("policy.toml"), "{said}");
        }
        server.write("/etc/sshfix/policy.toml", good);
        server.ctl(&["status"]).expect_status(0);
        server.run(&["sshfix-agent", "check"]).expect_ok();
        // agent.toml: the agent says so and does not start on it.
        let config = server.read("/etc/sshfix/agent.toml");
        server.write("/etc/sshfix/agent.toml", format!("{config}\nssh_prot = 22\n"));
        let check = server.run(&["sshfix-agent", "check"]);
        let line = config.lines().count() + 2;
        assert!(!check.ok(), "{check:#?}");
        assert!(format!("{}{}", check.stdout, check.stderr).contains(&format!("agent.toml:{line}:1")), "{check:#?}");
    });
}
