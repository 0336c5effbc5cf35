//! Every rule is printed as the tool that made it prints it.

use std::collections::BTreeSet;

use sshfix_agent::subsystem::nf_tables::Ruleset;
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::ipset::SetNames;
use sshfix_policy::subsystem::nf_tables::render;
use sshfix_tests::lab::{Netns, feed as run, root_or_skip};

const NFT: &str = r#"
table inet f2b-table {
	set addr-set-sshd {
		type ipv4_addr
		elements = { 203.0.113.7, 203.0.113.8 }
	}
	set addr6-set-sshd {
		type ipv6_addr
		elements = { 2001:db8::7 }
	}
	chain f2b-chain {
		type filter hook input priority filter - 1; policy accept;
		tcp dport 22 ip saddr @addr-set-sshd reject with icmp port-unreachable
		tcp dport 22 ip6 saddr @addr6-set-sshd reject with icmpv6 port-unreachable
		tcp dport { 22, 2222 } ip saddr @addr-set-sshd reject
	}
}
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		ct state established,related accept
		ct state invalid drop
		iifname "lo" accept
		iif "lo" accept
		ip saddr 203.0.113.7 drop
		ip saddr != 203.0.113.0/24 tcp dport 22 drop
		ip saddr 10.0.0.0/8 counter accept
		ip saddr 10.0.0.1-10.0.0.9 accept
		ip6 saddr 2001:db8::/32 tcp dport 22 accept
		ip saddr { 192.0.2.1, 198.51.100.0/24 } accept
		meta nfproto ipv4 accept
		meta l4proto tcp accept
		tcp dport 22 limit rate 10/minute burst 5 packets accept
		tcp dport 22 limit rate over 10/minute burst 20 packets drop
		tcp flags syn / fin,syn,rst,ack accept
		tcp dport != 22 accept
		tcp dport 1000-2000 accept
		meta mark 0x00000001 accept
		fib daddr type local accept
		tcp dport 22 log prefix "ssh: " accept comment "the door"
		ip saddr 203.0.113.9 reject with tcp reset
		ip saddr 203.0.113.9 reject with icmpx admin-prohibited
		udp dport 53 accept
		ip saddr . tcp dport { 192.0.2.1 . 22 } accept
		jump deep
		goto deep
	}
	chain deep {
		return
	}
}
table ip native {
	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr 203.0.113.7 tcp dport 22 reject with icmp host-prohibited
		ip protocol tcp accept
		ip saddr 203.0.113.9 reject
	}
}
"#;

const IPTABLES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:f2b-sshd - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -s 203.0.113.7/32 -i eth0 -p tcp -m tcp --dport 22 -j DROP
-A INPUT ! -s 10.0.0.0/8 -i wg+ -j ACCEPT
-A INPUT -s 10.1.2.0/23 -p udp -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -m limit --limit 10/min -j ACCEPT
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP
-A INPUT -p tcp -m tcp --dport 22 ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP
-A INPUT -p tcp -m tcp --sport 1024:65535 --dport 22:23 -j DROP
-A INPUT -p udp -m udp ! --dport 1:10 -j DROP
-A INPUT -p tcp -m tcp --dport 80 -m comment --comment \"the web\" -j ACCEPT
-A f2b-sshd -s 203.0.113.7/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
COMMIT
";

/// The rules of the namespace as we print them, by chain.
fn ours() -> Vec<String> {
    let mut ruleset = Ruleset::new();
    let Part::Present(mut state) = ruleset.observe() else { panic!() };
    let sets: BTreeSet<_> = state.sets.iter().map(|set| set.key.clone()).filter(|key| key.set.starts_with("__")).collect();
    ruleset.lookup_elements(&mut state, &BTreeSet::new(), &sets).unwrap();
    let rules = state.chains.iter().flat_map(|chain| chain.rules.iter().map(move |rule| (chain, rule)));
    rules.map(|(chain, rule)| render::rule(&state, chain, rule, &SetNames::new())).collect()
}

#[test]
fn rules_are_printed_as_nft_prints_them() {
    if !root_or_skip() {
        return;
    }
    let namespace = Netns::new();
    namespace.enter(|| {
        run("/usr/sbin/nft", &["-f", "-"], NFT);
        let theirs = run("/usr/sbin/nft", &["-s", "list", "ruleset"], "");
        let words = ["table ", "set ", "type ", "elements", "chain ", "}"];
        let theirs: Vec<&str> = theirs
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !words.iter().any(|word| line.starts_with(word)))
            .collect();
        let theirs: Vec<String> = theirs.iter().map(|line| plain(line)).collect();
        let ours: Vec<String> = ours().iter().map(|line| plain(line)).collect();
        let differ: Vec<_> = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).collect();
        assert!(differ.is_empty(), "{differ:#?}");
        assert_eq!(ours.len(), theirs.len());
    });
}

/// nft releases differ in how they write the same mask of TCP flags, names of numbers, and the default reason of a reject.
fn plain(line: &str) -> String {
    line.replace("tcp flags syn / fin,syn,rst,ack", "tcp flags & (fin | syn | rst | ack) == syn")
}

#[test]
fn rules_of_iptables_nft_are_printed_as_iptables_save_prints_them() {
    if !root_or_skip() {
        return;
    }
    let namespace = Netns::new();
    namespace.enter(|| {
        run("/usr/sbin/iptables-nft-restore", &[], IPTABLES);
        let saved = run("/usr/sbin/iptables-nft-save", &[], "");
        let theirs: Vec<&str> = saved.lines().filter(|line| line.starts_with("-A ")).collect();
        assert_eq!(ours(), theirs);
    });
}
