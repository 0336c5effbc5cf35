//! What is refused before anything is done: what would cut off somebody who gets in now, and what sshd does not take.

use sshfix_tests::lab::{ADMIN_V4, Server};

use super::{DROP_IN, LONG, MAIN, Session, files, on_both};

/// Refused with status 4 and a witness that names these.
#[track_caller]
fn locks_out(server: &Server, arguments: &[&str], words: &[&str]) {
    let old = files(server);
    let answer = server.ctl_from(ADMIN_V4, &[&["--json", "sshd"], arguments].concat());
    assert_eq!(answer.status, 4, "{arguments:?}: {answer:#?}");
    let error = answer.json();
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["code"], "lockout");
    assert!(error["plan"]["steps"][0]["summary"].is_string(), "the refused plan is shown: {error:#}");
    for word in words {
        assert!(message.contains(word), "{arguments:?}: `{word}` is not in: {message}");
    }
    assert!(message.contains("nothing was changed"), "{message}");
    assert_eq!(files(server), old, "{arguments:?}");
}

#[test]
fn what_would_lock_somebody_out_is_refused_with_a_witness() {
    on_both(|server| {
        let alice = Session::open(server, "alice", "198.51.100.7");
        let root = Session::open(server, "root", ADMIN_V4);
        let pid = || server.run(&["systemctl", "show", "-P", "MainPID", "ssh.service"]).stdout;
        let before = pid();
        for (arguments, words) in [
            (&["set", "PermitRootLogin", "no"][..], &["root from 192.0.2.9", "PermitRootLogin no refuses root"][..]),
            (&["set", "AllowUsers", "root"], &["alice from 198.51.100.7", "AllowUsers does not name alice"]),
            (&["set", "DenyUsers", "*@198.51.100.0/24"], &["alice from 198.51.100.7 (a live session)", "DenyUsers"]),
            (&["set", "AllowGroups", "nobody-at-all"], &["AllowGroups"]),
            (
                &["set", "PubkeyAuthentication", "no", "--match", "User root"],
                &["root from 192.0.2.9", "no authentication method"],
            ),
            (&["set", "PubkeyAuthentication", "no"], &["no authentication method"]),
            (&["set", "AuthenticationMethods", "publickey,password"], &["no authentication method is left"]),
            (&["set", "AuthorizedKeysFile", "/etc/ssh/none/%u"], &["no authorized keys"]),
            (&["set", "PubkeyAcceptedAlgorithms", "rsa-sha2-512"], &["no authentication method is left that can work"]),
            (&["set", "ListenAddress", "127.0.0.1"], &["would not listen on", ":22 any more"]),
            (&["set", "Port", "2222"], &["would not listen on", ":22 any more"]),
            (&["set", "AddressFamily", "inet6"], &["would not listen on 203.0.113.1:22 any more"]),
            (&["set", "Ciphers", "aes128-cbc"], &["Ciphers"]),
            (&["set", "KexAlgorithms", "diffie-hellman-group14-sha256"], &["KexAlgorithms"]),
            (&["set", "HostKeyAlgorithms", "ssh-rsa"], &["HostKey"]),
            (&["set", "LoginGraceTime", "1"], &["LoginGraceTime"]),
            (&["set", "MaxSessions", "0"], &["MaxSessions 0"]),
            (&["set", "ForceCommand", "/bin/false"], &["ForceCommand /bin/false", "is not known"]),
            (&["set", "ChrootDirectory", "/srv", "--match", "User alice"], &["alice from 198.51.100.7", "ChrootDirectory /srv"]),
        ] {
            locks_out(server, arguments, words);
        }
        // Somebody else's key is left, which is no way in for who holds the other one.
        let keys = "ssh-keygen -q -t rsa -b 2048 -N '' -f /root/rsa; cat /root/rsa.pub >> /root/.ssh/authorized_keys
            mkdir -p /etc/ssh/keys; cp /root/rsa.pub /etc/ssh/keys/root; cp /home/alice/.ssh/authorized_keys /etc/ssh/keys/alice";
        server.sh(keys).expect_ok();
        let other = ["set", "AuthorizedKeysFile", "/etc/ssh/keys/%u"];
        locks_out(server, &other, &["root from 192.0.2.9", "root is in by publickey (SHA256:", "which would count no more"]);
        // The other way round the one that is seen to be used stays, and the plan says what goes.
        let plan = server.ctl_from(ADMIN_V4, &["--json", "sshd", "set", "RequiredRSASize", "3072", "--dry-run"]);
        let paths = plan.expect_status(0).json()["paths"].to_string();
        assert!(paths.contains("1 of 2 keys goes: ssh-rsa SHA256:"), "{paths}");
        // Where all of them are in the other place, nothing is lost.
        server.sh("cp /root/.ssh/authorized_keys /etc/ssh/keys/root").expect_ok();
        server.ctl(&["sshd", "set", "AuthorizedKeysFile", "/etc/ssh/keys/%u", "--dry-run"]).expect_status(0);
        server.sh("sed -i '/ssh-rsa/d' /root/.ssh/authorized_keys").expect_ok();
        // Somebody who may come back is a way in, too.
        let config = server.read("/etc/sshfix/agent.toml");
        server.write("/etc/sshfix/agent.toml", format!("[[keep]]\naddress = \"203.0.113.8\"\n{config}"));
        server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
        locks_out(server, &["set", "DenyUsers", "bob"], &["203.0.113.8 (a `keep` entry", "name the user in [[keep]]"]);
        server.ctl(&["sshd", "set", "DenyUsers", "bob"]).expect_status(4);
        server.write("/etc/sshfix/agent.toml", format!("[[keep]]\naddress = \"203.0.113.8\"\nuser = \"alice\"\n{config}"));
        server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
        locks_out(server, &["set", "DenyUsers", "*@203.0.113.8"], &["alice from 203.0.113.8", "DenyUsers"]);
        // Of who is not in, it is not known which key he has.
        server.sh("cat /root/rsa.pub >> /home/alice/.ssh/authorized_keys").expect_ok();
        for (arguments, lost) in [
            (["set", "RequiredRSASize", "3072"], "ssh-rsa SHA256:"),
            (["set", "PubkeyAcceptedAlgorithms", "ssh-ed25519"], "ssh-rsa SHA256:"),
            (["set", "AuthorizedKeysFile", "/etc/ssh/keys/%u"], "ssh-rsa SHA256:"),
        ] {
            let keep = ["alice from 203.0.113.8 (a `keep` entry", "1 of the 2 keys of alice would count no more", lost];
            locks_out(server, &arguments, &keep);
        }
        // Whoever is in got in by what sshd had read; what was written since and would keep them out does not get in by the way.
        server.wait_until("another second", LONG, || server.sh("test -n \"$(find /run/sshd.pid -mmin +0.02)\"").ok());
        server.write(DROP_IN, "AllowUsers root\n");
        locks_out(server, &["reload"], &["alice from 198.51.100.7 (a live session)", "AllowUsers does not name alice"]);
        locks_out(server, &["restart"], &["alice from 198.51.100.7 (a live session)"]);
        server.run(&["rm", DROP_IN]).expect_ok();
        assert_eq!(pid(), before, "sshd was left alone");
        alice.lives(server);
        root.lives(server);
    });
}

