//! Which methods of authentication can really work for a user: not only switched on, but with a key that sshd would read and take, or
//! a password to type. Whether a person has that key or knows that password is not known here. What is not known of a method is typed,
//! so that before and after a change can be compared by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::config::{Client, Listed, address_list, keyword};
use crate::subsystem::sshd::facts::authorized_keys::AuthorizedKey;
use crate::subsystem::sshd::facts::pam::Passwords;
use crate::subsystem::sshd::facts::revoked_keys::RevokedKeys;
use crate::subsystem::sshd::facts::state::{Account, Need};
use crate::subsystem::sshd::judge::access::{alternatives, is_name};
use crate::subsystem::sshd::judge::account::{is_strict, key_paths};
use crate::subsystem::sshd::{Effective, Reading};
use crate::verdict::Verdict;

/// What decides where `sshd` looks for keys and which it takes.
pub const KEY_SOURCES: [&str; 15] = [
    "authorizedkeysfile",
    "authorizedkeyscommand",
    "authorizedkeyscommanduser",
    "trustedusercakeys",
    "authorizedprincipalsfile",
    "authorizedprincipalscommand",
    "authorizedprincipalscommanduser",
    "pubkeyacceptedalgorithms",
    "casignaturealgorithms",
    "requiredrsasize",
    "revokedkeys",
    "pubkeyauthoptions",
    "strictmodes",
    "permitrootlogin",
    // `from=` of a key may go by names.
    "usedns",
];

/// What can be done with one method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Can {
    /// It works for who has the key, or knows the password.
    Work,
    /// It may: why that is not known.
    Perhaps(BTreeSet<Doubt>),
    /// It cannot.
    Not,
}

/// Why it is not known whether a method works.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// The file, or what else, was not read.
    NotRead(String),
    /// sshd would pass over this file of keys (`StrictModes`), as far as it was seen.
    PassedOver(String),
    /// sshd reads this file of keys without `StrictModes` alone, so that what it holds was not read.
    Lenient(String),
    /// Keys come from this keyword with this value.
    Elsewhere(&'static str, String),
    /// A line of this file names an authority, or gives no key that sshfix knows.
    Line(String),
    /// The key signs by SHA-1 alone, which newer clients and libraries do no more.
    OldSignature,
    /// A key revocation list, and which.
    Krl(String),
    /// What only a security key does, and this value asks of it.
    SecurityKey(String),
    /// The options of a key say from where or until when it counts; and whether names of hosts decide about it.
    KeyOptions(String, bool),
    /// Whether the user has a password; and whether an empty one counts.
    Password {
        /// `PermitEmptyPasswords`.
        empty: bool,
    },
    /// `pam_faillock` refuses passwords of the user for a while, or its tally cannot be read.
    Tally(String),
    /// What the modules of this PAM service ask for besides the password of shadow(5), or in its place.
    Pam(String),
    /// Tickets and other hosts' keys, which are not looked at.
    NotLookedAt(String),
}

/// A key that may log in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `ssh-ed25519 SHA256:...`
    pub name: String,
    /// `SHA256:...`
    pub fingerprint: String,
    /// What stands before it in the file.
    pub options: String,
    /// By what it may sign for this sshd: which of them its client does is not known.
    pub algorithms: BTreeSet<&'static str>,
}

/// One alternative: methods that must all succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Each with what can be done with it.
    pub methods: Vec<(String, Can)>,
}

/// What a user can log in with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Methods {
    /// Those that are switched on.
    pub ways: Vec<Way>,
    /// The keys that may log in, as far as they are known.
    pub keys: BTreeSet<Key>,
    /// Keys of which that is not known, and why.
    pub perhaps: BTreeMap<Key, BTreeSet<Doubt>>,
    /// Where keys may come from besides, which are not known.
    pub sources: BTreeSet<Doubt>,
    /// The files whose keys are known.
    pub files: BTreeSet<String>,
    /// Whether sshd finds no file of keys at all.
    pub no_key_files: bool,
    /// Whether a password of shadow(5) is all that password and keyboard-interactive can ask for, so that they are one way.
    pub one_password: bool,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::NotRead(path) => write!(f, "{path} was not read"),
            Doubt::PassedOver(path) | Doubt::Lenient(path) => write!(f, "whether sshd takes the keys in {path} is not known"),
            Doubt::Elsewhere(keyword, _) => {
                write!(f, "{} may give keys, which are not looked at", keyword::spelling(keyword))
            }
            Doubt::Line(path) => write!(f, "a line of {path} names an authority, or is no key that sshfix knows"),
            Doubt::OldSignature => f.write_str("the key can sign by SHA-1 alone"),
            Doubt::Krl(_) => f.write_str("the keys that are revoked are in a format that only sshd reads"),
            Doubt::SecurityKey(_) => f.write_str("PubkeyAuthOptions asks more of a security key"),
            Doubt::KeyOptions(..) => f.write_str("the options of the key say from where or until when it counts"),
            Doubt::Password { .. } => f.write_str("whether there is a password is not known"),
            Doubt::Tally(why) => f.write_str(why),
            Doubt::Pam(_) => f.write_str("a module of PAM may ask for something else than the password of /etc/shadow"),
            Doubt::NotLookedAt(method) => write!(f, "{method} is not looked at"),
        }
    }
}

