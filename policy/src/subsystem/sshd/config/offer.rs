//! What a person who types a value of a keyword may be offered: words of `sshd_config(5)` that OpenSSH 9.2 and 10.0 both take (a test
//! in the lab asks them), and what kind of thing on the host the others name. Decides nothing: every value may still be typed.

use super::keyword::{Kind, canonical, find};

/// What other values name, besides the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Nothing that could be listed.
    Nothing,
    /// Users, or patterns of users.
    Users,
    /// Groups, or patterns of groups.
    Groups,
    /// Files, by absolute path.
    Files,
    /// Directories, by absolute path.
    Directories,
    /// What `ssh -Q` with this query prints, in a list with commas that may begin with `+`, `-` or `^`.
    Algorithms(&'static str),
}

/// What may be offered for one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// These words, as the manual writes them.
    pub words: &'static [&'static str],
    /// And these.
    pub names: Names,
    /// Whether one value may be several, with commas between them; `any` and `none` stand alone.
    pub commas: bool,
}

const NOTHING: Offer = Offer { words: &[], names: Names::Nothing, commas: false };
const NONE: &[&str] = &["none"];
const METHODS: &[&str] = &["any", "publickey", "password", "keyboard-interactive", "hostbased", "gssapi-with-mic"];
/// `sshd_config(5)`, `IPQoS`, of 9.2 and of 10.0.
const QUALITIES: &[&str] = &[
    "af11", "af12", "af13", "af21", "af22", "af23", "af31", "af32", "af33", "af41", "af42", "af43", "cs0", "cs1", "cs2", "cs3",
    "cs4", "cs5", "cs6", "cs7", "ef", "le", "none",
];
/// Taken, and not to be written any more: `sshd_config(5)`, `PermitRootLogin`.
pub const DEPRECATED: [&str; 1] = ["without-password"];

const fn words(words: &'static [&'static str]) -> Offer {
    Offer { words, ..NOTHING }
}

const fn named(words: &'static [&'static str], names: Names) -> Offer {
    Offer { words, names, commas: false }
}

const fn algorithms(query: &'static str) -> Offer {
    Offer { words: &[], names: Names::Algorithms(query), commas: true }
}

/// For the value at this place, from 0, of a keyword by any of its names.
pub fn offer(keyword: &str, place: usize) -> Offer {
    let keyword = canonical(keyword);
    match (keyword.as_str(), place) {
        ("allowusers" | "denyusers", _) | ("authorizedkeyscommanduser" | "authorizedprincipalscommanduser", 0) => {
            named(&[], Names::Users)
        }
        ("allowgroups" | "denygroups", _) => named(&[], Names::Groups),
        ("ciphers", 0) => algorithms("cipher"),
        ("macs", 0) => algorithms("mac"),
        ("kexalgorithms", 0) => algorithms("kex"),
        ("hostkeyalgorithms", 0) => algorithms("HostKeyAlgorithms"),
        ("pubkeyacceptedalgorithms", 0) => algorithms("PubkeyAcceptedAlgorithms"),
        ("hostbasedacceptedalgorithms", 0) => algorithms("HostbasedAcceptedAlgorithms"),
        // 9.2 knows no query of that name; a certificate's signature is made by a plain key.
        ("casignaturealgorithms", 0) => algorithms("sig"),
        ("authenticationmethods", _) => Offer { commas: true, ..words(METHODS) },
        ("pubkeyauthoptions", 0) => Offer { commas: true, ..words(&["none", "touch-required", "verify-required"]) },
        ("authorizedkeysfile", _) => named(&[".ssh/authorized_keys", ".ssh/authorized_keys2", "none"], Names::Files),
        (
            "authorizedkeyscommand"
            | "authorizedprincipalscommand"
            | "authorizedprincipalsfile"
            | "banner"
            | "pidfile"
            | "revokedkeys"
            | "trustedusercakeys",
            0,
        ) => named(NONE, Names::Files),
        ("hostcertificate" | "hostkey", _)
        | ("modulifile" | "securitykeyprovider" | "sshdauthpath" | "sshdsessionpath" | "xauthlocation", 0) => {
            named(&[], Names::Files)
        }
        ("hostkeyagent", 0) => named(&["SSH_AUTH_SOCK"], Names::Files),
        ("forcecommand", 0) => named(&["internal-sftp", "none"], Names::Files),
        ("chrootdirectory", 0) => named(NONE, Names::Directories),
        ("subsystem", 0) => words(&["sftp"]),
        ("subsystem", 1) => named(&["internal-sftp"], Names::Files),
        ("ipqos", 0 | 1) => words(QUALITIES),
        ("permitopen" | "permitlisten", 0) => words(&["any", "none"]),
        ("permituserenvironment" | "persourcepenalties", 0) => words(&["yes", "no"]),
        ("rekeylimit", 0) => words(&["default"]),
        ("rekeylimit", 1) | ("channeltimeout" | "persourcemaxstartups" | "unusedconnectiontimeout" | "versionaddendum", 0) => {
            words(NONE)
        }
        (_, 0) => match find(&keyword).map(|keyword| keyword.kind) {
            Some(Kind::OneOf(all)) => words(all),
            Some(Kind::Number | Kind::Time | Kind::Text) | None => NOTHING,
        },
        _ => NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_keyword_offers_the_same_and_no_value_too_many() {
        assert_eq!(offer("PERMITROOTLOGIN", 0).words.first(), Some(&"yes"));
        assert_eq!(offer("PermitRootLogin", 1), NOTHING);
        assert_eq!(offer("pubkeyacceptedkeytypes", 0).names, Names::Algorithms("PubkeyAcceptedAlgorithms"));
        assert_eq!(offer("ChallengeResponseAuthentication", 0).words, ["yes", "no"]);
        assert_eq!(offer("AllowUsers", 7).names, Names::Users);
        assert_eq!(offer("Subsystem", 1).words, ["internal-sftp"]);
        assert_eq!(offer("NoSuchKeyword", 0), NOTHING);
    }
}
