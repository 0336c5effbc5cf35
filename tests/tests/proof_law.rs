//! Law: a protected way in that really works before an edit really works after it, whatever a stage believed. Random configurations and
//! random edits on real servers of both releases; real logins are the judge. An edit that the proof refuses is made all the same, with the
//! proof switched off (debug builds only), to see whether it would have been harmless: to every way that works, and, where sshd itself is
//! edited, to every way that works once the rules and lines beside sshd are gone, since bans and blocks pass. Each round begins with the same
//! `sshd_config`, so that a round can be tried again alone: `SSHFIX_FIRST` is the first one.
//!
//! Lockouts: none, ever. Needless refusals: less than 2 % of the harmless edits where there are 1,000 of them or more. Fewer say less: where
//! the true rate was 2 %, 100 harmless edits bring 5 needless refusals or more in one run of 20, so that a run is only called failed where its
//! count would come by chance in fewer than 1 of 1,000 (the binomial distribution); of 100 that is 8 and more.
//!
//! `SSHFIX_PAIRS` (500), `SSHFIX_SECONDS` (200) and `SSHFIX_SEED` (1): how many edits, for how long, and which. What comes first ends it: on two
//! cores that do other work besides, some 100 edits fit into the time. By hand: `SSHFIX_PAIRS=5000 SSHFIX_SECONDS=36000`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sshfix_tests::lab::{self, Release, Server};
use sshfix_tests::rulesets::Dice;

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
/// md5crypt of `right`, which costs sshd little.
const HASH: &str = "$1$abcd$lxNLdeDFQB8ZQDG8ttTp61";
/// Edits of one configuration, each on what the one before left.
const EDITS: u64 = 6;
/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(3);

