//! Changes of sshd on real servers of both releases: set, confirmed or taken back to the byte; refused where they would lock somebody
//! out or where sshd does not accept them; and a service that does not come back, comes back. Live sessions stay through all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod failing;
mod others;
mod refused;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{self, ADMIN_V4, ADMIN_V6, Release, Server};

const MAIN: &str = "/etc/ssh/sshd_config";
const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(3);

/// Servers on which alice may log in too and changes may wait for as short as these tests want.
fn on_both(test: impl Fn(&mut Server)) {
    lab::on_both(|server| {
        server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
        server
            .sh("useradd -m -s /bin/sh alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice")
            .expect_ok();
        let config = server.read("/etc/sshfix/agent.toml");
        server.write("/etc/sshfix/agent.toml", format!("{config}\n[confirm]\nmin_seconds = 3\n"));
        // Sources that are refused often here must not earn penalties for what comes next.
        if server.release() == Release::Trixie {
            server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
        }
        server.run(&["systemctl", "restart", "ssh.service", "sshfix-agent.service"]).expect_ok();
        server.wait_until("sshd is back", LONG, || server.ssh(ADMIN_V4).ok);
        test(server);
    });
}

/// A login that counts as long as it lives.
struct Session {
    ssh: Child,
    user: String,
}

impl Session {
    fn open(server: &Server, user: &str, from: &str) -> Self {
        Self::begin(server, server.ssh_command(from), user)
    }

    /// With a password.
    fn open_by_password(server: &Server, user: &str, from: &str, password: &str) -> Self {
        server.write("/root/askpass", format!("#!/bin/sh\necho {password}\n"));
        server.run(&["chmod", "755", "/root/askpass"]).expect_ok();
        let askpass = format!("SSH_ASKPASS={}", server.path("/root/askpass").display());
        let mut command = server.ssh_command(from);
        let options = command.iter().position(|word| word == "-F").unwrap();
        command.splice(options..options, ["-o", "BatchMode=no", "-o", "PubkeyAuthentication=no"].map(str::to_owned));
        let ssh = command.iter().position(|word| word == "ssh").unwrap();
        command.splice(ssh..ssh, ["env", askpass.as_str(), "SSH_ASKPASS_REQUIRE=force"].map(str::to_owned));
        Self::begin(server, command, user)
    }

    fn begin(server: &Server, mut command: Vec<String>, user: &str) -> Self {
        let destination = command.pop().unwrap().replace("root@", &format!("{user}@"));
        let count = "i=0; while echo $i > /tmp/alive-$USER; do i=$((i+1)); sleep 0.1; done";
        command.extend([destination, count.to_owned()]);
        let _ = std::fs::remove_file(server.path(format!("/tmp/alive-{user}")));
        let mut run = Command::new(&command[0]);
        let ssh = run.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let session = Self { ssh, user: user.to_owned() };
        session.lives(server);
        session
    }

