//! The model of hosts.allow and hosts.deny against the real `tcpdmatch`, over thousands of generated file pairs: where the model
//! gives a verdict, libwrap gives the same. Runs in its own mount and network namespace, so that names come from a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use sshfix_policy::address::Source;
use sshfix_policy::host::Need;
use sshfix_policy::subsystem::hosts_access::{
    Address, Content, Facts, HostName, Outcome, PatternFile, Port, Request, Tables, Trace,
};
use sshfix_policy::verdict::Verdict;
use sshfix_tests::lab::root_or_skip;

/// Seeds that once found a disagreement; each stands for a batch of `BATCH` cases.
const SAVED_SEEDS: [u64; 0] = [];
const BATCH: u64 = 500;
const BATCHES: u64 = 24;

/// A small generator with a fixed sequence (splitmix64), so that a seed names a case for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const HOSTS: &str = "\
127.0.0.1 localhost
203.0.113.7 seven.example.net seven
203.0.113.8 Eight.Example.Net
198.51.100.7 lonely
2001:db8::7 seven6.example.net
2001:db8::8 lonely6
203.0.113.99 liar.example.net
203.0.113.66 liar.example.net trap4
2001:db8::66 liar6.example.net trap6
2001:db8::99 liar6.example.net
";

const CLIENTS: [&str; 26] = [
    "203.0.113.7",
    "203.0.113.7",
    "203.0.113.8",
    "203.0.113.70",
    "198.51.100.7",
    "10.0.0.1",
    "10.0.0.10",
    "255.255.255.255",
    "2001:db8::7",
    "2001:db8::7",
    "2001:db8::8",
    "2001:db8:1::1",
    "::1",
    "::1.2.3.4",
    "::102:304",
    "2001:db8:0:0:1::1",
    "::ffff:203.0.113.7",
    "::ffff:10.0.0.10",
    "seven",
    "eight.example.net",
    "lonely",
    "seven6.example.net",
    "lonely6",
    "trap4",
    "trap6",
    "localhost",
];

const V4: [&str; 8] =
    ["203.0.113.7", "203.0.113.8", "203.0.113.70", "198.51.100.7", "10.0.0.1", "10.0.0.10", "127.0.0.1", "203.0.113.0"];
const V6: [&str; 9] = [
    "2001:db8::7",
    "2001:DB8::8",
    "2001:db8:1::1",
    "::1",
    "::1.2.3.4",
    "2001:db8::",
    "::ffff:203.0.113.7",
    "::",
    "2001:db8:0:0:0:0:0:7",
];
const WORDS: [&str; 34] = [
    "ALL",
    "ALL",
    "ALL",
    "all",
    "LOCAL",
    "KNOWN",
    "UNKNOWN",
    "PARANOID",
    "unknown",
    "paranoid",
    "EXCEPT",
    "EXCEPT",
    "except",
    ".example.net",
    ".EXAMPLE.net",
    ".net",
    "example.net",
    "seven.example.net",
    "seven",
    "lonely",
    "lonely6",
    "localhost",
    "203.0.113.",
    "203.0.",
    "203.",
    "10.",
    "10.0.0.",
    "10.0.0.1.",
    ".7",
    ".113.7",
    "2001:",
    "@net",
    "trap4",
    "liar.example.net",
];
const WILD: [&str; 12] = [
    "*",
    "?*",
    "203.0.113.*",
    "10.0.0.?",
    "*.example.net",
    "seven*",
    "*.7",
    "2*",
    "**",
    "*?*7",
    "203.0.113.7*?",
    "[2001:db8::*]",
];
const DAEMONS: [&str; 16] = [
    "sshd", "sshd", "sshd", "SSHD", "ALL", "ALL", "in.ftpd", "vsftpd", "s*", "ssh.", ".hd", "KNOWN", "UNKNOWN", "22", "0",
    "EXCEPT",
];
const OPTIONS: [&str; 40] = [
    "allow",
    "ALLOW",
    "deny",
    "DENY",
    "Deny",
    "severity info",
    "severity mail.info",
    "severity=auth.debug",
    "severity loud",
    "severity authpriv.info",
    "spawn (/bin/echo %a \\: x) &",
    "spawn",
    "twist /bin/echo no",
    "keepalive",
    "keepalive 1",
    "linger 5",
    "linger -5",
    "linger 5x",
    "nice",
    "nice 5",
    "nice five",
    "rfc931",
    "rfc931 5",
    "rfc931 0",
    "umask 022",
    "umask 999",
    "umask -1",
    "setenv A b",
    "setenv A=b c",
    "setenv = A b",
    "banners /nonexistent",
    "nonsense",
    "",
    " ",
    "aclexec /bin/true",
    "group root",
    "linger 99999999999999999999",
    "umask 0777",
    "nice = 4",
    "allow =",
];
const SEPARATORS: [&str; 8] = [" ", " ", ", ", ",", "\t", " \\\n ", ",\r ", " , "];
const FILES: [&str; 4] = ["some", "deep", "missing", "odd"];

