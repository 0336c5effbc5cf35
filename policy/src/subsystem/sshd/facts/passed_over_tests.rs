#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use super::*;
use crate::subsystem::sshd::facts::key_file::{Groups, KeyFile, Modes, Reader, Refused, Seen, key_file};

const ALICE: u32 = 1000;
const BOB: u32 = 1001;

/// What sshd makes of a file of alice's at this path, whose parts these are from the file upwards.
pub(crate) fn found(path: &str, real: &str, owners: &[(u32, u32)], stop: Option<Stop>) -> PassedOver {
    let owners = owners.iter().map(|(uid, mode)| Owner { uid: *uid, gid: *uid, mode: *mode }).collect();
    let link = (path != real).then(|| Box::new(Link { path: "/home/alice/.ssh".to_owned(), to: "/somewhere".to_owned() }));
    let kind = match stop {
        Some(Stop::Enter | Stop::NotRegular) => Kind::Folder,
        Some(Stop::Read) | None => Kind::File,
    };
    let chain = Chain { real: real.to_owned(), kind, owners, link: link.filter(|_| stop.is_none()) };
    let seen = match stop {
        None => Seen::File { chain: Ok(chain), keys: Ok(Vec::new()) },
        Some(stop) => Seen::Refused(Refused::At(chain, stop)),
    };
    let names = BTreeMap::from([(BOB, "bob".to_owned())]);
    let groups = Ok(Groups::default());
    let of = Reader { uid: ALICE, gids: &[ALICE], home: "/home/alice", groups: &groups, names: &names, patched: Some(false) };
    match key_file(path, seen, &of) {
        KeyFile::File { modes: Modes::Bad(why), .. } | KeyFile::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

const KEYS: &str = "/home/alice/.ssh/authorized_keys";

fn faults(why: &PassedOver) -> Vec<(&str, Wrong, &Ground)> {
    let PassedOver::Paths(paths) = why else { panic!("{why:?}") };
    paths.faults.iter().map(|fault| (fault.path.as_str(), fault.wrong, &fault.ground)).collect()
}

#[test]
fn every_path_at_fault_is_named_with_owner_mode_and_kind() {
    let all = found(KEYS, KEYS, &[(BOB, 0o644), (ALICE, 0o777), (ALICE, 0o775)], None);
    let ssh = Ground::Users("/home/alice/.ssh".to_owned());
    assert_eq!(
        faults(&all),
        [
            ("/home/alice", Wrong::Writable, &Ground::Roots),
            ("/home/alice/.ssh", Wrong::Writable, &ssh),
            (KEYS, Wrong::Owner, &ssh),
        ]
    );
    assert!(all.is_strictness());
    let text = all.to_string();
    for part in [
        "/home/alice can be written by others (owner 1000, mode 0775, a folder)",
        "/home/alice/.ssh/authorized_keys belongs to another user (owner 1001 bob, mode 0644, a file)",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn who_is_stopped_is_told_where_and_whether_the_mode_says_so() {
    let home = found(KEYS, "/home/alice", &[(0, 0o700)], Some(Stop::Enter));
    assert_eq!(faults(&home), [("/home/alice", Wrong::NotEntered, &Ground::Roots)]);
    assert!(!home.is_strictness() && home.to_string().contains("does not let the user in (owner 0, mode 0700, a folder)"));
    let above = found(KEYS, "/home", &[(0, 0o700), (0, 0o755)], Some(Stop::Enter));
    assert_eq!(faults(&above), [("/home", Wrong::NotEntered, &Ground::Roots)]);
    let by_list = found("/k/alice", "/k/alice", &[(0, 0o644), (0, 0o755), (0, 0o755)], Some(Stop::Read));
    assert_eq!(faults(&by_list), [("/k/alice", Wrong::NotByMode, &Ground::Roots)]);
    let folder = found(KEYS, KEYS, &[(ALICE, 0o755), (ALICE, 0o755), (ALICE, 0o755)], Some(Stop::NotRegular));
    assert!(folder.to_string().contains("is not a regular file (owner 1000, mode 0755, a folder)"), "{folder}");
}

#[test]
fn a_path_that_the_users_links_lead_to_is_never_taken_for_that_of_the_configuration() {
    for (path, real, owners) in [
        (KEYS, "/tmp/authorized_keys", &[(ALICE, 0o600), (0, 0o1777), (0, 0o755)][..]),
        (KEYS, "/home/alice/other/authorized_keys", &[(ALICE, 0o600), (BOB, 0o755), (ALICE, 0o755)]),
        ("/srv/k/alice", "/srv/other/alice", &[(ALICE, 0o600), (BOB, 0o755), (0, 0o755), (0, 0o755)]),
    ] {
        let why = found(path, real, owners, None);
        assert!(faults(&why).iter().all(|(.., ground)| **ground == Ground::Linked), "{why:?}");
    }
    // The home directory itself may be reached by a link of root's.
    let moved = found(KEYS, "/data/alice/.ssh/authorized_keys", &[(ALICE, 0o666), (ALICE, 0o700), (ALICE, 0o755)], None);
    assert_eq!(faults(&moved), [(KEYS, Wrong::Writable, &Ground::Users("/home/alice/.ssh".to_owned()))]);
}
