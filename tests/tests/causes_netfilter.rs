//! Each cause that packet filters can have, made for real on servers of both releases: the client is kept out, the diagnosis names the
//! cause with its rule, and the fix that it prints lets the client in and nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{Release, Server, root_or_skip, run};

const ME: &str = "203.0.113.7";
const OTHER: &str = "203.0.113.8";
/// How rules are made: nft itself, and iptables on both backends.
const STACKS: [&str; 3] = ["nft", "iptables-nft", "iptables-legacy"];

fn boot(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server
}

/// No rules at all.
fn flush(server: &Server) {
    server
        .sh("nft flush ruleset
            for table in filter nat raw mangle; do
                iptables-legacy -t $table -F; iptables-legacy -t $table -X
            done
            iptables-legacy -P INPUT ACCEPT; iptables-legacy -P OUTPUT ACCEPT")
        .expect_ok();
}

/// Loads rules: nft's own, or lines of arguments for iptables.
fn load(server: &Server, stack: &str, nft: &str, iptables: &[&str]) {
    flush(server);
    if stack == "nft" {
        // nft 1.0 wants a rule to end before the brace.
        server.run_with_input(&["nft", "-f", "-"], nft.replace(" } }", "\n}\n}").as_bytes()).expect_ok();
        return;
    }
    for line in iptables {
        server.sh(&format!("{stack} {line}")).expect_ok();
    }
}

fn stage<'v>(diagnosis: &'v Value, name: &str) -> &'v Value {
    diagnosis["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == name).unwrap()
}

/// The one finding of a client that is kept out.
#[track_caller]
fn finding(server: &Server, from: &str) -> (Value, Value) {
    assert!(!server.ssh(from).ok, "{from} must be kept out");
    let diagnosis = server.ctl(&["diagnose", from, "--json"]).expect_status(8).json();
    let findings = diagnosis["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{diagnosis:#}");
    let finding = findings[0].clone();
    assert_eq!(finding["blocking"], true, "{diagnosis:#}");
    (diagnosis, finding)
}

/// Does to the letter what the finding says.
#[track_caller]
fn fixed(server: &Server, finding: &Value, from: &str) {
    let fix = finding["fix"].as_str().unwrap();
    server.sh(fix).expect_ok();
    let login = server.ssh(from);
    assert!(login.ok, "after `{fix}`: {}", login.stderr);
    server.ctl(&["diagnose", from]).expect_status(0);
}

#[test]
fn a_drop_policy_that_no_accept_comes_before_is_named() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        for stack in STACKS {
            load(
                &server,
                stack,
                "table ip filter { chain input { type filter hook input priority 0; policy drop;
                    ct state established,related accept
                    iifname lo accept
                    ip saddr 192.0.2.0/24 tcp dport 22 accept } }",
                &[
                    "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
                    "-A INPUT -i lo -j ACCEPT",
                    "-A INPUT -s 192.0.2.0/24 -p tcp --dport 22 -j ACCEPT",
                    "-P INPUT DROP",
                ],
            );
            let (diagnosis, finding) = finding(&server, ME);
            let cause = if stack == "nft" { "nft-rule" } else { "iptables-rule" };
            assert_eq!(finding["cause"], cause, "{stack}: {diagnosis:#}");
            let evidence = finding["evidence"][0]["text"].as_str().unwrap();
            assert!(evidence.contains("policy drop") || evidence == "-P INPUT DROP", "{evidence}");
            fixed(&server, &finding, ME);
            assert!(!server.ssh(OTHER).ok, "{release} {stack}: {OTHER} must stay out");
        }
    }
}

