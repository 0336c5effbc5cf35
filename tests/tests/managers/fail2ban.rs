//! fail2ban's ban actions, each with real bans of an IPv4 and an IPv6 address, lifted by one unban.

use sshfix_tests::lab::Server;

use super::{on_both, open, refused};

const BANNED: [&str; 2] = ["203.0.113.7", "2001:db8::7"];

/// Bans through this action and lifts the bans one by one.
fn bans_and_unbans(server: &Server, action: &str, cause: &str) {
    if !server.sh(&format!("test -e /etc/fail2ban/action.d/{action}.conf")).ok() {
        // Only its name is another one: Debian 13 has no -proto6 any more.
        assert!(action.contains("proto6"), "{}: there is no action {action}", server.release());
        return;
    }
    server.write("/etc/fail2ban/jail.d/zz-managers.local", format!("[sshd]\nbanaction = {action}\n"));
    server.sh("systemctl restart fail2ban").expect_ok();
    server.wait_for_fail2ban();
    server.sh(&format!("fail2ban-client set sshd banip {}", BANNED.join(" "))).expect_ok();
    // fail2ban answers before its action has run.
    server.wait_until(&format!("{action} has banned"), std::time::Duration::from_mins(2), || {
        BANNED.iter().all(|address| server.ctl(&["diagnose", address]).status == 8)
    });
    for (address, neighbour) in BANNED.into_iter().zip(["203.0.113.8", "2001:db8::8"]) {
        let found = refused(server, address, cause, "fail2ban jail sshd");
        assert_eq!(found["fix"], format!("sshfix ctl unban {address}"), "{action}: {found:#}");
        open(server, neighbour);
        let change = server.ctl(&["unban", address, "--json"]).expect_status(0).json();
        let bits = if address.contains(':') { 128 } else { 32 };
        assert_eq!(change["plan"]["opens"], serde_json::json!([format!("{address}/{bits}")]), "{action}: {change:#}");
        open(server, address);
        assert!(!server.sh(&format!("fail2ban-client get sshd banip | grep -F {address}")).ok(), "{action}");
    }
}

#[test]
fn every_action_with_tables_of_its_own_is_told_and_lifted() {
    on_both(|server| {
        for action in [
            "nftables-multiport",
            "nftables-allports",
            "iptables-multiport",
            "iptables-allports",
            "iptables-ipset-proto6",
            "iptables-ipset-proto6-allports",
            "iptables-ipset",
        ] {
            bans_and_unbans(server, action, "fail2ban-ban");
        }
        bans_and_unbans(server, "route", "route-blackhole");
        bans_and_unbans(server, "hostsdeny", "hosts-deny");
    });
}

#[test]
fn actions_through_another_manager_are_lifted_through_fail2ban() {
    on_both(|server| {
        server.sh("ufw allow 22/tcp; ufw --force enable").expect_ok();
        bans_and_unbans(server, "ufw", "fail2ban-ban");
        server.sh("ufw --force disable; systemctl start firewalld").expect_ok();
        for action in ["ipset", "new", "multiport", "allports", "rich-rules", "rich-logging"] {
            bans_and_unbans(server, &format!("firewallcmd-{action}"), "fail2ban-ban");
        }
    });
}

/// A rule that ufw got from a person is not taken for the ticket's, and nothing is done behind ufw's back.
#[test]
fn a_ufw_rule_beside_a_ticket_that_did_not_make_it_is_left_to_ufw() {
    on_both(|server| {
        server.sh("ufw deny from 203.0.113.7; ufw allow 22/tcp; ufw --force enable").expect_ok();
        // The ticket bans another port only.
        server.write("/etc/fail2ban/jail.d/zz-managers.local", "[sshd]\nbanaction = nftables-multiport\nport = 2222\n");
        server.sh("systemctl restart fail2ban").expect_ok();
        server.wait_for_fail2ban();
        server.sh("fail2ban-client set sshd banip 203.0.113.7").expect_ok();
        let change = server.ctl(&["unban", "203.0.113.7", "--json"]).expect_status(6);
        assert!(change.stdout.contains("ufw delete deny from 203.0.113.7"), "{change:#?}");
        assert!(server.sh("ufw status").expect_ok().contains("203.0.113.7"));
        server.sh("ufw delete deny from 203.0.113.7").expect_ok();
        server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
        open(server, "203.0.113.7");
    });
}
