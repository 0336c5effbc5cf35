//! What the packaged units leave to the agent, measured on real servers: systemd's exposure figure, the folders that can be written, the
//! places from where a program can be run, the capabilities; and the small writer's socket, attacked by a local user and by root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use sshfix_tests::lab::{Server, on_both, packaged_units};

/// The highest exposure figure that each unit with a program of ours may have.
const EXPOSED: [(&str, f64); 6] = [
    ("sshfix-agent.service", 2.4),
    ("sshfix-recover.service", 2.1),
    ("sshfix-write.service", 1.2),
    ("sshfix-look.service", 1.7),
    ("sshfix-drill.service", 1.7),
    ("sshfix-drill-copy.service", 1.7),
];

/// The figure that `systemd-analyze security` ends with.
fn exposure(server: &Server, unit: &str) -> f64 {
    let said = server.run(&["systemd-analyze", "security", "--no-pager", unit]).stdout;
    let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{unit}: {said}"));
    let figure = line.rsplit(": ").next().and_then(|end| end.split_whitespace().next()).unwrap_or_default();
    println!("{} {unit}: {figure}", server.release());
    figure.parse().unwrap_or_else(|_| panic!("{line}"))
}

fn every_unit_is_exposed_as_little_as_the_manual_says(server: &Server) {
    let units = packaged_units();
    let services: Vec<&String> = units.iter().filter(|unit| unit.ends_with(".service")).collect();
    assert_eq!(services.len(), EXPOSED.len(), "each has a bound: {services:?}");
    for (unit, most) in EXPOSED {
        let figure = exposure(server, unit);
        assert!(figure <= most, "{} {unit}: {figure}", server.release());
    }
    // Accepted by systemd, and said so by it: a cgroup filter that a container does not enforce.
    let denied = server.run(&["systemctl", "show", "-P", "IPAddressDeny", "sshfix-agent"]).stdout;
    assert!(denied.contains("::/0") && denied.contains("0.0.0.0/0"), "{denied}");
    let allowed = server.run(&["systemctl", "show", "-P", "IPAddressAllow", "sshfix-agent"]).stdout;
    for own in ["127.0.0.0/8", "::1", "203.0.113.1", "2001:db8::1"] {
        assert!(
            allowed
                .split_whitespace()
                .any(|one| one.split("/32").next() == Some(own) || one == own || one == format!("{own}/128")),
            "{own}: {allowed}"
        );
    }
}

/// Where files are that must not change, and where users can write.
const PLACES: &str = "/ /etc /etc/ssh /etc/sshfix /etc/cron.d /run /run/lock /run/systemd /run/sshd /usr /usr/local/sbin /opt /var /var/tmp \
                      /var/lib /var/lib/sshfix /run/sshfix /run/sshfix-drill /root /home /home/alice /boot /srv /tmp /dev/shm /dev/mqueue";

/// What a program under this unit can write: the unit itself, with a probe in the place of its program.
fn probed(server: &Server, unit: &str) -> Vec<String> {
    let probe =
        format!("#!/bin/sh\nfor at in {PLACES}; do if touch $at/probe-new; then echo $at; rm -f $at/probe-new; fi; done\n");
    server.write("/usr/local/sbin/probe", probe);
    server.sh("chmod 755 /usr/local/sbin/probe").expect_ok();
    let text = server.read(&format!("/etc/systemd/system/{unit}"));
    let kept = [
        "ExecStart=",
        "Type=",
        "StandardInput=",
        "StandardOutput=",
        "StandardError=",
        "Restart=",
        "RuntimeMaxSec=",
        "Requires=",
        "Wants=",
        "After=",
        "Before=",
        "Conflicts=",
    ];
    let lines: Vec<&str> = text.lines().filter(|line| !kept.iter().any(|key| line.starts_with(key))).collect();
    let text = lines.join("\n") + "\n";
    let text = text.replace(
        "[Service]\n",
        "[Service]\nType=oneshot\nExecStart=/usr/local/sbin/probe\nStandardOutput=truncate:/root/probed\nStandardError=null\n",
    );
    server.write("/run/systemd/system/probe.service", text);
    let done = server.sh("systemctl daemon-reload; systemctl start probe.service");
    assert!(done.ok(), "{unit}: {}", server.sh("journalctl --no-pager -n 20 -u probe.service").stdout);
    server.read("/root/probed").lines().map(str::to_owned).collect()
}

fn no_unit_can_write_more_than_it_must(server: &Server) {
    for (unit, writes) in [
        ("sshfix-agent.service", &["/var/tmp", "/var/lib/sshfix", "/run/sshfix", "/tmp"][..]),
        ("sshfix-recover.service", &["/var/lib/sshfix", "/run/sshfix"]),
        ("sshfix-write.service", &["/etc", "/etc/ssh", "/run", "/run/lock", "/run/sshd", "/run/sshfix", "/run/sshfix-drill"]),
        ("sshfix-look.service", &["/var/tmp", "/tmp"]),
        ("sshfix-drill.service", &["/var/tmp", "/var/lib/sshfix", "/run/sshfix-drill", "/tmp"]),
        ("sshfix-drill-copy.service", &["/var/tmp", "/run/sshfix-drill", "/tmp"]),
    ] {
        assert_eq!(probed(server, unit), writes, "{} {unit}", server.release());
    }
}

