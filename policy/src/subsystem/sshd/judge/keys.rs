//! Which keys let a user in, in sshd's order: of each key the first line that authorises it counts, with its options, and none behind it
//! (auth2-pubkey.c `user_key_allowed`, auth2-pubkeyfile.c). And why the others do not, as far as that is certain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::host::{self, HostState, Needs};
use crate::subsystem::sshd::config::{Client, Listed, address_list_at, is_name};
use crate::subsystem::sshd::facts::authorized_keys::AuthorizedKey;
use crate::subsystem::sshd::facts::key_options::LineFault;
use crate::subsystem::sshd::facts::passed_over::PassedOver;
use crate::subsystem::sshd::facts::revoked_keys::RevokedKeys;
use crate::subsystem::sshd::facts::state::{Account, Need};
use crate::subsystem::sshd::judge::doubt::{Can, Doubt};
use crate::subsystem::sshd::judge::key_places::{has_strange_token, is_strict, key_places};
use crate::subsystem::sshd::{Effective, Reading};

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
    /// What may count in its place, because it comes first.
    pub before: Before,
}

/// What may authorise a key before the line that is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Before {
    /// Files that sshd may read, and whose keys are not known.
    pub files: BTreeSet<Doubt>,
    /// The options of lines with the same key, which perhaps count.
    pub lines: Vec<String>,
}

/// A line or a file that gives no key for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncounted {
    /// The file.
    pub path: String,
    /// The line in it.
    pub line: Option<u32>,
    /// The key: `ssh-ed25519 SHA256:...`
    pub key: Option<String>,
    /// Why.
    pub why: WhyNot,
}

/// Why a line or a file gives no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// `RevokedKeys` names no file that is there, so that it takes every key back: why.
    NoList(String),
    /// A line of the file of `RevokedKeys` is no key, so that it takes every key back: which.
    BrokenList(String),
    /// The file of `RevokedKeys` takes it back.
    Revoked(String),
    /// `PubkeyAcceptedAlgorithms` has none by which it signs.
    NotAccepted,
    /// It is shorter than `RequiredRSASize`: its bits, and those.
    TooShort(u32, u32),
    /// `PermitRootLogin forced-commands-only`, and it has no command.
    NoCommand,
    /// Its `from=` leaves the client out.
    From,
    /// sshd passes over the line.
    Line(LineFault),
    /// sshd passes over the file.
    File(Box<PassedOver>),
    /// A `%` token of this keyword's value ends the connection.
    Token(&'static str),
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyNot::NoList(why) | WhyNot::BrokenList(why) => write!(f, "RevokedKeys refuses every key: {why}"),
            WhyNot::Revoked(path) => write!(f, "{path} (RevokedKeys) takes it back"),
            WhyNot::NotAccepted => f.write_str("PubkeyAcceptedAlgorithms leaves out every algorithm that it signs by"),
            WhyNot::TooShort(bits, needed) => write!(f, "it has {bits} bits, and RequiredRSASize asks for {needed}"),
            WhyNot::NoCommand => {
                f.write_str("PermitRootLogin forced-commands-only takes keys with command= alone, and it has none")
            }
            WhyNot::From => f.write_str("its from= leaves this address out"),
            WhyNot::Line(fault) => write!(f, "sshd passes over it: {fault}"),
            WhyNot::File(why) => why.fmt(f),
            WhyNot::Token(keyword) => {
                let keyword = crate::subsystem::sshd::config::keyword::spelling(keyword);
                write!(f, "{keyword} has a % token that sshd does not know, which ends the connection")
            }
        }
    }
}

impl Uncounted {
    /// `/home/alice/.ssh/authorized_keys line 3`
    pub fn place(&self) -> String {
        self.line.map_or_else(|| self.path.clone(), |line| format!("{} line {line}", self.path))
    }
}

impl Key {
    /// Whether it lets in as the other one did: with the same options, or with none, by every algorithm that it signed by, and nothing
    /// else may count before it.
    pub(super) fn is_no_less_than(&self, key: &Key) -> bool {
        self.fingerprint == key.fingerprint
            && (self.options == key.options || self.options.is_empty())
            && self.algorithms.is_superset(&key.algorithms)
            && self.before.adds_nothing_to(key)
    }
}

impl Before {
    /// Whether all of it may have counted before this key, or as this key; in the same order. A line without options takes nothing away.
    fn adds_nothing_to(&self, key: &Key) -> bool {
        let mut could = key.before.lines.iter().chain([&key.options]);
        let mut lines = self.lines.iter().filter(|options| !options.is_empty());
        self.files.iter().all(|file| file.is_among(&key.before.files)) && lines.all(|one| could.any(|other| other == one))
    }
}

