//! Reads ufw's own files of user rules. Only what they say: whether ufw is on, the kernel's rules tell. Changes nothing; ufw does.

use std::path::Path;

use sshfix_policy::host::Part;
use sshfix_policy::subsystem::ufw::{Line, State, parse};

use crate::sys::files::{self, FileError};

/// ufw(8), FILES: where its user rules are.
const V4: &str = "/etc/ufw/user.rules";
/// See [`V4`].
const V6: &str = "/etc/ufw/user6.rules";
/// Longest file that is read: some 100,000 rules.
const LONGEST: u64 = 32 << 20;

/// Both files.
pub fn read() -> Part<State> {
    match (one(V4, false), one(V6, true)) {
        (Ok(None), Ok(None)) => Part::Absent("there are no user rules of ufw".to_owned()),
        (Ok(v4), Ok(v6)) => Part::Present(State { v4: v4.unwrap_or_default(), v6: v6.unwrap_or_default() }),
        (Err(why), _) | (_, Err(why)) => Part::Unreadable(why),
    }
}

fn one(path: &str, v6: bool) -> Result<Option<Vec<Line>>, String> {
    match files::read_checked(Path::new(path), LONGEST) {
        Ok(file) => Ok(Some(parse(&String::from_utf8_lossy(&file.bytes), v6))),
        Err(FileError::Missing(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
