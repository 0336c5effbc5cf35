//! Whether the account itself can log in: it exists, its shell runs, it has not expired, nologin(5), and sshd would read its
//! authorized keys (auth.c `allowed_user`, misc.c `safe_path`). A password that is wrong, or a key that is not listed, is not judged.

use std::collections::BTreeSet;

use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::config::{Client, Settings};
use crate::subsystem::sshd::facts::faillock::Locked;
use crate::subsystem::sshd::facts::stack::AccountStack;
use crate::subsystem::sshd::facts::state::{Account, Aging, Need};
use crate::subsystem::sshd::judge::chroot::{self, Root};
use crate::subsystem::sshd::judge::doubt::Doubt;
use crate::subsystem::sshd::judge::judgement::{Judgement, Mend, Remedy, found};
use crate::subsystem::sshd::judge::key_places::{is_strict, key_paths, key_places};
use crate::subsystem::sshd::judge::mend_files::{self, Whose};
use crate::subsystem::sshd::judge::methods::{Methods, Way, ways};
use crate::subsystem::sshd::judge::methods_on::alternatives;
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::judge::origin::origin;
use crate::subsystem::sshd::judge::why_not;
use crate::subsystem::sshd::{Effective, Reading};
use crate::text::quoted::Text;
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
use crate::verdict::{Evidence, Stage, Verdict};

/// Shells that end a session as soon as it begins.
const NO_SHELLS: [&str; 3] = ["nologin", "false", "true"];

/// The whole stage.
pub fn judge(
    host: &HostState,
    effective: &Effective,
    settings: &Settings,
    client: &Client,
    account: &Part<Account>,
    needs: &mut Needs,
) -> Judgement {
    let user = &client.user;
    let account = match account {
        Part::Present(account) => Some(account),
        Part::Unreadable(why) => return Judgement::unknown(why.clone()),
        Part::Absent(_) => None,
    };
    let Some(account) = account else {
        let evidence = vec![Evidence::new("getent passwd", format!("{user}: no such user"))];
        let fix = format!("log in as a user of this host, or make one: `useradd -m {user}`");
        return refuse(format!("there is no user {user} on this host"), evidence, fix);
    };
    if let Some(mut refused) = shut_out(effective, user, account) {
        let of_the_host = host.sshd.power.as_ref().is_some_and(crate::subsystem::sshd::Power::explains_nologin);
        if of_the_host && nologin(account).is_some_and(|(file, _)| file.contains("/run/")) {
            for block in &mut refused.blocks {
                block.finding.cause = Cause::HostShutdown;
                let wait = "`shutdown -c` calls a planned one off; else wait until the host is up again. root may log in";
                block.finding.fix = wait.into();
            }
        }
        return refused;
    }
    let methods = ways(host, effective, client, account, needs);
    let mut judgement = keys(host, effective, client, account, &methods, needs);
    if judgement.verdict == Verdict::Accept {
        judgement.add(no_method(effective, settings, user, account, &methods));
    }
    judgement.add(root_folder(host, effective, settings, user, account, needs));
    judgement.add(faillock(host, effective, user, account, needs));
    if let Some(why) = undecided(effective, account) {
        judgement.add(Judgement::unknown(why));
    }
    if let Some(line) = asked_of_pam(effective, account) {
        judgement.add(Judgement::unknown(format!("UsePAM yes: what PAM says of {user} is not known: {line}")));
    }
    judgement
}

/// The file that keeps this user out (nologin(5)).
fn nologin(account: &Account) -> Option<&(String, String)> {
    account.nologin.as_ref().ok().and_then(Option::as_ref).filter(|_| account.uid != 0)
}

/// Whether its shell ends a session as soon as it begins.
pub(crate) fn ends_at_once(account: &Account) -> bool {
    NO_SHELLS.contains(&account.shell.rsplit('/').next().unwrap_or_default())
}

/// sshd looks at the shell only where it is the one of this very file system (auth.c).
fn asks_for_shell(effective: &Effective) -> bool {
    effective.one("chrootdirectory").is_none_or(|value| value == "none")
}

