//! How far things reach: what somebody with a narrow grant reads of others in rules and in numbers, what sshd makes of the interface behind a
//! link-local address, and what a unit writes beside a change. Real logins are the judge. One server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use sshfix_tests::lab::{self, ADMIN_V4, CtlResult, Release, Server, Session};

/// In alice's network.
const OWN: &str = "203.0.113.70";

fn prepare(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("useradd -m -s /bin/bash -G sshfix alice; install -d -m 700 -o alice -g alice /home/alice/.ssh
             runuser -u alice -- ssh-keygen -q -t ed25519 -N '' -f /home/alice/.ssh/id_ed25519
             echo \"alice $(cut -d ' ' -f 1,2 /home/alice/.ssh/id_ed25519.pub)\" >>/etc/sshfix/allowed_signers")
        .expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    server
}

fn asks(server: &Server, arguments: &[&str]) -> CtlResult {
    let who = ["runuser", "-u", "alice", "--", "env", "HOME=/home/alice", "/usr/local/bin/sshfix", "ctl"];
    server.run(&[&who[..], arguments, &["--json"]].concat()).into()
}

/// What is written about others beside a rule, and addresses of others in any form that `inet_aton(3)` takes.
fn comments_and_numbers_stay_hidden(server: &Server) {
    let grants = server.read("/etc/sshfix/policy.toml");
    let actions =
        "[\"diagnose\", \"unban\", \"fix\", \"hosts-deny\", \"hosts-allow\", \"sshd-show\", \"firewall-accept\", \"allow\"]";
    server.write(
        "/etc/sshfix/policy.toml",
        format!("{grants}\n[[grant]]\nprincipal = \"alice\"\nactions = {actions}\nnetworks = [\"203.0.113.0/24\"]\nusers = [\"alice\"]\n"),
    );
    let config = server.read("/etc/ssh/sshd_config");
    let deny = server.read("/etc/hosts.deny");
    let numbers = ["3325256770", "0xc6336442", "198.51.25666", "198.3368002", "0306.063.0144.0102", "030614662102"];
    let secrets: Vec<&str> = numbers.into_iter().chain(["erin", "198.51.100"]).collect();
    let number_list = numbers.join(" ");
    server.write("/etc/hosts.deny", format!("{deny}sshd: {number_list} @erins\nsshd: {OWN} {number_list}\n"));
    server.sh("nft flush ruleset").expect_ok();
    server
        .sh(&format!(
            "nft add table inet hand; nft add chain inet hand first '{{ type filter hook input priority -5; }}'
             nft add chain inet hand input '{{ type filter hook input priority 5; }}'
             nft add set inet hand listed '{{ type ipv4_addr; elements = {{ {OWN} comment \"ticket of erin at 198.51.100.66\" }}; }}'
             nft add rule inet hand first ip saddr @listed tcp dport 22 log prefix '\"erin: \"' comment '\"erin asks for it\"'
             nft add rule inet hand input ip saddr {OWN} tcp dport 22 drop comment '\"erin, 3325256770, says \\\\ so\"'
             iptables-nft -I INPUT -s {OWN} -m comment --comment \"erin's \\\"own\\\" rule\" -j DROP
             iptables-nft -I INPUT -s {OWN} -m comment --comment erin -j LOG --log-prefix 'erin '
             iptables-nft -I INPUT -s {OWN} -m comment --comment 'of erin' -j NFLOG --nflog-prefix erin
             iptables-legacy -I INPUT -s {OWN} -m comment --comment 'for erin' -j LOG --log-prefix 'of erin '
             iptables-legacy -I INPUT -s {OWN} -m string --string erin --algo bm -m comment --comment erin -j DROP"
        ))
        .expect_ok();
    let mut seen = String::new();
    for lines in [
        "X11Forwarding no".to_owned(),
        format!("DenyUsers {}", numbers.map(|number| format!("alice@{number}")).join(" ")),
        format!("Match Address {}\n    DenyUsers alice", [&numbers[..], &[OWN]].concat().join(",")),
        format!(
            "Match Address {OWN}\n    PermitOpen {}\n    DenyUsers alice",
            numbers.map(|number| format!("{number}:22")).join(" ")
        ),
        "DenyUsers alice\nDenyGroups erins\nMatch Group erins\n    PermitTTY no".to_owned(),
    ] {
        server.write("/etc/ssh/sshd_config", format!("{config}\n{lines}\n"));
        let of_root = server.ctl(&["diagnose", OWN, "--user", "alice", "--explain", "--json"]).stdout;
        assert!(of_root.contains("ticket of erin") && of_root.contains("erin asks for it"), "root reads `{lines}`: {of_root}");
        for arguments in [
            &["diagnose", OWN, "--user", "alice", "--explain"][..],
            &["diagnose", OWN, "--user", "alice"],
            &["fix", OWN, "--user", "alice", "--dry-run"],
            &["unban", OWN, "--dry-run"],
            &["firewall", "accept", OWN, "--dry-run"],
            &["allow", OWN, "--dry-run", "--for", "1m"],
            &["hosts", "allow", OWN, "--dry-run"],
            &["hosts", "deny", OWN, "--dry-run"],
            &["sshd", "show", "--all", "--user", "alice", "--address", OWN],
        ] {
            let answer = asks(server, arguments);
            for (secret, text) in secrets.iter().flat_map(|secret| [(secret, &answer.stdout), (secret, &answer.stderr)]) {
                assert!(!text.contains(secret), "{secret} of `{lines}` is read by {arguments:?}: {text}");
            }
            seen.push_str(&answer.stdout);
        }
    }
    for shown in
        ["comment (not shown)", "log prefix (not shown)", "--comment (not shown)", "--string (not shown)", "PermitOpen (another)"]
    {
        assert!(seen.contains(shown), "`{shown}` is nowhere: {seen}");
    }
    server.write("/etc/ssh/sshd_config", config);
    server.write("/etc/hosts.deny", deny);
    server.write("/etc/sshfix/policy.toml", grants);
    server.sh("nft flush ruleset; iptables-legacy -F").expect_ok();
}

