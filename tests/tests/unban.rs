//! The main job, on real servers of both releases: one address blocked by every layer at once is diagnosed with the very
//! rules, shown as one plan, lifted whole, and nobody else is touched. IPv4 and IPv6 alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use serde_json::Value;
use sshfix_tests::lab::{Release, Server, on_both, root_or_skip};

/// One address family's cast.
struct Cast {
    /// Blocked by everything, to be let in.
    blocked: &'static str,
    /// Also banned; must stay so.
    neighbours: [&'static str; 2],
    /// nft's keyword.
    nft: &'static str,
    /// nft's set type.
    set_type: &'static str,
    iptables: &'static str,
}

const V4: Cast = Cast {
    blocked: "203.0.113.7",
    neighbours: ["203.0.113.8", "203.0.113.70"],
    nft: "ip",
    set_type: "ipv4_addr",
    iptables: "iptables",
};
const V6: Cast = Cast {
    blocked: "2001:db8::7",
    neighbours: ["2001:db8::8", "2001:db8::70"],
    nft: "ip6",
    set_type: "ipv6_addr",
    iptables: "ip6tables",
};

/// The address as hosts.deny writes it.
fn hosts_pattern(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Blocks the address, and its neighbours, by fail2ban, hosts.deny, an nft hash set, an nft interval set, an nft rule, an
/// iptables-nft rule and an iptables-legacy rule.
fn block_everywhere(server: &Server, cast: &Cast) {
    let Cast { blocked, neighbours: [near, far], nft, set_type, iptables } = cast;
    let commands = format!(
        "set -e
        for a in {blocked} {near} {far}; do fail2ban-client set sshd banip $a >/dev/null; done
        nft add table inet hand
        nft 'add set inet hand hash {{ type {set_type}; elements = {{ {blocked}, {near} }} }}'
        nft 'add set inet hand ranges {{ type {set_type}; flags interval; elements = {{ {blocked}, {far} }} }}'
        nft 'add chain inet hand input {{ type filter hook input priority 0; policy accept; }}'
        nft add rule inet hand input {nft} saddr @hash tcp dport 22 drop
        nft add rule inet hand input {nft} saddr @ranges drop
        nft add rule inet hand input {nft} saddr {blocked} counter drop comment '\"by hand\"'
        nft add rule inet hand input {nft} saddr {blocked} counter drop comment '\"by hand\"'
        nft add rule inet hand input {nft} saddr {blocked} tcp dport 22 reject
        nft add rule inet hand input {nft} saddr {near} counter drop
        {iptables}-nft -A INPUT -s {near} -p tcp --dport 22 -j DROP
        {iptables}-nft -A INPUT -s {blocked} -p tcp --dport 22 -j DROP
        {iptables}-nft -A INPUT -s {blocked} -p tcp --dport 22 -j DROP
        {iptables}-legacy -A INPUT -s {far} -j REJECT
        {iptables}-legacy -A INPUT -s {blocked} -j REJECT
        {iptables}-legacy -A INPUT -s {blocked} -p tcp -j DROP
        "
    );
    server.sh(&commands).expect_ok();
    let deny = format!("# kept by hand\nsshd: {near}\nsshd: {}\nsshd: {}\n", hosts_pattern(blocked), hosts_pattern(far))
        .replace(&format!("sshd: {near}\n"), &format!("sshd: {}\n", hosts_pattern(near)));
    server.write("/etc/hosts.deny", deny);
}

/// Everything a plan could touch, without what counts by itself.
fn snapshot(server: &Server) -> String {
    let rules = server.sh(
        "nft -s list ruleset 2>/dev/null; iptables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'; \
         ip6tables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'; cat /etc/hosts.allow /etc/hosts.deny; \
         fail2ban-client get sshd banip | tr ' ' '\\n' | sort; stat -c '%a %u %g %n' /etc/hosts.allow /etc/hosts.deny; ls -a /etc | grep -c .",
    );
    // A ban that is made again goes to the top of fail2ban's own chain: its order means nothing.
    let (mut fail2ban, rest): (Vec<_>, Vec<_>) =
        rules.expect_ok().lines().map(str::to_owned).partition(|line| line.contains("REJECT") || line.contains("reject"));
    fail2ban.sort();
    [rest, fail2ban].concat().join("\n")
}

fn causes(diagnosis: &Value) -> Vec<&str> {
    diagnosis["findings"].as_array().unwrap().iter().map(|finding| finding["cause"].as_str().unwrap()).collect()
}

fn evidence(diagnosis: &Value) -> String {
    let findings = diagnosis["findings"].as_array().unwrap();
    let quoted = findings.iter().flat_map(|finding| finding["evidence"].as_array().unwrap());
    quoted.map(|one| format!("{} | {}", one["source"], one["text"])).collect::<Vec<_>>().join("\n")
}

fn one_unban_lifts_every_block(release: Release, cast: &Cast) {
    if !root_or_skip() {
        return;
    }
    let server = Server::boot(release);
    server.wait_for_fail2ban();
    server.install_sshfix();
    let blocked = cast.blocked;
    server.ctl(&["diagnose", blocked]).expect_status(0);
    assert!(server.ssh(blocked).ok, "the client must get in before");
    block_everywhere(&server, cast);
    assert!(!server.ssh(blocked).ok, "the client must be blocked");

    let diagnosis = server.ctl(&["diagnose", blocked, "--json"]).expect_status(8).json();
    assert_eq!(diagnosis["schema"], "sshfix.diagnosis/1");
    assert_eq!(diagnosis["verdict"], "refuse");
    let found = causes(&diagnosis);
    for (cause, at_least) in [("fail2ban-ban", 1), ("hosts-deny", 1), ("nft-rule", 5), ("iptables-rule", 4)] {
        let count = found.iter().filter(|c| **c == cause).count();
        assert!(count >= at_least, "{cause}: {count} of {at_least} in {found:?}\n{diagnosis:#}");
    }
    let quoted = evidence(&diagnosis);
    for text in ["@hash", "@ranges", "by hand", "hosts.deny line 3", "fail2ban jail sshd", "INPUT"] {
        assert!(quoted.contains(text), "{text} is not quoted:\n{quoted}");
    }
    let owners: Vec<_> = diagnosis["findings"].as_array().unwrap().iter().map(|f| f["owner"].as_str().unwrap()).collect();
    assert!(owners.contains(&"fail2ban jail sshd"), "{owners:?}");

    let before = snapshot(&server);
    let plan = server.ctl(&["unban", blocked, "--dry-run", "--json"]).expect_status(0).json();
    assert_eq!(plan["schema"], "sshfix.plan/1");
    let prefix = if blocked.contains(':') { 128 } else { 32 };
    assert_eq!(plan["opens"], serde_json::json!([format!("{blocked}/{prefix}")]), "{plan:#}");
    assert_eq!(plan["closes"], serde_json::json!([]));
    for step in plan["steps"].as_array().unwrap() {
        assert!(!step["diff"].as_str().unwrap().is_empty() && !step["undo"].as_str().unwrap().is_empty(), "{step:#}");
    }
    assert_eq!(before, snapshot(&server), "a dry run changes nothing");

    let digest = plan["digest"].as_str().unwrap().to_owned();
    let change = server.ctl(&["unban", blocked, "--plan", &digest, "--json"]).expect_status(0).json();
    assert_eq!((&change["state"], &change["changed"]), (&"confirmed".into(), &true.into()), "{change:#}");
    let login = server.ssh(blocked);
    assert!(login.ok, "{}", login.stderr);
    for neighbour in cast.neighbours {
        assert!(!server.ssh(neighbour).ok, "{neighbour} must stay banned");
        server.ctl(&["diagnose", neighbour]).expect_status(8);
    }
    let again = server.ctl(&["unban", blocked, "--json"]).expect_status(0).json();
    assert_eq!((&again["state"], &again["changed"]), (&"unchanged".into(), &false.into()), "{again:#}");
    server.ctl(&["diagnose", blocked]).expect_status(0);
}

#[test]
fn one_unban_lifts_every_block_on_debian_12_v4() {
    one_unban_lifts_every_block(Release::Bookworm, &V4);
}

#[test]
fn one_unban_lifts_every_block_on_debian_12_v6() {
    one_unban_lifts_every_block(Release::Bookworm, &V6);
}

#[test]
fn one_unban_lifts_every_block_on_debian_13_v4() {
    one_unban_lifts_every_block(Release::Trixie, &V4);
}

#[test]
fn one_unban_lifts_every_block_on_debian_13_v6() {
    one_unban_lifts_every_block(Release::Trixie, &V6);
}

/// A ban that fail2ban forgot while its rule or element stayed in the kernel.
#[test]
fn a_stale_ban_that_fail2ban_forgot_is_found_and_removed() {
    on_both(|server| {
        server.sh("fail2ban-client set sshd banip 203.0.113.7 203.0.113.8").expect_ok();
        // What happens when an actionunban fails: the ticket is gone, the rule is not.
        server.sh("fail2ban-client set sshd unbanip 203.0.113.7").expect_ok();
        match server.release() {
            Release::Trixie => server.sh("nft add element inet f2b-table addr-set-sshd '{ 203.0.113.7 }'"),
            Release::Bookworm => server.sh("iptables -I f2b-sshd -s 203.0.113.7 -j REJECT"),
        }
        .expect_ok();
        assert!(!server.ssh("203.0.113.7").ok);
        let diagnosis = server.ctl(&["diagnose", "203.0.113.7", "--json"]).expect_status(8).json();
        assert_eq!(causes(&diagnosis), ["fail2ban-ban-stale"], "{diagnosis:#}");
        server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
        assert!(server.ssh("203.0.113.7").ok);
        assert!(!server.ssh("203.0.113.8").ok);
    });
}

/// fail2ban answers "1" although its actionunban failed; sshfix reads the kernel back and removes what was left.
#[test]
fn an_unban_whose_action_fails_still_lets_the_client_in() {
    on_both(|server| {
        server.sh("fail2ban-client set sshd banip 203.0.113.7 203.0.113.8").expect_ok();
        let action = server.sh("fail2ban-client get sshd actions | tail -1 | tr -d ' '").expect_ok();
        server.run(&["fail2ban-client", "set", "sshd", "action", action.trim(), "actionunban", "false"]).expect_ok();
        server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
        assert!(server.ssh("203.0.113.7").ok);
        assert!(!server.ssh("203.0.113.8").ok);
    });
}

#[test]
fn a_failure_in_any_step_leaves_the_server_as_it_was() {
    on_both(|server| {
        block_everywhere(server, &V4);
        let before = snapshot(server);
        let plan = server.ctl(&["unban", V4.blocked, "--dry-run", "--json"]).expect_status(0).json();
        let steps = plan["steps"].as_array().unwrap();
        assert!(steps.len() >= 6, "{plan:#}");
        for (index, step) in steps.iter().enumerate() {
            server.write("/run/sshfix/fail-step", (index + 1).to_string());
            let change = server.ctl(&["unban", V4.blocked, "--json"]).expect_status(6).json();
            assert_eq!(change["state"], "rolled-back", "{change:#}");
            assert_eq!(change["changed"], false);
            assert_eq!(change["failure"]["step"], index + 1, "{change:#}");
            assert_eq!(change["failure"]["summary"], step["summary"]);
            assert_eq!(change["failure"]["stuck"], serde_json::json!([]));
            assert_eq!(before, snapshot(server), "step {} failed: {}", index + 1, step["summary"]);
            assert!(!server.ssh(V4.blocked).ok);
        }
        server.ctl(&["unban", V4.blocked]).expect_status(0);
        assert!(server.ssh(V4.blocked).ok);
    });
}