/// What could not be read and would decide.
fn undecided(effective: &Effective, account: &Account) -> Option<String> {
    let shell = account.shell_problem.as_ref().err().filter(|_| asks_for_shell(effective));
    let nologin = account.nologin.as_ref().err().filter(|_| account.uid != 0);
    let pam = effective.one("usepam") == Some("yes");
    let locked = account.locked.as_ref().err().filter(|_| !pam);
    let aging = account.aging.as_ref().err().filter(|_| pam && ages(account));
    shell.or(nologin).or(account.expired.as_ref().err()).or(locked).or(aging).cloned()
}

/// Modules of PAM that decide about the account, which sshfix does not read: where they stand.
fn asked_of_pam<'a>(effective: &Effective, account: &'a Account) -> Option<&'a str> {
    match &account.stack {
        AccountStack::Perhaps(line) if effective.one("usepam") == Some("yes") => Some(line),
        AccountStack::Perhaps(_) | AccountStack::Plain { .. } => None,
    }
}

/// Whether PAM asks for the age of the password.
fn ages(account: &Account) -> bool {
    match account.stack {
        AccountStack::Plain { ages } => ages,
        // Another module may permit first.
        AccountStack::Perhaps(_) => false,
    }
}

/// A password that is too old keeps every command out, by key, too (session.c, "Password change required but no TTY available").
fn aged(user: &str, account: &Account) -> Option<Judgement> {
    let (over, since) = match account.aging.as_ref().ok()?.as_ref()? {
        Aging::Over(since) => (true, since),
        Aging::Change(since) => (false, since),
    };
    let evidence = vec![Evidence::new("/etc/shadow", format!("{user}: {since}"))];
    let fix = format!("`chage -d $(date +%F) {user}`; `chage -M -1 -I -1 {user}` ends the aging of this password");
    let detail = if over {
        format!("the password of {user} was not changed in time, so PAM refuses the account: {since}")
    } else if account.password == Some(false) {
        format!("PAM wants a new password of {user}, who has none to change: {since}")
    } else {
        format!(
            "PAM wants a new password of {user} first: only a shell on a terminal asks for it, commands and sftp are refused: {since}"
        )
    };
    Some(refuse(detail, evidence, fix))
}

/// `pam_faillock(8)` refuses passwords alone: a login by key never runs the `auth` part of the PAM stack (auth2-pubkey.c).
fn faillock(host: &HostState, effective: &Effective, user: &str, account: &Account, needs: &mut Needs) -> Judgement {
    let by_password =
        |way: &Vec<String>| way.iter().any(|method| method.starts_with("password") || method.starts_with("keyboard-interactive"));
    let ways = alternatives(effective, account.uid == 0);
    if effective.one("usepam") != Some("yes") || !ways.iter().any(by_password) {
        return Judgement::accept("");
    }
    let tally = match host.sshd.tallies.get(user) {
        None => {
            needs.insert(host::Need::Sshd(Need::Tally(user.to_owned())));
            return Judgement::accept("");
        }
        Some(Part::Absent(_)) => return Judgement::accept(""),
        Some(Part::Unreadable(why)) => return Judgement::unknown(format!("the tally of pam_faillock: {why}")),
        Some(Part::Present(tally)) => tally,
    };
    let Some(locked) = tally.locked(account.uid, host.at) else { return Judgement::accept("") };
    let failures = tally.failures().len();
    let until = match locked {
        Locked::Until(at) => format!("until {at}"),
        Locked::ForEver => "until it is reset".to_owned(),
    };
    let evidence = vec![
        Evidence::new(tally.file.clone(), format!("{failures} failed logins, the last at {}", last(&tally.failures()))),
        Evidence::new(tally.rules.line.0.clone(), tally.rules.line.1.clone()),
    ];
    let fix = format!("`faillock --user {user} --reset`");
    let mut judgement =
        refuse(format!("pam_faillock refuses passwords of {user} after {failures} wrong ones, {until}"), evidence, fix);
    for block in &mut judgement.blocks {
        block.finding.until = if let Locked::Until(at) = locked { Some(at) } else { None };
    }
    let (path, before, user) = (tally.file.clone(), tally.bytes.clone(), user.to_owned());
    let mut judgement = judgement.with([Remedy::Repair(Mend::Tally { user, path, before, after: Vec::new() })]);
    if ways.iter().any(|way| !by_password(way)) {
        judgement.verdict = Verdict::Accept;
        judgement.blocks.iter_mut().for_each(|block| block.finding.blocking = false);
    }
    judgement
}

