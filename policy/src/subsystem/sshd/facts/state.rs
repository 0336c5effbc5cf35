//! What was read of sshd, fact by fact as the stages ask for it. Nothing of it is read for questions that are not about a login.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::host::Part;
use crate::subsystem::sshd::config::keyword::canonical;
use crate::subsystem::sshd::config::{Document, Line, Tree, is_scoped, text_of};
use crate::subsystem::sshd::facts::faillock::Tally;
use crate::subsystem::sshd::facts::journal::{Entrance, Journal};
use crate::subsystem::sshd::facts::pam::Passwords;
use crate::subsystem::sshd::facts::power::Power;
use crate::subsystem::sshd::facts::revoked_keys::RevokedKeys;
use crate::subsystem::sshd::facts::root_folder::RootFolder;
use crate::subsystem::sshd::facts::stack::AccountStack;
use crate::subsystem::sshd::{Answer, Candidate, Effective, Invocation, KeyFile, Running};

/// A fact about sshd that is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Need {
    /// The sshd on this port.
    Server(u16),
    /// What `sshd -T -C` says for a login.
    Login(Login),
    /// A user of the host.
    Account(String),
    /// A file of authorized keys of a user: who owns it, and who may write to it.
    KeyFile {
        /// Whose.
        user: String,
        /// Where.
        path: String,
    },
    /// The file of revoked keys at this path.
    RevokedKeys(String),
    /// What stands at this path, which is a value of a keyword.
    ValueFile(String),
    /// The folder that becomes the root of a user's session, with those above it.
    RootFolder {
        /// Whose.
        user: String,
        /// Where.
        path: String,
    },
    /// What sshd says of files that are not in place yet.
    Candidate(Candidate),
    /// What `sshd -T -C` says for a login with those files.
    CandidateLogin(Candidate, Login),
    /// What sshd, systemd and the kernel said of it lately.
    Journal,
    /// By which method the live sessions logged in.
    Entrances,
    /// What `pam_faillock` remembers of a user.
    Tally(String),
    /// Whether the host is going down or coming up.
    Power,
    /// The running sshd on this port and its files besides their text.
    Running(u16),
}

/// A login, as `sshd -T -C user=,host=,addr=,laddr=,lport=` takes it. The host name is the address, as with `UseDNS no`, and a link-local
/// address is followed by its interface, where that is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Login {
    user: String,
    /// From where.
    pub address: IpAddr,
    /// To which address of the host.
    pub local_address: IpAddr,
    /// To which port.
    pub local_port: u16,
    /// The port by which the sshd is known that is asked: it may listen on several.
    pub server: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
}

impl Login {
    /// `None` where the name could not be a user's: it is an argument of sshd, in which `,` and `=` part the fields.
    pub fn new(user: &str, address: IpAddr, local_address: IpAddr, local_port: u16) -> Option<Self> {
        is_user_name(user).then(|| Self {
            user: user.to_owned(),
            address,
            local_address,
            local_port,
            server: local_port,
            interface: None,
        })
    }

    /// The same, asked of the sshd on another port that listens there, too.
    #[must_use]
    pub fn of_server(self, server: u16) -> Self {
        Self { server, ..self }
    }

    /// The same over this interface, where the addresses are link-local.
    #[must_use]
    pub fn over(self, interface: Option<&str>) -> Self {
        let matters = is_scoped(self.address) || is_scoped(self.local_address);
        Self { interface: interface.filter(|name| matters && is_interface_name(name)).map(str::to_owned), ..self }
    }

    /// The interface of link-local addresses, where it is known.
    pub fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// Both addresses as sshd says them: of the client, and of the host.
    pub fn texts(&self) -> (String, String) {
        let text = |address| text_of(address, self.interface());
        (text(self.address), text(self.local_address))
    }

    /// As whom.
    pub fn user(&self) -> &str {
        &self.user
    }
}

