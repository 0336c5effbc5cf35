#![allow(clippy::unwrap_used)]

use super::*;
use crate::subsystem::sshd::way_in::judged_tests::{BASE, CLIENT, MAIN, hosts, over};
use crate::subsystem::sshd::{Activation, FileEdit, Through};
use crate::verdict::PathOrigin;

const KEY_ALONE: &str = "passwordauthentication no\nkbdinteractiveauthentication no";

fn step(old: &str, new: &str) -> Step {
    let file = FileEdit { path: MAIN.to_owned(), before: old.as_bytes().to_vec(), after: new.as_bytes().to_vec() };
    let activation = Activation::Reload(Through::Signal);
    Step { port: 22, files: vec![file], activation, why: Vec::new(), effect: Vec::new(), listened: Vec::new(), undoing: false }
}

/// Whose way in is lost when a change from the first lines to the second is taken back; `before` is what the plan had of it.
fn lost(old: &str, new: &str, before: Option<Verdict>, change: impl Fn(&mut HostState)) -> Option<String> {
    let base = over(BASE, KEY_ALONE);
    let (old, new) = (over(&base, old), over(&base, new));
    let (mut read, _) = hosts("alice", &new, &old);
    change(&mut read);
    let path = AccessPath { source: CLIENT.into(), user: Some("alice".to_owned()), port: 22, origin: PathOrigin::Session };
    let of_path = |before| PathDocument {
        source: path.from(),
        user: path.user.clone(),
        before,
        after: Verdict::Accept,
        origin: Some(path.origin),
        sshd: Vec::new(),
        risks: Vec::new(),
    };
    let proven: Vec<PathDocument> = before.into_iter().map(of_path).collect();
    let (step, mut needs) = (step(&old, &new), Needs::new());
    let found = refused(&read, &step, std::slice::from_ref(&path), &proven, &mut needs);
    assert!(needs.is_empty(), "{needs:?}");
    found.filter(|_| may_name(&step))
}

#[test]
fn what_the_old_files_name_and_is_gone_is_no_state_to_go_back_to() {
    let gone = |host: &mut HostState| {
        for path in ["/etc/ssh/revoked", "/etc/ssh/kk/alice", "/usr/local/bin/menu", "/srv/alice", "/home/x/.ssh/gone"] {
            host.sshd.value_files.insert(path.to_owned(), ValueFile::Missing);
        }
        for path in ["/etc/ssh/kk/alice", "/home/x/.ssh/gone"] {
            host.sshd.key_files.insert(("alice".to_owned(), path.to_owned()), KeyFile::Missing);
        }
    };
    for (old, new, why) in [
        ("revokedkeys /etc/ssh/revoked", "revokedkeys none", Some("RevokedKeys /etc/ssh/revoked: not there any more")),
        ("authorizedkeysfile /etc/ssh/kk/%u", "", Some("AuthorizedKeysFile /etc/ssh/kk/alice: not there any more")),
        ("forcecommand /usr/local/bin/menu -x", "", Some("ForceCommand /usr/local/bin/menu -x: not there any more")),
        ("chrootdirectory /srv/%u", "", Some("ChrootDirectory /srv/%u: not there any more")),
        ("allowgroups staff", "", Some("AllowGroups names no group of alice")),
        // Users could have taken these away, or nobody did.
        ("authorizedkeysfile .ssh/gone", "", None),
        ("authorizedkeysfile /etc/ssh/kk/%u .ssh/gone", "", None),
        ("authorizedkeysfile /home/x/.ssh/gone", "", None),
        ("authorizedkeysfile none", "", None),
        ("authorizedkeysfile /etc/ssh/kk/%u\npasswordauthentication yes", "", None),
        // What the change itself had opened.
        ("allowusers bob", "", None),
        ("denyusers alice", "", None),
        ("pubkeyauthentication no", "", None),
        ("authenticationmethods publickey,password", "", None),
        // What was so with the change, too.
        ("forcecommand /usr/local/bin/menu", "forcecommand /usr/local/bin/menu\nx11forwarding yes", None),
    ] {
        let found = lost(old, new, Some(Verdict::Accept), gone);
        let as_said = why.map_or(found.is_none(), |why| found.as_ref().is_some_and(|found| found.contains(why)));
        assert!(as_said, "{old} -> {new}: {found:?}");
        for before in [None, Some(Verdict::Refuse), Some(Verdict::Unknown)] {
            assert_eq!(lost(old, new, before, gone), None, "{old} -> {new}: {before:?} before the change");
        }
    }
    let there = |host: &mut HostState| {
        gone(host);
        host.sshd.value_files.insert("/etc/ssh/revoked".to_owned(), ValueFile::Other("a user can write it".to_owned()));
    };
    assert_eq!(lost("revokedkeys /etc/ssh/revoked", "revokedkeys none", Some(Verdict::Accept), there), None);
}

#[test]
fn the_host_is_read_for_what_names_something_alone() {
    let may = |old: &str, new: &str| may_name(&step(old, new));
    assert!(may("RevokedKeys /a\n", "RevokedKeys none\n") && may("", "Match User alice\n    ForceCommand none\n"));
    assert!(may("A 1\nB 2\n", "B 2\nA 1\n"), "lines that changed places");
    assert!(!may("X11Forwarding yes\n", "X11Forwarding no\n") && !may("", "Match User alice\n    DenyUsers alice\n"));
}