/// Where sshd takes no key of this user and the user has no password, nothing that is on lets the user in.
fn no_method(effective: &Effective, settings: &Settings, user: &str, account: &Account, methods: &Methods) -> Judgement {
    let on: Vec<String> = methods.ways.iter().map(Way::name).collect();
    match methods.best() {
        // Which methods are on is asked in the stage before.
        _ if on.is_empty() => Judgement::accept(""),
        (Verdict::Accept, _) => Judgement::accept(""),
        (Verdict::Unknown, perhaps) => {
            let why: BTreeSet<String> = methods.ways.iter().flat_map(Way::doubts).map(Doubt::to_string).collect();
            let (perhaps, why) = (perhaps.join(" or "), why.into_iter().collect::<Vec<_>>().join("; "));
            Judgement::unknown(format!("whether {user} can log in by {perhaps} is not known: {why}"))
        }
        (Verdict::Refuse, _) => {
            let mut evidence = vec![Evidence::new("sshd -T", format!("methods that are on: {}", on.join(", or ")))];
            evidence.extend(no_password(user, account));
            let (reasons, fix) = mend(effective, settings, user, account, methods);
            evidence.extend(reasons);
            refuse(format!("none of the methods that are on can work for {user}: {}", on.join(", or ")), evidence, fix)
        }
    }
}

/// Why, key by key, and what would change that.
fn mend(effective: &Effective, settings: &Settings, user: &str, account: &Account, methods: &Methods) -> (Vec<Evidence>, String) {
    if !methods.keys.is_empty() {
        let fix = format!("correct AuthenticationMethods: it asks for what {user} cannot do, beside a key that counts");
        return (origin(effective, settings, "authenticationmethods"), fix);
    }
    let files = key_paths(effective, user, account);
    let place = files.first().map_or("a file of AuthorizedKeysFile", String::as_str);
    let or_password = if methods.ways.iter().all(Way::by_key) {
        String::new()
    } else {
        format!(", or give {user} a password: `passwd {user}`")
    };
    let (evidence, fix) = if let Some(first) = methods.uncounted.first() {
        (why_not::evidence(&methods.uncounted, effective, settings), why_not::mend(first, whose(user, account), place))
    } else {
        let evidence = files.first().map(|path| Evidence::new(path.clone(), "no key that sshd takes"));
        (evidence.into_iter().collect(), format!("put a public key of {user} into {place}"))
    };
    (evidence, fix + &or_password)
}

/// The root folder of the session, where it has one of its own.
fn root_folder(
    host: &HostState,
    effective: &Effective,
    settings: &Settings,
    user: &str,
    account: &Account,
    needs: &mut Needs,
) -> Judgement {
    match chroot::root(host, effective, user, account, needs) {
        Root::Good => Judgement::accept(""),
        Root::Unknown(why) => {
            Judgement::unknown(Text::from("whether sshd takes the root folder of the session is not known: ") + why)
        }
        Root::Refused(refused) => {
            let mut evidence = refused.evidence;
            evidence.extend(origin(effective, settings, "chrootdirectory"));
            refuse(refused.detail, evidence, refused.fix)
        }
    }
}

/// The field of shadow(5), as far as it says that no password can be typed.
fn no_password(user: &str, account: &Account) -> Option<Evidence> {
    let text = if account.locked == Ok(true) { "!..." } else { "*" };
    (account.password == Some(false)).then(|| Evidence::new("/etc/shadow", format!("{user}:{text} (no password)")))
}