/// The keys of a user.
#[derive(Default)]
pub(super) struct FoundKeys {
    pub(super) keys: BTreeSet<Key>,
    pub(super) perhaps: BTreeMap<Key, BTreeSet<Doubt>>,
    pub(super) sources: BTreeSet<Doubt>,
    pub(super) files: BTreeSet<String>,
    pub(super) uncounted: Vec<Uncounted>,
    pub(super) no_files: bool,
    /// How far each key got, by fingerprint.
    progress: BTreeMap<String, Progress>,
    /// The files so far that may hold any key.
    not_known: BTreeSet<Doubt>,
}

/// What the lines of one key came to so far.
#[derive(Default)]
struct Progress {
    /// One counts: no other does.
    decided: bool,
    lines: Vec<String>,
    /// Why it is not known whether one counts after which sshd refuses the login.
    doubts: BTreeSet<Doubt>,
}

impl FoundKeys {
    pub(super) fn can(&self) -> Can {
        match (self.keys.is_empty(), self.perhaps.is_empty() && self.sources.is_empty()) {
            (false, _) => Can::Work,
            (true, false) => Can::Perhaps(self.doubts()),
            (true, true) => Can::Not,
        }
    }

    /// The same where so many different keys are asked for, more than are known to let in.
    pub(super) fn can_with(&self, keys_asked: usize) -> Can {
        let too_few = self.sources.is_empty() && self.keys.len() + self.perhaps.len() < keys_asked;
        if too_few { Can::Not } else { Can::Perhaps(self.doubts()) }
    }

    fn doubts(&self) -> BTreeSet<Doubt> {
        self.perhaps.values().flatten().chain(&self.sources).cloned().collect()
    }

    fn uncounted(&mut self, path: &str, key: Option<&AuthorizedKey>, why: WhyNot) {
        let named = key.filter(|key| key.is_key()).map(|key| format!("{} {}", key.kind, key.fingerprint));
        let line = key.map(|key| key.line).filter(|line| *line > 0);
        self.uncounted.push(Uncounted { path: path.to_owned(), line, key: named, why });
    }

    /// The next line of a file.
    fn take(&mut self, asked: &Asked, path: &str, key: &AuthorizedKey) {
        if let Some(fault) = key.fault {
            return self.uncounted(path, Some(key), WhyNot::Line(fault));
        }
        if !key.is_key() {
            _ = self.sources.insert(Doubt::Line(path.to_owned()));
            return;
        }
        let algorithms = key.signs_by(asked.effective);
        let mut doubts = match asked.usable(key, &algorithms) {
            Ok(doubts) => doubts,
            Err(why) => return self.uncounted(path, Some(key), why),
        };
        let progress = self.progress.entry(key.fingerprint.clone()).or_default();
        if progress.decided {
            return;
        }
        progress.decided = doubts.is_empty();
        if asked.needs_command && key.option("command").is_none() {
            // auth2.c asks for the command after the line was chosen.
            progress.doubts.append(&mut doubts);
            return self.uncounted(path, Some(key), WhyNot::NoCommand);
        }
        doubts.extend(progress.doubts.iter().cloned());
        let before = Before { files: self.not_known.clone(), lines: progress.lines.clone() };
        progress.lines.push(key.options.clone());
        let AuthorizedKey { kind, fingerprint, options, .. } = key;
        let name = format!("{kind} {fingerprint}");
        let named = Key { name, fingerprint: fingerprint.clone(), options: options.clone(), algorithms, before };
        if doubts.is_empty() {
            self.keys.insert(named);
        } else {
            self.perhaps.insert(named, doubts);
        }
    }

    /// The connection ends for whoever offers another key than those so far, so that these count only if they come first.
    fn ends_here(&mut self, keyword: &'static str, path: &str) {
        for key in std::mem::take(&mut self.keys) {
            self.perhaps.entry(key).or_default().insert(Doubt::Token(keyword));
        }
        for doubts in self.perhaps.values_mut() {
            doubts.insert(Doubt::Token(keyword));
        }
        self.uncounted(path, None, WhyNot::Token(keyword));
        self.no_files = false;
    }
}

/// What is asked of each key.
struct Asked<'a> {
    effective: &'a Effective,
    client: &'a Client,
    revoked: Option<(&'a str, &'a RevokedKeys)>,
    needs_command: bool,
}

