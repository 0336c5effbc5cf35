//! Audit records on real servers of both releases: who asked what is on record and in the journal, tampering is found, a full disk
//! changes nothing, and whoever is refused for ever cannot fill it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use serde_json::{Value, json};
use sshfix_tests::lab::{CtlResult, Server, on_both};

fn records(server: &Server, filter: &[&str]) -> Vec<Value> {
    let audit = server.ctl(&[&["audit", "show", "--json"], filter].concat()).expect_status(0).json();
    assert_eq!(audit["schema"], "sshfix.audit/1");
    audit["records"].as_array().unwrap().clone()
}

/// The database is changed behind the agent's back, as root can; python3 is on every Debian with fail2ban.
fn sql(server: &Server, script: &str) {
    let program = format!(
        "import sqlite3; db = sqlite3.connect('/var/lib/sshfix/state.db'); \
         db.executescript('''DROP TRIGGER IF EXISTS audit_is_never_edited; DROP TRIGGER IF EXISTS audit_is_never_cut; {script}''')"
    );
    server.run(&["python3", "-c", &program]).expect_ok();
}

/// `sshfix ctl` of a local user who may connect but whose key nobody knows.
fn stranger(server: &Server, times: u32, arguments: &str) -> CtlResult {
    server.sh("id -u mallory >/dev/null 2>&1 || useradd -m -G sshfix mallory").expect_ok();
    server
        .sh("[ -e /home/mallory/key ] || runuser -u mallory -- ssh-keygen -q -t ed25519 -N '' -f /home/mallory/key")
        .expect_ok();
    let ask = format!(
        "for n in $(seq {times}); do \
         runuser -u mallory -- /usr/local/bin/sshfix ctl --identity /home/mallory/key {arguments} >/dev/null 2>&1; status=$?; \
         [ $status = 3 ] || exit $status; done; exit 3"
    );
    server.run(&["sh", "-c", &ask]).into()
}

#[test]
fn who_asked_what_is_on_record_and_in_the_journal() {
    on_both(|server| {
        server.sh("fail2ban-client set sshd banip 203.0.113.7").expect_ok();
        let plan = server.ctl(&["unban", "203.0.113.7", "--dry-run", "--json"]).expect_status(0).json();
        let change = server.ctl(&["unban", "203.0.113.7", "--reason", "ticket 42", "--json"]).expect_status(0).json();
        stranger(server, 1, "unban 203.0.113.8").expect_status(3);

        let made = records(server, &["--change", change["id"].as_str().unwrap()]);
        assert_eq!(made.len(), 1, "{made:#?}");
        let made = &made[0];
        for (field, expected) in [
            ("principal", json!("root")),
            ("peer_uid", json!(0)),
            ("action", json!("unban")),
            ("operation", json!({"unban": {"source": "203.0.113.7/32"}})),
            ("reason", json!("ticket 42")),
            ("outcome", json!("confirmed")),
            ("plan", plan["digest"].clone()),
        ] {
            assert_eq!(made[field], expected, "{field}: {made:#}");
        }
        assert!(made["key"].as_str().unwrap().starts_with("SHA256:"), "{made:#}");
        assert_eq!(records(server, &["--action", "unban", "--outcome", "answered"]).len(), 1, "the dry run");
        assert_eq!(records(server, &["--address", "203.0.113.0/24", "--principal", "root"]).len(), 2);
        assert_eq!(records(server, &["--address", "203.0.113.70"]).len(), 0);
        assert_eq!(records(server, &["--since", "1h", "--limit", "1"]).len(), 1);
        assert_eq!(records(server, &["--until", "1h"]).len(), 0);
        let refused = records(server, &["--outcome", "refused"]);
        assert_eq!(refused.len(), 1, "{refused:#?}");
        let uid: u32 = server.sh("id -u mallory").expect_ok().trim().parse().unwrap();
        assert_eq!((&refused[0]["principal"], &refused[0]["peer_uid"]), (&Value::Null, &json!(uid)), "{refused:#?}");
        assert!(refused[0]["detail"].as_str().unwrap().len() > 10, "the reason that the peer is not told: {refused:#?}");
        let text = server.ctl(&["audit", "show"]).expect_status(0).stdout;
        assert!(text.contains("sshfix ctl unban 203.0.113.7") && text.contains("ticket 42"), "{text}");

        let fields = ["SSHFIX_PRINCIPAL=root", "SSHFIX_OUTCOME=confirmed"];
        let journal = server.run(&[&["journalctl", "--no-pager", "-o", "json"], &fields[..]].concat()).expect_ok();
        let line: Value = serde_json::from_str(journal.lines().next().expect("a line in the journal")).unwrap();
        assert_eq!(line["SSHFIX_CHANGE"], change["id"], "{line:#}");
        assert_eq!(line["SSHFIX_PLAN"], plan["digest"], "{line:#}");
        assert_eq!(line["SSHFIX_AUDIT_HASH"].as_str().map(str::len), Some(64), "{line:#}");
        // Also where next to nothing is logged.
        server.write("/etc/systemd/system/sshfix-agent.service.d/quiet.conf", "[Service]\nEnvironment=SSHFIX_LOG=error\n");
        server.run(&["systemctl", "daemon-reload"]).expect_ok();
        server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
        server.ctl(&["hosts", "list"]).expect_status(0);
        let quiet = server.run(&["journalctl", "--no-pager", "-o", "cat", "SSHFIX_ACTION=hosts-list"]).expect_ok();
        assert!(quiet.contains("answered"), "{quiet}");
    });
}

