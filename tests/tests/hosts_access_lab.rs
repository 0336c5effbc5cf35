//! hosts.allow and hosts.deny on real servers: what the agent reads and the model says is what sshd does, and what the agent
//! writes lets in the one address and no other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs::File;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use sshfix_agent::config::Config;
use sshfix_agent::subsystem::hosts_access as agent;
use sshfix_agent::sys::files::Old;
use sshfix_policy::host::block::{Block, Lift};
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{Done, HostState, Needs, Question};
use sshfix_policy::subsystem::hosts_access::{Libwrap, blocks, evaluate};
use sshfix_policy::verdict::{Connection, Verdict};
use sshfix_tests::lab::{self, Release, Server};

/// A server whose fail2ban, penalties and start limits stay out of the way of the many refused logins.
fn server(release: Release) -> Server {
    let server = Server::boot(release);
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    let penalties = if release == Release::Trixie { "PerSourcePenalties no\n" } else { "" };
    server.write("/etc/ssh/sshd_config.d/lab-hosts.conf", format!("MaxStartups 200\n{penalties}"));
    server.run(&["systemctl", "restart", "ssh"]).expect_ok();
    server
}

/// Does something with the server's files, processes, network and names, as the agent would there.
fn inside<T: Send>(server: &Server, work: impl FnOnce() -> T + Send) -> T {
    let leader = server.leader();
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            unshare(CloneFlags::CLONE_FS).expect("a folder of its own for this thread");
            let namespaces = ["net", "mnt"].map(|kind| File::open(format!("/proc/{leader}/ns/{kind}")).expect("a namespace"));
            for namespace in namespaces {
                setns(namespace, CloneFlags::empty()).expect("into the server");
            }
            // This thread has no number there: its own /proc, in mounts that end with it. The sshd on the disk is judged, no running one.
            unshare(CloneFlags::CLONE_NEWNS).expect("mounts of its own");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts that nobody else sees");
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).expect("a /proc");
            work()
        });
        inside.join().expect("the work inside the server")
    })
}

fn connection(address: &str) -> Connection {
    Connection { source: address.parse().unwrap(), port: 22, user: None }
}

/// Observes and fetches facts until the answer needs no more, as the pipeline does.
fn ask(config: &Config, address: &str) -> (HostState, Verdict, Vec<Block>) {
    let connection = connection(address);
    let question = Question { sources: [connection.source].into(), port: 22, everybody: false };
    let mut host = HostState { hosts_access: agent::observe(config, &question), ..HostState::empty() };
    loop {
        let mut needs = Needs::new();
        let verdict = evaluate(&host, &connection, &mut needs).verdict;
        let blocks = blocks(&host, &connection, &mut needs).into_iter().map(|line| line.block).collect();
        if needs.is_empty() {
            return (host, verdict, blocks);
        }
        agent::lookup(host.hosts_access.present_mut().unwrap(), &needs);
    }
}

const CLIENTS: [&str; 5] = ["203.0.113.7", "203.0.113.70", "198.51.100.7", "2001:db8::7", "2001:db8::70"];

/// hosts.allow and hosts.deny, on each of which sshd and the model must agree for every client.
const FILES: [(&str, &str); 10] = [
    ("", "sshd: 203.0.113.7 [2001:db8::7]\n"),
    ("", "sshd: 203.0.113. , [2001:db8::]/64 EXCEPT 203.0.113.70 [2001:db8::70]\n"),
    ("sshd: .example.net\n", "ALL: ALL\n"),
    ("sshd: 203.0.113.7/255.255.255.255, 198.51.100.0/24\n", "sshd: ALL\n"),
    ("22: [2001:db8::7]\n", "ssh*: *\n"),
    ("ALL: 203.0.113.70 : deny\nALL: ALL : severity info : allow\n", "ALL: ALL\n"),
    ("sshd: seven*.example.net \\\n 198.51.100.7\n", "sshd-session: ALL\nALL@ALL: ALL EXCEPT LOCAL\n"),
    ("", "vsftpd: ALL\nsshd: seventy.example.net : nonsense\nsshd-session: ALL\n"),
    ("sshd: 203.0.113.7 : twist /bin/false\n", ""),
    ("sshd: 203.0.113.7\n", "# no newline at the end\nsshd: 192.0.2.1"),
];

