//! Edits whose keywords are harmless and whose values are not: a banner that is a pipe or a secret, a pid file over a file of root's, another
//! PAM stack, variables that steer shells, host keys that clients know. Real logins of root and alice, who are in, are the judge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use sshfix_tests::lab::{self, ADMIN_V4, CtlResult, Release, Server, Session};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const ALICE_FROM: &str = "198.51.100.7";
const LONG: Duration = Duration::from_mins(3);

fn apply(server: &Server, line: &str) -> CtlResult {
    let words: Vec<&str> = line.split(' ').collect();
    server.ctl(&[&["sshd", "set", "--json", "--confirm-within", "10m"][..], &words].concat())
}

/// Those edits that are not refused as a lockout with these words and without any change.
fn not_refused(server: &Server, edits: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for (line, words) in edits {
        let asked = apply(server, line);
        let said = asked.json()["message"].as_str().unwrap_or_default().to_owned();
        if asked.status != 4 || !said.contains(words) || !said.contains("nothing was changed") {
            found.push(format!("{}: {line}: {} {said}", server.release(), asked.status));
        }
        if let Some(id) = asked.json()["id"].as_str() {
            server.ctl(&["rollback", id]);
        }
    }
    found
}

#[track_caller]
fn refused(server: &Server, line: &str, words: &str) {
    assert_eq!(not_refused(server, &[(line, words)]), [""; 0]);
}

/// The edit is applied, people get in, and it is taken back; with what the plan says.
#[track_caller]
fn applied(server: &Server, line: &str) -> String {
    let asked = apply(server, line);
    assert_eq!(asked.status, 5, "{}: {line}: {asked:?}", server.release());
    assert!(server.gets_in("root", ADMIN_V4, 22) && server.gets_in("alice", ALICE_FROM, 22), "{}: {line}", server.release());
    server.ctl(&["rollback", asked.json()["id"].as_str().unwrap()]).expect_status(0);
    asked.stdout
}

fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("useradd -m -s /bin/bash -p '*' alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
             mkfifo /etc/ssh/fifo; head -c 40000 /dev/zero | tr '\\0' x > /etc/ssh/long; echo hello > /etc/ssh/hello
             mkdir -p /etc/systemd/system; printf '[Service]\nExecStart=/bin/true\nPIDFile=/run/mail.pid\n' > /etc/systemd/system/mail.service
             setsid sleep 10000 >/dev/null 2>&1 </dev/null & echo $! > /run/crond.pid
             sed 's/^account.*pam_nologin.*/account required pam_deny.so/' /etc/pam.d/sshd > /etc/pam.d/deny")
        .expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    configured(&server, "X11Forwarding yes\n");
    server
}

/// A configuration, and an sshd that has read it.
fn configured(server: &Server, text: &str) {
    server.sshd_follows(DROP_IN, text);
}

#[test]
fn an_edit_is_let_through_by_its_values_and_not_by_its_keyword() {
    if !lab::root_or_skip() {
        return;
    }
    std::thread::scope(|scope| Release::ALL.map(|release| scope.spawn(move || values(release))).map(|one| one.join().unwrap()));
}