impl Asked<'_> {
    /// Whether sshd takes one key from this client (auth2-pubkeyfile.c `auth_authorise_keyopts`, auth2-pubkey.c) that may sign so: what is not
    /// known of that.
    fn usable(&self, key: &AuthorizedKey, algorithms: &BTreeSet<&str>) -> Result<BTreeSet<Doubt>, WhyNot> {
        let mut doubts = BTreeSet::new();
        if algorithms.is_empty() {
            let needed = self.effective.one("requiredrsasize").and_then(|bits| bits.parse().ok()).unwrap_or_default();
            let short = key.rsa_bits.filter(|bits| *bits < needed);
            return Err(short.map_or(WhyNot::NotAccepted, |bits| WhyNot::TooShort(bits, needed)));
        }
        if algorithms.iter().all(|algorithm| *algorithm == "ssh-rsa") {
            doubts.insert(Doubt::OldSignature);
        }
        match self.revoked {
            Some((_, RevokedKeys::Missing(why))) => return Err(WhyNot::NoList(why.clone())),
            Some((_, RevokedKeys::Broken(why))) => return Err(WhyNot::BrokenList(why.clone())),
            Some((path, RevokedKeys::Keys(keys))) if keys.contains(&key.fingerprint) => {
                return Err(WhyNot::Revoked(path.to_owned()));
            }
            Some((_, RevokedKeys::Unread(why))) => _ = doubts.insert(Doubt::NotRead(why.clone())),
            Some((_, RevokedKeys::Krl(which))) => _ = doubts.insert(Doubt::Krl(which.clone())),
            Some((_, RevokedKeys::Keys(_))) | None => {}
        }
        let asks = self.effective.one("pubkeyauthoptions").filter(|value| *value != "none" && key.kind.starts_with("sk-"));
        doubts.extend(asks.map(|options| Doubt::SecurityKey(options.to_owned())));
        if let Some(from) = key.option("from") {
            let by_name = self.effective.one("usedns") == Some("yes") && from.split(',').any(is_name);
            match address_list_at(self.client.address, self.client.interface.as_deref(), &from) {
                Some(Listed::Yes) if !by_name => {}
                Some(Listed::Excluded) => return Err(WhyNot::From),
                _ => _ = doubts.insert(Doubt::KeyOptions(key.options.clone(), by_name)),
            }
        }
        if key.option("expiry-time").is_some() {
            doubts.insert(Doubt::KeyOptions(key.options.clone(), false));
        }
        Ok(doubts)
    }
}

/// Those in files that sshd reads, of a type that it takes, not taken back, whose options let them in from there; and what is not known.
pub(super) fn keys(host: &HostState, effective: &Effective, client: &Client, account: &Account, needs: &mut Needs) -> FoundKeys {
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
        Some((path, Some(RevokedKeys::Missing(why)))) => {
            found.uncounted(path, None, WhyNot::NoList(why.clone()));
            return found;
        }
        Some((path, Some(RevokedKeys::Broken(why)))) => {
            found.uncounted(path, None, WhyNot::BrokenList(why.clone()));
            return found;
        }
        Some((path, Some(RevokedKeys::Unread(_)))) => {
            found.sources.insert(Doubt::NotRead(path.to_owned()));
            return found;
        }
        Some((path, Some(revoked))) => Some((path, revoked)),
    };
    let forced = effective.one("permitrootlogin") == Some("forced-commands-only");
    let asked = Asked { effective, client, revoked, needs_command: account.uid == 0 && forced };
    let places = key_places(effective, &client.user, account);
    found.no_files = true;
    for path in &places.paths {
        let Some(file) = host.sshd.key_files.get(&(client.user.clone(), path.clone())) else {
            needs.insert(host::Need::Sshd(Need::KeyFile { user: client.user.clone(), path: path.clone() }));
            found.sources.insert(Doubt::NotRead(path.clone()));
            found.no_files = false;
            continue;
        };
        for (path, file) in file.each(path) {
            let unknown = |path: &str| {
                let path = path.to_owned();
                if is_strict(effective) { Doubt::PassedOver(path) } else { Doubt::Lenient(path) }
            };
            match file.read(is_strict(effective)) {
                Reading::Missing => continue,
                Reading::Unknown(_) => {
                    found.not_known.insert(unknown(path));
                    found.sources.insert(unknown(path));
                }
                Reading::PassedOver(why) => {
                    found.sources.insert(Doubt::PassedOver(path.to_owned()));
                    found.uncounted(path, None, WhyNot::File(Box::new(why.clone())));
                }
                Reading::Keys(keys) => {
                    for key in keys {
                        found.take(&asked, path, key);
                    }
                    found.files.insert(path.to_owned());
                }
            }
            found.no_files = false;
        }
    }
    if let Some(value) = places.token {
        found.ends_here("authorizedkeysfile", &value);
        return found;
    }
    let elsewhere = ["authorizedkeyscommand", "trustedusercakeys"].into_iter();
    let elsewhere = elsewhere.filter_map(|keyword| Some(Doubt::Elsewhere(keyword, set(keyword)?.to_owned())));
    found.sources.extend(elsewhere);
    found.no_files &= !found.sources.iter().any(|source| matches!(source, Doubt::Elsewhere(..)));
    if let Some(command) = set("authorizedkeyscommand").filter(|command| has_strange_token(command, "CDfhktUu")) {
        found.sources.retain(|source| !matches!(source, Doubt::Elsewhere("authorizedkeyscommand", _)));
        found.ends_here("authorizedkeyscommand", command);
    }
    found
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
