//! ufw, enabled with rules.

use super::{agrees, on_both, open, refused_and_fixed};

#[test]
fn ufws_rules_are_told_in_ufws_words_and_deleted_by_its_own_command() {
    on_both(|server| {
        server
            .sh("ufw deny from 203.0.113.7
                 ufw reject proto tcp from 203.0.113.8 to any port 22
                 ufw deny in on host0 log from 203.0.113.70 to any app OpenSSH comment 'bad boy'
                 ufw deny from 2001:db8::7
                 ufw deny from 2001:db8:0:0::70/124
                 ufw allow OpenSSH
                 ufw --force enable")
            .expect_ok();
        for address in ["192.0.2.9", "198.51.100.7", "2001:db8::8", "2001:db8:9::9"] {
            open(server, address);
        }
        for (address, rule) in [
            ("203.0.113.7", "deny from 203.0.113.7"),
            ("203.0.113.8", "reject proto tcp from 203.0.113.8 to any port 22"),
            ("203.0.113.70", "deny in on host0 log from 203.0.113.70 to any app OpenSSH"),
            ("2001:db8::7", "deny from 2001:db8::7"),
        ] {
            refused_and_fixed(server, address, "ufw-deny", &format!("ufw rule: {rule}"), &format!("ufw delete {rule}"));
        }
        // A range stays; only the one address is let in.
        refused_and_fixed(
            server,
            "2001:db8::70",
            "ufw-deny",
            "ufw rule: deny from 2001:db8::70/124",
            "ufw prepend allow from 2001:db8::70 to any port 22 proto tcp",
        );
    });
}

#[test]
fn a_port_that_ufw_does_not_allow_is_its_default_policy() {
    on_both(|server| {
        server.sh("ufw allow from 192.0.2.0/24; ufw default reject incoming; ufw --force enable").expect_ok();
        open(server, "192.0.2.9");
        for address in ["203.0.113.7", "2001:db8::7"] {
            let allow = format!("ufw prepend allow from {address} to any port 22 proto tcp");
            refused_and_fixed(server, address, "ufw-deny", "ufw default policy", &allow);
        }
        agrees(server, "203.0.113.8");
        server.sh("ufw default deny incoming").expect_ok();
        agrees(server, "203.0.113.8");
        agrees(server, "2001:db8::8");
    });
}

#[test]
fn ufws_limit_is_a_rate_that_refuses_once_it_is_reached() {
    on_both(|server| {
        server.sh("ufw limit ssh; ufw --force enable").expect_ok();
        agrees(server, "203.0.113.7");
        // As if it had come six times within half a minute.
        server.sh("for hit in 1 2 3 4 5 6; do echo +203.0.113.7 > /proc/net/xt_recent/DEFAULT; done").expect_ok();
        let diagnosis = server.ctl(&["diagnose", "203.0.113.7", "--json"]).expect_status(8).json();
        let [limit] = &diagnosis["findings"].as_array().unwrap()[..] else { panic!("one finding: {diagnosis:#}") };
        assert_eq!((&limit["cause"], &limit["blocking"]), (&"ufw-deny".into(), &true.into()), "{diagnosis:#}");
        assert!(limit["owner"].as_str().unwrap().starts_with("ufw rule: limit"), "{diagnosis:#}");
        assert!(limit["evidence"].to_string().contains("/proc/net/xt_recent/DEFAULT"), "{diagnosis:#}");
    });
}
