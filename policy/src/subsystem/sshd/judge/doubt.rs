//! Why it is not known whether a method of authentication works, typed, so that before and after a change can be compared by it.

use std::collections::BTreeSet;
use std::fmt;

use crate::subsystem::sshd::config::keyword;

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
    /// A token in a value of this keyword ends the connection of whoever offers a key that is not found before it.
    Token(&'static str),
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
            Doubt::Token(keyword) => write!(
                f,
                "{} has a % token that sshd does not know, which ends the connection of whoever offers another key first",
                keyword::spelling(keyword)
            ),
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
    pub fn may_let_in(&self) -> bool {
        match self {
            Doubt::NotRead(_)
            | Doubt::PassedOver(_)
            | Doubt::Lenient(_)
            | Doubt::Elsewhere(..)
            | Doubt::Line(_)
            | Doubt::Password { .. }
            | Doubt::Pam(_)
            | Doubt::NotLookedAt(_) => true,
            Doubt::OldSignature
            | Doubt::Krl(_)
            | Doubt::SecurityKey(_)
            | Doubt::KeyOptions(..)
            | Doubt::Tally(_)
            | Doubt::Token(_) => false,
        }
    }

    /// Whether what it stands for is still there among these.
    pub fn stays_in(&self, after: &BTreeSet<Doubt>) -> bool {
        let looser = match self {
            Doubt::PassedOver(path) => Some(Doubt::Lenient(path.clone())),
            Doubt::Password { empty: false } => Some(Doubt::Password { empty: true }),
            _ => None,
        };
        after.contains(self) || looser.is_some_and(|looser| after.contains(&looser))
    }
}
