//! What an sshd that runs may have read in the place of its files, where these changed since: nothing that they say counts as closed, or as
//! unknown, already before a change, and what a reload of them brings is judged. A line that is gone cannot be seen; where it decides by
//! itself, it counts as one that may have been there. Asks nothing of the host.

use crate::host::{HostState, Needs, Part};
use crate::subsystem::sshd::config::is_name;
use crate::subsystem::sshd::config::{Document, keyword};
use crate::subsystem::sshd::facts::authorized_keys::AuthorizedKey;
use crate::subsystem::sshd::facts::state::{Account, Server};
use crate::subsystem::sshd::judge::account;
use crate::subsystem::sshd::judge::doubt::Doubt;
use crate::subsystem::sshd::judge::key_places::{is_strict, key_paths};
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::way_in::{Disproof, LoginWay, WayIn, values};
use crate::subsystem::sshd::{Effective, Reading};
use crate::text::quoted::Text;
use crate::verdict::Stage;

/// A value that takes something away from somebody, and one that does not.
type Less = (&'static str, &'static str, fn(&str) -> bool);

/// Beside those that take all methods away, or the shell.
const LESS: [Less; 5] = [
    ("permitrootlogin", "prohibit-password", |value| value == "forced-commands-only"),
    ("pubkeyauthoptions", "none", |value| value != "none"),
    ("requiredrsasize", "1024", |value| value.parse::<u32>().is_ok_and(|bits| bits > 1024)),
    ("revokedkeys", "none", |value| value != "none"),
    ("usepam", "yes", |value| value == "no"),
];
/// The same for who comes to go on alone.
const LESS_FORWARDING: [Less; 5] = [
    ("allowstreamlocalforwarding", "yes", |value| value != "yes"),
    ("allowtcpforwarding", "yes", |value| value != "yes"),
    ("disableforwarding", "no", |value| value != "no"),
    ("permitlisten", "any", |value| value != "any"),
    ("permitopen", "any", |value| value != "any"),
];
/// Where OpenSSH looks for keys where no line says otherwise (`sshd_config(5)`, `AuthorizedKeysFile`).
const KEY_FILES: &str = ".ssh/authorized_keys .ssh/authorized_keys2";
/// By what OpenSSH takes signatures where no line says otherwise (myproposal.h), without certificates.
const ALGORITHMS: [&str; 9] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// The keywords by which these files may take something away from this login that sshd still gives, each with what it may have read instead.
pub fn taken(login: &LoginWay, host: &HostState, server: &Server, account: &Account) -> Vec<(String, String)> {
    if server.stale.is_empty() {
        return Vec::new();
    }
    let effective = &login.effective;
    let forwarding = if login.forwards_alone.is_some() { &LESS_FORWARDING[..] } else { &[] };
    let less = LESS
        .iter()
        .chain(forwarding)
        .filter(|(keyword, _, is_less)| effective.one(keyword).is_some_and(is_less) && server.may_be_new(keyword));
    let mut found: Vec<(String, String)> = less.map(|(keyword, plain, _)| ((*keyword).to_owned(), (*plain).to_owned())).collect();
    let accepted = effective.one("pubkeyacceptedalgorithms").unwrap_or_default();
    let missing = || ALGORITHMS.iter().any(|algorithm| !accepted.split(',').any(|one| one == *algorithm));
    if !accepted.is_empty() && server.may_be_new("pubkeyacceptedalgorithms") && missing() {
        found.push(("pubkeyacceptedalgorithms".to_owned(), format!("{accepted},{}", ALGORITHMS.join(","))));
    }
    let files = effective.one("authorizedkeysfile").filter(|files| !matches!(*files, "none" | KEY_FILES));
    if files.is_some() && server.may_be_new("authorizedkeysfile") {
        found.push(("authorizedkeysfile".to_owned(), KEY_FILES.to_owned()));
    }
    if is_strict_about_a_file(login, host, server, account) {
        found.push(("strictmodes".to_owned(), "no".to_owned()));
    }
    if effective.one("usedns") == Some("no") && login.ways.perhaps.values().flatten().any(may_go_by_name) {
        found.push(("usedns".to_owned(), "yes".to_owned()));
    }
    found.extend(values::or_before(effective, |keyword| server.may_be_new(keyword)));
    found
}

/// Whether keys count without `StrictModes` alone. Its default is `yes`, so that the line may be one that is gone.
fn is_strict_about_a_file(login: &LoginWay, host: &HostState, server: &Server, account: &Account) -> bool {
    let effective = &login.effective;
    if !is_strict(effective) {
        return false;
    }
    let differs = |path: String| {
        let Some(file) = host.sshd.key_files.get(&(login.user.clone(), path)) else { return false };
        matches!(file.read(true), Reading::PassedOver(_) | Reading::Unknown(_)) && matches!(file.read(false), Reading::Keys(_))
    };
    // Of its files of principals nothing is known but that it is as strict about them.
    let set = |keyword: &str| effective.one(keyword).is_some_and(|value| value != "none");
    let principals = set("trustedusercakeys") && set("authorizedprincipalsfile") && server.may_be_new("strictmodes");
    principals || key_paths(effective, &login.user, account).into_iter().any(differs)
}

