//! Which methods of authentication can really work for a user: not only switched on, but with a key that sshd would read and take, or
//! a password to type. Whether a person has that key or knows that password is not known here. What is not known of a method is typed,
//! so that before and after a change can be compared by it.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::Client;
use crate::subsystem::sshd::facts::pam::Passwords;
use crate::subsystem::sshd::facts::state::{Account, Need};
use crate::subsystem::sshd::judge::doubt::{Can, Doubt};
use crate::subsystem::sshd::judge::keys::{FoundKeys, keys};
pub use crate::subsystem::sshd::judge::keys::{Key, Uncounted};
use crate::subsystem::sshd::judge::methods_on::alternatives;
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
    /// Lines and files that give no key, and why.
    pub uncounted: Vec<Uncounted>,
    /// Whether sshd finds no file of keys at all.
    pub no_key_files: bool,
    /// Whether a password of shadow(5) is all that password and keyboard-interactive can ask for, so that they are one way.
    pub one_password: bool,
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

    /// Why the key with this fingerprint does not count, or may not, where that is known.
    pub fn why_not(&self, fingerprint: &str) -> Option<String> {
        let is_it = |one: &&Uncounted| one.key.as_ref().is_some_and(|name| name.ends_with(fingerprint));
        let of_file = |one: &&Uncounted| one.line.is_none();
        let known = self.uncounted.iter().find(is_it).or_else(|| self.uncounted.iter().find(of_file));
        let told = |one: &Uncounted| format!("{}: {}", one.place(), one.why);
        let perhaps = || self.perhaps.iter().find(|(key, _)| key.fingerprint == fingerprint)?.1.first().map(Doubt::to_string);
        perhaps().or_else(|| known.map(told)).or_else(|| self.sources.first().map(Doubt::to_string))
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

/// Without its device: `keyboard-interactive:pam`.
pub fn bare(method: &str) -> &str {
    method.split(':').next().unwrap_or(method)
}

/// Whether a method answers to what stands behind its colon (auth2-chall.c, `devices`): that of PAM, which is none without it.
fn may_answer(method: &str) -> bool {
    method.split_once(':').is_none_or(|(name, device)| name == "keyboard-interactive" && device == "pam")
}

/// Whether whoever can do one of them can do the other. auth2-none.c: an empty password is tried before any method is asked for.
pub fn is_same(one: &str, other: &str, one_password: bool) -> bool {
    let plain = |method: &str| if bare(method) == "none" { "password".to_owned() } else { bare(method).to_owned() };
    let typed = |method: &str| matches!(plain(method).as_str(), "password" | "keyboard-interactive");
    plain(one) == plain(other) || one_password && typed(one) && typed(other)
}

/// What this user can log in with from this address.
pub fn ways(host: &HostState, effective: &Effective, client: &Client, account: &Account, needs: &mut Needs) -> Methods {
    let alternatives = alternatives(effective, client.is_root);
    let by_key = alternatives.iter().flatten().any(|method| bare(method) == "publickey");
    let found = if by_key { keys(host, effective, client, account, needs) } else { FoundKeys::default() };
    let way = |methods: &Vec<String>| {
        // auth2-pubkey.c: each time another key is asked for.
        let keys_asked = methods.iter().filter(|method| bare(method) == "publickey").count();
        let mut can = |method: &String| match bare(method) {
            // auth2.c, `list_starts_with`: no method answers to another one.
            _ if !may_answer(method) => Can::Not,
            "publickey" if keys_asked > 1 && found.keys.len() < keys_asked => found.can_with(keys_asked),
            "publickey" => found.can(),
            "password" => password(host, effective, client, account, needs),
            "keyboard-interactive" => interactive(host, effective, client, account, needs),
            _ => Can::Perhaps([Doubt::NotLookedAt(method.clone())].into()),
        };
        Way { methods: methods.iter().map(|method| (method.clone(), can(method))).collect() }
    };
    let ways = alternatives.iter().map(way).collect();
    let FoundKeys { keys, perhaps, sources, files, uncounted, no_files: no_key_files, .. } = found;
    let one_password = other_stack(effective, account).is_none();
    Methods { ways, keys, perhaps, sources, files, uncounted, no_key_files, one_password }
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
fn interactive(host: &HostState, effective: &Effective, client: &Client, account: &Account, needs: &mut Needs) -> Can {
    if effective.one("usepam") != Some("yes") {
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
