//! Law: a keyword that the table of values calls judged changes a judgement. Each is edited once in a configuration in which it decides, and
//! the proof refuses, or shows a risk.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::values::judged;
use super::{WayIn, way_in, way_in_now};
use crate::host::{HostState, Needs, Part};
use crate::subsystem::listener;
use crate::subsystem::sshd::config::{Document, Tree, keyword};
use crate::subsystem::sshd::facts::pam::Passwords;
use crate::subsystem::sshd::facts::passed_over::PassedOver;
use crate::subsystem::sshd::facts::stack::AccountStack;
use crate::subsystem::sshd::facts::state::{Account, Login, Server};
use crate::subsystem::sshd::{
    Answer, AuthorizedKey, Effective, Folder, Invocation, KeyFile, Manager, Modes, Owner, PartIs, Pid, RevokedKeys, RootFolder,
    RootPart, ValueFile,
};
use crate::verdict::{AccessPath, PathOrigin};

pub(super) const MAIN: &str = "/etc/ssh/sshd_config";
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

/// What `sshd -T` prints where no line says otherwise, as far as the stages look at it.
pub(super) const BASE: &str = "addressfamily any\nauthenticationmethods any\nauthorizedkeyscommand none\nauthorizedkeysfile .ssh/authorized_keys\n\
    casignaturealgorithms ssh-ed25519,rsa-sha2-512\nchrootdirectory none\nciphers chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr\n\
    forcecommand none\ngssapiauthentication no\nhostbasedauthentication no\nhostkeyalgorithms ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512\n\
    kbdinteractiveauthentication no\nkerberosauthentication no\nkexalgorithms curve25519-sha256,ecdh-sha2-nistp256\n\
    listenaddress 0.0.0.0:22\nlogingracetime 120\nmacs hmac-sha2-256,hmac-sha2-512\nmaxauthtries 6\nmaxsessions 10\nmaxstartups 10:30:100\n\
    passwordauthentication yes\npermitemptypasswords no\npermitrootlogin yes\npersourcemaxstartups none\npidfile /run/sshd.pid\nport 22\n\
    pubkeyacceptedalgorithms ssh-ed25519,rsa-sha2-512,rsa-sha2-256,sk-ssh-ed25519@openssh.com\npubkeyauthentication yes\n\
    pubkeyauthoptions none\nrequiredrsasize 1024\nrevokedkeys none\nstrictmodes yes\n\
    subsystem sftp /usr/lib/openssh/sftp-server\ntrustedusercakeys none\nusedns no\nusepam yes\n";

