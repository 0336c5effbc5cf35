//! Opening exactly what was asked, on real servers of both releases: an address inside a blocked range, behind a drop policy or a rule
//! for everybody gets in, and its neighbours do not; the whole range only with `--range`; and what a plan says it opens and closes is
//! the difference between `firewall who` before and after.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use std::collections::BTreeSet;

use serde_json::Value;
use sshfix_policy::address::Source;
use sshfix_policy::ranges::{address, highest, number};
use sshfix_policy::reply::{SourceRange, Who};
use sshfix_tests::lab::{Release, Server, root_or_skip};

fn who(server: &Server) -> Who {
    serde_json::from_value(server.ctl(&["firewall", "who", "--json"]).expect_status(0).json()).unwrap()
}

fn rank(who: &Who, v6: bool, at: u128) -> usize {
    let holds = |ranges: &[SourceRange]| {
        ranges.iter().any(|one| one.first.is_ipv6() == v6 && number(one.first) <= at && at <= number(one.last))
    };
    let lists = [holds(&who.blocked), who.unknown.iter().any(|one| holds(&one.sources)), holds(&who.reach)];
    lists.iter().position(|yes| *yes).unwrap_or(0)
}

fn sources(list: &Value) -> Vec<Source> {
    list.as_array().unwrap().iter().map(|one| one.as_str().unwrap().parse().unwrap()).collect()
}

/// Opens and closes of the plan are the difference between the partitions, at every address where one of them changes.
fn is_the_difference(before: &Who, after: &Who, plan: &Value) {
    let (opens, closes) = (sources(&plan["opens"]), sources(&plan["closes"]));
    for v6 in [false, true] {
        let unknown = [before, after].into_iter().flat_map(|who| &who.unknown).flat_map(|one| &one.sources);
        let listed = [&before.reach, &before.blocked, &after.reach, &after.blocked].into_iter().flatten().chain(unknown);
        let mut ends: Vec<_> = listed.filter(|one| one.first.is_ipv6() == v6).map(|one| (one.first, one.last)).collect();
        ends.extend(opens.iter().chain(&closes).filter(|one| one.is_ipv4() != v6).map(|one| (one.first(), one.last())));
        let edges: BTreeSet<u128> =
            ends.into_iter().flat_map(|(first, last)| [Some(number(first)), number(last).checked_add(1)]).flatten().collect();
        for at in edges.into_iter().filter(|at| *at <= highest(v6)) {
            let source = Source::from(address(v6, at));
            let holds = |list: &[Source]| list.iter().any(|one| one.contains(source));
            let (was, is) = (rank(before, v6, at), rank(after, v6, at));
            assert_eq!((holds(&opens), holds(&closes)), (is > was, is < was), "{source}: {plan:#}");
        }
    }
}

/// Plans, applies, and compares with the partitions. Gives the plan.
fn applied(server: &Server, command: &[&str]) -> Value {
    let before = who(server);
    let plan = server.ctl(&[command, &["--dry-run", "--json"]].concat()).expect_status(0).json();
    let digest = plan["digest"].as_str().unwrap().to_owned();
    let change = server.ctl(&[command, &["--plan", &digest, "--json"]].concat());
    let change = change.json();
    if change["state"] == "pending" {
        server.ctl(&["confirm", change["id"].as_str().unwrap()]).expect_status(0);
    } else {
        assert_eq!(change["state"], "confirmed", "{change:#}");
    }
    is_the_difference(&before, &who(server), &plan);
    plan
}

/// A fresh ruleset: everybody but the admin's addresses goes through it.
fn load(server: &Server, rules: &str) {
    let text = format!(
        "flush ruleset
        table inet hand {{
            {rules}
        }}"
    );
    server.run_with_input(&["nft", "-f", "-"], text.as_bytes()).expect_ok();
}

const NEAR: [(&str, &str, &str, &str, &str); 2] = [
    ("203.0.113.7", "203.0.113.8", "203.0.113.0/28", "ipv4_addr", "ip"),
    ("2001:db8::7", "2001:db8::8", "2001:db8::/124", "ipv6_addr", "ip6"),
];