#[test]
fn whoever_is_in_by_a_password_is_not_left_with_a_key_that_nobody_saw_him_use() {
    on_both(|server| {
        server.write(DROP_IN, "PasswordAuthentication yes\nKbdInteractiveAuthentication no\n");
        server.sh("echo alice:right | chpasswd; systemctl reload ssh.service").expect_ok();
        server.wait_until("sshd is back", LONG, || server.ssh(ADMIN_V4).ok);
        let from = "198.51.100.7";
        let session = Session::open_by_password(server, "alice", from, "right");
        let no_passwords = ["set", "PasswordAuthentication", "no"];
        let who = "alice from 198.51.100.7 (a live session)";
        locks_out(server, &no_passwords, &[who, "alice is in by password", "log in by that first"]);

        // As it said.
        let by_key = Session::open(server, "alice", from);
        let sessions = |number: &str| server.sh(&format!("test $(pgrep -c -f '^sshd.*: alice@') = {number}")).ok();
        server.wait_until("both are in", LONG, || sessions("2"));
        // Two sessions may be two people.
        locks_out(server, &no_passwords, &[who, "alice is in by password", "log in by that first"]);
        drop(session);
        server.wait_until("the session is over", LONG, || sessions("1"));
        server.ctl(&[&["sshd"], &no_passwords[..], &["--dry-run"]].concat()).expect_status(0);
        let no_keys = ["set", "PubkeyAuthentication", "no", "--match", "User alice"];
        locks_out(server, &no_keys, &[who, "alice is in by publickey (SHA256:", "can come in by password is not known"]);
        by_key.lives(server);
    });
}