/// Nobody has proven what a unit writes beside a change, and no rollback takes it away.
fn a_unit_that_may_write_is_not_told(server: &Server) {
    const UNIT: &str = "/etc/systemd/system/ssh.service.d/o.conf";
    const CAME: &str = "/etc/ssh/sshd_config.d/00-a.conf";
    let writes = format!("/bin/sh -c \"echo PermitRootLogin no > {CAME}; kill -HUP $MAINPID\"");
    let with = |line: &str| {
        server.write(UNIT, format!("[Service]\n{line}\n"));
        server.sh("systemctl daemon-reload").expect_ok();
    };
    let edit = &["sshd", "set", "X11Forwarding", "no"][..];
    let before = server.read("/etc/ssh/sshd_config");
    for (line, refused, made) in [
        (format!("ExecReload=\nExecReload={writes}"), &[edit, &["sshd", "reload"]][..], &[&["sshd", "restart"][..]][..]),
        (format!("ExecStartPre={writes}"), &[&["sshd", "restart"]], &[edit]),
        (format!("ExecStopPost={writes}"), &[&["sshd", "restart"]], &[edit]),
        ("ExecStartPre=/bin/sleep 0.1\nExecReload=/bin/true".to_owned(), &[], &[edit, &["sshd", "restart"]]),
    ] {
        with(&line);
        for words in refused {
            let asked = server.ctl(&[words, &["--json"][..]].concat());
            let said = asked.stdout.clone() + &asked.stderr;
            assert!(![0, 5].contains(&asked.status) && said.contains("may write sshd's files"), "{line} {words:?}: {said}");
            assert!(!server.path(CAME).exists() && server.read("/etc/ssh/sshd_config") == before, "{line} {words:?}: {said}");
        }
        for words in made {
            let asked = server.ctl(&[words, &["--json", "--confirm-within", "10m"][..]].concat()).expect_status(5);
            let back = server.ctl(&["rollback", asked.json()["id"].as_str().unwrap()]).expect_status(0);
            // Nobody stops an sshd from having been started.
            let whole = *words != edit || back.stdout.contains("The host is as it was before");
            assert!(whole && !server.path(CAME).exists(), "{line} {words:?}: {back:?}");
        }
    }
    server.sh(&format!("rm -rf {UNIT}; systemctl daemon-reload")).expect_ok();
    assert!(server.gets_in("root", ADMIN_V4, 22));
}