fn last(times: &[jiff::Timestamp]) -> String {
    times.last().map_or_else(String::new, ToString::to_string)
}

fn refuse(detail: impl Into<Text>, evidence: Vec<Evidence>, fix: String) -> Judgement {
    Judgement {
        verdict: Verdict::Refuse,
        detail: detail.into(),
        ..found(Cause::AccountLocked, true, Owner::Nobody, evidence, fix)
    }
}

/// What keeps the account out whatever it offers, or may, for the proof: how it was seen now. It may pass by itself, or be seen wrongly.
pub fn objection(effective: &Effective, user: &str, account: &Account) -> Option<Objection> {
    // Who can change the password on a terminal gets in by that: this closes nothing for certain.
    let changes = matches!(account.aging, Ok(Some(Aging::Change(_)))) && account.password != Some(false);
    let young = Account { aging: Ok(None), ..account.clone() };
    if let Some(Judgement { detail, evidence, .. }) = shut_out(effective, user, if changes { &young } else { account }) {
        let quoted =
            evidence.first().map_or(String::new(), |evidence| format!(" ({}: {})", evidence.source, evidence.text.as_str()));
        let reason = Reason::Account(detail.as_str().to_owned());
        return Some(Objection::refuse(Stage::Account, reason, Text::from("sshd: ") + detail + quoted));
    }
    let aged = || shut_out(effective, user, account).map(|refused| refused.detail.as_str().to_owned());
    if let Some(line) = asked_of_pam(effective, account) {
        let why = format!("UsePAM yes: what PAM says of {user} is not known: {line}");
        return Some(Objection::unknown(Stage::Account, Reason::Account(why.clone()), why));
    }
    let why = undecided(effective, account).or_else(aged)?;
    Some(Objection::unknown(Stage::Account, Reason::Account(why.clone()), format!("the account of {user}: {why}")))
}

/// What keeps the account out whatever it offers.
fn shut_out(effective: &Effective, user: &str, account: &Account) -> Option<Judgement> {
    let pam = effective.one("usepam") == Some("yes");
    let passwd =
        || vec![Evidence::new("getent passwd", format!("{user}:...:{}:...:{}:{}", account.uid, account.home, account.shell))];
    if let Ok(Some(problem)) = &account.shell_problem
        && asks_for_shell(effective)
    {
        let fix = format!("`chsh -s /bin/sh {user}`, or install {}", account.shell);
        return Some(refuse(format!("the shell of {user} cannot be run: {problem}"), passwd(), fix));
    }
    if let Some((file, text)) = nologin(account) {
        let fix = format!("`rm {file}`, if the host is not about to shut down; root may log in meanwhile");
        return Some(refuse(
            format!("{file} keeps all users but root out"),
            vec![Evidence::new(file.clone(), text.clone())],
            fix,
        ));
    }
    if let Ok(Some(day)) = &account.expired {
        let evidence = vec![Evidence::new("/etc/shadow", format!("{user}: expired on {day}"))];
        return Some(refuse(format!("the account of {user} expired on {day}"), evidence, format!("`chage -E -1 {user}`")));
    }
    if pam
        && ages(account)
        && let Some(refused) = aged(user, account)
    {
        return Some(refused);
    }
    if account.locked == Ok(true) && !pam {
        let evidence = vec![Evidence::new("/etc/shadow", format!("{user}:!..."))];
        let fix = format!("`usermod -p '*' {user}` leaves it without a password and unlocked; or `UsePAM yes` in sshd_config");
        return Some(refuse(format!("the account of {user} is locked, which counts with UsePAM no"), evidence, fix));
    }
    if ends_at_once(account) && effective.one("forcecommand").is_none_or(|command| command == "none") {
        let fix = format!("`chsh -s /bin/bash {user}` if {user} should log in; it may be meant so");
        let detail = format!("the login shell of {user} is {}: every session ends at once", account.shell);
        return Some(refuse(detail, passwd(), fix));
    }
    None
}

