#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::subsystem::sshd::judge::effect::{lasts, narrow, rekeys_seldom, seconds};

fn host(files: &[(&str, ValueFile)]) -> HostState {
    let mut host = HostState::empty();
    host.sshd.value_files = files.iter().map(|(path, file)| ((*path).to_owned(), file.clone())).collect();
    host
}

const PLAIN: ValueFile = ValueFile::Regular { size: 100, for_all: true, program: false, pid: Pid::None };

/// The words of the objections to one value, and how many facts are missing.
fn said(host: &HostState, line: &str) -> (Vec<String>, usize) {
    let mut needs = Needs::default();
    let found = objections(host, &Effective::parse(line), &mut needs);
    (found.into_iter().map(|objection| objection.why.as_str().to_owned()).collect(), needs.len())
}

#[test]
fn every_keyword_of_the_manual_is_judged_harmless_or_refused_with_a_reason() {
    for known in keyword::all() {
        let name = known.name.to_ascii_lowercase();
        let unknown = ["rdomain"];
        assert_eq!(effect(&name).is_none(), is_structure(&name) || unknown.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn the_defaults_of_both_releases_are_harmless() {
    let host = host(&[
        ("/run/sshd.pid", ValueFile::Regular { size: 4, for_all: true, program: false, pid: Pid::Own }),
        ("/etc/ssh/moduli", PLAIN),
        ("/usr/lib/openssh/sshd-session", ValueFile::Regular { size: 1, for_all: true, program: true, pid: Pid::None }),
        ("/usr/lib/openssh/sshd-auth", ValueFile::Regular { size: 1, for_all: true, program: true, pid: Pid::None }),
    ]);
    let defaults = "pamservicename sshd\nunusedconnectiontimeout none\nrekeylimit 0 0\nchanneltimeout none\nbanner none\n\
        pidfile /run/sshd.pid\nmodulifile /etc/ssh/moduli\nxauthlocation /usr/bin/xauth\ntrustedusercakeys none\n\
        authorizedkeyscommand none\nauthorizedprincipalsfile none\nauthorizedkeyscommanduser none\nhostkeyagent none\n\
        securitykeyprovider internal\nsshdsessionpath /usr/lib/openssh/sshd-session\nsshdauthpath /usr/lib/openssh/sshd-auth\n\
        persourcenetblocksize 32:128\nversionaddendum none\nignorerhosts yes\nhostbasedauthentication no\ngssapiauthentication no\n\
        gssapistrictacceptorcheck yes\ngssapikeyexchange no\ngssapikexalgorithms gss-group14-sha256-\nacceptenv LANG\n\
        kerberosauthentication no\nkerberosorlocalpasswd yes\nsubsystem sftp /usr/lib/openssh/sftp-server\n";
    assert_eq!(said(&host, defaults), (Vec::new(), 0));
}

#[test]
fn values_that_decide_about_a_login_are_refused_and_others_are_not() {
    let none = host(&[]);
    for line in [
        "setenv SHELLOPTS=noexec",
        "setenv BASH_ENV=/x",
        "setenv BASH_FUNC_ls%%=() { exit; }",
        "setenv LD_PRELOAD=/x",
        "setenv TMOUT=1",
        "setenv ENV=/x",
        "setenv HISTFILE=/etc/ssh/fifo",
        "setenv INPUTRC=/etc/ssh/fifo",
        "setenv TZ=:/etc/ssh/fifo",
        "setenv TZ=/etc/ssh/fifo",
        "setenv LC_ALL=../../x",
        "setenv ANYTHING=x",
        "pamservicename deny",
        "channeltimeout session=1s",
        "channeltimeout *=5m session=1",
        "unusedconnectiontimeout 1",
        "rekeylimit 16 0",
        "rekeylimit 0 1",
        "hostkeyagent /run/agent",
        "authorizedkeyscommand /usr/bin/sleep 1000",
        "persourcenetblocksize 0:0",
        "xauthlocation /etc/ssh/fifo",
        "securitykeyprovider /none",
        "pidfile /etc/nologin",
        "pidfile /run/nologin",
        "pidfile /run/../etc/x.pid",
        "pidfile /run/.pid",
        "pidfile //run/x.pid",
        "sshdsessionpath /bin/false",
        "sshdauthpath /home/alice/sshd-auth",
    ] {
        let (why, needs) = said(&none, line);
        assert_eq!((why.len(), needs), (1, 0), "{line}: {why:?}");
    }
    for line in [
        "setenv LANG=C.UTF-8",
        "setenv TZ=Europe/Berlin EDITOR=/usr/bin/vi LC_TIME=C",
        "channeltimeout session=5m x11*=1h",
        "unusedconnectiontimeout 300",
        "unusedconnectiontimeout 0",
        "rekeylimit 1073741824 3600",
        "ignorerhosts no",
        "authorizedprincipalsfile /etc/ssh/fifo",
        "loglevel QUIET",
    ] {
        assert_eq!(said(&none, line), (Vec::new(), 0), "{line}");
    }
}

#[test]
fn what_a_login_finds_may_change_only_to_what_is_known() {
    let table = [
        ("subsystem sftp /usr/lib/openssh/sftp-server", "subsystem sftp internal-sftp", true),
        ("subsystem sftp /opt/x", "subsystem sftp /opt/x", true),
        ("", "subsystem netconf /opt/x", true),
        ("subsystem sftp internal-sftp", "", false),
        ("subsystem sftp internal-sftp", "subsystem sftp /bin/false", false),
        ("subsystem sftp internal-sftp", "subsystem sftp internal-sftp -P open", false),
        ("subsystem sftp internal-sftp", "subsystem sftp /usr/lib/openssh/sftp-server -f AUTHPRIV -l INFO -u 027", true),
        ("subsystem sftp internal-sftp", "subsystem sftp internal-sftp -l", false),
        ("subsystem sftp internal-sftp", "subsystem sftp internal-sftp -l LOUD", false),
        ("persourcepenaltyexemptlist none", "persourcepenaltyexemptlist 10.0.0.0/8", true),
        ("persourcepenaltyexemptlist 10.0.0.0/8", "persourcepenaltyexemptlist 10.0.0.0/8,192.0.2.9", true),
        ("persourcepenaltyexemptlist 10.0.0.0/8,192.0.2.9", "persourcepenaltyexemptlist 192.0.2.9", false),
        ("persourcepenaltyexemptlist 10.0.0.0/8", "persourcepenaltyexemptlist none", false),
        ("permituserenvironment no", "permituserenvironment yes", false),
        ("permituserenvironment yes", "permituserenvironment no", true),
        ("permituserrc no", "permituserrc yes", false),
        ("permituserrc yes", "permituserrc no", true),
    ];
    for (was, is, harmless) in table {
        // What is not printed at all is an sshd that was not asked.
        let of = |line: &str| Effective::parse(&format!("port 22\n{line}\n"));
        assert_eq!(not_known(&of(was), &of(is), |_| false).is_none(), harmless, "{was} -> {is}");
    }
}

#[test]
fn files_are_looked_at_and_refused_with_the_reason() {
    let regular = |size, for_all, program, pid| ValueFile::Regular { size, for_all, program, pid };
    let pipe = || ValueFile::Other("no regular file".to_owned());
    let table: [(&str, ValueFile, Option<&str>); 19] = [
        ("banner /b", PLAIN, None),
        ("banner /b", ValueFile::Missing, None),
        ("banner /b", pipe(), Some("no regular file")),
        ("banner /b", regular(100, false, false, Pid::None), Some("shows it to everybody")),
        ("banner /b", regular(40_000, true, false, Pid::None), Some("40000 bytes")),
        ("pidfile /run/b.pid", ValueFile::Missing, None),
        ("pidfile /var/run/a/b.pid", regular(3, true, false, Pid::Own), None),
        ("pidfile /run/b.pid", regular(3, true, false, Pid::Ended), None),
        ("pidfile /run/b.pid", regular(3, true, false, Pid::Others(7)), Some("of another process (7)")),
        ("pidfile /run/b.pid", ValueFile::OfUnit("cron.service".to_owned()), Some("cron.service has its own pid there")),
        ("pidfile /run/sshd.pid", regular(3, true, false, Pid::Others(7)), None),
        ("banner /b", ValueFile::OfUnit("cron.service".to_owned()), None),
        ("pidfile /run/b.pid", PLAIN, Some("something else than a pid")),
        ("pidfile /run/b.pid", pipe(), Some("no regular file")),
        ("modulifile /b", ValueFile::Missing, None),
        ("modulifile /b", pipe(), Some("no regular file")),
        ("sshdsessionpath /usr/libexec/sshd-session", regular(3, true, true, Pid::None), None),
        ("sshdsessionpath /usr/libexec/sshd-session", PLAIN, Some("no program")),
        ("sshdauthpath /usr/lib/openssh/sshd-auth", ValueFile::Missing, Some("no such program")),
    ];
    for (line, file, expected) in table {
        let path = line.split_once(' ').unwrap().1;
        assert_eq!(said(&host(&[]), line).1, 1, "{line}");
        let (why, needs) = said(&host(&[(path, file)]), line);
        assert_eq!(needs, 0);
        assert_eq!(why.len(), usize::from(expected.is_some()), "{line}: {why:?}");
        assert!(expected.is_none_or(|part| why.concat().contains(part)), "{line}: {why:?}");
    }
}

#[test]
fn what_no_table_has_is_not_known_where_it_changes() {
    let old = Effective::parse("port 22\nnewkeyword yes\n");
    let new = Effective::parse("port 22\nnewkeyword no\n");
    assert_eq!(not_known(&old, &old, |_| false), None);
    let hosts = |on: &str, rhosts: &str| Effective::parse(&format!("hostbasedauthentication {on}\nignorerhosts {rhosts}\n"));
    assert_eq!(not_known(&hosts("no", "yes"), &hosts("yes", "no"), |_| false), None);
    assert!(not_known(&hosts("yes", "no"), &hosts("yes", "yes"), |_| false).is_some());
    let why = not_known(&old, &new, |_| false).unwrap().why;
    assert!(why.contains("sshfix does not know what newkeyword does to a login; edit the file by hand"), "{why}");
    assert!(not_known(&old, &Effective::parse("port 22\n"), |_| false).is_some());
    let edited = |keyword: &str| [keyword.to_owned()].into();
    assert!(not_printed(&edited("other"), &old, &new).is_some());
    for keyword in ["newkeyword", "banner", "match", "include"] {
        assert_eq!(not_printed(&edited(keyword), &old, &new), None, "{keyword}");
    }
}

#[test]
fn numbers_of_processes() {
    for text in ["1\n", "65", "4194304\n"] {
        assert!(pid(text.as_bytes()).is_some(), "{text:?}");
    }
    for text in ["", "\n", "1 2\n", "x", "1\n\n", "12345678901"] {
        assert!(pid(text.as_bytes()).is_none(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn no_text_is_a_good_pid_file_but_one_below_run(path in "(/(run|var|etc|\\.\\.|nologin|x|x\\.pid)){1,5}") {
        let good = wrong_place(Use::Pid, &path).is_none();
        prop_assert!(!good || (path.starts_with("/run/") || path.starts_with("/var/run/")) && path.strip_suffix(".pid").is_some());
        prop_assert!(!good || !path.contains(".."));
    }

    #[test]
    fn times_are_read_as_sshd_reads_them_and_no_text_breaks_it(text in "[0-9smhdwx]{0,8}", number in 0_u64..100_000) {
        let _ = (lasts(&text), rekeys_seldom(&text), narrow(&text));
        prop_assert_eq!(seconds(&number.to_string()), Some(number));
        prop_assert_eq!(seconds(&format!("{number}m1")), Some(number * 60 + 1));
    }
}
