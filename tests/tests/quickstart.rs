//! packaging/quickstart under systemd, on both releases: installs, repeats, shows the path of whoever came in over SSH, and
//! takes everything away again. Package manager and compiler are stand-ins: the lab has no network.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use sshfix_tests::lab::{Output, Release, Server, packaged_units, root_or_skip};

const SHOW: &str = "systemctl is-active sshfix-agent.service sshfix-agent.socket; systemctl is-enabled sshfix-agent.service";

/// A clone in the server whose cargo "builds" by copying the lab's own programs.
fn with_clone(release: Release) -> Server {
    let server = Server::boot(release);
    let clone = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, mode) in [("Cargo.toml", 0o644), ("packaging/quickstart", 0o755), ("packaging/common.sh", 0o644)] {
        server.copy(&clone.join(file), &format!("/root/clone/{file}"), mode);
    }
    for unit in packaged_units().iter().map(String::as_str).chain(["sshfix.sysusers"]) {
        let file = format!("packaging/systemd/{unit}");
        server.copy(&clone.join(&file), &format!("/root/clone/{file}"), 0o644);
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
        without_a_toolchain_it_asks_for_one_and_runs_no_installer(&server);
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

/// A cargo that is missing or too old, and neither rustup nor a package of it.
fn without_a_toolchain_it_asks_for_one_and_runs_no_installer(server: &Server) {
    let trap = "#!/bin/sh\necho \"$0 $*\" >> /root/fetched\necho 'touch /root/installed'\n";
    let programs = ["curl", "wget", "apt-get", "rustup-init"].map(|name| format!("/usr/local/bin/{name}"));
    for path in &programs {
        server.write(path, trap);
        fs::set_permissions(server.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    // A Debian without a package of rustup, as 12 is.
    server.write("/usr/local/bin/apt-cache", "#!/bin/sh\nexit 0\n");
    fs::set_permissions(server.path("/usr/local/bin/apt-cache"), fs::Permissions::from_mode(0o755)).unwrap();
    for change in ["mv /root/.cargo /root/.cargo-away", "sed 's/1.95.0/1.70.0/' -i /root/.cargo/bin/cargo"] {
        server.sh(&format!("cp -a /root/.cargo /root/.cargo-kept; {change}")).expect_ok();
        let asked = quickstart(server, "");
        assert_eq!(asked.status, 1, "{asked:?}");
        for words in ["Nothing was installed", "no rustup package", "sha256sum rustup-init", "--default-toolchain 1.95"] {
            assert!(asked.stderr.contains(words), "no `{words}` in {}", asked.stderr);
        }
        server.sh("rm -rf /root/.cargo /root/.cargo-away; mv /root/.cargo-kept /root/.cargo").expect_ok();
    }
    assert!(!server.path("/root/fetched").exists(), "{}", server.read("/root/fetched"));
    assert!(!server.path("/usr/local/bin/sshfix").exists() && !server.path("/root/installed").exists());
    server.sh(&format!("rm /usr/local/bin/apt-cache {}", programs.join(" "))).expect_ok();
}

/// Says which lines differ instead of printing ten thousand.
#[track_caller]
fn same_lines(before: &str, after: &str) {
    let missing: Vec<_> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let left: Vec<_> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    assert!(missing.is_empty() && left.is_empty(), "gone: {missing:#?}, left behind: {left:#?}");
}