/// A keyword, who comes, what is so before, and what is so after it.
type Row = (&'static str, &'static str, &'static str, &'static str);
const TABLE: &[Row] = &[
    ("addressfamily", "alice", "", "addressfamily inet6\nlistenaddress [::]:22"),
    ("allowgroups", "alice", "", "allowgroups staff"),
    ("allowusers", "alice", "", "allowusers bob"),
    ("authenticationmethods", "alice", "", "authenticationmethods publickey,password"),
    ("authorizedkeysfile", "alice", "", "authorizedkeysfile none"),
    ("casignaturealgorithms", "alice", "trustedusercakeys /etc/ssh/ca.pub", "casignaturealgorithms rsa-sha2-512"),
    ("chrootdirectory", "alice", "", "chrootdirectory /srv"),
    ("ciphers", "alice", "", "ciphers chacha20-poly1305@openssh.com"),
    ("denygroups", "alice", "", "denygroups alice"),
    ("denyusers", "alice", "", "denyusers alice"),
    ("forcecommand", "alice", "", "forcecommand /bin/false"),
    ("gssapiauthentication", "alice", "gssapiauthentication yes", "gssapiauthentication no"),
    ("hostbasedauthentication", "alice", "hostbasedauthentication yes", "hostbasedauthentication no"),
    ("hostcertificate", "alice", "hostcertificate /etc/ssh/host-cert.pub", "-hostcertificate"),
    ("hostkey", "alice", "", "keys ssh-ed25519"),
    ("hostkeyalgorithms", "alice", "", "hostkeyalgorithms ssh-ed25519"),
    (
        "kbdinteractiveauthentication",
        "alice",
        "passwordauthentication no\nkbdinteractiveauthentication yes",
        "kbdinteractiveauthentication no",
    ),
    ("kerberosauthentication", "alice", "kerberosauthentication yes", "kerberosauthentication no"),
    ("kexalgorithms", "alice", "", "kexalgorithms sntrup761x25519-sha512@openssh.com"),
    ("listenaddress", "alice", "", "listenaddress 127.0.0.1:22"),
    ("logingracetime", "alice", "", "logingracetime 1"),
    ("macs", "alice", "", "macs hmac-sha2-512-etm@openssh.com"),
    ("maxauthtries", "alice", "", "maxauthtries 1"),
    ("maxsessions", "alice", "", "maxsessions 0"),
    ("maxstartups", "alice", "", "maxstartups 0:100:10"),
    ("passwordauthentication", "alice", "", "passwordauthentication no"),
    ("permitemptypasswords", "dave", "permitemptypasswords yes", "permitemptypasswords no"),
    ("permitrootlogin", "root", "", "permitrootlogin no"),
    ("persourcemaxstartups", "alice", "", "persourcemaxstartups 0"),
    ("persourcepenalties", "alice", "persourcepenalties no", "persourcepenalties authfail:5 noauth:1 max:600 min:15"),
    ("port", "alice", "", "port 2222\nlistenaddress 0.0.0.0:2222"),
    ("pubkeyacceptedalgorithms", "alice", "", "pubkeyacceptedalgorithms ssh-ed25519,rsa-sha2-512,sk-ssh-ed25519@openssh.com"),
    ("pubkeyauthentication", "alice", "", "pubkeyauthentication no"),
    ("pubkeyauthoptions", "alice", "", "pubkeyauthoptions verify-required"),
    ("refuseconnection", "alice", "refuseconnection no", "refuseconnection yes"),
    ("requiredrsasize", "alice", "", "requiredrsasize 4096"),
    ("revokedkeys", "alice", "", "revokedkeys /etc/ssh/revoked"),
    ("strictmodes", "alice", "strictmodes no\nauthorizedkeysfile /etc/ssh/wide", "strictmodes yes"),
    ("usedns", "alice", "usedns yes\nauthorizedkeysfile /etc/ssh/named", "usedns no"),
    ("usepam", "alice", "usepam no", "usepam yes"),
];

/// The lines of a text over those before it; `-keyword` takes one away.
pub(super) fn over(base: &str, lines: &str) -> String {
    let keyword = |line: &str| line.split(' ').next().unwrap_or_default().trim_start_matches('-').to_owned();
    let set: Vec<String> = lines.lines().map(keyword).collect();
    let kept = base.lines().filter(|line| !set.contains(&keyword(line)));
    let lines = lines.lines().filter(|line| !line.starts_with('-'));
    kept.chain(lines).flat_map(|line| [line, "\n"]).collect()
}

fn host_keys(effective: &Effective) -> Vec<String> {
    let all = effective.one("keys").unwrap_or("ssh-ed25519 ecdsa-sha2-nistp256 ssh-rsa");
    all.split(' ').map(str::to_owned).collect()
}

fn account(uid: u32, password: Option<bool>) -> Part<Account> {
    Part::Present(Account {
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
        password,
        passwords: Passwords::Shadow,
        nologin: Ok(None),
    })
}

