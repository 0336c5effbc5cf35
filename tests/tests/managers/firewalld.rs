//! firewalld: zones, rich rules, an ipset, the default zone, panic mode; both ways its rules are laid out (1.3 and 2.3).

use sshfix_tests::lab::Server;

use super::{on_both, open, refused_and_fixed};

fn start(server: &Server) {
    server.sh("systemctl start firewalld; firewall-cmd --state").expect_ok();
}

fn both(arguments: &str) -> String {
    format!("firewall-cmd {arguments} && firewall-cmd --permanent {arguments}")
}

fn let_in(zone: &str, address: &str) -> String {
    let family = if address.contains(':') { "ipv6" } else { "ipv4" };
    both(&format!(
        "--zone={zone} --add-rich-rule='rule family=\"{family}\" priority=\"-32768\" source address=\"{address}\" port port=\"22\" protocol=\"tcp\" accept'"
    ))
}

fn remove(zone: &str, rule: &str) -> String {
    both(&format!("--zone={zone} --remove-rich-rule='{rule}'"))
}

#[test]
fn rich_rules_are_taken_back_and_what_is_wider_stays() {
    on_both(|server| {
        start(server);
        server
            .sh("for rule in 'family=ipv4 source address=203.0.113.7 reject' 'family=ipv6 source address=2001:db8::7 drop' \
                     'family=ipv4 source address=203.0.113.70 service name=ssh reject type=icmp-admin-prohibited' \
                     'family=ipv6 source address=2001:db8::70/127 drop' \
                     'family=ipv4 priority=-10 source address=198.51.100.7 drop'; do
                 firewall-cmd --zone=public --add-rich-rule=\"rule $rule\"
                 firewall-cmd --permanent --zone=public --add-rich-rule=\"rule $rule\"
             done")
            .expect_ok();
        for address in ["192.0.2.9", "203.0.113.8", "2001:db8::8"] {
            open(server, address);
        }
        let zone = "firewalld zone public";
        let reject = "rule family=\"ipv4\" source address=\"203.0.113.7\" reject";
        refused_and_fixed(server, "203.0.113.7", "firewalld-deny", zone, &remove("public", reject));
        let drop = "rule family=\"ipv6\" source address=\"2001:db8::7\" drop";
        refused_and_fixed(server, "2001:db8::7", "firewalld-deny", zone, &remove("public", drop));
        // Their rich rules cannot be told from the kernel's rules, or are about others too: an accept goes before them.
        for address in ["203.0.113.70", "2001:db8::70", "198.51.100.7"] {
            refused_and_fixed(server, address, "firewalld-deny", zone, &let_in("public", address));
        }
        // What was fixed is fixed for good.
        server.sh("firewall-cmd --reload").expect_ok();
        for address in ["203.0.113.7", "2001:db8::7", "203.0.113.70", "2001:db8::70", "198.51.100.7"] {
            open(server, address);
        }
    });
}

#[test]
fn sources_and_ipsets_bound_to_a_zone_are_unbound_exactly() {
    on_both(|server| {
        start(server);
        server
            .sh("p='firewall-cmd --permanent'
                 $p --new-ipset=bad --type=hash:ip; $p --ipset=bad --add-entry=198.51.100.7; $p --ipset=bad --add-entry=203.0.113.8
                 $p --new-ipset=nets6 --type=hash:net --family=inet6; $p --ipset=nets6 --add-entry=2001:db8::70/124
                 $p --zone=block --add-source=ipset:bad; $p --zone=drop --add-source=ipset:nets6
                 $p --zone=drop --add-source=203.0.113.7; $p --zone=drop --add-source=2001:db8::8; $p --zone=block --add-source=203.0.113.64/28
                 firewall-cmd --reload")
            .expect_ok();
        for address in ["192.0.2.9", "2001:db8::7"] {
            open(server, address);
        }
        let (drop, block) = ("firewalld zone drop", "firewalld zone block");
        refused_and_fixed(server, "203.0.113.7", "firewalld-deny", drop, &both("--zone=drop --remove-source=203.0.113.7"));
        refused_and_fixed(server, "2001:db8::8", "firewalld-deny", drop, &both("--zone=drop --remove-source=2001:db8::8"));
        refused_and_fixed(server, "198.51.100.7", "firewalld-deny", block, &both("--ipset=bad --remove-entry=198.51.100.7"));
        refused_and_fixed(server, "203.0.113.70", "firewalld-deny", block, &let_in("block", "203.0.113.70"));
        refused_and_fixed(server, "2001:db8::70", "firewalld-deny", drop, &let_in("drop", "2001:db8::70"));
        super::refused(server, "203.0.113.8", "firewalld-deny", block);
    });
}

#[test]
fn a_zone_without_ssh_and_panic_mode_are_named() {
    on_both(|server| {
        start(server);
        server
            .sh("firewall-cmd --zone=public --remove-service=ssh; firewall-cmd --permanent --zone=public --remove-service=ssh")
            .expect_ok();
        for address in ["203.0.113.7", "2001:db8::7"] {
            refused_and_fixed(server, address, "firewalld-deny", "firewalld zone public", &let_in("public", address));
        }
        server.sh("firewall-cmd --set-default-zone=drop").expect_ok();
        refused_and_fixed(server, "203.0.113.8", "firewalld-deny", "firewalld zone drop", &let_in("drop", "203.0.113.8"));
        server.sh("firewall-cmd --set-default-zone=trusted; firewall-cmd --panic-on").expect_ok();
        refused_and_fixed(server, "203.0.113.8", "firewalld-deny", "firewalld panic mode", "firewall-cmd --panic-off");
        open(server, "2001:db8::8");
    });
}
