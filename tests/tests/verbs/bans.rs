//! ban, banned and ignoreip: who is kept out, by whom, and who never is.

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{Session, on_both};

use super::{
    addresses, banned_by_fail2ban, expect_in, expect_nothing_to_do, expect_out, ignored_by_fail2ban, restart_agent, snapshot,
};

#[test]
fn ban_keeps_exactly_that_address_out_and_never_locks_anybody_out() {
    on_both(|server| {
        // What it does.
        for (address, other) in [("203.0.113.7", "203.0.113.8"), ("2001:db8::7", "2001:db8::8")] {
            let plan = server.ctl(&["ban", address, "--jail", "sshd", "--dry-run", "--json"]).expect_status(0).json();
            assert!(plan["closes"][0].as_str().unwrap().starts_with(address), "{plan:#}");
            expect_in(server, &[address]);
            let change = server.ctl_confirmed(&["ban", address, "--jail", "sshd"]);
            assert_eq!((&change["state"], &change["changed"]), (&"confirmed".into(), &true.into()), "{change:#}");
            assert!(banned_by_fail2ban(server).contains(&address.to_owned()));
            expect_out(server, &[address]);
            expect_in(server, &[other]);
            expect_nothing_to_do(server.ctl(&["ban", address, "--jail", "sshd", "--json"]));
        }
        let before = snapshot(server);
        let unknown = server.ctl(&["ban", "203.0.113.8", "--jail", "nope", "--json"]);
        unknown.expect_error(1, "failed", &["no jail `nope`", "it has: sshd"]);

        // Whom it must not lock out: the requester, whose own address may also be in a banned range.
        for source in ["203.0.113.8", "203.0.113.0/24"] {
            let refused = server.ctl_from("203.0.113.8", &["ban", source, "--jail", "sshd", "--json"]);
            refused.expect_error(4, "lockout", &["203.0.113.8", "your own way in", "nothing was changed"]);
        }
        let mapped = server.ctl_from("::ffff:203.0.113.8", &["ban", "203.0.113.8", "--jail", "sshd", "--json"]);
        mapped.expect_error(4, "lockout", &["203.0.113.8", "your own way in"]);
        let v6 = server.ctl_from("2001:db8::8", &["ban", "2001:db8::/64", "--jail", "sshd", "--json"]);
        v6.expect_error(4, "lockout", &["2001:db8::8", "your own way in"]);
        let text = server.ctl_from("203.0.113.8", &["ban", "203.0.113.8", "--jail", "sshd"]).expect_status(4);
        for words in ["would lock out", "what to do:", "The plan that was refused:", "ban 203.0.113.8 in jail sshd"] {
            assert!(text.stderr.contains(words), "no `{words}` in {}", text.stderr);
        }

        // A live session.
        {
            let _session = Session::open(server, "203.0.113.70");
            for source in ["203.0.113.70", "203.0.113.64/26"] {
                let refused = server.ctl(&["ban", source, "--jail", "sshd", "--json"]);
                refused.expect_error(4, "lockout", &["203.0.113.70", "a live session"]);
            }
        }

        // A `keep` entry: an address and a range.
        let config = server.read("/etc/sshfix/agent.toml");
        let keep = "\n[[keep]]\naddress = \"198.51.100.0/24\"\n\n[[keep]]\naddress = \"2001:db8::8\"\nuser = \"admin\"\n";
        server.write("/etc/sshfix/agent.toml", format!("{config}{keep}"));
        restart_agent(server);
        for source in ["198.51.100.7", "198.51.100.0/24", "198.51.0.0/16"] {
            let refused = server.ctl(&["ban", source, "--jail", "sshd", "--json"]);
            refused.expect_error(4, "lockout", &["198.51.100.0/24", "`keep` entry"]);
        }
        let refused = server.ctl(&["ban", "2001:db8::8", "--jail", "sshd", "--json"]);
        refused.expect_error(4, "lockout", &["admin from 2001:db8::8", "`keep` entry"]);
        let denied = server.ctl(&["hosts", "deny", "198.51.100.7", "--json"]);
        denied.expect_error(4, "lockout", &["198.51.100.0/24", "`keep` entry"]);
        assert_eq!(before, snapshot(server), "a refused ban changes nothing");
        // A dry run of it is refused alike.
        server.ctl(&["ban", "198.51.100.7", "--jail", "sshd", "--dry-run"]).expect_status(4);
    });
}