fn values(release: Release) {
    let server = prepared(release);
    let _sessions = [Session::open_as(&server, "root", ADMIN_V4, 22), Session::open_as(&server, "alice", ALICE_FROM, 22)];
    let mut found = not_refused(
        &server,
        &[
            ("Banner /etc/ssh/fifo", "no regular file"),
            ("Banner /etc/ssh/fifo --match User=alice", "no regular file"),
            ("Banner /etc/sshfix/ctl_ed25519", "shows it to everybody"),
            ("Banner /etc/ssh/long", "40000 bytes"),
            ("PidFile /etc/nologin", "writes its pid over this file"),
            ("PidFile /run/nologin", "writes its pid over this file"),
            ("PidFile /root/.ssh/authorized_keys", "writes its pid over this file"),
            ("PidFile /etc/ssh/sshd_config", "writes its pid over this file"),
            ("PidFile /run/crond.pid", "the pid of another process"),
            ("PidFile /run/mail.pid", "mail.service has its own pid there"),
            ("ModuliFile /etc/ssh/fifo", "no regular file"),
            ("ListenAddress 203.0.113.1", "after a boot sshd may be started before 203.0.113.1 is there"),
            ("ListenAddress 203.0.113.1 127.0.0.1", "it goes on without"),
            ("SetEnv SHELLOPTS=noexec", "sshfix does not know what SetEnv does to a login"),
            ("SetEnv BASH_ENV=/etc/ssh/fifo --match User=alice", "sshfix does not know what SetEnv does to a login"),
            ("SetEnv HISTFILE=/etc/ssh/fifo", "sshfix does not know what SetEnv does to a login"),
            ("SetEnv INPUTRC=/etc/ssh/fifo --match User=alice", "sshfix does not know what SetEnv does to a login"),
            ("Subsystem sftp /bin/false", "sshfix does not know what Subsystem does to a login"),
            ("ChannelTimeout session=1", "ChannelTimeout"),
            ("RekeyLimit 16", "RekeyLimit"),
        ],
    );
    if release == Release::Trixie {
        found.extend(not_refused(
            &server,
            &[
                ("PAMServiceName deny", "sshfix does not know what PAMServiceName does to a login"),
                ("PAMServiceName deny --match User=alice", "sshfix does not know what PAMServiceName does to a login"),
                ("SshdSessionPath /bin/false", "only the one of the distribution"),
                ("SshdAuthPath /bin/false", "only the one of the distribution"),
            ],
        ));
    }
    assert_eq!(found, [""; 0]);
    for line in ["Banner /etc/ssh/hello", "PidFile /run/other.pid", "SetEnv LANG=C.UTF-8", "ClientAliveInterval 60"] {
        applied(&server, line);
    }
    // Clients may know the host by one key alone.
    let plan = applied(&server, "HostKeyAlgorithms ssh-ed25519,ecdsa-sha2-nistp256");
    assert!(plan.contains("clients that know this host only by the ssh-rsa key will see"), "{release}: {plan}");
    let plan = applied(&server, "UseDNS yes");
    assert!(plan.contains("UseDNS yes: each login waits for the name servers"), "{release}: {plan}");
    ways_through(&server);
    after_a_boot(&server);
    by_hand(&server);
    another_sshd(&server);
    another_pid(&server);
    many_addresses(&server);
}

/// Who has a shell is told that tunnels end; who comes to go on keeps them.
fn ways_through(server: &Server) {
    for (line, ended) in [("AllowTcpForwarding no", "ends ssh -J"), ("DisableForwarding yes", "ends ssh -J and all tunnels")] {
        let plan = applied(server, line);
        assert!(plan.contains(ended), "{line}: {plan}");
    }
    configured(server, "X11Forwarding yes\nMatch User alice\n    ForceCommand /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n");
    for line in ["AllowTcpForwarding no", "DisableForwarding yes", "PermitOpen none", "PermitOpen none --match User=alice"] {
        refused(server, line, "alice has nothing else here (ForceCommand");
    }
    configured(server, "X11Forwarding yes\n");
}

/// An sshd that waits for the network, or an address that can be bound before it is there.
fn after_a_boot(server: &Server) {
    const DROP_INS: &str = "/etc/systemd/system/ssh.service.d";
    server.write(&format!("{DROP_INS}/net.conf"), "[Unit]\nWants=network-online.target\nAfter=network-online.target\n");
    server.run(&["systemctl", "daemon-reload"]).expect_ok();
    applied(server, "ListenAddress 203.0.113.1");
    server.sh(&format!("rm {DROP_INS}/net.conf; systemctl daemon-reload")).expect_ok();
}

