//! What somebody with a narrow grant tries: to lift the bans of others by a claim, to read of others by plans, errors and changes, to ask
//! about another port or user; and to keep root from confirming, by penalties of sshd that anybody can earn for 127.0.0.1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{CtlResult, Release, SERVER_V4, SERVER_V6, Server, Session, on_both};

const SOON: Duration = Duration::from_mins(2);
/// In the networks of no grant but root's: somebody who is logged in,
const SESSION: &str = "198.51.100.7";
/// somebody whom a rule names,
const OTHER: &str = "198.51.100.66";
/// and from where alice claims to come.
const CLAIMED: &str = "198.51.100.1";
/// In alice's network.
const OWN: &str = "203.0.113.70";

const ACTIONS: &str = "actions = [\"diagnose\", \"unban\", \"fix\", \"hosts-deny\", \"sshd-show\"]\n";
const NETWORKS: &str = "networks = [\"203.0.113.0/24\"]\n";

#[test]
fn a_narrow_grant_stays_narrow_and_nobody_keeps_root_from_confirming() {
    on_both(|server| {
        let grants = server.read("/etc/sshfix/policy.toml");
        let alice = Alice { server, grants: &grants };
        alice.exists();
        server.wait_for_fail2ban();
        a_claim_lifts_no_ban(&alice);
        replies_are_about_the_grant(&alice);
        names_of_others_stay_hidden(&alice);
        users_and_ports_are_those_of_the_grant(&alice);
        a_confirm_that_cannot_be_taken_leaves_sshd_alone(server);
        // OpenSSH 9.8 and later.
        if server.release() == Release::Trixie {
            a_penalty_keeps_nobody_from_confirming(server);
        }
    });
}

struct Alice<'a> {
    server: &'a Server,
    /// policy.toml as init made it.
    grants: &'a str,
}

impl Alice<'_> {
    fn exists(&self) {
        self.server
            .sh("useradd -m -s /bin/bash -G sshfix alice; install -d -m 700 -o alice -g alice /home/alice/.ssh
                 runuser -u alice -- ssh-keygen -q -t ed25519 -N '' -f /home/alice/.ssh/id_ed25519
                 echo \"alice $(cut -d ' ' -f 1,2 /home/alice/.ssh/id_ed25519.pub)\" >>/etc/sshfix/allowed_signers")
            .expect_ok();
    }

    /// Her one grant from now on; none where it is empty.
    fn may(&self, grant: &str) {
        let grant = if grant.is_empty() { String::new() } else { format!("\n[[grant]]\nprincipal = \"alice\"\n{grant}") };
        self.server.write("/etc/sshfix/policy.toml", format!("{}{grant}", self.grants));
    }

    fn asks(&self, arguments: &[&str]) -> CtlResult {
        self.asks_as(&[], arguments)
    }

    fn asks_as(&self, environment: &[&str], arguments: &[&str]) -> CtlResult {
        let who = ["runuser", "-u", "alice", "--", "env", "HOME=/home/alice"];
        self.server.run(&[&who, environment, &["/usr/local/bin/sshfix", "ctl"], arguments, &["--json"]].concat()).into()
    }

    fn asks_from(&self, address: &str, arguments: &[&str]) -> CtlResult {
        self.asks_as(&[&format!("SSH_CONNECTION={address} 51234 {SERVER_V4} 22")], arguments)
    }
}

fn id(change: &Value) -> String {
    change["id"].as_str().unwrap().to_owned()
}

fn banned(server: &Server) -> String {
    server.run(&["fail2ban-client", "get", "sshd", "banip"]).expect_ok()
}

fn ban(server: &Server, addresses: &str) {
    server.sh(&format!("fail2ban-client set sshd banip {addresses}")).expect_ok();
}

fn unban_all(server: &Server) {
    server.sh("fail2ban-client unban --all").expect_ok();
}

#[track_caller]
fn names_nobody_else(answer: &CtlResult) {
    for text in [&answer.stdout, &answer.stderr] {
        assert!(!text.contains("198.51.100"), "{text}");
    }
}

