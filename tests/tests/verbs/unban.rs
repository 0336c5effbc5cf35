//! unban: inside a banned range, and with the agent killed in the middle.

use std::thread::sleep;
use std::time::{Duration, Instant};

use sshfix_tests::lab::{Release, on_both};

use super::{banned_by_fail2ban, expect_in, expect_nothing_to_do, expect_out, snapshot};

/// A wider ban stays for the others of the range.
#[test]
fn unban_inside_a_banned_range_opens_that_address_alone() {
    on_both(|server| {
        let clean = "fail2ban-client unban --all >/dev/null; nft delete table inet hand 2>/dev/null || true
                     nft delete table inet f2b-table 2>/dev/null || true; : >/etc/hosts.deny
                     : >/etc/hosts.allow; iptables-nft -D INPUT -s 203.0.113.0/28 -j DROP 2>/dev/null || true
                     iptables-nft -D INPUT -s 203.0.113.7/32 -p tcp --dport 22 -j ACCEPT 2>/dev/null || true
                     iptables-legacy -F INPUT";
        let table = "nft add table inet hand; nft 'add chain inet hand input { type filter hook input priority 0; }'";
        let v4 = ("203.0.113.7", "203.0.113.8", "203.0.113.7/32");
        let v6 = ("2001:db8::7", "2001:db8::8", "2001:db8::7/128");
        let cases = [
            // Debian 13's fail2ban cannot: see the end of this test.
            (
                v4,
                if server.release() == Release::Bookworm {
                    "fail2ban-client set sshd banip 203.0.113.0/28".to_owned()
                } else {
                    "fail2ban-client set sshd banip 203.0.113.0/28 >/dev/null
                     nft delete table inet f2b-table
                     nft add table inet f2b-table
                     nft 'add set inet f2b-table addr-set-sshd { type ipv4_addr; flags interval; elements = { 203.0.113.0/28 } }'
                     nft 'add chain inet f2b-table f2b-chain { type filter hook input priority filter - 1; }'
                     nft add rule inet f2b-table f2b-chain tcp dport 22 ip saddr @addr-set-sshd reject"
                        .to_owned()
                },
            ),
            (
                v4,
                format!(
                    "{table}; nft 'add set inet hand s {{ type ipv4_addr; flags interval; elements = {{ 203.0.113.0/28 }} }}'
                     nft add rule inet hand input ip saddr @s drop"
                ),
            ),
            (
                v6,
                format!(
                    "{table}; nft 'add set inet hand s {{ type ipv6_addr; flags interval; elements = {{ 2001:db8::2-2001:db8::f }} }}'
                     nft add rule inet hand input ip6 saddr @s tcp dport 22 reject"
                ),
            ),
            (v4, format!("{table}; nft add rule inet hand input ip saddr 203.0.113.0/24 drop")),
            (v6, format!("{table}; nft add rule inet hand input ip6 saddr 2001:db8::/64 tcp dport 22 drop")),
            (v4, "iptables-nft -A INPUT -s 203.0.113.0/28 -j DROP".to_owned()),
            (v4, "iptables-legacy -A INPUT -s 203.0.113.0/28 -j DROP".to_owned()),
            (v4, "printf 'sshd: 203.0.113.\\n' >/etc/hosts.deny".to_owned()),
        ];
        for ((address, other, opens), rules) in cases {
            server.sh(&format!("set -e\n{rules}")).expect_ok();
            println!("{}: {rules}", server.release());
            expect_out(server, &[address, other]);
            let plan = server.ctl(&["unban", address, "--dry-run", "--json"]).expect_status(0).json();
            assert_eq!(plan["opens"], serde_json::json!([opens]), "{rules}: {plan:#}");
            assert_eq!(plan["closes"], serde_json::json!([]), "{rules}: {plan:#}");
            server.ctl(&["unban", address]).expect_status(0);
            expect_in(server, &[address]);
            expect_out(server, &[other]);
            server.ctl(&["diagnose", address]).expect_status(0);
            server.ctl(&["diagnose", other]).expect_status(8);
            expect_nothing_to_do(server.ctl(&["unban", address, "--json"]));
            server.sh(clean).expect_ok();
        }

        // The whole net of a line only where that is asked for.
        for (deny, left, address, other, net) in [
            ("sshd: 203.0.113.0/255.255.255.0, 198.51.100.7", "sshd: 198.51.100.7\n", v4.0, v4.1, "203.0.113.0/24"),
            ("sshd: [2001:db8::]/64", "", v6.0, v6.1, "2001:db8::/64"),
        ] {
            server.write("/etc/hosts.deny", format!("{deny}\n"));
            expect_out(server, &[other]);
            let exact = server.ctl(&["unban", address, "--dry-run", "--json"]).expect_status(0).json();
            assert_eq!(exact["alternatives"][0]["opens"], serde_json::json!([net]), "{deny}: {exact:#}");
            let plan = server.ctl(&["unban", address, "--range", "--dry-run", "--json"]).expect_status(0).json();
            assert_eq!(plan["opens"], serde_json::json!([net]), "{deny}: {plan:#}");
            assert_eq!(plan["alternatives"][0]["opens"], exact["opens"], "what was not taken now: {plan:#}");
            server.ctl(&["unban", address, "--range"]).expect_status(0);
            assert_eq!((server.read("/etc/hosts.deny").as_str(), server.read("/etc/hosts.allow").as_str()), (left, ""));
            expect_in(server, &[address, other]);
        }
        expect_in(server, &["203.0.113.70"]);

        // And a range lifts everything in it, no more.
        server
            .sh(&format!(
                "set -e; fail2ban-client set sshd banip 203.0.113.7 203.0.113.70 >/dev/null; {table}
                 nft add rule inet hand input ip saddr 203.0.113.8 drop; nft add rule inet hand input ip saddr 198.51.100.7 drop
                 printf 'sshd: 203.0.113.8, 203.0.113.70\\n' >/etc/hosts.deny"
            ))
            .expect_ok();
        let plan = server.ctl(&["unban", "203.0.113.0/28", "--dry-run", "--json"]).expect_status(0).json();
        for source in plan["opens"].as_array().unwrap() {
            assert!(["203.0.113.7/32", "203.0.113.8/32", "203.0.113.0/28"].contains(&source.as_str().unwrap()), "{plan:#}");
        }
        server.ctl(&["unban", "203.0.113.0/28"]).expect_status(0);
        expect_in(server, &["203.0.113.7", "203.0.113.8"]);
        expect_out(server, &["203.0.113.70", "198.51.100.7"]);
        assert_eq!(server.read("/etc/hosts.deny"), "sshd: 203.0.113.70\n");
        assert_eq!(banned_by_fail2ban(server), ["203.0.113.70"]);
        // A ban that fail2ban takes and whose action fails is not called done without a word.
        if server.release() == Release::Trixie {
            let change = server.ctl(&["ban", "198.51.100.64/26", "--jail", "sshd", "--json"]).expect_status(5).json();
            assert!(change["notes"].to_string().contains("still reaches port 22"), "{change:#}");
        }
    });
}

