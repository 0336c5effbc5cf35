//! packaging/quickstart under systemd, on both releases: installs, repeats, shows the path of whoever came in over SSH, and
//! takes everything away again. Package manager and compiler are stand-ins: the lab has no network.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use sshfix_tests::lab::{Output, Release, Server, root_or_skip};

const SHOW: &str = "systemctl is-active sshfix-agent.service sshfix-agent.socket; systemctl is-enabled sshfix-agent.service";

/// A clone in the server whose cargo "builds" by copying the lab's own programs.
fn with_clone(release: Release) -> Server {
    let server = Server::boot(release);
    let clone = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, mode) in [
        ("Cargo.toml", 0o644),
        ("packaging/quickstart", 0o755),
        ("packaging/common.sh", 0o644),
        ("packaging/systemd/sshfix-agent.service", 0o644),
        ("packaging/systemd/sshfix-agent.socket", 0o644),
        ("packaging/systemd/sshfix-recover.service", 0o644),
        ("packaging/systemd/sshfix-drill.service", 0o644),
        ("packaging/systemd/sshfix-drill.timer", 0o644),
        ("packaging/systemd/sshfix.sysusers", 0o644),
    ] {
        server.copy(&clone.join(file), &format!("/root/clone/{file}"), mode);
    }
    server.copy_programs("/root/built");
    let scripts = [
        ("/usr/local/bin/dpkg-query", "#!/bin/sh\necho installed\n"),
        (
            "/root/.cargo/bin/cargo",
            "#!/bin/sh\ncase $1 in\n--version) echo 'cargo 1.95.0 (stand-in)' ;;\n\
             build) mkdir -p \"$CARGO_TARGET_DIR/release\" && cp /root/built/* \"$CARGO_TARGET_DIR/release/\" ;;\nesac\n",
        ),
    ];
    for (path, script) in scripts {
        server.write(path, script);
        fs::set_permissions(server.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    server
}

fn quickstart(server: &Server, arguments: &str) -> Output {
    server.sh(&format!("/root/clone/packaging/quickstart {arguments} </dev/null"))
}

/// Every file there is, but for what systemd and the passwd tools keep for themselves.
fn files(server: &Server) -> String {
    server
        .sh("find / -xdev \\( -path /root -o -path /var/log -o -path /var/lib/systemd -o -path /run/systemd -o -path /tmp \\) -prune \
             -o -print | grep -v -e '^/etc/\\(group\\|gshadow\\|passwd\\|shadow\\)-$' -e /etc/.pwd.lock -e /var/lib/fail2ban \
             -e __pycache__ -e /var/lib/sudo -e /var/cache/ldconfig | sort; cat /etc/group")
        .expect_ok()
}

#[test]
fn quickstart_installs_shows_where_the_admin_came_from_and_uninstalls_without_a_trace() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = with_clone(release);
        // What the boot itself still makes is not quickstart's.
        server.run(&["systemctl", "is-system-running", "--wait"]);
        let before = files(&server);

        // Through ssh, and without SSH_CONNECTION, as sudo leaves it.
        let login = server.ssh_run("203.0.113.7", &["env -u SSH_CONNECTION /root/clone/packaging/quickstart >/root/said 2>&1"]);
        let said = server.read("/root/said");
        assert!(login.ok, "{release}: {}\n{said}", login.stderr);
        for text in ["sshfix ctl status", "fail2ban", "sshfix ctl diagnose 203.0.113.7", "SSH from 203.0.113.7"] {
            assert!(said.contains(text), "{release}: no `{text}` in\n{said}");
        }
        assert_eq!(server.sh(SHOW).expect_ok(), "active\nactive\nenabled");
        let socket = server.run(&["stat", "-c", "%a %U:%G", "/run/sshfix/agent.sock"]).expect_ok();
        assert_eq!(socket, "660 root:sshfix");

        let completes = "source /usr/local/share/bash-completion/completions/sshfix && complete -p sshfix";
        assert!(server.run(&["bash", "-c", completes]).expect_ok().contains("_sshfix"));

        let key = server.read("/etc/sshfix/agent_ed25519.pub");
        let again = quickstart(&server, "--address 2001:db8::7").expect_ok();
        assert!(again.contains("SSH from 2001:db8::7"), "{again}");
        assert_eq!(server.read("/etc/sshfix/agent_ed25519.pub"), key, "a second run keeps the identity");

        let kept = quickstart(&server, "--uninstall").expect_ok();
        assert!(kept.contains("kept: /etc/sshfix /var/lib/sshfix"), "no terminal to ask on, so it keeps and says so: {kept}");
        assert!(server.path("/etc/sshfix/agent_ed25519").exists());
        quickstart(&server, "").expect_ok();
        assert_eq!(server.read("/etc/sshfix/agent_ed25519.pub"), key, "what was kept is used again");
        quickstart(&server, "--uninstall --yes").expect_ok();
        quickstart(&server, "--uninstall --yes").expect_ok();
        assert!(before.lines().count() > 5000, "the comparison sees the file system");
        same_lines(&before, &files(&server));
        assert!(!server.path("/run/sshfix").exists());
    }
}

/// Says which lines differ instead of printing ten thousand.
#[track_caller]
fn same_lines(before: &str, after: &str) {
    let missing: Vec<_> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let left: Vec<_> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    assert!(missing.is_empty() && left.is_empty(), "gone: {missing:#?}, left behind: {left:#?}");
}