/// A host before an edit and after it, with all that sshd would say.
pub(super) fn hosts(user: &str, before: &str, after: &str) -> (HostState, HostState) {
    let (was, is) = (Effective::parse(before), Effective::parse(after));
    let mut tree = Tree::new(MAIN);
    tree.files.insert(MAIN.to_owned(), Document::parse(before.as_bytes()));
    let server = Server {
        invocation: Invocation::plain("/usr/sbin/sshd"),
        running: true,
        version: Some((10, 0)),
        test: Ok(()),
        tree: Ok(tree),
        effective: Ok(was.clone()),
        privsep: Folder::Good,
        host_key_files: Vec::new(),
        startups: None,
        unauthenticated: Vec::new(),
        manager: Manager::Nobody,
        host_keys: host_keys(&was),
        stale: Vec::new(),
        read_at: None,
        edited: BTreeMap::new(),
    };
    let mut host = HostState::empty();
    host.listener = Part::Present(listener::State { addresses: vec![HOST], ..listener::State::default() });
    let plain = ValueFile::Regular { size: 10, for_all: true, program: false, pid: Pid::None };
    host.sshd.value_files.insert("/etc/ssh/ca.pub".to_owned(), plain);
    host.sshd.value_files.insert("/run/sshd.pid".to_owned(), ValueFile::Missing);
    for path in ["/usr/lib/openssh/sftp-server", "/usr/bin/netconf", "/bin/false", "/x"] {
        let program = ValueFile::Regular { size: 10, for_all: true, program: true, pid: Pid::None };
        host.sshd.value_files.insert(path.to_owned(), program);
    }
    host.sshd.revoked_keys.insert("/etc/ssh/revoked".to_owned(), RevokedKeys::Missing("no such file".to_owned()));
    for (name, uid, password) in [("alice", 1000, Some(true)), ("dave", 1001, None), ("root", 0, Some(true))] {
        host.sshd.accounts.insert(name.to_owned(), account(uid, password));
        host.sshd.tallies.insert(name.to_owned(), Part::Absent("not asked".to_owned()));
        for (path, is) in [("/srv", PartIs::Folder(Owner { uid: 0, gid: 0, mode: 0o755 })), ("/srv/alice", PartIs::Missing)] {
            let parts = RootFolder::Parts(vec![RootPart { path: path.to_owned(), is }]);
            host.sshd.root_folders.insert((name.to_owned(), path.to_owned()), parts);
        }
        let key = |kind: &str, bits, options: &str| AuthorizedKey {
            kind: kind.to_owned(),
            fingerprint: format!("SHA256:{kind}"),
            rsa_bits: bits,
            options: options.to_owned(),
            line: 1,
            fault: None,
        };
        let keys = [key("ssh-ed25519", None, ""), key("ssh-rsa", Some(2048), ""), key("sk-ssh-ed25519@openssh.com", None, "")];
        let file = |modes, keys: &[AuthorizedKey]| KeyFile::File { modes, keys: Ok(keys.to_vec()) };
        let named = [key("ssh-ed25519", None, "from=\"seven.example.org\"")];
        for (path, file) in [
            ("/home/x/.ssh/authorized_keys", file(Modes::Good, &keys)),
            ("/etc/ssh/wide", file(Modes::Bad(PassedOver::Other("others can write it".to_owned())), &keys)),
            ("/etc/ssh/named", file(Modes::Good, &named)),
            ("/home/x/.ssh/rc", KeyFile::Missing),
            ("/home/x/.ssh/environment", KeyFile::Unknown("there is something".to_owned())),
        ] {
            host.sshd.key_files.insert((name.to_owned(), path.to_owned()), file);
        }
    }
    let login = Login::new(user, CLIENT, HOST, 22).unwrap();
    host.sshd.logins.insert(login.clone(), Ok(was));
    let edited = BTreeMap::from([(MAIN.to_owned(), (before.as_bytes().to_vec(), after.as_bytes().to_vec()))]);
    let changed = Server { edited, ..server.clone() };
    let answer = Answer { test: Ok(()), effective: Ok(is.clone()), host_keys: host_keys(&is) };
    host.sshd.candidates.insert(changed.candidate(22), answer);
    host.sshd.candidate_logins.insert((changed.candidate(22), login), Ok(is));
    let mut now = host.clone();
    host.sshd.servers.insert(22, Part::Present(server));
    now.sshd.servers.insert(22, Part::Present(changed));
    (host, now)
}

fn judged_so(user: &str, before: &str, after: &str) -> (WayIn, WayIn) {
    let (read, now) = hosts(user, before, after);
    let path = AccessPath { source: CLIENT.into(), user: Some(user.to_owned()), port: 22, origin: PathOrigin::Keep };
    let mut needs = Needs::default();
    let ways = (way_in_now(&read, 22, &path, &mut needs), way_in(&read, &now, 22, &path, &mut needs));
    assert!(needs.is_empty(), "{needs:?}");
    ways
}

