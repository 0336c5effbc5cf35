//! What only the journal tells: logins that limits ended, clients that sshd has no algorithm in common with, sessions without a sign of
//! life; each made by a real client.

use std::process::{Command, Stdio};

use sshfix_tests::lab::{self, Output, Release, Server};

use super::{DROP_IN, Diagnosis, FROM, LIMIT, OTHER, can_log_in, configure, open, prepared};

/// A real ssh of alice's with options of the test's own, which come first and so win.
fn ssh(server: &Server, from: &str, options: &[&str]) -> Output {
    let mut command = server.ssh_command(from);
    let at = command.iter().position(|word| word == "-F").unwrap();
    let own = options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]);
    let destination = command.pop().unwrap().replace("root@", "alice@");
    command.extend([destination, "true".to_owned()]);
    command.splice(at..at, own);
    lab::run(&command.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The finding, once the journal has it: its stage's verdict, whether it blocks, and all of its text.
#[track_caller]
fn found(server: &Server, user: Option<&str>, cause: &str) -> (String, bool, String) {
    let has = || Diagnosis::of(server, FROM, user).0["findings"].to_string().contains(cause);
    server.wait_until(&format!("{cause} is found"), LIMIT, has);
    let diagnosis = Diagnosis::of(server, FROM, user);
    let stage = if user.is_some() { "sshd_access" } else { "sshd_admission" };
    let finding = diagnosis.finding(cause);
    (diagnosis.stage(stage).0.to_owned(), finding["blocking"].as_bool().unwrap(), finding.to_string())
}

#[track_caller]
fn tells(shown: &str, parts: &[&str]) {
    for part in parts {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn limits_that_end_a_login_or_a_session_are_found() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        let alice = Some("alice");
        for key in ["k1", "k2"] {
            server.sh(&format!("ssh-keygen -q -t ed25519 -N '' -f /root/{key}")).expect_ok();
        }
        let wrong = ["k1", "k2"].map(|key| format!("IdentityFile={}", server.path(format!("/root/{key}")).display()));

        configure(&server, "# few\nMaxAuthTries 2\n");
        let (verdict, blocking, shown) = found(&server, alice, "sshd-limits");
        assert_eq!((verdict.as_str(), blocking), ("accept", false), "nothing happened yet: {shown}");
        tells(&shown, &[&format!("{DROP_IN} line 2"), "MaxAuthTries 2"]);
        let refused = ssh(&server, FROM, &[&wrong[0], &wrong[1]]);
        assert!(refused.stderr.contains("Too many authentication failures"), "{refused:?}");
        server.wait_until("the journal has it", LIMIT, || found(&server, alice, "sshd-limits").1);
        let (verdict, _, shown) = found(&server, alice, "sshd-limits");
        assert_eq!(verdict, "unknown", "{release}: it depends on the client: {shown}");
        tells(
            &shown,
            &[
                "maximum authentication attempts exceeded for alice from 203.0.113.7",
                "line 2",
                "IdentitiesOnly=yes",
                "MaxAuthTries 6",
            ],
        );
        // Who gets in shows that it is over.
        assert!(can_log_in(&server, "alice", FROM));
        server.wait_until("the login is seen", LIMIT, || !found(&server, alice, "sshd-limits").1);
        open(&server, "alice", FROM);
        configure(&server, "MaxAuthTries 6\n");
        assert!(ssh(&server, FROM, &[&wrong[0], &wrong[1]]).ok(), "{release}: six are enough");

        configure(&server, "LoginGraceTime 2\n");
        let (_, _, shown) = found(&server, None, "sshd-limits");
        tells(&shown, &["50-x.conf line 1", "LoginGraceTime 2", "sshd set LoginGraceTime 120"]);
        let idle = "import socket; s = socket.create_connection(('203.0.113.1', 22), source_address=('203.0.113.7', 0)); \
                    s.sendall(b'SSH-2.0-x\\r\\n'); \nwhile s.recv(9999): pass";
        lab::run(&["ip", "netns", "exec", server.clients_netns(), "python3", "-c", idle]);
        if release == Release::Trixie {
            server.wait_until("the journal has it", LIMIT, || found(&server, None, "sshd-limits").1);
            let (verdict, _, shown) = found(&server, None, "sshd-limits");
            assert_eq!(verdict, "unknown");
            tells(&shown, &["Timeout before authentication for connection from 203.0.113.7"]);
        }

        // A second session on one connection, and a client that falls silent.
        configure(&server, "MaxSessions 1\nClientAliveInterval 5\nClientAliveCountMax 2\n");
        let control = format!("ControlPath={}", server.path("/root/control").display());
        let mut master = server.ssh_command(FROM);
        let destination = master.pop().unwrap().replace("root@", "alice@");
        master.extend(["-M", "-o", &control, &destination, "sleep 1000"].map(str::to_owned));
        let mut master = Command::new(&master[0]).args(&master[1..]).stdin(Stdio::null()).spawn().unwrap();
        let second = || ssh(&server, FROM, &[&control, "ControlMaster=no"]);
        server.wait_until("the second session is refused", LIMIT, || second().stderr.contains("refused"));
        let (verdict, blocking, shown) = found(&server, alice, "sshd-limits");
        assert_eq!((verdict.as_str(), blocking), ("accept", false), "{shown}");
        tells(&shown, &["no more sessions", "50-x.conf line 1", "ControlPath=none"]);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(master.id().try_into().unwrap()), nix::sys::signal::Signal::SIGSTOP)
            .unwrap();
        let (verdict, blocking, shown) = found(&server, alice, "sshd-keepalive");
        master.kill().unwrap();
        master.wait().unwrap();
        assert_eq!((verdict.as_str(), blocking), ("accept", false), "{release}: a new login is not touched by it: {shown}");
        tells(
            &shown,
            &[
                "Timeout, client not responding from user alice 203.0.113.7",
                "50-x.conf line 2",
                "50-x.conf line 3",
                "ClientAliveInterval 60",
                "ServerAliveInterval 60",
            ],
        );
        configure(&server, "");
        assert!(!Diagnosis::of(&server, FROM, alice).0.to_string().contains("sshd-limits"), "a restart reads the files anew");
    }
}

