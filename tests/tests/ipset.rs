//! ipset rules on real servers of both releases, through iptables-nft and iptables-legacy: the element that blocks is named and
//! deleted when it is exactly the source, a network around it stays and only the one address is let in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use serde_json::Value;
use sshfix_tests::lab::{Release, Server, on_both, root_or_skip};

/// The programs an ipset rule is made with.
const STACKS: [&str; 2] = ["nft", "legacy"];

fn diagnosed(server: &Server, address: &str) -> Value {
    let diagnosis = server.ctl(&["diagnose", address, "--json"]).expect_status(8).json();
    assert_eq!(diagnosis["verdict"], "refuse", "{diagnosis:#}");
    diagnosis
}

/// `ipset IPSET-ARGUMENTS`, and a rule for it in a fresh INPUT chain of the stack.
fn block(server: &Server, stack: &str, v6: bool, sets: &str, rule: &str) {
    let iptables = if v6 { "ip6tables" } else { "iptables" };
    let commands = format!(
        "set -e
        iptables-nft -F INPUT; ip6tables-nft -F INPUT; iptables-legacy -F INPUT; ip6tables-legacy -F INPUT
        ipset flush; ipset destroy
        printf '%s\\n' '{sets}' | tr ';' '\\n' | ipset restore
        {iptables}-{stack} -A INPUT {rule}"
    );
    server.sh(&commands).expect_ok();
}

/// Whether this kernel has the types of the sets at all: where it has not, no host with it can use them.
fn known_to_the_kernel(server: &Server, sets: &str) -> bool {
    let kinds = sets.split(';').filter_map(|command| command.strip_prefix("create ")?.split(' ').nth(1));
    kinds.into_iter().all(|kind| {
        let range = match kind {
            "bitmap:port" => "range 1-9",
            _ if kind.starts_with("bitmap") => "range 10.0.0.0/24",
            _ => "",
        };
        let made = server.sh(&format!("ipset create probe {kind} {range} && ipset destroy probe"));
        assert!(made.ok() || made.stderr.contains("set type not supported"), "{made:?}");
        made.ok()
    })
}

fn boot(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server
}

#[test]
fn an_ipset_entry_is_named_and_deleted_and_its_neighbour_stays_out() {
    on_both(|server| {
        for stack in STACKS {
            for (v6, blocked, near) in [(false, "203.0.113.7", "203.0.113.8"), (true, "2001:db8::7", "2001:db8::8")] {
                let family = if v6 { "inet6" } else { "inet" };
                let sets = format!("create bad hash:ip family {family};add bad {blocked};add bad {near}");
                block(server, stack, v6, &sets, "-p tcp --dport 22 -m set --match-set bad src -j DROP");
                assert!(!server.ssh(blocked).ok);
                let diagnosis = diagnosed(server, blocked);
                let finding = &diagnosis["findings"][0];
                assert_eq!((&finding["cause"], &finding["owner"]), (&"ipset-entry".into(), &"nobody".into()), "{diagnosis:#}");
                let evidence = finding["evidence"].to_string();
                assert!(evidence.contains("--match-set bad src"), "{evidence}");
                assert!(evidence.contains(&format!("{blocked} (hash:ip)")), "{evidence}");

                let plan = server.ctl(&["unban", blocked, "--dry-run", "--json"]).expect_status(0).json();
                assert_eq!(plan["steps"][0]["summary"], format!("delete {blocked} from ipset bad"), "{plan:#}");
                assert_eq!(plan["steps"].as_array().unwrap().len(), 1, "{plan:#}");
                assert_eq!(plan["opens"], serde_json::json!([format!("{blocked}/{}", if v6 { 128 } else { 32 })]), "{plan:#}");
                server.ctl(&["unban", blocked]).expect_status(0);
                assert!(server.ssh(blocked).ok, "{} {stack} {blocked}", server.release());
                assert!(!server.ssh(near).ok);
                server.ctl(&["diagnose", blocked]).expect_status(0);
                let again = server.ctl(&["unban", blocked, "--json"]).expect_status(0).json();
                assert_eq!(again["changed"], false, "{again:#}");
                assert!(server.sh("ipset list bad").expect_ok().contains(near));
            }
        }
    });
}