#[test]
fn each_keyword_that_is_called_judged_changes_a_judgement() {
    for (keyword, user, before, after) in TABLE {
        let before = over(BASE, before);
        let after = over(&before, after);
        let (was, is) = judged_so(user, &before, &after);
        let said = (was.worse(&is), was.new_risks(&is));
        assert!(said.0.is_some() || !said.1.is_empty(), "{keyword}");
        let (was, is) = judged_so(user, &before, &over(&before, "x11forwarding yes"));
        assert_eq!((was.worse(&is), was.new_risks(&is)), (None, Vec::new()), "{keyword}: another edit");
    }
    for known in keyword::all() {
        let name = known.name.to_ascii_lowercase();
        assert_eq!(judged(&name), TABLE.iter().any(|row| row.0 == name), "{name}");
    }
}

/// What `sshd -T` prints of penalties where no line says otherwise.
const PENALTIES: &str = "crash:90 authfail:5 noauth:1 grace-exceeded:10 refuseconnection:10 max:600 min:15 max-sources4:65536 \
    max-sources6:65536 overflow:permissive overflow6:permissive";

/// A keyword with several values in one, how it is printed before, each of its parts with another value, and what is made of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Lockout,
    Risk,
    /// It keeps nobody out.
    Nothing,
}
type Parts = (&'static str, &'static str, &'static [(&'static str, Made)]);
const PARTS: &[Parts] = &[
    (
        "persourcepenalties",
        PENALTIES,
        &[
            ("crash:91", Made::Risk),
            ("authfail:600", Made::Risk),
            ("noauth:600", Made::Risk),
            ("grace-exceeded:11", Made::Risk),
            ("refuseconnection:11", Made::Risk),
            ("max:601", Made::Risk),
            ("min:0", Made::Risk),
            ("authfail:4", Made::Nothing),
            ("min:20", Made::Nothing),
            // What is forgotten early turns nobody away.
            ("max-sources4:1", Made::Nothing),
            ("max-sources6:1", Made::Nothing),
            ("overflow:deny-all", Made::Risk),
            ("overflow:deny-all max-sources4:1", Made::Lockout),
            ("overflow:deny-all max-sources4:65535", Made::Lockout),
            ("overflow:deny-all max-sources4:70000", Made::Risk),
            // The client comes by IPv4.
            ("overflow:deny-all overflow6:deny-all max-sources6:1", Made::Risk),
            ("overflow6:deny-all max-sources6:1", Made::Risk),
            ("newterm:5", Made::Risk),
            ("overflow:new", Made::Lockout),
        ],
    ),
    (
        "maxstartups",
        "10:30:100",
        &[
            ("2:30:100", Made::Risk),
            ("10:100:100", Made::Risk),
            ("10:30:10", Made::Risk),
            ("0:100:10", Made::Lockout),
            ("20:30:200", Made::Nothing),
        ],
    ),
];

