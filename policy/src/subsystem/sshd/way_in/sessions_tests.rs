#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::subsystem::sshd::facts::state::Pid;
use crate::subsystem::sshd::judge::methods::Methods;
use crate::subsystem::sshd::way_in::WayIn;

const SFTP: &str = "/usr/lib/openssh/sftp-server";

fn login(effective: &str, shell: &Shell) -> LoginWay {
    let mut host = HostState::empty();
    let there = ValueFile::Regular { size: 1, for_all: true, program: true, pid: Pid::None };
    host.sshd.value_files.insert(SFTP.to_owned(), there);
    host.sshd.value_files.insert("/usr/lib/ssh/sftp-server".to_owned(), ValueFile::Missing);
    let login = WayIn::of_alice(&format!("port 22\n{effective}"), Methods::default(), Vec::new(), None).logins[0].clone();
    let mut needs = Needs::new();
    let programs = programs(&host, &login.effective, &mut needs);
    assert!(needs.is_empty());
    LoginWay { programs, shell: shell.clone(), ..login }
}

#[test]
fn a_subsystem_goes_to_a_program_that_is_there_and_can_be_run() {
    let (plain, none) = (Shell::Plain, Shell::EndsAtOnce);
    let sftp = |program: &str, rest: &str| format!("subsystem sftp {program}\n{rest}");
    for (was, is, rest, shell, lost) in [
        ("internal-sftp", SFTP, "", &plain, None),
        (SFTP, "internal-sftp", "chrootdirectory /srv\n", &plain, None),
        ("/usr/lib/ssh/sftp-server", "/usr/lib/ssh/sftp-server", "", &plain, None),
        (SFTP, "/usr/lib/ssh/sftp-server", "", &plain, Some("there is no such program")),
        ("internal-sftp", SFTP, "chrootdirectory /srv\n", &plain, Some("inside of /srv")),
        ("internal-sftp", SFTP, "", &none, Some("the login shell, which ends at once")),
    ] {
        let found = no_subsystem(&login(&sftp(was, rest), shell), &login(&sftp(is, rest), shell));
        assert_eq!(found.is_some(), lost.is_some(), "{was} -> {is}: {found:?}");
        assert!(found.is_none_or(|found| found.as_str().contains(lost.unwrap())), "{was} -> {is}");
    }
}

#[test]
fn a_terminal_stays_for_commands_and_shells_that_may_need_one() {
    let (plain, none, other) = (Shell::Plain, Shell::EndsAtOnce, Shell::Other("/usr/local/bin/menu".to_owned()));
    for (command, shell, lost) in [
        ("none", &plain, false),
        ("none", &none, false),
        ("none", &other, true),
        ("internal-sftp -d /up", &plain, false),
        ("/usr/sbin/nologin", &plain, false),
        ("echo no shell here", &none, false),
        ("echo x; menu", &plain, true),
        ("test -t 0 && echo menu", &plain, true),
    ] {
        let of = |tty: &str| login(&format!("forcecommand {command}\npermittty {tty}\n"), shell);
        assert_eq!(no_terminal(&of("yes"), &of("no")).is_some(), lost, "{command} {shell:?}");
        assert_eq!(no_terminal(&of("no"), &of("no")), None);
    }
}

#[test]
fn another_root_of_who_has_sftp_is_said_in_words_about_sftp() {
    let of = |rest: &str| login(&format!("forcecommand internal-sftp\n{rest}"), &Shell::EndsAtOnce);
    let why = another(&of("chrootdirectory none\n"), &of("chrootdirectory %h\n")).unwrap();
    assert!(why.as_str().contains("whether alice gets sftp there is not known"), "{why:?}");
    assert_eq!(another(&of("chrootdirectory /srv\n"), &of("chrootdirectory /srv\n")), None);
}