#[test]
fn tampering_with_the_records_is_found_with_and_without_an_agent() {
    on_both(|server| {
        for _ in 0..5 {
            server.ctl(&["hosts", "list"]).expect_status(0);
        }
        let whole = server.ctl(&["audit", "verify", "--json"]).expect_status(0).json();
        assert_eq!((&whole["schema"], &whole["intact"]), (&json!("sshfix.audit-verification/1"), &json!(true)), "{whole:#}");
        // Kept elsewhere, in both forms.
        let text = server.ctl(&["audit", "checkpoint"]).expect_status(0).stdout;
        let json = server.ctl(&["audit", "checkpoint", "--json"]).expect_status(0).stdout;
        server.write("/root/kept", &text);
        server.write("/root/kept.json", &json);
        for kept in ["/root/kept", "/root/kept.json"] {
            server.ctl(&["audit", "verify", "--checkpoint", kept]).expect_status(0);
        }
        let offline = |server: &Server, more: &[&str]| {
            let output = server.run(&[&["sshfix-agent", "audit-verify"], more].concat());
            (output.status, output.stdout)
        };
        assert_eq!(offline(server, &["--checkpoint", "/root/kept"]).0, 0);

        sql(server, "UPDATE audit SET body = replace(body, 'root', 'bob') WHERE seq = 3");
        let broken = server.ctl(&["audit", "verify", "--json"]).expect_status(1).json();
        assert_eq!((&broken["intact"], &broken["problems"][0]["record"]), (&json!(false), &json!(3)), "{broken:#}");
        let shown = server.ctl(&["audit", "verify"]).expect_status(1).stdout;
        assert!(shown.contains("BROKEN") && shown.contains("record 3 was altered"), "{shown}");
        sql(server, "UPDATE audit SET body = replace(body, 'bob', 'root') WHERE seq = 3");
        server.ctl(&["audit", "verify"]).expect_status(0);

        // The end cut off while nobody runs, and every trace of a checkpoint on this host with it.
        server.run(&["systemctl", "stop", "sshfix-agent.socket", "sshfix-agent.service"]).expect_ok();
        server.run(&["cp", "-r", "/var/lib/sshfix", "/root/copy"]).expect_ok();
        sql(server, "DELETE FROM audit_checkpoints WHERE seq > 4; DELETE FROM audit WHERE seq > 6");
        let key = ["--key", "/etc/sshfix/agent_ed25519.pub", "--checkpoint", "/root/kept"];
        assert_eq!(offline(server, &["--checkpoint", "/root/kept"]).0, 1);
        let (status, said) = offline(server, &[&["--state", "/var/lib/sshfix/state.db"], &key[..]].concat());
        assert!(status == 1 && said.contains("from 7 on"), "{said}");
        let (status, said) = offline(server, &[&["--state", "/root/copy/state.db"], &key[..]].concat());
        assert_eq!(status, 0, "the copy is whole: {said}");
        server.run(&["systemctl", "start", "sshfix-agent.socket", "sshfix-agent.service"]).expect_ok();
        server.ctl(&["audit", "verify", "--checkpoint", "/root/kept"]).expect_status(1);
        let forged = text.replace("record ", "record 1");
        server.write("/root/forged", forged);
        let refused = server.ctl(&["audit", "verify", "--checkpoint", "/root/forged", "--json"]).expect_status(1).json();
        assert!(refused["message"].as_str().unwrap().contains("altered"), "{refused:#}");
    });
}

