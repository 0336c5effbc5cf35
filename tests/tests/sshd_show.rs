//! `sshd show` and `sshd check` on both releases: every value is sshd's own with the line that really sets it, and what is wrong with
//! the files, or with the sshd that runs, is said with file and line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;
use sshfix_tests::lab::{self, Release, Server};

const MAIN: &str = "/etc/ssh/sshd_config";
const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";

fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server.sh("groupadd wheel; useradd -m -s /bin/sh -G wheel alice").expect_ok();
    server.install_sshfix();
    server
}

fn show(server: &Server, arguments: &[&str]) -> Value {
    server.ctl(&[&["--json", "sshd", "show"], arguments].concat()).expect_status(0).json()
}

/// `VALUES < ORIGIN < LINES` of a keyword.
#[track_caller]
fn of(shown: &Value, keyword: &str) -> String {
    let all = shown["settings"].as_array().unwrap();
    let setting = all.iter().find(|setting| setting["keyword"] == keyword);
    let setting = setting.unwrap_or_else(|| panic!("no {keyword}: {shown:#}"));
    let list = |value: &Value| value.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let lines = setting["lines"].as_array().unwrap().iter().map(|line| {
        let under = line["under"].as_array().unwrap().iter().map(|block| format!(" in {}", block["text"].as_str().unwrap()));
        format!("{}:{}{}", line["file"].as_str().unwrap(), line["line"], under.collect::<String>())
    });
    let parts = [list(&setting["values"]).join(","), setting["origin"].as_str().unwrap().to_owned()];
    parts.into_iter().chain(lines).collect::<Vec<_>>().join(" < ")
}

/// The number of the first line of the main file that begins so.
fn line_of(server: &Server, start: &str) -> usize {
    server.read(MAIN).lines().position(|line| line.starts_with(start)).unwrap() + 1
}

