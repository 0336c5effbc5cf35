#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::host::block::Lift;
use crate::verdict::cause::Cause;
use crate::verdict::{Connection, Verdict};

fn process(pid: u32, exe: &str, unit: Option<&str>) -> Process {
    let name = exe.rsplit('/').next().unwrap();
    let ssh = is_ssh_name(name).then(|| exe.to_owned());
    Process { pid, name: name.to_owned(), uid: 0, ssh, unit: unit.map(str::to_owned) }
}

fn sshd() -> Process {
    process(871, "/usr/sbin/sshd", Some("ssh.service"))
}

fn listener(local: &str, v6_only: bool, holder: Process) -> Listener {
    Listener { local: local.parse().unwrap(), v6_only, device: None, holders: vec![holder] }
}

fn unit(name: &str, load: &str, active: &str, sub: &str, result: &str, file: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        load: load.to_owned(),
        active: active.to_owned(),
        sub: sub.to_owned(),
        result: Some(result.to_owned()),
        file: Some(file.to_owned()),
        listens: Vec::new(),
    }
}

fn running() -> Unit {
    unit("ssh.service", "loaded", "active", "running", "success", "enabled")
}

fn host(listeners: Vec<Listener>, units: Option<Vec<Unit>>) -> HostState {
    let addresses = ["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1", "fe80::1"].map(|a| a.parse().unwrap()).to_vec();
    HostState { listener: Part::Present(State { listeners, units, addresses, ..State::default() }), ..HostState::empty() }
}

/// Verdict, cause and fix for a v4 and a v6 client on port 22.
fn asks(host: &HostState, source: &str) -> (Verdict, Option<Cause>, String) {
    let connection = Connection { source: source.parse().unwrap(), port: 22, user: None };
    let verdict = evaluate(host, &connection).verdict;
    match blocks(host, &connection).pop() {
        Some(block) => {
            let Lift::ByHand(text) = &block.lift else { panic!("no plan is made of this yet") };
            assert_eq!(block.finding.fix, *text);
            (verdict, Some(block.finding.cause), text.clone())
        }
        None => (verdict, None, String::new()),
    }
}

const V4: &str = "203.0.113.7";
const V6: &str = "2001:db8:1::7";

#[test]
fn an_sshd_on_both_families_accepts_both() {
    let host = host(vec![listener("0.0.0.0:22", false, sshd()), listener("[::]:22", true, sshd())], Some(vec![running()]));
    assert_eq!(asks(&host, V4), (Verdict::Accept, None, String::new()));
    assert_eq!(asks(&host, V6), (Verdict::Accept, None, String::new()));
}

#[test]
fn a_dual_stack_socket_takes_ipv4_and_a_v6_only_one_does_not() {
    let dual = host(vec![listener("[::]:22", false, sshd())], Some(vec![running()]));
    assert_eq!(asks(&dual, V4).0, Verdict::Accept);
    let v6_only = host(vec![listener("[::]:22", true, sshd())], Some(vec![running()]));
    let (verdict, cause, fix) = asks(&v6_only, V4);
    assert_eq!((verdict, cause), (Verdict::Refuse, Some(Cause::SshdListen)));
    assert!(fix.contains("ListenAddress of IPv4"), "{fix}");
    assert_eq!(asks(&v6_only, V6).0, Verdict::Accept);
}

#[test]
fn a_socket_on_loopback_is_open_to_the_host_itself_only() {
    let host = host(vec![listener("127.0.0.1:22", false, sshd())], Some(vec![running()]));
    assert_eq!(asks(&host, V4).1, Some(Cause::SshdListen));
    assert_eq!(asks(&host, "127.0.0.1").0, Verdict::Accept);
}

#[test]
fn one_of_several_addresses_is_unknown_because_the_client_may_use_another() {
    let mut host = host(vec![listener("192.0.2.1:22", false, sshd())], Some(vec![running()]));
    assert_eq!(asks(&host, V4).0, Verdict::Accept, "the host has no other");
    host.listener.present_mut().unwrap().addresses.push("198.51.100.1".parse().unwrap());
    assert_eq!(asks(&host, V4), (Verdict::Unknown, None, String::new()));
}

#[test]
fn another_port_is_named() {
    let host = host(vec![listener("0.0.0.0:2222", false, sshd())], Some(vec![running()]));
    let (verdict, cause, fix) = asks(&host, V4);
    assert_eq!((verdict, cause), (Verdict::Refuse, Some(Cause::SshdListen)));
    assert!(fix.contains("0.0.0.0:2222") && fix.contains("ssh -p 2222"), "{fix}");
}

#[test]
fn another_program_on_the_port_is_named_with_the_command_that_stops_it() {
    let nc = host(vec![listener("0.0.0.0:22", false, process(4711, "/usr/bin/nc.openbsd", None))], Some(vec![running()]));
    let (verdict, cause, fix) = asks(&nc, V4);
    assert_eq!((verdict, cause), (Verdict::Refuse, Some(Cause::PortNotSsh)));
    assert!(fix.contains("nc.openbsd (pid 4711)") && fix.contains("kill 4711"), "{fix}");
    let service = host(vec![listener("0.0.0.0:22", false, process(4711, "/usr/bin/sslh", Some("sslh.service")))], None);
    assert!(asks(&service, V4).2.contains("systemctl stop sslh.service"));
}