#[test]
fn a_missing_accept_for_established_connections_is_named_in_both_directions() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        for stack in STACKS {
            let out = (
                "table ip filter { chain output { type filter hook output priority 0; policy drop; udp dport 53 accept } }",
                ["-A OUTPUT -p udp --dport 53 -j ACCEPT", "-P OUTPUT DROP"],
                "the answer to the SYN is dropped",
            );
            let back = (
                "table ip filter { chain input { type filter hook input priority 0; policy drop;
                    ct state new tcp dport 22 accept } }",
                ["-A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT", "-P INPUT DROP"],
                "the ACK that completes the handshake is dropped",
            );
            for (nft, iptables, says) in [out, back] {
                load(&server, stack, nft, &iptables);
                let (diagnosis, finding) = finding(&server, ME);
                assert_eq!(finding["cause"], "ct-established", "{stack}: {diagnosis:#}");
                let detail = stage(&diagnosis, "netfilter")["detail"].as_str().unwrap();
                assert!(detail.starts_with(says), "{detail}");
                fixed(&server, &finding, ME);
                assert!(!server.ssh(OTHER).ok, "{release} {stack}: {OTHER} must stay out");
            }
            // A rule that names the client is no missing accept.
            load(
                &server,
                stack,
                "table ip filter { chain output { type filter hook output priority 0; ip daddr 203.0.113.7 drop } }",
                &["-A OUTPUT -d 203.0.113.7 -j DROP"],
            );
            let cause = if stack == "nft" { "nft-rule" } else { "iptables-rule" };
            assert_eq!(finding(&server, ME).1["cause"], cause, "{stack}");
        }
    }
}

#[test]
fn a_port_that_is_sent_elsewhere_is_named_with_where_it_goes() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        for stack in STACKS {
            let cause = if stack == "nft" { "nft-rule" } else { "iptables-rule" };
            let nft = |to: &str| {
                format!("table ip nat {{ chain prerouting {{ type nat hook prerouting priority -100; tcp dport 22 {to} }} }}")
            };
            let iptables = |to: &str| format!("-t nat -A PREROUTING -p tcp --dport 22 -j {to}");

            load(&server, stack, &nft("dnat to 203.0.113.99:2022"), &[&iptables("DNAT --to-destination 203.0.113.99:2022")]);
            let (diagnosis, finding) = finding(&server, ME);
            assert_eq!(finding["cause"], cause, "{diagnosis:#}");
            assert!(finding["evidence"][0]["text"].as_str().unwrap().contains("203.0.113.99:2022"), "{diagnosis:#}");
            assert!(stage(&diagnosis, "netfilter")["detail"].as_str().unwrap().contains("sent to another host"), "{diagnosis:#}");
            fixed(&server, &finding, ME);
            assert!(!server.ssh(OTHER).ok, "{release} {stack}");

            load(&server, stack, &nft("redirect to :2022"), &[&iptables("REDIRECT --to-ports 2022")]);
            let (diagnosis, finding) = self::finding(&server, ME);
            assert_eq!(finding["cause"], cause, "{diagnosis:#}");
            assert!(stage(&diagnosis, "netfilter")["detail"].as_str().unwrap().contains("sent to port 2022"), "{diagnosis:#}");
            assert!(stage(&diagnosis, "listener")["detail"].as_str().unwrap().contains("port 2022"), "{diagnosis:#}");
            fixed(&server, &finding, ME);
            assert!(!server.ssh(OTHER).ok, "{release} {stack}");
        }
        // Where an SSH server listens on that port, the path is open, and the listener is the one of that port.
        server.write("/etc/ssh/sshd_config.d/lab.conf", "Port 22\nPort 2022\n");
        server.sh("systemctl restart ssh").expect_ok();
        for stack in STACKS {
            load(
                &server,
                stack,
                "table ip nat { chain prerouting { type nat hook prerouting priority -100; tcp dport 22 redirect to :2022 } }",
                &["-t nat -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2022"],
            );
            assert!(server.ssh(ME).ok);
            let diagnosis = server.ctl(&["diagnose", ME, "--json"]).expect_status(0).json();
            assert!(
                stage(&diagnosis, "netfilter")["detail"].as_str().unwrap().contains("delivered to port 2022"),
                "{diagnosis:#}"
            );
            assert!(stage(&diagnosis, "listener")["detail"].as_str().unwrap().contains(":2022"), "{diagnosis:#}");
        }
    }
}

