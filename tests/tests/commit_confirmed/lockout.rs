//! The lockout itself: with the proof switched off (debug builds only), changes that really cut the admin off are made, and nobody
//! confirms. Whatever happens meanwhile, the admin can log in again.

use std::thread;
use std::time::{Duration, Instant};

use sshfix_tests::lab::{ADMIN_V4, ADMIN_V6, Server, Session};

use super::{AFTER, kill_agent, on_both, pending, taken_back};

/// Nothing but what is named gets in; what this host says to itself does.
const DROP_ALL_NFT: &str = "nft add table inet hand
    nft 'add set inet hand admins { type ipv4_addr; elements = { 192.0.2.9 } }'
    nft 'add chain inet hand input { type filter hook input priority 0; policy drop; }'
    nft add rule inet hand input iif lo accept
    nft add rule inet hand input icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept";

struct Case {
    name: &'static str,
    /// Before it.
    rules: String,
    /// What cuts the admin off: a verb, or words of the rule to be removed.
    verb: &'static [&'static str],
    words: &'static str,
    admin: &'static str,
}

fn cases() -> Vec<Case> {
    let accept_all_but = |program: &str, admin: &str| {
        format!(
            "{program} -A INPUT -i lo -j ACCEPT; {program} -A INPUT {admin} -j ACCEPT; {program} -A INPUT -p tcp --dport 22 -j DROP"
        )
    };
    let case = |name, rules: String, verb, words, admin| Case { name, rules, verb, words, admin };
    vec![
        case("fail2ban", String::new(), &["ban", ADMIN_V4, "--jail", "sshd"][..], "", ADMIN_V4),
        case("fail2ban, v6", String::new(), &["ban", ADMIN_V6, "--jail", "sshd"], "", ADMIN_V6),
        case("hosts.deny", String::new(), &["hosts", "deny", ADMIN_V4], "", ADMIN_V4),
        case(
            "an nft rule",
            format!("{DROP_ALL_NFT}\nnft add rule inet hand input ip saddr 192.0.2.9 accept"),
            &[],
            "192.0.2.9 accept",
            ADMIN_V4,
        ),
        case("iptables-nft", accept_all_but("iptables-nft", "-s 192.0.2.9"), &[], "-s 192.0.2.9/32", ADMIN_V4),
        case("iptables-legacy", accept_all_but("iptables-legacy", "-s 192.0.2.9"), &[], "-s 192.0.2.9/32", ADMIN_V4),
        case("sshd", String::new(), &["sshd", "set", "ListenAddress", "127.0.0.1"], "", ADMIN_V4),
        case(
            "the rule of an ipset",
            format!(
                "ipset create admins hash:ip; ipset add admins 192.0.2.9; {}",
                accept_all_but("iptables-legacy", "-m set --match-set admins src")
            ),
            &[],
            "--match-set admins src",
            ADMIN_V4,
        ),
    ]
}

/// Makes the change that cuts the admin off; its id.
#[track_caller]
fn cut_off(server: &Server, case: &Case) -> String {
    server.sh(&format!("set -e\n{}", case.rules)).expect_ok();
    assert!(server.ssh(case.admin).ok, "{}: the admin gets in before", case.name);
    let verb = if case.verb.is_empty() {
        let list = server.ctl(&["firewall", "list", "--json"]).expect_status(0).json();
        let entries = list["entries"].as_array().unwrap();
        let found = entries.iter().find(|entry| entry["text"].as_str().unwrap().contains(case.words));
        let reference = found.unwrap_or_else(|| panic!("{}: {list:#}", case.name))["reference"].as_str().unwrap().to_owned();
        vec!["firewall".to_owned(), "remove".to_owned(), reference]
    } else {
        case.verb.iter().map(|word| (*word).to_owned()).collect()
    };
    let words: Vec<&str> = verb.iter().map(String::as_str).collect();
    pending(server, &words)
}

