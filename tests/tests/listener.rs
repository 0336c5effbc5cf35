//! Who listens and who is logged in, on real servers of both releases. The reader runs inside the server's namespaces, in a
//! process of its own, because it keeps its connection to systemd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use sshfix_agent::subsystem::listener::observe;
use sshfix_policy::host::{HostState, Part, Question};
use sshfix_policy::subsystem::listener::{self, State};
use sshfix_policy::verdict::cause::Cause;
use sshfix_policy::verdict::{Connection, PathOrigin, Verdict};
use sshfix_tests::lab::{self, Release, Server};

const V4: &str = "203.0.113.7";
const V6: &str = "2001:db8::7";

/// Not a test: the other half of [`read`], inside the server.
#[test]
fn inside() {
    lab::answer_inside(|question| {
        let [port, everybody] = question else { panic!("{question:?}") };
        observe(&Question { sources: BTreeSet::new(), port: port.parse().unwrap(), everybody: *everybody == "true" })
    });
}

/// What the agent reads on this server.
#[track_caller]
fn read(server: &Server, port: u16, everybody: bool) -> State {
    match lab::ask_inside(server, &[&port.to_string(), &everybody.to_string()]) {
        Part::Present(state) => state,
        other => panic!("{other:?}"),
    }
}

fn host(state: State) -> HostState {
    HostState { at: Timestamp::now(), listener: Part::Present(state), ..HostState::empty() }
}

/// Verdict, cause and fix for a connection to port 22.
#[track_caller]
fn asks(server: &Server, from: &str) -> (Verdict, Option<Cause>, String) {
    let host = host(read(server, 22, false));
    let connection = Connection { source: from.parse().unwrap(), port: 22, user: None };
    let report = listener::evaluate(&host, &connection);
    let block = listener::blocks(&host, &connection).pop();
    let fix = block.as_ref().map_or(report.detail, |block| block.finding.fix.clone()).as_str().to_owned();
    (report.verdict, block.map(|block| block.finding.cause), fix)
}

/// The model agrees with a real login from there.
#[track_caller]
fn agrees(server: &Server, from: &str) -> (Option<Cause>, String) {
    let (verdict, cause, fix) = asks(server, from);
    let login = server.ssh(from);
    let want = if login.ok { Verdict::Accept } else { Verdict::Refuse };
    assert_eq!(verdict, want, "{} from {from}: {cause:?} {fix}\n{}", server.release(), login.stderr);
    (cause, fix)
}

#[test]
fn every_way_a_server_can_listen_or_not_is_told_as_a_real_login_finds_it() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        let state = read(&server, 22, true);
        let version = state.version.clone().unwrap();
        assert!(version.starts_with(if release == Release::Bookworm { "OpenSSH_9.2" } else { "OpenSSH_10.0" }), "{version}");
        assert!(state.notes.is_empty(), "{:?}", state.notes);
        assert_eq!(state.listeners.len(), 2, "{:?}", state.listeners);
        for listener in &state.listeners {
            assert!(listener.holders.iter().any(|holder| holder.unit.as_deref() == Some("ssh.service")), "{listener:?}");
        }
        for own in ["203.0.113.1", "2001:db8::1", "127.0.0.1"] {
            assert!(state.addresses.contains(&own.parse().unwrap()), "{:?}", state.addresses);
        }
        let units: Vec<_> = state.units.clone().unwrap().iter().map(|unit| (unit.name.clone(), unit.active.clone())).collect();
        assert!(units.contains(&("ssh.service".to_owned(), "active".to_owned())), "{units:?}");
        for from in [V4, V6] {
            assert_eq!(agrees(&server, from).0, None);
        }

        // Stopped, then masked, then failed for a bad configuration.
        server.run(&["systemctl", "stop", "ssh.service"]).expect_ok();
        for from in [V4, V6] {
            let (cause, fix) = agrees(&server, from);
            assert_eq!(cause, Some(Cause::SshdDown));
            assert!(fix.contains("systemctl start ssh.service"), "{fix}");
        }
        server.run(&["systemctl", "mask", "ssh.service"]).expect_ok();
        let (cause, fix) = agrees(&server, V4);
        assert!(cause == Some(Cause::SshdDown) && fix.contains("systemctl unmask ssh.service"), "{cause:?} {fix}");
        server.run(&["systemctl", "unmask", "ssh.service"]).expect_ok();
        server.write("/etc/ssh/sshd_config.d/lab.conf", "NoSuchOption yes\n");
        assert!(!server.run(&["systemctl", "start", "ssh.service"]).ok());
        let (cause, fix) = agrees(&server, V4);
        assert!(cause == Some(Cause::SshdDown) && fix.contains("ssh.service"), "{cause:?} {fix}");

        // Another port, another family, loopback only, one address only.
        let restart_with = |config: &str| {
            server.write("/etc/ssh/sshd_config.d/lab.conf", config);
            server.sh("systemctl reset-failed ssh.service; systemctl restart ssh.service").expect_ok();
        };
        restart_with("Port 2222\n");
        let (cause, fix) = agrees(&server, V4);
        assert!(cause == Some(Cause::SshdListen) && fix.contains("ssh -p 2222"), "{cause:?} {fix}");
        restart_with("AddressFamily inet\n");
        assert_eq!(agrees(&server, V4).0, None);
        assert_eq!(agrees(&server, V6).0, Some(Cause::SshdListen));
        restart_with("ListenAddress 127.0.0.1\n");
        assert_eq!(agrees(&server, V4).0, Some(Cause::SshdListen));
        restart_with("ListenAddress 203.0.113.1\n");
        assert_eq!(agrees(&server, V4).0, None);
        assert_eq!(agrees(&server, V6).0, Some(Cause::SshdListen));
        server.run(&["ip", "addr", "add", "203.0.113.2/24", "dev", "host0"]).expect_ok();
        assert_eq!(asks(&server, V4).0, Verdict::Unknown, "the client may use the other address");
        server.run(&["ip", "addr", "del", "203.0.113.2/24", "dev", "host0"]).expect_ok();

        // Another program on the port.
        restart_with("");
        server.run(&["systemctl", "stop", "ssh.service"]).expect_ok();
        server.run(&["systemd-run", "--unit=other", "--collect", "python3", "-m", "http.server", "22"]).expect_ok();
        server.wait_until("it listens", Duration::from_mins(2), || asks(&server, V4).1 != Some(Cause::SshdDown));
        let (cause, fix) = agrees(&server, V4);
        assert_eq!(cause, Some(Cause::PortNotSsh));
        assert!(fix.contains("python3") && fix.contains("systemctl stop other.service"), "{fix}");
        server.run(&["systemctl", "stop", "other.service"]).expect_ok();

        // systemd holds the socket, before the first connection and after it.
        server.sh("systemctl disable -q ssh.service; systemctl enable -q --now ssh.socket").expect_ok();
        for _ in 0..2 {
            for from in [V4, V6] {
                assert_eq!(agrees(&server, from).0, None);
            }
        }
        server.sh("systemctl stop ssh.socket ssh.service").expect_ok();
        let (cause, fix) = agrees(&server, V4);
        assert!(cause == Some(Cause::SshdDown) && fix.contains("systemctl start ssh.socket"), "{cause:?} {fix}");

        // Without a bus systemd itself is asked; where it cannot be, the units are not known, and who listens still is.
        server.sh("systemctl disable -q ssh.socket; systemctl start ssh.service; rm /run/dbus/system_bus_socket").expect_ok();
        assert!(read(&server, 22, false).units.is_some());
        assert_eq!(agrees(&server, V4).0, None);
        server.sh("rm /run/systemd/private").expect_ok();
        let state = read(&server, 22, false);
        assert!(state.units.is_none() && state.notes.len() == 1, "{:?}", state.notes);
        assert_eq!(agrees(&server, V4).0, None);
    }
}

