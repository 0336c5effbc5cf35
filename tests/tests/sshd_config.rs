//! Our reading of `sshd_config` against `sshd -T -C` of both releases: generated trees of files with Match blocks, Includes at every
//! place and every way to write a line, asked for several clients. `SSHFIX_INPUTS=n` tries n trees a release.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use sshfix_policy::subsystem::sshd::Effective;
use sshfix_policy::subsystem::sshd::config::{Client, ConfigError, Document, Tree, evaluate};
use sshfix_tests::lab::{self, Release, Server};
use sshfix_tests::rulesets::Dice;

/// What may stand in the global section and in Match blocks alike, with values that `sshd -T` prints as they are.
const EVERYWHERE: [(&str, &[&str]); 16] = [
    ("PermitRootLogin", &["yes", "no", "forced-commands-only"]),
    ("MaxAuthTries", &["1", "2", "3", "4", "5"]),
    ("PasswordAuthentication", &["yes", "no"]),
    ("AllowUsers", &["alice", "bob alice", "*", "alice@203.0.113.0/24 bob@*", "root"]),
    ("DenyUsers", &["bob", "root@198.51.100.*", "ghost"]),
    ("AllowGroups", &["wheel", "alice bob", "*"]),
    ("DenyGroups", &["bob", "staff"]),
    ("Banner", &["/etc/banner", "\"/etc/my banner\"", "none", "/etc/a#b"]),
    ("X11Forwarding", &["yes", "no"]),
    ("X11UseLocalhost", &["yes", "no"]),
    ("AuthorizedKeysFile", &[".ssh/authorized_keys", ".ssh/a /etc/keys/%u"]),
    ("AcceptEnv", &["LANG", "LC_* X"]),
    ("PermitTTY", &["yes", "no"]),
    ("ClientAliveCountMax", &["3", "7"]),
    ("LogLevel", &["INFO", "VERBOSE", "DEBUG2"]),
    ("KbdInteractiveAuthentication", &["yes", "no"]),
];
const GLOBAL: [(&str, &[&str]); 4] = [
    ("Port", &["22", "2222"]),
    ("MaxStartups", &["10:30:100", "5:50:9"]),
    ("LoginGraceTime", &["30", "120"]),
    ("UseDNS", &["no"]),
];
const CRITERIA: [&str; 18] = [
    "all",
    "User alice",
    "user alice,bob",
    "User *,!bob",
    "Group wheel",
    "Group *,!wheel",
    "Address 203.0.113.0/24",
    "Address 203.0.113.7,2001:db8::/32",
    "Address *,!198.51.100.0/24",
    "Address 203.0.113.*",
    "LocalPort 22",
    "LocalPort 2222",
    "Host *.example.net",
    "LocalAddress 203.0.113.1",
    "User alice Address 203.0.113.0/24",
    "User root LocalPort 22 Group root",
    "User=bob",
    "User a?ice",
];