fn boot(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server
}

#[test]
fn an_address_is_taken_out_of_a_range_with_its_comment_and_time_and_put_back() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        for (blocked, near, net, kind, ip) in NEAR {
            load(
                &server,
                &format!(
                    "set bad {{ type {kind}; flags interval,timeout; elements = {{ {net} timeout 1h comment \"a bad net\" }} }}
                    chain input {{ type filter hook input priority 0; policy accept; {ip} saddr @bad tcp dport 22 drop; }}"
                ),
            );
            assert!(!server.ssh(blocked).ok && !server.ssh(near).ok);
            let listed = server.sh("nft list set inet hand bad").expect_ok();
            let plan = applied(&server, &["unban", blocked]);
            let step = plan["steps"][0]["summary"].as_str().unwrap();
            assert_eq!(step, format!("take {blocked} out of {net} in set inet hand bad"), "{plan:#}");
            assert_eq!(sources(&plan["opens"]), [blocked.parse::<Source>().unwrap()]);
            let others = plan["alternatives"].to_string();
            assert!(others.contains("15 others; needs --range") && others.contains(net), "{others}");
            assert!(server.ssh(blocked).ok, "{release}");
            assert!(!server.ssh(near).ok, "{release} {near} got in as well");
            let set = server.sh("nft list set inet hand bad").expect_ok();
            assert_eq!(set.matches("a bad net").count(), 2, "{set}");
            let left = set.matches("timeout 1h expires 59m").count() + set.matches("timeout 1h expires 58m").count();
            assert_eq!(left, 2, "{set}");
            // The step after a step that fails takes the range back together.
            load(
                &server,
                &format!(
                    "set bad {{ type {kind}; flags interval; elements = {{ {net} }} }}
                    chain input {{ type filter hook input priority 0; policy accept; {ip} saddr @bad tcp dport 22 drop; }}
                    chain later {{ type filter hook input priority 5; policy accept; {ip} saddr {blocked} tcp dport 22 drop; }}"
                ),
            );
            let whole = server.sh("nft list set inet hand bad").expect_ok();
            server.write("/run/sshfix/fail-step", "2");
            server.ctl(&["unban", blocked]).expect_status(6);
            assert_eq!(server.sh("nft list set inet hand bad").expect_ok(), whole, "{listed}");
            assert!(!server.ssh(near).ok);
            let plan = applied(&server, &["unban", blocked, "--range"]);
            assert_eq!(sources(&plan["opens"]), [net.parse::<Source>().unwrap()], "{plan:#}");
            assert!(server.ssh(blocked).ok && server.ssh(near).ok);
        }
    }
}

#[test]
fn behind_a_policy_a_wide_rule_or_a_rule_for_everybody_only_the_one_gets_in() {
    if !root_or_skip() {
        return;
    }
    let admin =
        "ip saddr 192.0.2.9 accept; ip6 saddr 2001:db8:9::9 accept; ct state established accept; meta l4proto ipv6-icmp accept;";
    for release in Release::ALL {
        let server = boot(release);
        for (blocked, near, net, kind, ip) in NEAR {
            let pairs = format!(
                "set pairs {{ type {kind} . inet_service; flags interval; elements = {{ {net} . 22 }} }}
                chain input {{ type filter hook input priority 0; policy accept; {ip} saddr . tcp dport @pairs drop; }}"
            );
            let wide = |end: &str| format!("chain input {{ type filter hook input priority 0; {end} }}");
            for (rules, instead) in [
                (wide(&format!("policy drop; {admin}")), None),
                (wide(&format!("policy accept; {admin} tcp dport 22 reject;")), Some("firewall remove")),
                (wide(&format!("policy accept; {ip} saddr {net} tcp dport 22 drop;")), Some("--range")),
                (pairs, Some("--range")),
            ] {
                load(&server, &rules);
                assert!(!server.ssh(blocked).ok && !server.ssh(near).ok, "{rules}");
                let plan = applied(&server, &["unban", blocked]);
                assert_eq!(sources(&plan["opens"]), [blocked.parse::<Source>().unwrap()], "{plan:#}");
                assert!(instead.is_none_or(|words| plan["alternatives"].to_string().contains(words)), "{plan:#}");
                assert!(server.ssh(blocked).ok, "{release} {rules}");
                assert!(!server.ssh(near).ok, "{release} {near} got in as well: {rules}");
            }
        }
    }
}

