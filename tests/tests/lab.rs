//! The lab itself: it boots, its logins are real, a ban is felt, and nothing of it stays behind.

#![allow(clippy::expect_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sshfix_tests::lab::{self, ADMIN_V6, CLIENTS, Netns, Release, Server};

#[test]
fn both_releases_boot_and_every_client_address_logs_in() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        for (address, _) in CLIENTS {
            let login = server.ssh(address);
            assert!(login.ok, "{release} from {address}: {}", login.stderr);
        }
        let os = server.read("/usr/lib/os-release");
        assert!(os.contains(&format!("VERSION_CODENAME={release}")), "{os}");
    }
}

#[test]
fn the_server_sees_the_address_the_client_chose() {
    if !lab::root_or_skip() {
        return;
    }
    let server = Server::boot(Release::Trixie);
    for address in ["203.0.113.7", "2001:db8::7"] {
        let login = server.ssh_run(address, &["echo $SSH_CONNECTION >/tmp/seen"]);
        assert!(login.ok, "{}", login.stderr);
        let seen = server.read("/tmp/seen");
        assert_eq!(seen.split_whitespace().next(), Some(address), "{seen}");
    }
}

#[test]
fn a_fail2ban_ban_is_felt_by_that_address_alone_and_unban_lifts_it() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        for (banned, other) in [("203.0.113.7", "203.0.113.70"), ("2001:db8::7", "2001:db8::70")] {
            server.run(&["fail2ban-client", "set", "sshd", "banip", banned]).expect_ok();
            // The client answers before the action ran.
            server.wait_until("the ban is felt", std::time::Duration::from_mins(2), || !server.ssh(banned).ok);
            let login = server.ssh(other);
            assert!(login.ok, "{release}: {other} is let in while {banned} is banned: {}", login.stderr);
            server.run(&["fail2ban-client", "set", "sshd", "unbanip", banned]).expect_ok();
            server.wait_until("the unban is felt", std::time::Duration::from_mins(2), || server.ssh(banned).ok);
        }
    }
}

#[test]
fn a_server_keeps_its_disk_over_power_off_and_power_cut() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let mut server = Server::boot(release);
        server.sh("echo one >/root/one").expect_ok();
        server.power_off();
        server.start();
        server.sh("echo two >/root/two; sync").expect_ok();
        server.power_cut();
        assert_eq!(server.read("/root/one"), "one\n");
        server.start();
        assert_eq!(server.run(&["cat", "/root/one", "/root/two"]).expect_ok(), "one\ntwo");
        assert!(server.ssh(ADMIN_V6).ok);
    }
}

#[test]
fn two_servers_at_once_do_not_disturb_each_other() {
    if !lab::root_or_skip() {
        return;
    }
    let one = Server::boot(Release::Bookworm);
    let two = Server::boot(Release::Bookworm);
    one.run(&["systemctl", "stop", "ssh.service"]).expect_ok();
    assert!(!one.ssh("203.0.113.7").ok);
    assert!(two.ssh("203.0.113.7").ok);
    drop(one);
    assert!(two.ssh("203.0.113.7").ok);
}

/// Everything a name can hang on; true when any of it is still there.
fn remains(name: &str) -> Vec<String> {
    let mut remains = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    remains.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    for path in [
        format!("/run/netns/{name}"),
        format!("/run/sshfix-lab/{name}"),
        format!("/run/sshfix-lab/{name}.lock"),
        format!("/run/systemd/nspawn/propagate/{name}"),
    ] {
        if Path::new(&path).exists() {
            remains.push(path);
        }
    }
    for hierarchy in ["/sys/fs/cgroup/unified/sshfix-lab", "/sys/fs/cgroup/sshfix-lab"] {
        let path = format!("{hierarchy}/{name}");
        if Path::new(&path).exists() {
            remains.push(path);
        }
    }
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        if command.contains(name) {
            remains.push(format!("process {}: {command}", entry.file_name().display()));
        }
    }
    remains
}

#[test]
fn nothing_stays_behind_when_a_server_is_dropped() {
    if !lab::root_or_skip() {
        return;
    }
    let server = Server::boot(Release::Trixie);
    let (name, leader) = (server.clients_netns().to_owned(), server.leader());
    assert!(!remains(&name).is_empty(), "the check itself sees a running server");
    drop(server);
    assert_eq!(remains(&name), Vec::<String>::new());
    let status = fs::read_to_string(format!("/proc/{leader}/status")).unwrap_or_default();
    // A machine whose init is slow to reap may show a zombie for a while.
    assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
}

#[test]
fn nothing_stays_behind_when_a_test_panics() {
    if !lab::root_or_skip() {
        return;
    }
    let mut name = String::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let server = Server::boot(Release::Bookworm);
        name = server.clients_netns().to_owned();
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(!name.is_empty());
    assert_eq!(remains(&name), Vec::<String>::new());
}

/// Not a test of its own: the process that the next test kills.
#[test]
fn holds_a_server_until_killed() {
    // Set by what_a_killed_process_left_goes_with_the_next_server, which runs this in a process of its own.
    let Some(name_file) = std::env::var_os("SSHFIX_LAB_NAME_FILE") else { return };
    let server = Server::boot(Release::Bookworm);
    fs::write(name_file, server.clients_netns()).expect("write");
    std::thread::sleep(std::time::Duration::from_mins(10));
}

#[test]
fn what_a_killed_process_left_goes_with_the_next_server() {
    if !lab::root_or_skip() {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut child = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "holds_a_server_until_killed"])
        .env("SSHFIX_LAB_NAME_FILE", file.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("this test runs");
    let mut name = String::new();
    for _ in 0..1800 {
        name = fs::read_to_string(file.path()).expect("the name file");
        if !name.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // Another process of the tests would sweep it away before it is looked at.
    let nobody_sweeps = fs::File::open("/run/sshfix-lab/lock").expect("the lab's lock");
    nobody_sweeps.lock().expect("the lab's lock");
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(!name.is_empty() && !remains(&name).is_empty(), "the killed process left its server");
    drop(nobody_sweeps);
    let _next = Netns::new();
    assert_eq!(remains(&name), Vec::<String>::new());
}

#[test]
fn a_closure_in_a_namespace_sees_that_namespace_only() {
    if !lab::root_or_skip() {
        return;
    }
    let netns = Netns::new();
    netns.run(&["ip", "link", "add", "here", "type", "veth", "peer", "there"]).expect_ok();
    // thread-self: a namespace is entered by a thread, not by the process.
    let inside = netns.enter(|| fs::read_to_string("/proc/thread-self/net/dev").expect("net/dev"));
    assert!(inside.contains("here:"), "{inside}");
    assert!(!fs::read_to_string("/proc/thread-self/net/dev").expect("net/dev").contains("here:"));
}
