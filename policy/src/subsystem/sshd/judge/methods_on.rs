//! Which methods of authentication are switched on for somebody, and in which alternatives (auth2.c, `authmethods`). Whether one can work is
//! not judged.

use crate::subsystem::sshd::Effective;

/// The methods, and the keyword that switches each on.
const KEYWORDS: [(&str, &str); 5] = [
    ("publickey", "pubkeyauthentication"),
    ("password", "passwordauthentication"),
    ("keyboard-interactive", "kbdinteractiveauthentication"),
    ("gssapi-with-mic", "gssapiauthentication"),
    ("hostbased", "hostbasedauthentication"),
];

/// The methods that are switched on, by the names `AuthenticationMethods` has for them (auth2.c, `authmethods`).
pub fn enabled(effective: &Effective, is_root: bool) -> Vec<&'static str> {
    let on = |keyword: &str| effective.one(keyword).is_some_and(|value| value != "no");
    let mut methods: Vec<&'static str> =
        KEYWORDS.into_iter().filter(|(_, keyword)| on(keyword)).map(|(method, _)| method).collect();
    if is_root {
        match effective.one("permitrootlogin") {
            Some("without-password" | "prohibit-password") => {
                methods.retain(|method| !matches!(*method, "password" | "keyboard-interactive"));
            }
            Some("forced-commands-only") => methods.retain(|method| *method == "publickey"),
            _ => {}
        }
    }
    methods
}

/// The methods that `AuthenticationMethods` asks for and that are off for this user, each with the keyword that decides.
pub fn switched_off(effective: &Effective, is_root: bool) -> Vec<(String, &'static str)> {
    let enabled = enabled(effective, is_root);
    let lists = effective.one("authenticationmethods").filter(|lists| *lists != "any").unwrap_or_default();
    let asked = lists.split_ascii_whitespace().flat_map(|list| list.split(','));
    let mut found: Vec<(String, &'static str)> = Vec::new();
    for method in asked.filter_map(|method| method.split(':').next()).filter(|method| !enabled.contains(method)) {
        let keyword = KEYWORDS.iter().find(|(name, _)| *name == method).map(|(_, keyword)| *keyword);
        // What is on for others is off for root alone.
        let keyword = keyword.filter(|keyword| effective.one(keyword) == Some("no")).or(is_root.then_some("permitrootlogin"));
        found.extend(keyword.map(|keyword| (method.to_owned(), keyword)).filter(|one| !found.contains(one)));
    }
    found
}

/// What a user can log in with: alternatives, each a list of methods that must all succeed.
pub fn alternatives(effective: &Effective, is_root: bool) -> Vec<Vec<String>> {
    let enabled = enabled(effective, is_root);
    let lists = effective.one("authenticationmethods").unwrap_or("any");
    if lists == "any" {
        return enabled.iter().map(|method| vec![(*method).to_owned()]).collect();
    }
    let whole = |list: &&str| {
        let known = |method: &str| enabled.contains(&method.split(':').next().unwrap_or(method));
        list.split(',').all(known)
    };
    lists.split_ascii_whitespace().filter(whole).map(|list| list.split(',').map(str::to_owned).collect()).collect()
}