/// Ends a login when the test does.
struct Login(Child);

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn login(server: &Server, from: &str, user: &str, extra: &[&str]) -> Login {
    let mut command = server.ssh_command(from);
    let destination = command.pop().unwrap().replace("root@", &format!("{user}@"));
    command.push(destination);
    let child = Command::new(&command[0])
        .args(&command[1..])
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Login(child.unwrap())
}

#[test]
fn people_who_are_logged_in_are_sessions_and_strangers_at_the_door_are_not() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        server
            .sh("useradd -m -s /bin/sh alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice/.ssh; chmod 700 /home/alice")
            .expect_ok();
        assert_eq!(read(&server, 22, false).sessions, [], "nobody yet");

        let _logins = [
            login(&server, "203.0.113.7", "root", &["sleep", "600"]),
            login(&server, "203.0.113.8", "alice", &["sleep", "600"]),
            login(&server, "198.51.100.7", "alice", &["-N"]),
            login(&server, "203.0.113.70", "root", &["-N"]),
            login(&server, "2001:db8::7", "root", &["sleep", "600"]),
        ];
        // A stranger who connects and says nothing.
        let stranger = Command::new("ip")
            .args(["netns", "exec", server.clients_netns(), "python3", "-c"])
            .arg("import socket, time; s = socket.create_connection(('2001:db8::1', 22), source_address=('2001:db8::8', 0)); time.sleep(600)")
            .spawn();
        let _stranger = Login(stranger.unwrap());
        let connections = || server.sh("ss -Htn state established sport = :22 | wc -l").expect_ok();
        server.wait_until("six connections", Duration::from_mins(2), || connections() == "6");

        let want = [
            ("198.51.100.7", "alice"),
            ("203.0.113.7", "root"),
            ("203.0.113.8", "alice"),
            ("203.0.113.70", "root"),
            ("2001:db8::7", "root"),
        ];
        let seen = || -> Vec<(String, String)> {
            let paths = listener::sessions(&host(read(&server, 22, false))).unwrap();
            assert!(paths.iter().all(|path| path.port == 22 && path.origin == PathOrigin::Session));
            paths.into_iter().map(|path| (path.source.short(), path.user.unwrap_or_default())).collect()
        };
        let mut last = Vec::new();
        let started = std::time::Instant::now();
        while last != want.map(|(from, user)| (from.to_owned(), user.to_owned())) {
            last = seen();
            assert!(started.elapsed() < Duration::from_mins(2), "{release}: {last:?}");
        }
        // Asked for another port, the sessions are the same.
        assert_eq!(read(&server, 2222, false).sessions.len(), want.len());
    }
}

#[test]
fn a_host_without_systemd_is_read() {
    // This machine, or the container the tests run in: whatever it is, it can be read.
    let question = Question { sources: BTreeSet::new(), port: 22, everybody: false };
    let part = observe(&question);
    let state = part.present().unwrap_or_else(|| panic!("{part:?}"));
    assert_eq!(state.units.is_some(), Path::new("/run/systemd/system").exists());
}