/// Whether sshd would read the files of authorized keys, where keys are a way in.
fn keys(
    host: &HostState,
    effective: &Effective,
    client: &Client,
    account: &Account,
    methods: &Methods,
    needs: &mut Needs,
) -> Judgement {
    let user = &client.user;
    let elsewhere = ["authorizedkeyscommand", "trustedusercakeys"]
        .iter()
        .any(|keyword| effective.one(keyword).is_some_and(|value| value != "none"));
    let places = key_places(effective, user, account);
    if !methods.ways.iter().any(Way::by_key) || elsewhere || places.token.is_some() {
        return Judgement::accept(&format!("{user} is a user with the shell {}", account.shell));
    }
    let paths = places.paths;
    let file = |path: &String| host.sshd.key_files.get(&(user.clone(), path.clone()));
    let unread: Vec<&String> = paths.iter().filter(|path| file(path).is_none()).collect();
    if !unread.is_empty() {
        needs.extend(unread.into_iter().map(|path| host::Need::Sshd(Need::KeyFile { user: user.clone(), path: path.clone() })));
        return Judgement::unknown("the files of authorized keys are not read yet".to_owned());
    }
    let (mut missing, mut bad, mut unknown, mut good) = (Vec::new(), Vec::new(), Vec::new(), false);
    for (path, file) in paths.iter().filter_map(|path| Some(file(path)?.each(path))).flatten() {
        match file.read(is_strict(effective)) {
            Reading::Keys(_) => good = true,
            Reading::PassedOver(why) => bad.push((path.to_owned(), why)),
            Reading::Missing => missing.push(Evidence::new(path, "not there")),
            Reading::Unknown(why) => unknown.push(Evidence::new(path, why)),
        }
    }
    if good {
        return Judgement::accept(&format!(
            "{user} is a user with the shell {}, and sshd reads the authorized keys",
            account.shell
        ));
    }
    // What is left without a key.
    let others = methods.ways.iter().filter(|way| !way.by_key());
    let others = others.filter(|way| way.verdict() != Verdict::Refuse).collect::<Vec<_>>();
    let sure = others.iter().any(|way| way.verdict() == Verdict::Accept);
    if let Some(first) = unknown.first() {
        let why = format!("whether sshd reads authorized keys of {user} is not known: {}: {}", first.source, first.text.as_str());
        let verdict = if sure { Verdict::Accept } else { Verdict::Unknown };
        return Judgement { verdict, evidence: unknown, ..Judgement::unknown(why) };
    }
    let (detail, evidence, fix) = if bad.is_empty() {
        let first = missing.first().map_or_else(String::new, |evidence| evidence.source.clone());
        let fix = format!("`ssh-copy-id {user}@HOST` from where a password works, or put the public key into {first}");
        (format!("{user} has no authorized keys"), missing, fix)
    } else {
        let fix = mend_files::mend(whose(user, account), bad.iter().map(|(_, why)| *why));
        let strict = if bad.iter().any(|(_, why)| why.is_strictness()) { " (StrictModes)" } else { "" };
        let evidence = bad.into_iter().map(|(path, why)| Evidence::new(path, why.to_string())).collect();
        (format!("sshd passes over the authorized keys of {user}{strict}"), evidence, fix)
    };
    let mut judgement = refuse(detail, evidence, fix);
    if others.is_empty() {
        if let Some(shadow) = no_password(user, account).filter(|_| methods.ways.iter().any(|way| !way.by_key())) {
            judgement.detail.push(", and no password that can be typed");
            judgement.evidence.push(shadow.clone());
            judgement.blocks.iter_mut().for_each(|block| block.finding.evidence.push(shadow.clone()));
        }
        return judgement;
    }
    // Another method is left, so this only explains why the key is not taken.
    judgement.verdict = Verdict::Accept;
    judgement.detail.push(if sure { "; other methods are left" } else { "; another method may be left" });
    judgement.blocks.iter_mut().for_each(|block| block.finding.blocking = false);
    judgement
}

fn whose<'a>(user: &'a str, account: &'a Account) -> Whose<'a> {
    Whose { user, uid: account.uid, home: &account.home }
}
