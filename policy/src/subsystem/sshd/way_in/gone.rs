//! What a rollback of sshd's files would bring back that names what is gone: a list of revoked keys, a folder of keys, a group, a command that
//! somebody took away since, as one does with what one has just switched off. Says whose way in sshd would refuse for certain by that, of those
//! who got in by these very files before the change and get in now. What the change itself had opened or closed is no reason, and neither is
//! what an ordinary user could have taken away: nobody but root may keep a change from being taken back.

use std::collections::BTreeSet;

use crate::host::{self, HostState, Needs, Part};
use crate::reply::PathDocument;
use crate::subsystem::sshd::config::{keyword, merge};
use crate::subsystem::sshd::facts::ask;
use crate::subsystem::sshd::facts::state::{Account, ValueFile};
use crate::subsystem::sshd::judge::doubt::{Can, Doubt};
use crate::subsystem::sshd::judge::key_places::{expand, has_strange_token, key_paths};
use crate::subsystem::sshd::judge::methods::{Way, bare};
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::quoting::of_values;
use crate::subsystem::sshd::way_in::{LoginWay, WayIn, edited_lines};
use crate::subsystem::sshd::{Effective, KeyFile, Manager, Need, RevokedKeys, Server, Step, way_in};
use crate::text::quoted::Text;
use crate::verdict::{AccessPath, Verdict};

/// Keywords whose values name what may be gone.
const NAMING: [&str; 8] = [
    "allowgroups",
    "authorizedkeyscommand",
    "authorizedkeysfile",
    "chrootdirectory",
    "denygroups",
    "forcecommand",
    "revokedkeys",
    "trustedusercakeys",
];
/// What lies there belongs to users, or is another folder for each service.
const NOT_ROOTS: [&str; 5] = ["/home/", "/root/", "/tmp/", "/var/tmp/", "/run/user/"];

/// Whether anything that a step changed in the files names what may be gone. The host is read for no other.
pub fn may_name(step: &Step) -> bool {
    let lines = step.files.iter().flat_map(|file| edited_lines(&file.before, &file.after));
    // Without arguments it stands for lines of which no keyword can be told.
    lines.into_iter().any(|(keyword, arguments)| NAMING.contains(&keyword.as_str()) || keyword == "match" && arguments.is_empty())
}

/// The first of these ways in that is lost so when the step is taken back, and why. `proven` are those of the plan, as they were before it.
/// None also where anything about it is not known.
pub fn refused(
    read: &HostState,
    step: &Step,
    paths: &[AccessPath],
    proven: &[PathDocument],
    needs: &mut Needs,
) -> Option<String> {
    let server = ask::server(read, step.port, needs)?;
    // One that is started for each connection has the files already.
    if !server.running || matches!(server.manager, Manager::Connections(_)) {
        return None;
    }
    let (back, changed) = (predicted(read, step, server, false)?, predicted(read, step, server, true)?);
    let worked = |path: &&AccessPath| {
        let same = |of: &&PathDocument| (&of.source, &of.user, of.origin) == (&path.from(), &path.user, Some(path.origin));
        !path.has_no_address() && proven.iter().find(same).is_some_and(|of| of.before == Verdict::Accept)
    };
    let mut found = None;
    for path in paths.iter().filter(worked) {
        let now = way_in(read, &changed, step.port, path, needs);
        let then = way_in(read, &back, step.port, path, needs);
        let closed = |way: &WayIn| way.objections.iter().any(Objection::is_certain);
        if closed(&now) || closed(&then) {
            continue;
        }
        for after in &then.logins {
            let before = now.login(after).filter(|before| !before.is_closed());
            let why = before.and_then(|before| why_gone(read, before, after, needs));
            if let (None, Some(why)) = (&found, why) {
                found = Some(format!("{} from {} ({})", after.user, path.source.short(), why.as_str()));
            }
        }
    }
    found
}

/// The host with the files of the step put back, or as it had made them.
fn predicted(read: &HostState, step: &Step, server: &Server, made: bool) -> Option<HostState> {
    let mut server = server.clone();
    for file in &step.files {
        let now = server.bytes(&file.path)?;
        let is_back = now == file.before;
        let text = match (made, is_back) {
            (true, true) => file.after.clone(),
            (true, false) | (false, true) => now.clone(),
            (false, false) => merge::take_back(&file.before, &file.after, &now).ok()?,
        };
        server.put(&file.path, &now, &text);
    }
    Some(ask::with_server(read, step.port, server))
}

