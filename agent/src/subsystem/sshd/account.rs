//! Users of the host as sshd sees them: passwd and groups through the system's own lookups, which `users` asks, and /etc/shadow and
//! nologin(5), which are root's. Keeps no password. What could not be read is not known: never a fact.

use std::path::Path;

use jiff::{Timestamp, ToSpan, civil::Date};
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::sshd::{Account, Aging, shown};

use super::faillock;
use super::users::Users;
use crate::look::User;
use crate::sys::files::{self, FileError};

const SHADOW: &str = "/etc/shadow";
/// The longest of it.
const SHADOW_MAX: u64 = 16 << 20;
/// `pam_nologin(8)` looks at both.
const NOLOGIN: [&str; 2] = ["/var/run/nologin", "/etc/nologin"];
/// The longest text that is shown to whom it keeps out.
const NOLOGIN_MAX: u64 = 64 * 1024;

/// A user by name.
pub(super) fn account(users: &mut Users, name: &str) -> Part<Account> {
    let User { ids, home, shell, groups, shell_problem } = match users.user(name) {
        Part::Present(user) => user,
        Part::Absent(why) => return Part::Absent(why),
        Part::Unreadable(why) => return Part::Unreadable(why),
    };
    let shadow = shadow(name);
    let unknown = |why: &String| format!("{SHADOW}: {why}");
    Part::Present(Account {
        uid: ids.uid,
        gid: ids.gid,
        gids: ids.groups,
        home,
        shell,
        shell_problem,
        groups,
        expired: shadow.as_ref().map(|shadow| shadow.expired.clone()).map_err(unknown),
        aging: shadow.as_ref().map_err(unknown).and_then(|shadow| shadow.aging.clone()),
        stack: faillock::account_stack(),
        locked: shadow.as_ref().map(|shadow| shadow.locked).map_err(unknown),
        password: shadow.ok().and_then(|shadow| shadow.password),
        passwords: faillock::passwords(),
        nologin: nologin(),
    })
}

/// What shadow(5) says of a user.
#[derive(Debug, PartialEq, Eq)]
struct Shadow {
    /// The day of expiry where it is past.
    expired: Option<String>,
    locked: bool,
    password: Option<bool>,
    aging: Result<Option<Aging>, String>,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { expired: None, locked: false, password: None, aging: Ok(None) }
    }
}

fn shadow(name: &str) -> Result<Shadow, String> {
    let file = files::read_followed(Path::new(SHADOW), SHADOW_MAX).map_err(|error| error.to_string())?;
    of_user(&file.bytes, name, Timestamp::now().as_second() / 86_400)
}

/// Users of other directories have no line, so that none of it keeps them out.
fn of_user(text: &[u8], name: &str, today: i64) -> Result<Shadow, String> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.split(|byte| *byte == b':').next() == Some(name.as_bytes()));
    let Some(line) = line else { return Ok(Shadow::default()) };
    let line = String::from_utf8_lossy(line);
    let fields: Vec<&str> = line.split(':').collect();
    let odd = || format!("the line of {name} is not understood");
    let password = fields.get(1).copied().ok_or_else(odd)?;
    // getspnam(3): an empty field reads as -1, which is no day; of any other text nothing is known.
    let days = fields.get(7).filter(|days| !days.is_empty()).map(|days| days.parse::<i64>().map_err(|_| odd()));
    let days = days.transpose()?.filter(|days| *days != -1);
    let day =
        |days: i64| Date::constant(1970, 1, 1).checked_add(days.days()).map_or_else(|_| format!("day {days}"), |d| d.to_string());
    // crypt(5): every hash begins with `$` or `_`, or is one of DES; shadow(5): none with `!` or `*`. An empty one is another matter.
    let typed = match password.chars().next() {
        Some('!' | '*') => Some(false),
        Some('$' | '_') => Some(true),
        Some(_) => (password.len() == 13).then_some(true),
        None => None,
    };
    Ok(Shadow {
        expired: days.filter(|days| today >= *days).map(day),
        locked: password.starts_with('!'),
        password: typed,
        aging: aging(&fields, name, today),
    })
}

