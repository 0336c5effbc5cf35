//! Which methods of authentication can really work for a user: not only switched on, but with a key that sshd would read and take, or
//! a password to type. Whether a person has that key or knows that password is not known here.

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
    let accepted: Vec<&str> = effective.one("pubkeyacceptedalgorithms").unwrap_or_default().split(',').collect();
    let mut best = if set("authorizedkeyscommand") || set("trustedusercakeys") { found } else { Verdict::Refuse };
    for path in key_paths(effective, user, account) {
        match host.sshd.key_files.get(&(user.to_owned(), path.clone())) {
            None => {
                needs.insert(host::Need::Sshd(Need::KeyFile { user: user.to_owned(), path }));
                return Verdict::Unknown;
            }
            Some(KeyFile::Good(kinds)) if kinds.iter().any(|kind| taken(&accepted, kind)) => return found,
            Some(KeyFile::Bad(_)) if effective.one("strictmodes") == Some("no") => best = Verdict::Unknown,
            Some(KeyFile::Good(_) | KeyFile::Bad(_) | KeyFile::Missing) => {}
        }
    }
    best
}

/// Whether a key of this type may sign (RFC 8332: the type `ssh-rsa` signs by two algorithms of this age).
fn taken(accepted: &[&str], kind: &str) -> bool {
    match kind {
        "ssh-rsa" => accepted.contains(&"rsa-sha2-512") || accepted.contains(&"rsa-sha2-256"),
        kind => accepted.contains(&kind),
    }
}

/// The types of the keys in an `authorized_keys` file (sshd(8), `AUTHORIZED_KEYS` FILE FORMAT); that of an authority counts as none,
/// because which keys it signed is not known.
pub fn key_kinds(text: &str) -> Vec<String> {
    const KINDS: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    let mut kinds = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (mut quoted, mut escaped) = (false, false);
        // Options may hold blanks inside quotes.
        let words = line.split(|c: char| {
            let blank = !quoted && matches!(c, ' ' | '\t');
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            blank
        });
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).take(3).collect();
        let (options, kind) = match words[..] {
            [kind, _, ..] if KINDS.contains(&kind) => ("", kind),
            [options, kind, _] if KINDS.contains(&kind) => (options, kind),
            _ => continue,
        };
        if !options.split(',').any(|option| option.eq_ignore_ascii_case("cert-authority")) {
            kinds.push(kind.to_owned());
        }
    }
    kinds.sort();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_authorized_keys_are_read_behind_their_options() {
        let text = "# ssh-dss x\nssh-ed25519 AAAA a\n\n  command=\"echo \\\"ssh-rsa a\\\" b\",no-pty ecdsa-sha2-nistp256 AAAA\n\
                    cert-authority ssh-rsa AAAA ca\nssh-ed25519\nnonsense x y\nssh-ed25519 BBBB again\n";
        assert_eq!(key_kinds(text), ["ecdsa-sha2-nistp256", "ssh-ed25519"]);
        assert_eq!(key_kinds(""), [""; 0]);
    }
}