impl Doubt {
    /// Whether it is no news after these.
    pub fn is_among(&self, before: &BTreeSet<Doubt>) -> bool {
        let stricter = match self {
            Doubt::Lenient(path) => Some(Doubt::PassedOver(path.clone())),
            Doubt::Password { empty: true } => Some(Doubt::Password { empty: false }),
            _ => None,
        };
        before.contains(self) || stricter.is_some_and(|stricter| before.contains(&stricter))
    }

    /// Whether it stands for something that may let in, so that it must stay.
    fn may_let_in(&self) -> bool {
        match self {
            Doubt::NotRead(_)
            | Doubt::PassedOver(_)
            | Doubt::Lenient(_)
            | Doubt::Elsewhere(..)
            | Doubt::Line(_)
            | Doubt::Password { .. }
            | Doubt::Pam(_)
            | Doubt::NotLookedAt(_) => true,
            Doubt::OldSignature | Doubt::Krl(_) | Doubt::SecurityKey(_) | Doubt::KeyOptions(..) | Doubt::Tally(_) => false,
        }
    }

    /// Whether what it stands for is still there among these.
    fn stays_in(&self, after: &BTreeSet<Doubt>) -> bool {
        let looser = match self {
            Doubt::PassedOver(path) => Some(Doubt::Lenient(path.clone())),
            Doubt::Password { empty: false } => Some(Doubt::Password { empty: true }),
            _ => None,
        };
        after.contains(self) || looser.is_some_and(|looser| after.contains(&looser))
    }
}

impl Way {
    /// `publickey and password`
    pub fn name(&self) -> String {
        self.methods.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(" and ")
    }

    /// All of it.
    pub fn verdict(&self) -> Verdict {
        let one = |(_, can): &(String, Can)| match can {
            Can::Work => Verdict::Accept,
            Can::Perhaps(_) => Verdict::Unknown,
            Can::Not => Verdict::Refuse,
        };
        self.methods.iter().map(one).fold(Verdict::Accept, Verdict::and)
    }

    /// Whether whoever can do that can do this: of each method no more is asked, and no less is known. Which keys count is compared key by
    /// key. `one_password` is whether password and keyboard-interactive are one way, before and after.
    pub fn is_no_worse_than(&self, was: &Way, one_password: bool) -> bool {
        let mut asked = was.methods.clone();
        self.methods.iter().all(|(method, can)| {
            let Some(at) = asked.iter().position(|(other, _)| is_same(method, other, one_password)) else { return false };
            let (_, could) = asked.remove(at);
            let by_key = bare(method) == "publickey";
            match (could, can) {
                (Can::Perhaps(_), Can::Work | Can::Perhaps(_)) if by_key => true,
                // What another module of PAM takes is no password of shadow(5).
                (Can::Perhaps(before), Can::Work) => !before.iter().any(Doubt::may_let_in),
                (Can::Work | Can::Not, Can::Work) | (Can::Not, Can::Not) => true,
                (Can::Perhaps(before), Can::Perhaps(after)) => {
                    let stays = |doubt: &Doubt| !doubt.may_let_in() || doubt.stays_in(after);
                    after.iter().all(|doubt| doubt.is_among(&before)) && before.iter().all(stays)
                }
                (Can::Work | Can::Not, Can::Perhaps(_)) | (Can::Work | Can::Perhaps(_), Can::Not) => false,
            }
        })
    }

    /// Why it is not known whether it works.
    pub fn doubts(&self) -> BTreeSet<&Doubt> {
        let mut all = BTreeSet::new();
        for (_, can) in &self.methods {
            match can {
                Can::Perhaps(doubts) => all.extend(doubts),
                Can::Work | Can::Not => {}
            }
        }
        all
    }