#[test]
fn where_the_record_cannot_be_written_nothing_is_changed() {
    on_both(|server| {
        server.sh("fail2ban-client set sshd banip 203.0.113.7").expect_ok();
        server.run(&["systemctl", "stop", "sshfix-agent.service"]).expect_ok();
        server.sh("mount -t tmpfs -o size=2m,mode=0700 full /var/lib/sshfix").expect_ok();
        server.run(&["systemctl", "start", "sshfix-agent.service"]).expect_ok();
        server.ctl(&["hosts", "list"]).expect_status(0);
        server.sh("dd if=/dev/zero of=/var/lib/sshfix/filler bs=4k 2>/dev/null || true").expect_ok();
        // What room is left in the write-ahead log is soon used up.
        let full = (0..200).any(|_| server.ctl(&["hosts", "list"]).status == 1);
        assert!(full, "the disk never was full");
        for _ in 0..3 {
            let refused = server.ctl(&["unban", "203.0.113.7", "--json"]).expect_status(1).json();
            assert!(refused["message"].as_str().unwrap().contains("nothing was changed"), "{refused:#}");
        }
        assert_eq!(server.sh("fail2ban-client get sshd banip").expect_ok().trim(), "203.0.113.7");
        assert!(!server.ssh("203.0.113.7").ok);
        server.sh("rm /var/lib/sshfix/filler").expect_ok();
        server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
        assert!(server.ssh("203.0.113.7").ok);
        server.ctl(&["audit", "verify"]).expect_status(0);
    });
}

#[test]
fn whoever_is_refused_for_ever_cannot_fill_the_disk() {
    on_both(|server| {
        let rows = |server: &Server| -> u64 {
            let program = "import sqlite3; print(sqlite3.connect('/var/lib/sshfix/state.db').execute('SELECT count(*) FROM audit').fetchone()[0])";
            server.run(&["python3", "-c", program]).expect_ok().trim().parse().unwrap()
        };
        let before = rows(server);
        for _ in 0..3 {
            stranger(server, 50, "status").expect_status(3);
        }
        let grown = rows(server) - before;
        // The burst of 20, opened and closed, and one more each 30 s.
        assert!((40..80).contains(&grown), "{grown} rows for 150 refusals");
        // The others are in one record, at the latest when the agent ends.
        server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
        let counted = records(server, &["--outcome", "refused", "--limit", "1000"]);
        let summary: Vec<&str> = counted.iter().filter_map(|record| record["automatic"].as_str()).collect();
        assert!(!summary.is_empty() && summary.iter().all(|text| text.contains("more requests were refused")), "{summary:?}");
        let of: u64 = summary.iter().map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(of + (counted.len() - summary.len()) as u64, 150, "{summary:?}");
        // Root is not kept from asking by it.
        server.ctl(&["status"]).expect_status(0);
        server.ctl(&["audit", "verify"]).expect_status(0);
    });
}