/// What counts packets or connections may refuse, and cannot be told for the next one: it is named, and is no block.
#[test]
fn rules_that_count_are_named_and_the_fix_gets_past_them() {
    if !root_or_skip() {
        return;
    }
    let own = |rule: &str, policy: &str| {
        format!(
            "table ip filter {{ set seen {{ type ipv4_addr; size 100; flags dynamic; }}
            chain input {{ type filter hook input priority 0; policy {policy};
            ct state established accept
            tcp dport 22 {rule} }} }}"
        )
    };
    let established = "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT";
    let cases = [
        ("nft", own("limit rate 10/minute accept", "drop"), vec![], "limit rate 10/minute"),
        ("nft", own("limit rate over 10/minute drop", "accept"), vec![], "limit rate over 10/minute"),
        ("nft", own("add @seen { ip saddr ct count over 3 } reject", "accept"), vec![], "@seen"),
        (
            "iptables",
            String::new(),
            vec!["-A INPUT -p tcp --dport 22 -m limit --limit 10/min -j ACCEPT", "-P INPUT DROP"],
            "-m limit",
        ),
        (
            "iptables",
            String::new(),
            vec!["-A INPUT -p tcp --dport 22 -m connlimit --connlimit-above 3 -j REJECT"],
            "-m connlimit",
        ),
        (
            "iptables",
            String::new(),
            vec![
                "-A INPUT -p tcp --dport 22 -m hashlimit --hashlimit-above 10/min --hashlimit-mode srcip --hashlimit-name ssh -j DROP",
            ],
            "-m hashlimit",
        ),
    ];
    for release in Release::ALL {
        let server = boot(release);
        for (kind, nft, rules, says) in &cases {
            let stacks: &[&str] = if *kind == "nft" { &["nft"] } else { &["iptables-nft", "iptables-legacy"] };
            for stack in stacks {
                let mut lines = vec![established];
                lines.extend(rules);
                load(&server, stack, nft, &lines);
                let diagnosis = server.ctl(&["diagnose", ME, "--json"]).expect_status(9).json();
                let finding = &diagnosis["findings"][0];
                assert_eq!(finding["cause"], "iptables-ratelimit", "{release} {stack} {says}: {diagnosis:#}");
                assert_eq!(finding["blocking"], false, "{diagnosis:#}");
                let evidence = finding["evidence"].to_string();
                assert!(evidence.contains(says), "{evidence}");
                assert!(stage(&diagnosis, "netfilter")["detail"].as_str().unwrap().contains("may be"), "{diagnosis:#}");
                fixed(&server, finding, ME);
                server.ctl(&["diagnose", OTHER]).expect_status(9);
            }
        }
    }
}

fn list(server: &Server, name: &str) -> String {
    server.run(&["cat", &format!("/proc/net/xt_recent/{name}")]).expect_ok()
}