#[test]
fn a_network_in_an_ipset_stays_and_only_the_one_address_is_let_in() {
    on_both(|server| {
        for stack in STACKS {
            for (v6, blocked, near, net) in
                [(false, "203.0.113.7", "203.0.113.8", "203.0.113.0/28"), (true, "2001:db8::7", "2001:db8::8", "2001:db8::/124")]
            {
                let family = if v6 { "inet6" } else { "inet" };
                // The address is an element besides: deleting it alone would open nothing. TCP only: IPv6 needs ICMPv6 to get there.
                let sets = format!("create nets hash:net family {family};add nets {net};add nets {blocked}");
                block(server, stack, v6, &sets, "-p tcp -m set --match-set nets src -j REJECT");
                let before = server.sh("ipset save").expect_ok();
                assert!(!server.ssh(blocked).ok);
                let diagnosis = diagnosed(server, blocked);
                assert_eq!(diagnosis["findings"][0]["cause"], "ipset-entry", "{diagnosis:#}");
                let evidence = diagnosis["findings"][0]["evidence"].to_string();
                assert!(evidence.contains(&format!("{blocked} (in {net}) (hash:net)")), "{evidence}");
                server.ctl(&["unban", blocked]).expect_status(0);
                assert!(server.ssh(blocked).ok, "{} {stack} {blocked}", server.release());
                assert!(!server.ssh(near).ok);
                assert_eq!(before, server.sh("ipset save").expect_ok());
            }
            // An element for exactly the address in a set of networks is deleted like any other.
            block(
                server,
                stack,
                false,
                "create nets hash:net;add nets 203.0.113.7;add nets 203.0.113.8/31;add nets 198.51.100.0/24",
                "-m set --match-set nets src -j DROP",
            );
            server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
            assert!(server.ssh("203.0.113.7").ok);
            assert!(!server.ssh("203.0.113.8").ok);
            let left = server.sh("ipset save nets").expect_ok();
            assert!(left.contains("203.0.113.8/31") && !left.contains("203.0.113.7"), "{left}");
            assert_eq!(banned(server), ["198.51.100.0/24", "203.0.113.8/31"], "{} {stack}", server.release());
            // The whole network only where that is asked for, and it comes back whole.
            let plan = server.ctl(&["unban", "203.0.113.8", "--range", "--dry-run", "--json"]).expect_status(0).json();
            assert_eq!(plan["steps"][0]["summary"], "delete 203.0.113.8/31 from ipset nets", "{plan:#}");
            assert_eq!(plan["opens"], serde_json::json!(["203.0.113.8/31"]), "{plan:#}");
            let change = server.ctl(&["unban", "203.0.113.8", "--range", "--json"]).expect_status(0).json();
            assert!(server.ssh("203.0.113.8").ok, "{change:#}");
            server.ctl(&["rollback", change["id"].as_str().unwrap()]);
            server.sh("ipset -exist add nets 203.0.113.8/31").expect_ok();
        }
    });
}

/// The sources that `banned` lists for the set `nets`.
fn banned(server: &Server) -> Vec<String> {
    let bans = server.ctl(&["banned", "--json"]).expect_status(0).json();
    let of_set = bans["bans"].as_array().unwrap().iter().filter(|ban| ban["by"] == "ipset nets");
    let mut sources: Vec<String> = of_set.map(|ban| ban["source"].as_str().unwrap().to_owned()).collect();
    sources.sort();
    sources
}

#[test]
fn elements_are_listed_and_removed_by_their_reference_and_no_other_is() {
    on_both(|server| {
        for stack in STACKS {
            let sets = "create nets hash:net timeout 3600;add nets 203.0.113.0/28;add nets 198.51.100.7;add nets 203.0.113.7 nomatch;\
                        create ports hash:ip,port;add ports 203.0.113.70,tcp:22;add ports 203.0.113.41,udp:22;\
                        create whole hash:ip netmask 24;add whole 10.9.8.0";
            block(server, stack, false, sets, "-m set --match-set nets src -j DROP");
            for more in ["-m set --match-set ports src,dst -j DROP", "-m set --match-set whole src -j DROP"] {
                server.sh(&format!("iptables-{stack} -A INPUT {more}")).expect_ok();
            }
            assert_eq!(
                banned(server),
                ["198.51.100.7/32", "203.0.113.0/28"],
                "{} {stack}: what is excluded is no ban",
                server.release()
            );
            let listed = server.ctl(&["firewall", "list", "--json"]).expect_status(0).json().to_string();
            assert!(["nets", "ports", "whole"].iter().all(|set| listed.contains(&format!("\"ipset/{set}\""))), "{listed}");

            // What would open more than it says, or would close, or is not there, is refused.
            for element in
                ["whole/10.9.8.0", "nets/203.0.113.7 nomatch", "nets/203.0.113.0/29", "ports/203.0.113.41,udp:22", "no/1.2.3.4"]
            {
                let before = server.sh("ipset save -sorted | sed 's/timeout [0-9]*//'").expect_ok();
                server.ctl(&["firewall", "remove", &format!("ipset/{element}")]).expect_status(1);
                assert_eq!(before, server.sh("ipset save -sorted | sed 's/timeout [0-9]*//'").expect_ok(), "{element}");
            }
            // The one that is excluded was in all the time.
            let around = ["203.0.113.0/30", "203.0.113.4/31", "203.0.113.6/32", "203.0.113.8/29"];
            for (reference, opens, client) in [
                ("ipset/nets/203.0.113.0/28", &around[..], "203.0.113.8"),
                ("ipset/ports/203.0.113.70,tcp:22", &["203.0.113.70/32"], "203.0.113.70"),
            ] {
                let step = server.ctl(&["firewall", "remove", reference, "--dry-run", "--json"]).expect_status(0).json();
                assert_eq!(step["opens"], serde_json::json!(opens), "{step:#}");
                let change = server.ctl(&["firewall", "remove", reference, "--json"]).json();
                if change["state"] == "pending" {
                    server.ctl(&["confirm", change["id"].as_str().unwrap()]).expect_status(0);
                }
                assert!(server.ssh(client).ok, "{} {stack} {reference}: {change:#}", server.release());
            }
            assert_eq!(banned(server), ["198.51.100.7/32"]);
            assert!(server.sh("ipset save ports").expect_ok().contains("203.0.113.41,udp:22"));
            assert!(!server.ssh("198.51.100.7").ok);
            // An address of a network that stands for its element: only it is let in.
            server.ctl(&["unban", "10.9.8.7"]).expect_status(0);
            assert!(server.sh("ipset save whole").expect_ok().contains("10.9.8.0"));
        }
    });
}