/// By a change of her own that is rolled back, alice has the agent lift bans: only those that she may lift.
fn a_claim_lifts_no_ban(alice: &Alice<'_>) {
    let server = alice.server;
    let taken_back = |id: &str| server.ctl(&["rollback", id, "--json"]).expect_status(0);
    let lifted = |address: &str| server.wait_until("the ban is lifted", SOON, || !banned(server).contains(address));
    let others = format!("{OWN} {SESSION} {CLAIMED}");

    alice.may(&format!("{ACTIONS}{NETWORKS}"));
    let session = Session::open(server, SESSION);
    let change = alice.asks_from(CLAIMED, &["hosts", "deny", OWN]).expect_status(5);
    names_nobody_else(&change);
    ban(server, &others);
    let back = alice.asks_from(CLAIMED, &["rollback", &id(&change.json())]).expect_status(0);
    names_nobody_else(&back);
    lifted(OWN);
    let now = banned(server);
    assert!(now.contains(SESSION) && now.contains(CLAIMED), "not hers to lift: {now}");
    unban_all(server);

    // Who may unban nobody (any more) lifts nothing, whoever takes the change back; the next look of the agent is that after root's.
    alice.may(&format!("{ACTIONS}{NETWORKS}"));
    let change = id(&alice.asks(&["hosts", "deny", OWN]).expect_status(5).json());
    ban(server, OWN);
    alice.may("");
    taken_back(&change);

    // Root's own changes lift those of whoever is logged in, too, and not those of a claim.
    let change = id(&server.ctl_from(CLAIMED, &["hosts", "deny", "203.0.113.8", "--json"]).expect_status(5).json());
    ban(server, &format!("203.0.113.8 {SESSION} {CLAIMED}"));
    taken_back(&change);
    lifted("203.0.113.8");
    lifted(SESSION);
    let now = banned(server);
    assert!(now.contains(CLAIMED), "a claim lifts nothing: {now}");
    assert!(now.contains(OWN), "alice may not unban any more: {now}");
    unban_all(server);
    drop(session);
}