#[test]
fn every_value_is_shown_with_the_line_that_sets_it() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        let stock = show(&server, &[]);
        let use_pam = line_of(&server, "UsePAM");
        assert_eq!(of(&stock, "UsePAM"), format!("yes < file < {MAIN}:{use_pam}"));
        assert_eq!(of(&stock, "MaxAuthTries"), "6 < default");
        assert!(of(&stock, "AcceptEnv").contains(&format!("{MAIN}:{}", line_of(&server, "AcceptEnv"))));
        let text = server.ctl(&["sshd", "show"]).expect_status(0).stdout;
        assert!(text.contains(&format!("# {MAIN} line {use_pam}")) && !text.contains("MaxAuthTries"), "{text}");
        assert!(server.ctl(&["sshd", "show", "--all"]).stdout.contains("MaxAuthTries 6"));

        // Values that sshd -T prints otherwise than they are written, lists over several files, and a Match block.
        let lines = "LoginGraceTime 2m30s\nMaxStartups 5\nCiphers +aes128-cbc\nIPQoS af21\nAllowUsers root\npermitrootlogin prohibit-password\n\
                     SyslogFacility auth\nLogLevel verbose\nRekeyLimit 1G 1h\nMaxAuthTries 6\nPort 22\nPort 2222\nSubsystem x /bin/x\n";
        server.write(DROP_IN, lines);
        let block = server.read(MAIN)
            + "AllowUsers alice *@10.0.0.0/8\nPermitRootLogin no\nMatch Address 10.0.0.0/8 User alice\n\tMaxAuthTries 3\n";
        server.write(MAIN, &block);
        server.sh("sshd -t && systemctl restart ssh").expect_ok();
        let count = block.lines().count();
        let shown = show(&server, &[]);
        let at = |line: usize| format!("{DROP_IN}:{line}");
        assert_eq!(of(&shown, "LoginGraceTime"), format!("150 < file < {}", at(1)));
        assert_eq!(of(&shown, "MaxStartups"), format!("5:30:5 < file < {}", at(2)));
        assert!(of(&shown, "Ciphers").ends_with(&format!(" < file < {}", at(3))));
        assert_eq!(of(&shown, "AllowUsers"), format!("root,alice,*@10.0.0.0/8 < file < {} < {MAIN}:{}", at(5), count - 3));
        assert_eq!(of(&shown, "PermitRootLogin"), format!("without-password < file < {}", at(6)));
        assert_eq!(of(&shown, "LogLevel"), format!("VERBOSE < file < {}", at(8)));
        assert_eq!(of(&shown, "MaxAuthTries"), format!("6 < file < {}", at(10)));
        assert_eq!(of(&shown, "Port"), format!("22,2222 < file < {} < {}", at(11), at(12)));
        assert!(of(&shown, "ListenAddress").ends_with(" < derived"), "{}", of(&shown, "ListenAddress"));
        let unknown = |shown: &Value| shown["settings"].as_array().unwrap().iter().filter(|it| it["origin"] == "unknown").count();
        assert_eq!(unknown(&shown), 0, "{shown:#}");
        let alice = show(&server, &["--user", "alice", "--address", "10.1.2.3"]);
        assert_eq!(of(&alice, "MaxAuthTries"), format!("3 < file < {MAIN}:{count} in Match Address 10.0.0.0/8 User alice"));
        assert_eq!(unknown(&alice), 0, "{alice:#}");
        let bob = show(&server, &["MaxAuthTries", "--user", "bob", "--address", "10.1.2.3"]);
        assert_eq!(of(&bob, "MaxAuthTries"), format!("6 < file < {}", at(10)));
        assert_eq!(bob["settings"].as_array().unwrap().len(), 1);

        // The same lines in the order in which sshd asks them, matched or not.
        let trace = |user: &str| {
            let said = server.ctl(&["--json", "diagnose", "10.1.2.3", "--user", user, "--explain"]).json();
            let stages = said["stages"].as_array().unwrap().clone();
            let stage = stages.into_iter().find(|stage| stage["stage"] == "sshd_access").unwrap_or_else(|| panic!("{said:#}"));
            let lines = stage["trace"].as_array().unwrap().iter();
            let text = |line: &Value| format!("{}: {}", line["source"].as_str().unwrap(), line["effect"].as_str().unwrap());
            lines.map(|line| (text(line), line["decides"] == true)).collect::<Vec<_>>()
        };
        let (drop_in, main) = (format!("{DROP_IN} line 5"), format!("{MAIN} line {}", count - 3));
        let block_line = format!("{MAIN} line {}", count - 1);
        let alice = trace("alice");
        assert_eq!(alice[0], (format!("{block_line}: matches: its lines count before those of the global section"), false));
        assert_eq!(alice[1], (format!("{drop_in}: no match"), false));
        assert_eq!(alice[2], (format!("{main}: `alice` matches: lets alice go on"), false));
        // A user who is not in the block, and whom a pattern of the list names by the address.
        let nobody = trace("nobody");
        assert_eq!(nobody[0].0, format!("{block_line}: does not match"));
        assert_eq!(nobody[2].0, format!("{main}: `*@10.0.0.0/8` matches: lets nobody go on"));
        server.write(DROP_IN, lines.replace("AllowUsers root", "DenyUsers x al*"));
        let denied = trace("alice");
        assert_eq!(denied[1], (format!("{DROP_IN} line 5: `al*` matches: refuses alice"), true));
        server.write(DROP_IN, lines);

        // What the versions of sshd read differently names no line.
        server.write(MAIN, block.replace("User alice", "User \"alice\""));
        let alice = show(&server, &["--user", "alice", "--address", "10.1.2.3"]);
        assert_eq!(of(&alice, "LogLevel"), "VERBOSE < unknown");
        assert!(alice["notes"][0].as_str().unwrap().contains("quotes on a Match line"), "{alice:#}");
        server.write(MAIN, &block);

        // Options of the unit win, and are named.
        server.write("/etc/default/ssh", "SSHD_OPTS=\"-o MaxAuthTries=4\"\n");
        server.sh("systemctl restart ssh").expect_ok();
        assert_eq!(of(&show(&server, &["maxauthtries"]), "MaxAuthTries"), "4 < command-line < the command line:0");

        let wrong = server.ctl(&["sshd", "show", "PermitRotLogin"]).expect_status(2);
        assert!(wrong.stderr.contains("did you mean PermitRootLogin?"), "{}", wrong.stderr);
        let none = show(&server, &["DenyUsers"]);
        assert_eq!(of(&none, "DenyUsers"), " < default");
    }
}

fn check(server: &Server, status: i32) -> Value {
    server.ctl(&["--json", "sshd", "check"]).expect_status(status).json()
}

/// The problem whose text holds this.
#[track_caller]
fn problem<'a>(checked: &'a Value, text: &str) -> &'a Value {
    let found = checked["problems"].as_array().unwrap().iter().find(|it| it["text"].as_str().unwrap().contains(text));
    found.unwrap_or_else(|| panic!("no problem `{text}`: {checked:#}"))
}