/// What each type and option means to the kernel, and to us, for an address that is in and one that is not.
#[test]
fn every_type_that_a_connection_can_key_is_judged_as_the_kernel_judges_it() {
    let (blocked, other) = ("203.0.113.7", "203.0.113.8");
    let cases = [
        ("create s hash:ip,port;add s 203.0.113.7,tcp:22", "-m set --match-set s src,dst -j REJECT"),
        ("create s hash:net,port;add s 203.0.113.7/32,22", "-m set --match-set s src,dst -j REJECT"),
        ("create s bitmap:ip range 203.0.113.0-203.0.113.31;add s 203.0.113.7", "-m set --match-set s src -j REJECT"),
        ("create s hash:ip;add s 203.0.113.8", "-p tcp --dport 22 -s 203.0.113.0/27 -m set ! --match-set s src -j REJECT"),
        ("create s hash:net;add s 203.0.113.0/28;add s 203.0.113.8/29 nomatch", "-m set --match-set s src -j REJECT"),
        ("create s hash:ip timeout 600 comment;add s 203.0.113.7 comment \"by hand\"", "-m set --match-set s src -j REJECT"),
        ("create s hash:ip,port,ip;add s 203.0.113.7,tcp:22,203.0.113.1", "-m set --match-set s src,dst,dst -j REJECT"),
        ("create s hash:ip,port,net;add s 203.0.113.7,22,203.0.113.0/24", "-m set --match-set s src,dst,dst -j REJECT"),
        ("create s hash:ip,port,ip;add s 203.0.113.1,tcp:22,203.0.113.7", "-m set --match-set s dst,dst,src -j REJECT"),
        ("create s hash:net,port,net;add s 203.0.113.7/32,22,203.0.113.0/29", "-m set --match-set s src,dst,dst -j REJECT"),
        ("create s hash:net,net;add s 203.0.113.7/32,203.0.113.1/32", "-m set --match-set s src,dst -j REJECT"),
        ("create s hash:net,iface;add s 203.0.113.7/32,host0", "-m set --match-set s src,src -j REJECT"),
        ("create s hash:net,iface;add s 203.0.113.0/29,host0;add s 203.0.113.8,lo", "-m set --match-set s src,src -j REJECT"),
        ("create s hash:ip,mark;add s 203.0.113.7,0", "-m set --match-set s src,src -j REJECT"),
        (
            "create s hash:ip,mark markmask 0xf0;add s 203.0.113.7,0x0;add s 203.0.113.8,0x10",
            "-m set --match-set s src,src -j REJECT",
        ),
        ("create s bitmap:port range 1-1024;add s 22", "-s 203.0.113.7 -m set --match-set s dst -j REJECT"),
        ("create s hash:ip counters forceadd maxelem 4;add s 203.0.113.7", "-m set --match-set s src -j REJECT"),
        (
            "create a hash:ip;add a 203.0.113.7;create n hash:net,port;create s list:set;add s n;add s a",
            "-m set --match-set s src -j REJECT",
        ),
        (
            "create a hash:net;add a 203.0.113.0/29;create n hash:net,port;add n 203.0.113.9,22;create s list:set;add s n;add s a",
            "-m set --match-set s src,dst -j REJECT",
        ),
        (
            "create a hash:ip;add a 203.0.113.8;create s list:set;add s a",
            "-p tcp --dport 22 -s 203.0.113.0/28 -m set ! --match-set s src -j REJECT",
        ),
        ("create s hash:ip netmask 29;add s 203.0.113.7", "-m set --match-set s src -j REJECT"),
    ];
    on_both(|server| {
        for stack in STACKS {
            for (sets, rule) in cases {
                if !known_to_the_kernel(server, sets) {
                    continue;
                }
                block(server, stack, false, sets, rule);
                assert!(!server.ssh(blocked).ok, "{sets}");
                assert!(server.ssh(other).ok, "{sets}");
                diagnosed(server, blocked);
                server.ctl(&["diagnose", other]).expect_status(0);
                server.ctl(&["unban", blocked]).expect_status(0);
                assert!(server.ssh(blocked).ok, "{} {stack} {sets}", server.release());
                assert!(server.ssh(other).ok, "{sets}");
            }
            // The MAC address of a packet to come is not known; that an address is in no pair is.
            let mac = server.sh("cat /sys/class/net/host0/address").expect_ok();
            for sets in [
                "create s hash:mac;add s MAC",
                "create s hash:ip,mac;add s 203.0.113.7,MAC",
                "create s bitmap:ip,mac range 203.0.113.0/27;add s 203.0.113.7,MAC",
            ] {
                if !known_to_the_kernel(server, sets) {
                    continue;
                }
                let fields = if sets.contains("hash:mac") { "src" } else { "src,src" };
                block(server, stack, false, &sets.replace("MAC", mac.trim()), &format!("-m set --match-set s {fields} -j DROP"));
                server.ctl(&["diagnose", blocked]).expect_status(9);
                server.ctl(&["diagnose", other]).expect_status(if sets.contains("bitmap") { 0 } else { 9 });
            }
            // What depends on a field that is not known stays open, and is named.
            block(
                server,
                stack,
                false,
                "create s hash:ip,port;add s 203.0.113.7,tcp:40000",
                "-m set --match-set s src,src -j DROP",
            );
            let unknown = server.ctl(&["diagnose", blocked, "--json"]).json();
            assert_eq!(unknown["verdict"], "unknown", "{unknown:#}");
            let stages = unknown["stages"].as_array().unwrap();
            let netfilter = stages.iter().find(|stage| stage["stage"] == "netfilter").unwrap();
            assert!(netfilter["detail"].as_str().unwrap().contains("--match-set s src,src"), "{unknown:#}");
        }
    });
}