    /// Whether a key is asked for.
    pub fn by_key(&self) -> bool {
        self.methods.iter().any(|(method, _)| bare(method) == "publickey")
    }
}

impl Methods {
    /// The ways that work, else those that perhaps do; the verdict is the best of them.
    pub fn best(&self) -> (Verdict, Vec<String>) {
        let of =
            |wanted: Verdict| -> Vec<String> { self.ways.iter().filter(|way| way.verdict() == wanted).map(Way::name).collect() };
        let (sure, perhaps) = (of(Verdict::Accept), of(Verdict::Unknown));
        match (sure.is_empty(), perhaps.is_empty()) {
            (false, _) => (Verdict::Accept, sure),
            (true, false) => (Verdict::Unknown, perhaps),
            (true, true) => (Verdict::Refuse, Vec::new()),
        }
    }

    /// Whether other keys than those that are known to let in may do so, too.
    pub fn other_keys(&self) -> bool {
        !self.perhaps.is_empty() || !self.sources.is_empty()
    }

    /// The keys and sources of keys that would count no more as they did, or of which that is not known.
    pub fn lost(&self, now: &Methods) -> Vec<String> {
        let keys = self.keys.iter().filter(|key| !now.has(key));
        let perhaps = self.perhaps.iter().filter(|(key, doubts)| !now.has_perhaps(key, doubts)).map(|(key, _)| key);
        let keys = keys.chain(perhaps).map(|key| key.name.clone());
        keys.chain(self.sources.iter().filter(|source| !now.has_source(source)).map(Doubt::to_string)).collect()
    }

    /// Whether a key lets in as it did: with the same options, or with none, by every algorithm that it signed by.
    pub fn has(&self, key: &Key) -> bool {
        self.keys.iter().any(|other| other.is_no_less_than(key))
    }

    /// Whether it lets in, or for no other reason perhaps.
    pub fn has_perhaps(&self, key: &Key, doubts: &BTreeSet<Doubt>) -> bool {
        let same =
            |(other, now): (&Key, &BTreeSet<Doubt>)| other.is_no_less_than(key) && now.iter().all(|doubt| doubt.is_among(doubts));
        self.has(key) || self.perhaps.iter().any(same)
    }

    /// Whether keys come from there, or all of them are known by now.
    fn has_source(&self, source: &Doubt) -> bool {
        let read = match source {
            Doubt::NotRead(path) | Doubt::PassedOver(path) | Doubt::Lenient(path) => self.files.contains(path),
            _ => false,
        };
        read || source.stays_in(&self.sources)
    }
}

impl Key {
    fn is_no_less_than(&self, key: &Key) -> bool {
        self.fingerprint == key.fingerprint
            && (self.options == key.options || self.options.is_empty())
            && self.algorithms.is_superset(&key.algorithms)
    }
}

/// Without its device: `keyboard-interactive:pam`.
pub fn bare(method: &str) -> &str {
    method.split(':').next().unwrap_or(method)
}

/// Whether whoever can do one of them can do the other. auth2-none.c: an empty password is tried before any method is asked for.
pub fn is_same(one: &str, other: &str, one_password: bool) -> bool {
    let plain = |method: &str| if bare(method) == "none" { "password".to_owned() } else { bare(method).to_owned() };
    let typed = |method: &str| matches!(plain(method).as_str(), "password" | "keyboard-interactive");
    plain(one) == plain(other) || one_password && typed(one) && typed(other)
}

/// What this user can log in with from this address.
pub fn ways(host: &HostState, effective: &Effective, client: &Client, account: &Account, needs: &mut Needs) -> Methods {
    // auth.c, `auth_root_allowed`, goes by the number, not by the name.
    let name = if account.uid == 0 { "root" } else { client.user.as_str() };
    let alternatives = alternatives(effective, name);
    let by_key = alternatives.iter().flatten().any(|method| bare(method) == "publickey");
    let found = if by_key { keys(host, effective, client, account, needs) } else { FoundKeys::default() };
    let way = |methods: &Vec<String>| {
        // auth2-pubkey.c: each time another key is asked for.
        let keys_asked = methods.iter().filter(|method| bare(method) == "publickey").count();
        let mut can = |method: &String| match bare(method) {
            "publickey" if keys_asked > 1 && found.keys.len() < keys_asked => found.can_with(keys_asked),
            "publickey" => found.can(),
            "password" => password(host, effective, client, account, needs),
            "keyboard-interactive" => interactive(host, effective, client, account, method, needs),
            _ => Can::Perhaps([Doubt::NotLookedAt(method.clone())].into()),
        };
        Way { methods: methods.iter().map(|method| (method.clone(), can(method))).collect() }
    };
    let ways = alternatives.iter().map(way).collect();
    let FoundKeys { keys, perhaps, sources, files, no_files: no_key_files } = found;
    let one_password = other_stack(effective, account).is_none();
    Methods { ways, keys, perhaps, sources, files, no_key_files, one_password }
}

