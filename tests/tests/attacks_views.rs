//! Files that the host's sshd and libwrap see and the agent's service does not: below /tmp and /var/tmp (`PrivateTmp=`), and in folders
//! that an administrator hides from it. Nothing there is missing, and nothing else that stands there counts. One server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use sshfix_tests::lab::{Server, on_both};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const FROM: &str = "203.0.113.7";
const SOON: Duration = Duration::from_mins(1);

/// Writes the drop-in, and has the host's sshd follow, which sees it all.
fn configure(server: &Server, text: &str) {
    server.write(DROP_IN, text);
    let journal = "journalctl -u ssh --no-pager -o cat | grep -c 'Server listening on 0.0.0.0' || true";
    let before = server.sh(journal).stdout;
    server.sh("sshd -t && systemctl reload ssh.service").expect_ok();
    server.wait_until("sshd has read its files", SOON, || server.sh(journal).stdout != before);
}

/// The diagnosis is unknown and names the folder, and no edit is let through.
#[track_caller]
fn unseen(server: &Server, stage: &str, folder: &str) {
    let release = server.release();
    let answer = server.ctl(&["--json", "diagnose", FROM, "--user", "alice"]);
    let diagnosis = answer.json();
    let stages = diagnosis["stages"].as_array().unwrap();
    let found = stages.iter().find(|one| one["stage"] == stage).unwrap_or_else(|| panic!("{release}: {diagnosis:#}"));
    assert_eq!((answer.status, &found["verdict"]), (9, &"unknown".into()), "{release}: {found:#}");
    assert!(found.to_string().contains(folder), "{release}: {folder}: {found:#}");
}

#[track_caller]
fn no_edit(server: &Server) {
    let before = server.read(DROP_IN);
    let answer = server.ctl(&["--json", "sshd", "set", "X11Forwarding", "no"]);
    assert!([1, 4].contains(&answer.status), "{}: {before}: {answer:#?}", server.release());
    assert_eq!(server.read(DROP_IN), before);
}

#[test]
fn what_the_agents_service_does_not_see_is_unknown_and_named() {
    on_both(|server| {
        server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
        server
            .sh("useradd -m -s /bin/sh -p '*' alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
                 for folder in /tmp/conf /var/tmp/conf /srv/hidden; do
                     mkdir -p $folder; echo 'DenyUsers alice' > $folder/x.conf; echo 203.0.113. > $folder/pattern
                     cp /root/.ssh/authorized_keys $folder/revoked; echo hello > $folder/banner
                 done
                 cp /tmp/conf/x.conf /tmp/y.conf
                 mkdir -p /etc/systemd/system/sshfix-agent.service.d /etc/systemd/system/sshfix-look.service.d
                 for unit in agent look; do
                     printf '[Service]\\nTemporaryFileSystem=/srv/hidden\\n' > /etc/systemd/system/sshfix-$unit.service.d/hide.conf
                 done
                 systemctl daemon-reload; systemctl restart sshfix-look sshfix-agent")
            .expect_ok();
        for (include, named) in [
            ("/tmp/conf/x.conf", "/tmp"),
            ("/tmp/conf/*.conf", "/tmp"),
            ("/tmp/y.conf", "/tmp"),
            ("/var/tmp/conf/x.conf", "/var/tmp"),
            ("/srv/hidden/x.conf", "/srv/hidden"),
            ("/srv/hidden/*.conf", "/srv/hidden"),
        ] {
            configure(server, &format!("Include {include}\nX11Forwarding yes\n"));
            unseen(server, "sshd_admission", named);
            no_edit(server);
        }
        for line in ["RevokedKeys /srv/hidden/revoked", "Banner /tmp/conf/banner", "Banner /srv/hidden/banner"] {
            configure(server, &format!("{line}\nX11Forwarding yes\n"));
            unseen(server, "sshd_admission", line.split(' ').nth(1).unwrap());
            no_edit(server);
        }
        configure(server, "AuthorizedKeysFile /srv/hidden/revoked\nX11Forwarding yes\n");
        unseen(server, "account", "/srv/hidden");
        configure(server, "X11Forwarding yes\n");
        for folder in ["/tmp/conf", "/var/tmp/conf", "/srv/hidden"] {
            server.write("/etc/hosts.deny", format!("sshd: {folder}/pattern\n"));
            unseen(server, "hosts_access", &format!("{folder}/pattern"));
        }
        server.write("/etc/hosts.deny", "");
        let seen = server.ctl(&["--json", "diagnose", FROM, "--user", "alice"]);
        assert_eq!(seen.status, 0, "{}: {seen:#?}", server.release());
        server.ctl(&["sshd", "set", "X11Forwarding", "no", "--dry-run"]).expect_status(0);
    });
}
