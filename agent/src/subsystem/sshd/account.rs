//! Users of the host as sshd sees them: passwd and groups through the system's own lookups, /etc/shadow, nologin(5), and who may write
//! to a file of authorized keys and which types of keys are in it. Keeps no key and no password.

use std::fs::{self, Metadata};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use jiff::{Timestamp, ToSpan, civil::Date};
use nix::unistd::{Group, User, getgrouplist};
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::sshd::{Account, KeyFile, authorized_keys};

use crate::sys::files;

/// `_PATH_SHELL`, what an empty field means (passwd(5)).
const SHELL: &str = "/bin/sh";
/// The longest file of authorized keys.
const KEYS_MAX: u64 = 4 << 20;
/// `pam_nologin(8)` looks at both.
const NOLOGIN: [&str; 2] = ["/var/run/nologin", "/etc/nologin"];

/// A user by name.
pub(super) fn account(name: &str) -> Part<Account> {
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Part::Absent(format!("there is no user {name}")),
        Err(error) => return Part::Unreadable(format!("the user {name} could not be looked up: {error}")),
    };
    let groups = std::ffi::CString::new(name).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
    let Some(groups) = groups else { return Part::Unreadable(format!("the groups of {name} could not be looked up")) };
    let groups = groups.into_iter().filter_map(|gid| Group::from_gid(gid).ok().flatten()).map(|group| group.name).collect();
    let shell = Some(user.shell.display().to_string()).filter(|shell| !shell.is_empty()).unwrap_or_else(|| SHELL.to_owned());
    let Shadow { expired, locked, password } = shadow(name);
    Part::Present(Account {
        uid: user.uid.as_raw(),
        home: user.dir.display().to_string(),
        shell_problem: shell_problem(&shell),
        shell,
        groups,
        expired,
        locked,
        password,
        nologin: NOLOGIN.iter().find_map(|path| Some(((*path).to_owned(), first_line(path)?))),
    })
}

/// auth.c, `allowed_user`: it must be there, be a file, and be executable by somebody.
fn shell_problem(shell: &str) -> Option<String> {
    match fs::metadata(shell) {
        Err(error) => Some(format!("{shell}: {error}")),
        Ok(file) if !file.is_file() || file.permissions().mode() & 0o111 == 0 => Some(format!("{shell} is not executable")),
        Ok(_) => None,
    }
}

/// What shadow(5) says of a user.
#[derive(Default)]
struct Shadow {
    /// The day of expiry where it is past.
    expired: Option<String>,
    locked: bool,
    password: Option<bool>,
}

/// Users of other directories have no line.
fn shadow(name: &str) -> Shadow {
    let Ok(file) = fs::File::open("/etc/shadow") else { return Shadow::default() };
    let lines = BufReader::new(file.take(16 << 20)).lines().map_while(Result::ok);
    let Some(line) = lines.into_iter().find(|line| line.split(':').next() == Some(name)) else { return Shadow::default() };
    let fields: Vec<&str> = line.split(':').collect();
    let password = fields.get(1).copied().unwrap_or_default();
    let today = Timestamp::now().as_second() / 86_400;
    let expires = fields.get(7).and_then(|days| days.parse::<i64>().ok()).filter(|days| today >= *days);
    let day =
        |days: i64| Date::constant(1970, 1, 1).checked_add(days.days()).map_or_else(|_| format!("day {days}"), |d| d.to_string());
    // crypt(5): every hash begins with `$` or `_`, or is one of DES.
    let typed = password.starts_with(['$', '_']) || (password.len() == 13 && !password.starts_with(['!', '*']));
    Shadow { expired: expires.map(day), locked: password.starts_with('!'), password: Some(typed) }
}

fn first_line(path: &str) -> Option<String> {
    let file = fs::File::open(path).ok()?;
    let mut text = String::new();
    let _ = file.take(1000).read_to_string(&mut text);
    Some(text.lines().next().unwrap_or_default().to_owned())
}

/// misc.c, `safe_path`: the file and every folder up to the home directory, or else to the root, belong to the user or root, and
/// nobody else may write to them.
pub(super) fn key_file(user: &str, path: &str) -> KeyFile {
    let Ok(Some(user)) = User::from_name(user) else { return KeyFile::Missing };
    let Ok(real) = fs::canonicalize(path) else { return KeyFile::Missing };
    let home = fs::canonicalize(&user.dir).unwrap_or_else(|_| user.dir.clone());
    let Ok(file) = fs::metadata(&real) else { return KeyFile::Missing };
    if !file.is_file() {
        return KeyFile::Bad("not a regular file".to_owned());
    }
    let uid = user.uid.as_raw();
    for at in real.ancestors() {
        let Ok(entry) = fs::metadata(at) else { return KeyFile::Bad(format!("{} cannot be looked at", at.display())) };
        if let Some(problem) = problem(&entry, uid, at) {
            return KeyFile::Bad(problem);
        }
        if at == home {
            break;
        }
    }
    let readable = file.permissions().mode() & if file.uid() == uid { 0o400 } else { 0o044 } != 0 || uid == 0;
    if !readable {
        return KeyFile::Bad(format!("{} cannot read it ({})", user.name, describe(&file)));
    }
    match files::read_followed(&real, KEYS_MAX) {
        Ok(file) => KeyFile::Good(authorized_keys(&String::from_utf8_lossy(&file.bytes))),
        Err(error) => KeyFile::Bad(error.to_string()),
    }
}

fn problem(entry: &Metadata, uid: u32, at: &Path) -> Option<String> {
    if entry.uid() != 0 && entry.uid() != uid {
        return Some(format!("{} belongs to another user ({})", at.display(), describe(entry)));
    }
    (entry.permissions().mode() & 0o022 != 0).then(|| format!("{} can be written by others ({})", at.display(), describe(entry)))
}

fn describe(entry: &Metadata) -> String {
    format!("owner {}, mode {:04o}", entry.uid(), entry.permissions().mode() & 0o7777)
}