/// Names that useradd(8) makes, and those of directories (`alice@example.org`, `EXAMPLE+alice`). Never a path or an option.
pub fn is_user_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '@' | '+' | '$');
    (1..=256).contains(&name.len()) && name.chars().all(letter) && !name.starts_with('-') && name.chars().any(|c| c != '.')
}

/// Names of interfaces that can stand in an argument of sshd, in which `,` and `=` part the fields.
pub fn is_interface_name(name: &str) -> bool {
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=15).contains(&name.len()) && name.chars().all(usual) && !name.chars().all(|c| c.is_ascii_digit())
}

/// What was asked and answered so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The sshds on the ports asked about.
    pub servers: BTreeMap<u16, Part<Server>>,
    /// The effective configuration of logins; the text says why there is none.
    pub logins: BTreeMap<Login, Result<Effective, String>>,
    /// Users by name.
    pub accounts: BTreeMap<String, Part<Account>>,
    /// Files of authorized keys, by user and path.
    pub key_files: BTreeMap<(String, String), KeyFile>,
    /// Files of revoked keys, by path.
    pub revoked_keys: BTreeMap<String, RevokedKeys>,
    /// What stands at paths that are values.
    pub value_files: BTreeMap<String, ValueFile>,
    /// Folders that become the root of a session, by user and path.
    pub root_folders: BTreeMap<(String, String), RootFolder>,
    /// What sshd says of files that are not in place.
    pub candidates: BTreeMap<Candidate, Answer>,
    /// The effective configuration of logins with such files.
    pub candidate_logins: BTreeMap<(Candidate, Login), Result<Effective, String>>,
    /// The last quarter of an hour.
    pub journal: Option<Journal>,
    /// How live sessions logged in, by the client's end; those that the journal does not tell of are left out.
    pub entrances: Option<BTreeMap<SocketAddr, Entrance>>,
    /// Tallies of `pam_faillock`, by user; absent where sshd does not ask it.
    pub tallies: BTreeMap<String, Part<Tally>>,
    /// The host as a whole.
    pub power: Option<Power>,
    /// What is known of the running sshds and their files besides their text.
    pub running: BTreeMap<u16, Running>,
}

/// The sshd on a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// How it was started, or would be.
    pub invocation: Invocation,
    /// Whether a process of it holds the port now, or systemd does for it.
    pub running: bool,
    /// OpenSSH's version, major and minor.
    pub version: Option<(u16, u16)>,
    /// What `sshd -t` complains about.
    pub test: Result<(), String>,
    /// Its files.
    pub tree: Result<Tree, String>,
    /// What `sshd -T` prints for everybody.
    pub effective: Result<Effective, String>,
    /// `/run/sshd`.
    pub privsep: Folder,
    /// The files of its host keys, in its order.
    pub host_key_files: Vec<HostKey>,
    /// As its title counts them.
    pub startups: Option<Startups>,
    /// The other ends of connections on which nobody has logged in yet.
    pub unauthenticated: Vec<SocketAddr>,
    /// Who starts it and makes it read its files again.
    pub manager: Manager,
    /// The types of the host keys that `effective` names: `ssh-ed25519`, ...
    pub host_keys: Vec<String>,
    /// Files that changed after sshd last read them, so that what runs may be another configuration than what they say.
    pub stale: Vec<String>,
    /// When the one that runs read its files; nothing where that is not known.
    pub read_at: Option<Timestamp>,
    /// Of a prediction: the files that differ from what was read, with what was read and what is predicted.
    pub edited: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
}

#[cfg(any(test, feature = "fake"))]
impl Server {
    /// For tests: one that runs with these options and has read these files, the first of which is its main one. Nothing else is known of
    /// it, and nothing is wrong with it.
    #[doc(hidden)]
    pub fn with_files(invocation: Invocation, files: &[(&str, &str)]) -> Self {
        let mut tree = Tree::new(files.first().map_or("", |(path, _)| *path));
        for (path, text) in files {
            tree.files.insert((*path).to_owned(), Document::parse(text.as_bytes()));
        }
        Self {
            invocation,
            running: true,
            version: None,
            test: Ok(()),
            tree: Ok(tree),
            effective: Err("not in this test".to_owned()),
            privsep: Folder::Good,
            host_key_files: Vec::new(),
            startups: None,
            unauthenticated: Vec::new(),
            manager: Manager::Nobody,
            host_keys: Vec::new(),
            stale: Vec::new(),
            read_at: None,
            edited: BTreeMap::new(),
        }
    }
}

