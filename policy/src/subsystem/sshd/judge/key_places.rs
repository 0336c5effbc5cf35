//! Where sshd looks for the keys of a user, by its tokens, and whether it is strict about the files. Reads none.

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::facts::state::Account;

/// Where sshd looks for the keys of a user.
#[derive(Debug, Default)]
pub struct KeyPlaces {
    /// The files, or patterns of files, in its order.
    pub paths: Vec<String>,
    /// The value behind them with a token that ends sshd's process (misc.c, `percent_expand`): it gets to none behind that.
    pub token: Option<String>,
}

/// Where sshd looks for the keys of a user.
pub fn key_places(effective: &Effective, user: &str, account: &Account) -> KeyPlaces {
    let mut places = KeyPlaces::default();
    let files = effective.one("authorizedkeysfile").unwrap_or_default();
    for file in files.split_ascii_whitespace().filter(|file| !file.eq_ignore_ascii_case("none")) {
        if has_strange_token(file, "huU") {
            places.token = Some(file.to_owned());
            break;
        }
        places.paths.push(expand(file, user, account));
    }
    places
}

/// The same without what ends it.
pub fn key_paths(effective: &Effective, user: &str, account: &Account) -> Vec<String> {
    key_places(effective, user, account).paths
}

/// `sshd_config(5)`, `AuthorizedKeysFile`: what is not absolute is below the home directory.
pub fn expand(pattern: &str, user: &str, account: &Account) -> String {
    let path = expand_tokens(pattern, user, account);
    if path.starts_with('/') { path } else { format!("{}/{path}", account.home.trim_end_matches('/')) }
}

/// `sshd_config(5)`, TOKENS: `%h`, `%u`, `%U`, `%%`, and no others.
pub fn expand_tokens(pattern: &str, user: &str, account: &Account) -> String {
    let mut path = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            path.push(letter);
            continue;
        }
        match letters.next() {
            Some('h') => path.push_str(&account.home),
            Some('u') => path.push_str(user),
            Some('U') => path.push_str(&account.uid.to_string()),
            other => path.extend(other),
        }
    }
    path
}

/// Whether sshd looks at owners and modes before it reads keys.
pub(crate) fn is_strict(effective: &Effective) -> bool {
    effective.one("strictmodes") != Some("no")
}

/// Whether a value has a token besides these and `%%`: misc.c, `percent_expand`, ends the process then.
pub fn has_strange_token(value: &str, known: &str) -> bool {
    let mut letters = value.chars();
    std::iter::from_fn(|| letters.by_ref().find(|letter| *letter == '%').map(|_| letters.next()))
        .any(|token| token.is_none_or(|token| token != '%' && !known.contains(token)))
}