/// What is gone, of what the old lines name, and has sshd refuse this login.
fn why_gone(host: &HostState, now: &LoginWay, then: &LoginWay, needs: &mut Needs) -> Option<Text> {
    let account = host.sshd.accounts.get(&then.user).and_then(Part::present)?;
    let of_groups = |one: &&Objection| matches!(one.reason, Reason::List("allowgroups" | "denygroups", _));
    if let Some(objection) = then.objections.iter().filter(of_groups).find(|one| one.is_certain()) {
        return Some(objection.why.clone());
    }
    if !then.knows_its_ways() {
        return None;
    }
    // A command or a root directory that is not there ends each session.
    for keyword in ["forcecommand", "chrootdirectory"] {
        let of = |effective: &Effective| effective.one(keyword).filter(|value| *value != "none").map(str::to_owned);
        if let Some(value) = of(&then.effective).filter(|value| of(&now.effective).as_ref() != Some(value))
            && is_gone(host, &value, then, account, needs)
        {
            return Some(not_there(keyword, &value));
        }
    }
    let possible = |way: &&Way| {
        let can_else = |(method, can): &(String, Can)| bare(method) != "publickey" && *can == Can::Not;
        !way.methods.iter().any(can_else)
    };
    // Nothing else may be left: each way needs a key.
    let mut ways = then.ways.ways.iter().filter(possible).peekable();
    if ways.peek().is_none() || !ways.all(Way::by_key) {
        return None;
    }
    no_keys(host, then, account, needs)
}

/// Why sshd takes no key of the user: all that could name one is gone, and only root can have taken it away.
fn no_keys(host: &HostState, login: &LoginWay, account: &Account, needs: &mut Needs) -> Option<Text> {
    let effective = &login.effective;
    let set = |keyword: &'static str| Some((keyword, effective.one(keyword).filter(|value| *value != "none")?.to_owned()));
    if let Some((keyword, path)) = set("revokedkeys")
        && matches!(host.sshd.revoked_keys.get(&path), Some(RevokedKeys::Missing(_)))
        && is_gone(host, &path, login, account, needs)
    {
        return Some(not_there(keyword, &path));
    }
    if !login.ways.keys.is_empty() || !login.ways.perhaps.is_empty() {
        return None;
    }
    let elsewhere: Vec<(&str, String)> = ["authorizedkeyscommand", "trustedusercakeys"].into_iter().filter_map(set).collect();
    let is_of_those = |source: &Doubt| matches!(source, Doubt::Elsewhere(..));
    if !login.ways.sources.iter().all(is_of_those) {
        return None;
    }
    let files: BTreeSet<String> = key_paths(effective, &login.user, account).into_iter().collect();
    let mut all: Vec<(&str, String)> = elsewhere;
    for path in files {
        let file = host.sshd.key_files.get(&(login.user.clone(), path.clone()));
        if !matches!(file, Some(KeyFile::Missing)) {
            return None;
        }
        all.push(("authorizedkeysfile", path));
    }
    let gone: Vec<bool> = all.iter().map(|(_, path)| is_gone(host, path, login, account, needs)).collect();
    let (keyword, path) = all.first().filter(|_| gone.iter().all(|gone| *gone))?;
    Some(not_there(keyword, path))
}

/// Whether nothing is where a value points to, and only root can have taken it away.
fn is_gone(host: &HostState, value: &str, login: &LoginWay, account: &Account, needs: &mut Needs) -> bool {
    let first = value.split(' ').next().unwrap_or_default();
    if !first.starts_with(['/', '%']) || has_strange_token(first, "huU") {
        return false;
    }
    let path = expand(first, &login.user, account);
    let home = format!("{}/", account.home.trim_end_matches('/'));
    if path.contains('%') || NOT_ROOTS.into_iter().chain([home.as_str()]).any(|folder| path.starts_with(folder)) {
        return false;
    }
    match host.sshd.value_files.get(&path) {
        Some(ValueFile::Missing) => true,
        Some(ValueFile::Regular { .. } | ValueFile::OfUnit(_) | ValueFile::Other(_)) => false,
        None => {
            needs.insert(host::Need::Sshd(Need::ValueFile(path)));
            false
        }
    }
}

fn not_there(keyword: &str, value: &str) -> Text {
    let name = keyword::spelling(keyword);
    Text::from(format!("sshd: {name} ")) + of_values(keyword, value) + ": not there any more"
}

#[cfg(test)]
#[path = "gone_tests.rs"]
mod tests;
