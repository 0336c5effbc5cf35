//! What an edit does to the session that somebody gets after a login: a shell, a command in its place, sftp, or a terminal for them. A login
//! that gives no more of it what it gave is a way in that is lost. Compares two logins; what stands at a path is a fact of the agent's.

use std::collections::BTreeMap;

use crate::host::{self, HostState, Needs};
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::facts::state::{Account, Need, ValueFile};
use crate::subsystem::sshd::judge::account::ends_at_once;
use crate::subsystem::sshd::quoting::of_values;
use crate::subsystem::sshd::way_in::{LoginWay, forwarding};
use crate::text::quoted::Text;

/// Shells that need no terminal.
const PLAIN_SHELLS: [&str; 12] = ["sh", "bash", "dash", "zsh", "ksh", "ksh93", "mksh", "fish", "csh", "tcsh", "ash", "rbash"];
/// Commands in the place of a shell that need none.
const PLAIN_COMMANDS: [&str; 11] = [
    "internal-sftp",
    "sftp-server",
    "false",
    "true",
    "nologin",
    "echo",
    "git-shell",
    "gitolite-shell",
    "rrsync",
    "rsync",
    "borg",
];
const INTERNAL: &str = "internal-sftp";

/// The login shell, as far as sessions go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shell {
    /// One that needs no terminal.
    #[default]
    Plain,
    /// It ends at once (nologin).
    EndsAtOnce,
    /// Another program: its path.
    Other(String),
}

impl Shell {
    /// That of a user.
    pub fn of(account: &Account) -> Self {
        let name = account.shell.rsplit('/').next().unwrap_or_default();
        if ends_at_once(account) {
            Shell::EndsAtOnce
        } else if PLAIN_SHELLS.contains(&name) {
            Shell::Plain
        } else {
            Shell::Other(account.shell.clone())
        }
    }
}

/// The programs of subsystems that users could not run, with why.
pub fn programs(host: &HostState, effective: &Effective, needs: &mut Needs) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for path in effective.all("subsystem").iter().filter_map(|value| program(value)).filter(|path| path.starts_with('/')) {
        let why = match host.sshd.value_files.get(path) {
            None => {
                needs.insert(host::Need::Sshd(Need::ValueFile(path.to_owned())));
                "which was not looked at yet".to_owned()
            }
            Some(ValueFile::Regular { for_all: true, program: true, .. }) => continue,
            Some(ValueFile::Regular { .. }) => "which not every user may run".to_owned(),
            Some(ValueFile::Missing) => "there is no such program".to_owned(),
            Some(ValueFile::OfUnit(unit)) => format!("which is the pid file of {unit}"),
            Some(ValueFile::Other(why)) => why.clone(),
        };
        found.insert(path.to_owned(), why);
    }
    found
}

/// `sftp /usr/lib/openssh/sftp-server -l INFO`
fn program(value: &str) -> Option<&str> {
    value.split(' ').nth(1)
}

/// Whether there is a session that stays: a shell, a command in its place, or sftp.
pub fn has_any(login: &LoginWay) -> bool {
    let effective = &login.effective;
    let sftp = || effective.all("subsystem").iter().any(|value| program(value) == Some(INTERNAL));
    let stays = login.shell != Shell::EndsAtOnce || forwarding::command(effective).is_some() || sftp();
    *effective != Effective::default() && effective.one("maxsessions") != Some("0") && stays
}

/// `MaxSessions 0` permits forwarding alone.
pub fn none_left(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let none = is.effective.one("maxsessions") == Some("0");
    (none && has_any(was)).then(|| format!("MaxSessions 0, which gives {} no session any more", is.user).into())
}

/// Whoever gets in is to get a shell, or sftp, as before: what another command or another root directory gives is not known.
pub fn another(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let sftp = forwarding::command(&was.effective).is_some_and(|command| command.starts_with(INTERNAL));
    ["ForceCommand", "ChrootDirectory"].into_iter().find_map(|name| {
        let keyword = name.to_ascii_lowercase();
        let value = is.effective.one(&keyword).filter(|value| *value != "none" && was.effective.one(&keyword) != Some(value))?;
        let what = match (name, sftp) {
            ("ChrootDirectory", true) => format!(
                "whether {} gets sftp there is not known: sshd ends the login where that folder, or one above it, is not root's, or others \
                 can write to it",
                is.user
            ),
            (_, true) => format!("whether that gives {} sftp is not known", is.user),
            (_, false) => format!("whether that gives {} a shell is not known", is.user),
        };
        Some(Text::from(format!("{name} ")) + of_values(name, value) + ": " + what)
    })
}

/// sftp, scp and Ansible go by a subsystem: its program is to be there, where the login looks for it.
pub fn no_subsystem(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let (old, new) = (was.effective.all("subsystem"), is.effective.all("subsystem"));
    let name = |value: &str| value.split(' ').next().unwrap_or_default().to_owned();
    let root = is.effective.one("chrootdirectory").filter(|root| *root != "none");
    let changed = new.iter().filter(|value| !old.contains(value) && old.iter().any(|old| name(old) == name(value)));
    for value in changed {
        let Some(program) = program(value).filter(|program| *program != INTERNAL) else { continue };
        let why: Text = if let Some(root) = root {
            Text::from("sshd would look for the program inside of ") + of_values("chrootdirectory", root)
        } else if is.shell == Shell::EndsAtOnce && forwarding::command(&is.effective).is_none() {
            "the login shell, which ends at once, would run it".into()
        } else if let Some(why) = is.programs.get(program) {
            why.into()
        } else {
            continue;
        };
        let ends = format!(", so that {} of {} may end", name(value), is.user);
        return Some(Text::from("Subsystem ") + of_values("subsystem", value.as_str()) + ": " + why + ends);
    }
    None
}

/// A command or a shell that may need a terminal gets none any more.
pub fn no_terminal(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let none = |login: &LoginWay| login.effective.one("permittty") == Some("no");
    if !none(is) || none(was) || !has_any(was) {
        return None;
    }
    let what = match (forwarding::command(&is.effective), &is.shell) {
        (Some(command), _) => {
            // A command goes to the shell, which may make more of it than one program.
            let one = !command.contains([';', '&', '|', '`', '$', '(', '<', '>', '\n']);
            let name = command.split(' ').next().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
            if one && PLAIN_COMMANDS.contains(&name) {
                return None;
            }
            let command: String = command.chars().take(100).collect();
            Text::from("ForceCommand ") + of_values("forcecommand", command)
        }
        (None, Shell::Other(shell)) => format!("the shell {shell}").into(),
        (None, Shell::Plain | Shell::EndsAtOnce) => return None,
    };
    Some(Text::from("PermitTTY no: whether ") + what + format!(" of {} works without a terminal is not known", is.user))
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