fn replies_are_about_the_grant(alice: &Alice<'_>) {
    let server = alice.server;
    alice.may(&format!("{ACTIONS}{NETWORKS}"));
    let deny = server.read("/etc/hosts.deny");
    server.write("/etc/hosts.deny", format!("{deny}sshd: {OTHER}\nsshd: {OWN}, {OTHER}\n"));
    server
        .sh(&format!(
            "nft add table inet hand; nft add chain inet hand input '{{ type filter hook input priority 5; }}'
             nft add rule inet hand input ip saddr '{{ {OTHER}, {OWN} }}' tcp dport 22 drop
             nft add rule inet hand input ip saddr {OTHER} tcp dport 22 drop"
        ))
        .expect_ok();
    let sessions = [Session::open(server, SESSION), Session::open(server, "203.0.113.8")];

    // The rules that block whom she asks about are quoted; the others in them are not shown.
    let diagnosis = alice.asks_from(SESSION, &["diagnose", OWN, "--explain"]).expect_status(8);
    names_nobody_else(&diagnosis);
    let text = diagnosis.stdout.as_str();
    assert!(text.contains(&format!("sshd: {OWN}, (another)")) && text.contains("nft inet hand input handle"), "{text}");
    // Of the ways in, those in her network, and how many more.
    for arguments in
        [&["hosts", "deny", "203.0.113.7", "--dry-run"][..], &["unban", OWN, "--dry-run"], &["fix", OWN, "--dry-run"]]
    {
        let plan = alice.asks_from(SESSION, arguments).expect_status(0);
        names_nobody_else(&plan);
        let plan = plan.json();
        let paths = plan["paths"].as_array().unwrap();
        let of_her_network = |path: &Value| path["source"] == "203.0.113.8" && path["origin"] == "session";
        assert!(paths.len() == 1 && of_her_network(&paths[0]), "{plan:#}");
        assert!(plan["other_paths"].as_u64().unwrap() >= 2, "the session and her own claim: {plan:#}");
    }
    // Root sees all, and what is a claim and what is a session.
    let plan = server.ctl_from("192.0.2.77", &["unban", OWN, "--dry-run", "--json"]).expect_status(0);
    for part in [OTHER, SESSION, "203.0.113.8", "\"claimed\"", "\"session\""] {
        assert!(plan.stdout.contains(part), "{part}: {}", plan.stdout);
    }
    assert!(plan.json().get("other_paths").is_none());

    // A change of somebody else: that it is there, whose it is, how long still.
    let change =
        server.ctl(&["hosts", "deny", "198.51.100.67", "--reason", "of 198.51.100.67", "--json"]).expect_status(5).json();
    let pending = id(&change);
    let busy = alice.asks(&["hosts", "deny", "203.0.113.7"]);
    busy.expect_error(1, "busy", &[&pending, "of root is pending"]);
    names_nobody_else(&busy);
    for verb in ["confirm", "rollback"] {
        let refused = alice.asks(&[verb, &pending]);
        assert!([1, 3].contains(&refused.status), "{refused:#?}");
        names_nobody_else(&refused);
    }
    server.ctl(&["rollback", &pending]).expect_status(0);

    // Whatever is about everybody is not hers, also where she may do all that is about her network.
    alice.may(&format!("actions = [\"*\"]\n{NETWORKS}"));
    for arguments in [
        &["changes"][..],
        &["changes", &pending],
        &["audit", "show"],
        &["audit", "show", "--address", SESSION],
        &["status"],
        &["leases"],
        &["banned"],
        &["banned", SESSION],
        &["fail2ban", "jails"],
        &["firewall", "list"],
        &["firewall", "who"],
        &["hosts", "list"],
        &["sshd", "check"],
        &["sshd", "show", "--user", "root"],
        &["diagnose", SESSION],
        &["unban", OWN, "--range"],
    ] {
        let refused = alice.asks_from(SESSION, arguments);
        refused.expect_error(3, "refused", &["refused"]);
        names_nobody_else(&refused);
    }
    let bans = alice.asks(&["banned", OWN]).expect_status(0);
    names_nobody_else(&bans);
    assert!(bans.stdout.contains(OWN), "{}", bans.stdout);

    drop(sessions);
    server.sh("nft delete table inet hand").expect_ok();
    server.write("/etc/hosts.deny", deny);
    let record = server.ctl(&["audit", "show", "--principal", "alice", "--limit", "1", "--json"]).expect_status(0).json();
    let records = server.ctl(&["audit", "show", "--principal", "alice"]).expect_status(0).stdout;
    assert!(record["records"][0].get("from").is_some(), "{record:#}");
    assert!(records.contains(&format!("alice (claims to come from {SESSION})")), "{records}");
}

