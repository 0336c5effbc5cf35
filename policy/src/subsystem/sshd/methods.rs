//! Which methods of authentication can really work for a user: not only switched on, but with a key that sshd would read and take, or
//! a password to type. Whether a person has that key or knows that password is not known here. What is not known of a method is typed,
//! so that before and after a change can be compared by it.

use std::collections::BTreeSet;
use std::fmt;

use super::access::alternatives;
use super::account::{is_strict, key_paths};
use super::authorized_keys::AuthorizedKey;
use super::config::{Client, Listed, address_list};
use super::pam::Passwords;
use super::revoked_keys::RevokedKeys;
use super::state::{Account, Need};
use super::{Effective, Reading};
use crate::host::{self, HostState, Needs, Part};
use crate::verdict::Verdict;

/// What decides where `sshd` looks for keys and which it takes.
pub const KEY_SOURCES: [&str; 14] = [
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
    /// A key revocation list, and which.
    Krl(String),
    /// What only a security key does, and this value asks of it.
    SecurityKey(String),
    /// The options of a key say from where or until when it counts.
    KeyOptions(String),
    /// Whether the user has a password.
    Password,
    /// `pam_faillock` refuses passwords of the user for a while, or its tally cannot be read.
    Tally(String),
    /// What PAM's modules ask for besides the password.
    Pam,
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
    /// Whether others may, too, of which that is not known.
    pub other_keys: bool,
    /// Whether sshd finds no file of keys at all.
    pub no_key_files: bool,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::NotRead(path) => write!(f, "{path} was not read"),
            Doubt::PassedOver(path) | Doubt::Lenient(path) => write!(f, "whether sshd takes the keys in {path} is not known"),
            Doubt::Elsewhere(keyword, _) => write!(f, "{keyword} may give keys, which are not looked at"),
            Doubt::Krl(_) => f.write_str("the keys that are revoked are in a format that only sshd reads"),
            Doubt::SecurityKey(_) => f.write_str("PubkeyAuthOptions asks more of a security key"),
            Doubt::KeyOptions(_) => f.write_str("the options of the key say from where or until when it counts"),
            Doubt::Password => f.write_str("whether there is a password is not known"),
            Doubt::Tally(why) => f.write_str(why),
            Doubt::Pam => f.write_str("there is no password in /etc/shadow, but another module of PAM may take one"),
            Doubt::NotLookedAt(method) => write!(f, "{method} is not looked at"),
        }
    }
}