/// The PAM service that is asked and that may ask for something else than the password of shadow(5).
fn other_stack(effective: &Effective, account: &Account) -> Option<String> {
    let service = effective.one("pamservicename").unwrap_or("sshd");
    let known = service == "sshd" && account.passwords == Passwords::Shadow;
    (effective.one("usepam") == Some("yes") && !known).then(|| service.to_owned())
}

fn password(host: &HostState, effective: &Effective, client: &Client, account: &Account, needs: &mut Needs) -> Can {
    let locked = if effective.one("usepam") == Some("yes") { tally(host, client, account, needs) } else { None };
    let mut doubts: BTreeSet<Doubt> = other_stack(effective, account).map(Doubt::Pam).into_iter().collect();
    // auth-krb5.c: asked before any other.
    if effective.one("kerberosauthentication") == Some("yes") {
        doubts.insert(Doubt::NotLookedAt("KerberosAuthentication".to_owned()));
    }
    match account.password {
        Some(false) => {}
        Some(true) => doubts.extend(locked.map(Doubt::Tally)),
        None => _ = doubts.insert(Doubt::Password { empty: effective.one("permitemptypasswords") == Some("yes") }),
    }
    match (account.password, doubts.is_empty()) {
        (Some(false), true) => Can::Not,
        (_, true) => Can::Work,
        (_, false) => Can::Perhaps(doubts),
    }
}

/// With PAM that is what its modules ask for, most often the password; without, nothing asks (auth2-chall.c).
fn interactive(
    host: &HostState,
    effective: &Effective,
    client: &Client,
    account: &Account,
    method: &str,
    needs: &mut Needs,
) -> Can {
    if effective.one("usepam") != Some("yes") || method.ends_with(":bsdauth") {
        return Can::Not;
    }
    password(host, effective, client, account, needs)
}

/// Why `pam_faillock` refuses a password, or may.
fn tally(host: &HostState, client: &Client, account: &Account, needs: &mut Needs) -> Option<String> {
    match host.sshd.tallies.get(&client.user) {
        None => {
            needs.insert(host::Need::Sshd(Need::Tally(client.user.clone())));
            None
        }
        Some(Part::Absent(_)) => None,
        Some(Part::Unreadable(why)) => Some(why.clone()),
        Some(Part::Present(tally)) => tally.locked(account.uid, host.at).map(|_| format!("{} is full", tally.file)),
    }
}

/// The keys of a user.
#[derive(Default)]
struct FoundKeys {
    keys: BTreeSet<Key>,
    perhaps: BTreeMap<Key, BTreeSet<Doubt>>,
    sources: BTreeSet<Doubt>,
    files: BTreeSet<String>,
    no_files: bool,
}

impl FoundKeys {
    fn can(&self) -> Can {
        match (self.keys.is_empty(), self.perhaps.is_empty() && self.sources.is_empty()) {
            (false, _) => Can::Work,
            (true, false) => Can::Perhaps(self.doubts()),
            (true, true) => Can::Not,
        }
    }

    /// The same where so many different keys are asked for, more than are known to let in.
    fn can_with(&self, keys_asked: usize) -> Can {
        let too_few = self.sources.is_empty() && self.keys.len() + self.perhaps.len() < keys_asked;
        if too_few { Can::Not } else { Can::Perhaps(self.doubts()) }
    }

    fn doubts(&self) -> BTreeSet<Doubt> {
        self.perhaps.values().flatten().chain(&self.sources).cloned().collect()
    }
}

