//! What a request says: the plan that was shown, the reason, addresses good and bad.

use std::thread::sleep;
use std::time::Duration;

use sshfix_tests::lab::on_both;

use super::{audit, expect_in, snapshot};

#[test]
fn only_the_plan_that_was_shown_is_applied_and_reasons_are_kept() {
    on_both(|server| {
        server.sh("fail2ban-client set sshd banip 203.0.113.7").expect_ok();
        let shown = server.ctl(&["unban", "203.0.113.7", "--dry-run", "--json"]).expect_status(0).json();
        let digest = shown["digest"].as_str().unwrap().to_owned();
        // Time alone does not change a plan.
        sleep(Duration::from_millis(1100));
        let again = server.ctl(&["unban", "203.0.113.7", "--dry-run", "--json"]).expect_status(0).json();
        assert_eq!(again["digest"], digest);
        server
            .sh("nft add table inet hand; nft 'add chain inet hand input { type filter hook input priority 0; }'; \
                   nft add rule inet hand input ip saddr 203.0.113.7 drop")
            .expect_ok();
        let before = snapshot(server);
        let wrong = format!("sha256:{}", "0".repeat(64));
        for digest in [&digest, &wrong] {
            let refused = server.ctl(&["unban", "203.0.113.7", "--plan", digest, "--json"]);
            refused.expect_error(1, "plan-changed", &["nothing was changed"]);
            let plan = &refused.json()["plan"];
            assert!(plan["digest"] != *digest.as_str() && plan["steps"].as_array().unwrap().len() == 2, "{plan:#}");
            let text = server.ctl(&["unban", "203.0.113.7", "--plan", digest]).expect_status(1);
            assert!(text.stderr.contains("203.0.113.7 drop"), "the new plan is not shown: {}", text.stderr);
        }
        server.ctl(&["unban", "203.0.113.7", "--plan", "sha256:12"]).expect_status(2);
        assert_eq!(before, snapshot(server));
        let plan = server.ctl(&["unban", "203.0.113.7", "--dry-run", "--json"]).json()["digest"].as_str().unwrap().to_owned();
        let reason = "ticket #42: \"J\u{fc}rgen\" is locked out";
        server.ctl(&["unban", "203.0.113.7", "--plan", &plan, "--reason", reason]).expect_status(0);
        expect_in(server, &["203.0.113.7"]);
        let records = audit(server);
        let kept = records.iter().filter(|body| body.contains("ticket #42") && body.contains("J\u{fc}rgen")).count();
        assert_eq!(kept, 1, "{records:#?}");
        let change = records.iter().any(|body| body.contains(&plan) && body.contains("confirmed"));
        assert!(change, "{records:#?}");
        server.ctl(&["unban", "203.0.113.7", "--reason", &"x".repeat(100_000)]).expect_status(2);

        let status = server.ctl(&["status", "--json"]).expect_status(0);
        assert!(status.stdout.starts_with("{\"schema\":\"sshfix.status/1\""));
        let status = status.json();
        let found = |name: &str| {
            let subsystems = status["subsystems"].as_array().unwrap();
            subsystems.iter().find(|one| one["name"] == name).cloned().unwrap_or_default()
        };
        assert_eq!(status["port"], 22);
        assert_eq!(found("fail2ban")["state"], "present");
        for server in ["listener", "sshd"] {
            assert!(found(server)["version"].as_str().unwrap().starts_with("OpenSSH"), "{status:#}");
        }
        let present = ["nf_tables", "hosts_access", "route", "sshd", "ipset"].map(|name| found(name)["state"].clone());
        assert_eq!(present, ["present", "present", "present", "present", "absent"], "{status:#}");
        assert!(found("xtables")["state"].is_string(), "{status:#}");
        assert_eq!(status["subsystems"].as_array().unwrap().len(), 8, "{status:#}");
        assert!(status["pending"].is_null());
        let text = server.ctl(&["status"]).expect_status(0).stdout;
        for word in ["fail2ban", "nf_tables", "No change is pending", "server"] {
            assert!(text.contains(word), "{text}");
        }
    });
}

#[test]
fn mapped_addresses_mean_ipv4_and_bad_ones_are_refused_clearly() {
    on_both(|server| {
        server.sh("fail2ban-client set sshd banip 203.0.113.7 203.0.113.8").expect_ok();
        server.ctl(&["diagnose", "::ffff:203.0.113.7"]).expect_status(8);
        let plain = server.ctl(&["unban", "203.0.113.7", "--dry-run", "--json"]).json();
        for mapped in ["::ffff:203.0.113.7", "::ffff:cb00:7107", "::FFFF:203.0.113.7/128"] {
            assert_eq!(server.ctl(&["unban", mapped, "--dry-run", "--json"]).json()["digest"], plain["digest"]);
        }
        server.ctl(&["unban", "::ffff:203.0.113.7"]).expect_status(0);
        expect_in(server, &["203.0.113.7"]);
        server.ctl_confirmed(&["hosts", "deny", "::ffff:203.0.113.7"]);
        assert!(server.read("/etc/hosts.deny").ends_with("sshd: 203.0.113.7\n"));
        server.ctl(&["unban", "::ffff:203.0.113.7"]).expect_status(0);
        expect_in(server, &["203.0.113.7"]);

        let before = snapshot(server);
        let huge = "1".repeat(100_000);
        let long = format!("203.0.113.7/{}", "0".repeat(5000));
        for bad in [
            "",
            " ",
            "203.0.113.7/24",
            "203.0.113",
            "1.2.3.4/33",
            "::g",
            "fe80::1%eth0",
            "example.org",
            "203.0.113.7;id",
            "\u{1b}[31mx",
            "٢",
            &huge,
            &long,
            "01.2.3.4",
        ] {
            for verb in [
                &["unban"][..],
                &["ban", "--jail", "sshd"],
                &["diagnose"],
                &["banned"],
                &["hosts", "deny"],
                &["firewall", "accept"],
                &["fail2ban", "ignore"],
            ] {
                let result = server.ctl(&[verb, &["--", bad]].concat());
                assert_eq!(result.status, 2, "{verb:?} {bad:.20}: {result:#?}");
                assert!(!result.stderr.is_empty() && !result.stderr.contains('\u{1b}'), "{}", result.stderr);
                assert!(result.stderr.len() < 3000, "{verb:?} {bad:.20}: {} bytes of error", result.stderr.len());
            }
        }
        let host_bits = server.ctl(&["unban", "203.0.113.7/24", "--json"]);
        host_bits.expect_error(2, "usage", &["host bits", "203.0.113.0/24"]);
        server.ctl(&["diagnose", "203.0.113.0/24"]).expect_status(2);
        for none in ["0.0.0.0", "224.0.0.1", "ff02::1", "::ffff:255.255.255.255"] {
            server.ctl(&["diagnose", none]).expect_status(2);
        }
        server.ctl(&["diagnose", "203.0.113.7", "--port", "0"]).expect_status(2);
        for bad in ["", "0s", "5", "1y", "-3s", "99999999999999999999s"] {
            server.ctl(&["unban", "203.0.113.7", &format!("--ignore-for={bad}")]).expect_status(2);
        }
        for jail in ["", "../x", "sshd\n", &"j".repeat(10_000), "sshd'; DROP"] {
            let result = server.ctl(&["ban", "203.0.113.70", "--jail", jail]);
            assert!([1, 2].contains(&result.status), "{jail:.20}: {result:#?}");
            assert!(result.stderr.len() < 3000, "{} bytes of error", result.stderr.len());
        }
        assert_eq!(before, snapshot(server));
    });
}