/// A protected way in: user, address, method, and whether somebody is in that way (else it is a keep entry).
type Way = (&'static str, &'static str, &'static str, bool);
const WAYS: [Way; 5] = [
    ("root", "192.0.2.9", "publickey", true),
    ("alice", "203.0.113.7", "password", true),
    ("alice", "203.0.113.8", "publickey", false),
    ("alice", "203.0.113.8", "password", false),
    ("root", "198.51.100.7", "publickey", false),
];

/// Keywords that a Match block takes, each with values that sshd takes.
const ANYWHERE: &[(&str, &[&str])] = &[
    ("PermitRootLogin", &["yes", "prohibit-password", "prohibit-password", "no", "forced-commands-only"]),
    ("PasswordAuthentication", &["yes", "yes", "no"]),
    ("PubkeyAuthentication", &["yes", "yes", "no"]),
    ("KbdInteractiveAuthentication", &["yes", "no"]),
    (
        "AllowUsers",
        &["root alice", "root@192.0.2.0/24 root@198.51.100.7 alice", "*@203.0.113.0/24 root", "r* alice@203.0.113.*", "alice"],
    ),
    ("DenyUsers", &["bob", "alice@198.51.100.0/24", "root@10.0.0.0/8 x", "*@203.0.113.8", "ro?t@192.0.2.9"]),
    ("AllowGroups", &["root alice", "alice root staff", "root", "r* a*"]),
    ("DenyGroups", &["nobody", "staff", "ali?e", "www-data games"]),
    (
        "AuthenticationMethods",
        &[
            "any",
            "publickey password",
            "publickey",
            "publickey,password",
            "publickey,password publickey",
            "password keyboard-interactive",
            "publickey,publickey",
        ],
    ),
    (
        "AuthorizedKeysFile",
        &[
            ".ssh/authorized_keys",
            "/etc/ssh/keys/%u",
            ".ssh/authorized_keys /etc/ssh/keys/%u",
            "/etc/ssh/none/%u",
            "none",
            "/etc/ssh/forced/%u",
            "%h/.ssh/authorized_keys2 %h/.ssh/authorized_keys",
            "/etc/ssh/wide/%u",
        ],
    ),
    (
        "PubkeyAcceptedAlgorithms",
        &["ssh-ed25519", "rsa-sha2-512,rsa-sha2-256", "+ssh-rsa", "-ssh-ed25519", "^ecdsa-sha2-nistp256"],
    ),
    ("RevokedKeys", &["none", "/etc/ssh/revoked", "/etc/ssh/revoked-other", "/etc/ssh/keys/root"]),
    ("MaxAuthTries", &["1", "2", "6", "10", "0"]),
    ("MaxSessions", &["1", "2", "10", "0"]),
    ("ForceCommand", &["none", "/bin/true"]),
    ("ChrootDirectory", &["none", "/srv"]),
    ("Banner", &["none", "/etc/issue.net"]),
    ("X11Forwarding", &["yes", "no"]),
    ("AllowTcpForwarding", &["yes", "no", "local"]),
    ("ClientAliveInterval", &["0", "60"]),
    ("PermitTTY", &["yes", "no"]),
    ("LogLevel", &["INFO", "VERBOSE"]),
    ("GSSAPIAuthentication", &["yes", "no"]),
    ("HostbasedAuthentication", &["yes", "no"]),
    ("PermitEmptyPasswords", &["no", "yes"]),
    ("PermitUserRC", &["yes", "no"]),
    ("AcceptEnv", &["LANG LC_*", "X_*"]),
];
/// Keywords of the global section alone. No key exchange that sshfix itself cannot make (no change could be confirmed then), and no limit that
/// drops some of several logins at once.
const GLOBAL: &[(&str, &[&str])] = &[
    ("UsePAM", &["yes", "yes", "no"]),
    ("StrictModes", &["yes", "no"]),
    ("ListenAddress", &["0.0.0.0", "203.0.113.1", "127.0.0.1", "0.0.0.0 ::"]),
    ("Port", &["22", "22 2222", "2222"]),
    ("AddressFamily", &["any", "inet", "inet6"]),
    ("Ciphers", &["aes128-ctr", "aes256-gcm@openssh.com,aes128-ctr", "+3des-cbc", "3des-cbc"]),
    ("MACs", &["hmac-sha2-256", "-hmac-sha1"]),
    ("KexAlgorithms", &["curve25519-sha256", "ecdh-sha2-nistp256,curve25519-sha256"]),
    ("HostKeyAlgorithms", &["ssh-ed25519", "rsa-sha2-512,ssh-ed25519", "ssh-dss"]),
    ("HostKey", &["/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/none_key"]),
    ("RequiredRSASize", &["2048", "4096"]),
    ("LoginGraceTime", &["0", "30", "120"]),
    ("MaxStartups", &["10:30:100", "50:30:60"]),
    ("UseDNS", &["no", "yes"]),
    ("Compression", &["yes", "no", "delayed"]),
    ("PrintMotd", &["no", "yes"]),
    ("TCPKeepAlive", &["yes", "no"]),
    ("VersionAddendum", &["none", "lab"]),
    ("PermitUserEnvironment", &["no", "yes"]),
];
const CRITERIA: [&str; 12] = [
    "User root",
    "User alice",
    "Address 203.0.113.0/24",
    "Address 198.51.100.7,192.0.2.0/24",
    "Group alice",
    "LocalPort 22",
    "LocalAddress 203.0.113.1",
    "User root Address 192.0.2.9",
    "User !root,*",
    "all",
    "User bob",
    "Address 10.0.0.0/8",
];

fn pair(dice: &mut Dice, within: bool) -> (&'static str, &'static str) {
    let from = if within || dice.roll(3) > 0 { ANYWHERE } else { GLOBAL };
    let (keyword, values) = from[dice.roll(from.len())];
    (keyword, values[dice.roll(values.len())])
}

/// A configuration: some lines, and some blocks.
fn configuration(dice: &mut Dice) -> String {
    let mut text = String::new();
    let mut seen: Vec<&str> = Vec::new();
    for _ in 0..dice.roll(5) {
        let (keyword, value) = pair(dice, false);
        // Values of these are lines of their own.
        let lines: Vec<String> = match keyword {
            _ if seen.contains(&keyword) => Vec::new(),
            "ListenAddress" | "Port" => value.split(' ').map(|value| format!("{keyword} {value}\n")).collect(),
            _ => vec![format!("{keyword} {value}\n")],
        };
        seen.push(keyword);
        text.extend(lines);
    }
    for _ in 0..dice.roll(2) {
        text.extend(["Match ", CRITERIA[dice.roll(CRITERIA.len())], "\n"]);
        for _ in 0..=dice.roll(2) {
            let (keyword, value) = pair(dice, true);
            text.extend(["    ", keyword, " ", value, "\n"]);
        }
    }
    text
}

/// An edit, as words of `sshfix ctl`. What is unset is most often there.
fn edit(dice: &mut Dice, there: &str) -> Vec<String> {
    let words = |line: String| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let within = |dice: &mut Dice| vec!["--match".to_owned(), CRITERIA[dice.roll(CRITERIA.len())].to_owned()];
    match dice.roll(20) {
        0..=9 => {
            let (keyword, value) = pair(dice, false);
            words(format!("sshd set {keyword} {value}"))
        }
        10..=14 => {
            let (keyword, value) = pair(dice, true);
            [words(format!("sshd set {keyword} {value}")), within(dice)].concat()
        }
        15..=16 => {
            let lines: Vec<&str> = there.lines().filter(|line| !line.starts_with("Match")).collect();
            let (keyword, within) = match lines.get(dice.roll(lines.len().max(1))) {
                Some(line) => (line.trim_start().split(' ').next().unwrap_or_default(), line.starts_with(' ')),
                None => (pair(dice, false).0, false),
            };
            let block = there.lines().filter_map(|line| line.strip_prefix("Match ")).next_back().filter(|_| within);
            let criteria = block.into_iter().flat_map(|block| ["--match".to_owned(), block.to_owned()]);
            words(format!("sshd unset {keyword}")).into_iter().chain(criteria).collect()
        }
        17 => [words(format!("sshd unset {}", pair(dice, true).0)), within(dice)].concat(),
        18 => {
            let who = dice.one(&["203.0.113.70", "10.0.0.0/8", "203.0.113.0/24", "192.0.2.9", "198.51.100.0/24"]);
            words(format!("hosts {} {who}", dice.one(&["deny", "deny", "allow", "remove"])))
        }
        _ => {
            let who = dice.one(&["203.0.113.70", "10.0.0.0/8", "203.0.113.8", "192.0.2.9"]);
            words(format!("firewall accept {who}"))
        }
    }
}

/// What lies beside sshd's files: lines of hosts.deny and rules of nft.
fn surroundings(dice: &mut Dice) -> String {
    let deny = dice.one(&[
        "",
        "",
        "sshd: 10.0.0.0/255.0.0.0",
        "sshd: 203.0.113.70",
        "sshd: 203.0.113.8",
        "sshd: ALL EXCEPT 203.0.113., 192.0.2.9",
    ]);
    let rule = dice.one(&[
        "",
        "",
        "ip saddr 203.0.113.8 tcp dport 22 accept",
        "ip saddr 10.0.0.0/8 drop",
        "tcp dport 22 limit rate over 500/second drop",
        "ip saddr 198.51.100.0/24 tcp dport 22 drop",
    ]);
    let chain = "nft 'add table inet law; flush table inet law; add chain inet law in { type filter hook input priority 0; }'";
    let rule = if rule.is_empty() { String::new() } else { format!("nft 'add rule inet law in {rule}'") };
    format!("echo '{deny}' > /etc/hosts.deny; : > /etc/hosts.allow\n{chain}\n{rule}\n")
}

#[derive(Default)]
struct Report {
    applied: usize,
    refused: usize,
    harmless: usize,
    /// Refused for a protected way that something else kept out for the moment.
    kept_out: usize,
    nothing: usize,
    other: usize,
    lockouts: Vec<String>,
    needless: BTreeMap<String, usize>,
    took: Duration,
    /// In `sshfix ctl` for the edits themselves.
    asking: Duration,
}

impl Report {
    fn add(mut self, other: Self) -> Self {
        self.applied += other.applied;
        self.refused += other.refused;
        self.harmless += other.harmless;
        self.kept_out += other.kept_out;
        self.nothing += other.nothing;
        self.other += other.other;
        self.asking += other.asking;
        self.lockouts.extend(other.lockouts);
        other.needless.into_iter().for_each(|(why, count)| *self.needless.entry(why).or_default() += count);
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applied, refused, harmless, kept_out, nothing, other, lockouts, needless, took, asking } = self;
        writeln!(
            f,
            "{} pairs of configuration and edit in {took:.0?} ({asking:.0?} of two servers in sshfix):",
            applied + refused
        )?;
        writeln!(f, "  {applied} applied, {refused} refused as lockouts, of them {harmless} that would have been harmless")?;
        writeln!(f, "  {kept_out} refused for who was kept out by something else for the moment")?;
        writeln!(f, "  besides: {nothing} with nothing to do, {other} that sshd does not take or that failed")?;
        for (why, count) in needless {
            writeln!(f, "  refused though harmless, {count}: {why}")?;
        }
        writeln!(f, "  {} lockouts", lockouts.len())?;
        lockouts.iter().try_for_each(|lockout| writeln!(f, "LOCKOUT {lockout}"))
    }
}

