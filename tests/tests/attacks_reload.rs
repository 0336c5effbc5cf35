//! What sshd has not read yet and comes into effect: lines by hand, with a reload or with an edit of something else; and old lines, with a
//! rollback, that name what is gone by then. Root, who is in, a `[[keep]]` entry of alice's, and sftp are the judge, with real logins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use sshfix_tests::lab::{self, ADMIN_V4, CtlResult, Release, Server, Session};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const ALICE_FROM: &str = "198.51.100.7";
const LONG: Duration = Duration::from_mins(3);
/// `SSH_FXP_INIT` of sftp.
const SFTP: &[u8] = &[0, 0, 0, 5, 1, 0, 0, 0, 3];

fn prepare(server: &Server) {
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("useradd -m -s /bin/bash -p '*' alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
             cp /etc/ssh/sshd_config /etc/ssh/plain; cp /etc/sshfix/agent.toml /etc/sshfix/agent.toml.plain
             mkdir /etc/ssh/kk; cp /root/.ssh/authorized_keys /etc/ssh/kk/root; cp /root/.ssh/authorized_keys /etc/ssh/kk/alice")
        .expect_ok();
    if server.release() == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    keep(server, "user = \"alice\"\n");
}

fn keep(server: &Server, user: &str) {
    let config = server.read("/etc/sshfix/agent.toml.plain");
    server.write("/etc/sshfix/agent.toml", format!("[[keep]]\naddress = \"{ALICE_FROM}\"\n{user}{config}"));
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
}

/// A configuration, and an sshd that has read it.
fn configured(server: &Server, text: &str) {
    server.sh("cp /etc/ssh/plain /etc/ssh/sshd_config").expect_ok();
    server.sshd_follows(DROP_IN, text);
}

fn has_sftp(server: &Server) -> bool {
    let mut command = server.login_command("root", ADMIN_V4, 22);
    command.extend(["-s".to_owned(), "sftp".to_owned()]);
    lab::run_with_input(&command.iter().map(String::as_str).collect::<Vec<_>>(), SFTP).ok()
}

/// Who gets in.
fn works(server: &Server) -> [bool; 3] {
    [server.gets_in("root", ADMIN_V4, 22), server.gets_in("alice", ALICE_FROM, 22), has_sftp(server)]
}

fn roll_back(server: &Server, asked: &CtlResult) {
    if let Some(id) = asked.json()["id"].as_str() {
        server.ctl(&["rollback", id]);
    }
}

fn comes_into_effect(release: Release) -> Vec<String> {
    let server = &Server::boot(release);
    server.install_sshfix();
    prepare(server);
    let _root = Session::open_as(server, "root", ADMIN_V4, 22);
    let mut wrong = lines_by_hand(server);
    wrong.extend(a_keep_entry_without_a_user(server));
    wrong.extend(a_rollback_to_what_is_gone(server));
    wrong.extend(a_rollback_that_a_user_would_prevent(server));
    wrong.extend(a_rollback_beside_lines_by_hand(server));
    wrong.extend(sockets_of_one_interface(server));
    wrong.extend(what_users_leave(server));
    wrong.extend(short_host_keys(server));
    wrong.extend(what_actions_of_fail2ban_close(server));
    wrong.into_iter().map(|what| format!("{release}: {what}\n")).collect()
}

#[test]
fn nothing_comes_into_effect_unproven() {
    if !lab::root_or_skip() {
        return;
    }
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let tried = Release::ALL.map(|release| scope.spawn(move || comes_into_effect(release)));
        tried.into_iter().flat_map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

/// What sshd has read, what is done and written by hand then, and whether a reload brings it.
const BY_HAND: [(&str, &str, &str, bool); 20] = [
    ("", "", "UseDNS yes\nDenyUsers alice@seven.example.org\n", false),
    ("", "", "UseDNS yes\nAllowUsers root alice@other.example.org\n", false),
    ("", "usermod -p '!' alice", "UsePAM no\n", false),
    ("StrictModes no\n", "chmod 666 /home/alice/.ssh/authorized_keys", "StrictModes yes\n", false),
    ("StrictModes no\n", "chmod 666 /home/alice/.ssh/authorized_keys", "", false),
    ("", "sed -i 's#^Subsystem.*#Subsystem sftp /bin/false#' /etc/ssh/sshd_config", "", false),
    ("", "sed -i '/^Subsystem/d' /etc/ssh/sshd_config", "", false),
    ("", "", "LoginGraceTime 1\n", false),
    ("", "echo TMOUT=1 > /home/alice/.ssh/environment", "PermitUserEnvironment yes\n", false),
    ("", "sed -i 's/^/environment=\"A=b\" /' /home/alice/.ssh/authorized_keys", "PermitUserEnvironment yes\n", false),
    ("", "", "Match User alice\n    RevokedKeys /root/.ssh/authorized_keys\n", false),
    ("", "", "Match User alice\n    PubkeyAcceptedAlgorithms rsa-sha2-512\n", false),
    ("", "", "Match User alice\n    MaxAuthTries 0\n", false),
    // Nothing of these keeps anybody out.
    ("PermitUserRC no\n", "", "PermitUserEnvironment yes\nPermitUserRC yes\n", true),
    ("", "", "X11Forwarding no\n", true),
    ("X11Forwarding yes\n", "", "", true),
    ("", "", "PasswordAuthentication no\nMaxAuthTries 3\n", true),
    ("", "", "UseDNS yes\nDenyUsers bob@seven.example.org\n", true),
    ("", "", "Subsystem netconf /usr/bin/netconf\n", true),
    ("", "", "Match User bob\n    DenyUsers bob\n    PubkeyAuthentication no\n", true),
];

fn lines_by_hand(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    for (read, change, by_hand, comes) in BY_HAND {
        configured(server, read);
        server.sh(if change.is_empty() { "true" } else { change }).expect_ok();
        server.write(DROP_IN, by_hand);
        server.sh("sshd -t").expect_ok();
        let edit: &[&str] = &["sshd", "set", "PrintLastLog", "no"];
        let more = usize::from(by_hand.starts_with("UseDNS") && !comes);
        for words in [&["sshd", "reload"][..], edit].into_iter().take(1 + more) {
            let asked = server.ctl(&[words, &["--json", "--confirm-within", "10m"]].concat());
            if asked.status != if comes { 5 } else { 4 } || comes && works(server) != [true; 3] {
                let said = &asked.json()["message"];
                wrong.push(format!("{change} {by_hand:?} {words:?}: {} {said} {:?}", asked.status, works(server)));
            }
            roll_back(server, &asked);
        }
        server
            .sh("usermod -p '*' alice; cd /home/alice/.ssh; rm -f rc environment; cp /root/.ssh/authorized_keys .;
                  chmod 600 authorized_keys")
            .expect_ok();
    }
    configured(server, "");
    wrong
}

fn a_keep_entry_without_a_user(server: &Server) -> Vec<String> {
    keep(server, "");
    let mut wrong = Vec::new();
    for (by_hand, status) in [("AllowUsers root\n", 4), ("PasswordAuthentication no\n", 5)] {
        configured(server, "");
        server.write(DROP_IN, by_hand);
        let asked = server.ctl(&["sshd", "reload", "--json", "--confirm-within", "10m"]);
        if asked.status != status || works(server) != [true; 3] {
            wrong.push(format!("no user, {by_hand:?}: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
        }
        roll_back(server, &asked);
    }
    configured(server, "");
    keep(server, "user = \"alice\"\n");
    wrong
}

/// People remove what they have just switched off, and miss the confirm.
fn a_rollback_to_what_is_gone(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    let table = [
        ("RevokedKeys /etc/ssh/revoked\n", "touch /etc/ssh/revoked", "RevokedKeys none", "rm /etc/ssh/revoked"),
        (
            "AuthorizedKeysFile /etc/ssh/kk/%u\n",
            "true",
            "AuthorizedKeysFile .ssh/authorized_keys",
            "mv /etc/ssh/kk /etc/ssh/gone",
        ),
    ];
    let again = ["touch /etc/ssh/revoked", "mv /etc/ssh/gone /etc/ssh/kk"];
    for ((old, before, edit, remove), again) in table.into_iter().zip(again) {
        server.sh(before).expect_ok();
        configured(server, old);
        let words: Vec<&str> = edit.split(' ').collect();
        let asked = server.ctl(&[&["sshd", "set"][..], &words, &["--json", "--confirm-within", "10m"]].concat());
        let id = asked.expect_status(5).json()["id"].as_str().unwrap().to_owned();
        server.sh(remove).expect_ok();
        let back = server.ctl(&["rollback", &id, "--json"]).json();
        let told = back["notes"].to_string();
        if back["state"] != "stuck" || !told.contains("not there any more") || works(server) != [true; 3] {
            wrong.push(format!("{edit}, {remove}: {back} {:?}", works(server)));
        }
        if server.read(DROP_IN) != old {
            wrong.push(format!("{edit}: the files are not back: {}", server.read(DROP_IN)));
        }
        server.sh(again).expect_ok();
        // By itself, or by whoever is faster.
        server.ctl(&["rollback", &id]);
        let state = || server.ctl(&["changes", &id, "--json"]).json()["changes"][0]["state"].clone();
        server.wait_until("it is taken back", LONG, || state() == "rolled-back");
        if works(server) != [true; 3] {
            wrong.push(format!("{edit}, {again}: {:?}", works(server)));
        }
    }
    configured(server, "");
    wrong
}

/// alice takes her own keys away from where the old files look for them, and goes on by what the change has opened.
fn a_rollback_that_a_user_would_prevent(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    let alice = Session::open_as(server, "alice", ALICE_FROM, 22);
    for edit in ["AuthorizedKeysFile .ssh/authorized_keys .ssh/second", "X11Forwarding no"] {
        let words: Vec<&str> = edit.split(' ').collect();
        let asked = server.ctl(&[&["sshd", "set"][..], &words, &["--json", "--confirm-within", "10m"]].concat());
        let id = asked.expect_status(5).json()["id"].as_str().unwrap().to_owned();
        server.sh("cd /home/alice/.ssh; mv authorized_keys second").expect_ok();
        let back = server.ctl(&["rollback", &id, "--json"]).json();
        if back["state"] != "rolled-back" {
            wrong.push(format!("{edit}: {back}"));
        }
        server.sh("cd /home/alice/.ssh; mv second authorized_keys").expect_ok();
    }
    drop(alice);
    wrong
}

/// Somebody writes lines while a change waits, and its rollback would have sshd read them.
fn a_rollback_beside_lines_by_hand(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    let alice = Session::open_as(server, "alice", ALICE_FROM, 22);
    server
        .sh("sed 's/^/command=\"\\/bin\\/false\" /' /root/.ssh/authorized_keys | tee /etc/ssh/kk/alice >/etc/ssh/kk/root")
        .expect_ok();
    for (by_hand, comes) in [
        ("ForceCommand /bin/false\n", false),
        ("MaxSessions 0\n", false),
        ("ChrootDirectory /nonexistent\n", false),
        ("UseDNS yes\nAllowUsers *@*.nowhere.example\n", false),
        ("Match RDomain *\n    PermitRootLogin no\n", false),
        ("AuthorizedKeysFile /etc/ssh/kk/%u .ssh/authorized_keys\n", false),
        ("PermitRootLogin no\n", false),
        ("PrintMotd yes\nX11DisplayOffset 20\n", true),
    ] {
        configured(server, "X11Forwarding yes\n");
        let asked = server.ctl(&["sshd", "set", "X11Forwarding", "no", "--json", "--confirm-within", "10m"]);
        let id = asked.expect_status(5).json()["id"].as_str().unwrap().to_owned();
        server.write("/etc/ssh/sshd_config.d/60-y.conf", by_hand);
        let back = server.ctl(&["rollback", &id, "--json"]).json();
        let state = if comes { "rolled-back" } else { "stuck" };
        if back["state"] != state || works(server) != [true; 3] || server.read(DROP_IN) != "X11Forwarding yes\n" {
            wrong.push(format!("{by_hand:?} beside a rollback: {back} {:?}", works(server)));
        }
        server.sh("rm /etc/ssh/sshd_config.d/60-y.conf").expect_ok();
        server.ctl(&["rollback", &id]);
        let state = || server.ctl(&["changes", &id, "--json"]).json()["changes"][0]["state"].clone();
        server.wait_until("it is taken back", LONG, || state() == "rolled-back");
    }
    drop(alice);
    configured(server, "");
    wrong
}

/// Nobody but this host itself comes in by `lo`, whatever address it connects to.
fn sockets_of_one_interface(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    let edit = ["sshd", "set", "ListenAddress", "0.0.0.0", "rdomain", "lo", "::", "rdomain", "lo", "--json"];
    let asked = server.ctl(&edit);
    if asked.status != 4 || works(server) != [true; 3] {
        wrong.push(format!("rdomain lo: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
    }
    roll_back(server, &asked);
    server.write(DROP_IN, "ListenAddress 0.0.0.0 rdomain lo\nListenAddress :: rdomain lo\n");
    let asked = server.ctl(&["sshd", "reload", "--json"]);
    if asked.status != 4 || works(server) != [true; 3] {
        wrong.push(format!("rdomain lo by hand: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
    }
    roll_back(server, &asked);
    // Where it has read them, nobody gets in, and none is told so.
    server.sshd_follows(DROP_IN, "ListenAddress 0.0.0.0 rdomain lo\nListenAddress :: rdomain lo\n");
    let said = server.ctl(&["diagnose", ALICE_FROM, "--user", "alice"]);
    if said.status == 0 {
        wrong.push(format!("OPEN, and bound to lo: {}", said.stdout));
    }
    configured(server, "");
    wrong.extend(words_with_blanks(server));
    wrong.extend(what_is_set_every_day(server));
    // To sshd it is root whoever has its number.
    server.sh("useradd -o -u 0 -M -d /root -s /bin/bash -p '*' toor").expect_ok();
    configured(server, "PermitRootLogin no\n");
    let said = server.ctl(&["diagnose", ALICE_FROM, "--user", "toor"]);
    if said.status != 8 || server.gets_in("toor", ALICE_FROM, 22) {
        wrong.push(format!("toor: {} {}", said.status, said.stdout));
    }
    configured(server, "");
    server.sh("userdel toor 2>/dev/null || sed -i '/^toor:/d' /etc/passwd /etc/shadow").expect_ok();
    wrong
}

/// One file, which `sshd -T` prints as two; a file that it prints as none; and lines that it has not read.
fn words_with_blanks(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    let alice = Session::open_as(server, "alice", ALICE_FROM, 22);
    let line = "AuthorizedKeysFile \".ssh/authorized_keys .ssh/x\"\n";
    let asked = server.ctl(&["sshd", "set", "AuthorizedKeysFile", ".ssh/authorized_keys .ssh/x", "--json"]);
    if asked.status != 4 || works(server) != [true; 3] {
        wrong.push(format!("a name with a blank: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
    }
    roll_back(server, &asked);
    let asked = server.ctl(&["sshd", "set", "RevokedKeys", "none", "--match", "all", "--json"]);
    if asked.status != 4 || works(server) != [true; 3] {
        wrong.push(format!("none under Match: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
    }
    roll_back(server, &asked);
    let none = "Match all\n    RevokedKeys none\n";
    // The second has the same keys, with a command: the session that is in came by the file that is not asked any more.
    for by_hand in [line, "AuthorizedKeysFile /etc/ssh/kk/%u\n", none] {
        configured(server, "");
        server.write(DROP_IN, by_hand);
        let asked = server.ctl(&["sshd", "reload", "--json"]);
        if asked.status != 4 || works(server) != [true; 3] {
            wrong.push(format!("{by_hand:?} by hand: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
        }
        roll_back(server, &asked);
    }
    for lines in [line, none] {
        server.sshd_follows(DROP_IN, lines);
        let said = server.ctl(&["diagnose", ALICE_FROM, "--user", "alice"]);
        if said.status == 0 || server.gets_in("alice", ALICE_FROM, 22) {
            wrong.push(format!("{lines:?}: {} {}", said.status, said.stdout));
        }
    }
    // What sshd has read is not what its files say.
    server.sshd_follows(DROP_IN, "DenyUsers alice\n");
    server.write(DROP_IN, "X11Forwarding no\n");
    let said = server.ctl(&["diagnose", ALICE_FROM, "--user", "alice"]);
    if said.status == 0 {
        wrong.push(format!("OPEN by files that sshd has not read: {}", said.stdout));
    }
    drop(alice);
    configured(server, "");
    wrong
}

/// What users leave for their own logins keeps them out where it counts for the first time; where there is nothing of it, nothing comes.
fn what_users_leave(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    for (made, keyword, status) in [
        ("true", "PermitUserRC", 5),
        ("echo 'kill -9 $PPID' > .ssh/rc", "PermitUserRC", 4),
        ("echo 'kill -9 $PPID' > .ssh/real; ln -s real .ssh/rc", "PermitUserRC", 4),
        ("mkdir -m 0 .ssh/hidden; ln -s hidden/rc .ssh/rc", "PermitUserRC", 4),
        ("true", "PermitUserEnvironment", 5),
        ("echo LD_PRELOAD=/none > .ssh/environment", "PermitUserEnvironment", 4),
        ("sed -i 's/^/environment=\"A=b\" /' .ssh/authorized_keys", "PermitUserEnvironment", 4),
        ("echo 'kill -9 $PPID' > .ssh/rc; echo A=b > .ssh/environment", "PrintMotd", 5),
    ] {
        configured(server, "PermitUserRC no\n");
        server.write("/home/made", made);
        server.sh("cd /home/alice; runuser -u alice -- sh /home/made").expect_ok();
        let asked = server.ctl(&["sshd", "set", keyword, "yes", "--json", "--confirm-within", "10m"]);
        if asked.status != status || works(server) != [true; 3] {
            wrong.push(format!("{keyword} with {made:?}: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
        }
        roll_back(server, &asked);
        server
            .sh("cd /home/alice/.ssh; rm -rf rc real hidden environment; cat /root/.ssh/authorized_keys > authorized_keys")
            .expect_ok();
    }
    configured(server, "");
    wrong
}

/// sshd does not load a host key of RSA that is shorter than `RequiredRSASize`.
fn short_host_keys(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    configured(server, "");
    for (bits, status, told) in [("2048", 5, false), ("8192", 5, true)] {
        let asked = server.ctl(&["sshd", "set", "RequiredRSASize", bits, "--json", "--confirm-within", "10m"]);
        let risks = asked.json()["plan"]["paths"].to_string();
        let named = risks.contains("/etc/ssh/ssh_host_rsa_key (") && risks.contains("RequiredRSASize");
        if asked.status != status || named != told || works(server) != [true; 3] {
            wrong.push(format!("RequiredRSASize {bits}: {} {} {risks}", asked.status, asked.json()["message"]));
        }
        roll_back(server, &asked);
    }
    // The one that is left is of a kind that some clients do not know.
    configured(
        server,
        "HostKey /etc/ssh/ssh_host_rsa_key\nHostKey /etc/ssh/ssh_host_ecdsa_key\nHostKeyAlgorithms rsa-sha2-512\n",
    );
    let asked = server.ctl(&["sshd", "set", "RequiredRSASize", "8192", "--json", "--confirm-within", "10m"]);
    if asked.status != 4 {
        wrong.push(format!("RequiredRSASize with no other key: {} {}", asked.status, asked.json()["message"]));
    }
    roll_back(server, &asked);
    configured(server, "");
    wrong
}

/// A program that fail2ban runs for a step closes somebody's way, or stops sshd: that is not called done.
fn what_actions_of_fail2ban_close(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    server.run(&["systemctl", "start", "fail2ban"]).expect_ok();
    server.wait_until("fail2ban answers", LONG, || server.run(&["fail2ban-client", "get", "sshd", "actions"]).ok());
    server.sh("fail2ban-client set sshd addaction lab; fail2ban-client set sshd action lab actionban true").expect_ok();
    for (unban, back, says) in [
        (
            "nft 'add table inet lab; add chain inet lab in { type filter hook input priority 0; }; add rule inet lab in ip saddr 192.0.2.9 tcp dport 22 ct state new drop'",
            "nft delete table inet lab",
            "root from 192.0.2.9 is refused now by",
        ),
        (
            "echo 'sshd: 198.51.100.7' >> /etc/hosts.deny",
            "sed -i /198.51.100.7/d /etc/hosts.deny",
            "alice from 198.51.100.7 is refused now by",
        ),
        ("systemctl stop ssh", "systemctl start ssh", "nobody listens on port 22 any more"),
        ("true", "true", ""),
    ] {
        server.run(&["fail2ban-client", "set", "sshd", "banip", "203.0.113.70"]).expect_ok();
        server.run(&["fail2ban-client", "set", "sshd", "action", "lab", "actionunban", unban]).expect_ok();
        let asked = server.ctl(&["unban", "203.0.113.70", "--json"]);
        let said = asked.json()["failure"]["message"].as_str().unwrap_or_default().to_owned();
        server.run(&["fail2ban-client", "set", "sshd", "action", "lab", "actionunban", "true"]).expect_ok();
        server.sh(back).expect_ok();
        server.sh("fail2ban-client set sshd unbanip 203.0.113.70").expect_ok();
        if asked.status != if says.is_empty() { 0 } else { 6 } || !said.contains(says) || works(server) != [true; 3] {
            wrong.push(format!("actionunban {unban}: {} {said} {:?}\n{}", asked.status, works(server), asked.stdout));
        }
    }
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    wrong
}

fn what_is_set_every_day(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    let alice = Session::open_as(server, "alice", ALICE_FROM, 22);
    for edit in [
        "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,diffie-hellman-group16-sha512",
        "MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com,umac-128-etm@openssh.com",
        "HostKeyAlgorithms ssh-ed25519,rsa-sha2-512,rsa-sha2-256",
        "Subsystem sftp /usr/lib/openssh/sftp-server -f AUTHPRIV -l INFO",
    ] {
        let words: Vec<&str> = edit.split(' ').collect();
        let asked = server.ctl(&[&["sshd", "set"][..], &words, &["--json", "--confirm-within", "10m"]].concat());
        if asked.status != 5 || works(server) != [true; 3] {
            wrong.push(format!("{edit}: {} {} {:?}", asked.status, asked.json()["message"], works(server)));
        }
        roll_back(server, &asked);
    }
    drop(alice);
    wrong
}
