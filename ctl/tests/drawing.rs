//! What a person sees, to the character, without colours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use sshfix::render::{View, body};
use sshfix_policy::reply::Body;

fn draw_as(document: serde_json::Value, verbose: bool) -> String {
    let document: Body = serde_json::from_value(document).unwrap();
    let view = View {
        now: "2026-11-21T05:30:00Z".parse::<Timestamp>().unwrap(),
        zone: TimeZone::posix("CET-1").unwrap(),
        verbose,
        all: false,
    };
    anstream::adapter::strip_str(&body(&document, &view)).to_string()
}

fn draw(document: serde_json::Value) -> String {
    draw_as(document, false)
}

fn same(got: &str, want: &str) {
    let want = want.strip_prefix('\n').unwrap_or(want);
    assert_eq!(got, want, "\n--- got\n{got}\n--- want\n{want}");
}

fn blocked() -> serde_json::Value {
    json!({
        "schema": "sshfix.diagnosis/1",
        "subject": {"address": "203.0.113.7", "user": "root", "port": 22},
        "verdict": "refuse",
        "stages": [
            {"stage": "netfilter", "verdict": "refuse", "detail": "rejected by inet f2b-table f2b-chain", "evidence": [
                {"source": "nft inet f2b-table f2b-chain handle 4", "text": "tcp dport 22 ip saddr @addr-set-sshd reject"}]},
            {"stage": "listener", "verdict": "accept", "detail": "sshd (ssh.service) listens on 0.0.0.0:22", "evidence": [
                {"source": "sock_diag", "text": "0.0.0.0:22 pid 700"}]},
            {"stage": "hosts_access", "verdict": "refuse", "detail": "denied by /etc/hosts.deny line 3", "evidence": [
                {"source": "/etc/hosts.deny line 3", "text": "sshd: 203.0.113.7"}]},
            {"stage": "sshd_access", "verdict": "unknown", "detail": "not looked at by this version", "evidence": []},
        ],
        "findings": [
            {"cause": "ipset-entry", "blocking": false, "owner": "nobody", "since": null, "until": null,
             "fix": "ipset del old 203.0.113.7", "evidence": [{"source": "ipset old", "text": "203.0.113.7"}]},
            {"cause": "fail2ban-ban", "blocking": true, "owner": "fail2ban jail sshd", "since": "2026-11-21T05:00:00Z",
             "until": "2026-11-21T06:00:00Z", "fix": "sshfix ctl unban 203.0.113.7", "evidence": [
                {"source": "nft inet f2b-table f2b-chain handle 4", "text": "tcp dport 22 ip saddr @addr-set-sshd reject"}]},
            {"cause": "hosts-deny", "blocking": true, "owner": "nobody", "since": null, "until": null,
             "fix": "sshfix ctl unban 203.0.113.7", "evidence": [
                {"source": "/etc/hosts.deny line 3", "text": "sshd: 203.0.113.7"}]},
        ],
        "notes": ["xtables: iptables-legacy is not installed"],
    })
}

#[test]
fn a_blocked_path_is_drawn_with_what_blocks_it_and_how_to_lift_it() {
    same(
        &draw(blocked()),
        "
SSH from 203.0.113.7 as root to port 22

  ✗ netfilter       rejected by inet f2b-table f2b-chain
  ┊   fail2ban-ban, owner fail2ban jail sshd, since 2026-11-21 06:00:00 CET (30 min ago), until 2026-11-21 07:00:00 CET (in 30 min)
  ┊     nft inet f2b-table f2b-chain handle 4
  ┊       tcp dport 22 ip saddr @addr-set-sshd reject
  ✓ listener        sshd (ssh.service) listens on 0.0.0.0:22
  ✗ hosts_access    denied by /etc/hosts.deny line 3
  ┊   hosts-deny, owner nobody
  ┊     /etc/hosts.deny line 3
  ┊       sshd: 203.0.113.7
  ? sshd_access     not looked at by this version

BLOCKED by netfilter and hosts_access

Found besides:
  ipset-entry, owner nobody
    ipset old
      203.0.113.7

To lift it:
  sshfix ctl unban 203.0.113.7   # fail2ban-ban, hosts-deny
  ipset del old 203.0.113.7   # ipset-entry

note: xtables: iptables-legacy is not installed
",
    );
}

