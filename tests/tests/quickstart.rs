//! packaging/quickstart under systemd, on both releases: installs, repeats, shows the path of whoever came in over SSH, and
//! takes everything away again. Package manager and compiler are stand-ins: the lab has no network.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

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
        a_lock_of_apt_is_waited_for(&server);
        let wrong = quickstart(&server, "--address 203.0.113.700");
        assert_eq!((wrong.status, wrong.stdout.as_str()), (2, ""), "before anything is done: {wrong:?}");
        assert!(wrong.stderr.contains("\"203.0.113.700\" is not an IP address. Nothing was changed"), "{wrong:?}");
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

/// Holds apt's locks as apt does (fcntl(2)), and makes a file once it has all of them. Four seconds after an apt-get began it gives the
/// first back, four seconds later the next.
const HOLDER: &str = "
import fcntl, subprocess, sys, time
locks = [open(path, 'a') for path in sys.argv[1:]]
for lock in locks: fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
open('/run/held', 'w').close()
while subprocess.run(['pgrep', '-x', 'apt-get'], stdout=subprocess.DEVNULL).returncode: time.sleep(0.05)
for lock in locks:
    time.sleep(4)
    lock.close()
";

/// The real apt-get and dpkg, with a package of the server's own.
fn a_lock_of_apt_is_waited_for(server: &Server) {
    server.write("/root/holder.py", HOLDER);
    server.write(
        "/srv/x/DEBIAN/control",
        "Package: stand-in\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a stand-in\n",
    );
    let away = "mv /usr/local/bin/dpkg-query /root/; mkdir -p /root/sources; mv /etc/apt/sources.list* /root/sources/
        dpkg-deb -b /srv/x /srv/x.deb; cd /srv; size=$(stat -c %s x.deb); digest=$(sha256sum x.deb | cut -d ' ' -f 1)
        { cat x/DEBIAN/control; echo Filename: ./x.deb; echo Size: $size; echo SHA256: $digest; } > Packages
        echo 'deb [trusted=yes] file:/srv ./' > /etc/apt/sources.list";
    server.sh(away).expect_ok();
    let hold = |locks: &str| {
        server.sh(&format!("rm -f /run/held; systemd-run -q --unit=holder python3 /root/holder.py {locks}")).expect_ok();
        server.wait_until("the locks are held", Duration::from_mins(1), || server.path("/run/held").exists());
    };
    let install = |patience: &str| {
        let script = format!("set -euo pipefail; . /root/clone/packaging/common.sh; {patience} need_packages stand-in");
        server.run(&["bash", "-c", &script])
    };
    // One that is held for good is not waited for for good.
    hold(&format!("{}/var/lib/apt/lists/lock", "/root/spare ".repeat(20)));
    let gave_up = install("apt_patience=1;");
    assert_eq!(gave_up.status, 1, "{gave_up:?}");
    for words in ["Could not get lock /var/lib/apt/lists/lock", "apt-get update failed", "Nothing was installed"] {
        assert!(gave_up.stderr.contains(words), "no `{words}` in {}", gave_up.stderr);
    }
    server.run(&["systemctl", "stop", "holder"]).expect_ok();

    hold("/var/lib/apt/lists/lock /var/lib/dpkg/lock-frontend /var/cache/apt/archives/lock");
    let waited = install("");
    assert!(waited.ok(), "{waited:?}");
    assert_eq!(waited.stdout.matches("holds apt's lock").count(), 1, "said once: {waited:?}");
    assert!(waited.stdout.contains("Could not get lock /var/lib/apt/lists/lock"), "and by whom: {waited:?}");
    assert!(!waited.stderr.contains("E: "), "{waited:?}");
    server.sh("dpkg-query -W stand-in").expect_ok();

    // No lock, no waiting.
    let missing = server.run(&["bash", "-c", ". /root/clone/packaging/common.sh; apt_get install no-such-package"]);
    assert!(!missing.ok() && missing.stderr.contains("no-such-package"), "{missing:?}");
    let back = "dpkg --purge stand-in; rm -r /etc/apt/sources.list /srv/*; mv /root/sources/* /etc/apt/; mv /root/dpkg-query /usr/local/bin/";
    server.sh(back).expect_ok();
}

/// Rust's own parser is the judge.
#[test]
fn quickstart_knows_an_address_from_anything_else() {
    let common = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/common.sh");
    let texts = "203.0.113.7 203.0.113.700 1.2.3 1.2.3.4.5 01.2.3.4 0.0.0.0 255.255.255.255 256.1.1.1 : :: ::1 1:: 2001:db8::7 \
        ::ffff:1.2.3.4 1:2:3:4:5:6:7:8 1:2:3:4:5:6:7 1:2:3:4:5:6:7:8:9 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1:2:3:4::5:6:7:8 1::2::3 ::: :1 1: \
        12345:: g:: 1:2:3:4:5:6:1.2.3.4 1:2:3:4:5:6:7:1.2.3.4 ::1.2.3 1.2.3.4:: fe80::1%eth0 2001:db8::/32 10.0.0.0/8 * server.example.org";
    let script = ". \"$0\"; for text in \"$@\"; do if is_address \"$text\"; then echo true; else echo false; fi; done";
    let texts: Vec<&str> = texts.split_whitespace().chain(["", " 1.2.3.4", "1.2.3.4\n"]).collect();
    let output = Command::new("bash").args(["-c", script]).arg(common).args(&texts).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<&str> = texts.iter().map(|text| if text.parse::<IpAddr>().is_ok() { "true" } else { "false" }).collect();
    let found: Vec<(&str, &str)> = texts.iter().copied().zip(found.lines()).collect();
    assert_eq!(found, texts.into_iter().zip(expected).collect::<Vec<_>>());
}

/// Says which lines differ instead of printing ten thousand.
#[track_caller]
fn same_lines(before: &str, after: &str) {
    let missing: Vec<_> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let left: Vec<_> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    assert!(missing.is_empty() && left.is_empty(), "gone: {missing:#?}, left behind: {left:#?}");
}
