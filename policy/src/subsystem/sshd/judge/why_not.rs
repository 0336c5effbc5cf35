//! What to do where no key of a user counts: by the reason, which is known key by key. Decides nothing.

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::{Settings, keyword};
use crate::subsystem::sshd::judge::keys::{Uncounted, WhyNot};
use crate::subsystem::sshd::judge::mend_files::{self, Whose};
use crate::subsystem::sshd::judge::origin::origin;
use crate::verdict::Evidence;

/// Of the lines that give no key these many are named.
const MAX_NAMED: usize = 8;

/// Each of them, and the lines of sshd's files that decide about them.
pub(super) fn evidence(uncounted: &[Uncounted], effective: &Effective, settings: &Settings) -> Vec<Evidence> {
    let named = |one: &Uncounted| {
        let key = one.key.as_ref().map_or_else(String::new, |name| format!("{name}: "));
        Evidence::new(one.place(), format!("{key}{}", one.why))
    };
    let mut keywords: Vec<&str> = uncounted.iter().filter_map(|one| of(&one.why)).collect();
    keywords.dedup();
    let lines = keywords.into_iter().flat_map(|keyword| origin(effective, settings, keyword));
    uncounted.iter().take(MAX_NAMED).map(named).chain(lines).collect()
}

/// The keyword that decides.
fn of(why: &WhyNot) -> Option<&'static str> {
    match why {
        WhyNot::NoList(_) | WhyNot::BrokenList(_) | WhyNot::Revoked(_) => Some("revokedkeys"),
        WhyNot::NotAccepted => Some("pubkeyacceptedalgorithms"),
        WhyNot::TooShort(..) => Some("requiredrsasize"),
        WhyNot::NoCommand => Some("permitrootlogin"),
        WhyNot::Token(keyword) => Some(keyword),
        WhyNot::From | WhyNot::Line(_) | WhyNot::File(_) => None,
    }
}

/// What would make the first of them count; `place` is where a key belongs.
pub(super) fn mend(one: &Uncounted, whose: Whose, place: &str) -> String {
    let (path, user) = (&one.path, whose.user);
    match &one.why {
        WhyNot::NoList(_) => format!(
            "`install -m 644 /dev/null {path}` makes an empty file, which takes no key back; or `sshfix ctl sshd unset RevokedKeys`"
        ),
        WhyNot::BrokenList(_) => {
            format!("take the line that is no public key out of {path}: until then sshd takes every key for revoked")
        }
        WhyNot::Revoked(list) => format!("log in by another key; or take the key out of {list}, if it was put there by mistake"),
        WhyNot::NotAccepted => {
            format!(
                "put a key of another type into {place} (`ssh-keygen -t ed25519`), or let PubkeyAcceptedAlgorithms take this one"
            )
        }
        WhyNot::TooShort(..) => {
            format!("put a longer key or one of another type into {place} (`ssh-keygen -t ed25519`), or lower RequiredRSASize")
        }
        WhyNot::NoCommand => format!(
            "`sshfix ctl sshd set PermitRootLogin prohibit-password` takes keys of {user} without a command; or put command=\"...\" before \
             the key in {place}"
        ),
        WhyNot::From => format!("add the address to from= in {}", one.place()),
        WhyNot::Line(_) => format!(
            "mend {}: a key is one line, `OPTIONS TYPE KEY COMMENT`, and `ssh-keygen -l -f {path}` lists those that can be read",
            one.place()
        ),
        WhyNot::File(why) => mend_files::mend(whose, [why.as_ref()].into_iter()),
        WhyNot::Token(keyword) => {
            let known = if *keyword == "authorizedkeysfile" { ": `%h`, `%u`, `%U` and `%%` are all it takes" } else { "" };
            format!("correct {}{known}", keyword::spelling(keyword))
        }
    }
}