#[test]
fn an_open_path_says_so_and_evidence_is_shown_when_asked_for() {
    let open = json!({
        "schema": "sshfix.diagnosis/1", "subject": {"address": "2001:db8::8", "user": null, "port": 2222}, "verdict": "accept",
        "stages": [{"stage": "netfilter", "verdict": "accept", "detail": "no rule refuses it", "evidence": [
            {"source": "nft inet filter input", "text": "policy accept"}]}],
        "findings": [], "notes": [],
    });
    same(
        &draw(open.clone()),
        "
SSH from 2001:db8::8 to port 2222

  ✓ netfilter       no rule refuses it

OPEN every stage lets it through
",
    );
    same(
        &draw_as(open, true),
        "
SSH from 2001:db8::8 to port 2222

  ✓ netfilter       no rule refuses it
  │     nft inet filter input
  │       policy accept

OPEN every stage lets it through
",
    );
}

fn explained() -> serde_json::Value {
    let at = |packet: &str, priority: i32| json!({"packet": packet, "hook": "input", "priority": priority});
    json!({
        "schema": "sshfix.diagnosis/1", "subject": {"address": "203.0.113.7", "user": null, "port": 22}, "verdict": "refuse",
        "stages": [
            {"stage": "route", "verdict": "accept", "detail": "answers have a route", "evidence": [], "trace": [
                {"depth": 0, "source": "ip route get 203.0.113.7", "text": "203.0.113.7 dev host0", "effect": "answers leave this way",
                 "decides": true}]},
            {"stage": "netfilter", "verdict": "refuse", "detail": "the SYN is dropped", "evidence": [], "trace": [
                {"at": at("syn", -1), "depth": 0, "source": "nft inet f2b-table f2b-chain policy",
                 "text": "type filter hook input priority -1; policy accept;", "effect": "accept"},
                {"at": at("syn", 0), "depth": 0, "source": "nft inet filter input handle 4", "text": "limit rate 10/minute accept",
                 "effect": "accept", "depends": ["limit rate 10/minute"], "owner": "nobody"},
                {"at": at("syn", 0), "depth": 0, "source": "nft inet filter input handle 7", "text": "tcp dport 22 jump ssh",
                 "effect": "jump ssh", "owner": "nobody"},
                {"at": at("syn", 0), "depth": 1, "source": "nft inet filter ssh handle 9", "text": "ip saddr @bad counter drop",
                 "place": {"tool": "nft", "family": "inet", "table": "filter", "chain": "ssh", "handle": 9,
                           "reference": "nft/inet/filter/ssh/handle/9"},
                 "effect": "dropped", "counter": {"packets": 3, "bytes": 180}, "owner": "nobody", "decides": true,
                 "elements": [{"source": "nft set inet filter bad", "text": "203.0.113.7 timeout 10m expires 9m12s"}]}]}],
        "findings": [], "notes": [],
    })
}

#[test]
fn an_explained_path_shows_everything_that_was_met_indented_like_the_jumps() {
    same(
        &draw(explained()),
        "
SSH from 203.0.113.7 to port 22

  ✓ route           answers have a route
  │   203.0.113.7 dev host0  → answers leave this way
  │     ip route get 203.0.113.7
  ✗ netfilter       the SYN is dropped
  ┊   SYN at input, priority -1
  ┊     type filter hook input priority -1; policy accept;  → accept
  ┊       nft inet f2b-table f2b-chain policy
  ┊   SYN at input, priority 0
  ┊     limit rate 10/minute accept  → perhaps accept
  ┊       nft inet filter input handle 4, owner nobody
  ┊       it depends on limit rate 10/minute
  ┊     tcp dport 22 jump ssh  → jump ssh
  ┊       nft inet filter input handle 7, owner nobody
  ┊       ip saddr @bad counter drop  → dropped
  ┊         nft inet filter ssh handle 9, 3 packets 180 bytes, owner nobody
  ┊         nft set inet filter bad: 203.0.113.7 timeout 10m expires 9m12s

BLOCKED by netfilter
",
    );
}