#[test]
fn banned_lists_every_blocker_with_its_times() {
    on_both(|server| {
        server
            .sh("fail2ban-client set sshd banip 203.0.113.7 2001:db8::7 >/dev/null
                 nft add table inet hand
                 nft 'add set inet hand hash { type ipv4_addr; elements = { 203.0.113.7 } }'
                 nft 'add set inet hand ranges { type ipv4_addr; flags interval, timeout; elements = { 198.51.100.0/24 timeout 1h } }'
                 nft 'add chain inet hand input { type filter hook input priority 0; }'
                 nft add rule inet hand input ip saddr @hash drop
                 nft add rule inet hand input ip saddr @ranges tcp dport 22 drop
                 nft add rule inet hand input ip6 saddr 2001:db8::70 drop
                 iptables-legacy -A INPUT -s 203.0.113.70 -j DROP
                 ip6tables-legacy -A INPUT -s 2001:db8::/64 -p tcp --dport 22 -j REJECT
                 printf 'sshd: 203.0.113.8\\n' >/etc/hosts.deny")
            .expect_ok();
        let result = server.ctl(&["banned", "--json"]).expect_status(0);
        assert!(result.stdout.starts_with("{\"schema\":\"sshfix.bans/1\""), "{}", result.stdout);
        let bans = result.json();
        let mut tickets: Vec<&Value> =
            bans["bans"].as_array().unwrap().iter().filter(|ban| ban["by"] == "fail2ban jail sshd").collect();
        tickets.sort_by_key(|ban| ban["source"].to_string());
        assert_eq!(tickets.len(), 2, "{bans:#}");
        for ticket in &tickets {
            let time = |name: &str| ticket[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            assert_eq!(time("until").duration_since(time("since")).as_secs(), 600, "{ticket:#}");
        }
        assert_eq!(addresses(&bans, "nft set inet hand hash"), ["203.0.113.7/32"]);
        assert_eq!(addresses(&bans, "nft set inet hand ranges"), ["198.51.100.0/24"]);
        assert_eq!(addresses(&bans, "nft inet hand input"), ["2001:db8::70/128"]);
        assert_eq!(addresses(&bans, "iptables-legacy"), ["203.0.113.70/32"], "{bans:#}");
        assert_eq!(addresses(&bans, "ip6tables-legacy"), ["2001:db8::/64"], "{bans:#}");
        assert_eq!(addresses(&bans, "hosts.deny line 1"), ["203.0.113.8/32"]);

        let one = server.ctl(&["banned", "203.0.113.7", "--json"]).expect_status(0).json();
        let mut sources: Vec<_> = one["bans"].as_array().unwrap().iter().map(|ban| ban["source"].as_str().unwrap()).collect();
        sources.dedup();
        assert_eq!(sources, ["203.0.113.7/32"], "{one:#}");
        let in_a_range = server.ctl(&["banned", "198.51.100.7", "--json"]).expect_status(0).json();
        assert_eq!(addresses(&in_a_range, "nft set inet hand ranges"), ["198.51.100.0/24"]);
        let nobody = server.ctl(&["banned", "192.0.2.200"]).expect_status(0);
        assert!(nobody.stdout.contains("No ban or rule names"), "{}", nobody.stdout);
        let text = server.ctl(&["banned"]).expect_status(0).stdout;
        assert!(text.contains("UNTIL") && ["in 9 min", "in 8 min", "in 7 min"].iter().any(|left| text.contains(left)), "{text}");
    });
}

#[test]
fn ignoreip_is_set_at_once_and_a_lease_ends_also_across_a_restart() {
    on_both(|server| {
        let jails = server.ctl(&["fail2ban", "jails", "--json"]).expect_status(0);
        assert!(jails.stdout.starts_with("{\"schema\":\"sshfix.jails/1\""));
        assert_eq!(jails.json()["jails"][0]["name"], "sshd");
        for entry in ["203.0.113.8", "198.51.100.0/24", "2001:db8::8"] {
            server.ctl(&["fail2ban", "ignore", entry]).expect_status(0);
            assert!(ignored_by_fail2ban(server).contains(entry));
            expect_nothing_to_do(server.ctl(&["fail2ban", "ignore", entry, "--jail", "sshd", "--json"]));
        }
        let listed = server.ctl(&["fail2ban", "jails", "--json"]).json();
        assert_eq!(listed["jails"][0]["ignore"], serde_json::json!(["198.51.100.0/24", "2001:db8::8", "203.0.113.8"]));
        // One address of an ignored range is not an entry.
        expect_nothing_to_do(server.ctl(&["fail2ban", "unignore", "198.51.100.7", "--json"]));
        for entry in ["203.0.113.8", "198.51.100.0/24", "2001:db8::8"] {
            server.ctl(&["fail2ban", "unignore", entry]).expect_status(0);
            assert!(!ignored_by_fail2ban(server).contains(entry));
        }
        let wrong = server.ctl(&["fail2ban", "ignore", "203.0.113.8", "--jail", "nope", "--json"]);
        wrong.expect_error(1, "failed", &["no jail `nope`"]);

        // A lease, and the same across a restart of the agent and across its death.
        for trouble in [
            "",
            "systemctl stop sshfix-agent.service; sleep 16; systemctl start sshfix-agent.service",
            "systemctl kill -s KILL sshfix-agent.service",
        ] {
            server.sh("fail2ban-client set sshd banip 203.0.113.7").expect_ok();
            let change = server.ctl(&["unban", "203.0.113.7", "--ignore-for", "15s", "--json"]).expect_status(0).json();
            expect_in(server, &["203.0.113.7"]);
            assert!(ignored_by_fail2ban(server).contains("203.0.113.7"));
            let status = server.ctl(&["status", "--json"]).json();
            assert_eq!(status["leases"][0]["change"], change["id"], "{status:#}");
            if !trouble.is_empty() {
                server.sh(trouble).expect_ok();
            }
            let text = || server.ctl(&["status"]).stdout;
            server.wait_until("the lease ends", Duration::from_mins(2), || !ignored_by_fail2ban(server).contains("203.0.113.7"));
            server.wait_until("status shows no lease", Duration::from_mins(2), || !text().contains("lease"));
            expect_in(server, &["203.0.113.7"]);
        }
        // A second one while the first runs lasts as long as the later end.
        server.ctl(&["unban", "203.0.113.7", "--ignore-for", "1h"]).expect_status(0);
        let again = server.ctl(&["unban", "203.0.113.7", "--ignore-for", "2h", "--json"]).expect_status(0).json();
        assert_eq!(again["state"], "confirmed", "{again:#}");
        let status = server.ctl(&["status", "--json"]).json();
        let made_by: Vec<_> = status["leases"].as_array().unwrap().iter().map(|lease| &lease["change"]).collect();
        assert!(made_by.len() == 2 && made_by.contains(&&again["id"]), "{status:#}");
    });
}
