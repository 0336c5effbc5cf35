//! Others change the host between plan and apply, between two steps, and while a change waits.

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::Server;

use super::{on_both, one, pending_for, state};

fn blocked(server: &Server) {
    server
        .sh("set -e
             nft add table inet hand; nft 'add set inet hand bad { type ipv4_addr; elements = { 203.0.113.7 } }'
             nft 'add chain inet hand input { type filter hook input priority 0; }'
             nft add rule inet hand input ip saddr @bad drop
             iptables-legacy -A INPUT -s 203.0.113.7 -j DROP
             ipset create bad hash:ip; ipset add bad 203.0.113.7; iptables-legacy -A INPUT -m set --match-set bad src -j DROP
             printf '# kept\\nsshd: 203.0.113.7\\n' > /etc/hosts.deny")
        .expect_ok();
}

fn everything(server: &Server) -> String {
    server.sh("nft -s list table inet hand; iptables-legacy -S; ipset save | grep add; cat /etc/hosts.deny").expect_ok()
}

#[test]
fn a_plan_whose_host_was_changed_is_not_applied_and_the_new_one_is_shown() {
    on_both(|server| {
        blocked(server);
        let shown = server.ctl(&["unban", "203.0.113.7", "--dry-run", "--json"]).expect_status(0).json();
        let digest = shown["digest"].as_str().unwrap();
        let unban = ["unban", "203.0.113.7", "--plan", digest, "--json"];
        // Between the plan and the first step.
        for (script, undo) in [
            (
                "nft add rule inet hand input ip saddr 203.0.113.7 reject",
                "nft delete rule inet hand input handle $(nft -a list chain inet hand input | sed -n 's/.*reject.* handle //p')",
            ),
            ("echo 'ALL: 203.0.113.7' >> /etc/hosts.deny", "sed -i '$d' /etc/hosts.deny"),
            (
                "iptables-legacy -A INPUT -s 203.0.113.0/29 -p tcp --dport 22 -j REJECT",
                "iptables-legacy -D INPUT -s 203.0.113.0/29 -p tcp --dport 22 -j REJECT",
            ),
        ] {
            let answer = server.ctl_meanwhile(0, script, &unban);
            answer.expect_error(1, "plan-changed", &["nothing was changed"]);
            let plan = &answer.json()["plan"];
            assert!(plan["digest"] != digest && plan["schema"] == "sshfix.plan/1", "{plan:#}");
            server.sh(undo).expect_ok();
            assert!(!server.ssh("203.0.113.7").ok);
        }
        // What does not change the plan does not stop it.
        let before = everything(server);
        let answer =
            server.ctl_meanwhile(0, "nft add table inet other", &["hosts", "deny", "203.0.113.70", "--json"]).expect_status(5);
        server.ctl(&["rollback", answer.json()["id"].as_str().unwrap()]).expect_status(0);
        assert_eq!(everything(server), before);
        // Just before each step: what was done is taken back, what others did stays.
        let steps = shown["steps"].as_array().unwrap();
        for (index, step) in steps.iter().enumerate() {
            let script = match step["subsystem"].as_str().unwrap() {
                "nf_tables" => {
                    "nft delete element inet hand bad '{ 203.0.113.7 }'; nft add element inet hand bad '{ 203.0.113.7 comment \"theirs\" }'"
                }
                "hosts_access" => "echo '# theirs' >> /etc/hosts.deny",
                "xtables" => "iptables-legacy -I INPUT -s 203.0.113.7 -j DROP",
                "ipset" => continue,
                other => panic!("{other}"),
            };
            let answer = server.ctl_meanwhile(index + 1, script, &unban);
            answer.expect_error(1, "plan-changed", &["rolled back"]);
            assert!(!server.ssh("203.0.113.7").ok, "{step:#}");
            server.sh("nft delete table inet hand; iptables-legacy -F INPUT; ipset destroy").expect_ok();
            blocked(server);
        }
        assert_eq!(everything(server), before);
        server.ctl(&unban).expect_status(0);
    });
}

#[test]
fn what_others_changed_while_it_waited_stays_and_what_cannot_be_undone_is_stuck() {
    on_both(|server| {
        server.write("/etc/hosts.deny", "# kept\nsshd: 203.0.113.8\n");
        let id = pending_for(server, "10m", &["hosts", "deny", "203.0.113.70"]);
        server.sh("echo 'sshd: 198.51.100.7' >> /etc/hosts.deny; sed -i '1i # theirs' /etc/hosts.deny").expect_ok();
        let back = server.ctl(&["rollback", &id, "--json"]).expect_status(0).json();
        assert!(back["notes"].to_string().contains("their lines were kept"), "{back:#}");
        assert_eq!(server.read("/etc/hosts.deny"), "# theirs\n# kept\nsshd: 203.0.113.8\nsshd: 198.51.100.7\n");

        // Their edit of our very line cannot be told from ours.
        let id = pending_for(server, "10m", &["hosts", "deny", "203.0.113.70"]);
        server.sh("sed -i 's/sshd: 203.0.113.70/sshd: 203.0.113.70, 203.0.113.71/' /etc/hosts.deny").expect_ok();
        let stuck = server.ctl(&["rollback", &id, "--json"]).expect_status(7).json();
        assert_eq!(stuck["state"], "stuck", "{stuck:#}");
        let detail = one(server, &id)["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("/etc/hosts.deny") && detail.contains("By hand:"), "{detail}");
        let status: Value = server.ctl(&["status", "--json"]).expect_status(0).json();
        assert_eq!((&status["waiting"][0]["id"], &status["waiting"][0]["state"]), (&id.as_str().into(), &"stuck".into()));
        // Nothing else is changed meanwhile, and questions go on.
        let refused = server.ctl(&["ban", "203.0.113.7", "--jail", "sshd", "--json"]);
        refused.expect_error(7, "stuck", &[&id, "By hand:"]);
        assert_eq!(refused.json()["change"]["id"], id.as_str());
        assert_eq!(server.ctl(&["diagnose", "203.0.113.8"]).status, 8);

        // Put right by hand, it is taken back by itself; nobody has to say so.
        server.sh("sed -i 's/, 203.0.113.71//' /etc/hosts.deny").expect_ok();
        server.wait_until("it is tried again", Duration::from_mins(2), || state(server, &id) == "rolled-back");
        assert!(!server.read("/etc/hosts.deny").contains("203.0.113.70"));

        // Or it is left to a person.
        let id = pending_for(server, "10m", &["hosts", "deny", "203.0.113.70"]);
        server.sh("sed -i 's/sshd: 203.0.113.70/sshd: 203.0.113.72/' /etc/hosts.deny").expect_ok();
        server.ctl(&["rollback", &id]).expect_status(7);
        let left = server.ctl(&["rollback", &id, "--abandon", "--json"]).expect_status(0).json();
        assert_eq!(left["state"], "abandoned", "{left:#}");
        assert!(server.read("/etc/hosts.deny").contains("203.0.113.72"));
        server.ctl_confirmed(&["ban", "203.0.113.7", "--jail", "sshd"]);
        server.sh("fail2ban-client unban --all").expect_ok();
        a_rule_goes_back_into_no_table_that_was_made_anew(server);
        a_rollback_of_sshd_ends_nobodys_way_in(server);
    });
}

/// The handles of a table that was made anew name other rules.
fn a_rule_goes_back_into_no_table_that_was_made_anew(server: &Server) {
    let table = |rule: &str| {
        let script = format!(
            "nft delete table inet anew 2> /dev/null || true; nft add table inet anew
             nft 'add chain inet anew input {{ type filter hook input priority 0; }}'
             nft add rule inet anew input {rule}
             nft add rule inet anew input ip saddr 203.0.113.8 tcp dport 22 drop
             nft -a list chain inet anew input | sed -n 's/.*saddr.* handle //p' | head -n 1"
        );
        server.sh(&script).expect_ok().trim().to_owned()
    };
    let handle = table("ip saddr 203.0.113.8 tcp dport 22 accept");
    let id = pending_for(server, "10m", &["firewall", "remove", &format!("nft/inet/anew/input/handle/{handle}")]);
    assert_eq!(table("ip saddr 192.0.2.0/24 accept"), handle);
    server.ctl(&["rollback", &id]).expect_status(7);
    let detail = one(server, &id)["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("was made anew"), "{detail}");
    server.ctl(&["rollback", &id, "--abandon"]).expect_status(0);
    server.sh("nft delete table inet anew").expect_ok();
}

/// What others did to sshd's files while a change waited: neither their edits nor ours end somebody's way in by the rollback.
fn a_rollback_of_sshd_ends_nobodys_way_in(server: &Server) {
    const ME: &str = "203.0.113.7";
    let (blocks, by_hand) = ("/etc/ssh/sshd_config.d/50-m.conf", "/etc/ssh/sshd_config.d/60-hand.conf");
    let block =
        "Match Address 10.0.0.0/8\n\tX11Forwarding no\n\tPermitTTY yes\n\tBanner none\n\tAllowUsers bob\n\tMaxAuthTries 6\n";
    let stuck = |id: &str, words: &str| {
        server.ctl(&["rollback", id]).expect_status(7);
        // A retry may be under way, which says why when it is over.
        server.wait_until(words, Duration::from_mins(1), || one(server, id)["detail"].as_str().unwrap().contains(words));
        assert!(server.ssh(ME).ok, "{words}");
    };
    let put_right =
        |id: &str| server.wait_until("it is tried again", Duration::from_mins(2), || state(server, id) == "rolled-back");
    server.write(blocks, block);
    server.sh("sshd -t && systemctl reload ssh").expect_ok();

    // Our line would come back in a block that is for everybody by now.
    let id = pending_for(server, "10m", &["sshd", "unset", "AllowUsers", "--match", "Address 10.0.0.0/8"]);
    server.sh(&format!("sed -i 's/^Match.*/Match all/' {blocks}; sshd -t && systemctl reload ssh")).expect_ok();
    stuck(&id, "would come to stand under `Match all`");
    server.sh(&format!("sed -i 's|^Match.*|Match Address 10.0.0.0/8|' {blocks}; systemctl reload ssh")).expect_ok();
    put_right(&id);
    assert_eq!(server.read(blocks), block);

    // sshd would read what others wrote by hand and it has not read yet.
    let mut session = std::process::Command::new(&server.ssh_command(ME)[0])
        .args(&server.ssh_command(ME)[1..])
        .arg("echo in; exec sleep 600")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(session.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
    let files = "cat /etc/ssh/sshd_config /etc/ssh/sshd_config.d/50-m.conf";
    let before = server.sh(files).expect_ok();
    let id = pending_for(server, "10m", &["sshd", "set", "Compression", "no"]);
    server.write(by_hand, "DenyUsers root\n");
    stuck(&id, "would refuse root from 203.0.113.7");
    assert_eq!(server.sh(files).expect_ok(), before, "the files are as they were all the same");
    server.write(by_hand, "Banner none\n");
    put_right(&id);
    assert!(server.ssh(ME).ok);
    server.sh(&format!("rm {by_hand} {blocks}; systemctl reload ssh")).expect_ok();
    let _ = session.kill();
    let _ = session.wait();
}
