//! Routes that refuse the answers to a client, on real servers of both releases: found, quoted as `ip route` prints them, deleted
//! where they are about this client alone, put back by undo. IPv4 and IPv6 alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use serde_json::{Value, json};
use sshfix_tests::lab::{Release, Server, root_or_skip};

const FAMILIES: [(&str, &str, &str); 2] = [("-4", "203.0.113.7", "203.0.113.8"), ("-6", "2001:db8::7", "2001:db8::8")];

fn server(release: Release) -> Server {
    let server = Server::boot(release);
    server.wait_for_fail2ban();
    server.install_sshfix();
    server
}

/// What `ip route show` says, one route a line.
fn routes(server: &Server, family: &str) -> Vec<String> {
    let all = server.run(&["ip", family, "route", "show", "table", "all"]).expect_ok();
    let mut lines: Vec<String> = all.lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

/// The one finding, which must be about routes.
#[track_caller]
fn finding(server: &Server, address: &str) -> Value {
    let diagnosis = server.ctl(&["diagnose", address, "--json"]).expect_status(8).json();
    assert_eq!(diagnosis["stages"][0]["stage"], "route", "{diagnosis:#}");
    assert_eq!(diagnosis["stages"][0]["verdict"], "refuse", "{diagnosis:#}");
    let findings = diagnosis["findings"].as_array().unwrap();
    let about: Vec<_> = findings.iter().filter(|finding| finding["cause"] == "route-blackhole").collect();
    assert_eq!(about.len(), 1, "{diagnosis:#}");
    about[0].clone()
}

#[test]
fn unban_deletes_the_route_that_refuses_and_leaves_the_neighbours() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        for (family, blocked, neighbour) in FAMILIES {
            let open = server.ctl(&["diagnose", blocked, "--json"]).expect_status(0).json();
            assert!(open["stages"][0]["evidence"][0]["text"].as_str().unwrap().contains("dev host0"), "{open:#}");
            server.run(&["ip", family, "route", "add", "blackhole", neighbour]).expect_ok();
            for kind in ["blackhole", "unreachable", "prohibit"] {
                server.run(&["ip", family, "route", "add", kind, blocked, "metric", "77", "proto", "static"]).expect_ok();
                assert!(!server.ssh(blocked).ok, "{release}: {kind} {blocked}");
                let finding = finding(&server, blocked);
                let quoted = finding["evidence"][0]["text"].as_str().unwrap();
                let before = routes(&server, family);
                assert!(before.iter().any(|line| line == quoted), "{release}: {quoted} is not in {before:#?}");
                assert_eq!((&finding["owner"], &finding["blocking"]), (&json!("nobody"), &json!(true)));

                let plan = server.ctl(&["unban", blocked, "--dry-run", "--json"]).expect_status(0).json();
                let prefix = if family == "-6" { 128 } else { 32 };
                assert_eq!(plan["opens"], json!([format!("{blocked}/{prefix}")]), "{plan:#}");
                assert_eq!(before, routes(&server, family), "a dry run changes nothing");

                let change = server.ctl(&["unban", blocked, "--json"]).expect_status(0).json();
                assert_eq!((&change["state"], &change["changed"]), (&json!("confirmed"), &json!(true)), "{change:#}");
                let login = server.ssh(blocked);
                assert!(login.ok, "{release}: {kind} {blocked}: {}", login.stderr);
                let rest: Vec<_> = before.iter().filter(|line| *line != quoted).cloned().collect();
                assert_eq!(rest, routes(&server, family), "{release}: nothing else is changed");
                let again = server.ctl(&["unban", blocked, "--json"]).expect_status(0).json();
                assert_eq!(again["changed"], false, "{again:#}");
                server.ctl(&["diagnose", blocked]).expect_status(0);
            }
            assert!(!server.ssh(neighbour).ok, "{release}: {neighbour} must stay blocked");
            server.ctl(&["diagnose", neighbour]).expect_status(8);
        }
    }
}

#[test]
fn a_wider_route_is_named_and_left_to_a_person() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        for (family, blocked, wide) in [("-4", "203.0.113.7", "203.0.113.0/29"), ("-6", "2001:db8::7", "2001:db8::/125")] {
            // The server's own addresses lie in it, which does not matter: they are local.
            server.run(&["ip", family, "route", "add", "blackhole", wide]).expect_ok();
            assert!(!server.ssh(blocked).ok);
            let before = routes(&server, family);
            let finding = finding(&server, blocked);
            let quoted = finding["evidence"][0]["text"].as_str().unwrap();
            assert!(quoted.starts_with(&format!("blackhole {wide}")), "{quoted}");
            let refused = server.ctl(&["unban", blocked]).expect_status(1);
            let said = format!("{}{}", refused.stdout, refused.stderr);
            assert!(said.contains("route-blackhole") && said.contains(wide), "{said}");
            assert_eq!(before, routes(&server, family), "{release}: nothing was changed");
            // What it says to do opens the way.
            server.run(&["ip", family, "route", "del", "blackhole", wide]).expect_ok();
            assert!(server.ssh(blocked).ok);
            server.ctl(&["diagnose", blocked]).expect_status(0);
            policy_rules_are_traced_as_ip_prints_them(&server, family, blocked, wide);
        }
    }
}

