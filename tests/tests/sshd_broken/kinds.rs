//! Edits that break sshd's configuration or lock people out, made by dice: each kind with many values, in the global section, in
//! Match blocks, and over files that somebody had broken by hand before. Runs nothing.

use sshfix_tests::rulesets::Dice;

/// What a person does, and what must not come of it.
#[derive(Debug)]
pub struct Edit {
    /// What kind it is, for the report.
    pub kind: &'static str,
    /// Done in the server by hand before.
    pub before: String,
    /// And put right again by hand afterwards.
    pub after: String,
    /// The words after `sshfix ctl`.
    pub words: Vec<String>,
    /// Whether sshd itself was made unable to start, so that it may come back in another way.
    pub unit: bool,
}

/// A file of drop-ins that the test writes.
pub const BY_HAND: &str = "/etc/ssh/sshd_config.d/90-by-hand.conf";
const MAIN: &str = "/etc/ssh/sshd_config";
/// Held by another program.
pub const USED_PORT: u16 = 8001;

type Kind = (&'static str, fn(&mut Dice) -> (String, String, Vec<String>));

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// An edit without anything done by hand.
fn just(line: &str) -> (String, String, Vec<String>) {
    (String::new(), String::new(), words(line))
}

/// The same inside a Match block.
fn within(line: &str, criteria: &str) -> (String, String, Vec<String>) {
    let words = words(line).into_iter().chain(["--match".to_owned(), criteria.to_owned()]);
    (String::new(), String::new(), words.collect())
}

const ADMIN: [&str; 4] = ["Address 203.0.113.7", "Address 203.0.113.0/24", "User root", "User root Address 203.0.113.7"];
const NOBODY: [&str; 5] = ["ghost", "no-one@203.0.113.0/24", "root@198.51.100.0/24", "alice@192.0.2.1", "r?o"];
const ALL_OF_THEM: [&str; 5] = ["*", "root", "r*", "root@203.0.113.7", "*@203.0.113.0/24"];
/// Verbs that must not follow files that sshd does not take.
const FOLLOW: [&str; 6] = [
    "sshd reload",
    "sshd restart",
    "sshd set MaxAuthTries 5",
    "sshd set Banner none",
    "sshd unset X11Forwarding",
    "sshd unset UsePAM",
];
/// Lines that no sshd takes.
const BROKEN: [&str; 7] = [
    "PermitRotLogin no",
    "Port",
    "Port seven",
    "Banner \"x",
    "MaxAuthTries many",
    "Match Weather fine",
    "Match User root\\nPort 2222",
];

/// Something done by hand, a verb, and the way back.
fn by_hand(before: &str, after: &str, verb: &str) -> (String, String, Vec<String>) {
    (before.to_owned(), after.to_owned(), words(verb))
}

const KINDS: [Kind; 25] = [
    ("unknown keyword", |dice| {
        just(&format!(
            "sshd set {} no",
            dice.one(&["PermitRotLogin", "Prot", "AllowUser", "X", "PasswordAuth", "Include", "Match"])
        ))
    }),
    ("wrong value", |dice| {
        just(&format!(
            "sshd set {}",
            dice.one(&[
                "MaxAuthTries many",
                "UsePAM maybe",
                "LogLevel LOUD",
                "PermitRootLogin perhaps",
                "LoginGraceTime soon",
                "Port 123456",
                "ListenAddress 300.1.1.1",
                "AuthenticationMethods telepathy",
                "Subsystem sftp",
                "RekeyLimit x",
                "IPQoS fast",
                "Port 22 22 x",
            ])
        ))
    }),
    ("wrong Match", |dice| {
        let criteria =
            dice.one(&["Weather fine", "User", "Address 10.0.0.1/8", "User \"root", "all User x", "", "LocalPort ssh"]);
        within("sshd set PermitTTY no", criteria)
    }),
    ("keyword that no Match block takes", |dice| {
        within(&format!("sshd set {}", dice.one(&["Port 22", "UsePAM yes", "HostKey /x", "MaxStartups 9"])), dice.one(&ADMIN))
    }),
    ("AllowUsers without anyone", |dice| just(&format!("sshd set AllowUsers {}", dice.one(&NOBODY)))),
    ("AllowUsers without anyone, in a Match block", |dice| {
        within(&format!("sshd set AllowUsers {}", dice.one(&NOBODY)), dice.one(&ADMIN))
    }),
    ("AllowGroups without anyone", |dice| {
        just(&format!("sshd set AllowGroups {}", dice.one(&["ghosts", "alice", "ro?", "!root"])))
    }),
    ("DenyUsers", |dice| just(&format!("sshd set DenyUsers {}", dice.one(&ALL_OF_THEM)))),
    ("DenyUsers in a Match block", |dice| within(&format!("sshd set DenyUsers {}", dice.one(&ALL_OF_THEM)), dice.one(&ADMIN))),
    ("DenyGroups", |dice| just(&format!("sshd set DenyGroups {}", dice.one(&["root", "*", "ro*", "x root"])))),
    ("PermitRootLogin no for the admin", |dice| match dice.roll(3) {
        0 => just("sshd set PermitRootLogin no"),
        _ => within("sshd set PermitRootLogin no", dice.one(&ADMIN)),
    }),
    ("no method left", |dice| {
        let lines = [
            "AuthenticationMethods password",
            "AuthenticationMethods hostbased",
            "AuthenticationMethods publickey,gssapi-with-mic",
            "PubkeyAuthentication no",
            "AuthorizedKeysFile none",
            "AuthorizedKeysFile /nowhere/%u",
            "PubkeyAcceptedAlgorithms ssh-rsa",
        ];
        let line = format!("sshd set {}", dice.one(&lines));
        if dice.once_in(2) { just(&line) } else { within(&line, dice.one(&ADMIN)) }
    }),
    ("another port", |dice| just(&format!("sshd set Port {}", [2222, 2200, USED_PORT, 23][dice.roll(4)]))),
    ("a port that is used, beside", |_| just(&format!("sshd set Port 22 {USED_PORT}"))),
    ("ListenAddress gone", |dice| {
        just(&format!(
            "sshd set ListenAddress {}",
            dice.one(&["127.0.0.1", "192.0.2.99", "::1", "203.0.113.1:2222", "127.0.0.1 ::1"])
        ))
    }),
    ("the other family only", |_| just("sshd set AddressFamily inet6")),
    ("HostKey gone", |dice| {
        just(&format!("sshd set HostKey {}", dice.one(&["/nowhere/key", "/etc/passwd", "/etc/ssh", "/etc/ssh/none_key"])))
    }),
    ("unusable algorithms", |dice| {
        just(&format!(
            "sshd set {}",
            dice.one(&[
                "Ciphers none-such",
                "Ciphers 3des-cbc",
                "KexAlgorithms none-such",
                "KexAlgorithms diffie-hellman-group1-sha1",
                "MACs none-such",
                "HostKeyAlgorithms none-such",
                "HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com",
                "Ciphers -*",
            ])
        ))
    }),
    ("limits that leave no room", |dice| {
        just(&format!("sshd set {}", dice.one(&["MaxStartups 1:100:1", "MaxAuthTries 0", "MaxSessions 0", "LoginGraceTime 1"])))
    }),
    ("files broken by hand before", |dice| {
        let line = dice.one(&BROKEN);
        // printf understands \n.
        let (file, way_back) = match dice.roll(3) {
            0 => (BY_HAND, format!("rm {BY_HAND}")),
            1 => (MAIN, format!("cp -a /root/main {MAIN}")),
            _ => ("/etc/ssh/sshd_config.d/10-first.conf", "rm /etc/ssh/sshd_config.d/10-first.conf".to_owned()),
        };
        by_hand(&format!("cp -a {MAIN} /root/main; printf '\\n{line}\\n' >> {file}"), &way_back, dice.one(&FOLLOW))
    }),
    ("Includes broken by hand before", |dice| {
        let include = dice.one(&["/etc/ssh/sshd_config", "/etc/passwd", "/root/loop.conf"]);
        let before = format!("printf 'Include /root/loop.conf\\n' > /root/loop.conf; printf 'Include {include}\\n' > {BY_HAND}");
        by_hand(&before, &format!("rm {BY_HAND}"), dice.one(&FOLLOW))
    }),
    ("host keys gone before", |dice| {
        let away = "mkdir -p /root/keys; mv /etc/ssh/ssh_host_*_key /root/keys/";
        by_hand(away, "mv /root/keys/* /etc/ssh/", dice.one(&FOLLOW))
    }),
    ("unset of what lets people in", |dice| {
        let line = dice.one(&["PermitRootLogin yes", "AuthorizedKeysFile /etc/ssh/keys/%u", "PubkeyAuthentication yes"]);
        let (keyword, _) = line.split_once(' ').unwrap_or((line, ""));
        // Behind it stands another line that would count then, and it keeps everybody out.
        let next = match keyword {
            "PermitRootLogin" => "PermitRootLogin no",
            "PubkeyAuthentication" => "PubkeyAuthentication no",
            _ => "AuthorizedKeysFile none",
        };
        let keys = "mkdir -p /etc/ssh/keys; cp /root/.ssh/authorized_keys /etc/ssh/keys/root";
        let before = format!(
            "{keys}; printf 'Match all\\n{line}\\n' > {BY_HAND}; cp -a {MAIN} /root/main; printf 'Match User root\\n{next}\\n' >> {MAIN}"
        );
        let after = format!("rm -r {BY_HAND} /etc/ssh/keys; cp -a /root/main {MAIN}");
        (before, after, words(&format!("sshd unset {keyword} --match all")))
    }),
    ("restart of a unit that fails", |dice| {
        let line = dice.one(&[
            "ExecStartPre=/bin/false",
            "ExecStart=\\nExecStart=/bin/false",
            "ExecStart=\\nExecStart=/no/such/sshd -D",
        ]);
        let before = format!(
            "mkdir -p /etc/systemd/system/ssh.service.d; printf '[Service]\\n{line}\\n' > /etc/systemd/system/ssh.service.d/x.conf; \
             systemctl daemon-reload"
        );
        by_hand(&before, "", "sshd restart")
    }),
    ("reload of a unit that fails", |dice| {
        let line = dice.one(&["ExecReload=\\nExecReload=/bin/false", "ExecReload=\\nExecReload=/bin/kill no-such-process"]);
        let before = format!(
            "mkdir -p /etc/systemd/system/ssh.service.d; printf '[Service]\\n{line}\\n' > /etc/systemd/system/ssh.service.d/x.conf; \
             systemctl daemon-reload"
        );
        by_hand(&before, "", dice.one(&["sshd reload", "sshd set MaxAuthTries 5"]))
    }),
];

/// How many kinds there are.
pub const COUNT: usize = KINDS.len();

/// The edit with this number: every kind comes as often as any other.
pub fn edit(seed: u64, number: usize) -> Edit {
    let (kind, make) = KINDS[number % KINDS.len()];
    let (before, after, words) = make(&mut Dice::new(seed, number as u64));
    let unit = kind.ends_with("a unit that fails");
    Edit { kind, before, after, words, unit }
}