#[test]
fn a_program_that_only_calls_itself_sshd_is_not_one() {
    let somebodys = Process { uid: 1000, ssh: None, ..process(4712, "/usr/sbin/sshd", None) };
    let (verdict, cause, fix) = asks(&host(vec![listener("0.0.0.0:22", false, somebodys)], None), V4);
    assert_eq!((verdict, cause), (Verdict::Refuse, Some(Cause::PortNotSsh)));
    assert!(fix.contains("sshd (pid 4712, uid 1000)"), "{fix}");
    // Of a container, perhaps: what a client meets there is not known.
    let unproven = Process { ssh: None, ..process(4711, "/usr/sbin/sshd", None) };
    assert_eq!(asks(&host(vec![listener("0.0.0.0:22", false, unproven)], None), V4), (Verdict::Unknown, None, String::new()));
}

#[test]
fn a_socket_nobody_can_be_seen_to_hold_is_unknown() {
    let hidden = Listener { local: "0.0.0.0:22".parse().unwrap(), v6_only: false, device: None, holders: Vec::new() };
    assert_eq!(asks(&host(vec![hidden], None), V4).0, Verdict::Unknown);
}

#[test]
fn a_socket_unit_counts_and_without_systemds_word_it_is_unknown() {
    let mut socket = unit("ssh.socket", "loaded", "active", "listening", "success", "enabled");
    socket.listens = vec!["[::]:22".to_owned()];
    let held = || vec![listener("[::]:22", false, process(1, "/usr/lib/systemd/systemd", Some("init.scope")))];
    assert_eq!(asks(&host(held(), Some(vec![socket.clone()])), V4).0, Verdict::Accept);
    assert_eq!(asks(&host(held(), None), V4).0, Verdict::Unknown);
    socket.listens = vec!["[::]:2222".to_owned()];
    assert_eq!(asks(&host(held(), Some(vec![socket])), V4).1, Some(Cause::PortNotSsh), "another unit's socket");
}

#[test]
fn a_server_that_is_down_is_told_with_its_units_state_and_the_right_command() {
    for (unit, command) in [
        (
            unit("ssh.service", "loaded", "inactive", "dead", "success", "enabled"),
            "`mkdir -p /run/sshd && sshd -t && systemctl start ssh.service`",
        ),
        (unit("ssh.service", "loaded", "failed", "failed", "exit-code", "enabled"), "systemctl reset-failed ssh.service"),
        (unit("ssh.service", "masked", "inactive", "dead", "success", "masked"), "systemctl unmask ssh.service"),
        (unit("ssh.service", "loaded", "activating", "auto-restart", "exit-code", "enabled"), "journalctl -u ssh.service"),
    ] {
        let text = unit.to_string();
        let host = host(Vec::new(), Some(vec![unit]));
        let (verdict, cause, fix) = asks(&host, V4);
        assert_eq!((verdict, cause), (Verdict::Refuse, Some(Cause::SshdDown)));
        assert!(fix.contains(command), "{fix}");
        let connection = Connection { source: V4.parse().unwrap(), port: 22, user: None };
        assert!(evaluate(&host, &connection).detail.contains(&text));
    }
    assert!(asks(&host(Vec::new(), Some(Vec::new())), V4).2.contains("apt install openssh-server"));
    assert_eq!(asks(&host(Vec::new(), None), V4).1, Some(Cause::SshdDown));
}

#[test]
fn the_enabled_socket_is_the_unit_to_start() {
    let service = unit("ssh.service", "loaded", "inactive", "dead", "success", "disabled");
    let socket = unit("ssh.socket", "loaded", "inactive", "dead", "success", "enabled");
    let (_, _, fix) = asks(&host(Vec::new(), Some(vec![service, socket])), V4);
    assert!(fix.contains("systemctl start ssh.socket"), "{fix}");
}

#[test]
fn what_was_not_read_is_unknown() {
    let mut host = host(Vec::new(), None);
    host.listener = Part::Unreadable("netlink said no".to_owned());
    assert_eq!(asks(&host, V4), (Verdict::Unknown, None, String::new()));
}

#[test]
fn sessions_are_access_paths_one_a_source_and_user() {
    let mut host = host(Vec::new(), None);
    let session = |peer: &str, user: Option<&str>| Session {
        peer: peer.parse().unwrap(),
        local: "203.0.113.1".parse().unwrap(),
        port: 22,
        user: user.map(str::to_owned),
        pid: 9,
        interface: None,
    };
    host.listener.present_mut().unwrap().sessions =
        vec![session("203.0.113.7:1", Some("root")), session("203.0.113.7:2", Some("root")), session("[2001:db8::7]:3", None)];
    let paths = sessions(&host).unwrap();
    let shown: Vec<_> = paths.iter().map(|path| (path.source.short(), path.user.as_deref())).collect();
    assert_eq!(shown, [("203.0.113.7".to_owned(), Some("root")), ("2001:db8::7".to_owned(), None)]);
    host.listener.present_mut().unwrap().sessions_unknown = Some("sshd (pid 9) has connections".to_owned());
    assert_eq!(sessions(&host), Err("sshd (pid 9) has connections".to_owned()), "others may be in besides");
    for unread in [Part::Unreadable("no list".to_owned()), Part::Absent("no list".to_owned())] {
        host.listener = unread;
        assert_eq!(sessions(&host), Err("no list".to_owned()), "not known is not none");
    }
}
