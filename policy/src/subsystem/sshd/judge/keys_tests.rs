#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::host::Part;
use crate::subsystem::sshd::facts::pam::Passwords;
use crate::subsystem::sshd::facts::stack::AccountStack;
use crate::subsystem::sshd::judge::methods::{Methods, ways};
use crate::subsystem::sshd::{KeyFile, Modes, authorized_keys, revoked_keys};
use crate::verdict::Verdict;

const PRINTED: &str = "pubkeyauthentication yes\npubkeyacceptedalgorithms ssh-ed25519\nstrictmodes yes\npermitrootlogin yes\n\
                       usedns no\n";
const NAMED: &str = "from=\"seven.example.org\"";

/// A line with a key: the letter says which.
fn line(text: &str) -> String {
    let (options, letter) = text.rsplit_once(' ').map_or(("", text), |(options, letter)| (options, letter));
    let blob = [&b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..], &[*letter.as_bytes().first().unwrap(); 32]].concat();
    format!("{options} ssh-ed25519 {}\n", STANDARD.encode(blob)).trim_start().to_owned()
}

fn file(lines: &[&str]) -> KeyFile {
    let text: String = lines.iter().map(|text| line(text)).collect();
    KeyFile::File { modes: Modes::Good, keys: Ok(authorized_keys(&text)) }
}

fn account(uid: u32) -> Account {
    Account {
        uid,
        gid: uid,
        gids: vec![uid],
        home: "/home/x".to_owned(),
        shell: "/bin/sh".to_owned(),
        shell_problem: Ok(None),
        groups: vec!["alice".to_owned()],
        expired: Ok(None),
        aging: Ok(None),
        stack: AccountStack::default(),
        locked: Ok(false),
        password: Some(false),
        passwords: Passwords::Shadow,
        nologin: Ok(None),
    }
}

/// With these files, and what `sshd -T` prints.
fn found(uid: u32, files: &[(&str, KeyFile)], printed: &str) -> Methods {
    found_from(("203.0.113.7", None), uid, files, printed)
}

/// The same from an address, over an interface.
fn found_from(from: (&str, Option<&str>), uid: u32, files: &[(&str, KeyFile)], printed: &str) -> Methods {
    let mut host = HostState::empty();
    for (path, file) in files {
        host.sshd.key_files.insert(("alice".to_owned(), (*path).to_owned()), file.clone());
    }
    host.sshd.revoked_keys.insert("/broken".to_owned(), revoked_keys(b"root:x:0:0\n"));
    host.sshd.revoked_keys.insert("/a".to_owned(), revoked_keys(line("a").as_bytes()));
    let client = Client {
        user: "alice".to_owned(),
        groups: Some(vec!["alice".to_owned()]),
        host: from.0.to_owned(),
        address: from.0.parse().unwrap(),
        local_address: None,
        local_port: 22,
        is_root: false,
        interface: from.1.map(str::to_owned),
    };
    let mut needs = Needs::default();
    let effective = Effective::parse(&format!("authorizedkeysfile {printed}\n{PRINTED}"));
    let methods = ways(&host, &effective, &client, &account(uid), &mut needs);
    assert!(needs.is_empty(), "{needs:?}");
    methods
}

