//! Whether sshd takes the folder that `ChrootDirectory` makes the root of a session (session.c, `safely_chroot`): it and each folder above
//! it must be root's, and nobody else may write to them; else the login ends after the key or password was taken. What the session finds in
//! that folder is not judged.

use crate::host::{self, HostState, Needs};
use crate::subsystem::sshd::facts::root_folder::{PartIs, RootFolder, RootPart};
use crate::subsystem::sshd::facts::state::{Account, Need};
use crate::subsystem::sshd::judge::key_places::{expand_tokens, has_strange_token};
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::quoting::of_values;
use crate::subsystem::sshd::{Effective, Owner};
use crate::text::quoted::Text;
use crate::text::shell;
use crate::verdict::{Evidence, Stage};

const KEYWORD: &str = "ChrootDirectory";

/// What sshd makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// There is none, or sshd takes it.
    Good,
    /// sshd ends the login.
    Refused(Refused),
    /// That is not known: why.
    Unknown(Text),
}

/// Why sshd ends the login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In one line.
    pub detail: Text,
    /// The parts of the path that are at fault.
    pub evidence: Vec<Evidence>,
    /// What mends it.
    pub fix: String,
}

/// That of one login.
pub fn root(host: &HostState, effective: &Effective, user: &str, account: &Account, needs: &mut Needs) -> Root {
    let value = effective.one("chrootdirectory").filter(|value| !value.eq_ignore_ascii_case("none"));
    let Some(value) = value else { return Root::Good };
    let named = || Text::from(format!("{KEYWORD} ")) + of_values(KEYWORD, value);
    let of_value = |why: &str, fix: String| Root::Refused(Refused { detail: named() + why, evidence: Vec::new(), fix });
    if has_strange_token(value, "huU") {
        let fix = format!("correct {KEYWORD}: `%h`, `%u`, `%U` and `%%` are all it takes");
        return of_value(" has a % token that sshd does not know, which ends the login", fix);
    }
    // misc.c, `tilde_expand_filename`.
    let below_home = value.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let path = below_home.map_or_else(|| value.to_owned(), |rest| format!("{}{rest}", account.home.trim_end_matches('/')));
    let path = expand_tokens(&path, user, account);
    if path.starts_with('~') {
        return Root::Unknown(named() + " is below the home of another user, which sshfix does not look up");
    }
    if !path.starts_with('/') {
        return of_value(
            " does not begin with `/`, which ends the login",
            format!("correct {KEYWORD}: it takes an absolute path"),
        );
    }
    match host.sshd.root_folders.get(&(user.to_owned(), path.clone())) {
        None => {
            needs.insert(host::Need::Sshd(Need::RootFolder { user: user.to_owned(), path }));
            Root::Unknown(named() + " is not looked at yet")
        }
        Some(RootFolder::Unknown(why)) => Root::Unknown(named() + format!(": {why}")),
        Some(RootFolder::Parts(parts)) => of_parts(&named(), &path, user, parts),
    }
}

/// sshd looks at `/` first, and ends at the first part that is not as it must be.
fn of_parts(named: &Text, path: &str, user: &str, parts: &[RootPart]) -> Root {
    let bad: Vec<(&RootPart, String, String)> =
        parts.iter().filter_map(|part| fault(part, path).map(|(why, fix)| (part, why, fix))).collect();
    let Some((first, why, _)) = bad.first() else {
        return match parts.last() {
            Some(RootPart { path: at, is: PartIs::Unknown(why) }) => {
                Root::Unknown(named.clone() + ": " + of_values(KEYWORD, at.as_str()) + format!(" could not be looked at: {why}"))
            }
            _ => Root::Good,
        };
    };
    let detail = Text::from(format!("sshd does not take the {KEYWORD} of {user}: "))
        + of_values(KEYWORD, first.path.as_str())
        + format!(" {why}");
    let evidence = bad.iter().map(|(part, why, _)| Evidence::new(part.path.clone(), why.clone())).collect();
    let commands: Vec<&str> = bad.iter().map(|(.., fix)| fix.as_str()).collect();
    let fix = format!(
        "{}: sshd takes a folder that is root's and that nobody else can write to, as each one above it; {user} writes into folders below it",
        commands.join("; ")
    );
    Root::Refused(Refused { detail, evidence, fix })
}

/// What is wrong with a part, and what mends it.
fn fault(part: &RootPart, whole: &str) -> Option<(String, String)> {
    let at = shell::word(&part.path);
    match &part.is {
        PartIs::Unknown(_) => None,
        PartIs::Missing => Some(("is not there".to_owned(), format!("`install -d -m 755 {}`", shell::word(whole)))),
        PartIs::NoFolder(owner) => Some((format!("is no folder ({owner})"), format!("put a folder in the place of {at}"))),
        PartIs::Folder(owner) => {
            let Owner { uid, mode, .. } = *owner;
            let (others, writable) = (uid != 0, mode & 0o022 != 0);
            let why = match (others, writable) {
                (false, false) => return None,
                (true, _) => "belongs to another user than root",
                (false, true) => "can be written by others than root",
            };
            let commands = [others.then(|| format!("chown root {at}")), writable.then(|| format!("chmod go-w {at}"))];
            let commands: Vec<String> = commands.into_iter().flatten().collect();
            Some((format!("{why} ({owner})"), format!("`{}`", commands.join(" && "))))
        }
    }
}

/// The same for the proof, of one login.
pub fn objection(host: &HostState, effective: &Effective, user: &str, account: &Account, needs: &mut Needs) -> Option<Objection> {
    let reason = |why: &Text| Reason::Account(why.as_str().to_owned());
    match root(host, effective, user, account, needs) {
        Root::Good => None,
        Root::Refused(Refused { detail, .. }) => {
            Some(Objection::refuse(Stage::Account, reason(&detail), Text::from("sshd: ") + detail))
        }
        Root::Unknown(why) => Some(Objection::unknown(Stage::Account, reason(&why), Text::from("sshd: ") + why)),
    }
}

#[cfg(test)]
#[path = "chroot_tests.rs"]
mod tests;