/// Those that an answer to the client may meet, in their order, and the one that refuses as what decides.
fn policy_rules_are_traced_as_ip_prints_them(server: &Server, family: &str, client: &str, wide: &str) {
    let marked = ["fwmark", "0x10/0xff", "table", "77"];
    let rules: [&[&str]; 5] = [
        &["prio", "90", "to", wide, "iif", "lo", "table", "main", "suppress_prefixlength", "64"],
        &["prio", "91", "to", wide, "ipproto", "udp", "table", "78"],
        &[&["prio", "92"][..], &marked].concat(),
        &["prio", "93", "to", client, "prohibit"],
        // About others, as 91 is.
        &["prio", "94", "iif", "host0", "table", "79"],
    ];
    for rule in rules {
        server.run(&[&["ip", family, "rule", "add"], rule].concat()).expect_ok();
    }
    let printed = server.run(&["ip", family, "rule"]).expect_ok().replace('\t', " ");
    let expected: Vec<&str> =
        printed.lines().map(str::trim).filter(|line| !line.starts_with("91:") && !line.starts_with("94:")).collect();
    let diagnosis = server.ctl(&["diagnose", client, "--explain", "--json"]).expect_status(8).json();
    let trace = diagnosis["stages"][0]["trace"].as_array().unwrap();
    let of_rules = || trace.iter().filter(|line| line["source"].as_str().unwrap().ends_with(" rule"));
    let traced: Vec<&str> = of_rules().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(traced, expected, "{diagnosis:#}");
    let decides: Vec<&str> =
        of_rules().filter(|line| line["decides"] == true).map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(decides.len(), 1, "{diagnosis:#}");
    assert!(decides[0].starts_with("93:") && decides[0].ends_with("prohibit"), "{diagnosis:#}");
    let unsure = of_rules().find(|line| line["text"].as_str().unwrap().starts_with("92:")).unwrap();
    assert!(unsure["depends"].to_string().contains("fwmark 0x10/0xff"), "{unsure:#}");
    for rule in rules {
        server.run(&[&["ip", family, "rule", "del"], rule].concat()).expect_ok();
    }
    server.ctl(&["diagnose", client]).expect_status(0);
}

#[test]
fn a_host_without_a_route_to_the_client_says_so() {
    if !root_or_skip() {
        return;
    }
    let server = server(Release::Trixie);
    server.run(&["ip", "route", "del", "default"]).expect_ok();
    let finding = finding(&server, "198.51.100.99");
    assert!(finding["fix"].as_str().unwrap().contains("no route to 198.51.100.99"), "{finding:#}");
    server.ctl(&["unban", "198.51.100.99"]).expect_status(1);
    server.run(&["ip", "rule", "add", "to", "203.0.113.7", "prohibit"]).expect_ok();
    assert!(!server.ssh("203.0.113.7").ok);
    let finding = self::finding(&server, "203.0.113.7");
    assert!(finding["fix"].as_str().unwrap().contains("ip rule"), "{finding:#}");
    server.ctl(&["unban", "203.0.113.7"]).expect_status(1);
}

#[test]
fn a_failed_change_puts_the_route_back() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        for (family, blocked, neighbour) in FAMILIES {
            server.run(&["ip", family, "route", "add", "prohibit", blocked, "metric", "5", "proto", "static"]).expect_ok();
            let hosts = if family == "-6" { format!("[{blocked}]") } else { blocked.to_owned() };
            server.write("/etc/hosts.deny", format!("sshd: {hosts}\n"));
            let before = routes(&server, family);
            let plan = server.ctl(&["unban", blocked, "--dry-run", "--json"]).expect_status(0).json();
            let steps = plan["steps"].as_array().unwrap();
            assert_eq!(steps.len(), 2, "{plan:#}");
            assert_eq!(steps[0]["subsystem"], "route", "{plan:#}");
            server.write("/run/sshfix/fail-step", "2");
            let change = server.ctl(&["unban", blocked, "--json"]).expect_status(6).json();
            assert_eq!((&change["state"], &change["failure"]["stuck"]), (&json!("rolled-back"), &json!([])), "{change:#}");
            assert_eq!(before, routes(&server, family), "{release}");
            assert!(!server.ssh(blocked).ok);
            assert!(server.ssh(neighbour).ok);
            server.ctl(&["unban", blocked]).expect_status(0);
            assert!(server.ssh(blocked).ok);
        }
    }
}

#[test]
fn a_ban_by_the_route_action_belongs_to_fail2ban_and_one_unban_lifts_it() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        server.write("/etc/fail2ban/jail.d/zz-route.local", "[sshd]\nbanaction = route\nbanaction_allports = route\n");
        server.sh("fail2ban-client reload --restart sshd").expect_ok();
        server.wait_for_fail2ban();
        for (family, blocked, neighbour) in FAMILIES {
            server.run(&["fail2ban-client", "set", "sshd", "banip", blocked, neighbour]).expect_ok();
            let routed = || routes(&server, family).iter().any(|line| line.starts_with(&format!("unreachable {blocked}")));
            server.wait_until("fail2ban made its route", std::time::Duration::from_mins(2), routed);
            assert!(!server.ssh(blocked).ok);
            let finding = finding(&server, blocked);
            assert_eq!(finding["owner"], "fail2ban jail sshd", "{finding:#}");
            let change = server.ctl(&["unban", blocked, "--json"]).expect_status(0).json();
            assert_eq!(change["state"], "confirmed", "{change:#}");
            assert!(server.ssh(blocked).ok);
            assert!(!server.ssh(neighbour).ok, "{neighbour} must stay banned");
            let banned = server.run(&["fail2ban-client", "get", "sshd", "banip"]).expect_ok();
            assert!(banned.contains(neighbour) && !banned.split_whitespace().any(|one| one == blocked), "{banned}");
        }
    }
}
