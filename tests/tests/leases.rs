//! Leases on real servers of both releases: `allow` lets in whatever blocks, ends by itself also across crashes, power cuts and
//! reboots, and takes back exactly what it added.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use sshfix_tests::lab::{self, Release, Server, on_both, root_or_skip};

const ME: &str = "203.0.113.7";
const OTHERS: [&str; 2] = ["203.0.113.8", "203.0.113.70"];

/// Blocks the client and its neighbours in every subsystem: a ban of fail2ban, nftables, both iptables, hosts.deny. What a reboot takes
/// away is loaded at boot.
fn block(server: &Server) {
    server.write(
        "/etc/lab-firewall.sh",
        format!(
            "set -e
             nft add table inet hand
             nft 'add chain inet hand input {{ type filter hook input priority 0; policy accept; }}'
             nft add rule inet hand input tcp dport 80 drop
             nft add rule inet hand input ip saddr 203.0.113.0/24 tcp dport 22 drop
             iptables-nft -A INPUT -s {ME} -p tcp --dport 22 -j DROP
             iptables-nft -A INPUT -s 203.0.113.8 -p tcp --dport 22 -j DROP
             iptables-legacy -A INPUT -s 203.0.113.0/24 -p tcp --dport 22 -j REJECT\n"
        ),
    );
    server.write(
        "/etc/systemd/system/lab-firewall.service",
        "[Unit]\nAfter=lab-network.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh /etc/lab-firewall.sh\n\
         [Install]\nWantedBy=multi-user.target\n",
    );
    server.sh("systemctl daemon-reload; systemctl enable --now lab-firewall.service").expect_ok();
    server.write("/etc/hosts.deny", "sshd: 203.0.113.7, 203.0.113.8, 203.0.113.70\n");
    server.write("/etc/hosts.allow", "# kept\nftpd: ALL\n");
    server.sh(&format!("fail2ban-client set sshd banip {ME} {}", OTHERS[0])).expect_ok();
}