    /// It goes on counting.
    #[track_caller]
    fn lives(&self, server: &Server) {
        let file = format!("/tmp/alive-{}", self.user);
        let count = || std::fs::read_to_string(server.path(&file)).unwrap_or_default().trim().to_owned();
        let before = count();
        server.wait_until("the session lives", LONG, || !count().is_empty() && count() != before);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// Makes a change that waits; its document.
#[track_caller]
fn pending(server: &Server, within: &str, arguments: &[&str]) -> Value {
    server.ctl(&[arguments, &["--confirm-within", within, "--json"]].concat()).expect_status(5).json()
}

#[track_caller]
fn state(server: &Server, id: &str) -> String {
    let found = server.ctl(&["changes", id, "--json"]).expect_status(0).json();
    found["changes"][0]["state"].as_str().unwrap().to_owned()
}

/// Every file of the configuration, with owner and mode.
#[track_caller]
fn files(server: &Server) -> String {
    let list = "find /etc/ssh -name '*sshd_config*' -o -path '*sshd_config.d/*' | sort | while read f; do \
                stat -c '%n %a %u %g' $f; test -d $f || cat $f; done";
    server.sh(list).expect_ok()
}

/// The value that the running sshd goes by, which a login of alice's shows: her banner.
fn banner(server: &Server) -> String {
    let mut command = server.ssh_command(ADMIN_V4);
    let destination = command.pop().unwrap();
    command.iter_mut().filter(|word| *word == "LogLevel=ERROR").for_each(|word| "LogLevel=INFO".clone_into(word));
    command.extend([destination, "true".to_owned()]);
    lab::run(&command.iter().map(String::as_str).collect::<Vec<_>>()).stderr
}

#[test]
fn a_change_is_kept_by_its_confirm_and_else_taken_back_to_the_byte() {
    on_both(|server| {
        server.write("/etc/first", "this is the first banner\n");
        server.write("/etc/second", "this is the second banner\n");
        // Odd bytes, which stay, and a criterion over which a bare `sshd -T` stumbles.
        server.write(DROP_IN, "# \u{e4} \x0c\n\tbanner=/etc/first # mine\r\n\nMatch LocalPort 2222\n  Banner none");
        server.run(&["systemctl", "reload", "ssh.service"]).expect_ok();
        server.wait_until("the first banner", LONG, || banner(server).contains("first"));
        let session = Session::open(server, "alice", ADMIN_V6);
        let old = files(server);

        // The plan says what is written, where, why there, and what becomes of whom.
        let plan = server.ctl(&["sshd", "set", "Banner", "/etc/second", "--dry-run", "--json"]).expect_status(0).json();
        let step = &plan["steps"][0];
        let diff = step["diff"].as_str().unwrap();
        assert_eq!(step["subsystem"], "sshd");
        assert!(diff.contains(&format!("--- {DROP_IN}")) && diff.contains("Banner /etc/second"), "{diff}");
        assert!(diff.contains(&format!("{DROP_IN} line 2")), "{diff}");
        assert!(diff.contains("banner was /etc/first, becomes /etc/second"), "{diff}");
        let path = &plan["paths"][0];
        assert_eq!((&path["user"], &path["before"], &path["after"]), (&"alice".into(), &"accept".into(), &"accept".into()));
        assert_eq!(path["sshd"][0], "publickey stays", "{path:#}");
        assert_eq!(plan["confirm"], "required");
        assert_eq!(files(server), old, "a dry run changes nothing");
        assert!(server.sh("ls -d /run/sshfix/candidate-* 2>/dev/null || true").stdout.is_empty(), "no copy is left");

        // Nobody confirms: bytes and service are as before.
        let change = pending(server, "20s", &["sshd", "set", "Banner", "/etc/second"]);
        let id = change["id"].as_str().unwrap();
        assert!(banner(server).contains("second"));
        session.lives(server);
        server.wait_until("it is taken back", LONG, || state(server, id) == "rolled-back");
        assert_eq!(files(server), old);
        assert!(banner(server).contains("first"));
        session.lives(server);

        // Confirmed, and then there is nothing to do.
        server.ctl_confirmed(&["sshd", "set", "Banner", "/etc/second"]);
        assert!(banner(server).contains("second"));
        assert!(server.read(DROP_IN).starts_with("# \u{e4} \x0c\n\tBanner /etc/second\r\n\nMatch"), "{:?}", server.read(DROP_IN));
        let again = server.ctl(&["sshd", "set", "Banner", "/etc/second", "--json"]).expect_status(0).json();
        assert_eq!((&again["state"], &again["changed"]), (&"unchanged".into(), &false.into()), "{again:#}");
        // A value that counts by default.
        let default = server.ctl(&["sshd", "set", "MaxAuthTries", "6", "--json"]).expect_status(0).json();
        assert_eq!(default["state"], "unchanged", "{default:#}");

        // Unset, taken back by hand; then reload and restart alone.
        let change = pending(server, "10m", &["sshd", "unset", "Banner"]);
        assert!(!banner(server).contains("second"));
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
        assert!(banner(server).contains("second"));
        let unset = server.ctl(&["sshd", "unset", "MaxAuthTries", "--json"]).expect_status(0).json();
        assert_eq!(unset["state"], "unchanged", "{unset:#}");
        for verb in ["reload", "restart"] {
            server.ctl_confirmed(&["sshd", verb]);
            assert!(server.ssh(ADMIN_V4).ok);
            session.lives(server);
        }
        assert_eq!(server.run(&["systemctl", "is-active", "ssh.service"]).stdout.trim(), "active");
    });
}

#[test]
fn a_change_that_waits_is_taken_back_by_a_reboot() {
    on_both(|server| {
        server.write("/etc/second", "this is the second banner\n");
        let old = files(server);
        let change = pending(server, "10m", &["sshd", "set", "Banner", "/etc/second"]);
        assert!(banner(server).contains("second"));
        server.power_cut();
        server.start();
        assert_eq!(files(server), old);
        assert!(!banner(server).contains("second"));
        let id = change["id"].as_str().unwrap();
        server.wait_until("it is recorded", LONG, || state(server, id) == "rolled-back");
        let log = server.run(&["journalctl", "--no-pager", "-b", "-u", "sshfix-recover"]).stdout;
        assert!(log.contains(id), "taken back before sshd started: {log}");
    });
}