/// Parts over others, by their names.
fn parts_over(keyword: &str, before: &str, parts: &str) -> String {
    if keyword != "persourcepenalties" {
        return parts.to_owned();
    }
    let name = |word: &str| word.split(':').next().unwrap_or_default().to_owned();
    let set: Vec<String> = parts.split(' ').map(name).collect();
    let kept = before.split(' ').filter(|word| !set.contains(&name(word)));
    kept.chain(parts.split(' ')).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_part_of_a_value_that_is_judged_reaches_a_judgement() {
    for (keyword, before, parts) in PARTS {
        let base = over(BASE, &format!("{keyword} {before}"));
        for (part, made) in *parts {
            let after = over(&base, &format!("{keyword} {}", parts_over(keyword, before, part)));
            let (was, is) = judged_so("alice", &base, &after);
            let found = match (was.worse(&is), was.new_risks(&is).is_empty()) {
                (Some(_), _) => Made::Lockout,
                (None, false) => Made::Risk,
                (None, true) => Made::Nothing,
            };
            assert_eq!(found, *made, "{keyword} {part}: {:?}", was.new_risks(&is));
            let (was, is) = judged_so("alice", &after, &over(&after, "x11forwarding yes"));
            assert_eq!((was.worse(&is), was.new_risks(&is)), (None, Vec::new()), "{keyword} {part}: another edit");
        }
    }
}

#[test]
fn who_is_exempt_is_not_turned_away_for_penalties_of_others() {
    let deny = format!("persourcepenalties {}", parts_over("persourcepenalties", PENALTIES, "overflow:deny-all max-sources4:1"));
    let exempt = "persourcepenaltyexemptlist 198.51.100.0/24";
    let before = over(BASE, &format!("persourcepenalties {PENALTIES}\n{exempt}"));
    let (was, is) = judged_so("alice", &before, &over(&before, &deny));
    assert!(was.worse(&is).is_none() && !was.new_risks(&is).is_empty());
    let (was, is) = judged_so("alice", &over(&before, &deny), &over(&over(&before, &deny), "persourcepenaltyexemptlist none"));
    assert!(was.worse(&is).is_some(), "it is not any more");
}

/// What the edit of something else makes of files that sshd has not read, or may not have.
pub(super) fn beside_a_hand_edit(user: &str, by_hand: &str, edit: &str, mark: &str, stale: bool) -> Option<String> {
    let before = over(&over(BASE, mark), by_hand);
    let (mut read, mut now) = hosts(user, &before, &over(&before, edit));
    for host in [&mut read, &mut now] {
        if let Some(Part::Present(server)) = host.sshd.servers.get_mut(&22).filter(|_| stale) {
            server.stale = vec![MAIN.to_owned()];
        }
    }
    // What the files say may have been otherwise: keys are looked for where they are by default, too.
    let of_default = read.sshd.key_files.get(&(user.to_owned(), "/home/x/.ssh/authorized_keys".to_owned())).cloned().unwrap();
    for host in [&mut read, &mut now] {
        let second = (user.to_owned(), "/home/x/.ssh/authorized_keys2".to_owned());
        host.sshd.key_files.insert(second, of_default.clone());
    }
    let path = AccessPath { source: CLIENT.into(), user: Some(user.to_owned()), port: 22, origin: PathOrigin::Keep };
    let mut needs = Needs::default();
    let (was, is) = (way_in_now(&read, 22, &path, &mut needs), way_in(&read, &now, 22, &path, &mut needs));
    assert!(needs.is_empty(), "{needs:?}");
    was.worse(&is).map(|(_, why)| why.to_string())
}

#[test]
fn methods_that_files_take_away_that_may_not_be_read_are_lost_by_the_edit_of_anything() {
    let (plain, none) = ("pidfile /run/sshd.pid", "pidfile none");
    for (by_hand, may_always_be_so) in [
        ("pubkeyauthentication no", false),
        ("pubkeyauthentication no\npasswordauthentication no", false),
        ("authenticationmethods publickey,password", false),
        ("authorizedkeysfile none", false),
        ("forcecommand /bin/false", true),
        ("chrootdirectory /srv", true),
        ("denyusers alice", false),
    ] {
        let found = |mark, stale| beside_a_hand_edit("alice", by_hand, "x11forwarding yes", mark, stale);
        assert_eq!(found(plain, false), None, "{by_hand}: sshd has read that");
        let refused = found(plain, true);
        assert!(refused.as_ref().is_some_and(|why| why.contains("sshd may not have read them")), "{by_hand}: {refused:?}");
        assert_eq!(found(none, false).is_some(), !may_always_be_so, "{by_hand}");
    }
    for (by_hand, mended) in [
        ("pubkeyauthentication no", "pubkeyauthentication yes"),
        ("authenticationmethods publickey,password", "authenticationmethods any"),
        ("authorizedkeysfile none", "authorizedkeysfile .ssh/authorized_keys"),
        ("forcecommand /bin/false", "forcecommand none"),
        ("denyusers alice", "denyusers bob"),
        ("x11forwarding yes", "printmotd no"),
        ("passwordauthentication no", "printmotd no"),
    ] {
        assert_eq!(beside_a_hand_edit("alice", by_hand, mended, plain, true), None, "{by_hand}, {mended}");
    }
}