fn the_agent_has_no_capability_that_it_does_not_use(server: &Server) {
    let status = server.sh("cat /proc/$(systemctl show -P MainPID sshfix-agent)/status").expect_ok();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    // capability(7): none to mount, to load a module, to change the owner or mode of a file, or to write where it may not.
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("CapBnd");
    let bounding = u64::from_str_radix(bounding.trim(), 16).expect("hexadecimal");
    for (name, bit) in [
        ("CHOWN", 0),
        ("DAC_OVERRIDE", 1),
        ("FOWNER", 3),
        ("KILL", 5),
        ("SETGID", 6),
        ("SETUID", 7),
        ("SYS_MODULE", 16),
        ("SYS_RAWIO", 17),
        ("SYS_ADMIN", 21),
    ] {
        assert_eq!(bounding >> bit & 1, 0, "CAP_{name}: {bounding:x}");
    }
}

/// What is said to this service as this user from a process in this cgroup, and what it answered.
fn say(server: &Server, socket: &str, user: &str, cgroup: &str, what: &str) -> String {
    let script = "import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20); said = b''
try:
    s.connect(sys.argv[1])
    try: s.sendall(sys.stdin.buffer.read()); s.shutdown(socket.SHUT_WR)
    except BrokenPipeError: pass
    while more := s.recv(65536): said += more
except OSError as error: said += str(error).encode()
print(said.decode())";
    let enter = "echo $$ > /sys/fs/cgroup$1/cgroup.procs && exec setpriv --reuid $2 --init-groups python3 -c \"$3\" $4";
    let socket = format!("/run/sshfix/{socket}.sock");
    server.run_with_input(&["sh", "-c", enter, "sh", cgroup, user, script, &socket], what.as_bytes()).stdout
}

/// One order to the writer.
fn order(server: &Server, user: &str, cgroup: &str, line: &str, content: &str) -> String {
    say(server, "write", user, cgroup, &format!("{line}{content}"))
}

const AGENT: &str = "/system.slice/sshfix-agent.service";

/// A question to the service that looks.
const LOOK: &str = "{\"owner\":null,\"milliseconds\":3000,\"question\":{\"User\":\"alice\"}}";

fn only_the_agents_units_reach_the_services_and_the_writer_does_nothing_but_its_orders(server: &Server) {
    let all = || {
        server
            .sh("find /etc /run/sshd -type f -exec sha256sum {} + | sort; find /etc /run/sshd -printf '%p %m %u\\n' | sort")
            .expect_ok()
    };
    let before = all();
    let of = |path: &str| server.sh(&format!("sha256sum {path}")).expect_ok().split_whitespace().next().unwrap().to_owned();
    let digest = of("/etc/hosts.deny");
    let good = format!("{{\"hosts\":{{\"path\":\"/etc/hosts.deny\",\"before\":\"{digest}\",\"after\":9}}}}\n");
    for user in ["alice", "member"] {
        assert!(order(server, user, AGENT, &good, "ALL: ALL\n").contains("Permission denied"), "{user}");
        assert!(say(server, "look", user, AGENT, LOOK).contains("Permission denied"), "{user}");
    }
    assert!(say(server, "look", "root", AGENT, LOOK).contains("\"/home/alice\""), "it looks for the agent");
    for rubbish in ["", "{", "{\"run\":\"id\"}", &LOOK.replace("null", "-1")] {
        assert!(say(server, "look", "root", AGENT, rubbish).contains("Err"), "{rubbish}");
    }
    // Root, in a session, as a service of another name, as what a user's manager calls by that name.
    server
        .sh("mkdir -p /sys/fs/cgroup/system.slice/other.service/sshfix-agent.service /sys/fs/cgroup/sshfix-agent.service.d")
        .expect_ok();
    for cgroup in ["", "/init.scope", "/system.slice/other.service/sshfix-agent.service", "/sshfix-agent.service.d"] {
        let said = order(server, "root", cgroup, &good, "ALL: ALL\n");
        assert!(said.contains("nothing was read or done for it"), "{cgroup}: {said}");
        let said = say(server, "look", "root", cgroup, LOOK);
        assert!(said.contains("nothing was read or done for it"), "{cgroup}: {said}");
    }
    let (shadow, key) = (of("/etc/shadow"), of("/etc/ssh/ssh_host_ed25519_key"));
    for (line, content) in [
        (format!("{{\"hosts\":{{\"path\":\"/etc/shadow\",\"before\":\"{shadow}\",\"after\":2}}}}\n"), "x\n"),
        ("{\"hosts\":{\"path\":\"/etc/cron.d/x\",\"before\":null,\"after\":2}}\n".to_owned(), "x\n"),
        (format!("{{\"sshd\":{{\"path\":\"/etc/shadow\",\"before\":\"{shadow}\",\"after\":2}}}}\n"), "x\n"),
        (format!("{{\"sshd\":{{\"path\":\"/etc/ssh/../shadow\",\"before\":\"{shadow}\",\"after\":2}}}}\n"), "x\n"),
        (format!("{{\"sshd\":{{\"path\":\"/etc/ssh/link/shadow\",\"before\":\"{shadow}\",\"after\":2}}}}\n"), "x\n"),
        (format!("{{\"sshd\":{{\"path\":\"/etc/ssh/ssh_host_ed25519_key\",\"before\":\"{key}\",\"after\":2}}}}\n"), "x\n"),
        ("{\"repair\":{\"key_mode\":{\"path\":\"/etc/shadow\",\"before\":416,\"after\":438}}}\n".to_owned(), ""),
        ("{\"repair\":{\"key\":{\"path\":\"/etc/cron.d/x\",\"kind\":\"ed25519\",\"there\":true}}}\n".to_owned(), ""),
        ("{\"repair\":{\"tally\":{\"user\":\"x\",\"path\":\"/run/faillock/../../etc/shadow\",\"before\":[],\"after\":[120]}}}\n".to_owned(), ""),
        (good.clone(), &"too short"[..3]),
        (good.clone(), "longer than it says\n"),
        ("{\"hosts\":{\"path\":\"/etc/hosts.deny\",\"before\":null,\"after\":18446744073709551615}}\n".to_owned(), "x"),
        ("{\"run\":\"id\"}\n".to_owned(), ""),
        ("garbage".to_owned(), ""),
        (String::new(), ""),
    ] {
        let said = order(server, "root", AGENT, &line, content);
        assert!(said.contains("failed") || said.contains("drifted"), "{line}: {said}");
    }
    server.sh("rmdir /sys/fs/cgroup/system.slice/other.service/sshfix-agent.service /sys/fs/cgroup/system.slice/other.service /sys/fs/cgroup/sshfix-agent.service.d").expect_ok();
    assert_eq!(all(), before);
}

