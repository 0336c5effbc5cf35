//! What `fix` does about sshd's configuration: the login that was asked about gets in, and nobody else whom the same lines kept out.

use serde_json::Value;
use sshfix_tests::lab::{self, HeldConnections, Release, Server};

use super::{DROP_IN, Diagnosis, FROM, OTHER, can_log_in, configure, open, prepared};

/// A drop-in behind [`DROP_IN`].
const SECOND: &str = "/etc/ssh/sshd_config.d/60-y.conf";

/// `fix`, confirmed where it waits for that; the steps have these words. Then a real client gets in, and the diagnosis says so.
#[track_caller]
pub fn fixed(server: &Server, user: Option<&str>, words: &[&str]) -> Value {
    let mut arguments = vec!["--json", "fix", FROM];
    arguments.extend(user.iter().flat_map(|user| ["--user", user]));
    let change = server.ctl(&arguments).json();
    let release = server.release();
    match change["state"].as_str() {
        Some("pending") => _ = server.ctl(&["confirm", change["id"].as_str().unwrap()]).expect_status(0),
        Some("confirmed") => {}
        _ => panic!("{release}: {change:#}"),
    }
    let steps = change["plan"]["steps"].to_string();
    for word in words {
        assert!(steps.contains(word), "{release}: {word}: {change:#}");
    }
    assert_eq!(change["verdict"], "accept", "{release}: {change:#}");
    open(server, user.unwrap_or("root"), FROM);
    change
}

/// Nothing is done: `fix` says what a person must do, and that nothing was changed.
#[track_caller]
pub fn told(server: &Server, user: Option<&str>, words: &[&str]) {
    let mut arguments = vec!["--json", "fix", FROM];
    arguments.extend(user.iter().flat_map(|user| ["--user", user]));
    let answer = server.ctl(&arguments).expect_status(1).json();
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("nothing was changed"), "{answer:#}");
    for word in words {
        assert!(message.contains(word), "{}: {word}: {message}", server.release());
    }
}

#[test]
fn lists_and_methods_are_opened_for_the_one_login_and_for_nobody_else() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        let opens = |lines: &str, user: &str, after: &str| {
            configure(&server, lines);
            assert!(!can_log_in(&server, user, FROM), "{release}: {lines}");
            let change = fixed(&server, Some(user), &[after]);
            assert_eq!(change["plan"]["confirm"], "required", "{release}: {change:#}");
            assert!(!can_log_in(&server, user, OTHER), "{release}: {lines} must keep {OTHER} out");
        };
        opens("# only alice\nAllowUsers alice # yes\n", "root", "root@203.0.113.7");
        assert!(can_log_in(&server, "alice", OTHER), "whom it let in it still lets in");
        assert!(server.read(DROP_IN).starts_with("# only alice\nAllowUsers alice root@203.0.113.7"), "{}", server.read(DROP_IN));
        opens("DenyUsers bob alice\n", "alice", "alice@!203.0.113.7,*");
        opens("DenyUsers alice@203.0.113.0/24\n", "alice", "alice@!203.0.113.7,203.0.113.0/24");
        opens("Match Address 203.0.113.0/24\n  AllowUsers root\nMatch all\n", "alice", "alice@203.0.113.7");
        opens("PermitRootLogin no\n", "root", "Match User root Address 203.0.113.7");
        opens("PasswordAuthentication no\nPubkeyAuthentication no\n", "alice", "PubkeyAuthentication yes");
        // Both lists: what the first remedy unmasks is lifted in the same plan.
        opens("AllowUsers root\nDenyUsers alice\n", "alice", "alice@!203.0.113.7,*");
        opens("AllowGroups root staff\n", "alice", "+    AllowGroups alice");
        // What would let more in is a person's: told, and nothing is done.
        configure(&server, "DenyGroups wh*\n");
        told(&server, Some("alice"), &["sshd-access-list", "50-x.conf line 1"]);
        configure(&server, "DenyUsers *@203.0.113.0/24\n");
        told(&server, Some("alice"), &["sshd-access-list"]);

        // Lists add up over all files: only the lines that must change do.
        let files = || (server.read(DROP_IN), server.read(SECOND));
        let said = |first: &str, second: &str| (first.to_owned(), second.to_owned());
        server.write(SECOND, "# y\nAllowUsers bob\n");
        opens("AllowUsers root\n", "alice", "alice@203.0.113.7");
        assert_eq!(files(), said("AllowUsers root\n", "# y\nAllowUsers bob alice@203.0.113.7\n"), "{release}");
        server.write(SECOND, "DenyUsers eve alice@203.0.113.0/24\n");
        opens("DenyUsers alice bob\n", "alice", "alice@!203.0.113.7,*");
        let narrowed = said("DenyUsers alice@!203.0.113.7,* bob\n", "DenyUsers eve alice@!203.0.113.7,203.0.113.0/24\n");
        assert_eq!(files(), narrowed, "{release}");
        // What is set is what counts, wherever lines stood; and none is left after an unset.
        server.write(SECOND, "AllowUsers bob\nX11Forwarding no\n");
        configure(&server, "AllowUsers root\n");
        let change = server.ctl_confirmed(&["sshd", "set", "AllowUsers", "root", "alice"]);
        let steps = change["plan"]["steps"].to_string();
        for part in ["the first of the lines of AllowUsers, which add up; the others go", "60-y.conf line 1"] {
            assert!(steps.contains(part), "{release}: {part}: {change:#}");
        }
        assert_eq!(files(), said("AllowUsers root alice\n", "X11Forwarding no\n"), "{release}");
        let printed = server.sh("sshd -T | grep -i ^allowusers | sort").expect_ok();
        assert_eq!(printed.trim(), "allowusers alice\nallowusers root", "{release}");
        assert!(can_log_in(&server, "alice", OTHER) && can_log_in(&server, "root", FROM), "{release}");
        server.write(SECOND, "AllowUsers bob\n");
        configure(&server, "AllowUsers root\n");
        assert!(!can_log_in(&server, "alice", FROM), "{release}");
        server.ctl_confirmed(&["sshd", "unset", "AllowUsers"]);
        assert_eq!(files(), said("", ""), "{release}");
        assert!(can_log_in(&server, "alice", FROM), "{release}");

        // With a packet filter before it: one plan.
        configure(&server, "AllowUsers root\n");
        server
            .sh("nft add table inet x; nft 'add chain inet x in { type filter hook input priority 0; }'; \
                   nft add rule inet x in tcp dport 22 ip saddr 203.0.113.7 drop")
            .expect_ok();
        let change = fixed(&server, Some("alice"), &["alice@203.0.113.7", "inet x in"]);
        assert_eq!(change["plan"]["steps"].as_array().unwrap().len(), 2, "{change:#}");
        // Nothing left to do.
        let again = server.ctl(&["--json", "fix", FROM, "--user", "alice"]).expect_status(0).json();
        assert_eq!((&again["state"], &again["verdict"]), (&"unchanged".into(), &"accept".into()));
    }
}

