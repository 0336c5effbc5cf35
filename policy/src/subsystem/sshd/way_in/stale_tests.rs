//! Law: what the files say that sshd may not have read is no excuse for a reload, or another edit, that brings it; what it has read is.
#![allow(clippy::unwrap_used)]

use super::super::judged_tests::{BASE, CLIENT, MAIN, beside_a_hand_edit, hosts, over};
use super::super::{WayIn, way_in, way_in_now};
use super::*;
use crate::host::{HostState, Needs, Part};
use crate::verdict::{AccessPath, PathOrigin};

const MARK: &str = "pidfile /run/sshd.pid";

fn refused(user: &str, by_hand: &str, stale: bool) -> Option<String> {
    beside_a_hand_edit(user, by_hand, "x11forwarding yes", MARK, stale)
}

#[test]
fn lines_by_hand_that_sshd_may_not_have_read_are_judged_when_they_come_into_effect() {
    for by_hand in [
        "usedns yes\ndenyusers alice@seven.example.org",
        "usedns yes\nallowusers alice@seven.example.org",
        "usedns yes\ndenyusers *@*.example.org",
        "authorizedkeysfile /etc/ssh/wide",
        "pubkeyacceptedalgorithms ssh-ed25519",
        "pubkeyauthoptions touch-required",
        "requiredrsasize 3072",
        "revokedkeys /etc/ssh/revoked",
        "logingracetime 1",
        "permituserenvironment yes",
        "subsystem sftp /bin/false",
        "-subsystem",
        "subsystem netconf /usr/bin/netconf",
        "persourcepenaltyexemptlist !198.51.100.7",
        "nosuchkeyword yes",
        "usedns no\nauthorizedkeysfile /etc/ssh/named",
    ] {
        let (read, unread) = (refused("alice", by_hand, false), refused("alice", by_hand, true));
        assert_eq!(read, None, "{by_hand}: sshd has read that");
        assert!(unread.is_some(), "{by_hand}: {unread:?}");
    }
    for harmless in [
        "x11forwarding yes",
        "passwordauthentication no",
        "permitrootlogin no",
        "subsystem sftp internal-sftp",
        "subsystem sftp /usr/lib/openssh/sftp-server\nsubsystem netconf /usr/bin/netconf",
        "usedns yes\ndenyusers bob@seven.example.org",
        "usedns yes",
        "maxauthtries 3",
        "allowtcpforwarding no",
        "persourcepenaltyexemptlist 198.51.100.7",
        "requiredrsasize 1024",
        "authorizedkeyscommanduser nobody",
    ] {
        assert_eq!(refused("alice", harmless, true), None, "{harmless}");
    }
}

/// What is done to a host.
type Change<'a> = &'a dyn Fn(&mut HostState);

/// An edit of something else, of files that sshd may not have read, on a host that is changed so before.
fn beside(by_hand: &str, user: Option<&str>, stale: bool, change: impl Fn(&mut HostState)) -> Option<String> {
    let before = over(&over(BASE, MARK), by_hand);
    let (mut read, mut now) = hosts("alice", &before, &over(&before, "x11forwarding yes"));
    for host in [&mut read, &mut now] {
        change(host);
        if let Some(Part::Present(server)) = host.sshd.servers.get_mut(&22).filter(|_| stale) {
            server.stale = vec![MAIN.to_owned()];
        }
        let file = host.sshd.key_files.get(&("alice".to_owned(), "/home/x/.ssh/authorized_keys".to_owned())).cloned().unwrap();
        host.sshd.key_files.insert(("alice".to_owned(), "/home/x/.ssh/authorized_keys2".to_owned()), file);
    }
    let path = AccessPath { source: CLIENT.into(), user: user.map(str::to_owned), port: 22, origin: PathOrigin::Keep };
    let mut needs = Needs::default();
    let ways: (WayIn, WayIn) = (way_in_now(&read, 22, &path, &mut needs), way_in(&read, &now, 22, &path, &mut needs));
    assert!(needs.is_empty(), "{needs:?}");
    ways.0.worse(&ways.1).map(|(_, why)| why.to_string())
}

#[test]
fn an_account_that_counts_by_what_unread_lines_say_is_no_account_that_was_closed() {
    let alice = |host: &mut HostState, change: &dyn Fn(&mut Account)| {
        let Some(Part::Present(account)) = host.sshd.accounts.get_mut("alice") else { panic!("she is there") };
        change(account);
    };
    let locked = |host: &mut HostState| alice(host, &|account| account.locked = Ok(true));
    let no_shell = |host: &mut HostState| alice(host, &|account| account.shell = "/usr/sbin/nologin".to_owned());
    let expired = |host: &mut HostState| alice(host, &|account| account.expired = Ok(Some("2026-01-01".to_owned())));
    let shutdown =
        |host: &mut HostState| alice(host, &|account| account.nologin = Ok(Some(("/run/nologin".into(), String::new()))));
    let change: [(&str, Change<'_>, bool); 5] = [
        ("usepam no", &locked, true),
        ("usepam yes", &locked, false),
        ("printmotd no", &no_shell, true),
        ("printmotd no", &expired, false),
        ("printmotd no", &shutdown, false),
    ];
    for (by_hand, change, is_refused) in change {
        assert_eq!(beside(by_hand, Some("alice"), true, change).is_some(), is_refused, "{by_hand}");
        assert_eq!(beside(by_hand, Some("alice"), false, change), None, "{by_hand}: sshd has read that");
    }
}

#[test]
fn a_keep_entry_without_a_user_is_closed_by_any_line_that_takes_something_away() {
    let found = |by_hand: &str, stale: bool| beside(by_hand, None, stale, |_| ());
    for by_hand in
        ["allowusers bob", "denygroups x", "pubkeyauthentication no", "forcecommand /bin/false", "usepam no", "subsystem sftp /x"]
    {
        assert_eq!(found(by_hand, false), None, "{by_hand}: sshd has read that");
        let why = found(by_hand, true);
        assert!(why.as_ref().is_some_and(|why| why.contains("name the user in [[keep]]")), "{by_hand}: {why:?}");
    }
    for by_hand in ["printmotd no", "passwordauthentication no", "usedns yes"] {
        assert_eq!(found(by_hand, true), None, "{by_hand}");
    }
}