fn address_token(random: &mut Random) -> String {
    let v4 = random.pick(&V4).to_owned();
    let v6 = random.pick(&V6);
    match random.below(12) {
        0..4 => v4,
        4..6 => format!("[{v6}]"),
        6 => v6.to_owned(),
        7 => format!("{v4}/{}", random.pick(&["8", "16", "24", "32", "0", "33", "-1", "24x", "", "31", "4294967320"])),
        8 => format!(
            "{}/{}",
            random.pick(&["203.0.113.0", "10.0.0.0", "0.0.0.0", "203.0.0.0", "0313.0.0x71.0", "203.0.113.7", "10.0.0"]),
            random.pick(&[
                "255.255.255.0",
                "255.0.0.0",
                "0.0.0.0",
                "255.255.255.255",
                "255.255.255.254",
                "0xff.0377.255.0",
                "255.0.255.0",
                "255.255.256.0",
            ])
        ),
        9 | 10 => format!("[{v6}]/{}", random.pick(&["128", "64", "32", "0", "33", "129", "", "x", "-1", "31", "127", "96"])),
        _ => random
            .pick(&[
                "[2001:db8::7",
                "2001:db8::7]",
                "[]",
                "[",
                "]",
                "[203.0.113.7]",
                "010.0.0.1",
                "10.0.0.01",
                "[2001:db8::7]/",
                "[fe80::1%lo]",
                "[0:0:0:0:0:0:0:1]",
                "[2001:db8::0007]",
                "[2001:db8::00007]",
                "[1::2::3]",
                "[::1.2.3.4]",
                "[::01.2.3.4]",
                "203.0.113.7/",
                "/",
                "//",
            ])
            .to_owned(),
    }
}

fn client_token(random: &mut Random, folder: &str) -> String {
    let token = match random.below(12) {
        0..5 => address_token(random),
        5..9 => random.pick(&WORDS).to_owned(),
        9 => random.pick(&WILD).to_owned(),
        10 => format!("{folder}/{}", random.pick(&FILES)),
        _ => format!(
            "{}@{}",
            random.pick(&["ALL", "KNOWN", "UNKNOWN", "bob", "", "b*"]),
            random.pick(&["ALL", "203.0.113.7", "", ".net"])
        ),
    };
    if random.one_in(60) { format!("{token}{token}") } else { token }
}

fn list(random: &mut Random, most: usize, mut token: impl FnMut(&mut Random) -> String) -> String {
    let mut text = random.pick(&["", " ", " "]).to_owned();
    for _ in 0..=random.below(most) {
        text.push_str(&token(random));
        text.push_str(random.pick(&SEPARATORS));
    }
    text
}

fn file(random: &mut Random, folder: &str) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..random.below(5) {
        match random.below(14) {
            0 => text.push_str(random.pick(&[
                "# sshd: ALL",
                "#",
                "",
                "  \t",
                "sshd ALL",
                " # sshd: ALL",
                "#\\\nALL: ALL",
                "\\",
                "::",
                ": ALL",
                "]:ALL",
            ])),
            1 => text.push_str(&client_token(random, folder)),
            _ => {
                let daemons = list(random, 2, |random| {
                    let daemon = random.pick(&DAEMONS);
                    if random.one_in(12) {
                        format!("{daemon}@{}", random.pick(&["127.0.0.1", "ALL", "localhost", ""]))
                    } else {
                        daemon.to_owned()
                    }
                });
                let clients = list(random, 4, |random| client_token(random, folder));
                let _ = write!(text, "{daemons}:{clients}");
                if random.one_in(4) {
                    for _ in 0..=random.below(2) {
                        let _ = write!(text, ":{}", random.pick(&OPTIONS));
                        if random.one_in(3) {
                            text.push(' ');
                        }
                    }
                }
                if random.one_in(80) {
                    // Around the 2047 bytes that fit.
                    let fill = (2040 + random.below(14)).saturating_sub(text.rsplit('\n').next().unwrap().len());
                    text.push_str(&" x".repeat(fill / 2));
                    text.push_str(&"y".repeat(fill % 2));
                }
            }
        }
        text.push('\n');
    }
    let mut bytes = text.into_bytes();
    if random.one_in(12) {
        bytes.pop();
    }
    if random.one_in(8) {
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() + 1);
            let odd = *b":\\\n#[]@/*?., EA7\0\xff\x0b\x0c\r%x".get(random.below(25)).unwrap_or(&b' ');
            match random.below(3) {
                0 => bytes.insert(at, odd),
                1 if at < bytes.len() => bytes[at] = odd,
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
    }
    bytes
}