/// What a lease could touch, without what counts by itself. The order inside fail2ban's own chain means nothing.
fn snapshot(server: &Server) -> String {
    let all = server
        .sh("nft list tables | sort | while read -r _ family table; do nft -s list table $family $table; done; \
             iptables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'; cat /etc/hosts.allow /etc/hosts.deny; \
             fail2ban-client get sshd ignoreip; fail2ban-client get sshd banip; stat -c '%a %u %g %n' /etc/hosts.allow")
        .expect_ok();
    all.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn in_and_others_out(server: &Server) {
    let login = server.ssh(ME);
    assert!(login.ok, "{}\n{}", login.stderr, server.ctl(&["diagnose", ME]).stdout);
    others_out(server);
}

#[track_caller]
fn others_out(server: &Server) {
    for other in OTHERS {
        server.ctl(&["diagnose", other]).expect_status(8);
    }
}

fn leases(server: &Server) -> Vec<Value> {
    let leases = server.ctl(&["leases", "--json"]).expect_status(0).json();
    assert_eq!(leases["schema"], "sshfix.leases/1");
    leases["leases"].as_array().unwrap().clone()
}

/// Longer than any lease here that is waited for, on a loaded machine.
const LONG: Duration = Duration::from_mins(4);

/// Waits until no lease runs.
#[track_caller]
fn wait_for_end(server: &Server) {
    server.wait_until("the lease ended", LONG, || leases(server).is_empty());
}

#[test]
fn an_allow_lets_in_whatever_blocks_and_ends_by_itself_with_the_first_state() {
    on_both(|server| {
        block(server);
        let before = snapshot(server);
        assert!(!server.ssh(ME).ok);
        let plan = server.ctl(&["allow", ME, "--for", "30s", "--dry-run", "--json"]).expect_status(0).json();
        assert_eq!((&plan["confirm"], &plan["opens"][0]), (&"not-needed".into(), &format!("{ME}/32").into()), "{plan:#}");
        assert_eq!(snapshot(server), before, "a dry run changes nothing");
        let digest = plan["digest"].as_str().unwrap();
        let made = server.ctl(&["allow", ME, "--for", "30s", "--plan", digest, "--json"]).expect_status(0).json();
        assert_eq!(made["state"], "confirmed", "{made:#}");
        in_and_others_out(server);
        let running = leases(server);
        assert_eq!((running.len(), &running[0]["change"]), (1, &made["id"]), "{running:#?}");
        // Marked for people too, by every tool.
        let mark = format!("sshfix lease {}", running[0]["id"].as_str().unwrap());
        let rules =
            server.sh("nft list table inet hand; iptables-nft-save; iptables-legacy-save; cat /etc/hosts.allow").expect_ok();
        let marks = rules.matches(&mark).count();
        assert!(marks >= 4, "{marks}: {rules}");
        // No ban comes meanwhile.
        assert!(server.sh("fail2ban-client get sshd ignoreip").expect_ok().contains(ME));
        // Others write to the same file between the plan of the end and its first step: it is not begun, and planned again.
        server.write("/run/sshfix/pause-step", "0");
        server.wait_until("the end looks for the last time", LONG, || server.path("/run/sshfix/paused").exists());
        server.sh("echo 'imapd: ALL' >> /etc/hosts.allow; rm /run/sshfix/paused").expect_ok();
        wait_for_end(server);
        server.sh("sed -i '/^imapd: ALL$/d' /etc/hosts.allow").expect_ok();
        assert_eq!(snapshot(server), before);
        let changes = server.ctl(&["changes", "--json"]).expect_status(0).json();
        let states: Vec<&str> = changes["changes"].as_array().unwrap().iter().filter_map(|one| one["state"].as_str()).collect();
        assert_eq!(states, ["confirmed", "confirmed"], "the allow and its end, and nothing that was taken back: {changes:#}");
        assert!(!server.ssh(ME).ok);
        let records = server.ctl(&["audit", "show", "--json"]).expect_status(0).json();
        let end = records["records"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["automatic"].as_str().is_some_and(|t| t.contains("is over")) && r["outcome"] != "failed");
        assert_eq!(end.expect("the end is on record")["outcome"], "confirmed");
        server.ctl(&["audit", "verify"]).expect_status(0);
    });
}

#[test]
fn the_end_takes_back_its_own_from_surroundings_that_changed() {
    on_both(|server| {
        block(server);
        // iptables-nft makes all its chains when it loads a table.
        server.sh("iptables-nft-save > /tmp/rules; iptables-nft-restore < /tmp/rules").expect_ok();
        let before = snapshot(server);
        server.ctl(&["allow", ME, "--for", "1h"]).expect_status(0);
        // The firewalls are loaded again, with other handles and in another order; an editor writes around the line.
        server
            .sh("nft list table inet hand > /tmp/hand; nft delete table inet hand; nft -f /tmp/hand
                 nft insert rule inet hand input tcp dport 443 drop
                 iptables-nft-save > /tmp/rules; iptables-nft-restore < /tmp/rules
                 iptables-legacy-save > /tmp/legacy; iptables-legacy-restore < /tmp/legacy
                 iptables-legacy -I INPUT -s 198.51.100.99 -j DROP
                 sed -i '1i smtpd: ALL' /etc/hosts.allow; echo 'imapd: ALL' >> /etc/hosts.allow")
            .expect_ok();
        in_and_others_out(server);
        server.ctl(&["revoke", "1", "--json"]).expect_status(0);
        assert!(leases(server).is_empty());
        server
            .sh("handle=$(nft -a list chain inet hand input | sed -n 's/.*dport 443 drop # handle //p')
                 nft delete rule inet hand input handle $handle
                 iptables-legacy -D INPUT -s 198.51.100.99 -j DROP
                 sed -i '/smtpd/d;/imapd/d' /etc/hosts.allow")
            .expect_ok();
        assert_eq!(snapshot(server), before);
        assert!(!server.ssh(ME).ok);

        // Deleted already is fine; edited is left, and said.
        server.ctl(&["allow", ME, "--for", "1h"]).expect_status(0);
        server
            .sh("handle=$(nft -a list chain inet hand input | sed -n 's/.*sshfix lease 2.*# handle //p')
                 nft delete rule inet hand input handle $handle
                 sed -i 's/^sshd: 203.0.113.7$/sshd: 203.0.113.7, 192.0.2.77/' /etc/hosts.allow")
            .expect_ok();
        let revoked = server.ctl(&["revoke", "2", "--json"]).expect_status(0).json();
        assert!(revoked["notes"].to_string().contains("edited and is left"), "{revoked:#}");
        assert!(server.read("/etc/hosts.allow").contains("192.0.2.77"));
        server.sh("sed -i '/sshfix lease 2/d;/192.0.2.77/d' /etc/hosts.allow").expect_ok();
        assert_eq!(snapshot(server), before);
    });
}

#[test]
fn of_two_leases_each_removes_its_own_and_the_access_holds_until_the_last_ends() {
    on_both(|server| {
        block(server);
        let before = snapshot(server);
        // One of a whole range, which a lease for an address in it must not keep open past its end.
        server.ctl(&["allow", "203.0.113.0/24", "--for", "40s"]).expect_status(0);
        server.ctl(&["diagnose", OTHERS[0]]).expect_status(0);
        server.ctl(&["allow", ME, "--for", "40s"]).expect_status(0);
        let second = server.ctl(&["allow", ME, "--for", "1h", "--json"]).expect_status(0).json();
        assert_eq!(second["state"], "confirmed", "{second:#}");
        server.ctl(&["unban", "198.51.100.7", "--ignore-for", "1h"]).expect_status(0);
        assert_eq!(leases(server).len(), 4);
        server.wait_until("the first leases ended", LONG, || leases(server).len() == 2);
        in_and_others_out(server);
        server.ctl(&["revoke", "3"]).expect_status(0);
        assert!(!server.ssh(ME).ok);
        assert!(server.sh("fail2ban-client get sshd ignoreip").expect_ok().contains("198.51.100.7"));
        server.ctl(&["revoke", "4"]).expect_status(0);
        assert_eq!(snapshot(server), before);
    });
}

#[test]
fn a_revoke_that_cuts_off_who_asks_is_refused_and_the_automatic_end_is_not() {
    on_both(|server| {
        block(server);
        server.ctl(&["allow", ME, "--for", "45s"]).expect_status(0);
        let refused = server.ctl_from(ME, &["revoke", "1", "--json"]).expect_status(4).json();
        assert_eq!(refused["code"], "lockout", "{refused:#}");
        // A live session counts as much.
        let mut session = std::process::Command::new(&server.ssh_command(ME)[0])
            .args(&server.ssh_command(ME)[1..])
            .arg("echo in; exec sleep 600")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(session.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
        server.ctl(&["revoke", "1"]).expect_status(4);
        assert_eq!(leases(server).len(), 1);
        wait_for_end(server);
        let _ = session.kill();
        let _ = session.wait();
        assert!(!server.ssh(ME).ok);
        server.ctl(&["revoke", "1", "--json"]).expect_status(1);
        for (arguments, status) in [
            (&["allow", ME, "--for", "0s"][..], 2),
            (&["allow", ME, "--for", "99d"], 1),
            (&["allow", "0.0.0.0/0", "--for", "1h"], 1),
            (&["allow", ME, "--for", "soon"], 2),
            (&["allow", ME], 2),
        ] {
            server.ctl(arguments).expect_status(status);
        }
    });
}

#[test]
fn a_lease_ends_on_time_also_when_the_agent_was_killed_or_down() {
    on_both(|server| {
        block(server);
        let before = snapshot(server);
        server.ctl(&["allow", ME, "--for", "45s"]).expect_status(0);
        for _ in 0..3 {
            server.sh("kill -9 $(systemctl show -p MainPID --value sshfix-agent.service)").expect_ok();
            sleep(Duration::from_millis(1500));
        }
        in_and_others_out(server);
        wait_for_end(server);
        assert_eq!(snapshot(server), before);
        // Down when the time is over: it ends at the next start.
        server.ctl(&["allow", ME, "--for", "20s"]).expect_status(0);
        server.sh("systemctl stop sshfix-agent.socket sshfix-agent.service").expect_ok();
        sleep(Duration::from_secs(21));
        assert!(server.ssh(ME).ok, "nobody is there to end it");
        server.sh("systemctl start sshfix-agent.socket sshfix-agent.service").expect_ok();
        wait_for_end(server);
        assert_eq!(snapshot(server), before);
        // Killed in the middle of making one, at every step: all of it or nothing, and it ends.
        for step in 1..=5 {
            server.write("/run/sshfix/pause-step", step.to_string());
            let asked = std::thread::scope(|scope| {
                let asking = scope.spawn(|| server.ctl(&["allow", ME, "--for", "2s"]).status);
                server
                    .wait_until("the agent pauses", LONG, || server.path("/run/sshfix/paused").exists() || asking.is_finished());
                server.sh("kill -9 $(systemctl show -p MainPID --value sshfix-agent.service); rm -f /run/sshfix/paused /run/sshfix/pause-step").expect_ok();
                asking.join().unwrap()
            });
            assert_ne!(asked, 3, "step {step}");
            wait_for_end(server);
            assert_eq!(snapshot(server), before, "step {step}");
        }
    });
}

/// A lease of so many seconds is put back after a power cut and after a reboot, and ends when they are over. Whether it could be seen.
fn outlives_reboots(server: &mut Server, time: u64) -> bool {
    // Before it: it cannot end sooner than so long after this.
    let begun = Instant::now();
    server.ctl(&["allow", ME, "--for", &format!("{time}s")]).expect_status(0);
    let soon_over = || begun.elapsed().as_secs() + 3 > time;
    server.power_cut();
    server.start();
    server.wait_for_fail2ban();
    // Bans come back from fail2ban's database; ignoreip and rules do not, so they are put back.
    server.wait_until("the lease is in place again", LONG, || {
        soon_over() || server.sh("fail2ban-client get sshd ignoreip").expect_ok().contains(ME) && server.ssh(ME).ok
    });
    others_out(server);
    server.power_off();
    server.start();
    server.wait_for_fail2ban();
    server.wait_until("the lease is in place again", LONG, || soon_over() || server.ssh(ME).ok);
    let seen = !soon_over();
    server.wait_until("the lease ended", LONG + Duration::from_secs(time), || leases(server).is_empty());
    assert!(begun.elapsed() >= Duration::from_secs(time - 1), "not before its time: {:?}", begun.elapsed());
    seen
}

#[test]
fn a_lease_holds_across_a_reboot_and_a_power_cut_and_still_ends() {
    on_both(|server| {
        block(server);
        // A machine that boots so slowly that the lease is over meanwhile has another try, with more time.
        assert!([90, 270, 810].into_iter().any(|time| outlives_reboots(server, time)), "the machine is too slow to tell");
        let after = snapshot(server);
        assert!(!after.contains("sshfix lease") && !server.ssh(ME).ok, "{after}");
        others_out(server);
        // Over while the host is off: gone from the files at the next start.
        server.ctl(&["allow", ME, "--for", "4s"]).expect_status(0);
        server.power_cut();
        sleep(Duration::from_secs(5));
        server.start();
        wait_for_end(server);
        assert!(!server.read("/etc/hosts.allow").contains(ME));
        assert_eq!(server.read("/etc/hosts.allow"), "# kept\nftpd: ALL\n");
    });
}

/// Breaks off before a login.
fn break_off(server: &Server) {
    let program = format!(
        "import socket; s = socket.create_connection(('203.0.113.1', 22), 5, ('{ME}', 0)); \
         s.recv(100); s.sendall(b'SSH-2.0-x\\r\\nnonsense' + b'x' * 99); s.recv(100)"
    );
    lab::run(&["ip", "netns", "exec", server.clients_netns(), "python3", "-c", &program]);
}

/// Breaks off until sshd turns the client away for it, which it does once it has reaped the processes.
#[track_caller]
fn earn_a_penalty(server: &Server) {
    server.wait_until("sshd penalizes the client", Duration::from_mins(2), || {
        break_off(server);
        !server.ssh(ME).ok
    });
}

/// Debian 12 has an sshd without penalties: the plan has nothing for it.
#[test]
fn what_sshd_holds_against_an_address_is_passed_and_exactly_that_entry_goes_again() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
        server.install_sshfix();
        let subsystems = |arguments: &[&str]| {
            let plan = server.ctl(&[arguments, &["--dry-run", "--json"]].concat()).expect_status(0).json();
            let steps = plan["steps"].as_array().unwrap().iter().map(|step| step["subsystem"].as_str().unwrap().to_owned());
            (steps.collect::<Vec<_>>(), plan["confirm"].as_str().unwrap().to_owned())
        };
        assert_eq!(subsystems(&["allow", ME, "--for", "2h"]).0, [""; 0], "{release}: nothing blocks it");
        if release == Release::Bookworm {
            continue;
        }
        // Cheap enough that the proofs of access of `ctl`, which come from this host and break off too, earn none.
        let penalties = "PerSourcePenalties crash:5s authfail:5s noauth:5s min:15s max:300s\n";
        let list = "PerSourcePenaltyExemptList 198.51.100.7,203.0.113.70 # the office\n";
        let drop_in = "/etc/ssh/sshd_config.d/50-x.conf";
        let main = server.read("/etc/ssh/sshd_config");
        // With a list that is there, which somebody edits meanwhile, and without one.
        for (before, meanwhile, after) in [
            (
                format!("{penalties}{list}"),
                Some(("203.0.113.70", "10.0.0.1,203.0.113.70")),
                format!("{penalties}{}", list.replace("203.0.113.70", "10.0.0.1,203.0.113.70")),
            ),
            (penalties.to_owned(), None, penalties.to_owned()),
        ] {
            server.write(drop_in, &before);
            server.sh("sshd -t && systemctl reset-failed ssh && systemctl restart ssh").expect_ok();
            earn_a_penalty(&server);
            let (steps, confirm) = subsystems(&["allow", ME, "--for", "2h"]);
            assert_eq!((steps.as_slice(), confirm.as_str()), (&["sshd".to_owned()][..], "required"));
            // Nobody confirms: all is as it was.
            let id =
                server.ctl(&["allow", ME, "--for", "2h", "--json"]).expect_status(5).json()["id"].as_str().unwrap().to_owned();
            assert!(server.ssh(ME).ok);
            assert!(leases(&server).is_empty(), "it is none before it is confirmed");
            server.ctl(&["rollback", &id]).expect_status(0);
            assert_eq!((server.read(drop_in), server.read("/etc/ssh/sshd_config")), (before.clone(), main.clone()));

            earn_a_penalty(&server);
            server.ctl_confirmed(&["allow", ME, "--for", "2h"]);
            let lease = leases(&server).pop().unwrap();
            assert_eq!(lease["parts"], serde_json::json!([format!("{ME} in sshd's PerSourcePenaltyExemptList")]));
            let effective = || {
                let list = server.sh("sshd -T | sed -n 's/^persourcepenaltyexemptlist //p'").expect_ok();
                list.trim().split(',').map(str::to_owned).collect::<Vec<_>>()
            };
            assert!(effective().contains(&ME.to_owned()), "{:?}", effective());
            // It earns no new ones.
            (0..6).for_each(|_| break_off(&server));
            assert!(server.ssh(ME).ok);
            server.ctl(&["diagnose", ME]).expect_status(0);
            if let Some((from, to)) = meanwhile {
                server.write(drop_in, server.read(drop_in).replace(from, to));
            }
            let id = lease["id"].as_str().unwrap();
            if meanwhile.is_some() {
                server.ctl_confirmed(&["revoke", id]);
            } else {
                // On time, which nobody has to confirm.
                server.write("/etc/ssh/sshd_config.d/60-y.conf", "Banner none\n");
                let sql = format!("UPDATE leases SET boot_left = 0, boot_from = 0 WHERE id = {id}");
                server.run(&["python3", "-c", &format!("import sqlite3; db = sqlite3.connect('/var/lib/sshfix/state.db', 60); db.execute('{sql}'); db.commit()")]).expect_ok();
                // Not while that would bring somebody's edit into effect that sshd has not read.
                let tried = || server.run(&["journalctl", "--no-pager", "-u", "sshfix-agent"]).stdout;
                server.wait_until("the end is tried", Duration::from_mins(1), || tried().contains("comes into effect too"));
                assert!(effective().contains(&ME.to_owned()) && leases(&server).len() == 1);
                server.sh("systemctl reload ssh").expect_ok();
                server.wait_until("the lease ended", Duration::from_mins(2), || leases(&server).is_empty());
            }
            assert!(leases(&server).is_empty());
            assert!(!effective().contains(&ME.to_owned()), "{:?}", effective());
            assert_eq!((server.read(drop_in), server.read("/etc/ssh/sshd_config")), (after, main.clone()));
            assert!(server.ssh(ME).ok);
        }
    }
}