/// One who logs in from many addresses costs one question about each kind of them, not one about each.
fn many_addresses(server: &Server) {
    configured(server, "X11Forwarding yes\nMaxStartups 300\nMatch Address 127.8.0.0/16\n    PermitTTY no\n");
    let base = apply(server, "X11Forwarding no");
    server.ctl(&["rollback", base.json()["id"].as_str().unwrap()]).expect_status(0);
    server
        .sh("runuser -u alice -- ssh-keygen -q -t ed25519 -N '' -f /home/alice/own
             cat /home/alice/own.pub >> /home/alice/.ssh/authorized_keys
             cat > /home/alice/go.sh <<'END'
for i in $(seq 60); do
    ssh -i /home/alice/own -b 127.7.1.$i -o StrictHostKeyChecking=no -o BatchMode=yes -N alice@127.0.0.1 2>/dev/null &
    sleep 0.1
done
wait
END
             systemd-run -q --unit=many --uid=alice sh /home/alice/go.sh")
        .expect_ok();
    let count = || server.sh("ps -u alice -o args | grep -c '^sshd.*: alice$'").stdout.trim().parse::<u32>().unwrap_or(0);
    server.wait_until("she is in sixty times", LONG, || count() >= 60);
    let asked = apply(server, "X11Forwarding no");
    assert_eq!(asked.status, 5, "{asked:?}");
    println!("{}: an edit takes {:?} with 2 sessions and {:?} with 62", server.release(), base.time, asked.time);
    server.ctl(&["rollback", asked.json()["id"].as_str().unwrap()]).expect_status(0);
    server.sh("systemctl stop many").expect_ok();
}

/// It reads the same files at its next start, and root is in by it.
fn another_sshd(server: &Server) {
    configured(server, "X11Forwarding yes\n");
    let unit = "[Service]\nType=notify\nRuntimeDirectory=sshd\nRuntimeDirectoryPreserve=yes\nExecStart=/usr/sbin/sshd -D -p 2222 \
                -o PidFile=/run/ssh2.pid\nKillMode=process\n";
    server.write("/etc/systemd/system/ssh2.service", unit);
    server.sh("systemctl daemon-reload; systemctl start ssh2").expect_ok();
    let session = Session::open_as(server, "alice", ADMIN_V4, 2222);
    refused(server, "DenyUsers alice@192.0.2.*", "alice from 192.0.2.9 (a live session)");
    applied(server, "DenyUsers alice@192.0.3.*");
    drop(session);
    server.sh("systemctl stop ssh2").expect_ok();
}

/// The pid file says when an sshd read its files. One that another sshd wrote since says nothing of it.
fn another_pid(server: &Server) {
    configured(server, "X11Forwarding yes\n");
    server.write(DROP_IN, "X11Forwarding yes\nDenyUsers alice\n");
    refused(server, "X11Forwarding no", "alice from 198.51.100.7 (a live session)");
    let unit = "[Service]\nRuntimeDirectory=sshd\nRuntimeDirectoryPreserve=yes\nExecStart=/usr/sbin/sshd -D -p 2223\n";
    server.write("/etc/systemd/system/ssh3.service", unit);
    server.sh("rm /run/sshd.pid; systemctl daemon-reload; systemctl start ssh3").expect_ok();
    server.wait_until("it writes its pid", LONG, || server.path("/run/sshd.pid").exists());
    refused(server, "X11Forwarding no", "alice from 198.51.100.7 (a live session)");
    assert!(server.gets_in("alice", ALICE_FROM, 22));
    server.sh("systemctl stop ssh3").expect_ok();
}

/// What was written by hand comes into effect with a reload.
fn by_hand(server: &Server) {
    configured(server, "X11Forwarding yes\nLoginGraceTime 20\n");
    // The name servers say at once that they know nobody: no lockout, and a risk.
    let plan = applied(server, "UseDNS yes");
    assert!(plan.contains("longer than LoginGraceTime 20"), "a risk: {plan}");
    server.write(DROP_IN, "X11Forwarding yes\nSetEnv SHELLOPTS=noexec\n");
    for words in [&["sshd", "reload"][..], &["sshd", "restart"], &["sshd", "set", "X11Forwarding", "no"]] {
        let asked = server.ctl(&[words, &["--json"]].concat());
        assert_eq!(asked.status, 4, "{words:?}: {asked:?}");
        assert!(asked.stdout.contains("sshfix does not know what SetEnv does to a login"), "{words:?}: {asked:?}");
    }
    assert!(server.gets_in("root", ADMIN_V4, 22) && server.gets_in("alice", ALICE_FROM, 22));
    // Where it was in effect before, it is no news.
    configured(server, "X11Forwarding yes\nSetEnv TMOUT=900\n");
    applied(server, "X11Forwarding no");
}