fn clean(server: &Server) {
    server
        .sh("nft delete table inet hand 2>/dev/null || true
             iptables-nft -F INPUT; iptables-legacy -F INPUT; ipset destroy 2>/dev/null || true")
        .expect_ok();
}

#[test]
fn an_admin_who_is_cut_off_can_log_in_again_at_the_deadline() {
    on_both(|server| {
        server.write("/run/sshfix/without-proof", "");
        for case in cases() {
            let start = Instant::now();
            let id = cut_off(server, &case);
            assert!(!server.ssh(case.admin).ok, "{}: the admin is cut off", case.name);
            server.wait_until(case.name, AFTER.saturating_sub(start.elapsed()), || server.ssh(case.admin).ok);
            taken_back(server, &id, start);
            clean(server);
        }
    });
}

#[test]
fn an_agent_that_is_killed_right_after_it_still_keeps_the_deadline() {
    on_both(|server| {
        server.write("/run/sshfix/without-proof", "");
        for (index, case) in
            cases().into_iter().filter(|case| ["fail2ban", "hosts.deny", "an nft rule", "sshd"].contains(&case.name)).enumerate()
        {
            let start = Instant::now();
            let config = server.read("/etc/sshfix/agent.toml");
            cut_off(server, &case);
            if index == 1 {
                // It cannot even start again.
                server.write("/etc/sshfix/agent.toml", "this is no TOML");
            }
            kill_agent(server);
            assert!(!server.ssh(case.admin).ok, "{}: it goes on waiting", case.name);
            if index == 1 {
                // By then fail2ban has him; what takes back the change lifts the ban, too.
                earn_a_ban(server, case.admin);
            }
            server.wait_until(case.name, AFTER.saturating_sub(start.elapsed()), || server.ssh(case.admin).ok);
            server.write("/etc/sshfix/agent.toml", config);
            server.wait_until("the agent is back", AFTER, || server.ctl(&["status"]).status == 0);
            clean(server);
        }
    });
}

/// [`Server::start`] returns once the admin has logged in.
#[test]
fn a_server_that_is_rebooted_while_a_change_waits_lets_the_admin_in() {
    on_both(|server| {
        let names = ["hosts.deny", "fail2ban", "an nft rule", "sshd"];
        for (index, case) in cases().into_iter().filter(|case| names.contains(&case.name)).enumerate() {
            server.write("/run/sshfix/without-proof", "");
            let deny = server.read("/etc/hosts.deny");
            let config = server.read("/etc/sshfix/agent.toml");
            if case.name == "an nft rule" {
                server
                    .sh(&format!(
                        "set -e\n{}\nnft list table inet hand > /etc/nftables.conf; systemctl enable nftables",
                        case.rules
                    ))
                    .expect_ok();
                clean(server);
            }
            let id = cut_off(server, &case);
            assert!(!server.ssh(case.admin).ok, "{}: the admin is cut off", case.name);
            if index == 0 {
                server.write("/etc/sshfix/agent.toml", "this is no TOML");
                server.sh("sync").expect_ok();
            }
            server.power_cut();
            server.start();
            // fail2ban bans again what it had banned, when it is up; then the agent takes it back.
            server.wait_for_fail2ban();
            server.wait_until(case.name, AFTER, || {
                server.ssh(case.admin).ok && !server.sh("fail2ban-client get sshd banip").stdout.contains(case.admin)
            });
            assert_eq!(server.read("/etc/hosts.deny"), deny);
            server.write("/etc/sshfix/agent.toml", config);
            server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
            server.wait_until("it is taken back", AFTER, || super::state(server, &id) == "rolled-back");
            let log = server.run(&["journalctl", "--no-pager", "-b", "-u", "sshfix-recover"]).stdout;
            assert!(log.contains(&id), "{}: {log}", case.name);
            server.ctl_confirmed(&["hosts", "deny", "203.0.113.70"]);
            server.ctl(&["hosts", "remove", "203.0.113.70"]).expect_status(0);
            clean(server);
        }
    });
}

/// Tries to log in until fail2ban bans the client for it.
#[track_caller]
fn earn_a_ban(server: &Server, from: &str) {
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(!server.ssh(from).ok, "{from} is kept out"));
        }
    });
    server.wait_until("fail2ban bans who tries again and again", AFTER, || banned(server).contains(from));
}

fn banned(server: &Server) -> String {
    server.run(&["fail2ban-client", "get", "sshd", "banip"]).expect_ok()
}

/// fail2ban counts what sshd refuses, by hosts.deny and by its lists of users. Who was cut off and tried again and again would stay out
/// for as long as his ban lasts, also when the change is long gone.
#[test]
fn who_was_banned_for_trying_while_a_change_stood_gets_in_when_it_is_taken_back() {
    on_both(|server| {
        server.write("/run/sshfix/without-proof", "");
        server.run(&["fail2ban-client", "set", "sshd", "banip", "203.0.113.66"]).expect_ok();
        for (verb, from) in [
            (&["hosts", "deny", ADMIN_V4][..], ADMIN_V4),
            (&["hosts", "deny", ADMIN_V6], ADMIN_V6),
            (&["sshd", "set", "AllowUsers", "nobody"], ADMIN_V4),
        ] {
            assert!(server.ssh(from).ok, "{verb:?}: the admin gets in before");
            // What an edit of sshd closes is not told by address: whoever is logged in then is meant.
            let session = (verb[0] == "sshd").then(|| Session::open(server, from));
            let id = super::pending_for(server, "10m", verb);
            earn_a_ban(server, from);
            // Not of anybody whom the change kept out, though he was banned while it stood.
            server.run(&["fail2ban-client", "set", "sshd", "banip", "203.0.113.67"]).expect_ok();
            server.ctl(&["rollback", &id]).expect_status(0);
            server.wait_until("the admin gets in", AFTER, || server.ssh(from).ok);
            let now = banned(server);
            assert!(now.contains("203.0.113.66") && now.contains("203.0.113.67") && !now.contains(from), "{verb:?}: {now}");
            let said = server.ctl(&["audit", "show"]).stdout;
            let line = format!("unban {from} in jail sshd: banned while change {id} stood, which was rolled back");
            assert!(said.contains(&line), "{verb:?}: {said}");
            drop(session);
        }
        // Who is banned afterwards stays so, though he was kept out once.
        server.ctl(&["ban", ADMIN_V4, "--jail", "sshd", "--confirm-within", "10m"]).expect_status(5);
        // Three looks.
        thread::sleep(Duration::from_secs(6));
        assert!(banned(server).contains(ADMIN_V4), "a ban that was meant is not lifted");
    });
}