#[test]
fn limits_and_penalties_are_lifted_and_the_dry_run_changes_nothing() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "MaxStartups 2\n");
        let held = HeldConnections::open(&server, OTHER, 2);
        assert!(!can_log_in(&server, "root", FROM));
        let plan = server.ctl(&["--json", "fix", FROM, "--dry-run"]).expect_status(0).json();
        assert!(plan["steps"].to_string().contains("+MaxStartups 100:30:200"), "{plan:#}");
        assert!(!can_log_in(&server, "root", FROM), "only shown");
        // A change that nobody confirms is taken back.
        let change = server.ctl(&["--json", "fix", FROM]).expect_status(5).json();
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
        assert_eq!(server.read(DROP_IN), "MaxStartups 2\n");
        drop(held);
        configure(&server, "MaxStartups 2\n");
        let held = HeldConnections::open(&server, OTHER, 2);
        fixed(&server, None, &["+MaxStartups 100:30:200"]);
        drop(held);

        configure(&server, "PerSourceMaxStartups 1\n");
        let held = HeldConnections::open(&server, FROM, 1);
        fixed(&server, None, &["+PerSourceMaxStartups 11"]);
        drop(held);

        configure(&server, "Ciphers aes256-ctr\n");
        let mut wrong = server.ssh_command(FROM);
        let at = wrong.iter().position(|word| word == "-F").unwrap();
        wrong.splice(at..at, ["-o", "Ciphers=aes128-cbc,aes128-ctr"].map(str::to_owned));
        wrong.push("true".to_owned());
        let words: Vec<&str> = wrong.iter().map(String::as_str).collect();
        assert!(!lab::run(&words).ok());
        server.wait_until("the journal has it", super::LIMIT, || Diagnosis::of(&server, FROM, None).0["verdict"] == "unknown");
        fixed(&server, None, &["+Ciphers aes256-ctr,aes128-ctr"]);
        assert!(lab::run(&words).ok(), "{release}: the same client gets in");

        if release == Release::Trixie {
            configure(
                &server,
                "PerSourcePenalties authfail:300s noauth:1s min:15s max:400s\nPerSourcePenaltyExemptList 198.51.100.9\n",
            );
            server.sh("echo alice:right | chpasswd").expect_ok();
            assert!(!super::service::with_password(&server, "wrong"), "which earns it");
            server.wait_until("the penalty counts", super::LIMIT, || !can_log_in(&server, "root", FROM));
            fixed(&server, None, &["+PerSourcePenaltyExemptList 198.51.100.9,203.0.113.7"]);
        }
    }
}
