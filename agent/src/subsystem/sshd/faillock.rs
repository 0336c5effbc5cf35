//! The tally that `pam_faillock(8)` keeps of a user, where sshd's PAM stack asks it at all. Reads only.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::{fs, io};

use sshfix_policy::host::Part;
use sshfix_policy::subsystem::sshd::faillock::{CONFIGURATION, PamLine, Rules, Tally, pam_line};

use crate::sys::files;

/// pam.conf(5): where stacks are, by the name of their service.
const PAM: &str = "/etc/pam.d";
/// The stack of sshd (`PAMServiceName`).
const SERVICE: &str = "sshd";
/// The longest stack, and the longest configuration.
const FILE_MAX: u64 = 64 * 1024;
/// More failures than the module keeps.
const TALLY_MAX: u64 = 1 << 20;

/// What is remembered of a user; absent where nobody remembers.
pub(super) fn tally(user: &str) -> Part<Tally> {
    let line = match asked(SERVICE, &mut BTreeSet::new()) {
        Ok(Some(line)) => line,
        Ok(None) => return Part::Absent("sshd's PAM stack has no pam_faillock".to_owned()),
        Err(error) => return Part::Unreadable(error.to_string()),
    };
    let configuration = match fs::read_to_string(CONFIGURATION) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Part::Unreadable(format!("{CONFIGURATION}: {error}")),
    };
    let rules = Rules::new(line, &configuration);
    // A user's name is no path: it was checked when the login was made.
    let file = format!("{}/{user}", rules.directory);
    let bytes = match fs::symlink_metadata(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Part::Unreadable(format!("{file}: {error}")),
        Ok(found) if !found.is_file() || found.len() > TALLY_MAX => return Part::Unreadable(format!("{file} is no tally")),
        Ok(_) => match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => return Part::Unreadable(format!("{file}: {error}")),
        },
    };
    Part::Present(Tally { rules, file, bytes })
}

/// The first line of a stack, or of one that it includes, that asks the module.
fn asked(service: &str, seen: &mut BTreeSet<String>) -> io::Result<Option<(String, String)>> {
    if !seen.insert(service.to_owned()) {
        return Ok(None);
    }
    let path = format!("{PAM}/{service}");
    let bytes = match files::read_followed(Path::new(&path), FILE_MAX) {
        Ok(file) => file.bytes,
        Err(files::FileError::Missing(_)) => return Ok(None),
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
