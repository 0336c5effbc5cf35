//! The tally that `pam_faillock(8)` keeps of a user, where sshd's PAM stack asks it at all. Reads only.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use sshfix_policy::host::Part;
use sshfix_policy::subsystem::sshd::Account;
use sshfix_policy::subsystem::sshd::facts::faillock::{CONFIGURATION, PamLine, Rules, Tally as Kept, pam_line};
use sshfix_policy::subsystem::sshd::facts::pam::{self, Passwords};
use sshfix_policy::subsystem::sshd::facts::stack::{self, AccountStack, StackLine};

use super::users::Users;
use crate::look::{TALLY_MAX, Tally};
use crate::sys::files::{self, FileError};
use crate::sys::roots;

/// pam.conf(5): where stacks are, by the name of their service.
const PAM: &str = "/etc/pam.d";
/// The stack of sshd (`PAMServiceName`).
const SERVICE: &str = "sshd";
/// Stacks that include each other, one below the other.
const MAX_DEPTH: usize = 8;
/// The longest stack, and the longest configuration.
const FILE_MAX: u64 = 64 * 1024;

/// What is remembered of a user; absent where nobody remembers.
pub(super) fn tally(users: &mut Users, user: &str, account: Option<&Part<Account>>) -> Part<Kept> {
    let line = match asked(SERVICE, &mut BTreeSet::new()) {
        Ok(Some(line)) => line,
        Ok(None) => return Part::Absent("sshd's PAM stack has no pam_faillock".to_owned()),
        Err(error) => return Part::Unreadable(error.to_string()),
    };
    let configuration = match files::read_followed(Path::new(CONFIGURATION), FILE_MAX) {
        Ok(file) => String::from_utf8_lossy(&file.bytes).into_owned(),
        Err(FileError::Missing(_)) => String::new(),
        Err(error) => return Part::Unreadable(error.to_string()),
    };
    let account = match account {
        Some(Part::Present(account)) => account,
        Some(Part::Absent(why) | Part::Unreadable(why)) => return Part::Unreadable(why.clone()),
        None => return Part::Unreadable(format!("the user {user} was not looked up")),
    };
    let rules = Rules::new(line, &configuration);
    // A user's name is no path: it was checked when the login was made.
    let file = format!("{}/{user}", rules.directory);
    // The module gives the file to the user (faillock.c, `open_tally`).
    let bytes = match users.tally(account, &file) {
        Tally::Bytes(bytes) => bytes,
        Tally::NotTheUsers => match files::read_checked(Path::new(&file), TALLY_MAX) {
            Ok(read) => read.bytes,
            Err(error) => return Part::Unreadable(error.to_string()),
        },
        Tally::Unknown(why) => return Part::Unreadable(format!("{file}: {why}")),
    };
    Part::Present(Kept { rules, file, bytes })
}

/// What the account part of sshd's stack asks.
pub(super) fn account_stack() -> AccountStack {
    let mut lines = Vec::new();
    match account_lines(SERVICE, 0, &mut lines) {
        Ok(()) => stack::account_stack(&lines),
        Err(why) => AccountStack::Perhaps(why),
    }
}

/// What the stack of sshd does with a password that is not in shadow(5).
pub(super) fn passwords() -> Passwords {
    let mut lines = Vec::new();
    match auth_lines(SERVICE, &mut BTreeSet::new(), &mut lines) {
        Ok(()) => pam::passwords(lines.iter().map(String::as_str)),
        Err(why) => Passwords::Perhaps(why),
    }
}

/// The lines of a stack, with those that it includes in their place.
fn auth_lines(service: &str, seen: &mut BTreeSet<String>, lines: &mut Vec<String>) -> Result<(), String> {
    // pam.conf(5): a stack may be included twice, which nobody does; round in a circle it cannot.
    if !seen.insert(service.to_owned()) {
        return Err(format!("{PAM}/{service} is included twice"));
    }
    let bytes = roots::read(Path::new(&format!("{PAM}/{service}")), FILE_MAX).map_err(|error| error.to_string())?;
    for line in String::from_utf8_lossy(&bytes).lines() {
        match pam_line(line) {
            PamLine::Include(other) => auth_lines(&other, seen, lines)?,
            PamLine::Faillock | PamLine::Other => lines.push(line.to_owned()),
        }
    }
    Ok(())
}

/// The lines of a stack about accounts, with those that it includes in their place; a `substack` stays a line, which is not decided here.
fn account_lines(service: &str, depth: usize, lines: &mut Vec<StackLine>) -> Result<(), String> {
    let path = format!("{PAM}/{service}");
    if depth > MAX_DEPTH {
        return Err(format!("{path} is included too deep"));
    }
    let bytes = roots::read(Path::new(&path), FILE_MAX).map_err(|error| error.to_string())?;
    for (number, text) in (1..).zip(String::from_utf8_lossy(&bytes).lines()) {
        let words: Vec<&str> = text.split('#').next().unwrap_or_default().split_ascii_whitespace().collect();
        let plain = |name: &&&str| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        let included = match words.as_slice() {
            ["@include", name] => Some(name).filter(plain),
            [kind, "include", name] if kind.trim_start_matches('-') == "account" => Some(name).filter(plain),
            _ => None,
        };
        match included {
            Some(name) => account_lines(name, depth + 1, lines)?,
            None if words.first() == Some(&"@include") => return Err(format!("{path} line {number} is not followed")),
            None => lines.push(StackLine { place: format!("{path} line {number}"), text: text.to_owned() }),
        }
    }
    Ok(())
}

/// The first line of a stack, or of one that it includes, that asks the module.
fn asked(service: &str, seen: &mut BTreeSet<String>) -> io::Result<Option<(String, String)>> {
    if !seen.insert(service.to_owned()) {
        return Ok(None);
    }
    let path = format!("{PAM}/{service}");
    let bytes = match files::read_followed(Path::new(&path), FILE_MAX) {
        Ok(file) => file.bytes,
        Err(FileError::Missing(_)) => return Ok(None),
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
    for (number, line) in (1..).zip(String::from_utf8_lossy(&bytes).lines()) {
        match pam_line(line) {
            PamLine::Faillock => return Ok(Some((format!("{path} line {number}"), line.trim().to_owned()))),
            PamLine::Include(other) => {
                if let Some(found) = asked(&other, seen)? {
                    return Ok(Some(found));
                }
            }
            PamLine::Other => {}
        }
    }
    Ok(None)
}