/// Whatever a line of sshd's or of hosts.deny looks like: who is named in it beside alice is root's to know.
fn names_of_others_stay_hidden(alice: &Alice<'_>) {
    let server = alice.server;
    server.sh("useradd -m erin; groupadd -f erins; usermod -aG erins erin").expect_ok();
    alice.may(&format!("{ACTIONS}{NETWORKS}users = [\"alice\"]\n"));
    let config = server.read("/etc/ssh/sshd_config");
    let deny = server.read("/etc/hosts.deny");
    server.write("/etc/hosts.deny", format!("{deny}# sshfix says erin\nsshd: erin@{OWN}, {OTHER} : erin\nerin\n"));
    let explained = ["diagnose", OWN, "--user", "alice", "--explain"];
    let fix = ["fix", OWN, "--user", "alice", "--dry-run"];
    let show = ["sshd", "show", "--all", "--user", "alice", "--address", OWN];
    for (lines, is_shown) in [
        // What sshd does not take,
        ("AlowUsers root erin alice", "(a line)"),
        ("AllowUsers root alice \"erin", "(a line)"),
        ("Match Usr erin\n    PermitTTY no", "Match (another) (another)"),
        ("Match Group erins\n    PermitTTY no\n    Erin yes", "(a line)"),
        ("PermitRootLogin erin", "PermitRootLogin (another)"),
        // what it does, and lets alice in,
        ("AllowUsers root erin alice\nDenyGroups erins\nForceCommand /bin/erin # erin", "AllowUsers (another) (another) alice"),
        ("Match Group erins\n    PermitTTY no\nMatch User erin,root\n    PermitTTY no", "(another)"),
        // what sshfix does not ask about,
        ("Banner /home/erin/banner", "sshd could not be asked: (not shown)"),
        // and what refuses her.
        ("AllowUsers root erin\n# erin", "AllowUsers (another) (another)"),
    ] {
        server.write("/etc/ssh/sshd_config", format!("{config}\n{lines}\n"));
        let of_root = server.run(&["/usr/local/bin/sshfix", "ctl", "diagnose", OWN, "--user", "alice", "--explain", "--json"]);
        assert!(of_root.stdout.contains("erin"), "root reads `{lines}`: {}", of_root.stdout);
        let mut seen = String::new();
        for arguments in [&explained[..], &fix, &show] {
            let answer = alice.asks(arguments);
            for text in [&answer.stdout, &answer.stderr] {
                assert!(!text.contains("erin"), "`{lines}` is read by {arguments:?}: {text}");
            }
            seen.push_str(&answer.stdout);
        }
        assert!(seen.contains(is_shown), "`{lines}` leaves no trace: {seen}");
    }
    server.write("/etc/ssh/sshd_config", config);
    server.write("/etc/hosts.deny", deny);
    server.sh("userdel -r erin; groupdel erins").expect_ok();
}