struct Case {
    allow: Option<Vec<u8>>,
    deny: Option<Vec<u8>>,
    client: String,
    server: Option<&'static str>,
    user: Option<&'static str>,
}

fn case(random: &mut Random, folder: &str) -> Case {
    Case {
        allow: (!random.one_in(8)).then(|| file(random, folder)),
        deny: (!random.one_in(8)).then(|| file(random, folder)),
        client: random.pick(&CLIENTS).to_owned(),
        server: random.one_in(5).then_some("127.0.0.1"),
        user: random.one_in(6).then_some("bob"),
    }
}

/// What `tcpdmatch` printed for one case.
struct Printed {
    access: String,
    address: Option<IpAddr>,
    name: HostName,
}

fn printed(text: &str) -> Printed {
    let after = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(|rest| rest.trim().to_owned());
    let name = match after("client:   hostname").as_deref() {
        None => HostName::Unknown,
        Some("paranoid") => HostName::Paranoid,
        Some(name) => HostName::Verified(name.to_owned()),
    };
    Printed {
        access: after("access:").unwrap_or_default(),
        address: after("client:   address").and_then(|address| address.parse().ok()),
        name,
    }
}

/// The model's answer, given the facts tcpdmatch had.
fn model(case: &Case, printed: &Printed, files: &BTreeMap<String, PatternFile>) -> Trace {
    let content = |bytes: &Option<Vec<u8>>| bytes.clone().map_or(Content::Missing, Content::Bytes);
    let source = Source::from(printed.address.expect("tcpdmatch prints the address"));
    let server: IpAddr = "127.0.0.1".parse().unwrap();
    let mut facts = Facts::default();
    facts.names.insert(server, HostName::Verified("localhost".into()));
    facts.names.insert(source.single().unwrap(), printed.name.clone());
    facts.files.clone_from(files);
    let request = Request {
        daemon: "sshd",
        port: if case.server.is_some() { Port::Is(0) } else { Port::None },
        client: Address::In(source),
        server: case.server.map_or(Address::None, |_| Address::In(server.into())),
        user: Some(case.user.unwrap_or("unknown")),
    };
    let tables = Tables::new(&content(&case.allow), &content(&case.deny));
    loop {
        let trace = tables.trace(&request, &facts, &BTreeSet::new(), &BTreeSet::new());
        let mut learnt = false;
        for need in &trace.needs {
            if let Need::PatternFile(path) = need {
                let fact = fs::read(path).map_or(PatternFile::Missing, PatternFile::Content);
                learnt |= facts.files.insert(path.clone(), fact).is_none();
            }
        }
        if !learnt {
            return trace;
        }
    }
}

fn agrees(trace: &Trace, access: &str) -> Option<bool> {
    let delegated = trace.decider().is_some_and(|hit| hit.outcome == Outcome::Twist);
    match (trace.verdict(), access) {
        (Verdict::Unknown, _) => None,
        (Verdict::Refuse, "delegated") => Some(delegated),
        (Verdict::Refuse, access) => Some(access == "denied"),
        (Verdict::Accept, access) => Some(access == "granted"),
    }
}

