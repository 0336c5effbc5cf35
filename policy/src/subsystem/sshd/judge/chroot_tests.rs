#![allow(clippy::unwrap_used)]

use super::*;
use crate::subsystem::sshd::facts::stack::AccountStack;

fn owner(uid: u32, mode: u32) -> Owner {
    Owner { uid, gid: 0, mode }
}

fn carl() -> Account {
    Account {
        uid: 1001,
        gid: 1001,
        gids: vec![1001],
        home: "/home/carl".to_owned(),
        shell: "/bin/sh".to_owned(),
        shell_problem: Ok(None),
        groups: vec!["carl".to_owned()],
        expired: Ok(None),
        aging: Ok(None),
        stack: AccountStack::default(),
        locked: Ok(false),
        password: Some(false),
        passwords: crate::subsystem::sshd::facts::pam::Passwords::default(),
        nologin: Ok(None),
    }
}

/// What sshd makes of a value, where these parts were seen at the path.
fn of(value: &str, path: &str, parts: &[(&str, PartIs)]) -> (Root, Needs) {
    let mut host = HostState::empty();
    let parts = parts.iter().map(|(path, is)| RootPart { path: (*path).to_owned(), is: is.clone() }).collect();
    host.sshd.root_folders.insert(("carl".to_owned(), path.to_owned()), RootFolder::Parts(parts));
    let mut needs = Needs::new();
    let root = root(&host, &Effective::parse(&format!("chrootdirectory {value}\n")), "carl", &carl(), &mut needs);
    (root, needs)
}

fn refused(root: Root) -> (String, String) {
    match root {
        Root::Refused(refused) => (refused.detail.as_str().to_owned(), refused.fix),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_part_must_be_roots_and_writable_by_root_alone() {
    let folder = |uid, mode| PartIs::Folder(owner(uid, mode));
    let top = ("/", folder(0, 0o755));
    let of_home = |home: PartIs, above: PartIs| of("%h", "/home/carl", &[top.clone(), ("/home", above), ("/home/carl", home)]).0;
    assert_eq!(of_home(folder(0, 0o755), folder(0, 0o711)), Root::Good);
    let (why, fix) = refused(of_home(folder(1001, 0o755), folder(0, 0o755)));
    assert!(why.contains("/home/carl belongs to another user than root (owner 1001, mode 0755)"), "{why}");
    assert!(fix.starts_with("`chown root /home/carl`: "), "{fix}");
    // All that is at fault is mended by one round of commands, the first is the one that sshd names.
    let (why, fix) = refused(of_home(folder(1001, 0o775), folder(0, 0o1777)));
    assert!(why.contains("/home can be written by others than root"), "{why}");
    assert!(fix.starts_with("`chmod go-w /home`; `chown root /home/carl && chmod go-w /home/carl`: "), "{fix}");
    let (why, fix) = refused(of_home(PartIs::Missing, folder(0, 0o755)));
    assert!(why.contains("/home/carl is not there") && fix.contains("`install -d -m 755 /home/carl`"), "{why} {fix}");
    assert!(refused(of_home(PartIs::NoFolder(owner(0, 0o644)), folder(0, 0o755))).0.contains("is no folder"));
    assert!(matches!(of_home(PartIs::Unknown("no".to_owned()), folder(0, 0o755)), Root::Unknown(_)));
    // What is known to be at fault decides, whatever stands behind it.
    refused(of_home(PartIs::Unknown("no".to_owned()), folder(5, 0o755)));
}

#[test]
fn the_value_is_read_as_sshd_reads_it() {
    let folder = || PartIs::Folder(owner(0, 0o755));
    for value in ["none", "None"] {
        assert_eq!(of(value, "", &[]).0, Root::Good, "{value}");
    }
    for (value, path) in [("~/in", "/home/carl/in"), ("/srv/%u-%U%%", "/srv/carl-1001%"), ("/srv/a b", "/srv/a b")] {
        assert_eq!(of(value, path, &[("/", folder())]).0, Root::Good, "{value}");
    }
    let (why, _) = refused(of("/srv/%x", "", &[]).0);
    assert!(why.contains("% token"), "{why}");
    let (why, _) = refused(of("srv", "", &[]).0);
    assert!(why.contains("does not begin with `/`"), "{why}");
    assert!(matches!(of("~bob/in", "", &[]).0, Root::Unknown(_)));
    let (root, needs) = of("/srv/other", "/srv", &[]);
    assert!(matches!(root, Root::Unknown(_)));
    let asked = Need::RootFolder { user: "carl".to_owned(), path: "/srv/other".to_owned() };
    assert_eq!(needs, [host::Need::Sshd(asked)].into());
    let (_, fix) = refused(of("/srv/a b", "/srv/a b", &[("/srv/a b", PartIs::Folder(owner(5, 0o755)))]).0);
    assert!(fix.starts_with("`chown root '/srv/a b'`"), "{fix}");
}

#[test]
fn the_parts_of_a_path_begin_at_the_root() {
    use crate::subsystem::sshd::root_parts;
    assert_eq!(root_parts("/"), ["/"]);
    assert_eq!(root_parts("//srv//sftp/"), ["/", "/srv", "/srv/sftp"]);
}