fn users_and_ports_are_those_of_the_grant(alice: &Alice<'_>) {
    let server = alice.server;
    let refused = |arguments: &[&str], environment: &[&str], reason: &str| {
        alice.asks_as(environment, arguments).expect_error(3, "refused", &["refused"]);
        let last = server.ctl(&["audit", "show", "--principal", "alice", "--limit", "1", "--json"]).expect_status(0).json();
        let detail = last["records"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{arguments:?}: `{reason}` is not in {detail}");
    };
    // After twenty refusals of one user not each has a record of its own.
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
    let not_refused = |arguments: &[&str]| {
        let answer = alice.asks(arguments);
        assert!(answer.status != 3, "{arguments:?}: {answer:#?}");
    };
    alice.may(&format!("{ACTIONS}{NETWORKS}users = [\"alice\", \"backup\"]\n"));
    for arguments in [
        &["diagnose", OWN, "--user", "root"][..],
        &["fix", OWN, "--user", "root", "--dry-run"],
        &["sshd", "show", "--user", "root", "--address", OWN],
    ] {
        refused(arguments, &[], "about user `root`");
    }
    // As whom she claims to have come in.
    refused(&["sshd", "show", "--address", OWN], &["SUDO_USER=root"], "about user `root`");
    for arguments in [
        &["diagnose", OWN, "--user", "alice"][..],
        &["diagnose", OWN],
        &["sshd", "show", "PermitRootLogin", "--user", "alice", "--address", OWN],
    ] {
        not_refused(arguments);
    }
    for arguments in [
        &["diagnose", OWN, "--port", "2222"][..],
        &["fix", OWN, "--port", "2222", "--dry-run"],
        &["sshd", "show", "--port", "2222", "--user", "alice", "--address", OWN],
    ] {
        refused(arguments, &[], "about port 2222");
    }
    not_refused(&["diagnose", OWN, "--port", "22"]);
    // As files of before have it: a grant about everybody, and no word of ports.
    alice.may("actions = [\"diagnose\", \"firewall-who\"]\n");
    not_refused(&["diagnose", OWN, "--user", "root"]);
    refused(&["firewall", "who", "--port", "2222"], &[], "about port 2222");
    alice.may("actions = [\"diagnose\", \"firewall-who\"]\nports = [2222]\n");
    not_refused(&["firewall", "who", "--port", "2222"]);
    not_refused(&["diagnose", OWN, "--port", "2222"]);
    // Root's grant of old names no ports either.
    assert!(!alice.grants.contains("\nports"), "{}", alice.grants);
    assert_ne!(server.ctl(&["diagnose", OWN, "--port", "2222"]).status, 3);

    for (wrong, column, words) in [("users = []", 9, "permits no user"), ("ports = [22, 0]", 9, "1 to 65535")] {
        alice.may(&format!("actions = [\"*\"]\n{wrong}\n"));
        let line = server.read("/etc/sshfix/policy.toml").lines().count();
        let check = server.run(&["sshfix-agent", "check"]);
        let said = format!("{}{}", check.stdout, check.stderr);
        assert!(!check.ok() && said.contains(&format!("policy.toml:{line}:{column}:")) && said.contains(words), "{said}");
        server.ctl(&["status"]).expect_status(3);
    }
    alice.may("");
    server.run(&["sshfix-agent", "check"]).expect_ok();
}

/// How many key exchanges sshd saw that were made to prove access.
fn proofs(server: &Server) -> usize {
    server.sh("journalctl --no-pager -t sshd -t sshd-session").stdout.matches("no login was intended").count()
}

fn a_confirm_that_cannot_be_taken_leaves_sshd_alone(server: &Server) {
    let made = |address: &str| id(&server.ctl(&["hosts", "deny", address, "--json"]).expect_status(5).json());
    let change = made(OWN);
    server.ctl(&["confirm", &change]).expect_status(0);
    server.wait_until("sshd says that a proof was made", SOON, || proofs(server) > 0);
    let before = proofs(server);
    server.ctl(&["confirm", &change, "--json"]).expect_error(3, "not-confirmed", &["it is confirmed"]);
    server.ctl(&["confirm", "0000000000", "--json"]).expect_error(1, "failed", &["there is no change"]);
    let refused = server.run(&[
        "env",
        "HOME=/root",
        "/usr/local/bin/sshfix",
        "ctl",
        "confirm",
        &change,
        "--identity",
        "/etc/ssh/ssh_host_ed25519_key",
    ]);
    assert_eq!(refused.status, 3, "{refused:#?}");
    // What came later than they would have.
    let marked = made("203.0.113.71");
    server.ctl(&["confirm", &marked]).expect_status(0);
    server.wait_until("sshd says that the last proof was made", SOON, || proofs(server) > before);
    assert_eq!(proofs(server), before + 1, "a key exchange for nothing");
    for address in [OWN, "203.0.113.71"] {
        server.ctl(&["hosts", "remove", address]).expect_status(0);
    }
}

/// Forty connections without a word, from an address of the host to itself, and sshd talks to that address no more.
fn a_penalty_keeps_nobody_from_confirming(server: &Server) {
    let turned_away = |address: &str| {
        server
            .sh(&format!(
                "runuser -u alice -- bash -c 'for i in $(seq 45); do exec 3<>/dev/tcp/{address}/22 && exec 3>&-; done' || true
                 timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/22; cat <&3' || true"
            ))
            .stdout
    };
    let change = id(&server.ctl(&["hosts", "deny", OWN, "--json"]).expect_status(5).json());
    for address in ["127.0.0.1", SERVER_V4, "::1", SERVER_V6] {
        server.wait_until("sshd has had enough of it", SOON, || !turned_away(address).contains("SSH-2.0"));
    }
    let confirmed = server.ctl(&["confirm", &change, "--json"]).expect_status(0);
    assert_eq!(confirmed.json()["state"], "confirmed");
    for part in ["note: 127.0.0.1:22 turns the connection away", "the proof was made from 127."] {
        assert!(confirmed.stderr.contains(part), "`{part}` is not in: {}", confirmed.stderr);
    }
    server.ctl(&["hosts", "remove", OWN]).expect_status(0);
}
