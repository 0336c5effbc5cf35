#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::subsystem::sshd::config::Document;

fn found(files: &[(&str, &str)], known: impl Fn(&mut HostState)) -> Vec<String> {
    let mut tree = Tree::new("/m");
    for (path, text) in files {
        tree.files.insert((*path).to_owned(), Document::parse(text.as_bytes()));
        tree.includes.insert((*path).to_owned(), vec![(*path).to_owned()]);
    }
    let mut host = HostState::empty();
    let _ = problems(&host, &tree, &mut Needs::new());
    known(&mut host);
    let mut needs = Needs::new();
    let found = problems(&host, &tree, &mut needs);
    assert!(needs.is_empty(), "{needs:?}");
    found
        .into_iter()
        .map(|problem| {
            let at = problem.at.unwrap();
            format!("{} line {}: {}", at.file, at.line, problem.text.as_str())
        })
        .collect()
}

#[test]
fn what_refuses_every_key_is_named_with_its_line_also_under_match() {
    let files = [
        ("/m", "RevokedKeys none\nInclude /i\nMatch User a\n  RevokedKeys /r\n  Include /j\n"),
        ("/i", "TrustedUserCAKeys /ca\nAuthorizedPrincipalsFile none\n"),
        ("/j", "RevokedKeys None\n"),
    ];
    let lines = found(&files, |host| {
        host.sshd.revoked_keys.insert("/r".to_owned(), RevokedKeys::Missing("gone".to_owned()));
        host.sshd.value_files.insert("/ca".to_owned(), ValueFile::Missing);
    });
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("/i line 1: TrustedUserCAKeys /ca: there is no such file"), "{lines:?}");
    assert!(
        lines[1].starts_with("/m line 4: RevokedKeys /r: there is no such file, so that sshd refuses every key"),
        "{lines:?}"
    );
    assert!(lines[2].contains("/j line 1: RevokedKeys None: under Match this is a file that is named none"), "{lines:?}");
}

#[test]
fn tokens_patterns_and_homes_are_not_guessed_and_blanks_are_told() {
    let text = "AuthorizedKeysFile .ssh/a /etc/%u /k/* /etc/x\nAuthorizedKeysFile \".ssh/a .ssh/b\"\nAuthorizedPrincipalsFile p\nRevokedKeys /etc/%h\n";
    let lines = found(&[("/m", text)], |host| {
        let regular = ValueFile::Regular { size: 1, for_all: false, program: false, pid: crate::subsystem::sshd::Pid::None };
        host.sshd.value_files.insert("/etc/x".to_owned(), regular);
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("/etc/x: not every user may read it") && lines[1].contains("one file"), "{lines:?}");
}