/// sshd knows a link-local client by the interface, too, and the kernel has it of a live session.
fn link_local_clients_are_judged(server: &Server) {
    const BY_HAND: &str = "/etc/ssh/sshd_config.d/99-unread.conf";
    const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
    let of = |run: &dyn Fn(&str) -> String, interface: &str| {
        run(&format!("ip -6 -o addr show dev {interface} scope link | awk '{{print $4}}' | cut -d/ -f1")).trim().to_owned()
    };
    let outside = format!("ve-{}", server.clients_netns());
    let here = of(&|script| server.sh(script).stdout, "host0");
    let me = of(&|script| lab::run(&["ip", "netns", "exec", server.clients_netns(), "sh", "-c", script]).stdout, &outside);
    let mut command = server.ssh_command(ADMIN_V4);
    let bound = command.iter().position(|word| word == "-b").unwrap();
    command.drain(bound..bound + 2);
    *command.last_mut().unwrap() = format!("root@{here}%{outside}");
    let login = [command.clone(), vec!["true".to_owned()]].concat();
    let login: Vec<&str> = login.iter().map(String::as_str).collect();
    let gets_in = || (0..3).any(|_| lab::run(&login).ok());
    let ask = |edit: &str| {
        let words: Vec<&str> = ["sshd"].into_iter().chain(edit.split(' ')).chain(["--json", "--confirm-within", "10m"]).collect();
        server.ctl(&words)
    };
    server.sshd_follows(DROP_IN, "X11Forwarding yes\n");
    let session = Session::begin(&command);
    assert!(gets_in(), "{me} to {here}");
    // What sshd takes for this client is applied, and she gets in; what it does not take is refused.
    for edit in [
        "set AllowUsers root@fe80::*%host0".to_owned(),
        "set AllowUsers root@fe80::%host0/64".to_owned(),
        format!("set AllowUsers root@{me}%host0"),
        "set DenyUsers root@fe80::/10".to_owned(),
        "set DenyUsers root@*%lo".to_owned(),
    ] {
        let made = ask(&edit);
        assert!(made.status == 5 && gets_in(), "{} {edit}: {} {}", server.release(), made.status, made.stdout);
        server.ctl(&["rollback", made.json()["id"].as_str().unwrap()]).expect_status(0);
    }
    // As she asks herself: sshd writes the interface into her SSH_CONNECTION.
    for (edit, status) in [("AllowUsers", 5), ("DenyUsers", 4)] {
        let words = ["sshd", "set", edit, "root@fe80::*%host0", "--json", "--confirm-within", "10m"];
        let asked = server.ctl_from(&format!("{me}%host0"), &words);
        assert!(asked.status == status && gets_in(), "{} {edit}: {} {}", server.release(), asked.status, asked.stdout);
        if let Some(id) = asked.json()["id"].as_str() {
            server.ctl(&["rollback", id]).expect_status(0);
        }
    }
    for edit in [
        "set AllowUsers root@fe80::/10".to_owned(),
        format!("set AllowUsers root@{me}"),
        "set AllowUsers root@*%lo".to_owned(),
        "set DenyUsers root@*%host0".to_owned(),
        "set DenyUsers root@fe80::%host0/64".to_owned(),
        // By number: which interface that is now is not known.
        "set DenyUsers root@fe80::%2/64".to_owned(),
    ] {
        let asked = ask(&edit);
        assert!(asked.status == 4 && gets_in(), "{} {edit}: {} {}", server.release(), asked.status, asked.stdout);
    }
    // Blocks by hand, read with the next reload: sshd -T is given what sshd itself sees.
    for (block, refused) in [
        ("Match Address *%host0\n    PermitRootLogin no\n", true),
        ("Match LocalAddress *%host0\n    PermitRootLogin no\n", true),
        ("Match Host *%lo\n    PermitRootLogin no\n", false),
        ("Match Address fe80::/10\n    PermitRootLogin no\n", false),
    ] {
        server.write(BY_HAND, block);
        let asked = ask("reload");
        let expected = if refused { 4 } else { 5 };
        assert!(asked.status == expected && gets_in(), "{} {block}: {} {}", server.release(), asked.status, asked.stdout);
        if let Some(id) = asked.json()["id"].as_str() {
            server.ctl(&["rollback", id]).expect_status(0);
        }
        server.sh(&format!("rm {BY_HAND}")).expect_ok();
        server.sshd_follows(DROP_IN, "X11Forwarding yes\n");
    }
    drop(session);
    // A keep entry may come by any interface: it stays unknown.
    let config = server.read("/etc/sshfix/agent.toml");
    server.write("/etc/sshfix/agent.toml", format!("[[keep]]\naddress = \"{me}\"\nuser = \"root\"\n{config}"));
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
    ask("set DenyUsers root@*%lo").expect_status(4);
    let made = ask("set DenyUsers root@203.0.113.0/24").expect_status(5);
    server.ctl(&["rollback", made.json()["id"].as_str().unwrap()]).expect_status(0);
    server.write("/etc/sshfix/agent.toml", config);
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
}

fn scenes(release: Release) {
    let server = prepare(release);
    comments_and_numbers_stay_hidden(&server);
    a_unit_that_may_write_is_not_told(&server);
    link_local_clients_are_judged(&server);
}

#[test]
fn how_far_things_reach_is_known() {
    if !lab::root_or_skip() {
        return;
    }
    std::thread::scope(|scope| {
        for release in Release::ALL {
            scope.spawn(move || scenes(release));
        }
    });
}