#[test]
fn the_first_line_that_authorises_a_key_counts_and_what_comes_before_it_takes_it_over() {
    let unknown = KeyFile::Unknown("it hangs".to_owned());
    let rows: [(&[&str], &[&str], bool); 16] = [
        (&["a"], &["a"], true),
        (&["a"], &["command=\"x\" a", "a"], false),
        (&["a"], &["a", "command=\"x\" a"], true),
        (&["command=\"x\" a", "a"], &["a", "command=\"x\" a"], true),
        (&["command=\"x\" a", "a"], &["command=\"x\" a"], true),
        (&["a", "command=\"x\" a"], &["command=\"x\" a"], false),
        // The line before is not this client's.
        (&["a"], &["from=\"!203.0.113.7,*\",command=\"x\" a", "a"], true),
        (&["a"], &["from=\"203.0.113.0/24\",command=\"x\" a", "a"], false),
        // Or perhaps.
        (&["a"], &[&format!("{NAMED},command=\"x\" a"), "a"], false),
        (&[&format!("{NAMED},command=\"x\" a"), "a"], &[&format!("{NAMED},command=\"x\" a"), "a"], true),
        (&[&format!("{NAMED},command=\"x\" a"), "a"], &["a"], true),
        (&[&format!("{NAMED},no-pty a"), "command=\"x\" a"], &["command=\"x\" a", &format!("{NAMED},no-pty a")], false),
        (&["a"], &["command=\"x\" b", "a"], true),
        (&["a", "b"], &["b", "a"], true),
        (&["a", "b"], &["b"], false),
        (&["no-pty a"], &["no-pty a", "b"], true),
    ];
    for (before, after, stays) in rows {
        let effective = format!("{}\nusedns yes", "/k");
        let of = |lines: &[&str]| found(1000, &[("/k", file(lines))], &effective);
        let (was, is) = (of(before), of(after));
        assert_eq!(was.lost(&is).is_empty(), stays, "{before:?} {after:?}: {:?}", was.lost(&is));
        // The same by two files.
        let (first, rest) = after.split_first().unwrap();
        let files = [("/k", file(before)), ("/1", file(&[first])), ("/2", file(rest))];
        let is = found(1000, &files, "/1 /2\nusedns yes");
        assert_eq!(was.lost(&is).is_empty(), stays, "{before:?} {after:?} in two files: {:?}", was.lost(&is));
    }
    let files = [("/k", file(&["a"])), ("/u", unknown)];
    let was = found(1000, &files, "/k");
    assert_eq!(was.lost(&found(1000, &files, "/k /u")), Vec::<String>::new());
    assert!(!was.lost(&found(1000, &files, "/u /k")).is_empty(), "what is in it is not known");
}

#[test]
fn a_file_that_begins_to_count_takes_its_keys_over() {
    let bad = KeyFile::File {
        modes: Modes::Bad(PassedOver::Other("wide".to_owned())),
        keys: Ok(authorized_keys(&line("command=\"x\" a"))),
    };
    let files = [("/w", bad), ("/k", file(&["a"]))];
    let was = found(1000, &files, "/w /k");
    assert_eq!(was.best().0, Verdict::Accept);
    assert!(!was.lost(&found(1000, &files, "/w /k\nstrictmodes no")).is_empty());
    assert_eq!(was.lost(&found(1000, &files, "/k")).len(), 1, "the file that was passed over");
}

#[test]
fn a_pattern_gives_the_files_that_match_in_their_order() {
    let matches = |files: &[(&str, KeyFile)]| {
        KeyFile::Matches(files.iter().map(|(path, file)| ((*path).to_owned(), file.clone())).collect())
    };
    let plain = [("/d/*", matches(&[("/d/a", file(&["a"]))])), ("/k", file(&["a"])), ("/e/*", matches(&[]))];
    let was = found(1000, &plain, "/k");
    assert_eq!((found(1000, &plain, "/d/*").best().0, found(1000, &plain, "/e/*").best().0), (Verdict::Accept, Verdict::Refuse));
    assert!(was.lost(&found(1000, &plain, "/d/*")).is_empty() && found(1000, &plain, "/e/*").no_key_files);
    let forced = [("/d/*", matches(&[("/d/a", file(&["command=\"x\" a"])), ("/d/b", file(&["a"]))])), ("/k", file(&["a"]))];
    assert!(!was.lost(&found(1000, &forced, "/d/* /k")).is_empty());
    let unknown = [("/d/*", KeyFile::Unknown("which version".to_owned())), ("/k", file(&["a"]))];
    assert_eq!(found(1000, &unknown, "/d/*").best().0, Verdict::Unknown);
    assert!(!was.lost(&found(1000, &unknown, "/d/* /k")).is_empty());
}

#[test]
fn a_token_that_sshd_does_not_know_ends_the_connection_of_whoever_comes_to_it() {
    let files = [("/k", file(&["a"]))];
    let was = found(1000, &files, "/k");
    for strange in ["/%x", "/%k", "/100%", "/%%%"] {
        let first = found(1000, &files, &format!("{strange} /k"));
        assert_eq!(first.best().0, Verdict::Refuse, "{strange}");
        let last = found(1000, &files, &format!("/k {strange}"));
        assert_eq!(last.best().0, Verdict::Unknown, "{strange}");
        assert!(!was.lost(&last).is_empty() && last.lost(&last).is_empty(), "{strange}");
    }
    let command = "/k\nauthorizedkeyscommand /bin/x";
    assert!(was.lost(&found(1000, &files, &format!("{command} %u %f %%"))).is_empty());
    assert!(!was.lost(&found(1000, &files, &format!("{command} %q"))).is_empty());
    assert!(!has_strange_token("%%x%h%u/%U%%", "huU") && has_strange_token("%%%x", "huU"));
}