#[test]
fn what_is_wrong_with_the_files_and_with_the_running_sshd_is_found() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = prepared(release);
        let fresh = check(&server, 0);
        assert_eq!(
            (&fresh["valid"], &fresh["would_start"], &fresh["running"]["state"]),
            (&true.into(), &true.into(), &"current".into())
        );
        assert!(fresh["problems"].as_array().unwrap().iter().all(|it| it["severity"] == "note"), "{release}: {fresh:#}");

        // Changed on disk, until sshd read it: by systemd or by hand.
        for again in ["systemctl reload ssh", "kill -HUP $(cat /run/sshd.pid)"] {
            server.write(DROP_IN, "MaxAuthTries 4\n");
            let changed = check(&server, 0);
            assert_eq!(changed["running"]["state"], "changed", "{changed:#}");
            assert!(problem(&changed, DROP_IN)["advice"].as_str().unwrap().contains("reload"));
            server.sh(again).expect_ok();
            server.wait_until("sshd has read its files", Duration::from_mins(1), || {
                check(&server, 0)["running"]["state"] == "current"
            });
        }
        // A file that was taken out is a change, too.
        server.sh(&format!("rm {DROP_IN}")).expect_ok();
        assert_eq!(check(&server, 0)["running"]["state"], "changed");
        server.sh("systemctl reload ssh").expect_ok();

        // Lines that never count, Includes of nothing, files of others, files that are not read.
        server.write(DROP_IN, "UsePAM no\nInclude /etc/ssh/none.conf\nMatch User bob\nBanner /a\nBanner /b\n");
        server.write("/etc/ssh/sshd_config.d/60-y.conf.disabled", "");
        let untidy = check(&server, 0);
        let use_pam = problem(&untidy, &format!("this line never counts: {DROP_IN} line 1"));
        assert_eq!((&use_pam["at"]["file"], &use_pam["at"]["line"]), (&MAIN.into(), &line_of(&server, "UsePAM").into()));
        assert_eq!(problem(&untidy, "line 4 of the same Match block")["at"]["line"], 5);
        assert_eq!(problem(&untidy, "/etc/ssh/none.conf names no file")["severity"], "warning");
        problem(&untidy, "60-y.conf.disabled lies beside the included files");
        // What others than root write is named, and nothing is asked about it or told of it.
        for (change, words) in [
            (format!("chmod 666 {DROP_IN}"), format!("{DROP_IN}: others than root can write it (mode 0666); `chmod go-w` it")),
            (
                format!("chmod 644 {DROP_IN}; chown alice {MAIN}"),
                format!("{MAIN}: owned by user 1000, not by root; `chown root` it"),
            ),
        ] {
            server.sh(&change).expect_ok();
            let refused = check(&server, 1);
            assert!(refused["message"].as_str().unwrap().contains(&words), "{refused:#}");
        }
        server.sh(&format!("chown root {MAIN}; rm /etc/ssh/sshd_config.d/*")).expect_ok();

        // sshd would not take it, or not come back.
        server.write(DROP_IN, "# ok\nPermitRotLogin no\n");
        let broken = check(&server, 1);
        let line = problem(&broken, "Bad configuration option: PermitRotLogin");
        assert_eq!((&line["at"]["file"], &line["at"]["line"]), (&DROP_IN.into(), &2.into()));
        assert_eq!(line["at"]["text"], "PermitRotLogin no");
        assert_eq!(line["advice"], "did you mean PermitRootLogin?");
        assert_eq!((&broken["valid"], &broken["would_start"]), (&false.into(), &false.into()));
        let text = server.ctl(&["sshd", "check"]).expect_status(1).stdout;
        assert!(text.contains("sshd would not start again") && text.contains(&format!("{DROP_IN} line 2")), "{text}");
        server.write(DROP_IN, "Port 22\nPort 2222\n");
        server.sh("systemd-run -q python3 -m http.server 2222").expect_ok();
        server.wait_until("the port is taken", Duration::from_mins(1), || server.sh("ss -ltn | grep -q :2222").ok());
        let taken = check(&server, 1);
        assert!(problem(&taken, "sshd could not listen on")["text"].as_str().unwrap().contains("python3"), "{taken:#}");
        assert_eq!((&taken["valid"], &taken["would_start"]), (&true.into(), &false.into()));
    }
}