/// What cannot be written without the writer says so and changes nothing; with it again it works.
fn without_its_writer_a_change_fails_whole_and_says_what_to_start(server: &Server) {
    let deny = "sshd: 203.0.113.7\n";
    server.sh("systemctl stop sshfix-write.socket sshfix-write.service").expect_ok();
    server.write("/etc/hosts.deny", deny);
    let tried = server.ctl(&["unban", "203.0.113.7", "--json"]);
    assert_eq!(tried.status, 6, "{tried:#?}");
    assert!(tried.stdout.contains("systemctl start sshfix-write.socket"), "{tried:#?}");
    assert_eq!(server.read("/etc/hosts.deny"), deny);
    server.sh("systemctl start sshfix-write.socket").expect_ok();
    server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
    assert_eq!(server.read("/etc/hosts.deny"), "");
    // The lock of iptables-legacy is made where it is missing.
    server.sh("rm -f /run/xtables.lock; iptables-legacy -A INPUT -s 203.0.113.7 -j DROP; rm -f /run/xtables.lock").expect_ok();
    server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
    assert_eq!(server.sh("stat -c %a /run/xtables.lock").expect_ok().trim(), "600");
}

/// An order that was under way when the writer was killed, or came while it was down, is done once it is there again.
fn a_writer_that_is_killed_loses_no_order(server: &Server) {
    let main = || server.run(&["systemctl", "show", "-P", "MainPID", "sshfix-write.service"]).stdout.trim().to_owned();
    let first = main();
    assert_ne!(first, "0", "it stays");
    for signal in ["STOP", "KILL"] {
        server.write("/etc/hosts.deny", "sshd: 203.0.113.7\n");
        let before = main();
        // Stopped, it takes the order and does not come to it; killed right away, it is not there.
        server.sh(&format!("kill -s {signal} {before}; (sleep 2; kill -s KILL {before}) >/dev/null 2>&1 &")).expect_ok();
        server.ctl(&["unban", "203.0.113.7"]).expect_status(0);
        assert_eq!(server.read("/etc/hosts.deny"), "", "{signal}");
        assert_ne!(main(), before, "{signal}");
    }
}

#[test]
fn the_units_leave_the_agent_only_what_it_needs() {
    on_both(|server| {
        server
            .sh("useradd -m alice; useradd -m -G sshfix member; mkdir -p -m 700 /run/sshfix-drill /srv /etc/cron.d; ln -s /etc /etc/ssh/link")
            .expect_ok();
        every_unit_is_exposed_as_little_as_the_manual_says(server);
        no_unit_can_write_more_than_it_must(server);
        the_agent_has_no_capability_that_it_does_not_use(server);
        only_the_agents_units_reach_the_services_and_the_writer_does_nothing_but_its_orders(server);
        without_its_writer_a_change_fails_whole_and_says_what_to_start(server);
        a_writer_that_is_killed_loses_no_order(server);
    });
}