/// A step that fails takes the deletion back.
#[test]
fn an_element_that_was_deleted_comes_back_when_a_later_step_fails() {
    if !root_or_skip() {
        return;
    }
    let server = boot(Release::Trixie);
    block(&server, "nft", false, "create bad hash:ip;add bad 203.0.113.7", "-m set --match-set bad src -j DROP");
    server.sh("iptables-nft -A INPUT -s 203.0.113.7 -j DROP").expect_ok();
    server.write("/run/sshfix/fail-step", "2");
    let change = server.ctl(&["unban", "203.0.113.7", "--json"]).expect_status(6).json();
    assert_eq!(change["state"], "rolled-back", "{change:#}");
    assert!(server.sh("ipset test bad 203.0.113.7").ok());
    assert!(!server.ssh("203.0.113.7").ok);
}

/// Bans of fail2ban that its ipset action put into the kernel belong to the jail.
#[test]
fn an_entry_of_fail2bans_ipset_action_is_the_jails_and_is_lifted_through_it() {
    on_both(|server| {
        server.write("/etc/fail2ban/jail.d/zz-ipset.local", "[sshd]\nbanaction = iptables-ipset-proto6\n");
        server.sh("test -e /etc/fail2ban/action.d/iptables-ipset-proto6.conf || sed -i s/-proto6// /etc/fail2ban/jail.d/zz-ipset.local").expect_ok();
        server.sh("systemctl restart fail2ban").expect_ok();
        server.wait_for_fail2ban();
        server.sh("fail2ban-client set sshd banip 203.0.113.7 203.0.113.8").expect_ok();
        assert!(server.sh("ipset test f2b-sshd 203.0.113.7").ok());
        assert!(!server.ssh("203.0.113.7").ok);
        let diagnosis = diagnosed(server, "203.0.113.7");
        assert_eq!(diagnosis["findings"].as_array().unwrap().len(), 1, "{diagnosis:#}");
        assert_eq!(diagnosis["findings"][0]["cause"], "fail2ban-ban", "{diagnosis:#}");
        assert_eq!(diagnosis["findings"][0]["owner"], "fail2ban jail sshd");
        assert!(diagnosis["findings"][0]["evidence"].to_string().contains("ipset f2b-sshd"), "{diagnosis:#}");
        server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
        assert!(server.ssh("203.0.113.7").ok);
        assert!(!server.ssh("203.0.113.8").ok);
    });
}