/// Who starts an sshd and makes it read its files again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manager {
    /// A service of systemd.
    Service {
        /// Its name.
        name: String,
        /// Whether it has an `ExecReload`.
        can_reload: bool,
        /// `KillMode` (systemd.kill(5)): whom a restart ends.
        kill_mode: String,
        /// The socket unit that listens for it; the port is that unit's.
        socket: Option<String>,
        /// What it does at a boot.
        #[serde(default)]
        boot: Boot,
        /// What it runs beside sshd.
        #[serde(default)]
        runs: Runs,
    },
    /// systemd listens by this socket unit and starts an sshd for each connection (`Accept=yes`).
    Connections(String),
    /// Nobody: a process that was started by hand or by another init.
    Nobody,
}

/// What a service runs beside its main program: programs with their arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// `ExecReload`
    pub at_reload: Vec<Vec<String>>,
    /// What it runs at a stop and a start (`ExecStartPre`, `ExecStop`, ...).
    pub at_restart: Vec<Vec<String>>,
}

/// What a service of sshd does at a boot while an address that it is to listen on is not there yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// It is started after the network is online (`After=` and `Wants=network-online.target`).
    pub waits: bool,
    /// It is started again, for as long as it takes, where sshd ends because it can listen nowhere.
    pub tries_again: bool,
    /// Addresses that are not there can be listened on.
    pub absent: Absent,
}

/// Of which family (ip(7), `ip_nonlocal_bind`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Those of IPv4.
    pub v4: bool,
    /// Those of IPv6.
    pub v6: bool,
}

impl Server {
    /// Whether the value of a keyword (in lower case) may come from what changed since sshd read its files: a line of a file that did, or
    /// anything where links or folders did, or a line cannot be read.
    pub fn may_be_new(&self, keyword: &str) -> bool {
        let Ok(tree) = &self.tree else { return !self.stale.is_empty() };
        let sets = |line: &Line| line.directive().map_or(true, |it| it.is_some_and(|set| canonical(&set.keyword) == keyword));
        self.stale.iter().any(|path| tree.files.get(path).is_none_or(|file| file.lines().any(|(_, line)| sets(line))))
    }

    /// Whether its configuration, as it was read, is the same for every login: no `Match` anywhere. False where that cannot be told.
    pub fn same_for_everybody(&self) -> bool {
        let asks = |word: &str| word.to_ascii_lowercase().contains("match");
        let plain = |line: &Line| line.directive().is_ok_and(|it| it.is_none_or(|directive| directive.keyword != "match"));
        let tree =
            self.tree.as_ref().is_ok_and(|tree| tree.files.values().flat_map(Document::lines).all(|(_, line)| plain(line)));
        self.edited.is_empty() && tree && !self.invocation.options.iter().any(|word| asks(word))
    }
}

/// The directory sshd's unprivileged half is locked into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Folder {
    /// Root's, and only root's to write.
    Good,
    /// It is not there.
    Missing,
    /// Others can write to it.
    Wrong {
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
}

/// A file that sshd takes a host key from. Its content is never read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// Where.
    pub path: String,
    /// `ssh-ed25519`, `rsa-...`: the type in the public key, where there is one.
    pub algorithm: Option<String>,
    /// The bits of an RSA key, by its public key.
    #[serde(default)]
    pub rsa_bits: Option<u32>,
    /// Why sshd would not load it.
    pub problem: Option<KeyProblem>,
    /// Whether the file changed after the running sshd had read it: what clients are shown is another key than this.
    #[serde(default)]
    pub changed: bool,
}