#[test]
fn sshd_does_what_the_model_says() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = server(release);
        let config = Config::default();
        for (allow, deny) in FILES {
            server.write("/etc/hosts.allow", allow);
            server.write("/etc/hosts.deny", deny);
            let said = inside(&server, || CLIENTS.map(|client| ask(&config, client).1));
            let did = thread::scope(|scope| {
                CLIENTS.map(|client| scope.spawn(|| server.ssh(client).ok)).map(|login| login.join().expect("ssh runs"))
            });
            for ((client, said), did) in CLIENTS.iter().zip(said).zip(did) {
                let want = if did { Verdict::Accept } else { Verdict::Refuse };
                assert_eq!(said, want, "{release} from {client}\nallow: {allow}\ndeny: {deny}");
            }
        }
    }
}

#[test]
fn the_running_sshd_is_found_to_be_linked_with_libwrap() {
    if !lab::root_or_skip() {
        return;
    }
    for (release, program) in [(Release::Bookworm, "/usr/sbin/sshd"), (Release::Trixie, "/usr/lib/openssh/sshd-session")] {
        let server = Server::boot(release);
        let (host, ..) = inside(&server, || ask(&Config::default(), "203.0.113.7"));
        let libwrap = &host.hosts_access.present().unwrap().libwrap;
        assert_eq!(*libwrap, Libwrap::Linked(format!("{program} is linked with libwrap.so.0")), "{release}");
    }
}

#[test]
fn the_planned_edits_let_in_one_address_and_no_other() {
    if !lab::root_or_skip() {
        return;
    }
    let (allow, deny) = ("# mine\nvsftpd: ALL\n", "# theirs\nsshd: 203.0.113.7, 203.0.113.70 [2001:db8::7]\nALL: ALL\n");
    for release in Release::ALL {
        let server = server(release);
        let config = Config::default();
        for (banned, other) in [("203.0.113.7", "203.0.113.70"), ("2001:db8::7", "2001:db8::70")] {
            server.write("/etc/hosts.allow", allow);
            server.write("/etc/hosts.deny", deny);
            server.run(&["chmod", "0640", "/etc/hosts.deny"]).expect_ok();
            assert!(!server.ssh(banned).ok, "{release}: {banned} is refused before");
            let steps: Vec<_> = inside(&server, || {
                let (_, verdict, blocks) = ask(&config, banned);
                assert_eq!((verdict, blocks.len()), (Verdict::Refuse, 2), "{blocks:?}");
                let steps = blocks.into_iter().flat_map(|block| match block.lift {
                    Lift::Steps(steps) => steps,
                    Lift::ByHand(by_hand) => panic!("{by_hand}"),
                });
                let steps: Vec<_> =
                    steps.map(|step| if let Step::HostsAccess(step) = step { step } else { panic!("{step:?}") }).collect();
                for step in &steps {
                    assert_eq!(agent::apply(&config, step, Old::Kept), Ok(Done::Changed));
                    assert_eq!(agent::apply(&config, step, Old::Kept), Ok(Done::Already));
                }
                assert!(ask(&config, banned).2.is_empty(), "nothing to do the second time");
                steps
            });
            assert_eq!(steps.len(), 2);
            let login = server.ssh(banned);
            assert!(login.ok, "{release}: {banned} is let in at once: {}", login.stderr);
            assert!(!server.ssh(other).ok, "{release}: {other} is still refused");
            let mode = server.run(&["stat", "-c", "%a %U %G", "/etc/hosts.deny"]).expect_ok();
            assert_eq!(mode.trim(), "640 root root");
            inside(&server, || {
                for step in steps.iter().rev() {
                    assert_eq!(agent::restore(&config, step).map(|restored| restored.done), Ok(Done::Changed));
                }
            });
            assert_eq!((server.read("/etc/hosts.allow"), server.read("/etc/hosts.deny")), (allow.into(), deny.into()));
            let left = server.sh("ls -A /etc | grep sshfix || true").expect_ok();
            assert_eq!(left.trim(), "sshfix-lab-packages", "nothing is left behind");
        }
    }
}
