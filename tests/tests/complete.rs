//! Completion against the sshd, ssh and bash of both releases: every keyword and word that is offered is taken by that very sshd, and a
//! bash at a terminal puts into the line what a person would want there. No agent is installed, and nobody has a key.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write;

use sshfix_policy::subsystem::sshd::config::CRITERIA;
use sshfix_policy::subsystem::sshd::config::keyword::{self, Kind, Since};
use sshfix_policy::subsystem::sshd::config::offer::{Names, offer};
use sshfix_tests::lab::{self, Release, Server};

fn number(release: Release) -> keyword::Release {
    match release {
        Release::Bookworm => (9, 2),
        Release::Trixie => (10, 0),
    }
}

/// What `sshd -t` says of each of these files; nothing where it takes it.
fn verdicts(server: &Server, files: &[String]) -> Vec<String> {
    server.sh("rm -rf /tmp/cases; mkdir /tmp/cases").expect_ok();
    let mut all = String::new();
    for (place, file) in files.iter().enumerate() {
        writeln!(all, "cat > /tmp/cases/{place} <<'END'\n{file}END").unwrap();
        writeln!(all, "said=$(/usr/sbin/sshd -t -f /tmp/cases/{place} 2>&1) && said= || said=\"refused: $said\"").unwrap();
        writeln!(all, "printf '%s\\0' \"$said\"").unwrap();
    }
    server.write("/tmp/ask", all);
    let said = server.run(&["sh", "/tmp/ask"]).expect_ok();
    let said: Vec<String> = said.split_terminator('\0').map(str::to_owned).collect();
    assert_eq!(said.len(), files.len());
    said
}

/// Lines in which a word that is offered stands where it is offered.
fn lines_of(name: &str) -> Vec<String> {
    let first = offer(name, 0).words;
    let second = if matches!(name, "Subsystem" | "RekeyLimit" | "IPQoS") { offer(name, 1).words } else { &[] };
    let alone = first.iter().filter(|_| name != "Subsystem").map(|word| format!("{name} {word}\n"));
    let both = first.iter().flat_map(|word| second.iter().map(move |next| format!("{name} {word} {next}\n")));
    // A method that is switched off is refused for that.
    let also = "HostbasedAuthentication yes\nGSSAPIAuthentication yes\nKbdInteractiveAuthentication yes\n";
    let also = if name == "AuthenticationMethods" { also } else { "" };
    alone.chain(both.take(60)).map(|line| line + also).collect()
}