#[test]
fn what_fail2ban_does_is_drawn_under_the_stage_that_does_it() {
    for (stage, source) in [("route", "ip route"), ("netfilter", "ipset f2b-sshd"), ("hosts_access", "/etc/hosts.deny line 3")] {
        let stages = ["route", "netfilter", "hosts_access"].map(|one| {
            let verdict = if one == stage { "refuse" } else { "accept" };
            json!({"stage": one, "verdict": verdict, "detail": "D", "evidence": []})
        });
        let drawn = draw(json!({
            "schema": "sshfix.diagnosis/1", "subject": {"address": "203.0.113.7", "user": null, "port": 22}, "verdict": "refuse",
            "stages": stages,
            "findings": [{"cause": "fail2ban-ban", "blocking": true, "stage": stage, "owner": "fail2ban jail sshd", "since": null, "until": null,
                "fix": "F", "evidence": [{"source": "fail2ban jail sshd", "text": "T"}, {"source": source, "text": "X"}]}],
            "notes": [],
        }));
        let under = drawn.lines().skip_while(|line| !line.contains("fail2ban-ban")).collect::<Vec<_>>();
        assert!(!under.is_empty() && !drawn.contains("Found besides"), "{drawn}");
        let before = drawn.lines().take_while(|line| !line.contains("fail2ban-ban")).last().unwrap();
        assert!(before.starts_with(&format!("  ✗ {stage}")), "{drawn}");
    }
}

fn plan() -> serde_json::Value {
    json!({
        "schema": "sshfix.plan/1", "digest": format!("sha256:{}", "ab".repeat(32)),
        "operation": {"unban": {"source": "203.0.113.7/32"}},
        "steps": [
            {"subsystem": "fail2ban", "summary": "unban 203.0.113.7 in jail sshd", "diff": "-203.0.113.7 until 2026-11-21 06:00",
             "undo": "ban 203.0.113.7 in jail sshd"},
            {"subsystem": "hosts_access", "summary": "remove line 3 of /etc/hosts.deny",
             "diff": "--- /etc/hosts.deny\n+++ /etc/hosts.deny\n@@ -2,2 +2,1 @@\n # local\n-sshd: 203.0.113.7\n", "undo": "put line 3 back"},
        ],
        "opens": ["203.0.113.7/32"], "closes": [],
        "paths": [{"source": "203.0.113.8", "user": "root", "before": "accept", "after": "accept"}],
        "confirm": "not-needed", "notes": [],
    })
}

#[test]
fn a_dry_run_shows_every_diff_and_the_command_that_makes_exactly_this_change() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    same(
        &draw(plan()),
        &format!(
            "
Plan for sshfix ctl unban 203.0.113.7: 2 steps

1. fail2ban: unban 203.0.113.7 in jail sshd
     -203.0.113.7 until 2026-11-21 06:00
   undo: ban 203.0.113.7 in jail sshd

2. hosts_access: remove line 3 of /etc/hosts.deny
     --- /etc/hosts.deny
     +++ /etc/hosts.deny
     @@ -2,2 +2,1 @@
      # local
     -sshd: 203.0.113.7
   undo: put line 3 back

opens   203.0.113.7
way in  203.0.113.8 as root: accept now, accept afterwards
digest  {digest}

Dry run: nothing was changed. To make exactly this change:
  sshfix ctl unban 203.0.113.7 --plan {digest}
"
        ),
    );
}

fn change(state: &str, changed: bool, extra: &serde_json::Value) -> serde_json::Value {
    let mut document = json!({
        "schema": "sshfix.change/1", "id": "c7", "state": state, "changed": changed, "deadline": null, "plan": plan(), "notes": [],
    });
    document.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    document
}

#[test]
fn an_applied_unban_prints_what_was_done() {
    same(
        &draw(change("confirmed", true, &json!({}))),
        "
Done: sshfix ctl unban 203.0.113.7
  ✓ fail2ban: unban 203.0.113.7 in jail sshd
  ✓ hosts_access: remove line 3 of /etc/hosts.deny
opens   203.0.113.7
change  c7
",
    );
}

