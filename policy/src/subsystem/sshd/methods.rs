//! Which methods of authentication can really work for a user: not only switched on, but with a key that sshd would read and take, or
//! a password to type. Whether a person has that key or knows that password is not known here.

use std::collections::BTreeSet;

use super::Effective;
use super::access::alternatives;
use super::account::key_paths;
use super::state::{Account, KeyFile, Need};
use crate::host::{self, HostState, Needs};
use crate::verdict::Verdict;

/// The ways that work, or perhaps do, as words; the verdict is the best of them.
pub fn working(
    host: &HostState,
    effective: &Effective,
    user: &str,
    account: &Account,
    needs: &mut Needs,
) -> (Verdict, Vec<String>) {
    let ways = alternatives(effective, user);
    let mut judged: Vec<(Verdict, String)> = Vec::new();
    for way in &ways {
        let verdicts = way.iter().map(|method| works(host, effective, user, account, method, needs));
        judged.push((verdicts.fold(Verdict::Accept, Verdict::and), way.join(" and ")));
    }
    let of = |wanted: Verdict| judged.iter().filter(|(verdict, _)| *verdict == wanted).map(|(_, way)| way.clone()).collect();
    let (sure, perhaps): (Vec<String>, Vec<String>) = (of(Verdict::Accept), of(Verdict::Unknown));
    match (sure.is_empty(), perhaps.is_empty()) {
        (false, _) => (Verdict::Accept, sure),
        (true, false) => (Verdict::Unknown, perhaps),
        (true, true) => (Verdict::Refuse, Vec::new()),
    }
}

fn works(host: &HostState, effective: &Effective, user: &str, account: &Account, method: &str, needs: &mut Needs) -> Verdict {
    match method.split(':').next().unwrap_or(method) {
        "publickey" => publickey(host, effective, user, account, needs),
        "password" => password(account),
        // With PAM that is what its modules ask for, most often the password.
        "keyboard-interactive" if password(account) == Verdict::Accept => Verdict::Accept,
        // Tickets, other hosts' keys and PAM modules are not looked at.
        _ => Verdict::Unknown,
    }
}

fn password(account: &Account) -> Verdict {
    match account.password {
        Some(true) => Verdict::Accept,
        Some(false) => Verdict::Refuse,
        None => Verdict::Unknown,
    }
}

/// A key in a file that sshd reads, of a type that it takes; or keys that come from elsewhere.
fn publickey(host: &HostState, effective: &Effective, user: &str, account: &Account, needs: &mut Needs) -> Verdict {
    let set = |keyword: &str| effective.one(keyword).is_some_and(|value| value != "none");
    let doubtful = (user == "root" && effective.one("permitrootlogin") == Some("forced-commands-only"))
        || set("revokedkeys")
        || effective.one("pubkeyauthoptions").is_some_and(|value| value != "none");
    let found = if doubtful { Verdict::Unknown } else { Verdict::Accept };
    let mut best = if set("authorizedkeyscommand") || set("trustedusercakeys") { found } else { Verdict::Refuse };
    for path in key_paths(effective, user, account) {
        match host.sshd.key_files.get(&(user.to_owned(), path.clone())) {
            None => {
                needs.insert(host::Need::Sshd(Need::KeyFile { user: user.to_owned(), path }));
                return Verdict::Unknown;
            }
            Some(KeyFile::Good(keys)) if keys.iter().any(|key| key.is_taken(effective)) => return found,
            Some(KeyFile::Bad(_)) if effective.one("strictmodes") == Some("no") => best = Verdict::Unknown,
            Some(KeyFile::Good(_) | KeyFile::Bad(_) | KeyFile::Missing) => {}
        }
    }
    best
}

/// The keys that may log in, in words: of each file that sshd reads those that it takes, and where others come from. For telling which of
/// them a change leaves out: which of them somebody holds is not known.
pub fn keys(host: &HostState, effective: &Effective, user: &str, account: &Account) -> BTreeSet<String> {
    let elsewhere = ["authorizedkeyscommand", "trustedusercakeys"].into_iter().filter_map(|keyword| {
        let value = effective.one(keyword).filter(|value| *value != "none")?;
        Some(format!("what {keyword} {value} lets in"))
    });
    let mut keys: BTreeSet<String> = elsewhere.collect();
    for path in key_paths(effective, user, account) {
        match host.sshd.key_files.get(&(user.to_owned(), path.clone())) {
            Some(KeyFile::Good(found)) => {
                let taken = found.iter().filter(|key| key.is_taken(effective));
                keys.extend(taken.map(|key| format!("{} {}", key.kind, key.fingerprint)));
            }
            Some(KeyFile::Bad(_)) if effective.one("strictmodes") == Some("no") => _ = keys.insert(format!("what {path} holds")),
            Some(KeyFile::Bad(_) | KeyFile::Missing) | None => {}
        }
    }
    keys
}