fn every_keyword_and_word_is_sshds_own(server: &Server) {
    let release = number(server.release());
    let names = || keyword::all().iter();
    // What is no keyword is told from what is no value.
    let asked: Vec<String> = names().map(|keyword| format!("{} nonsense-value\n", keyword.name)).collect();
    for (keyword, said) in names().zip(verdicts(server, &asked)) {
        let unknown = said.contains("Bad configuration option") || said.contains(&format!("Unsupported option {}", keyword.name));
        if keyword.since == Since::SomeBuilds {
            continue;
        }
        assert_eq!(unknown, !keyword.is_in(Some(release)), "{} in {release:?}: {said}", keyword.name);
        let judged = matches!(keyword.kind, Kind::OneOf(_) | Kind::Number | Kind::Time);
        assert!(!judged || said.starts_with("refused"), "{} takes anything in {release:?}", keyword.name);
    }

    let known = names().filter(|keyword| keyword.is_in(Some(release)));
    let words: Vec<String> = known.clone().flat_map(|keyword| lines_of(keyword.name)).collect();
    assert!(words.len() > 200, "{}", words.len());
    let refused: Vec<(&String, String)> =
        words.iter().zip(verdicts(server, &words)).filter(|(_, said)| !said.is_empty()).collect();
    assert_eq!(refused, [], "{release:?}");

    // sshd tells where a keyword may stand before it looks at the value.
    let blocks: Vec<String> =
        known.clone().map(|keyword| format!("Match User alice\n{} nonsense-value\n", keyword.name)).collect();
    let told = known.clone().zip(verdicts(server, &blocks));
    let fits = |keyword: &keyword::Keyword| keyword.fits_match(Some(release));
    let wrong: Vec<_> =
        told.filter(|(keyword, said)| said.contains("not allowed within a Match block") == fits(keyword)).collect();
    assert!(wrong.is_empty(), "{release:?}: {wrong:#?}");

    // Each of the algorithms that its query names, with each sign.
    for keyword in known {
        let Names::Algorithms(query) = offer(keyword.name, 0).names else { continue };
        let printed = server.run(&["ssh", "-Q", query]).expect_ok();
        let all: Vec<&str> = printed.lines().collect();
        assert!(all.len() > 4, "{query}: {printed}");
        let lists: Vec<String> =
            ["", "+", "^"].iter().map(|sign| format!("{} {sign}{}\n", keyword.name, all.join(","))).collect();
        for said in verdicts(server, &lists) {
            assert_eq!(said, "", "{} in {release:?}", keyword.name);
        }
    }

    let pattern = |name: &&str| match *name {
        "Invalid-User" => String::new(),
        "LocalPort" => "22".to_owned(),
        "Address" | "LocalAddress" => "10.0.0.0/8".to_owned(),
        _ => "root".to_owned(),
    };
    let blocks: Vec<String> = CRITERIA.iter().map(|name| format!("Match {name} {}\nBanner none\n", pattern(name))).collect();
    for (name, said) in CRITERIA.iter().zip(verdicts(server, &blocks)) {
        let expected = *name != "Invalid-User" || release >= (9, 9);
        assert_eq!(said.is_empty(), expected, "{name} in {release:?}: {said}");
    }
}

/// The function that bash calls, and a key that writes down the line and empties it.
const RC: &str = r#"PS1='$ '
source <(COMPLETE=bash /opt/sshfix/sshfix)
told() { _sshfix "$@"; printf '%s\n' "${COMPREPLY[@]}" > /tmp/told; }
complete -o nosort -F told sshfix
bind -x '"\C-g": printf "%s|" "$READLINE_LINE" > /tmp/line; READLINE_LINE=; READLINE_POINT=0'
"#;

/// What bash makes of a line and the Tab key at its end, for alice at a terminal: the candidates that it is given, and the line then.
#[track_caller]
fn tab(server: &Server, line: &str) -> (Vec<String>, String) {
    server.sh("rm -f /tmp/told /tmp/line").expect_ok();
    let keys = format!("{line}\t\x07exit\n");
    let bash = "SSH_CONNECTION='203.0.113.7 4711 203.0.113.1 22' bash --noprofile --rcfile /tmp/rc -i";
    let terminal = ["runuser", "-u", "alice", "--", "script", "-qec", bash, "/dev/null"];
    let shown = server.run_with_input(&terminal, keys.as_bytes());
    let told = server.sh("cat /tmp/told /tmp/line").stdout;
    let (told, line) = told.trim_end_matches('|').rsplit_once('\n').unwrap_or_else(|| panic!("{line}: {told} {shown:#?}"));
    (told.lines().filter(|told| !told.is_empty()).map(str::to_owned).collect(), line.to_owned())
}