#[test]
fn a_second_unban_says_nothing_to_do() {
    let mut nothing = plan();
    nothing["steps"] = json!([]);
    let document = change("unchanged", false, &json!({"id": "", "plan": nothing}));
    assert_eq!(serde_json::from_value::<Body>(document.clone()).unwrap().exit_status(), 0);
    same(&draw(document), "Nothing to do: sshfix ctl unban 203.0.113.7\n");
}

#[test]
fn a_rollback_says_which_step_failed_and_what_was_taken_back() {
    let failure = json!({"failure": {"step": 2, "summary": "remove line 3 of /etc/hosts.deny", "message": "read-only file system",
        "rolled_back": ["unban 203.0.113.7 in jail sshd"], "stuck": []}});
    same(
        &draw(change("rolled-back", false, &failure)),
        "
Rolled back: sshfix ctl unban 203.0.113.7. The host is as it was before.
  ✗ Step 2 of 2 failed (remove line 3 of /etc/hosts.deny): read-only file system
  ↩ rolled back: unban 203.0.113.7 in jail sshd
change  c7
",
    );
    let stuck = json!({"failure": {"step": 0, "summary": "verify", "message": "still refused", "rolled_back": [],
        "stuck": ["unban 203.0.113.7 in jail sshd: fail2ban is gone; start it and ban by hand"]}});
    same(
        &draw(change("stuck", true, &stuck)),
        "
STUCK: sshfix ctl unban 203.0.113.7. The host is neither as before nor as planned.
  ✗ The check afterwards failed: still refused
  ! not rolled back: unban 203.0.113.7 in jail sshd: fail2ban is gone; start it and ban by hand
change  c7
",
    );
}

#[test]
fn lists_are_plain_tables() {
    let ban = json!({"source": "203.0.113.7/32", "by": "fail2ban jail sshd", "since": "2026-11-21T05:00:00Z", "until": null});
    same(
        &draw(json!({"schema": "sshfix.bans/1", "bans": [ban, {"source": "198.51.100.0/24", "by": "/etc/hosts.deny line 3",
            "since": null, "until": null}], "notes": []})),
        "
SOURCE           BY                      SINCE                                 UNTIL
203.0.113.7      fail2ban jail sshd      2026-11-21 06:00:00 CET (30 min ago)  -
198.51.100.0/24  /etc/hosts.deny line 3  -                                     -
",
    );
    same(
        &draw(json!({"schema": "sshfix.bans/1", "bans": [], "notes": ["fail2ban does not answer"]})),
        "
No ban or rule names such an address.
Rules that refuse everybody are not listed: `sshfix ctl diagnose ADDRESS` judges one address.

note: fail2ban does not answer
",
    );
    same(
        &draw(json!({"schema": "sshfix.jails/1", "version": "1.0.2", "jails": [{"name": "sshd", "banned": [ban],
            "ignore": ["127.0.0.0/8", "::1"]}], "notes": []})),
        "
fail2ban 1.0.2

jail sshd: 1 banned
ignores 127.0.0.0/8, ::1
SOURCE       SINCE                                 UNTIL
203.0.113.7  2026-11-21 06:00:00 CET (30 min ago)  -
",
    );
    same(
        &draw(json!({"schema": "sshfix.hosts/1", "enforced": "yes: sshd is linked with libwrap", "rules": [
            {"file": "/etc/hosts.deny", "line": 3, "text": "sshd: 203.0.113.7", "concerns_sshd": true}], "notes": []})),
        "
does sshd obey these files? yes: sshd is linked with libwrap

FILE             LINE  FOR   RULE
/etc/hosts.deny  3     sshd  sshd: 203.0.113.7
",
    );
    same(
        &draw(json!({"schema": "sshfix.firewall/1", "entries": [
            {"reference": "nft:inet:filter:input:7", "owner": "nobody", "text": "ip saddr 203.0.113.7 drop"}], "notes": []})),
        "
REFERENCE                OWNER   RULE
nft:inet:filter:input:7  nobody  ip saddr 203.0.113.7 drop
",
    );
}