#[test]
fn a_method_with_a_device_works_by_pam_alone() {
    let files = [("/k", file(&["a"]))];
    for (list, works) in [
        ("publickey", true),
        ("publickey:x", false),
        ("publickey:", false),
        ("publickey:x publickey", true),
        ("publickey,keyboard-interactive:pam", true),
        ("publickey,keyboard-interactive:bsdauth", false),
        ("publickey,keyboard-interactive:x", false),
        ("password:x", false),
        ("password", true),
    ] {
        let printed = format!(
            "/k\nauthenticationmethods {list}\nusepam yes\nkbdinteractiveauthentication yes\npasswordauthentication yes\npamservicename other"
        );
        let mut host = HostState::empty();
        host.sshd.tallies.insert("alice".to_owned(), Part::Absent("not asked".to_owned()));
        host.sshd.key_files.insert(("alice".to_owned(), "/k".to_owned()), files[0].1.clone());
        let client = Client {
            user: "alice".to_owned(),
            groups: None,
            host: "203.0.113.7".to_owned(),
            address: "203.0.113.7".parse().unwrap(),
            local_address: None,
            local_port: 22,
            is_root: false,
            interface: None,
        };
        let effective = Effective::parse(&format!("authorizedkeysfile {printed}\n{PRINTED}"));
        let methods = ways(&host, &effective, &client, &account(1000), &mut Needs::default());
        assert_eq!(methods.best().0 != Verdict::Refuse, works, "{list}");
    }
}

#[test]
fn a_key_for_link_local_clients_counts_where_their_interface_is_known() {
    for (from, known, unknown) in [
        ("*%eth0", Verdict::Accept, Verdict::Unknown),
        ("fe80::%eth0/64", Verdict::Accept, Verdict::Unknown),
        ("*", Verdict::Accept, Verdict::Accept),
        ("!*%eth0,*", Verdict::Refuse, Verdict::Unknown),
    ] {
        let files = [("/k", file(&[&format!("from=\"{from}\" a")]))];
        let best = |interface| found_from(("fe80::1", interface), 1000, &files, "/k").best().0;
        assert_eq!((best(Some("eth0")), best(None)), (known, unknown), "{from}");
    }
}

#[test]
fn why_a_key_does_not_count_is_known_key_by_key() {
    let files = [("/k", file(&["no-such a", "a"])), ("/b", file(&["from=\"!203.0.113.7\" b", "b"]))];
    let why = |uid: u32, printed: &str| -> Vec<(Option<u32>, WhyNot)> {
        found(uid, &files, printed).uncounted.into_iter().map(|one| (one.line, one.why)).collect()
    };
    let fault = (Some(1), WhyNot::Line(LineFault::UnknownOption));
    assert_eq!(why(1000, "/k"), std::slice::from_ref(&fault));
    assert_eq!(why(1000, "/k\nrevokedkeys /a"), [fault.clone(), (Some(2), WhyNot::Revoked("/a".to_owned()))]);
    let broken = WhyNot::BrokenList("line 1 is no public key".to_owned());
    assert_eq!(why(1000, "/k\nrevokedkeys /broken"), [(None, broken)]);
    assert_eq!(found(1000, &files, "/k\nrevokedkeys /broken").best().0, Verdict::Refuse);
    assert_eq!(why(0, "/k\npermitrootlogin forced-commands-only"), [fault, (Some(2), WhyNot::NoCommand)]);
    assert_eq!(why(1000, "/b"), [(Some(1), WhyNot::From)]);
    let forced = [("/k", file(&["a", "command=\"x\" a", "command=\"x\" b"]))];
    let root = found(0, &forced, "/k\npermitrootlogin forced-commands-only");
    assert_eq!(root.keys.len(), 1, "the first line of a key decides: {:?}", root.keys);
}
