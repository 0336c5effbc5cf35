//! firewall: accepts and removals, one rule or element each.

use sshfix_tests::lab::{ADMIN_V4, Server, on_both};

use super::{expect_in, expect_nothing_to_do, expect_out, snapshot};

fn references(server: &Server, text: &str) -> Vec<String> {
    let list = server.ctl(&["firewall", "list", "--json"]).expect_status(0);
    assert!(list.stdout.starts_with("{\"schema\":\"sshfix.firewall/1\""));
    let list = list.json();
    let entries = list["entries"].as_array().unwrap();
    let found = entries.iter().filter(|entry| entry["text"].as_str().unwrap().contains(text));
    found.map(|entry| entry["reference"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn reference(server: &Server, text: &str) -> String {
    let found = references(server, text);
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    found[0].clone()
}

#[test]
fn firewall_accept_lets_exactly_that_address_in() {
    on_both(|server| {
        server.sh("systemctl stop fail2ban; nft flush ruleset").expect_ok();
        let admin = "ip saddr 192.0.2.9 tcp dport 22 accept";
        let cases = [
            (
                "a drop policy",
                format!(
                    "nft add table inet hand; nft 'add chain inet hand input {{ type filter hook input priority 0; policy drop; }}'
                     nft add rule inet hand input ct state established,related accept; nft add rule inet hand input {admin}
                     nft add rule inet hand input icmpv6 type '{{ nd-neighbor-solicit, nd-neighbor-advert }}' accept
                     nft insert rule inet hand input iif lo accept"
                ),
            ),
            (
                "a wide drop rule",
                format!(
                    "nft add table inet hand; nft 'add chain inet hand input {{ type filter hook input priority 0; }}'
                     nft add rule inet hand input {admin}; nft add rule inet hand input tcp dport 1-1024 drop
                     nft insert rule inet hand input iif lo accept"
                ),
            ),
            (
                "iptables-nft",
                "iptables-nft -A INPUT -s 192.0.2.9 -j ACCEPT; iptables-nft -A INPUT -p tcp --dport 22 -j DROP
                 ip6tables-nft -A INPUT -p tcp --dport 22 -j DROP; iptables-nft -I INPUT -i lo -j ACCEPT"
                    .to_owned(),
            ),
            (
                "iptables-legacy",
                "iptables-legacy -A INPUT -s 192.0.2.9 -j ACCEPT; iptables-legacy -A INPUT -p tcp --dport 22 -j DROP
                 ip6tables-legacy -A INPUT -p tcp --dport 22 -j DROP; iptables-legacy -I INPUT -i lo -j ACCEPT"
                    .to_owned(),
            ),
        ];
        for (name, rules) in cases {
            server.sh(&format!("set -e\n{rules}")).expect_ok();
            expect_out(server, &["203.0.113.7", "2001:db8::7"]);
            for address in ["203.0.113.7", "2001:db8::7"] {
                let plan = server.ctl(&["firewall", "accept", address, "--dry-run", "--json"]).expect_status(0).json();
                assert_eq!(plan["opens"].as_array().unwrap().len(), 1, "{name}: {plan:#}");
                server.ctl(&["firewall", "accept", address]).expect_status(0);
                expect_in(server, &[address]);
                expect_nothing_to_do(server.ctl(&["firewall", "accept", address, "--json"]));
            }
            expect_out(server, &["203.0.113.70", "2001:db8::70"]);
            expect_in(server, &[ADMIN_V4]);
            // The accept that lets the admin in is not taken away under him; it is by somebody else.
            let words = if name.starts_with("ipt") { "-s 203.0.113.7/32" } else { "ip saddr 203.0.113.7 " };
            let accept = reference(server, words);
            let before = snapshot_without_fail2ban(server);
            let refused = server.ctl_from("203.0.113.7", &["firewall", "remove", &accept, "--json"]);
            refused.expect_error(4, "lockout", &["203.0.113.7", "your own way in"]);
            assert_eq!(before, snapshot_without_fail2ban(server));
            let removed = server.ctl_confirmed(&["firewall", "remove", &accept]);
            assert_eq!(removed["plan"]["closes"], serde_json::json!(["203.0.113.7/32"]), "{removed:#}");
            expect_out(server, &["203.0.113.7"]);
            expect_in(server, &["2001:db8::7", ADMIN_V4]);
            server.sh("nft flush ruleset; iptables-legacy -F; ip6tables-legacy -F").expect_ok();
        }
    });
}

pub(crate) fn snapshot_without_fail2ban(server: &Server) -> String {
    let rules = "nft list tables | sort | while read -r _ family table; do nft -s list table $family $table; done; \
                 iptables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'; \
                 ip6tables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'";
    server.sh(rules).expect_ok()
}

#[test]
fn firewall_remove_takes_exactly_one_rule_or_element() {
    on_both(|server| {
        server
            .sh("set -e
                 nft add table inet hand
                 nft 'add set inet hand hash { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.70 } }'
                 nft 'add set inet hand ranges { type ipv6_addr; flags interval; elements = { 2001:db8::7, 2001:db8::70/127 } }'
                 nft 'add chain inet hand input { type filter hook input priority 0; }'
                 nft add rule inet hand input ip saddr @hash drop
                 nft add rule inet hand input ip6 saddr @ranges drop
                 nft add rule inet hand input ip saddr 203.0.113.8 drop
                 nft add rule inet hand input ip saddr 198.51.100.7 drop
                 nft add rule inet hand input tcp dport 80 drop
                 iptables-legacy -A INPUT -s 203.0.113.8 -j DROP
                 iptables-legacy -A INPUT -s 198.51.100.7 -j DROP")
            .expect_ok();
        assert!(references(server, "dport 80").is_empty(), "a rule for another port is none of ours");
        let text = server.ctl(&["firewall", "list"]).expect_status(0).stdout;
        assert!(text.contains("@hash/") && text.contains("REFERENCE"), "how to name an element is not said:\n{text}");

        let set = reference(server, "set hash");
        let whole = server.ctl(&["firewall", "remove", &set, "--json"]);
        whole.expect_error(1, "failed", &["whole set", "name one element"]);
        server.ctl(&["firewall", "remove", &format!("{set}/203.0.113.7")]).expect_status(0);
        expect_in(server, &["203.0.113.7"]);
        expect_out(server, &["203.0.113.70"]);
        let gone = server.ctl(&["firewall", "remove", &format!("{set}/203.0.113.7"), "--json"]);
        gone.expect_error(1, "failed", &["203.0.113.7"]);
        let ranges = reference(server, "set ranges");
        server.ctl(&["firewall", "remove", &format!("{ranges}/2001:db8::70/127")]).expect_status(0);
        expect_in(server, &["2001:db8::70"]);
        expect_out(server, &["2001:db8::7"]);

        let rule = references(server, "203.0.113.8").into_iter().find(|text| text.starts_with("nft/")).unwrap();
        let legacy = references(server, "203.0.113.8").into_iter().find(|text| text.starts_with("legacy/")).unwrap();
        server.ctl(&["firewall", "remove", &rule]).expect_status(0);
        expect_out(server, &["203.0.113.8", "198.51.100.7"]);
        server.ctl(&["firewall", "remove", &legacy]).expect_status(0);
        expect_in(server, &["203.0.113.8"]);
        expect_out(server, &["198.51.100.7"]);

        let before = snapshot(server);
        let stale = server.ctl(&["firewall", "remove", &rule, "--json"]);
        stale.expect_error(1, "failed", &[&rule, "there is no"]);
        assert!(stale.json()["advice"].as_str().unwrap().contains("firewall list"), "{:#}", stale.json());
        for wrong in ["", "x", "nft/inet/hand/input/handle/x", "../../etc/passwd", "nft/inet/hand/@nosuch/203.0.113.7"] {
            let result = server.ctl(&["firewall", "remove", "--json", "--", wrong]);
            assert!([1, 2].contains(&result.status), "{wrong}: {result:#?}");
        }
        // What fail2ban made is its own.
        server.sh("fail2ban-client set sshd banip 203.0.113.7").expect_ok();
        for entry in server.ctl(&["firewall", "list", "--json"]).json()["entries"].as_array().unwrap() {
            let (reference, text) = (entry["reference"].as_str().unwrap(), entry["text"].as_str().unwrap());
            if entry["owner"].as_str().unwrap().starts_with("fail2ban") && !reference.contains('@') {
                let refused = server.ctl(&["firewall", "remove", reference, "--json"]);
                refused.expect_error(1, "failed", &["fail2ban"]);
            }
            assert!(!text.contains("f2b-sshd") || entry["owner"] != "nobody", "{entry:#}");
        }
        expect_out(server, &["203.0.113.7"]);
        server.sh("fail2ban-client set sshd unbanip 203.0.113.7").expect_ok();
        let own = |text: &str| text.lines().filter(|line| !line.contains("f2b") && !line.contains("addr-set")).count();
        assert!(own(&snapshot(server)) >= own(&before));
    });
}