/// "Nothing to do" is taken for open: where a stage refuses or cannot be judged, it is named, quoted, and told what to do about.
#[test]
fn an_unban_that_lifts_nothing_never_says_open_where_it_is_not() {
    on_both(|server| {
        let me = "203.0.113.7";
        expect_nothing_to_do(server.ctl(&["unban", me, "--json"]));
        let input = "iptables-nft -I INPUT -p tcp --dport 22";
        for (rule, quoted) in [
            (
                format!("{input} -m hashlimit --hashlimit-above 5/min --hashlimit-mode srcip --hashlimit-name x -j DROP"),
                "hashlimit",
            ),
            (format!("{input} -m time --timestart 01:00 --timestop 02:00 -j DROP"), "-m time"),
            (format!("{input} -j NFQUEUE"), "-j NFQUEUE"),
            (format!("{input} -m limit --limit 5/min -j ACCEPT; iptables-nft -A INPUT -p tcp --dport 22 -j DROP"), "-j DROP"),
            (
                "nft add table inet hand; nft 'add chain inet hand input { type filter hook input priority 0; }'
                 nft add rule inet hand input tcp dport 22 limit rate over 5/minute drop"
                    .to_owned(),
                "limit rate over 5/minute",
            ),
        ] {
            server.sh(&format!("set -e; {rule}")).expect_ok();
            // Done as often as it is asked for; only a fix promises the whole way.
            for (verb, status) in [("unban", 0), ("fix", 9)] {
                let change = server.ctl(&[verb, me, "--json"]).expect_status(status).json();
                assert_eq!((&change["state"], &change["verdict"]), (&"unchanged".into(), &"unknown".into()), "{change:#}");
                assert_eq!(change["stages"][0]["stage"], "netfilter", "{change:#}");
                assert!(change["stages"][0]["evidence"].to_string().contains(quoted), "{change:#}");
                let plan = server.ctl(&[verb, me, "--dry-run", "--json"]).expect_status(0).json();
                assert_eq!((&plan["verdict"], &plan["stages"]), (&change["verdict"], &change["stages"]), "{plan:#}");
                for said in [server.ctl(&[verb, me]), server.ctl(&[verb, me, "--dry-run"])] {
                    assert!(said.stdout.starts_with("UNKNOWN") && !said.stdout.contains("Nothing to do"), "{said:#?}");
                    for part in [quoted, "netfilter may refuse it", "sshfix ctl firewall accept 203.0.113.7"] {
                        assert!(said.stdout.contains(part), "{part} is not in {said:#?}");
                    }
                }
            }
            // What it says is what helps.
            server.ctl(&["firewall", "accept", me]).expect_status(0);
            expect_nothing_to_do(server.ctl(&["unban", me, "--json"]));
            server.sh("iptables-nft -F INPUT; nft delete table inet hand 2>/dev/null || true").expect_ok();
        }

        // What is done is done, and what keeps it out besides is told: a daemon that is down is no ban.
        server.sh("nft add table inet hand; nft 'add chain inet hand input { type filter hook input priority 0; }'").expect_ok();
        server.sh("nft add rule inet hand input ip saddr 203.0.113.7 drop; systemctl stop ssh.service").expect_ok();
        let change = server.ctl(&["unban", me, "--json"]).expect_status(0).json();
        assert_eq!((&change["state"], &change["verdict"]), (&"confirmed".into(), &"refuse".into()), "{change:#}");
        let again = server.ctl(&["unban", me]).expect_status(0);
        assert!(again.stdout.starts_with("BLOCKED") && again.stdout.contains("listener refuses it"), "{again:#?}");
        assert!(again.stdout.contains("what to do: sshd-down"), "{again:#?}");
        server.sh("systemctl start ssh.service").expect_ok();
        expect_in(server, &[me]);
    });
}