#[test]
fn status_shows_agent_subsystems_and_sessions() {
    same(
        &draw(json!({"schema": "sshfix.status/1", "version": "0.1.0", "hostname": "web1", "host": "SHA256:abc", "port": 22,
            "subsystems": [
                {"name": "fail2ban", "state": "present", "version": "1.0.2", "detail": "1 jail"},
                {"name": "xtables", "state": "absent", "version": null, "detail": "no legacy tables"}],
            "paths": ["203.0.113.8 as root"], "pending": null, "leases": [], "last_drill": null, "notes": []})),
        "
agent 0.1.0
host  web1 SHA256:abc
port  22

SUBSYSTEM  STATE    VERSION  DETAIL
fail2ban   present  1.0.2    1 jail
xtables    absent            no legacy tables

Live SSH sessions (no change may cut their way in):
  203.0.113.8 as root
No change is pending.
Rollback last drilled: never
",
    );
}

#[test]
fn an_error_says_what_happened_and_what_to_do_and_shows_the_new_plan() {
    let drawn = draw(json!({"schema": "sshfix.error/1", "code": "plan-changed", "message": "The plan is not the one shown.",
        "advice": "Look at the new plan and apply that one.", "plan": plan()}));
    assert!(drawn.starts_with("error: The plan is not the one shown.\nwhat to do: Look at the new plan"), "{drawn}");
    assert!(drawn.contains("1. fail2ban: unban 203.0.113.7 in jail sshd\n"), "{drawn}");
}

/// Rule comments, log lines and names are written by others, the attacker among them.
#[test]
fn nothing_from_the_host_reaches_the_terminal_unfiltered() {
    fn poison(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => {
                let fixed = ["sshfix.", "203.", "198.", "2001:", "2026-", "127."].iter().any(|start| text.starts_with(start));
                let word = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
                if !fixed && !word {
                    text.push_str("\u{1b}[2J\u{7}\r\u{9b}1A\u{202e}");
                }
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(poison),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(poison),
            _ => {}
        }
    }
    let failure = json!({"failure": {"step": 1, "summary": "S", "message": "M", "rolled_back": ["R"], "stuck": ["T"]}});
    let documents = [
        blocked(),
        explained(),
        plan(),
        change("confirmed", true, &json!({"notes": ["N"]})),
        change("rolled-back", false, &failure),
        json!({"schema": "sshfix.bans/1", "bans": [{"source": "203.0.113.7/32", "by": "By", "since": null, "until": null}], "notes": ["N"]}),
        json!({"schema": "sshfix.hosts/1", "enforced": "E", "rules": [{"file": "F", "line": 1, "text": "T", "concerns_sshd": true}], "notes": ["N"]}),
        json!({"schema": "sshfix.firewall/1", "entries": [{"reference": "R", "owner": "O", "text": "T"}], "notes": ["N"]}),
        json!({"schema": "sshfix.jails/1", "version": "V", "jails": [{"name": "N", "banned": [], "ignore": ["I"]}], "notes": ["N"]}),
        json!({"schema": "sshfix.status/1", "version": "V", "hostname": "H", "host": "H", "port": 22, "subsystems": [
            {"name": "N", "state": "S", "version": "V", "detail": "D"}], "paths": ["P"], "pending": "P", "leases": [
            {"id": "I", "summary": "S", "ends": "2026-11-21T06:00:00Z"}], "last_drill": null, "notes": ["N"]}),
        json!({"schema": "sshfix.error/1", "code": "failed", "message": "M", "advice": "A"}),
    ];
    for mut document in documents {
        poison(&mut document);
        let parsed: Body = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}: {document}"));
        let view = View { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC, verbose: true, all: false };
        let drawn = body(&parsed, &view);
        // Our own colours are `ESC [ digits m`; nothing else of the kind may be there.
        let rest = drawn.split('\u{1b}').skip(1).find(|rest| {
            let end = rest.find('m').unwrap_or(0);
            !rest.starts_with('[') || !rest[1..end.max(1)].bytes().all(|byte| byte.is_ascii_digit() || byte == b';') || end == 0
        });
        assert_eq!(rest, None, "{drawn:?}");
        assert!(drawn.contains(r"\u{1b}[2J"), "{drawn:?}");
        for bad in ['\u{7}', '\r', '\u{9b}', '\u{202e}'] {
            assert!(!drawn.contains(bad), "{bad:?} in {drawn:?}");
        }
    }
}