/// Those in files that sshd reads, of a type that it takes, not taken back, whose options let them in from there; and what is not known.
fn keys(host: &HostState, effective: &Effective, client: &Client, account: &Account, needs: &mut Needs) -> FoundKeys {
    let set = |keyword: &str| effective.one(keyword).filter(|value| *value != "none");
    let mut found = FoundKeys::default();
    let revoked = match set("revokedkeys").map(|path| (path, host.sshd.revoked_keys.get(path))) {
        None => None,
        Some((path, None)) => {
            needs.insert(host::Need::Sshd(Need::RevokedKeys(path.to_owned())));
            found.sources.insert(Doubt::NotRead(path.to_owned()));
            return found;
        }
        // auth.c, `auth_key_is_revoked`: an error counts as revoked, of keys from anywhere.
        Some((_, Some(RevokedKeys::Missing(_)))) => return found,
        Some((path, Some(RevokedKeys::Unread(_)))) => {
            found.sources.insert(Doubt::NotRead(path.to_owned()));
            return found;
        }
        Some((_, Some(revoked))) => Some(revoked),
    };
    let elsewhere = ["authorizedkeyscommand", "trustedusercakeys"].into_iter();
    found.sources.extend(elsewhere.filter_map(|keyword| Some(Doubt::Elsewhere(keyword, set(keyword)?.to_owned()))));
    found.no_files = found.sources.is_empty();
    for path in key_paths(effective, &client.user, account) {
        let Some(file) = host.sshd.key_files.get(&(client.user.clone(), path.clone())) else {
            needs.insert(host::Need::Sshd(Need::KeyFile { user: client.user.clone(), path: path.clone() }));
            found.sources.insert(Doubt::NotRead(path));
            found.no_files = false;
            continue;
        };
        match file.read(is_strict(effective)) {
            Reading::Missing => continue,
            Reading::Unknown(_) if !is_strict(effective) => _ = found.sources.insert(Doubt::Lenient(path)),
            Reading::PassedOver(_) | Reading::Unknown(_) => _ = found.sources.insert(Doubt::PassedOver(path)),
            Reading::Keys(keys) => {
                for key in keys {
                    if !key.is_key() {
                        found.sources.insert(Doubt::Line(path.clone()));
                        continue;
                    }
                    let algorithms = key.signs_by(effective);
                    let named = Key { algorithms, ..named(key) };
                    match usable(key, &named.algorithms, effective, client, account, revoked) {
                        Can::Work => _ = found.keys.insert(named),
                        Can::Perhaps(doubts) => _ = found.perhaps.insert(named, doubts),
                        Can::Not => {}
                    }
                }
                found.files.insert(path);
            }
        }
        found.no_files = false;
    }
    found
}

fn named(key: &AuthorizedKey) -> Key {
    let AuthorizedKey { kind, fingerprint, options, .. } = key;
    let name = format!("{kind} {fingerprint}");
    Key { name, fingerprint: fingerprint.clone(), options: options.clone(), algorithms: BTreeSet::new() }
}

/// Whether one key lets this client in (auth2-pubkeyfile.c `auth_authorise_keyopts`, auth2-pubkey.c) that may sign so.
fn usable(
    key: &AuthorizedKey,
    algorithms: &BTreeSet<&str>,
    effective: &Effective,
    client: &Client,
    account: &Account,
    revoked: Option<&RevokedKeys>,
) -> Can {
    let mut doubts = BTreeSet::new();
    if algorithms.is_empty() {
        return Can::Not;
    }
    if algorithms.iter().all(|algorithm| *algorithm == "ssh-rsa") {
        doubts.insert(Doubt::OldSignature);
    }
    match revoked {
        Some(RevokedKeys::Missing(_)) => return Can::Not,
        Some(RevokedKeys::Keys(keys)) if keys.contains(&key.fingerprint) => return Can::Not,
        Some(RevokedKeys::Unread(why)) => _ = doubts.insert(Doubt::NotRead(why.clone())),
        Some(RevokedKeys::Krl(which)) => _ = doubts.insert(Doubt::Krl(which.clone())),
        Some(RevokedKeys::Keys(_)) | None => {}
    }
    let forced = effective.one("permitrootlogin") == Some("forced-commands-only");
    if account.uid == 0 && forced && key.option("command").is_none() {
        return Can::Not;
    }
    if let Some(options) = effective.one("pubkeyauthoptions").filter(|value| *value != "none" && key.kind.starts_with("sk-")) {
        doubts.insert(Doubt::SecurityKey(options.to_owned()));
    }
    if let Some(from) = key.option("from") {
        let by_name = effective.one("usedns") == Some("yes") && from.split(',').any(is_name);
        match address_list(client.address, &from) {
            Some(Listed::Yes) if !by_name => {}
            Some(Listed::Excluded) => return Can::Not,
            _ => _ = doubts.insert(Doubt::KeyOptions(key.options.clone(), by_name)),
        }
    }
    if key.option("expiry-time").is_some() {
        doubts.insert(Doubt::KeyOptions(key.options.clone(), false));
    }
    if doubts.is_empty() { Can::Work } else { Can::Perhaps(doubts) }
}