/// What is wrong with the file of a host key (sshd.c, `sshkey_load_private`; authfile.c, `sshkey_perm_ok`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyProblem {
    /// It is not there.
    Missing,
    /// Others than its owner may read it: its mode.
    Open(u32),
    /// It holds no key that can be loaded: what ssh-keygen says.
    Corrupt(String),
    /// It could not be looked at, so that it is not known whether sshd loads it. The text says why.
    Unread(String),
}

impl HostKey {
    /// Whether sshd does not load it for certain.
    pub fn is_lost(&self) -> bool {
        match &self.problem {
            Some(KeyProblem::Missing | KeyProblem::Open(_) | KeyProblem::Corrupt(_)) => true,
            Some(KeyProblem::Unread(_)) | None => false,
        }
    }

    /// The kind of key as `ssh-keygen -t` calls it, from its public half or from its name.
    pub fn kind(&self) -> Option<&'static str> {
        let name = self.algorithm.as_deref().unwrap_or(&self.path);
        ["ed25519", "ecdsa", "rsa"].into_iter().find(|kind| name.contains(kind))
    }

    /// Whether it is of a kind that OpenSSH no longer takes: DSA is off since 7.0 and gone since 10.0 (ssh-keygen(1)).
    pub fn is_dsa(&self) -> bool {
        self.algorithm.as_deref().map_or_else(|| self.path.contains("_dsa_"), |algorithm| algorithm == "ssh-dss")
    }
}

/// servconf.c, `fill_default_server_options`: where no line names a key.
pub const DEFAULT_KEYS: [&str; 3] = ["/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key"];

/// The files of host keys: those that `sshd -T` names; where it names none, because it has no key, those of the lines.
pub fn host_key_paths(effective: Option<&Effective>, tree: Option<&Tree>, options: &[String]) -> Vec<String> {
    if let Some(effective) = effective {
        return effective.all("hostkey").to_vec();
    }
    let settings = tree.and_then(|tree| crate::subsystem::sshd::config::evaluate(tree, options, None).ok()).unwrap_or_default();
    let named: Vec<String> =
        settings.get("hostkey").into_iter().flatten().filter_map(|line| line.arguments.first().cloned()).collect();
    if named.is_empty() { DEFAULT_KEYS.map(str::to_owned).to_vec() } else { named }
}

impl std::fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyProblem::Missing => f.write_str("not there"),
            KeyProblem::Open(mode) => write!(f, "mode {mode:04o}: others than root can read it, so sshd does not load it"),
            KeyProblem::Corrupt(said) => write!(f, "no key that could be loaded: {said}"),
            KeyProblem::Unread(why) => write!(f, "whether it is a good key is not known: {why}"),
        }
    }
}

/// `11 of 10-100 startups`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startups {
    /// Unauthenticated connections now.
    pub now: u32,
    /// From how many on sshd begins to drop.
    pub begin: u32,
    /// From how many on it drops all.
    pub full: u32,
}

impl Startups {
    /// From the title of the listener (sshd.c, `server_accept_loop`).
    pub fn from_title(title: &[u8]) -> Option<Self> {
        let title = std::str::from_utf8(title).ok()?;
        let (_, rest) = title.rsplit_once(" [listener] ")?;
        let mut words = rest.trim_end_matches(['\0', ' ']).split(' ');
        let now = words.next()?.parse().ok()?;
        let (begin, full) = words.nth(1)?.split_once('-')?;
        Some(Self { now, begin: begin.parse().ok()?, full: full.parse().ok()? })
    }
}