#[test]
fn clients_without_an_algorithm_in_common_are_told_which_would_do() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        configure(&server, "Ciphers aes256-ctr\n");
        let refused = ssh(&server, FROM, &["Ciphers=aes128-cbc,aes128-ctr"]);
        assert!(!refused.ok());
        let (verdict, blocking, shown) = found(&server, None, "sshd-algorithms");
        assert_eq!((verdict.as_str(), blocking), ("unknown", true), "{shown}");
        // The safe one that the client has, not the weak one that stands before it.
        tells(
            &shown,
            &["no matching cipher found. Their offer: aes128-cbc,aes128-ctr", "50-x.conf line 1", "take aes128-ctr too"],
        );
        tells(&shown, &["ssh -o Ciphers=aes256-ctr"]);
        assert!(Diagnosis::of(&server, OTHER, None).0["verdict"] == "accept", "nobody else is concerned");
        assert!(ssh(&server, FROM, &["Ciphers=aes256-ctr"]).ok());
        server.wait_until("the login is seen", LIMIT, || Diagnosis::of(&server, FROM, None).0["verdict"] == "accept");

        configure(&server, "");
        for (offer, parts) in [
            (
                "KexAlgorithms=diffie-hellman-group1-sha1",
                ["key exchange method", "KexAlgorithms +diffie-hellman-group1-sha1`, which is weak"],
            ),
            ("MACs=hmac-md5", ["no matching MAC", "MACs +hmac-md5`, which is weak"]),
            ("HostKeyAlgorithms=ssh-rsa", ["host key type", "HostKeyAlgorithms +ssh-rsa`, which is weak"]),
        ] {
            configure(&server, "");
            assert!(!ssh(&server, FROM, &[offer, "Ciphers=aes256-ctr"]).ok());
            let (_, _, shown) = found(&server, Some("alice"), "sshd-algorithms");
            tells(&shown, &parts);
            tells(&shown, &["at the client: a newer one"]);
        }
        // An algorithm that sshd would take, had it a key for it.
        configure(&server, "HostKey /etc/ssh/ssh_host_ed25519_key\n");
        assert!(!ssh(&server, FROM, &["HostKeyAlgorithms=rsa-sha2-512"]).ok());
        let (_, _, shown) = found(&server, None, "sshd-algorithms");
        tells(&shown, &["make a host key for rsa-sha2-512", "ssh-keygen -q -t rsa"]);
    }
}
