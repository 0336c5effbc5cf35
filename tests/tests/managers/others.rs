//! Docker's chains, sshguard's table, `CrowdSec`'s bouncer, and a server firewall written by hand.

use std::time::Duration;

use super::{agrees, on_both, open, refused, refused_and_fixed};

/// What dockerd 26 makes for the default bridge and a container that publishes port 8080, with `iptables` and `ip6tables`.
const DOCKER: &str = r"
for iptables in IPTABLES IP6TABLES; do
    case $iptables in ip6*) bridge=fd00:17::1/64 net=fd00:17::/64 container=fd00:17::2 to=[fd00:17::2]:80 lo=::1/128 ;;
        *) bridge=172.17.0.1/16 net=172.17.0.0/16 container=172.17.0.2 to=172.17.0.2:80 lo=127.0.0.0/8 ;; esac
    ip link add docker0 type bridge 2>/dev/null || ip link add docker0 type veth 2>/dev/null || true
    ip link set docker0 up; ip addr replace $bridge dev docker0
    for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do $iptables -N $chain; done
    $iptables -P FORWARD DROP
    $iptables -A FORWARD -j DOCKER-USER
    $iptables -A FORWARD -j DOCKER-ISOLATION-STAGE-1
    $iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    $iptables -A FORWARD -o docker0 -j DOCKER
    $iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
    $iptables -A FORWARD -i docker0 -o docker0 -j ACCEPT
    $iptables -A DOCKER -d $container ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
    $iptables -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
    $iptables -A DOCKER-ISOLATION-STAGE-1 -j RETURN
    $iptables -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
    $iptables -A DOCKER-ISOLATION-STAGE-2 -j RETURN
    $iptables -A DOCKER-USER -j RETURN
    $iptables -t nat -N DOCKER
    $iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    $iptables -t nat -A OUTPUT ! -d $lo -m addrtype --dst-type LOCAL -j DOCKER
    $iptables -t nat -A POSTROUTING -s $net ! -o docker0 -j MASQUERADE
    $iptables -t nat -A POSTROUTING -s $container -d $container -p tcp -m tcp --dport 80 -j MASQUERADE
    $iptables -t nat -A DOCKER -i docker0 -j RETURN
    $iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination $to
done
";

#[test]
fn dockers_chains_leave_ssh_to_the_host_judged() {
    on_both(|server| {
        for stack in ["nft", "legacy"] {
            server
                .sh(&DOCKER.replace("IP6TABLES", &format!("ip6tables-{stack}")).replace("IPTABLES", &format!("iptables-{stack}")))
                .expect_ok();
            for address in ["203.0.113.7", "2001:db8::7"] {
                open(server, address);
            }
            // What the user put beside Docker's chains is nobody's.
            server
                .sh(&format!(
                    "iptables-{stack} -A INPUT -s 203.0.113.7 -p tcp --dport 22 -j DROP
                     ip6tables-{stack} -A INPUT -s 2001:db8::7 -p tcp --dport 22 -j REJECT"
                ))
                .expect_ok();
            for address in ["203.0.113.7", "2001:db8::7"] {
                refused_and_fixed(server, address, "iptables-rule", "nobody", &format!("sshfix ctl unban {address}"));
            }
            server
                .sh(&format!(
                    "for i in iptables-{stack} ip6tables-{stack}; do
                         for t in filter nat; do $i -t $t -F; $i -t $t -X; done; $i -P FORWARD ACCEPT
                     done"
                ))
                .expect_ok();
        }
    });
}