/// Whether a key counts from a host of some name.
fn may_go_by_name(doubt: &Doubt) -> bool {
    let Doubt::KeyOptions(options, _) = doubt else { return false };
    let options = options.clone();
    let key = AuthorizedKey { kind: String::new(), fingerprint: String::new(), rsa_bits: None, options, line: 0, fault: None };
    key.option("from").is_some_and(|from| from.split(',').any(is_name))
}

/// Takes out what the files say against a keep entry, for certain or perhaps, and limits that leave hardly anybody in: sshd may have read
/// other ones.
pub fn forget(way: &mut WayIn, host: &HostState) {
    way.risks.retain(|risk| !risk.grave);
    if !way.kept {
        return;
    }
    let mut disproved = Vec::new();
    let mut take_out = |all: &mut Vec<Objection>, lasts: &dyn Fn(&Reason) -> bool| {
        let (last, said): (Vec<_>, _) = std::mem::take(all).into_iter().partition(|objection| lasts(&objection.reason));
        *all = last;
        disproved.extend(said.into_iter().map(|objection| (objection, Disproof::Changed)));
    };
    take_out(&mut way.objections, &|reason| !reason.may_be_of_lines());
    for login in &mut way.logins {
        let (user, effective) = (login.user.clone(), most(&login.effective));
        // A shell, a locked password: what is seen of an account counts by what the files say of it.
        let account = host.sshd.accounts.get(&user).and_then(Part::present);
        let whatever = account.and_then(|account| account::objection(&effective, &user, account));
        let lasts = |reason: &Reason| match reason {
            Reason::Account(_) => whatever.as_ref().is_some_and(|objection| objection.reason == *reason),
            other => !other.may_be_of_lines(),
        };
        take_out(&mut login.objections, &lasts);
    }
    way.disproved.extend(disproved);
}

/// With the values by which most accounts get in.
fn most(effective: &Effective) -> Effective {
    effective.clone().with("usepam", "yes").with("chrootdirectory", "/").with("forcecommand", "internal-sftp")
}

/// The keywords of lines that sshd may not have read, with their arguments.
fn lines(server: &Server) -> Vec<(String, Vec<String>)> {
    let Ok(tree) = &server.tree else { return Vec::new() };
    // A folder or a link that changed may have brought any of them.
    let all = server.stale.iter().any(|path| !tree.files.contains_key(path));
    let files = tree.files.iter().filter(|(path, _)| all || server.stale.contains(path));
    let lines = files.flat_map(|(_, document)| Document::lines(document));
    let directives = lines.filter_map(|(_, line)| line.directive().ok().flatten());
    directives.map(|directive| (keyword::canonical(&directive.keyword), directive.arguments)).collect()
}

/// The keywords of lines that sshd may not have read.
pub fn keywords(server: &Server) -> impl Iterator<Item = String> + use<> {
    lines(server).into_iter().map(|(keyword, _)| keyword)
}

/// A path whose user is not known, and a line that sshd may not have read and that takes something away from somebody.
pub fn nobody_named(server: &Server, host: &HostState, needs: &mut Needs) -> Option<Objection> {
    let mut lines = lines(server).into_iter();
    let (keyword, _) = lines.find(|(keyword, arguments)| takes_away(host, keyword, arguments, needs))?;
    let why = format!(
        "sshd: which user comes this way is not known, and {} may have come since sshd read its files ({}): name the user in [[keep]] of \
         agent.toml, or reload sshd by hand where it is meant so",
        keyword::spelling(&keyword),
        server.stale.join(", ")
    );
    Some(Objection::unknown(Stage::SshdAccess, Reason::Unnamed(keyword), Text::from(why)))
}

fn takes_away(host: &HostState, keyword: &str, arguments: &[String], needs: &mut Needs) -> bool {
    let value = arguments.join(" ");
    let value = value.as_str();
    let less = LESS.iter().find(|(name, ..)| *name == keyword);
    match keyword {
        "allowgroups" | "allowusers" | "denygroups" | "denyusers" => true,
        "authenticationmethods" => value != "any",
        "authorizedkeysfile" | "chrootdirectory" | "forcecommand" => (value == "none") == (keyword == "authorizedkeysfile"),
        "maxauthtries" | "maxsessions" => value == "0",
        "permitrootlogin" | "pubkeyauthentication" if value == "no" => true,
        "refuseconnection" => value == "yes",
        _ if less.is_some() => less.is_some_and(|(_, _, is_less)| is_less(value)),
        _ => values::takes_away(host, keyword, arguments, needs),
    }
}

#[cfg(test)]
#[path = "stale_tests.rs"]
mod tests;