/// Killed at any moment of an unban, the next start ends in the state before or the state after, never between.
#[test]
fn an_agent_killed_during_an_unban_leaves_nothing_half_done() {
    on_both(|server| {
        let block = "set -e
            fail2ban-client set sshd banip 203.0.113.7 203.0.113.8 >/dev/null
            nft add table inet hand
            nft 'add set inet hand hash { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.8 } }'
            nft 'add chain inet hand input { type filter hook input priority 0; }'
            nft add rule inet hand input ip saddr @hash drop
            nft add rule inet hand input ip saddr 203.0.113.7 drop
            iptables-nft -A INPUT -s 203.0.113.7 -p tcp --dport 22 -j DROP
            iptables-legacy -A INPUT -s 203.0.113.7 -j DROP
            printf 'sshd: 203.0.113.7\\nsshd: 203.0.113.8\\n' >/etc/hosts.deny";
        // Not `unban --all`: that flushes fail2ban's chain, and its `return` with it.
        let clean =
            "fail2ban-client unban 203.0.113.7 203.0.113.8 >/dev/null; nft delete table inet hand; iptables-legacy -F INPUT
            iptables-nft -D INPUT -s 203.0.113.7 -p tcp --dport 22 -j DROP 2>/dev/null || true";
        // How long a whole one takes, and what it leaves.
        server.sh(block).expect_ok();
        let started = Instant::now();
        server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
        let whole = started.elapsed();
        let lifted = snapshot(server);
        server.sh(clean).expect_ok();
        server.sh(block).expect_ok();
        let blocked = snapshot(server);
        let (mut before, mut after) = (0, 0);
        for round in 0..12_u32 {
            std::thread::scope(|scope| {
                let unban = scope.spawn(|| server.ctl(&["unban", "203.0.113.7"]));
                sleep(whole * (round % 12 + 1) / 12);
                server.run(&["systemctl", "kill", "-s", "KILL", "--kill-whom=main", "sshfix-agent.service"]);
                let said = unban.join().unwrap();
                assert!([0, 1, 6, 10].contains(&said.status), "{said:#?}");
            });
            // Recovery is done before the socket is served.
            let answered = || server.ctl(&["status"]).status == 0;
            server.wait_until("the agent is back", Duration::from_mins(2), answered);
            let now = snapshot(server);
            let log = || server.run(&["journalctl", "--no-pager", "-u", "sshfix-agent", "-n", "30"]).stdout;
            if now == blocked {
                before += 1;
                expect_out(server, &["203.0.113.7"]);
            } else {
                assert_eq!(now, lifted, "killed in round {round}, half of it is left:\n{}", log());
                after += 1;
                expect_in(server, &["203.0.113.7"]);
            }
            // Nothing is in the way of the next change.
            let next = server.ctl(&["unban", "203.0.113.7", "--json"]);
            assert_eq!(next.status, 0, "{next:#?}\n{}", log());
            assert_eq!(snapshot(server), lifted);
            server.sh(clean).expect_ok();
            server.sh(block).expect_ok();
        }
        assert!(before + after == 12, "{before} rolled back, {after} done");
        let unfinished = "import sqlite3
db = sqlite3.connect('file:/var/lib/sshfix/state.db?mode=ro', uri=True)
print(list(db.execute(\"SELECT id, state, detail FROM changes WHERE state NOT IN ('confirmed', 'rolled-back')\")))";
        assert_eq!(server.run(&["python3", "-c", unfinished]).expect_ok(), "[]");
    });
}