/// User, groups, host, address, local address, local port.
type One = (&'static str, Option<&'static [&'static str]>, &'static str, &'static str, &'static str, u16);
const CLIENTS: [One; 5] = [
    ("alice", Some(&["alice", "wheel"]), "seven.example.net", "203.0.113.7", "203.0.113.1", 22),
    ("bob", Some(&["bob"]), "198.51.100.7", "198.51.100.7", "203.0.113.1", 2222),
    ("root", Some(&["root"]), "seven6.example.net", "2001:db8::7", "2001:db8::1", 22),
    ("ghost", None, "203.0.113.8", "203.0.113.8", "203.0.113.1", 22),
    ("alice", Some(&["alice", "wheel"]), "192.0.2.9", "192.0.2.9", "203.0.113.1", 22),
];

fn client((user, groups, host, address, local_address, local_port): One) -> Client {
    Client {
        user: user.to_owned(),
        groups: groups.map(|groups| groups.iter().map(|&group| group.to_owned()).collect()),
        host: host.to_owned(),
        address: address.parse::<IpAddr>().unwrap(),
        local_address: Some(local_address.parse().unwrap()),
        local_port,
        is_root: user == "root",
        interface: None,
    }
}

/// A line in one of the ways people write it.
fn line(dice: &mut Dice, keyword: &str, value: &str) -> String {
    let keyword = match dice.roll(4) {
        0 => keyword.to_ascii_lowercase(),
        1 => keyword.to_ascii_uppercase(),
        _ => keyword.to_owned(),
    };
    let quote = dice.roll(6) == 0 && !value.contains([' ', '"']);
    let value = if quote { format!("\"{value}\"") } else { value.to_owned() };
    let separator = dice.one(&[" ", "\t", "  ", "=", " = ", "= "]);
    let indent = dice.one(&["", "", "  ", "\t"]);
    let tail = dice.one(&["", "", " ", " # comment", "\r"]);
    format!("{indent}{keyword}{separator}{value}{tail}\n")
}

/// The text of one file; `depth` more levels of files may be included, `block` says that it is included from a Match block.
fn file(dice: &mut Dice, dir: &str, files: &mut BTreeMap<String, String>, depth: usize, block: bool) -> String {
    let mut text = String::new();
    let mut in_block = block;
    for _ in 0..=dice.roll(7) {
        match dice.roll(10) {
            0 => text.push_str(dice.one(&["\n", "# Port 1\n", "   \n", "#\n"])),
            1 | 2 => {
                in_block = true;
                let criterion = dice.one(&CRITERIA);
                let separator = dice.one(&[" ", "\t", "="]);
                writeln!(text, "Match{separator}{criterion}").unwrap();
            }
            3 if depth > 0 => {
                let name = format!("{dir}/{}", files.len());
                // Two files of one pattern, in the order of their names.
                for part in ["a", "b"].iter().take(1 + dice.roll(2)) {
                    // The place is taken before the file is made, so that the files it includes have other names.
                    files.insert(format!("{name}{part}.conf"), String::new());
                    let included = file(dice, dir, files, depth - 1, in_block);
                    files.insert(format!("{name}{part}.conf"), included);
                }
                text.push_str(&line(dice, "Include", &format!("{name}*.conf")));
            }
            4 if !in_block => {
                let (keyword, values) = GLOBAL[dice.roll(GLOBAL.len())];
                let value = dice.one(values);
                text.push_str(&line(dice, keyword, value));
            }
            _ => {
                let (keyword, values) = EVERYWHERE[dice.roll(EVERYWHERE.len())];
                let value = dice.one(values);
                text.push_str(&line(dice, keyword, value));
            }
        }
    }
    text
}

/// The files as the agent reads them.
fn tree(main: &str, files: &BTreeMap<String, String>) -> Tree {
    let mut tree = Tree::new(main);
    loop {
        let (missing, patterns) = tree.missing();
        if missing.is_empty() && patterns.is_empty() {
            return tree;
        }
        for path in missing {
            tree.files.insert(path.clone(), Document::parse(files[&path].as_bytes()));
        }
        for pattern in patterns {
            let (start, end) = pattern.split_once('*').unwrap();
            let named = files.keys().filter(|path| path.starts_with(start) && path.ends_with(end)).cloned().collect();
            tree.includes.insert(pattern, named);
        }
    }
}

/// What a keyword's lines say, one value an item where lines add up, as `sshd -T` prints it.
fn values(keyword: &str, settings: &sshfix_policy::subsystem::sshd::config::Settings) -> Vec<String> {
    let all = settings[keyword].iter();
    match keyword {
        "allowusers" | "denyusers" | "allowgroups" | "denygroups" | "acceptenv" => {
            all.flat_map(|setting| setting.arguments.clone()).collect()
        }
        _ => all.map(|setting| setting.arguments.join(" ")).collect(),
    }
}

#[test]
fn generated_configurations_mean_to_us_what_they_mean_to_sshd() {
    if !lab::root_or_skip() {
        return;
    }
    let trees: usize = std::env::var("SSHFIX_INPUTS").map_or(300, |text| text.parse().unwrap());
    for release in Release::ALL {
        let server = Server::boot(release);
        server
            .sh("groupadd wheel; useradd -m alice; useradd -m bob; usermod -aG wheel alice; mkdir -p /run/sshd /root/c")
            .expect_ok();
        let mut dice = Dice::of(0x9e37_79b9_7f4a_7c15 + release as u64);
        let mut all = Vec::new();
        for number in 0..trees {
            let dir = format!("/root/c/{number}");
            let mut files = BTreeMap::new();
            let main = file(&mut dice, &dir, &mut files, 3, false);
            files.insert(format!("{dir}/main"), main);
            for (path, text) in &files {
                server.write(path, text);
            }
            all.push((format!("{dir}/main"), files));
        }
        server.write("/root/c/empty", "");
        // One shell for all of it: `N.K.out` holds what client K gets from tree N, `N.K.err` why nothing.
        let mut script = String::from("cd /root/c\n");
        for number in 0..trees {
            for (k, (user, _, host, address, laddr, lport)) in CLIENTS.iter().enumerate() {
                writeln!(
                    script,
                    "/usr/sbin/sshd -T -f {number}/main -C user={user},host={host},addr={address},laddr={laddr},lport={lport} \
                     >{number}.{k}.out 2>{number}.{k}.err || echo failed >{number}.{k}.out"
                )
                .unwrap();
            }
        }
        script.push_str("/usr/sbin/sshd -T -f empty > default.out");
        server.write("/root/c/all.sh", script);
        server.run(&["timeout", "600", "sh", "/root/c/all.sh"]).expect_ok();

        let default = Effective::parse(&server.read("/root/c/default.out"));
        let (mut compared, mut origins, mut refused) = (0, 0, 0);
        for (number, (main, files)) in all.iter().enumerate() {
            let tree = tree(main, files);
            for (k, one) in CLIENTS.iter().enumerate() {
                let ours = evaluate(&tree, &[], Some(&client(*one)));
                let said = server.read(&format!("/root/c/{number}.{k}.out"));
                let errors = || server.read(&format!("/root/c/{number}.{k}.err"));
                let shown = || format!("{release} tree {number} client {one:?}\n{files:#?}\n{}", errors());
                if said == "failed\n" {
                    // Directives of the global section in a Match block are the only mistakes that are made here.
                    assert!(errors().contains("is not allowed within a Match block"), "{}", shown());
                    refused += 1;
                    continue;
                }
                let theirs = Effective::parse(&said);
                let ours = ours.unwrap_or_else(|error: ConfigError| panic!("{error}\n{}", shown()));
                for (keyword, _) in EVERYWHERE.iter().chain(&GLOBAL) {
                    let keyword = keyword.to_ascii_lowercase();
                    compared += 1;
                    let want = theirs.all(&keyword);
                    if let Some(settings) = ours.get(&keyword) {
                        let got = values(&keyword, &ours);
                        if keyword == "maxstartups" {
                            // Which of its lines counts differs between the releases.
                            assert!(got.contains(&want[0]), "{keyword} {got:?} {want:?}\n{}", shown());
                        } else {
                            assert_eq!(got, want, "{keyword}\n{}", shown());
                        }
                        for setting in settings {
                            // The line we name holds the value.
                            let text = files[&setting.at.file].lines().nth(setting.at.line - 1).unwrap();
                            assert!(text.to_ascii_lowercase().contains(&keyword) && text.trim() == setting.text, "{setting:?}");
                            origins += 1;
                        }
                    } else {
                        assert_eq!(want, default.all(&keyword), "{keyword} is set by no line we know\n{}", shown());
                    }
                }
            }
        }
        println!("{release}: {trees} trees, {compared} values compared, {origins} origins, {refused} refused by sshd");
        assert!(compared > trees * 10, "{release}: hardly anything was compared: {compared} values, {refused} refused");
    }
}