/// A user of the host. What could not be read is not known, with the reason: never a fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups by id.
    pub gids: Vec<u32>,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// What keeps the shell from being run.
    pub shell_problem: Result<Option<String>, String>,
    /// The names of all groups.
    pub groups: Vec<String>,
    /// The day the account expired (shadow(5), field 8), where that is past.
    pub expired: Result<Option<String>, String>,
    /// What the age of the password does, where that is over (shadow(5), fields 3, 5 and 7).
    #[serde(default = "of_no_age")]
    pub aging: Result<Option<Aging>, String>,
    /// The account part of sshd's PAM stack.
    #[serde(default)]
    pub stack: AccountStack,
    /// Whether the password is locked with `!` (passwd(1) `-l`).
    pub locked: Result<bool, String>,
    /// Whether there is a password that could be typed; not known of users whose line is not in shadow(5) or could not be read.
    pub password: Option<bool>,
    /// Whether PAM takes another password than that.
    #[serde(default)]
    pub passwords: Passwords,
    /// The file that keeps all users but root out (nologin(5)), and its first line.
    pub nologin: Result<Option<(String, String)>, String>,
}

/// What was read without an age, by an older sshfix.
#[allow(clippy::unnecessary_wraps, reason = "serde asks for the type of the field")]
fn of_no_age() -> Result<Option<Aging>, String> {
    Ok(None)
}

/// A password that is older than it may be (`pam_unix(8)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aging {
    /// It must be changed before anything else: since when it stands, and how many days it may.
    Change(String),
    /// It was not changed in time, and the account is refused.
    Over(String),
}

/// What a file says besides that sshd may write its pid over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pid {
    /// No number, or more than that.
    None,
    /// That of this sshd.
    Own,
    /// That of no process that runs.
    Ended,
    /// That of another process.
    Others(u32),
}

/// What stands at a path that is a value, as far as that decides what sshd does with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueFile {
    /// Nothing, and only root can put something there.
    Missing,
    /// A regular file that only root can write or replace.
    Regular {
        /// Its size in bytes.
        size: u64,
        /// Whether every user may read it.
        for_all: bool,
        /// Whether it can be run.
        program: bool,
        /// Whose process's number it holds.
        pid: Pid,
    },
    /// A unit of the host's other than sshd's has it as its `PIDFile=`, whether it is there or not: which.
    OfUnit(String),
    /// Anything else: a pipe, a device, a folder, or what others than root decide about. With the words for people.
    Other(String),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn startups_are_read_from_the_title() {
        let title = b"sshd: /usr/sbin/sshd -D [listener] 11 of 10-100 startups\0 ";
        assert_eq!(Startups::from_title(title), Some(Startups { now: 11, begin: 10, full: 100 }));
        assert_eq!(Startups::from_title(b"sshd: alice [priv]"), None);
    }

    #[test]
    fn names_that_are_paths_options_or_fields_are_no_user_names() {
        for name in ["alice", "alice.b", "EXAMPLE+alice", "a@example.org", "web$"] {
            assert!(is_user_name(name), "{name}");
        }
        for name in ["", "-x", "a,b", "a=b", "../x", "..", ".", "a b", "a/b", "a\n", "ä"] {
            assert!(!is_user_name(name), "{name}");
        }
    }

    #[test]
    fn a_match_anywhere_makes_logins_differ_and_what_cannot_be_read_counts_as_one() {
        let server = |main: &str, included: &str, options: &[&str]| {
            let options = options.iter().map(|word| (*word).to_owned()).collect();
            let invocation = Invocation { options, ..Invocation::plain("/usr/sbin/sshd") };
            Server::with_files(invocation, &[("/etc/ssh/sshd_config", main), ("/etc/ssh/sshd_config.d/a.conf", included)])
        };
        let plain = server("Include /etc/ssh/sshd_config.d/*.conf\n# Match user a\n", "Port 22\n", &["-D"]);
        assert!(plain.same_for_everybody());
        for (main, included, options) in [
            ("Port 22\n", "match Address 203.0.113.0/24\n", &["-D"]),
            ("Port 22\nMATCH=all\n", "", &["-D"]),
            ("Port\n", "", &["-D"]),
            ("Port 22\n", "", &["-oMatch user a"]),
        ] {
            assert!(!server(main, included, options).same_for_everybody(), "{main} {included} {options:?}");
        }
        assert!(!Server { tree: Err("it is gone".to_owned()), ..plain }.same_for_everybody());
    }
}