/// The classic lockout: whoever connects too often is dropped, and each try makes it last longer.
#[test]
fn a_recent_list_that_holds_the_client_is_named_and_the_entry_is_cleared() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        for (stack, me, other, to) in [
            ("iptables-nft", ME, OTHER, "203.0.113.7"),
            ("iptables-legacy", ME, OTHER, "203.0.113.7"),
            ("ip6tables-nft", "2001:db8::7", "2001:db8::8", "2001:0db8:0000:0000:0000:0000:0000:0007"),
        ] {
            load(
                &server,
                stack,
                "",
                &[
                    "-A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --set --name SSH",
                    "-A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 60 --hitcount 4 --name SSH -j REJECT",
                ],
            );
            // Whoever is not listed gets in, and that can be told.
            server.ctl(&["diagnose", other]).expect_status(0);
            for _ in 0..3 {
                assert!(server.ssh(me).ok, "{release} {stack}");
            }
            let (diagnosis, finding) = finding(&server, me);
            assert_eq!(finding["cause"], "iptables-ratelimit", "{diagnosis:#}");
            let evidence = finding["evidence"].to_string();
            assert!(
                evidence.contains("/proc/net/xt_recent/SSH")
                    && evidence.contains(&format!("{me}, "))
                    && evidence.contains(" hits, the last "),
                "{evidence}"
            );
            let listed = || list(&server, "SSH").contains(&format!("src={to} "));
            assert!(listed());
            let plan = server.ctl(&["unban", me, "--dry-run", "--json"]).expect_status(0).json();
            assert_eq!(plan["steps"].as_array().unwrap().len(), 1, "{plan:#}");
            assert_eq!(plan["steps"][0]["summary"], format!("take {me} off the recent list SSH"), "{plan:#}");
            assert!(listed(), "a dry run changes nothing");
            fixed(&server, &finding, me);
        }
        // A failing step puts the address on the list again, with its hits.
        load(&server, "iptables-nft", "", &["-A INPUT -p tcp --dport 22 -m recent --rcheck --hitcount 3 --name bad -j REJECT"]);
        server
            .sh("for i in 1 2 3; do echo +203.0.113.7 >/proc/net/xt_recent/bad; done; echo +203.0.113.8 >/proc/net/xt_recent/bad")
            .expect_ok();
        server.write("/etc/hosts.deny", "sshd: 203.0.113.7\n");
        server.write("/run/sshfix/fail-step", "2");
        let change = server.ctl(&["unban", ME, "--json"]).expect_status(6).json();
        assert_eq!(
            (&change["state"], &change["failure"]["stuck"]),
            (&"rolled-back".into(), &serde_json::json!([])),
            "{change:#}"
        );
        assert!(!server.ssh(ME).ok);
        let after = list(&server, "bad");
        assert!(after.lines().any(|line| line.starts_with("src=203.0.113.7 ") && line.matches(',').count() == 2), "{after}");
        server.ctl(&["unban", ME]).expect_status(0);
        assert!(server.ssh(ME).ok);
        assert!(list(&server, "bad").contains("203.0.113.8"), "the neighbour stays");
    }
}

/// Routing that is not symmetric: the client's packets come in by one interface, answers leave by another, and the strict filter of the
/// first drops what comes in.
#[test]
fn a_reverse_path_filter_that_drops_the_client_is_named() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        let filter = |value: &str| {
            server
                .sh(&format!(
                    "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo {value} >/proc/sys/net/ipv4/conf/host0/rp_filter"
                ))
                .expect_ok();
        };
        // A second cable between the two.
        let (leader, clients) = (server.leader().to_string(), server.clients_netns());
        run(&["ip", "-n", clients, "link", "add", "back", "type", "veth", "peer", "name", "back0", "netns", &leader]).expect_ok();
        run(&["ip", "-n", clients, "link", "set", "back", "up"]).expect_ok();
        server
            .sh("ip link set back0 up; ip addr add 198.51.100.1/24 dev back0; echo 0 >/proc/sys/net/ipv4/conf/back0/rp_filter")
            .expect_ok();
        server.sh("ip route add 203.0.113.7 dev back0").expect_ok();
        filter("0");
        let login = server.ssh(ME);
        assert!(login.ok, "{release}: without a filter the two ways work: {}", login.stderr);
        server.ctl(&["diagnose", ME]).expect_status(0);

        filter("1");
        assert!(!server.ssh(ME).ok, "{release}: the strict filter drops it");
        let diagnosis = server.ctl(&["diagnose", ME, "--explain", "--json"]).expect_status(9).json();
        let route = stage(&diagnosis, "route");
        assert_eq!(route["verdict"], "unknown", "{diagnosis:#}");
        let detail = route["detail"].as_str().unwrap();
        assert!(detail.contains("rp_filter 1 drops its packets if they come in by host0; answers leave by back0"), "{detail}");
        let trace = route["trace"].to_string();
        assert!(trace.contains("/proc/sys/net/ipv4/conf/host0/rp_filter"), "{trace}");
        let finding = &diagnosis["findings"][0];
        assert_eq!((&finding["cause"], &finding["blocking"]), (&"route-blackhole".into(), &false.into()), "{diagnosis:#}");
        // The neighbour, whose answers leave where it comes in, is open and known to be.
        assert!(server.ssh(OTHER).ok);
        server.ctl(&["diagnose", OTHER]).expect_status(0);
        fixed(&server, finding, ME);

        // Answers leave by an interface by which nothing ever comes in: then the client certainly stays out.
        server.sh("ip link add hole type bridge; ip link set hole up; ip route replace 203.0.113.7 dev hole").expect_ok();
        filter("1");
        let (diagnosis, finding) = self::finding(&server, ME);
        assert_eq!(finding["cause"], "route-blackhole", "{diagnosis:#}");
        assert!(finding["evidence"][0]["source"].as_str().unwrap().ends_with("host0/rp_filter"), "{diagnosis:#}");
        fixed(&server, &finding, ME);
    }
}

