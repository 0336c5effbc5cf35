//! A firewall that lets ssh in and forgets neighbour discovery (RFC 4861): a client that nobody knows stays out, the diagnosis says by
//! which policy, and what opens it opens it for him alone.

use sshfix_tests::lab::{ADMIN_V6, Server, on_both, run};

use super::firewall::snapshot_without_fail2ban;
use super::{expect_in, expect_out};

/// Both ends forget each other's link address, as they do by themselves after some time.
fn forget(server: &Server) {
    server.run(&["ip", "-6", "neigh", "flush", "all"]);
    run(&["ip", "-6", "-n", server.clients_netns(), "neigh", "flush", "all"]);
}

/// Exit status, verdict and detail of the netfilter stage, and what it quotes.
fn filtered(server: &Server, address: &str) -> (i32, String, String) {
    let diagnosis = server.ctl(&["diagnose", address, "--json"]);
    let status = diagnosis.status;
    let document = diagnosis.json();
    let stages = document["stages"].as_array().unwrap();
    let stage = stages.iter().find(|stage| stage["stage"] == "netfilter").unwrap();
    (status, stage["detail"].as_str().unwrap().to_owned(), stage["evidence"].to_string())
}

#[test]
fn a_forgotten_neighbour_discovery_is_refused_by_its_policy_and_opened_for_one_client() {
    on_both(|server| {
        server.sh("systemctl stop fail2ban; nft flush ruleset").expect_ok();
        let (one, other) = ("2001:db8::7", "2001:db8::8");
        let cases = [
            (
                "nft",
                "nft add table inet hand; nft 'add chain inet hand input { type filter hook input priority 0; policy drop; }'
                 nft add rule inet hand input iif lo accept; nft add rule inet hand input tcp dport 22 accept",
                "policy drop",
                "nft list chain inet hand input",
                "ip6 saddr 2001:db8::7 icmpv6 type nd-neighbor-solicit accept",
            ),
            (
                "ip6tables-nft",
                "ip6tables-nft -A INPUT -i lo -j ACCEPT; ip6tables-nft -A INPUT -p tcp --dport 22 -j ACCEPT; ip6tables-nft -P INPUT DROP",
                "policy drop",
                "ip6tables-nft-save",
                "-A INPUT -s 2001:db8::7/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
            ),
            (
                "ip6tables-legacy",
                "ip6tables-legacy -A INPUT -i lo -j ACCEPT; ip6tables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT
                 ip6tables-legacy -P INPUT DROP",
                "-P INPUT DROP",
                "ip6tables-legacy-save",
                "-A INPUT -s 2001:db8::7/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
            ),
        ];
        for (name, rules, policy, list, accept) in cases {
            server.sh(&format!("set -e\n{rules}")).expect_ok();
            forget(server);
            expect_out(server, &[one, other]);
            for address in [one, other] {
                forget(server);
                let (status, detail, quoted) = filtered(server, address);
                assert_eq!(status, 8, "{name}: {detail}");
                assert!(
                    detail.starts_with("the SYN does not arrive: its neighbour solicitation on host0 is dropped"),
                    "{detail}"
                );
                assert!(quoted.contains(policy) && quoted.contains("no entry"), "{name}: {quoted}");
            }
            // Behind a gateway it is the gateway that does not find this host, and that this host does not find.
            let (status, detail, _) = filtered(server, ADMIN_V6);
            assert_eq!(status, 8, "{name}: {detail}");
            assert!(detail.contains("its gateway 2001:db8::fe on host0 is dropped"), "{detail}");
            let before = snapshot_without_fail2ban(server);
            let plan = server.ctl(&["unban", one, "--dry-run", "--json"]).expect_status(0).json();
            assert_eq!(plan["opens"], serde_json::json!([format!("{one}/128")]), "{name}: {plan:#}");
            assert_eq!(plan["steps"].as_array().unwrap().len(), 2, "{name}: {plan:#}");
            // Read back by every release's own tools, and taken back to the byte.
            server.ctl(&["allow", one, "--for", "1h"]).expect_status(0);
            assert!(server.sh(list).expect_ok().contains("icmpv6-type 136") || name == "nft");
            let leases = server.ctl(&["leases", "--json"]).expect_status(0).json();
            let id = leases["leases"][0]["id"].as_str().unwrap().to_owned();
            forget(server);
            expect_in(server, &[one]);
            server.ctl(&["revoke", &id]).expect_status(0);
            assert_eq!(snapshot_without_fail2ban(server), before, "{name}");
            forget(server);
            server.ctl(&[if name == "nft" { "fix" } else { "unban" }, one]).expect_status(0);
            let listed = server.sh(list).expect_ok();
            assert!(listed.contains(accept), "{name}: {listed}");
            forget(server);
            expect_in(server, &[one]);
            if name == "nft" {
                forget(server);
                expect_out(server, &[other]);
            }
            forget(server);
            assert_eq!((filtered(server, one).0, filtered(server, other).0), (0, 8), "{name}");
            // Who is known gets in, and it is said until when.
            server.sh("nft flush ruleset; ip6tables-legacy -P INPUT ACCEPT; ip6tables-legacy -F").expect_ok();
            expect_in(server, &[other]);
            server.sh(&format!("set -e\n{rules}")).expect_ok();
            expect_in(server, &[other]);
            let (status, detail, quoted) = filtered(server, other);
            assert_eq!(status, 0, "{name}: {detail}");
            assert!(detail.contains("it gets in only while it knows this host's link address"), "{detail}");
            assert!(quoted.contains(policy), "{name}: {quoted}");
            server.sh("nft flush ruleset; ip6tables-legacy -P INPUT ACCEPT; ip6tables-legacy -F").expect_ok();
        }
    });
}