#[test]
fn what_sshd_does_not_take_is_refused_in_its_words_with_the_real_file_and_line() {
    on_both(|server| {
        let refused = |arguments: &[&str], words: &[&str]| {
            let old = files(server);
            let answer = server.ctl(&[&["--json", "sshd"], arguments].concat()).expect_status(1);
            let message = answer.json()["message"].as_str().unwrap().to_owned();
            for word in words {
                assert!(message.contains(word), "{arguments:?}: `{word}` is not in: {message}");
            }
            assert!(message.contains("nothing was changed") && !message.contains("candidate-"), "{message}");
            assert_eq!(files(server), old, "{arguments:?}");
            assert!(server.ssh(ADMIN_V4).ok);
        };
        refused(&["set", "Subsystem", "sftp"], &[MAIN, "line"]);
        let takes = "takes yes, no, prohibit-password, without-password, forced-commands-only";
        refused(&["set", "PermitRootLogin", "maybe"], &[MAIN, "line", "sshd does not take it", takes]);
        refused(&["set", "Port", "70000"], &[]);
        refused(&["set", "ListenAddress", "nonsense:::"], &[]);
        server.write(DROP_IN, "UsePAM yes\n\nNoSuchKeyword yes\n");
        refused(&["set", "Banner", "none", "--match", "User root"], &[&format!("{DROP_IN}: line 3"), "NoSuchKeyword"]);
        refused(&["reload"], &[&format!("{DROP_IN}: line 3"), "NoSuchKeyword"]);
        refused(&["restart"], &[&format!("{DROP_IN}: line 3"), "NoSuchKeyword"]);
        // A keyword of a broken file can be corrected where that is what mends it.
        server.write(DROP_IN, "UsePAM yes\nPermitRootLogin maybe\n");
        server.ctl_confirmed(&["sshd", "set", "PermitRootLogin", "prohibit-password"]);
        assert_eq!(server.read(DROP_IN), "UsePAM yes\nPermitRootLogin prohibit-password\n");
        assert!(server.ssh(ADMIN_V4).ok);
        // Nor is anything begun where the file is not sshfix's to write.
        server.sh(&format!("mv {DROP_IN} /srv/real.conf; ln -s /srv/real.conf {DROP_IN}")).expect_ok();
        refused(&["set", "UsePAM", "no"], &[DROP_IN, "a symbolic link; edit the file it points to"]);
        server.sh(&format!("rm {DROP_IN}; mv /srv/real.conf {DROP_IN}; chmod 666 {DROP_IN}")).expect_ok();
        refused(&["set", "UsePAM", "no"], &[DROP_IN, "others than root can write it (mode 0666)"]);
        // What becomes so in between is left alone, and the change is none.
        server.sh(&format!("chmod 644 {DROP_IN}")).expect_ok();
        let set = ["sshd", "set", "Banner", "none", "--match", "User nobody", "--json"];
        let change = server.ctl_meanwhile(1, &format!("chmod 666 {MAIN}"), &set).expect_status(6).json();
        assert_eq!((&change["state"], &change["changed"]), (&"rolled-back".into(), &false.into()), "{change:#}");
    });
}