/// What wg-quick loads for a full tunnel, and what people write against private addresses from outside: nobody outside is judged by
/// the address that the tunnel has.
#[test]
fn a_guard_of_a_tunnels_address_leaves_clients_from_outside_open() {
    if !root_or_skip() {
        return;
    }
    let guards = "table ip wg-quick-wg0 { chain preraw { type filter hook prerouting priority raw; policy accept;
            iifname != \"wg0\" ip daddr 10.8.0.1 fib saddr type != local drop } }
        table ip6 wg-quick-wg0 { chain preraw { type filter hook prerouting priority raw; policy accept;
            iifname != \"wg0\" ip6 daddr fd00:8::1 fib saddr type != local drop } }
        table inet martians { chain input { type filter hook input priority 0; policy accept;
            iifname \"host0\" ip daddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 } drop
            iifname \"host0\" ip6 daddr fc00::/7 drop
            tcp dport 22 ip saddr 203.0.113.7 reject
            tcp dport 22 ip6 saddr 2001:db8::7 reject } }";
    for release in Release::ALL {
        let server = boot(release);
        server
            .sh("ip link add wg0 type veth peer name wg1; ip link set wg1 up; ip link set wg0 up
                ip addr add 10.8.0.1/24 dev wg0; ip addr add fd00:8::1/64 dev wg0 nodad")
            .expect_ok();
        for (blocked, near) in [("203.0.113.7", "203.0.113.8"), ("2001:db8::7", "2001:db8::8")] {
            load(&server, "nft", guards, &[]);
            assert!(server.ssh(near).ok, "{release} {near}");
            let open = server.ctl(&["diagnose", near, "--json"]).expect_status(0).json();
            assert_eq!(open["findings"], Value::Array(Vec::new()), "{open:#}");
            let who = server.ctl(&["firewall", "who", "--json"]).expect_status(0).json();
            let judged = who["unknown"].to_string();
            assert!(!judged.contains("203.0.113.") && !judged.contains("2001:db8:"), "{judged}");
            let (_, finding) = finding(&server, blocked);
            assert!(finding["evidence"].to_string().contains("martians"), "{finding:#}");
            let plan = server.ctl(&["unban", blocked, "--dry-run", "--json"]).expect_status(0).json();
            assert_eq!(plan["steps"].as_array().unwrap().len(), 1, "{plan:#}");
            fixed(&server, &finding, blocked);
        }
    }
}

/// A host whose address is on a bridge (hypervisors): its bridge tables see every packet, by the name of the port.
#[test]
fn a_rule_of_a_bridge_that_keeps_a_client_out_is_named_and_the_fix_gets_past_it() {
    if !root_or_skip() {
        return;
    }
    let rules = "table bridge filter {
        chain pre { type filter hook prerouting priority -300; policy accept; ip6 saddr 2001:db8::7 drop } }
        table bridge late { chain input { type filter hook input priority 0; policy accept;
            ip saddr 203.0.113.70 tcp dport 22 drop
            iifname \"host0\" ip saddr 203.0.113.7 drop
            iifname \"br0\" ip saddr 203.0.113.8 drop } }
        table bridge out { chain out { type filter hook output priority 0; policy accept; ip daddr 198.51.100.7 drop } }";
    for release in Release::ALL {
        let server = boot(release);
        server
            .sh("ip link add br0 type bridge && ip link set br0 up && ip link set host0 master br0 && ip addr flush dev host0 scope global
                ip addr add 203.0.113.1/24 dev br0; ip addr add 2001:db8::1/64 dev br0 nodad
                ip route add default via 203.0.113.254; ip -6 route replace default via 2001:db8::fe dev br0; ip link set br0 address \
                $(cat /sys/class/net/host0/address)")
            .expect_ok();
        server.wait_until("the bridge forwards", Duration::from_mins(1), || server.ssh(OTHER).ok);
        load(&server, "nft", rules, &[]);
        for (blocked, chain) in [
            (ME, "nft bridge late input"),
            ("203.0.113.70", "nft bridge late input"),
            ("198.51.100.7", "nft bridge out out"),
            ("2001:db8::7", "nft bridge filter pre"),
        ] {
            let (diagnosis, finding) = finding(&server, blocked);
            assert_eq!(finding["cause"], "nft-rule", "{diagnosis:#}");
            assert!(finding["evidence"].to_string().contains(chain), "{finding:#}");
            assert!(server.ssh(OTHER).ok, "a rule on br0 is none on its port");
            server.ctl(&["diagnose", OTHER]).expect_status(0);
            let who = server.ctl(&["firewall", "who", "--json"]).expect_status(0).json();
            assert_eq!(who["unknown"], Value::Array(Vec::new()), "{who:#}");
            fixed(&server, &finding, blocked);
        }
    }
}

/// New connections are dropped while established ones go on: the table of connection tracking is full.
#[test]
fn a_full_connection_tracking_table_is_named() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = boot(release);
        let stateful = "table ip filter { chain input { type filter hook input priority 0; policy drop;
            ct state established,related accept
            tcp dport 22 accept } }";
        load(&server, "nft", stateful, &[]);
        server.ctl(&["diagnose", ME]).expect_status(0);
        // As many connections as there is room for, all of them assured, so that none can be evicted, and none that ends soon.
        server
            .sh("conntrack -F >/dev/null 2>&1; max=$(cat /proc/sys/net/netfilter/nf_conntrack_max)
                seq 0 $max | awk '{ a=int($1/65536); b=int($1/256)%256; c=$1%256
                    printf \"-A -p tcp -s 10.%d.%d.%d -d 10.99.0.1 --sport 1000 --dport 2000 -t 6000 -u ASSURED,SEEN_REPLY --state ESTABLISHED\\n\", a, b, c }' >/run/entries
                conntrack -R /run/entries >/dev/null 2>&1 || true
                rm /run/entries
                test $(cat /proc/sys/net/netfilter/nf_conntrack_count) -ge $max")
            .expect_ok();
        let (diagnosis, finding) = finding(&server, ME);
        assert_eq!(finding["cause"], "ct-established", "{diagnosis:#}");
        assert!(stage(&diagnosis, "netfilter")["detail"].as_str().unwrap().contains("table is full"), "{diagnosis:#}");
        assert!(finding["fix"].as_str().unwrap().starts_with("sysctl -w net.netfilter.nf_conntrack_max="), "{diagnosis:#}");
        server.ctl(&["unban", ME]).expect_status(1);
        // One entry that the kernel may evict: the next connection may get in, and that cannot be told. Its garbage collection takes
        // such entries away by itself where the table is nearly full (gc_worker in nf_conntrack_core.c), and then there is room.
        let evictable = "conntrack -D -s 10.0.0.7 >/dev/null 2>&1
            conntrack -I -p tcp -s 10.0.0.7 -d 10.99.0.1 --sport 1000 --dport 2000 -t 6000 --state SYN_SENT >/dev/null 2>&1";
        server.wait_until("the entry stays while it is looked at", Duration::from_mins(1), || {
            server.sh(evictable);
            let diagnosis = server.ctl(&["diagnose", ME, "--json"]);
            if !server.sh("conntrack -L -s 10.0.0.7 2>/dev/null | grep -q SYN_SENT").ok() {
                return false;
            }
            let unknown = diagnosis.expect_status(9).json();
            assert_eq!(unknown["findings"][0]["cause"], "ct-established", "{unknown:#}");
            true
        });
        // Connections that no rule tracks have room: this ruleset asks for no state.
        flush(&server);
        assert!(server.ssh(ME).ok, "{release}");
        server.ctl(&["diagnose", ME]).expect_status(0);
    }
}