#[test]
fn sshguards_blocks_are_told_and_lifted() {
    on_both(|server| {
        let folder = server.sh("dirname $(find /usr/lib* -name sshg-fw-nft-sets | head -n 1)").expect_ok();
        let config = format!("BACKEND={folder}/sshg-fw-nft-sets\nFILES=/var/log/attacks\nTHRESHOLD=30\nBLOCK_TIME=600\n");
        server.write("/etc/sshguard/sshguard.conf", config);
        server.sh("touch /var/log/attacks; systemctl start sshguard").expect_ok();
        server
            .wait_until("sshguard has made its tables", Duration::from_mins(2), || server.sh("nft list table ip6 sshguard").ok());
        // Its `tail -F -n 0` may start after the tables are there, and skips what was written before: attack until it sees.
        server.wait_until("sshguard has blocked all four", Duration::from_mins(2), || {
            server
                .sh("for address in 203.0.113.7 203.0.113.8 2001:db8::7 2001:db8::8; do
                     for try in 1 2 3 4 5 6; do
                         echo \"Nov 21 08:00:0$try server sshd[100$try]: Invalid user admin from $address port 4000$try\"
                     done
                 done >> /var/log/attacks")
                .expect_ok();
            ["203.0.113.7", "203.0.113.8", "2001:db8::7", "2001:db8::8"].iter().all(|address| {
                let family = if address.contains(':') { "ip6" } else { "ip" };
                server.sh(&format!("nft get element {family} sshguard attackers '{{ {address} }}'")).ok()
            })
        });
        open(server, "198.51.100.7");
        open(server, "2001:db8::70");
        for address in ["203.0.113.7", "2001:db8::7"] {
            refused_and_fixed(server, address, "sshguard-block", "sshguard", &format!("sshfix ctl unban {address}"));
        }
        for address in ["203.0.113.8", "2001:db8::8"] {
            refused(server, address, "sshguard-block", "sshguard");
        }
    });
}

#[test]
fn crowdsecs_decisions_are_deleted_by_cscli() {
    on_both(|server| {
        server.sh("systemctl start crowdsec crowdsec-firewall-bouncer").expect_ok();
        server.wait_until("CrowdSec answers", Duration::from_mins(2), || server.sh("cscli decisions list").ok());
        server
            .sh("cscli decisions add --ip 203.0.113.7; cscli decisions add --ip 2001:db8::7
                 cscli decisions add --ip 203.0.113.8")
            .expect_ok();
        server.wait_until("the bouncer has all of them", Duration::from_mins(2), || {
            ["203.0.113.7", "2001:db8::7", "203.0.113.8"].iter().all(|address| server.ctl(&["diagnose", address]).status == 8)
        });
        open(server, "203.0.113.70");
        open(server, "2001:db8::8");
        for address in ["203.0.113.7", "2001:db8::7"] {
            let found = refused(server, address, "crowdsec-decision", "CrowdSec");
            assert_eq!(found["fix"], format!("cscli decisions delete --ip {address}"), "{found:#}");
            server.sh(found["fix"].as_str().unwrap()).expect_ok();
            // The bouncer asks for news every ten seconds.
            server
                .wait_until("the bouncer lets it in", Duration::from_mins(2), || server.ctl(&["diagnose", address]).status == 0);
            open(server, address);
        }
        refused(server, "203.0.113.8", "crowdsec-decision", "CrowdSec");
    });
}

#[test]
fn a_stateful_server_firewall_by_hand_is_judged() {
    on_both(|server| {
        let ruleset = "
            table inet server {
                set blocked4 { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }
                set blocked6 { type ipv6_addr; flags interval; elements = { 2001:db8::70/127 } }
                set heavy { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }
                chain input {
                    type filter hook input priority filter; policy drop;
                    ct state vmap { established : accept, related : accept, invalid : drop }
                    iif lo accept
                    ip protocol icmp icmp type { echo-request, destination-unreachable, time-exceeded } accept
                    meta l4proto ipv6-icmp icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
                    ip saddr @blocked4 counter drop
                    ip6 saddr @blocked6 counter reject with icmpv6 admin-prohibited
                    tcp dport { 80, 443 } accept
                    iifname \"host0\" tcp dport 22 ip saddr 203.0.113.0/28 accept
                    tcp dport 22 ip6 saddr 2001:db8::/64 ct state new accept
                    tcp dport 22 ip saddr 192.0.2.0/24 accept
                    udp dport 53 ct state new limit rate 10/second accept
                    log prefix \"in: \" limit rate 3/minute
                }
                chain output { type filter hook output priority filter; policy drop;
                    ct state established,related accept
                    oif lo accept
                    meta l4proto { icmp, ipv6-icmp } accept
                }
            }";
        server.run_with_input(&["nft", "-f", "-"], ruleset.as_bytes()).expect_ok();
        for address in ["203.0.113.7", "203.0.113.8", "2001:db8::7", "2001:db8::8", "192.0.2.9"] {
            open(server, address);
        }
        for address in ["203.0.113.70", "198.51.100.7", "2001:db8::70", "2001:db8:9::9"] {
            refused(server, address, "nft-rule", "nobody");
        }
        refused_and_fixed(server, "203.0.113.70", "nft-rule", "nobody", "sshfix ctl unban 203.0.113.70");
        server.ctl(&["unban", "198.51.100.7"]).expect_status(0);
        agrees(server, "198.51.100.7");
        // New connections to ssh by rate: it may refuse, and says so.
        server.sh("nft insert rule inet server input tcp dport 22 ct state new limit rate over 3/minute drop").expect_ok();
        let diagnosis = server.ctl(&["diagnose", "203.0.113.7", "--json"]).expect_status(9).json();
        let rate = diagnosis["findings"].as_array().unwrap().iter().find(|one| one["cause"] == "iptables-ratelimit");
        assert!(rate.is_some_and(|rate| rate["blocking"] == false), "{diagnosis:#}");
        assert!(diagnosis.to_string().contains("limit rate over 3/minute"), "{diagnosis:#}");
    });
}