fn bash_puts_into_the_line_what_one_wants(server: &Server) {
    let old = server.release() == Release::Bookworm;
    server.copy_programs("/opt/sshfix");
    server.sh("useradd -m -s /bin/bash alice; groupadd alikes").expect_ok();
    server.write("/tmp/rc", RC);
    server.sh("chmod 1777 /tmp").expect_ok();
    let set = |rest: &str| tab(server, &format!("sshfix ctl sshd set {rest}"));
    let becomes = |rest: &str| set(rest).1.strip_prefix("sshfix ctl sshd set ").unwrap_or_default().to_owned();

    assert_eq!(tab(server, "sshfix ctl dia").1, "sshfix ctl diagnose ");
    assert_eq!(tab(server, "sshfix ctl sshd s").0, ["show", "set"]);
    assert_eq!(tab(server, "sshfix ctl sshd unset maxst").1, "sshfix ctl sshd unset MaxStartups ");
    assert_eq!(becomes("permitroot"), "PermitRootLogin ");
    let (words, line) = set("PermitRootLogin ");
    assert_eq!(words, ["yes", "no", "prohibit-password", "forced-commands-only"]);
    assert_eq!(line, "sshfix ctl sshd set PermitRootLogin ", "it is for the person to choose");
    let sources = set("PerSource").0;
    assert!(sources.contains(&"PerSourceMaxStartups".to_owned()), "{sources:?}");
    assert_eq!(sources.contains(&"PerSourcePenalties".to_owned()), !old, "{sources:?}");
    assert_eq!(set("HostKeyAlgorithms ").0.contains(&"ssh-dss".to_owned()), old);
    // bash breaks words at `@`.
    assert_eq!(becomes("Ciphers chacha20-poly1305@op"), "Ciphers chacha20-poly1305@openssh.com ");
    let both = "Ciphers +aes128-gcm@openssh.com,chacha20-poly1305@openssh.com ";
    assert_eq!(becomes("Ciphers +aes128-gcm@openssh.com,cha"), both);
    assert_eq!(becomes("-- Ciphers -3d"), "-- Ciphers -3des-cbc ");
    assert_eq!(becomes("AllowUsers root ali"), "AllowUsers root alice ");
    assert_eq!(becomes("DenyGroups alik"), "DenyGroups alikes ");
    assert_eq!(becomes("Banner /etc/debian_v"), "Banner /etc/debian_version ");
    assert_eq!(becomes("HostKey /etc/ssh/ssh_host_ed"), "HostKey /etc/ssh/ssh_host_ed25519_key");
    // Criteria, in every way to write one word with a blank in it.
    assert_eq!(becomes("--match 'User ali"), "--match 'User alice' ");
    assert_eq!(becomes("--match User\\ ali"), "--match User\\ alice ");
    assert_eq!(becomes("--match=User=ali"), "--match=User=alice ");
    assert_eq!(becomes("--match \"Address 203"), "--match \"Address 203.0.113.7\" ");
    assert_eq!(becomes("--match 'User alice' UseP"), "--match 'User alice' UseP", "it counts for everybody");
    assert_eq!(becomes("--match 'User alice' PermitTT"), "--match 'User alice' PermitTTY ");
    assert_eq!(set("\"$(touch /tmp/run)\" ").0, [""; 0]);
    assert!(server.sh("test ! -e /tmp/run && test ! -e /home/alice/.ssh && test ! -e /run/sshfix").ok());
    for shell in ["zsh", "fish"] {
        let script = server.sh(&format!("COMPLETE={shell} /opt/sshfix/sshfix")).stdout;
        assert!(script.contains("/opt/sshfix/sshfix") && script.contains(shell), "{script}");
    }
    let other = server.sh("COMPLETE=tcsh /opt/sshfix/sshfix");
    assert!(!other.ok() && other.stderr.contains("bash, zsh, fish"), "{other:#?}");
    assert!(server.sh("COMPLETE=1 /opt/sshfix/sshfix --version").stdout.contains("sshfix"), "somebody else's variable");

    // What does not answer, or does not stop, is not waited for.
    for ssh in ["exec sleep 600", "exec yes aes256-ctr"] {
        server.write("/usr/bin/ssh", format!("#!/bin/sh\n{ssh}\n"));
        let line = ["sh", "-c", "COMPLETE=bash /opt/sshfix/sshfix -- 'sshfix ctl sshd set Ciphers a' a"];
        let answer = server.run(&line);
        // The lab itself ends what takes a minute.
        assert!(answer.ok() && answer.stdout.is_empty(), "{answer:#?}");
    }
}

#[test]
fn what_is_offered_is_what_this_sshd_takes_and_what_bash_puts_in_the_line() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        every_keyword_and_word_is_sshds_own(&server);
        bash_puts_into_the_line_what_one_wants(&server);
    }
}
