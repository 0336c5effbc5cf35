//! Trees of files. What real sshds make of 600 generated ones is compared in `tests/tests/sshd_config.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

pub(super) const MAIN: &str = "/etc/ssh/sshd_config";

pub(super) fn tree(files: &[(&str, &str)], includes: &[(&str, &[&str])]) -> Tree {
    let mut tree = Tree::new(MAIN);
    for (path, text) in files {
        tree.files.insert((*path).to_owned(), Document::parse(text.as_bytes()));
    }
    for (pattern, paths) in includes {
        tree.includes.insert((*pattern).to_owned(), paths.iter().map(|path| (*path).to_owned()).collect());
    }
    tree
}

fn client(user: &str, address: &str) -> Client {
    Client {
        user: user.to_owned(),
        groups: Some(vec![user.to_owned()]),
        host: address.to_owned(),
        address: address.parse().unwrap(),
        local_address: None,
        local_port: 22,
        is_root: user == "root",
        interface: None,
    }
}

/// `VALUE at FILE:LINE` of each line that counts.
fn of(settings: &Settings, keyword: &str) -> Vec<String> {
    let all = settings.get(keyword).into_iter().flatten();
    all.map(|setting| format!("{} at {}:{}", setting.arguments.join(" "), setting.at.file, setting.at.line)).collect()
}

#[test]
fn the_first_value_wins_and_lists_add_up_across_includes() {
    let tree = tree(
        &[
            (MAIN, "Include /d/*.conf\nPort 22\nPermitRootLogin yes\nAllowUsers carol\nMaxAuthTries 3\n"),
            ("/d/a.conf", "permitrootlogin no\nAllowUsers alice bob\n"),
            ("/d/b.conf", "PermitRootLogin prohibit-password\nPort 2222\n"),
        ],
        &[("/d/*.conf", &["/d/a.conf", "/d/b.conf"])],
    );
    assert_eq!(tree.missing(), Default::default());
    let settings = evaluate(&tree, &[], None).unwrap();
    assert_eq!(of(&settings, "permitrootlogin"), ["no at /d/a.conf:1"]);
    assert_eq!(of(&settings, "allowusers"), ["alice bob at /d/a.conf:2", "carol at /etc/ssh/sshd_config:4"]);
    assert_eq!(of(&settings, "port"), ["2222 at /d/b.conf:2", "22 at /etc/ssh/sshd_config:2"]);
    let options = ["-o", "PermitRootLogin=forced-commands-only", "-p", "2200"].map(str::to_owned);
    let settings = evaluate(&tree, &options, None).unwrap();
    assert_eq!(of(&settings, "permitrootlogin"), ["forced-commands-only at the command line:0"]);
    assert_eq!(of(&settings, "port"), ["2200 at the command line:0"]);
}

#[test]
fn match_blocks_override_for_whom_they_match_also_through_includes() {
    let tree = tree(
        &[
            (
                MAIN,
                "MaxAuthTries 3\nAllowUsers root\nMatch User alice\n  MaxAuthTries 5\n  AllowUsers alice\n  Include /in\nMatch all\n  MaxAuthTries 9\n  X11Forwarding yes\n",
            ),
            ("/in", "Banner /b\nMatch Address 203.0.113.0/24\nBanner /c\nPermitTTY no\n"),
        ],
        &[("/in", &["/in"])],
    );
    let alice = evaluate(&tree, &[], Some(&client("alice", "203.0.113.7"))).unwrap();
    assert_eq!(of(&alice, "maxauthtries"), ["5 at /etc/ssh/sshd_config:4"]);
    assert_eq!(of(&alice, "allowusers"), ["alice at /etc/ssh/sshd_config:5"]);
    assert_eq!(of(&alice, "banner"), ["/b at /in:1"]);
    assert_eq!(of(&alice, "permittty"), ["no at /in:4"]);
    let under: Vec<&str> = alice["permittty"][0].under.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(under, ["Match User alice", "Match Address 203.0.113.0/24"]);
    let bob = evaluate(&tree, &[], Some(&client("bob", "203.0.113.7"))).unwrap();
    assert_eq!(of(&bob, "maxauthtries"), ["9 at /etc/ssh/sshd_config:8"]);
    assert_eq!(of(&bob, "allowusers"), ["root at /etc/ssh/sshd_config:2"]);
    assert_eq!(of(&bob, "banner"), [""; 0]);
    assert_eq!(of(&bob, "x11forwarding"), ["yes at /etc/ssh/sshd_config:9"]);
}

#[test]
fn what_cannot_be_told_is_said_with_file_and_line() {
    let undecided = evaluate(&tree(&[(MAIN, "\nMatch Weather fine\nBanner /b\n")], &[]), &[], Some(&client("a", "10.0.0.1")));
    assert_eq!(undecided.unwrap_err().to_string(), "/etc/ssh/sshd_config line 2: the criterion `weather` is not understood");
    let broken = evaluate(&tree(&[(MAIN, "Port\n")], &[]), &[], None);
    assert_eq!(broken.unwrap_err().to_string(), "/etc/ssh/sshd_config line 1: no argument after the keyword");
    let circle = tree(&[(MAIN, "Include sshd_config\n")], &[(MAIN, &[MAIN])]);
    assert!(matches!(evaluate(&circle, &[], None), Err(ConfigError::TooDeep(_))));
    let unread = tree(&[(MAIN, "Include /x\n")], &[]);
    assert_eq!(unread.missing().1.into_iter().collect::<Vec<_>>(), ["/x"]);
    assert_eq!(evaluate(&unread, &[], None).unwrap_err().to_string(), "/x was not read");
}

proptest! {
    #[test]
    fn every_byte_string_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let document = Document::parse(&bytes);
        prop_assert_eq!(document.bytes(), bytes);
    }
}