/// A server with people on it.
struct Lab {
    server: Server,
    sessions: Vec<Child>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for session in &mut self.sessions {
            let _ = session.kill();
            let _ = session.wait();
        }
    }
}

impl Lab {
    fn boot(release: Release) -> Self {
        let server = Server::boot(release);
        server.install_sshfix();
        // No pair looks at a boot.
        let waits = "[Unit]\nWants=network-online.target\nAfter=network-online.target\n";
        server.write("/etc/systemd/system/ssh.service.d/net.conf", waits);
        server.run(&["systemctl", "daemon-reload"]).expect_ok();
        server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
        // No session of systemd's for each login: it is what a login costs most.
        server
            .sh(&format!(
                "useradd -m -s /bin/sh -p '{HASH}' alice; cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
                 sed -i -e /pam_systemd/d -e /pam_motd/d -e /pam_mail/d /etc/pam.d/sshd /etc/pam.d/common-session
                 cp /etc/ssh/sshd_config /root/; mkdir -p /etc/ssh/keys /etc/ssh/forced /etc/ssh/wide; key=$(cat /root/.ssh/authorized_keys)
                 for user in root alice; do
                     echo \"$key\" > /etc/ssh/keys/$user; echo \"command=\\\"true\\\" $key\" > /etc/ssh/forced/$user
                     echo \"$key\" > /etc/ssh/wide/$user; chmod 666 /etc/ssh/wide/$user
                 done
                 ssh-keygen -q -t ed25519 -N '' -f /root/other; touch /etc/ssh/revoked; cp /root/other.pub /etc/ssh/revoked-other
                 printf '#!/bin/sh\\necho right\\n' > /root/askpass; chmod 755 /root/askpass"
            ))
            .expect_ok();
        if release == Release::Trixie {
            server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
        }
        let config = server.read("/etc/sshfix/agent.toml");
        let keep = [("203.0.113.8", "alice"), ("198.51.100.7", "root")]
            .map(|(address, user)| format!("[[keep]]\naddress = \"{address}\"\nuser = \"{user}\"\n"))
            .concat();
        server.write("/etc/sshfix/agent.toml", keep + &config);
        server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
        let mut lab = Self { server, sessions: Vec::new() };
        lab.by_hand("PasswordAuthentication yes\n");
        for way in WAYS.iter().filter(|way| way.3) {
            let mark = format!("/tmp/in-{}", way.0);
            let words = [lab.command(way), vec![format!("echo in > {mark}; sleep 100000")]].concat();
            let mut run = Command::new(&words[0]);
            lab.sessions
                .push(run.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
            lab.server.wait_until("the session is open", LONG, || lab.server.path(&mark).exists());
        }
        lab
    }

    /// The command line of a login by one method alone.
    fn command(&self, (user, from, method, _): &Way) -> Vec<String> {
        let mut command = self.server.ssh_command(from);
        let destination = command.pop().unwrap().replace("root@", &format!("{user}@"));
        // One may be asked to type it either way.
        let methods = if *method == "password" { "password,keyboard-interactive" } else { method };
        let askpass = format!("SSH_ASKPASS={}", self.server.path("/root/askpass").display());
        let ssh = command.iter().position(|word| word == "ssh").unwrap();
        let mut options = vec![format!("PreferredAuthentications={methods}"), "NumberOfPasswordPrompts=1".to_owned()];
        if *method == "password" {
            options.extend(["BatchMode=no".to_owned(), "PubkeyAuthentication=no".to_owned()]);
            command.splice(ssh..ssh, ["env".to_owned(), askpass, "SSH_ASKPASS_REQUIRE=force".to_owned()]);
        }
        // The first of two options counts.
        let ssh = command.iter().position(|word| word == "ssh").unwrap() + 1;
        command.splice(ssh..ssh, options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        command.push(destination);
        command
    }

    /// Whether a login gives a shell. Who is refused while sshd opens its sockets anew, or on a busy machine, tries again.
    fn gets_in(&self, way: &Way) -> bool {
        let words = [self.command(way), vec!["echo a; echo shell".to_owned()]].concat();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for wait in [150, 400, 0] {
            let output = lab::run(&words);
            if output.stdout.contains("a\nshell") {
                return true;
            }
            if !output.stderr.contains("Connection refused") {
                return false;
            }
            std::thread::sleep(Duration::from_millis(wait));
        }
        false
    }

    /// The same; who fails tries once more and alone, since a busy machine is no lockout.
    fn surely_working(&self, ways: &[Way]) -> Vec<Way> {
        let works = self.working(ways);
        if works.len() == ways.len() {
            return works;
        }
        ways.iter().filter(|way| works.contains(way) || self.gets_in(way)).copied().collect()
    }

    /// Which of these ways work, tried side by side.
    fn working(&self, ways: &[Way]) -> Vec<Way> {
        std::thread::scope(|scope| {
            let tries: Vec<_> = ways.iter().map(|way| scope.spawn(move || self.gets_in(way))).collect();
            ways.iter().zip(tries).filter_map(|(way, works)| works.join().unwrap().then_some(*way)).collect()
        })
    }

    /// Puts a configuration in place of all that was edited and has sshd follow; false where it does not take it.
    fn by_hand(&self, text: &str) -> bool {
        self.server.write("/etc/ssh/sshd_config", self.server.read("/root/sshd_config"));
        self.server.write(DROP_IN, text);
        // sshd removes the file, opens its sockets anew, then writes it (sshd.c, `sighup_restart` and `main`).
        let script = "sshd -t 2>/dev/null || exit 1; at() { stat -c %y /run/sshd.pid 2>/dev/null || true; }
             old=$(at); systemctl reload ssh.service || exit 2
             for i in $(seq 500); do new=$(at); [ -z \"$new\" ] || [ \"$new\" = \"$old\" ] || exit 0; sleep 0.02; done; exit 2";
        let done = self.server.sh(script);
        assert!(done.status < 2, "sshd does not follow: {done:?}\n{}", self.journal());
        done.ok()
    }

    /// What systemd, sshd and the agent said last.
    fn journal(&self) -> String {
        let script =
            "journalctl -q --no-pager -n 150 -o short-precise -u ssh -u sshfix-agent -u sshfix-sshd; cat /etc/hosts.deny";
        self.server.sh(script).stdout
    }

    /// Values may begin with `-`, so what is an option comes before `--`.
    fn ctl(&self, words: &[String], more: &[&str]) -> lab::CtlResult {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (verb, rest) = words.split_at(words.len().min(2));
        let at = rest.iter().position(|word| *word == "--match").unwrap_or(rest.len());
        let (values, within) = rest.split_at(at);
        let end: &[&str] = if values.is_empty() { &[] } else { &["--"] };
        self.server.ctl(&[verb, more, within, end, values].concat())
    }

    /// One configuration and the edits on it.
    fn round(&self, seed: u64, number: u64, report: &mut Report) {
        let dice = &mut Dice::new(seed, number);
        let text = loop {
            let text = configuration(dice);
            if self.by_hand(&text) {
                break text;
            }
        };
        self.server.sh(&surroundings(dice)).expect_ok();
        let mut ways = self.working(&WAYS);
        let mut made: Vec<String> = Vec::new();
        for _ in 0..EDITS {
            let edit = edit(dice, &self.server.read(DROP_IN));
            let line = edit.join(" ");
            let name = |said: &str| {
                format!("seed {seed} round {number} on {}\n{text}{}\n=> {line}\n{said}", self.server.release(), made.join("\n"))
            };
            if ways.is_empty() {
                return;
            }
            let answer = self.ctl(&edit, &["--confirm-within", "10m", "--json"]);
            report.asking += answer.time;
            let runs = self.server.run(&["systemctl", "is-active", "--quiet", "ssh.service"]).ok();
            assert!(runs, "ssh.service does not run any more: {}\n{}", name(&answer.stdout), self.journal());
            match answer.status {
                5 => {
                    report.applied += 1;
                    let works = self.surely_working(&ways);
                    let lost: Vec<Way> = ways.iter().filter(|way| !works.contains(way)).copied().collect();
                    if !lost.is_empty() {
                        println!("LOCKOUT {}", name(&format!("{lost:?}\n{}", answer.stdout)));
                        report.lockouts.push(name(&format!("{lost:?}\n{}", answer.stdout)));
                    }
                    let id = answer.json()["id"].as_str().unwrap().to_owned();
                    let kept = lost.is_empty() && self.ctl(&[], &["confirm", &id]).status == 0;
                    if kept {
                        made.push(line);
                    } else {
                        self.ctl(&[], &["rollback", &id]);
                        return;
                    }
                    // What was opened besides is no part of this.
                    ways = works;
                }
                4 => {
                    report.refused += 1;
                    let why = answer.json()["message"].as_str().unwrap_or_default().to_owned();
                    // The clients here are of one kind; other kinds are asked in attacks_ways.rs.
                    let kept_out = is_of_who_was_out(&answer.json()["locked_out"], &ways);
                    let harmless = !why.contains("would leave clients like") && self.would_be_harmless(&edit, &ways);
                    if harmless && kept_out {
                        report.kept_out += 1;
                    } else if harmless {
                        println!("NEEDLESS {}", name(&why));
                        report.harmless += 1;
                        *report.needless.entry(name(&why)).or_default() += 1;
                    }
                }
                0 => report.nothing += 1,
                _ => {
                    report.other += 1;
                    if ![1, 3].contains(&answer.status) {
                        println!("{}", name(&format!("{answer:#?}")));
                    }
                }
            }
        }
    }

    /// Makes the edit without the proof, tries every way that worked, and takes it back. Where all of them still work, every other way counts,
    /// too: one that failed by chance before, and one that something beside sshd keeps out for now.
    fn would_be_harmless(&self, edit: &[String], ways: &[Way]) -> bool {
        self.server.write("/run/sshfix/without-proof", "");
        let answer = self.ctl(edit, &["--confirm-within", "10m", "--json"]);
        self.server.sh("rm -f /run/sshfix/without-proof").expect_ok();
        if answer.status != 5 {
            return false;
        }
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        let take_back = || {
            let back = self.ctl(&[], &["rollback", &id]);
            assert_eq!(back.status, 0, "{back:#?}");
        };
        if self.working(ways).len() < ways.len() {
            take_back();
            return false;
        }
        let of_sshd = edit.first().is_some_and(|word| word == "sshd");
        if of_sshd {
            let lift = "nft list table inet law > /root/law.nft; nft flush table inet law
                 cp /etc/hosts.allow /etc/hosts.deny /root/; : > /etc/hosts.allow; : > /etc/hosts.deny";
            self.server.sh(lift).expect_ok();
        }
        let after = self.surely_working(&WAYS);
        take_back();
        let before = self.surely_working(&WAYS);
        if of_sshd {
            let back = "nft delete table inet law; nft -f /root/law.nft; cp /root/hosts.allow /root/hosts.deny /etc/";
            self.server.sh(back).expect_ok();
        }
        before.iter().all(|way| after.contains(way))
    }
}

/// Whether a certain refusal is about a protected way that did not work before the edit.
fn is_of_who_was_out(locked_out: &serde_json::Value, worked: &[Way]) -> bool {
    let is_it = |(user, from, ..): &&Way| locked_out["user"] == **user && locked_out["source"] == **from;
    locked_out["verdict"] == "refuse" && WAYS.iter().any(|way| is_it(&way)) && !worked.iter().any(|way| is_it(&way))
}

/// Whether so many needless refusals say that their rate is above 2 % (see the top of this file).
fn too_many(needless: usize, harmless: usize) -> bool {
    let counted = |number: usize| f64::from(u32::try_from(number).unwrap());
    if harmless >= 1000 {
        return needless * 50 > harmless;
    }
    // The chance of fewer: one term of the binomial distribution after the other.
    let (all, rate) = (counted(harmless), 0.02_f64);
    let mut term = (1.0 - rate).powf(all);
    let mut fewer = 0.0;
    for count in 0..needless {
        fewer += term;
        term *= (all - counted(count)) / (counted(count) + 1.0) * rate / (1.0 - rate);
    }
    needless > 0 && 1.0 - fewer < 0.001
}

#[test]
fn a_count_that_comes_by_chance_is_no_failure() {
    for (needless, harmless, failed) in
        [(0, 0, false), (1, 1, false), (2, 2, true), (7, 100, false), (8, 100, true), (20, 1000, false), (21, 1000, true)]
    {
        assert_eq!(too_many(needless, harmless), failed, "{needless} of {harmless}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn what_works_before_an_edit_works_after_it() {
    if !lab::root_or_skip() {
        return;
    }
    let (pairs, seed) = (number("SSHFIX_PAIRS", 500), number("SSHFIX_SEED", 1));
    let (next, done) = (AtomicU64::new(number("SSHFIX_FIRST", 0)), AtomicU64::new(0));
    let (started, most) = (Instant::now(), Duration::from_secs(number("SSHFIX_SECONDS", 200)));
    let work = |release| {
        let lab = Lab::boot(release);
        let mut report = Report::default();
        while done.load(Ordering::Relaxed) < pairs && started.elapsed() < most {
            let before = report.applied + report.refused;
            let number = next.fetch_add(1, Ordering::Relaxed);
            println!("round {number} on {release}");
            lab.round(seed, number, &mut report);
            let new = (report.applied + report.refused - before).try_into().unwrap();
            println!("{} pairs after {:.0?}", done.fetch_add(new, Ordering::Relaxed) + new, started.elapsed());
        }
        report
    };
    let work = &work;
    let mut report = std::thread::scope(|scope| {
        let workers = Release::ALL.map(|release| scope.spawn(move || work(release)));
        let reports = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        reports.reduce(Report::add).unwrap()
    });
    report.took = started.elapsed();
    println!("{report}");
    assert!(report.lockouts.is_empty(), "{report}");
    assert!(report.applied >= 10 && report.refused >= 3, "too few to say anything: {report}");
    let harmless = report.applied + report.harmless;
    assert!(!too_many(report.harmless, harmless), "more than 2 % of {harmless} harmless edits were refused: {report}");
}