impl Doubt {
    /// Whether it is no news after these.
    fn is_among(&self, before: &BTreeSet<Doubt>) -> bool {
        let stricter = match self {
            Doubt::Lenient(path) => Some(Doubt::PassedOver(path.clone())),
            _ => None,
        };
        before.contains(self) || stricter.is_some_and(|stricter| before.contains(&stricter))
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

    /// Whether whoever can do that can do this: of each method no more is asked, and no less is known.
    pub fn is_no_worse_than(&self, was: &Way) -> bool {
        let mut asked = was.methods.clone();
        self.methods.iter().all(|(method, can)| {
            let Some(at) = asked.iter().position(|(other, _)| is_same(method, other)) else { return false };
            let (_, could) = asked.remove(at);
            match (could, can) {
                (_, Can::Work) | (Can::Not, Can::Not) => true,
                (Can::Perhaps(before), Can::Perhaps(after)) => after.iter().all(|doubt| doubt.is_among(&before)),
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
}

/// Without its device: `keyboard-interactive:pam`.
pub fn bare(method: &str) -> &str {
    method.split(':').next().unwrap_or(method)
}

/// PAM asks for the same password either way.
pub fn is_same(one: &str, other: &str) -> bool {
    let typed = |method: &str| matches!(bare(method), "password" | "keyboard-interactive");
    bare(one) == bare(other) || typed(one) && typed(other)
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
            "publickey" if keys_asked > 1 && found.keys.len() < keys_asked => Can::Not,
            "publickey" => found.can(),
            "password" => password(host, effective, client, account, needs),
            "keyboard-interactive" => interactive(host, effective, client, account, method, needs),
            _ => Can::Perhaps([Doubt::NotLookedAt(method.clone())].into()),
        };
        Way { methods: methods.iter().map(|method| (method.clone(), can(method))).collect() }
    };
    let ways = alternatives.iter().map(way).collect();
    Methods { ways, other_keys: !found.doubts.is_empty(), keys: found.keys, no_key_files: found.no_files }
}

fn password(host: &HostState, effective: &Effective, client: &Client, account: &Account, needs: &mut Needs) -> Can {
    let locked = if effective.one("usepam") == Some("yes") { tally(host, client, account, needs) } else { None };
    let other_stack = effective.one("pamservicename").is_some_and(|name| name != "sshd");
    let others = effective.one("usepam") == Some("yes") && (other_stack || account.passwords != Passwords::Shadow);
    match (account.password, locked) {
        (Some(false), _) if others => Can::Perhaps([Doubt::Pam].into()),
        (Some(false), _) => Can::Not,
        (None, _) => Can::Perhaps([Doubt::Password].into()),
        (Some(true), Some(why)) => Can::Perhaps([Doubt::Tally(why)].into()),
        (Some(true), None) => Can::Work,
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
    doubts: BTreeSet<Doubt>,
    no_files: bool,
}

impl FoundKeys {
    fn can(&self) -> Can {
        match (self.keys.is_empty(), self.doubts.is_empty()) {
            (false, _) => Can::Work,
            (true, false) => Can::Perhaps(self.doubts.clone()),
            (true, true) => Can::Not,
        }
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
            found.doubts.insert(Doubt::NotRead(path.to_owned()));
            return found;
        }
        // auth.c, `auth_key_is_revoked`: an error counts as revoked, of keys from anywhere.
        Some((_, Some(RevokedKeys::Missing(_)))) => return found,
        Some((path, Some(RevokedKeys::Unread(_)))) => {
            found.doubts.insert(Doubt::NotRead(path.to_owned()));
            return found;
        }
        Some((_, Some(revoked))) => Some(revoked),
    };
    let elsewhere = ["authorizedkeyscommand", "trustedusercakeys"].into_iter();
    found.doubts.extend(elsewhere.filter_map(|keyword| Some(Doubt::Elsewhere(keyword, set(keyword)?.to_owned()))));
    found.no_files = found.doubts.is_empty();
    for path in key_paths(effective, &client.user, account) {
        let Some(file) = host.sshd.key_files.get(&(client.user.clone(), path.clone())) else {
            needs.insert(host::Need::Sshd(Need::KeyFile { user: client.user.clone(), path: path.clone() }));
            found.doubts.insert(Doubt::NotRead(path));
            found.no_files = false;
            continue;
        };
        match file.read(is_strict(effective)) {
            Reading::Missing => continue,
            Reading::Unknown(_) if !is_strict(effective) => _ = found.doubts.insert(Doubt::Lenient(path)),
            Reading::PassedOver(_) | Reading::Unknown(_) => _ = found.doubts.insert(Doubt::PassedOver(path)),
            Reading::Keys(keys) => {
                for key in keys.iter().filter(|key| key.is_taken(effective)) {
                    match usable(key, effective, client, account, revoked) {
                        Can::Work => _ = found.keys.insert(named(key)),
                        Can::Perhaps(doubts) => found.doubts.extend(doubts),
                        Can::Not => {}
                    }
                }
            }
        }
        found.no_files = false;
    }
    found
}

fn named(key: &AuthorizedKey) -> Key {
    let AuthorizedKey { kind, fingerprint, options, .. } = key;
    Key { name: format!("{kind} {fingerprint}"), fingerprint: fingerprint.clone(), options: options.clone() }
}

/// Whether one key of a type that is taken lets this client in (auth2-pubkeyfile.c `auth_authorise_keyopts`, auth2-pubkey.c).
fn usable(key: &AuthorizedKey, effective: &Effective, client: &Client, account: &Account, revoked: Option<&RevokedKeys>) -> Can {
    let mut doubts = BTreeSet::new();
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
        match address_list(client.address, &from) {
            Some(Listed::Yes) => {}
            Some(Listed::Excluded) => return Can::Not,
            _ => _ = doubts.insert(Doubt::KeyOptions(key.options.clone())),
        }
    }
    if key.option("expiry-time").is_some() {
        doubts.insert(Doubt::KeyOptions(key.options.clone()));
    }
    if doubts.is_empty() { Can::Work } else { Can::Perhaps(doubts) }
}
