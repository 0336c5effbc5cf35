//! What is offered, by the words before it.

#![allow(clippy::unwrap_used)]

use super::*;

/// What is offered for the last of these words, of which the first two are `sshfix ctl`.
fn offered(words: &[&str]) -> Vec<String> {
    complete(["sshfix", "ctl"].iter().chain(words).map(OsString::from).collect())
}

#[test]
fn verbs_and_options_are_those_of_the_command_line() {
    assert_eq!(offered(&["sshd", "re"]), ["reload", "restart"]);
    assert_eq!(offered(&["unban", "--ra"]), ["--range"]);
    assert_eq!(offered(&["--color", "a"]), ["auto", "always"]);
    assert!(offered(&["diag"]) == ["diagnose"] && offered(&["nonsense", "x"]).is_empty());
    assert!(offered(&["unban", ""]).contains(&"--dry-run".to_owned()));
}

#[test]
fn keywords_are_written_as_the_manual_does_and_fit_where_they_are_to_stand() {
    assert_eq!(offered(&["sshd", "set", "permitr"]), ["PermitRootLogin"]);
    assert_eq!(offered(&["sshd", "unset", "PASSWORDa"]), ["PasswordAuthentication"]);
    assert_eq!(offered(&["sshd", "show", "usep"]), ["UsePAM"]);
    assert_eq!(offered(&["sshd", "show", "UsePAM", "xa"]), ["XAuthLocation"]);
    assert_eq!(offered(&["sshd", "set", "--match", "User alice", "UseP"]), [""; 0], "it counts for everybody");
    assert_eq!(offered(&["sshd", "set", "--match", "User alice", "bann"]), ["Banner"]);
    assert_eq!(offered(&["sshd", "set", "inclu"]), [""; 0]);
}

#[test]
fn values_are_those_of_the_keyword_at_their_place() {
    assert_eq!(offered(&["sshd", "set", "permitrootlogin", "p"]), ["prohibit-password"]);
    let all = ["yes", "no", "prohibit-password", "forced-commands-only"];
    assert_eq!(offered(&["sshd", "set", "PermitRootLogin", ""]), all, "no options among them");
    assert_eq!(offered(&["sshd", "set", "LogLevel", "deb"]), ["DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"]);
    assert_eq!(offered(&["sshd", "set", "--match", "User alice", "--reason", "why not", "AllowTcpForwarding", "l"]), ["local"]);
    assert_eq!(offered(&["sshd", "set", "--json", "Subsystem", "sftp", "int"]), ["internal-sftp"]);
    assert_eq!(offered(&["sshd", "set", "AuthenticationMethods", "publickey,pa"]), ["publickey,password"]);
    assert_eq!(offered(&["sshd", "set", "DenyUsers", "roo"]), ["root"]);
    assert_eq!(offered(&["sshd", "set", "DenyUsers", "root", "!roo"]), ["!root"]);
    assert_eq!(offered(&["sshd", "set", "DenyUsers", "root", "roo"]), [""; 0], "twice");
    assert_eq!(offered(&["sshd", "set", "HostKey", "/et"]), ["/etc/"]);
    assert_eq!(offered(&["sshd", "set", "NoSuchKeyword", "y"]), [""; 0]);
}

#[test]
fn criteria_are_named_once_and_followed_by_what_they_name() {
    let after = |text: &str| offered(&["sshd", "set", "--match", text]);
    assert_eq!(after("local"), ["LocalAddress ", "LocalPort "]);
    assert_eq!(after("user roo"), ["user root"]);
    assert_eq!(after("User=roo"), ["User=root"]);
    assert_eq!(after("Group !roo"), ["Group !root"]);
    assert_eq!(after("Address 10"), ["Address 10.0.0.0/8"]);
    assert_eq!(after("Address 10.0.0.0/8,fc"), ["Address 10.0.0.0/8,fc00::/7"]);
    assert_eq!(after("User root localp"), ["User root LocalPort 22"]);
    assert_eq!(after("Host x us"), after("Host x User "));
    assert!(!after("User root ").iter().any(|text| text.contains("User root User")));
}

#[test]
fn odd_lines_are_completed_to_nothing_and_break_nothing() {
    let long = "a".repeat(20_000);
    let odd = [
        "",
        "-",
        "--",
        "---",
        "-x",
        "--x=",
        "--match=",
        "--match",
        "'",
        "é",
        "$(id)",
        "=",
        ",",
        "!",
        "\u{1b}[2J",
        "..",
        "/",
        "~",
    ];
    let verbs: [&[&str]; 7] = [
        &[],
        &["sshd"],
        &["sshd", "set"],
        &["sshd", "set", "Ciphers"],
        &["--", "sshd", "set"],
        &["help"],
        &["sshd", "set", "--"],
    ];
    for verb in verbs {
        for first in odd.iter().chain([&long.as_str()]) {
            for second in odd {
                let found = offered(&[verb, &[first, second]].concat());
                assert!(found.iter().all(|text| !text.chars().any(char::is_control)), "{verb:?} {first} {second}: {found:?}");
            }
        }
    }
    for line in ["", "sshfix", "'", "sshfix ctl \\", "a=b", "a=b c=d"] {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            candidates(shell, &[OsString::from(line), OsString::new()]);
        }
    }
    assert_eq!(candidates(Shell::Bash, &[OsString::from(long), OsString::new()]), b"");
}

#[test]
fn each_shell_is_told_how_to_ask() {
    let script = |shell| String::from_utf8(registration(shell, OsStr::new("sshfix"))).unwrap();
    assert!(script(Shell::Bash).contains("COMPLETE=bash 'sshfix' --"));
    assert!(script(Shell::Zsh).contains("COMPLETE=\"zsh\""));
    assert!(script(Shell::Fish).contains("COMPLETE=fish sshfix --"));
    assert!(String::from_utf8(registration(Shell::Bash, OsStr::new("target/it's"))).unwrap().contains(r"/target/it'\''s' --"));
    assert_eq!(Shell::of(OsStr::new("/usr/bin/zsh")), Some(Shell::Zsh));
    assert_eq!(Shell::of(OsStr::new("tcsh")), None);
}