#[test]
fn accepts_removals_and_bans_open_and_close_what_the_plan_says() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        load(
            &server,
            "set bad { type ipv4_addr; flags interval; elements = { 203.0.113.0/28, 198.51.100.0/24 } }
            set one { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.70 } }
            chain input { type filter hook input priority 0; policy accept;
                ip saddr 203.0.113.9 accept
                ip saddr @bad tcp dport 22 drop
                ip saddr @one tcp dport 22 drop
                ip saddr 10.0.0.0/8 drop
                ip6 saddr 2001:db8:7::/48 tcp dport 22 reject
            }",
        );
        let reference = |text: &str| {
            let list = server.ctl(&["firewall", "list", "--json"]).expect_status(0).json();
            let entries = list["entries"].as_array().unwrap().clone();
            let entry = entries.iter().find(|entry| entry["text"].as_str().unwrap().contains(text)).unwrap();
            entry["reference"].as_str().unwrap().to_owned()
        };
        let plan = applied(&server, &["firewall", "accept", "198.51.100.0/23"]);
        assert_eq!(sources(&plan["opens"]), ["198.51.100.0/24".parse::<Source>().unwrap()], "{plan:#}");
        applied(&server, &["firewall", "remove", "nft/inet/hand/@bad/203.0.113.0/28"]);
        assert!(!server.ssh("203.0.113.7").ok && server.ssh("203.0.113.8").ok, "{release}");
        applied(&server, &["firewall", "remove", "nft/inet/hand/@one/203.0.113.7"]);
        assert!(server.ssh("203.0.113.7").ok && !server.ssh("203.0.113.70").ok, "{release}");
        applied(&server, &["firewall", "remove", &reference("10.0.0.0/8")]);
        applied(&server, &["firewall", "remove", &reference("2001:db8:7::/48")]);
        // A rule that lets somebody in: taking it away closes nothing any more, since the range is gone.
        let plan = applied(&server, &["firewall", "remove", &reference("203.0.113.9")]);
        assert_eq!((sources(&plan["opens"]).len(), sources(&plan["closes"]).len()), (0, 0), "{plan:#}");
        // A ban of fail2ban makes its own rule, which the partition shows afterwards.
        let plan = server.ctl(&["ban", "203.0.113.8", "--jail", "sshd", "--dry-run", "--json"]).expect_status(0).json();
        assert_eq!(sources(&plan["closes"]), ["203.0.113.8".parse::<Source>().unwrap()]);
    }
}

#[test]
fn a_banned_range_stays_unless_range_is_asked_for() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        // The sets of fail2ban's own nftables action hold no ranges.
        server.write("/etc/fail2ban/jail.d/zz-iptables.local", "[sshd]\nbanaction = iptables-multiport\n");
        server.sh("systemctl restart fail2ban").expect_ok();
        server.wait_for_fail2ban();
        server.sh("fail2ban-client set sshd banip 203.0.113.0/28").expect_ok();
        assert!(!server.ssh("203.0.113.7").ok && !server.ssh("203.0.113.8").ok, "{release}");
        let plan = applied(&server, &["unban", "203.0.113.7"]);
        assert!(plan["alternatives"].to_string().contains("unban 203.0.113.0/28 in jail sshd"), "{plan:#}");
        assert!(server.ssh("203.0.113.7").ok && !server.ssh("203.0.113.8").ok, "{release}");
        let plan = applied(&server, &["unban", "203.0.113.8", "--range"]);
        assert!(plan["steps"].to_string().contains("unban 203.0.113.0/28 in jail sshd"), "{plan:#}");
        assert!(server.ssh("203.0.113.8").ok, "{release}");
        assert!(!server.sh("fail2ban-client get sshd banip").expect_ok().contains("203.0.113.0/28"));
    }
}
