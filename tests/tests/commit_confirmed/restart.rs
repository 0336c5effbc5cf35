//! A change that waits while the agent is restarted, stopped, killed or upgraded: it waits on only where an agent will be there at its
//! deadline, and the deadline stays the one that was set.

use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use sshfix_tests::lab::Server;

use super::{AFTER, on_both, one, pending, state};

/// Waits longer than a loaded machine takes for what happens meanwhile.
fn deny(server: &Server) -> String {
    let change = server.ctl(&["hosts", "deny", "203.0.113.70", "--confirm-within", "5m", "--json"]).expect_status(5).json();
    change["id"].as_str().unwrap().to_owned()
}

/// Waits until it is taken back: because nobody confirmed it, and at the deadline that was set first.
#[track_caller]
fn unconfirmed(server: &Server, id: &str, set: Timestamp) {
    server.wait_until("it is taken back", AFTER, || state(server, id) == "rolled-back");
    let change = one(server, id);
    assert_eq!(change["detail"], "not confirmed in time");
    let time = |name: &str| change[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(time("deadline"), set);
    // Soon, which is more than seconds where an agent that is just starting waits for a busy machine.
    let late = time("finished").duration_since(set);
    assert!((0..60).contains(&late.as_secs()), "{change:#}");
}

fn deadline(server: &Server, id: &str) -> Timestamp {
    one(server, id)["deadline"].as_str().unwrap().parse().unwrap()
}

#[track_caller]
fn systemctl(server: &Server, words: &[&str]) {
    server.run(&[&["systemctl"], words].concat()).expect_ok();
}

fn log(server: &Server) -> String {
    server.run(&["journalctl", "--no-pager", "-u", "sshfix-agent.service", "-n", "20"]).stdout
}

#[test]
fn a_restart_of_the_agent_leaves_a_change_waiting_until_its_own_deadline() {
    on_both(|server| {
        let before = server.read("/etc/hosts.deny");
        // Each of these is a restart to systemd; the last is what an upgrade does: another file at the same path.
        let upgrade = "cp /usr/local/sbin/sshfix-agent /root/new; mv -f /root/new /usr/local/sbin/sshfix-agent; \
             systemctl restart sshfix-agent.service";
        for restart in [
            "systemctl restart sshfix-agent.service",
            "systemctl try-restart sshfix-agent",
            "systemctl restart sshfix-agent.socket",
            upgrade,
        ] {
            let id = deny(server);
            let set = deadline(server, &id);
            server.sh(restart).expect_ok();
            assert_eq!(state(server, &id), "pending", "{restart}: {}", log(server));
            assert_eq!(deadline(server, &id), set, "{restart}");
            assert!(log(server).contains(&format!("change {id} waits on")), "{}", log(server));
            assert_ne!(server.read("/etc/hosts.deny"), before);
            let confirmed = server.ctl(&["confirm", &id, "--json"]).expect_status(0).json();
            assert_eq!(confirmed["state"], "confirmed", "{confirmed:#}");
            server.ctl(&["hosts", "remove", "203.0.113.70"]).expect_status(0);
            assert_eq!(server.read("/etc/hosts.deny"), before);
        }
        // Nobody confirms: not later for the restarts.
        let id = pending(server, &["hosts", "deny", "203.0.113.70"]);
        let set = deadline(server, &id);
        for _ in 0..2 {
            sleep(Duration::from_secs(1));
            systemctl(server, &["restart", "sshfix-agent.service"]);
        }
        unconfirmed(server, &id, set);
        assert_eq!(server.read("/etc/hosts.deny"), before);
    });
}

#[test]
fn an_agent_that_does_not_come_back_takes_back_what_waits() {
    on_both(|server| {
        let before = server.read("/etc/hosts.deny");
        let config = server.read("/etc/sshfix/agent.toml");
        let took_back = |id: &str, why: &str| {
            assert_eq!(server.read("/etc/hosts.deny"), before, "{why}");
            assert!(log(server).contains(why), "`{why}` is not in: {}", log(server));
            systemctl(server, &["start", "sshfix-agent.service"]);
            let change = one(server, id);
            assert_eq!(change["state"], "rolled-back", "{change:#}");
            assert_eq!(change["detail"], "the agent was stopped before it was confirmed");
            let audit = server.ctl(&["audit", "show", "--limit", "10", "--json"]).expect_status(0).stdout;
            assert!(audit.contains(&format!("change {id}: the agent was stopped before")), "{audit}");
        };
        let id = deny(server);
        systemctl(server, &["stop", "sshfix-agent.service"]);
        took_back(&id, "systemd's job is `stop`");

        // A signal from somebody else: systemd does not start it again, because it ends well.
        let id = deny(server);
        systemctl(server, &["kill", "-s", "TERM", "--kill-whom=main", "sshfix-agent.service"]);
        let ended = || server.run(&["systemctl", "is-active", "sshfix-agent.service"]).stdout.trim() == "inactive";
        server.wait_until("the agent ends", AFTER, ended);
        took_back(&id, "systemd has no job for it");

        // A restart that would start nothing that can keep the deadline.
        let id = deny(server);
        server.write("/etc/sshfix/agent.toml", format!("{config}\nssh_prot = 22\n"));
        server.run(&["systemctl", "restart", "--no-block", "sshfix-agent.service"]).expect_ok();
        let restored = || server.read("/etc/hosts.deny") == before;
        server.wait_until("it is taken back", AFTER, restored);
        server.write("/etc/sshfix/agent.toml", &config);
        took_back(&id, "does not pass `sshfix-agent check`: /etc/sshfix/agent.toml");

        let id = deny(server);
        server.sh("mv /usr/local/sbin/sshfix-agent /root/agent; printf broken >/usr/local/sbin/sshfix-agent; chmod 755 /usr/local/sbin/sshfix-agent").expect_ok();
        server.run(&["systemctl", "restart", "--no-block", "sshfix-agent.service"]).expect_ok();
        server.wait_until("it is taken back", AFTER, restored);
        server.sh("mv -f /root/agent /usr/local/sbin/sshfix-agent").expect_ok();
        took_back(&id, "what would be started cannot be checked: cannot run /usr/local/sbin/sshfix-agent");

        // A crash: systemd starts it again, and the change waits on.
        let id = pending(server, &["hosts", "deny", "203.0.113.70"]);
        let set = deadline(server, &id);
        systemctl(server, &["kill", "-s", "SEGV", "--kill-whom=main", "sshfix-agent.service"]);
        server.wait_until("the agent is back", AFTER, || server.ctl(&["status"]).status == 0);
        unconfirmed(server, &id, set);
        assert_eq!(server.read("/etc/hosts.deny"), before);
    });
}