/// Runs `tcpdmatch` over all cases below `folder`, one after the other, in namespaces of their own.
fn run_tcpdmatch(folder: &Path) {
    let script = format!(
        "set -e
mount --make-rprivate /
mount --bind {0}/hosts /etc/hosts
mount --bind {0}/nsswitch.conf /etc/nsswitch.conf
cd {0}/cases
for d in *; do
  cd $d
  read -r server client < arguments
  {1} -d \"$server\" \"$client\" > output 2>&1 || echo \"exit $?\" >> output
  cd ..
done",
        folder.display(),
        // Another release's: `LD.SO --library-path DIR /IMAGE/usr/sbin/tcpdmatch`.
        std::env::var("SSHFIX_TCPDMATCH").unwrap_or_else(|_| "tcpdmatch".into())
    );
    let status = Command::new("/usr/bin/unshare")
        .args(["--mount", "--net", "--", "/bin/bash", "-c", &script])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .status()
        .expect("unshare runs");
    assert!(status.success(), "tcpdmatch (package tcpd) runs over all cases");
}

#[derive(Default)]
struct Tally {
    cases: u64,
    told: u64,
    refused: u64,
    disagreements: Vec<String>,
}

fn batch(seed: u64, tally: &mut Tally) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::write(root.join("hosts"), HOSTS).unwrap();
    fs::write(root.join("nsswitch.conf"), "hosts: files\npasswd: files\ngroup: files\n").unwrap();
    fs::write(root.join("some"), "203.0.113.7 2001:db8::7\n.example.org\t10.0.0.0/255.0.0.0 [2001:db8:1::]/48\n").unwrap();
    fs::write(root.join("deep"), format!("192.0.2.1\n{}/some\n{0}/missing ALL@x", root.display())).unwrap();
    fs::write(root.join("odd"), "@net \x0b 198.51.100.7\x0cEXCEPT, 10.0.0.10 203.0.113.\n").unwrap();
    let mut random = Random(seed);
    let cases: Vec<_> = (0..BATCH).map(|_| case(&mut random, root.to_str().unwrap())).collect();
    for (index, case) in cases.iter().enumerate() {
        let at = root.join(format!("cases/{index:05}"));
        fs::create_dir_all(&at).unwrap();
        for (name, content) in [("hosts.allow", &case.allow), ("hosts.deny", &case.deny)] {
            if let Some(content) = content {
                fs::write(at.join(name), content).unwrap();
            }
        }
        let daemon = case.server.map_or("sshd".to_owned(), |server| format!("sshd@{server}"));
        let client = case.user.map_or(case.client.clone(), |user| format!("{user}@{}", case.client));
        fs::write(at.join("arguments"), format!("{daemon} {client}\n")).unwrap();
    }
    run_tcpdmatch(root);
    for (index, case) in cases.iter().enumerate() {
        let output = fs::read(root.join(format!("cases/{index:05}/output"))).unwrap();
        let output = String::from_utf8_lossy(&output);
        let printed = printed(&output);
        assert!(["granted", "denied", "delegated"].contains(&printed.access.as_str()), "seed {seed} case {index}: {output}");
        let trace = model(case, &printed, &BTreeMap::new());
        tally.cases += 1;
        tally.refused += u64::from(printed.access != "granted");
        match agrees(&trace, &printed.access) {
            None => {}
            Some(true) => tally.told += 1,
            Some(false) => tally.disagreements.push(format!(
                "seed {seed} case {index}: client {} server {:?} user {:?}\nallow {:?}\ndeny {:?}\nmodel {:?} {:?}\ntcpdmatch {output}",
                case.client,
                case.server,
                case.user,
                case.allow.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
                case.deny.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
                trace.verdict(),
                trace.hits,
            )),
        }
    }
}

#[test]
fn the_model_never_disagrees_with_tcpdmatch() {
    if !root_or_skip() {
        return;
    }
    let first = std::env::var("SSHFIX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let seeds: Vec<u64> = SAVED_SEEDS.into_iter().chain(first..first + BATCHES).collect();
    let mut tally = Tally::default();
    for seed in seeds {
        batch(seed, &mut tally);
    }
    eprintln!(
        "{} file pairs, {} refused by libwrap, {} told by the model, {} disagreements",
        tally.cases,
        tally.refused,
        tally.told,
        tally.disagreements.len()
    );
    assert!(
        tally.disagreements.is_empty(),
        "{} disagreements, the first:\n{}",
        tally.disagreements.len(),
        tally.disagreements[..tally.disagreements.len().min(5)].join("\n\n")
    );
    assert!(tally.cases >= 10_000);
    assert!(tally.told * 100 >= tally.cases * 90, "the model tells at least nine of ten: {} of {}", tally.told, tally.cases);
    assert!(tally.refused * 5 >= tally.cases && tally.refused * 5 <= tally.cases * 4, "both verdicts are common");
}