/// passverify.c, `check_shadow_expiry`. Versions differ about the last day itself, and about an age without a day of the last change.
fn aging(fields: &[&str], name: &str, today: i64) -> Result<Option<Aging>, String> {
    let number = |at: usize| match fields.get(at) {
        None | Some(&"") => Ok(None),
        Some(text) => match text.parse::<i64>() {
            Ok(number) => Ok(Some(number).filter(|number| *number >= 0)),
            Err(_) => Err(format!("the age of the password of {name} is not understood")),
        },
    };
    let (changed, most, inactive) = (number(2)?, number(4)?, number(6)?);
    if changed == Some(0) {
        return Ok(Some(Aging::Change("changed on day 0, which asks for a new one".to_owned())));
    }
    // 99999 days are what means no end.
    let Some(most) = most.filter(|most| *most < 99_999) else { return Ok(None) };
    let Some(changed) = changed else { return Err(format!("the day on which the password of {name} was changed is not there")) };
    let age = today.saturating_sub(changed);
    let since = |end: &str| format!("changed {age} days ago, good for {most} days{end}");
    match inactive.map(|inactive| most.saturating_add(inactive)) {
        Some(end) if age > end => Ok(Some(Aging::Over(since(&format!(" and {} more", end - most))))),
        Some(end) if age == end && age >= most => Err(format!("the password of {name} ends on this very day")),
        Some(_) | None if age > most => Ok(Some(Aging::Change(since("")))),
        Some(_) | None if age == most => Err(format!("the password of {name} ends on this very day")),
        Some(_) | None => Ok(None),
    }
}

/// The first file of nologin(5) that is there, and its first line.
fn nologin() -> Result<Option<(String, String)>, String> {
    for path in NOLOGIN {
        match files::read_followed(Path::new(path), NOLOGIN_MAX) {
            Ok(file) => {
                let text = String::from_utf8_lossy(&file.bytes);
                return Ok(Some((path.to_owned(), shown(text.lines().next().unwrap_or_default()))));
            }
            Err(FileError::TooLong { .. }) => return Ok(Some((path.to_owned(), String::new()))),
            Err(FileError::Missing(_)) => {}
            Err(error) => return Err(format!("whether users are kept out for a while is not known: {error}")),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn shadow_is_read_past_lines_that_are_no_utf_8_and_an_empty_day_is_none() {
        let text = b"bad\xff:x\nalice:$6$a$b:19000:0:99999:7::18263:\nbob:!$6$a:19000:0:99999:7:::\ncarol:*:1:0:1:7::-1:\n";
        let of_user = |text: &[u8], name: &str, today| of_user(text, name, today).unwrap();
        let alice = of_user(text, "alice", 20_000);
        assert_eq!((alice.expired.as_deref(), alice.locked, alice.password), (Some("2020-01-02"), false, Some(true)));
        assert_eq!(of_user(text, "alice", 18_262).expired, None);
        let bob = Shadow { locked: true, password: Some(false), ..Shadow::default() };
        assert_eq!(of_user(text, "bob", 20_000), bob);
        assert_eq!(of_user(text, "carol", 20_000).expired, None);
        assert_eq!(of_user(text, "dave", 20_000), Shadow::default());
        for odd in ["eve:$6$a:19000:0:99999:7::soon:\n", "eve\n"] {
            assert!(super::of_user(odd.as_bytes(), "eve", 20_000).is_err(), "{odd}: no day is not known to be past");
        }
    }

    #[test]
    fn the_age_of_a_password_is_read_as_pam_unix_does() {
        let aging = |fields: &str| of_user(format!("eve:*:{fields}:\n").as_bytes(), "eve", 20_000).unwrap().aging;
        for (fields, fine) in
            [("19990:0:99999:7::", true), ("19990:0:30:7:10:", true), ("20005:0:1:7::", true), (":0:99999:7::", true)]
        {
            assert_eq!(aging(fields) == Ok(None), fine, "{fields}");
        }
        for fields in ["0:0:99999:7::", "19960:0:30:7::", "19960:0:30:7:20:", "19960:0:30:7:-1:"] {
            assert!(matches!(aging(fields), Ok(Some(Aging::Change(_)))), "{fields}: {:?}", aging(fields));
        }
        assert!(matches!(aging("19950:0:30:7:10:"), Ok(Some(Aging::Over(_)))));
        for fields in ["19970:0:30:7::", "19960:0:30:7:10:", ":0:30:7::", "soon:0:30:7::"] {
            assert!(aging(fields).is_err(), "{fields}: which day it is decides");
        }
    }
}
